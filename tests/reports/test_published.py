"""Published scores: each with its source, conflicts shown, nothing averaged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from longva_eval.errors import MediaError, SettingsError
from longva_eval.reports.tables.benchmarks import benchmark_of
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.published import (
    SCORES,
    find_benchmark,
    published_rows,
    published_scores,
    read_published,
)


@pytest.fixture(scope="module")
def scores():
    return published_scores()


def rows_of(scores, name, **settings):
    return published_rows(scores, find_benchmark(name, scores), **settings)


def test_the_copy_in_the_package_begins_with_the_collected_file(shared_folder: Path) -> None:
    """What follows are rows of models of 2025 and 2026, which were collected later."""
    collected = (shared_folder / "published" / "scores.csv").read_bytes()
    assert SCORES.read_bytes().startswith(collected)
    added = SCORES.read_text(encoding="utf-8")[len(collected.decode()) :].splitlines()
    assert len(added) == 145
    assert all("read 2026-11-29" in line for line in added)


def test_today_s_models_have_rows(scores) -> None:
    rows, _ = rows_of(scores, "Video-MME", models=["Qwen3-VL-8B", "GLM-4.5V"], subtitles=["w/o"])
    assert {(row.model, row.percent(3)) for row in rows} == {
        ("Qwen3-VL-8B-Instruct", 71.4), ("Qwen3-VL-8B-Thinking", 71.8),
        ("GLM-4.5V (non-thinking)", 74.3), ("GLM-4.5V (thinking)", 74.6),
    }  # fmt: skip
    rows, _ = rows_of(scores, "LVBench", models=["Qwen3"])
    assert [row.percent(0) for row in rows] == [59.2, 70.0, 66.4, 58.0, 52.0]


def test_every_number_has_a_source(scores) -> None:
    assert len(scores) == 4041
    assert all(score.source_url.startswith("https://") and score.source_table for score in scores)


def test_longva_s_table_of_frames_is_reproduced(scores) -> None:
    """LongVA (arXiv 2406.16852), table 4."""
    rows, _ = rows_of(scores, "Video-MME", subtitles=["w/o"])
    own = [
        r for r in rows if r.model == "LongVA" and r.sources[0].table.startswith("LongVA Table 4")
    ]
    assert [row.frames for row in own] == ["8", "16", "32", "64", "128", "384"]
    assert [row.percent(3) for row in own] == [47.9, 49.7, 51.8, 52.4, 52.6, 51.8]
    assert [row.percent(2) for row in own] == [42.1, 43.6, 45.4, 45.0, 46.2, 46.1]


def test_the_image_table_is_reproduced(scores) -> None:
    """LongVA, table 6."""
    rows, left_out = rows_of(scores, "images")
    values = {row.model: [row.percent(place) for place in range(6)] for row in rows}
    assert left_out == 21  # models of other sources
    assert len(values) == 5
    assert values["LongVA (UniRes)"] == [70.7, 70.4, 80.8, 49.4, 60.0, 42.6]


def test_the_three_published_heatmaps_have_a_row_each(scores) -> None:
    rows, _ = rows_of(scores, "v-niah")
    means = [sum(row.percent(n) for n in row.values) / len(row.values) for row in rows]
    assert [f"{mean:.1f}" for mean in means] == ["90.9", "14.7", "28.4"]
    assert rows[0].percent(1400) == pytest.approx(93.33)


def test_sources_that_disagree_are_both_shown_and_marked(scores) -> None:
    rows, _ = rows_of(scores, "LongVideoBench")
    longva = [row for row in rows if row.model == "LongVA"]
    assert sorted(row.percent(4) for row in longva if 4 in row.values) == [47.8, 47.8, 49.7, 51.3]
    assert any(row.disagrees for row in longva)
    told = {}
    for row in longva:
        told.setdefault(row.frames, []).append(row)
    # A source that gives no number of frames says nothing against one that does.
    assert all(not row.disagrees for rows in told.values() if len(rows) == 1 for row in rows)


def test_models_and_frame_rates_have_one_spelling(scores) -> None:
    models = {score.model for score in scores}
    assert len({re.sub("[^a-z0-9]", "", name.lower()) for name in models}) == len(models)
    rates = {score.frames for score in scores if "fps" in score.frames.lower()}
    assert {"1 fps", "2 fps", "0.5 fps"} <= rates
    assert all(re.search(r"\d fps", rate) for rate in rates)


@pytest.mark.slow
def test_durations_of_another_split_are_shown_marked_and_not_ranked(scores) -> None:
    """The columns could never fill: val/(8,15] here, test/(8,15] in the sources."""
    benchmark = find_benchmark("LongVideoBench", scores)
    (table,) = comparison_tables([], benchmark=benchmark, scores=scores, models=["all"])
    titles = [column.title for column in table.columns]
    place = titles.index("(8,15]")
    filled = [row for row in table.rows if row.cells[place].text]
    assert len(filled) > 10
    assert not any(row.cells[place].rank for row in filled)
    said = {note.mark: note.text for note in table.notes}
    for row in filled:
        notes = [said.get(mark, "") for mark in row.cells[0].marks]
        assert any("scores by duration are" in note for note in notes)


def test_a_mean_that_its_parts_do_not_give_is_told(scores) -> None:
    """Four rows of VCWE's table print an M-Avg off their parts."""
    benchmark = find_benchmark("MLVU", scores)
    (table,) = comparison_tables([], benchmark=benchmark, scores=scores, models=["all"])
    notes = [note.text for note in table.notes if "the mean of its printed parts is" in note.text]
    assert "M-Avg is printed 64.2; the mean of its printed parts is 62.5." in notes
    assert "M-Avg is printed 30.9; the mean of its printed parts is 26.5." in notes


