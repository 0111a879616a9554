"""What became of every question of a run, and how many may fail. No torch.

Adapters write here; the plugin puts each question's entry into its line of the samples file, and
the counts into the results file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, get_args

from loguru import logger
from tqdm import tqdm

from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.questions.answers import read_choice
from longva_eval.questions.options import find_options
from longva_eval.running.ranks import Ranks

__all__ = ["COUNTS", "FailurePolicy", "OnError", "RunLog", "progress_bar"]

OnError = Literal["stop", "skip"]
COUNTS = ("answered", "failed", "degenerate", "empty", "shortened")
"""What is counted per task. The last three are among the answered."""
_SHOWN = 5
_SECONDS_IN_A_FILE = 15.0


class FailurePolicy:
    """What happens when a question cannot be asked, or its answer cannot be computed.

    Args:
        on_error: `stop` ends the run with the reason. `skip` lets the question fail, by name.
        max_failed: With `skip`, how many documents of a call may fail: a whole number, or a share
            of them from 0 to 1. A share allows one at least, unless it is 0.

    Raises:
        SettingsError: If a value is unknown or impossible.
    """

    def __init__(self, on_error: str = "stop", max_failed: float = 0.05) -> None:
        if on_error not in get_args(OnError):
            raise SettingsError(f"on_error={on_error!r} is unknown; use stop or skip.")
        number = isinstance(max_failed, (int, float)) and not isinstance(max_failed, bool)
        # Above 1 it is a count, and so a whole number.
        if not number or not 0 <= max_failed < 2**63 or (max_failed > 1 and max_failed % 1):
            raise SettingsError(
                f"max_failed={max_failed!r} must be a count or a share from 0 to 1."
            )
        self.skips = on_error == "skip"
        self.max_failed = max_failed

    def limit(self, num_docs: int) -> int:
        """How many of so many may fail."""
        if isinstance(self.max_failed, int) or self.max_failed > 1:
            return int(self.max_failed)
        if self.max_failed == 0:
            return 0
        return max(1, math.floor(self.max_failed * num_docs))

    def describe(self) -> dict[str, Any]:
        return {"on_error": "skip" if self.skips else "stop", "max_failed": self.max_failed}


class RunLog:
    """One entry per task and document, and the failures of the present call."""

    def __init__(self, policy: FailurePolicy) -> None:
        self.policy = policy
        self.entries: dict[str, dict[str, dict[str, Any]]] = {}
        """Task -> document -> what is said about it."""
        self._calls = 0
        self._limit = 0
        self._num_docs = 0
        self._failed: dict[tuple[str, str], str] = {}

    def begin_call(self, num_docs: int) -> None:
        """A call of the host begins; the bound on failures is for its documents."""
        self._calls += 1
        self._num_docs = num_docs
        self._limit = self.policy.limit(num_docs)
        self._failed = {}

    def describe(self, task: str, doc_id: Any, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of a document, with what its prompt says about itself."""
        entry = self.entries.setdefault(str(task), {}).setdefault(str(doc_id), {})
        if entry.get("outcome") != "failed":
            entry.update(facts)
        return entry

    def answered(
        self,
        task: str,
        doc_id: Any,
        *,
        text: str | None = None,
        num_tokens: int | None = None,
        degenerate: bool = False,
        **more: Any,
    ) -> None:
        """An answer is there.

        Args:
            task: Of which task.
            doc_id: Of which document.
            text: What was said; None where nothing was generated.
            num_tokens: Its length.
            degenerate: Whether it repeats itself (`generation.is_degenerate`).
            **more: What else is known: `finish` (`stop` or `length`), `thought`, ...; None is not.
        """
        entry = self.describe(task, doc_id, {})
        if entry.get("outcome") == "failed":
            return
        entry.update(outcome="answered", reason=None, degenerate=degenerate)
        entry["empty"] = text is not None and not text.strip()
        if num_tokens is not None:
            entry["num_output_tokens"] = num_tokens
        entry.update({name: value for name, value in more.items() if value is not None})

    def drew(self, task: str, doc_id: Any, seed: int) -> None:
        """An answer was drawn with a seed: one of several, where a question is asked repeatedly."""
        self.describe(task, doc_id, {}).setdefault("seeds", []).append(seed)

    def rotated(self, task: str, doc_id: Any, context: str, text: str, rotation: int) -> None:
        """What was said where the options stood `rotation` letters further; their own letter."""
        options = find_options(context)
        assert options is not None, "questions without options are refused before"
        letter = read_choice(text, options.texts)
        place = (ord(letter) - ord("A") - rotation) % len(options.texts) if letter else None
        self.describe(task, doc_id, {}).setdefault("rotations", []).append(
            {"by": rotation, "text": text, "read": letter,
             "choice": None if place is None else chr(ord("A") + place)}
        )  # fmt: skip

    def failed(self, task: str, doc_id: Any, reason: str) -> None:
        """A document failed; its entry says why."""
        entry = self.describe(task, doc_id, {})
        entry.update(outcome="failed", reason=reason, degenerate=False, empty=False)

    def count_failure(
        self, task: str, doc_id: Any, error: EvaluationError, ranks: Ranks, *, kept: str = ""
    ) -> None:
        """Hold a failed document against the policy.

        Args:
            task: Of which task.
            doc_id: Which document; counted once.
            error: What is wrong, with its place.
            ranks: All processes count together.
            kept: Where the answers are that were computed.

        Raises:
            EvaluationError: The error itself if the policy is to stop; one that lists the first
                failures if there are more than the policy allows.
        """
        if not self.policy.skips:
            raise error
        place = (str(task), str(doc_id))
        if place in self._failed:
            return
        self._failed[place] = str(error)
        logger.warning("Failed and skipped: {}", error)
        total = ranks.count(f"failed {self._calls}", 1)
        if total > self._limit:
            shown = "".join(f"\n  {text}" for text in list(self._failed.values())[:_SHOWN])
            raise EvaluationError(
                f"{total} of {self._num_docs} documents failed, max_failed="
                f"{self.policy.max_failed:g} allows {self._limit}. The first in this process:"
                f"{shown}\nMend them, or set max_failed higher.{kept}"
            ) from error

    def merge(self, entries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        """Take over what another process has noted."""
        for task, docs in entries.items():
            for doc_id, entry in docs.items():
                self.entries.setdefault(task, {})[doc_id] = dict(entry)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per task, how many documents were answered, failed, and so on."""
        found = {}
        for task, docs in sorted(self.entries.items()):
            entries = list(docs.values())
            found[task] = {
                "answered": sum(entry.get("outcome") == "answered" for entry in entries),
                "failed": sum(entry.get("outcome") == "failed" for entry in entries),
                "degenerate": sum(bool(entry.get("degenerate")) for entry in entries),
                "empty": sum(bool(entry.get("empty")) for entry in entries),
                "shortened": sum(bool(entry.get("num_tokens_cut")) for entry in entries),
            }
        return found


def progress_bar(total: int, what: str, *, unit: str, disable: bool = False) -> Any:
    """A tqdm bar for what takes longer than a second; in a file, a line every 15 seconds."""
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=disable,
        mininterval=0.1 if sys.stderr.isatty() else _SECONDS_IN_A_FILE,
        dynamic_ncols=True,
        delay=1.0,
    )
