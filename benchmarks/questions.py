"""Three questions on one 32-frame video, end to end with decoding: once against three times.

    python benchmarks/questions.py [--rounds 3] [--tiny]

A random body of 106 M parameters and a small random tower, float32, one thread. Once: all three
questions together. Three times: each by itself, as harnesses do, with the same code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from harness import interleave, machine, say_ratio
from random_model import BODY_106M, BODY_TINY, random_session

from longva_eval.engine.conversation import Failure
from longva_eval.engine.generation import Generation, GenerationSettings
from longva_eval.media.frames import FramePolicy

VIDEO = Path(__file__).parent.parent / "tests/data/golden_open/inputs/landscape_320x180.mp4"
QUESTIONS = [
    "What happens first in this video?",
    "Which colour does the disc have?",
    "How many rings can be seen at the end?",
]


def _tokens(answer: Generation | Failure) -> tuple[int, ...]:
    assert isinstance(answer, Generation), answer
    return answer.token_ids


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    session = random_session(BODY_TINY if options.tiny else BODY_106M)
    session.frames = FramePolicy(max_frames=2 if options.tiny else 32)
    settings = GenerationSettings(max_new_tokens=2)  # a letter, and the end

    def together() -> list[tuple[int, ...]]:
        prompts = [session.prompt(question, [VIDEO]) for question in QUESTIONS]
        return [_tokens(answer) for answer in session.generate(prompts, settings)]

    def apart() -> list[tuple[int, ...]]:
        answers = []
        for question in QUESTIONS:
            (answer,) = session.generate([session.prompt(question, [VIDEO])], settings)
            answers.append(_tokens(answer))
        return answers

    seconds, results = interleave(
        {"each by itself": apart, "together": together}, rounds=options.rounds
    )
    print("answers equal:", results["each by itself"] == results["together"])
    say_ratio("each by itself / together, CPU time", seconds["each by itself"],
              seconds["together"], wanted="2.8")  # fmt: skip


if __name__ == "__main__":
    main()
