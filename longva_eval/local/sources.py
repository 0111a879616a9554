"""Finding media by name in somebody's folder, archives included, and putting them into place.

A data set's rows name their videos; where those lie on a disk is anybody's choice. So everything
below the folder is looked through by name. A member of an archive is copied to the path we chose,
never to one that the archive names; links and special files in archives are no candidates, and
symbolic links out of the folder are not followed unless asked. No torch.
"""

from __future__ import annotations

import itertools
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from loguru import logger

from longva_eval.errors import DataError
from longva_eval.files import write_atomically

__all__ = ["Found", "SourceFiles", "dataset_gigabytes", "hub_revision", "place_files"]

_UNFINISHED = (".incomplete", ".part", ".crdownload", ".tmp", ".ytdl", ".aria2", ".lock")
_TAR_NAME = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_TAR_PART = re.compile(
    r"^(?P<whole>.+\.tar(\.gz|\.bz2|\.xz)?)[._-]?(part[._-]?)?([a-z]{1,3}|\d{1,4})$", re.IGNORECASE
)
"""LongVideoBench's videos.tar.part.aa to .bd, for instance."""
_ARCHIVE_ERRORS: Final = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error,
    lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
    TypeError,  # tarfile, of a gzip header that is cut off
)  # fmt: skip
"""What the standard library raises for archives that are damaged, encrypted, or of another kind."""


