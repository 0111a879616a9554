"""Subtitle files: read by what they hold, with nothing dropped but tags, notes and broken cues."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longva_eval.errors import DataError
from longva_eval.media.subtitles import Cue, fill_subtitles, read_subtitles, subtitle_marker

SRT = "1\n00:00:01,000 --> 00:00:02,500\n{}\n\n2\n00:00:03,000 --> 00:00:04,000\nbye\n"
VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue { color: red }

NOTE Confidence 0.9

intro
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Hello <00:01.500><c.loud>there</c> &amp; you &lt;3

NOTE Confidence 0.7
of two lines

100:00:03.000 --> 100:00:04.000
bye
"""


def write(folder: Path, text: str | bytes, name: str = "a.srt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("name", ["a.vtt", "a.srt", "a.txt"])
def test_webvtt_is_read_by_its_content(tmp_path: Path, name: str) -> None:
    cues = read_subtitles(write(tmp_path, VTT, name))
    assert [cue.text for cue in cues] == ["Hello there & you <3", "bye"]
    assert (cues[0].start_seconds, cues[0].end_seconds) == (1.0, 2.5)
    assert (cues[1].start_seconds, cues[1].end_seconds) == (360003.0, 360004.0)
    assert cues.left_out == ()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a<b and c>d", "a<b and c>d"),
        ("1 < 2 > 0 <laughs> {not a tag}", "1 < 2 > 0 <laughs> {not a tag}"),
        ('<i>slanted</i> <FONT color="red">red</font><br/>next', "slanted red next"),
        (r"{\an8}above\Nbelow", "above below"),
        ("first\n\nthird line", "first third line"),
        ("<bold> and <island>", "<bold> and <island>"),
        ("this --> that", "this --> that"),
    ],
)
def test_only_real_tags_are_dropped(tmp_path: Path, text: str, read: str) -> None:
    assert read_subtitles(write(tmp_path, SRT.format(text)))[0].text == read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("00:00:09,000 --> 00:00:08,000", "line 5: it ends before it starts, at 9.000 s"),
        ("00:00:0x,000 --> 00:00:08,000", None),
        ("00:00:07,000 --> soon", "line 5: '00:00:07,000 --> soon' is no time of a subtitle"),
    ],
)
def test_one_broken_cue_is_one_broken_cue(tmp_path: Path, line: str, reason: str | None) -> None:
    text = f"1\n00:00:01,000 --> 00:00:02,000\ngood\n\n{line}\nbroken\n\n"
    path = write(tmp_path, text + "3\n00:00:03,000 --> 00:00:04,000\nbye\n")
    cues = read_subtitles(path)
    if reason is None:
        return
    assert [cue.text for cue in cues] == ["good", "bye"]
    assert cues.left_out == (reason,)
    _, report = fill_subtitles(subtitle_marker(path), [[1.5]])
    assert report is not None
    assert report["cues_left_out"] == [reason]


def test_a_file_of_broken_cues_alone_says_why(tmp_path: Path) -> None:
    path = write(tmp_path, "00:00:09,000 --> 00:00:08,000\nbroken\n")
    with pytest.raises(DataError, match=r"holds no text of SubRip.* .line 1: it ends before"):
        read_subtitles(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_told_by_its_bytes(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path, SRT.format("größer, 更大").encode(encoding))
    assert read_subtitles(path)[0].text == "größer, 更大"


RUSSIAN = "Это предложение написано по-русски, и его кодировка старая."  # noqa: RUF001
CHINESE = "这是一个中文字幕文件，使用旧的编码保存。"  # noqa: RUF001
JAPANESE = "これは日本語の字幕です。古い文字コードで書かれています。"


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        (RUSSIAN * 4, "cp1251", "cp1251"),
        (JAPANESE * 4, "shift_jis", "cp932|shift"),
        (CHINESE * 4, "gb18030", "gb"),
        ("привет мир как дела", "cp1251", "cp1251"),
        ("你好世界你好世界", "gb18030", "gb"),
        ("naïve café", "latin-1", "cp1252"),
        ("café", "cp1252", "cp1252|cp1250"),
        ("\u20ac5", "cp1252", "cp1252|cp1250"),
        ("привет", "cp1251", "cp1251"),
        ("я", "cp1251", "cp1251"),
        ("こんにちは", "shift_jis", "shift_jis"),
        ("你好世界", "big5", "big5"),
        ("안녕", "euc_kr", "euc_kr"),
        ("안녕하세요 이것은 자막입니다", "euc_kr", "euc_kr"),
    ],
)
def test_another_encoding_is_named_right(
    tmp_path: Path, text: str, encoding: str, named: str
) -> None:
    path = write(tmp_path, SRT.format(text).encode(encoding))
    few = sum(byte > 127 for byte in text.encode(encoding)) < 16
    told = rf"is not UTF-8 \(byte \d+\); it looks like ({named})\w*\..*{'look at what' * few}"
    with pytest.raises(DataError, match=told):
        read_subtitles(path)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1:02:03,5", 3723.5),
        ("01:02:03:500", 3723.5),
        ("01:02:03", 3723.0),
        ("00:00:05", 5.0),
        ("02:03.5", 123.5),
        ("123:00:01,000", 442801.0),
    ],
)
def test_a_time_is_read_as_it_is_written(tmp_path: Path, written: str, seconds: float) -> None:
    (cue,) = read_subtitles(write(tmp_path, f"1\n{written} --> 200:00:00,000\nHello\n"))
    assert cue.start_seconds == seconds


