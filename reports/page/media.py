"""Which frames a question's strip shows, and where their files lie.

A run says which frames were seen (`frame_indices`, or a place in a needle grid). Files are taken
from the folders of the runs, from folders that the user names, and from the package: a results
folder that somebody sent must not be able to put other pictures of this machine into a page.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from longva_eval import embedded
from longva_eval.errors import MediaError
from longva_eval.media.probe import VideoInfo, probe_video
from longva_eval.reports.page.film import (
    Strip,
    StripPlan,
    is_picture,
    make_strips,
    picture_file_digest,
    plan_needle,
    plan_pictures,
    plan_videos,
)
from longva_eval.reports.page.runs import PageRun
from longva_eval.reports.page.samples import Film
from longva_eval.reports.reading.runs import Run, Sample

__all__ = ["MediaFinder", "make_film", "plan_film"]

_BASE64: Final = 4 / 3
_EMBEDDED: Final = embedded.HAYSTACK.parts[-3:]
"""How the path of the embedded haystack ends, wherever the package lies."""


class MediaFinder:
    """Files where a run left them, or by their names, in folders that may be looked into.

    Args:
        named: Folders that the user named.
        own: Folders of the runs; a link that leads out of them is not followed.

    Raises:
        MediaError: If a folder that was named is none.
    """

    def __init__(self, named: Sequence[Path] = (), own: Sequence[Path] = ()) -> None:
        self.refused: Counter[Path] = Counter()
        """Folders of files that are there, but outside of these folders."""
        self._named = [folder.resolve() for folder in named]
        self._own = [folder.resolve() for folder in own]
        for folder in named:
            if not folder.is_dir():
                raise MediaError(f"{folder} is no folder to look for media in.")

    @cached_property
    def _by_name(self) -> dict[str, Path]:
        """Files by name, and behind them by name without suffix; the first of each."""
        files = [
            path
            for folder in (*self._named, *self._own)
            for place, _, names in os.walk(folder)
            for path in (Path(place, name) for name in sorted(names))
            if self._may_show(path)
        ]
        names = [(path.name, path) for path in files] + [(path.stem, path) for path in files]
        return dict(reversed(names))

    def find(self, name: str) -> Path | None:
        """The file of a recorded path or name; None if it is nowhere or may not be shown."""
        try:
            path = Path(name).expanduser()
            is_there = path.is_absolute() and path.is_file()
            if is_there and self._may_show(path):
                return path
        except (OSError, ValueError, RuntimeError):  # a zero byte, too long a name, no such user
            return None
        found = self._by_name.get(path.name)
        if found is None and is_there:
            self.refused[path.resolve().parent] += 1
        return found

    def find_by_stem(self, name: str) -> Path | None:
        """A file that is called like a video's id."""
        return self._by_name.get(name)

    def _may_show(self, path: Path) -> bool:
        package = Path(embedded.__file__).parent
        written = Path(os.path.abspath(path))  # noqa: PTH100 - without following links
        return any(map(written.is_relative_to, self._named)) or any(
            map(path.resolve().is_relative_to, (*self._named, *self._own, package))
        )


def plan_film(runs: Sequence[PageRun], media: Sequence[Path]) -> tuple[Film, str]:
    """What the strip of every question is to show, or why there is none; nothing is decoded.

    Args:
        runs: In the order of the page.
        media: Folders to look for media in, beside those of the runs.

    Returns:
        Plans and reasons, and a sentence on media that lie elsewhere.
    """
    finder = MediaFinder(media, [each.folder for each in runs if each.folder is not None])
    plans: dict[tuple[int, str, str], StripPlan | str] = {}
    for place, each in enumerate(runs):
        needles = _NeedleMedia(each.run, finder)
        for task in each.run.tasks.values():
            for sample in task.samples:
                if sample.outcome != "failed":
                    plans[place, task.name, sample.key] = _plan(sample, finder, needles)
    if not finder.refused:
        return plans, ""
    folder = os.path.commonpath(list(finder.refused))
    return plans, (
        f"Media of {finder.refused.total():,} answers lie outside of the runs' folders and were "
        f"not opened: --media {folder} allows it."
    )


