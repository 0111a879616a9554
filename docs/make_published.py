"""Write docs/published.md and its figures from the published scores in the package.

    python docs/make_published.py [--needle-files FOLDER]

The heatmaps need the value of each cell, which scores.csv has only as means of a length: FOLDER is
`vision_niah/niah_output` of the LongVA repository (commit f4c8781), or a copy. Without it they are
left as they are.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from longva_eval.needle.results import read_accuracies
from longva_eval.reports.figures.heatmap import HeatmapPanel, save_heatmaps
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.published import find_benchmark, published_rows, read_published
from longva_eval.reports.tables.tables import render
from longva_eval.stats import wilson_interval

DOCS = Path(__file__).parent
INK, MUTED = "#22252a", "#5c636b"
COLOURS = ["#2f8f83", "#c98a2b", "#8c1d40", "#5c636b"]
MARKERS = ["o", "s", "^", "D"]
SECTIONS = [
    ("Video-MME by number of frames", "Video-MME",
     "![LongVA on Video-MME](images/published_frames.png)\n"),
    ("Image benchmarks", "images", ""),
    ("V-NIAH", "V-NIAH", "![Published heatmaps](images/published_vniah.png)\n\n"
     "![Needles found by length](images/published_vniah_lengths.png)\n"),
]  # fmt: skip
HEATMAPS = [
    ("LongVA-7B", "LongVA-7B"),
    ("LLaVA-NeXT-Video-7B-32K/rope_theta_1000000", "LLaVA-NeXT-Video-7B-32K, theta 1e6"),
    ("LLaVA-NeXT-Video-7B-32K/rope_theta_100000000", "LLaVA-NeXT-Video-7B-32K, theta 1e8"),
]


def main() -> None:
    """Write the page and the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--needle-files", type=Path)
    options = parser.parse_args()
    scores = read_published()
    parts = [
        "# Published tables\n\nFrom `longva_eval/data/published/scores.csv`, as printed by their "
        "authors; nothing was measured here. Written by `python docs/make_published.py`.\n"
        "One of them, in any format: `longva-eval compare --published Video-MME`.\n"
    ]
    for title, name, pictures in SECTIONS:
        tables = comparison_tables([], benchmark=find_benchmark(name, scores), scores=scores)
        parts.append(f"## {title}\n\n{pictures}\n{render(tables, 'md')}")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(parts))
    (DOCS / "published.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    draw_frames(DOCS / "images/published_frames.png")
    draw_lengths(DOCS / "images/published_vniah_lengths.png")
    if options.needle_files:
        panels = [
            HeatmapPanel(
                title=title,
                rows=read_accuracies(options.needle_files / folder / "all_accuracies.json"),
                note="published: 5 needles a cell",
            )
            for folder, title in HEATMAPS
        ]
        save_heatmaps(panels, DOCS / "images/published_vniah.png")


def draw_frames(path: Path) -> None:
    """LongVA's Video-MME scores against the number of frames, from its own table."""
    benchmark = find_benchmark("Video-MME", scores := read_published())
    rows, _ = published_rows(scores, benchmark, subtitles=("w/o",))
    rows = [r for r in rows if r.model == "LongVA" and "LongVA Table 4" in r.sources[0].table]
    counts = [int(row.frames) for row in rows]
    figure, axes = _axes()
    for place, column in enumerate(benchmark.columns):
        dashes = "--" if column.title == "Overall" else "-"
        values = [row.percent(place) for row in rows]
        axes.plot(counts, values, dashes, color=COLOURS[place], marker=MARKERS[place],
                  label=column.title)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [f"{count}" for count in counts])
    axes.minorticks_off()
    axes.set_xlabel("Frames shown to the model")
    axes.set_ylabel("Accuracy (%)")
    axes.set_title("Published: LongVA-7B on Video-MME without subtitles", loc="left",
                   fontsize=12, fontweight="bold", color=INK)  # fmt: skip
    axes.legend(frameon=False, ncols=4, loc="lower right")
    figure.savefig(path, dpi=150)


def draw_lengths(path: Path) -> None:
    """Needles found by length, with Wilson's intervals of 30 needles."""
    scores = read_published()
    rows, _ = published_rows(scores, find_benchmark("V-NIAH", scores))
    figure, axes = _axes()
    for number, row in enumerate(rows):
        lengths = sorted(row.values)
        found = [row.percent(length) or 0.0 for length in lengths]
        bounds = [wilson_interval(round(30 * value / 100), 30) for value in found]
        label = row.model + (f", {row.subset}" if row.subset else "")
        axes.plot(lengths, found, color=COLOURS[number], marker=MARKERS[number], label=label)
        axes.fill_between(lengths, [100 * low for low, _ in bounds],
                          [100 * high for _, high in bounds],
                          color=COLOURS[number], alpha=0.15, linewidth=0)  # fmt: skip
    axes.axhline(85, color=MUTED, linewidth=1, linestyle=":")
    axes.set_ylim(0, 102)
    axes.set_xlabel("Frames in the haystack")
    axes.set_ylabel("Needles found (%), Wilson 95 %")
    axes.set_title("Published: V-NIAH by length, 6 depths x 5 needles each", loc="left",
                   fontsize=12, fontweight="bold", color=INK)  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    figure.savefig(path, dpi=150)


def _axes():
    figure = Figure(figsize=(7.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(axis="y", color="#e3e6e9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return figure, axes


if __name__ == "__main__":
    main()
