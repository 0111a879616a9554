"""NExT-QA, ActivityNet-QA, Video-ChatGPT and Video-DD; the judge is a real, small server."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import image_task_data as data
import processes
import pytest
from conftest import TESTS
from test_image_tasks import TASKS, load, read_yaml

from longva_eval.errors import DataError, EvaluationError, MediaError, SettingsError
from longva_eval.local.prepare import prepare
from longva_eval.questions import judge, wups
from longva_eval.questions.outcomes import FAILED, mean_score

UTILS = load("short_video")
SNAPSHOTS = TESTS / "data" / "short_video_prompts.json"
READERS = {  # data, process_docs, prompt; lmms-eval's folder, YAML and prompt
    "nextqa_mc": (data.nextqa_mc, "nextqa_mc_docs", "nextqa_mc_text",
                  ("nextqa", "nextqa_mc_test", "nextqa_doc_to_text_mc")),
    "nextqa_oe_test": (data.nextqa_oe, "nextqa_oe_docs", "nextqa_oe_text",
                       ("nextqa", "nextqa_oe_test", "nextqa_doc_to_text")),
    "activitynetqa": (data.activitynetqa, "activitynetqa_docs", "activitynetqa_text",
                      ("activitynetqa", "activitynetqa_generation", "activitynetqa_doc_to_text")),
    "videochatgpt_gen": (data.videochatgpt, "videochatgpt_gen_docs", "videochatgpt_text",
                         ("videochatgpt", "videochatgpt_generic", "videochatgpt_doc_to_text")),
    "videochatgpt_temporal": (
        lambda: data.videochatgpt("Temporal"), "videochatgpt_temporal_docs", "videochatgpt_text",
        ("videochatgpt", "videochatgpt_temporal", "videochatgpt_doc_to_text")),
    "video_dd": (data.video_dd, "video_dd_docs", "videochatgpt_text",
                 ("video_detail_description", "video_detail_description",
                  "video_detail_description_doc_to_text")),
}  # fmt: skip


class JudgeServer(ThreadingHTTPServer):
    """Chat completions: answers with the next of its replies, the last for ever."""

    def __init__(self, *replies: Any) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/chat/completions"

    def next_reply(self, body: dict[str, Any], key: str) -> Any:
        with self.lock:
            self.requests.append(body)
            self.headers.append(key)
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:  # the base class's name
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = self.server.next_reply(body, self.headers["Authorization"])
        status, text = reply if isinstance(reply, tuple) else (200, reply)
        if status == 200 and text is not None and not text.startswith("<"):
            message = {"role": "assistant", "content": text}
            text = json.dumps({"model": body["model"] + "-0613", "choices": [{"message": message}]})
        payload = (text or "").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a judge that the environment names."""
    servers: list[JudgeServer] = []

    def start(*replies: Any) -> JudgeServer:
        server = JudgeServer(*replies)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setenv("OPENAI_API_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        monkeypatch.setenv("MODEL_VERSION", "gpt-tiny")
        monkeypatch.delenv("API_TYPE", raising=False)
        return server

    monkeypatch.setattr(judge, "BACKOFF_SECONDS", 0.001)
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def nltk_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny WordNet, in the first place where NLTK looks."""
    import nltk

    folder = tmp_path_factory.mktemp("nltk_data")
    data.write_nltk_data(folder)
    nltk.data.path.insert(0, str(folder))
    wups._tools.cache_clear()
    yield folder
    nltk.data.path.remove(str(folder))
    wups._tools.cache_clear()


def host_module(folder: str) -> Any:
    found = importlib.util.find_spec("lmms_eval.tasks")
    assert found is not None
    (root,) = found.submodule_search_locations or []
    spec = importlib.util.spec_from_file_location(f"host_{folder}", Path(root, folder, "utils.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, Path(root, folder)


def documents(name: str) -> list[dict[str, Any]]:
    source, reader, *_ = READERS[name]
    return list(getattr(UTILS, reader)(source().dataset()))


# --- prompts --------------------------------------------------------------------------------------


def test_prompts_are_those_of_the_snapshots_and_the_hosts(
    serve: Any, nltk_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve("ok")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)  # the host's, at import
    prompts = {}
    for name, (source, _, our_text, (folder, yaml_name, to_text)) in READERS.items():
        module, path = host_module(folder)
        config = read_yaml(path / f"{yaml_name}.yaml")
        settings = config.get("lmms_eval_specific_kwargs", {}).get("default", {})
        ours = [getattr(UTILS, our_text)(document) for document in documents(name)]
        theirs = [getattr(module, to_text)(row, settings) for row in source().dataset()]
        assert ours == theirs, name
        prompts[name] = ours
        own = read_yaml(TASKS / "short_video" / f"longva_{name}.yaml")
        assert own["dataset_path"] == config["dataset_path"]
        assert own["dataset_kwargs"]["cache_dir"] == config["dataset_kwargs"]["cache_dir"]
        wanted = config.get("generation_kwargs", {}).get("max_new_tokens", 1024)
        assert own.get("generation_kwargs", {}).get("max_new_tokens", 1024) == wanted
    assert prompts == json.loads(SNAPSHOTS.read_text(encoding="utf-8"))


def test_the_judge_is_told_what_the_host_tells_it(serve: Any) -> None:
    server = serve("ok", "{'pred': 'yes', 'score': 5}")
    (document, _) = documents("activitynetqa")
    UTILS.activitynetqa_result(document, ["trousers"])
    told = server.requests[-1]
    assert told["model"] == "gpt-tiny"
    assert (told["temperature"], told["max_tokens"]) == (0, 64)
    assert "evaluating the correctness of generative outputs" in told["messages"][0]["content"]
    assert "Question: is the athlete wearing trousers\nCorrect Answer: yes\nPredicted Answer: trousers" in told["messages"][1]["content"]  # noqa: E501  # fmt: skip
    assert server.headers[-1] == "Bearer secret"
    for folder, function, arguments, word in (
        ("videochatgpt", "get_eval_generic", ("q", "a", "p", "temporal", 64), "temporal accuracy"),
        ("videochatgpt", "get_eval_generic", ("q", "a", "p", "context", 64), "contextual"),
        ("videochatgpt", "get_eval_consistency", ("1", "2", "a", "p", "r", 64), "consistency"),
        ("video_detail_description", "get_eval_generic", ("q", "a", "p", 64), "detail orientation"),
    ):
        messages = judge.host_request(folder, function, *arguments)["messages"]
        assert word in messages[1]["content"]
    with pytest.raises(EvaluationError, match="has no get_eval_nonsense any more"):
        judge.host_request("videochatgpt", "get_eval_nonsense")
    assert len(server.requests) == 2  # nothing was sent by the host's code


# --- NExT-QA --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("C", "right"), ("C. throw it 0", "right"), ("throw it 0", "right"), ("A", "wrong"),
     ("A boy throws the ball", "no answer"), ("", "no answer"), (FAILED, "failed")],
)  # fmt: skip
def test_nextqa_choices_are_read(said: str, outcome: str) -> None:
    found = UTILS.nextqa_mc_result(documents("nextqa_mc")[0], [said])["accuracy"]
    assert (found["outcome"], found["score"]) == (outcome, float(outcome == "right"))
    assert (found["question_id"], found["cluster"]) == ("4882821564_0", "4882821564")
    assert found["categories"] == {"reasoning": "causal", "type": "CW"}


@pytest.mark.parametrize(
    ("row", "said", "outcome", "score"),
    [
        (0, "The dogs.", "right", 1.0),
        (0, "playing with dogs", "wrong", 1 / 3),  # `play` is nothing like a dog
        (0, "a cat", "right", 1.0),  # the additional answer
        (0, "a ball", "wrong", 1 / 3),
        (0, "an animal", "wrong", 0.8),
        (0, "xyzzy", "wrong", 0.0),
        (1, "Two", "right", 1.0),
        (1, "three", "wrong", 0.0),  # near in WordNet, but counting is exact
        (2, "", "no answer", 0.0),
        (2, FAILED, "failed", 0.0),
    ],
)
def test_open_answers_score_wups(
    nltk_data: Path, row: int, said: str, outcome: str, score: float
) -> None:
    found = UTILS.nextqa_oe_result(documents("nextqa_oe_test")[row], [said])["wups"]
    assert (found["outcome"], found["score"]) == (outcome, pytest.approx(score)), said


def test_wups_takes_the_worse_side_and_leaves_out_what_is_like_nothing() -> None:
    alike = {frozenset(("dog", "cat")): 0.8, frozenset(("dog", "ball")): 0.3}

    def similarity(first: str, second: str) -> float:
        return alike.get(frozenset((first, second)), 0.0)

    def score(first: str, second: str) -> float:
        return wups.wups_of_words(first.split(), second.split(), similarity)

    assert score("dog", "dog") == 1.0
    assert score("dog", "cat") == pytest.approx(0.8)
    assert score("dog ball", "cat") == pytest.approx(0.8)  # `ball` is like nothing there
    assert score("dog", "dog ball") == pytest.approx(0.3)
    assert score("", "dog") == score("sky", "dog") == 0.0


def test_missing_nltk_data_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    wups._tools.cache_clear()
    with pytest.raises(SettingsError, match=r"nltk.downloader wordnet punkt_tab averaged"):
        documents("nextqa_oe_test")
    with pytest.raises(DataError, match="NLTK_DATA"):
        wups.answer_words("a dog")


# --- the judge, before the run --------------------------------------------------------------------


def test_a_missing_key_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_URL", "API_TYPE"):
        monkeypatch.delenv(name, raising=False)
    (problem,) = judge.judge_problems(["longva_activitynetqa", "longva_ai2d", "video_dc499"])
    assert problem.startswith("longva_activitynetqa, video_dc499: ")
    assert "OPENAI_API_KEY is not set" in problem
    assert judge.judge_problems(["longva_ai2d", "longva_paper", "videomme"]) == []
    for name in ("activitynetqa", "videochatgpt_gen", "videochatgpt_temporal", "video_dd"):
        with pytest.raises(SettingsError, match=f"longva_{name}: .* OPENAI_API_KEY is not set"):
            documents(name)
    consistency = data.videochatgpt("Consistency").dataset()
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        UTILS.videochatgpt_consistency_docs(consistency)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OPENAI_API_KEY", "YOUR_API_KEY", "OPENAI_API_KEY is not set"),
        ("API_TYPE", "azure", "API_TYPE=azure, but these tasks know only openai"),
        ("OPENAI_API_URL", "http://localhost:8000/v1", "is not the address of chat completions"),
    ],
)
def test_wrong_settings_are_told_before_the_run(
    serve: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    serve("ok")
    monkeypatch.setenv(name, value)
    (problem,) = judge.judge_problems(["longva_paper_judged"])
    assert message in problem


def test_a_refused_key_is_told_before_the_run(serve: Any) -> None:
    refusal = json.dumps({"error": {"message": "Incorrect API key provided"}})
    server = serve((401, refusal))
    assert judge.judge_problems(["longva_video_dd"]) == []  # all there, but never asked
    (problem,) = judge.judge_problems(["longva_video_dd"], ask=True)
    assert "answers HTTP 401: Incorrect API key provided" in problem
    assert "nothing was run" in problem
    judge.judge_problems(["longva_video_dd"], ask=True)
    assert len(server.requests) == 1  # once for each judge
    with pytest.raises(SettingsError, match="HTTP 401"):
        documents("video_dd")


def test_a_judge_that_is_not_there_is_told_before_the_run(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve("ok")
    url = server.url
    server.shutdown()
    server.server_close()
    (problem,) = judge.judge_problems(["longva_activitynetqa"], ask=True)
    assert f"the judge at {url} cannot be reached" in problem


# --- the judge, in the run ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "score", "verdict"),
    [
        ("{'pred': 'yes', 'score': 4}", 4, "yes"),
        ('{"pred": "no", "score": 0}', 0, "no"),
        ("```python\n{'pred': 'Yes', 'score': 4.8}\n```", 4, "yes"),
        ("{''score': 3}", 3, None),  # as the host's own example has it
        ("{'score': '5'}", 5, None),
    ],
)
def test_judgements_are_read(text: str, score: int, verdict: str | None) -> None:
    found = judge.read_judgement(text)
    assert (found.score, found.verdict) == (score, verdict)


@pytest.mark.parametrize(
    "text",
    ["It is quite good.", "{'score': 9}", "{'score': -1}", "{'score': 1} or {'score': 5}", ""],
)
def test_what_is_no_judgement_is_not_a_score(text: str) -> None:
    with pytest.raises(judge.JudgeError, match="no score from 0 to 5"):
        judge.read_judgement(text)


def test_a_verdict_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(judge.JudgeError, match="no yes or no"):
        judge.read_judgement("{'score': 4}", with_verdict=True)


def test_activitynetqa_takes_verdict_and_score_from_one_judgement(serve: Any) -> None:
    server = serve("ok", "{'pred': 'yes', 'score': 4}")
    found = UTILS.activitynetqa_result(documents("activitynetqa")[0], ["yes"])
    accuracy, score = found["judge_accuracy"], found["judge_score"]
    assert (accuracy["outcome"], accuracy["score"]) == ("right", 1.0)
    assert (score["outcome"], score["score"], score["judge_score"]) == ("wrong", 0.8, 4)
    assert score["judge_model"] == "gpt-tiny-0613"
    assert score["judgement"] == "{'pred': 'yes', 'score': 4}"
    assert len(server.requests) == 2
    json.dumps(found)


def test_a_wrong_answer_is_wrong_and_not_a_failure(serve: Any) -> None:
    serve("ok", "{'pred': 'no', 'score': 0}")
    found = UTILS.activitynetqa_result(documents("activitynetqa")[0], ["no"])
    assert [r["outcome"] for r in found.values()] == ["wrong", "wrong"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((500, "Internal Server Error"), "answers HTTP 500: Internal Server Error"),
        ((429, json.dumps({"error": {"message": "quota"}})), "answers HTTP 429: quota"),
        ("I would say it is fine.", "no score from 0 to 5: 'I would say it is fine.'"),
        ("<html>proxy</html>", "sends no chat completion: '<html>proxy</html>'"),
        (" ", "sends an empty answer"),
    ],
)
def test_a_judge_that_fails_is_counted_and_the_answer_kept(
    serve: Any, reply: Any, reason: str
) -> None:
    serve("ok", reply)
    (document, *_) = documents("video_dd")
    found = UTILS.video_dd_result(document, ["A man throws a ball."])["judge_score"]
    assert (found["outcome"], found["score"], found["judge_score"]) == ("failed", 0.0, None)
    assert found["reason"].startswith("judge: ")
    assert reason in found["reason"]
    assert found["generated"] == "A man throws a ball."


def test_a_busy_judge_is_asked_again(serve: Any) -> None:
    server = serve("ok", (503, "busy"), (500, "oh"), "{'score': 5}")
    (document, *_) = documents("video_dd")
    found = UTILS.video_dd_result(document, ["A man throws a ball."])["judge_score"]
    assert (found["outcome"], found["judge_score"]) == ("right", 5)
    assert len(server.requests) == 4


@pytest.mark.parametrize(("said", "outcome"), [("", "no answer"), (FAILED, "failed")])
def test_what_was_not_said_is_not_judged(serve: Any, said: str, outcome: str) -> None:
    server = serve("ok")
    (document, *_) = documents("videochatgpt_gen")
    found = UTILS.videochatgpt_gen_result(document, [said])
    assert {r["outcome"] for r in found.values()} == {outcome}
    assert len(server.requests) == 1


def test_three_sides_of_a_generic_answer_are_judged(serve: Any) -> None:
    server = serve("ok", "{'score': 5}", "{'score': 3}", (400, "bad"))
    (document, *_) = documents("videochatgpt_gen")
    found = UTILS.videochatgpt_gen_result(document, ["A man throws a ball."])
    scores = {name: (r["outcome"], r["judge_score"]) for name, r in found.items()}
    assert scores == {
        "judge_correctness": ("right", 5), "judge_detail": ("wrong", 3),
        "judge_context": ("failed", None),
    }  # fmt: skip
    roles = [r["messages"][0]["content"] for r in server.requests[1:]]
    assert ["factual accuracy" in roles[0], "detail orientation" in roles[1]] == [True, True]


# --- pairs of questions ---------------------------------------------------------------------------


def test_a_pair_is_asked_one_after_the_other_and_judged_together(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = serve("ok", "{'score': 4}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    video = tmp_path / "videochatgpt/Test_Videos/v_p1QGn0IzfW0_0.mp4"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"")
    pairs = UTILS.videochatgpt_consistency_docs(data.videochatgpt("Consistency").dataset())
    assert len(pairs) == 2
    pair = pairs[0]
    to_text = UTILS.videochatgpt_consistency_text
    assert to_text(pair, {}) == "What does the man hold?"
    media, second, is_last, said, _ = to_text(pair, {}, previous_output=["a ball"], round_idx=1)
    assert (media, second, is_last) == ([str(video)], "Which thing is in his hand?", False)
    *_, is_last, said, _ = to_text(pair, {}, previous_output=["a ball", "his ball"], round_idx=2)
    assert (is_last, said) == (True, ["a ball", "his ball"])
    found = UTILS.videochatgpt_consistency_result(pair, [said])["judge_consistency"]
    assert (found["judge_score"], found["generated"], found["second_generated"]) == (
        4, "a ball", "his ball",
    )  # fmt: skip
    told = server.requests[-1]["messages"][1]["content"]
    assert "Answer to Question 1: a ball" in told
    assert "Answer to Question 2: his ball" in told
    result = UTILS.videochatgpt_consistency_result
    assert result(pair, [["a ball", ""]])["judge_consistency"]["outcome"] == "no answer"
    assert result(pair, [["a ball", FAILED]])["judge_consistency"]["outcome"] == "failed"
    assert result(pair, [FAILED])["judge_consistency"]["outcome"] == "failed"
    with pytest.raises(SettingsError, match="does not take questions in rounds"):
        result(pair, ["a ball"])


def test_a_pair_whose_video_is_missing_fails_without_being_looked_for_again(
    serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve("ok")
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # no video there
    pair = UTILS.videochatgpt_consistency_docs(data.videochatgpt("Consistency").dataset())[0]
    asked = UTILS.videochatgpt_consistency_text(pair, {}, previous_output=[FAILED], round_idx=1)
    assert asked == (None, None, True, [FAILED, FAILED], None)
    record = UTILS.videochatgpt_consistency_result(pair, [asked[3]])["judge_consistency"]
    assert record["outcome"] == "failed"
    assert record["media"] == [str(tmp_path / "videochatgpt/Test_Videos/v_p1QGn0IzfW0_0")]


def test_a_question_without_its_counterpart_is_named(serve: Any) -> None:
    serve("ok")
    source = data.videochatgpt("Consistency")
    with pytest.raises(SettingsError, match=r"1 questions .*: row 2 \(v_p1QGn0IzfW0_1\)"):
        UTILS.videochatgpt_consistency_docs(source.dataset(source.rows[:3]))


# --- bad rows and files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a3": None}, r"NExT-QA MC: .*row 1: the options a0 to a4 are"),
        ({"answer": 5}, "row 1: the answer is 5, not 0 to 4"),
        ({"qid": 0}, "rows 0 and 1 have the same question id '4882821564_0'"),
        ({"type": "X"}, "row 1: the type is 'X'"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], message: str) -> None:
    source = data.nextqa_mc()
    rows = [dict(row) for row in source.rows]
    rows[1] |= changes
    with pytest.raises(DataError, match=message):
        UTILS.nextqa_mc_docs(source.dataset(rows))


def test_a_missing_column_and_a_missing_video_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no column 'qid'"):
        UTILS.nextqa_mc_docs(data.nextqa_mc().dataset().remove_columns("qid"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (first, *_) = documents("nextqa_mc")
    with pytest.raises(MediaError, match=r"nextqa/NExTVideo/4882821564 does not exist.*nextqa_mc"):
        UTILS.nextqa_mc_visual(first)


# --- as a user starts it --------------------------------------------------------------------------


def test_the_groups_name_what_the_paper_reports() -> None:
    paper = read_yaml(TASKS / "longva_paper" / "longva_paper.yaml")
    judged = read_yaml(TASKS / "longva_paper" / "longva_paper_judged.yaml")
    assert paper["task"] == [
        "vniah", "longva_videomme", "longva_mlvu_dev", "longva_short_video", "longva_images",
    ]  # fmt: skip
    assert judged["task"] == ["longva_short_video_judged"]
    parts = read_yaml(TASKS / "short_video" / "longva_short_video_judged.yaml")["task"]
    own = {read_yaml(path).get("task") for path in (TASKS / "short_video").glob("longva_*.yaml")
           if "group" not in read_yaml(path)}  # fmt: skip
    assert set(parts) == own - {"longva_nextqa_mc", "longva_nextqa_oe_test", "longva_nextqa_oe_val"}
    needing = [name for name in own if judge.judge_problems([str(name)])]
    assert set(needing) <= set(parts)


def test_the_host_shows_our_message_and_not_that_it_gave_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    importlib.import_module("lmms_eval.models")  # loads the plugins
    from lmms_eval.api.task import ConfigurableTask

    importlib.import_module("lmms_eval.tasks")
    rows = data.activitynetqa().write(tmp_path / "rows")
    config = {
        "task": "judged",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(rows)}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "process_docs": UTILS.activitynetqa_docs,
        "doc_to_text": UTILS.activitynetqa_text,
        "doc_to_target": UTILS.doc_to_target,
        "process_results": UTILS.activitynetqa_result,
        "metric_list": [{"metric": "judge_score", "aggregation": mean_score,
                         "higher_is_better": True}],
    }  # fmt: skip
    with pytest.raises(SettingsError, match=r"longva_activitynetqa: .* OPENAI_API_KEY is not set"):
        ConfigurableTask(config=config)


@pytest.mark.process
def test_pictures_and_short_videos_run_offline_and_print_in_the_papers_order(
    tmp_path: Path, nltk_data: Path, serve: Any
) -> None:
    server = serve("{'pred': 'yes', 'score': 4}")
    hf_home = tmp_path / "hf"
    sources = {
        "ai2d": data.ai2d(), "chartqa": data.chartqa(), "docvqa_val": data.docvqa(),
        "infovqa_val": data.infovqa(), "realworldqa": data.realworldqa(), "mmmu_val": data.mmmu(),
        "nextqa_mc": data.nextqa_mc(), "nextqa_oe_test": data.nextqa_oe(),
        "activitynetqa": data.activitynetqa(), "videochatgpt_gen": data.videochatgpt(),
        "videochatgpt_consistency": data.videochatgpt("Consistency"),
    }  # fmt: skip
    for name, source in sources.items():
        folder = tmp_path / "copy" / name
        source.write(folder)
        for row in source.rows:
            video = row.get("video", row.get("video_name"))
            if video is not None:
                prefix = "v_" if name == "activitynetqa" else ""
                data.write_video(folder / f"{prefix}{video}.mp4")
        prepare(name, folder, hf_home, allow_missing=True)
    environment = os.environ | {
        "HF_HOME": str(hf_home), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1", "NLTK_DATA": str(nltk_data),
    }  # fmt: skip
    judged = "longva_activitynetqa,longva_videochatgpt_gen,longva_videochatgpt_consistency"
    done = processes.run(
        [
            sys.executable, "-m", "lmms_eval", "--model", "longva",
            "--model_args", "pretrained=longva-tiny,device=cpu,max_frames_num=4",
            "--tasks", f"longva_images,longva_short_video,{judged}", "--limit", "2",
            "--output_path", "out", "--log_samples",
        ],
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    order = ["longva_images", *read_yaml(TASKS / "images" / "longva_images.yaml")["task"]]
    assert [name for name in results if name in order] == order
    printed = [line.split()[1:3] for line in done.stdout.splitlines() if line.startswith("| - lon")]
    assert [name.strip("|") for _, name in printed][:6] == order[1:]
    for task, metrics in {
        "longva_ai2d": ["accuracy"], "longva_chartqa": ["relaxed_accuracy"],
        "longva_docvqa_val": ["anls"], "longva_infovqa_val": ["anls"],
        "longva_realworldqa": ["accuracy"], "longva_mmmu_val": ["accuracy"],
        "longva_nextqa_mc": ["accuracy"], "longva_nextqa_oe_test": ["wups"],
        "longva_activitynetqa": ["judge_accuracy", "judge_score"],
        "longva_videochatgpt_gen": ["judge_correctness", "judge_detail", "judge_context"],
        "longva_videochatgpt_consistency": ["judge_consistency"],
    }.items():  # fmt: skip
        (path,) = (tmp_path / "out").rglob(f"*_samples_{task}.jsonl")
        samples = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for metric in metrics:
            records = [sample[metric] for sample in samples]
            assert len(records) == 2, task
            score = sum(record["score"] for record in records) / 2
            assert results[task][f"{metric},none"] == pytest.approx(score), task
            outcomes = {record["outcome"] for record in records}
            assert outcomes <= {"right", "wrong", "no answer"}, task
            asked = [r for r in records if "judge_score" in r and r["outcome"] != "no answer"]
            assert all(r["judge_score"] == 4 and r["judge_model"] == "gpt-tiny-0613" for r in asked)
    (path,) = (tmp_path / "out").rglob("*_samples_longva_videochatgpt_consistency.jsonl")
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])["judge_consistency"]
    assert first["question"] == "What does the man hold?"
    assert first["second_question"] == "Which thing is in his hand?"
    assert isinstance(first["second_generated"], str)
    assert len(server.requests) > 1
