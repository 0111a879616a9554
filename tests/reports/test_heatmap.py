"""Tables and figures from rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from longva_eval.reports.figures.heatmap import (
    COLOUR_MAP,
    accuracy_table,
    draw_heatmaps,
    mean_accuracy,
    needle_grid,
    save_heatmaps,
)

ROWS = [
    {"Num. Frame": frames, "Frame Depth": depth, "Score": score}
    for frames, depth, score in [
        (8, 0.0, 1.0),
        (8, 50.0, 0.5),
        (1600, 0.0, 0.25),
        (1600, 50.0, 0.0),
    ]
]


def test_the_table_has_means_at_its_edges() -> None:
    assert accuracy_table(ROWS).splitlines() == [
        "depth \\ frames      8  1,600  mean",
        "----------------------------------",
        "           0 %  100.0   25.0  62.5",
        "          50 %   50.0    0.0  25.0",
        "----------------------------------",
        "          mean   75.0   12.5  43.8",
    ]


def test_the_table_does_not_depend_on_the_order_of_rows() -> None:
    assert accuracy_table(ROWS[::-1]) == accuracy_table(ROWS)


def test_a_place_that_was_not_asked_stays_empty() -> None:
    lines = accuracy_table(ROWS[:3]).splitlines()
    assert lines[3] == "          50 %   50.0         50.0"


def test_the_mean_is_over_cells() -> None:
    assert mean_accuracy(ROWS) == pytest.approx(0.4375)


def test_panels_share_one_scale_and_depth_0_is_at_the_top() -> None:
    figure = draw_heatmaps([needle_grid(ROWS[: n + 2], title=str(n)) for n in range(3)])
    shown = [axes for axes in figure.axes if axes.get_visible() and axes.patches]
    half = [
        patch.get_facecolor()
        for axes in shown[:3] for patch in axes.patches if patch.get_xy() == (0, 1)
    ]  # fmt: skip
    assert half == 3 * [COLOUR_MAP(0.5)]  # depth 50 %, 8 frames
    assert all(axes.yaxis_inverted() for axes in shown[:3])
    assert shown[0].get_xlabel() == "Frames in the video"


def test_no_panel_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        draw_heatmaps([])


@pytest.mark.slow
def test_the_same_rows_give_the_same_svg(tmp_path: Path) -> None:
    panel = needle_grid(ROWS, title="model", note="5 needles a cell")
    save_heatmaps([panel], tmp_path / "a.svg", tmp_path / "new" / "b.svg")
    assert (tmp_path / "a.svg").stat().st_size > 5_000
    assert (tmp_path / "new" / "b.svg").is_file()


@pytest.mark.slow
def test_small_print_is_broken_and_does_not_make_the_cells_narrow() -> None:
    """The controls of a needle test left half of the panel empty and ran into the colour scale."""
    rows = [{"Num. Frame": n, "Frame Depth": 0.0, "Score": 1.0} for n in (16, 64, 128)]
    note = "26 needles a cell; needle alone 100 %, blind 12 %, and what else there is to say of it"
    plain, long = ([needle_grid(rows, title="m", note=text)] * 2 for text in ("a", note))
    widths = []
    for panels in (plain, long):
        figure = draw_heatmaps(panels)
        figure.canvas.draw()
        widths.append(figure.axes[0].get_position().width)
    assert widths[1] == pytest.approx(widths[0], rel=0.02)
    (text,) = [text for text in figure.axes[1].texts if "needle alone" in text.get_text()]
    assert text.get_text().count("\n") == 1
    box = text.get_window_extent()
    assert box.x1 < figure.axes[-1].get_window_extent().x0