def test_a_cue_of_a_script_that_ends_before_it_starts_is_named(tmp_path: Path) -> None:
    line = "Dialogue: 0,0:00:0{},0:00:0{},Default,,0,0,0,,{}\n"
    script = (
        "[Script Info]\nTitle: without styles\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        + line.format("1.00", "2.00", "Hello")
        + line.format("5.00", "3.00", "bad")
    )
    cues = read_subtitles(write(tmp_path, script))
    assert [cue.text for cue in cues] == ["Hello"]
    assert cues.left_out == ("'bad': it ends before it starts, at 5.000 s",)


def test_a_script_of_substation_alpha_is_read(tmp_path: Path) -> None:
    script = (
        "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name\nStyle: Default\n\n"
        "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text"
        "\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\i1}Hello{\\i0}\\Nthere\n"
    )
    (cue,) = read_subtitles(write(tmp_path, script))
    assert (cue.start_seconds, cue.end_seconds, cue.text) == (1.0, 2.0, "Hello there")


def test_a_pipe_is_no_subtitle_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.srt")
    with pytest.raises(DataError, match=r"pipe\.srt is no ordinary file"):
        read_subtitles(tmp_path / "pipe.srt")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1\n{}\nHi\n\n2\n{}\n42\n", ["Hi", "42"]),
        ("1\n{}\nHi\n\n2\n{}\nyou\n\n3\n", ["Hi", "you"]),
        ("1\n{}\nHi\n\ufeff2\n{}\nyou\n", ["Hi", "you"]),
    ],
)
def test_numbers_of_cues_are_no_text_and_numbers_said_are(
    tmp_path: Path, body: str, said: list[str]
) -> None:
    times = "00:00:01,000 --> 00:00:02,000", "00:00:03,000 --> 00:00:04,000"
    cues = read_subtitles(write(tmp_path, body.format(*times)))
    assert [cue.text for cue in cues] == said


@pytest.mark.parametrize(
    "line",
    ["00:00:01,000 -> 00:00:02,500", "00:00:01,000 \u2192 00:00:02,500",
     "00: 00: 01, 000 --> 00: 00: 02, 500"],
)  # fmt: skip
def test_times_are_read_with_other_arrows_and_blanks(tmp_path: Path, line: str) -> None:
    (cue,) = read_subtitles(write(tmp_path, f"1\n{line}\n3 -> 4\n"))
    assert cue == Cue(1.0, 2.5, "3 -> 4")


def test_drawings_of_a_script_are_no_text(tmp_path: Path) -> None:
    script = (
        "[Script Info]\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: x,0:00:01.00,0:00:02.00,Default,,0,0,0,,{\\an7\\p1}m 0 0 l 1 1{\\p0} Hi\n"
        "Dialogue: x,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\\p2}m 0 0 l 1 1\n"
    )
    (cue,) = read_subtitles(write(tmp_path, script))
    assert cue.text == "Hi"
