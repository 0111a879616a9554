"""The notes of a table in the making: letters for what is not comparable, numbers for sources."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator, Sequence

from longva_eval.reports.tables.tables import Note

__all__ = ["Notes", "letters"]


class Notes:
    """Gives marks to notes, and says each thing once.

    A text that begins with the name of a task (`videomme: ...`) is one note for all tasks that it
    is said of.
    """

    def __init__(self) -> None:
        self._general: dict[str, list[str]] = {}
        self._letters: dict[str, tuple[str, list[str]]] = {}
        self._sources: dict[tuple[str, str], str] = {}
        self._names = letters()

    def general(self, text: str, *, task: str = "") -> None:
        """A note about the whole table."""
        _remember(self._general.setdefault(_without(text, task), []), task)

    def letter(self, text: str, *, task: str = "") -> str:
        """The mark of a note about rows."""
        rest = _without(text, task)
        if rest not in self._letters:
            self._letters[rest] = (next(self._names), [])
        mark, tasks = self._letters[rest]
        _remember(tasks, task)
        return mark

    def source(self, text: str, url: str) -> str:
        """The number of a source."""
        return self._sources.setdefault((text, url), str(len(self._sources) + 1))

    def all(self) -> tuple[Note, ...]:
        """All notes, in the order of their marks."""
        return (
            *(Note(mark="", text=_with(text, tasks)) for text, tasks in self._general.items()),
            *(
                Note(mark=mark, text=_with(text, tasks))
                for text, (mark, tasks) in self._letters.items()
            ),
            *(Note(mark=mark, text=text, url=url) for (text, url), mark in self._sources.items()),
        )


def letters() -> Iterator[str]:
    """a, b, ... z, aa, ab, and so on."""
    for length in itertools.count(1):
        yield from map("".join, itertools.product(string.ascii_lowercase, repeat=length))


def _remember(tasks: list[str], task: str) -> None:
    if task and task not in tasks:
        tasks.append(task)


def _without(text: str, task: str) -> str:
    return text.removeprefix(f"{task}: ") if task else text


def _with(text: str, tasks: Sequence[str]) -> str:
    return f"{', '.join(tasks)}: {text}" if tasks else text
