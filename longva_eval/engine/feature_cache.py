"""Visual tokens on disk: a second run with other questions or RoPE settings starts from them.

One safetensors file per piece, read by memory map, written beside its place and moved into it, so
that a file is complete or absent and several processes can share a folder. The folder is kept
below a size: what has not been read for longest goes first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from longva_eval.files import check_writable

__all__ = ["FeatureCache"]

Array = npt.NDArray[Any]
_NAME = "visual_tokens"
_TRIM_TO = 0.9
"""Share of the limit that is left after making room, so that it is not made at every write."""


class FeatureCache:
    """Visual tokens by key, in a folder.

    Args:
        folder: Made if it is not there.
        identity: What else the tokens depend on: weights, dtype, device. Part of every name.
        max_bytes: Size that the folder is kept below.

    Raises:
        SettingsError: If the folder cannot be written.
    """

    def __init__(self, folder: str | Path, *, identity: str, max_bytes: int = 50 << 30) -> None:
        self._folder = Path(folder).expanduser()
        self._identity = identity
        self._max_bytes = max_bytes
        check_writable(self._folder, "feature_cache")
        self._bytes = sum(path.stat().st_size for path in self._files())

    def __contains__(self, key: str) -> bool:
        return self._path(key).is_file()

    def get(self, key: str) -> torch.Tensor | None:
        """The (num_tokens, hidden_size) tokens of a piece on the CPU, or None."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                tokens: torch.Tensor = file.get_tensor(_NAME)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            logger.warning("{} is damaged ({}); it is computed again.", path, error)
            path.unlink(missing_ok=True)
            return None
        return tokens

    def put(self, key: str, tokens: torch.Tensor) -> None:
        """Keep the tokens of a piece; a full disk costs a warning, not the run."""
        path = self._path(key)
        partial = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            path.parent.mkdir(exist_ok=True)
            save_file({_NAME: tokens.detach().cpu().contiguous()}, partial)
            partial.replace(path)
        except (OSError, SafetensorError) as error:
            partial.unlink(missing_ok=True)
            logger.warning("Visual tokens could not be kept in {}: {}", self._folder, error)
            return
        self._bytes += path.stat().st_size
        if self._bytes > self._max_bytes:
            self._make_room()

    def keep(self, key: str, make: Callable[[], Array]) -> Array:
        """What is kept under a key, as an array; made and kept if it is not there."""
        found = self.get(key)
        if found is None:
            found = torch.from_numpy(make())
            self.put(key, found)
        array: Array = found.numpy()
        return array

    def _make_room(self) -> None:
        files = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._files()]
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if self._bytes <= self._max_bytes * _TRIM_TO:
                break
            path.unlink(missing_ok=True)
            self._bytes -= size

    def _files(self) -> list[Path]:
        return list(self._folder.glob("??/*.safetensors"))

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self._identity}\0{key}".encode()).hexdigest()
        return self._folder / name[:2] / f"{name[2:34]}.safetensors"
