"""Finding media by name in somebody's folder, archives included, and putting them into place.

A data set's rows name their videos; where those lie on a disk is anybody's choice. So everything
below the folder is looked through by name. Nothing is ever written under a name that an archive
gives: a member is copied to the path we chose, links and special files in archives are no
candidates, and symbolic links out of the folder are not followed unless asked. No torch.
"""

from __future__ import annotations

import bisect
import io
import lzma
import os
import re
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from longva_eval.errors import DataError

__all__ = [
    "ARCHIVE_ERRORS",
    "Found",
    "SourceFiles",
    "checked_name",
    "hub_revision",
    "open_found",
    "place_files",
    "write_atomically",
]

_UNFINISHED = (".incomplete", ".part", ".crdownload", ".tmp", ".ytdl", ".aria2", ".lock")
_TAR_NAME = re.compile(r"\.(tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_TAR_PART = re.compile(
    r"^(?P<base>.+\.tar(\.gz|\.bz2|\.xz)?)[._-]?(part[._-]?)?(?P<part>[a-z]{1,3}|\d{1,4})$",
    re.IGNORECASE,
)
_ZIP_PART = re.compile(r"\.(z\d\d|zip\.\d{2,4})$", re.IGNORECASE)
_MAX_MEMBERS = 5_000_000
_MAX_MEMBER_BYTES = 64 << 30
_MAX_RATIO = 200
"""Uncompressed over compressed. Videos do not compress, subtitles about fivefold."""
_RATIO_COUNTS_FROM = 64 << 20
_BLOCK_BYTES = 1 << 20
ARCHIVE_ERRORS: Final = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error,
    lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
"""What the standard library raises for archives that are damaged, encrypted, or of another kind."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of the source, on disk or in an archive."""

    path: Path
    """The file, or the archive (the first part of one that is split) it is a member of."""
    member: str | None = None
    """Its name within the archive."""
    location: PurePosixPath
    """Where it lies below the source, or within the archive."""
    size: int
    """In bytes, uncompressed."""

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}!{self.member}"


