"""The rooms import what docs/design.md lets them: each level only those below it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import longva_eval

ROOT = Path(longva_eval.__file__).parent
LEVELS = (
    ("errors", "stats", "files", "text", "embedded"),
    ("media", "prompts"),
    ("questions", "model"),
    ("families",),
    ("engine",),
    ("running",),
    ("host", "local"),
    ("needle",),
    ("studies",),
    ("reports", "tasks", "model_adapters"),
    ("commands", "cli"),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
WITHIN = {("local", "host"), ("files", "text"), ("embedded", "errors"),
          ("files", "errors"), ("text", "errors"), ("cli", "commands")}  # fmt: skip
"""Imports within a level."""


@cache
def imports(file: Path) -> tuple[str, ...]:
    return tuple(_imports(file))


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_no_room_imports_one_above_it_nor_beside_it() -> None:
    wrong, seen = [], set()
    for room, level in LEVEL_OF.items():
        folder = ROOT / room
        for file in folder.rglob("*.py") if folder.is_dir() else [ROOT / f"{room}.py"]:
            for name in imports(file):
                package, _, rest = name.partition(".")
                other = rest.partition(".")[0]
                if package != "longva_eval" or other not in LEVEL_OF or other == room:
                    continue
                seen.add((room, other))
                if LEVEL_OF[other] >= level and (room, other) not in WITHIN:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong
    assert seen >= WITHIN, "an import that is allowed for nobody"
    there = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__main__", "__pycache__", "data"} == set(LEVEL_OF)


def test_lmms_eval_is_named_by_host_adapters_and_tasks_alone() -> None:
    naming = {
        room
        for room in LEVEL_OF
        for file in (ROOT / room).rglob("*.py")
        if any(name.startswith("lmms_eval") for name in imports(file))
    }
    assert naming == {"host", "model_adapters", "tasks"}
