"""From logits to an answer: decoding one prompt, and scoring a given text.

Greedy decoding is spelled out, not left to a checkpoint's generation config. What that file adds
in the original (a repetition penalty, the end tokens) is kept, and the penalty counts newly
generated tokens only, never the prompt. The arithmetic on scores is transformers' own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from longva_eval.engine.prefix import Visit, VisitGroup
from longva_eval.errors import NumericalError, SettingsError
from longva_eval.prompts.pieces import Prompt

__all__ = [
    "Generation",
    "GenerationSettings",
    "Thought",
    "TokenScores",
    "alone",
    "decode",
    "decode_branches",
    "decoding",
    "is_degenerate",
    "letter_token_ids",
    "parse_gen_kwargs",
    "score_tokens",
]

FinishReason = Literal["end_token", "stop_string", "length"]

_Number = TypeVar("_Number", int, float)
_Answer = TypeVar("_Answer")
Decoding = Generator[int, torch.Tensor, _Answer]
"""Gives a token at a time, is sent the logits after it, and returns the answer."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How an answer is decoded."""

    max_new_tokens: int = 1024
    until: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float = 1.0
    """Divides the scores of tokens generated before; 1 is off."""
    end_token_ids: tuple[int, ...] = ()
    seed: int = 0
    """For sampling; each prompt draws from its own generator, whatever the order."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens={self.max_new_tokens} must be at least 1.")
        if self.do_sample and not 0 < self.temperature < math.inf:
            raise SettingsError(
                f"temperature={self.temperature} must be above 0 to sample, and finite."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p={self.top_p} must be above 0 and at most 1; 1 is off.")
        if self.top_k is not None and self.top_k < 0:
            raise SettingsError(f"top_k={self.top_k} must be at least 1, or 0 for off.")
        if not 0 < self.repetition_penalty < math.inf:
            raise SettingsError(
                f"repetition_penalty={self.repetition_penalty} must be above 0, and finite."
            )

    def describe(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An answer, and how it came about."""

    text: str
    """Without special tokens, cut at a stop string, stripped."""
    token_ids: tuple[int, ...]
    """All generated tokens, an end token included."""
    finish_reason: FinishReason
    num_prompt_tokens: int
    """Length of the prompt, visual tokens included."""
    min_margin: float
    """Smallest gap between the best and the second-best score of the run: how close an answer
    came to being another one."""
    thought: str = ""
    """What a thinking model said before its answer."""
    kv_tokens: int | None = None
    """Under a press, the tokens that each layer held at the end of the prompt."""
    kv_bytes: int | None = None
    """And the bytes of their keys and values, in all layers."""
    option_log_probs: tuple[float, ...] = ()
    """Of each option, the log-probability that the first token of the answer is its letter
    (`letter_token_ids`): over the whole vocabulary, before any penalty or temperature."""


@dataclass(frozen=True, kw_only=True)
class Thought:
    """How a model thinks before it answers."""

    end_id: int
    """The token that ends a thought, `</think>`."""
    is_open: bool
    """Whether the prompt has opened it."""
    start_id: int
    """The token that opens one, `<think>`."""
    max_tokens: int = 16384
    """Tokens after which an unfinished thought is given up: there is no answer then."""


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Log-probabilities of given tokens, each with all before it as input."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    """Natural logarithms."""
    argmax_ids: tuple[int, ...]
    """What greedy decoding would have said at each place."""
    min_margin: float
    """Smallest gap between the best and the second-best logit."""
    kv_tokens: int | None = None
    """As of `Generation`."""
    kv_bytes: int | None = None

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding says exactly this."""
        return self.token_ids == self.argmax_ids

    @property
    def log_prob(self) -> float:
        return math.fsum(self.log_probs)


def parse_gen_kwargs(
    gen_kwargs: Mapping[str, Any], defaults: GenerationConfig, *, seed: int = 0
) -> tuple[GenerationSettings, tuple[str, ...]]:
    """Settings from lmms-eval's `gen_kwargs`, which is left as it is.

    Args:
        gen_kwargs: A task's generation settings.
        defaults: The checkpoint's generation config; gives end tokens and repetition penalty.
        seed: For sampling.

    Returns:
        The settings, and the names in `gen_kwargs` that mean nothing here.

    Raises:
        SettingsError: If a value is of the wrong kind, impossible, or asks for beam search.
    """
    known = {
        "until", "max_new_tokens", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k",
        "num_beams", "repetition_penalty", "seed", "score_column",
    }  # fmt: skip
    given = {name: value for name, value in gen_kwargs.items() if value is not None}
    beams = _number("num_beams", int, given.get("num_beams", 1))
    if beams != 1:
        raise SettingsError(f"num_beams={beams}: beam search is not supported; use num_beams=1.")
    until = given.get("until", ())
    if isinstance(until, str):
        until = (until,)
    if not isinstance(until, (list, tuple)) or not all(isinstance(stop, str) for stop in until):
        raise SettingsError(f"until={until!r} must be a string or a list of strings.")
    length_name = "max_new_tokens" if "max_new_tokens" in given else "max_gen_toks"
    penalty = given.get("repetition_penalty", defaults.repetition_penalty)
    temperature = _number("temperature", float, given.get("temperature", 0.0))
    do_sample = bool(gen_kwargs.get("do_sample", temperature > 0))
    end = defaults.eos_token_id
    settings = GenerationSettings(
        max_new_tokens=_number(length_name, int, given.get(length_name, 1024)),
        until=tuple(stop for stop in until if stop),
        do_sample=do_sample,
        temperature=temperature if do_sample else 1.0,
        top_p=_number("top_p", float, given["top_p"]) if do_sample and "top_p" in given else None,
        top_k=_number("top_k", int, given["top_k"]) if do_sample and "top_k" in given else None,
        repetition_penalty=_number(
            "repetition_penalty", float, 1.0 if penalty is None else penalty
        ),
        end_token_ids=tuple(end)
        if isinstance(end, (list, tuple))
        else ()
        if end is None
        else (end,),
        seed=_number("seed", int, gen_kwargs.get("seed", seed)),
    )
    return settings, tuple(sorted(set(gen_kwargs) - known))


