"""Loading a checkpoint in LongVA-7B's on-disk layout, from a folder or from the hub.

The layout is that of the original training code: `config.json` with `model_type: llava_qwen` and
`mm_*` keys, safetensors shards that hold the language model, the projector *and the tuned vision
tower*, tokenizer files, and a `mm_vision_tower` entry that only names an architecture
(`openai/clip-vit-large-patch14-336`), which is known here without a network.

Nothing is guessed from a name: the class comes from `config.json`, the prompt template from the
tokenizer. Weights are read from safetensors alone; no pickle and no remote code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from loguru import logger
from safetensors import safe_open
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from longva_eval.embedded import CHECKPOINTS, embedded_checkpoint
from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.images import parse_grid_pinpoints
from longva_eval.modeling import LongVAConfig, LongVAForCausalLM
from longva_eval.rope import RopeSettings, describe_rope, resolve_rope_parameters

__all__ = [
    "Checkpoint",
    "DType",
    "change_rope",
    "find_checkpoint",
    "load_checkpoint",
    "resolve_dtype",
]

DType = Literal["auto", "float32", "bfloat16", "float16"]

_CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
_CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

KNOWN_TOWERS: dict[str, dict[str, Any]] = {
    # huggingface.co/openai/clip-vit-large-patch14-336, config.json and preprocessor_config.json.
    "openai/clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
}
"""Architectures that need no download; their preprocessing is CLIP's, at `image_size`."""

