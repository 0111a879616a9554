"""Needle pictures, haystacks, clips and the small functions around the grid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import OPEN
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from longva_eval.embedded import HAYSTACK, NEEDLES
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import read_frames
from longva_eval.media.images import open_image
from longva_eval.media.probe import probe_video
from longva_eval.needle.grid import Cell, NeedleGrid, insert_index
from longva_eval.needle.items import Item, Shown
from longva_eval.needle.media import (
    HUB_NEEDLES,
    clip_pictures,
    composed_clip,
    load_needles,
    open_haystack,
    write_clip,
)
from longva_eval.needle.results import is_answer, mean_by_place, read_accuracies
from longva_eval.text import parse_range, parse_whole_range

LANDSCAPE = OPEN / "inputs" / "landscape_320x180.mp4"
PORTRAIT = OPEN / "inputs" / "portrait_180x320.mp4"


def write_needles(folder: Path, entries: Any) -> Path:
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "cat.png")
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return folder


CAT = {"path": "cat.png", "prompt": "\nWhat animal?", "answer": "Cat"}


# Needles


def test_needles_come_from_a_folder(tmp_path: Path) -> None:
    (needle,) = load_needles(write_needles(tmp_path, [{**CAT, "comment": "more keys do no harm"}]))
    assert (needle.name, needle.question, needle.answer) == ("cat.png", "\nWhat animal?", "Cat")
    assert needle.needles[0].image.size == (8, 8)
    described = needle.describe()
    assert set(described) == {"name", "image_sha256", "question", "answer"}


def test_the_embedded_needles_load() -> None:
    needles = load_needles(NEEDLES)
    assert len(needles) >= 5
    assert len({needle.name for needle in needles}) == len(needles)
    assert all(needle.question.strip() and needle.answer.strip() for needle in needles)


def test_a_folder_without_a_list_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(
        MediaError,
        match=rf"dataset\.json does not exist\. A needle folder.*--needles {HUB_NEEDLES}",
    ):
        load_needles(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("{}", "must hold a list of needles, one at least"),
        ("[]", "must hold a list of needles, one at least"),
        ("null", "must hold a list of needles"),
        pytest.param(
            "[" + "1" * 5000 + "]",
            "is not valid JSON",
            id="a number of 5000 digits",
        ),
    ],
)
def test_a_list_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MediaError, match=rf"dataset\.json {message}"):
        load_needles(write_needles(tmp_path, text))


def test_a_list_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_bytes(b'["\xff"]')
    with pytest.raises(MediaError, match=r"dataset\.json is not valid JSON"):
        load_needles(tmp_path)


def test_all_problems_of_a_list_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    entries = [
        CAT,
        "cat.png",
        {"path": "cat.png", "prompt": 5},
        {**CAT, "answer": ""},
        {**CAT, "path": "absent.png"},
        {**CAT, "path": "page.png"},
        {**CAT, "path": "../cat.png"},
        {**CAT, "path": "/etc/passwd"},
    ]
    with pytest.raises(MediaError) as caught:
        load_needles(write_needles(tmp_path, entries))
    first, *lines = str(caught.value).splitlines()
    assert first == f"{tmp_path / 'dataset.json'} cannot be used:"
    for line, message in zip(
        lines,
        [
            r"needle 1: it is str, not an object",
            r"needle 2: prompt, answer must be text that is not empty",
            r"needle 3: answer must be text",
            r"needle 4: The picture .*absent\.png does not exist",
            r"needle 5: The picture .*page\.png cannot be read",
            r"needle 6: its path '\.\./cat\.png' leads out of the folder",
            r"needle 7: its path '/etc/passwd' leads out of the folder",
        ],
        strict=True,
    ):
        assert re.search(message, line), line


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "needles"
    outside.mkdir()
    folder.mkdir()
    write_needles(outside, [])
    write_needles(folder, [{**CAT, "path": "link/cat.png"}])
    (folder / "link").symlink_to(outside)
    with pytest.raises(MediaError, match="leads out of the folder"):
        load_needles(folder)


@pytest.mark.parametrize("how", ["a file for a folder", "a folder for the list"])
def test_a_list_that_is_no_file_is_a_media_error(tmp_path: Path, how: str) -> None:
    source = tmp_path / "cat.png"
    if how == "a file for a folder":
        source.touch()
    else:
        (source / "dataset.json").mkdir(parents=True)
    with pytest.raises(MediaError, match=r"dataset\.json"):
        load_needles(source)


@pytest.mark.parametrize("path", ["a\0b.png", "\ud800.png"], ids=["zero byte", "half a character"])
def test_an_impossible_file_name_is_a_problem_of_its_needle(tmp_path: Path, path: str) -> None:
    with pytest.raises(MediaError, match="needle 0: "):
        load_needles(write_needles(tmp_path, [{**CAT, "path": path}]))


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | names | st.just("cat.png"),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(["path", "prompt", "answer", "x"]), children, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(entries=json_values | st.lists(json_values | st.just(CAT), max_size=4))
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_gives_needles_or_a_media_error(tmp_path: Path, entries: Any) -> None:
    try:
        needles = load_needles(write_needles(tmp_path, entries))
    except MediaError as error:
        assert "dataset.json" in str(error)  # noqa: PT017
    else:
        assert len(needles) == len(entries) >= 1


# Haystacks and clips


def test_a_haystack_has_a_frame_a_second_of_each_video_in_turn() -> None:
    haystack = open_haystack([LANDSCAPE, PORTRAIT])
    expected = []
    for path, source in zip((LANDSCAPE, PORTRAIT), haystack.describe(), strict=True):
        info = probe_video(path)
        indices = range(0, info.num_frames, round(info.average_fps))
        expected += [(path, index) for index in indices]
        assert source["file"] == path.name
        assert source["digest"] == info.digest
        assert source["num_frames_used"] == len(indices)
        assert source["num_frames_total"] == info.num_frames
    assert list(haystack.frames) == expected


def test_the_embedded_haystack_opens() -> None:
    assert len(open_haystack([HAYSTACK]).frames) > 10


def test_an_empty_or_missing_haystack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs at least one video"):
        open_haystack([])
    with pytest.raises(MediaError, match=r"absent\.mp4 cannot be opened"):
        open_haystack([LANDSCAPE, tmp_path / "absent.mp4"])


@pytest.mark.process
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_the_needle_stands_where_its_depth_says(depth: float) -> None:
    haystack = open_haystack([LANDSCAPE, PORTRAIT])
    shown = Shown(picture=Image.new("RGB", (50, 70), (255, 0, 255)))
    item = Item(name="n", needles=(shown,), question="\nWhat?", answer="pink")
    total = len(haystack.frames)
    place = insert_index(total, depth)
    cell = Cell(item=0, num_frames=total, depth=depth, insert_indices=(place,))
    clip = composed_clip(haystack, cell, item)
    assert clip.aspect == "pad"
    found = clip_pictures(clip)
    assert len(found) == total + 1
    assert found[place] is shown.image
    clean = Cell(item=0, num_frames=total, control="no needle")
    expected = clip_pictures(composed_clip(haystack, clean, item))
    del found[place]
    for one, two in zip(found, expected, strict=True):
        assert one.tobytes() == two.tobytes()
    for picture, (path, index) in zip(expected, haystack.frames, strict=True):
        (block,) = read_frames(probe_video(path), [index])
        assert picture.tobytes() == block[0].tobytes()


def test_a_haystack_that_is_too_short_is_refused() -> None:
    haystack = open_haystack([LANDSCAPE])
    total = len(haystack.frames)
    (item, *_) = load_needles(NEEDLES)
    with pytest.raises(
        MediaError,
        match=rf"The haystack \(landscape_320x180\.mp4\) has {total} frames at one a second; "
        rf"{total + 1} are asked for\. Add videos",
    ):
        composed_clip(haystack, Cell(item=0, num_frames=total + 1, control="no needle"), item)


@pytest.mark.parametrize("indices", [(-1,), (4,), (3, 1)])
def test_needles_outside_of_their_haystack_or_out_of_order_are_refused(
    indices: tuple[int, ...],
) -> None:
    with pytest.raises(SettingsError, match=f"insert_indices={re.escape(str(list(indices)))}"):
        Cell(item=0, num_frames=3, insert_indices=indices)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_a_written_clip_is_read_back_frame_by_frame(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (220, 220, 40), (10, 10, 10)] * 3
    path = tmp_path / "new folder" / "clip.mp4"
    write_clip([flat(colour) for colour in colours], path)
    info = probe_video(path)
    assert (info.num_frames, info.average_fps) == (len(colours), 1.0)
    assert (info.width_pixels, info.height_pixels) == (64, 64)
    assert info.decord_is_right
    np.testing.assert_allclose(info.presentation_seconds, np.arange(len(colours)), atol=1e-3)
    assert [path.name for path in path.parent.iterdir()] == ["clip.mp4"]
    for backend in ("decord", "pyav"):
        frames = np.concatenate(list(read_frames(info, range(len(colours)), backend=backend)))
        for frame, colour in zip(frames, colours, strict=True):
            assert np.abs(frame[32, 32].astype(int) - colour).max() <= 6
            assert np.abs(frame[2, 32].astype(int) - 127).max() <= 6  # the grey around it


@pytest.mark.parametrize("size", [(33, 21), (21, 33), (64, 64), (16, 16)])
def test_pictures_of_every_shape_make_a_square_of_even_sides(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "clip.mp4"
    write_clip([flat((200, 30, 30), size), flat((30, 200, 30), (8, 8))], path)
    info = probe_video(path)
    side = max(size) + max(size) % 2
    assert (info.width_pixels, info.height_pixels, info.num_frames) == (side, side, 2)


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with pytest.raises(AttributeError):
        write_clip([flat((1, 2, 3)), None], path)  # type: ignore[list-item]
    assert list(tmp_path.iterdir()) == []


def test_a_clip_of_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises((MediaError, SettingsError), match="picture"):
        write_clip([], tmp_path / "clip.mp4")


# The grid


@given(num_frames=st.integers(1, 5000), depth=st.floats(0, 1))
def test_the_needle_stays_inside_the_haystack(num_frames: int, depth: float) -> None:
    place = insert_index(num_frames, depth)
    assert 0 <= place <= num_frames
    # LongVA repository, commit f4c8781, vision_niah: int(depth * num_frames)
    assert place == int(depth * num_frames)
    assert NeedleGrid(frame_counts=(num_frames,), depths=(depth,)).places() == [
        (num_frames, depth, place)
    ]


def test_depths_zero_and_one_are_before_and_after_all_frames() -> None:
    assert insert_index(200, 0.0) == 0
    assert insert_index(200, 1.0) == 200
    assert insert_index(7, 0.5) == 3


@pytest.mark.parametrize(
    ("counts", "depths", "message"),
    [
        ((), (0.5,), "at least one frame count"),
        ((5,), (), "at least one depth"),
        ((5, 0), (0.5,), "frames=0 must be at least 1"),
        ((5,), (0.5, 1.5), r"depths=\[0\.5, 1\.5\] must lie between 0 and 1"),
        ((5,), (-0.1,), "must lie between 0 and 1"),
        ((5,), (float("nan"),), "must lie between 0 and 1"),
    ],
)
def test_impossible_grids_are_refused(counts: Any, depths: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        NeedleGrid(frame_counts=counts, depths=depths)


def test_cells_come_lengths_first() -> None:
    grid = NeedleGrid(frame_counts=(4, 2), depths=(0.0, 1.0))
    assert [place[:2] for place in grid.places()] == [
        (4, 0.0),
        (4, 1.0),
        (2, 0.0),
        (2, 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6,12,24", [6, 12, 24]),
        ("6", [6]),
        (" 0.5 , 1 ", [0.5, 1]),
        ("200:3000:200", list(range(200, 3001, 200))),
        # numpy's arange: the original's own 0.6000000000000001.
        ("0:1:0.2", [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]),
        ("0:1:0.1", np.arange(0, 1.1, 0.1).tolist()[:11]),
        ("5:5:1", [5]),
        ("0:1:0.3", [0.0, 0.3, 0.6, 0.8999999999999999]),
    ],
)
def test_ranges_include_both_ends(text: str, expected: list[float]) -> None:
    assert parse_range(text, name="x") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1,,2",
        "1:2",
        "1:2:3:4",
        "1:2:0",
        "1:2:-1",
        "2:1:1",
        "1:x:1",
        "0:1:nan",
        "0:inf:1",
        "::",
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(
        SettingsError, match=rf"--depths {re.escape(repr(text))} is neither START:STOP:STEP nor"
    ):
        parse_range(text, name="depths")


def test_a_range_of_a_million_billion_is_refused() -> None:
    with pytest.raises(SettingsError, match="--frames"):
        parse_range("0:1e15:1", name="frames")


@pytest.mark.parametrize("text", ["1.5", "nan", "1,inf", "0:1:0.5"])
def test_frame_counts_are_whole_numbers(text: str) -> None:
    assert parse_whole_range("2:6:2", name="frames") == (2, 4, 6)
    with pytest.raises(SettingsError, match=r"--frames must be whole numbers, not \["):
        parse_whole_range(text, name="frames")


@pytest.mark.parametrize("text", ["0.1:1:0.3", "0.4:1:0.2"])
def test_a_range_does_not_step_over_its_end(text: str) -> None:
    values = parse_range(text, name="depths")
    assert values[-1] == 1.0
    NeedleGrid(frame_counts=(5,), depths=tuple(values))


@pytest.mark.parametrize("text", ["0:1:1e-300", "-1e308:1e308:1"])
def test_a_range_whose_count_is_beyond_floats_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="100,000 are the most"):
        parse_range(text, name="x")


def test_a_range_of_tiny_steps_ends_once() -> None:
    values = parse_range("0:1e-10:1e-11", name="x")
    assert len(values) == len(set(values)) == 11


@given(
    start=st.integers(0, 50),
    count=st.integers(0, 50),
    step=st.integers(1, 50),
)
def test_whole_numbers_stay_whole(start: int, count: int, step: int) -> None:
    stop = start + count * step
    values = parse_range(f"{start}:{stop}:{step}", name="frames")
    assert values == list(range(start, stop + 1, step))


# Answers of models that can only generate


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "B"),
        (" B\n", "B"),
        ("(B)", "B"),
        ("[B]", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("B:", "B"),
        ("B, because", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("B. San Diego", "B"),
        ("(B) San Diego", "B"),
        ("B\nBecause it is", "B"),
        ("yellow", "Yellow"),
        ("YELLOW", "Yellow"),
        ("Yellow.", "Yellow"),
        ("yellow, I think", "Yellow"),
        ('"Yellow"', "Yellow"),
        ("yellow\nbecause", "Yellow"),
        ("Teddy bear.", "Teddy Bear"),
        ('"Yellow."', "Yellow"),
        ("**Yellow!**", "Yellow"),
        ("yellow... I think", "Yellow"),
        ("3", "3"),
        ("3.", "3"),
        ("3 .", "3 ."),
        ("C++", "C++"),
    ],
)
def test_answers_that_count(text: str, answer: str) -> None:
    assert is_answer(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", "B"),
        ("  \n ", "B"),
        ("A", "B"),
        ("Because", "B"),
        ("A man", "A"),
        ("b", "B"),  # `a man` is no answer `A` either
        ("AB", "A"),
        ("The answer is B", "B"),  # said, but not first: the letter alone is asked for
        ("A or B", "A"),
        # More than the answer is another answer: `Yellow balloon` may be wrong where `Yellow` is
        # asked for, and `Yellow` is not yet `Yellow balloon`.
        ("Yellow balloon", "Yellow"),
        ("Yellow", "Yellow balloon"),
        ("yellowish", "Yellow"),
        ("not yellow", "Yellow"),
        ("13", "3"),
        ("30", "3"),
        ("It is yellow", "Yellow"),
        ("3.5", "3"),
        ("3,000", "3"),
        ("3:30", "3"),
        ("!", "  "),
    ],
)
def test_answers_that_do_not(text: str, answer: str) -> None:
    assert not is_answer(text, answer)


@given(text=st.text(max_size=20), answer=st.text(min_size=1, max_size=8))
def test_any_text_is_an_answer_or_not(text: str, answer: str) -> None:
    assume(answer.strip())
    assert is_answer(text, answer) in (True, False)
    first = answer.strip()
    if len(first.splitlines()) == 1:
        assert is_answer(answer, answer)


def test_a_needle_with_a_blank_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="needle 0: answer must be text"):
        load_needles(write_needles(tmp_path, [{**CAT, "answer": "  "}]))


# Accuracies


ROWS = [
    {"Num. Frame": 200.0, "Frame Depth": 0.0, "Score": 1.0},
    {"Num. Frame": 200.0, "Frame Depth": 20.0, "Score": 0.4},
]


def test_rows_are_read_from_the_originals_form(tmp_path: Path) -> None:
    path = tmp_path / "all_accuracies.json"
    path.write_text(json.dumps(ROWS))
    assert read_accuracies(path) == ROWS
    # Whole numbers are fine, and so are other keys.
    path.write_text(json.dumps([{"Num. Frame": 200, "Frame Depth": 0, "Score": 1, "Model": "x"}]))
    assert read_accuracies(str(path)) == ROWS[:1]


def cell(**values: Any) -> dict[str, Any]:
    return {"num_frames": 200, "depth": 0.2, "correct": True, **values}


def write_lines(path: Path, *rows: Any) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_rows_are_read_from_cells_and_from_samples(tmp_path: Path) -> None:
    expected = [{"Num. Frame": 200, "Frame Depth": 20.0, "Score": 0.5}]
    cells = write_lines(tmp_path / "cells.jsonl", cell(), cell(correct=False))
    assert read_accuracies(cells) == expected
    samples = write_lines(
        tmp_path / "samples.jsonl",
        {"doc_id": 0, "vniah_accuracy": cell()},
        {"doc_id": 1, "vniah_accuracy": {"num_frames": 200, "depth": 0.2, "score": 0.0}},
    )
    assert read_accuracies(samples) == expected
    for blank in ("\n", " \r\n"):  # an editor leaves them
        samples.write_text(samples.read_text().replace("\n", f"\n{blank}"))
        assert read_accuracies(samples) == expected


def test_depths_that_differ_keep_their_own_rows() -> None:
    # The original rounds to tens, which makes 25 % and 20 % one row.
    rows = mean_by_place([(10, 0.2, True), (10, 0.25, False), (10, 1 / 3, True), (20, 0.2, False)])
    assert [(row["Num. Frame"], row["Frame Depth"], row["Score"]) for row in rows] == [
        (10, 20.0, 1.0),
        (10, 25.0, 0.0),
        (10, 33.3, 1.0),
        (20, 20.0, 0.0),
    ]


@given(
    cells=st.lists(
        st.tuples(
            st.sampled_from([1, 6, 12]), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans()
        ),
        min_size=1,
    ),
    seed=st.randoms(use_true_random=False),
)
def test_means_do_not_depend_on_the_order(cells: list[tuple[int, float, bool]], seed: Any) -> None:
    def key(row: dict[str, float]) -> tuple[float, ...]:
        return tuple(row.values())

    shuffled = list(cells)
    seed.shuffle(shuffled)
    rows = mean_by_place(cells)
    assert sorted(mean_by_place(shuffled), key=key) == sorted(rows, key=key)
    for row in rows:
        here = [c for n, d, c in cells if (n, d * 100) == (row["Num. Frame"], row["Frame Depth"])]
        assert row["Score"] == sum(here) / len(here)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("{}", "must be a list of rows with Num. Frame, Frame Depth, Score"),
        ("[]", "must be a list of rows"),
        ("[1]", "row 0 must have numbers as Num. Frame"),
        (json.dumps([ROWS[0], {"Num. Frame": 1, "Frame Depth": 0}]), "row 1 must have numbers"),
        (json.dumps([{**ROWS[0], "Score": True}]), "row 0 must have numbers"),
        (json.dumps([{**ROWS[0], "Score": "1"}]), "row 0 must have numbers"),
        (json.dumps([{**ROWS[0], "Score": float("nan")}]), "row 0 must have numbers"),
        (json.dumps([{**ROWS[0], "Score": 90.9}]), "row 0 has Score=90.9, not within 0 and 1"),
        pytest.param(
            '[{"Num. Frame": 1' + "0" * 400 + ', "Frame Depth": 0, "Score": 1}]',
            "row 0 must have numbers",
            id="a number beyond floats",
        ),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "all_accuracies.json"
    path.write_text(text)
    with pytest.raises(MediaError, match=rf"all_accuracies\.json:? {re.escape(message)}"):
        read_accuracies(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([cell(), [1]], "line 2: not a needle cell"),
        ([{"num_frames": 1, "depth": 0.5}], "line 1: not a needle cell with num_frames, depth and"),
        ([cell(depth=None)], "line 1: not a needle cell with"),
        ([cell(num_frames="5")], "line 1: not a needle cell with"),
        ([cell(correct="yes")], "line 1: not a needle cell with"),
        ([cell(correct=0.5)], "line 1: not a needle cell with"),
    ],
)
def test_lines_of_another_kind_are_refused(tmp_path: Path, rows: Any, message: str) -> None:
    path = write_lines(tmp_path / "cells.jsonl", *rows)
    with pytest.raises(MediaError, match=rf"cells\.jsonl,? {message}"):
        read_accuracies(path)


def test_a_line_cut_off_by_a_kill_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "cells.jsonl", cell(), cell())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(MediaError, match=r"cells\.jsonl, line 2 is not valid JSON"):
        read_accuracies(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"absent\.json does not exist"):
        read_accuracies(tmp_path / "absent.json")
    with pytest.raises(MediaError, match="cannot be read"):
        read_accuracies(tmp_path)
    (tmp_path / "latin.json").write_bytes(b"[\xff]")
    with pytest.raises(MediaError, match=r"latin\.json cannot be read"):
        read_accuracies(tmp_path / "latin.json")


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\u2029"], ids=ascii)
def test_a_line_separator_in_an_answer_does_not_end_its_line(
    tmp_path: Path, character: str
) -> None:
    path = write_lines(
        tmp_path / "samples.jsonl",
        {"filtered_resps": [f"yellow{character}balloon"], "vniah_accuracy": cell()},
    )
    assert read_accuracies(path) == [{"Num. Frame": 200, "Frame Depth": 20.0, "Score": 1.0}]


@pytest.mark.slow
@given(rows=st.lists(json_values, max_size=4))
@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_gives_rows_or_a_media_error(tmp_path: Path, rows: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows))
    lines = tmp_path / "x.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for file in (path, lines):
        try:
            read_accuracies(file)
        except MediaError as error:
            assert file.name in str(error)  # noqa: PT017


@pytest.mark.process
def test_pictures_of_a_clip_are_what_the_haystack_shows() -> None:
    picture = open_image(OPEN / "inputs" / "tiny_40x40.png")
    item = Item(name="n", needles=(Shown(picture=picture),), question="\nWhat?", answer="x")
    cell = Cell(item=0, num_frames=1, depth=1.0, insert_indices=(1,))
    clip = composed_clip(open_haystack([LANDSCAPE]), cell, item)
    assert [picture.size for picture in clip_pictures(clip)] == [(320, 180), (40, 40)]
