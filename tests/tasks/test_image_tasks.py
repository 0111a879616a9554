"""The image suite of the LongVA paper: prompts, scores, bad rows, and a run as a user starts it."""

from __future__ import annotations

import importlib.util
import json
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import image_task_data as data
import pytest
import yaml
from conftest import TESTS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from longva_eval.errors import DataError, MediaError
from longva_eval.host.patches import order_results
from longva_eval.local.prepare import data_status, prepare
from longva_eval.questions.outcomes import FAILED, category_rows
from longva_eval.questions.pictures import open_picture
from longva_eval.questions.text_metrics import anls, levenshtein_distance, relaxed_match

TASKS = TESTS.parent / "tasks"
SNAPSHOTS = TESTS / "data" / "image_prompts.json"
READERS = {
    "ai2d": (data.ai2d, "ai2d_docs", "ai2d_text"),
    "chartqa": (data.chartqa, "chartqa_docs", "chartqa_text"),
    "docvqa_val": (data.docvqa, "docvqa_docs", "span_text"),
    "docvqa_test": (lambda: data.docvqa("test"), "docvqa_test_docs", "span_text"),
    "infovqa_val": (data.infovqa, "infovqa_docs", "span_text"),
    "infovqa_test": (lambda: data.infovqa("test"), "infovqa_test_docs", "span_text"),
    "realworldqa": (data.realworldqa, "realworldqa_docs", "realworldqa_text"),
    "mmmu_val": (data.mmmu, "mmmu_val_docs", "mmmu_text"),
    "mmmu_test": (lambda: data.mmmu("test"), "mmmu_test_docs", "mmmu_text"),
}  # fmt: skip
HOST = {  # lmms-eval's folder, YAML, function of the prompt and of the pictures
    "ai2d": ("ai2d", "ai2d", "ai2d_doc_to_text", "ai2d_doc_to_visual"),
    "chartqa": ("chartqa", "chartqa", "chartqa_doc_to_text", "chartqa_doc_to_visual"),
    "docvqa_val": ("docvqa", "_default_template_docvqa_yaml", "docvqa_doc_to_text",
                   "docvqa_doc_to_visual"),
    "infovqa_val": ("infovqa", "_default_template_infovqa_yaml", "infovqa_doc_to_text",
                    "infovqa_doc_to_visual"),
    "realworldqa": ("realworldqa", "realworldqa", "realworldqa_doc_to_text",
                    "realworldqa_doc_to_visual"),
    "mmmu_val": ("mmmu", "mmmu_val", "mmmu_doc_to_text", "mmmu_doc_to_visual"),
}  # fmt: skip


