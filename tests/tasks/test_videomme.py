"""Video-MME and Video-MME-v2: prompts, subtitles, scores, bad data, and a run of lmms-eval."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import random
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import processes
import pytest
import videomme_data as data
import yaml
from conftest import OPEN, TESTS, Golden
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.errors import DataError, MediaError, PromptError
from longva_eval.local.prepare import prepare
from longva_eval.media.subtitles import (
    Cue,
    cues_at,
    evenly_spread_seconds,
    fill_subtitles,
    read_subtitles,
    subtitle_marker,
)
from longva_eval.questions.outcomes import FAILED, mean_with_breakdown, results_folder
from longva_eval.tasks.videomme import videomme
from longva_eval.tasks.videomme_v2 import rules

TASKS = TESTS.parent / "tasks"
LETTERS = "ABCDEFGH"


def utils(folder: str) -> ModuleType:
    """A task's functions, loaded by path as lmms-eval does it."""
    path = TASKS / folder / "utils.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hf"
    home.mkdir()
    monkeypatch.setenv("HF_HOME", str(home))
    return home


def documents(
    function: str, rows: list[dict[str, Any]] | None = None, folder: str = "videomme"
) -> list[dict[str, Any]]:
    if rows is None:
        rows = data.videomme_rows() if folder == "videomme" else data.videomme_v2_rows()
    return list(getattr(utils(folder), function)(Dataset.from_list(rows)))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Prompts. A change here is a change of the task's version.

PROMPT = """\
Select the best answer to the following multiple-choice question based on the video. Respond with \
only the letter (A, B, C, or D) of the correct option.
What number is shown with the star?
A. 1
B. 8
C. 5
D. 4
The best answer is:"""

SUBTITLES = """\
This video's subtitles are listed below:
The star is green, and its number is 8.
We look at sand.
"""

V2_PROMPT = """\
These are the frames of a video.
Question: What happens in part 2?
A. answer aa
B. answer bb
C. answer cc
D. answer dd
E. answer ee
F. answer ff
G. answer gg
H. answer hh
Select the best answer to the following multiple-choice question based on the video. Respond with \
only the letter (A, B, C, D, E, F, G, or H) of the correct option."""

V2_SUBTITLE_PROMPT = V2_PROMPT.replace(
    "video.\nQuestion",
    "video. This video's subtitles are listed below:\nHello there, you.\n\nQuestion",
)

QUESTION = {
    "question": "What number is shown with the star?",
    "options": ["A. 1", "B. 8", "C. 5", "D. 4"],
}
SRT = """\
1
00:00:00,000 --> 00:00:02,000
<font color="white" size=".72c">The star is green, and its number is 8.</font>

2
00:00:02,000 --> 00:00:04,500
<font color="white" size=".72c">We look at sand.</font>

3
00:00:09,000 --> 00:00:10,000
<font color="white" size=".72c">This is between two frames.</font>
"""


def test_the_prompt_without_subtitles_is_the_official_one() -> None:
    assert utils("videomme").doc_to_text(QUESTION, {}) == PROMPT


def test_the_prompt_with_subtitles_is_the_official_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = subtitle_marker(write(tmp_path / "a b.srt", SRT))
    task = replace(videomme.TASK, subtitle_file="a b.srt", subtitle_text=videomme.subtitle_text)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    text = task.doc_to_text(QUESTION, {"subtitles": "frames_seen"})
    assert text == marker + PROMPT
    filled, report = fill_subtitles(text, [[0.5, 3.0, 8.0]])
    assert filled == SUBTITLES + PROMPT
    assert report is not None
    assert (report["num_cues"], report["num_cues_shown"]) == (3, 2)
    assert report["file"] == str(tmp_path / "a b.srt")


def test_the_prompts_of_v2_are_the_official_ones(hf_home: Path) -> None:
    document = documents("process_docs_subtitles", folder="videomme_v2")[1]
    task = utils("videomme_v2")
    assert task.doc_to_text(document, {}) == V2_PROMPT
    assert task.doc_to_text_subtitles(document, {}) == V2_PROMPT
    words = [("Hello", 0.1, 0.5), ("there,", 0.5, 1), ("you.", 1, 1.5)]
    lines = [json.dumps({"text": t, "start_time": s, "end_time": e}) for t, s, e in words]
    write(hf_home / "videomme_v2" / "subtitle" / "001.jsonl", "\n".join(lines))
    assert task.doc_to_text_subtitles(document, {}) == V2_SUBTITLE_PROMPT


