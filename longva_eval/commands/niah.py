"""`longva-eval niah`: the needle test, from a video and pictures to a heatmap."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval import embedded
from longva_eval.cli import load
from longva_eval.engine.session import Session, open_session
from longva_eval.errors import SettingsError
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.controls import ControlResult, circular_needles
from longva_eval.needle.grid import (
    CellResult,
    LatticeGrid,
    NeedleGrid,
    accuracy_rows,
    lattice_rows,
    run_grid,
)
from longva_eval.needle.media import (
    HUB_NEEDLES,
    Haystack,
    Needle,
    load_needles,
    open_haystack,
)
from longva_eval.needle.summary import summarize_grid
from longva_eval.running.journal import Journal, journal_settings, settings_difference
from longva_eval.running.progress import progress_bar
from longva_eval.running.tensor_parallel import joined
from longva_eval.studies.ranges import parse_range, parse_whole_range

__all__ = ["NiahRun", "main", "run_and_write"]

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
    cells: list[CellResult]
    """Of the needles as they are, without rotated options."""
    summary: dict[str, Any]
    """What the heatmap must be compared with, as in `summary.json`."""
    was_there: bool = False
    """Whether it was read from the folder, not computed now."""


def main(arguments: Sequence[str]) -> int:
    """Run the needle test and write its results."""
    options = _parser().parse_args(arguments)
    with joined(options.tensor_parallel) as leads:
        return _run(options) if leads else 0


def _run(options: argparse.Namespace) -> int:
    frame_counts = parse_whole_range(options.frames, name="frames")
    grid: NeedleGrid | LatticeGrid
    if options.lattice is not None:
        if options.depths is not None:
            raise SettingsError("--lattice states where needles stand; leave --depths out.")
        grid = LatticeGrid(frame_counts=frame_counts, step=options.lattice)
    else:
        depths = parse_range(options.depths or "0:1:0.2", name="depths")
        grid = NeedleGrid(frame_counts=frame_counts, depths=tuple(depths))
    needles = load_needles(options.needles)
    haystack = open_haystack(options.haystack or [embedded.HAYSTACK])
    haystack.check_length(max(frame_counts))
    out = Path(options.out)
    thetas = options.rope_theta or [None]
    session = open_session(
        options.pretrained,
        revision=options.revision,
        device=options.device,
        device_map=options.device_map,
        tensor_parallel=options.tensor_parallel,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        conv_template=options.conv_template,
        chunk_tokens=options.chunk_tokens,
        reuse=not options.no_reuse,
        pool_stride=2,
        pool_mode="average",
        pool_after_projection=options.pool_after_projection,
        feature_cache=options.feature_cache,
    )
    session.encoder.keep_all = len(thetas) > 1  # the next theta asks for the same frames
    for theta in thetas:
        folder = out if theta is None else out / f"rope_theta_{theta:.12g}"
        session.change_rope(
            RopeSettings(
                theta=theta,
                rope_type=options.rope_type,
                factor=options.rope_factor,
                original_length=options.rope_original_length,
                pinned_length=options.rope_pinned_length,
            )
        )
        run = run_and_write(
            session,
            haystack,
            needles,
            grid,
            folder,
            max_new_tokens=options.max_new_tokens,
            controls=not options.no_controls,
            circular=options.circular,
            fresh=options.fresh,
        )
        title = Path(options.pretrained).name + ("" if theta is None else f", theta {theta:g}")
        print(f"\n{title}")
        print(load("longva_eval.reports.figures.heatmap:accuracy_table")(run.rows))
        print(control_text(run.summary))
        if not (run.was_there and (folder / "heatmap.svg").exists()):
            draw(run, title=title, note=f"{len(needles)} needles a cell")
        print(f"\nHeatmap: {folder / 'heatmap.png'}\nEvery answer: {folder / 'cells.jsonl'}")
    return 0


def run_and_write(
    session: Session,
    haystack: Haystack,
    needles: Sequence[Needle],
    grid: NeedleGrid | LatticeGrid,
    folder: Path,
    *,
    max_new_tokens: int = 8,
    controls: bool = True,
    circular: bool = False,
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
        needles: What to hide.
        grid: Where.
        folder: For the results.
        max_new_tokens: As in `run_grid`.
        controls: As in `run_grid`.
        circular: Also ask lettered needles with every rotation of their options.
        fresh: Start over instead of resuming; earlier results are set aside.

    Raises:
        SettingsError: If the folder cannot be written, or holds a run with other settings.
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        NumericalError: If logits are NaN or infinite.
    """
    haystack.check_length(max(grid.frame_counts))
    asked_needles = circular_needles(needles) if circular else list(needles)
    settings = {
        "grid": grid.describe(),
        "haystack": haystack.describe(),
        "needles": [needle.describe() for needle in asked_needles],
        "model": session.describe(),
        "max_new_tokens": max_new_tokens,
        "controls": controls,
        "circular": circular,
    }
    if fresh:
        _set_aside(folder)
    elif (folder / "run.json").exists():
        return _finished(folder, settings)
    journal = Journal(folder / "journal", journal_settings(session.describe()), fresh=fresh)
    began = time.perf_counter()
    counts = session.engine.counts
    asked, computed = counts.tokens_asked, counts.tokens_computed
    total = len(asked_needles) * (
        len(grid.cells()) + (len(grid.frame_counts) + 2 if controls else 0)
    )
    with journal, progress_bar(total, "V-NIAH", unit="cell") as bar:
        frames_seen = 0

        def keep(cell: CellResult | ControlResult) -> None:
            nonlocal frames_seen
            frames_seen += cell.num_frames + isinstance(cell, CellResult)
            rate = frames_seen / (time.perf_counter() - began)
            bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
            bar.update(1)

        answered = run_grid(
            session,
            haystack,
            asked_needles,
            grid,
            max_new_tokens=max_new_tokens,
            controls=controls,
            journal=journal,
            on_result=keep,
        )
    if journal.num_taken_over:
        logger.info("{} answers were taken over from an earlier run", journal.num_taken_over)
    summary = summarize_grid(answered, asked_needles)
    originals = [number for number, needle in enumerate(asked_needles) if not needle.rotation]
    cells = [
        replace(cell, needle=originals.index(cell.needle))
        for cell in answered.cells
        if cell.needle in originals
    ]
    rows = accuracy_rows(cells)
    _write_lines(folder / "cells.jsonl", [cell.to_json() for cell in cells])
    if controls:
        _write_lines(
            folder / "controls.jsonl", [_named(c, asked_needles) for c in answered.controls]
        )
    if circular:
        _write_lines(folder / "circular.jsonl", [_named(c, asked_needles) for c in answered.cells])
    _write(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "all_accuracies.json", json.dumps(rows, indent=4) + "\n")
    if isinstance(grid, LatticeGrid):
        rows = lattice_rows(cells)
        _write(folder / "lattice_accuracies.json", json.dumps(rows, indent=4) + "\n")
    record = {
        "test": "V-NIAH, teacher-forced",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "average_accuracy": sum(row["Score"] for row in rows) / len(rows),
        "num_answers": len(cells),
        "seconds": round(time.perf_counter() - began, 1),
        "frame_rule": "one a second: every round(average fps)-th frame from the first",
        "frame_preparation": "pad to a square of the mean colour, pool 2 x 2 by average",
        **settings,
        "engine": {
            "tokens_asked": counts.tokens_asked - asked,
            "tokens_computed": counts.tokens_computed - computed,
            "answers_taken_over": journal.num_taken_over,
        },
    }
    _write(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    journal.finish(remove=True)
    logger.debug("V-NIAH: {} answers in {:.1f} s", len(cells), record["seconds"])
    return NiahRun(folder=folder, rows=rows, cells=cells, summary=summary)


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
        lines = (folder / "cells.jsonl").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        cells = [json.loads(line) for line in lines]
        run = NiahRun(
            folder=folder,
            rows=json.loads((folder / name).read_text(encoding="utf-8")),
            cells=[
                CellResult(
                    **cell | {key: tuple(cell[key]) for key in ("answer_ids", "pred_ids")},
                )
                for cell in cells
            ],
            summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            was_there=True,
        )
        if len(run.cells) != record["num_answers"]:
            raise ValueError(f"cells.jsonl has {len(cells)} of {record['num_answers']} answers")
    except SettingsError:  # it is a ValueError, too
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"{folder} holds a finished needle test that cannot be read "
            f"({type(error).__name__}: {error}). {ways_out}"
        ) from error
    print(f"{folder} is complete already: nothing is computed. --fresh starts over.")
    return run


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of `run.json` can move a number, in a form whose differences can be named."""
    listed = {
        name: {str(number): item for number, item in enumerate(record[name])}
        for name in ("haystack", "needles")
    }
    rest = {
        "grid": record["grid"],
        "max_new_tokens": record.get("max_new_tokens"),
        "controls": record.get("controls"),
        "circular": record.get("circular"),
    }
    return {**listed, **rest, "model": journal_settings(record["model"])}


def _set_aside(folder: Path) -> None:
    """Rename earlier results, so that new ones never lie among them."""
    names = [name for name in _FILES if (folder / name).exists()]
    if not names:
        return
    number = 1
    while any((folder / f"{name}.{number}").exists() for name in _FILES):
        number += 1
    try:
        for name in names:
            (folder / name).rename(folder / f"{name}.{number}")
    except OSError as error:
        raise SettingsError(
            f"Earlier results in {folder} cannot be set aside: {error.strerror}. Give another "
            "--out, or move them."
        ) from error
    logger.info("Starting over: earlier results were set aside as {}", folder / f"*.{number}")


def control_text(summary: Mapping[str, Any]) -> str:
    """The conclusions of `summary.json` in a few lines."""
    lines = []
    reach, controls, circular = (
        summary[name] for name in ("effective_frames", "controls", "circular")
    )
    if reach is not None:
        reached = "none of these lengths" if reach["frames"] is None else f"{reach['frames']:,}"
        lines.append(
            f"Effective frames: {reached}{' or more' if reach['is_at_least'] else ''} (lower bound "
            f"above {100 * reach['threshold']:.0f} %)"
        )
    if controls is not None:
        lines.append(
            f"Needle only {100 * controls['needle_only']:.1f} %, no needle "
            f"{100 * controls['no_needle']:.1f} %, blind {100 * controls['blind']:.1f} %"
        )
        if controls["known_without_seeing"]:
            names = ", ".join(controls["known_without_seeing"])
            lines.append(f"Answered without being seen, so they prove nothing: {names}")
    if circular is not None:
        lines.append(
            f"{circular['num_needles']} lettered needles: {100 * circular['as_they_are']:.1f} %; "
            f"right for every rotation of their options {100 * circular['all_rotations']:.1f} %"
        )
    return "\n".join(lines)


def heatmap_panel(run: NiahRun, *, title: str, note: str = "") -> Any:
    """The run as a panel of a heatmap, with its controls."""
    controls = run.summary["controls"]
    clean = {}
    if controls is not None:
        clean = {int(n): score for n, score in controls["no_needle_by_frames"].items()}
        note = f"{note}; needle alone {100 * controls['needle_only']:.0f} %, blind " + (
            f"{100 * controls['blind']:.0f} %"
        )
    panel_type = load("longva_eval.reports.figures.heatmap:HeatmapPanel")
    return panel_type(title=title, rows=run.rows, note=note.removeprefix("; "), no_needle=clean)


def draw(run: NiahRun, *, title: str, note: str = "") -> None:
    """Write `heatmap.png` and `heatmap.svg` beside the results."""
    panel = heatmap_panel(run, title=title, note=note)
    paths = [run.folder / "heatmap.png", run.folder / "heatmap.svg"]
    load("longva_eval.reports.figures.heatmap:save_heatmaps")([panel], *paths)


def _named(result: CellResult | ControlResult, needles: Sequence[Needle]) -> dict[str, Any]:
    """A line that says which needle, and how its options are rotated."""
    needle = needles[result.needle]
    return {**result.to_json(), "needle_name": needle.name, "rotation": needle.rotation}


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _write(path: Path, text: str) -> None:
    """Write a file that is complete or absent."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _numbers(text: str) -> list[float]:
    """`1e6` or `1e6,1e9`."""
    try:
        return [float(part) for part in text.rstrip(",").split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several A,B,C") from error


class _Flat(argparse.Action):
    """Keeps lists, with blanks between them on the command line, as one list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, [value for group in values for value in group])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval niah",
        description="V-NIAH: hide each needle picture at every depth of videos of every length, "
        "ask for it, and draw the heatmap.",
        epilog="Example, the paper's grid: longva-eval niah --pretrained lmms-lab/LongVA-7B "
        "--haystack film.mp4 --needles lmms-lab/v_niah_needles --frames 200:3000:200 "
        "--depths 0:1:0.2 --out runs/longva-7b",
    )
    add: Any = parser.add_argument
    add("--pretrained", required=True, help="folder, hub id, or embedded: longva-tiny")
    add("--revision", help="branch, tag or commit of the hub id")
    add(
        "--haystack",
        action="append",
        help="video; give it again for more, one after the other (default: the embedded one)",
    )
    add(
        "--needles",
        default=str(embedded.NEEDLES),
        help=f"folder with dataset.json, or {HUB_NEEDLES} (default: the embedded ones)",
    )
    add("--frames", required=True, help="haystack lengths: 200:3000:200 or 6,12,24")
    add("--depths", help="needle depths: 0:1:0.2 (default) or 0,0.5,1")
    add(
        "--lattice",
        type=int,
        metavar="STEP",
        help="instead of depths: needles before frames 0, STEP, 2 STEP, ... in every length",
    )
    add("--out", required=True, help="folder for the results")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--device-map", help="auto spreads the model over all devices")
    add(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="divide the model among N processes: torchrun --nproc-per-node N -m longva_eval niah",
    )
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("--attn-implementation", default="sdpa", help="sdpa, flash_attention_2, eager")
    add(
        "--conv-template",
        default="auto",
        help="auto, qwen_1_5; LLaVA-NeXT also vicuna_v1, mistral_instruct",
    )
    add(
        "--pool-after-projection",
        action="store_true",
        help="LLaVA-NeXT-Video: pool frames after the projector, as the published panels",
    )
    add(
        "--rope-theta",
        type=_numbers,
        nargs="+",
        action=_Flat,
        metavar="THETA",
        help="base of the rotary embedding; several, with blanks or commas between, run one after "
        "the other, into a folder each",
    )
    add("--rope-type", help="linear, ntk, yarn, llama3, dynamic, default")
    add("--rope-factor", type=float, help="factor of the rope type")
    add("--rope-original-length", type=int, help="tokens; the checkpoint's if left out")
    add("--rope-pinned-length", type=int, help="tokens; for dynamic")
    add("--chunk-tokens", type=int, default=2048, help="prefill chunk (2048)")
    add("--max-new-tokens", type=int, default=8, help="tokens of the model's own answer (8)")
    add("--feature-cache", help="folder where visual tokens are kept for later runs")
    add(
        "--no-controls",
        action="store_true",
        help="leave out the same questions without the needle, blind, and on the needle alone",
    )
    add(
        "--circular",
        action="store_true",
        help="ask needles with options again for every rotation of them",
    )
    add("--fresh", action="store_true", help="start over; what is in --out is set aside")
    add("--no-reuse", action="store_true", help="prefill every cell from nothing, to compare")
    return parser