def _blocks(open_member: Callable[[], IO[bytes]]) -> Iterator[bytes]:
    """What a member holds; an error of reading it is none of writing."""
    try:
        with open_member() as stream:
            while block := stream.read(1 << 20):
                yield block
    except OSError as error:
        raise EOFError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of the source, on disk or in an archive."""

    path: Path
    """The file, or the archive it is a member of (one that is split by the name of the whole)."""
    member: str | None = None
    """Its name within the archive."""
    location: PurePosixPath
    """Where it lies below the source, or within the archive."""
    size: int
    """In bytes, uncompressed."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}!{self.member}"

    def agreement(self, wanted: PurePosixPath) -> int:
        """How many names, from the file's own upwards, are those of another path."""
        pairs = zip(reversed(self.location.parts), reversed(wanted.parts), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@dataclass
class SourceFiles:
    """Everything below a folder, by name.

    Raises:
        DataError: If there is no such folder.
    """

    root: Path
    follow_links: bool = False
    """Whether symbolic links may lead out of the folder."""
    by_name: dict[str, list[Found]] = field(default_factory=dict, init=False)
    unusable: dict[str, str] = field(default_factory=dict, init=False)
    """Why a file of this name was not taken: a download's remains, a link out of the folder."""
    warnings: list[str] = field(default_factory=list, init=False)
    _archives: dict[Path, list[Path]] = field(default_factory=dict, init=False)
    """The files that each consists of."""
    _are_open: bool = field(default=False, init=False)
    """Whether archives were looked into."""

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise DataError(f"The folder {self.root} {what}; --from names the folder of the data.")
        visited: set[Path] = set()
        allowed = [Path("/")] if self.follow_links else _allowed_roots(self.root)

        def warn(error: OSError) -> None:
            self.warnings.append(f"{error.filename!s:.200} cannot be entered: {error.strerror}.")

        walk = os.walk(self.root, onerror=warn, followlinks=self.follow_links)
        for folder, folders, files in walk:
            here = Path(folder)
            if self.follow_links:  # a link to a parent would go round for ever
                if here.resolve() in visited:
                    folders.clear()
                    continue
                visited.add(here.resolve())
            folders[:] = sorted(name for name in folders if name not in (".git", ".cache"))
            for name in sorted(files):
                self._look_at(here / name, allowed)

    def find(self, spellings: Sequence[str], *, any_folder: bool) -> list[Found]:
        """Candidates for a file that a row names.

        Args:
            spellings: Names that it may have, best first; `/` separates folders.
            any_folder: Whether a file in another folder than the name says will do.

        Returns:
            Those that agree with the name in most folders; several if they are equally good.
        """
        for wanted in map(PurePosixPath, spellings):
            ranked = [
                ((item.agreement(wanted), item.member is None), item)
                for item in self.by_name.get(wanted.name, [])
            ]
            if not any_folder:
                ranked = [entry for entry in ranked if entry[0][0] == len(wanted.parts)]
            if ranked:
                best = max(rank for rank, _ in ranked)
                return [item for rank, item in ranked if rank == best]
        return []

    def open_archives(self) -> None:
        """Add the members of zip and tar archives; called when something was not found on disk."""
        unread = {} if self._are_open else self._archives
        self._are_open = True
        for name, parts in unread.items():
            try:
                with _members(parts) as members:
                    for member, size, _ in members:
                        location = PurePosixPath(member.replace("\\", "/"))
                        if not location.is_absolute() and ".." not in location.parts:
                            self._add(Found(path=name, member=member, location=location, size=size))
            except _ARCHIVE_ERRORS as error:
                self.warnings.append(f"{name} cannot be read as an archive: {error}.")

    def extract(self, archive: Path, targets: Mapping[str, Path]) -> Iterator[Path]:
        """Copy members of an archive to where they belong; gives each target as it is there."""
        try:
            with _members(self._archives[archive]) as members:
                for name, _, open_member in members:
                    if name in targets and not targets[name].is_file():
                        with (
                            write_atomically(targets[name]) as temporary,
                            temporary.open("wb") as out,
                        ):
                            out.writelines(_blocks(open_member))
                        yield targets[name]
        except _ARCHIVE_ERRORS as error:
            raise DataError(
                f"{archive} cannot be unpacked: {error}. If it is damaged, fetch it again."
            ) from error

    def _look_at(self, path: Path, allowed: Sequence[Path]) -> None:
        name = path.name
        for suffix in _UNFINISHED:
            if name.endswith(suffix):
                stem = name.removesuffix(suffix)
                self.unusable.setdefault(stem, f"its download is unfinished: {path}")
                return
        try:
            real = path.resolve(strict=True)
            status = real.stat()
        except OSError:
            self.warnings.append(f"{path} is a link to something that is not there.")
            return
        if path.is_symlink() and not any(real.is_relative_to(root) for root in allowed):
            self.unusable[name] = f"{path} is a link out of the folder; --follow-links"
            return
        if not stat.S_ISREG(status.st_mode):
            return
        location = PurePosixPath(path.relative_to(self.root).as_posix())
        self._add(Found(path=path, location=location, size=status.st_size))
        part = _TAR_PART.match(name)
        if name.lower().endswith(".zip") or _TAR_NAME.search(name):
            self._archives[path] = [path]
        elif part is not None:  # the folder's files come sorted
            self._archives.setdefault(path.with_name(part["whole"]), []).append(path)

    def _add(self, found: Found) -> None:
        name = found.location.name
        # What macOS and Windows leave in folders and archives is no candidate.
        if not name.startswith("._") and name not in (".DS_Store", "Thumbs.db", "desktop.ini"):
            self.by_name.setdefault(name, []).append(found)


def hub_revision(root: Path) -> str | None:
    """The commit a folder was downloaded from, where the hub's client left a trace of it."""
    for folder in (root, *root.parents):
        if folder.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", folder.name):
            return folder.name
    commits = set()
    for path in sorted((root / ".cache" / "huggingface" / "download").rglob("*.metadata"))[:200]:
        first = path.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0].strip()
        if re.fullmatch(r"[0-9a-f]{40}", first):
            commits.add(first)
    return commits.pop() if len(commits) == 1 else None


