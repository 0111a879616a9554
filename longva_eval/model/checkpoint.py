"""Loading a checkpoint, from a folder or from the hub.

LongVA's layout is that of the original training code: `config.json` with `model_type: llava_qwen`
and `mm_*` keys, safetensors shards that hold the language model, the projector *and the tuned
vision tower*, tokenizer files, and a `mm_vision_tower` entry that only names an architecture
(`openai/clip-vit-large-patch14-336`), which is known here without a network. Checkpoints of
LLaVA-NeXT and LLaVA-NeXT-Video in transformers' layout are loaded by
`longva_eval.model.llava_next`.

Nothing is guessed from a name: the class comes from `config.json`, the prompt template from the
tokenizer or processor. Weights are read from safetensors alone; no pickle and no remote code.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from loguru import logger
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available
from transformers.utils import logging as transformers_logging

from longva_eval.embedded import CHECKPOINTS, embedded_checkpoint
from longva_eval.errors import CheckpointError, EvaluationError, SettingsError
from longva_eval.media.images import parse_grid_pinpoints
from longva_eval.model.files import (
    check_memory,
    check_shapes,
    check_sizes,
    hash_weights,
    kept_tower_layers,
    read_json,
    read_processor_settings,
    read_tensor_names,
    rope_parameters_of,
    some,
)
from longva_eval.model.llava_next import (
    ARCHITECTURES,
    is_llava_next,
    llava_next_config,
    llava_next_processor_settings,
    load_llava_next,
)
from longva_eval.model.modeling import (
    LongVAConfig,
    LongVAForCausalLM,
    VisionLanguageModel,
    execution_device,
)
from longva_eval.model.rope import RopeSettings, describe_rope, resolve_rope_parameters
from longva_eval.prompts.processor_template import MediaTokens, read_chat_template

__all__ = [
    "Checkpoint",
    "DType",
    "change_rope",
    "find_checkpoint",
    "load_checkpoint",
    "resolve_dtype",
]

DType = Literal["auto", "float32", "bfloat16", "float16"]

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

LONGVA = "LlavaQwenForCausalLM"
"""`architectures` in LongVA's `config.json`."""

