"""longva-eval: long-video evaluation for lmms-eval, with LongVA on today's transformers.

The public names below are imported when they are first asked for, so that `import longva_eval`
needs neither torch nor a decoder. docs/api.md shows each at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longva_eval.engine.opening import open_session
    from longva_eval.media.frames import FramePolicy, read_frames
    from longva_eval.media.images import read_picture
    from longva_eval.media.subtitles import read_subtitles
    from longva_eval.questions.answers import read_choice
    from longva_eval.reports.reading.frames import samples_frame
    from longva_eval.reports.reading.runs import read_run

__all__ = [
    "FramePolicy",
    "open_session",
    "read_choice",
    "read_frames",
    "read_picture",
    "read_run",
    "read_subtitles",
    "samples_frame",
]

__version__ = "0.1.0"

_HOMES = {
    "FramePolicy": "longva_eval.media.frames",
    "open_session": "longva_eval.engine.opening",
    "read_choice": "longva_eval.questions.answers",
    "read_frames": "longva_eval.media.frames",
    "read_picture": "longva_eval.media.images",
    "read_run": "longva_eval.reports.reading.runs",
    "read_subtitles": "longva_eval.media.subtitles",
    "samples_frame": "longva_eval.reports.reading.frames",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'longva_eval' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
