"""What the adapter does when things go wrong, and what `longva-eval run` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OPEN, Golden
from host_runs import videomme_line, write_host_run
from lmms_eval.api.instance import Instance

from longva_eval.commands import run
from longva_eval.commands.run import summary_lines
from longva_eval.errors import EvaluationError, NumericalError, SettingsError
from longva_eval.host.evaluation import Finished, problems_of
from longva_eval.host.patches import HostRun
from longva_eval.model_adapters.longva import LongVA
from longva_eval.needle.asking import run_grid
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.media import open_haystack
from longva_eval.needle.results import NeedleAnswer
from longva_eval.questions.outcomes import FAILED
from longva_eval.reports.reading.runs import read_run
from longva_eval.running.journal import Journal, journal_settings

VIDEO = str(OPEN / "inputs/landscape_320x180.mp4")
GENERATE = {"max_new_tokens": 6, "do_sample": False, "temperature": 0}
GOOD: dict[str, Any] = {"media": [VIDEO]}
TEXT: dict[str, Any] = {"media": []}
BROKEN: dict[str, Any] = {"media": ["/nowhere/film.mp4"]}


def adapter(**settings: Any) -> LongVA:
    values = {"device": "cpu", "dtype": "float32", "max_frames_num": 2, **settings}
    return LongVA(pretrained=str(OPEN / "longva_tiny"), **values)


def ask(
    number: int,
    context: str = "What happens?",
    second: Any = GENERATE,
    *,
    kind: str = "generate_until",
    to_visual: Callable[[Any], Any] = lambda document: document["media"],
    **metadata: Any,
) -> Instance:
    return Instance(
        request_type=kind,
        arguments=(context, second, to_visual, number, "task", "test"),
        idx=0,
        metadata={"task": "task", "doc_id": number, "repeats": 1, **metadata},
    )


def hand_over(model: LongVA, *documents: dict[str, Any]) -> None:
    model.task_dict["task"] = {"test": list(documents)}


def texts(model: LongVA, *requests: Instance) -> list[Any]:
    return [result.text for result in model.generate_until(requests)]


@pytest.mark.process
def test_a_missing_video_fails_by_name_and_the_others_are_answered() -> None:
    model = adapter(on_error="skip")
    hand_over(model, GOOD, BROKEN, GOOD)
    answers = texts(model, ask(0), ask(1), ask(2))
    assert answers[1] == FAILED
    assert answers[0] == answers[2] != FAILED
    info = model.sample_info("task", 1)
    assert info is not None
    assert info["outcome"] == "failed"
    assert info["reason"].startswith("MediaError: Task task, document 1: ")
    assert "/nowhere/film.mp4" in info["reason"]
    assert model.recipe()["outcomes"]["task"] == {
        "answered": 2, "failed": 1, "degenerate": 0, "empty": 0, "shortened": 0,
    }  # fmt: skip
    good = model.sample_info("task", 0)
    assert good is not None
    assert (good["frames_asked"], good["frames_seen"], good["outcome"]) == (2, 2, "answered")
    assert good["videos"][0]["frame_indices"]
    assert good["finish"] in ("stop", "length")


def test_more_failures_than_allowed_end_the_run() -> None:
    model = adapter(on_error="skip", max_failed=1)
    hand_over(model, TEXT, BROKEN, BROKEN)
    with pytest.raises(EvaluationError, match=r"2 of 3 documents failed.*\n.*/nowhere/film.mp4"):
        texts(model, ask(0), ask(1), ask(2))


def test_a_task_that_gives_up_and_a_missing_picture_fail_too() -> None:
    def give_up(document: Any) -> Any:
        raise SystemExit("video path:film.mp4 does not exist, please check")

    model = adapter(on_error="skip", max_failed=3)
    hand_over(model, {}, {"media": [None]}, TEXT)
    answers = texts(model, ask(0, to_visual=give_up), ask(1), ask(2))
    assert [answer == FAILED for answer in answers] == [True, True, False]
    reasons = [(model.sample_info("task", n) or {})["reason"] for n in range(3)]
    assert "the task gave up: video path:film.mp4" in reasons[0]
    assert "no picture or video" in reasons[1]
    assert reasons[2] is None


def test_a_prompt_beyond_the_context_can_fail_alone() -> None:
    model = adapter(on_error="skip", max_context_tokens=100)
    hand_over(model, TEXT, TEXT)
    answers = texts(model, ask(0), ask(1, "What happens? " * 200))
    assert [answer == FAILED for answer in answers] == [False, True]
    assert "context holds 100" in (model.sample_info("task", 1) or {})["reason"]


def poison(model: LongVA, word: str) -> None:
    """Let a word's embedding overflow, as damaged weights or float16 do."""
    checkpoint = model.session.checkpoint
    token = checkpoint.tokenizer.encode(word, add_special_tokens=False)[0]
    checkpoint.model.model.embed_tokens.weight.data[token] = float("nan")


