"""Prompts as a checkpoint's own processor writes them.

The chat template turns a conversation into text, with one token for each picture and video. What
the processor puts in their place (times, frame numbers, marks) is asked of the processor itself,
with one pad for each run of visual tokens. The whole text is tokenised once, and the pieces take
the place of the pads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jinja2 import TemplateError

from longva_eval.errors import PromptError, SettingsError
from longva_eval.families.family import Family
from longva_eval.prompts.pieces import (
    IMAGE_PLACEHOLDER,
    Kind,
    Piece,
    Prompt,
    TextPiece,
    Turn,
    VisualPiece,
    hash_text,
    interleave,
    split_ids,
    tokenize,
    tokenize_whole,
)

__all__ = ["FamilyTemplate", "Thinking"]

Thinking = Literal["off", "on"]
_PICTURE, _VIDEO = "\ue000", "\ue001"  # private use: no text has them
_MARK = "\ue002"
_KINDS = {_PICTURE: "image", _VIDEO: "video"}


@dataclass(kw_only=True)
class FamilyTemplate:
    """The conversation of a checkpoint of transformers."""

    family: Family
    thinking: Thinking = "off"
    """Whether a model that can think first does."""
    name: str = field(init=False)
    is_open: bool = field(init=False)
    """Whether an answer begins inside of a thought."""

    def __post_init__(self) -> None:
        template = self.family.processor.chat_template
        if not isinstance(template, str):
            raise SettingsError(
                "The checkpoint has no chat template (chat_template.jinja or chat_template.json)."
            )
        self.name = f"processor ({hash_text(template)})"
        asked = self.render([("user", _MARK)])
        opening = asked.rpartition(_MARK)[2]
        self.is_open = opening.rstrip().endswith("<think>")
        if self.is_open and self.thinking == "off":
            raise SettingsError(
                "This checkpoint's chat template opens every answer with a thought; thinking=off "
                "is not possible. Use thinking=on, or its Instruct version."
            )
        if self.thinking == "on" and not self.is_open and "think" not in template:
            raise SettingsError(
                "thinking=on: this checkpoint's chat template knows no thinking. Leave it out."
            )

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What stands for something to see in a question."""
        return (IMAGE_PLACEHOLDER,)

    @property
    def assistant_end(self) -> str:
        """What the template closes an answer with."""
        text = self._render(
            [
                {"role": "user", "content": [{"type": "text", "text": "?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": _MARK}]},
            ],
            prompt=False,
        )
        if text.count(_MARK) != 1:
            raise SettingsError(
                "The checkpoint's chat template does not show an answer as it is, so its "
                "likelihood cannot be scored. Use tasks whose answers are generated."
            )
        return text.partition(_MARK)[2]

    def place(self, text: str, kinds: Sequence[Kind]) -> tuple[str, list[int]]:
        """The question with a mark for each picture and video, and their order in it.

        A question that says `<image>` once for each keeps these places; otherwise they come first.

        Raises:
            PromptError: If the question has placeholders, but not one for each; or pictures and
                videos, where the model's own class does not take both.
        """
        if len(set(kinds)) > 1 and not self.family.mixes_pictures_and_videos:
            raise PromptError(
                "The question comes with pictures and videos, and transformers' own "
                f"{type(self.family.model).__name__} cannot take both in one prompt."
            )
        marks = [_PICTURE if kind == "picture" else _VIDEO for kind in kinds]
        found = text.count(IMAGE_PLACEHOLDER) if kinds else 0
        if found == len(kinds):
            parts = text.split(IMAGE_PLACEHOLDER) if kinds else [text]
            text = parts[0] + "".join(map("".join, zip(marks, parts[1:], strict=True)))
        elif found:
            raise PromptError(
                f"The question has {found} {IMAGE_PLACEHOLDER} placeholders, but {len(kinds)} "
                f"pictures and videos come with it: {text[:120]!r}"
            )
        else:
            text = "".join(marks) + text
        reserved = {self.family.image_token, self.family.video_token, *self.family.pads}
        for token in sorted(reserved):
            if token in text:
                raise PromptError(
                    f"The question says {token}, which stands for something to see in this model: "
                    f"{text[:120]!r}"
                )
        return text, list(range(len(kinds)))

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation up to the point where the assistant is to speak."""
        messages = [{"role": role, "content": _content(text)} for role, text in turns]
        return self._render(messages, prompt=True)

    def clip(self, tokenizer: Any, question: str, pieces: Sequence[Piece]) -> Prompt:
        """The prompt for a question about one video, or about texts in its place."""
        visual = [piece for piece in pieces if isinstance(piece, VisualPiece)]
        if len(visual) < len(pieces):
            parts = self.render([("user", _MARK + question)]).split(_MARK)
            before, after = (TextPiece(tokenize(tokenizer, part)) for part in parts)
            return Prompt((before, *pieces, after))
        kinds: list[Kind] = ["video"] if visual else []
        placed, _ = self.place(question, kinds)
        return self.build(tokenizer, self.render([("user", placed)]), [visual] if visual else [])

    def _render(self, messages: list[dict[str, Any]], *, prompt: bool) -> str:
        known = "enable_thinking" in self.family.processor.chat_template
        thinking = {"enable_thinking": self.thinking == "on"} if known else {}
        try:
            text: str = self.family.processor.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=prompt,
                **thinking,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise SettingsError(
                f"The checkpoint's chat template cannot be rendered ({error})."
            ) from error
        return text

    def build(self, tokenizer: Any, text: str, visuals: Sequence[Sequence[VisualPiece]]) -> Prompt:
        """Tokenise the whole text and put the pieces where its pads are.

        Raises:
            PromptError: If there are more or fewer placeholders than pictures and videos.
        """
        waiting: dict[str, list[Sequence[VisualPiece]]] = {"image": [], "video": []}
        for visual in visuals:
            waiting[visual[0].source.how.kind].append(visual)
        tokens = {self.family.image_token: "image"} | {self.family.video_token: "video"}
        if len(tokens) == 1:  # one token stands for both: then in the order of the question
            waiting = {"video": list(visuals)}
        runs: list[list[VisualPiece]] = []

        def expand(match: re.Match[str]) -> str:
            kind = waiting[tokens[match.group()]]
            if not kind:
                raise PromptError(
                    f"The prompt shows {match.group()} more often than there are any."
                )
            expanded, more = self.family.runs(kind.pop(0))
            runs.extend(more)
            return expanded

        expanded = re.sub("|".join(map(re.escape, tokens)), expand, text)
        if any(waiting.values()):
            raise PromptError(
                "The checkpoint's chat template leaves out "
                f"{sum(map(len, waiting.values()))} of the pictures and videos of the question."
            )
        pads = tokenizer.convert_tokens_to_ids(list(self.family.pads))
        return interleave(split_ids(tokenize_whole(tokenizer, expanded), pads), runs)


def _content(text: str) -> list[dict[str, str]]:
    """A turn's text and marks as parts of a message."""
    parts = re.split(f"([{_PICTURE}{_VIDEO}])", text)
    return [
        {"type": _KINDS[part]} if part in _KINDS else {"type": "text", "text": part}
        for part in parts
        if part
    ]
