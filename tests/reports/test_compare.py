"""Tables of runs, beside published scores and against a baseline; and `show`."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from longva_eval import stats
from longva_eval.cli import main
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.paired import paired_tables
from longva_eval.reports.tables.tables import FORMATS, Cell, Column, Note, Row, Table, render

RUNS = Path(__file__).parents[1] / "data" / "runs"
TASK = "longva_videomme_mini"
EIGHT, MORE, SKIP = (str(RUNS / name) for name in ("mini_8", "mini_32", "mini_skip"))


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., str]:
    """A command's output in a terminal of 110 columns."""
    monkeypatch.setenv("COLUMNS", "110")

    def call(*arguments: str, status: int = 0) -> str:
        assert main(arguments) == status
        said = capsys.readouterr()
        return said.out if status == 0 else said.err

    return call


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., str]:
    """A copy of a run with every sample changed."""

    def make(name: str, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> str:
        folder = Path(shutil.copytree(RUNS / name, tmp_path / f"{name}_changed"))
        for path in folder.glob("*.jsonl"):
            samples = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            kept = [new for sample in samples if (new := change(sample)) is not None]
            path.write_text("".join(json.dumps(s) + "\n" for s in kept), encoding="utf-8")
        return str(folder)

    return make


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def flat(text: str) -> str:
    return " ".join(text.split())


# Scores


def test_scores_stand_with_their_count_and_clustered_standard_error(run) -> None:
    text = run("compare", EIGHT, MORE)
    eight, more = lines_of(text, "longva-tiny")
    # 18 videos are too few for a standard error.
    assert eight.split() == ["longva-tiny", "8", "54", "*100.0", "few", "27.8", "few", "16.7",
                             "few", "48.1", "few"]  # fmt: skip
    assert more.split()[-2:] == ["*75.9", "few"]
    assert "few: fewer than 20 videos hold a miss, or a hit" in flat(text)
    questions = read_run(EIGHT).tasks[TASK].samples
    found = stats.estimate_mean([q.score for q in questions], [q.cluster for q in questions])
    assert f"{100 * found.mean:.1f}" == "48.1"


def test_failed_questions_count_and_are_also_left_out(run) -> None:
    text = run("compare", SKIP)
    assert lines_of(text, "longva-tiny")[0].split()[-2:] == ["70.4", "few"]
    assert lines_of(text, "  without the 3 failed")[0].split()[4:] == [
        "51", "100.0", "few", "100.0", "few", "27.8", "few", "74.5", "few",
    ]  # fmt: skip
    assert "3 questions of 54 could not be asked and count 0 in the score" in flat(text)


def test_a_limited_run_is_marked_and_never_the_best(run) -> None:
    limited = str(RUNS / "host_limit")
    text = run("compare", str(RUNS / "host"), limited)
    assert "run with --limit 20, on 20 of 54 questions: no score of the benchmark" in flat(text)
    assert "20 questions in common, of 20 (dummy, response=C) and 54 (dummy, response=B)" in flat(
        text
    )
    assert not any("*" in line for line in lines_of(text, "dummy"))


def test_a_run_without_samples_shows_what_lmms_eval_wrote(run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EIGHT, tmp_path / "run"))
    next(folder.glob("*.jsonl")).unlink()
    text = run("compare", str(folder), "--baseline", MORE)
    row = lines_of(text, "longva-tiny")[1]
    assert row.split()[-2:] == ["48.1", "±9.6"]
    assert "has no samples file beside" in flat(text)
    assert "has no samples with scores, so that nothing can be paired" in flat(text)
    assert "95 % interval" not in text.split("minus")[1].split("\n", 3)[3]


def test_other_data_under_a_benchmark_s_name_are_not_ranked_with_it(run) -> None:
    text = run("compare", MORE, "--published", "Video-MME")
    assert "its data have 54 questions, Video-MME has 2,700: other data" in flat(text)
    assert "*" not in lines_of(text, "longva-tiny")[0]
    assert "LongVA Table 4 (Video-MME); transcribed from a table printed as an image" in text
    assert "Not at the number of frames measured here (32)." in text
    assert "Sources disagree about this setting; each is shown as printed." in text


def test_runs_of_other_benchmarks_are_not_shown_beside_published_scores(run) -> None:
    """A table of others' scores alone, with a line below it that nobody reads."""
    error = run("compare", EIGHT, MORE, "--published", "MLVU", status=1)
    assert "no task of MLVU: " in error
    assert EIGHT in error
    assert f"_results.json ran {TASK}; {MORE}" in error
    assert "leave out --published" in error


