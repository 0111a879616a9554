"""`longva-eval report`: runs become one page.

Which frames a question's strip shows is decided here: the run says which were seen
(`frame_indices`, or a place in a needle grid), the files are looked for where the run left them or
below `--media`, and what does not fit gives a reason in words.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.errors import MediaError, ResourceError, SettingsError
from longva_eval.media.probe import VideoInfo, probe_video
from longva_eval.reports.page.film import (
    MediaFinder,
    Strip,
    StripPlan,
    is_picture,
    make_strips,
    picture_digest,
    plan_needle,
    plan_pictures,
    plan_videos,
)
from longva_eval.reports.page.page import PageRun, build_page
from longva_eval.reports.reading.needle_runs import is_needle_folder, read_needle_run
from longva_eval.reports.reading.runs import Problem, read_run
from longva_eval.reports.study import read_study
from longva_eval.running.progress import progress_bar
from longva_eval.studies.study import RECORD_NAME

__all__ = ["main"]

_BASE64 = 4 / 3
_EMBEDDED = embedded.HAYSTACK.parts[-3:]
"""How the path of the embedded haystack ends, wherever the package lies."""
_Key = tuple[int, str, str]


def main(arguments: Sequence[str]) -> int:
    """Write one self-contained page about runs."""
    parser = argparse.ArgumentParser(
        prog="longva-eval report",
        description="One HTML file about one or several runs: scores with intervals, curves, "
        "needle heatmaps, and every question with the frames the model saw. It needs no network "
        "and no server; send it around.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a results file of lmms-eval, a folder with one (--output_path), or the folder of "
        "longva-eval niah or of a study (longva-eval sweep); the first is what the others are "
        "compared with",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="(report.html)")
    parser.add_argument("--title", default="", help="of the page; made from the runs if left out")
    parser.add_argument(
        "--media",
        action="append",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="where to look for videos and pictures that are not where the run left them; may be "
        "given several times",
    )
    parser.add_argument("--no-film", action="store_true", help="leave the film strips out")
    parser.add_argument(
        "--film-mb",
        type=float,
        default=26.0,
        metavar="MB",
        help="most that all film strips may add to the page (26)",
    )
    options = parser.parse_args(arguments)
    if not 0 < options.film_mb <= 1000:
        raise SettingsError(f"--film-mb {options.film_mb:g} must be above 0 and at most 1,000.")
    if options.out.is_dir():
        raise SettingsError(f"--out {options.out} is a folder; name a file, as report.html.")
    runs = [run for path in options.runs for run in _read(path)]
    film: dict[_Key, Strip | str] = {}
    note = "Film strips were left out (--no-film)."
    if not options.no_film:
        film, note = _film([each.run for each in runs], options.media, options.film_mb)
    page = build_page(runs, title=options.title, film=film, film_note=note)
    data = page.encode("utf-8")
    _write(options.out, data)
    print(f"Wrote {options.out} ({len(data) / 1e6:.1f} MB). {note}")
    # The points of a study are said the same of.
    said = Counter(
        f"{each.run.name}: {problem.text}" for each in runs for problem in each.run.problems
    )
    for text, times in said.items():
        print(f"  {text}" + (f" ({times} runs)" if times > 1 else ""))
    return 0


def _read(path: Path) -> list[Any]:
    """The runs at a path: needle tests, all points of a study, or the one run that is there."""
    if is_needle_folder(path):
        run, controls = read_needle_run(path)
        return [PageRun(run=run, controls=controls)]
    if path.name == RECORD_NAME or (path / RECORD_NAME).is_file():
        return _read_study(path)
    try:
        return [PageRun(run=read_run(path))]
    except MediaError:
        folders = sorted(
            {file.parent for file in path.rglob("cells*.jsonl") if is_needle_folder(file.parent)}
            if path.is_dir()
            else ()
        )
        if not folders:
            raise
    found = [read_needle_run(folder) for folder in folders]
    return [PageRun(run=run, controls=controls) for run, controls in found]


def _read_study(path: Path) -> list[Any]:
    """The runs of a study's points; what is missing is a problem of the first."""
    study = read_study(path)
    runs = [point.run for point in study.points if point.run is not None]
    missing = [point.name for point in study.points if point.run is None]
    if not runs:
        raise MediaError(f"{path}: no point of this study is finished; longva-eval sweep goes on.")
    if missing:
        problem = Problem(
            kind="truncated",
            text=f"the study {path.name} is not finished: {len(missing)} of {len(study.points)} "
            f"points are missing ({', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}).",
        )
        runs[0] = replace(runs[0], problems=(problem, *runs[0].problems))
    return [PageRun(run=run) for run in runs]


def _write(path: Path, data: bytes) -> None:
    """A file that is complete or as it was."""
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ResourceError(f"{path} cannot be written: {error}") from error


# Film strips --------------------------------------------------------------------------------------


