"""LongVA-7B's real shapes with random weights on one CUDA device; a tiny shape where there is none.

    python benchmarks/gpu.py [--parts prefill attention branches ...] [--tiny]

* `prefill`: for each of `--tokens`, tokens a second, model FLOPs utilisation and peak memory of one
  prefill (the median of three below 50,000 tokens).
* `attention`: one prefill of each of `--attention-tokens` with every back end that is here and with
  transformers' own masked `sdpa`, in turns: time, peak memory, and how far logits are from `sdpa`.
* `branches`: tokens a second of 8 answers on each of `--branch-tokens`, one at a time and side by
  side.
* `vision`: frames a second of the tower alone, of preparing pixels, and of both through the
  encoder, with its peak memory. Frames are noise; nothing is decoded.
* `pixels`: frames a second that become pixels on the device, and whether they are Pillow's bits.
* `grid`: a needle grid with the engine against `reuse=False`: time, tokens, and how many decisions
  flip in bfloat16, with the smallest margin between best and second-best.

Peak memory is what PyTorch allocated: weights, visual tokens, cache and activations. Each part ends
with the seconds that it took and those that it may take; all of them stay below five minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from branches import decode_seconds, questions
from harness import machine
from needle_grid import grid_queries
from random_model import BODY_TINY, LONGVA_7B, TOWER_336, TOWER_TINY, random_session
from visual_tokens import RandomTokens, frame

from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.session import Session
from longva_eval.engine.vision import ClipVision
from longva_eval.media.decode import Frames
from longva_eval.media.device_pixels import prepare_on
from longva_eval.media.frames import FrameSample
from longva_eval.media.images import frames_to_pixel_values
from longva_eval.media.probe import VideoInfo
from longva_eval.media.sources import VideoFrames
from longva_eval.model.backends import attention_candidates, installed_packages
from longva_eval.needle.grid import NeedleGrid
from longva_eval.prompts.pieces import Prompt, TextPiece
from longva_eval.prompts.visits import Query

PEAK_FLOPS = 989.4e12
"""Dense bfloat16 of an H100 or H200 SXM (NVIDIA data sheet)."""
FRAME_TOKENS = 144
PARTS = {
    "prefill": 140, "attention": 30, "branches": 40, "vision": 20, "pixels": 10, "grid": 50
}  # fmt: skip
"""Seconds that each part may take on one H200 with the default sizes, as reckoned: five minutes."""
CUDA = torch.cuda.is_available()


def prefill_flops(body: dict[str, int], tokens: int) -> float:
    """Linear layers and causal attention of one prefill, multiply and add counted apart."""
    hidden, layers = body["hidden_size"], body["num_hidden_layers"]
    kv = hidden * body["num_key_value_heads"] // body["num_attention_heads"]
    matrices = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * body["intermediate_size"]
    return 2.0 * tokens * layers * matrices + 2.0 * layers * hidden * tokens**2


def measure(function: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
    """Seconds until the device is done, peak memory in GB, and the result."""
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = function(*arguments)
    if CUDA:
        torch.cuda.synchronize()
    took = time.perf_counter() - began
    return took, torch.cuda.max_memory_allocated() / 1e9 if CUDA else float("nan"), result


def free() -> None:
    """Give back what was let go."""
    if CUDA:
        torch.cuda.empty_cache()


def video_query(tokens: int) -> Query:
    """A prompt of this many tokens: frames, then text."""
    frames = [frame(f"hay{number}", FRAME_TOKENS) for number in range(tokens // FRAME_TOKENS)]
    text = TextPiece(tuple(range(tokens - FRAME_TOKENS * len(frames) or 1)))
    return Query(Prompt((*frames, text)))


def last_logits(engine: PrefixEngine, queries: list[Query]) -> dict[int, torch.Tensor]:
    """The logits at the end of each prompt."""
    return {visit.index: visit.logits[-1].cpu() for visit in engine.visit(queries)}


def measure_prefill(new_engine: Callable[..., PrefixEngine], body: dict[str, int],
                    lengths: list[int]) -> None:  # fmt: skip
    """One prefill of each length."""
    warm_up = [video_query(1_000)]
    last_logits(new_engine(warm_up), warm_up)  # loads kernels
    print(f"{'tokens':>9} {'seconds':>9} {'tokens/s':>10} {'MFU':>6} {'peak GB':>8}", flush=True)
    for tokens in lengths:
        queries = [video_query(tokens)]
        engine = new_engine(queries)
        rounds = 3 if tokens < 50_000 else 1
        runs = [measure(last_logits, engine, queries) for _ in range(rounds)]
        took, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
        used = prefill_flops(body, tokens) / took / PEAK_FLOPS if CUDA else float("nan")
        print(f"{tokens:>9,} {took:>9.2f} {tokens / took:>10,.0f} {used:>6.1%} {peak:>8.1f}",
              flush=True)  # fmt: skip
        del engine
        free()


def measure_attention(
    session: Session, new_engine: Callable[..., PrefixEngine], lengths: list[int]
) -> None:
    """Each back end that is here, in turns, beside transformers' masked `sdpa`."""
    model = session.checkpoint.model
    found = attention_candidates(
        "auto",
        capability=torch.cuda.get_device_capability() if CUDA else None,
        packages=installed_packages(),
        dtype=str(model.dtype).removeprefix("torch."),
        head_dim=model.config.hidden_size // model.config.num_attention_heads,
    )
    ways = [*found, "sdpa_masked"]
    for tokens in lengths:
        queries, warm_up = [video_query(tokens)], [video_query(min(tokens, 10_000))]
        runs: dict[str, list[tuple[float, float, torch.Tensor]]] = {way: [] for way in ways}
        for way in (*ways, *ways[::-1]):
            session.change_attention(way)
            last_logits(new_engine(warm_up), warm_up)
            engine = new_engine(queries)
            took, peak, logits = measure(last_logits, engine, queries)
            runs[way].append((took, peak, logits[0]))
            print(f"{tokens:,} tokens, {way:<11} {took:8.2f} s {peak:8.1f} GB", flush=True)
            del engine
            free()
        usual = runs["sdpa"]
        for way in ways:
            logits, wanted = runs[way][0][2], usual[0][2]
            slow, fast = (statistics.median(run[0] for run in each) for each in (usual, runs[way]))
            best = wanted.topk(2).values
            print(f"sdpa / {way}: {slow / fast:.2f}; same first token: "
                  f"{int(logits.argmax()) == int(wanted.argmax())} (margin "
                  f"{float(best[0] - best[1]):.1e}), largest difference of a logit "
                  f"{float((logits - wanted).abs().max()):.1e} (their deviation is "
                  f"{float(wanted.std()):.1e})", flush=True)  # fmt: skip
    session.change_attention(found[0])


