"""Published scores, each with its source, as rows of a table. Nothing is averaged.

`longva_eval/data/published/scores.csv` holds what other people printed; docs/compare.md explains
its columns. Sources often repeat each other and sometimes disagree. Rows of one model at one number
of frames that print the same numbers are shown once, with all their sources; rows that differ are
all shown, and marked.
"""

from __future__ import annotations

import csv
import difflib
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import longva_eval
from longva_eval.errors import MediaError, SettingsError
from longva_eval.reports.tables.benchmarks import BENCHMARKS, Benchmark, PublishedColumn

__all__ = [
    "SCORES",
    "PublishedRow",
    "PublishedScore",
    "Source",
    "find_benchmark",
    "published_rows",
    "published_scores",
    "read_published",
]

SCORES: Final = Path(longva_eval.__file__).parent / "data" / "published" / "scores.csv"
"""The copy in the package."""


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """One number that somebody printed: a line of scores.csv."""

    benchmark: str
    subset: str
    metric: str
    model: str
    llm_params: str
    frames: str
    subtitles: str
    value: str
    """As printed, without its unit."""
    unit: str
    source_url: str
    source_table: str
    note: str


@dataclass(frozen=True)
class Source:
    """Where numbers were read."""

    table: str
    url: str
    note: str = ""


