"""The published benchmarks: how their tables look, and which tasks and categories are theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from longva_eval.reports.reading.run import TaskRun
from longva_eval.reports.reading.samples import Sample

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "PublishedColumn",
    "benchmark_of",
    "missing_parts",
    "subtitle_setting",
    "value_of",
]


@dataclass(frozen=True, kw_only=True)
class PublishedColumn:
    """A column of a benchmark's table: what it is called there, in scores.csv and in our runs."""

    title: str
    subset: str
    """In scores.csv."""
    benchmark: str = ""
    """In scores.csv, if the table joins several benchmarks."""
    value: str = ""
    """Of the category that the table is split by; empty for all questions."""
    macro: bool = False
    """Whether the score is the mean over categories, not over questions."""
    metric: str = ""
    """Label of a further metric of the task; empty for its main one."""
    other_subsets: Mapping[str, str] = field(default_factory=dict)
    """Further subsets in scores.csv, and what a reader has to know of them: never ranked."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """How a published benchmark looks as a table, and which tasks are the same benchmark."""

    name: str
    columns: tuple[PublishedColumn, ...]
    tasks: str
    """Regular expression of task names, ours, lmms-eval's, and those of VLMEvalKit's sheets."""
    split: tuple[str, ...] = ()
    """Names, ours and lmms-eval's, of the category whose values are columns."""
    is_mean_of_parts: bool = False
    """Whether the last column is the mean of the others."""
    subtitles: bool = False
    """Whether settings with and without subtitles exist."""
    paper_table: str = ""
    """Beginning of `source_table` of the LongVA paper's own table."""
    metric: str = ""
    """If scores.csv has several for these subsets."""
    sizes: tuple[int, ...] = ()
    """Number of questions of its data; several where several splits or settings are in use."""
    by_frames: bool = False
    """Whether the columns are numbers of frames, as in a needle grid."""


def _simple(
    name: str, tasks: str, subset: str, *, title: str, size: int, metric: str = ""
) -> Benchmark:
    column = PublishedColumn(title=title, subset=subset, macro=metric == "m_avg")
    return Benchmark(name=name, tasks=tasks, columns=(column,), metric=metric, sizes=(size,))


def _image(benchmark: str, tasks: str, *sizes: int) -> Benchmark:
    return Benchmark(
        name=benchmark,
        tasks=tasks,
        sizes=sizes,
        columns=(PublishedColumn(title=benchmark, subset=""),),
        paper_table="LongVA Table 6",
    )


_MLVU_TASKS: Final = {
    "TR": "topic_reasoning", "AR": "anomaly_reco", "NQA": "needle", "ER": "ego",
    "PQA": "plotQA", "AO": "order", "AC": "count",
}  # fmt: skip
_LVB_DURATIONS: Final = {"15": "(8,15]", "60": "(15,60]", "600": "(180,600]", "3600": "(900,3600]"}
_IMAGE_BENCHMARKS: Final = (
    _image("AI2D", r"(longva_)?ai2d", 3088),
    _image("ChartQA", r"(longva_)?chartqa", 2500),
    _image("DocVQA", r"(longva_)?docvqa(_val|_test)?", 5349, 5188),
    _image("InfoVQA", r"(longva_)?info(graphic_)?vqa(_val|_test)?", 2801, 3288),
    _image("RealWorldQA", r"(longva_)?realworldqa", 765),
    _image("MMMU", r"(longva_|vlmevalkit_)?mmmu(_val|_test)?", 900, 10500),
)

BENCHMARKS: Final[tuple[Benchmark, ...]] = (
    Benchmark(
        name="Video-MME",
        # Controls (blind, other options) and version 2 are no scores of this benchmark.
        tasks=r"(longva_|vlmevalkit_)?videomme(?!.*(_v2|visual|blind|random|option|shuffl))(_[a-z0-9]+)*",
        split=("duration",),
        is_mean_of_parts=True,
        subtitles=True,
        sizes=(2700,),
        paper_table="LongVA Table 4",
        metric="accuracy",
        columns=(
            PublishedColumn(title="Short", subset="short", value="short"),
            PublishedColumn(title="Medium", subset="medium", value="medium"),
            PublishedColumn(title="Long", subset="long", value="long"),
            PublishedColumn(title="Overall", subset="overall"),
        ),
    ),
    Benchmark(
        name="MLVU",
        tasks=r"(longva_|vlmevalkit_)?mlvu_dev",
        split=("task_type",),
        is_mean_of_parts=True,
        sizes=(2174,),
        columns=(
            *(
                PublishedColumn(title=short, subset=f"dev/{short}", value=name)
                for short, name in _MLVU_TASKS.items()
            ),
            PublishedColumn(title="M-Avg", subset="dev", macro=True),
        ),
    ),
    _simple("MLVU test", r"(longva_)?mlvu_test", "test", title="M-Avg", size=502, metric="m_avg"),
    Benchmark(
        name="LongVideoBench",
        tasks=r"(longva_|vlmevalkit_)?longvideobench_val(_v|_i|_w_subtitle)?",
        split=("duration_group",),
        sizes=(1337,),
        columns=(
            *(
                PublishedColumn(
                    title=printed,
                    subset=f"val/{printed}",
                    value=value,
                    other_subsets={
                        f"test/{printed}": "Its scores by duration are of the test split.",
                        f"split_not_stated/{printed}": "The source does not say of which split "
                        "its scores by duration are.",
                    },
                )
                for value, printed in _LVB_DURATIONS.items()
            ),
            PublishedColumn(title="Val", subset="val"),
        ),
    ),
    _simple("LVBench", r"(longva_)?lvbench", "overall", title="Overall", size=1549),
    _simple("NExT-QA", r"(longva_)?nextqa_mc(_test)?", "mc", title="MC", size=8564),
    Benchmark(
        name="images",
        tasks="|".join(benchmark.tasks for benchmark in _IMAGE_BENCHMARKS),
        paper_table="LongVA Table 6",
        columns=tuple(
            PublishedColumn(title=image.name, subset="", benchmark=image.name)
            for image in _IMAGE_BENCHMARKS
        ),
    ),
    *_IMAGE_BENCHMARKS,
    Benchmark(
        name="V-NIAH",
        tasks=r"(longva_)?vniah(_small|_generate_frames|_generate_clip)?",
        by_frames=True,
        metric="accuracy",
        columns=(),
    ),
)


def benchmark_of(task: str) -> Benchmark | None:
    """The published benchmark that a task measures; None if it is none we know."""
    for benchmark in BENCHMARKS:
        if benchmark.name != "images" and re.fullmatch(benchmark.tasks, task):
            return benchmark
    return None


def subtitle_setting(task: TaskRun) -> str:
    """`w/` or `w/o` for a task whose benchmark has both, else empty."""
    known = benchmark_of(task.name)
    if known is None or not known.subtitles:
        return ""
    name = task.name.lower()
    return "w/" if re.search(r"(?<!o)_subtitle|w_sub|with_sub", name) else "w/o"


def value_of(sample: Sample, split: Sequence[str]) -> str | None:
    """The value that a question has of the first of these categories that it has."""
    return next((sample.categories[name] for name in split if name in sample.categories), None)


def missing_parts(task: str, benchmark: Benchmark) -> list[str]:
    """The parts of a benchmark that a task leaves out by its name, as `videomme_long` does."""
    parts = [column.value for column in benchmark.columns if column.value]
    there = [part for part in parts if part in task.split("_")]
    return [part for part in parts if part not in there] if there else []
