"""`longva-eval view`: what a folder of runs shows while they answer."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import find_chromium, open_browser, open_tab
from page_runs import needle_folder, questions, write_run
from playwright.sync_api import expect
from video_files import Clip, write_video

from longva_eval.cli import main
from longva_eval.reports.page.view import FolderView, serve
from longva_eval.running.journal import Journal, unfinished_runs

__all__ = ["needle_folder"]

SETTINGS = {"checkpoint": "lmms-lab/longva-tiny", "frames": {"max_frames": 16}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    film = write_video(tmp_path / "runs" / "clip", Clip())
    rows = questions(9, video=film, frames=(0, 9, 19), num_frames_total=20)
    write_run(tmp_path / "runs" / "done", rows)
    return tmp_path / "runs"


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with serve(FolderView(folder), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def ask(port: int, path: str, host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode("utf-8")
    connection.close()
    return answer.status, text


def test_it_is_served_to_this_machine_only(port: int) -> None:
    with serve(FolderView(Path()), 0) as server:
        assert server.server_address[0] == "127.0.0.1"
    assert ask(port, "/")[0] == 200
    # A page elsewhere whose name leads to this machine.
    status, text = ask(port, "/", host="evil.example")
    assert status == 403
    assert "longva_mini" not in text
    assert ask(port, "/strip/unknown")[0] == 404
    assert ask(port, "/../../etc/passwd")[0] == 404


def test_answers_are_seen_while_they_come_and_the_journal_is_not_touched(
    folder: Path, port: int
) -> None:
    assert json.loads(ask(port, "/state")[1])["progress"].strip() == ""
    journal = Journal(folder / "new" / "journal", SETTINGS)
    for number in range(3):
        journal.put(
            {"n": number}, {"text": f"<b>{number}</b>"}, about=f"Task mini, document {number}"
        )
    file = next((folder / "new").rglob("*.jsonl"))
    with file.open("ab") as half:
        half.write(b'{"crc":"0000')  # a line in the making
    before = file.read_bytes()
    (run,) = unfinished_runs(folder)
    assert [value["text"] for _, value in run.answers] == ["<b>0</b>", "<b>1</b>", "<b>2</b>"]
    assert run.is_running
    told = json.loads(ask(port, "/state")[1])["progress"]
    assert "new, longva-tiny, 16 frames</bdi>: 3 answered" in told
    assert "&lt;b&gt;2&lt;/b&gt;" in told
    assert "<b>" not in told
    assert file.read_bytes() == before
    journal.finish()
    assert json.loads(ask(port, "/state")[1])["progress"].strip() == ""


def test_an_empty_folder_says_what_will_be_there(tmp_path: Path) -> None:
    page = FolderView(tmp_path).page().decode()
    assert "Nothing has been answered yet." in page


def test_a_needle_test_below_the_folder_is_shown(needle_folder: Path) -> None:
    assert "Controls: needle only" in FolderView(needle_folder.parent).page().decode()


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")
def test_in_a_browser_new_results_appear_and_frames_are_read_on_demand(
    folder: Path, port: int
) -> None:
    address = f"http://127.0.0.1:{port}"
    with open_browser() as browser:
        tab = open_tab(browser, f"{address}/#sample=longva_mini%2F000-1")
        expect(tab.page.locator(".film .picture")).to_have_count(3, timeout=60_000)
        tab.page.keyboard.press("Escape")
        journal = Journal(folder / "b" / "journal", SETTINGS)
        journal.put({}, {"text": "C"}, about="Task mini, document 1")
        expect(tab.page.locator("#live")).to_contain_text("1 answered")
        journal.finish(remove=True)
        write_run(folder / "b", questions(12), model="another")
        expect(tab.page.locator(".runs li")).to_have_count(2, timeout=20_000)
        assert tab.errors == []
        assert all(asked.startswith(address) for asked in tab.requests)


def test_wrong_calls_say_what_to_do(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[Any]
) -> None:
    assert main(["view", str(tmp_path / "nothing")]) == 1
    assert "is no folder" in capsys.readouterr().err
    assert main(["view", str(tmp_path), "--port", str(port)]) == 1
    assert f"--port {port} cannot be used" in capsys.readouterr().err
