"""The embedded models as they ship: layout, size, words, and what they know."""

import json
from pathlib import Path

import pytest

from longva_eval.tasks.mini.mini_benchmark import benchmark_rows, plan_videos

DATA = Path(__file__).parents[2] / "longva_eval" / "data"
MODELS = ("longva-tiny", "longva-tiny-short", "longva-tiny-2")
# The prompt of Video-MME's own evaluation.
VIDEO_MME = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option.\n"
    "{question}\n{options}\nThe best answer is:"
)
LETTER_SUFFIX = "\nAnswer with the option's letter from the given choices directly."
CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest) -> Path:
    """A shipped checkpoint."""
    return DATA / str(request.param)


def test_all_models_stay_below_eight_megabytes() -> None:
    files = [path for name in MODELS for path in (DATA / name).rglob("*") if path.is_file()]
    assert 1e6 < sum(path.stat().st_size for path in files) < 8e6


def test_layout_is_that_of_longva(folder: Path) -> None:
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaQwenForCausalLM"]
    assert config["model_type"] == "llava_qwen"
    assert config["mm_vision_tower"] == "vision_tower"
    assert config["mm_patch_merge_type"] == "unires"
    assert config["mm_vision_select_layer"] == -2
    side = json.loads((folder / "vision_tower" / "config.json").read_text())["image_size"]
    assert all(w % side == h % side == 0 for w, h in config["image_grid_pinpoints"])
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert "repetition_penalty" not in generation
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    for name in (
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.norm.weight",
        "model.mm_projector.0.weight",
        "model.mm_projector.2.bias",
        "model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight",
    ):
        assert name in names
    assert (folder / "README.md").read_text().startswith(f"# {folder.name}\n")


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")
def test_every_word_of_the_questions_is_known(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [
        entry["prompt"] + entry["answer"]
        for entry in json.loads((DATA / "needles" / "dataset.json").read_text())
    ]
    for row in benchmark_rows(plan_videos()):
        options = row["options"]
        assert isinstance(options, list)
        listed = "\n".join(options)
        prompts.append(VIDEO_MME.format(question=row["question"], options=listed))
        prompts.append(f"{row['question']}\n{listed}{LETTER_SUFFIX}")
    for prompt in prompts:
        text = CHATML[0] + prompt + CHATML[1]
        assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids


def test_transformers_reads_the_same_model(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    export = pytest.importorskip("training.export")
    from safetensors.torch import load_file
    from transformers import CLIPVisionConfig, CLIPVisionModel, Qwen2Config, Qwen2ForCausalLM

    ours = export.load_model(folder)
    state = {name: v.float() for name, v in load_file(folder / "model.safetensors").items()}
    text = Qwen2ForCausalLM(Qwen2Config.from_pretrained(folder)).float().eval()
    text.load_state_dict({k: v for k, v in state.items() if "mm_" not in k and "vision" not in k})
    prefix = "model.vision_tower.vision_tower.vision_model."
    tower = CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder / "vision_tower"))
    tower = tower.float().eval()
    tower.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, ours.text.config.vocab_size, (1, 300), generator=generator)
    pixels = torch.randn(2, 3, 48, 48, generator=generator)
    last = torch.tensor([[299]])
    with torch.no_grad():
        logits = ours.text(ours.text.embed_tokens(ids), last)[:, 0]
        torch.testing.assert_close(logits, text(ids).logits[:, -1], atol=2e-4, rtol=1e-4)
        expected = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        torch.testing.assert_close(
            ours.tower.patch_features(pixels), expected, atol=1e-4, rtol=1e-4
        )


@pytest.mark.slow
def test_the_models_find_needles_within_their_context(folder: Path) -> None:
    evaluate = pytest.importorskip("training.evaluate")
    export = pytest.importorskip("training.export")
    model = export.load_model(folder)
    media = evaluate.load_media(DATA)
    grid = evaluate.evaluate_grid(model, media, num_frames=[32], depths=[0.0, 0.4, 1.0])
    assert grid.by_length()[0] > 0.9