_HUB_PATTERNS = [
    "*.json",
    "*.jinja",
    "*.safetensors",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "vision_tower/*",
]
_SPREADING_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
_BAR_FROM_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded model with everything that belongs to it."""

    model: VisionLanguageModel
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
    """What was asked and what it resolved to, see `longva_eval.model.rope.describe_rope`."""
    own_rope_parameters: dict[str, Any]
    """`rope_parameters` as the checkpoint has them, before any change."""
    fingerprint: str
    """Hash over the weight files: names, sizes, and 256 blocks of 64 KiB spread over each."""
    architecture: str = LONGVA
    """As `architectures` in `config.json` names it."""
    media_tokens: MediaTokens | None = None
    """Where a processor writes the prompts; None for LongVA's own rules."""

    @property
    def config(self) -> Any:
        """The language model's configuration, with LongVA's `mm_*` keys beside it."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """Where the language model begins; all of it, but for `device_map`."""
        return execution_device(self.model.model.embed_tokens)

    @property
    def context_length(self) -> int:
        """Longest prompt in tokens that the checkpoint says it was made for.

        `max_position_embeddings`; a checkpoint with linear RoPE scaling (Vicuna's, for
        LLaVA-NeXT-Video-7B) states it before scaling.
        """
        length = int(self.config.max_position_embeddings)
        if self.own_rope_parameters.get("rope_type") == "linear":
            length = int(length * float(self.own_rope_parameters["factor"]))
        return length

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
            *(
                [[self.architecture, self.model.pools_before_projection]]
                if self.architecture != LONGVA
                else []
            ),
        ):
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        for name, weight in self.model.vision_parameters():
            digest.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
            if weight.is_meta:  # `device_map` put it elsewhere; it is what the files say
                digest.update(self.fingerprint.encode())
                continue
            flat = weight.detach().cpu().contiguous().view(torch.uint8)
            digest.update(flat.numpy().tobytes())
        return digest.hexdigest()[:24]

    def describe(self) -> dict[str, Any]:
        """What a result says about the model that made it."""
        return {
            "architecture": self.architecture,
            "checkpoint": self.source,
            "revision": self.revision,
            "weights_fingerprint": self.fingerprint,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.device),
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
    architectures: Sequence[str] | None = None,
) -> Checkpoint:
    """Load a checkpoint of LongVA, LLaVA-NeXT or LLaVA-NeXT-Video.

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
        architectures: Which of the known ones are wanted; all if None.

    Raises:
        CheckpointError: If files are missing, unreadable, or hold another model.
        SettingsError: If a setting is unknown or contradicts the checkpoint.
    """
    # Before 16 GB are downloaded.
    _load_options(device, device_map, dtype, attn_implementation)
    folder, commit = find_checkpoint(pretrained, revision=revision)
    raw = read_json(folder / "config.json")
    _check_wanted(raw, folder, architectures)
    began = time.perf_counter()
    load = _load_llava_next if is_llava_next(raw) else _load_longva
    for part in (raw, raw.get("text_config"), raw.get("vision_config")):
        if isinstance(part, Mapping):
            check_sizes(part, folder / "config.json")
    try:
        parts = load(
            raw,
            folder,
            rope=rope or RopeSettings(),
            device=device,
            device_map=device_map,
            dtype=dtype,
            attn_implementation=attn_implementation,
        )
    except (EvaluationError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises many types for values it did not expect
        raise CheckpointError(
            f"{folder} cannot be loaded ({type(error).__name__}: {str(error)[:300]}). Are its "
            "files those of one checkpoint, unchanged?"
        ) from error
    model = parts["model"]
    model.eval().requires_grad_(False)
    rotary = model.model.rotary_emb.inv_freq
    checkpoint = Checkpoint(
        **parts,
        folder=folder,
        source=str(pretrained),
        revision=commit,
        rope=describe_rope(rope or RopeSettings(), model.config.rope_parameters, rotary),
        fingerprint=hash_weights(folder),
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


def _load_longva(
    raw: dict[str, Any],
    folder: Path,
    *,
    rope: RopeSettings,
    device: str,
    device_map: str | None,
    dtype: str,
    attn_implementation: str,
) -> dict[str, Any]:
    """The parts of a `Checkpoint` that depend on the layout; here LongVA's."""
    _check_architecture(raw, folder)
    tensor_names = read_tensor_names(folder)
    tower_config, processor_settings, tower_folder = _vision_tower(raw, folder)
    config = _build_config(raw, tower_config, tensor_names)
    check_memory(folder, config, tower_config)
    own_rope_parameters = dict(config.rope_parameters)
    config.rope_parameters = _resolve_rope(config, own_rope_parameters, rope)
    options = _load_options(device, device_map, dtype, attn_implementation)
    # Small files before the large ones, so that what is wrong with them is said at once.
    tokenizer = _tokenizer(folder, config)
    generation_config = _generation_config(folder, config, tokenizer)
    with _no_bar_if_small(folder):
        model, report = LongVAForCausalLM.from_pretrained(folder, config=config, **options)
    check_shapes(report, folder)
    missing = set(report["missing_keys"])
    if not any(".vision_tower." in name for name in tensor_names):
        missing -= _load_untuned_tower(model, raw, tower_folder)
    if missing or report["unexpected_keys"]:
        raise CheckpointError(
            f"{folder} does not hold the weights of a LongVA model. Missing: "
            f"{some(missing)}. Not part of it: {some(report['unexpected_keys'])}."
        )
    return {
        "model": model,
        "tokenizer": tokenizer,
        "image_processor": CLIPImageProcessorPil(**processor_settings),
        "generation_config": generation_config,
        "own_rope_parameters": own_rope_parameters,
    }


