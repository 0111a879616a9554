"""Local copies of benchmarks: what is found, what is refused, and what runs offline after it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import OPEN
from PIL import Image

from longva_eval.cli import main
from longva_eval.errors import DataError
from longva_eval.local.dataset_cache import find_cached_splits, split_to_lay_out
from longva_eval.local.prepare import (
    Layout,
    PrepareReport,
    data_status,
    find_layouts,
    look_at_rows,
    prepare,
    read_layouts,
    read_prepared,
)
from longva_eval.local.rows import RowFile, open_row_file

VIDEO = OPEN / "inputs/landscape_320x180.mp4"
SUBTITLES = "1\n00:00:00,000 --> 00:00:02,000\nA red square.\n"
QUIZ = {
    "tasks": ["longva_quiz", "quiz"],
    "dataset": "some-lab/Video-Quiz",
    "config": "videos",
    "split": "test",
    "revision": "a" * 40,
    "num_rows": 6,
    "columns": ["duration", "question"],
    "unique": ["question_id"],
    "media": [
        {
            "kind": "video",
            "name": "{videoID}",
            "suffixes": [".mp4", ".MP4", ".mkv"],
            "folder": "quiz/data",
        },
        {
            "kind": "subtitle",
            "name": "{videoID}",
            "suffixes": [".srt"],
            "folder": "quiz/subtitle",
            "required": False,
        },
    ],
    "source": "https://example.org/quiz",
    "license": "CC0",
}
UTILS = """
from longva_eval.questions.documents import answer_letter, make_choice_doc, read_dataset

def process_docs(dataset):
    return read_dataset(dataset, read, task="Quiz", columns=("question", "answer"))

def read(row):
    options = row.get("options", ["a", "b"])
    return make_choice_doc(
        question_id=row["question_id"], video=row["videoID"], question=row["question"],
        options=options, answer=answer_letter(row["answer"], options), categories={},
    )