def _film(
    runs: Sequence[Any], folders: Sequence[Path], megabytes: float
) -> tuple[dict[_Key, Strip | str], str]:
    """The strip of every question, and a sentence on how many there are."""
    finder = MediaFinder(folders)
    plans: dict[_Key, StripPlan] = {}
    film: dict[_Key, Strip | str] = {}
    for place, run in enumerate(runs):
        needles = _NeedleMedia(run, finder)
        for task in run.tasks.values():
            for question in task.samples:
                if question.outcome == "failed":
                    continue
                plan = _plan(question, finder, needles)
                if isinstance(plan, StripPlan):
                    plans[place, task.name, question.key] = plan
                else:
                    film[place, task.name, question.key] = plan
    files = {frame.path for plan in plans.values() for frame in plan.frames}
    if plans:
        with progress_bar(len(files), "Film strips", unit="file") as bar:
            made = make_strips(
                list(plans.values()),
                budget_bytes=int(megabytes * 1e6 / _BASE64),
                on_file=lambda _: bar.update(1),
            )
        film |= {key: made[plan.key()] for key, plan in plans.items()}
    shown = sum(isinstance(strip, Strip) for strip in film.values())
    if not shown:
        return film, "No film strip could be made; each sample says why."
    strips = {id(strip): strip for strip in film.values() if isinstance(strip, Strip)}
    most = max(len(strip.labels) for strip in strips.values())
    size = _BASE64 * sum(len(strip.data) for strip in strips.values()) / 1e6
    missing = len(film) - shown
    rest = f" {missing:,} answers have none; each says why." if missing else ""
    return film, (
        f"Film strips show up to {most} frames each, decoded again from the media files at the "
        f"recorded indices; all together take {size:.1f} MB of at most {megabytes:g}.{rest}"
    )


def _plan(question: Any, finder: MediaFinder, needles: _NeedleMedia) -> StripPlan | str:
    if "insert_index" in question.record and "num_frames" in question.record:
        return needles.plan(question)
    videos = [v for v in question.facts.get("videos") or () if isinstance(v, Mapping)]
    media = list(question.media)
    pictures = [name for name in media if is_picture(name)]
    if not videos:
        if media and len(pictures) == len(media):
            return _with_files(pictures, finder, plan_pictures)
        return (
            "The run does not say which frames the model saw; the adapters of longva-eval record "
            "them."
        )
    if pictures and len(pictures) < len(media):
        return "The prompt mixed pictures and videos, whose order the run did not record."
    if not media:
        file = finder.find_by_stem(question.cluster)
        if file is None:
            return (
                "The run did not record where the video lies. Name its folder with --media; it is "
                f"looked for by the id {question.cluster}."
            )
        media = [str(file)]
    return _with_files(media, finder, lambda files: plan_videos(files, videos))


def _with_files(names: Sequence[str], finder: MediaFinder, plan: Any) -> StripPlan | str:
    files = [finder.find(name) for name in names]
    lost = [name for name, file in zip(names, files, strict=True) if file is None]
    if lost:
        return (
            f"{Path(lost[0]).name} is not where the run left it; name a folder that holds it with "
            "--media."
        )
    made: StripPlan | str = plan(files)
    return made


class _NeedleMedia:
    """Haystack and needles of a run, found again and checked by what the run recorded of them."""

    def __init__(self, run: Any, finder: MediaFinder) -> None:
        self._record: Mapping[str, Any] = run.results
        self._finder = finder
        self._haystacks: dict[tuple[str, ...], list[VideoInfo] | str] = {}
        self._needles: dict[str, Path | str] = {}

    def plan(self, question: Any) -> StripPlan | str:
        """The strip of a needle cell, or why there is none."""
        media = list(question.media)
        name = str(question.record.get("needle_name", ""))
        if media:  # a task of lmms-eval, which records the files
            haystack = self._haystack(tuple(m for m in media if not is_picture(m)), {})
            pictures = [m for m in media if is_picture(m)]
            found = self._finder.find(pictures[0]) if pictures else None
            needle: Path | str = found or f"The picture of the needle {name} was not found."
        else:
            sources = self._record.get("haystack")
            if not isinstance(sources, list):
                return "The run did not record its haystack."
            digests = {str(s.get("file")): str(s.get("digest")) for s in sources}
            haystack = self._haystack(tuple(digests), digests)
            needle = self._needle(name)
        if isinstance(haystack, str):
            return haystack
        if isinstance(needle, str):
            return needle
        seen = None
        videos = question.facts.get("videos")
        if videos and isinstance(videos[0], Mapping):
            seen = videos[0].get("frame_indices")
        elif "clip" in str(question.record.get("scoring", "")):
            return "The run does not say which frames of the clip the model saw."
        return plan_needle(
            haystack,
            needle,
            num_frames=int(question.record["num_frames"]),
            insert_index=int(question.record["insert_index"]),
            seen=seen,
        )

    def _haystack(
        self, names: tuple[str, ...], digests: Mapping[str, str]
    ) -> list[VideoInfo] | str:
        if names not in self._haystacks:
            self._haystacks[names] = self._find_haystack(names, digests)
        return self._haystacks[names]

    def _find_haystack(
        self, names: Sequence[str], digests: Mapping[str, str]
    ) -> list[VideoInfo] | str:
        if not names:
            return "The run did not record its haystack."
        found = []
        for name in names:
            file = self._finder.find(name)
            if file is None and (name in digests or Path(name).parts[-3:] == _EMBEDDED):
                file = embedded.HAYSTACK
            if file is None:
                return (
                    f"The haystack {Path(name).name} was not found; name its folder with --media."
                )
            try:
                info = probe_video(file)
            except MediaError as error:
                return str(error)
            if name in digests and digests[name] != info.digest:
                return f"{file} is not the haystack of this run: its digest differs."
            found.append(info)
        return found

    def _needle(self, name: str) -> Path | str:
        if name not in self._needles:
            self._needles[name] = self._find_needle(name)
        return self._needles[name]

    def _find_needle(self, name: str) -> Path | str:
        wanted = next(
            (
                needle.get("image_sha256")
                for needle in self._record.get("needles") or ()
                if isinstance(needle, Mapping) and needle.get("name") == name
            ),
            None,
        )
        for file in (self._finder.find(name), embedded.NEEDLES / name):
            try:
                if file is not None and file.is_file() and picture_digest(file) == wanted:
                    return file
            except (MediaError, OSError, ValueError):
                continue
        return f"The picture of the needle {name} was not found; name its folder with --media."
