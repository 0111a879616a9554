"""What lies in a checkpoint's folder: safetensors shards, tokenizer, preprocessing.

Shared by the layouts that `longva_eval.model.checkpoint` loads. Weights are read from safetensors
alone; every error names the file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from longva_eval.errors import CheckpointError
from longva_eval.model.config_files import LARGEST_SIZES, read_json

__all__ = [
    "check_memory",
    "check_shapes",
    "check_weights",
    "hash_weights",
    "no_bar_if_small",
    "read_chat_template",
    "read_generation_config",
    "read_processor_settings",
    "read_tensor_names",
    "read_tokenizer",
    "rope_parameters_of",
    "some",
]

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

_BAR_FROM_BYTES = 1 << 28
_SMALL_MODEL = 1 << 24
"""Weights that any machine has room for."""
_LARGE_TOWER = 1 << 29
_HASHED_BLOCKS = 256
_HASHED_BLOCK_BYTES = 1 << 16


def read_tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in the safetensors files, after checking that the files are there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise CheckpointError(f"{index} has no weight_map from tensors to files.")
        files = sorted(set(weight_map.values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
    strange = [n for n in files if Path(n).name != n or not n.endswith(".safetensors")]
    if strange:
        raise CheckpointError(
            f"{index} names {strange[0]!r:.80}, which is no .safetensors file beside it."
        )
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {some(absent)}, which its index names.")
    if not files:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f"It has {some(pickles)}: pickles can run code when read and are refused. Convert "
            "them once, in a place you trust, with safetensors.torch.save_file."
            if pickles
            else "Download them: hf download <owner>/<name> --local-dir <folder>."
        )
        raise CheckpointError(f"{folder} has no *.safetensors weights. {hint}")
    names: set[str] = set()
    for name in files:
        try:
            with safe_open(folder / name, framework="pt") as tensors:
                names.update(tensors.keys())
        except Exception as error:  # safetensors raises its own, undocumented type
            raise CheckpointError(f"{folder / name} cannot be read: {error}") from error
    return names


def check_memory(folder: Path, language: Any, tower: Any) -> None:
    """Refuse a configuration of a far larger model than the weights are of.

    Its memory would be asked for before the shapes are compared.
    """
    there = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            there += sum(math.prod(tensors.get_slice(n).get_shape()) for n in tensors.keys())  # noqa: SIM118  # it is no mapping
    if tower.patch_size > tower.image_size:
        raise CheckpointError(
            f"{folder}: patch_size={tower.patch_size} is larger than image_size={tower.image_size}."
        )
    patches = (tower.image_size // tower.patch_size) ** 2
    width, heads = language.hidden_size, language.num_attention_heads
    head_dim = getattr(language, "head_dim", None) or width // heads
    asked = {
        "vocab_size x hidden_size": language.vocab_size * width,
        "num_hidden_layers x hidden_size x intermediate_size": language.num_hidden_layers
        * width
        * (3 * language.intermediate_size + 2 * heads * head_dim),
        "the vision tower's num_hidden_layers x hidden_size": tower.hidden_size
        * (
            patches
            + 3 * tower.patch_size**2
            + tower.num_hidden_layers * (4 * tower.hidden_size + 2 * tower.intermediate_size)
        ),
    }
    for name, count in asked.items():
        # A tower that was not tuned may lie in a folder of its own.
        free = _LARGE_TOWER if "tower" in name else _SMALL_MODEL
        if count > 4 * there + free:
            raise CheckpointError(
                f"{folder}: the configuration asks for {count:,} weights ({name}), the files hold "
                f"{there:,}. They do not belong together."
            )


def read_processor_settings(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Arguments of the CLIP processor from a `preprocessor_config.json`, old or new form."""
    size = raw.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    if not isinstance(shortest, int) or not 1 <= shortest <= LARGEST_SIZES["image_size"]:
        raise CheckpointError(
            f'{path} has "size": {size}; CLIP\'s is the shortest edge in pixels, as a number or as '
            '{"shortest_edge": 336}.'
        )
    crop = raw.get("crop_size", shortest)
    crop_size = crop if isinstance(crop, dict) else {"height": crop, "width": crop}
    for side in ("height", "width"):
        length = crop_size.get(side)
        if not isinstance(length, int) or not 1 <= length <= LARGEST_SIZES["image_size"]:
            raise CheckpointError(f'{path} has "crop_size": {crop!r:.80}, which is no size.')
    return {
        "do_resize": True,
        "size": {"shortest_edge": shortest},
        "resample": raw.get("resample", 3),
        "do_center_crop": True,
        "crop_size": crop_size,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(raw.get("image_mean", _CLIP_MEAN)),
        "image_std": list(raw.get("image_std", _CLIP_STD)),
        "do_convert_rgb": True,
    }


