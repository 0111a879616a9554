"""A conversation becomes one sequence of text tokens and references to pictures.

A prompt holds no pixels. It is a tuple of pieces: runs of token ids, and visual pieces (one video
frame, one tile of a picture) known by the identity of their content and their number of tokens.
Two prompts share a prefix exactly where their pieces are equal, which is what the engine in
`longva_eval.engine.prefix` works with.

As in the original, the text is cut at each literal `<image>`, the parts are tokenised on their
own and the visual tokens stand between them, with nothing before, after or between. A picture and
a whole video take one `<image>` each. Control tokens in what somebody says are plain text
(`as_text`), and so is an `<image>` that no task has placed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from jinja2 import TemplateError  # torch depends on it, and transformers renders with it

from longva_eval.errors import PromptError, SettingsError

__all__ = [
    "IMAGE_PLACEHOLDER",
    "ChatTemplate",
    "Kind",
    "Piece",
    "Prompt",
    "TextPiece",
    "Turn",
    "VisualPiece",
    "as_text",
    "hash_text",
    "interleave",
    "load_template",
    "placeholder_ids",
    "render_template",
    "split_ids",
    "take_apart",
    "tokenize",
    "tokenize_whole",
]

IMAGE_PLACEHOLDER = "<image>"
MARK = "\N{OBJECT REPLACEMENT CHARACTER}"
# Around and within a token that is only its letters: private characters, never seen by a model.
_LITERAL_START, _LITERAL_END, _WITHIN = "\ue0f0", "\ue0f1", "\ue0f2"
_LITERAL = re.compile(f"({_LITERAL_START}[^{_LITERAL_END}]*{_LITERAL_END})")

Kind = Literal["picture", "video"]
Turn = tuple[Literal["user", "assistant"], str]
"""Who speaks, and what."""


@dataclass(frozen=True)
class TextPiece:
    """A run of text tokens."""

    token_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class VisualPiece:
    """A block of visual tokens: a video frame, a tile, or a picture."""

    key: str
    """Identity of content and preparation: equal keys have equal visual tokens."""
    num_tokens: int
    source: Any = field(compare=False, repr=False)
    """Where its pixels come from (`longva_eval.media.sources`)."""
    item: Any = field(compare=False, default=0)
    """Which frame, frames or tile of the source."""
    whole: VisualPiece | None = field(compare=False, repr=False, default=None)
    """The piece this is the beginning of, if a prompt was cut inside it."""
    place: tuple[Any, ...] = ()
    """What its positions depend on beside its number of tokens, where they do not simply count."""
    seconds: tuple[float, ...] = field(compare=False, repr=False, default=())
    """When its frames are shown, for prompts that say so."""

    def first(self, num_tokens: int) -> VisualPiece:
        """The beginning of this piece, `num_tokens` long."""
        whole = self.whole or self
        return VisualPiece(f"{whole.key}[:{num_tokens}]", num_tokens, self.source, self.item, whole)


Piece = TextPiece | VisualPiece


@dataclass(frozen=True)
class Prompt:
    """What the model reads, from the first token to the last."""

    pieces: tuple[Piece, ...]

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, visual tokens included."""
        return sum(piece.num_tokens for piece in self.pieces)

    @property
    def num_visual_tokens(self) -> int:
        return sum(piece.num_tokens for piece in self.pieces if isinstance(piece, VisualPiece))

    @property
    def visual_pieces(self) -> list[VisualPiece]:
        return [piece for piece in self.pieces if isinstance(piece, VisualPiece)]

    @property
    def digest(self) -> str:
        """Hash of what the model reads, however its text is divided into pieces."""
        hashed = hashlib.sha256()
        for piece in self.pieces:
            if isinstance(piece, TextPiece):
                hashed.update("".join(f"{token} " for token in piece.token_ids).encode())
            else:
                place = f"@{piece.place}" if piece.place else ""
                hashed.update(f"\0{piece.key}{place}\0".encode())
        return hashed.hexdigest()

    def __add__(self, other: Prompt) -> Prompt:
        return Prompt(self.pieces + other.pieces)

    def with_tokens(self, token_ids: Sequence[int]) -> Prompt:
        """The prompt, followed by more text tokens."""
        return Prompt((*self.pieces, TextPiece(tuple(token_ids)))) if token_ids else self

    def first(self, num_tokens: int) -> Prompt:
        """The first `num_tokens` of the sequence, wherever that cuts it."""
        pieces: list[Piece] = []
        left = num_tokens
        for piece in self.pieces:
            if left <= 0:
                break
            if piece.num_tokens <= left:
                pieces.append(piece)
            elif isinstance(piece, TextPiece):
                pieces.append(TextPiece(piece.token_ids[:left]))
            else:
                pieces.append(piece.first(left))
            left -= piece.num_tokens
        return Prompt(tuple(pieces))


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """The text around what a user says, for one question after a system message."""

    name: str
    system: str
    """Everything before the first user turn."""
    user_start: str
    user_end: str
    assistant_start: str
    assistant_end: str
    """What an answer is closed with."""
    history_start: str = ""
    """What earlier answers begin with, and the one that is asked for does not."""

    def place(self, text: str, kinds: Sequence[Kind]) -> tuple[str, list[int]]:
        r"""The question with a placeholder for each picture and video, and their order in it.

        A question that names its own places keeps them. Otherwise they come first, joined by a
        space and followed by a newline: `<image> <image>\nquestion`.

        Raises:
            PromptError: If the question has placeholders, but not one for each.
        """
        found = text.count(IMAGE_PLACEHOLDER)
        if found not in (0, len(kinds)):
            videos = sum(kind == "video" for kind in kinds)
            raise PromptError(
                f"The question has {found} {IMAGE_PLACEHOLDER} placeholders, but "
                f"{len(kinds) - videos} pictures and {videos} videos come with it: {text[:120]!r}"
            )
        if found < len(kinds):
            text = " ".join([IMAGE_PLACEHOLDER] * len(kinds)) + "\n" + text
        return text, list(range(len(kinds)))

    def build(self, tokenizer: Any, text: str, visuals: Sequence[Sequence[VisualPiece]]) -> Prompt:
        """Put the visual pieces where the rendered text has its placeholders.

        Raises:
            PromptError: If there are more or fewer placeholders than pictures and videos.
        """
        parts = text.split(IMAGE_PLACEHOLDER)
        return interleave([tokenize(tokenizer, part) for part in parts], visuals)

    def clip(self, tokenizer: Any, question: str, pieces: Sequence[Piece]) -> Prompt:
        """The prompt for a question about one video, or about texts in its place."""
        before, after = self.around_video(tokenizer, question)
        return Prompt((TextPiece(before), *pieces, TextPiece(after)))

    def around_video(
        self, tokenizer: Any, question: str
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids before the frames of a video and after them.

        As in the original's needle test, nothing stands between the frames and the question, and
        the three texts are tokenised on their own.
        """
        after = tokenize(tokenizer, self.user_end + self.assistant_start)
        before = tokenize(tokenizer, self.system + self.user_start)
        return before, tokenize(tokenizer, question) + after

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What stands for something to see."""
        return (IMAGE_PLACEHOLDER,)

    def render(self, turns: Sequence[Turn]) -> str:
        """The conversation up to the point where the assistant is to speak."""
        text = self.system
        for role, content in turns:
            if role == "user":
                text += self.opening(content) + content + self.user_end
            else:
                text += self.assistant_start + self.history_start + content + self.assistant_end
        return text + self.assistant_start

    def opening(self, content: str) -> str:
        """What a user's turn begins with."""
        del content
        return self.user_start


QWEN_1_5 = ChatTemplate(
    name="qwen_1_5",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    user_start="<|im_start|>user\n",
    user_end="<|im_end|>\n",
    assistant_start="<|im_start|>assistant\n",
    assistant_end="<|im_end|>\n",
)
"""ChatML with Qwen's system message: what LongVA was aligned with."""

_TEMPLATES = {QWEN_1_5.name: QWEN_1_5}


def load_template(name: str, tokenizer: Any) -> ChatTemplate:
    """The conversation template to use.

    Args:
        name: `auto` reads it from the tokenizer: its chat template if it has one, ChatML if it
            knows ChatML's tokens. Otherwise the name of a template.
        tokenizer: The checkpoint's tokenizer.

    Raises:
        SettingsError: If the name is unknown, or there is nothing to read it from, or the
            tokenizer lacks the template's special tokens.
    """
    if name == "auto":
        if tokenizer.chat_template:
            return _from_tokenizer(tokenizer)
        name = QWEN_1_5.name
    if name not in _TEMPLATES:
        raise SettingsError(
            f"conv_template={name!r} is unknown; use auto or {', '.join(_TEMPLATES)}."
        )
    if "<|im_start|>" not in tokenizer.get_vocab():
        raise SettingsError(
            f"conv_template={name} needs <|im_start|> and <|im_end|>, which this checkpoint's "
            "tokenizer does not know. LongVA is a ChatML model; is this its tokenizer?"
        )
    return _TEMPLATES[name]


def _from_tokenizer(tokenizer: Any) -> ChatTemplate:
    """Take a tokenizer's own chat template apart."""

    def refuse(what: str) -> SettingsError:
        return SettingsError(
            f"The tokenizer's chat template {what}; pass conv_template={QWEN_1_5.name}."
        )

    def render(*roles: str, prompt: bool = False) -> str:
        messages = [{"role": role, "content": MARK} for role in roles]
        return render_template(tokenizer, messages, refuse, prompt=prompt)

    parts = take_apart(render, tokenizer, refuse)
    if parts["history_start"]:
        raise refuse("opens an answer in two ways")
    name = f"tokenizer ({hash_text(render('user', prompt=True))})"
    template = ChatTemplate(name=name, **parts)
    # With an answer in it: templates may differ in nothing but the end of an answer.
    turns: list[Turn] = [("user", MARK), ("assistant", MARK), ("user", MARK)]
    for known in _TEMPLATES.values():
        if template.render(turns) == known.render(turns):
            return known
    return template


def render_template(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    refuse: Callable[[str], SettingsError],
    *,
    prompt: bool,
    template: str | None = None,
) -> str:
    """Messages as a chat template writes them, the tokenizer's own if `template` is None.

    Raises:
        SettingsError: What `refuse` makes of it, if it cannot be rendered.
    """
    try:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=prompt
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise refuse(f"cannot be rendered ({error})") from error
    return text


def take_apart(
    render: Callable[..., str], tokenizer: Any, refuse: Callable[[str], SettingsError]
) -> dict[str, str]:
    """The fields of a `ChatTemplate`, from conversations in which all that is said is `MARK`.

    Args:
        render: The conversation of these roles; up to the next answer with `prompt=True`.
        tokenizer: The checkpoint's.
        refuse: Makes the error.

    Raises:
        SettingsError: If the template is no sequence of turns that are alike.
    """
    once, asked = render("user"), render("user", prompt=True)
    parts = render("user", "assistant", "user").split(MARK)
    before, _, user_end = once.partition(MARK)
    if not asked.startswith(once) or len(parts) != 4 or parts[0] != before or parts[3] != user_end:
        raise refuse("is not a plain sequence of turns")
    assistant_start = asked[len(once) :]
    opening = user_end + assistant_start
    history_start = parts[1][len(opening) :]
    # Templates may put a space or a new line before the answers of earlier turns.
    if not parts[1].startswith(opening) or history_start.strip():
        raise refuse("opens an answer in two ways")
    # Between an answer and the next question stand the end of the one and the start of the other;
    # the latter is what the system message is followed by.
    between = parts[2]
    first = before.removeprefix(tokenizer.bos_token or "")  # `<s>` is no part of `</s>`
    shared = next(
        n for n in range(len(between), -1, -1) if first.endswith(between[-n:] if n else "")
    )
    user_start = between[len(between) - shared :]
    return {
        "system": before[: len(before) - len(user_start)],
        "user_start": user_start,
        "user_end": user_end,
        "assistant_start": assistant_start,
        "assistant_end": between[: len(between) - shared],
        "history_start": history_start,
    }


def hash_text(text: str) -> str:
    """First 12 hex digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_text(text: str, tokens: Iterable[str]) -> str:
    """The text with every one of `tokens` marked: `tokenize` reads it as plain letters.

    Without this a question that quotes `<|im_end|>` would end its own turn, and one that quotes
    `<image>` would move the video to where it says so.
    """
    found = sorted((token for token in set(tokens) if token and token in text), key=len)
    if not found:
        return text

    def mark(match: re.Match[str]) -> str:
        return _LITERAL_START + _WITHIN.join(match[0]) + _LITERAL_END

    return re.sub("|".join(map(re.escape, reversed(found))), mark, text)


def tokenize(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
    """Token ids of a text on its own, with nothing added unless asked.

    What `as_text` has marked becomes the tokens of its letters, never a control token.
    """
    ids: list[int] = []
    for part in _LITERAL.split(text):
        if part.startswith(_LITERAL_START):
            letters = part[1:-1].replace(_WITHIN, "")
            ids += tokenizer(letters, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
        elif part or add_special_tokens:
            ids += tokenizer(part, add_special_tokens=add_special_tokens)["input_ids"]
        add_special_tokens = False  # they stand at the beginning
    return tuple(ids)


def tokenize_whole(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of a text that a template wrote, with the tokenizer's beginning of sequence."""
    # A template may write that itself; transformers' rule.
    begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
    return tokenize(tokenizer, text, add_special_tokens=not begins)


def placeholder_ids(prompt: Prompt, visuals: Sequence[Sequence[VisualPiece]]) -> list[int]:
    """Token ids of a whole prompt, with one -200 for each picture or video, as in the original."""
    ids: list[int] = []
    lengths = iter([len(pieces) for pieces in visuals])
    left = 0
    for piece in prompt.pieces:
        if isinstance(piece, TextPiece):
            ids.extend(piece.token_ids)
            continue
        if left == 0:
            left = next(lengths)
            ids.append(-200)
        left -= 1
    return ids


def interleave(parts: Sequence[Sequence[int]], visuals: Sequence[Sequence[VisualPiece]]) -> Prompt:
    """Texts, by their token ids, with pictures and videos between them.

    Raises:
        PromptError: If there are more or fewer places than pictures and videos.
    """
    if len(parts) - 1 != len(visuals):
        raise PromptError(
            f"The prompt has {len(parts) - 1} {IMAGE_PLACEHOLDER} placeholders for "
            f"{len(visuals)} pictures and videos."
        )
    pieces: list[Piece] = []
    for ids, visual in zip_longest(parts, visuals, fillvalue=()):
        pieces += [TextPiece(tuple(ids))] if ids else []
        pieces += visual
    return Prompt(tuple(pieces))


def split_ids(ids: Sequence[int], places: Collection[int]) -> list[list[int]]:
    """Token ids, divided at each of the ids in `places`."""
    parts: list[list[int]] = [[]]
    for token_id in ids:
        if token_id in places:
            parts.append([])
        else:
            parts[-1].append(token_id)
    return parts
