"""Which file this is: the one that was looked at, and what its content is.

A run looks at its files long before it decodes them. `FileIdentity` tells whether a file has been
replaced or written to since; `file_digest` names its content in journals and feature caches.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash
from PIL import Image

from longva_eval.errors import MediaError

__all__ = [
    "FileIdentity",
    "check_unchanged",
    "file_digest",
    "identify",
    "image_digest",
    "printable",
]

_SMALL_FILE_BYTES = 64 << 20
_READ_BYTES = 1 << 20


class FileIdentity(NamedTuple):
    """What changes when a file is replaced or written to."""

    size_bytes: int
    modified_ns: int
    inode: int
    device: int


def identify(path: Path, *, kind: str) -> FileIdentity:
    """The identity of an ordinary file that holds something.

    Args:
        path: The file.
        kind: What it is said to be, for the message: `video`, `picture`.

    Raises:
        MediaError: If it is missing, a folder, a pipe or device, or empty.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"The {kind} {printable(path)} cannot be opened: {reason}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"The {kind} {printable(path)} is a folder.")
    if not stat.S_ISREG(status.st_mode):  # a pipe or device could be read from for ever
        raise MediaError(f"The {kind} {printable(path)} is no ordinary file.")
    if status.st_size == 0:
        raise MediaError(f"The {kind} {printable(path)} is empty (0 bytes).")
    return _identity(status)


def check_unchanged(path: Path, identity: FileIdentity, file: BinaryIO | None = None) -> None:
    """Make sure that a file is still the one that was looked at.

    Args:
        path: Its name, for the message.
        identity: From `identify`, at the first look.
        file: The file as it is open now; without it, whatever has the name now.

    Raises:
        MediaError: If size, time of change or inode differ, or the file is gone.
    """
    try:
        now = _identity(path.stat() if file is None else os.fstat(file.fileno()))
    except OSError as error:
        raise MediaError(f"{printable(path)} cannot be opened: {error.strerror}.") from error
    if now != identity:
        raise MediaError(
            f"{printable(path)} has changed since it was looked at (then {identity.size_bytes} "
            f"bytes, now {now.size_bytes}; a download that went on, or a file put in its place). "
            "Nothing was taken from it. Run again when its files stay as they are."
        )


def printable(path: str | Path) -> str:
    """A path as a message shows it: what cannot be printed is escaped."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def file_digest(path: Path, identity: FileIdentity | None = None) -> str:
    """Identity of a file's whole content, 24 hex digits.

    Up to 64 MiB the first half of a SHA-256; larger files by XXH3 (some 7 GB/s), once: the result
    is kept in the user's cache beside the file's identity.

    Raises:
        MediaError: If the file isn't, or doesn't stay, the one that `identity` was taken of.
    """
    with path.open("rb", buffering=0) as file:
        identity = identity or _identity(os.fstat(file.fileno()))
        check_unchanged(path, identity, file)
        if identity.size_bytes <= _SMALL_FILE_BYTES:
            digest = _hash(file, hashlib.sha256(f"{identity.size_bytes}\0".encode()))
            check_unchanged(path, identity, file)
            return digest
        key = f"{path.resolve()}\0{tuple(identity)}".encode(errors="surrogateescape")
        name = hashlib.sha256(key).hexdigest()[:32]
        kept = _kept_digests(_digest_list())
        if name not in kept:
            digest = _hash(file, xxhash.xxh3_128())
            check_unchanged(path, identity, file)
            kept[name] = digest
            _keep(name, digest)
        return kept[name]


def _hash(file: BinaryIO, digest: Any) -> str:
    while block := file.read(_READ_BYTES):
        digest.update(block)
    return str(digest.hexdigest())[:24]


def _identity(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _digest_list() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "longva-eval" / "digests.txt"


@lru_cache(maxsize=1)
def _kept_digests(listing: Path) -> dict[str, str]:
    """Digests of earlier runs, by a hash of name and identity."""
    try:
        lines = listing.read_text(encoding="ascii", errors="ignore").split("\n")
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: pair[1] for pair in pairs if [len(part) for part in pair] == [32, 24]}


def _keep(name: str, digest: str) -> None:
    """Append in one write, so that several processes may; without a cache it's hashed again."""
    listing = _digest_list()
    try:
        listing.parent.mkdir(parents=True, exist_ok=True)
        with listing.open("ab", buffering=0) as file:
            file.write(f"{name} {digest}\n".encode())
    except OSError:
        return


def image_digest(image: Image.Image) -> str:
    """Identity of a picture's content: hash of its size and RGB bytes."""
    digest = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()[:24]