"""
PICTURES = {
    "tasks": ["longva_pictures"],
    "dataset": "some-lab/PictureQA",
    "config": None,
    "split": "validation",
    "revision": None,
    "num_rows": None,
    "columns": ["question"],
    "unique": ["questionId"],
    "images": ["image"],
    "media": [],
    "source": "https://example.org/pictures",
    "license": "CC0",
}


def layouts(tmp_path: Path, **entries: Any) -> dict[str, Layout]:
    folder = tmp_path / "tasks" / "some_task"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "longva_quiz.yaml").write_text(
        "task: longva_quiz\nprocess_docs: !function utils.process_docs\n"
    )
    (folder / "utils.py").write_text(UTILS)
    (folder / "layout.json").write_text(json.dumps(entries or {"quiz": QUIZ, "pictures": PICTURES}))
    return read_layouts(tmp_path / "tasks")


def rows(num_videos: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "videoID": f"clip_{video}",
            "question_id": f"{video:03d}-{question}",
            "duration": "short",
            "question": "What is shown?",
            "options": ["A. a cat", "B. a dog", "C. a cup", "D. a key"],
            "answer": "ABC"[question],
        }
        for video in range(num_videos)
        for question in range(3)
    ]


def make_copy(folder: Path, table: list[dict[str, Any]] | None = None) -> Path:
    """Rows as the hub has them, and two videos, one with subtitles."""
    (folder / "videos").mkdir(parents=True)
    (folder / "somewhere" / "deep").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows() if table is None else table),
        folder / "videos/test-00000-of-00001.parquet",
    )
    shutil.copy(VIDEO, folder / "somewhere/clip_0.mp4")
    shutil.copy(VIDEO, folder / "somewhere/deep/clip_1.MP4")
    (folder / "clip_0.srt").write_text(SUBTITLES)
    return folder


def lay_out(tmp_path: Path, source: Path, **options: Any) -> PrepareReport:
    name = options.pop("name", "quiz")
    known = options.pop("layouts", None) or layouts(tmp_path)
    return prepare(name, source, tmp_path / "hf", layouts=known, **options)


def table_file(folder: Path, table: list[dict[str, Any]]) -> RowFile:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return open_row_file(path, path.name)


def load_offline(hf_home: Path, *call: object) -> dict[str, Any]:
    """What `datasets` gives without a network, in a process of its own."""
    code = (
        "import datasets, json, sys\n"
        "call = json.loads(sys.argv[1])\n"
        "data = datasets.load_dataset(*call, token=True, revision='main')\n"
        "print(json.dumps({name: [{k: str(v) for k, v in row.items()} for row in split]"
        " for name, split in data.items()}))"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LMMS_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(call)],
        env={**environment, "HF_HOME": str(hf_home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


# ---- what is laid out ---------------------------------------------------------------------------


@pytest.mark.process
def test_a_prepared_copy_is_what_datasets_loads_without_a_network(tmp_path: Path) -> None:
    lay_out(tmp_path, make_copy(tmp_path / "copy"))
    by_config = load_offline(tmp_path / "hf", "some-lab/Video-Quiz", "videos")
    by_default = load_offline(tmp_path / "hf", "some-lab/Video-Quiz")
    assert by_config == by_default
    assert [row["question_id"] for row in by_config["test"]] == [r["question_id"] for r in rows()]
    assert by_config["test"][0]["options"] == str(rows()[0]["options"])


@pytest.mark.process
def test_splits_and_configurations_of_one_data_set_lie_side_by_side(tmp_path: Path) -> None:
    source = tmp_path / "copy"
    picture = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(picture, "PNG")
    for config, split in (("Docs", "test"), ("Docs", "validation"), ("Posters", "test")):
        (source / config).mkdir(parents=True, exist_ok=True)
        table = [
            {"questionId": f"{config}-{split}-{n}", "question": "?", "answers": ["x"],
             "image": {"bytes": picture.getvalue(), "path": None}}
            for n in range(2)
        ]  # fmt: skip
        pq.write_table(
            pa.Table.from_pylist(table), source / config / f"{split}-00000-of-00001.parquet"
        )
    entries = {
        f"{config}_{split}".lower(): PICTURES | {"config": config, "split": split}
        for config, split in (("Docs", "test"), ("Docs", "validation"), ("Posters", "test"))
    }
    known = layouts(tmp_path, **entries)
    for name in known:
        assert lay_out(tmp_path, source, name=name, layouts=known).num_rows == 2
    docs = load_offline(tmp_path / "hf", "some-lab/PictureQA", "Docs")
    assert {split: [row["questionId"] for row in data] for split, data in docs.items()} == {
        "test": ["Docs-test-0", "Docs-test-1"],
        "validation": ["Docs-validation-0", "Docs-validation-1"],
    }
    assert "PngImageFile" in docs["test"][0]["image"]  # a picture again, not bytes
    posters = load_offline(tmp_path / "hf", "some-lab/PictureQA", "Posters")
    assert [row["questionId"] for row in posters["test"]] == ["Posters-test-0", "Posters-test-1"]


def test_media_are_found_anywhere_and_linked_where_the_host_looks(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    report = lay_out(tmp_path, source)
    data = tmp_path / "hf/quiz/data"
    assert (data / "clip_0.mp4").samefile(source / "somewhere/clip_0.mp4")
    assert (data / "clip_1.MP4").samefile(source / "somewhere/deep/clip_1.MP4")
    assert (tmp_path / "hf/quiz/subtitle/clip_0.srt").read_text() == SUBTITLES
    videos, subtitles = report.media
    assert (videos.num_named, videos.num_found, videos.missing) == (2, 2, [])
    assert (subtitles.num_found, subtitles.missing) == (1, ["clip_1"])
    assert report.is_whole
    assert not report.needs_skipping
    assert report.placed == {"already there": 0, "linked": 3, "copied": 0, "extracted": 0}


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    lay_out(tmp_path, source, copy=True)
    placed = tmp_path / "hf/quiz/data/clip_0.mp4"
    assert not placed.samefile(source / "somewhere/clip_0.mp4")
    assert placed.read_bytes() == VIDEO.read_bytes()


def test_preparing_again_changes_nothing_and_adds_what_is_new(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "somewhere/deep/clip_1.MP4").rename(tmp_path / "later.MP4")
    first = lay_out(tmp_path, source, allow_missing=True)
    assert first.num_rows_with_media == 3
    (tmp_path / "later.MP4").rename(source / "clip_1.MP4")
    cache = tmp_path / "hf/datasets/some-lab___video-quiz/videos/0.0.0/longva_eval"
    before = (cache / "video-quiz-test.arrow").stat().st_mtime_ns
    second = lay_out(tmp_path, source)
    assert second.placed == {"already there": 2, "linked": 1, "copied": 0, "extracted": 0}
    assert second.is_whole
    assert (cache / "video-quiz-test.arrow").stat().st_mtime_ns == before
    assert lay_out(tmp_path, source).placed["already there"] == 3


def test_changed_rows_replace_those_that_were_laid_out(tmp_path: Path) -> None:
    known = layouts(tmp_path)
    lay_out(tmp_path, make_copy(tmp_path / "copy"), layouts=known)
    changed = [row | {"answer": "D"} for row in rows()]
    lay_out(tmp_path, make_copy(tmp_path / "newer", changed), layouts=known)
    (cached,) = find_cached_splits(tmp_path / "hf", known["quiz"])
    assert {row["answer"] for row in cached.rows(["answer"])} == {"D"}


@pytest.mark.parametrize("form", ["json", "json in an object", "jsonl", "csv"])
def test_rows_are_read_from_every_common_form(tmp_path: Path, form: str) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "videos/test-00000-of-00001.parquet").unlink()
    if form == "json":
        (source / "test.json").write_text(json.dumps(rows()))
    elif form == "json in an object":
        (source / "test.json").write_text(json.dumps({"version": 1, "data": rows()}))
    elif form == "jsonl":
        (source / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    else:
        lines = [f"{r['videoID']},{r['question_id']},short,q,{r['answer']},cat,dog" for r in rows()]
        lines = [line.replace(",C,", ",B,") for line in lines]
        header = "videoID,question_id,duration,question,answer,a0,a1"
        (source / "test.csv").write_text("\n".join([header, *lines]) + "\n")
    report = lay_out(tmp_path, source)
    assert report.num_rows == 6
    (cached,) = find_cached_splits(tmp_path / "hf", report.layout)
    # "000-1" stays a text, also in CSV.
    assert cached.rows(["question_id"]) == [{"question_id": r["question_id"]} for r in rows()]


def test_a_csv_column_becomes_numbers_only_if_no_cell_changes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,start,plain\n001,1.5,7\n012,2,8\n")
    table = open_row_file(path, "rows.csv").table
    assert table is not None
    assert table.to_pylist() == [
        {"id": "001", "start": 1.5, "plain": 7},
        {"id": "012", "start": 2.0, "plain": 8},
    ]
    path.write_text("id,start\n001,1.5,7\n")
    with pytest.raises(DataError, match=r"row 1 has more or fewer cells than the header"):
        open_row_file(path, "rows.csv")


# ---- archives -----------------------------------------------------------------------------------


def test_media_are_taken_out_of_zip_files_and_tar_files_in_parts(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    for path in source.rglob("clip_*"):
        path.unlink()
    with zipfile.ZipFile(source / "videos_chunked_01.zip", "w") as archive:
        archive.write(VIDEO, "data/clip_0.mp4")
        archive.writestr("__MACOSX/data/._clip_0.mp4", b"resource fork")
        archive.writestr("subtitle/clip_0.srt", SUBTITLES)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(VIDEO, "videos/clip_1.mp4")
    data = whole.getvalue()
    third = len(data) // 3
    for number, part in enumerate((data[:third], data[third : 2 * third], data[2 * third :])):
        (source / f"videos.tar.part.a{'abc'[number]}").write_bytes(part)
    report = lay_out(tmp_path, source)
    assert report.placed["extracted"] == 3
    for name in ("clip_0.mp4", "clip_1.mp4"):
        assert (tmp_path / "hf/quiz/data" / name).read_bytes() == VIDEO.read_bytes()
    assert lay_out(tmp_path, source).placed["already there"] == 3


def test_archive_members_that_lead_out_are_left_out(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "somewhere/clip_0.mp4").unlink()
    with tarfile.open(source / "evil.tar", "w") as tar:
        tar.add(VIDEO, "../../escaped/clip_0.mp4")
        link = tarfile.TarInfo("clip_0.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with zipfile.ZipFile(source / "evil.zip", "w") as archive:
        archive.writestr("/tmp/clip_0.mp4", b"absolute")
        info = zipfile.ZipInfo("clip_0.mkv")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"Missing video files, 1 of 2:\n  clip_0 "):
        lay_out(tmp_path, source)
    report = lay_out(tmp_path, source, allow_missing=True)
    assert report.num_rows_with_media == 3
    assert not (tmp_path / "escaped").exists()
    assert sorted(p.name for p in (tmp_path / "hf/quiz/data").iterdir()) == ["clip_1.MP4"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    path = source / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(source / "somewhere/clip_0.mp4", "clip_0.mp4")
    (source / "somewhere/clip_0.mp4").unlink()
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"v\.zip cannot be unpacked: Bad CRC-32.*fetch it again"):
        lay_out(tmp_path, source)
    assert not (tmp_path / "hf/quiz/data/clip_0.mp4").exists()


# ---- what is wrong ------------------------------------------------------------------------------


def test_everything_wrong_with_the_rows_is_said_at_once(tmp_path: Path) -> None:
    table = rows()
    table[1]["question_id"] = table[0]["question_id"]
    table[2]["options"] = []
    table[3]["answer"] = "E"
    table[4]["videoID"] = ""
    source = make_copy(tmp_path / "copy", table)
    with pytest.raises(DataError) as caught:
        lay_out(tmp_path, source, allow_missing=True)
    message = str(caught.value)
    file = "videos/test-00000-of-00001.parquet"
    assert f"Rows that cannot be asked:\n  Quiz: {file}: rows 0 and 1 have the same" in message
    assert "row 2: " in message
    assert "row 3: the answer 'E' is none of the options" in message
    assert "row 4: the video is ''" in message
    assert f"Rows that name no video:\n  {file} row 5 (question_id '001-1')" in message
    assert not (tmp_path / "hf/datasets").exists()


@pytest.mark.slow
def test_rows_are_checked_by_our_tasks_of_every_layout(tmp_path: Path) -> None:
    """Where a judge is needed for a run, none is to look at the rows."""
    for layout in read_layouts().values():
        table = [dict.fromkeys(layout.needed_columns, "") | dict.fromkeys(layout.images)]
        with split_to_lay_out(tmp_path, layout, [table_file(tmp_path, table)]) as split:
            assert look_at_rows(layout, split)[0], layout.name


def test_a_wrong_column_is_named_with_the_file_that_is_nearest(tmp_path: Path) -> None:
    table = [{("vid" if k == "videoID" else k): v for k, v in row.items()} for row in rows()]
    source = make_copy(tmp_path / "copy", table)
    with pytest.raises(
        DataError, match=r"Nearest is videos/test-.*, which lacks the column videoID and has vid,"
    ):
        lay_out(tmp_path, source)


def test_missing_videos_are_listed_by_name_and_refused(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy", rows(30))
    known = layouts(tmp_path, quiz=QUIZ | {"num_rows": 90})
    (source / "clip_7.mp4.part").write_bytes(b"half")
    with pytest.raises(DataError) as caught:
        lay_out(tmp_path, source, layouts=known)
    message = str(caught.value)
    assert "Missing video files, 28 of 30:" in message
    assert "clip_7 (its download is unfinished" in message
    assert "... and 8 more" in message
    assert "--allow-missing" in message
    listed = (tmp_path / "hf/longva_eval/prepared/quiz.missing.txt").read_text().splitlines()
    assert listed == [f"video: clip_{n}" for n in range(2, 30)]
    report = lay_out(tmp_path, source, layouts=known, allow_missing=True)
    assert report.num_rows_with_media == 6
    assert report.needs_skipping
    prepared = read_prepared("quiz", tmp_path / "hf")
    assert prepared is not None
    assert prepared["num_rows_with_media"] == 6
    assert prepared["ids"] == [row["question_id"] for row in rows(30)]
    assert not prepared["is_whole"]


def test_unreadable_media_are_named_with_the_reason(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "somewhere/clip_0.mp4").write_bytes(VIDEO.read_bytes()[:2000])
    (source / "clip_0.srt").write_text("")
    (source / "clip_1.srt").write_text("no times in here")
    with pytest.raises(DataError) as caught:
        lay_out(tmp_path, source)
    message = str(caught.value)
    assert "Unreadable video files:\n" in message
    assert "somewhere/clip_0.mp4" in message
    assert "clip_0.srt is empty (0 bytes)" in message
    assert "clip_1.srt holds no text" in message
    report = lay_out(tmp_path, source, allow_missing=True)
    assert report.num_rows_with_media == 3
    assert not (tmp_path / "hf/quiz/data/clip_0.mp4").exists()


def test_a_corrupt_video_in_an_archive_is_found_when_unpacked(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "somewhere/clip_0.mp4").unlink()
    with zipfile.ZipFile(source / "v.zip", "w") as archive:
        archive.writestr("clip_0.mp4", VIDEO.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"Unreadable video files:\n.*v\.zip!clip_0\.mp4"):
        lay_out(tmp_path, source)
    assert not (tmp_path / "hf/quiz/data/clip_0.mp4").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("../../up", "leads out of its folder"), ("/etc/passwd", "is an absolute path"),
     ("a\\b", "holds a backslash"), ("C:/x", "is an absolute path")],
)  # fmt: skip
def test_names_of_media_cannot_leave_their_folder(tmp_path: Path, name: str, reason: str) -> None:
    table = rows()
    table[0]["videoID"] = name
    with pytest.raises(DataError, match=f"Names of media that are not safe:\n.* row 1 .*{reason}"):
        lay_out(tmp_path, make_copy(tmp_path / "copy", table))


def test_links_out_of_the_folder_are_followed_only_when_asked(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    shutil.move(source / "somewhere/clip_0.mp4", tmp_path / "elsewhere.mp4")
    (source / "clip_0.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    with pytest.raises(DataError, match=r"clip_0 \(.*is a link out of the folder; --follow-links"):
        lay_out(tmp_path, source)
    lay_out(tmp_path, source, follow_links=True)
    assert (tmp_path / "hf/quiz/data/clip_0.mp4").read_bytes() == VIDEO.read_bytes()


def test_links_into_the_blobs_of_a_hub_cache_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "hub/datasets--some-lab--Video-Quiz"
    snapshot = make_copy(repository / "snapshots" / ("b" * 40))
    (repository / "blobs").mkdir()
    shutil.move(snapshot / "somewhere/clip_0.mp4", repository / "blobs/1234")
    (snapshot / "somewhere/clip_0.mp4").symlink_to("../../../blobs/1234")
    report = lay_out(tmp_path, snapshot)
    assert report.revision == "b" * 40
    assert any("published numbers and our checks are for aaaaaaaa" in w for w in report.warnings)


def test_a_link_within_the_target_folder_cannot_lead_out_of_it(tmp_path: Path) -> None:
    entry = QUIZ | {"media": [QUIZ["media"][0] | {"name": "sub/{videoID}"}]}  # type: ignore[index]
    source = make_copy(tmp_path / "copy")
    (tmp_path / "hf/quiz/data").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "hf/quiz/data/sub").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="is a link that leads out of"):
        lay_out(tmp_path, source, layouts=layouts(tmp_path, quiz=entry))
    assert list((tmp_path / "outside").iterdir()) == []


def test_another_file_of_the_same_name_is_no_stand_in(tmp_path: Path) -> None:
    """Two folders with a 1.mp4 each: the one that is missing is not taken from the other."""
    entry = QUIZ | {
        "media": [QUIZ["media"][0] | {"name": "{videoID}", "suffixes": []}]  # type: ignore[index]
    }
    table = rows()
    for number, row in enumerate(table):
        row["videoID"] = ("ego/1.mp4", "plot/1.mp4")[number // 3]
    source = make_copy(tmp_path / "copy", table)
    (source / "ego").mkdir()
    shutil.copy(VIDEO, source / "ego/1.mp4")
    with pytest.raises(DataError, match=r"Missing video files, 1 of 2:\n  plot/1\.mp4\n"):
        lay_out(tmp_path, source, layouts=layouts(tmp_path, quiz=entry))


def test_two_different_files_of_one_name_are_not_chosen_between(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    shutil.copy(OPEN / "inputs/portrait_180x320.mp4", source / "clip_0.mp4")
    with pytest.raises(DataError, match=r"several times with different content:\n  clip_0: "):
        lay_out(tmp_path, source)
    shutil.copy(VIDEO, source / "clip_0.mp4")  # the same content twice is no question
    assert lay_out(tmp_path, source).is_whole


def test_a_file_already_there_with_another_content_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "hf/quiz/data").mkdir(parents=True)
    (tmp_path / "hf/quiz/data/clip_0.mp4").write_bytes(b"the user's own")
    with pytest.raises(DataError, match="1 files are already there with another content"):
        lay_out(tmp_path, make_copy(tmp_path / "copy"))
    assert (tmp_path / "hf/quiz/data/clip_0.mp4").read_bytes() == b"the user's own"


def test_a_missing_shard_of_the_rows_is_named(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    (source / "videos/test-00000-of-00001.parquet").rename(
        source / "videos/test-00000-of-00003.parquet"
    )
    with pytest.raises(
        DataError, match=r"2 are missing; there are only videos/test-00000-of-00003\.parquet\."
    ):
        lay_out(tmp_path, source)


def test_several_files_that_fit_are_not_chosen_between(tmp_path: Path) -> None:
    source = make_copy(tmp_path / "copy")
    pq.write_table(pa.Table.from_pylist(rows()[:3]), source / "videos/test-small.parquet")
    with pytest.raises(DataError, match=r"Several files could hold the test rows(.|\n)*--rows"):
        lay_out(tmp_path, source)
    named = [source / "videos/test-00000-of-00001.parquet"]
    assert lay_out(tmp_path, source, row_files=named).is_whole


def test_unreadable_pictures_in_the_rows_are_named(tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(picture, "PNG")
    table = [
        {"questionId": n, "question": "?", "answers": ["x"], "image": {"bytes": data, "path": None}}
        for n, data in enumerate((picture.getvalue(), picture.getvalue()[:900], b"no picture"))
    ]
    source = tmp_path / "copy"
    source.mkdir()
    pq.write_table(pa.Table.from_pylist(table), source / "validation.parquet")
    with pytest.raises(DataError) as caught:
        lay_out(tmp_path, source, name="pictures")
    assert "row 2 (questionId 1), image: the picture cannot be read: " in str(caught.value)
    assert "row 3 (questionId 2), image: the picture is no picture that" in str(caught.value)
    assert "row 1" not in str(caught.value)


def test_too_few_rows_are_missing_and_too_many_are_wrong(tmp_path: Path) -> None:
    known = layouts(tmp_path)
    with pytest.raises(DataError, match="Rows: 3 of 6"):
        lay_out(tmp_path, make_copy(tmp_path / "few", rows(1)), layouts=known)
    with pytest.raises(DataError, match=r"9 rows in videos/test-.*has 6"):
        lay_out(tmp_path, make_copy(tmp_path / "many", rows(3)), layouts=known, allow_missing=True)


def test_the_status_tells_what_lies_in_hf_home(tmp_path: Path) -> None:
    layout = layouts(tmp_path)["quiz"]
    assert data_status(layout, tmp_path / "hf").state == "missing"
    lay_out(tmp_path, make_copy(tmp_path / "copy"))
    assert data_status(layout, tmp_path / "hf").state == "found"
    (tmp_path / "hf/quiz/data/clip_1.MP4").unlink()
    status = data_status(layout, tmp_path / "hf")
    assert (status.state, status.problem) == ("partly", "1 of 2 video files")


# ---- layouts and the command --------------------------------------------------------------------


def test_layouts_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"layout\.json: 'quiz': source: Field required"):
        layouts(tmp_path, quiz={k: v for k, v in QUIZ.items() if k != "source"})
    with pytest.raises(DataError, match="'quiz': colour: Unexpected keyword argument"):
        layouts(tmp_path, quiz=QUIZ | {"colour": "red"})
    bad = QUIZ | {"media": [QUIZ["media"][0] | {"folder": "../up"}]}  # type: ignore[index]
    with pytest.raises(DataError, match=r"'\.\./up' is not below HF_HOME"):
        layouts(tmp_path, quiz=bad)


def test_every_layout_of_ours_can_be_read_and_found_by_its_tasks() -> None:
    known = read_layouts()
    for layout in known.values():
        assert all(layout in find_layouts(task, known) for task in layout.tasks)
        assert layout.source.startswith("http")


def test_the_command_lists_what_can_be_prepared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--list"]) == 0
    shown = capsys.readouterr().out
    for name, layout in read_layouts().items():
        assert name in shown
        assert layout.source in shown


def test_the_command_says_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 1
    assert "name what to prepare and where its copy is" in capsys.readouterr().err
    assert main(["prepare", "nothing", "--from", "."]) == 1
    assert "no layout of local data called 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["longva_mini", "vniah_small"])
def test_tasks_that_come_with_their_data_need_none(
    task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", task, "--from", "."]) == 0
    assert f"{task} needs no data" in capsys.readouterr().out


def subset_of_egoschema(folder: Path, *, missing: int = 0) -> Path:
    """500 rows in EgoSchema's form; the videos are links to one file."""
    (folder / "Subset").mkdir(parents=True)
    table = [
        {"video_idx": f"uid-{n}", "question": "?", "option": ["A. a", "B. b"], "answer": str(n % 2)}
        for n in range(500)
    ]
    pq.write_table(pa.Table.from_pylist(table), folder / "Subset/test-00000-of-00001.parquet")
    for row in table[missing:]:
        (folder / f"{row['video_idx']}.mp4").hardlink_to(VIDEO)
    return folder


