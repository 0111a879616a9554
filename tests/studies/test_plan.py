"""The planner reproduces published arithmetic, counts what the engine computes, and stays light."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

from longva_eval import embedded
from longva_eval.commands.plan import main
from longva_eval.errors import CheckpointError, SettingsError
from longva_eval.needle.grid import LatticeGrid, NeedleGrid, insert_index
from longva_eval.needle.items import Item, Shown
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query, plan_visits
from longva_eval.studies.cost import (
    GPUS,
    PREFIX_TOKENS,
    activation_bytes,
    attention_flops,
    estimate_seconds,
    kv_bytes,
    linear_flops,
    logits_bytes,
    max_frames,
    plan_memory,
    prefill_flops,
    task_cost,
    weight_bytes,
)
from longva_eval.studies.needle_cost import GridCost, needle_cost
from longva_eval.studies.shape import LONGVA_7B, LlavaShape, ModelShape, read_model_shape
from longva_eval.text import parse_range, parse_whole_range

# The figures below are derived by hand (LongVA-7B, arithmetic of
# its own, made before this module). `rounded` allows half a unit of the last digit printed there.
PAPER_LENGTHS = tuple(range(200, 3001, 200))
PAPER_DEPTHS = tuple(parse_range("0:1:0.2", name="depths"))


def rounded(text: str) -> object:
    """The printed number, give or take its rounding."""
    digits = len(text.partition(".")[2])
    return pytest.approx(float(text), abs=0.5001 * 10**-digits, rel=0)


def grid_cost(
    shape: ModelShape, grid: NeedleGrid | LatticeGrid, num_needles: int = 5, **tokens: int
) -> GridCost:
    item = Item(name="", needles=(Shown(),), question="", answer="")
    return needle_cost(shape, [item] * num_needles, grid, controls=False, **tokens)


def paper_grid(num_needles: int = 5) -> GridCost:
    return grid_cost(
        LONGVA_7B, NeedleGrid(frame_counts=PAPER_LENGTHS, depths=PAPER_DEPTHS), num_needles
    )


def test_weights_and_cache_of_longva_7b() -> None:
    assert kv_bytes(LONGVA_7B, 1) == 57_344 == 56 * 1024
    assert LONGVA_7B.tokens_per_frame == 144
    assert kv_bytes(LONGVA_7B, 144) / 1e6 == rounded("8.26")
    assert LONGVA_7B.num_layers * LONGVA_7B.layer_parameters / 1e9 == rounded("6.525")
    assert LONGVA_7B.language_parameters / 1e9 == rounded("7.616")
    assert 2 * LONGVA_7B.language_parameters / 1e9 == rounded("15.23")
    assert 2 * LONGVA_7B.language_parameters / 2**30 == rounded("14.19")
    # Tower (23 of 24 layers) and projector come on top.
    assert weight_bytes(LONGVA_7B) / 1e9 == rounded("15.85")
    assert weight_bytes(LONGVA_7B, dtype="float32") == 2 * weight_bytes(LONGVA_7B)


# Table C.2: tokens, linear, attention and all PFLOP, attention in percent, KV and logits in GB.
@pytest.mark.parametrize(
    ("num_tokens", "linear", "attention", "total", "percent", "cache", "logits"),
    [
        (1_000, "0.0131", "0.0002", "0.0133", "1.5", "0.06", "0.6"),
        (32_000, "0.418", "0.206", "0.623", "33.0", "1.84", "19.5"),
        (144_000, "1.879", "4.162", "6.041", "68.9", "8.26", "87.6"),
        (224_000, "2.923", "10.071", "12.994", "77.5", "12.85", "136.2"),
        (432_000, "5.638", "37.456", "43.094", "86.9", "24.77", "262.8"),
    ],
)
def test_prefill_of_longva_7b(
    num_tokens: int, linear: str, attention: str, total: str, percent: str, cache: str, logits: str
) -> None:
    flops = prefill_flops(LONGVA_7B, num_tokens)
    assert linear_flops(LONGVA_7B, num_tokens) / 1e15 == rounded(linear)
    assert attention_flops(LONGVA_7B, num_tokens) / 1e15 == rounded(attention)
    assert flops / 1e15 == rounded(total)
    assert 100 * attention_flops(LONGVA_7B, num_tokens) / flops == rounded(percent)
    assert kv_bytes(LONGVA_7B, num_tokens) / 1e9 == rounded(cache)
    assert logits_bytes(LONGVA_7B, num_tokens) / 1e9 == rounded(logits)


def test_flops_a_token_and_where_attention_overtakes() -> None:
    assert linear_flops(LONGVA_7B, 1) / 1e9 == rounded("13.05")
    assert attention_flops(LONGVA_7B, 1) == 200_704
    assert linear_flops(LONGVA_7B, 65_024) / attention_flops(LONGVA_7B, 65_024) == pytest.approx(
        1, abs=1e-4
    )
    seconds = estimate_seconds(prefill_flops(LONGVA_7B, 432_000), GPUS["h100"])
    assert seconds == rounded("87.1")


def test_vision_flops_of_a_frame() -> None:
    # The published 0.383 TFLOP are the tower alone with all 24 layers (0.382 counted here). We
    # compute 23 of them, and the projector for all 576 patches: 0.385.
    assert LONGVA_7B.vision_flops(1) / 1e12 == pytest.approx(0.383, rel=0.006)
    assert LONGVA_7B.vision_flops(3000) == 3000 * LONGVA_7B.vision_flops(1)


def test_3000_frames_fit_one_48_gb_card() -> None:
    memory = plan_memory(LONGVA_7B, 432_000)
    assert memory.peak / 1e9 == pytest.approx(45.9, abs=0.1)
    assert memory.peak <= GPUS["l40s"].memory_bytes
    # The visual tokens of all frames are in it.
    assert memory.visual_tokens >= 3000 * 144 * LONGVA_7B.hidden_size * 2
    # Gate and up of all positions at once would be 32.7 GB more.
    assert activation_bytes(LONGVA_7B, 432_000) > 32.7e9
    assert plan_memory(LONGVA_7B, 432_000, dtype="float32").peak > GPUS["h100"].memory_bytes


def test_most_frames_fit_and_one_more_does_not() -> None:
    for gpu in GPUS.values():
        frames = max_frames(LONGVA_7B, gpu.memory_bytes)
        peaks = [plan_memory(LONGVA_7B, 74 + 144 * count).peak for count in (frames, frames + 1)]
        assert peaks[0] <= gpu.memory_bytes < peaks[1]
    assert max_frames(LONGVA_7B, 10 * 10**9) == 0


@pytest.mark.slow
def test_the_papers_needle_grid() -> None:
    """Table C.3; hours at half of an H100's peak."""
    cost = paper_grid()
    assert (cost.num_cells, cost.num_indices) == (450, 45)
    assert cost.naive_tokens / 1e6 == rounded("103.8")
    assert cost.shared_tokens / 1e6 == rounded("31.5")
    assert cost.naive_tokens / cost.shared_tokens == rounded("3.30")
    table = [
        (cost.naive_flops, "7.556", "4.24"),
        (cost.shared_flops, "3.232", "1.81"),
    ]
    for flops, exa, hours in table:
        assert flops / 1e18 == rounded(exa)
        assert estimate_seconds(flops, GPUS["h100"]) / 3600 == rounded(hours)
    assert cost.factor == rounded("2.34")
    assert (paper_grid(1).factor, paper_grid(50).factor) == (rounded("2.22"), rounded("2.37"))


