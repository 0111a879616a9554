"""Needle tests that survive: in a folder, with a journal, at several RoPE settings."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval.engine.session import Session
from longva_eval.errors import SettingsError
from longva_eval.files import set_aside, write_atomically
from longva_eval.media.frames import FramePolicy
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.asking import Grid, run_grid
from longva_eval.needle.controls import circular_items
from longva_eval.needle.grid import LatticeGrid, controls_of
from longva_eval.needle.items import Item
from longva_eval.needle.kinds import DRAWN_TESTS
from longva_eval.needle.media import Haystack
from longva_eval.needle.results import (
    NeedleAnswer,
    read_answers,
    rows_by_depth,
    rows_by_index,
    to_lines,
)
from longva_eval.needle.summary import original, summarize_grid, unanswerable
from longva_eval.needle.tests import NeedleTest
from longva_eval.running.journal import Journal, journal_settings, settings_difference
from longva_eval.running.run_log import progress_bar

__all__ = ["NiahRun", "run_and_write", "run_test", "run_tests"]

_FILES = (
    "run.json",
    "all_accuracies.json",
    "lattice_accuracies.json",
    "cells.jsonl",
    "controls.jsonl",
    "circular.jsonl",
    "summary.json",
    "heatmap.png",
    "heatmap.svg",
)
"""All that a finished test leaves. `run.json` is written after all numbers."""


@dataclass(frozen=True, kw_only=True)
class NiahRun:
    """A finished needle test."""

    folder: Path
    rows: list[dict[str, float]]
    """As in `all_accuracies.json`; of a lattice, as in `lattice_accuracies.json`."""
    cells: list[NeedleAnswer]
    """Of the needles as they are, without rotated options."""
    summary: dict[str, Any]
    """What the heatmap must be compared with, as in `summary.json`."""
    was_there: bool = False
    """Whether it was read from the folder, not computed now."""
    as_text: bool = False
    """Whether it is a text twin; the test itself is in the folder above."""
    model: str = ""
    """And its RoPE base, if several are tried."""

    @property
    def test(self) -> str:
        """Its name."""
        return str(self.summary.get("test", "single"))


def run_and_write(
    session: Session,
    haystack: Haystack,
    items: Sequence[Item],
    grid: Grid,
    folder: Path,
    *,
    max_new_tokens: int = 8,
    controls: bool = True,
    circular: bool = False,
    captions: Sequence[str] | None = None,
    select: FramePolicy | None = None,
    fresh: bool = False,
) -> NiahRun:
    """Run a grid with a progress bar and write its results into a folder.

    `all_accuracies.json` is the original's file, `cells.jsonl` has every answer in the grid's
    order, `controls.jsonl` those of the controls, `summary.json` what is concluded from them,
    `run.json` how all that was made. Until they are written, answers are in a journal beside them,
    from which a run that was interrupted is resumed. What the same settings have written before
    is read, not computed again.

    Args:
        session: The model.
        haystack: From `open_haystack`.
        items: What to hide; all of one test.
        grid: Where.
        folder: For the results.
        max_new_tokens: As in `run_grid`.
        controls: As in `run_grid`.
        circular: Also ask lettered items with every rotation of their options.
        captions: As in `run_grid`.
        select: As in `run_grid`.
        fresh: Start over instead of resuming; earlier results are set aside.

    Raises:
        SettingsError: If the folder cannot be written, or holds a run with other settings; or no
            item is left that is answered on its pictures alone (`latent`).
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        NumericalError: If logits are NaN or infinite.
    """
    haystack.check_length(max(grid.frame_counts))
    asked = circular_items(items) if circular else list(items)
    layout = grid.lay_out(asked).in_whole_units(session.vision.frames_per_unit)
    told = None if captions is None else json.dumps(list(captions)).encode()
    settings = {
        "grid": grid.describe(),
        "haystack": haystack.describe(),
        "needles": [item.describe() for item in asked],
        "model": session.describe(),
        "max_new_tokens": max_new_tokens,
        "controls": controls,
        "circular": circular,
        **({} if told is None else {"captions_sha256": hashlib.sha256(told).hexdigest()}),
        **({} if select is None else {"select": select.describe()}),
    }
    if fresh:
        try:
            number = set_aside(*(folder / name for name in _FILES))
        except OSError as error:
            raise SettingsError(
                f"Earlier results in {folder} cannot be set aside: {error.strerror}. Give another "
                "--out, or move them."
            ) from error
        if number:
            logger.info("Starting over: earlier results were set aside as {}/*{}", folder, number)
    elif (folder / "run.json").exists():
        return _finished(folder, settings)
    journal = Journal(folder / "journal", journal_settings(session.describe()), fresh=fresh)
    began = time.perf_counter()
    counts = replace(session.engine.counts)
    test = items[0].test
    name = "V-NIAH" if test == "single" else f"V-NIAH {test}"
    num_cells = len(layout.cells) + len(controls_of(layout.cells, len(asked))) * controls
    with journal, progress_bar(num_cells, name, unit="cell") as bar:
        frames_seen = 0

        def show(answer: NeedleAnswer) -> None:
            nonlocal frames_seen
            frames_seen += answer.num_frames + len(answer.insert_indices)
            rate = frames_seen / (time.perf_counter() - began)
            bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
            bar.update(1)

        answers = run_grid(
            session,
            haystack,
            asked,
            grid,
            max_new_tokens=max_new_tokens,
            controls=controls,
            captions=captions,
            select=select,
            journal=journal,
            on_answer=show,
        )
    if journal.num_taken_over:
        logger.info("{} answers were taken over from an earlier run", journal.num_taken_over)
    for refused in layout.refused:
        logger.warning("{}: left out: {}", name, refused)
    seconds = round(time.perf_counter() - began, 1)
    least = DRAWN_TESTS[test].least_needle_only if test in DRAWN_TESTS and controls else 0.0
    left_out = unanswerable(answers, least=least)
    answers_kept = [answer for answer in answers if original(answer) not in left_out]
    in_grid = [answer for answer in answers_kept if answer.control is None]
    if not in_grid:
        raise SettingsError(
            f"{name}: no item has a needle-only score of {least:.0%} or more: this model does not "
            "know the questions, so nothing can be said about lengths."
        )
    originals = [number for number, item in enumerate(asked) if not item.rotation]
    cells = [
        replace(answer, needle=originals.index(answer.needle))
        for answer in in_grid
        if not answer.rotation
    ]
    rows = by_depth = rows_by_depth(cells)
    summary = {
        **summarize_grid(answers_kept),
        "test": test,
        "refused_cells": layout.refused,
        "left_out": {asked[number].name: share for number, share in left_out.items()},
    }
    _write(folder / "cells.jsonl", to_lines(cells))
    if controls:
        _write(folder / "controls.jsonl", to_lines(each for each in answers if each.control))
    if circular:
        _write(folder / "circular.jsonl", to_lines(in_grid))
    _write(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "all_accuracies.json", json.dumps(by_depth, indent=4) + "\n")
    if isinstance(grid, LatticeGrid):
        rows = rows_by_index(cells)
        _write(folder / "lattice_accuracies.json", json.dumps(rows, indent=4) + "\n")
    record = {
        "test": f"{name}, teacher-forced" + (", as text" if captions is not None else ""),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "average_accuracy": sum(row["Score"] for row in rows) / len(rows),
        "num_answers": len(cells),
        "seconds": seconds,
        "frame_rule": "one a second from the first: every round(average fps)-th frame; where the "
        "rate varies, the one on screen",
        "frame_preparation": "pad to a square of the mean colour, pool 2 x 2 by average",
        **settings,
        "engine": {
            "tokens_asked": session.engine.counts.tokens_asked - counts.tokens_asked,
            "tokens_computed": session.engine.counts.tokens_computed - counts.tokens_computed,
            "answers_taken_over": journal.num_taken_over,
        },
    }
    _write(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    journal.finish(remove=True)
    logger.debug("{}: {} answers in {:.1f} s", name, len(cells), seconds)
    return NiahRun(folder=folder, rows=rows, cells=cells, summary=summary)


def run_test(
    session: Session,
    haystack: Haystack,
    test: NeedleTest,
    folder: Path,
    *,
    captions: Sequence[str] | None = None,
    **how: Any,
) -> Iterator[NiahRun]:
    """As `run_and_write`, with the text twin in `folder / "text"`; yields each when it is finished.

    Without `captions` there is no twin.
    """
    yield run_and_write(session, haystack, test.items, test.grid, folder, **how)
    if captions is not None and test.has_twin:
        how |= {"captions": captions}
        run = run_and_write(session, haystack, test.items, test.grid, folder / "text", **how)
        yield replace(run, as_text=True)


def run_tests(
    session: Session,
    haystack: Haystack,
    tests: Sequence[NeedleTest],
    out: Path,
    *,
    model: str,
    ropes: Sequence[RopeSettings],
    own_folders: bool = True,
    **how: Any,
) -> Iterator[NiahRun]:
    """Run tests at several RoPE settings, and yield each when it is finished.

    Args:
        session: From `open_needle_session`.
        haystack: From `open_haystack`.
        tests: From `make_tests`.
        out: For the results; settings that name a base have a folder each, `rope_theta_1000000`.
        model: What it is called.
        ropes: Tried one after the other.
        own_folders: Whether each test has a folder of its own, too.
        **how: As in `run_test`.
    """
    session.encoder.keep_all = len(ropes) * len(tests) > 1  # the same frames are asked for again
    for rope in ropes:
        folder, name = out, model
        if rope.theta is not None:
            folder = out / f"rope_theta_{rope.theta:.12g}"
            name = f"{model}, theta {rope.theta:g}"
        session.change_rope(rope)
        for test in tests:
            place = folder / test.name if own_folders else folder
            for run in run_test(session, haystack, test, place, **how):
                yield replace(run, model=name)


def _finished(folder: Path, settings: Mapping[str, Any]) -> NiahRun:
    """The results that lie in a folder, if they were made with these settings."""
    ways_out = "Give another --out, or set what is there aside with --fresh."
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        there, now = _comparable(record), _comparable(json.loads(json.dumps(settings)))
        if there != now:
            raise SettingsError(
                f"{folder} holds a finished needle test with other settings: "
                f"{settings_difference(there, now)}. {ways_out}"
            )
        is_lattice = settings["grid"]["kind"] == "lattice"
        name = "lattice_accuracies.json" if is_lattice else "all_accuracies.json"
        run = NiahRun(
            folder=folder,
            rows=json.loads((folder / name).read_text(encoding="utf-8")),
            cells=read_answers(folder / "cells.jsonl"),
            summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            was_there=True,
        )
        if len(run.cells) != record["num_answers"]:
            raise ValueError(f"cells.jsonl has {len(run.cells)} of {record['num_answers']} answers")
    except SettingsError:  # it is a ValueError, too
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"{folder} holds a finished needle test that cannot be read "
            f"({type(error).__name__}: {error}). {ways_out}"
        ) from error
    return run


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of `run.json` can move a number, in a form whose differences can be named."""
    listed = {
        name: {str(number): item for number, item in enumerate(record[name])}
        for name in ("haystack", "needles")
    }
    names = ("max_new_tokens", "controls", "circular", "captions_sha256", "select")
    rest = {name: record.get(name) for name in names}
    model = journal_settings(record["model"])
    return {**listed, **rest, "grid": record["grid"], "model": model}


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        # The name of a file may hold bytes that are no UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