@pytest.mark.parametrize(
    "path", sorted(TASKS.glob("*/longva_*_subtitles.yaml")), ids=lambda path: path.stem
)
def test_every_model_of_ours_is_given_the_subtitles_of_its_frames(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    settings = yaml.load(path.read_text(), Loader)  # a safe loader
    if "lmms_eval_specific_kwargs" not in settings:
        assert settings["task"] == "longva_videomme_v2_subtitles"  # all subtitles, whoever asks
        return
    given = settings["lmms_eval_specific_kwargs"]
    assert given["default"]["subtitles"] == "evenly_spread"
    assert set(given) - {"default"} >= set(MODEL_CLASSES)
    assert all(given[name] == {"subtitles": "frames_seen"} for name in MODEL_CLASSES)


# Subtitle files


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: text.replace("\n", "\r").encode(),
        lambda text: text.replace(",", ".", 2).encode(),
        lambda text: re.sub(r"</?font[^>]*>", "", text).encode(),
        lambda text: re.sub(r"<(/?)font[^>]*>", r"<\1i>", text).encode(),
        lambda text: text.replace("We look", "{\\an8}We look").encode(),
        lambda text: text.replace("look at", "look\nat").encode(),
        lambda text: (text + "\n\n4\n00:00:11,000 --> 00:00:12,000\n\n").encode(),
        lambda text: "\n\n".join(reversed(text.strip().split("\n\n"))).encode(),
        lambda text: (text + "\0\0").encode(),
    ],
    ids=[
        "byte order mark", "CRLF", "CR", "points", "no tags", "italics", "position", "two lines",
        "empty cue", "unsorted", "NUL",
    ],
)  # fmt: skip
def test_subtitles_are_read_in_every_form_they_come_in(tmp_path: Path, change: Any) -> None:
    cues = read_subtitles(write(tmp_path / "v.srt", change(SRT)))
    assert cues[:2] == (
        Cue(0.0, 2.0, "The star is green, and its number is 8."),
        Cue(2.0, 4.5, "We look at sand."),
    )
    assert [cue.start_seconds for cue in cues] == [0.0, 2.0, 9.0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.srt", b"", r"v\.srt is empty"),
        ("v.srt", b"\n\n \n", r"v\.srt holds no text"),
        ("v.srt", b"1\n00:00:01,000 --> 00:00:02,000\n<i></i>\n", r"v\.srt holds no text"),
        ("v.srt", b"1\n00:01 --> 00:02\nHello\n", r"v\.srt holds no text of .* \(line 2: "),
        (
            "v.srt",
            b"1\n00:00:03,000 --> 00:00:02,000\nHello\n",
            r"ends before it starts, at 3\.000",
        ),
        ("v.srt", "1\n00:00:01,000 --> 00:00:02,000\né\n".encode("latin1"), "is not UTF-8"),
        ("v.jsonl", b'{"text": "Hello"}\n', r"v\.jsonl, line 1: .* is not"),
        ("v.jsonl", b"[1]\n", r"v\.jsonl, line 1: .* is not"),
    ],
)
def test_a_broken_subtitle_file_is_an_error_that_names_it(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_subtitles(write(tmp_path / name, content))


def test_a_missing_subtitle_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.srt cannot be read: No such file"):
        read_subtitles(tmp_path / "none.srt")


times = st.integers(0, 40).map(lambda quarter: quarter / 4)


@given(
    spans=st.lists(st.tuples(times, times), max_size=12),
    seconds=st.lists(times, min_size=1, max_size=12),
)
def test_the_cues_at_frames_are_those_of_a_plain_search(
    spans: list[tuple[float, float]], seconds: list[float]
) -> None:
    cues = sorted(
        (Cue(min(span), max(span), str(n)) for n, span in enumerate(spans)),
        key=lambda cue: cue.start_seconds,
    )
    expected = [
        cue for cue in cues if any(cue.start_seconds <= t < cue.end_seconds for t in seconds)
    ]
    assert cues_at(cues, seconds) == expected


def test_frames_without_a_subtitle_give_the_prompt_without(tmp_path: Path) -> None:
    marker = subtitle_marker(write(tmp_path / "v.srt", SRT))
    assert fill_subtitles(marker + PROMPT, [[6.0, 8.0]])[0] == PROMPT
    assert fill_subtitles(PROMPT, []) == (PROMPT, None)


@pytest.mark.parametrize("videos", [[], [[]], [[1.0], [2.0]]])
def test_subtitles_need_one_video_with_times(tmp_path: Path, videos: list[list[float]]) -> None:
    marker = subtitle_marker(write(tmp_path / "v.srt", SRT))
    with pytest.raises(PromptError, match="need one video file with known times"):
        fill_subtitles(marker + PROMPT, videos)


def test_other_subtitles_are_another_prompt(tmp_path: Path) -> None:
    path = write(tmp_path / "v.srt", SRT)
    before = subtitle_marker(path)
    assert subtitle_marker(write(path, SRT.replace("green", "red"))) != before


def test_a_model_of_ours_sees_the_subtitles_of_the_frames_it_chose(
    open_golden: Golden, tmp_path: Path
) -> None:
    video = OPEN / next(
        case["video"] for case in open_golden.data["cases"] if case.get("video", "").endswith("mp4")
    )
    session = open_golden.session
    seconds = evenly_spread_seconds(video, session.frames.max_frames)
    lines = [
        f"{number}\n00:00:{start:06.3f} --> 00:00:{start + 0.001:06.3f}\nframe {number}\n"
        for number, start in enumerate(sorted(set(seconds)))
    ]
    between = seconds[0] + 0.002
    lines.append(f"99\n00:00:{between:06.3f} --> 00:00:{between + 0.001:06.3f}\nno frame\n")
    path = write(tmp_path / "v.srt", "\n".join(lines))
    conversation = session.prompt(subtitle_marker(path) + PROMPT, [video])
    expected = [f"frame {number}" for number in range(len(lines) - 1)]
    said = conversation.context_text
    assert "\n".join(["subtitles are listed below:", *expected, "Select the best"]) in said
    assert "no frame" not in said
    assert conversation.describe()["subtitles"]["num_cues_shown"] == len(expected)
    plain = session.prompt(PROMPT, [video])
    assert "subtitles" not in plain.describe()


def test_other_models_are_given_the_subtitles_of_evenly_spread_frames(hf_home: Path) -> None:
    data.write_videomme(hf_home / "videomme")
    task = utils("videomme")
    first, *_, last = documents("process_docs_subtitles")
    assert task.doc_to_text_subtitles(first, {"subtitles": "frames_seen"}) == (
        task.doc_to_text(first)
    )
    path = hf_home / "videomme" / "subtitle" / f"{last['video']}.srt"
    seconds = evenly_spread_seconds(task.doc_to_visual(last)[0], 5)
    marked = task.doc_to_text_subtitles(last, {"subtitles": "frames_seen"})
    five = task.doc_to_text_subtitles(last, {"subtitles": "evenly_spread", "frame_num": 5})
    assert five == fill_subtitles(marked, [seconds])[0]
    assert 1 <= five.count("\n") - PROMPT.count("\n") - 1 <= 5
    assert task.process_results_subtitles(last, ["A"])["accuracy"]["has_subtitles"] is True
    everything = task.doc_to_text_subtitles(last, {"subtitles": "all"})
    assert all(cue.text in everything for cue in read_subtitles(path))
    assert task.process_results_subtitles(first, ["A"])["accuracy"]["has_subtitles"] is False
    with pytest.raises(DataError, match="'some' in lmms_eval_specific_kwargs is unknown"):
        task.doc_to_text_subtitles(last, {"subtitles": "some"})


# Rows


def changed(**columns: Any) -> list[dict[str, Any]]:
    rows = data.videomme_rows()
    rows[4] |= columns
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(options=[]), "row 4: the question has no options"),
        (changed(options=None), "row 4: the question has no options"),
        (changed(options=["A. x", "B. y"]), "row 4: the question has 2 options, not 4"),
        (changed(options=["A. x", "x", "C. y", "D. z"]), "row 4: option 2 does not begin with B"),
        (changed(answer="E"), "row 4: the answer 'E' is none of the options"),
        (changed(answer=None), "row 4: the answer is None"),
        (changed(duration="ages"), "row 4: the duration is 'ages'"),
        (changed(question_id="001-1"), "rows 0 and 4 have the same question id '001-1'"),
        (
            [{**row, "choices": row["options"]} for row in data.videomme_rows()],
            None,
        ),
        (
            [
                {("choices" if k == "options" else k): v for k, v in row.items()}
                for row in data.videomme_rows()
            ],
            "has no column 'options'; it has .*'choices'",
        ),
    ],
)
def test_wrong_rows_are_named_before_anything_is_asked(
    rows: list[dict[str, Any]], message: str | None
) -> None:
    if message is None:
        assert len(documents("process_docs", rows)) == 9
        return
    with pytest.raises(DataError, match=message) as error:
        documents("process_docs", rows)
    assert "Video-MME" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"group_type": "chain"}, "row 2: the group type 'chain'"),
        ({"group_type": "logic", "group_structure": "[4, 3]"}, r"row 2: .*'\[4, 3\]' is none of"),
        ({"group_type": "logic", "group_structure": "["}, r"row 2: .* cannot be read"),
        ({"options": ""}, "row 2: the question has no options"),
        ({"options": "\n".join(f"{a}. x" for a in "ABCDEFGHI")}, "row 2: .* speaks of A to H"),
        ({"answer": "I"}, "row 2: the answer 'I'"),
        ({"question_id": "001"}, "row 2: the question id '001' does not end"),
    ],
)
def test_wrong_rows_of_v2_are_named(columns: dict[str, Any], message: str) -> None:
    rows = data.videomme_v2_rows()
    rows[2] |= columns
    with pytest.raises(DataError, match=message):
        documents("process_docs", rows, "videomme_v2")


