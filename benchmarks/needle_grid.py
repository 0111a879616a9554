"""V-NIAH: the prefix engine against one prefill per cell.

    python benchmarks/needle_grid.py [--rounds 1] [--lattice] [--tiny]

The grid: frames 8, 16, 24, 32; six depths; five needles; 144 tokens a frame: 120 cells, on a random
Qwen2 body of 106 M parameters in float32. One prefill per cell is transformers' own forward with
`sdpa` and the last logits only, each cell from nothing: what a good implementation of the
original's schedule costs. Arithmetic allows 2.48 on this body (tokens 2.70).

`--lattice`: lengths 10 to 150 in steps of 10, needles at every multiple of 10, two needles, 12
tokens a frame, on a body of 30 M parameters. Arithmetic allows about 7.
"""

from __future__ import annotations

import argparse

import torch
from harness import interleave, machine, say_ratio
from random_model import BODY_30M, BODY_106M, BODY_TINY, random_session
from visual_tokens import RandomTokens, frame

from longva_eval.engine.prefix import PrefixEngine
from longva_eval.needle.grid import LatticeGrid, NeedleGrid
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece
from longva_eval.prompts.visits import Query

QUESTION_TOKENS = 40


def grid_queries(places: list[tuple[int, float, int]], *, needles: int, tokens: int) -> list[Query]:
    """The prompts of a grid, made of random frames."""
    start = TextPiece(tuple(range(14)))
    queries = []
    pieces: tuple[Piece, ...]
    for num_frames, _, insert_index in places:
        haystack = [frame(f"hay{index}", tokens) for index in range(num_frames)]
        for needle in range(needles):
            question = TextPiece(tuple(range(100 * needle, 100 * needle + QUESTION_TOKENS)))
            pieces = (
                start,
                *haystack[:insert_index],
                frame(f"needle{needle}", tokens),
                *haystack[insert_index:],
                question,
            )
            queries.append(Query(Prompt(pieces)))
    return queries


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--lattice", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.lattice:
        body, needles, tokens, wanted = BODY_30M, 2, 12, "6"
        longest = 30 if options.tiny else 150
        places = LatticeGrid(frame_counts=tuple(range(10, longest + 1, 10)), step=10).places()
    else:
        body, needles, tokens, wanted = BODY_106M, 5, 144, "2.0"
        depths = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
        frame_counts = (2, 3) if options.tiny else (8, 16, 24, 32)
        places = NeedleGrid(frame_counts=frame_counts, depths=depths).places()
    if options.tiny:
        body, needles = BODY_TINY, 1
    queries = grid_queries(places, needles=needles, tokens=tokens)
    ours = random_session(body)
    model = ours.checkpoint.model
    visuals = RandomTokens(body["hidden_size"], device="cpu", dtype=torch.float32)
    counts = []

    def engine() -> dict[int, torch.Tensor]:
        prefix = PrefixEngine(model, visuals, chunk_tokens=2048)
        logits = {visit.index: visit.logits[-1].clone() for visit in prefix.visit(queries)}
        counts.append((prefix.counts.tokens_asked, prefix.counts.tokens_computed))
        return logits

    plain = random_session(body, attention="sdpa").checkpoint.model  # the same seed, same weights

    @torch.inference_mode()
    def one_prefill_each() -> dict[int, torch.Tensor]:
        found = {}
        for index, query in enumerate(queries):
            parts = [
                plain.model.embed_tokens(torch.tensor(piece.token_ids))
                if isinstance(piece, TextPiece)
                else visuals.encode([piece])[0]
                for piece in query.prompt.pieces
            ]
            output = plain(inputs_embeds=torch.cat(parts)[None], use_cache=False, logits_to_keep=1)
            found[index] = output.logits[0, -1].float()
        return found

    parameters = sum(p.numel() for p in model.model.layers.parameters())
    print(f"{len(queries)} cells, {parameters / 1e6:.0f} M parameters in the layers, float32")
    seconds, results = interleave(
        {"one prefill per cell": one_prefill_each, "prefix engine": engine}, rounds=options.rounds
    )
    one, two = results["one prefill per cell"], results["prefix engine"]
    same = sum(int(one[i].argmax() == two[i].argmax()) for i in one)
    largest = max(float((one[i] - two[i]).abs().max()) for i in one)
    margins = [float(values[0] - values[1]) for values in (one[i].topk(2).values for i in one)]
    asked, computed = counts[-1]
    print(f"tokens: {asked:,} against {computed:,}, {asked / computed:.2f} times less")
    print(f"argmax equal in {same} of {len(queries)}; largest difference of a logit {largest:.1e}, "
          f"smallest margin between best and second {min(margins):.1e}")  # fmt: skip
    say_ratio(
        "one prefill per cell / engine, CPU time",
        seconds["one prefill per cell"],
        seconds["prefix engine"],
        wanted=wanted,
    )


if __name__ == "__main__":
    main()
