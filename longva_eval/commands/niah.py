"""`longva-eval niah`: the needle test, from a video and pictures to a heatmap."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.engine.opening import open_session
from longva_eval.errors import SettingsError
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.grid import LatticeGrid, NeedleGrid
from longva_eval.needle.media import HUB_NEEDLES, load_needles, open_haystack
from longva_eval.needle.run import NiahRun, run_and_write
from longva_eval.reports.figures.heatmap import HeatmapPanel, accuracy_table, save_heatmaps
from longva_eval.studies.ranges import parse_range, parse_whole_range

__all__ = ["control_text", "draw", "heatmap_panel", "main"]


def main(arguments: Sequence[str]) -> int:
    """Run the needle test and write its results."""
    options = _parser().parse_args(arguments)
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
        if run.was_there:
            print(f"{folder} is complete already: nothing is computed. --fresh starts over.")
        title = Path(options.pretrained).name + ("" if theta is None else f", theta {theta:g}")
        print(f"\n{title}")
        print(accuracy_table(run.rows))
        print(control_text(run.summary))
        if not (run.was_there and (folder / "heatmap.svg").exists()):
            draw(run, title=title, note=f"{len(needles)} needles a cell")
        print(f"\nHeatmap: {folder / 'heatmap.png'}\nEvery answer: {folder / 'cells.jsonl'}")
    return 0


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


def heatmap_panel(run: NiahRun, *, title: str, note: str = "") -> HeatmapPanel:
    """The run as a panel of a heatmap, with its controls."""
    controls = run.summary["controls"]
    clean = {}
    if controls is not None:
        clean = {int(n): score for n, score in controls["no_needle_by_frames"].items()}
        note = f"{note}; needle alone {100 * controls['needle_only']:.0f} %, blind " + (
            f"{100 * controls['blind']:.0f} %"
        )
    return HeatmapPanel(title=title, rows=run.rows, note=note.removeprefix("; "), no_needle=clean)


def draw(run: NiahRun, *, title: str, note: str = "") -> None:
    """Write `heatmap.png` and `heatmap.svg` beside the results."""
    panel = heatmap_panel(run, title=title, note=note)
    paths = [run.folder / "heatmap.png", run.folder / "heatmap.svg"]
    save_heatmaps([panel], *paths)


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