@dataclass
class SourceFiles:
    """Everything below a folder, by name."""

    root: Path
    follow_links: bool = False
    """Whether symbolic links may lead out of the folder."""
    by_name: dict[str, list[Found]] = field(default_factory=dict, init=False)
    unfinished: dict[str, Path] = field(default_factory=dict, init=False)
    """Files that a download left behind, by the name they were to have."""
    outside: dict[str, Path] = field(default_factory=dict, init=False)
    """Links that were not followed, since they lead out of the folder, by name."""
    warnings: list[str] = field(default_factory=list, init=False)
    _archives: list[tuple[Path, ...]] = field(default_factory=list, init=False)
    _opened_archives: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise DataError(f"The folder {self.root} {what}; --from names the folder of the data.")
        self._look()

    def files(self) -> Iterator[Found]:
        """All files on disk, and the members of archives once those were looked into."""
        for group in self.by_name.values():
            yield from group

    def find(self, name: str, suffixes: Sequence[str], *, any_folder: bool) -> list[Found]:
        """Candidates for a file that a row names.

        Args:
            name: As the row has it; `/` separates folders.
            suffixes: Tried in order; the first that is there is taken. A name that already ends
                with one of them is taken as it is.
            any_folder: Whether a file in another folder than the name says will do.

        Returns:
            Those that agree with the name in most folders; several if they are equally good.
        """
        for spelled in spellings(name, suffixes):
            wanted = PurePosixPath(spelled)
            found = [
                (self._agreement(item.location, wanted), item.member is None, item)
                for item in self.by_name.get(wanted.name, [])
            ]
            if not any_folder:
                found = [entry for entry in found if entry[0] == len(wanted.parts)]
            if found:
                best = max(entry[:2] for entry in found)
                return [item for *rank, item in found if tuple(rank) == best]
        return []

    def open_archives(self) -> None:
        """Add the members of zip and tar archives; called when something was not found on disk."""
        if self._opened_archives:
            return
        self._opened_archives = True
        for parts in self._archives:
            try:
                members = list(_members(parts))
            except ARCHIVE_ERRORS as error:
                self.warnings.append(f"{parts[0]} cannot be read as an archive: {error}.")
                continue
            unsafe = 0
            for name, size in members:
                location = PurePosixPath(name.replace("\\", "/"))
                if location.is_absolute() or ".." in location.parts:
                    unsafe += 1
                elif not _is_junk(location.name):
                    self._add(Found(path=parts[0], member=name, location=location, size=size))
            if unsafe:
                self.warnings.append(
                    f"{parts[0]}: {unsafe} members whose names lead out of the archive's folder "
                    "were left out."
                )

    def parts(self, archive: Path) -> tuple[Path, ...]:
        """The files that make up an archive, in order."""
        return next((parts for parts in self._archives if parts[0] == archive), (archive,))

    def _look(self) -> None:
        allowed = _allowed_roots(self.root)
        seen: set[tuple[int, int]] = set()
        split: dict[Path, list[tuple[str, Path]]] = {}
        walk = os.walk(self.root, onerror=self._cannot_enter, followlinks=self.follow_links)
        for folder, folders, files in walk:
            here = Path(folder)
            if self.follow_links:  # a link to a parent would go round for ever
                status = here.stat()
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
            else:
                for name in folders:
                    if _is_link(here / name):
                        self.warnings.append(
                            f"{here / name} is a link to another folder and was not followed; "
                            "name that folder, or use --follow-links."
                        )
            folders[:] = sorted(name for name in folders if name not in (".git", ".cache"))
            for name in sorted(files):
                path = here / name
                stem = name.removesuffix(next((s for s in _UNFINISHED if name.endswith(s)), ""))
                if stem != name:
                    self.unfinished.setdefault(stem, path)
                    continue
                if _is_junk(name):
                    continue
                try:
                    if path.is_symlink() and not self.follow_links:
                        target = path.resolve(strict=True)
                        if not any(target.is_relative_to(root) for root in allowed):
                            self.outside[name] = path
                            continue
                    status = path.stat()
                except OSError:
                    self.warnings.append(f"{path} is a link to something that is not there.")
                    continue
                if not stat.S_ISREG(status.st_mode):
                    continue
                location = PurePosixPath(path.relative_to(self.root).as_posix())
                self._add(Found(path=path, location=location, size=status.st_size))
                part = _TAR_PART.match(name)
                if name.lower().endswith(".zip") or _TAR_NAME.search(name):
                    self._archives.append((path,))
                elif part is not None:
                    split.setdefault(here / part["base"], []).append((part["part"], path))
                elif _ZIP_PART.search(name):
                    self.warnings.append(
                        f"{path} is part of a split zip, which cannot be read in parts; join it: "
                        f"zip -s 0 {re.split(r'[.]z', name)[0]}.zip --out joined.zip"
                    )
        for parts in split.values():
            ordered = sorted(parts, key=lambda p: (len(p[0]), p[0].lower()))
            self._archives.append(tuple(path for _, path in ordered))

    def _cannot_enter(self, error: OSError) -> None:
        self.warnings.append(f"{error.filename!s:.200} cannot be entered: {error.strerror}.")

    def _add(self, found: Found) -> None:
        self.by_name.setdefault(found.location.name, []).append(found)

    @staticmethod
    def _agreement(location: PurePosixPath, wanted: PurePosixPath) -> int:
        count = 0
        for mine, theirs in zip(reversed(location.parts), reversed(wanted.parts), strict=False):
            if mine != theirs:
                break
            count += 1
        return count


def spellings(name: str, suffixes: Sequence[str]) -> list[str]:
    """The file names a row's name can stand for, best first."""
    if not suffixes or any(suffix and name.lower().endswith(suffix.lower()) for suffix in suffixes):
        return [name]
    return [name + suffix for suffix in suffixes]


