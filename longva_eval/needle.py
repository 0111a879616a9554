"""V-NIAH: one picture hidden in a long video, asked for at every depth and length.

The haystack is the first N frames of one or several videos at one frame a second. A needle
picture is inserted before frame `int(depth * N)`, so that the model sees N + 1 frames, and a
question about it follows. Scoring is teacher-forced, as in the original: the true answer is the
input, and a cell is correct if every answer token is the model's first choice. That is the same
as greedy decoding starting with exactly the answer; what the model would have said is decoded too
and kept beside it.

All prompts of a grid go through the prefix engine at once: haystack frames before a needle are
shared by all cells, and the lengths of one needle at one insertion index are prefixes of each
other.

Source: LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`. Frames and
needles are padded to squares of the mean colour (videos elsewhere are cropped), and scores run
over the whole output layer, padding rows included: both as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longva_eval.errors import MediaError, SettingsError
from longva_eval.generation import score_tokens
from longva_eval.images import image_digest, open_image
from longva_eval.prefix import Query
from longva_eval.prompt import Prompt, TextPiece, VisualPiece, tokenize
from longva_eval.session import Session
from longva_eval.video import FrameSample, one_per_second, probe_video
from longva_eval.vision import FrameStack, VideoFrames

__all__ = [
    "CellResult",
    "Haystack",
    "Needle",
    "NeedleCell",
    "NeedleGrid",
    "accuracy_rows",
    "insert_index",
    "load_needles",
    "open_haystack",
    "parse_range",
    "run_grid",
]

HUB_NEEDLES = "lmms-lab/v_niah_needles"


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A picture to find, with a question that only it answers."""

    name: str
    """File name, or place in the dataset."""
    image: Image.Image
    """RGB."""
    question: str
    """Follows the frames directly; the published ones begin with a newline."""
    answer: str

    def describe(self) -> dict[str, str]:
        return {
            "name": self.name,
            "image_sha256": image_digest(self.image),
            "question": self.question,
            "answer": self.answer,
        }


@dataclass(frozen=True, kw_only=True)
class NeedleCell:
    """A place in the grid."""

    num_frames: int
    """Haystack length, in frames, the needle not counted."""
    depth: float
    """Needle position: 0.0 before the first frame, 1.0 after the last."""

    @property
    def insert_index(self) -> int:
        return insert_index(self.num_frames, self.depth)


@dataclass(frozen=True, kw_only=True)
class NeedleGrid:
    """Haystack lengths and needle depths."""

    frame_counts: tuple[int, ...]
    depths: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frame_counts or not self.depths:
            raise SettingsError("A needle grid needs at least one frame count and one depth.")
        if min(self.frame_counts) < 1:
            raise SettingsError(f"frames={min(self.frame_counts)} must be at least 1.")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise SettingsError(f"depths={list(self.depths)} must lie between 0 and 1.")

    def cells(self) -> list[NeedleCell]:
        """All places, lengths first, in the original's order."""
        return [
            NeedleCell(num_frames=count, depth=depth)
            for count in self.frame_counts
            for depth in self.depths
        ]