def check_weights(report: Mapping[str, Any], folder: Path, model: str, *, filled: Any = ()) -> None:
    """Refuse a folder whose weights are not those of its configuration.

    Args:
        report: `output_loading_info` of `from_pretrained`.
        folder: Of the checkpoint.
        model: Name of the model's class, for the error.
        filled: Weights that come from elsewhere.

    Raises:
        CheckpointError: If weights are missing, left over or of another shape.
    """
    check_shapes(report, folder)
    missing = set(report["missing_keys"]) - set(filled)
    if missing or report["unexpected_keys"]:
        raise CheckpointError(
            f"{folder} does not hold the weights of a {model}. Missing: {some(missing)}. Not part "
            f"of it: {some(report['unexpected_keys'])}."
        )


def check_shapes(report: Mapping[str, Any], folder: Path) -> None:
    """Refuse weights that have another shape than the configuration asks for."""
    wrong = [
        f"{name} is {tuple(found)}, the configuration asks for {tuple(wanted)}"
        for name, found, wanted in report["mismatched_keys"]
    ]
    if wrong:
        raise CheckpointError(f"{folder} has weights of another shape: {some(wrong)}.")


def hash_weights(folder: Path) -> str:
    """Hash that tells weight files apart without reading all of a 16 GB checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        last = max(0, size - _HASHED_BLOCK_BYTES)
        with path.open("rb") as file:
            for offset in sorted({last * n // (_HASHED_BLOCKS - 1) for n in range(_HASHED_BLOCKS)}):
                file.seek(offset)
                digest.update(file.read(_HASHED_BLOCK_BYTES))
    return digest.hexdigest()[:16]


def some(names: Any, limit: int = 4) -> str:
    """A few of the names, and how many more there are."""
    ordered = sorted(names)
    if not ordered:
        return "none"
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"


def rope_parameters_of(
    values: Mapping[str, Any], *, default_theta: float | None, where: Path
) -> dict[str, Any]:
    """`rope_parameters` from a configuration of either form.

    The older one has `rope_theta` and `rope_scaling`; given apart, transformers warns and, for
    some models, ignores them.

    Args:
        values: The configuration of the language model.
        default_theta: For one without a base; None if no base may be assumed.
        where: The file, for errors.

    Raises:
        CheckpointError: If there is no base, or the two forms contradict each other.
    """
    new = values.get("rope_parameters") or {}
    old = values.get("rope_scaling") or {}
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        raise CheckpointError(f"{where}: rope_parameters and rope_scaling must be objects.")
    old = {"rope_type" if name == "type" else name: value for name, value in old.items()}
    if values.get("rope_theta") is not None:
        old["rope_theta"] = values["rope_theta"]
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            raise CheckpointError(
                f"{where} contradicts itself: {name} is {old[name]!r}, and {new[name]!r} in "
                "rope_parameters. Keep the one that the model was trained with: its positions "
                "depend on it."
            )
    parameters = {"rope_type": "default", **old, **new}
    if parameters.get("rope_theta") is None:
        if default_theta is None:
            raise CheckpointError(
                f"{where} has no rope_theta, and no base can be assumed: LongVA was trained with "
                "1000000000.0, transformers would take 10000.0. Write the model's own into the "
                "file, or give rope_theta in --model_args."
            )
        parameters["rope_theta"] = default_theta
    return parameters


@contextmanager
def no_bar_if_small(folder: Path) -> Iterator[None]:
    """Leave out transformers' progress bar where loading takes no time."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > _BAR_FROM_BYTES or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def read_tokenizer(folder: Path, config: Any) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: If its files are missing or cannot be used.
    """
    whole = (folder / "tokenizer.json").is_file()
    # Without this check transformers makes an empty tokenizer of nothing.
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt."
        )
    try:
        return AutoTokenizer.from_pretrained(
            folder, config=config, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError(
            f"The tokenizer files in {folder} cannot be used "
            f"({type(error).__name__}: {str(error)[:200]}). Download them again."
        ) from error


def read_generation_config(folder: Path, config: Any, tokenizer: Any) -> GenerationConfig:
    """The checkpoint's generation config, with an end token whatever files there are.

    Raises:
        CheckpointError: If nothing says which token ends an answer: it would run on for ever.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        read_json(path)  # names the file where transformers would not
        found = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        found = GenerationConfig()
    for ends in (config.eos_token_id, tokenizer.eos_token_id):
        if found.eos_token_id is None:
            found.eos_token_id = ends
    if found.eos_token_id is None:
        raise CheckpointError(
            f"{folder} names no end token: generation_config.json, config.json and the tokenizer "
            "have no eos_token_id. Add it to generation_config.json."
        )
    return found


def read_chat_template(folder: Path) -> str | None:
    """The processor's chat template, where there is one.

    Raises:
        CheckpointError: If its file cannot be read.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
    for name in ("chat_template.json", "processor_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name).get("chat_template")
            if found is not None and not isinstance(found, str):
                raise CheckpointError(
                    f"{folder / name} has a chat_template of type {type(found).__name__}; a text "
                    "is needed."
                )
            if found:
                return found
    return None
