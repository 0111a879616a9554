"""Prompts of models whose text a transformers processor prepares.

LongVA's text is cut at `<image>` and each part is tokenised on its own. These models differ:

* the template comes with the processor, not with the tokenizer (`chat_template.jinja` or
  `chat_template.json`), and says itself where pictures and videos stand: before the question;
* `<image>` and `<video>` are tokens of the vocabulary. The text is tokenised as a whole, with the
  tokenizer's own beginning of sequence, and the visual tokens take the place of those tokens;
* the processor repeats such a token once for each visual token. That changes no other token, so
  one is enough here, and it is never seen by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from longva_eval.errors import PromptError, SettingsError
from longva_eval.prompts.pieces import (
    MARK,
    QWEN_1_5,
    ChatTemplate,
    Kind,
    Prompt,
    VisualPiece,
    hash_text,
    interleave,
    render_template,
    split_ids,
    take_apart,
    tokenize_whole,
)

__all__ = ["MediaTokens", "ProcessorTemplate", "load_processor_template"]


@dataclass(frozen=True, kw_only=True)
class MediaTokens:
    """What a checkpoint of this kind says about its prompts."""

    chat_template: str | None
    """The processor's, as Jinja; None if it has none."""
    picture: str
    """The token that stands for a picture: `<image>`."""
    video: str | None
    """The token that stands for a video; None if the model has none and uses the picture's."""


