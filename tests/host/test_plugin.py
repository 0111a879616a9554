"""What lmms-eval learns about us, in processes of their own: nothing imported before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest

from longva_eval.embedded import MODEL_CLASSES, tasks_folder
from longva_eval.host.names import task_files


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.process
def test_the_entry_point_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "entries = entry_points(group='lmms_eval.models', name='longva_eval')\n"
        "[entry.load() for entry in entries]\n"
        "print('torch' in sys.modules, 'lmms_eval' in sys.modules)"
    )
    assert run_python(code).split() == ["False", "False"]


@pytest.mark.process
def test_lmms_eval_takes_our_model_and_our_tasks(tmp_path: Path) -> None:
    code = (
        "import json\n"
        "from lmms_eval.models import get_model_manifest\n"
        "print(get_model_manifest('longva').simple_class_path)\n"
        "from lmms_eval.tasks import TaskManager\n"
        f"print('vniah' in TaskManager(include_path={str(tmp_path)!r}).all_tasks)\n"
        "print(json.dumps(list(map(str, TaskManager(verbosity='ERROR').all_tasks))))\n"
    )
    done = processes.run([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr[-2000:]
    model, among_others, tasks = done.stdout.splitlines()[-3:]
    assert (model, among_others) == (MODEL_CLASSES["longva"], "True")
    known = set(json.loads(tasks))
    assert {"vniah", "vniah_small", "videomme"} <= known
    assert known <= set(task_files())  # `longva-eval run` finds a misspelt one without the host


@pytest.mark.process
def test_our_task_names_are_not_the_hosts() -> None:
    import lmms_eval.tasks as host
    import yaml

    theirs = Path(host.__file__).parent
    known = {path.stem for path in theirs.rglob("*.yaml")}
    for path in tasks_folder().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith(("group:", "task:")))
        (name,) = yaml.safe_load(line).values()
        assert name == path.stem
        assert name not in known


def test_a_broken_host_costs_a_warning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from longva_eval.host import plugin

    monkeypatch.setitem(sys.modules, "lmms_eval.models.registry_v2", None)
    with pytest.warns(UserWarning, match="could not register with lmms-eval"):
        assert plugin.model_manifests() == []
