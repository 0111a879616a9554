"""`longva-eval prepare`: check a local copy of a benchmark and lay it out for offline runs."""

from __future__ import annotations

import argparse
import os
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.files import check_writable, hf_home
from longva_eval.local.prepare import (
    DataStatus,
    PrepareReport,
    data_status,
    find_layouts,
    prepare,
    read_layouts,
)
from longva_eval.text import columns

__all__ = ["main"]

_MAX_FAILED_SHARE = 0.05
"""What our adapters let fail unless told otherwise (`max_failed`)."""
_NEED_NO_DATA = frozenset(
    ["longva_mini", "longva_mini_small", "longva_mini_subtitles", "vniah_small",
     "vniah_generate_frames", "vniah_generate_clip"]
)  # fmt: skip
"""Tasks on what ships with this package, or is drawn by it."""


def main(arguments: Sequence[str]) -> int:
    """Prepare a data set, or list those that can be."""
    options = _parser().parse_args(arguments)
    home: Path = (options.hf_home or hf_home()).expanduser().absolute()
    if options.task in _NEED_NO_DATA:
        print(f"{options.task} needs no data: all of it comes with longva-eval.")
        return 0
    layouts = read_layouts()
    chosen = list(layouts.values()) if options.task is None else find_layouts(options.task, layouts)
    if options.list:
        print(_render_list([data_status(layout, home) for layout in chosen], home))
        return 0
    if options.task is None or options.source is None:
        raise SettingsError(
            "name what to prepare and where its copy is: longva-eval prepare videomme --from DIR. "
            "`longva-eval prepare --list` shows what there is."
        )
    if options.rows and len(chosen) > 1:
        raise SettingsError(
            f"--rows names the rows of one data set, and {options.task} reads several: prepare "
            f"{', '.join(layout.name for layout in chosen)} one by one."
        )
    check_writable(home, "HF_HOME")
    reports = []
    for layout in chosen:
        report = prepare(
            layout.name,
            options.source,
            home,
            allow_missing=options.allow_missing,
            copy=options.copy,
            check_media=not options.no_check_media,
            row_files=options.rows or (),
            follow_links=options.follow_links,
            layouts=layouts,
        )
        reports.append(report)
        print(_render(report) + "\n")
    print(_render_commands(options.task, reports, home))
    return 0


def _render(report: PrepareReport) -> str:
    layout = report.layout
    title = [layout.dataset, *([layout.config] if layout.config else []), layout.split]
    whole = f" of {layout.num_rows:,}" if layout.num_rows is not None else ""
    files = ", ".join(report.row_files[:3]) + (", ..." if len(report.row_files) > 3 else "")
    lines = [
        ("from", str(report.source)),
        ("into", str(report.hf_home)),
        ("rows", f"{report.num_rows:,}{whole}, from {files}"),
    ]
    for media in report.media:
        text = f"{media.num_found:,} of {media.num_named:,} in {media.layout.folder}"
        if media.unreadable:
            text += f", {len(media.unreadable):,} unreadable"
        elif media.missing and not media.layout.required:
            text += " (not every row has one)"
        lines.append((f"{media.layout.kind}s", text))
    if report.media:
        done = [f"{count:,} {what}" for what, count in report.placed.items() if count]
        lines.append(("files", ", ".join(done) or "none"))
    if report.revision:
        same = layout.revision == report.revision
        lines.append(("revision", report.revision[:12] + (", the one we pin" if same else "")))
    width = max(len(label) for label, _ in lines) + 2
    parts = [f"{layout.name}: {' / '.join(title)}"]
    parts += [f"  {label:<{width}}{text}" for label, text in lines]
    parts += [_wrapped(f"Note: {warning}", indent="  ") for warning in report.warnings]
    if report.missing_file is None:
        parts.append("  All of it is there.")
    else:
        parts += [
            f"  Not whole: {report.num_rows_with_media:,} of {report.num_rows:,} questions have "
            "their media. What is missing, by name:",
            f"  {report.missing_file}",
        ]
    return "\n".join(parts)


def _render_commands(task: str, reports: Sequence[PrepareReport], home: Path) -> str:
    tasks = list(dict.fromkeys(name for report in reports for name in report.layout.tasks))
    # A layout may bear the name of a task of the host; who names a layout gets our task.
    named = {report.layout.name for report in reports}
    first = task if task in tasks and task not in named else next(iter(tasks), task)
    skipping = any(report.needs_skipping for report in reports)
    model_arguments = "pretrained=lmms-lab/LongVA-7B" + (",on_error=skip" if skipping else "")
    lacking = [(r.num_rows - r.num_rows_with_media, r.num_rows) for r in reports]
    if any(count > _MAX_FAILED_SHARE * total for count, total in lacking):
        model_arguments += f",max_failed={max(count for count, _ in lacking)}"
    lines = [
        "Run it without a network:",
        "",
        f"  HF_HUB_OFFLINE=1 HF_HOME={shlex.quote(str(home))} \\",
        f"  lmms-eval --model longva --model_args {model_arguments} --tasks {first}",
        "",
    ]
    if others := [name for name in tasks if name != first]:
        lines.append(_wrapped(f"The same data serves {', '.join(others)}."))
    if skipping:
        lines.append(
            "on_error=skip: questions without their media count as failed, in every result."
        )
    lines += [
        f"Note: {name} is set to {os.environ[name]}; unset it, the rows lie in {home}/datasets."
        for name in ("HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE")
        if os.environ.get(name) and Path(os.environ[name]) != home / "datasets"
    ]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 98, initial_indent=indent, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _render_list(statuses: Sequence[DataStatus], home: Path) -> str:
    rows = [("NAME", "ROWS", "MEDIA", f"IN {home}", "TASKS")]
    for status in statuses:
        layout = status.layout
        number = "?" if layout.num_rows is None else f"{layout.num_rows:,}"
        state = status.state if status.state != "partly" else f"partly: {status.problem}"
        kinds = dict.fromkeys(f"{media.kind}s" for media in layout.media)
        kinds |= {"pictures in the rows": None} if layout.images else {}
        told = ", ".join(kinds) or "none"
        rows.append((layout.name, number, told, state, ", ".join(layout.tasks)))
    sources = [
        (f"  {status.layout.name}", f"{status.layout.source} ({status.layout.license}) "
         f"{status.layout.note}") for status in statuses
    ]  # fmt: skip
    return "\n".join([*columns(rows), "", "Where to get them:", *columns(sources)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval prepare",
        description="Check a local copy of a benchmark (rows as parquet, json, jsonl or csv, media "
        "as files or in zip and tar archives) and lay it out below HF_HOME, so that lmms-eval's "
        "tasks and ours run from it without a network. May be repeated.",
    )
    add: Any = parser.add_argument
    add(
        "task",
        nargs="?",
        metavar="TASK",
        help="name of a data set, or id of a task or group that reads it",
    )
    add("--from", dest="source", type=Path, metavar="DIR", help="the copy; searched by name")
    add("--hf-home", type=Path, metavar="DIR", help="where to lay it out (default: HF_HOME)")
    add("--copy", action="store_true", help="copy media; otherwise they are linked")
    add(
        "--allow-missing",
        action="store_true",
        help="lay out what is there; a run then needs on_error=skip, and the count stands in it",
    )
    add(
        "--rows",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the files of rows, if DIR leaves it open which they are",
    )
    add("--no-check-media", action="store_true", help="do not look into the media files")
    add("--follow-links", action="store_true", help="follow symbolic links out of DIR")
    add("--list", action="store_true", help="show what can be prepared, and what HF_HOME holds")
    return parser