def _load_llava_next(
    raw: dict[str, Any],
    folder: Path,
    *,
    rope: RopeSettings,
    device: str,
    device_map: str | None,
    dtype: str,
    attn_implementation: str,
) -> dict[str, Any]:
    """As `_load_longva`, of LLaVA-NeXT and LLaVA-NeXT-Video in transformers' layout."""
    config = llava_next_config(raw, folder)
    language = config.text_config
    read_tensor_names(folder)
    check_memory(folder, language, config.vision_config)
    own_rope_parameters = dict(language.rope_parameters)
    language.rope_parameters = _resolve_rope(language, own_rope_parameters, rope)
    options = _load_options(device, device_map, dtype, attn_implementation)
    processor_settings = llava_next_processor_settings(raw, folder)
    tokenizer = _tokenizer(folder, config)
    generation_config = _generation_config(folder, language, tokenizer)
    media_tokens = _media_tokens(config, tokenizer, folder)
    with _no_bar_if_small(folder):
        model = load_llava_next(folder, config, options)
    return {
        "model": model,
        "tokenizer": tokenizer,
        "image_processor": CLIPImageProcessorPil(**processor_settings),
        "generation_config": generation_config,
        "own_rope_parameters": own_rope_parameters,
        "architecture": next(name for name in raw["architectures"] if name in ARCHITECTURES),
        "media_tokens": media_tokens,
    }


def _media_tokens(config: Any, tokenizer: Any, folder: Path) -> MediaTokens:
    """The tokens that stand for pictures and videos, where tokenizer and config agree on them."""
    asked = {"image": config.image_token_index, "video": getattr(config, "video_token_index", None)}
    found: dict[str, str | None] = {"image": None, "video": None}
    for kind, token_id in asked.items():
        if token_id is None:
            continue
        token = getattr(tokenizer, f"{kind}_token", None) or f"<{kind}>"
        if tokenizer.convert_tokens_to_ids(token) != token_id:
            raise CheckpointError(
                f"{folder}/config.json has {kind}_token_index={token_id}, but the tokenizer's "
                f"{token} is {tokenizer.convert_tokens_to_ids(token)}. Are these its tokenizer "
                "files?"
            )
        found[kind] = token
    assert found["image"] is not None, "the configuration always names an image token"
    return MediaTokens(
        chat_template=read_chat_template(folder), picture=found["image"], video=found["video"]
    )