def find_benchmark(name: str, scores: Sequence[PublishedScore]) -> Benchmark:
    """The table of a published benchmark, by name; case and punctuation do not count.

    Benchmarks without a table of their own here get a column for each of their subsets, at most
    eight.

    Raises:
        SettingsError: If nothing is published under that name.
    """
    wanted = _plain(name)
    for benchmark in BENCHMARKS:
        if _plain(benchmark.name) == wanted:
            return benchmark
    names = list(dict.fromkeys(score.benchmark for score in scores))
    for found in names:
        if _plain(found) == wanted:
            counts = Counter(
                (score.subset, score.metric, score.unit)
                for score in scores
                if score.benchmark == found
            )
            subsets = list(dict.fromkeys(subset for (subset, _, _), _ in counts.most_common()))[:8]
            return Benchmark(
                name=found,
                tasks=r"(longva_)?" + re.escape(wanted) + r"(_.*)?",
                columns=tuple(
                    PublishedColumn(title=subset or "Score", subset=subset) for subset in subsets
                ),
            )
    known = sorted({*(b.name for b in BENCHMARKS), *names} - {"model_properties"}, key=str.lower)
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise SettingsError(
        f"Nothing is published under {name!r}.{hint} There are: {', '.join(known)}."
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@functools.cache
def published_scores() -> Sequence[PublishedScore]:
    """Those of the package, read once."""
    return tuple(read_published(SCORES))


def read_published(path: Path) -> list[PublishedScore]:
    """All published scores of a file.

    Names of models and frame rates that sources spell in several ways (`Qwen2VL`, `1fps`) get the
    spelling of most.

    Raises:
        MediaError: If the file is missing or has other columns.
    """
    fields = list(PublishedScore.__dataclass_fields__)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = set(fields) - set(reader.fieldnames or ())
            if missing:
                raise MediaError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
            rows = [{name: row[name] or "" for name in fields} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{path} cannot be read: {error}") from error
    spelled: dict[str, Counter[str]] = {}
    for model, count in Counter(row["model"] for row in rows).items():
        spelled.setdefault(_plain(model), Counter())[model] = count
    usual = {model: all_.most_common(1)[0][0] for all_ in spelled.values() for model in all_}
    for row in rows:
        row["model"] = usual[row["model"]]
        row["frames"] = re.sub(r"(?<=[\d.])\s*fps\b", " fps", row["frames"], flags=re.IGNORECASE)
    return [PublishedScore(**row) for row in rows]


# Rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row as printed: one model, one number of frames, and the sources that print it."""

    model: str
    llm_params: str
    frames: str
    subtitles: str
    subset: str
    """What tells rows of one model apart in a needle grid; else empty."""
    values: Mapping[int, PublishedScore]
    """By column."""
    sources: tuple[Source, ...]
    """The first one is the row's own; others print the same numbers."""
    disagrees: bool
    """Whether another source prints another number for the same model, frames and setting."""

    def percent(self, column: int) -> float | None:
        """The value on the scale of the table: percent for shares and percentages."""
        if column not in self.values:
            return None
        score = self.values[column]
        try:
            value = float(score.value.replace(",", ""))
        except ValueError:
            return None
        return 100 * value if score.unit == "ratio" else value


def published_rows(
    scores: Iterable[PublishedScore],
    benchmark: Benchmark,
    *,
    models: Sequence[str] = (),
    subtitles: Sequence[str] = (),
) -> tuple[list[PublishedRow], int]:
    """The published rows of a benchmark.

    Args:
        scores: From `read_published`.
        benchmark: From `find_benchmark`.
        models: Parts of model names to show; `all` for every model. Without any, the models of the
            LongVA paper's own table if there is one, else those named LongVA.
        subtitles: Settings to show (`w/o`, `w/`); without any all.

    Returns:
        Rows in the order of the file, the paper's own table first; and how many models were left
        out.
    """
    if benchmark.by_frames:
        return _grid_rows(scores, benchmark, models)
    groups: dict[tuple[str, ...], dict[int, PublishedScore]] = {}
    for score in scores:
        column = _column_of(score, benchmark)
        if column is None or (subtitles and score.subtitles not in subtitles):
            continue
        key: tuple[str, ...] = (
            score.source_table, score.source_url, score.model, score.llm_params, score.frames,
            score.subtitles,
        )  # fmt: skip
        groups.setdefault(key, {}).setdefault(column, score)
    chosen, left_out = _choose_models(groups, benchmark, models)
    own = {key: values for key, values in groups.items() if key[2] in chosen}
    ordered: list[tuple[str, ...]] = sorted(own, key=lambda key: not _is_paper(key, benchmark))
    merged: list[tuple[tuple[str, ...], dict[int, PublishedScore], list[Source]]] = []
    for key in ordered:
        values = own[key]
        source = Source(key[0], key[1], _notes(values))
        for have, known, sources in merged:
            same = _compare(known, values)
            if _same_setting(have, key) and same and all(same.values()):
                sources.append(source)
                if have[4] == key[4]:
                    for column, score in values.items():
                        known.setdefault(column, score)
                break
        else:
            merged.append((key, dict(values), [source]))
    rows = [
        PublishedRow(
            model=key[2],
            llm_params=key[3],
            frames=key[4],
            subtitles=key[5],
            subset="",
            values=values,
            sources=tuple(sources),
            disagrees=any(
                other is not key
                and key[4] == other[4]
                and _same_setting(other, key)
                and False in _compare(values, others).values()
                for other, others, _ in merged
            ),
        )
        for key, values, sources in merged
    ]
    rows.sort(key=lambda row: (list(chosen).index(row.model), row.subtitles, _frames_order(row)))
    return rows, left_out


def _column_of(score: PublishedScore, benchmark: Benchmark) -> int | None:
    for place, column in enumerate(benchmark.columns):
        name = column.benchmark or benchmark.name.removesuffix(" test")
        if score.benchmark != name or score.subset not in (column.subset, *column.other_subsets):
            continue
        if benchmark.metric and score.metric != benchmark.metric:
            continue
        if benchmark.name == "MLVU" and score.metric == "g_avg":
            continue
        return place
    return None


def _choose_models(
    groups: Mapping[tuple[str, ...], object], benchmark: Benchmark, models: Sequence[str]
) -> tuple[dict[str, None], int]:
    everyone = dict.fromkeys(key[2] for key in groups)
    paper = dict.fromkeys(key[2] for key in groups if _is_paper(key, benchmark))
    if any(wanted.lower() == "all" for wanted in models):
        chosen = paper | everyone
    elif models:
        chosen = {
            name: None
            for name in paper | everyone
            if any(wanted.lower() in name.lower() for wanted in models)
        }
        if not chosen:
            raise SettingsError(
                f"No published model of {benchmark.name} has {' or '.join(models)} in its name; "
                f"--models all shows all {len(everyone)}."
            )
    else:
        chosen = paper or {name: None for name in everyone if name.startswith("LongVA")}
        chosen = chosen or everyone
    return chosen, len(everyone) - len(chosen)


def _is_paper(key: tuple[str, ...], benchmark: Benchmark) -> bool:
    return bool(benchmark.paper_table) and key[0].startswith(benchmark.paper_table)


def _same_setting(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Same model and subtitles, and the same frames or none given in one of them.

    Sizes count the language model here and the whole model there: 34B and 40B are one model, 7B and
    72B are two.
    """
    sizes = [float(found[0]) for key in (one, other) if (found := re.match(r"[\d.]+", key[3]))]
    return (
        one[2] == other[2]
        and one[5] == other[5]
        and (len(sizes) < 2 or max(sizes) < 1.5 * min(sizes))
        and (one[4] == other[4] or not one[4] or not other[4])
    )


def _compare(
    one: Mapping[int, PublishedScore], other: Mapping[int, PublishedScore]
) -> dict[int, bool | None]:
    """Whether two rows print the same number, by common column; None for two different subsets."""
    return {
        column: _same_number(one[column].value, other[column].value)
        if one[column].subset == other[column].subset
        else None
        for column in one.keys() & other.keys()
    }


def _same_number(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), abs_tol=1e-9)
    except ValueError:
        return one == other


def _notes(values: Mapping[int, PublishedScore]) -> str:
    return "; ".join(dict.fromkeys(score.note for score in values.values() if score.note))


def _frames_order(row: PublishedRow) -> tuple[float, str]:
    found = re.match(r"\d+", row.frames)
    return (float(found[0]) if found else math.inf, row.frames)


def _grid_rows(
    scores: Iterable[PublishedScore], benchmark: Benchmark, models: Sequence[str]
) -> tuple[list[PublishedRow], int]:
    """Needle grids: a row for each model and subset, the number of frames as column."""
    grids: dict[tuple[str, str, str, str, str], dict[int, PublishedScore]] = {}
    for score in scores:
        if score.benchmark != benchmark.name or not score.frames.isdigit():
            continue
        if score.subset.endswith("/all") or score.subset in ("all", "text_claim"):
            continue
        key = (score.model, score.llm_params, score.subset, score.source_table, score.source_url)
        grids.setdefault(key, {})[int(score.frames)] = score
    everyone = dict.fromkeys(key[0] for key in grids)
    wanted = [name.lower() for name in models]
    if "all" in wanted:
        chosen = set(everyone)
    elif wanted:
        chosen = {n for n in everyone if any(part in n.lower() for part in wanted)}
    else:
        # The three heatmaps of the paper: LongVA, and LLaVA-NeXT-Video without training.
        paper = "repository output of the LongVA V-NIAH figure"
        grids = {key: values for key, values in grids.items() if key[3].startswith(paper)}
        chosen = {key[0] for key in grids}
    rows = [
        PublishedRow(
            model=model,
            llm_params=params,
            frames="",
            subtitles="",
            subset="" if subset == "heatmap" else subset.replace("_", " "),
            values=values,
            sources=(Source(table, url, _notes(values)),),
            disagrees=False,
        )
        for (model, params, subset, table, url), values in grids.items()
        if model in chosen
    ]
    return rows, len(everyone) - len({row.model for row in rows})
