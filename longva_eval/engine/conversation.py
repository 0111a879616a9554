"""A question with its pictures and videos as one prompt, and what is said in answer to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from longva_eval.engine.generation import TokenScores
from longva_eval.errors import MediaError, NumericalError
from longva_eval.media.frames import FrameSample
from longva_eval.media.images import ImageAspectRatio
from longva_eval.media.sources import Picture
from longva_eval.prompts.pieces import Prompt, VisualPiece, placeholder_ids

__all__ = [
    "ClipPart",
    "ComposedClip",
    "Conversation",
    "Failure",
    "ForcedAnswer",
    "Media",
    "ScoredText",
]

Failure = MediaError | NumericalError
"""What can be wrong with one prompt of many."""
ClipPart = tuple[Path, tuple[int, ...]] | Image.Image
"""Frames of a video, by index; or a picture that is shown as one frame."""


@dataclass(frozen=True, kw_only=True)
class ComposedClip:
    """A video put together from frames of videos and pictures, without writing it anywhere."""

    parts: tuple[ClipPart, ...]
    aspect: ImageAspectRatio = "crop"
    """How frames and pictures are prepared; V-NIAH uses `pad`."""


Media = Image.Image | str | Path | Sequence[Image.Image] | ComposedClip
"""A picture, the path of a picture or video, pictures that are the frames of one video, or a clip
composed of several."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A prompt, and what the record says about it."""

    prompt: Prompt
    context_text: str
    """The rendered conversation, up to where the assistant speaks."""
    visuals: tuple[tuple[VisualPiece, ...], ...]
    """The pieces of each picture or video, in order."""
    frames: tuple[FrameSample, ...] = ()
    """For each video, the frames that were chosen."""
    num_tokens_cut: int = 0
    """Tokens left out because the prompt was longer than the context."""
    subtitles: dict[str, Any] | None = None
    """What is said about subtitles put in at the frames (`longva_eval.media.subtitles`)."""
    compared: dict[str, Any] | None = None
    """The text that frames were chosen by, and how many of its tokens the selector left out."""

    def _videos_seen(self) -> Iterator[dict[str, Any]]:
        """Of each video: frames that are in the prompt, whole or in part, and their size."""
        left = len(self.prompt.visual_pieces)  # what is left out is left out from the end
        samples = iter(self.frames)
        for pieces in self.visuals:
            count = min(left, len(pieces))
            left -= count
            first = pieces[0]
            if isinstance(first.source, Picture):
                continue
            # Where frames are encoded in pairs, a piece is one; there may be a newline behind them.
            frames = count * (len(first.item) if isinstance(first.item, tuple) else 1)
            how: Any = getattr(first.source, "how", None)
            size = {"frame_size": [how.width, how.height]} if hasattr(how, "width") else {}
            yield {"num_frames_seen": min(frames, len(next(samples).indices)), **size}

    def placeholder_ids(self) -> list[int]:
        """Token ids of the whole prompt with -200 for each picture or video."""
        return placeholder_ids(self.prompt, self.visuals)

    def describe(self) -> dict[str, Any]:
        """Frames asked and seen, and tokens, for a sample's record."""
        return {
            "num_prompt_tokens": self.prompt.num_tokens,
            "num_visual_tokens": self.prompt.num_visual_tokens,
            "num_tokens_cut": self.num_tokens_cut,
            "videos": [
                {
                    "num_frames_asked": sample.num_frames_asked,
                    **seen,
                    "num_frames_total": sample.num_frames_total,
                    "frame_indices": list(sample.indices),
                    "timestamps_seconds": list(sample.timestamps_seconds),
                    **({"num_gaps": sample.num_gaps} if sample.num_gaps else {}),
                    **({"order": list(sample.order)} if sample.order else {}),
                    **({"similarity": list(sample.scores)} if sample.scores else {}),
                }
                for sample, seen in zip(self.frames, self._videos_seen(), strict=True)
            ],
            **({} if self.subtitles is None else {"subtitles": self.subtitles}),
            **({} if self.compared is None else {"compared_with": self.compared}),
        }


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """How likely a text is as the answer to a prompt."""

    all_tokens: TokenScores
    """The text and what the template closes an answer with: what the original scores."""
    continuation: TokenScores
    """The text alone."""

    @property
    def mean_loss(self) -> float:
        """Mean cross-entropy over all scored tokens, the original's measure; lower is better."""
        return -self.all_tokens.log_prob / len(self.all_tokens.token_ids)


@dataclass(frozen=True, kw_only=True)
class ForcedAnswer:
    """An answer that was scored as input, and what the model says by itself."""

    scores: TokenScores
    """Over the whole output layer, padding rows included, as in the original's needle test."""
    generated: str
    """What greedy decoding says, without penalty; empty if nothing was decoded."""

    def to_json(self) -> dict[str, Any]:
        """As it is written down: for the host, in journals and in results of needle tests."""
        return {
            "generated": self.generated,
            "correct": self.scores.is_greedy,
            "logprob": self.scores.log_prob,
            "answer_ids": list(self.scores.token_ids),
            "pred_ids": list(self.scores.argmax_ids),
            "min_margin": self.scores.min_margin,
            **(
                {}
                if self.scores.kv_tokens is None
                else {
                    "kv_tokens": self.scores.kv_tokens,
                    "kv_bytes": self.scores.kv_bytes,
                }
            ),
        }
