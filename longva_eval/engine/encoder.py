"""Visual tokens of pieces: each computed once, read ahead, and kept while it is needed."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.vision import Vision
from longva_eval.errors import CheckpointError, MediaError, SettingsError
from longva_eval.media.ahead import Ahead
from longva_eval.media.decode import own_cores
from longva_eval.media.sources import Picture, Source
from longva_eval.prompts.pieces import VisualPiece

__all__ = ["VisualEncoder"]

_BYTES_AHEAD = 1 << 30
_LITTLE_AHEAD = 192 << 20
"""Where the model is slower than any decoder: it never waits."""
_MOST_VIDEOS = 8
"""Decoded at once, in a process each."""


@dataclass
class _Medium:
    """The pieces of one picture or video that are still to be computed."""

    source: Source
    pieces: list[VisualPiece]
    num_read: int = 0
    """Pieces whose pixels have been read."""
    num_taken: int = 0
    """Pieces whose pixels have been asked for."""

    @property
    def cores(self) -> int:
        """Parts of it that can still be decoded side by side."""
        left = len(self.pieces) - self.num_read
        return -(-getattr(self.source, "num_parts", 1) * left // max(1, len(self.pieces)))


class VisualEncoder:
    """Visual tokens of pieces: each computed once, decoded ahead, and kept while it is needed.

    A caller that knows what it will ask for says so (`expect`). Threads then read frames of the
    next videos while the model works, all frames of one video in one pass, whatever prompts they
    stand in; and tokens are let go after their last use. A video is begun while the ones before it
    leave a core unused.

    Args:
        vision: How the model sees.
        batch_size: Frames or tiles that go through the vision tower at once.
        keep_bytes: Tokens kept in memory; beyond it the least recently used go first.
        keep_all: Keep tokens beyond their last expected use, for later calls.
        cache: Tokens on disk.
        device: Of the model. A GPU must not wait for frames: all cores decode for it, far ahead.
        bytes_ahead: Of pixels that are read before they are asked for, as they go through the
            vision tower; 1 GiB for a GPU, else 192 MiB.
        cores: That several videos may keep busy; for a GPU all that the process has, else 1.
    """

    def __init__(
        self,
        vision: Vision,
        *,
        batch_size: int = 16,
        keep_bytes: int = 4 << 30,
        keep_all: bool = False,
        cache: FeatureCache | None = None,
        device: torch.device | None = None,
        bytes_ahead: int | None = None,
        cores: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"vision_batch_size={batch_size} must be at least 1.")
        self._vision = vision
        self._batch_size = batch_size
        self._keep_bytes = keep_bytes
        self._cache = cache
        self._device = device or torch.device("cpu")
        is_gpu = self._device.type == "cuda"
        self._bytes_ahead = bytes_ahead or (_BYTES_AHEAD if is_gpu else _LITTLE_AHEAD)
        self._cores = cores or (own_cores() if is_gpu else 1)
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
        media: dict[str, _Medium] = {}
        wanted: set[str] = set()
        for asked in upcoming:
            pieces = {piece.key: piece for piece in map(_whole, asked)}
            self._uses_left.update(pieces.keys())
            for key, piece in pieces.items():
                if key in wanted or key in self._kept or (self._cache and key in self._cache):
                    continue
                wanted.add(key)
                medium = media.setdefault(piece.source.media_key, _Medium(piece.source, []))
                medium.pieces.append(piece)
        for medium in media.values():
            medium.pieces.sort(key=lambda piece: piece.item)
        if not self.keep_all:
            for key in [key for key in self._kept if key not in self._uses_left]:
                self._drop(key)
        if media:
            self._loader = _Loader(self, list(media.values()))
            self.num_passes += len(media)

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
        """Read what was not expected, or was let go; one pass for each picture or video."""
        media: dict[str, _Medium] = {}
        for piece in pieces:
            media.setdefault(piece.source.media_key, _Medium(piece.source, [])).pieces.append(piece)
        for medium in media.values():
            medium.pieces.sort(key=lambda piece: piece.item)
            self.num_passes += 1
            for pixels in self._pixels(medium):
                self._encode_block(medium, pixels)
            if medium.num_taken < len(medium.pieces):
                raise _never_came(medium)

    def _pixels(self, medium: _Medium) -> Iterator[torch.Tensor]:
        """The pixels of a medium's pieces, in batches of the vision tower."""
        items = [piece.item for piece in medium.pieces]
        blocks = self._vision.pixel_values(medium.source, items)
        if isinstance(medium.source, Picture):  # its tiles may be one piece
            yield from blocks
        else:
            yield from _batches(blocks, self._batch_size)

    def _take_block(self, loader: _Loader) -> None:
        medium, content = loader.next()
        if isinstance(content, MediaError):
            for piece in medium.pieces[medium.num_taken :]:
                self._failed[piece.key] = content
                loader.forget(piece.key)
            return
        for piece in self._encode_block(medium, content):
            loader.forget(piece.key)

    def _encode_block(self, medium: _Medium, pixels: torch.Tensor) -> list[VisualPiece]:
        """Compute and keep the tokens of the next pieces of a medium; returns those pieces."""
        tokens = self._vision.tokens(medium.source, pixels, batch_size=self._batch_size)
        self.num_encoded += len(pixels)
        done = medium.pieces[medium.num_taken :][: len(tokens)]
        medium.num_taken += len(done)
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
    """Reads pixels of media in threads, in order and within bounds."""

    def __init__(self, encoder: VisualEncoder, media: Sequence[_Medium]) -> None:
        self._encoder = encoder
        self._coming = {piece.key for medium in media for piece in medium.pieces}
        cores = encoder._cores
        self._ahead = Ahead(
            media,
            self._read,
            threads=min(cores, len(media), _MOST_VIDEOS),
            room=encoder._bytes_ahead,
            size=lambda pixels: pixels.nbytes,
            may_begin=lambda others: sum(min(medium.cores, cores) for medium in others) < cores,
            name="decode-ahead",
        )

    def has(self, key: str) -> bool:
        """Whether this piece is still to come."""
        return key in self._coming

    def forget(self, key: str) -> None:
        """The piece has come, or never will."""
        self._coming.discard(key)

    def next(self) -> tuple[_Medium, torch.Tensor | MediaError]:
        """The next batch of a medium's pixels, or why there is none."""
        while (given := self._ahead.next()) is not None:
            if given.result is not None:
                return given.job, given.result
            if isinstance(given.error, MediaError):
                return given.job, given.error
            if given.error is not None:
                raise given.error
            if given.job.num_taken < len(given.job.pieces):
                return given.job, _never_came(given.job)
        raise AssertionError("a piece that is to come comes, or fails")

    def stop(self) -> None:
        """End the threads, leaving what they have read."""
        self._ahead.stop()

    def _read(self, medium: _Medium) -> Iterator[torch.Tensor]:
        device = self._encoder._device
        on_gpu = device.type == "cuda"
        with contextlib.ExitStack() as stack:
            if on_gpu:  # in the model's own stream it would wait for the prefill that is going on
                stream = torch.cuda.Stream(device=device)  # type: ignore[no-untyped-call]
                stack.enter_context(torch.cuda.stream(stream))
            for pixels in self._encoder._pixels(medium):
                medium.num_read += self._encoder._vision.count_pieces(medium.source, len(pixels))
                # They wait in the host's memory, from where they are copied fast.
                yield pixels.cpu().pin_memory() if on_gpu else pixels


def _batches(blocks: Iterable[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """The same rows, in batches of this size, the last one of fewer."""
    kept: list[torch.Tensor] = []
    for block in blocks:
        kept.append(block)
        if (rows := sum(map(len, kept))) >= size:
            whole = torch.cat(kept) if len(kept) > 1 else block
            full = rows - rows % size
            yield from torch.split(whole[:full], size)
            kept = [whole[full:]] if full < rows else []
    if kept:
        yield torch.cat(kept)


def _never_came(medium: _Medium) -> MediaError:
    return MediaError(f"{medium.pieces[medium.num_taken].key} was not among what its file gave.")


def _whole(piece: VisualPiece) -> VisualPiece:
    return piece.whole or piece