@dataclass(frozen=True, kw_only=True)
class Haystack:
    """Frames of one or several videos, one a second, one after the other."""

    pieces: tuple[VisualPiece, ...]
    sources: tuple[dict[str, Any], ...]
    """For each video: file, digest, and how many frames it gives."""


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One needle at one place of the grid."""

    num_frames: int
    depth: float
    insert_index: int
    needle: int
    """Place of the needle in the list."""
    answer_ids: tuple[int, ...]
    pred_ids: tuple[int, ...]
    """First choice at each answer position, with the true answer as input."""
    correct: bool
    logprob: float
    """Of the answer, natural logarithm, over the whole output layer."""
    min_margin: float
    """Smallest gap between the best and second-best logit at the answer's positions."""
    generated: str
    """What greedy decoding says."""
    num_prompt_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The line in `cells.jsonl`."""
        return {
            "num_frames": self.num_frames,
            "depth": self.depth,
            "insert_index": self.insert_index,
            "needle": self.needle,
            "answer_ids": list(self.answer_ids),
            "pred_ids": list(self.pred_ids),
            "correct": self.correct,
            "logprob": self.logprob,
            "min_margin": self.min_margin,
            "generated": self.generated,
            "num_prompt_tokens": self.num_prompt_tokens,
        }


def insert_index(num_frames: int, depth: float) -> int:
    """The haystack frame that the needle stands before; truncated, as in the original."""
    return int(depth * num_frames)


def parse_range(text: str, *, name: str) -> list[float]:
    """`200:3000:200` (both ends included) or `6,12,24` as numbers.

    Raises:
        SettingsError: If the text is neither, or would give nothing.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            if step <= 0 or stop < start:
                raise ValueError("the step must be above 0 and the end not before the start")
            # numpy's arange, so that 0:1:0.2 gives the original's 0.6000000000000001.
            values = [float(value) for value in np.arange(start, stop + step, step)]
            return [value for value in values if value <= stop + 1e-9]
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SettingsError(
            f"--{name} {text!r} is neither START:STOP:STEP nor a list A,B,C ({error})."
        ) from error


