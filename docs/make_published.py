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

from longva_eval.needle.results import read_accuracies
from longva_eval.reports.figures.curve import CurveLine, CurvePanel, draw_curves, save_figure
from longva_eval.reports.figures.heatmap import needle_grid, save_heatmaps
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.published import find_benchmark, published_rows, published_scores
from longva_eval.reports.tables.tables import render

DOCS = Path(__file__).parent
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
    scores = published_scores()
    parts = [
        "# Published tables\n\nAs printed by their authors; nothing was measured here. Other "
        "models, and the source of each number: `longva-eval compare --published Video-MME`.\n"
        "Written by `python docs/make_published.py`.\n"
    ]
    for title, name, pictures in SECTIONS:
        shown = [row for row in scores if name != "Video-MME" or row.model == "LongVA"]
        tables = comparison_tables([], benchmark=find_benchmark(name, scores), scores=shown)
        parts.append(f"## {title}\n\n{pictures}\n{render(tables, 'md', notes='short')}")
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(parts))
    (DOCS / "published.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    draw_frames(DOCS / "images/published_frames.png")
    draw_lengths(DOCS / "images/published_vniah_lengths.png")
    if options.needle_files:
        panels = [
            needle_grid(
                read_accuracies(options.needle_files / folder / "all_accuracies.json"),
                title=title,
                note="published: 5 needles a cell",
            )
            for folder, title in HEATMAPS
        ]
        save_heatmaps(panels, DOCS / "images/published_vniah.png")


def draw_frames(path: Path) -> None:
    """LongVA's Video-MME scores against the number of frames, from its own table."""
    benchmark = find_benchmark("Video-MME", scores := published_scores())
    rows, _ = published_rows(scores, benchmark, subtitles=("w/o",))
    rows = [r for r in rows if r.model == "LongVA" and "LongVA Table 4" in r.sources[0].table]
    lines = [
        CurveLine(
            label=column.title.lower(),
            frames=[int(row.frames) for row in rows],
            means=[(row.percent(place) or 0.0) / 100 for row in rows],
            is_published=True,
        )
        for place, column in enumerate(benchmark.columns)
    ]
    title = "Published: LongVA-7B on Video-MME without subtitles"
    save_figure(draw_curves([CurvePanel(title="", lines=lines)], title=title), path)


def draw_lengths(path: Path) -> None:
    """Needles found by length; five needles are too few for intervals."""
    scores = published_scores()
    rows, _ = published_rows(scores, find_benchmark("V-NIAH", scores))
    lines = []
    for row in rows:
        lengths = sorted(row.values)
        lines.append(
            CurveLine(
                label=row.model + (f", {_short(row.subset)}" if row.subset else ""),
                frames=lengths,
                means=[(row.percent(length) or 0.0) / 100 for length in lengths],
                is_published=True,
            )
        )
    title = "Published: V-NIAH by length"
    note = "Share of needles found; 6 depths x 5 needles each."
    panel = CurvePanel(title="", lines=lines)
    save_figure(draw_curves([panel], title=title, note=note), path)


def _short(subset: str) -> str:
    return re.sub(r"\d{6,}", lambda found: f"{float(found[0]):.0e}".replace("e+0", "e"), subset)


if __name__ == "__main__":
    main()