@pytest.mark.parametrize(
    ("step", "num_cells", "exa", "factor"),
    [(200, 675, "2.240", "6.96"), (600, 250, "0.842", "6.70")],
)
def test_lattice_grids(step: int, num_cells: int, exa: str, factor: str) -> None:
    cost = grid_cost(LONGVA_7B, LatticeGrid(frame_counts=PAPER_LENGTHS, step=step))
    assert cost.num_cells == num_cells
    assert cost.shared_flops / 1e18 == rounded(exa)
    assert cost.factor == rounded(factor)


# From a prototype: cells, tokens and FLOPs of one prefill a cell over the tree.
@pytest.mark.parametrize(
    ("lengths", "num_cells", "tokens", "flops"),
    [("8:32:8", 120, "2.70", "2.64"), ("50:1000:50", 600, "3.36", "2.58")],
)
def test_small_grids(lengths: str, num_cells: int, tokens: str, flops: str) -> None:
    cost = grid_cost(
        LONGVA_7B,
        NeedleGrid(frame_counts=parse_whole_range(lengths, name="grid"), depths=PAPER_DEPTHS),
        question_tokens=40,  # with the 60 of the paper's grid the first would be 2.67 and 2.61
    )
    assert cost.num_cells == num_cells
    assert cost.naive_tokens / cost.shared_tokens == rounded(tokens)
    assert cost.factor == rounded(flops)