@pytest.mark.parametrize("second", [GENERATE, {"score_column": "answer", "max_new_tokens": 2}])
def test_nan_can_cost_its_own_question_only(second: dict[str, Any]) -> None:
    documents = [{"media": [], "answer": "Yes"}] * 2
    stopping = adapter()
    poison(stopping, "Zebra")
    hand_over(stopping, *documents)
    with pytest.raises(NumericalError, match=r"Task task, document 1: .*NaN or infinite logits"):
        texts(stopping, ask(0, "Is it?", second), ask(1, "Zebra", second))
    model = adapter(on_error="skip")
    poison(model, "Zebra")
    hand_over(model, *documents)
    answers = texts(model, ask(0, "Is it?", second), ask(1, "Zebra", second))
    assert [answer == FAILED for answer in answers] == [False, True]
    assert (model.sample_info("task", 1) or {})["reason"].startswith("NumericalError")


def test_failed_likelihoods_never_become_an_option() -> None:
    model = adapter(on_error="skip")
    hand_over(model, BROKEN)
    options = [ask(0, second=letter, kind="loglikelihood") for letter in "AB"]
    with pytest.raises(EvaluationError, match=r"film.mp4.* on_error=skip cannot help here"):
        model.loglikelihood(options)


@pytest.mark.slow
def test_rounds_after_a_failure_fail_without_asking() -> None:
    def to_text(
        document: Any, *, previous_output: list[str], round_idx: int, previous_round_info: Any
    ) -> tuple[Any, Any, bool, list[str], Any]:
        media = BROKEN["media"] if round_idx == 1 else []
        return media, "And now?", round_idx == 3, previous_output, None

    request = Instance(
        request_type="generate_until_multi_round",
        arguments=("Hello", GENERATE, lambda document: [], to_text, 0, "task", "test"),
        idx=0,
        metadata={"task": "task", "doc_id": 0, "repeats": 1},
    )
    model = adapter(on_error="skip")
    hand_over(model, {})
    (answers,) = model.generate_until_multi_round([request])
    assert len(answers) == 3
    assert [answer == FAILED for answer in answers] == [False, True, True]
    assert (model.sample_info("task", 0) or {})["outcome"] == "failed"


def test_requests_that_only_fill_up_are_neither_asked_nor_counted() -> None:
    model = adapter()
    hand_over(model, TEXT)
    answers = texts(model, ask(0), ask(0, __padding_only__=True))
    assert answers[1] == ""
    assert model.recipe()["journal"]["answers_computed"] == 1


def begin(model: LongVA, output: Path, *, fresh: bool = False) -> LongVA:
    model.begin_run(HostRun(output=output, fresh=fresh))
    hand_over(model, TEXT, TEXT, TEXT, TEXT | {"answer": "Yes"})
    return model


QUESTIONS = ("What is first?", "What is last?", "How many rings?")
FORCED = ask(3, "Is it?", {"score_column": "answer", "max_new_tokens": 2})


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_answers_and_computes_the_rest(tmp_path: Path) -> None:
    requests = [*(ask(n, question) for n, question in enumerate(QUESTIONS)), FORCED]
    whole = begin(adapter(), tmp_path / "whole").generate_until(requests)

    class KilledError(Exception):
        pass

    model = begin(adapter(), tmp_path / "out")
    journal = model._answering.journal
    assert journal is not None
    put, left = journal.put, [2]

    def put_some(*arguments: Any, **more: Any) -> None:
        if not left[0]:
            raise KilledError  # the third answer is there, and not yet written
        left[0] -= 1
        put(*arguments, **more)

    journal.put = put_some  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        model.generate_until(requests)
    journal.close()
    again = begin(adapter(), tmp_path / "out")
    resumed = again.generate_until(requests)
    assert [result.text for result in resumed] == [result.text for result in whole]
    assert [r.token_counts for r in resumed] == [r.token_counts for r in whole]
    recipe = again.recipe()
    assert recipe["journal"]["answers_taken_over"] == 2
    assert recipe["journal"]["answers_computed"] == 2
    again.end_run()
    third = begin(adapter(), tmp_path / "out")
    assert third.generate_until(requests) == whole
    assert third.recipe()["engine"]["tokens_computed"] == 0


