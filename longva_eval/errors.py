"""The errors a user can meet, one class for each thing that can be wrong.

Every message says what happened, with which file and value, and how to mend it. Callers that skip
a broken item (one video of nine hundred) catch `MediaError`; everything else ends the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "DataError",
    "EvaluationError",
    "MediaError",
    "NumericalError",
    "PromptError",
    "ResourceError",
    "SettingsError",
    "nearest",
]


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the known names that are most like `name`; empty if none is."""
    found = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.65)
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


class EvaluationError(Exception):
    """Something asked for cannot be computed; no number is made up in its place."""


class SettingsError(EvaluationError, ValueError):
    """A setting has a value that is unknown or contradicts another one."""


class CheckpointError(EvaluationError):
    """A checkpoint cannot be found, read, or is not what its files say."""


class DataError(EvaluationError):
    """A data set's files or rows are not what its layout says, or some are missing."""


class MediaError(EvaluationError):
    """A video or picture cannot be read, or does not hold what its header says."""


class PromptError(EvaluationError, ValueError):
    """A prompt does not fit its pictures, or does not fit the model's context."""


class NumericalError(EvaluationError):
    """The model produced NaN or infinity."""


class ResourceError(EvaluationError):
    """Memory or disk is not enough for what is asked."""
