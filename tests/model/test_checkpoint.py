"""Checkpoints: what is read from a folder, and what is said about a folder that is not one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OPEN, Golden, vision_of
from PIL import Image
from safetensors.torch import load_file, save_file

from longva_eval.embedded import CHECKPOINTS
from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.families.loading import find_checkpoint, load_checkpoint
from longva_eval.media.sources import Picture
from longva_eval.model.config_files import KNOWN_TOWERS
from longva_eval.model.longva_layout import _vision_tower
from longva_eval.model.rope import RopeSettings
from longva_eval.model.settings import LoadSettings, resolve_dtype

CopyCheckpoint = Callable[[], Path]


def load(folder: str | Path, **options: Any) -> Any:
    return load_checkpoint(folder, LoadSettings(**{"device": "cpu", "dtype": "float32", **options}))


def change_json(path: Path, **values: Any) -> Path:
    """Set keys of a JSON file; None removes one."""
    data = json.loads(path.read_text(encoding="utf-8")) | values
    data = {key: value for key, value in data.items() if value is not None}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path.parent


def change_config(folder: Path, **values: Any) -> Path:
    return change_json(folder / "config.json", **values)


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Write all tensors into one file, with a change, and no index."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (folder / "model.safetensors.index.json").unlink()
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def same_weights(one: Any, two: Any) -> bool:
    left, right = one.model.state_dict(), two.model.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def broken(copy_checkpoint: CopyCheckpoint) -> Path:
    """A copy to break."""
    return copy_checkpoint()


# Finding


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"pretrained=/no/such/folder: there is no such folder.*\(longva-tiny, .*\)\. Check",
    ):
        load("/no/such/folder")
    with pytest.raises(CheckpointError, match=r"pretrained=\./longva: there is no such folder"):
        load("./longva")


def test_a_hub_id_without_a_network_tells_how_to_fetch_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load("lmms-lab/LongVA-7B")
    message = str(caught.value)
    assert "hf download lmms-lab/LongVA-7B" in message
    assert "pass pretrained=/path/to/LongVA-7B" in message
    assert "neither a folder here nor in the local hub cache" in message


def test_a_name_of_an_embedded_checkpoint_finds_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("longva-tiny") == (CHECKPOINTS["longva-tiny"], None)
    checkpoint = load("longva-tiny")
    assert checkpoint.origin.source == "longva-tiny"
    assert checkpoint.describe()["checkpoint"] == "longva-tiny"
    (tmp_path / "longva-tiny").mkdir()
    assert find_checkpoint("longva-tiny")[0] == Path("longva-tiny")  # what lies here comes first


def test_a_revision_belongs_to_a_hub_id() -> None:
    with pytest.raises(SettingsError, match=r"revision=main belongs to a hub id; .* is a folder"):
        load(OPEN / "longva_tiny", revision="main")


# What a whole folder gives


def test_a_checkpoint_says_what_it_is(open_golden: Golden) -> None:
    checkpoint = open_golden.session.checkpoint
    described = checkpoint.describe()
    assert described["checkpoint"] == str(OPEN / "longva_tiny")
    assert described["revision"] is None
    assert described["dtype"] == "float32"
    assert described["device"] == "cpu"
    assert re.fullmatch(r"[0-9a-f]{16}", described["weights_fingerprint"])
    assert checkpoint.num_tokenizer_entries == 1003
    assert checkpoint.config.vocab_size == 1024
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.generation_config.eos_token_id == [1002, 1000]


def test_one_file_without_an_index_holds_the_same_model(broken: Path, open_golden: Golden) -> None:
    one_file = load(change_tensors(broken, lambda tensors: None))
    assert same_weights(one_file, open_golden.session.checkpoint)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_take_the_dtype_asked_for(dtype: str) -> None:
    checkpoint = load(OPEN / "longva_tiny", dtype=dtype)
    assert checkpoint.describe()["dtype"] == dtype
    assert {p.dtype for p in checkpoint.model.parameters()} == {getattr(torch, dtype)}


def test_auto_is_bfloat16_on_a_gpu_and_float32_elsewhere() -> None:
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("auto", torch.device("cpu")) == torch.float32
    with pytest.raises(
        SettingsError, match="dtype='int8' is unknown; use auto, float32, bfloat16, float16"
    ):
        resolve_dtype("int8", torch.device("cpu"))


def test_an_unknown_dtype_is_refused_when_loading() -> None:
    with pytest.raises(SettingsError, match="dtype='half' is unknown"):
        load(OPEN / "longva_tiny", dtype="half")


@pytest.mark.slow
def test_the_fingerprint_follows_the_weights(broken: Path, open_golden: Golden) -> None:
    own = open_golden.session.checkpoint.origin.fingerprint
    assert load(broken).origin.fingerprint == own
    change_config(broken, rope_theta=1e6)
    assert load(broken).origin.fingerprint == own
    path = sorted(broken.glob("*.safetensors"))[-1]
    tensors = load_file(path)
    name = sorted(tensors)[0]
    tensors[name].view(-1)[-1] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    assert load(broken).origin.fingerprint != own


def test_rope_is_recorded_as_asked_and_as_resolved(broken: Path, open_golden: Golden) -> None:
    own = open_golden.session.checkpoint
    assert own.own_rope_parameters == {"rope_type": "default", "rope_theta": 1e9}
    assert own.describe()["rope"]["asked"] == {}
    changed = load(broken, rope=RopeSettings(theta=1e6))
    described = changed.describe()["rope"]
    assert described["asked"] == {"theta": 1e6}
    assert described["parameters"]["rope_theta"] == 1e6
    assert changed.own_rope_parameters == own.own_rope_parameters
    assert described["inv_freq_sha256"] != own.describe()["rope"]["inv_freq_sha256"]
    rotary = changed.model.model.rotary_emb.inv_freq
    expected = 1e6 ** (-torch.arange(0, 8, 2, dtype=torch.float32) / 8)
    torch.testing.assert_close(rotary.cpu(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_an_old_rope_scaling_becomes_rope_parameters(broken: Path, key: str) -> None:
    change_config(broken, rope_scaling={key: "linear", "factor": 4.0}, rope_theta=1e6)
    checkpoint = load(broken)
    assert checkpoint.own_rope_parameters == {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 1e6,
    }
    expected = 1e6 ** (-torch.arange(0, 8, 2, dtype=torch.float32) / 8) / 4
    torch.testing.assert_close(
        checkpoint.model.model.rotary_emb.inv_freq, expected, rtol=1e-5, atol=0
    )


def test_a_checkpoints_own_dynamic_rope_must_be_pinned(broken: Path) -> None:
    change_config(broken, rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(SettingsError, match="rope_pinned_length"):
        load(broken)
    pinned = RopeSettings(rope_type="dynamic", factor=2, pinned_length=448_000)
    assert load(broken, rope=pinned).describe()["rope"]["asked"]["pinned_length"] == 448_000


# What is wrong with a folder


def test_an_empty_folder_lacks_its_config(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"config\.json is missing; a LongVA checkpoint has one"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe{}", "is not valid JSON"),
        (b"[1]", "holds list, not a JSON object"),
        pytest.param(
            b'{"a": ' + b"1" * 5000 + b"}",
            "is not valid JSON",
            id="a number of 5000 digits",
        ),
        pytest.param(
            b"[" * 100_000,
            "is not valid JSON",
            id="deep nesting",
        ),
    ],
)
def test_a_config_that_is_no_json_object_is_named(broken: Path, text: bytes, message: str) -> None:
    (broken / "config.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=rf"config\.json {message}"):
        load(broken)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_type": "llava_llama"},
            "model_type='llava_llama', .*LongVA has model_type='llava_qwen' and LlavaQwenForCausal",
        ),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"architectures=\['Qwen2ForCausalLM'\]"),
        ({"architectures": None}, r"architectures=\[\]"),
        (
            {"mm_projector_type": "linear"},
            r"does not have: \{'mm_projector_type': 'linear'\}\. Known: .*'mlp2x_gelu'",
        ),
        ({"mm_resampler_type": "perceiver"}, "'mm_resampler_type': 'perceiver'"),
        ({"mm_patch_merge_type": "flat"}, "'mm_patch_merge_type': 'flat'.*'unires'"),
        ({"mm_vision_select_feature": "cls_patch"}, "'mm_vision_select_feature': 'cls_patch'"),
        ({"mm_use_im_start_end": True}, "'mm_use_im_start_end': True"),
        (
            {"mm_vision_select_layer": -9},
            r"mm_vision_select_layer=-9 is outside of a tower of \d+ layers",
        ),
        ({"mm_vision_select_layer": 99}, "mm_vision_select_layer=99 is outside"),
        ({"mm_vision_tower": None}, "names no mm_vision_tower"),
        (
            {"mm_vision_tower": "google/siglip"},
            r"'google/siglip', which is neither a folder in the checkpoint nor one of the known "
            r"towers \(openai/clip-vit-large-patch14-336\)\. Put its config\.json and",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(
    broken: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(change_config(broken, **values))


def test_pickles_are_refused_with_the_way_out(broken: Path) -> None:
    for path in broken.glob("model*"):
        path.unlink()
    with pytest.raises(
        CheckpointError, match=r"has no \*\.safetensors weights\. Download them: hf download"
    ):
        load(broken)
    (broken / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(
        CheckpointError,
        match=r"It has pytorch_model\.bin: pickles can run code.*safetensors\.torch\.save_file",
    ):
        load(broken)


def test_a_missing_shard_is_named(broken: Path) -> None:
    (broken / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"lacks model-00002-of-00003\.safetensors, which its index names"
    ):
        load(broken)


def test_missing_tensors_are_named(broken: Path) -> None:
    folder = change_tensors(broken, lambda tensors: tensors.pop("model.mm_projector.0.weight"))  # type: ignore[arg-type]
    with pytest.raises(
        CheckpointError,
        match=r"does not hold the weights of a LongVA model\. Missing: "
        r"model\.mm_projector\.0\.weight\. Not part of it: none",
    ):
        load(folder)


def test_extra_tensors_are_named(broken: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.resampler.weight"] = torch.zeros(2)

    with pytest.raises(
        CheckpointError, match=r"Missing: none\. Not part of it: model\.resampler\.weight"
    ):
        load(change_tensors(broken, add))


def test_many_missing_tensors_are_counted(broken: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if ".layers.1." in name]:
            del tensors[name]

    with pytest.raises(CheckpointError, match=r"Missing: .* and \d+ more\. Not part of it: none"):
        load(change_tensors(broken, drop))


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def test_a_truncated_weight_file_is_named(broken: Path) -> None:
    change_tensors(broken, lambda tensors: None)
    truncate(broken / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load(broken)


def test_a_truncated_shard_is_named(broken: Path) -> None:
    truncate(broken / "model-00002-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors cannot be read"):
        load(broken)


def test_an_index_without_a_weight_map_is_named(broken: Path) -> None:
    (broken / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        load(broken)


def test_tensors_of_another_shape_are_named(broken: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.mm_projector.0.bias"] = torch.zeros(7)

    with pytest.raises(CheckpointError, match=r"model\.mm_projector\.0\.bias"):
        load(change_tensors(broken, change))


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_tokenizer_files_that_cannot_be_used_are_a_checkpoint_error(broken: Path, how: str) -> None:
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        if how == "missing":
            (broken / name).unlink()
        else:
            (broken / name).write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(broken)


def test_a_generation_config_that_is_no_json_is_named(broken: Path) -> None:
    (broken / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load(broken)


def test_without_a_generation_config_nothing_is_penalised(broken: Path) -> None:
    (broken / "generation_config.json").unlink()
    config = load(broken).generation_config
    assert (config.repetition_penalty or 1.0) == 1.0


# Devices


def test_impossible_devices_are_refused() -> None:
    folder = OPEN / "longva_tiny"
    with pytest.raises(SettingsError, match="device='tpu' is unknown; use auto, cpu or cuda:0"):
        load(folder, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="device=cuda:1 but PyTorch sees no GPU here; use"):
            load(folder, device="cuda:1")


@pytest.mark.parametrize("device", ["auto", "", "None"])
def test_auto_finds_a_device(device: str) -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert load(OPEN / "longva_tiny", device=device).model.device.type == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "meta"}, "device='?meta"),
        ({"device": "mps"}, "device='?mps"),
        ({"device_map": "banana"}, "device_map='?banana"),
        ({"attn_implementation": "magic"}, "attn_implementation='?magic"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation='?flash_attention_2"),
    ],
    ids=str,
)
def test_settings_that_transformers_refuses_are_named(
    options: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load(OPEN / "longva_tiny", **options)


def test_a_device_map_may_name_a_device() -> None:
    checkpoint = load(OPEN / "longva_tiny", device="auto", device_map="cpu", dtype="auto")
    assert checkpoint.describe()["device"] == "cpu"
    assert checkpoint.describe()["dtype"] == "float32"


# The vision tower


def drop_tower(folder: Path) -> Path:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if "vision_tower" in name]:
            del tensors[name]

    return change_tensors(folder, drop)


def test_shards_without_a_tower_take_it_from_its_folder(broken: Path, open_golden: Golden) -> None:
    untuned = load_file(broken / "vision_tower" / "model.safetensors")
    checkpoint = load(drop_tower(broken))
    tower = checkpoint.model.model.vision_tower.vision_tower.state_dict()
    stored = {name.removeprefix("vision_model."): value for name, value in untuned.items()}
    found = {name.removeprefix("vision_model."): value for name, value in tower.items()}
    shared = found.keys() & stored.keys()
    assert len(shared) >= len(found) - 2  # the final norm, which is not used
    for name in shared:
        torch.testing.assert_close(found[name], stored[name].float(), atol=0, rtol=0)
    pixels = torch.zeros(1, 3, 336, 336)
    assert checkpoint.model.encode_pixels(pixels).isfinite().all()


def test_a_tower_folder_that_lacks_weights_is_named(broken: Path) -> None:
    drop_tower(broken)
    path = broken / "vision_tower" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.0.mlp.fc1.weight" in name)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"vision_tower lacks .*layers\.0\.mlp\.fc1\.weight of its vision"
    ):
        load(broken)


def test_a_tower_folder_that_is_cut_off_is_named(broken: Path) -> None:
    drop_tower(broken)
    truncate(broken / "vision_tower" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vision_tower/model\.safetensors cannot be read"):
        load(broken)


def test_a_tower_of_another_shape_is_named(broken: Path) -> None:
    drop_tower(broken)
    path = broken / "vision_tower" / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "layers.0.mlp.fc1.bias" in name)
    tensors[name] = torch.zeros(3)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"vision_tower has weights of another shape: .*fc1"):
        load(broken)


def test_a_known_tower_needs_no_network_but_its_weights_must_be_in_the_shards(
    tmp_path: Path,
) -> None:
    name = "openai/clip-vit-large-patch14-336"
    config, processor, folder = _vision_tower({"mm_vision_tower": name}, tmp_path)
    assert folder is None
    assert (config.image_size, config.patch_size, config.num_hidden_layers) == (336, 14, 24)
    assert config.hidden_act == "quick_gelu"
    assert KNOWN_TOWERS[name]["hidden_size"] == config.hidden_size == 1024
    # huggingface.co/openai/clip-vit-large-patch14-336, preprocessor_config.json
    assert processor["size"] == {"shortest_edge": 336}
    assert processor["crop_size"] == {"height": 336, "width": 336}
    assert processor["image_mean"] == [0.48145466, 0.4578275, 0.40821073]
    assert processor["resample"] == 3


@pytest.mark.slow
def test_shards_without_a_tower_that_is_only_named_are_refused(
    broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = json.loads((broken / "vision_tower" / "config.json").read_text())
    monkeypatch.setitem(KNOWN_TOWERS, "tiny/clip", settings.get("vision_config", settings))
    change_config(broken, mm_vision_tower="tiny/clip")
    assert load(broken).model.patches_per_side == 24  # the tower's weights are in the shards
    with pytest.raises(
        CheckpointError, match="The shards hold no vision tower, and tiny/clip is not a folder"
    ):
        load(drop_tower(broken))


def test_a_tower_may_lie_anywhere(broken: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(broken / "vision_tower", elsewhere)
    change_config(broken, mm_vision_tower=str(elsewhere))
    assert load(broken).model.patches_per_side == 24


def test_a_tower_without_its_preprocessing_is_named(broken: Path) -> None:
    (broken / "vision_tower" / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        load(broken)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 336, "crop_size": 336}, 336),
        ({"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}, 336),
        ({"size": 336, "crop_size": None}, 336),
    ],
)
def test_old_and_new_preprocessing_files_say_the_same(
    broken: Path, values: dict[str, Any], expected: int
) -> None:
    change_json(broken / "vision_tower" / "preprocessor_config.json", **values)
    processor = load(broken).image_processor
    assert int(processor.crop_size["height"]) == int(processor.size["shortest_edge"]) == expected


@pytest.mark.parametrize("size", [None, {"height": 336, "width": 336}], ids=["none", "height"])
def test_preprocessing_without_a_shortest_edge_is_named(broken: Path, size: Any) -> None:
    change_json(broken / "vision_tower" / "preprocessor_config.json", size=size)
    with pytest.raises(CheckpointError, match=r"shortest_edge|size"):
        load(broken)


def test_a_config_without_grid_pinpoints_is_refused_before_the_first_picture(
    broken: Path,
) -> None:

    change_config(broken, image_grid_pinpoints=None)
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        load(broken)
    # Not needed where pictures are not cut into tiles, but still no other kind of error.
    change_config(broken, image_aspect_ratio="pad")
    with pytest.raises(CheckpointError, match="image_grid_pinpoints"):
        vision_of(load(broken)).pieces(Picture(image=Image.new("RGB", (8, 8)), how="anyres"))


@pytest.mark.parametrize(("layer", "kept"), [(-1, 2), (-2, 1), (1, 1)])
def test_the_tower_ends_at_the_selected_layer(broken: Path, layer: int, kept: int) -> None:
    settings = json.loads((broken / "vision_tower" / "config.json").read_text())
    total = settings.get("vision_config", settings)["num_hidden_layers"]
    change_config(broken, mm_vision_select_layer=layer)
    checkpoint = load(broken)
    tower = checkpoint.model.vision_config.num_hidden_layers
    assert tower == (layer if layer > 0 else total + 1 + layer)