def decode(visit: Visit, tokenizer: Any, settings: GenerationSettings, **how: Any) -> Generation:
    """The answer to the prompt that the engine has just read; arguments are those of `decoding`.

    Raises:
        NumericalError: If logits become NaN or infinite.
    """
    return alone(visit, decoding(visit, tokenizer, settings, **how))


def alone(visit: Visit, answer: Decoding[_Answer]) -> _Answer:
    """An answer that is decoded by itself."""
    try:
        token = next(answer)
        while True:
            token = answer.send(visit.step(token))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]  # of the generator


def decode_branches(
    group: VisitGroup, decodings: Mapping[int, Decoding[_Answer]]
) -> Iterator[tuple[int, _Answer | NumericalError]]:
    """The answers of the prompts of a group, side by side.

    Args:
        group: Whose visits are all there.
        decodings: By query; those that nobody asks for, or that failed, are left out.

    Yields:
        Each query with its answer, as soon as it is there.
    """
    tokens = dict.fromkeys(group.members, 0)
    logits: dict[int, Any] = dict.fromkeys(group.members)  # None begins
    running = list(decodings)
    while running:
        for index in tuple(running):
            answer: _Answer | NumericalError
            try:
                if not isinstance(logits[index], NumericalError):
                    tokens[index] = decodings[index].send(logits[index])
                    continue
                answer = logits[index]
            except StopIteration as done:
                answer = done.value
            running.remove(index)
            yield index, answer
        if running:
            logits = dict(group.step(list(tokens.values())))


