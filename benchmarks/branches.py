"""Eight prompts that share a context, side by side against one at a time: decoding, and options.

    python benchmarks/branches.py [--rounds 3] [--tokens 2000] [--new 32] [--branches 8] [--tiny]

A random body of 106 M parameters, float32, one thread. Prompts that are decoded are read before
time is taken. Options are of four tokens, on one frame that is read each time.
"""

from __future__ import annotations

import argparse
import time

import torch
from harness import interleave, machine, say_ratio
from random_model import BODY_106M, BODY_TINY, random_session
from visual_tokens import RandomTokens, frame

from longva_eval.engine.generation import (
    Generation,
    GenerationSettings,
    alone,
    decode_branches,
    decoding,
)
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.engine.session import Session
from longva_eval.prompts.pieces import Prompt, TextPiece
from longva_eval.prompts.visits import Query

__all__ = ["decode_seconds"]


def decode_seconds(
    session: Session, engine: PrefixEngine, queries: list[Query], new: int, *, branches: int
) -> tuple[float, float, dict[int, tuple[int, ...]]]:
    """Seconds of decoding by processor and by the clock, and the tokens of each answer."""
    engine.branches = branches
    settings = GenerationSettings(max_new_tokens=new)
    processor, clock = 0.0, 0.0
    answers: dict[int, tuple[int, ...]] = {}
    waiting = {}
    for visit in engine.visit(queries, room=new, decoded=range(len(queries))):
        waiting[visit.index] = decoding(
            visit, session.checkpoint.tokenizer, settings,
            prompt=queries[visit.index].prompt, num_entries=1000,
        )  # fmt: skip
        if visit.group is not None and visit.group.num_to_come:
            continue
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.process_time(), time.perf_counter()
        if visit.group is None:
            answers[visit.index] = alone(visit, waiting[visit.index]).token_ids
        else:
            for index, answer in decode_branches(visit.group, waiting):
                assert isinstance(answer, Generation)
                answers[index] = answer.token_ids
        processor += time.process_time() - began[0]
        clock += time.perf_counter() - began[1]
        waiting = {}
    return processor, clock, answers


def questions(tokens: int, count: int) -> list[Query]:
    """Prompts of so many tokens in common, and a short question each."""
    frames = [frame(f"hay{number}", 144) for number in range(max(1, tokens // 144))]
    return [
        Query(Prompt((*frames, TextPiece(tuple(range(7 * number, 7 * number + 30 + number))))))
        for number in range(count)
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=2000, help="in common")
    parser.add_argument("--new", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    if options.tiny:
        options.rounds, options.tokens, options.new = 1, 200, 4
    torch.set_num_threads(1)
    print(machine())
    body = BODY_TINY if options.tiny else BODY_106M
    session = random_session(body)
    visuals = RandomTokens(body["hidden_size"], device="cpu", dtype=torch.float32)
    engine = PrefixEngine(session.checkpoint.model, visuals)
    queries = questions(options.tokens, options.branches)
    seconds: dict[int, list[float]] = {1: [], options.branches: []}
    said = {}
    for number in range(options.rounds):
        for branches in list(seconds)[:: 1 if number % 2 == 0 else -1]:
            took, _, said[branches] = decode_seconds(
                session, engine, queries, options.new, branches=branches
            )
            seconds[branches].append(took)
            rate = options.branches * (options.new - 1) / took
            print(f"  round {number + 1}: {branches} at a time {took:8.2f} s, {rate:8.1f} tokens/s",
                  flush=True)  # fmt: skip
    print("answers equal:", said[1] == said[options.branches])
    say_ratio("one at a time / side by side, CPU time", seconds[1], seconds[options.branches])

    context = questions(144, 1)[0].prompt
    likely = [
        Query(context.with_tokens((number, 5, 6, 7)), read_from=context.num_tokens - 1)
        for number in range(options.branches)
    ]

    def score(branches: int) -> list[float]:
        engine.branches = branches
        visits = engine.visit(likely, scored=range(len(likely)))
        return [float(visit.logits.sum()) for visit in visits]

    spent, _ = interleave(
        {"options one at a time": lambda: score(1),
         "options side by side": lambda: score(options.branches)}, rounds=options.rounds,
    )  # fmt: skip
    say_ratio("one at a time / side by side, CPU time", *spent.values())


if __name__ == "__main__":
    main()