_HUB_PATTERNS = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model", "vision_tower/*"]
_SPREADING_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_HASHED_BLOCKS = 256
_HASHED_BLOCK_BYTES = 1 << 16
_BAR_FROM_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with everything that belongs to it."""

    model: LongVAForCausalLM
    """In evaluation mode, on its device or devices."""
    tokenizer: Any
    image_processor: CLIPImageProcessorPil
    """The Pillow-based CLIP processor: the one the original's numbers were made with."""
    generation_config: GenerationConfig
    folder: Path
    """Where the files lie."""
    source: str
    """What the user asked for: a folder or a hub id."""
    revision: str | None
    """Commit of the hub repository; None for a folder."""
    rope: dict[str, Any]
    """What was asked and what it resolved to, see `longva_eval.rope.describe_rope`."""
    own_rope_parameters: dict[str, Any]
    """`rope_parameters` as the checkpoint has them, before any change."""
    fingerprint: str
    """Hash over the weight files: names, sizes, and 256 blocks of 64 KiB spread over each."""

    @property
    def config(self) -> LongVAConfig:
        return self.model.config  # type: ignore[no-any-return]  # transformers is untyped

    @property
    def num_tokenizer_entries(self) -> int:
        """Entries the tokenizer knows; rows of the output layer beyond them are padding."""
        return min(len(self.tokenizer), int(self.config.vocab_size))

    def vision_digest(self) -> str:
        """Identity of all that visual tokens depend on: weights, architecture, preparation."""
        digest = hashlib.sha256()
        config = self.config
        for part in (
            self.model.vision_config.to_dict(),
            self.image_processor.to_dict(),
            [config.mm_patch_merge_type, str(getattr(config, "image_grid_pinpoints", None))],
        ):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name, weight in self.model.model.named_parameters():
            if name.startswith(("vision_tower.", "mm_projector.", "image_newline")):
                digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
                flat = weight.detach().cpu().contiguous().view(torch.uint8)
                digest.update(flat.numpy().tobytes())
        return digest.hexdigest()[:24]

    def describe(self) -> dict[str, Any]:
        """What a result says about the model that made it."""
        return {
            "checkpoint": self.source,
            "revision": self.revision,
            "weights_fingerprint": self.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "rope": self.rope,
        }


def load_checkpoint(
    pretrained: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: DType = "auto",
    attn_implementation: str = "sdpa",
    rope: RopeSettings | None = None,
) -> Checkpoint:
    """Load a LongVA checkpoint.

    Args:
        pretrained: A folder, a hub id such as `lmms-lab/LongVA-7B`, or an embedded checkpoint
            such as `longva-tiny`.
        revision: Branch, tag or commit of the hub repository.
        device: `cpu`, `cuda`, `cuda:1`, ..., or `auto`: the first GPU if there is one.
        device_map: `auto` spreads the layers over all devices; overrides `device`.
        dtype: `auto` is bfloat16 on CUDA and float32 elsewhere.
        attn_implementation: Of the language model: a name that transformers knows. The vision
            tower, which is not causal, uses `sdpa` unless this is `eager`.
        rope: What to change of the rotary embedding; nothing if None.

    Raises:
        CheckpointError: If files are missing, unreadable, or hold another model.
        SettingsError: If a setting is unknown or contradicts the checkpoint.
    """
    began = time.perf_counter()
    folder, commit = find_checkpoint(pretrained, revision=revision)
    raw = _read_json(folder / "config.json")
    _check_architecture(raw, folder)
    tensor_names = _tensor_names(folder)
    tower_config, processor_settings, tower_folder = _vision_tower(raw, folder)
    config = _build_config(raw, tower_config, tensor_names)
    settings = rope or RopeSettings()
    own_rope_parameters = dict(config.rope_parameters)
    config.rope_parameters = _resolve_rope(config, own_rope_parameters, settings)
    torch_device, placement = _resolve_placement(device, device_map)
    _check_attention(attn_implementation)
    tower_attention = "eager" if attn_implementation == "eager" else "sdpa"
    # Small files before the large ones, so that what is wrong with them is said at once.
    tokenizer = _tokenizer(folder, config)
    generation_config = _generation_config(folder, config, tokenizer)
    with _no_bar_if_small(folder):
        model, report = LongVAForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=resolve_dtype(dtype, torch_device),
            attn_implementation={"": attn_implementation, "vision_config": tower_attention},
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, with the checkpoint's name
            device_map=placement,
        )
    _check_shapes(report, folder)
    missing = set(report["missing_keys"])
    if not any(".vision_tower." in name for name in tensor_names):
        missing -= _load_untuned_tower(model, raw, tower_folder)
    if missing or report["unexpected_keys"]:
        raise CheckpointError(
            f"{folder} does not hold the weights of a LongVA model. Missing: "
            f"{_some(missing)}. Not part of it: {_some(report['unexpected_keys'])}."
        )
    model.eval().requires_grad_(False)
    checkpoint = Checkpoint(
        model=model,
        tokenizer=tokenizer,
        image_processor=CLIPImageProcessorPil(**processor_settings),
        generation_config=generation_config,
        folder=folder,
        source=str(pretrained),
        revision=commit,
        rope=describe_rope(settings, config.rope_parameters, model.model.rotary_emb.inv_freq),
        own_rope_parameters=own_rope_parameters,
        fingerprint=_fingerprint(folder),
    )
    num_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    logger.info(
        "Loaded {} ({:.2f} GB, {}) in {:.1f} s",
        pretrained,
        num_bytes / 1e9,
        str(model.dtype).removeprefix("torch."),
        time.perf_counter() - began,
    )
    return checkpoint


def change_rope(checkpoint: Checkpoint, rope: RopeSettings) -> Checkpoint:
    """The same weights with another rotary embedding, starting from the checkpoint's own.

    The model is changed in place: a rotary embedding has no weights, and a second copy of 15 GB
    would not fit beside the first.

    Raises:
        SettingsError: If the settings do not fit the checkpoint.
    """
    model = checkpoint.model
    config = model.config
    config.rope_parameters = _resolve_rope(config, checkpoint.own_rope_parameters, rope)
    device = model.model.rotary_emb.inv_freq.device
    model.model.rotary_emb = Qwen2RotaryEmbedding(config).to(device)
    described = describe_rope(rope, config.rope_parameters, model.model.rotary_emb.inv_freq)
    return replace(checkpoint, rope=described)


@contextmanager
def _no_bar_if_small(folder: Path) -> Iterator[None]:
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


def _resolve_rope(
    config: LongVAConfig, own_parameters: Mapping[str, Any], rope: RopeSettings
) -> dict[str, Any]:
    return resolve_rope_parameters(
        own_parameters,
        rope,
        head_dim=config.hidden_size // config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
    )


def find_checkpoint(
    pretrained: str | Path, *, revision: str | None = None
) -> tuple[Path, str | None]:
    """The folder that holds a checkpoint, downloading it if it is a hub id.

    Returns:
        The folder, and the commit of the hub repository (None for a local folder).

    Raises:
        CheckpointError: If there is no such folder and the hub cannot give it.
    """
    folder = Path(pretrained).expanduser()
    if not folder.is_dir():
        folder = embedded_checkpoint(pretrained) or folder
    if folder.is_dir():
        if revision is not None:
            raise SettingsError(f"revision={revision} belongs to a hub id; {folder} is a folder.")
        return folder, None
    name = str(pretrained)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise CheckpointError(
            f"pretrained={name}: there is no such folder, it is not a hub id (owner/name), and it "
            f"is none of the embedded checkpoints ({', '.join(CHECKPOINTS)}). Check the path."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_PATTERNS))
    except (OSError, HfHubHTTPError, ValueError) as error:
        # LocalEntryNotFoundError (offline, nothing cached) is an OSError too.
        raise CheckpointError(
            f"The checkpoint {name} is neither a folder here nor in the local hub cache, and the "
            f"hub could not be asked ({type(error).__name__}: {str(error).splitlines()[0]}).\n"
            f"Where there is a network:  hf download {name}  (about 16 GB for a 7B model).\n"
            f"Then copy the folder here and pass pretrained=/path/to/{name.split('/')[1]}."
        ) from error
    return path, path.name


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The torch dtype for a setting; `auto` is bfloat16 on CUDA and float32 elsewhere."""
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in known:
        raise SettingsError(f"dtype={dtype!r} is unknown; use auto, {', '.join(known)}.")
    return known[dtype]


def _resolve_device(device: str) -> torch.device:
    if device in ("auto", "", "None"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(f"device={device!r} is unknown; use auto, cpu or cuda:0.") from error
    if resolved.type not in ("cpu", "cuda"):
        raise SettingsError(f"device={device!r} is not supported; use auto, cpu or cuda:0.")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"device={device} but PyTorch sees no GPU here; use device=cpu.")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise SettingsError(
            f"device={device} but PyTorch sees {torch.cuda.device_count()} GPUs here, the first "
            "being cuda:0."
        )
    return resolved


def _resolve_placement(
    device: str, device_map: str | None
) -> tuple[torch.device, str | dict[str, torch.device]]:
    """The device that decides on the dtype, and transformers' `device_map`."""
    if device_map in _SPREADING_MAPS:
        return _resolve_device(device), device_map
    if device_map:
        try:
            device = str(torch.device(device_map))
        except RuntimeError as error:
            raise SettingsError(
                f"device_map={device_map!r} is unknown; use {', '.join(_SPREADING_MAPS)}, or "
                "leave it out and set device."
            ) from error
    resolved = _resolve_device(device)
    return resolved, {"": resolved}


def _check_attention(name: str) -> None:
    known = ["eager", *sorted(ALL_ATTENTION_FUNCTIONS.valid_keys())]
    if name not in known:
        raise SettingsError(f"attn_implementation={name!r} is unknown; use {', '.join(known)}.")
    # Asked for without the package, transformers would fetch code from the hub in its place.
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise SettingsError(
            f"attn_implementation={name} needs a GPU and the package flash-attn, and one of them "
            "is missing. pip install flash-attn, or use attn_implementation=sdpa."
        )


def _check_architecture(raw: Mapping[str, Any], folder: Path) -> None:
    architectures = raw.get("architectures") or []
    if raw.get("model_type") != "llava_qwen" or "LlavaQwenForCausalLM" not in architectures:
        raise CheckpointError(
            f"{folder}/config.json describes model_type={raw.get('model_type')!r}, "
            f"architectures={architectures}; LongVA has model_type='llava_qwen' and "
            "LlavaQwenForCausalLM. Use the lmms-eval model of that architecture instead."
        )
    required = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_resampler_type": (None,),
        "mm_vision_select_feature": ("patch",),
        "mm_use_im_start_end": (False, None),
        "use_sliding_window": (False, None),
        "mm_patch_merge_type": ("unires", "spatial_unpad", "anyres"),
    }
    wrong = {key: raw.get(key) for key, allowed in required.items() if raw.get(key) not in allowed}
    if wrong:
        raise CheckpointError(
            f"{folder}/config.json asks for parts that LongVA does not have: {wrong}. "
            f"Known: { {key: required[key] for key in wrong} }."
        )


def _tensor_names(folder: Path) -> set[str]:
    """Names of the tensors in the safetensors files, after checking that the files are there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(
            isinstance(name, str) for name in weight_map.values()
        ):
            raise CheckpointError(f"{index} has no weight_map from tensors to files.")
        files = sorted(set(weight_map.values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
    absent = [name for name in files if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {_some(absent)}, which its index names.")
    if not files:
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f"It has {_some(pickles)}: pickles can run code when read and are refused. Convert "
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


def _vision_tower(
    raw: Mapping[str, Any], folder: Path
) -> tuple[CLIPVisionConfig, dict[str, Any], Path | None]:
    """Architecture and preprocessing of the tower, and the folder of its untuned weights."""
    name = raw.get("mm_vision_tower") or raw.get("vision_tower")
    if not name or not isinstance(name, str):
        raise CheckpointError(f"{folder}/config.json names no mm_vision_tower.")
    for candidate in (folder / name, Path(name)):
        if (candidate / "config.json").is_file():
            settings = _read_json(candidate / "config.json")
            settings = settings.get("vision_config", settings)
            path = candidate / "preprocessor_config.json"
            processor = _processor_settings(_read_json(path), path)
            return CLIPVisionConfig(**settings), processor, candidate
    if name in KNOWN_TOWERS:
        size = KNOWN_TOWERS[name]["image_size"]
        processor = _processor_settings({"size": size}, Path(name))
        return CLIPVisionConfig(**KNOWN_TOWERS[name]), processor, None
    raise CheckpointError(
        f"{folder}/config.json names the vision tower {name!r}, which is neither a folder in the "
        f"checkpoint nor one of the known towers ({', '.join(KNOWN_TOWERS)}). Put its "
        f"config.json and preprocessor_config.json in {folder / 'vision_tower'} and set "
        '"mm_vision_tower": "vision_tower".'
    )


def _processor_settings(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Arguments of the CLIP processor from a `preprocessor_config.json`, old or new form."""
    size = raw.get("size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else size
    if not isinstance(shortest, int) or shortest < 1:
        raise CheckpointError(
            f'{path} has "size": {size}; CLIP\'s is the shortest edge in pixels, as a number or as '
            '{"shortest_edge": 336}.'
        )
    crop = raw.get("crop_size", shortest)
    crop_size = crop if isinstance(crop, dict) else {"height": int(crop), "width": int(crop)}
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


def _build_config(
    raw: dict[str, Any], tower: CLIPVisionConfig, tensor_names: set[str]
) -> LongVAConfig:
    select_layer = int(raw.get("mm_vision_select_layer", -2))
    num_layers = tower.num_hidden_layers
    # hidden_states has the embeddings first: entry k is the output of the k-th layer.
    kept = select_layer if select_layer >= 0 else num_layers + 1 + select_layer
    if not 1 <= kept <= num_layers:
        raise CheckpointError(
            f"mm_vision_select_layer={select_layer} is outside of a tower of {num_layers} layers."
        )
    tower.num_hidden_layers = kept
    values = {key: value for key, value in raw.items() if key != "architectures"}
    # The two old keys become one; given apart, transformers warns and, for some, ignores them.
    scaling = dict(values.pop("rope_scaling", None) or {"rope_type": "default"})
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type"))
    values.setdefault("rope_parameters", scaling | {"rope_theta": values.pop("rope_theta", 1e4)})
    config = LongVAConfig(**values)
    config.vision_config = tower
    config.has_image_newline = "model.image_newline" in tensor_names
    pinpoints = raw.get("image_grid_pinpoints")
    if pinpoints is not None or raw.get("image_aspect_ratio") == "anyres":
        parse_grid_pinpoints(pinpoints, tile_size=int(tower.image_size))
    return config


def _load_untuned_tower(
    model: LongVAForCausalLM, raw: Mapping[str, Any], tower_folder: Path | None
) -> set[str]:
    """Fill the tower from its own folder, for a checkpoint whose shards leave it out."""
    if tower_folder is None:
        raise CheckpointError(
            f"The shards hold no vision tower, and {raw.get('mm_vision_tower')} is not a folder. "
            "Download it and set mm_vision_tower in config.json to its path."
        )
    _tensor_names(tower_folder)
    tower = model.model.vision_tower.vision_tower
    loaded, report = CLIPVisionModel.from_pretrained(
        tower_folder,
        config=model.vision_config,
        dtype=model.dtype,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    _check_shapes(report, tower_folder)
    needed = [name for name in report["missing_keys"] if not name.startswith("post_layernorm")]
    if needed:
        raise CheckpointError(f"{tower_folder} lacks {_some(needed)} of its vision tower.")
    tower.load_state_dict(loaded.state_dict())
    return {name for name, _ in model.named_parameters() if ".vision_tower." in name}


def _check_shapes(report: Mapping[str, Any], folder: Path) -> None:
    wrong = [
        f"{name} is {tuple(found)}, the configuration asks for {tuple(wanted)}"
        for name, found, wanted in report["mismatched_keys"]
    ]
    if wrong:
        raise CheckpointError(f"{folder} has weights of another shape: {_some(wrong)}.")


def _tokenizer(folder: Path, config: LongVAConfig) -> Any:
    whole = (folder / "tokenizer.json").is_file()
    # Without this check transformers makes an empty tokenizer of nothing.
    if not whole and not all((folder / name).is_file() for name in ("vocab.json", "merges.txt")):
        raise CheckpointError(
            f"{folder} has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CheckpointError(
            f"The tokenizer files in {folder} cannot be used "
            f"({type(error).__name__}: {str(error)[:200]}). Download them again."
        ) from error


def _generation_config(folder: Path, config: LongVAConfig, tokenizer: Any) -> GenerationConfig:
    """The checkpoint's generation config, with an end token whatever files there are.

    Raises:
        CheckpointError: If nothing says which token ends an answer: it would run on for ever.
    """
    path = folder / "generation_config.json"
    if path.is_file():
        _read_json(path)  # names the file where transformers would not
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


def _fingerprint(folder: Path) -> str:
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; a LongVA checkpoint has one.") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: a number of 5,000 digits, too
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds {type(data).__name__}, not a JSON object.")
    return data


def _some(names: Any, limit: int = 4) -> str:
    ordered = sorted(names)
    if not ordered:
        return "none"
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"