def dataset_gigabytes(name: str) -> float | None:
    """What a data set of the hub takes to download, in GB; None where the hub is out of reach."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    address = f"{endpoint}/api/datasets/{urllib.parse.quote(name)}?blobs=true"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return None
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return sum(file.get("size") or 0 for file in json.load(answer)["siblings"]) / 1e9
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # or another answer
        return None


def place_files(
    wanted: Mapping[Path, Found],
    files: SourceFiles,
    *,
    copy: bool = False,
    replace: Callable[[Path], bool] = lambda _: False,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, list[Path]]:
    """Link, copy or extract files to where they belong; what is there already stays.

    Args:
        wanted: Target path -> file of the source.
        files: The source.
        copy: Copy what could be linked.
        replace: Whether a target that holds something else may be replaced.
        progress: Told after every file.

    Returns:
        The targets that were `already there`, `linked`, `copied` and `extracted`.

    Raises:
        DataError: If a target holds something else, or the disk has too little room.
    """
    done: dict[str, list[Path]] = {"already there": [], "linked": [], "copied": [], "extracted": []}
    todo: dict[Path, Found] = {}
    conflicts = []
    for target, found in wanted.items():
        if _is_there(target, found):
            done["already there"].append(target)
            progress()
        elif os.path.lexists(target) and not target.is_symlink() and not replace(target):
            size = target.stat().st_size
            conflicts.append(f"  {target} ({size:,} bytes; {found} has {found.size:,})")
        else:
            todo[target] = found
    if conflicts:
        shown = "\n".join(conflicts[:20])
        raise DataError(
            f"{len(conflicts)} files are already there with another content:\n{shown}\n"
            "Remove them, or prepare another HF_HOME (--hf-home)."
        )
    written = {t: f.size for t, f in todo.items() if copy or f.member is not None}
    _check_room(written)
    if todo:
        linked = sum(f.size for t, f in todo.items() if t not in written)
        logger.info(
            "{:,} files: {:.2f} GB to link, {:.2f} GB to write", len(todo), linked / 1e9,
            sum(written.values()) / 1e9,
        )  # fmt: skip
    members: dict[Path, dict[str, Path]] = {}
    for target, found in todo.items():
        if found.member is not None:
            target.unlink(missing_ok=True)
            members.setdefault(found.path, {})[found.member] = target
        else:
            done[_link_or_copy(found.path, target, copy=copy)].append(target)
            progress()
    for archive, targets in members.items():
        for target in files.extract(archive, targets):
            done["extracted"].append(target)
            progress()
    return done


def _allowed_roots(root: Path) -> list[Path]:
    """Where links may lead: the folder; in a hub cache, the repository's blobs."""
    resolved = root.resolve()
    folders = (resolved, *resolved.parents)
    return [resolved, *(f / "blobs" for f in folders if f.name.startswith("datasets--"))]


def _is_there(target: Path, found: Found) -> bool:
    if not target.is_file():
        return False
    if found.member is None and target.samefile(found.path):
        return True
    # A link's target is the user's own file; a copy has the name only once it is complete.
    return not target.is_symlink() and target.stat().st_size == found.size


def _check_room(sizes: Mapping[Path, int]) -> None:
    if not sizes:
        return
    folder = next(parent for parent in next(iter(sizes)).parents if parent.exists())
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{needed / 1e9:.1f} GB are to be written below {folder}, which has "
            f"{free / 1e9:.1f} GB free. Make room, use --hf-home on another disk, or unpack the "
            "archives yourself and link (without --copy)."
        )


def _link_or_copy(source: Path, target: Path, *, copy: bool) -> str:
    with write_atomically(target) as temporary:
        if copy:
            shutil.copyfile(source, temporary)
            return "copied"
        real = source.resolve(strict=True)
        try:
            os.link(real, temporary)
        except OSError:  # another disk, or a file system without hard links
            temporary.symlink_to(real)
    return "linked"


_Member = tuple[str, int, Callable[[], IO[bytes]]]


@contextmanager
def _members(parts: Sequence[Path]) -> Iterator[Iterator[_Member]]:
    """Regular files of an archive: name, size in bytes, and how to open it, in this order only."""
    if parts[0].name.lower().endswith(".zip"):
        with zipfile.ZipFile(parts[0]) as archive:
            yield (
                (info.filename, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]
                for info in archive.infolist()
                if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
            )
        return
    with (
        _Joined(parts) as joined,
        tarfile.open(fileobj=cast("IO[bytes]", joined), mode="r|*") as tar,
    ):
        yield (
            (member.name, member.size, lambda member=member: tar.extractfile(member))  # type: ignore[misc]
            for member in tar
            if member.isreg()
        )


class _Joined:
    """Several files read as one, once, as `tarfile` reads a stream.

    At their end `tarfile` goes on reading until it has skipped all that a member claims to hold,
    for minutes where a damaged header claims terabytes: asked so often, there is no more.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._read_beyond = 0

    def read(self, size: int) -> bytes:
        while len(self._files) > 1:
            block = self._files[0].read(size)
            if block:
                return block
            self._files.pop(0).close()
        block = self._files[0].read(size)
        self._read_beyond += not block
        if self._read_beyond > 1000:
            raise tarfile.ReadError("it ends before what its headers say that it holds")
        return block

    def __enter__(self) -> _Joined:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()