def decoding(
    visit: Visit,
    tokenizer: Any,
    settings: GenerationSettings,
    *,
    prompt: Prompt,
    num_entries: int,
    history: Sequence[int] = (),
    thought: Thought | None = None,
    letters: Sequence[Sequence[int]] = (),
) -> Decoding[Generation]:
    """How the answer to a prompt is decoded, a token at a time.

    Args:
        visit: Of a query whose last position was read.
        tokenizer: The checkpoint's tokenizer.
        settings: How to decode.
        prompt: What the engine has read; samples are drawn from its content and the seed.
        num_entries: Vocabulary entries that may be produced; rows beyond the tokenizer are
            padding.
        history: Tokens that a repetition penalty counts beside the new ones.
        thought: For a model that thinks first. What it thinks is not the answer: stop strings and
            `max_new_tokens` hold for what comes after.
        letters: Tokens of each option's letter, for `Generation.option_log_probs`. The first token
            of an answer is the first that is not blank, behind the thought.
    """
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    warpers = _warpers(settings)
    generator = None
    if settings.do_sample:
        # It belongs to the prompt, not to its place in a run; not seeded from logits, whose last
        # bits differ between batches and devices.
        digest = hashlib.sha256(f"{prompt.digest}/{settings.seed}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    token_ids: list[int] = []
    answer_from = 0
    thinks = thought is not None and thought.is_open
    margin = math.inf
    option_log_probs: tuple[float, ...] = ()
    is_blank = True  # nothing of the answer is said yet
    logits = visit.logits[-1]
    finish: FinishReason = "length"
    while True:
        said = torch.tensor([[*history, *token_ids]], dtype=torch.long, device=logits.device)
        scores = processors(said, logits[None, :num_entries].clone())
        best = scores.topk(min(2, num_entries)).values[0]
        margin = min(margin, float(best[0] - best[-1]))
        if letters and is_blank and not thinks:
            log_probs = logits[:num_entries].double().log_softmax(-1)
            option_log_probs = tuple(float(log_probs[[*ids]].logsumexp(-1)) for ids in letters)
        if generator is None:
            token = int(scores.argmax())
        else:
            probabilities = warpers(said, scores).softmax(-1)
            token = int(torch.multinomial(probabilities[0].cpu(), 1, generator=generator))
        token_ids.append(token)
        if token in settings.end_token_ids:
            finish = "end_token"
            break
        if thought is not None:
            thinks |= len(token_ids) == 1 and token == thought.start_id
            if thinks and token == thought.end_id:
                thinks, answer_from = False, len(token_ids)
        if letters and is_blank and not thinks:
            said_now = tokenizer.decode(token_ids[answer_from:], skip_special_tokens=True)
            is_blank = not said_now.strip()
        if settings.until and not thinks:
            text = tokenizer.decode(token_ids[answer_from:], skip_special_tokens=True)
            if any(stop in text for stop in settings.until):
                finish = "stop_string"
                break
        most = thought.max_tokens if thought is not None and thinks else settings.max_new_tokens
        if len(token_ids) - answer_from >= most:
            break
        logits = yield token
    if thinks:
        answer_from = len(token_ids)
    text = tokenizer.decode(token_ids[answer_from:], skip_special_tokens=True)
    ends = [text.find(stop) for stop in settings.until if stop in text]
    return Generation(
        text=text[: min(ends, default=None)].strip(),
        token_ids=tuple(token_ids),
        finish_reason=finish,
        num_prompt_tokens=prompt.num_tokens,
        min_margin=margin,
        thought=tokenizer.decode(token_ids[:answer_from], skip_special_tokens=True).strip()
        if answer_from
        else "",
        kv_tokens=visit.kv_tokens,
        kv_bytes=visit.kv_bytes,
        option_log_probs=() if thinks else option_log_probs,
    )


def letter_token_ids(tokenizer: Any, letters: str) -> tuple[tuple[int, ...], ...]:
    """The tokens with which an answer can begin that is an option's letter.

    Args:
        tokenizer: Of the checkpoint.
        letters: One for each option.

    Returns:
        For each letter the tokens that are this letter alone, with or without a space before it: a
        template may or may not end in one. `(B` and `Answer` are no such tokens. Nothing if the
        vocabulary lacks one of the letters.
    """
    vocabulary = tokenizer.get_vocab()
    found = tuple(
        tuple(vocabulary[form] for form in (letter, f"\u0120{letter}", f"\u2581{letter}")
              if form in vocabulary)
        for letter in letters
    )  # fmt: skip
    return found if all(found) else ()


def score_tokens(logits: torch.Tensor, token_ids: Sequence[int]) -> TokenScores:
    """Score tokens by the logits at the positions before each of them.

    Args:
        logits: (len(token_ids), vocabulary), float32; or one row more, which is left out.
        token_ids: What is scored.
    """
    logits = logits[: len(token_ids)]
    log_probs = logits.log_softmax(-1)
    index = torch.tensor(list(token_ids), device=logits.device)
    best = logits.topk(min(2, logits.shape[-1]))
    return TokenScores(
        token_ids=tuple(token_ids),
        log_probs=tuple(log_probs.gather(1, index[:, None])[:, 0].tolist()),
        argmax_ids=tuple(logits.argmax(-1).tolist()),
        min_margin=float((best.values[:, 0] - best.values[:, -1]).min()),
    )


def merge_scores(scores: TokenScores, *, first: int) -> TokenScores:
    """The first tokens of a scored text alone, as a score of its own."""
    return replace(
        scores,
        token_ids=scores.token_ids[:first],
        log_probs=scores.log_probs[:first],
        argmax_ids=scores.argmax_ids[:first],
    )


def is_degenerate(token_ids: Sequence[int], finish_reason: FinishReason) -> bool:
    """Whether an answer got caught in repeating itself: `!!!!!!!!`, or one sentence for ever.

    It ends with a sequence of at most 64 tokens at least four times in a row, which is eight tokens
    or more and half of the answer or more, and it did not end by itself; or the repeated part is
    32 tokens or more, however it ended. Such an answer is reported, never changed: `1000000000` is
    none, as it ends by itself.
    """
    ids = list(token_ids)
    if finish_reason != "length":
        ids = ids[:-1] if finish_reason == "end_token" else ids
    for size in range(1, min(64, len(ids) // 4) + 1):
        same = 0  # tokens at the end that equal the one `size` places before
        while same < len(ids) - size and ids[-1 - same] == ids[-1 - same - size]:
            same += 1
        repeated = same + size
        if repeated >= 4 * size and (
            repeated >= 32
            or (finish_reason == "length" and repeated >= 8 and repeated >= len(ids) / 2)
        ):
            return True
    return False


def _warpers(settings: GenerationSettings) -> LogitsProcessorList:
    warpers = LogitsProcessorList()
    if settings.do_sample:
        if settings.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p is not None and settings.top_p < 1.0:
            warpers.append(TopPLogitsWarper(settings.top_p))
    return warpers


def _number(name: str, kind: Callable[[Any], _Number], value: Any) -> _Number:
    """A setting as `int` or `float`; numbers in text, as YAML leaves 1e-3, are read."""
    try:
        number = kind(value)
        if isinstance(value, bool) or (isinstance(value, float) and number != value == value):
            raise ValueError("it has a fraction or is a truth value")
    except (TypeError, ValueError, OverflowError) as error:
        what = "a whole number" if kind is int else "a number"
        raise SettingsError(f"{name}={value!r} must be {what}.") from error
    return number
