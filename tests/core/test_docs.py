"""The pages point at what exists: links, headings, files, and options of commands."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
from conftest import TESTS

from longva_eval.cli import COMMANDS, main
from longva_eval.commands import niah
from longva_eval.embedded import tasks_folder
from longva_eval.model.rope import RopeSettings
from longva_eval.model_adapters.arguments import FamilyArguments, LongVAArguments

ROOT = TESTS.parent
PAGES = sorted(
    page
    for folder in (".", "docs", "tasks/*", "tasks", "benchmarks", "training")
    for page in ROOT.glob(f"{folder}/*.md")
)
FOLDERS = "longva_eval|model_adapters|tasks|reports|tests|benchmarks|training|docs|[.]ci"
OF_THE_HOST = {"run"}
"""Commands whose further options are lmms-eval's."""
ARGUMENTS = {
    field.name for kind in (LongVAArguments, FamilyArguments) for field in fields(kind)
} | {f"rope_{field.name}".replace("rope_rope_", "rope_") for field in fields(RopeSettings)}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@each_page
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(rf"`((?:{FOLDERS})/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    if page.name == "design.md":
        for path in re.findall(r"`([a-z_]+/[\w/]+\.py)`", text):
            assert (ROOT / path).exists() or (ROOT / "longva_eval" / path).exists(), path


@cache
def options(command: str) -> frozenset[str]:
    """The options in a command's help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        main([command, "--help"])
    return frozenset(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text.getvalue()))


@each_page
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for command, rest in re.findall(r"longva-eval ([a-z-]+)\b([^`\n]*)", text):
        if command not in COMMANDS or command in OF_THE_HOST:
            continue
        shown = re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.partition(" #")[0])
        assert set(shown) <= options(command), f"longva-eval {command}: {shown}"


@each_page
def test_needle_commands_have_options_that_go_together(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for rest in re.findall(r"longva-eval niah ([^`\n]*--frames [^`\n]*)", text):
        niah._check(niah._parser().parse_args(shlex.split(rest)))


@each_page
def test_arguments_and_tasks_in_commands_are_ours(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    ours = {path.stem for path in tasks_folder().glob("*/*.yaml")}
    for line in text.splitlines():
        if re.search(r"--model (vllm|sglang|dummy)", line):
            continue
        for given in re.findall(r"--model[_-]args ([\w.]+=[^\s`]+)", line):
            names = {part.partition("=")[0] for part in given.split(",")}
            assert names <= ARGUMENTS, line
        for tasks in re.findall(r"--tasks ([\w,]+)", line):
            named = {name for name in tasks.split(",") if name.startswith(("longva_", "vniah"))}
            assert named <= ours, line


def test_every_argument_of_a_model_is_documented() -> None:
    settings = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    assert not [name for name in ARGUMENTS - {"rope"} if f"`{name}" not in settings]
