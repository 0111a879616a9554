"""What `--model_args` may say: names, types and defaults, read in one place.

lmms-eval hands over what stands there as text, numbers or truth values. An unknown argument is an
error that names the nearest known one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar, get_type_hints

from longva_eval.errors import SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.model.rope import RopeSettings

__all__ = ["Arguments", "FamilyArguments", "LongVAArguments", "read_arguments"]

_LARGEST = 1 << 53
_TRUTHS = {"true": True, "on": True, "yes": True, "1": True,
           "false": False, "off": False, "no": False, "0": False}  # fmt: skip
_SESSION_NAMES = {
    "video_decode_backend": "backend", "max_context_tokens": "context_length",
    "image_aspect_ratio": "aspect", "mm_patch_merge_type": "patch_merge",
    "mm_spatial_pool_stride": "pool_stride", "mm_spatial_pool_mode": "pool_mode",
}  # fmt: skip
"""Arguments that `open_session` has under other names."""
_NOT_OF_SESSION = frozenset(
    ["pretrained", "frames", "max_frames_num", "frame_policy", "fps", "short_video", "video_gaps",
     "on_error", "max_failed", "journal", "fresh", "batch_size", "max_batch_size"]
)  # fmt: skip
"""For its frame policy, or for the adapter alone."""
_LARGER_THAN_ONE_DEVICE = (
    "several GPUs that each hold the model take whole videos each (torchrun --nproc-per-node N); "
    "device_map=auto spreads one model over all of them; for more, use the host's --model vllm or "
    "sglang with our tasks (docs/parallel.md)"
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of every model of this suite (docs/settings.md).

    One without a text here is that of `SessionSettings` (`longva_eval.engine.opening`) or
    `FramePolicy` (`longva_eval.media.frames`), which say what it means; `_SESSION_NAMES` has those
    that have another name there.

    RoPE settings are given flat: `rope_theta`, `rope_type`, `rope_factor` and the other fields of
    `RopeSettings` with `rope_` before them; lists joined by `/`.
    """

    pretrained: str
    """A folder, a hub id, or the name of an embedded checkpoint such as `longva-tiny`."""
    revision: str | None = None
    device: str = "auto"
    device_map: str | None = None
    dtype: str = "auto"
    attn_implementation: str = "auto"
    max_frames_num: int = 128
    """`FramePolicy.max_frames`."""
    frame_policy: str = "uniform"
    """`FramePolicy.policy`."""
    fps: float | None = None
    short_video: str = "repeat"
    video_gaps: str = "error"
    """`FramePolicy.gaps`."""
    video_decode_backend: str = "auto"
    max_context_tokens: int | None = None
    long_prompt: str = "error"
    chunk_tokens: str = "auto"
    reuse: bool = True
    branches: str = "auto"
    vision_batch_size: int = 16
    feature_cache: str | None = None
    positions: str = "own"
    kv_press: str = "none"
    seed: int = 0
    control: str = "none"
    on_error: str = "stop"
    """What happens when a video cannot be read, a prompt is too long, or logits are NaN: `stop`
    ends the run; `skip` lets the document fail, by name."""
    max_failed: int | float = 0.05
    """With `on_error=skip`, how many documents may fail: a count, or a share of them."""
    journal: str = "on"
    """Folder where answers are kept as they come; `on` is beside the results (or in the user's
    cache, where there is no `--output_path`); `off` keeps none."""
    fresh: bool = False
    """Start over instead of taking answers over from the journal."""
    batch_size: str = "1"
    """Accepted as the host passes it; `branches` says how many are answered at once."""
    max_batch_size: str | None = None
    """As `batch_size`."""
    rope: RopeSettings = field(default_factory=RopeSettings)
    """Read from the `rope_...` arguments."""

    replaced: ClassVar[Mapping[str, str]] = {
        "model_name": "the architecture is read from the checkpoint's config.json",
        "truncation": "use long_prompt=error, keep_question or original",
        "customized_config": "edit the checkpoint's config.json",
        "token_strategy": "visual tokens always stand where the prompt says <image>",
        "tensor_parallel": _LARGER_THAN_ONE_DEVICE,
        "context_parallel": _LARGER_THAN_ONE_DEVICE,
    }
    """Arguments of the host's own adapters and of earlier versions, and what takes their place."""

    def session_settings(self) -> dict[str, Any]:
        """What of them `open_session` takes, under its names."""
        given = {
            _SESSION_NAMES.get(each.name, each.name): getattr(self, each.name)
            for each in fields(self)
            if each.name not in _NOT_OF_SESSION
        }
        return given | {
            "device_map": self.device_map or None,
            "frames": FramePolicy(
                max_frames=self.max_frames_num,
                policy=self.frame_policy,
                fps=self.fps,
                short_video=self.short_video,  # type: ignore[arg-type]  # checked there
                gaps=self.video_gaps,  # type: ignore[arg-type]  # checked there
            ),
        }


