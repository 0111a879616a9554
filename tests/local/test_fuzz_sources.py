"""Copies of data sets with anything in them are laid out inside their folder, or refused."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fuzzing import JSON, TEXT, changed, damaged, dumps, fuzz, read_or_refused
from hypothesis import example, given
from hypothesis import strategies as st

from longva_eval.errors import DataError
from longva_eval.local.layouts import checked_name, read_layouts
from longva_eval.local.prepare import prepare
from longva_eval.local.sources import SourceFiles, place_files

_LAYOUT: dict[str, Any] = {
    "quiz": {
        "tasks": ["longva_quiz"],
        "dataset": "some-lab/Quiz",
        "config": None,
        "split": "test",
        "revision": None,
        "num_rows": None,
        "columns": ["question"],
        "unique": ["question_id"],
        "media": [
            {"kind": "subtitle", "name": "{videoID}", "suffixes": [".srt"], "folder": "quiz/data"}
        ],
        "source": "https://example.org/quiz",
        "license": "none",
    }
}
_ROW = {
    "videoID": "clip", "question_id": "1", "question": "What?",
    "options": ["A. a", "B. b"], "answer": "A",
}  # fmt: skip
_SRT = "1\n00:00:00,000 --> 00:00:02,000\nA red square.\n"


def _layout_folder(folder: Path, layout: Any) -> Path:
    (folder / "quiz").mkdir(parents=True, exist_ok=True)
    (folder / "quiz/layout.json").write_text(dumps(layout), encoding="utf-8")
    return folder


@pytest.mark.slow
@fuzz(150)
@given(layout=changed(_LAYOUT, 2) | st.dictionaries(TEXT, JSON, max_size=2) | JSON)
def test_a_layout_of_any_shape_is_read_or_refused(tmp_path: Path, layout: Any) -> None:
    folder = _layout_folder(tmp_path / "tasks", layout)
    known = read_or_refused(lambda: read_layouts(folder), DataError, "layout.json")
    for entry in (known or {}).values():
        for media in entry.media:
            assert checked_name(media.folder) is None


@pytest.mark.slow
@fuzz(100)
@given(rows=st.lists(changed(_ROW, 2), max_size=2) | JSON)
@example(rows=[_ROW | {"videoID": "../../../up"}])
@example(rows=[_ROW | {"videoID": "a b\né 日本"}])
@example(rows=[_ROW | {"\0": ["A. a", "B. b"]}])
def test_rows_of_any_shape_are_laid_out_or_refused(tmp_path: Path, rows: Any) -> None:
    source, hf_home = tmp_path / "copy", tmp_path / "hf"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(hf_home, ignore_errors=True)
    source.mkdir()
    (source / "clip.srt").write_text(_SRT)
    text = "".join(dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
    (source / "test.jsonl").write_text(text, encoding="utf-8")
    layouts = read_layouts(_layout_folder(tmp_path / "tasks", _LAYOUT))
    try:
        report = prepare("quiz", source, hf_home, allow_missing=True, layouts=layouts)
    except DataError:
        return
    assert report.num_rows >= 1
    _only_below(tmp_path, {"copy", "hf", "tasks"})


def _only_below(folder: Path, names: set[str]) -> None:
    assert {path.name for path in folder.iterdir()} <= names


# Archives -----------------------------------------------------------------------------------------

_MEMBERS = st.sampled_from(
    ["clip.srt", "../clip.srt", "/tmp/clip.srt", "a/../../clip.srt", "a/b/clip.srt", "..\\clip.srt",
     "C:\\clip.srt", "clip.srt/", "./clip.srt", "", ".", "a/" * 300 + "clip.srt", "é 日本\n.srt",
     "clip.srt\0x"]
)  # fmt: skip
_KINDS = st.sampled_from(["file", "link", "hard link", "device", "pipe", "folder"])
_TAR_TYPES = {
    "link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
    "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE, "file": tarfile.REGTYPE,
}  # fmt: skip


def _tar(path: Path, members: list[tuple[str, str]], *, claims: int) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, kind in members:
            info = tarfile.TarInfo(name.replace("\0", ""))
            info.type = _TAR_TYPES[kind]
            info.linkname = "/etc/passwd"
            info.size = len(_SRT) if kind == "file" else 0
            archive.addfile(info, io.BytesIO(_SRT.encode()) if kind == "file" else None)
        if claims:
            info = tarfile.TarInfo("huge.srt")
            info.size = claims
            archive.fileobj.write(info.tobuf())  # type: ignore[union-attr]  # no data follows


def _zip(path: Path, members: list[tuple[str, str]]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, kind in members:
            info = zipfile.ZipInfo(name.replace("\0", "_") or "x")
            if kind != "file":
                mode = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO}.get(kind, stat.S_IFREG)
                info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, "/etc/passwd" if kind == "link" else _SRT)


@pytest.mark.slow
@fuzz(120)
@given(
    members=st.lists(st.tuples(_MEMBERS, _KINDS), max_size=5),
    claims=st.sampled_from([0, 0, 0, 1 << 33]),
    form=st.sampled_from(["tar.gz", "zip"]),
    data=st.data(),
)
def test_nothing_that_an_archive_says_leaves_the_folder(
    tmp_path: Path, members: list[tuple[str, str]], claims: int, form: str, data: st.DataObject
) -> None:
    source, out = tmp_path / "copy", tmp_path / "out"
    for folder in (source, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    path = source / f"media.{form}"
    if form == "zip":
        _zip(path, list({name: (name, kind) for name, kind in members}.values()))
    else:
        _tar(path, members, claims=claims)
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    files = SourceFiles(source)
    target = out / "clip.srt"

    def unpack() -> None:
        files.open_archives()
        found = files.find(["clip.srt"], any_folder=True)
        place_files({target: found[0]} if found else {}, files)

    read_or_refused(unpack, DataError, "media.")
    assert list(out.iterdir()) in ([], [target])
    assert not target.is_symlink()
    _only_below(tmp_path, {"copy", "out"})


@pytest.mark.slow
def test_an_archive_that_unpacks_to_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "media.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2000):
            archive.writestr(f"clip_{number}.srt", bytes(1000))
    claimed = (3 << 30).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace((1000).to_bytes(4, "little"), claimed))
    files = SourceFiles(tmp_path)
    files.open_archives()
    wanted = {tmp_path / "out" / name: found[0] for name, found in files.by_name.items()}
    with pytest.raises(DataError, match=r"GB are to be written below .* GB free\. Make room"):
        place_files(wanted, files)
    assert not (tmp_path / "out").exists()


def test_an_archive_that_claims_more_than_it_holds_is_refused_at_once(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "media.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("huge.srt")
        info.size = 1 << 60  # skipped in blocks of 10 kB, this takes years
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
    files = SourceFiles(tmp_path)
    files.open_archives()
    (warning,) = files.warnings
    assert re.search(r"media\.tar\.gz cannot be read .* ends before what its headers say", warning)


def test_a_member_that_is_longer_than_announced_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "media.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("clip.srt", bytes(1 << 20))
    content = path.read_bytes()
    real, said = (1 << 20).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    path.write_bytes(content.replace(real, said))
    files = SourceFiles(tmp_path)
    files.open_archives()
    (found,) = files.find(["clip.srt"], any_folder=True)
    assert found.size == 1000
    with pytest.raises(DataError, match=r"clip\.srt"):
        place_files({tmp_path / "out/clip.srt": found}, files)
    assert not (tmp_path / "out/clip.srt").exists()


def test_deep_folders_and_nested_archives_end(tmp_path: Path) -> None:
    inner = b""
    for _ in range(20):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("again.zip", inner)
        inner = buffer.getvalue()
    (tmp_path / "nested.zip").write_bytes(inner)
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):  # deeper than a path may be long
        os.mkdir("folder-name", dir_fd=here)
        there = os.open("folder-name", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)
    files = SourceFiles(tmp_path)
    files.open_archives()
    assert [str(found.location) for found in files.find(["again.zip"], any_folder=True)] == [
        "again.zip"
    ]
    shutil.rmtree(tmp_path / "folder-name")


@fuzz(150)
@given(name=TEXT | st.text(max_size=30) | _MEMBERS)
def test_a_name_that_is_accepted_stays_in_its_folder(name: str) -> None:
    if checked_name(name) is None:
        root = Path("/data/media")
        target = Path(os.path.normpath(root / name))
        assert target.is_relative_to(root)
        assert json.loads(json.dumps(name)) == name


def test_a_gzip_header_that_is_cut_off_is_told(tmp_path: Path) -> None:
    (tmp_path / "clips.tar.gz").write_bytes(b"\x1f\x8b\x08")
    files = SourceFiles(tmp_path, follow_links=False)
    files.open_archives()
    assert "clips.tar.gz cannot be read as an archive" in files.warnings[0]