def test_other_prompts_versions_and_questions_are_marked(run, changed) -> None:
    other = changed("mini_32", lambda s: s | {"input": s["input"] + " Think."})
    results = next(Path(other).glob("*_results.json"))
    text = results.read_text(encoding="utf-8")
    results.write_text(text.replace(f'"{TASK}": 1.0', f'"{TASK}": 2.0'), encoding="utf-8")
    said = flat(run("compare", EIGHT, other))
    assert (
        "was asked with other prompts than longva-tiny, 8 frames (54 of 54 common questions)"
        in said
    )
    assert "version 2.0 of the task (longva-tiny, 32 frames) against 1.0 (longva-tiny, 8" in said


def test_equal_numbers_are_all_best_and_second_comes_after() -> None:
    tables = comparison_tables([read_run(EIGHT), read_run(MORE), read_run(SKIP)])
    (table,) = tables
    ranks = [[cell.rank for cell in row.cells[3:]] for row in table.rows]
    # short: 100, 100, 83.3; medium: 27.8, 100, 100; long: 16.7, 27.8, 27.8; then failed left out
    assert ranks == [[1, 2, 2, 0], [1, 1, 1, 1], [2, 1, 1, 2], [0, 0, 0, 0]]


def test_hidden_answers_make_no_score(run, changed) -> None:
    """A test split whose board keeps the answers: what was said is all there is."""

    def hide(sample: dict[str, Any]) -> dict[str, Any]:
        record = sample["longva_videomme_score"]
        record |= {"answer": "", "score": 0.0, "outcome": "not scored", "hidden_answer": True}
        return sample

    folder = changed("mini_32", hide)
    text = run("compare", folder, "--baseline", EIGHT)
    assert "the right answers to 54 questions are not public" in flat(text)
    assert "the right answers are not public: there is nothing to compare" in flat(text)
    (row,) = [line for line in lines_of(text, "longva-tiny a") if " 32 " in line]
    assert row.split()[-2:] == ["32", "54"]
    (overall,) = [line for line in run("show", folder).splitlines() if line.startswith("  all")]
    assert overall.split() == ["all", "54", "54"]  # questions, not scored


@pytest.mark.slow
def test_needle_grids_show_lengths_and_effective_frames(run) -> None:
    text = run("compare", "--published", "V-NIAH")
    assert "90.9" in text
    assert "five needles, which is too few to tell" in flat(text)
    ours = run("compare", str(RUNS / "niah"))
    assert "≥ 64" in ours


# A baseline


def test_differences_are_paired_by_video_and_corrected() -> None:
    eight, more = read_run(EIGHT), read_run(MORE)
    (table,) = paired_tables([eight, more], eight)
    first = {q.key: q for q in more.tasks[TASK].samples}
    second = eight.tasks[TASK].samples
    expected = stats.compare_pairs(
        [first[q.key].score for q in second],
        [q.score for q in second],
        [q.cluster for q in second],
    )
    data = [row.data[0] for row in table.rows]
    assert [row["part"] for row in data] == ["", "short", "medium", "long"]
    assert {row["category"] for row in data[1:]} == {"duration"}
    assert data[0]["value"] == 100 * expected.difference
    assert data[0]["p"] == expected.p_value
    # Overall by itself: its parts are a family of their own, none surer than the whole.
    p_values = [row["p"] for row in data]
    parts = [max(p, p_values[0]) for p in stats.holm(p_values[1:])]
    assert [row["p_holm"] for row in data] == [p_values[0], *parts]
    assert (data[0]["run_better"], data[0]["baseline_better"]) == (16, 1)


def test_rows_without_failed_questions_are_no_new_comparison() -> None:
    eight = read_run(EIGHT)
    (table,) = paired_tables([read_run(SKIP)], eight)
    row = next(row.data[0] for row in table.rows if row.data[0]["kind"] == "without failed")
    assert (row["questions"], row["p_holm"]) == (51, None)
    assert any("for 1 row of whole tasks, then for 3 rows" in note.text for note in table.notes)


def test_splitting_does_not_make_the_whole_less_sure() -> None:
    """12 values of a category turned p = .0022 into .028."""
    eight, more = read_run(EIGHT), read_run(MORE)
    (whole,) = paired_tables([more], eight, by="sub_category")
    (split,) = paired_tables([more], eight)
    assert len(whole.rows) != len(split.rows)
    assert whole.rows[0].data[0]["p_holm"] == split.rows[0].data[0]["p"]