# Table C.4: frames, hours at half of an H100's peak, once a question and once a video.
@pytest.mark.parametrize(
    ("num_frames", "naive", "shared", "factor"),
    [
        (8, "0.03", "0.01", "2.61"),
        (32, "0.12", "0.04", "2.88"),
        (128, "0.55", "0.18", "2.96"),
        (384, "2.25", "0.76", "2.98"),
        (1024, "10.1", "3.4", "2.99"),
    ],
)
def test_video_mme(num_frames: int, naive: str, shared: str, factor: str) -> None:
    cost = task_cost(LONGVA_7B, num_videos=900, questions_per_video=3, num_frames=num_frames)
    assert estimate_seconds(cost.naive_flops, GPUS["h100"]) / 3600 == rounded(naive)
    assert estimate_seconds(cost.shared_flops, GPUS["h100"]) / 3600 == rounded(shared)
    assert cost.factor == rounded(factor)
    assert (cost.naive_videos, cost.shared_videos) == (2700, 900)


TINY = LlavaShape(
    name="tiny",
    hidden_size=8,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=2,
    intermediate_size=12,
    vocab_size=32,
    vision_hidden_size=4,
    vision_intermediate_size=8,
    vision_layers=2,
    image_size=8,
    patch_size=2,  # 4 x 4 patches, pooled to 2 x 2 tokens
)
places = st.lists(st.integers(1, 7), min_size=1, max_size=4)
depth_lists = st.lists(st.floats(0, 1), min_size=1, max_size=4)


def grid_prompts(
    lengths: list[int], indices: Callable[[int], list[int]], num_needles: int, question_tokens: int
) -> list[Prompt]:
    """The prompts of a needle grid, with two tokens before the frames."""
    size = TINY.tokens_per_frame
    haystack = [VisualPiece(f"frame {n}", size, None) for n in range(max(lengths))]
    prompts = []
    for length in lengths:
        for index in indices(length):
            for needle in range(num_needles):
                frames = haystack[:length]
                frames.insert(index, VisualPiece(f"needle {needle}", size, None))
                question = TextPiece(tuple(range(question_tokens)))
                prompts.append(Prompt((TextPiece((90, 91)), *frames, question)))
    return prompts


def tokens_of(prompt: Prompt) -> list[object]:
    """One distinct object a token."""
    tokens: list[object] = []
    for piece in prompt.pieces:
        if isinstance(piece, TextPiece):
            tokens.extend(piece.token_ids)
        else:
            tokens.extend((piece.key, place) for place in range(piece.num_tokens))
    return tokens


def check_against_prefixes(cost: GridCost, prompts: list[Prompt]) -> None:
    """Every distinct prefix is one node of the tree: a token, computed once."""
    nodes = {
        tuple(tokens_of(prompt)[: n + 1]) for prompt in prompts for n in range(prompt.num_tokens)
    }
    lengths = [len(node) for node in nodes]
    assert cost.shared_tokens == len(nodes)
    flops = sum(prefill_flops(TINY, n, cached_tokens=n - 1) for n in lengths)
    assert cost.shared_flops == flops
    assert cost.naive_tokens == sum(prompt.num_tokens for prompt in prompts)
    assert cost.naive_flops == sum(prefill_flops(TINY, p.num_tokens) for p in prompts)
    assert cost.shared_flops <= cost.naive_flops
    assert cost.longest_tokens == max(prompt.num_tokens for prompt in prompts)