@dataclass(frozen=True, kw_only=True)
class LongVAArguments(Arguments):
    """And those of LongVA and LLaVA-NeXT."""

    conv_template: str = "auto"
    mm_spatial_pool_stride: int | None = None
    mm_spatial_pool_mode: str | None = None
    frame_pooling: str = "same"
    image_aspect_ratio: str | None = None
    mm_patch_merge_type: str | None = None


@dataclass(frozen=True, kw_only=True)
class FamilyArguments(Arguments):
    """And those of the families of transformers."""

    frames: str = "policy"
    """`policy` is `max_frames_num` or `fps`; `model` lets the checkpoint's own processor choose,
    with its rate, minimum and maximum (`fps` takes the place of its rate)."""
    size_for_frames: int | None = None
    thinking: str = "off"
    max_thinking_tokens: int = 16384

    def session_settings(self) -> dict[str, Any]:
        if self.frames not in ("policy", "model"):
            raise SettingsError(f"frames={self.frames!r} is unknown; use policy or model.")
        if self.frames == "model" and self.frame_policy != "uniform":
            raise SettingsError(f"frames=model and frame_policy={self.frame_policy}: give one.")
        return super().session_settings() | {"own_frames": self.frames == "model"}


_A = TypeVar("_A", bound=Arguments)


def read_arguments(kind: type[_A], given: Mapping[str, Any]) -> _A:
    """Arguments as they were given, with the types they have.

    Raises:
        SettingsError: If one is unknown, or of another type.
    """
    rope_names = {
        name if name == "rope_type" else f"rope_{name}": name
        for name in RopeSettings.__dataclass_fields__
    }
    hints = get_type_hints(kind)
    known = [each.name for each in fields(kind) if each.name != "rope"]
    values: dict[str, Any] = {}
    rope: dict[str, Any] = {}
    for name, value in given.items():
        if name in rope_names:
            rope[rope_names[name]] = _rope_value(name, rope_names[name], value)
        elif name in known:
            values[name] = _read(name, value, hints[name])
        else:
            raise SettingsError(_unknown(name, kind.replaced, [*known, *rope_names]))
    return kind(**values, rope=RopeSettings(**rope))


def _read(name: str, value: Any, hint: Any) -> Any:
    options = getattr(hint, "__args__", (hint,))
    if value is None and type(None) in options:
        return None
    if bool in options:
        return _truth(name, value)
    if int in options and float in options:  # a count, or a share: 1 is not 1.0
        is_count = isinstance(value, int) and not isinstance(value, bool)
        return value if is_count else _number(name, value)
    if int in options:
        return _whole_number(name, value)
    if float in options:
        return _number(name, value)
    return str(value)


def _rope_value(argument: str, name: str, value: Any) -> Any:
    if name in ("short_factor", "long_factor"):
        return tuple(_number(argument, part) for part in str(value).split("/"))
    if name in ("original_length", "pinned_length"):
        return _whole_number(argument, value)
    return value if name == "rope_type" else _number(argument, value)


def _whole_number(name: str, value: Any) -> int:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not -_LARGEST <= value <= _LARGEST or value != int(value):
        raise SettingsError(f"{name}={value!r:.40} must be a whole number.")
    return int(value)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise SettingsError(f"{name}={value!r:.40} must be a number.") from error


def _truth(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in _TRUTHS:
        raise SettingsError(f"{name}={value!r} must be true or false.")
    return _TRUTHS[text]


def _unknown(name: str, replaced: Mapping[str, str], known: Iterable[str]) -> str:
    if name in replaced:
        return f"{name} is not an argument of this adapter: {replaced[name]}."
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"Unknown argument {name!r}.{hint} Known: {', '.join(known)}."
