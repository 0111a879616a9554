"""What we change in the host: all of it is listed, and each entry says when it may go."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

import lmms_eval
import pytest
import yaml

from longva_eval.embedded import tasks_folder
from longva_eval.host.evaluation import import_without
from longva_eval.host.patches import PATCHES, Patch, apply_patches, code_digest, order_results

HOST = Path(lmms_eval.__file__).parent


def source(module: str) -> str:
    """The text of a module of the host, as it was before we changed anything."""
    path = HOST.joinpath(*module.split(".")[1:])
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_every_patch_tells_what_and_why_and_names_a_test_that_exists(patch: Patch) -> None:
    what, _, why = (patch.apply.__doc__ or "").partition("\n\n")
    assert what
    assert why
    assert patch.versions
    assert f"def {patch.test}(" in Path(__file__).read_text()


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.name)
def test_every_patched_name_is_there(patch: Patch) -> None:
    """Fails when the host renames what we change: the patch would do nothing, silently."""
    module = importlib.import_module(patch.module)
    owner = None
    for name in patch.name.split(", "):
        parts = name.split(".")
        owner = getattr(module, parts[0]) if parts[0] else owner
        assert owner is not None
        if len(parts) > 1:
            assert hasattr(owner, parts[1])


def test_patches_are_applied_once() -> None:
    module = importlib.import_module("lmms_eval.evaluator")
    apply_patches()
    before = module.evaluate
    apply_patches()
    assert module.evaluate is before
    assert inspect.unwrap(before) is not before


def test_the_host_has_no_entry_point_for_tasks() -> None:
    """When this fails, register our folder there and drop the patch of `initialize_tasks`."""
    text = "".join(path.read_text() for path in HOST.glob("tasks/*.py"))
    assert "entry_points" not in text


def test_the_host_tries_again_whatever_the_error() -> None:
    """When this fails, see whether our errors now pass at once."""
    text = source("lmms_eval.api.task")
    assert "@retry(" in text
    assert "retry_if_exception" not in text
    assert "retry_if_not_exception_type" not in text


def test_the_host_tells_models_nothing_of_a_run() -> None:
    """When this fails, the host has a hook that may take the place of `begin_run` and `recipe`."""
    text = source("lmms_eval.evaluator") + source("lmms_eval.api.model")
    for hook in ("begin_run", "on_run_start", "run_metadata", "recipe"):
        assert hook not in text


def test_a_group_comes_before_its_tasks_in_the_order_of_its_yaml() -> None:
    results = {
        "results": {"a": 1, "b": 2, "group": 3, "other": 4},
        "group_subtasks": {"group": ["b", "a"]},
    }
    order_results(results)
    assert list(results["results"]) == ["group", "b", "a", "other"]


@pytest.mark.slow
def test_the_host_reads_yaml_slowly_and_we_read_the_same() -> None:
    """When its first line fails, the host has a faster reader of its own: drop ours."""
    assert "yaml.full_load(file)" in source("lmms_eval.utils")
    apply_patches()
    ours = importlib.import_module("lmms_eval.utils").yaml
    assert ours is not yaml
    ours.add_constructor("!function", lambda loader, node: f"{loader.name}: {node.value}")
    files = sorted(HOST.glob("tasks/*/*.yaml"))[::7]
    assert len(files) > 100
    for path in files:
        with path.open("rb") as file:
            expected = yaml.full_load(file)
            file.seek(0)
            assert ours.full_load(file) == expected, path


def test_an_index_of_tasks_reads_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host deletes `include` from what it has read, and turns its list round."""
    manager = importlib.import_module("lmms_eval.tasks").TaskManager
    apply_patches()
    (tmp_path / "one").write_text("tag: one\n")
    (tmp_path / "two").write_text("tag: two\n")
    (tmp_path / "both").write_text("include: [one, two]\n")
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(f"include: both\ntask: index_{name}\n")
    opened: list[str] = []
    load = yaml.load

    def noting(stream: Any, **kwargs: Any) -> Any:
        opened.append(Path(stream.name).name)
        return load(stream, **kwargs)

    monkeypatch.setattr(yaml, "load", noting)
    index = manager(include_path=str(tmp_path), include_defaults=False).task_index
    (tag,) = index.keys() - {"index_a", "index_b"}
    assert sorted(index[tag]["task"]) == ["index_a", "index_b"]
    assert sorted(opened) == ["a.yaml", "b.yaml", "both", "one", "two"]
    with (tmp_path / "one").open("rb") as file:
        assert importlib.import_module("lmms_eval.utils").yaml.full_load(file) == {"tag": "one"}
    assert len(opened) == 6, "outside of an index a file is read again"


