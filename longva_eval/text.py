"""Text out: made fit for terminals and spreadsheets. Text in: ranges of numbers. No torch."""

from __future__ import annotations

import contextlib
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from longva_eval.errors import ResourceError, SettingsError

__all__ = [
    "Terminal",
    "columns",
    "csv_cell",
    "one_line",
    "parse_range",
    "parse_whole_range",
    "plain",
]

_UNFIT: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a terminal's cursor, changes its colours or the order of letters; halves of letters,
which stand for bytes of a file name that is no UTF-8."""
_PASSING: Final = {
    (False, False): re.compile("(?!)"),
    (False, True): re.compile("(\r)"),
    (True, False): re.compile("(\x1b\\[[0-9;]*m)"),
    (True, True): re.compile("(\x1b\\[[0-9;]*m|\x1b\\[A|\r)"),
}
"""What may pass, by whether a stream is a terminal and may show progress bars."""
_MOST_NUMBERS = 100_000
"""A longer range is a slip of the keyboard: a grid has tens."""


def plain(text: str) -> str:
    r"""A text with such characters as escapes: the ESC of a terminal's commands becomes `\x1b`."""
    return _UNFIT.sub(lambda found: _escape(found[0]), text)


def one_line(text: str) -> str:
    """As `plain`, on one line."""
    return plain(re.sub(r"[\t\r\n\v\f\x85\u2028\u2029]", " ", text))


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> list[str]:
    """Rows as lines with their cells below each other: words at the left, numbers at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    side = str.rjust if numbers else str.ljust
    return ["  ".join(map(side, row, widths)).rstrip() for row in rows]


def csv_cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula: `-1+1` becomes `'-1+1`; numbers stay."""
    if not isinstance(value, str):
        return value
    value = one_line(value)
    if unicodedata.normalize("NFKC", value.lstrip()[:1]) in ("=", "+", "-", "@"):
        with contextlib.suppress(ValueError):
            float(value)
            return value
        return f"'{value}"
    return value


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
    import numpy as np

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


class Terminal:
    """A standard stream that shows nothing but text.

    Whatever is printed goes through `plain`; a terminal gets colours, standard error also what
    progress bars need. What the stream's encoding does not have is shown as an escape. A stream
    that cannot be written is a `ResourceError`, unless its reader has gone away (BrokenPipeError).
    """

    def __init__(self, stream: Any, name: str, *, bars: bool = False) -> None:
        """Stand in for a stream.

        Args:
            stream: `sys.stdout` or `sys.stderr`.
            name: For the message.
            bars: Whether progress bars may be drawn.
        """
        self._stream = stream
        self._name = name
        self._passing = _PASSING[stream.isatty(), bars]
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text, shown as text."""
        parts = self._passing.split(text)
        parts[::2] = map(plain, parts[::2])  # between them stands what passes
        self._call(self._stream.write, "".join(parts))
        return len(text)

    def flush(self) -> None:
        """Write what waits."""
        self._call(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _call(self, function: Any, *arguments: str) -> None:
        try:
            function(*arguments)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ResourceError(f"{self._name} cannot be written: {error.strerror}.") from error


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python writes a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