def test_an_empty_subtitle_file_ends_the_run_before_it_starts(hf_home: Path) -> None:
    data.write_videomme(hf_home / "videomme")
    path = hf_home / "videomme" / "subtitle" / f"{data.videomme_rows()[-1]['videoID']}.srt"
    path.write_text("")
    with pytest.raises(DataError, match=re.escape(f"{path} is empty")):
        documents("process_docs_subtitles")
    assert len(documents("process_docs")) == 9


def test_a_missing_video_is_named_with_the_way_out(hf_home: Path) -> None:
    document = documents("process_docs")[0]
    path = hf_home / "videomme" / "data" / document["video"]
    with pytest.raises(MediaError, match=re.escape(str(path))) as error:
        utils("videomme").doc_to_visual(document)
    assert "longva-eval prepare videomme --from DIR" in str(error.value)


def test_a_copy_without_videos_of_a_duration_is_told() -> None:
    rows = [row for row in data.videomme_rows() if row["duration"] != "long"]
    with pytest.raises(DataError, match="none of 6 rows is on a long video"):
        utils("videomme").process_docs_long(Dataset.from_list(rows))


def test_durations_are_tasks_of_their_own() -> None:
    for duration in ("short", "medium", "long"):
        found = documents(f"process_docs_{duration}")
        assert {document["categories"]["duration"] for document in found} == {duration}
        assert {document["task"] for document in found} == {f"longva_videomme_{duration}"}
        assert len(found) == 3