def test_a_metrics_error_loads_no_other_task() -> None:
    """When its first line fails, the host no longer imports them: drop ours."""
    assert "from lmms_eval.tasks.amber_g.utils import" in source("lmms_eval.api.metrics")
    utils = importlib.import_module("lmms_eval.evaluator_utils")
    apply_patches()
    metrics = importlib.import_module("lmms_eval.api.metrics")
    known = set(sys.modules)
    assert utils.stderr_for_metric(metrics.mean, 10) is metrics.mean_stderr
    assert utils.stderr_for_metric(metrics.median, 10) is not None
    assert utils.stderr_for_metric(len, 10) is None

    def amber_g_of_a_yaml(values: list[float]) -> float:
        return sum(values)

    assert utils.stderr_for_metric(amber_g_of_a_yaml, 10) is not None
    assert not {name for name in set(sys.modules) - known if "amber" in name or "chair" in name}


def test_what_is_put_off_is_there_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "put_off_package").mkdir()
    (tmp_path / "put_off_package" / "__init__.py").write_text("value = 7\n")
    (tmp_path / "put_off_package" / "part.py").write_text("value = 8\n")
    (tmp_path / "its_host.py").write_text("import put_off_package as first\nimport absent_one\n")
    for name in ("put_off_package", "put_off_package.part", "its_host"):
        monkeypatch.setitem(sys.modules, name, None)  # forgotten afterwards
        del sys.modules[name]
    with pytest.raises(ModuleNotFoundError, match="absent_one"):
        import_without("its_host", ["put_off_package", "absent_one"])
    assert "put_off_package" not in sys.modules
    (tmp_path / "its_host.py").write_text("import put_off_package as first\n")
    host = import_without("its_host", ["put_off_package"])
    assert "put_off_package" not in sys.modules
    assert not hasattr(host.first, "__file__"), "looking round loads nothing"
    assert host.first.value == 7
    (tmp_path / "its_host.py").write_text("from put_off_package.part import value\n")
    for name in ("put_off_package", "put_off_package.part", "its_host"):
        sys.modules.pop(name, None)
    assert import_without("its_host", ["put_off_package"]).value == 8


def test_what_is_no_yaml_is_refused_in_the_same_words(tmp_path: Path) -> None:
    apply_patches()
    path = tmp_path / "task.yaml"
    path.write_text("task: a\n  b: [c\n")
    messages = []
    for reader in (yaml, importlib.import_module("lmms_eval.utils").yaml):
        with path.open("rb") as file, pytest.raises(yaml.YAMLError) as caught:
            reader.full_load(file)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_another_line_of_a_tasks_code_is_another_digest(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text("task: x\n")
    (tmp_path / "utils.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("one\n")
    first = code_digest(tmp_path / "task.yaml")
    (tmp_path / "README.md").write_text("two\n")
    assert code_digest(tmp_path / "task.yaml") == first
    (tmp_path / "utils.py").write_text("x = 2\n")
    assert code_digest(tmp_path / "task.yaml") != first
    ours = tasks_folder() / "mini" / "longva_mini.yaml"
    assert len(code_digest(ours)) == 12
