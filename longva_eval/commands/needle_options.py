"""Options of needle tests that `niah` and `plan` have. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.needle.items import TESTS_OF
from longva_eval.needle.kinds import DRAWN_TESTS

__all__ = ["add_item_options", "check_used"]

_HELP = {
    "n": "objects (3)",
    "most": "most objects (3)",
    "hops": "pictures that name another object, 1 to 4 (1)",
    "period": "frames from distractor to distractor (8)",
    "likeness": "object (default: the needle's) or other objects",
    "motion_frames": "frames of the motion (4)",
}
_OF_ALL_DRAWN = ("items", "seed", "answer", "spread", "at")


def add_item_options(add: Any) -> None:
    """The settings of items that not all tests depend on; `add` is a parser's `add_argument`."""
    for name, what in _HELP.items():
        kind = str if name == "likeness" else int
        add(f"--{name.replace('_', '-')}", type=kind, help=f"{', '.join(TESTS_OF[name])}: {what}")


def check_used(given: Iterable[str], tests: Sequence[str]) -> None:
    """Raises SettingsError for an option that none of the tests depends on."""
    used_by = {**TESTS_OF, **dict.fromkeys(_OF_ALL_DRAWN, tuple(DRAWN_TESTS))}
    for name in sorted(given):
        if name in used_by and set(used_by[name]).isdisjoint(tests):
            raise SettingsError(
                f"--{name.replace('_', '-')} has no effect on {', '.join(tests)}: it is for --test "
                f"{', '.join(used_by[name])}."
            )