# Scores


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("the answer", "right"), ("E", "no answer"), ("A man", "no answer"), (FAILED, "failed")],
)
def test_a_record_says_what_became_of_the_question(said: str, outcome: str) -> None:
    document = documents("process_docs")[0]
    text = f"The answer is {document['answer']}." if said == "the answer" else said
    metrics = utils("videomme").process_results(document, [text])
    record = metrics["accuracy"]
    assert (record["outcome"], record["score"]) == (outcome, float(outcome == "right"))
    assert record["question_id"] == "001-1"
    assert record["cluster"] == document["video"]
    assert set(record["categories"]) == {"duration", "domain", "sub_category", "task_type"}
    assert record["video_id"] == "001"
    assert metrics["short"] == {"score": record["score"], "cluster": record["cluster"]}


MODEL_ARGUMENTS = [
    "pretrained=lmms-lab/LongVA-7B,max_frames_num=8",
    "pretrained=/data/models/My:Model,dtype=float32",
    "pretrained=longva-tiny",
    "model=gpt|4,pretrained=x",
    "dtype=float32",
    "",
]


@pytest.mark.parametrize("model_args", MODEL_ARGUMENTS)
def test_the_breakdown_lies_beside_the_results_of_the_host(model_args: str, tmp_path: Path) -> None:
    from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker

    tracker = GeneralConfigTracker()
    tracker.log_experiment_args("longva", model_args, None, None, False)
    args = SimpleNamespace(output_path=str(tmp_path), model_args=model_args, timezone="UTC")
    assert results_folder(args) == tmp_path / tracker.model_name_sanitized
    assert results_folder(SimpleNamespace(output_path=None)) is None
    assert results_folder(None) is None


