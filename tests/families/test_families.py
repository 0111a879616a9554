"""Every family against `generate()` of transformers' own class, on the same frames and times."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from conftest import OPEN, TESTS
from PIL import Image
from tiny_families import KINDS, family_maker
from transformers import AutoModelForImageTextToText

from longva_eval.cli import main
from longva_eval.engine.generation import GenerationSettings, parse_gen_kwargs
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.engine.verify import reference_inputs, summary_of, verify
from longva_eval.errors import CheckpointError, PromptError, SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.model_adapters.hf import TransformersModel
from longva_eval.model_adapters.longva import LongVA
from longva_eval.prompts.pieces import TextPiece
from longva_eval.prompts.visits import Query

VIDEO = OPEN / "inputs/landscape_320x180.mp4"
TOLERANCE = 1e-5
"""float32; the engine reads in chunks, the reference in one pass."""

MakeFamily = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MakeFamily:
    return family_maker(tmp_path_factory.mktemp("families"))


def open_tiny(folder: Path, **settings: Any) -> Session:
    given: dict[str, Any] = {
        "device": "cpu", "dtype": "float32", "frames": FramePolicy(max_frames=5),
        "decode_process": False, "chunk_tokens": 50,
    }  # fmt: skip
    return open_session(folder, **given | settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_answers_and_logits_are_those_of_generate(made: MakeFamily, name: str) -> None:
    """Text, one and two pictures, one and two videos, both; an odd number of frames."""
    folder = made(name)
    session = open_tiny(folder, thinking="on" if "thinking" in name else "off")
    (seen,) = session.prompt("What?", [VIDEO]).describe()["videos"]
    assert seen["num_frames_seen"] == len(seen["frame_indices"]) == 5
    width, height = seen["frame_size"]
    assert width >= height  # of 320 x 180
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    found = verify(session, VIDEO, max_new_tokens=8, model=model)
    for each in found:
        assert each.prompts_equal, each
        assert each.flips == 0, each
        assert each.logit_difference < TOLERANCE, each
        assert each.margin > 10 * TOLERANCE, each  # else equal tokens would show little
    assert summary_of(found)["tokens_equal"]
    counts = session.engine.counts
    assert counts.tokens_computed < counts.tokens_asked  # the second question shared the video


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_equal_frames_at_other_positions_are_not_shared(made: MakeFamily, name: str) -> None:
    """Qwen2.5-VL says in its positions how far frames lie apart; Qwen3-VL in its text."""
    session = open_tiny(made(name))
    near = session.prompt("What?", [VIDEO])
    session.frames = FramePolicy(max_frames=9)  # every second one is a frame of the first prompt
    far = session.prompt("What?", [VIDEO])
    both = [near, far]
    settings = GenerationSettings(max_new_tokens=16)
    together = session.generate(both, settings)
    session.engine.reuse = False
    alone = session.generate(both, settings)
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]  # type: ignore[union-attr]
    pieces = [each.prompt.visual_pieces[0] for each in both]
    assert pieces[0].place != pieces[1].place or name == "qwen3_vl"
    assert near.prompt.digest != far.prompt.digest


def test_a_time_axis_is_divided_as_in_the_model_itself(made: MakeFamily) -> None:
    """Logits beside one pass of transformers' class, given its own positions changed."""
    folder = made("qwen2_5_vl")
    session = open_tiny(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    conversation = session.prompt("What happens?", [VIDEO])
    inputs = reference_inputs(session, conversation, "What happens?", [VIDEO])
    taken: list[torch.Tensor] = []

    def take(_: object, args: object, kwargs: dict[str, Any]) -> None:
        taken.append(kwargs["position_ids"])

    hook = model.model.language_model.register_forward_pre_hook(take, with_kwargs=True)
    with torch.no_grad():
        plain = model(**inputs).logits[0, -1]
        hook.remove()
        own = taken[0][-3:, 0].float()  # (time, height, width)
        visual = (inputs["input_ids"][0] == model.config.video_token_id).nonzero()[:, 0].tolist()
        first, end = visual[0], visual[-1] + 1
        start = own[0, first].item()
        placed = own.clone()
        placed[0, first:end] = start + (own[0, first:end] - start) / 4
        # The question goes on behind the largest position of the video.
        placed[:, end:] += placed[:, first:end].max() - own[:, first:end].max()
        changed = model(**inputs, position_ids=placed[:, None]).logits[0, -1]
    session.change_positions("temporal:4")
    for reuse in (True, False):
        session.engine.reuse = reuse
        (visit,) = session.engine.visit([Query(conversation.prompt)])
        torch.testing.assert_close(visit.logits[-1], changed, atol=TOLERANCE, rtol=0)
    assert (changed - plain).abs().max() > 100 * TOLERANCE
    assert session.describe()["rope"]["positions"] == "temporal:4"
    session.change_positions("visual-yarn:4:64")  # over three axes, too
    (visit,) = session.engine.visit([Query(conversation.prompt)])
    assert (visit.logits[-1] - plain).abs().max() > 100 * TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision"])
def test_weights_may_lie_elsewhere_until_they_are_needed(made: MakeFamily, name: str) -> None:
    """`device_map=auto` with less memory than the model: accelerate's hooks bring each part."""
    found = []
    for offloaded in (False, True):
        session = open_tiny(made(name))
        if offloaded:
            cpu_offload(session.checkpoint.model.inner, torch.device("cpu"))  # type: ignore[attr-defined]
        asked = [session.prompt("What?", [seen]) for seen in (VIDEO, Image.new("RGB", (90, 50)))]
        found.append([visit.logits.clone() for visit in session.engine.visit([
            Query(each.prompt) for each in asked])])  # fmt: skip
    assert all(map(torch.equal, *found))


@pytest.mark.slow
def test_a_missing_deepstack_vector_would_show(made: MakeFamily) -> None:
    session = open_tiny(made("qwen3_vl"))
    session.checkpoint.model._family[0].deepstack_levels = 0
    (video,) = [each for each in verify(session, VIDEO, max_new_tokens=2) if each.case == "a video"]
    assert video.logit_difference > 1e-2


@pytest.mark.slow
def test_rope_settings_keep_the_axes(made: MakeFamily) -> None:
    from longva_eval.model.rope import RopeSettings

    session = open_tiny(made("qwen3_vl"))
    session.change_rope(RopeSettings(theta=5e5))
    parameters = session.describe()["rope"]["parameters"]
    assert parameters["rope_theta"] == 5e5
    assert parameters["mrope_section"] == [2, 3, 3]
    assert session.describe()["rope_axes"] == ["temporal", "height", "width"]
    found = verify(session, VIDEO, max_new_tokens=4)  # the reference turns with it
    assert max(each.logit_difference for each in found) < TOLERANCE


@pytest.mark.slow
def test_thinking_is_taken_off_the_answer(made: MakeFamily) -> None:
    with pytest.raises(SettingsError, match=r"opens every answer with a thought"):
        open_tiny(made("qwen3_vl_thinking"))
    with pytest.raises(SettingsError, match=r"knows no thinking"):
        open_tiny(made("qwen3_vl"), thinking="on")
    session = open_tiny(made("qwen3_vl_thinking"), thinking="on", max_thinking_tokens=6)
    (answer,) = session.generate([session.prompt("What?")])
    assert not isinstance(answer, Exception)
    assert answer.text == ""  # the thought never ended
    assert answer.thought
    assert len(answer.token_ids) == 6


@pytest.mark.slow
def test_a_checkpoint_that_samples_by_default_answers_greedily(
    made: MakeFamily, tmp_path: Path
) -> None:
    """With its own repetition penalty and end tokens, as `generate(do_sample=False)`."""
    folder = tmp_path / "sampling"
    shutil.copytree(made("internvl"), folder)
    own = json.loads((folder / "generation_config.json").read_text())
    own |= {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    own |= {"repetition_penalty": 1.3, "eos_token_id": [own["eos_token_id"], 70]}
    (folder / "generation_config.json").write_text(json.dumps(own))
    session = open_tiny(folder)
    settings, _ = parse_gen_kwargs({"max_new_tokens": 9}, session.checkpoint.generation_config)
    asked = session.prompt("What?", [VIDEO])
    (answer,) = session.generate([asked], settings)
    inputs = reference_inputs(session, asked, "What?", [VIDEO])
    expected = session.checkpoint.family.model.generate(  # type: ignore[attr-defined]
        **inputs, max_new_tokens=9, do_sample=False
    )
    assert list(answer.token_ids) == expected[0, inputs["input_ids"].shape[1] :].tolist()  # type: ignore[union-attr]
    assert settings.end_token_ids[1:] == (70,)
    assert len(set(answer.token_ids)) > 1  # type: ignore[union-attr]  # as it is without a penalty


@pytest.mark.slow
def test_pictures_and_videos_in_one_prompt_are_refused_where_the_class_cannot(
    made: MakeFamily,
) -> None:
    from PIL import Image

    session = open_tiny(made("glm4v"))
    with pytest.raises(PromptError, match=r"Glm4vForConditionalGeneration cannot take both"):
        session.prompt("What?", [Image.new("RGB", (40, 40)), VIDEO])


@pytest.mark.slow
def test_a_placeholder_of_the_model_in_a_question_is_its_letters(made: MakeFamily) -> None:
    session = open_tiny(made("qwen3_vl"))
    tokenizer = session.checkpoint.tokenizer
    (piece,) = session.prompt("What is <|video_pad|>?").prompt.pieces
    assert isinstance(piece, TextPiece)
    assert tokenizer.convert_tokens_to_ids("<|video_pad|>") not in piece.token_ids
    assert "What is <|video_pad|>?" in tokenizer.decode(piece.token_ids)


@pytest.mark.process
def test_the_command_prints_what_a_report_of_a_difference_needs(
    made: MakeFamily, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made("internvl")
    options = ["verify", str(folder), "--video", str(VIDEO), "--frames", "4", "--dtype", "float32"]
    assert main([*options, "--device", "cpu", "--max-new-tokens", "4", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cases"] == 7
    assert found["tokens_equal"] is True
    assert found["flips"] == 0
    assert 0 <= found["largest_logit_difference"] < TOLERANCE
    assert found["model"]["versions"]["transformers"]
    assert main(["verify", "longva-tiny", "--device", "cpu", "--video", str(VIDEO)]) == 1
    assert "is no class of transformers to compare with" in capsys.readouterr().err


def test_frames_of_the_models_own_rule(made: MakeFamily) -> None:
    """2 a second, 4 at least, as Qwen3-VL's processor asks for; 180 frames of 30 a second."""
    session = open_tiny(made("qwen3_vl"), own_frames=True)
    (sample,) = session.prompt("What?", [VIDEO]).frames
    info = session.probe(VIDEO)
    assert len(sample.indices) == max(4, int(info.num_frames / info.average_fps * 2))
    assert sample.indices[0] == 0
    assert sample.indices[-1] == info.num_frames - 1


def test_what_is_not_run_is_said_before_its_weights_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def download(_name: str, *, allow_patterns: list[str], **_more: Any) -> str:
        asked.append("*.safetensors" in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    config = {"model_type": "smolvlm", "architectures": ["SmolVLMForConditionalGeneration"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="its processor replaces the checkpoint's chat"):
        open_tiny("HuggingFaceTB/SmolVLM2-2.2B-Instruct")  # type: ignore[arg-type]
    assert asked == [False]


def test_each_id_names_the_one_that_is_meant(made: MakeFamily) -> None:
    with pytest.raises(CheckpointError, match=r"longva_hf for other classes of transformers"):
        LongVA(str(made("qwen3_vl")), device="cpu")
    with pytest.raises(CheckpointError, match=r"--model longva is for LlavaQwenForCausalLM"):
        TransformersModel("longva-tiny", device="cpu")
    with pytest.raises(SettingsError, match=r"Unknown argument 'image_aspect_ratio'"):
        TransformersModel(str(made("qwen3_vl")), image_aspect_ratio="pad")


def test_the_page_s_table_has_every_family() -> None:
    """`python docs/make_models.py` writes it; its worst difference is within the tests' own."""
    page = (TESTS.parent / "docs" / "models.md").read_text(encoding="utf-8")
    table = page.split("<!-- families -->")[1].split("<!-- end -->")[0]
    rows = [line.split(" | ") for line in table.splitlines() if "ForConditional" in line]
    assert [row[0].strip("| `") for row in rows] == [k for k in KINDS if "thinking" not in k]
    for row in rows:
        right, of, all_of = row[7].split()
        assert (right, of) == (all_of, "of")
        assert float(row[8]) < TOLERANCE
        assert float(row[9].split()[0]) > 3