@pytest.mark.slow
def test_starting_over_computes_everything(tmp_path: Path) -> None:
    for fresh in (False, True):
        model = begin(adapter(), tmp_path, fresh=fresh)
        model.generate_until([ask(0)])
        assert model.recipe()["journal"]["answers_computed"] == 1
    model = begin(adapter(fresh=True), tmp_path)
    model.generate_until([ask(0)])
    assert model.recipe()["journal"]["answers_computed"] == 1


@pytest.mark.slow
def test_other_generation_settings_are_another_answer(tmp_path: Path) -> None:
    model = begin(adapter(), tmp_path)
    model.generate_until([ask(0)])
    model.generate_until([ask(0, second=GENERATE | {"max_new_tokens": 2})])
    assert model.recipe()["journal"]["answers_computed"] == 2


@pytest.mark.slow
def test_a_run_with_other_settings_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    first = begin(adapter(), tmp_path)
    first.generate_until([ask(0)])
    with pytest.raises(SettingsError, match=r"frames.max_frames is 2 there and 3 now"):
        begin(adapter(max_frames_num=3), tmp_path)
    first.end_run()
    begin(adapter(max_frames_num=3), tmp_path)


@pytest.mark.slow
def test_likelihoods_are_taken_over_too(tmp_path: Path) -> None:
    options = [ask(0, second=letter, kind="loglikelihood") for letter in "ABCD"]
    first = begin(adapter(), tmp_path).loglikelihood(options)
    again = begin(adapter(), tmp_path)
    assert [r.text for r in again.loglikelihood(options)] == [r.text for r in first]
    assert again.recipe()["journal"]["answers_taken_over"] == 4


def test_a_model_that_nobody_runs_keeps_no_journal() -> None:
    model = adapter()
    hand_over(model, TEXT)
    model.generate_until([ask(0)])
    assert model.recipe()["journal"]["folder"] is None


class StoppedError(Exception):
    pass


def stop_after(count: int) -> Callable[..., None]:
    """Raises at the call after so many."""
    calls = [0]

    def note(*_: Any) -> None:
        calls[0] += 1
        if calls[0] > count:
            raise StoppedError

    return note


@pytest.mark.slow
def test_a_needle_grid_is_resumed(open_golden: Golden, tmp_path: Path) -> None:
    haystack = open_haystack(open_golden.haystack_videos())
    grid = NeedleGrid(frame_counts=(2, 4), depths=(0.0, 1.0))

    def run(journal: Journal | None, on_answer: Any = lambda _: None) -> list[NeedleAnswer]:
        return run_grid(
            open_golden.session, haystack, open_golden.needles()[:2], grid,
            max_new_tokens=2, journal=journal, on_answer=on_answer,
        )  # fmt: skip

    settings = journal_settings(open_golden.session.describe())
    whole = run(None)
    with Journal(tmp_path, settings) as journal, pytest.raises(StoppedError):
        run(journal, stop_after(3))
    with Journal(tmp_path, settings) as journal:
        assert run(journal) == whole
        # The one whose news nobody could take is in the journal too.
        assert (journal.num_taken_over, journal.num_written) == (4, 4)


def test_the_hosts_cache_keeps_no_failures() -> None:
    from lmms_eval.evaluator import ResponseCache  # as the evaluator uses it

    adapter()
    assert not ResponseCache._is_valid_response(FAILED, "generate_until")
    assert not ResponseCache._is_valid_response(["A", FAILED], "generate_until_multi_round")
    assert ResponseCache._is_valid_response("A", "generate_until")


# What `longva-eval run` makes of a finished evaluation.


