"""Whatever a file holds, reading it gives what it says or an error of ours, and nothing else."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, TEXT, changed, damaged, dumps, fuzz, read_or_refused
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from longva_eval.embedded import NEEDLES
from longva_eval.errors import DataError, MediaError, PromptError
from longva_eval.media.subtitles import cues_at, fill_subtitles, read_subtitles, subtitle_block
from longva_eval.needle.media import load_needles
from longva_eval.needle.results import read_accuracies
from longva_eval.questions.answers import read_choice
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.tables.benchmarks import BENCHMARKS
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.published import SCORES, published_rows, read_published
from longva_eval.reports.tables.tables import render
from longva_eval.running.journal import Journal

RUNS = Path(__file__).parents[1] / "data/runs"

# Answers ------------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    ["A", "b", "C.", "(D)", "**B**", "\\boxed{", "}", "<think>", "</think>", "<answer>",
     "</answer>", "answer", "is", "not", "the", "option", "or", "because", '{"answer":', '"A"',
     "[", "]", "A. red", "red", "blue", "\n", "答案是", "So", "Question:", "\u200b", "```", "**"]
)  # fmt: skip


@pytest.mark.slow
@fuzz(400)
@given(
    text=st.lists(_WORDS | TEXT, max_size=25).map(" ".join) | st.text(max_size=200),
    options=st.lists(TEXT | st.sampled_from(["red", "A", "B. blue"]), min_size=1, max_size=26),
)
@example(text="[" * 5000, options=["a", "b"])
@example(text='{"answer":' * 3000, options=["a", "b"])
@example(text="(A" * 20_000, options=["a", "b"])
@example(text="the answer is " * 5000, options=["a", "b"])
def test_any_answer_is_an_option_or_none(text: str, options: list[str]) -> None:
    choice = read_choice(text, options)
    letters = [chr(ord("A") + number) for number in range(len(options))]
    assert choice is None or choice in letters
    assert read_choice(text, options) == choice


# Runs ---------------------------------------------------------------------------------------------


def _real_run(name: str) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    (results,) = (RUNS / name).glob("*_results.json")
    samples = sorted((RUNS / name).glob("*_samples_*.jsonl"))[0]
    lines = samples.read_text(encoding="utf-8").split("\n")[:5]
    task = samples.name.split("_samples_")[1].removesuffix(".jsonl")
    return json.loads(results.read_text()), [json.loads(line) for line in lines], task


_REAL = [_real_run(name) for name in ("mini_8", "host", "niah", "old_adapter", "mini_skip")]


def _use(folder: Path) -> None:
    """Read a run as the reports do; only our errors are allowed."""
    run = read_or_refused(lambda: read_run(folder), MediaError, str(folder))
    if run is None:
        return
    for task in run.tasks.values():
        for question in task.samples:
            assert isinstance(question.score, float)
            assert isinstance(question.key, str)
        assert isinstance(run.frames(task.name), str)
    assert all(problem.text for problem in run.problems)
    assert render(comparison_tables([run]), "md").endswith("\n")


def _write_run(folder: Path, results: bytes, samples: bytes, task: str) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "20260101_000000_results.json").write_bytes(results)
    (folder / f"20260101_000000_samples_{task}.jsonl").write_bytes(samples)
    return folder


@pytest.mark.slow
@fuzz(250)
@given(data=st.data())
def test_a_run_of_any_shape_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    results, samples, task = data.draw(st.sampled_from(_REAL))
    results = data.draw(changed(results, 4))
    samples = data.draw(changed(samples, 4))
    lines = samples if isinstance(samples, list) else [samples]
    text = "".join(dumps(line) + "\n" for line in lines)
    _use(_write_run(tmp_path / "run", dumps(results).encode(), text.encode(), task))


@pytest.mark.slow
@fuzz(100)
@given(data=st.data())
def test_a_run_of_any_bytes_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    results, samples, task = data.draw(st.sampled_from(_REAL))
    text = "".join(dumps(line) + "\n" for line in samples).encode()
    folder = _write_run(
        tmp_path / "run",
        data.draw(damaged(dumps(results).encode())),
        data.draw(damaged(text) | st.binary(max_size=200)),
        task,
    )
    _use(folder)


@pytest.mark.slow
@fuzz(100)
@given(lines=st.lists(JSON, max_size=4), results=JSON)
@example(lines=[{"accuracy": 10**400}], results={})
@example(lines=[{"accuracy": {"score": -(10**400)}}], results={"t": {"accuracy,none": 10**400}})
def test_a_run_of_foreign_json_is_read_or_refused(
    tmp_path: Path, lines: list[Any], results: Any
) -> None:
    samples = [{"doc_id": 0, **line} if isinstance(line, dict) else line for line in lines]
    text = "".join(dumps(line) + "\n" for line in samples).encode()
    _use(_write_run(tmp_path / "run", dumps({"results": results}).encode(), text, "t"))


@pytest.mark.parametrize("members", [True, 1, "task", {}, None, [None, 1]])
def test_members_of_a_group_that_are_no_list_are_none(tmp_path: Path, members: Any) -> None:
    results, samples, task = _REAL[0]
    results = results | {"group_subtasks": {task: members}}
    lines = "".join(dumps(line) + "\n" for line in samples)
    _use(_write_run(tmp_path / "run", dumps(results).encode(), lines.encode(), task))


# Journals -----------------------------------------------------------------------------------------

_SETTINGS = {"weights": "abc", "frames": 8}


def _answers(number: int, salt: str = "") -> dict[str, Any]:
    return {"text": f"{salt}answer {number}", "token_ids": [number], "min_margin": number / 7}


def _key(number: int) -> dict[str, Any]:
    return {"kind": "generate", "task": "t", "document": number, "prompt": f"digest {number}"}


def _written(folder: Path, settings: dict[str, Any], salt: str = "") -> list[bytes]:
    """The lines of a journal with ten answers."""
    with Journal(folder, settings) as journal:
        for number in range(10):
            journal.put(_key(number), _answers(number, salt))
    (path,) = folder.glob("*/*.jsonl")
    return path.read_bytes().split(b"\n")[:-1]


@pytest.fixture(scope="module")
def journal_lines(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], list[bytes], str]:
    """Of two journals, the second with other settings and answers; and the first one's folder."""
    own = _written(tmp_path_factory.mktemp("own"), _SETTINGS)
    folder = tmp_path_factory.mktemp("folder")
    _written(folder, _SETTINGS)
    (place,) = (path for path in folder.iterdir() if path.is_dir())
    other = _written(tmp_path_factory.mktemp("other"), {**_SETTINGS, "frames": 9}, "other ")
    return own, other, place.name


