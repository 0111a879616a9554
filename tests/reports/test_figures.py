"""Colours, sizes and files of all figures."""

from __future__ import annotations

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex, to_rgb

from longva_eval.cli import main
from longva_eval.reports.figures.colours import COLOURS, colour_of, ink_on
from longva_eval.reports.figures.curve import CurveLine, CurvePanel, draw_curves
from longva_eval.reports.figures.heatmap import COLOUR_MAP, draw_heatmaps, needle_grid
from longva_eval.reports.figures.paper import FIGURE_WIDTHS, FigureWidth, save_figure
from longva_eval.reports.study import write_study

RUNS = Path(__file__).parents[1] / "data" / "runs"

# G. M. Machado et al., A Physiologically-based Model for Simulation of Color Vision Deficiency,
# IEEE TVCG 15(6), 2009: deuteranopia, severity 1.0, on linear RGB.
DEUTERANOPIA = (
    (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)
)  # fmt: skip
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
          (0.0193339, 0.1191920, 0.9503041))  # fmt: skip
LINES = [
    CurveLine(label=label, frames=[8, 16, 32, 64], means=[0.3, 0.4, 0.5, 0.5 + n / 20],
              intervals=[(0.2, 0.6)] * 4, plateau=32)
    for n, label in enumerate(("short", "medium", "long", "overall"))
]  # fmt: skip
GRID = [
    {"Num. Frame": 200 * column, "Frame Depth": 20 * row, "Score": (column + row) / 20}
    for column in range(1, 16) for row in range(6)
]  # fmt: skip


def linear(colour: str) -> list[float]:
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]


def times(matrix: tuple[tuple[float, ...], ...], vector: list[float]) -> list[float]:
    return [math.fsum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def lab(rgb: list[float]) -> list[float]:
    """CIE L*a*b* (D65) of linear RGB."""
    x, y, z = (
        v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116
        for v in (a / w for a, w in zip(times(TO_XYZ, rgb), (0.95047, 1.0, 1.08883), strict=True))
    )
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


def test_the_map_is_viridis_and_rises_evenly_in_lightness() -> None:
    assert [to_hex(colormaps["viridis"](n / 10)) for n in range(11)] == list(COLOURS)
    assert [to_hex(COLOUR_MAP(n / 10)) for n in range(11)] == list(COLOURS)
    lightness = [lab(linear(colour_of(n / 20)))[0] for n in range(21)]
    steps = [b - a for a, b in pairwise(lightness)]
    assert min(steps) > 2.5  # so that 25 % and 100 % are never one grey
    assert max(steps) < 2 * min(steps)


def test_a_deuteranope_sees_the_ends_as_far_apart_as_others_see_white_and_black() -> None:
    seen = [
        lab([min(1.0, max(0.0, v)) for v in times(DEUTERANOPIA, linear(colour_of(n / 10)))])
        for n in range(11)
    ]
    assert math.dist(seen[0], seen[-1]) > 100
    assert min(math.dist(a, b) for a, b in pairwise(seen)) > 7


def test_numbers_stand_out_from_their_cells() -> None:
    for percent in range(101):
        ground, ink = (
            0.2126 * red + 0.7152 * green + 0.0722 * blue
            for red, green, blue in map(linear, (colour_of(percent / 100), ink_on(percent / 100)))
        )
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5, percent


@pytest.mark.slow
@pytest.mark.parametrize("width", ["column", "page"])
def test_a_figure_has_the_width_of_its_place_and_nothing_sticks_out(width: FigureWidth) -> None:
    figures = [
        draw_curves([CurvePanel(title="", lines=LINES, chance=0.25)], title="A model on a task",
                    note="A long note that has to be broken into lines. " * 4, width=width),
        draw_curves([CurvePanel(title=str(n), lines=LINES[:3]) for n in range(3)],
                    title="A model on a task", legend_title="RoPE", width=width),
        draw_heatmaps([needle_grid(GRID, title="A model", note="5 needles a cell",
                                    no_needle={200 * n: 0.1 for n in range(1, 16)})], width=width),
    ]  # fmt: skip
    for figure in figures:
        assert figure.get_figwidth() == FIGURE_WIDTHS[width]
        figure.draw_without_rendering()
        inside = figure.bbox
        boxes = [text.get_window_extent() for text in figure.findobj(match=_is_text)]
        for box in boxes:
            assert box.x0 >= -1
            assert box.x1 <= inside.x1 + 1
            assert box.y0 >= -1
            assert box.y1 <= inside.y1 + 1
        for legend in figure.legends:
            assert not any(
                legend.get_window_extent().overlaps(axes.get_tightbbox())
                for axes in figure.axes if axes.get_visible()
            )  # fmt: skip


def _is_text(artist: object) -> bool:
    from matplotlib.text import Text

    return isinstance(artist, Text) and artist.get_visible() and bool(artist.get_text())


@pytest.mark.slow
def test_every_cell_of_the_papers_grid_has_its_number_in_a_column() -> None:
    figure = draw_heatmaps([needle_grid(GRID, title="m")], width="column")
    texts = [text for text in figure.axes[0].texts if text.get_text().isdigit()]
    sizes = [text.get_fontsize() for text in texts]
    assert len(sizes) == 90
    assert min(sizes) >= 4.5


@pytest.mark.slow
def test_letters_stay_letters_in_svg_and_pdf_and_bytes_stay_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        figure = draw_curves([CurvePanel(title="", lines=LINES)], title="Words to search for")
        save_figure(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.pdf")
    for kind in ("svg", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert "Words to search for" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert re.search(rb"/Subtype /(Type0|TrueType)", (tmp_path / "a.pdf").read_bytes())


@pytest.mark.slow
def test_a_figure_that_cannot_be_written_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "all_accuracies.json").write_text(json.dumps(GRID), encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    out = tmp_path / "file" / "figure.png"
    assert main(["heatmap", str(tmp_path), "--out", str(out)]) == 1
    assert f"{out} cannot be written" in capsys.readouterr().err
    good = tmp_path / "figure.pdf"
    assert main(["heatmap", str(tmp_path), "--out", str(good), "--width", "column"]) == 0
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", good.read_bytes())
    assert box is not None
    assert float(box[1]) == pytest.approx(3.3 * 72, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("width", ["column", "page"])
def test_a_study_is_drawn_at_the_width_asked_for(tmp_path: Path, width: FigureWidth) -> None:
    """`sweep --width`: the figures of a study as wide as their place in a paper."""
    points = []
    for frames in (8, 32):
        folder = Path(shutil.copytree(RUNS / f"mini_{frames}", tmp_path / f"frames-{frames}"))
        (results,) = folder.glob("*_results.json")
        point = {"name": folder.name, "frames": frames, "rope_label": "own RoPE"}
        point |= {"status": "complete", "results": str(results.relative_to(tmp_path))}
        points.append(point)
    (tmp_path / "study.json").write_text(json.dumps({"points": points}), encoding="utf-8")
    files, shown = write_study(tmp_path, width=width)
    (svg,) = [file for file in files if file.suffix == ".svg"]
    found = re.search(r'width="([\d.]+)pt"', svg.read_text(encoding="utf-8"))
    assert found is not None
    assert float(found[1]) == pytest.approx(72 * FIGURE_WIDTHS[width])
    assert "48.1" in shown