def checked_name(name: str) -> str | None:
    """What is wrong with a name that a row gives to a file, or None.

    It becomes a path below a folder of ours and must not lead out of it.
    """
    parts = PurePosixPath(name).parts
    if not name.strip():
        return "is empty"
    if "\0" in name or "\\" in name:
        return "holds a backslash or a zero byte"
    if name.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", name):
        return "is an absolute path"
    if ".." in parts:
        return "leads out of its folder (..)"
    return None


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


@contextmanager
def open_found(found: Found, files: SourceFiles) -> Iterator[IO[bytes]]:
    """Read a file of the source, wherever it lies."""
    if found.member is None:
        with found.path.open("rb") as stream:
            yield stream
        return
    parts = files.parts(found.path)
    with _open_archive(parts) as archive:
        if isinstance(archive, zipfile.ZipFile):
            with archive.open(found.member) as stream:
                yield stream
        else:
            stream_or_none = archive.extractfile(found.member)
            if stream_or_none is None:
                raise DataError(f"{found} is not a regular file.")
            yield stream_or_none


def place_files(
    wanted: Mapping[Path, Found],
    files: SourceFiles,
    *,
    copy: bool = False,
    replace: Callable[[Path], bool] = lambda _: False,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, int]:
    """Link, copy or extract files to where they belong; what is there already stays.

    Args:
        wanted: Target path -> file of the source.
        files: The source.
        copy: Copy what could be linked.
        replace: Whether a target that holds something else may be replaced.
        progress: Told after every file, with 1.

    Returns:
        How many were already there, linked, copied and extracted.

    Raises:
        DataError: If a target holds something else, or the disk has too little room.
    """
    counts = {"already there": 0, "linked": 0, "copied": 0, "extracted": 0}
    todo: dict[Path, Found] = {}
    conflicts = []
    for target, found in wanted.items():
        if _is_there(target, found):
            counts["already there"] += 1
            progress(1)
        elif os.path.lexists(target) and not target.is_symlink() and not replace(target):
            conflicts.append(
                f"  {target} ({target.stat().st_size:,} bytes; {found} has {found.size:,})"
            )
        else:
            todo[target] = found
    if conflicts:
        shown = "\n".join(conflicts[:20])
        raise DataError(
            f"{len(conflicts)} files are already there with another content:\n{shown}\n"
            "Remove them, or prepare another HF_HOME (--hf-home)."
        )
    _check_room(todo, copy=copy)
    by_archive: dict[Path, list[tuple[Path, Found]]] = {}
    for target, found in todo.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.member is not None:
            by_archive.setdefault(found.path, []).append((target, found))
            continue
        counts[_link_or_copy(found.path, target, copy=copy)] += 1
        progress(1)
    for path, entries in by_archive.items():
        _extract(files.parts(path), entries, progress)
        counts["extracted"] += len(entries)
    return counts


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the name when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _is_junk(name: str) -> bool:
    """Files that macOS and Windows leave in folders and archives."""
    return name.startswith("._") or name in (".DS_Store", "Thumbs.db", "desktop.ini")


def _allowed_roots(root: Path) -> list[Path]:
    """Where links may lead: the folder; in a hub cache, the repository's blobs."""
    resolved = root.resolve()
    roots = [resolved]
    for folder in (resolved, *resolved.parents):
        if folder.name.startswith("datasets--") and (folder / "blobs").is_dir():
            roots.append(folder / "blobs")
    return roots


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except OSError:  # its path is too long; going into it fails and is noted
        return False


def _is_there(target: Path, found: Found) -> bool:
    if not target.is_file():
        return False
    if found.member is None and target.samefile(found.path):
        return True
    # A link's target is the user's own file; a copy has the name only once it is complete.
    return not target.is_symlink() and target.stat().st_size == found.size


def _check_room(todo: Mapping[Path, Found], *, copy: bool) -> None:
    needed = sum(f.size for f in todo.values() if copy or f.member is not None)
    if not needed:
        return
    folder = next(p for p in next(iter(todo)).parents if p.exists())
    free = shutil.disk_usage(folder).free
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


