"""Measure exported models: the needle grid, its text twin, the controls, the mini benchmark.

    python -m training.evaluate --run runs/seed0 --media longva_eval/data --out runs/seed0/eval.json

Everything is read back from the exported files (bfloat16 weights, H.264 frames, the Pillow CLIP
processor of the checkpoint); the forward pass is the training's own, which a test compares with
transformers. RoPE theta for the scaled baseline is chosen with `--choose-theta` on tuning media.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from longva_eval.tasks.mini.mini_benchmark import generate_mini_benchmark
from training.export import TinyLongVa, load_model
from training.images import normalize, prepare
from training.prefix import Prefix, last_logits, read_prefix
from training.textdata import VIDEO_MME_PREFIX
from training.vision import visual_tokens
from training.vocabulary import CHATML_END, CHATML_START, LETTERS, encode, token_id

__all__ = ["Grid", "Media", "evaluate_grid", "evaluate_mini_benchmark", "load_media", "main"]

NUM_FRAMES: Final = (16, 32, 64, 128, 256, 512, 1024)
DEPTHS: Final = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
TOKENS_PER_FRAME: Final = 4
_LETTERS: Final = [token_id(letter) for letter in LETTERS]
MINI_FRAMES: Final = (8, 16, 32, 64, 128, 256)
THETAS: Final = (2e4, 3e4, 5e4, 1e5)
# Sequences of one forward pass are limited by their total length.
_TOKENS_PER_BATCH: Final = 16384


@dataclass(frozen=True)
class Media:
    """A haystack and needles."""

    haystack: np.ndarray
    """(num_frames, side, side, 3) uint8, decoded from H.264."""
    needles: np.ndarray
    """(num_needles, side, side, 3) uint8."""
    prompts: list[str]
    answers: list[str]
    haystack_captions: list[list[str]]
    needle_captions: list[list[str]]


def load_media(folder: Path) -> Media:
    """Decode a haystack by the stride rule and read its needles."""
    from decord import VideoReader

    reader = VideoReader(str(folder / "haystack.mp4"))
    stride = round(reader.get_avg_fps())
    frames = reader.get_batch(range(0, len(reader), stride)).asnumpy()
    entries = json.loads((folder / "needles" / "dataset.json").read_text())
    captions = json.loads((folder / "captions.json").read_text())
    needles = [
        np.asarray(Image.open(folder / "needles" / entry["path"]).convert("RGB"))
        for entry in entries
    ]
    return Media(
        haystack=frames,
        needles=np.stack(needles),
        prompts=[entry["prompt"] for entry in entries],
        answers=[entry["answer"] for entry in entries],
        haystack_captions=captions["haystack"],
        needle_captions=[captions["needles"][entry["path"]] for entry in entries],
    )


def _encode_frames(model: TinyLongVa, frames: np.ndarray) -> Tensor:
    """Visual tokens, (num_frames, 4, hidden_size); frames are square, so padding does nothing."""
    size = model.tower.config.image_size
    pixels = np.stack([prepare(Image.fromarray(frame), size) for frame in frames])
    with torch.no_grad():
        return visual_tokens(model.projector, model.tower.patch_features(normalize(pixels)))


def _encode_captions(model: TinyLongVa, captions: Sequence[Sequence[str]]) -> Tensor:
    """The same shape from words: the text twin of a video."""
    ids = torch.tensor([[encode(word)[0] for word in caption] for caption in captions])
    with torch.no_grad():
        embeddings: Tensor = model.text.embed_tokens(ids)
    return embeddings


def _predict(model: TinyLongVa, prefix: Prefix, length: int, rests: Sequence[Tensor]) -> list[int]:
    """The most likely next token after each of some sequences that begin alike.

    Args:
        model: The model.
        prefix: What they begin with.
        length: How much of it, in tokens.
        rests: What follows, (tokens, hidden_size) each.
    """
    predicted = [0] * len(rests)
    for size in sorted({len(rest) for rest in rests}):
        chosen = [i for i, rest in enumerate(rests) if len(rest) == size]
        batch = max(1, _TOKENS_PER_BATCH // size)
        for start in range(0, len(chosen), batch):
            part = chosen[start : start + batch]
            logits = last_logits(model.text, prefix, length, torch.stack([rests[i] for i in part]))
            for i, token in zip(part, logits.argmax(-1).tolist(), strict=True):
                predicted[i] = token
    return predicted


@dataclass
class Grid:
    """Right answers of every cell and needle."""

    num_frames: list[int]
    depths: list[float]
    correct: list[list[list[bool]]]
    """[length][depth][needle]."""

    def by_length(self) -> list[float]:
        """Accuracy at each length, over depths and needles."""
        return [float(np.mean(cells)) for cells in self.correct]

    def by_depth(self, length_index: int) -> list[float]:
        """Accuracy at each depth of one length."""
        return [float(np.mean(cell)) for cell in self.correct[length_index]]


def evaluate_grid(
    model: TinyLongVa,
    media: Media,
    *,
    num_frames: Sequence[int] = NUM_FRAMES,
    depths: Sequence[float] = DEPTHS,
    rope_theta: float | None = None,
    as_text: bool = False,
    with_needle: bool = True,
) -> Grid:
    """V-NIAH with teacher forcing over the whole vocabulary; answers are one token.

    Args:
        model: The model.
        media: Haystack and needles.
        num_frames: Lengths of the haystack.
        depths: Where the needle is put, at `int(depth * num_frames)`.
        rope_theta: Another RoPE theta than the model's.
        as_text: Whether frames are given as the words of their captions: the text twin.
        with_needle: Whether the needle is there; if not, a haystack frame takes its place (the
            control), and each depth uses another window of the haystack.
    """
    trained_theta = model.text.rope_theta
    if rope_theta is not None:
        model.text.rope_theta = rope_theta
    if as_text:
        haystack = _encode_captions(model, media.haystack_captions)
        needles = _encode_captions(model, media.needle_captions)
    else:
        haystack = _encode_frames(model, media.haystack)
        needles = _encode_frames(model, media.needles)
    with torch.no_grad():
        words = model.text.embed_tokens
        start = words(torch.tensor(encode(CHATML_START)))
        questions = [words(torch.tensor(encode(p) + encode(CHATML_END))) for p in media.prompts]
    expected = [encode(answer)[0] for answer in media.answers]
    # All haystacks begin alike, so one pass over the longest gives every cell its beginning.
    longest = torch.cat((start, haystack[: max(num_frames)].flatten(0, 1)))
    prefix = read_prefix(model.text, longest)
    correct = []
    for length in num_frames:
        rows = []
        for depth_index, depth in enumerate(depths):
            if with_needle:
                index = int(depth * length)
                known = len(start) + TOKENS_PER_FRAME * index
                tail = haystack[index:length].flatten(0, 1)
                rests = [
                    torch.cat((needle, tail, question))
                    for needle, question in zip(needles, questions, strict=True)
                ]
                predicted = _predict(model, prefix, known, rests)
            else:
                shift = depth_index * (len(haystack) - length - 1) // len(depths)
                window = haystack[shift : shift + length + 1].flatten(0, 1)
                own = read_prefix(model.text, torch.cat((start, window)))
                predicted = _predict(model, own, len(start) + len(window), questions)
            rows.append([p == e for p, e in zip(predicted, expected, strict=True)])
        correct.append(rows)
    model.text.rope_theta = trained_theta
    return Grid(list(num_frames), list(depths), correct)


def needle_only(model: TinyLongVa, media: Media) -> float:
    """Accuracy when the needle is the only frame."""
    grid = evaluate_grid(model, media, num_frames=[0], depths=[0.0])
    return grid.by_length()[0]


def evaluate_mini_benchmark(
    model: TinyLongVa,
    folder: Path,
    *,
    seed: int,
    num_frames: Sequence[int] = MINI_FRAMES,
) -> dict[str, Any]:
    """Accuracy on the mini benchmark by number of frames, and without any.

    Args:
        model: The model.
        folder: Where the videos are or are put.
        seed: Seed of the benchmark.
        num_frames: Frames per video, at most; a shorter video gives all it has.

    Returns:
        `accuracy` by duration and number of frames, `gain`, `no_answer`, `right`; and what share of
        answers is a letter (`letters`) and the right one (`right_letters`), by number of frames.
    """
    from decord import VideoReader

    rows = generate_mini_benchmark(folder, seed=seed)
    names = list(dict.fromkeys(str(row["videoID"]) for row in rows))
    videos = {}
    for name in names:
        reader = VideoReader(str(folder / f"{name}.mp4"))
        frames = reader.get_batch(range(len(reader))).asnumpy()
        videos[name] = _encode_frames(model, frames)
    with torch.no_grad():
        words = model.text.embed_tokens
        start = words(torch.tensor(encode(CHATML_START)))
    prefix = read_prefix(model.text, start)
    right: dict[str, list[bool]] = {}
    unread: dict[str, int] = {}
    letters: dict[str, float] = {}
    right_letters: dict[str, float] = {}
    for count in (0, *num_frames):
        sequences = []
        readings: list[dict[int, str]] = []
        for row in rows:
            frames = videos[str(row["videoID"])]
            listed: list[str] = row["options"]  # type: ignore[assignment]  # a list of texts
            # The model answers with an option's word or its letter; anything else is no answer.
            readings.append(
                {encode(option[3:])[0]: option[0] for option in listed}
                | {encode(option[0])[0]: option[0] for option in listed}
            )
            options = "\n".join(listed)
            text = f"\n{VIDEO_MME_PREFIX}{row['question']}\n{options}\nThe best answer is:"
            chosen = np.linspace(0, len(frames) - 1, min(count, len(frames)), dtype=int)
            with torch.no_grad():
                question = words(torch.tensor(encode(text) + encode(CHATML_END)))
            sequences.append(torch.cat((frames[chosen].flatten(0, 1), question)))
        predicted = _predict(model, prefix, len(start), sequences)
        read = [reading.get(token) for reading, token in zip(readings, predicted, strict=True)]
        right[str(count)] = [r == row["answer"] for r, row in zip(read, rows, strict=True)]
        unread[str(count)] = read.count(None)
        is_letter = [token in _LETTERS for token in predicted]
        letters[str(count)] = float(np.mean(is_letter))
        right_letters[str(count)] = float(np.mean(np.logical_and(right[str(count)], is_letter)))
    table = {
        duration: {
            count: float(
                np.mean(
                    [ok for ok, row in zip(oks, rows, strict=True) if row["duration"] == duration]
                )
            )
            for count, oks in right.items()
        }
        for duration in ("short", "medium", "long")
    }
    gains = {}
    low, high = str(num_frames[0]), str(num_frames[-1])
    for duration in table:
        differences: dict[str, int] = {}
        for index, row in enumerate(rows):
            if row["duration"] == duration:
                video = str(row["videoID"])
                change = int(right[high][index]) - int(right[low][index])
                differences[video] = differences.get(video, 0) + change
        gains[duration] = {
            "points": 100 * (table[duration][high] - table[duration][low]),
            "p": sign_flip_p(list(differences.values())),
        }
    return {
        "accuracy": table, "gain": gains, "no_answer": unread, "right": right,
        "letters": letters, "right_letters": right_letters,
    }  # fmt: skip


def sign_flip_p(differences: Sequence[float], *, draws: int = 100_000) -> float:
    """Two-sided p of a paired randomisation test, one difference per cluster.

    Exact when there are at most 16 clusters that differ, else by random signs.
    """
    values = np.array([d for d in differences if d], dtype=float)
    if not len(values):
        return 1.0
    observed = abs(values.sum())
    if len(values) <= 16:
        bits = np.arange(2 ** len(values))[:, None] >> np.arange(len(values)) & 1
        sums = np.abs((1 - 2 * bits) @ values)
        return float(np.mean(sums >= observed - 1e-9))
    signs = np.random.default_rng(0).choice((-1, 1), (draws, len(values)))
    return float((np.sum(np.abs(signs @ values) >= observed - 1e-9) + 1) / (draws + 1))


def compare_grids(first: Grid, second: Grid) -> list[dict[str, float]]:
    """Paired test over needles at each length: difference of accuracies, second minus first."""
    results = []
    for index, length in enumerate(first.num_frames):
        a = np.array(first.correct[index], dtype=float).mean(0)  # one value per needle
        b = np.array(second.correct[index], dtype=float).mean(0)
        results.append(
            {
                "num_frames": length,
                "difference": float((b - a).mean()),
                "p": sign_flip_p((b - a).tolist()),
            }
        )
    return results


def _print_grid(name: str, grid: Grid) -> None:
    row = " ".join(f"{value:5.2f}" for value in grid.by_length())
    print(f"{name:28s} {row}", flush=True)


def _grid_json(grid: Grid) -> dict[str, Any]:
    return {
        "num_frames": grid.num_frames,
        "depths": grid.depths,
        "accuracy": grid.by_length(),
        "by_depth": [grid.by_depth(i) for i in range(len(grid.num_frames))],
        "correct": [[[int(c) for c in cell] for cell in row] for row in grid.correct],
    }


def choose_theta(model: TinyLongVa, media: Media) -> tuple[float, dict[str, list[float]]]:
    """The theta with the best mean accuracy from 64 to 512 frames, on tuning media."""
    scores = {}
    for theta in THETAS:
        grid = evaluate_grid(
            model, media, num_frames=(64, 128, 256, 512), depths=(0.0, 0.4, 0.8), rope_theta=theta
        )
        scores[f"{theta:g}"] = grid.by_length()
        _print_grid(f"tuning: short, theta {theta:g}", grid)
    best = max(scores, key=lambda name: sum(scores[name]))
    return float(best), scores


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate one training run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--media", type=Path, default=Path("longva_eval/data"))
    parser.add_argument("--tuning-media", type=Path, default=Path("runs/tuning_media"))
    parser.add_argument("--mini-folder", type=Path, default=Path("runs/mini"))
    parser.add_argument("--mini-seed", type=int, required=True)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="only the long model, for choices")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    random.seed(0)
    media = load_media(options.media)
    long_model = load_model(options.run / "longva-tiny")
    short_model = load_model(options.run / "longva-tiny-short")
    results: dict[str, Any] = {"run": str(options.run), "media": str(options.media)}
    floor = float(np.mean([1 / 8 if not a.isdigit() else 1 / 10 for a in media.answers]))
    results["guess_floor"] = floor
    print(f"guess floor {floor:.3f}")
    print(" " * 28, " ".join(f"{count:5d}" for count in NUM_FRAMES))
    grids: dict[str, Grid] = {}

    def run_grid(name: str, model: TinyLongVa, **settings: Any) -> None:
        grids[name] = evaluate_grid(model, media, **settings)
        _print_grid(name, grids[name])

    for name, model in (("long", long_model), ("short", short_model)):
        results[f"{name}_needle_only"] = needle_only(model, media)
        print(f"{name} needle only: {results[f'{name}_needle_only']:.3f}")
    run_grid("long", long_model)
    run_grid("short", short_model)
    run_grid("long, text twin", long_model, as_text=True)
    if not options.quick:
        theta, tuning = choose_theta(short_model, load_media(options.tuning_media))
        results["scaled_theta"], results["theta_tuning"] = theta, tuning
        run_grid("short, raised theta", short_model, rope_theta=theta)
        run_grid("short, text twin", short_model, as_text=True, num_frames=NUM_FRAMES[:-1])
        run_grid("long, no needle", long_model, with_needle=False)
        results["raised_theta_minus_short"] = compare_grids(
            grids["short"], grids["short, raised theta"]
        )
        results["long_minus_raised_theta"] = compare_grids(
            grids["short, raised theta"], grids["long"]
        )
    results["grids"] = {name: _grid_json(grid) for name, grid in grids.items()}
    index = NUM_FRAMES.index(512)
    print("long at 512 frames by depth:", np.round(grids["long"].by_depth(index), 2))
    for name, model in (("long", long_model), ("short", short_model)):
        mini = evaluate_mini_benchmark(model, options.mini_folder, seed=options.mini_seed)
        results[f"{name}_mini_benchmark"] = mini
        print(f"{name}: mini benchmark, by frames 0, {MINI_FRAMES}")
        for duration, row in mini["accuracy"].items():
            gain = mini["gain"][duration]
            print(
                f"  {duration:7s}",
                " ".join(f"{value:5.2f}" for value in row.values()),
                f"gain {gain['points']:+.0f} points, p {gain['p']:.2g}",
            )
        print(
            "  questions without a readable answer:", list(mini["no_answer"].values()), flush=True
        )
    results["seconds"] = time.perf_counter() - started
    if options.out:
        options.out.write_text(json.dumps(results) + "\n")
    print(f"evaluated in {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