def make_film(
    runs: Sequence[PageRun], *, media: Sequence[Path], megabytes: float
) -> tuple[Film, str]:
    """The strip of every question, and a sentence on how many there are.

    Args:
        runs: In the order of the page.
        media: As in `plan_film`.
        megabytes: What all strips together may add to a page.
    """
    plans, elsewhere = plan_film(runs, media)
    made = make_strips(
        [plan for plan in plans.values() if isinstance(plan, StripPlan)],
        budget_bytes=int(megabytes * 1e6 / _BASE64),
    )
    film = {
        key: made[plan.key()] if isinstance(plan, StripPlan) else plan
        for key, plan in plans.items()
    }
    strips = {id(strip): strip for strip in film.values() if isinstance(strip, Strip)}
    note = "No film strip could be made; each sample says why."
    if strips:
        most = max(len(strip.labels) for strip in strips.values())
        size = _BASE64 * sum(len(strip.data) for strip in strips.values()) / 1e6
        missing = sum(isinstance(strip, str) for strip in film.values())
        note = (
            f"Film strips show up to {most} frames each, decoded again from the media files at the "
            f"recorded indices; all together take {size:.1f} MB of at most {megabytes:g}."
        ) + (f" {missing:,} answers have none; each says why." if missing else "")
    return film, f"{note} {elsewhere}".strip()


def _plan(sample: Sample, finder: MediaFinder, needles: _NeedleMedia) -> StripPlan | str:
    if "insert_index" in sample.record and "num_frames" in sample.record:
        return needles.plan(sample)
    videos = [v for v in sample.facts.get("videos") or () if isinstance(v, Mapping)]
    media = list(sample.media)
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
        file = finder.find_by_stem(sample.cluster)
        if file is None:
            return (
                "The run did not record where the video lies. Name its folder with --media; it is "
                f"looked for by the id {sample.cluster}."
            )
        media = [str(file)]
    return _with_files(media, finder, lambda files: plan_videos(files, videos))


def _with_files(
    names: Sequence[str],
    finder: MediaFinder,
    plan: Callable[[Sequence[Path]], StripPlan | str],
) -> StripPlan | str:
    files = [finder.find(name) for name in names]
    lost = next((name for name, file in zip(names, files, strict=True) if file is None), None)
    if lost is not None:
        return (
            f"{Path(lost).name} is not in the folder of the run; name a folder that holds it with "
            "--media."
        )
    return plan([file for file in files if file is not None])


class _NeedleMedia:
    """Haystack and needles of a run, found again and checked by what the run recorded of them."""

    def __init__(self, run: Run, finder: MediaFinder) -> None:
        self._record: Mapping[str, Any] = run.results
        self._finder = finder
        self._haystack = functools.cache(self._find_haystack)
        self._needle = functools.cache(self._find_needle)

    def plan(self, sample: Sample) -> StripPlan | str:
        """The strip of a needle cell, or why there is none."""
        if sample.record.get("shown") is not None:
            return "A frame policy chose what was shown of the clip; the run does not say which."
        media = list(sample.media)
        name = str(sample.record.get("needle_name", ""))
        if media:  # a task of lmms-eval, which records the files
            haystack = self._haystack(tuple((m, "") for m in media if not is_picture(m)))
            pictures = [m for m in media if is_picture(m)]
            found = self._finder.find(pictures[0]) if pictures else None
            needle: Path | str = found or f"The picture of the needle {name} was not found."
        else:
            sources = self._record.get("haystack")
            if not isinstance(sources, list):
                return "The run did not record its haystack."
            told = tuple((str(each.get("file")), str(each.get("digest"))) for each in sources)
            haystack, needle = self._haystack(told), self._needle(name)
        if isinstance(haystack, str):
            return haystack
        if isinstance(needle, str):
            return needle
        seen = None
        videos = sample.facts.get("videos")
        if videos and isinstance(videos[0], Mapping):
            seen = videos[0].get("frame_indices")
        elif "clip" in str(sample.record.get("scoring", "")):
            return "The run does not say which frames of the clip the model saw."
        return plan_needle(
            haystack,
            needle,
            num_frames=int(sample.record["num_frames"]),
            insert_index=int(sample.record["insert_index"]),
            seen=seen,
        )

    def _find_haystack(self, told: Sequence[tuple[str, str]]) -> list[VideoInfo] | str:
        """Of names, with digests where the run has them."""
        if not told:
            return "The run did not record its haystack."
        found = []
        for name, digest in told:
            file = self._finder.find(name)
            if file is None and (digest or Path(name).parts[-3:] == _EMBEDDED):
                file = embedded.HAYSTACK
            if file is None:
                return (
                    f"The haystack {Path(name).name} was not found; name its folder with --media."
                )
            try:
                info = probe_video(file)
            except MediaError as error:
                return str(error)
            if digest and digest != info.digest:
                return f"{file} is not the haystack of this run: its digest differs."
            found.append(info)
        return found

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
                if file is not None and file.is_file() and picture_file_digest(file) == wanted:
                    return file
            except (MediaError, OSError, ValueError):
                continue
        return f"The picture of the needle {name} was not found; name its folder with --media."