def _extract(
    parts: tuple[Path, ...], entries: list[tuple[Path, Found]], progress: Callable[[int], None]
) -> None:
    try:
        with _open_archive(parts) as archive:
            _extract_from(archive, entries, progress)
    except ARCHIVE_ERRORS as error:
        raise DataError(
            f"{parts[0]} cannot be unpacked: {error}. If it is damaged, fetch it again."
        ) from error


def _extract_from(
    archive: zipfile.ZipFile | tarfile.TarFile,
    entries: list[tuple[Path, Found]],
    progress: Callable[[int], None],
) -> None:
    if isinstance(archive, zipfile.ZipFile):
        for target, found in entries:
            with archive.open(str(found.member)) as stream:
                _copy_member(stream, target, found)
            progress(1)
        return
    by_member = {str(found.member): (target, found) for target, found in entries}
    for member in archive:  # in one pass: a compressed tar cannot seek
        entry = by_member.pop(member.name, None) if member.isreg() else None
        if entry is not None:
            opened = archive.extractfile(member)
            assert opened is not None  # a regular file
            _copy_member(opened, *entry)
            progress(1)
        if not by_member:
            break


def _copy_member(stream: IO[bytes], target: Path, found: Found) -> None:
    """Copy to a name of our choice, never more bytes than were announced."""
    with write_atomically(target) as temporary, temporary.open("wb") as out:
        left = found.size
        while block := stream.read(min(_BLOCK_BYTES, left + 1)):
            left -= len(block)
            if left < 0:
                raise DataError(f"{found} is longer than its archive says; it was not unpacked.")
            out.write(block)
        if left:
            raise DataError(f"{found} ends {left:,} bytes early; fetch the archive again.")


def _members(parts: tuple[Path, ...]) -> Iterator[tuple[str, int]]:
    """Regular files of an archive, with their sizes.

    Raises:
        DataError: If it is a decompression bomb by its own account.
    """
    packed = sum(part.stat().st_size for part in parts)
    limit = _MAX_RATIO * packed + _RATIO_COUNTS_FROM
    with _open_archive(parts) as archive:
        if isinstance(archive, zipfile.ZipFile):
            listed = [
                (info.filename, info.file_size)
                for info in archive.infolist()
                if not info.is_dir()
                and not stat.S_ISLNK(info.external_attr >> 16)
                and not info.flag_bits & 1  # encrypted
            ]
            _check_size(parts[0], listed, sum(size for _, size in listed), limit)
            yield from listed
            return
        for count, member in enumerate(archive, 1):
            if member.isreg():
                end = member.offset_data + member.size
                _check_size(parts[0], [(member.name, member.size)], end, limit, count)
                yield member.name, member.size


def _check_size(
    path: Path, listed: Sequence[tuple[str, int]], total: int, limit: int, count: int = 0
) -> None:
    largest = max((size for _, size in listed), default=0)
    if max(len(listed), count) > _MAX_MEMBERS or total > limit or largest > _MAX_MEMBER_BYTES:
        raise DataError(
            f"{path} says it unpacks to {total / 1e9:.1f} GB, which is more than "
            f"{_MAX_RATIO} times its size, or to more than {_MAX_MEMBERS:,} files: no collection "
            "of videos does. It was not unpacked; if you trust it, unpack it yourself."
        )


def _open_archive(
    parts: tuple[Path, ...],
) -> AbstractContextManager[zipfile.ZipFile | tarfile.TarFile]:
    if parts[0].name.lower().endswith(".zip"):
        return zipfile.ZipFile(parts[0])
    if len(parts) == 1 and _TAR_NAME.search(parts[0].name):
        return tarfile.open(parts[0], "r:*")
    return tarfile.open(fileobj=io.BufferedReader(_Joined(parts), _BLOCK_BYTES), mode="r:*")


class _Joined(io.RawIOBase):
    """Several files read as one."""

    def __init__(self, parts: Iterable[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + os.fstat(file.fileno()).st_size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect.bisect_right(self._starts, self._position) - 1
        if number >= len(self._files):
            return 0
        file = self._files[number]
        file.seek(self._position - self._starts[number])
        block = file.read(len(buffer))
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