def finished(tmp_path: Path, **changes: Any) -> Finished:
    results = {
        "configs": {"t": {}},
        "results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": "N/A"}},
        "n-samples": {"t": {"original": 9, "effective": 2}},
    }
    record = {"outcome": "failed", "score": 0}
    samples = {"t": [{"doc_id": n, "m": record, "by_group": record} for n in range(2)]}
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "1_results.json"
    path.write_text(json.dumps(results))
    lines = tmp_path / "1_samples_t.jsonl"
    lines.write_text("".join(json.dumps(sample) + "\n" for sample in samples["t"]))
    run: dict[str, Any] = {
        "arguments": {"output_path": str(tmp_path)},
        "results": results,
        "samples": samples,
        "files": [path, lines],
    }
    return Finished(**run | changes)


def test_a_complete_run_has_no_problems(tmp_path: Path) -> None:
    run = finished(tmp_path)
    assert problems_of(run) == []
    text = "\n".join(summary_lines(run))
    assert "t: acc 0.5; 2 failed, 0 no answer" in text
    assert "1_results.json" in text


def test_run_and_show_count_the_same_questions_as_unanswered(tmp_path: Path) -> None:
    """`run` said "0 no answer" of a task of the host where `show` said 12."""
    lines = [videomme_line(n, "" if n < 12 else "A", "A") for n in range(30)]
    write_host_run(tmp_path, {"videomme": lines}, results={"videomme": {"m,none": 60.0}})
    results = json.loads(next(tmp_path.glob("*_results.json")).read_text(encoding="utf-8"))
    run = Finished(arguments={}, results=results, samples={"videomme": lines})
    assert "videomme: m 60; 0 failed, 12 no answer" in "\n".join(summary_lines(run))
    assert read_run(tmp_path).tasks["videomme"].counts()["no answer"] == 12
    run = Finished(arguments={}, results=results, samples=None)
    assert "what failed is not known" in "\n".join(summary_lines(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": None}, "ended without results"),
        ({"results": {"configs": {}}}, "No task was evaluated"),
        ({"results": {"configs": {"t": {}}, "results": {"t": {"alias": "t"}}}}, "has no result"),
        (
            {"results": {"configs": {"t": {}}, "results": {"t": {"acc,none": float("nan")}}}},
            "acc is nan",
        ),
        ({"samples": {"t": []}}, "2 documents were asked for, 0 are there"),
        ({"files": []}, "No results file was written"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert any(message in problem for problem in problems_of(finished(tmp_path, **changes)))


@pytest.mark.parametrize("name", ["1_results.json", "1_samples_t.jsonl"])
def test_a_file_that_was_cut_off_is_renamed(tmp_path: Path, name: str) -> None:
    run = finished(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-10])
    (problem,) = problems_of(run)
    assert f"{name}.incomplete is incomplete" in problem
    assert not path.exists()


def test_a_run_has_one_control_and_only_our_models_have_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []

    def run_host(arguments: list[str]) -> tuple[int, list[Any]]:
        given.append(list(arguments))
        return 0, []

    monkeypatch.setattr(run, "run_host", run_host)
    told = ["--model", "longva", "--model_args", "pretrained=x", "--tasks", "t"]
    run.main(["--control", "blind", *told])
    assert given == [
        ["--model", "longva", "--model_args", "pretrained=x,control=blind", "--tasks", "t"]
    ]
    with pytest.raises(SettingsError, match="a run has one control"):
        run.main(["--control", "blind,shuffle", *told])
    with pytest.raises(SettingsError, match=r"for our models, longva, .*not for qwen2_5_vl"):
        run.main(["--control", "blind", "--model", "qwen2_5_vl", "--tasks", "t"])


def test_answers_are_drawn_at_a_temperature_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(run, "run_host", lambda arguments: given.append(arguments) or (0, []))
    run.main(["--temperature", "0.7", "--tasks", "t", "--gen_kwargs", "max_new_tokens=5"])
    assert given == [
        ["--tasks", "t", "--gen_kwargs", "max_new_tokens=5,temperature=0.7,do_sample=True"]
    ]
    with pytest.raises(SettingsError, match=r"--temperature 0 draws nothing: give a number above"):
        run.main(["--temperature", "0", "--tasks", "t"])
    with pytest.raises(SettingsError, match="say the same thing twice"):
        run.main(["--temperature", "1", "--tasks", "t", "--gen_kwargs", "do_sample=False"])
    assert len(given) == 1
