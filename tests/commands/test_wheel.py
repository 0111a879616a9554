"""The wheel holds everything: installed far from the checkout, the demo runs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(out),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_has_tasks_templates_and_media(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "longva_eval/py.typed",
        "longva_eval/cli.py",
        "longva_eval/commands/niah.py",
        "longva_eval/model_adapters/longva.py",
        "longva_eval/reports/figures/heatmap.py",
        "longva_eval/reports/page/assets/page.js",
        "longva_eval/reports/page/templates/page.html",
        "longva_eval/tasks/vniah/vniah.yaml",
        "longva_eval/tasks/vniah/_default_template_yaml",
        "longva_eval/tasks/vniah/grid_small.json",
        "longva_eval/tasks/vniah/utils.py",
        "longva_eval/data/haystack.mp4",
        "longva_eval/data/rates.json",
        "longva_eval/data/needles/dataset.json",
        "longva_eval/data/longva-tiny/config.json",
        "longva_eval/data/longva-tiny-short/model.safetensors",
        "longva_eval/tasks/mini/mini_benchmark.py",
    ):
        assert name in names
    assert not [name for name in names if name.split("/")[0] in ("tests", "benchmarks", "training")]


def test_the_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own that borrows the installed dependencies, not this checkout."""
    home = tmp_path / "environment"
    venv.create(home)
    python = home / "bin" / "python"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ],
        env=environment,
        check=True,
        capture_output=True,
        timeout=300,
    )
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    # A path file gives access to the dependencies; the editable hook of this checkout is a .pth
    # too and is not read from a folder that is only on sys.path.
    dependencies = Path(pytest.__file__).parent.parent
    (Path(site) / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [str(home / "bin" / "longva-eval"), "demo", "--quick", "--out", "result"],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    where = subprocess.run(
        [str(python), "-c", "import longva_eval; print(longva_eval.__file__)"],
        cwd=work,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert Path(where).is_relative_to(home)
    assert (work / "result" / "heatmaps.png").stat().st_size > 10_000
    assert (work / "result" / "tests.png").stat().st_size > 10_000