def test_mcnemar_stands_there_on_request_only(run) -> None:
    assert "McNemar" not in run("compare", MORE, "--baseline", EIGHT)
    text = run("compare", MORE, "--baseline", EIGHT, "--mcnemar")
    assert "McNemar" in text
    assert "as if questions on one video were independent" in flat(text)


def test_runs_without_a_common_question_are_not_compared(run, changed) -> None:
    def rename(sample: dict[str, Any]) -> dict[str, Any]:
        sample["longva_videomme_score"]["question_id"] += "-other"
        return sample

    text = flat(run("compare", changed("mini_32", rename), "--baseline", EIGHT))
    assert "have no question in common (54 and 54, paired by longva_videomme_score" in text
    assert "different data or other prompts; not compared" in text
    assert "MDE" not in text.split("minus")[1].replace("+ / - MDE", "")


def test_equal_ids_with_other_answers_are_other_data(run, changed) -> None:
    def turn(sample: dict[str, Any]) -> dict[str, Any]:
        record = sample["longva_videomme_score"]
        record["answer"] = {"A": "B", "B": "C", "C": "D", "D": "A"}[record["answer"]]
        return sample

    text = flat(run("compare", changed("mini_32", turn), "--baseline", EIGHT))
    assert "54 of 54 questions with the same id have different right answers" in text


def test_partly_common_questions_are_compared_on_what_is_common(run, changed) -> None:
    less = changed("mini_32", lambda s: s if s["doc_id"] < 30 else None)
    text = run("compare", less, "--baseline", EIGHT)
    assert "30 questions in common, of 30 (longva-tiny, 32 frames) and 54 (the" in flat(text)
    assert lines_of(text, TASK)[-1].split()[1:3] == ["a", "30"]  # few videos


def test_models_of_the_host_are_compared_too(run) -> None:
    text = run("compare", str(RUNS / "host_limit"), "--baseline", str(RUNS / "host"))
    rows = [line.split() for line in text.split("minus")[1].splitlines() if line[:4] == "cmp_"]
    found = {row[0]: row for row in rows if row[1].isdigit() or row[2].isdigit()}
    assert found["cmp_lvbench"][1:4] == ["20", "20", "+15.0"]
    # Only videomme says which video a question is on.
    assert found["cmp_videomme"][2:5] == ["20", "7", "+15.0"]


# Forms

HOSTILE = '<script>alert(1)</script> 50% & $x_1$ #{~^\\} | *b* "q" \u2013 שלום 影片 \x1b[31m'


def hostile_table() -> Table:
    return Table(
        title=HOSTILE,
        columns=(Column(title="Model", is_number=False), Column(title=HOSTILE)),
        rows=(
            Row(cells=(Cell(text=HOSTILE, marks=("1", "a")), Cell(text="5.0", error="1.0", rank=1)),
                data=({"row": HOSTILE, "value": "5.0"},)),
            Row(cells=(Cell(text="=1+1"), Cell(text="4.0", rank=2)), rule_above=True,
                data=({"row": "=1+1", "value": "4.0"},)),
        ),
        notes=(Note(mark="a", text=HOSTILE, url="javascript:alert(1)"),),
    )  # fmt: skip


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_names_are_text_in_every_form() -> None:
    page = Seen()
    page.feed(render([hostile_table()], "html"))
    assert "script" not in page.tags
    assert page.links == []
    assert "<script>alert(1)</script> 50% & $x_1$" in page.text
    assert "<script>" not in render([hostile_table()], "md")
    assert "\x1b[31m" not in render([hostile_table()], "terminal")
    rows = list(csv.DictReader(io.StringIO(render([hostile_table()], "csv"))))
    assert [row["row"] for row in rows] == [HOSTILE.replace("\x1b", "\\x1b"), "'=1+1"]


def test_best_and_second_are_shown_in_every_form() -> None:
    table = [hostile_table()]
    assert "**5.0** ±1.0" in render(table, "md")
    assert "<u>4.0</u>" in render(table, "md")
    assert "<strong>5.0</strong> <small>±1.0</small>" in render(table, "html")
    assert r"\textbf{5.0}{\scriptsize$\pm$1.0}" in render(table, "latex")
    assert r"\underline{4.0}" in render(table, "latex")
    assert "*5.0 ±1.0" in render(table, "terminal")
    assert "\033[1m5.0\033[0m ±1.0" in render(table, "terminal", colour=True)