@pytest.mark.slow
def test_the_command_prepares_and_says_what_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, home = subset_of_egoschema(tmp_path / "copy"), tmp_path / "hf"
    call = ["prepare", "egoschema_subset", "--from", str(source), "--hf-home", str(home)]
    assert main([*call, "--no-check-media"]) == 0
    shown = capsys.readouterr().out
    assert "videos  500 of 500 in egoschema/videos" in shown
    assert "All of it is there." in shown
    assert f"HF_HUB_OFFLINE=1 HF_HOME={home} \\\n  lmms-eval --model longva " in shown
    assert "LongVA-7B --tasks longva_egoschema_subset\n" in shown
    assert main(["prepare", "longva_egoschema_subset", "--list", "--hf-home", str(home)]) == 0
    assert "egoschema_subset  500   videos  found" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_refuses_part_of_a_data_set_and_names_the_arguments_that_run_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = subset_of_egoschema(tmp_path / "copy", missing=30)
    call = ["prepare", "egoschema_subset", "--from", str(source), "--no-check-media"]
    call += ["--hf-home", str(tmp_path / "hf")]
    assert main(call) == 1
    assert "Missing video files, 30 of 500:\n  uid-0 (.mp4, .MP4)" in capsys.readouterr().err
    assert main([*call, "--allow-missing"]) == 0
    shown = capsys.readouterr().out
    assert "470 of 500 questions have their media" in shown
    assert "LongVA-7B,on_error=skip,max_failed=30 --tasks" in shown  # more than 5 %