def measure_branches(
    session: Session, new_engine: Callable[..., PrefixEngine], lengths: list[int], new: int
) -> None:
    """Decoding of several answers on one context: one at a time, and side by side."""
    for tokens in lengths:
        queries = questions(tokens, 8)
        for branches in (1, 8):
            engine = new_engine(queries)
            _, took, _ = decode_seconds(session, engine, queries, new, branches=branches)
            said = len(queries) * (new - 1)
            print(f"{tokens:,} tokens, 8 answers, {branches} at a time: {said / took:,.0f} "
                  f"tokens/s, {1e3 * took * branches / said:.1f} ms a step",
                  flush=True)  # fmt: skip
            del engine
            free()


def measure_vision(session: Session, num_frames: int) -> None:
    """The tower alone, pixels alone, and both through the encoder."""
    assert isinstance(session.vision, ClipVision)
    model, processor = session.checkpoint.model, session.vision.image_processor
    noise = np.random.default_rng(0).integers(0, 255, (32, 360, 640, 3), dtype=np.uint8)

    def read(_info: VideoInfo, items: list[int], **_: Any) -> Iterator[Frames]:
        for first in range(0, len(items), 32):
            yield noise[: len(items[first : first + 32])]

    pixels = frames_to_pixel_values(noise[:16], processor).to(model.device, model.dtype)
    batches = 4 if num_frames < 100 else 60

    def tower() -> None:
        for _ in range(batches):
            model.encode_pixels(pixels)

    tower()
    alone = 16 * batches / measure(tower)[0]
    prepared = len(noise) / measure(frames_to_pixel_values, noise, processor)[0]
    info = VideoInfo(
        path=Path("noise.mp4"), num_frames=num_frames, average_fps=1.0, width_pixels=640,
        height_pixels=360, codec="none", container="none", digest="noise",
        presentation_seconds=np.arange(num_frames, dtype=np.float64),
    )  # fmt: skip
    sample = FrameSample(
        indices=tuple(range(num_frames)),
        timestamps_seconds=(),
        num_frames_asked=num_frames,
        num_frames_total=num_frames,
    )
    pieces = session.vision.pieces(VideoFrames(info=info, sample=sample, read=read))

    def encode() -> list[torch.Tensor]:
        session.encoder.expect([pieces])
        return session.encoder.encode(pieces)

    before = torch.cuda.memory_allocated() / 1e9 if CUDA else 0.0
    took, peak, tokens = measure(encode)
    size = sum(piece.numel() * piece.element_size() for piece in tokens) / 1e9
    print(f"vision tower, batches of 16: {alone:,.0f} frames/s; pixels of 640 x 360 frames, "
          f"alone: {prepared:,.0f} frames/s")  # fmt: skip
    print(f"{num_frames:,} frames through the encoder: {took:.2f} s, {num_frames / took:,.0f} "
          f"frames/s; {peak - before:.2f} GB above the weights, {size:.2f} GB of it visual tokens",
          flush=True)  # fmt: skip


