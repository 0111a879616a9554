"""What the doctor finds, and what it says when something is broken."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from test_prepare import layouts, make_copy, rows

from longva_eval.cli import main
from longva_eval.commands.doctor import render
from longva_eval.errors import SettingsError
from longva_eval.host.names import check_start
from longva_eval.local import doctor
from longva_eval.local.doctor import Diagnosis, Finding, TaskVerdict
from longva_eval.local.prepare import data_status, prepare


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE", "HF_ENDPOINT",
                 "OPENAI_API_KEY", "API_TYPE", "LMMS_EVAL_PLUGINS",
                 "HF_DATASETS_OFFLINE"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    """One whole look, for a checkpoint, a task that can run, one without data, and none."""
    home = tmp_path_factory.mktemp("home")
    tasks = "vniah_small,longva_mlvu_test,no_such_task"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(
            doctor,
            "_run",
            lambda command, given: processes.run(command, env={**os.environ, **given}),
        )
        status = main(["doctor", "--json", "--tasks", tasks, "--hf-home", str(home),
                       "--pretrained", "longva-tiny"])  # fmt: skip
    assert status == 1  # not everything that was asked for can run
    found = json.loads(printed.getvalue())
    assert found.pop("can_run") is False
    return Diagnosis(
        findings=tuple(Finding(**finding) for finding in found["findings"]),
        tasks=tuple(
            TaskVerdict(**{**task, "reasons": tuple(task["reasons"])}) for task in found["tasks"]
        ),
        seconds=found["seconds"],
    )


def of(findings: list[Finding] | tuple[Finding, ...], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


@pytest.mark.process
def test_a_working_environment_decodes_and_finds_our_models(asked: Diagnosis) -> None:
    for decoder in ("decord", "pyav"):
        assert of(asked.findings, decoder).status == "ok"
    assert "the frames PyAV gives" in of(asked.findings, "decord").text
    models = of(asked.findings, "models")
    assert models.status == "ok"
    assert "registered, and ours" in models.text
    assert of(asked.findings, "evaluation").status == "ok"
    assert "longva-tiny a question" in of(asked.findings, "evaluation").text
    assert of(asked.findings, "longva-tiny").status == "ok"
    assert [f for f in asked.findings if f.status == "problem"] == []


@pytest.mark.process
def test_each_task_that_is_asked_for_gets_its_verdict(asked: Diagnosis) -> None:
    verdicts = {task.name: task for task in asked.tasks}
    assert verdicts["vniah_small"].can_run
    assert verdicts["vniah_small"].reasons[0].endswith("documents")
    without_data = verdicts["longva_mlvu_test"]
    assert not without_data.can_run
    assert "longva-eval prepare mlvu_test --from DIR" in without_data.reasons[0]
    assert "There is no task 'no_such_task'" in verdicts["no_such_task"].reasons[0]
    assert not asked.can_run


@pytest.mark.process
def test_an_evaluation_that_cannot_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with filelock 4.3.1: a module that lmms-eval imports before it evaluates is gone."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['filelock._api'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    (finding,) = doctor._check_evaluation()
    assert finding.status == "problem"
    assert "filelock._api" in finding.text


def test_the_doctor_and_run_tell_of_a_package_in_the_same_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "filelock-4.3.1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: filelock\nVersion: 4.3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (finding,) = doctor._check_packages()
    assert finding.status == "problem"
    assert finding.text.startswith("filelock 4.3.1 is installed")
    with pytest.raises(SettingsError, match=re.escape(f"{finding.text} Mend: {finding.mend}")):
        check_start()


def test_the_page_names_every_problem_with_its_way_out() -> None:
    findings = (
        Finding(area="packages", name="versions", status="ok", text="fine"),
        Finding(area="decoding", name="decord", status="problem", text="it broke", mend="mend it"),
        Finding(area="data", name="a", status="note", text="not laid out", mend="prepare a"),
        Finding(area="data", name="b", status="note", text="not laid out", mend="prepare b"),
    )
    tasks = (TaskVerdict(name="quiz", can_run=False, reasons=("no data",)),)
    page = render(Diagnosis(findings=findings, tasks=tasks, seconds=2.0), width=60)
    assert "  PROBLEM decord        it broke\n" in page
    assert "-> mend it" in page
    assert "not laid out  a, b" in page  # one line for all
    assert "PROBLEM quiz  cannot run" in page
    assert page.endswith("2 problems and 1 note, in 2 s.")  # the task is one of them
    assert max(map(len, page.splitlines())) <= 60


@pytest.mark.process
def test_a_decoder_that_does_not_load_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord/__init__.py").write_text("raise OSError('libavformat.so.58: not found')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor._check_decoder("decord")
    assert finding.status == "problem"
    assert "libavformat.so.58" in finding.text
    assert finding.mend == "pip install --force-reinstall decord"


@pytest.mark.process
def test_a_decoder_that_takes_the_process_down_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "decord").mkdir()
    (tmp_path / "decord/__init__.py").write_text("import os, signal; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (finding,) = doctor._check_decoder("decord")
    assert (finding.status, finding.text) == ("problem", "the process was ended by signal 11")


@pytest.mark.process
def test_a_plugin_that_fails_and_takes_ours_with_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    information = tmp_path / "broken_plugin-1.0.dist-info"
    information.mkdir()
    text = "Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1\n"
    (information / "METADATA").write_text(text)
    (information / "entry_points.txt").write_text("[lmms_eval.models]\nx = broken_plugin:models\n")
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a checkout's own metadata would come first
    finding = of(doctor._check_models(), "model longva")
    assert finding.status == "problem"
    assert "not ours: our entry point was not read" in finding.text
    assert "uninstall broken_plugin" in finding.mend


def test_rows_that_lmms_eval_would_look_for_elsewhere_are_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "elsewhere"))
    (finding,) = doctor._check_cache_variables(tmp_path / "hf")
    assert finding.status == "problem"
    assert finding.mend == "unset HF_DATASETS_CACHE"


def test_data_are_described_as_they_lie(tmp_path: Path) -> None:
    layout = layouts(tmp_path)["quiz"]
    home = tmp_path / "hf"
    assert doctor._describe(data_status(layout, home)).text == "not laid out"
    source = make_copy(tmp_path / "copy", rows())
    prepare("quiz", source, home, layouts={"quiz": layout})
    found = doctor._describe(data_status(layout, home))
    assert (found.status, found.text) == ("ok", "6 rows, 2 of 2 videos, 1 of 2 subtitles")
    # As copies are that `prepare` has not looked at: lmms-eval's own, or of an older version.
    (tmp_path / "tasks/some_task/utils.py").write_text(
        "from longva_eval.errors import DataError\n"
        "def process_docs(dataset):\n    raise DataError(f'Quiz: row {len(dataset) - 1}: no video')"
    )
    assert doctor._describe(data_status(layout, home)).status == "ok"
    asked = doctor._describe(data_status(layout, home, ask=True))
    assert (asked.status, asked.text) == ("note", "partly: Quiz: row 5: no video")
    (home / "quiz/data/clip_0.mp4").unlink()
    partly = doctor._describe(data_status(layout, home))
    assert partly.text == "partly: 1 of 2 video files"
    assert "on_error=skip" in partly.mend


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[]")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_that_answers_is_no_problem(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    monkeypatch.setenv("no_proxy", "*")
    assert doctor._hub_problem() == ""


def test_no_network_is_told_and_offline_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    assert "http://127.0.0.1:9 does not answer" in doctor._hub_problem()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert doctor._hub_problem() == "HF_HUB_OFFLINE was chosen"
