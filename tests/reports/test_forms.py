"""The same runs give the same numbers wherever they are shown."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from host_runs import number_line, videomme_line, write_host_run

from longva_eval.reports.page.numbers import differences, score_rows
from longva_eval.reports.page.runs import PageRun, shown_runs
from longva_eval.reports.reading.frames import runs_frame, samples_frame
from longva_eval.reports.reading.runs import Run, read_run
from longva_eval.reports.reading.scores import score_of
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.overview import show_run
from longva_eval.reports.tables.paired import paired_tables, signed
from longva_eval.reports.tables.rows import COLUMNS
from longva_eval.reports.tables.tables import Format, render

METRIC = "videomme_perception_score"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two made-up models: videomme on 300 videos, a word error rate and two metrics at once."""
    found = []
    for name, step in (("model-one-7B", 3), ("model-two-7B", 5)):
        folder = tmp_path_factory.mktemp(name)
        questions = [
            videomme_line(n, "A" if n * n * 31 % 97 % step else "B", "A",
                          duration=("short", "medium", "long")[n // 300])
            for n in range(900)
        ]  # fmt: skip
        sound = [number_line(n, "wer", ((n * 37) % 100) / 100 / step) for n in range(200)]
        both = [
            number_line(n, "acc", float(bool(n % step)), format=float(n % 10 > 1))
            for n in range(200)
        ]
        wer = sum(line["wer"] for line in sound) / 200
        results = {
            "videomme": {f"{METRIC},none": 100 * sum(q[METRIC]["score"] for q in questions) / 900},
            "asr": {"wer,none": 100 * wer},
            "both": {"acc,none": sum(line["acc"] for line in both) / 200, "format,none": 0.8},
        }
        tasks = {"videomme": questions, "asr": sound, "both": both}
        write_host_run(
            folder, tasks, results=results, higher={"wer": False}, pretrained=f"org/{name}"
        )
        found.append(read_run(folder))
    return found


def cells(text: str, label: str) -> list[str]:
    """The numbers with one decimal in a row of a model, in order; n and frames have none."""
    (line,) = [line for line in text.splitlines() if label in line and " minus " not in line]
    line = re.sub(r"(±|\\pm\$?|\\scriptsize[^ &]*?)\s*\d+\.\d", "", line)
    return re.findall(r"(?<![\d.])\d+\.\d(?![\d.])", line.replace(label, ""))


@pytest.mark.slow
def test_every_form_has_the_same_scores(runs: list[Run]) -> None:
    tables = comparison_tables(runs)
    overview = tables[0]
    rows = json.loads(render(tables, "json"))
    frame = runs_frame(runs).set_index(["run", "task", "metric"])
    page = {
        (row["each"].run.name, task): row["score"]
        for task, group in score_rows(shown_runs([PageRun(run=run) for run in runs]))
        for row in group
    }
    for run in runs:
        samples = samples_frame(run)
        means = samples[samples.is_scored].groupby("task").score.mean()
        shown = {}
        for name, task in run.tasks.items():
            for metric in task.metrics:
                found = score_of(task, metric=metric.label)
                assert found is not None
                (row,) = [
                    row for row in rows
                    if (row["run"], row["task"], row["metric"], row["part"])
                    == (run.name, name, found.metric, "")
                ]  # fmt: skip
                told = frame.loc[(run.name, name, found.metric)]
                for key, value in (
                    ("value", found.value), ("low_95", found.low), ("high_95", found.high),
                    ("standard_error", found.standard_error), ("unit", found.unit),
                    ("questions", found.num_questions), ("videos", found.num_videos),
                    ("higher_is_better", found.higher_is_better), ("few", found.few),
                ):  # fmt: skip
                    assert row[key] == told[key] == value, (name, key)
            main = score_of(task)
            assert main is not None
            assert main.value == pytest.approx(task.scale * means[name])
            score = page[run.name, name]
            assert score.text == f"{main.text} {main.unit}"
            assert score.interval == f"{main.write(main.low or 0)} to {main.write(main.high or 0)}"
            assert re.search(rf"\ball +{main.text} +{score.interval}", show_run(run))
            shown[name] = main.text
        for form in ("terminal", "md", "latex", "html"):
            text = render([overview], form, width=200)
            text = text.replace("</tr>", "</tr>\n") if form == "html" else text
            assert cells(text, run.name) == list(shown.values()), form


@pytest.mark.slow
def test_csv_and_json_are_one_tidy_table(runs: list[Run]) -> None:
    tables = [*comparison_tables(runs), *paired_tables(runs, runs[0])]
    rows = json.loads(render(tables, "json"))
    assert all(tuple(row) == COLUMNS for row in rows)
    lines = list(csv.DictReader(io.StringIO(render(tables, "csv"))))
    assert [{k: _as_csv(v) for k, v in row.items()} for row in rows] == lines
    keys = ("table", "kind", "run", "baseline", "task", "part", "metric")
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows)
    assert {row["table"] for row in rows} == {"scores", "differences"}


def _as_csv(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_form_has_the_same_differences(runs: list[Run]) -> None:
    (table,) = paired_tables(runs, runs[0])
    rows = json.loads(render([table], "json"))
    made, _ = differences(shown_runs([PageRun(run=run) for run in runs]))
    assert len(made) == len(rows)
    for row, drawn in zip(rows, made, strict=True):
        assert drawn["difference"] == signed(row["value"], 1)
        assert drawn["interval"] == interval(row)
        assert drawn["only_second"] == row["run_better"]
        assert drawn["only_first"] == row["baseline_better"]
    for form in ("terminal", "md", "html", "latex"):
        text = _plain(render([table], form, width=200))
        for row in rows:
            assert signed(row["value"], 1) in text, form
            assert interval(row) in text, form
    whole = {row["task"]: row for row in rows if row["kind"] == "whole"}
    # Less is better: the second model's error rate is lower, which is a gain.
    assert whole["asr"]["value"] < 0 < whole["asr"]["run_better"]
    assert not whole["asr"]["higher_is_better"]
    assert [row["metric"] for row in rows if row["kind"] == "metric"] == ["format"]


def interval(row: dict[str, Any]) -> str:
    return f"{signed(row['low_95'], 1)} to {signed(row['high_95'], 1)}"


def _plain(text: str) -> str:
    return text.replace("\u2212", "-").replace("$-$", "-")


def forms() -> Sequence[Format]:
    return ("terminal", "md", "latex", "html", "csv", "json")


@pytest.mark.parametrize("form", forms())
def test_less_is_better_is_said_and_ranked(runs: list[Run], form: Format) -> None:
    """WER 57.1 got the bold over 41.2, and the metric's name was missing."""
    text = render(comparison_tables(runs), form, width=200)
    assert "wer" in text
    if form == "terminal":
        line = next(x for x in text.split("\nasr\n")[1].splitlines() if "model-two" in x)
        assert "*" in line
        assert "wer ↓" in text
    if form == "json":
        better = [row["higher_is_better"] for row in json.loads(text) if row["metric"] == "wer"]
        assert better == [False, False]


def test_samples_file_alone_gives_the_same_scores(runs: list[Run], tmp_path: Path) -> None:
    """Without the results file only the scale of an error rate is not known."""
    for file in runs[0].path.parent.glob("*_samples_videomme.jsonl"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    alone = score_of(read_run(tmp_path).tasks["videomme"])
    whole = score_of(runs[0].tasks["videomme"])
    assert alone is not None
    assert whole is not None
    assert (alone.value, alone.low, alone.high) == (whole.value, whole.low, whole.high)
