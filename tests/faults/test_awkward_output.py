"""Outputs that are full, closed, or spell otherwise; places that cannot be written; odd names."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from page_runs import sample, write_run

from longva_eval.cli import main

NAME = "evil\x1b[2J\x1b]0;owned\x07 日本 -1+1"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run whose model, questions and answers hold what a terminal would obey."""
    lines = [
        sample(number, text="A" if number else "\x1b[31mnone\x9b", question=f"What? {NAME}",
               categories={"kind": "=1+1", "\x1b[5m": "-2+3"})
        for number in range(6)
    ]  # fmt: skip
    write_run(tmp_path / "run", lines, model=NAME)
    return tmp_path / "run"


def call(
    *arguments: str, stdout: int = subprocess.PIPE, **environment: str
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "longva_eval", *arguments], stdout=stdout, stderr=subprocess.PIPE,
        env=os.environ | environment, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, (done.stdout or b"").decode("latin-1"), done.stderr.decode()


READING = (["show"], ["show", "--failed"], ["show", "--question", "000-1"], ["compare"],
           ["compare", "--by", "kind"], ["compare", "--format", "csv"])  # fmt: skip


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_nothing_in_a_file_commands_the_terminal(
    run_folder: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], str(run_folder), *command[1:]]) == 0
    shown = capsys.readouterr().out
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r"}
    assert "日本" in shown or "--question" in command or "--failed" in command


@pytest.mark.process
def test_a_terminal_in_latin_1_and_one_that_shows_colours(run_folder: Path) -> None:
    status, shown, error = call("show", str(run_folder), PYTHONIOENCODING="latin-1")
    assert (status, error) == (0, "")
    assert "\\u65e5\\u672c" in shown
    master, slave = pty.openpty()
    try:
        assert call("compare", str(run_folder), stdout=slave)[0] == 0
        shown = os.read(master, 1 << 16).decode()
    finally:
        os.close(master)
        os.close(slave)
    assert "\\x1b[2J" in shown
    assert "\x1b[2J" not in shown
    assert "\x07" not in shown


@pytest.mark.process
@pytest.mark.parametrize(
    "command", [["show"], ["compare"], ["--help"], ["show", "--help"], ["prepare", "--list"]],
    ids=" ".join,
)  # fmt: skip
def test_a_full_standard_output_is_a_clear_error(run_folder: Path, command: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    needs_run = command in (["show"], ["compare"])
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        status, _, error = call(*command, *([str(run_folder)] if needs_run else []),
                                stdout=full.fileno())  # fmt: skip
    assert status == 1
    assert error == (
        f"longva-eval {command[0]}: Standard output cannot be written: No space left on device.\n"
    )


WRITING = {
    "compare": ["compare", "no-run", "--out", "{}"],
    "heatmap": ["heatmap", "no-run.json", "--out", "{}.png"],
    "report": ["report", "no-run", "--out", "{}"],
    "submit": ["submit", "egoschema", "no-run", "--out", "{}"],
    "niah": ["niah", "--pretrained", "longva-tiny", "--frames", "2", "--out", "{}"],
    "sweep": ["sweep", "--pretrained", "longva-tiny", "--tasks", "longva_mini", "--frames", "2",
              "--out", "{}"],
    "demo": ["demo", "--out", "{}"],
    "prepare": ["prepare", "egoschema", "--from", "no-folder", "--hf-home", "{}"],
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(WRITING))
def test_an_output_that_cannot_be_written_is_told_before_any_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file/below", Path("/proc/no-such-place/out")):
        assert main([part.replace("{}", str(place)) for part in WRITING[command]]) == 1
        assert "cannot be written" in capsys.readouterr().err
    if command in ("compare", "heatmap", "report", "submit"):
        arguments = [part.replace("{}", str(tmp_path / "folder")) for part in WRITING[command]]
        Path(arguments[-1]).mkdir()
        assert main(arguments) == 1
        assert "cannot be written: it is a folder" in capsys.readouterr().err


def test_csv_files_hold_no_formulas(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert main(["compare", str(run_folder), "--by", "kind", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    cells = [cell.strip('"') for line in text.splitlines() for cell in line.split(",")]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]
    assert "'=1+1" in text


@pytest.mark.slow
def test_names_that_are_no_utf8_are_read_and_shown(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / os.fsdecode(b"r\xffn")
    run_folder.rename(odd)
    for arguments in (["show"], ["compare"], ["compare", "--out", str(odd / "x.html")],
                      ["report", "--out", str(odd / "r.html")]):  # fmt: skip
        assert main([arguments[0], str(odd), *arguments[1:]]) == 0
    assert "r\\xffn" in capsys.readouterr().out
    assert (odd / "r.html").is_file()


def test_results_in_a_folder_whose_name_is_no_utf8_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = str(tmp_path / os.fsdecode(b"r\xffn"))
    assert main(["sweep", "--pretrained", "longva-tiny", "--tasks", "longva_mini_small",
                 "--frames", "2", "--out", odd]) == 1  # fmt: skip
    assert "has a name that is no UTF-8" in capsys.readouterr().err
    monkeypatch.setenv("HF_HOME", odd)
    assert main(["prepare", "--list"]) == 1
    assert "The HF_HOME folder" in capsys.readouterr().err


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_args:\n  " + BOMB.replace("\n", "\n  "), "references are not read"),
        ("model_args: &a {b: *a}", "references are not read"),
        ("m0: &m0 {a: 1}\nm1: {<<: [*m0, *m0]}", "references are not read"),
        ("model_args: {a: [1, 2]}", "model_args: a must be a single value"),
        ("model_args: {a: {b: 1}}", "model_args: a must be a single value"),
        ("model_args: {a: 0x" + "f" * 5000 + "}", "is no valid YAML"),
        ("model_args: " + "[" * 5000, "is no valid YAML"),
        ("#" + "x" * (1 << 20), "it has more than 1 MB"),
    ],
    ids=["bomb", "of itself", "merge", "list", "mapping", "digits", "deep", "large"],
)
def test_a_study_that_swells_is_refused_at_once(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"pretrained: longva-tiny\ntasks: [longva_mini]\nframes: [4]\n{text}\n")
    assert main(["sweep", str(path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert len(error) < 2000
    assert not (tmp_path / "out").exists()


def test_json_of_a_study_holds_any_name(tmp_path: Path) -> None:
    from longva_eval.studies.definition import write_json

    write_json(tmp_path / "study.json", {"path": os.fsdecode(b"v\xff.mp4")})
    read = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert os.fsencode(read["path"]) == b"v\xff.mp4"
