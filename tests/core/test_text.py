"""Text for terminals and spreadsheets, from whatever stands in a file."""

from __future__ import annotations

import errno
import io
import unicodedata

import pytest
from fuzzing import fuzz
from hypothesis import example, given
from hypothesis import strategies as st

from longva_eval.errors import ResourceError
from longva_eval.text import Terminal, csv_cell, one_line, plain


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b[31mred", "\\x1b[2J\\x1b[31mred"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten", "over\\x0dwritten"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("v\udcff.mp4", "v\\xff.mp4"),
        ("two\nlines\tand é 日本 עברית", "two\nlines\tand é 日本 עברית"),
    ],
)
def test_what_commands_a_terminal_is_shown_instead(text: str, shown: str) -> None:
    assert plain(text) == shown


@pytest.mark.slow
@fuzz(300)
@given(text=st.text() | st.text(alphabet="\x1b[0123456789;mJ\r\n\x9b\x07\ud800a"))
@example(text="\u2028\u2029\x85\v\f")
def test_no_text_reaches_a_stream_as_a_command(text: str) -> None:
    stream = io.StringIO()
    Terminal(stream, "Standard output").write(text)
    shown = stream.getvalue()
    assert shown == plain(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    shown.encode()
    assert len(one_line(text).splitlines()) <= 1


def test_a_terminal_gets_colours_and_bars_and_nothing_else() -> None:
    screen = _Screen()
    Terminal(screen, "Standard output").write("\x1b[1mbold\x1b[0m \x1b[2J \r")
    assert screen.getvalue() == "\x1b[1mbold\x1b[0m \\x1b[2J \\x0d"
    screen = _Screen()
    Terminal(screen, "Standard error", bars=True).write("\r 50%\x1b[A\x1b]0;x\x07")
    assert screen.getvalue() == "\r 50%\x1b[A\\x1b]0;x\\x07"


def test_letters_that_an_encoding_lacks_are_replaced_and_a_full_stream_is_an_error() -> None:
    data = io.BytesIO()
    stream = Terminal(io.TextIOWrapper(data, encoding="latin-1"), "Standard output")
    stream.write("± 日")
    stream.flush()
    assert data.getvalue() == "± \\u65e5".encode("latin-1")
    with pytest.raises(ResourceError, match=r"Standard output cannot be written: No space"):
        Terminal(_Full(), "Standard output").flush()


@pytest.mark.parametrize(
    ("value", "written"),
    [("-1+1", "'-1+1"), ("=1+1", "'=1+1"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
     ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "' =1"), (" =1", "' =1"), ("\uff1d1+1", "'\uff1d1+1"),
     ("-1.5", "-1.5"), ("+3", "+3"), ("-1e-3", "-1e-3"), ("a-b", "a-b"), ("", ""), (-2, -2)],
)  # fmt: skip
def test_a_cell_of_csv_is_never_a_formula(value: object, written: object) -> None:
    assert csv_cell(value) == written


@fuzz(200)
@given(text=st.text(alphabet="=+-@\t\r\n 1.e\uff1d\uff0b\x1ba"))
def test_no_cell_begins_a_formula(text: str) -> None:
    cell = str(csv_cell(text))
    assert "\n" not in cell
    if unicodedata.normalize("NFKC", cell.lstrip()[:1]) in ("=", "+", "-", "@"):
        float(cell)
