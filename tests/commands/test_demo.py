"""The demo stops at the first part that fails, and says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from longva_eval.commands import demo


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the needles and the sweep, which take minutes."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(demo, "_find_needles", lambda out, *, quick: 0)
    monkeypatch.setattr(demo, "run_study", lambda study, out, **more: 0)


def test_a_part_that_raises_is_named_and_ends_the_demo(
    said: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--out", str(tmp_path), "--quick"]) == 1  # there are no points to compare
    shown = capsys.readouterr()
    assert "longva-eval demo stopped at the comparison: " in shown.err
    assert "frames-4" in shown.err
    assert "4. One page" not in shown.out


def test_a_part_that_ends_with_another_status_is_named(
    said: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "run_study", lambda study, out, **more: 2)
    assert demo.main(["--out", str(tmp_path), "--quick"]) == 1
    shown = capsys.readouterr()
    assert "longva-eval demo stopped at the sweep: it ended with status 2" in shown.err
    assert "3. A comparison" not in shown.out


def test_the_last_line_is_the_address_of_the_page(
    said: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo.compare, "main", lambda arguments: 0)
    monkeypatch.setattr(demo.explain, "main", lambda arguments: 0)
    monkeypatch.setattr(demo.report, "main", lambda arguments: 0)
    assert demo.main(["--out", str(tmp_path), "--quick"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "report.html")
