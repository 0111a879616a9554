"""The lettered options in a prompt, whatever task wrote it, and their rotations. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["PromptOptions", "find_options"]

_LINE = re.compile(r"^[ \t]*\(?([A-Za-z])[.):](?:[ \t]+|$)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Options of a prompt, in order."""

    prompt: str
    letters: str
    """As they are written: `ABCD`, or `abcd`."""
    spans: tuple[tuple[int, int], ...]
    """Where the text of each stands, without its letter."""

    @property
    def texts(self) -> list[str]:
        """Of the options, without their letters."""
        return [self.prompt[start:end] for start, end in self.spans]

    def rotated(self, by: int) -> str:
        """The prompt with the text of option n behind the letter of option n + `by`, cyclically."""
        texts = self.texts
        parts, last = [], 0
        for place, (start, end) in enumerate(self.spans):
            parts += [self.prompt[last:start], texts[(place - by) % len(texts)]]
            last = end
        return "".join(parts) + self.prompt[last:]


def find_options(prompt: str) -> PromptOptions | None:
    """The options that a prompt lists: lines `A. ...`, `(B) ...`, `C) ...`, or in small letters.

    The last list of at least two counts, as what stands above may be subtitles. An option may go on
    over several lines; the last one ends with its line. None if there is no such list.
    """
    runs: list[list[re.Match[str]]] = []
    for found in _LINE.finditer(prompt):
        if found[1] in "Aa":
            runs.append([found])
        elif runs and ord(found[1]) == ord(runs[-1][-1][1]) + 1:
            runs[-1].append(found)
    run = next((run for run in reversed(runs) if len(run) > 1), None)
    if run is None:
        return None
    spans = []
    for place, found in enumerate(run):
        if place + 1 < len(run):
            stop = run[place + 1].start()
        else:
            stop = prompt.find("\n", found.end() - (found[0][-1:] == "\n"))
            stop = len(prompt) if stop < 0 else stop
        spans.append(
            (found.end(), max(found.end(), found.end() + len(prompt[found.end() : stop].rstrip())))
        )
    return PromptOptions(
        prompt=prompt, letters="".join(found[1] for found in run), spans=tuple(spans)
    )