@dataclass(frozen=True, kw_only=True)
class ProcessorTemplate(ChatTemplate):
    """A conversation as the checkpoint's processor writes it."""

    media: MediaTokens
    media_start: str
    """Instead of `user_start` where a turn begins with pictures or videos."""
    between: str = "\n"
    """Between two pictures or videos."""
    after: str = "\n"
    """Between the last of them and the question."""
    pictures_first: bool = True
    """Whether the template shows pictures before videos, whatever order they are given in."""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """All tokens that stand for something to see."""
        tokens = (self.media.picture, self.media.video)
        return tuple(token for token in tokens if token is not None)

    def opening(self, content: str) -> str:
        """What a user's turn begins with."""
        return self.media_start if content.startswith(self.placeholders) else self.user_start

    def place(self, text: str, kinds: Sequence[Kind]) -> tuple[str, list[int]]:
        """The question with a placeholder for each picture and video, and their order in it."""
        found = sum(text.count(token) for token in self.placeholders)
        order = list(range(len(kinds)))
        if found == len(kinds):
            return text, order
        if found:
            raise PromptError(
                f"The question has {found} placeholders, but {len(kinds)} pictures and videos come "
                f"with it: {text[:120]!r}"
            )
        if self.pictures_first:
            order.sort(key=lambda number: kinds[number] != "picture")
        tokens = [self._token(kinds[number]) for number in order]
        return self.between.join(tokens) + self.after + text, order

    def build(self, tokenizer: Any, text: str, visuals: Sequence[Sequence[VisualPiece]]) -> Prompt:
        """Tokenise the whole text and put the visual pieces where its placeholders are."""
        return interleave(self._tokenize(tokenizer, text), visuals)

    def around_video(
        self, tokenizer: Any, question: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before the frames of a video and after them."""
        placed, _ = self.place(question, ["video"])
        before, after = self._tokenize(tokenizer, self.render([("user", placed)]))
        return tuple(before), tuple(after)

    def _token(self, kind: Kind) -> str:
        video = self.media.video or self.media.picture
        return self.media.picture if kind == "picture" else video

    def _tokenize(self, tokenizer: Any, text: str) -> list[list[int]]:
        """Token ids of the text, divided at its placeholders."""
        places = {tokenizer.convert_tokens_to_ids(token) for token in self.placeholders}
        return split_ids(tokenize_whole(tokenizer, text), places)


def load_processor_template(name: str, tokenizer: Any, media: MediaTokens) -> ProcessorTemplate:
    """The conversation template to use.

    Args:
        name: `auto` takes the processor's own; or `vicuna_v1`, `mistral_instruct`, `qwen_1_5`.
        tokenizer: The checkpoint's tokenizer.
        media: From the checkpoint.

    Raises:
        SettingsError: If the name is unknown, or there is no template, or it cannot be taken apart.
    """
    if name == "auto":
        template = media.chat_template or tokenizer.chat_template
        if not isinstance(template, str):
            raise SettingsError(
                "The checkpoint has no chat template (chat_template.jinja or chat_template.json); "
                f"pass conv_template={', '.join(_NAMED)}, the one it was trained with."
            )
        return _take_apart(template, tokenizer, media)
    if name not in _NAMED:
        raise SettingsError(f"conv_template={name!r} is unknown; use auto or {', '.join(_NAMED)}.")
    if name == QWEN_1_5.name and "<|im_start|>" not in tokenizer.get_vocab():
        raise SettingsError(
            f"conv_template={name} needs <|im_start|> and <|im_end|>, which this checkpoint's "
            "tokenizer does not know."
        )
    parts = {field: getattr(_NAMED[name], field) for field in ChatTemplate.__dataclass_fields__}
    return ProcessorTemplate(**parts, media=media, media_start=parts["user_start"])


VICUNA_V1 = ChatTemplate(
    name="vicuna_v1",
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    user_start="USER: ",
    user_end=" ",
    assistant_start="ASSISTANT:",
    assistant_end="</s>",
)
"""LLaVA's conversation of that name: Vicuna 1.5 with its system message."""

MISTRAL_INSTRUCT = ChatTemplate(
    name="mistral_instruct",
    system="",
    user_start="[INST] ",
    user_end=" [/INST]",
    assistant_start="",
    assistant_end="</s>",
)
"""LLaVA's conversation of that name: Mistral-7B-Instruct-v0.2."""

_NAMED = {template.name: template for template in (VICUNA_V1, MISTRAL_INSTRUCT, QWEN_1_5)}


def _take_apart(template: str, tokenizer: Any, media: MediaTokens) -> ProcessorTemplate:
    """Find the parts of a template by rendering it with marks and with pictures."""
    types = {"picture": "image", "video": "video"}

    def refuse(what: str) -> SettingsError:
        return SettingsError(
            f"The checkpoint's chat template {what}; pass conv_template={', '.join(_NAMED)}."
        )

    def render(*roles: str, kinds: Sequence[Kind] = (), prompt: bool = False) -> str:
        shown = [{"type": types[kind]} for kind in kinds]
        content = [*shown, {"type": "text", "text": MARK}]
        messages = [{"role": role, "content": content} for role in roles]
        return render_template(tokenizer, messages, refuse, prompt=prompt, template=template)

    parts: dict[str, Any] = take_apart(render, tokenizer, refuse)
    return ProcessorTemplate(
        name=f"processor ({hash_text(template)})",
        **parts,
        media=media,
        **_find_media(render, media, parts["system"], refuse),
    )


def _find_media(
    render: Callable[..., str],
    media: MediaTokens,
    system: str,
    refuse: Callable[[str], SettingsError],
) -> dict[str, Any]:
    """Where a template puts pictures and videos, checked on several mixtures."""
    tokens = {"picture": media.picture, "video": media.video or media.picture}

    def shown(*kinds: Kind) -> str:
        text = render("user", kinds=kinds)
        if text.count(MARK) != 1 or not text.startswith(system):
            raise refuse("does not show pictures before the question")
        return text[len(system) :].partition(MARK)[0]

    one, two = shown("picture"), shown("picture", "picture")
    media_start, token, after = one.partition(media.picture)
    if not token or two.count(media.picture) != 2:
        raise refuse(f"does not write {media.picture} for a picture")
    between = two.split(media.picture)[1]

    def expected(*kinds: Kind) -> str:
        return media_start + between.join(tokens[kind] for kind in kinds) + after

    wrong = two != expected("picture", "picture")
    pictures_first = True
    if media.video is not None:
        wrong |= shown("video") != expected("video")
        wrong |= shown("video", "video") != expected("video", "video")
        mixed = shown("picture", "video"), shown("video", "picture")
        pictures_first = mixed[0] == mixed[1]
        wrong |= mixed[0] != expected("picture", "video")
        wrong |= not pictures_first and mixed[1] != expected("video", "picture")
    if wrong:
        raise refuse("does not treat pictures and videos alike")
    return {
        "media_start": media_start,
        "between": between,
        "after": after,
        "pictures_first": pictures_first,
    }
