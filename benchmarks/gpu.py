"""LongVA-7B's real shapes with random weights on one CUDA device; a tiny shape where there is none.

    python benchmarks/gpu.py [--tokens 1000 32000 144000 224000 432000] [--tiny]

Prints, for each length: tokens a second, model FLOPs utilisation and peak memory of one prefill.
Then a small needle grid with the engine against `reuse=False`: time, tokens, and how many decisions
flip in bfloat16, with the smallest margin between best and second-best.
"""

from __future__ import annotations

import argparse
import time

import torch
from harness import machine
from needle_grid import grid_queries
from random_model import LONGVA_7B, TOWER_336, TOWER_TINY, random_session
from visual_tokens import RandomTokens, frame

from longva_eval.needle import NeedleGrid
from longva_eval.prefix import PrefixEngine, Query
from longva_eval.prompt import Prompt, TextPiece

PEAK_FLOPS = 989.4e12
"""Dense bfloat16 of an H100 or H200 SXM (NVIDIA data sheet)."""
TINY = {**LONGVA_7B, "hidden_size": 448, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 7, "num_key_value_heads": 1, "vocab_size": 2048}  # fmt: skip


def prefill_flops(body: dict[str, int], tokens: int) -> float:
    """Linear layers and causal attention of one prefill, multiply and add counted apart."""
    hidden, layers = body["hidden_size"], body["num_hidden_layers"]
    kv = hidden * body["num_key_value_heads"] // body["num_attention_heads"]
    matrices = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * body["intermediate_size"]
    return 2.0 * tokens * layers * matrices + 2.0 * layers * hidden * tokens**2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    lengths = [1_000, 32_000, 144_000, 224_000, 432_000]
    parser.add_argument("--tokens", type=int, nargs="+", default=lengths)
    parser.add_argument("--chunk-tokens", type=int, default=8192)
    parser.add_argument("--grid-frames", type=int, nargs="+", default=[100, 200, 300, 400])
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, on a CPU too")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    if not cuda and not options.tiny:
        raise SystemExit("There is no CUDA device; --tiny runs everything at a tiny shape.")
    print(machine())
    device = "cuda" if cuda else "cpu"
    dtype = torch.bfloat16 if cuda else torch.float32
    body = TINY if options.tiny else LONGVA_7B
    tower = TOWER_TINY if options.tiny else TOWER_336
    session = random_session(body, tower=tower, device=device, dtype=dtype)
    model = session.checkpoint.model
    visuals = RandomTokens(body["hidden_size"], device=device, dtype=dtype)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    print(f"weights {weights / 1e9:.2f} GB in {str(dtype).removeprefix('torch.')}\n")

    def wait() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    print(f"{'tokens':>9} {'seconds':>9} {'tokens/s':>10} {'MFU':>6} {'peak GB':>8}")
    for tokens in options.tokens:
        frames = [frame(f"f{number}", 144) for number in range(tokens // 144)]
        text = TextPiece(tuple(range(tokens - 144 * len(frames) or 1)))
        query = Query(Prompt((*frames, text)))
        visuals.encode(frames)
        engine = PrefixEngine(model, visuals, chunk_tokens=options.chunk_tokens)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        began = wait()
        for _ in engine.visit([query]):
            pass
        took = wait() - began
        peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else float("nan")
        used = prefill_flops(body, tokens) / took / PEAK_FLOPS if cuda else float("nan")
        print(f"{tokens:>9,} {took:>9.2f} {tokens / took:>10,.0f} {used:>6.1%} {peak:>8.1f}",
              flush=True)  # fmt: skip
        del engine
        if cuda:
            torch.cuda.empty_cache()

    frames_of_grid = (2, 4, 6) if options.tiny and not cuda else tuple(options.grid_frames)
    grid = NeedleGrid(frame_counts=frames_of_grid, depths=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    queries = grid_queries(grid.cells(), needles=2, tokens=144)
    print(
        f"\nneedle grid, frames {list(frames_of_grid)}, 6 depths, 2 needles: {len(queries)} cells"
    )
    logits, seconds = {}, {}
    for reuse in (True, False):
        engine = PrefixEngine(model, visuals, chunk_tokens=options.chunk_tokens, reuse=reuse)
        began = wait()
        logits[reuse] = {visit.index: visit.logits[-1].cpu() for visit in engine.visit(queries)}
        seconds[reuse] = wait() - began
        counts = engine.counts
        print(f"reuse={reuse!s:<5} {seconds[reuse]:8.2f} s, {counts.tokens_computed:,} tokens",
              flush=True)  # fmt: skip
        del engine
    flips = sum(
        int(logits[True][i].argmax() != logits[False][i].argmax()) for i in range(len(queries))
    )
    margins = [float(v[0] - v[1]) for v in (logits[False][i].topk(2).values for i in logits[False])]
    print(f"one prefill each / engine: {seconds[False] / seconds[True]:.2f}; {flips} of "
          f"{len(queries)} decisions flip, smallest margin {min(margins):.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
