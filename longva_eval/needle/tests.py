"""A needle test put together: its items, and the grid they are asked on; also as a host's task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from longva_eval.embedded import NEEDLES, tasks_folder
from longva_eval.errors import ResourceError, SettingsError
from longva_eval.needle.grid import LatticeGrid, NeedleGrid, TestGrid, arrange
from longva_eval.needle.items import Item, ItemSettings
from longva_eval.needle.kinds import DRAWN_TESTS, drawn_items
from longva_eval.needle.kinds.own import OWN_TESTS, own_items
from longva_eval.needle.media import Haystack, clip_pictures, composed_clip, load_needles

__all__ = ["NeedleTest", "make_tests", "write_tasks"]

_VNIAH_DEPTHS: Final = (0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0)
"""numpy's arange, as the original's."""


@dataclass(frozen=True, kw_only=True)
class NeedleTest:
    """A test, ready to run."""

    name: str
    items: list[Item]
    grid: NeedleGrid | LatticeGrid | TestGrid
    needles: str = ""
    """Where its pictures come from; empty if they are drawn."""

    @property
    def has_twin(self) -> bool:
        """Whether captions say what its pictures show."""
        return self.name == "single" or DRAWN_TESTS[self.name].has_twin

    def example(self, haystack: Haystack) -> list[tuple[Image.Image, str]]:
        """The frames of the first item in the middle of the shortest length.

        Each comes with `needle`, `distractor`, or nothing for a frame of the haystack.
        """
        item = self.items[0]
        cells = self.grid.lay_out([item]).cells
        cell = cells[sum(each.num_frames == cells[0].num_frames for each in cells) // 2]
        needles, distractors = (
            ["needle"] * len(item.needles),
            ["distractor"] * len(item.distractors),
        )
        kinds = arrange(cell, item, [""] * cell.num_frames, needles, distractors)
        return list(zip(clip_pictures(composed_clip(haystack, cell, item)), kinds, strict=True))


def make_tests(
    names: Sequence[str],
    *,
    frame_counts: tuple[int, ...],
    depths: tuple[float, ...] | None = None,
    spreads: tuple[float, ...] = (0.5,),
    at: tuple[int, ...] = (),
    lattice: int | None = None,
    needles: str = str(NEEDLES),
    own: bool = False,
    settings: ItemSettings,
) -> list[NeedleTest]:
    """The tests of these names on one grid.

    Args:
        names: Of `TEST_NAMES`.
        frame_counts: Haystack lengths.
        depths: None for the test's own.
        spreads: As in `TestGrid`.
        at: As in `TestGrid`.
        lattice: Step of a `LatticeGrid`, for `single`.
        needles: Folder or hub id of the needles of `single`.
        own: Whether other tests show these pictures, too, as far as they can.
        settings: Of drawn tests.

    Raises:
        SettingsError: If a name is unknown, the grid impossible, or the pictures do not suffice.
        MediaError: If the needles cannot be read.
    """
    if lattice is not None and depths is not None:
        raise SettingsError("--lattice states where needles stand; leave --depths out.")
    if lattice is not None and (at or list(names) != ["single"]):
        raise SettingsError("--lattice is for V-NIAH alone; --at states the places of other tests.")
    if at and depths is not None:
        raise SettingsError("--at states where pictures stand; leave --depths out.")
    tests = []
    pictures = load_needles(needles) if own or "single" in names else []
    for name in names:
        grid: NeedleGrid | LatticeGrid | TestGrid
        shows_own = name == "single" or (own and name in OWN_TESTS)
        if name == "single":
            items = pictures
            if lattice is not None:
                grid = LatticeGrid(frame_counts=frame_counts, step=lattice)
            else:
                grid = NeedleGrid(frame_counts=frame_counts, depths=depths or _VNIAH_DEPTHS)
        else:
            items = (
                own_items(name, settings, pictures) if shows_own else drawn_items(name, settings)
            )
            grid = TestGrid(
                frame_counts=frame_counts,
                depths=depths or (0.0, 0.5, 1.0),
                spreads=spreads,
                at=at,
                place=DRAWN_TESTS[name].place,
                settings=settings,
            )
        tests.append(
            NeedleTest(name=name, items=items, grid=grid, needles=needles if shows_own else "")
        )
    return tests


def write_tasks(
    tests: Sequence[NeedleTest],
    folder: Path,
    haystack: Sequence[str] | None,
    *,
    show: str = "pictures",
    controls: bool = True,
) -> list[Path]:
    """Write tests as tasks of lmms-eval: `my_vniah_NAME` and `my_vniah_NAME_generate`.

    They are copies of the embedded tasks with another data file: a model of any adapter is asked by
    `lmms-eval --include_path FOLDER --tasks my_vniah_order_generate`. `my_vniah_NAME_needle_only`
    (and `_generate`) asks the same on the pictures alone.

    Args:
        tests: What to ask.
        folder: Made if it is not there.
        haystack: Videos; None for the embedded one.
        show: How a model that generates gets the frames: as "pictures", or as a "clip", a file.
        controls: Whether to write the tasks on the pictures alone, too.

    Returns:
        The YAML files.

    Raises:
        SettingsError: If a test is a lattice, which a task cannot state.
        ResourceError: If a file cannot be written.
    """
    if any(isinstance(test.grid, LatticeGrid) for test in tests):
        raise SettingsError("--lattice cannot be written as a task: give --depths in its place.")
    base = tasks_folder() / "vniah"
    videos = (
        "embedded" if haystack is None else [str(Path(v).expanduser().absolute()) for v in haystack]
    )
    rows: dict[str, dict[str, Any]] = {}
    for test in tests:
        described = test.grid.describe()
        row = {
            "test": test.name,
            "haystack": videos,
            "frames": ",".join(map(str, test.grid.frame_counts)),
            "show": show,
        }
        if test.needles:
            own = Path(test.needles).expanduser().absolute()
            row["needles"] = str(own) if own.is_dir() else test.needles
        for key in ("depths", "spreads", "at"):
            if key in described:
                row[key.replace("spreads", "spread")] = ",".join(map(str, described[key]))
        if isinstance(test.grid, TestGrid):
            row |= test.grid.settings.describe()
        rows[test.name] = row
        if controls:
            rows[f"{test.name}_needle_only"] = row | {"control": "needle only"}
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "utils.py").write_text(
            "from longva_eval.tasks.vniah.utils import *  # noqa: F403\n"
        )
        for name, row in rows.items():
            data = folder / f"grid_{name}.json"
            data.write_text(json.dumps([row]) + "\n", encoding="utf-8")
            for suffix, template in (("", "_test"), ("_generate", "_generate")):
                task = f"my_vniah_{name}{suffix}"
                path = folder / f"{task}.yaml"
                path.write_text(
                    f"task: {task}\ninclude: {base / (template + '_template_yaml')}\n"
                    f"dataset_kwargs:\n  data_files:\n    test: {data.absolute()}\n",
                    encoding="utf-8",
                )
                written.append(path)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written: {error}") from error
    return written