@pytest.mark.slow
@given(places, depth_lists, st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_stock_grid_counts_distinct_prefixes(
    lengths: list[int], depths: list[float], num_needles: int, question_tokens: int
) -> None:
    cost = grid_cost(
        TINY,
        NeedleGrid(frame_counts=tuple(lengths), depths=tuple(depths)),
        num_needles,
        prefix_tokens=2,
        question_tokens=question_tokens,
    )
    prompts = grid_prompts(
        lengths,
        lambda length: [insert_index(length, depth) for depth in depths],
        num_needles,
        question_tokens,
    )
    check_against_prefixes(cost, prompts)


@pytest.mark.slow
@given(places, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_lattice_grid_counts_distinct_prefixes(
    lengths: list[int], step: int, num_needles: int, question_tokens: int
) -> None:
    cost = grid_cost(
        TINY,
        LatticeGrid(frame_counts=tuple(lengths), step=step),
        num_needles,
        prefix_tokens=2,
        question_tokens=question_tokens,
    )
    prompts = grid_prompts(
        lengths, lambda length: list(range(0, length + 1, step)), num_needles, question_tokens
    )
    check_against_prefixes(cost, prompts)


@given(st.sets(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_the_engine_computes_as_many_tokens_as_planned(
    lengths: set[int], step: int, num_needles: int
) -> None:
    """No cell of a lattice comes twice, so the engine has no last token to compute again."""
    prompts = grid_prompts(
        sorted(lengths), lambda length: list(range(0, length + 1, step)), num_needles, 3
    )
    cost = grid_cost(
        TINY,
        LatticeGrid(frame_counts=tuple(sorted(lengths)), step=step),
        num_needles,
        prefix_tokens=2,
        question_tokens=3,
    )
    visits = plan_visits([Query(prompt) for prompt in prompts], chunk_tokens=16)
    asked = sum(prompt.num_tokens for prompt in prompts)
    assert (asked, asked - sum(visits.kept)) == (cost.naive_tokens, cost.shared_tokens)


def test_the_engine_computes_as_many_tokens_as_planned_for_a_task() -> None:
    frames = [[VisualPiece(f"{video}-{n}", 4, None) for n in range(5)] for video in range(3)]
    prompts = [
        Prompt((TextPiece((1,)), *video, TextPiece((question, 9))))
        for question in range(4)
        for video in frames
    ]
    cost = task_cost(
        TINY,
        num_videos=3,
        questions_per_video=4,
        num_frames=5,
        prefix_tokens=1,
        question_tokens=2,
    )
    visits = plan_visits([Query(prompt) for prompt in prompts], chunk_tokens=16)
    asked = sum(prompt.num_tokens for prompt in prompts)
    # The engine also shares the token before the frames between the three videos.
    assert (asked, asked - sum(visits.kept)) == (cost.naive_tokens, cost.shared_tokens - 2)


@given(num_videos=st.integers(1, 50), questions=st.integers(1, 9), num_frames=st.integers(1, 4000))
def test_a_video_once_never_costs_more_and_at_most_its_questions_less(
    num_videos: int, questions: int, num_frames: int
) -> None:
    cost = task_cost(
        LONGVA_7B, num_videos=num_videos, questions_per_video=questions, num_frames=num_frames
    )
    assert cost.shared_flops <= cost.naive_flops <= questions * cost.shared_flops


def test_the_shape_of_a_checkpoint_counts_its_parameters(open_golden: Golden) -> None:
    shape = read_model_shape(open_golden.folder / "longva_tiny")
    model = open_golden.session.checkpoint.model
    newline = 0 if not hasattr(model.model, "image_newline") else model.config.hidden_size
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert shape.language_parameters + shape.vision_parameters + newline == counted
    assert shape.tokens_per_frame == 144


def test_longva_7b_is_what_its_config_says(tmp_path: Path) -> None:
    raw = {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_vision_select_layer": -2,
        "mm_spatial_pool_stride": 2,
    }
    folder = tmp_path / "LongVA-7B"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(raw))
    assert read_model_shape(folder) == LONGVA_7B


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, r"config\.json has hidden_size=None; a whole number is needed"),
        ({"num_key_value_heads": 4}, "6 heads cannot share 4 KV heads"),
        ({"mm_vision_tower": "siglip"}, "names the vision tower 'siglip'"),
        (
            {"mm_vision_select_layer": -9},
            r"mm_vision_select_layer=-9 is outside of a tower of \d layers",
        ),
    ],
)
def test_a_config_that_cannot_be_is_named(
    copy_checkpoint: Callable[[], Path], change: dict[str, object], message: str
) -> None:
    path = copy_checkpoint() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change))
    with pytest.raises(CheckpointError, match=message):
        read_model_shape(path.parent)