def test_sources_that_agree_share_a_row(scores) -> None:
    rows, _ = rows_of(scores, "Video-MME", models=["LongVA"], subtitles=["w/o"])
    (row,) = [r for r in rows if r.model == "LongVA" and r.frames == "128"]
    assert row.percent(3) == 52.6
    assert not row.disagrees
    assert len(row.sources) >= 8
    assert len({source.url for source in row.sources}) >= 8


def test_models_are_chosen_by_parts_of_their_names(scores) -> None:
    rows, left_out = rows_of(scores, "Video-MME", models=["qwen2-vl"], subtitles=["w/o"])
    assert rows
    assert all("qwen2-vl" in row.model.lower() for row in rows)
    everyone, none = rows_of(scores, "Video-MME", models=["all"], subtitles=["w/o"])
    assert none == 0
    assert len(everyone) > len(rows) + left_out
    with pytest.raises(SettingsError, match="has Gemma-9 in its name; --models all shows all"):
        rows_of(scores, "Video-MME", models=["Gemma-9"])


@pytest.mark.slow
def test_every_published_benchmark_can_be_shown(scores) -> None:
    for name in dict.fromkeys(score.benchmark for score in scores):
        if name != "model_properties":
            rows, _ = rows_of(scores, name, models=["all"])
            assert rows, name


def test_an_unknown_benchmark_is_answered_with_names(scores) -> None:
    with pytest.raises(SettingsError, match=r"Did you mean Video-MME.*There are: ActivityNet-QA"):
        find_benchmark("VideoMNE", scores)


@pytest.mark.parametrize(
    ("task", "benchmark"),
    [
        ("videomme", "Video-MME"), ("longva_videomme", "Video-MME"),
        ("videomme_w_subtitle", "Video-MME"), ("mlvu_dev", "MLVU"), ("mlvu_test", "MLVU test"),
        ("longvideobench_val_v", "LongVideoBench"), ("lvbench", "LVBench"), ("vniah", "V-NIAH"),
        ("nextqa_mc_test", "NExT-QA"), ("longva_docvqa_val", "DocVQA"), ("mmmu_val", "MMMU"),
        ("videomme_no_visual", None), ("longva_videomme_v2", None), ("mmmu_pro", None),
    ],
)  # fmt: skip
def test_tasks_of_both_suites_find_their_benchmark(task, benchmark) -> None:
    found = benchmark_of(task)
    assert (found.name if found else None) == benchmark


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("model,value\nLongVA,52.6\n")
    with pytest.raises(MediaError, match="lacks the columns benchmark, frames"):
        read_published(path)
    with pytest.raises(MediaError, match="cannot be read"):
        read_published(tmp_path / "none.csv")
