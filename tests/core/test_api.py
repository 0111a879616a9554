"""The public names stay, are imported lazily, and do what docs/api.md shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TESTS

import longva_eval

PAGE = TESTS.parent / "docs" / "api.md"
RUN = TESTS / "data" / "runs" / "mini_32"
NAMES = {
    "FramePolicy", "open_session", "read_choice", "read_frames", "read_picture", "read_run",
    "read_subtitles", "samples_frame",
}  # fmt: skip


def test_the_names_are_those_that_were_promised() -> None:
    assert set(longva_eval.__all__) == NAMES
    for name in NAMES:
        assert callable(getattr(longva_eval, name))
        assert f"longva_eval.{name}" in PAGE.read_text()
    assert set(dir(longva_eval)) >= NAMES


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'read_film'"):
        _ = longva_eval.read_film


@pytest.mark.process
def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, longva_eval; longva_eval.read_choice('B', ['x', 'y']); "
        "print([m for m in ('torch', 'av', 'pandas', 'lmms_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.process
def test_the_examples_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"RUN": RUN}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "(8, 96, 96, 3) uint8" in out
    assert "1.0 2.5 Hello." in out
    assert "\nB\nNone\n" in out
    assert names["frames"].pixels.shape[0] == len(names["frames"].indices)
    assert len(names["frames"].seconds) == 8
    assert all(answer.text for answer in names["answers"])
    assert len(names["table"]) == sum(len(task.samples) for task in names["run"].tasks.values())
