"""Plans of today's families against what is run: tokens, parameters and FLOPs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OPEN
from tiny_families import KINDS, family_maker, make_family
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from longva_eval.commands.plan import main
from longva_eval.commands.reproduce import main as reproduce
from longva_eval.engine.conversation import ComposedClip
from longva_eval.engine.generation import GenerationSettings
from longva_eval.engine.opening import open_session
from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.studies.cost import attention_flops, kv_bytes, linear_flops, prefill_flops
from longva_eval.studies.shape import LONGVA_7B, read_model_shape

VIDEO = OPEN / "inputs/landscape_320x180.mp4"
SIZE = (320, 180)
MakeFamily = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MakeFamily:
    return family_maker(tmp_path_factory.mktemp("families"))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_tokens_planned_are_those_of_a_run(made: MakeFamily, name: str) -> None:
    session = open_session(made(name), device="cpu", dtype="float32", decode_process=False,
                           frames=FramePolicy(max_frames=99, fps=1.0),
                           thinking="on" if "thinking" in name else "off",
                           max_thinking_tokens=1)  # fmt: skip
    shape = read_model_shape(made(name), frame_size=SIZE)
    question = "What?"
    text = session.prompt(question).prompt.num_tokens
    for seconds in (15, 1):  # an odd one behind pairs
        if seconds == 1:
            session.frames = FramePolicy(max_frames=1)
        asked = session.prompt(question, [VIDEO])
        before = session.engine.counts.tokens_asked
        session.generate([asked], GenerationSettings(max_new_tokens=1))
        assert session.engine.counts.tokens_asked - before == asked.prompt.num_tokens
        assert asked.prompt.num_tokens - text == shape.video_tokens(seconds), seconds
    indices = tuple(range(6))
    units, _ = session.units(ComposedClip(parts=((VIDEO, indices),), aspect="pad"))
    clip = session.clip_prompt(question, units)
    assert clip.num_tokens - text == shape.video_tokens(6, composed=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_parameters_and_flops_planned_are_those_of_the_class(made: MakeFamily, name: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(
        made(name), dtype=torch.float32, experts_implementation="batched_mm",
        attn_implementation="eager",  # whose products torch counts in every version
    ).eval()  # fmt: skip
    shape: Any = read_model_shape(made(name), frame_size=SIZE)
    counted = sum(each.numel() for each in model.parameters())
    assert shape.language_parameters + shape.vision_parameters == counted
    how = shape.family.video_shape(5, *SIZE)
    frames = torch.zeros(shape.frames_per_unit, 3, how.height, how.width, dtype=torch.uint8)
    pixels = shape.family.video_pixels(frames, how)
    real = type(shape.family)(model, shape.family.processor)
    with FlopCounterMode(display=False) as vision, torch.inference_mode():
        real.tokens(pixels, how)
    units = -(-5 // shape.frames_per_unit)
    assert shape.vision_flops(5) == units * vision.get_total_flops()
    rows = torch.zeros(1, 24, shape.hidden_size)
    with FlopCounterMode(display=False) as language, torch.inference_mode():
        model.model.language_model(inputs_embeds=rows, use_cache=False)
    # torch counts attention without its mask, and rotary frequencies.
    expected = linear_flops(shape, 24) + 2 * attention_flops(shape, 24)
    rotary = language.get_total_flops() - expected
    assert 0 <= rotary <= 3 * 2 * 24 * shape.head_dim
    assert prefill_flops(shape, 24) == expected - attention_flops(shape, 24)


# Sizes of Qwen3-VL-8B-Instruct, Qwen2.5-VL-7B-Instruct and InternVL3_5-8B-HF. Their configurations
# were not at hand; what checks the sizes are the totals of parameters below, which were.
REAL: dict[str, dict[str, Any]] = {
    "qwen3_vl": {
        "text_config": {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
        "vision_config": {
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
            "out_hidden_size": 4096, "patch_size": 16, "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        "video_processor": {
            "patch_size": 16, "size": {"shortest_edge": 4096, "longest_edge": 25165824},
        },
    },
    "qwen2_5_vl": {
        "text_config": {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
            "out_hidden_size": 3584, "patch_size": 14, "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        "video_processor": {
            "patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        },
    },
    "internvl": {
        "image_seq_length": 256,
        "text_config": {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
        "vision_config": {
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096, "image_size": [448, 448], "patch_size": [14, 14],
            "attention_bias": True,
        },
        "video_processor": {"size": {"height": 448, "width": 448}},
    },
}  # fmt: skip


def real_shape(folder: Path, name: str) -> Any:
    """A published model's settings, without weights, in the files of a tiny one."""
    make_family(folder, name)
    (folder / "model.safetensors").unlink()
    for file in ("config.json", "processor_config.json"):
        settings = json.loads((folder / file).read_text())
        for part, changes in REAL[name].items():
            if part not in settings:
                continue
            if isinstance(changes, dict):
                settings[part] |= changes
            else:
                settings[part] = changes
        if "layer_types" in settings.get("text_config", {}):
            del settings["text_config"]["layer_types"]  # of three layers
        (folder / file).write_text(json.dumps(settings))
    return read_model_shape(folder)


