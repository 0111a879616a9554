"""What samples say beside right and wrong: every rotation of the options, letters, probabilities.

`longva_eval.engine.control` says which controls there are. No torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from longva_eval.reports.reading.run import Run
from longva_eval.reports.reading.samples import Sample, as_mapping

__all__ = ["Calibration", "calibration", "control_of", "letter_shares", "rotation_scores",
           "under_control"]  # fmt: skip

_BINS = 10


def control_of(run: Run) -> str:
    """The control that a run was asked under; `none` is a benchmark as it is."""
    return str(run.recipe.get("control") or run.model_args.get("control") or "none")


def rotation_scores(sample: Sample) -> list[float]:
    """1 or 0 for each rotation of the options; empty where they were not all asked."""
    found = sample.facts.get("rotations")
    asked = [as_mapping(each) for each in found] if isinstance(found, list) else []
    if not asked or {each.get("by") for each in asked} != set(range(len(sample.options))):
        return []
    return [float(each.get("choice") == sample.answer) for each in asked]


def under_control(samples: Sequence[Sample], control: str) -> list[Sample]:
    """The samples with the score of the control: of `circular`, right under every rotation.

    A question that is scored in another way than by its letter keeps its own score.
    """
    if control != "circular":
        return list(samples)
    scored = []
    for sample in samples:
        scores = rotation_scores(sample)
        if scores and sample.outcome in ("right", "wrong", "no answer"):
            sample = replace(sample, score=min(scores))
        scored.append(sample)
    return scored


def letter_shares(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Of each letter, how often it was chosen and how often it is right, of all answers read.

    What differs between the two beyond chance is a preference for a letter.
    """
    read = [s for s in samples if s.choice and len(s.answer) == 1 and s.is_scored]
    chosen, right = Counter(s.choice for s in read), Counter(s.answer for s in read)
    letters = sorted({*chosen, *right} - {None})  # type: ignore[type-var]  # no None is left
    return {str(x): (chosen[x] / len(read), right[str(x)] / len(read)) for x in letters}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a model is as often right as it is sure: of the option it finds likeliest."""

    num_questions: int
    error: float
    """Expected calibration error: mean distance of the two in ten equal bins of confidence,
    weighted by questions (Guo et al., arXiv:1706.04599)."""
    mass: float
    """Mean share of the probability that fell on any option's letter. Where it is small, the model
    does not answer by letters and the rest means little."""


def calibration(samples: Sequence[Sample]) -> Calibration | None:
    """The calibration of scored questions with option probabilities; None without any."""
    bins: dict[int, list[float]] = {}
    masses = []
    for sample in samples:
        given = as_mapping(sample.facts.get("option_probabilities"))
        mass = sample.facts.get("option_mass")
        if not given or not isinstance(mass, (int, float)) or not sample.is_scored:
            continue
        letter = max(given, key=lambda name: given[name])
        confidence = float(given[letter])
        masses.append(float(mass))
        place = min(_BINS - 1, math.floor(confidence * _BINS))
        bins.setdefault(place, []).append((letter == sample.answer) - confidence)
    if not masses:
        return None
    return Calibration(
        num_questions=len(masses),
        error=math.fsum(abs(math.fsum(found)) for found in bins.values()) / len(masses),
        mass=math.fsum(masses) / len(masses),
    )