@pytest.mark.slow
def test_every_form_is_written_to_a_file_of_its_suffix(run, tmp_path: Path) -> None:
    signs = {
        "md": "| Model |",
        "tex": r"\toprule",
        "html": "<table>",
        "csv": "table,kind,run",
        "json": '"table": "scores"',
        "txt": "──",
    }
    for suffix, sign in signs.items():
        path = tmp_path / "new" / f"table.{suffix}"
        run("compare", EIGHT, "--published", "Video-MME", "--out", str(path))
        assert sign in path.read_text(encoding="utf-8")


def test_csv_has_all_that_is_known_of_each_number(run) -> None:
    text = run("compare", SKIP, "--published", "Video-MME", "--models", "LongVA", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    ours = next(r for r in rows if r["kind"] == "measured" and r["part"] == "")
    assert float(ours["value"]) == 100 * 38 / 54
    assert (ours["questions"], ours["videos"], ours["failed"], ours["few"]) == (
        "54", "18", "3", "7 videos hold a miss",
    )  # fmt: skip
    assert float(ours["low_95"]) < 70.4 < float(ours["high_95"])
    assert "3 questions of 54 could not be asked" in ours["notes"]
    theirs = [r for r in rows if r["kind"] == "published"]
    assert all("https://" in row["source"] for row in theirs)
    disagreeing = ["Sources disagree about this setting" in row["notes"] for row in theirs]
    assert 0 < sum(disagreeing) < len(theirs)


@pytest.mark.process
@pytest.mark.skipif(shutil.which("bibtex") is None, reason="pdflatex, bibtex are not installed")
def test_latex_compiles_fits_the_column_and_cites_its_sources(run, tmp_path: Path) -> None:
    """A table with published rows was "too large for page by 353 pt"."""
    calls = {
        "scores": ("compare", EIGHT, SKIP, "--published", "Video-MME"),
        "differences": ("compare", EIGHT, MORE, "--baseline", EIGHT),
        "images": ("compare", "--published", "images"),
        "grids": ("compare", "--published", "V-NIAH"),
        "long": ("compare", "--published", "MLVU", "--models", "all"),
    }
    for name, call in calls.items():
        run(*call, "--out", str(tmp_path / f"{name}.tex"))
    assert not (tmp_path / "differences.bib").exists()
    (tmp_path / "hostile.tex").write_text(render([hostile_table()], "latex"), encoding="utf-8")
    inputs = [rf"\input{{{name}}}\clearpage" for name in (*calls, "hostile")]
    document = [
        r"\documentclass[twocolumn]{article}\usepackage{booktabs,graphicx,url}",
        r"\begin{document}", *inputs, r"\bibliographystyle{plain}\bibliography{scores,grids}",
        r"\end{document}",
    ]  # fmt: skip
    (tmp_path / "paper.tex").write_text("\n".join(document), encoding="utf-8")
    tex = ("pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex")
    for command in (tex, ("bibtex", "paper"), tex, tex):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert "too large for page" not in log
    wide = re.findall(r"Overfull \\hbox \(([\d.]+)pt", log.partition(r"paper.bbl")[0])
    assert all(float(points) < 5 for points in wide), wide
    entries = (tmp_path / "scores.bib").read_text(encoding="utf-8")
    keys = set(re.findall(r"\\cite\{([^}]+)\}", (tmp_path / "scores.tex").read_text("utf-8")))
    assert {key for group in keys for key in group.split(",")} == set(
        re.findall(r"@misc\{([^,]+),", entries)
    )


@pytest.mark.slow
def test_latex_has_minus_signs_indented_rows_and_the_notes_asked_for(run) -> None:
    call = ("compare", EIGHT, MORE, "--baseline", EIGHT, "--format", "latex")
    text = run(*call)
    assert r"\quad short" in text
    assert "$-$39.3 to +39.3" in text
    assert "Fewer than 20 videos" in text
    bare = run(*call, "--notes", "none")
    assert "textsuperscript" not in bare
    assert "minipage" not in bare
    published = ("compare", "--published", "images", "--format", "latex")
    assert "https://" not in run(*published)
    assert r"https:/\allowbreak" in run(*published, "--notes", "full")


def test_a_wide_table_goes_on_below_in_a_narrow_terminal(run, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("compare", "--published", "V-NIAH").splitlines()
    assert len(lines_of("\n".join(lines), "Model")) > 1
    assert all(len(line) <= 80 for line in lines if "http" not in line)


def test_all_forms_take_the_same_tables() -> None:
    tables = comparison_tables([read_run(EIGHT)])
    for form in FORMATS:
        text = render(tables, form)
        assert "48.1" in text
        assert text.endswith("\n")


# Commands


def test_wrong_calls_are_explained(run, tmp_path: Path) -> None:
    assert "needs a RUN or --published" in run("compare", status=1)
    assert "--baseline needs at least one other RUN" in run(
        "compare", "--baseline", EIGHT, status=1
    )
    assert "give --published" in run("compare", EIGHT, "--models", "LongVA", status=1)
    error = run("compare", EIGHT, MORE, "--by", "nope", status=1)
    assert "--by nope: no question of the runs has this category; there is duration" in error
    assert "Did you mean MLVU" in run("compare", "--published", "MLUV", status=1)
    assert "does not exist" in run("show", str(tmp_path / "none"), status=1)


@pytest.mark.process
def test_compare_loads_no_torch() -> None:
    code = (
        "import sys; from longva_eval.cli import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'pandas', 'lmms_eval', 'matplotlib', 'scipy.stats') "
        "if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "compare", EIGHT, MORE, "--baseline", EIGHT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Show


def test_show_tells_what_was_run_and_what_became_of_it(run) -> None:
    text = run("show", SKIP)
    assert re.search(r"frames +32 \(np.linspace", text)
    assert re.search(r"RoPE +type default, theta 1,000,000", text)
    assert "2026-11-20 22:23:39 (Asia/Singapore, lmms-eval's --timezone)" in flat(text)
    assert re.search(r"dtype +float32, cpu", text)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["all"] == ["all", "70.4", "46.6", "to", "87.3", "few", "54", "38", "6", "7",
                           "3"]  # fmt: skip
    assert "few: 7 videos hold a miss, too few for a narrow interval" in flat(text)
    assert rows["long"][1] == "27.8"
    assert re.search(r"\bshort .*\n +medium .*\n +long ", text)
    assert "x failed 3 (5.6 %)" in text
    assert "003-1: MediaError" in text
    assert "041-1: “5”" in text
    assert "Read this before using the numbers" in text


def test_show_names_lmms_evals_time_where_no_zone_is_recorded(run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SKIP, tmp_path / "run"))
    path = next(folder.glob("*_results.json"))
    results = json.loads(path.read_text(encoding="utf-8"))
    del results["config"]["resolved_cli_args"]
    path.write_text(json.dumps(results), encoding="utf-8")
    assert "2026-11-20 22:23:39 (lmms-eval's time)" in flat(run("show", str(folder)))


@pytest.mark.parametrize("width", [80, 120])
def test_show_fits_the_terminal(run, monkeypatch, width) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("mini_skip", "host", "host_limit", "niah", "old_adapter"):
        text = run("show", str(RUNS / name))
        assert max(map(len, text.splitlines())) <= width


def test_show_lists_failed_and_unread_questions_by_reason(run) -> None:
    text = run("show", SKIP, "--failed")
    assert f"{TASK}: 3 of 54 failed" in text
    assert "mini-90210-003.mp4 cannot be read as a video" in flat(text)
    assert f"{TASK}: 7 of 54 no answer" in text
    assert run("show", str(RUNS / "niah"), "--failed") == "No question failed.\n"


def test_show_prints_one_question(run) -> None:
    text = run("show", EIGHT, "--question", "001-1")
    assert "outcome       right" in text
    assert "* A. white  <- chosen" in text
    assert "8, at 0, 2, 4, 6.5, 8.5, 11, 13, 15.5 s" in flat(text)
    assert "Answer\n  white" in text
    error = run("show", EIGHT, "--question", "999-9", status=1)
    assert "has no question '999-9'. Ids look like 001-1, 001-2" in error


def test_show_moves_no_cursor_for_a_hostile_answer(run, changed) -> None:
    def attack(sample: dict[str, Any]) -> dict[str, Any]:
        sample["longva_videomme_score"] |= {
            "generated": "\x1b[2J\u202egone",
            "outcome": "no answer",
        }
        return sample

    folder = changed("mini_8", attack)
    for more in ([], ["--failed"], ["--question", "001-1"]):
        text = run("show", folder, *more)
        assert "\x1b" not in text
        assert "\u202e" not in text
