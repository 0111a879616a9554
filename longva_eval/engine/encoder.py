"""Visual tokens of pieces: each computed once, read ahead, and kept while it is needed."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.vision import Vision
from longva_eval.errors import CheckpointError, MediaError, SettingsError
from longva_eval.media.sources import Source
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["VisualEncoder"]


@dataclass
class _Job:
    """The pieces of one picture or video that are still to be computed."""

    source: Source
    pieces: list[VisualPiece]


class VisualEncoder:
    """Visual tokens of pieces: each computed once, decoded ahead, and kept while it is needed.

    A caller that knows what it will ask for says so (`expect`). A thread then reads frames of the
    next videos while the model works, all frames of one video in one pass, whatever prompts they
    stand in; and tokens are let go after their last use.

    Args:
        vision: How the model sees.
        batch_size: Frames or tiles that go through the vision tower at once.
        keep_bytes: Tokens kept in memory; beyond it the least recently used go first.
        keep_all: Keep tokens beyond their last expected use, for later calls.
        cache: Tokens on disk.
        blocks_ahead: Blocks of at most 32 frames that are read before they are asked for.
    """

    def __init__(
        self,
        vision: Vision,
        *,
        batch_size: int = 16,
        keep_bytes: int = 4 << 30,
        keep_all: bool = False,
        cache: FeatureCache | None = None,
        blocks_ahead: int = 4,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"vision_batch_size={batch_size} must be at least 1.")
        self._vision = vision
        self._batch_size = batch_size
        self._keep_bytes = keep_bytes
        self._cache = cache
        self._blocks_ahead = blocks_ahead
        self._kept: dict[str, torch.Tensor] = {}
        self._kept_bytes = 0
        self._uses_left: Counter[str] = Counter()
        self._loader: _Loader | None = None
        self._failed: dict[str, MediaError] = {}
        self._pinned: set[str] = set()
        self.keep_all = keep_all
        self.num_encoded = 0
        """Frames and tiles that went through the vision tower so far."""
        self.num_passes = 0
        """How often a picture or video was opened and read."""

    def expect(self, upcoming: Sequence[Sequence[VisualPiece]]) -> None:
        """Say what `encode` will be asked for, call by call; reading begins at once.

        What was expected before is forgotten.
        """
        self.stop()
        self._failed.clear()
        self._uses_left = Counter()
        jobs: dict[str, _Job] = {}
        wanted: set[str] = set()
        for asked in upcoming:
            pieces = {piece.key: piece for piece in map(_whole, asked)}
            self._uses_left.update(pieces.keys())
            for key, piece in pieces.items():
                if key in wanted or key in self._kept or (self._cache and key in self._cache):
                    continue
                wanted.add(key)
                job = jobs.setdefault(piece.source.media_key, _Job(piece.source, []))
                job.pieces.append(piece)
        for job in jobs.values():
            job.pieces.sort(key=lambda piece: piece.item)
        if not self.keep_all:
            for key in [key for key in self._kept if key not in self._uses_left]:
                self._drop(key)
        if jobs:
            self._loader = _Loader(self._vision, list(jobs.values()), self._blocks_ahead)
            self.num_passes += len(jobs)

    def stop(self) -> None:
        """End reading ahead."""
        if self._loader is not None:
            self._loader.stop()
            self._loader = None

    @torch.inference_mode()
    def encode(self, pieces: Sequence[VisualPiece]) -> list[torch.Tensor]:
        """The visual tokens of each piece.

        Returns:
            One (num_tokens, hidden_size) tensor per piece, in the model's dtype, on the device of
            the projector, or of the CPU if it came from disk.

        Raises:
            MediaError: If a picture or video cannot be read.
        """
        whole = {piece.key: piece for piece in map(_whole, pieces)}
        self._pinned = set(whole)  # what is asked for together is not let go in between
        try:
            self._read_now([piece for piece in whole.values() if not self._is_known(piece)])
            found = {key: self._find(piece) for key, piece in whole.items()}
        finally:
            self._pinned = set()
        for key in whole:
            self._uses_left[key] -= 1
            if self._uses_left[key] <= 0 and not self.keep_all:
                self._drop(key)
        self._make_room()
        return [found[_whole(piece).key][: piece.num_tokens] for piece in pieces]

    def _is_known(self, piece: VisualPiece) -> bool:
        """Whether the piece is kept, on disk, coming, or known to be broken."""
        key = piece.key
        return (
            key in self._kept
            or key in self._failed
            or (self._loader is not None and self._loader.has(key))
            or (self._cache is not None and key in self._cache)
        )

    def _find(self, piece: VisualPiece) -> torch.Tensor:
        key = piece.key
        while key not in self._kept:
            if key in self._failed:
                raise self._failed[key]
            if self._loader is not None and self._loader.has(key):
                self._take_block(self._loader)
            elif (tokens := self._from_disk(piece)) is not None:
                self._keep(key, tokens)
            else:
                self._read_now([piece])
        # The most recently used is last.
        tokens = self._kept[key] = self._kept.pop(key)
        return tokens

    def _from_disk(self, piece: VisualPiece) -> torch.Tensor | None:
        tokens = None if self._cache is None else self._cache.get(piece.key)
        if tokens is not None and tokens.shape[0] != piece.num_tokens:
            return None  # of another preparation: computed again
        return tokens

    def _read_now(self, pieces: Sequence[VisualPiece]) -> None:
        """Read what was not expected, or was let go; one pass for each picture or video.

        Reading ahead pauses: the reader may be a process that serves one at a time.
        """
        if not pieces:
            return
        waiting = self._loader.jobs_left() if self._loader is not None else []
        self.stop()
        jobs: dict[str, _Job] = {}
        for piece in pieces:
            jobs.setdefault(piece.source.media_key, _Job(piece.source, [])).pieces.append(piece)
        try:
            for job in jobs.values():
                job.pieces.sort(key=lambda piece: piece.item)
                self.num_passes += 1
                first = 0
                items = [piece.item for piece in job.pieces]
                for pixels in self._vision.pixel_values(job.source, items):
                    first += len(self._encode_block(job, first, pixels))
                if first < len(job.pieces):
                    name = job.pieces[first].key
                    raise MediaError(f"{name} was not among what its file gave.")
        finally:
            if waiting:
                self._loader = _Loader(self._vision, waiting, self._blocks_ahead)

    def _take_block(self, loader: _Loader) -> None:
        job, first, content = loader.next()
        if isinstance(content, MediaError):
            for piece in job.pieces[first:]:
                self._failed[piece.key] = content
                loader.forget(piece.key)
            return
        for piece in self._encode_block(job, first, content):
            loader.forget(piece.key)

    def _encode_block(self, job: _Job, first: int, pixels: torch.Tensor) -> list[VisualPiece]:
        """Compute and keep the tokens of the pieces from `first` on; returns those pieces."""
        tokens = self._vision.tokens(job.source, pixels, batch_size=self._batch_size)
        self.num_encoded += len(pixels)
        done = job.pieces[first : first + len(tokens)]
        for piece, value in zip(done, tokens, strict=True):
            if value.shape[0] != piece.num_tokens:
                raise CheckpointError(
                    f"{piece.key} became {value.shape[0]} tokens, {piece.num_tokens} expected."
                )
            value = value.clone()  # a slice of a block would keep the whole block alive
            self._keep(piece.key, value)
            if self._cache is not None:
                self._cache.put(piece.key, value)
        return done

    def _keep(self, key: str, value: torch.Tensor) -> None:
        self._kept[key] = value
        self._kept_bytes += value.numel() * value.element_size()
        self._make_room()

    def _make_room(self) -> None:
        """Let go of what was used longest ago, but for what is being asked for."""
        for key in list(self._kept):
            if self._kept_bytes <= self._keep_bytes:
                return
            if key not in self._pinned:
                self._drop(key)

    def _drop(self, key: str) -> None:
        value = self._kept.pop(key, None)
        if value is not None:
            self._kept_bytes -= value.numel() * value.element_size()


class _Loader:
    """Reads pixels of jobs, one after the other, in a thread with a bounded queue."""

    def __init__(self, vision: Vision, jobs: Sequence[_Job], blocks_ahead: int) -> None:
        self._vision = vision
        self._jobs = jobs
        self._coming = {piece.key for job in jobs for piece in job.pieces}
        self._next_piece = {id(job): 0 for job in jobs}
        self._blocks: queue.Queue[tuple[_Job, torch.Tensor | BaseException | None]]
        self._blocks = queue.Queue(maxsize=max(1, blocks_ahead))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decode-ahead", daemon=True)
        self._thread.start()

    def has(self, key: str) -> bool:
        """Whether this piece is still to come."""
        return key in self._coming

    def jobs_left(self) -> list[_Job]:
        """The pieces that are still to come."""
        left = [
            _Job(job.source, [piece for piece in job.pieces if piece.key in self._coming])
            for job in self._jobs
        ]
        return [job for job in left if job.pieces]

    def forget(self, key: str) -> None:
        """The piece has come, or never will."""
        self._coming.discard(key)

    def next(self) -> tuple[_Job, int, torch.Tensor | MediaError]:
        """The next block: its job, the first of its pieces, and pixels or what went wrong."""
        job, content = self._blocks.get()
        first = self._next_piece[id(job)]
        if isinstance(content, MediaError):
            return job, first, content
        if isinstance(content, BaseException):
            raise content
        if content is None:  # the source gave fewer blocks than it has pieces
            name = job.pieces[first].key
            return job, first, MediaError(f"{name} was not among what its file gave.")
        self._next_piece[id(job)] += self._vision.count_pieces(job.source, len(content))
        return job, first, content

    def stop(self) -> None:
        """End the thread, leaving what it has read."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._blocks.get(timeout=0.05)
        self._thread.join()

    def _run(self) -> None:
        for job in self._jobs:
            given = 0
            try:
                items = [piece.item for piece in job.pieces]
                for pixels in self._vision.pixel_values(job.source, items):
                    given += self._vision.count_pieces(job.source, len(pixels))
                    if not self._put(job, pixels):
                        return
            except BaseException as error:  # handed over and raised where it is asked for
                if not self._put(job, error):
                    return
                continue
            if given < len(job.pieces) and not self._put(job, None):
                return

    def _put(self, job: _Job, content: torch.Tensor | BaseException | None) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._blocks.put((job, content), timeout=0.05)
                return True
        return False


def _whole(piece: VisualPiece) -> VisualPiece:
    return piece.whole or piece