def test_the_breakdown_counts_every_question(tmp_path: Path) -> None:
    task = utils("videomme")
    said = itertools.cycle(["A", "hm", FAILED])
    asked = zip(documents("process_docs"), said, strict=False)
    items = [task.process_results(doc, [text])["accuracy"] for doc, text in asked]
    args = SimpleNamespace(output_path=str(tmp_path), model_args="pretrained=m", timezone="UTC")
    score = mean_with_breakdown(items, args)
    (path,) = (tmp_path / "m").glob("*_breakdown_longva_videomme.json")
    rows = json.loads(path.read_text())["rows"]
    assert rows[0]["score"] == score == sum(item["score"] for item in items) / 9
    assert (rows[0]["num_no_answer"], rows[0]["num_failed"]) == (3, 3)
    assert [row["value"] for row in rows if row["category"] == "duration"] == [
        "short", "medium", "long",
    ]  # fmt: skip
    for category in ("duration", "domain", "sub_category", "task_type"):
        assert sum(row["num_questions"] for row in rows if row["category"] == category) == 9


# Groups of v2, beside the host's own functions


@pytest.fixture(scope="module")
def host() -> ModuleType:
    import lmms_eval

    path = Path(lmms_eval.__file__).parent / "tasks" / "videomme_v2" / "utils.py"
    spec = importlib.util.spec_from_file_location("host_videomme_v2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


STRUCTURES = ("[1, 2, 3, 4]", "[1, [2, 3], 4]", "[[1, 2], 3, 4]")


def test_a_group_is_scored_as_the_host_scores_it(host: ModuleType) -> None:
    for right in itertools.product([False, True], repeat=4):
        given = [int(one) for one in right]
        ours = rules.group_score(right, "relevance", None)
        assert 100 * ours == pytest.approx(host.cal_relevance(given))
        for structure in STRUCTURES:
            ours = rules.group_score(right, "logic", structure)
            assert 100 * ours == pytest.approx(host.cal_logic(given, structure)), (right, structure)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_table_of_answers_is_scored_as_the_host_scores_it(host: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    rows = []
    for video in range(1, 61):
        kind = rng.choice(["relevance", "logic"])
        structure = rng.choice(STRUCTURES) if kind == "logic" else "None"
        for place in range(1, 5):
            rows.append(
                {
                    "video_id": f"{video:03d}",
                    "question_id": f"{video:03d}-{place}",
                    "question": "What?",
                    "options": "\n".join(f"{letter}. thing {letter}" for letter in LETTERS),
                    "answer": rng.choice(LETTERS),
                    "group_type": kind,
                    "group_structure": structure,
                    "level": rng.choice([1, 2, 3]),
                    "second_head": rng.choice("xyz"),
                    "third_head": rng.choice("uvw"),
                }
            )
    task = utils("videomme_v2")
    docs = documents("process_docs", rows, "videomme_v2")
    said = [rng.choice([row["answer"], row["answer"], rng.choice(LETTERS), ""]) for row in rows]
    ours = [task.process_results(doc, [text]) for doc, text in zip(docs, said, strict=True)]
    theirs = [
        host.videomme_v2_process_results(row, [text])["videomme_v2_overall_score"]
        for row, text in zip(rows, said, strict=True)
    ]
    order = list(range(len(rows)))
    rng.shuffle(order)
    expected = host._compute_all_subscores([theirs[n] for n in order])
    names = {
        "accuracy": "overall_acc", "group_score": "overall_score", "relevance": "relevance_score",
        "logic": "logic_score", "level_1": "level_1_score", "level_2": "level_2_score",
        "level_3": "level_3_score",
    }  # fmt: skip
    for name, of_host in names.items():
        value = getattr(task, name)([ours[n][name] for n in order])
        assert 100 * value == pytest.approx(expected[of_host]), name
    assert 0 < expected["overall_score"] < expected["overall_acc"]


def test_groups_that_are_not_whole_have_no_score() -> None:
    task = utils("videomme_v2")
    docs = documents("process_docs", folder="videomme_v2")
    items = [task.process_results(doc, [doc["answer"]]) for doc in docs[:6]]
    assert task.group_score([item["group_score"] for item in items]) == 1.0
    assert len(rules.group_scores([item["accuracy"] for item in items])) == 1
    assert math.isnan(task.group_score([item["group_score"] for item in items[:3]]))
    assert math.isnan(task.logic([item["logic"] for item in items]))


# The whole path


@pytest.mark.process
def test_a_local_copy_runs_as_ours_and_as_the_hosts(tmp_path: Path) -> None:
    home, source = tmp_path / "hf", tmp_path / "downloads"
    data.write_videomme(source / "v1")
    data.write_videomme_v2(source / "v2")
    prepare("videomme", source / "v1", home, allow_missing=True)
    prepare("videomme_v2", source / "v2", home, allow_missing=True)
    ours = [
        "longva_videomme", "longva_videomme_subtitles", "longva_videomme_v2",
        "longva_videomme_v2_subtitles",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "lmms_eval", "--model", "longva",
        "--model_args", f"pretrained={OPEN / 'longva_tiny'},device=cpu,max_frames_num=4",
        "--tasks", ",".join([*ours, "videomme"]),
        "--output_path", "out", "--log_samples",
    ]  # fmt: skip
    environment = os.environ | {
        "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    done = processes.run(command, cwd=tmp_path, env=environment)
    paths = list((tmp_path / "out").rglob("*_results.json"))
    assert len(paths) == 1, done.stderr[-3000:]
    results = json.loads(paths[0].read_text(encoding="utf-8"))
    assert set(results["results"]) == {*ours, "videomme"}

    samples = {task: samples_of(tmp_path / "out", task) for task in [*ours, "videomme"]}
    assert [len(samples[task]) for task in [*ours, "videomme"]] == [9, 9, 12, 12, 9]
    by_host = {sample["doc_id"]: sample for sample in samples["videomme"]}
    for sample in samples["longva_videomme"]:
        record = sample["accuracy"]
        assert record["question_id"] == by_host[sample["doc_id"]]["videomme_perception_score"][
            "question_id"
        ]  # fmt: skip
        assert sample["longva_eval"]["videos"][0]["num_frames_seen"] == 4
    for sample in samples["longva_videomme_subtitles"]:
        record, facts = sample["accuracy"], sample["longva_eval"]
        assert record["has_subtitles"] == ("subtitles" in facts) == (record["video_id"] != "001")
        if record["has_subtitles"]:
            cues = read_subtitles(facts["subtitles"]["file"])
            shown = cues_at(cues, facts["videos"][0]["timestamps_seconds"])
            assert facts["subtitles"]["num_cues_shown"] == len(shown) <= 4
    scores = results["results"]["longva_videomme"]
    given = [sample["accuracy"]["score"] for sample in samples["longva_videomme"]]
    assert scores["accuracy,none"] == pytest.approx(sum(given) / 9)
    assert {f"{name},none" for name in ("accuracy", "short", "medium", "long")} <= set(scores)
    assert "group_score,none" in results["results"]["longva_videomme_v2"]
    for task in ours:
        (breakdown,) = (tmp_path / "out").rglob(f"*_breakdown_{task}.json")
        assert json.loads(breakdown.read_text())["rows"][0]["num_questions"] == len(samples[task])


def samples_of(folder: Path, task: str) -> list[dict[str, Any]]:
    (path,) = folder.rglob(f"*_samples_{task}.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
