"""Visual tokens: computed once, read ahead, let go after their last use, kept on disk."""

from __future__ import annotations

import functools
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import OPEN, Golden
from loguru import logger
from PIL import Image
from safetensors.torch import save_file

from longva_eval.engine.encoder import VisualEncoder
from longva_eval.engine.feature_cache import FeatureCache
from longva_eval.engine.generation import Generation, GenerationSettings
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.decode import Frames, read_frames
from longva_eval.media.frames import FramePolicy, FrameSample
from longva_eval.media.probe import VideoInfo, probe_video
from longva_eval.media.sources import FrameStack, ReadFrames, VideoFrames
from longva_eval.prompts.pieces import VisualPiece

LANDSCAPE = OPEN / "inputs/landscape_320x180.mp4"
PORTRAIT = OPEN / "inputs/portrait_180x320.mp4"
SHORT = GenerationSettings(max_new_tokens=16)


class CountingReader:
    """`read_frames`, noting what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int]]] = []

    def __call__(
        self, info: VideoInfo, indices: Sequence[int], *, backend: str = "auto"
    ) -> Iterator[Frames]:
        self.asked.append((info.path.name, list(indices)))
        yield from read_frames(info, indices, backend="decord")


def pieces_of(golden: Golden, reader: ReadFrames, path: Path, *indices: int) -> list[VisualPiece]:
    sample = FrameSample(
        indices=indices, timestamps_seconds=(), num_frames_asked=len(indices), num_frames_total=180
    )
    video = VideoFrames(info=probe_video(path), sample=sample, read=reader)
    return golden.session.vision.pieces(video)


@pytest.mark.slow
def test_a_piece_is_computed_once(open_golden: Golden) -> None:
    reader = CountingReader()
    encoder = VisualEncoder(open_golden.session.vision, keep_all=True)
    pieces = pieces_of(open_golden, reader, LANDSCAPE, 0, 5, 9)
    first = encoder.encode(pieces)
    again = encoder.encode([pieces[2], pieces[0], pieces[2]])
    assert encoder.num_encoded == 3
    torch.testing.assert_close(again, [first[2], first[0], first[2]], atol=0, rtol=0)


def test_all_prompts_on_a_video_read_it_in_one_pass(open_golden: Golden) -> None:
    reader = CountingReader()
    encoder = VisualEncoder(open_golden.session.vision)
    asked = [
        pieces_of(open_golden, reader, LANDSCAPE, 0, 60, 120),
        pieces_of(open_golden, reader, PORTRAIT, 3),
        pieces_of(open_golden, reader, LANDSCAPE, 0, 30, 60, 90),
    ]
    encoder.expect(asked)
    for pieces in asked:
        assert len(encoder.encode(pieces)) == len(pieces)
    encoder.stop()
    assert reader.asked == [(LANDSCAPE.name, [0, 30, 60, 90, 120]), (PORTRAIT.name, [3])]
    assert encoder.num_passes == 2
    assert encoder.num_encoded == 6


def test_tokens_are_let_go_after_their_last_use(open_golden: Golden) -> None:
    reader = CountingReader()
    encoder = VisualEncoder(open_golden.session.vision)
    shared = pieces_of(open_golden, reader, LANDSCAPE, 0, 1)
    last = pieces_of(open_golden, reader, LANDSCAPE, 1, 2)
    encoder.expect([shared, last])
    encoder.encode(shared)
    assert set(encoder._kept) >= {shared[1].key}
    assert shared[0].key not in encoder._kept
    encoder.encode(last)
    encoder.stop()
    assert encoder._kept == {}
    assert encoder._kept_bytes == 0


@pytest.mark.slow
def test_a_bound_on_memory_costs_work_not_answers(open_golden: Golden) -> None:
    reader = CountingReader()
    pieces = pieces_of(open_golden, reader, LANDSCAPE, *range(6))
    plain = VisualEncoder(open_golden.session.vision, keep_all=True).encode(pieces)
    piece_bytes = plain[0].numel() * 4
    tight = VisualEncoder(open_golden.session.vision, keep_all=True, keep_bytes=2 * piece_bytes)
    tight.expect([pieces, pieces])
    for _ in range(2):
        torch.testing.assert_close(tight.encode(pieces), plain, atol=1e-6, rtol=0)
        assert tight._kept_bytes <= 2 * piece_bytes
    tight.stop()
    assert tight.num_encoded > 6


@pytest.mark.parametrize("cores", [1, 3])
def test_a_broken_video_fails_where_it_is_asked_for(open_golden: Golden, cores: int) -> None:
    def read(info: VideoInfo, indices: Sequence[int], *, backend: str) -> Iterator[Frames]:
        if info.path == PORTRAIT:
            raise MediaError("portrait cannot be decoded")
        yield from read_frames(info, indices, backend="decord")

    good, bad = (pieces_of(open_golden, read, path, 4, 5) for path in (LANDSCAPE, PORTRAIT))
    encoder = VisualEncoder(open_golden.session.vision, cores=cores)
    encoder.expect([bad, good, bad])
    for _ in range(2):
        with pytest.raises(MediaError, match="portrait cannot be decoded"):
            encoder.encode(bad)
    assert len(encoder.encode(good)) == 2
    encoder.stop()


def test_several_videos_at_once_change_nothing_but_the_time(open_golden: Golden) -> None:
    """The second video is read although the first one does not come to its end."""
    both = threading.Barrier(2, timeout=20)

    def read(info: VideoInfo, indices: Sequence[int], *, backend: str) -> Iterator[Frames]:
        both.wait()
        yield from read_frames(info, indices)

    def asked(read: ReadFrames) -> list[list[VisualPiece]]:
        return [pieces_of(open_golden, read, path, *range(20)) for path in (LANDSCAPE, PORTRAIT)]

    one = VisualEncoder(open_golden.session.vision)
    several = VisualEncoder(open_golden.session.vision, cores=32, bytes_ahead=1)
    one.expect(asked(read_frames))
    several.expect(asked(read))
    for first, second in zip(asked(read_frames), asked(read), strict=True):
        torch.testing.assert_close(several.encode(second), one.encode(first), atol=0, rtol=0)
    for encoder in (one, several):
        encoder.stop()


@pytest.mark.slow
def test_stopping_early_leaves_no_thread(open_golden: Golden) -> None:
    reader = CountingReader()
    encoder = VisualEncoder(open_golden.session.vision, bytes_ahead=1)
    encoder.expect([pieces_of(open_golden, reader, LANDSCAPE, *range(180))])
    encoder.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "decode-ahead"]


def test_unexpected_errors_of_the_reading_thread_arrive(open_golden: Golden) -> None:
    def broken(*arguments: object, **more: object) -> Iterator[Frames]:
        raise ZeroDivisionError("a bug")
        yield

    pieces = pieces_of(open_golden, broken, LANDSCAPE, 0)
    encoder = VisualEncoder(open_golden.session.vision)
    encoder.expect([pieces])
    with pytest.raises(ZeroDivisionError, match="a bug"):
        encoder.encode(pieces)
    encoder.stop()


@pytest.mark.slow
def test_a_frame_sweep_decodes_each_video_once(open_golden: Golden) -> None:
    session = open_golden.session_for({})
    reader = CountingReader()
    session.read = reader
    try:
        prompts = []
        for count in (2, 4, 8, 16):
            session.frames = FramePolicy(max_frames=count)
            prompts.append(session.prompt("What happens?", [LANDSCAPE]))
        before = session.encoder.num_encoded
        together = session.generate(prompts, SHORT)
        distinct = {index for prompt in prompts for index in prompt.frames[0].indices}
        assert [name for name, _ in reader.asked] == [LANDSCAPE.name]
        assert session.encoder.num_encoded - before == len(distinct)
        for prompt, answer in zip(prompts, together, strict=True):
            (alone,) = session.generate([prompt], SHORT)
            assert isinstance(answer, Generation)
            assert isinstance(alone, Generation)
            assert answer.token_ids == alone.token_ids
    finally:
        session.read = read_frames


def test_prompts_on_one_video_share_its_pieces(
    open_golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_golden.session
    monkeypatch.setattr(session, "probe", functools.cache(probe_video))
    first, second = (session.visual(LANDSCAPE) for _ in range(2))
    assert all(one is two for one, two in zip(first[0], second[0], strict=True))
    assert first[1] is second[1]
    monkeypatch.setattr(session.vision, "pool_stride", 4)
    assert session.visual(LANDSCAPE)[0][0].num_tokens < first[0][0].num_tokens
    monkeypatch.setattr(session, "frames", FramePolicy(max_frames=3))
    assert len(session.visual(LANDSCAPE)[0]) == 3
    assert session.visual(PORTRAIT)[0][0].source.info.path == PORTRAIT


def test_frames_of_a_stack_are_told_apart_by_content(open_golden: Golden) -> None:
    pictures = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue", "red")]
    pieces = open_golden.session.vision.pieces(FrameStack(pictures=tuple(pictures)))
    assert pieces[0].key == pieces[2].key != pieces[1].key
    encoder = VisualEncoder(open_golden.session.vision)
    tokens = encoder.encode(pieces)
    assert encoder.num_encoded == 2
    assert not torch.equal(tokens[0], tokens[1])
    (again,) = open_golden.session.vision.pieces(FrameStack(pictures=(pictures[0].copy(),)))
    other = open_golden.session.vision.pieces(FrameStack(pictures=(pictures[1],)))[0]
    alone = open_golden.session.vision.pieces(FrameStack(pictures=(pictures[0],)))[0]
    assert again.source.media_key == alone.source.media_key != other.source.media_key


# --- on disk -----------------------------------------------------------------------------------


def with_cache(folder: Path) -> Session:
    return open_session(
        OPEN / "longva_tiny",
        device="cpu",
        dtype="float32",
        frames=FramePolicy(max_frames=3),
        feature_cache=folder,
        decode_process=False,
    )


@pytest.mark.slow
def test_a_second_run_starts_from_the_tokens_on_disk(tmp_path: Path) -> None:
    answers = []
    for run in range(2):
        session = with_cache(tmp_path / "cache")
        prompt = session.prompt("What happens?", [LANDSCAPE])
        (answer,) = session.generate([prompt], SHORT)
        assert isinstance(answer, Generation)
        answers.append(answer.token_ids)
        assert session.encoder.num_encoded == (3 if run == 0 else 0)
        assert session.encoder.num_passes == (1 if run == 0 else 0)
    assert answers[0] == answers[1]


def test_tokens_of_an_earlier_version_are_read_and_other_files_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "32" / "9ec2651a2602df226e149c2b399720a3.safetensors"
    path.parent.mkdir()
    # Written by the cache's first version (commit 4e535fd) for this identity and key.
    header = b'{"visual_tokens":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}    '
    written = len(header).to_bytes(8, "little") + header + struct.pack("<2f", 1, 2)
    path.write_bytes(written)
    cache = FeatureCache(tmp_path, identity="weights")
    assert torch.equal(cache.get("frame"), torch.tensor([[1.0, 2.0]]))
    path.write_bytes(written.replace(b"visual_tokens", b"image_tokens1"))
    told: list[str] = []
    sink = logger.add(lambda message: told.append(str(message)), level="WARNING")
    assert cache.get("frame") is None
    logger.remove(sink)
    assert "9720a3.safetensors is damaged (File does not contain tensor visual_tokens" in told[0]


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, identity="weights")
    cache.put("frame", torch.ones(2, 3))
    (path,) = tmp_path.glob("??/*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.get("frame") is None
    assert not path.exists()


def test_other_weights_have_other_tokens(tmp_path: Path) -> None:
    FeatureCache(tmp_path, identity="weights").put("frame", torch.ones(2, 3))
    assert FeatureCache(tmp_path, identity="weights").get("frame") is not None
    assert FeatureCache(tmp_path, identity="other").get("frame") is None


def test_the_folder_stays_below_its_size(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, identity="weights", max_bytes=20_000)
    for number in range(20):
        cache.put(f"frame {number}", torch.full((16, 32), float(number)))
        time.sleep(0.002)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert size <= 20_000
    assert cache.get("frame 0") is None
    assert torch.equal(cache.get("frame 19"), torch.full((16, 32), 19.0))
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(SettingsError, match="cannot be written"):
        FeatureCache(tmp_path / "file" / "cache", identity="weights")


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    save_file({"mine": torch.ones(100_000)}, tmp_path / "mine.safetensors")
    cache = FeatureCache(tmp_path, identity="weights", max_bytes=1_000)
    cache.put("frame", torch.ones(1000))
    assert (tmp_path / "mine.safetensors").exists()


def test_reading_ahead_overlaps_with_the_model(open_golden: Golden) -> None:
    """The next video is read while the caller is busy with the first."""
    reader = CountingReader()
    encoder = VisualEncoder(open_golden.session.vision)
    asked = [
        pieces_of(open_golden, reader, LANDSCAPE, 0),
        pieces_of(open_golden, reader, PORTRAIT, 0),
    ]
    encoder.expect(asked)
    encoder.encode(asked[0])
    for _ in range(200):
        if len(reader.asked) == 2:
            break
        time.sleep(0.02)
    assert len(reader.asked) == 2  # before it was asked for
    encoder.encode(asked[1])
    encoder.stop()


def test_media_errors_name_the_piece_that_never_came(open_golden: Golden) -> None:
    def forgetful(info: VideoInfo, indices: Sequence[int], *, backend: str) -> Iterator[Frames]:
        yield from read_frames(info, indices[:1], backend="decord")

    pieces = pieces_of(open_golden, forgetful, LANDSCAPE, 0, 7)
    encoder = VisualEncoder(open_golden.session.vision)
    encoder.expect([pieces])
    with pytest.raises(MediaError, match="#7/crop/average2 was not among what its file gave"):
        encoder.encode(pieces)
    encoder.stop()