@pytest.mark.slow
def test_sizes_of_published_models(tmp_path: Path) -> None:
    """Totals are quoted from public counts of the weights, the rest is done by hand."""
    qwen3 = real_shape(tmp_path / "qwen3", "qwen3_vl")
    assert qwen3.language_parameters + qwen3.vision_parameters == 8_767_123_696
    assert kv_bytes(qwen3, 1) == 2 * 36 * 8 * 128 * 2
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 12288
    assert linear_flops(qwen3, 1) == 2 * 36 * layer
    # A frame is smaller where there are more: 1,280 x 720 as 28 x 44 ... 55 x 31 tokens a pair.
    assert [qwen3.family.video_shape(n, 1280, 720).num_tokens for n in (16, 64, 256, 768)] == [
        880, 364, 91, 28,
    ]  # fmt: skip
    block = 4 * 1152**2 + 2 * 1152 * 4304
    merger = 4 * 1152 * (4 * 1152 + 4096)
    pair = 2 * 3520 * (27 * block + 3 * 2 * 16 * 16 * 1152) + 2 * 880 * 4 * merger
    assert qwen3.vision_flops(16) == 8 * (pair + 27 * 4 * 1152 * 3520**2)

    qwen25 = real_shape(tmp_path / "qwen25", "qwen2_5_vl")
    assert qwen25.language_parameters + qwen25.vision_parameters == 8_292_166_656
    assert qwen25.language_parameters == LONGVA_7B.language_parameters  # both are Qwen2-7B's
    assert linear_flops(qwen25, 9) == linear_flops(LONGVA_7B, 9)
    assert qwen25.family.video_shape(64, 1280, 720).num_tokens == 1196

    intern = real_shape(tmp_path / "intern", "internvl")
    # Its documentation: 0.3 B of vision, 8.2 B of language, 8.5 B together.
    assert round(intern.vision_parameters / 1e9, 1) == 0.3
    assert round(intern.language_parameters / 1e9, 1) == 8.2
    assert intern.family.video_shape(64, 1280, 720).num_tokens == 256


def test_the_command_plans_a_family(made: MakeFamily, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made("qwen3_vl")
    plan = ["--model", str(folder), "--gpu", "48GB"]
    main([*plan, "--frames", "64", "--frame-size", "320x180", "--task", "videomme"])
    printed = capsys.readouterr().out
    assert "541 (64 frames of 320x180: 32 x 1, and what is written about them) + 74" in printed
    assert "900 videos, 2,700 questions, 64 frames" in printed
    assert printed.endswith("of 48 GB.\n")
    main([*plan, "--grid", "8,16", "--depths", "0,0.5", "--needles", "2"])
    printed = capsys.readouterr().out
    assert (
        "(18 frames: 9 x 144, and what is written about them) + 74 of text (the needle" in printed
    )
    assert "8 cells, 3 insertion indices" in printed
    with pytest.raises(SettingsError, match="sees 2 frames at once"):
        main([*plan, "--grid", "7"])
    main([*plan, "--frames", "400", "--gpu", "1.002GB"])
    assert "at most" in capsys.readouterr().out
    args = ["--quick", "--plan", "--model", "longva_hf", "--pretrained", str(folder)]
    assert reproduce(["table4", *args]) == 0
    printed = capsys.readouterr().out
    assert "GPU time" in printed
    assert "unknown" not in printed


def test_what_cannot_be_planned_is_named(made: MakeFamily, tmp_path: Path) -> None:
    config = {"model_type": "gemma3", "architectures": ["Gemma3"], "vision_config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="not run here: it takes no videos"):
        main(["--model", str(tmp_path), "--frames", "8"])
    (tmp_path / "config.json").write_text((made("qwen3_vl") / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"processor files in .* cannot be used"):
        main(["--model", str(tmp_path), "--frames", "8"])
    with pytest.raises(CheckpointError, match=r"hf download no/such .*to plan, --exclude"):
        main(["--model", "no/such", "--frames", "8"])
