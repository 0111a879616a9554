"""The journal: what is written is found again, and nothing else is."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loguru import logger

from longva_eval.errors import ResourceError, SettingsError
from longva_eval.files import check_writable
from longva_eval.running.journal import Journal, _line, journal_settings, settings_difference

SETTINGS = {"weights_fingerprint": "abc", "dtype": "float32", "frames": {"max_frames": 8}}


def key(number: int) -> dict[str, Any]:
    return {"task": "t", "document": number, "prompt": "digest"}


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


@pytest.fixture
def notices() -> Any:
    """What is logged as a warning."""
    found: list[str] = []
    sink = logger.add(lambda message: found.append(str(message)), level="WARNING")
    yield found
    logger.remove(sink)


def test_answers_are_found_by_the_next_run(tmp_path: Path) -> None:
    value = {"text": "Zürich\n\u2028 <|im_end|>", "min_margin": 0.1, "ids": [1, 2]}
    with Journal(tmp_path, SETTINGS) as first:
        first.put(key(0), value)
        assert first.get(key(0)) == value
        assert first.num_taken_over == 0
    with Journal(tmp_path, SETTINGS) as second:
        assert second.get(key(0)) == value
        assert second.get(key(1)) is None
        assert (len(second), second.num_taken_over, second.num_written) == (1, 1, 0)


@given(
    value=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda part: st.lists(part, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_json_comes_back_as_it_was(tmp_path: Path, value: dict[str, Any]) -> None:
    with Journal(tmp_path, SETTINGS, fresh=True) as journal:
        journal.put(key(0), value)
    with Journal(tmp_path, SETTINGS) as journal:
        assert journal.get(key(0)) == value


def test_each_answer_is_on_the_disk_before_put_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SETTINGS)
    for number in range(3):
        journal.put(key(number), {"text": str(number)})
        (path,) = files_in(tmp_path)
        assert len(path.read_bytes().splitlines()) == number + 2  # not only in a buffer


def test_a_torn_last_line_is_removed_with_a_notice(tmp_path: Path, notices: list[str]) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        for number in range(3):
            journal.put(key(number), {"text": "x" * 50})
    (path,) = files_in(tmp_path)
    # As left behind by a process that is no more.
    path = path.rename(path.with_name(path.name.replace(str(os.getpid()), "4000000")))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with Journal(tmp_path, SETTINGS) as journal:
        assert [journal.get(key(number)) is not None for number in range(3)] == [True, True, False]
    assert len(notices) == 1
    assert "was cut off after" in notices[0]
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])


@given(where=st.floats(0, 1), byte=st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_is_never_used(where: float, byte: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder), SETTINGS) as journal:
            for number in range(3):
                journal.put(key(number), {"text": f"answer {number}"})
        (path,) = files_in(Path(folder))
        data = bytearray(path.read_bytes())
        data[min(int(where * len(data)), len(data) - 1)] = byte
        path.write_bytes(bytes(data))
        with Journal(Path(folder), SETTINGS) as journal:
            for number in range(3):
                assert journal.get(key(number)) in (None, {"text": f"answer {number}"})


@given(data=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_files_of_anything_are_left_out(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Journal(Path(folder), SETTINGS) as journal:
            journal.put(key(0), {"text": "kept"})
        (path,) = files_in(Path(folder))
        header = path.read_bytes().splitlines(keepends=True)[0]
        path.with_name("other-1-0.jsonl").write_bytes(data)
        path.with_name("other-1-1.jsonl").write_bytes(header + data)
        with Journal(Path(folder), SETTINGS) as journal:
            assert journal.get(key(0)) == {"text": "kept"}
            assert len(journal) == 1


def test_a_damaged_line_in_the_middle_costs_its_own_answer(
    tmp_path: Path, notices: list[str]
) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        for number in range(3):
            journal.put(key(number), {"text": "right"})
    (path,) = files_in(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"right", b"wrong")
    path.write_bytes(b"".join(lines))
    with Journal(tmp_path, SETTINGS) as journal:
        assert [journal.get(key(number)) for number in range(3)] == [
            {"text": "right"}, None, {"text": "right"},
        ]  # fmt: skip
    assert "Line 3 of the journal" in notices[0]


def test_an_unfinished_journal_with_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(key(0), {"text": "A"})
    other = SETTINGS | {"dtype": "bfloat16", "frames": {"max_frames": 16}}
    with pytest.raises(SettingsError) as caught:
        Journal(tmp_path, other)
    assert "1 answers of an unfinished run" in str(caught.value)
    assert "dtype is float32 there and bfloat16 now" in str(caught.value)
    assert "frames.max_frames is 8 there and 16 now" in str(caught.value)
    assert "fresh=true" in str(caught.value)


EARLIER = (
    '{"crc":"32b668c6","host":"vm","journal":1,"pid":9179,"settings":{"dtype":"float32",'
    '"frames":{"max_frames":8},"weights_fingerprint":"abc"}}\n'
    '{"crc":"dbd96ca7","about":"Task t, document 0","key":"d40d9adfc29ffd7c96f5b08486a94dd2",'
    '"value":{"text":"A"}}\n'
    '{"crc":"4d89a78a","about":"Task t, document 1","key":"790461b2a092bd7815f4205160911ba8",'
    '"value":{"text":"B"}}\n'
)
"""Written by the journal as it was in commit d211184, with SETTINGS and these keys."""


def earlier_journal(folder: Path) -> Path:
    path = folder / "36f986b5b412de1b293981e6cee0bf66" / "vm-9179-0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(EARLIER)
    return path


def test_a_journal_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    earlier_journal(tmp_path)
    with Journal(tmp_path, SETTINGS) as journal:
        assert (journal.get(key(0)), journal.get(key(1))) == ({"text": "A"}, {"text": "B"})
        assert journal.num_taken_over == 2


def test_a_journal_in_another_format_is_refused_and_set_aside_on_demand(tmp_path: Path) -> None:
    path = earlier_journal(tmp_path)
    header = {"journal": 0, "settings": SETTINGS}
    path.write_bytes(_line(header) + EARLIER.partition("\n")[2].encode())
    with pytest.raises(SettingsError, match="is a journal in format 0, of another release of long"):
        Journal(tmp_path, SETTINGS)
    with pytest.raises(SettingsError, match=r"reads format 1\. Run it to its end with its own rel"):
        Journal(tmp_path, SETTINGS | {"dtype": "bfloat16"})  # in another folder of the same one
    written = path.read_bytes()
    with Journal(tmp_path, SETTINGS | {"dtype": "bfloat16"}, fresh=True) as journal:
        assert len(journal) == 0
    assert (path.parent.with_name(f"{path.parent.name}.1") / path.name).read_bytes() == written
    with Journal(tmp_path, SETTINGS) as journal:
        assert journal.get(key(0)) is None


def test_a_finished_journal_makes_room_for_other_settings(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(key(0), {"text": "A"})
        journal.finish()
    other = SETTINGS | {"dtype": "bfloat16"}
    with Journal(tmp_path, other) as journal:
        assert journal.get(key(0)) is None
    with Journal(tmp_path, SETTINGS) as journal:  # and is still there
        assert journal.get(key(0)) == {"text": "A"}


def test_starting_over_sets_aside_what_was_there(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(key(0), {"text": "A"})
    with Journal(tmp_path, SETTINGS | {"dtype": "bfloat16"}, fresh=True) as journal:
        assert len(journal) == 0
    with Journal(tmp_path, SETTINGS) as journal:
        assert journal.get(key(0)) is None
    assert any(b'"text":"A"' in path.read_bytes() for path in files_in(tmp_path))


def test_a_removed_journal_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", SETTINGS)
    journal.put(key(0), {"text": "A"})
    journal.finish(remove=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.process
def test_many_writers_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from longva_eval.running.journal import Journal\n"
        "with Journal(sys.argv[1], {'dtype': 'float32'}, leader=False) as journal:\n"
        "    for number in range(40):\n"
        "        journal.put({'document': number, 'by': sys.argv[2]}, {'text': sys.argv[2]})\n"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "abc"
    ]
    with Journal(tmp_path, {"dtype": "float32"}, leader=False) as own:
        threads = [
            threading.Thread(target=own.put, args=({"document": n, "by": "d"}, {"text": "d"}))
            for n in range(1)
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    with Journal(tmp_path, {"dtype": "float32"}) as journal:
        assert len(journal) == 121
        assert journal.get({"document": 39, "by": "c"}) == {"text": "c"}
    assert len(files_in(tmp_path)) == 4
    assert all(socket.gethostname()[:5].replace(".", "-") in p.name for p in files_in(tmp_path))


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"journal folder .*file/journal cannot be written"):
        Journal(tmp_path / "file" / "journal", SETTINGS)
    with pytest.raises(SettingsError, match=r"output_path folder .* Nothing was computed"):
        check_writable(tmp_path / "file", "output_path")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(key(0), {"text": "A"})
        kept, journal._descriptor = journal._descriptor, os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(ResourceError, match=r"No space left on device.*kept; make room"):
            journal.put(key(1), {"text": "B"})
        os.close(journal._descriptor)
        journal._descriptor = kept
    with Journal(tmp_path, SETTINGS) as again:
        assert again.get(key(0)) == {"text": "A"}
        assert again.get(key(1)) is None


def test_only_what_can_move_a_number_is_a_setting() -> None:
    described = {
        "checkpoint": "/here/model", "device": "cuda:3", "dtype": "bfloat16", "reuse": True,
        "versions": {"torch": "2.9"},
    }  # fmt: skip
    elsewhere = described | {"checkpoint": "/there/model", "device": "cuda:0", "reuse": False}
    assert journal_settings(described) == journal_settings(elsewhere)
    older = described | {"versions": {"torch": "2.8"}}
    assert (
        settings_difference(journal_settings(older), journal_settings(described))
        == "versions.torch is 2.8 there and 2.9 now"
    )


def test_a_journal_is_read_by_people_too(tmp_path: Path) -> None:
    with Journal(tmp_path, SETTINGS) as journal:
        journal.put(key(0), {"text": "A"}, about="Task videomme, document 0")
    (path,) = files_in(tmp_path)
    header, line = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert header["settings"] == SETTINGS
    assert line["about"] == "Task videomme, document 0"
    assert line["value"] == {"text": "A"}