def test_a_missing_or_broken_config_is_named(tmp_path: Path) -> None:
    for content in (None, "{", "[]"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(
            CheckpointError, match=r"config\.json (is missing|is not valid JSON|holds list)"
        ):
            read_model_shape(tmp_path)


def plan(arguments: str) -> int:
    return main(arguments.split())


def test_the_command_answers_the_first_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model 7b --frames 3000 --gpu 48GB --gpu-name h100") == 0
    printed = capsys.readouterr().out
    assert "432,074 tokens = 3,000 frames x 144 + 74 of text" in printed
    assert "432,074 tokens x 57,344 bytes" in printed
    assert "activations of a chunk of 8,192 tokens" in printed
    assert printed.endswith("Fits: the peak of 45.89 GB leaves 2.11 GB of 48 GB.\n")
    table = printed.split("\n\n")[1].splitlines()
    assert len({len(line) for line in table}) == 1, "columns are aligned"


@pytest.mark.slow
def test_the_command_compares_grids_and_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    plan(
        "--gpu 48GB --gpu-name h100 --grid 200:3000:200 --depths 0:1:0.2 --needles 5 "
        "--utilization 0.5"
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["language", "model,", "EFLOP", "7.56", "3.23", "2.34x"] in lines
    assert any(line[-4:] == ["4.24", "h", "1.81", "h"] for line in lines)

    plan("--frames 3000 --lattice 200 --gpu-name h100")
    assert "6.96x" in capsys.readouterr().out
    plan("--grid 200:3000:200 --lattice 600")
    assert "6.70x" in capsys.readouterr().out

    plan("--frames 384 --task videomme --videos 10 --questions 2")
    printed = capsys.readouterr().out
    assert "videomme: 10 videos, 20 questions, 384 frames" in printed
    assert "it fits h100, h200, a100, l40s, rtx4090" in printed


def test_time_is_of_the_back_end_as_measured_or_computed_from_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def times(arguments: str) -> dict[str, str]:
        plan(f"--frames 1023 {arguments}")  # 147,386 tokens
        lines = capsys.readouterr().out.splitlines()
        rows = [line.strip().rsplit("  ", 1) for line in lines if line.startswith("  time at")]
        return {label.strip(): value.strip() for label, value in rows}

    flops = prefill_flops(LONGVA_7B, 147_386) + LONGVA_7B.vision_flops(1023)
    found = times("--attention fa3")
    assert found["time at 62% of 989 TFLOP/s, fa3 measured (h200)"] == f"{flops / 616e12:.1f} s"
    assert "time at 62% of 989 TFLOP/s, fa3 computed (h100)" in found
    assert len(found) == 2, "it is for these alone"
    with pytest.raises(SettingsError, match="fa3 runs on h100, h200, not on a100"):
        plan("--frames 8 --attention fa3 --gpu-name a100")
    assert sum("computed" in label for label in times("")) == 4
    own = times("--utilization 0.4 --gpu-name h200")
    assert own == {"time at 40% of 989 TFLOP/s (h200)": f"{flops / 0.4 / 989.4e12:.1f} s"}
    assert all(label.endswith("assumed (h100, h200)") or "assumed" in label
               for label in times("--dtype float32"))  # fmt: skip


def test_decoding_is_counted_once_a_video(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--frames", "128", "--task", "videomme", "--decode-seconds", "0.5"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "decoding beside it" in line]
    prompt, task = (line.split("a frame")[1].split() for line in lines)
    assert prompt == ["64.0", "s"]
    assert task == ["48.0", "h", "16.0", "h"]  # 2,700 and 900 times 64 s
    plan("--frames 1000")
    lines = [line.split(" frame, ")[1] for line in capsys.readouterr().out.splitlines()
             if "decoding beside it" in line]  # fmt: skip
    assert [line.split() for line in lines] == [
        ["uniform", "44.0", "s"],
        ["one", "a", "second", "15.0", "s"],
    ]
    with pytest.raises(SettingsError, match=r"--decode-seconds -1\.0 must be at least 0"):
        main(["--frames", "8", "--decode-seconds", "-1"])


def test_the_command_says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    plan("--frames 3000 --gpu 24GB")
    printed = capsys.readouterr().out
    assert "Does not fit: the peak of 45.30 GB is 21.30 GB more than 24 GB." in printed
    assert "activations of a chunk of 4,096 tokens" in printed  # as a run on such a card takes
    frames = max_frames(LONGVA_7B, 24 * 10**9, chunk_tokens=4096)
    assert f"- at most {frames:,} frames" in printed
    assert "- a GPU with at least 46 GB (h100, h200, a100, l40s)" in printed

    plan("--frames 3000 --gpu 48GiB --chunk-tokens 100000")
    assert "- --chunk-tokens 25000" in capsys.readouterr().out
    plan("--frames 3000 --gpu 80GB --dtype float32")
    assert "- --dtype bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Pass --frames"),
        ("--frames 0", "--frames 0 must be at least 1"),
        ("--frames 8 --gpu lots", "--gpu 'lots' is not an amount of memory such as 48GB"),
        ("--frames 8 --gpu 0GB", "--gpu '0GB' is not an amount"),
        ("--frames 8 --gpu-name v2", "--gpu-name 'v2' is unknown; use h100, h200"),
        ("--frames 8 --utilization 0", "utilization=0.0 must be above 0 and at most 1"),
        ("--frames 8 --chunk-tokens 0", "chunk_tokens=0 must be auto, or at least 1"),
        ("--frames 8 --task mlvu", "--task 'mlvu' is unknown; use videomme"),
        ("--task videomme", "--task needs --frames"),
        ("--frames 8 --videos 9", "--videos has no effect without --task"),
        ("--frames 8 --task videomme --videos 0", "videos=0 must be at least 1"),
        ("--frames 8 --needles 9", "--needles has no effect without --grid or --lattice"),
        ("--frames 8 --depths 0,1", "--depths has no effect without --grid"),
        ("--frames 8 --lattice 4 --depths 0,1", "--depths has no effect"),
        ("--lattice 4", "--lattice needs --frames"),
        ("--frames 8 --lattice 0", "--lattice 0 must be at least 1"),
        ("--frames 8 --lattice 9", "--lattice 9 is more than --frames 8"),
        ("--grid 8:x", "--grid '8:x' is neither START:STOP:STEP nor a list"),
        ("--grid 8,9.5", "--grid must be whole numbers"),
        ("--grid 0,8", "frames=0 must be at least 1"),
        ("--grid 8 --needles 0", "needles=0 must be at least 1"),
        ("--grid 8 --depths 0,2", r"depths=\[0.0, 2.0\] must lie between 0 and 1"),
        ("--frames 8 --task mlvu --videos 9", "For any other task give both --videos"),
        ("--frames 8 --task longva_videomme_subtitles", "is unknown; use videomme"),
        ("--model LongVA-8B --frames 8", "neither 7b .*, nor an embedded checkpoint"),
    ],
)
def test_the_command_refuses(arguments: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan(arguments)


@pytest.mark.parametrize("setting", ["--utilization 40", "--task videomme --videos 0"])
def test_a_setting_that_cannot_be_is_refused_before_anything_is_printed(
    setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match="must be"):
        plan(f"--frames 8 {setting}")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "same"),
    [
        ("--pretrained lmms-lab/LongVA-7B --frames 8", "--model 7b --frames 8"),
        ("--grid 8,16 --num-needles 3", "--grid 8,16 --needles 3"),
        (
            "--frames 8 --task longva_videomme_long",
            "--frames 8 --task longva_videomme_long --videos 300 --questions 3",
        ),
    ],
)
def test_the_command_takes_the_names_of_the_other_commands(
    arguments: str, same: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(arguments)
    printed = capsys.readouterr().out
    plan(same)
    assert printed == capsys.readouterr().out


def test_any_task_is_planned_from_its_videos_and_questions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan("--frames 8 --task mlvu --videos 10 --questions 2")
    assert "mlvu: 10 videos, 20 questions, 8 frames" in capsys.readouterr().out


def test_an_embedded_checkpoint_is_known_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(iter(embedded.CHECKPOINTS))
    main(["--model", name, "--frames", "4"])
    text_tokens = PREFIX_TOKENS + 60
    assert f"{name}, bfloat16: {4 * 4 + text_tokens:,} tokens" in capsys.readouterr().out


@pytest.mark.process
def test_the_command_imports_no_torch() -> None:
    code = (
        "import sys; from longva_eval.commands.plan import main; "
        "main('--frames 3000 --gpu 48GB --grid 200:3000:200 --task videomme'.split()); "
        "print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
