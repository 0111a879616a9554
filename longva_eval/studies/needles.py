"""Needle tests on the axes of a study: each combination of policies is a run in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from longva_eval import embedded
from longva_eval.engine.conversation import ComposedClip
from longva_eval.errors import SettingsError
from longva_eval.files import check_writable
from longva_eval.needle.grid import Cell, arrange
from longva_eval.needle.items import ItemSettings
from longva_eval.needle.media import open_haystack
from longva_eval.needle.run import NiahRun, run_test
from longva_eval.needle.tests import NeedleTest, make_tests
from longva_eval.prompts.pieces import tokenize
from longva_eval.studies.definition import (
    LEAST_KNOWN,
    PICTURES_ALONE_NAME,
    SETTINGS_NAME,
    Point,
    Study,
    check_same_study,
    study_text,
    write_json,
)
from longva_eval.studies.points import set_point
from longva_eval.text import parse_range

__all__ = ["run_needles"]


def run_needles(
    study: Study, session: Any, folder: Path, *, fresh: bool = False
) -> Iterator[tuple[Point, str, NiahRun]]:
    """Run what is missing of a study of needle tests, in `folder / "points" / name / test`.

    The embedded haystack and needles are used. Visual tokens are kept from point to point. A test
    that the model does not answer on the pictures alone says nothing about methods, and is left
    out (`PICTURES_ALONE_NAME` says so).

    Args:
        study: With `tests`.
        session: From `open_needle_session`.
        folder: For the results.
        fresh: Start over; what is there is set aside.

    Yields:
        The point, the test and its results, as they are finished.

    Raises:
        SettingsError: If a test or setting is impossible, the folder holds another study, or the
            model knows none of the tests.
    """
    if any(name != "uniform" for name in study.frame_policy) and study.show is None:
        raise SettingsError("--frame-policy of needle tests needs --show N, the frames it chooses.")
    if study.control != ("none",):
        raise SettingsError("--control is for tasks; needle tests have controls of their own.")
    check_same_study(study, folder)
    check_writable(folder, "output")
    (folder / SETTINGS_NAME).write_text(study_text(study), encoding="utf-8")
    haystack = open_haystack([embedded.HAYSTACK])
    settings: dict[str, Any] = {} if study.items is None else {"items": study.items}
    tests = make_tests(
        list(study.tests),
        frame_counts=study.frames,
        depths=tuple(parse_range(study.depths or "0,0.5,1", name="depths")),
        settings=ItemSettings(side=haystack.side_pixels, **settings),
    )
    own_frames = replace(session.frames, policy="uniform")
    session.encoder.keep_all = True  # the same frames are asked for again
    alone = {test.name: _pictures_alone(session, test) for test in tests}
    write_json(folder / PICTURES_ALONE_NAME, alone)
    tests = [test for test in tests if alone[test.name] >= LEAST_KNOWN]
    if not tests:
        raise SettingsError(
            f"{study.pretrained} answers none of these tests on the pictures alone: "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in alone.items())
            + f". At least {100 * LEAST_KNOWN:.0f} % are needed to compare methods."
        )
    for point in study.needle_points():
        set_point(session, point, own_frames)
        select = session.frames if study.show is not None else None
        for test in tests:
            place = folder / "points" / point.name / test.name
            for run in run_test(
                session,
                haystack,
                test,
                place,
                select=select,
                fresh=fresh,
                max_new_tokens=0,
                controls=False,
            ):
                yield point, test.name, run


def _pictures_alone(session: Any, test: NeedleTest) -> float:
    """The share of a test's items that are answered where nothing but their pictures is shown."""
    prompts = []
    for number, item in enumerate(test.items):
        cell = Cell(item=number, num_frames=0, control="needle only")
        shown = arrange(cell, item, [], item.needles, item.distractors)
        clip = ComposedClip(parts=tuple(each.image for each in shown), aspect="pad")
        prompts.append(session.clip_prompt(item.question, session.units(clip)[0]))
    tokenizer = session.checkpoint.tokenizer
    answers = [tokenize(tokenizer, item.answer) for item in test.items]
    found = session.force(prompts, answers)
    return float(np.mean([each.scores.is_greedy for each in found]))
