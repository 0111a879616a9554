"""Settings of any kind are used or refused by name, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fuzzing import TEXT, changed, damaged, dumps, fuzz, read_or_refused
from hypothesis import example, given
from hypothesis import strategies as st
from lmms_eval.utils import simple_parse_args_string

from longva_eval.errors import CheckpointError, MediaError, SettingsError
from longva_eval.media.frames import FramePolicy, one_per_second, sample_frames
from longva_eval.media.probe import VideoInfo
from longva_eval.model.rope import RopeSettings
from longva_eval.model_adapters.arguments import LongVAArguments
from longva_eval.model_adapters.longva import LongVA
from longva_eval.studies.definition import read_study_file, study_from

# Frame policies -----------------------------------------------------------------------------------


def _video(num_frames: int, average_fps: float) -> VideoInfo:
    seconds = np.arange(num_frames) / (average_fps or 1.0)
    fields: dict[str, Any] = dict.fromkeys(VideoInfo.__dataclass_fields__)
    fields |= {"path": Path("v.mp4"), "num_frames": num_frames}
    fields |= {"average_fps": average_fps, "presentation_seconds": seconds}
    fields |= {"has_constant_rate": True, "gaps": ()}
    return VideoInfo(**fields)


@pytest.mark.slow
@fuzz(300)
@given(
    max_frames=st.integers(-3, 600),
    fps=st.none() | st.floats() | st.floats(0.001, 60) | st.integers(-1, 100),
    short_video=st.sampled_from(["repeat", "each_once", "error", "", "Repeat", None]),
    num_frames=st.integers(1, 2000),
    average_fps=st.floats(0.01, 1000),
)
@example(max_frames=8, fps=float("inf"), short_video="repeat", num_frames=9, average_fps=1.0)
@example(max_frames=8, fps=1e-320, short_video="repeat", num_frames=9, average_fps=30.0)
def test_any_policy_gives_frames_of_the_video_or_is_refused(
    max_frames: int, fps: float | None, short_video: Any, num_frames: int, average_fps: float
) -> None:
    try:
        policy = FramePolicy(max_frames=max_frames, fps=fps, short_video=short_video)
    except SettingsError:
        is_sound = max_frames >= 1 and short_video in ("repeat", "each_once", "error")
        assert not is_sound or (fps is not None and not 0 < fps < float("inf"))
        return
    info = _video(num_frames, average_fps)
    assert policy.describe()["max_frames"] == max_frames
    try:
        sample = sample_frames(info, policy)
    except MediaError:
        assert short_video == "error"
        assert num_frames < max_frames
        return
    indices = sample.indices
    assert 1 <= len(indices) <= max_frames
    assert list(indices) == sorted(indices)
    assert indices[0] >= 0
    assert indices[-1] < num_frames
    assert len(sample.timestamps_seconds) == len(indices) <= sample.num_frames_asked
    assert short_video == "repeat" or len(set(indices)) == len(indices)
    assert 1 <= len(one_per_second(info)) <= num_frames


# Studies ------------------------------------------------------------------------------------------

_STUDY = {
    "pretrained": "longva-tiny",
    "tasks": ["longva_videomme_mini"],
    "frames": [8, 16],
    "rope_theta": [1e6, "own"],
    "limit": 10,
    "model_args": {"dtype": "float32"},
}


@pytest.mark.slow
@fuzz(200)
@given(values=changed(_STUDY, 3))
@example(values=_STUDY | {"frames": [1e400]})
@example(values=_STUDY | {"frames": [10**400], "limit": 10**400})
@example(values=_STUDY | {"limit": 1e400})
@example(values=_STUDY | {"tasks": [[]]})
def test_a_study_of_any_shape_is_read_or_refused(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(dumps(values), encoding="utf-8")  # JSON is YAML, nearly
    read_or_refused(lambda: study_from(read_study_file(path), where=str(path)), SettingsError, "")


@pytest.mark.slow
@fuzz(100)
@given(content=damaged(yaml.safe_dump(_STUDY).encode()) | st.binary(max_size=60))
@example(content=b"[" * 5000)
@example(content=b"a: !!python/object/apply:os.system [echo]")
def test_a_study_of_any_bytes_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    read_or_refused(
        lambda: study_from(read_study_file(path), where=str(path)), SettingsError, "study.yaml"
    )


# --model_args -------------------------------------------------------------------------------------

_NAMES = sorted(
    {*LongVAArguments.__dataclass_fields__} - {"rope", "replaced", "pretrained"}
    | {f"rope_{name}" for name in RopeSettings.__dataclass_fields__}
    | {"rope_type", "max_frames_nums", "rope_rope_type", "trust_remote_code", "", "code_revision"}
)


def _is_sound(text: str) -> bool:
    """Not `¼`: a number to the host, and an error to `int`, with which the run ends."""
    return text.isnumeric() == text.isdecimal()


_VALUES = st.sampled_from(
    ["0", "-1", "1", "8", "nan", "inf", "-inf", "1e400", "0x10", "true", "False", "None", "", " ",
     "auto", "cpu", "cuda:99", "meta", "float32", "float8", "None/None", "1/2", "/", "a/b",
     "../../etc/passwd", "__import__('os')", "\0", "é", "yarn", "error", "repeat", "skip",
     "9" * 400, "[1]", "{}", "sdpa", "eager", "average", "pyav", "anyres", "1.5"]
) | TEXT.filter(lambda text: not set(",=") & {*text} and _is_sound(text))  # fmt: skip


@pytest.mark.slow
@fuzz(400)
@given(arguments=st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=4))
def test_model_arguments_of_any_kind_are_refused_by_name(arguments: dict[str, str]) -> None:
    text = ",".join(["pretrained=./absent", *(f"{k}={v}" for k, v in arguments.items())])
    given_to_model = simple_parse_args_string(text)
    with pytest.raises((SettingsError, CheckpointError)) as refusal:
        LongVA(**given_to_model)
    # The checkpoint comes last: what is wrong with the settings is said before a download.
    if isinstance(refusal.value, CheckpointError):
        assert "pretrained=./absent" in str(refusal.value)
        assert "trust_remote_code" not in arguments


@pytest.mark.parametrize(
    "wrong",
    ["dtype=flaot16", "device=tpu", "device_map=spread", "attn_implementation=flash_attention_2",
     "fps=fast", "seed=x", "mm_spatial_pool_stride=two", "max_context_tokens=many",
     "vision_batch_size=0", "chunk_tokens=-1", "reuse=maybe", "max_failed=2.5", "rope_theta=-1",
     "video_decode_backend=cv2", "max_context_tokens=-1", "rope_type=x"],
)  # fmt: skip
def test_a_wrong_setting_is_named_before_a_checkpoint_is_looked_for(wrong: str) -> None:
    with pytest.raises(SettingsError, match=wrong.split("=")[0].removeprefix("rope_")):
        LongVA(**simple_parse_args_string(f"pretrained=some/absent,{wrong}"))
