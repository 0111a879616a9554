"""The training's own modules and text against transformers, and the tokenizer."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
training_model = pytest.importorskip("training.model")

from training.export import (  # noqa: E402
    TinyLongVa,
    export_model,
    grid_pinpoints,
    load_model,
)
from training.model import (  # noqa: E402
    Projector,
    TextConfig,
    TextModel,
    VisionConfig,
    VisionTower,
    pool_patches,
)
from training.prefix import last_logits, read_prefix  # noqa: E402
from training.textdata import needle_prompt, question_prompt  # noqa: E402
from training.vocabulary import encode, vocabulary  # noqa: E402


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the real shape, exported."""
    generator = torch.Generator().manual_seed(0)
    text = TextModel(
        TextConfig(vocab_size=len(vocabulary()), num_hidden_layers=3, rope_theta=12345.0)
    )
    text.init_weights(generator)
    tower = VisionTower(VisionConfig())
    tower.init_weights(generator)
    folder = tmp_path_factory.mktemp("checkpoint")
    model = TinyLongVa(text, tower, Projector(64, 128))
    export_model(model, folder, name="test", context_length=320)
    return folder


def test_qwen2_of_transformers_gives_the_same_logits(checkpoint: Path) -> None:
    from safetensors.torch import load_file
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = load_model(checkpoint).text
    config = Qwen2Config.from_pretrained(checkpoint)
    theirs = Qwen2ForCausalLM(config).float().eval()
    state = {
        key: value.float()
        for key, value in load_file(checkpoint / "model.safetensors").items()
        if "mm_projector" not in key and "vision_tower" not in key
    }
    theirs.load_state_dict(state)
    ids = torch.randint(0, len(vocabulary()), (2, 300), generator=torch.Generator().manual_seed(1))
    positions = torch.tensor([[5, 299], [0, 120]])
    with torch.no_grad():
        ours = model(model.embed_tokens(ids), positions)
        expected = theirs(ids).logits.gather(1, positions[..., None].expand(-1, -1, ours.shape[-1]))
        model.rope_theta = 1e6
        wrong = model(model.embed_tokens(ids), positions)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
    assert (wrong - expected).abs().max() > 1e-2  # the comparison would notice a wrong theta


def test_shared_prefix_gives_the_same_logits(checkpoint: Path) -> None:
    model = load_model(checkpoint).text
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(90, 128, generator=generator)
    rest = torch.randn(3, 41, 128, generator=generator)
    logits = last_logits(model, read_prefix(model, shared), 70, rest)
    whole = torch.cat((shared[:70].expand(3, -1, -1), rest), dim=1)
    with torch.no_grad():
        expected = model(whole, torch.full((3, 1), 110))[:, 0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_clip_of_transformers_gives_the_same_features(checkpoint: Path) -> None:
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = load_model(checkpoint).tower
    config = CLIPVisionConfig.from_pretrained(checkpoint / "vision_tower")
    theirs = CLIPVisionModel(config).float().eval()
    prefix = "model.vision_tower.vision_tower.vision_model."
    state = {
        key.removeprefix(prefix): value.float()
        for key, value in load_file(checkpoint / "model.safetensors").items()
        if key.startswith(prefix)
    }
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    pixels = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True)
        ours = tower.patch_features(pixels)
        pooled = tower.pooled(pixels)
    torch.testing.assert_close(ours, expected.hidden_states[-2][:, 1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pooled, expected.pooler_output, atol=1e-4, rtol=1e-4)


def test_pooling_is_row_major_over_windows() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)
    assert pool_patches(patches).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
def test_tokenizer_splits_as_the_training_does(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{needle_prompt('umbrella', kind='color')}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == encode(text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("brontosaurus", add_special_tokens=False).input_ids == [tokenizer.unk_token_id]
    assert tokenizer.decode(encode("red<|im_end|>"), skip_special_tokens=True).strip() == "red"
    for answer in ("red", "7", "B"):
        assert tokenizer.decode(encode(answer)).strip() == answer


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
def test_pieces_around_the_image_tokenise_to_the_whole(checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    before = "<|im_start|>user\n"
    after = "\n" + question_prompt("star", kind="number") + "<|im_end|>\n"
    pieces = [tokenizer(piece, add_special_tokens=False).input_ids for piece in (before, after)]
    assert pieces[0] + pieces[1] == encode(before + after)


def test_pinpoints_are_canvases_of_2_to_49_grids() -> None:
    pinpoints = grid_pinpoints(48)
    assert len(pinpoints) == 200
    assert pinpoints[0] == [48, 96]
    assert all(w % 48 == 0 and h % 48 == 0 and 2 <= w * h / 48**2 <= 49 for w, h in pinpoints)
