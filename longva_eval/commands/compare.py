"""`longva-eval compare`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.files import check_output
from longva_eval.reports.reading.runs import find_results, read_run
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.latex import bibliography
from longva_eval.reports.tables.paired import paired_tables
from longva_eval.reports.tables.published import find_benchmark, published_scores
from longva_eval.reports.tables.tables import FORMATS, Format, Table, render

__all__ = ["main"]

_SUFFIXES: dict[str, Format] = {
    ".md": "md",
    ".tex": "latex",
    ".csv": "csv",
    ".json": "json",
    ".html": "html",
    ".txt": "terminal",
}


def main(arguments: Sequence[str]) -> int:
    """Put runs beside published scores, or against a baseline."""
    parser = argparse.ArgumentParser(
        prog="longva-eval compare",
        description="A table of runs of lmms-eval, of any of its models; with --published beside "
        "published scores, with --baseline their paired differences. What makes two numbers not "
        "comparable stands below the table.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a results file, or a folder with one (--output_path of lmms-eval); samples are read "
        "from beside it",
    )
    parser.add_argument(
        "--published",
        metavar="BENCHMARK",
        help='published scores to show, for example "Video-MME", MLVU, V-NIAH or images',
    )
    parser.add_argument(
        "--models",
        help="parts of published model names to show, with commas between, or all (those of the "
        "LongVA paper)",
    )
    parser.add_argument(
        "--subtitles",
        choices=("w/o", "w/", "all"),
        help="published setting to show (that of the runs, else w/o)",
    )
    parser.add_argument(
        "--baseline", metavar="RUN", help="compare every RUN with this one, question by question"
    )
    parser.add_argument(
        "--mcnemar",
        action="store_true",
        help="with --baseline: McNemar's p too, which takes questions on one video as independent",
    )
    parser.add_argument(
        "--by", default="", metavar="CATEGORY", help="split scores by this category of the samples"
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="terminal, or what --out ends in",
    )
    parser.add_argument(
        "--notes",
        choices=("none", "short", "full"),
        help="below the tables: none, all but the sources, all (all; in LaTeX short, and sources "
        "are cited)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write there instead of printing; beside a .tex file a .bib with its sources",
    )
    options = parser.parse_args(arguments)
    if not options.runs and not options.published and not options.baseline:
        raise SettingsError("compare needs a RUN or --published BENCHMARK.")
    form: Format = options.format or _SUFFIXES.get(
        options.out.suffix if options.out else "", "terminal"
    )
    if options.out is not None:
        check_output(options.out)
    tables = _tables(options)
    colour = form == "terminal" and options.out is None and sys.stdout.isatty()
    width = 100 if options.out else shutil.get_terminal_size((100, 24)).columns
    text = render(tables, form, width=width, colour=colour, notes=options.notes)
    if options.out is None:
        print(text, end="")
    else:
        options.out.write_text(text, encoding="utf-8")
        print(f"Wrote {options.out}")
        if form == "latex" and (entries := bibliography(tables)):
            beside = options.out.with_suffix(".bib")
            beside.write_text(entries, encoding="utf-8")
            print(f"Wrote {beside}")
    return 0


def _tables(options: argparse.Namespace) -> list[Table]:
    runs = [read_run(path) for path in options.runs]
    baseline = None
    if options.baseline:
        # Usually one of the runs: large files are read once.
        newest = find_results(options.baseline)[-1]
        baseline = next((run for run in runs if run.path == newest), None)
        if baseline is None:
            baseline = read_run(options.baseline)
            runs = [baseline, *runs]
    settings: dict[str, Any] = {"by": options.by}
    if options.published:
        scores = published_scores()
        settings |= {
            "scores": scores,
            "benchmark": find_benchmark(options.published, scores),
            "models": [name.strip() for name in (options.models or "").split(",") if name.strip()],
        }
        if options.subtitles:
            settings["subtitles"] = () if options.subtitles == "all" else (options.subtitles,)
    elif options.models or options.subtitles:
        raise SettingsError("--models and --subtitles choose published scores: give --published.")
    tables = comparison_tables(runs, **settings)
    if baseline is not None:
        if len(runs) < 2:
            raise SettingsError("--baseline needs at least one other RUN to compare with it.")
        tables += paired_tables(runs, baseline, by=options.by, mcnemar=options.mcnemar)
    return tables
