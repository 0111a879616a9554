"""What ships with the package, so that everything can be tried without a network.

The one place that says which models, tasks and media there are. How they were made: docs/tiny.md.
"""

from __future__ import annotations

from pathlib import Path

from longva_eval.errors import CheckpointError, nearest

__all__ = [
    "CAPTIONS",
    "CHECKPOINTS",
    "DEMO_PANELS",
    "DEMO_TESTS",
    "HAYSTACK",
    "MODEL_CLASSES",
    "NEEDLES",
    "RATES",
    "RECIPE_KEY",
    "check_pretrained",
    "embedded_checkpoint",
    "tasks_folder",
]

MODEL_CLASSES = {
    "longva": "longva_eval.model_adapters.longva.LongVA",
    "longva_hf": "longva_eval.model_adapters.hf.TransformersModel",
    "longva_llava_next": "longva_eval.model_adapters.llava_next.LlavaNext",
    "longva_llava_next_video": "longva_eval.model_adapters.llava_next.LlavaNextVideo",
}
"""Model id -> class, for `lmms-eval --model ID`. Only `longva` replaces one of the host's own."""

RECIPE_KEY = "longva_eval"
"""Where a results file says how its scores were made."""

_DATA = Path(__file__).parent / "data"

CHECKPOINTS = {name: _DATA / name for name in ("longva-tiny", "longva-tiny-short", "longva-tiny-2")}
"""Name, as in `pretrained=longva-tiny`, and folder of each embedded checkpoint."""

DEMO_PANELS: tuple[tuple[str, float | None], ...] = (
    ("longva-tiny", None),
    ("longva-tiny-short", None),
    ("longva-tiny-short", 5e4),
    ("longva-tiny-short", 1e6),
)
"""What `longva-eval demo` draws: checkpoint, and RoPE base (None: its own). The base of 50,000 was
chosen on other videos and needles (docs/tiny.md); longva-tiny was trained with 1,000,000."""

DEMO_TESTS = {
    "longva-tiny-2": ("keys", "order", "count", "chain"),
    "longva-tiny": ("keys",),
    "longva-tiny-short": ("keys",),
}
"""Needle tests that `longva-eval demo` draws of each model: those that it has words for."""

HAYSTACK = _DATA / "haystack.mp4"
"""A video for V-NIAH: 1,200 frames at one a second."""

CAPTIONS = _DATA / "captions.json"
"""What each frame of the haystack and each needle shows, in four words."""

RATES = _DATA / "rates.json"
"""Measured speeds, with date and source, for `longva-eval plan`."""

NEEDLES = _DATA / "needles"
"""Pictures and questions for V-NIAH: `dataset.json` and its files."""


def embedded_checkpoint(name: str | Path) -> Path | None:
    """The folder of an embedded checkpoint, or None if there is none of this name."""
    return CHECKPOINTS.get(str(name))


def check_pretrained(name: str | Path) -> None:
    """Raises CheckpointError if `name` is no folder, no embedded checkpoint and no hub id."""
    if name in CHECKPOINTS or Path(name).expanduser().is_dir():
        return
    name = str(name)
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        raise CheckpointError(
            f"pretrained={name}: there is no such folder, it is not a hub id (owner/name), and it "
            f"is none of the embedded checkpoints ({', '.join(CHECKPOINTS)})."
            f"{nearest(name, CHECKPOINTS)} Check the path."
        )


def tasks_folder() -> Path:
    """The folder with our task files, for `--include_path`."""
    return (Path(__file__).parent / "tasks").resolve()