def _load_options(
    device: str, device_map: str | None, dtype: str, attn_implementation: str
) -> dict[str, Any]:
    """Arguments of `from_pretrained` beside folder and configuration."""
    torch_device, placement = _resolve_placement(device, device_map)
    _check_attention(attn_implementation)
    tower_attention = "eager" if attn_implementation == "eager" else "sdpa"
    return {
        "dtype": resolve_dtype(dtype, torch_device),
        "attn_implementation": {"": attn_implementation, "vision_config": tower_attention},
        "use_safetensors": True,
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are reported, with the checkpoint's name
        "device_map": placement,
    }


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
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config).to(rotary.inv_freq.device)
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
    config: Any, own_parameters: Mapping[str, Any], rope: RopeSettings
) -> dict[str, Any]:
    return resolve_rope_parameters(
        own_parameters,
        rope,
        head_dim=getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
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
    except (RuntimeError, TypeError) as error:
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
        except (RuntimeError, TypeError) as error:
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


def _check_wanted(raw: Mapping[str, Any], folder: Path, wanted: Sequence[str] | None) -> None:
    """Refuse a known model that is not the one asked for, before its weights are read."""
    found = [name for name in raw.get("architectures") or [] if name in (LONGVA, *ARCHITECTURES)]
    if wanted is not None and found and not set(found) & set(wanted):
        raise CheckpointError(
            f"{folder}/config.json describes {found[0]}, and this model is for "
            f"{' or '.join(wanted)}. --model longva is for {LONGVA}, longva_llava_next and "
            "longva_llava_next_video for those of transformers (docs/baselines.md)."
        )


def _check_architecture(raw: Mapping[str, Any], folder: Path) -> None:
    architectures = raw.get("architectures") or []
    if raw.get("model_type") != "llava_qwen" or "LlavaQwenForCausalLM" not in architectures:
        raise CheckpointError(
            f"{folder}/config.json describes model_type={raw.get('model_type')!r}, "
            f"architectures={architectures}; LongVA has model_type='llava_qwen' and "
            f"LlavaQwenForCausalLM; {' and '.join(ARCHITECTURES)} are known too. Use the lmms-eval "
            "model of that architecture instead."
        )
    required = {
        "mm_projector_type": ("mlp2x_gelu",),
        "mm_resampler_type": (None,),
        "mm_vision_select_feature": ("patch",),
        "mm_use_im_start_end": (False, None),
        "use_sliding_window": (False, None),
        "mm_patch_merge_type": ("unires", "spatial_unpad", "anyres"),
        "mm_spatial_pool_mode": ("average", "max", None),
        "mm_newline_position": ("one_token", None),
        "image_aspect_ratio": ("anyres", "pad", "crop"),
    }
    wrong = {key: raw.get(key) for key, allowed in required.items() if raw.get(key) not in allowed}
    if wrong:
        raise CheckpointError(
            f"{folder}/config.json asks for parts that LongVA does not have: {wrong}. "
            f"Known: { {key: required[key] for key in wrong} }."
        )


def _vision_tower(
    raw: Mapping[str, Any], folder: Path
) -> tuple[CLIPVisionConfig, dict[str, Any], Path | None]:
    """Architecture and preprocessing of the tower, and the folder of its untuned weights."""
    name = raw.get("mm_vision_tower") or raw.get("vision_tower")
    if not name or not isinstance(name, str):
        raise CheckpointError(f"{folder}/config.json names no mm_vision_tower.")
    for candidate in (folder / name, Path(name)):
        if (candidate / "config.json").is_file():
            settings = read_json(candidate / "config.json")
            settings = settings.get("vision_config", settings)
            check_sizes(settings, candidate / "config.json")
            path = candidate / "preprocessor_config.json"
            processor = read_processor_settings(read_json(path), path)
            return CLIPVisionConfig(**settings), processor, candidate
    if name in KNOWN_TOWERS:
        size = KNOWN_TOWERS[name]["image_size"]
        processor = read_processor_settings({"size": size}, Path(name))
        return CLIPVisionConfig(**KNOWN_TOWERS[name]), processor, None
    raise CheckpointError(
        f"{folder}/config.json names the vision tower {name!r}, which is neither a folder in the "
        f"checkpoint nor one of the known towers ({', '.join(KNOWN_TOWERS)}). Put its "
        f"config.json and preprocessor_config.json in {folder / 'vision_tower'} and set "
        '"mm_vision_tower": "vision_tower".'
    )


def _build_config(
    raw: dict[str, Any], tower: CLIPVisionConfig, tensor_names: set[str]
) -> LongVAConfig:
    kept = kept_tower_layers(
        tower.num_hidden_layers,
        int(raw.get("mm_vision_select_layer", -2)),
        name="mm_vision_select_layer",
    )
    tower.num_hidden_layers = kept
    values = {key: value for key, value in raw.items() if key != "architectures"}
    values["rope_parameters"] = rope_parameters_of(values, default_theta=1e4)
    values.pop("rope_scaling", None)
    values.pop("rope_theta", None)
    # LLaVA-NeXT's files leave these out, or have null: they pool no frames of their own.
    values["mm_spatial_pool_stride"] = values.get("mm_spatial_pool_stride") or 2
    values["mm_spatial_pool_mode"] = values.get("mm_spatial_pool_mode") or "average"
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
    read_tensor_names(tower_folder)
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
    check_shapes(report, tower_folder)
    needed = [name for name in report["missing_keys"] if not name.startswith("post_layernorm")]
    if needed:
        raise CheckpointError(f"{tower_folder} lacks {some(needed)} of its vision tower.")
    tower.load_state_dict(loaded.state_dict())
    return {name for name, _ in model.named_parameters() if ".vision_tower." in name}


def _tokenizer(folder: Path, config: Any) -> Any:
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


def _generation_config(folder: Path, config: Any, tokenizer: Any) -> GenerationConfig:
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