def load_needles(source: str | Path) -> list[Needle]:
    """Needles from a folder with `dataset.json`, or from the hub.

    `dataset.json` is a list of `{"path", "prompt", "answer"}`, paths relative to it.

    Raises:
        MediaError: If the folder, the list, a picture or a field is missing or wrong; all
            problems of a folder are reported together.
    """
    if str(source) == HUB_NEEDLES:
        return _needles_from_hub()
    folder = Path(source).expanduser()
    listing = folder / "dataset.json"
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MediaError(
            f"{listing} does not exist. A needle folder holds pictures and a dataset.json: "
            '[{"path": "cat.png", "prompt": "\\nWhat animal ...?", "answer": "Cat"}, ...]; '
            f"or use --needles {HUB_NEEDLES}."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MediaError(f"{listing} is not valid JSON: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise MediaError(f"{listing} must hold a list of needles, one at least.")
    needles: list[Needle] = []
    problems: list[str] = []
    for number, entry in enumerate(entries):
        try:
            needles.append(_read_needle(entry, folder))
        except MediaError as error:
            problems.append(f"  needle {number}: {error}")
    if problems:
        raise MediaError(f"{listing} cannot be used:\n" + "\n".join(problems))
    return needles


def _read_needle(entry: Any, folder: Path) -> Needle:
    if not isinstance(entry, dict):
        raise MediaError(f"it is {type(entry).__name__}, not an object.")
    values = {key: entry.get(key) for key in ("path", "prompt", "answer")}
    wrong = [key for key, value in values.items() if not isinstance(value, str) or not value]
    if wrong:
        raise MediaError(f"{', '.join(wrong)} must be text that is not empty.")
    path = folder / str(values["path"])
    if not path.resolve().is_relative_to(folder.resolve()):
        raise MediaError(f"its path {values['path']!r} leads out of the folder.")
    return Needle(
        name=str(values["path"]),
        image=open_image(path),
        question=str(values["prompt"]),
        answer=str(values["answer"]),
    )


def _needles_from_hub() -> list[Needle]:
    from datasets import load_dataset

    try:
        rows = load_dataset(HUB_NEEDLES, split="test")
    except Exception as error:  # datasets raises many types for a missing network
        raise MediaError(
            f"The needles {HUB_NEEDLES} could not be loaded ({type(error).__name__}: {error}). "
            "Without a network, pass a folder with dataset.json and its pictures as --needles."
        ) from error
    return [
        Needle(
            name=str(number),
            image=open_image(row["image"]),
            question=row["question"],
            answer=row["answer"],
        )
        for number, row in enumerate(rows)
    ]


def open_haystack(session: Session, videos: Sequence[str | Path]) -> Haystack:
    """The frames of the videos at one a second, one video after the other; nothing is decoded.

    Raises:
        MediaError: If a video cannot be read.
    """
    if not videos:
        raise SettingsError("A haystack needs at least one video.")
    pieces: list[VisualPiece] = []
    sources: list[dict[str, Any]] = []
    for path in videos:
        info = probe_video(path)
        indices = tuple(one_per_second(info))
        sample = FrameSample(
            indices=indices,
            timestamps_seconds=tuple(float(info.presentation_seconds[i]) for i in indices),
            num_frames_asked=len(indices),
            num_frames_total=info.num_frames,
        )
        source = VideoFrames(
            checkpoint=session.checkpoint,
            info=info,
            sample=sample,
            backend=session.backend,
            aspect="pad",
            pool_stride=2,
        )
        pieces.extend(source.pieces())
        sources.append(
            {
                "file": info.path.name,
                "digest": info.digest,
                "num_frames_used": len(indices),
                "num_frames_total": info.num_frames,
                "average_fps": info.average_fps,
            }
        )
    return Haystack(pieces=tuple(pieces), sources=tuple(sources))


def run_grid(
    session: Session,
    haystack: Haystack,
    needles: Sequence[Needle],
    grid: NeedleGrid,
    *,
    max_new_tokens: int = 8,
    on_result: Callable[[CellResult], None] | None = None,
) -> list[CellResult]:
    """Ask for every needle at every place of the grid.

    Args:
        session: The model.
        haystack: From `open_haystack`.
        needles: What to hide.
        grid: Where.
        max_new_tokens: Tokens to decode of what the model would say by itself; 0 for none.
        on_result: Called with each result as soon as it is there, in the engine's order.

    Returns:
        A result for each cell and needle: lengths, then depths, then needles.

    Raises:
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        NumericalError: If logits are NaN or infinite.
    """
    longest = max(grid.frame_counts)
    if longest > len(haystack.pieces):
        files = ", ".join(source["file"] for source in haystack.sources)
        raise MediaError(
            f"The haystack ({files}) has {len(haystack.pieces)} frames at one a second; "
            f"{longest} are asked for. Add --haystack videos or lower --frames."
        )
    cells = [(cell, number) for cell in grid.cells() for number in range(len(needles))]
    prompts, answers = _build_prompts(session, haystack, needles, cells)
    # Two queries a cell: the answer as input (scored), and the prompt alone (decoded). They share
    # all of the prompt, so the second costs next to nothing.
    queries = [
        Query(prompt.with_tokens(answer[:-1]), read_from=prompt.num_tokens - 1)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    if max_new_tokens > 0:
        queries += [Query(prompt) for prompt in prompts]
    generated: dict[int, str] = {}
    scored: dict[int, CellResult] = {}
    results: list[CellResult | None] = [None] * len(cells)

    def finish(place: int) -> None:
        if place not in scored or (max_new_tokens > 0 and place not in generated):
            return
        result = scored.pop(place)
        result = CellResult(**{**vars(result), "generated": generated.pop(place, "")})
        results[place] = result
        if on_result is not None:
            on_result(result)

    for visit in session.engine.visit(queries, room=max_new_tokens):
        if visit.error is not None:
            raise visit.error
        place = visit.index % len(cells)
        cell, number = cells[place]
        if visit.index < len(cells):
            scores = score_tokens(visit.logits, answers[place])
            scored[place] = CellResult(
                num_frames=cell.num_frames,
                depth=cell.depth,
                insert_index=cell.insert_index,
                needle=number,
                answer_ids=scores.token_ids,
                pred_ids=scores.argmax_ids,
                correct=scores.is_greedy,
                logprob=scores.log_prob,
                min_margin=scores.min_margin,
                generated="",
                num_prompt_tokens=prompts[place].num_tokens,
            )
        else:
            generated[place] = _decode_greedily(session, visit, max_new_tokens)
        finish(place)
    assert all(result is not None for result in results), "every query is visited once"
    return [result for result in results if result is not None]


def _build_prompts(
    session: Session,
    haystack: Haystack,
    needles: Sequence[Needle],
    cells: Sequence[tuple[NeedleCell, int]],
) -> tuple[list[Prompt], list[tuple[int, ...]]]:
    """Prompts and answer tokens of all cells; the four texts are tokenised separately."""
    tokenizer = session.checkpoint.tokenizer
    start = TextPiece(tokenize(tokenizer, session.template.before_question))
    end = tokenize(tokenizer, session.template.after_question)
    pictures = FrameStack(
        checkpoint=session.checkpoint,
        pictures=tuple(needle.image for needle in needles),
        aspect="pad",
        pool_stride=2,
    ).pieces()
    questions = [TextPiece(tokenize(tokenizer, needle.question) + end) for needle in needles]
    answer_ids = [tokenize(tokenizer, needle.answer) for needle in needles]
    for needle, ids in zip(needles, answer_ids, strict=True):
        if not ids:
            raise MediaError(f"The answer {needle.answer!r} of needle {needle.name} has no tokens.")
    prompts, answers = [], []
    for cell, number in cells:
        frames = haystack.pieces[: cell.num_frames]
        index = cell.insert_index
        prompts.append(
            Prompt((start, *frames[:index], pictures[number], *frames[index:], questions[number]))
        )
        answers.append(answer_ids[number])
    return prompts, answers


def _decode_greedily(session: Session, visit: Any, max_new_tokens: int) -> str:
    end_ids = session.checkpoint.generation_config.eos_token_id
    ends = set(end_ids) if isinstance(end_ids, (list, tuple)) else {end_ids}
    token_ids: list[int] = []
    logits = visit.logits[-1]
    while True:
        token = int(logits[: session.checkpoint.num_tokenizer_entries].argmax())
        if token in ends:
            break
        token_ids.append(token)
        if len(token_ids) == max_new_tokens:
            break
        logits = visit.step(token)
    text: str = session.checkpoint.tokenizer.decode(token_ids, skip_special_tokens=True)
    return text.strip()


def accuracy_rows(results: Iterable[CellResult]) -> list[dict[str, float | int]]:
    """The rows of `all_accuracies.json`: the share of needles found at each place.

    `Frame Depth` is the depth in percent, rounded to a tenth. The original rounds to tens, which
    gives two depths the same name when they are 25 % apart (docs/differences.md).
    """
    found: dict[tuple[int, float], list[bool]] = {}
    for result in results:
        found.setdefault((result.num_frames, result.depth), []).append(result.correct)
    return [
        {
            "Num. Frame": num_frames,
            "Frame Depth": round(depth * 100, 1),
            "Score": sum(correct) / len(correct),
        }
        for (num_frames, depth), correct in found.items()
    ]


def read_accuracies(path: str | Path) -> list[dict[str, float]]:
    """Rows of an `all_accuracies.json`, ours or the original's.

    Raises:
        MediaError: If the file is missing or holds anything else.
    """
    path = Path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MediaError(f"{path} does not exist.") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, IsADirectoryError) as error:
        raise MediaError(f"{path} is not valid JSON: {error}") from error
    keys = ("Num. Frame", "Frame Depth", "Score")
    if not isinstance(rows, list) or not rows:
        raise MediaError(f"{path} must be a list of rows with {', '.join(keys)}.")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not all(_is_number(row.get(key)) for key in keys):
            raise MediaError(f"{path}: row {number} must have numbers as {', '.join(keys)}.")
        if not 0 <= row["Score"] <= 1:
            raise MediaError(f"{path}: row {number} has Score={row['Score']}, not within [0, 1].")
    return [{key: float(row[key]) for key in keys} for row in rows]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def slug(text: str) -> str:
    """A file-name-safe form of a text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "unnamed"