def measure_pixels(session: Session, sizes: list[tuple[int, int]], count: int) -> None:
    """Frames made into pixels on the device, and by Pillow."""
    assert isinstance(session.vision, ClipVision)
    processor, device = session.vision.image_processor, session.checkpoint.model.device
    for height, width in sizes:
        frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
        made = prepare_on(frames[:1], processor, device)  # looks for Pillow's order, once a size
        if made is None:
            print(f"{width} x {height}: neither order gives Pillow's bits; Pillow is used")
            continue
        took, _, made = measure(prepare_on, frames, processor, device)
        by_pillow, _, expected = measure(frames_to_pixel_values, frames, processor)
        equal = torch.equal(made.cpu(), expected)
        print(f"{width} x {height}: {count / took:,.0f} frames/s on {device.type}, "
              f"{count / by_pillow:,.0f} by Pillow; equal bits: {equal}", flush=True)  # fmt: skip


def measure_grid(
    new_engine: Callable[..., PrefixEngine], frame_counts: list[int], needles: int
) -> None:
    """The engine against one prefill per cell, through the same chunks."""
    grid = NeedleGrid(frame_counts=tuple(frame_counts), depths=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    queries = grid_queries(grid.places(), needles=needles, tokens=FRAME_TOKENS)
    print(f"needle grid, frames {frame_counts}, 6 depths, needles: {needles}; {len(queries)} cells",
          flush=True)  # fmt: skip
    last_logits(new_engine(queries), queries[:1])  # loads kernels
    logits, seconds = {}, {}
    for reuse in (True, False):
        engine = new_engine(queries, reuse=reuse)
        seconds[reuse], peak, logits[reuse] = measure(last_logits, engine, queries)
        print(f"reuse={reuse!s:<5} {seconds[reuse]:8.2f} s, {engine.counts.tokens_computed:,} "
              f"tokens, peak {peak:.1f} GB", flush=True)  # fmt: skip
        del engine
        free()
    one, two = logits[False], logits[True]
    flips = sum(int(one[i].argmax() != two[i].argmax()) for i in one)
    largest = max(float((one[i] - two[i]).abs().max()) for i in one)
    margins = [float(best - second) for best, second in (one[i].topk(2).values for i in one)]
    print(f"one prefill each / engine: {seconds[False] / seconds[True]:.2f}; {flips} of "
          f"{len(queries)} decisions flip, largest difference of a logit {largest:.1e}, smallest "
          f"margin {min(margins):.1e}", flush=True)  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tokens", type=int, nargs="+")
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--attention-tokens", type=int, nargs="+")
    parser.add_argument("--branch-tokens", type=int, nargs="+")
    parser.add_argument("--new", type=int, help="tokens of each answer of `branches`")
    parser.add_argument("--frames", type=int, help="that the tower encodes")
    parser.add_argument("--grid-frames", type=int, nargs="+")
    parser.add_argument("--needles", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, on a CPU too")
    if parser.parse_args().tiny:
        parser.set_defaults(
            tokens=[500], attention_tokens=[500], branch_tokens=[300], new=3, frames=16
        )
        parser.set_defaults(grid_frames=[2, 3], chunk_tokens=256, needles=1)
    else:
        parser.set_defaults(tokens=[1_000, 32_000, 144_000, 432_000])
        parser.set_defaults(attention_tokens=[32_000], frames=3_000)
        parser.set_defaults(branch_tokens=[147_456], new=16)
        parser.set_defaults(grid_frames=[100, 200])
    options = parser.parse_args()
    if not CUDA and not options.tiny:
        raise SystemExit("There is no CUDA device; --tiny runs everything at a tiny shape.")
    print(machine())
    device = "cuda" if CUDA else "cpu"
    dtype = torch.bfloat16 if CUDA else torch.float32
    body = BODY_TINY if options.tiny else LONGVA_7B
    tower = TOWER_TINY if options.tiny else TOWER_336
    session = random_session(body, tower=tower, device=device, dtype=dtype)
    model = session.checkpoint.model
    visuals = RandomTokens(body["hidden_size"], device=device, dtype=dtype)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"weights {weights / 1e9:.2f} GB in {str(dtype).removeprefix('torch.')}, "
          f"chunks of {options.chunk_tokens:,} tokens", flush=True)  # fmt: skip

    def new_engine(queries: Sequence[Query], *, reuse: bool = True) -> PrefixEngine:
        for query in queries:
            visuals.encode(query.prompt.visual_pieces)  # made here, not while time is taken
        return PrefixEngine(model, visuals, chunk_tokens=options.chunk_tokens, reuse=reuse)

    for part in options.parts:
        print(f"\n{part}", flush=True)
        began = time.perf_counter()
        if part == "prefill":
            measure_prefill(new_engine, body, options.tokens)
        elif part == "attention":
            measure_attention(session, new_engine, options.attention_tokens)
        elif part == "branches":
            measure_branches(session, new_engine, options.branch_tokens, options.new)
        elif part == "vision":
            measure_vision(session, options.frames)
        elif part == "pixels":
            sizes = [(36, 64), (37, 65)] if options.tiny else [(360, 640), (1080, 1920), (361, 641)]
            measure_pixels(session, sizes, 2 if options.tiny else 64)
        else:
            measure_grid(new_engine, options.grid_frames, options.needles)
        print(f"{part}: {time.perf_counter() - began:.0f} s of {PARTS[part]}", flush=True)


if __name__ == "__main__":
    main()