def load(folder: str) -> ModuleType:
    """A task's functions, loaded by path as lmms-eval loads them."""
    path = TASKS / folder / "utils.py"
    spec = importlib.util.spec_from_file_location(f"tasks_{folder}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


UTILS = load("images")


def documents(name: str, rows: list[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    source, reader, _ = READERS[name]
    return list(getattr(UTILS, reader)(source().dataset(rows)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A task's YAML with its functions as plain names."""

    class Loader(yaml.CSafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: str(node.value))
    loaded: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if "include" in loaded:
        loaded = read_yaml(path.parent / loaded.pop("include")) | loaded
    return loaded


def host(name: str) -> tuple[Callable[..., str], Callable[..., Any], dict[str, Any]]:
    """lmms-eval's prompt and pictures of a task, and its settings."""
    folder, yaml_name, to_text, to_visual = HOST[name]
    module = importlib.import_module(f"lmms_eval.tasks.{folder}.utils")
    found = importlib.util.find_spec("lmms_eval.tasks")
    assert found is not None
    (root,) = found.submodule_search_locations or []
    path = Path(root) / folder / yaml_name
    config = read_yaml(path if path.is_file() else path.with_suffix(".yaml"))
    return getattr(module, to_text), getattr(module, to_visual), config


# --- prompts --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prompts_are_those_of_the_snapshots() -> None:
    prompts = {
        name: [getattr(UTILS, to_text)(document) for document in documents(name)]
        for name, (_, _, to_text) in READERS.items()
    }
    assert prompts == json.loads(SNAPSHOTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(HOST))
def test_prompts_and_pictures_are_the_hosts(name: str) -> None:
    to_text, to_visual, config = host(name)
    host_settings = config["lmms_eval_specific_kwargs"]["default"] if "lmms_eval_specific_kwargs" in config else None  # noqa: E501  # fmt: skip
    source, _, our_text = READERS[name]
    our_visual = UTILS.mmmu_visual if name.startswith("mmmu") else UTILS.doc_to_visual
    for row, document in zip(source().dataset(), documents(name), strict=True):
        assert getattr(UTILS, our_text)(document) == to_text(row, host_settings)
        ours, theirs = our_visual(document), to_visual(row)
        assert [picture.tobytes() for picture in ours] == [p.tobytes() for p in theirs]
        assert len(ours) >= 1


@pytest.mark.parametrize("name", sorted(HOST))
def test_answers_may_be_as_long_as_the_hosts(name: str) -> None:
    _, _, config = host(name)
    ours = read_yaml(TASKS / "images" / f"longva_{name}.yaml")
    wanted, given_ = config["generation_kwargs"], ours["generation_kwargs"]
    assert given_["max_new_tokens"] == wanted["max_new_tokens"]
    assert not given_["do_sample"]
    assert ours["dataset_path"] == config.get("dataset_path", "lmms-lab-encoder/DocVQA")


def test_the_mmmu_test_split_is_asked_like_the_validation_split() -> None:
    # The host's test split leaves out how to answer.
    text = UTILS.mmmu_text(documents("mmmu_test")[0])
    assert text.endswith("\n\nAnswer with the option's letter from the given choices directly.")


def test_pictures_of_a_question_come_in_the_order_of_their_numbers() -> None:
    music = documents("mmmu_val")[1]  # speaks of 2 before 1, and of 3 in an option
    sizes = [picture.getpixel((15 + 10 + n, 30)) for n, picture in enumerate(UTILS.mmmu_visual(music), 1)]  # noqa: E501  # fmt: skip
    assert len(sizes) == 3
    assert len(set(sizes)) == 3
    first = UTILS.mmmu_visual(music)[0]
    assert first.tobytes() == open_picture(data.picture(11), where="").tobytes()


# --- scores ---------------------------------------------------------------------------------------

TEXTS = st.text(alphabet=string.ascii_letters + string.digits + " .,%-$é", max_size=12)


@pytest.mark.slow
@given(answer=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=4))
@settings(max_examples=600, deadline=None)
def test_anls_is_the_hosts(answer: str, references: list[str]) -> None:
    from lmms_eval.api.metrics import anls as host_anls

    assert anls(answer, references) == host_anls(references, [answer])["anls"]


@pytest.mark.slow
def test_anls_is_the_hosts_on_answers_with_slips() -> None:
    from lmms_eval.api.metrics import anls as host_anls

    rng = random.Random(7)
    words = ["May", "4,", "1998", "J. Harper", "1,204", "TOTAL", "the", "  smoke ", "R&D", "12%"]
    seen = set()
    for _ in range(4000):
        truths = [" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 3))]  # noqa: E501  # fmt: skip
        said = list(rng.choice(truths))
        for _ in range(rng.randint(0, 5)):
            place = rng.randrange(len(said) + 1)
            said[place : place + rng.randint(0, 1)] = rng.choice(["", "x", " ", "E"])
        ours = anls("".join(said), truths)
        assert ours == host_anls(truths, ["".join(said)])["anls"]
        seen.add(ours)
    assert {0.0, 1.0} < seen  # both ends and something between


@pytest.mark.slow
@given(answer=TEXTS, reference=TEXTS)
@settings(max_examples=600, deadline=None)
def test_relaxed_accuracy_is_the_hosts(answer: str, reference: str) -> None:
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    assert relaxed_match(answer, reference) == relaxed_correctness(answer, reference)


def test_relaxed_accuracy_is_the_hosts_on_numbers() -> None:
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    rng = random.Random(3)
    forms = ["{:.2f}", "{:g}", "{:.0f}%", "{:.3f}%", "-{:g}", "{:,.0f}", "{:e}", "Yes", "nan", "0"]
    agreed = 0
    for _ in range(6000):
        true = rng.choice([0.0, 1.0, 5.0, 12.5, 2015.0, 40.0, rng.uniform(0, 100)])
        said = true * rng.choice([1.0, 1.0499, 1.05, 1.0501, 0.95, 0.94, 2.0])
        texts = rng.choice(forms).format(said), rng.choice(forms).format(true)
        assert relaxed_match(*texts) == relaxed_correctness(*texts), texts
        agreed += relaxed_match(*texts)
    assert agreed > 500


@pytest.mark.parametrize(
    ("said", "true", "right"),
    [
        ("41.9", "40", True),
        ("42.1", "40", False),
        ("12.6%", "12.5%", True),
        ("0.125", "12.5%", True),
        ("yes", "Yes", True),
        ("Yes.", "Yes", False),
        ("0.01", "0", False),
        ("forty", "40", False),
    ],
)
def test_chart_answers_are_right_within_five_percent(said: str, true: str, right: bool) -> None:
    assert relaxed_match(said, true) is right


def test_the_editing_distance_counts_characters() -> None:
    assert levenshtein_distance("kitten", "sitting") == 3
    assert levenshtein_distance("", "abc") == levenshtein_distance("abc", "") == 3
    with pytest.raises(ValueError, match="at least one accepted answer"):
        anls("x", [])


def record(name: str, row: int, said: str) -> dict[str, Any]:
    """What a task writes about an answer; pictures are gone by then, as in a run."""
    document = documents(name)[row]
    document = {key: value for key, value in document.items() if not key.startswith("image")}
    function = {"docvqa": "span", "infovqa": "span"}.get(name.split("_")[0], name.split("_")[0])
    ((metric, found),) = getattr(UTILS, f"{function}_result")(document, [said]).items()
    assert isinstance(found, dict)
    json.dumps(found)
    return {"metric": metric, **found}


@pytest.mark.parametrize(
    ("name", "row", "said", "outcome", "score"),
    [
        ("ai2d", 1, "B", "right", 1.0),
        ("ai2d", 1, "(b) stem", "right", 1.0),
        ("ai2d", 1, "stem", "right", 1.0),
        ("ai2d", 1, "A", "wrong", 0.0),
        ("ai2d", 0, "A plant has many parts", "no answer", 0.0),
        ("ai2d", 0, "", "no answer", 0.0),
        ("ai2d", 0, FAILED, "failed", 0.0),
        ("chartqa", 0, "41", "right", 1.0),
        ("chartqa", 1, "no", "wrong", 0.0),
        ("chartqa", 2, "", "no answer", 0.0),
        ("chartqa", 2, FAILED, "failed", 0.0),
        ("docvqa_val", 0, "may 4, 1998", "right", 1.0),
        ("docvqa_val", 0, "May 4, 1999", "wrong", 1 - 1 / 11),
        ("docvqa_val", 0, "I do not know", "wrong", 0.0),
        ("docvqa_val", 1, FAILED, "failed", 0.0),
        ("infovqa_val", 0, "Eight", "right", 1.0),
        ("realworldqa", 0, "B. Right", "right", 1.0),
        ("realworldqa", 0, "Turning", "no answer", 0.0),
        ("realworldqa", 1, "Two.", "right", 1.0),
        ("realworldqa", 1, "3", "wrong", 0.0),
        ("realworldqa", 2, "The dog", "right", 1.0),
        ("realworldqa", 3, "downhill.", "right", 1.0),
        ("mmmu_val", 0, "B. $7", "right", 1.0),
        ("mmmu_val", 0, "hard to say", "no answer", 0.0),
        ("mmmu_val", 1, "A", "right", 1.0),
        ("mmmu_val", 2, "The slope is 3.429.", "right", 1.0),
        ("mmmu_val", 2, "24/7", "right", 1.0),
        ("mmmu_val", 2, "3.5", "wrong", 0.0),
        ("mmmu_val", 3, "It is Tampa, I think", "right", 1.0),
        ("mmmu_val", 3, "Miami", "wrong", 0.0),
        ("mmmu_val", 3, FAILED, "failed", 0.0),
    ],
)
def test_answers_are_scored(name: str, row: int, said: str, outcome: str, score: float) -> None:
    found = record(name, row, said)
    assert (found["outcome"], found["score"]) == (outcome, pytest.approx(score))


@pytest.mark.slow
def test_open_mmmu_answers_agree_with_the_host_where_it_knows_the_answer() -> None:
    from lmms_eval.tasks.mmmu.utils import mmmu_aggregate_results, mmmu_process_results

    said = ["Tampa", "So the answer is Tampa.", "tampa bay", "Miami", "it could be tampa", "T"]
    row = dict(data.mmmu().rows[3])
    for text in said:
        theirs = mmmu_aggregate_results([mmmu_process_results(row, [text])["mmmu_acc"]])
        assert record("mmmu_val", 3, text)["score"] == theirs, text


def test_a_number_among_several_right_answers_counts_where_the_host_misses_it() -> None:
    from lmms_eval.tasks.mmmu.utils import mmmu_aggregate_results, mmmu_process_results

    row = dict(data.mmmu().rows[2])  # answer "['24/7', '3.429']"
    theirs = mmmu_aggregate_results([mmmu_process_results(row, ["3.429"])["mmmu_acc"]])
    assert theirs == 0.0
    assert record("mmmu_val", 2, "3.429")["score"] == 1.0


@pytest.mark.slow
def test_an_unreadable_choice_scores_nothing_however_often_it_is_asked() -> None:
    # The official parser and the host's draw a random option here.
    scores = {record("mmmu_val", 0, "I cannot tell.")["score"] for _ in range(20)}
    assert scores == {0.0}


@pytest.mark.slow
def test_the_test_splits_keep_answers_and_no_score() -> None:
    page = record("docvqa_test", 0, "May 4")
    assert (page["metric"], page["generated"], page["question_id"]) == ("answered", "May 4", "59153")  # noqa: E501  # fmt: skip
    assert (page["score"], page["hidden_answer"]) == (1.0, True)
    choice = record("mmmu_test", 0, "B")
    assert (choice["choice"], choice["question_id"]) == ("B", "test_Accounting_1")
    assert (choice["score"], choice["hidden_answer"]) == (1.0, True)
    assert record("mmmu_test", 0, "hm")["score"] == 0.0
    assert record("mmmu_test", 2, "7")["score"] == 1.0
    assert record("mmmu_test", 2, FAILED)["score"] == 0.0
    assert record("infovqa_test", 0, FAILED)["score"] == 0.0


@pytest.mark.slow
def test_records_say_what_a_report_needs() -> None:
    found = record("mmmu_val", 0, "B")
    assert found["question_id"] == "validation_Accounting_1"
    assert found["categories"] == {
        "kind": "choice", "discipline": "Business", "subject": "Accounting", "difficulty": "Easy",
    }  # fmt: skip
    assert record("docvqa_val", 0, "x")["cluster"] == "14465"
    diagrams = [record("ai2d", row, "A")["cluster"] for row in range(4)]
    assert diagrams[0] == diagrams[1] != diagrams[2] == diagrams[3]
    charts = [record("chartqa", row, "Yes") for row in range(4)]
    rows = {(r["category"], r["value"]): r for r in category_rows(charts)}
    assert rows["half", "human"]["score"] == 0.5
    assert rows["overall", "overall"]["num_questions"] == 4


# --- bad rows -------------------------------------------------------------------------------------


def broken(name: str, row: int, **changes: Any) -> list[Mapping[str, Any]]:
    rows = [dict(entry) for entry in READERS[name][0]().rows]
    rows[row] |= changes
    return list(rows)


@pytest.mark.parametrize(
    ("name", "row", "changes", "message"),
    [
        ("ai2d", 2, {"options": []}, "AI2D: .*row 2: the question has no options"),
        ("ai2d", 1, {"answer": "4"}, "row 1: the answer '4' is none of the options"),
        ("chartqa", 0, {"answer": " "}, "row 0: the column 'answer' holds ' '"),
        ("docvqa_val", 2, {"questionId": "49153"},
         "rows 0 and 2 have the same question id '49153'"),
        ("docvqa_val", 1, {"answers": []}, "row 1: the column 'answers' holds"),
        ("infovqa_val", 1, {"questionId": "x"}, "row 1: the questionId is 'x'"),
        ("realworldqa", 0, {"answer": "D"}, "row 0: the answer is 'D', and the question has"),
        ("mmmu_val", 0, {"options": "[]"}, "row 0: the question has no options"),
        ("mmmu_val", 1, {"options": "['a'"}, "row 1: the options are no list"),
        ("mmmu_val", 1, {"answer": "F"}, "row 1: the answer 'F' is none of 3 options"),
        ("mmmu_test", 3, {"id": "test_Math_15"},
         "rows 2 and 3 have the same question id 'test_Math_15'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named(name: str, row: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        documents(name, broken(name, row, **changes))


@pytest.mark.parametrize(("name", "column"), [("ai2d", "options"), ("mmmu_val", "image_3")])
def test_a_missing_column_is_named(name: str, column: str) -> None:
    source, reader, _ = READERS[name]
    dataset = source().dataset().remove_columns(column)
    with pytest.raises(DataError, match=f"has no column '{column}'; it has 'question'|'id'"):
        getattr(UTILS, reader)(dataset)


def test_an_unreadable_picture_is_named_when_it_is_asked_for() -> None:
    importlib.import_module("lmms_eval.api.task")
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # the host's doing, which fills up with grey
    whole = data.picture(1)
    rows = broken("ai2d", 1, image={"bytes": b"not a picture", "path": "1.png"})
    rows[2] = dict(rows[2]) | {"image": whole | {"bytes": whole["bytes"][:90]}}
    found = documents("ai2d", rows)
    assert isinstance(UTILS.doc_to_visual(found[0])[0], Image.Image)
    with pytest.raises(MediaError, match=r"AI2D, row 1 \(question 1\): the picture is no picture"):
        UTILS.doc_to_visual(found[1])
    with pytest.raises(MediaError, match=r"AI2D, row 2 \(question 2\): the picture cannot be read"):
        UTILS.doc_to_visual(found[2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # left as it was


@pytest.mark.parametrize(
    ("name", "row", "changes", "reason"),
    [
        ("ai2d", 3, {"image": None}, "the column 'image' holds no picture"),
        ("chartqa", 0, {"question": " "}, "the question is empty"),
        ("docvqa_val", 1, {"image": None, "question": None}, "the question is empty"),
        ("realworldqa", 1, {"question": ""}, "the question is empty"),
        ("mmmu_val", 1, {"image_3": None}, "the column 'image_3' holds no picture"),
        ("mmmu_test", 1, {"image_1": None}, "the column 'image_1' holds no picture"),
    ],
)
def test_a_question_that_cannot_be_asked_fails_by_name_and_is_told_beforehand(
    name: str, row: int, changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    rows = broken(name, row, **changes)
    found = documents(name, rows)
    assert [doc["unaskable"] for doc in found] == [
        reason if n == row else "" for n in range(len(rows))
    ]
    task = read_yaml(TASKS / "images" / f"longva_{name}.yaml")
    assert getattr(UTILS, task["doc_to_visual"].split(".")[1])(found[row]) == []
    results = getattr(UTILS, task["process_results"].split(".")[1])(found[row], ["A"])
    (made,) = results.values()
    assert (made["outcome"], made["reason"]) == ("failed", f"cannot be asked: {reason}")
    # Both commands say it, of pictures too.
    replace(READERS[name][0](), rows=rows).write(tmp_path / "copy")
    told = f"{found[row]['question_id']} ({reason})"
    report = prepare(name, tmp_path / "copy", tmp_path / "hf", allow_missing=True)
    assert f"1 question cannot be asked, and will fail: {told}." in report.warnings
    assert data_status(report.layout, tmp_path / "hf", ask=True).unaskable == (told,)


# --- groups, layouts ------------------------------------------------------------------------------


def test_results_stand_in_the_order_of_their_group() -> None:
    tasks = ["longva_ai2d", "longva_realworldqa", "longva_mmmu_val"]
    results = {
        "results": {name: {} for name in ["vniah", "all", *sorted(tasks), "longva_images"]},
        "group_subtasks": {"all": ["vniah", "longva_images"], "longva_images": tasks},
    }
    order_results(results)
    assert list(results["results"]) == ["all", "vniah", "longva_images", *tasks]
    empty: dict[str, Any] = {}
    order_results(empty)
    assert empty == {"results": {}}


def test_the_group_has_the_papers_order() -> None:
    group = read_yaml(TASKS / "images" / "longva_images.yaml")
    names = [name.removeprefix("longva_").removesuffix("_val") for name in group["task"]]
    assert names == ["ai2d", "chartqa", "docvqa", "infovqa", "realworldqa", "mmmu"]


@pytest.mark.parametrize("name", sorted(READERS))
def test_local_copies_are_laid_out(name: str, tmp_path: Path) -> None:
    source = READERS[name][0]()
    source.write(tmp_path / "copy")
    report = prepare(name, tmp_path / "copy", tmp_path / "hf", allow_missing=True)
    assert report.num_rows == len(source.rows)
    task = read_yaml(TASKS / "images" / f"longva_{name}.yaml")
    layout = report.layout
    assert (task["dataset_path"], task.get("dataset_name")) == (layout.dataset, layout.config)
    assert task["test_split"] == layout.split
    assert task["task"] in layout.tasks


@pytest.mark.parametrize(
    ("question", "answer", "options", "read"),
    [
        ("Where?\nA: Left\nB: Right\nAnswer with the letter.", "B", ["Left", "Right"], "B"),
        ("Which?\nA. Green\nB. Yellow\nC.Red", "C", ["Green", "Yellow", "Red"], "C"),
        ("Which?\nA. One\nB Two\nC. Three", "b", ["One", "Two", "Three"], "B"),
        ("Slope?\nA. Uphill\nB. Downhill", "Uphill", ["Uphill", "Downhill"], "A"),
        ("A car is where?\nAnswer with a word.", "Left", [], "Left"),
    ],
)
def test_options_of_realworldqa_are_read_in_every_form_that_it_has(
    question: str, answer: str, options: list[str], read: str
) -> None:
    (doc,) = documents("realworldqa", broken("realworldqa", 0, question=question, answer=answer))[
        :1
    ]
    assert (doc["options"], doc["answer"]) == (options, read)
