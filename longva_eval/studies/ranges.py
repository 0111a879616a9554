"""Ranges of numbers on a command line; imports no torch, so that commands start at once."""

from __future__ import annotations

import math

import numpy as np

from longva_eval.errors import SettingsError

__all__ = ["parse_range", "parse_whole_range"]

_MOST_NUMBERS = 100_000
"""A longer range is a slip of the keyboard: a grid has tens."""


def parse_range(text: str, *, name: str) -> list[float]:
    """`200:3000:200` (both ends included) or `6,12,24` as numbers.

    Raises:
        SettingsError: If the text is neither, or would give nothing or far too much.
    """
    try:
        if ":" not in text:
            return [float(part) for part in text.split(",")]
        start, stop, step = (float(part) for part in text.split(":"))
        if not (step > 0 and -math.inf < start <= stop < math.inf):
            raise ValueError("the step must be above 0 and the end not before the start")
    except ValueError as error:
        raise SettingsError(
            f"--{name} {text!r} is neither START:STOP:STEP nor a list A,B,C ({error})."
        ) from error
    count = (stop - start) / step + 1
    if count > _MOST_NUMBERS:
        raise SettingsError(
            f"--{name} {text!r} is {count:,.0f} numbers; {_MOST_NUMBERS:,} are the most. "
            "Use a larger step."
        )
    # numpy's arange, so that 0:1:0.2 gives the original's 0.6000000000000001. It may also end a
    # last bit after the stop, which for a depth would lie outside of the video.
    values = [float(value) for value in np.arange(start, stop + step, step)]
    return [min(value, stop) for value in values if value <= stop + 1e-9 * step]


def parse_whole_range(text: str, *, name: str) -> tuple[int, ...]:
    """As `parse_range`, for numbers that must be whole.

    Raises:
        SettingsError: If the text is no range, or one of its numbers has a fraction.
    """
    values = parse_range(text, name=name)
    if any(not value.is_integer() for value in values):
        raise SettingsError(f"--{name} must be whole numbers, not {values}.")
    return tuple(int(value) for value in values)