@pytest.mark.slow
@fuzz(250)
@given(data=st.data())
def test_no_damage_makes_a_journal_give_a_wrong_answer(
    tmp_path: Path, journal_lines: tuple[list[bytes], list[bytes], str], data: st.DataObject
) -> None:
    own, other, name = journal_lines
    folder = tmp_path / "journal"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / name).mkdir(parents=True)
    kind = data.draw(st.sampled_from(["damaged", "shuffled", "mixed", "joined", "halves"]))
    if kind == "damaged":
        content = data.draw(damaged(b"\n".join(own) + b"\n", 6))
    elif kind == "shuffled":
        lines = data.draw(st.lists(st.sampled_from(own), max_size=30))
        content = b"\n".join(lines) + b"\n"
    elif kind == "mixed":  # lines of another journal between ours
        lines = data.draw(st.lists(st.sampled_from(own + other), max_size=30))
        content = b"\n".join([own[0], *lines]) + b"\n"
    elif kind == "joined":  # somebody put two files together
        content = b"\n".join([*own[: data.draw(st.integers(1, 5))], *other]) + b"\n"
    else:  # two writers in one file: halves of lines one behind the other
        rng = random.Random(data.draw(st.integers()))
        halves = [part for line in own for part in (line[: len(line) // 2], line[len(line) // 2 :])]
        rng.shuffle(halves)
        content = own[0] + b"\n" + b"".join(p + rng.choice([b"", b"\n"]) for p in halves)
    (folder / name / "elsewhere-1-0.jsonl").write_bytes(content)
    (folder / name / "foreign.jsonl").write_bytes(data.draw(st.binary(max_size=40)))
    (folder / name / "notes.txt").write_text("nothing of ours")
    with Journal(folder, _SETTINGS) as journal:
        found = [journal.get(_key(number)) for number in range(10)]
    for number, answer in enumerate(found):
        assert answer in (None, _answers(number))
    if kind == "shuffled" and content.startswith(own[0]):
        there = [number for number in range(10) if own[number + 1] in content]
        assert [number for number in range(10) if found[number]] == there


# Needles, subtitles, accuracies, published numbers ------------------------------------------------


@pytest.fixture(scope="module")
def needle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needles")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(folder / "01.png")
    Image.new("RGB", (8, 8), (0, 0, 200)).save(folder / "02.png")
    (folder / "out.png").symlink_to(NEEDLES / "01_stairs.png")
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "folder.png").mkdir()
    return folder


_NEEDLES = [
    {"path": "01.png", "prompt": "\nWhat?", "answer": "A"},
    {"path": "02.png", "prompt": "\nWhat else?", "answer": "B"},
]
_PATHS = st.sampled_from(
    ["../needles/01.png", "/etc/passwd", "out.png", "circle.png", "folder.png", ".", "..", "",
     "01.png\0", "x" * 5000, "./01.png", "dataset.json", "\ud800.png", "absent.png"]
)  # fmt: skip


@pytest.mark.slow
@fuzz(250)
@given(
    entries=changed(_NEEDLES)
    | st.lists(st.builds(lambda path: _NEEDLES[0] | {"path": path}, _PATHS), min_size=1, max_size=2)
)
def test_needles_of_any_shape_are_read_or_refused(needle_folder: Path, entries: Any) -> None:
    (needle_folder / "dataset.json").write_text(dumps(entries), encoding="utf-8")
    needles = read_or_refused(lambda: load_needles(needle_folder), MediaError, "dataset.json")
    assert needles is None or len(needles) == len(entries)
    for needle in needles or ():
        assert (needle_folder / needle.name).resolve().is_relative_to(needle_folder.resolve())
        assert needle.question.strip()
        assert needle.answer.strip()
        assert all(shown.image.mode == "RGB" for shown in needle.needles)


@fuzz(100)
@given(content=damaged(json.dumps(_NEEDLES).encode()) | st.binary(max_size=60))
def test_a_needle_list_of_any_bytes_is_read_or_refused(needle_folder: Path, content: bytes) -> None:
    (needle_folder / "dataset.json").write_bytes(content)
    needles = read_or_refused(lambda: load_needles(needle_folder), MediaError, "dataset.json")
    assert needles != []


_SRT = (
    "\ufeff1\n00:00:01,000 --> 00:00:02,500\n<i>red</i> {\\an8}square\n\n"
    "2\r\n00:00:03.000 --> 00:00:04.000\r\ngreen\r\nline\r\n\r\n"
).encode()
_LINES = st.sampled_from(
    ["1", "00:00:01,000 --> 00:00:02,000", "99:99:99,999 --> 00:00:00,000", "-->", "a --> b",
     "00:00:01,000-->00:00:02,000 X1:1", "text", "", "{\\pos(1,1)}", "<b>", "\0", "\u2028", "{",
     "999:59:59,999999 --> 999:59:59,9999999"]
)  # fmt: skip


@pytest.mark.slow
@fuzz(300)
@given(
    content=damaged(_SRT)
    | st.binary(max_size=80)
    | st.lists(_LINES, max_size=12).map(lambda lines: "\n".join(lines).encode())
)
def test_subtitles_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.srt"
    path.write_bytes(content)
    cues = read_or_refused(lambda: read_subtitles(path), DataError, "v.srt")
    assert cues != ()
    for cue in cues or ():
        assert " ".join(cue.text.split()) == cue.text != ""
        assert 0 <= cue.start_seconds <= cue.end_seconds
    shown = cues_at(cues or (), [0.5, 1.5, 3.2])
    assert subtitle_block(shown).count("\n") == (len(shown) + 1 if shown else 0)


_WORD_LINE = {"text": "red", "start_time": 1.0, "end_time": 2.0}


@pytest.mark.slow
@fuzz(150)
@given(lines=st.lists(changed(_WORD_LINE, 2), max_size=3))
def test_subtitle_words_of_any_shape_are_read_or_refused(tmp_path: Path, lines: list[Any]) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text("".join(dumps(line) + "\n" for line in lines), encoding="utf-8")
    cues = read_or_refused(lambda: read_subtitles(path), DataError, "v.jsonl")
    assert cues != ()
    for cue in cues or ():
        assert " ".join(cue.text.split()) == cue.text != ""
        assert 0 <= cue.start_seconds <= cue.end_seconds < float("inf")


@fuzz(150)
@given(
    parts=st.lists(
        st.sampled_from(
            ["<subtitles at the frames: ", "/etc/passwd", "%2Fetc%2Fpasswd", " ", "0" * 16, ">",
             "\n", "What is shown?", "<image>"]
        ),
        max_size=12,
    ).map("".join),
)  # fmt: skip
@example(parts=f"<subtitles at the frames: /etc/passwd {'0' * 16}>\nWhat?")
def test_a_question_cannot_have_files_read_as_subtitles(parts: str) -> None:
    try:
        text, report = fill_subtitles(parts, [[0.5]])
    except (PromptError, DataError):
        return
    assert (text, report) == (parts, None)


_ROWS = [{"Num. Frame": 16, "Frame Depth": 50.0, "Score": 1.0}]
_CELL = {"num_frames": 16, "depth": 0.5, "correct": True}


@pytest.mark.slow
@fuzz(200)
@given(
    rows=changed(_ROWS, 2),
    cells=st.lists(changed(_CELL, 2) | changed({"vniah_accuracy": _CELL}, 2), max_size=3),
)
def test_needle_results_of_any_shape_are_read_or_refused(
    tmp_path: Path, rows: Any, cells: list[Any]
) -> None:
    whole, lines = tmp_path / "all_accuracies.json", tmp_path / "cells.jsonl"
    whole.write_text(dumps(rows), encoding="utf-8")
    lines.write_text("".join(dumps(cell) + "\n" for cell in cells), encoding="utf-8")
    for path in (whole, lines):
        found = read_or_refused(lambda path=path: read_accuracies(path), MediaError, path.name)
        assert found != []
        assert all(0 <= row["Score"] <= 1 for row in found or ())


@fuzz(100)
@given(content=damaged(dumps(_ROWS).encode()) | st.binary(max_size=60))
def test_needle_results_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("all_accuracies.json", "cells.jsonl"):
        path = tmp_path / name
        path.write_bytes(content)
        found = read_or_refused(lambda path=path: read_accuracies(path), MediaError, name)
        assert found != []


_CSV = SCORES.read_bytes()[:4000].rpartition(b"\n")[0] + b"\n"


@fuzz(150)
@given(content=damaged(_CSV) | st.binary(max_size=60))
def test_published_scores_of_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    scores = read_or_refused(lambda: read_published(path), MediaError, "scores.csv") or []
    assert all(isinstance(score.value, str) for score in scores)
    for benchmark in BENCHMARKS:
        for row in published_rows(scores, benchmark, models=["all"])[0]:
            assert row.percent(0) is None or isinstance(row.percent(0), float)
