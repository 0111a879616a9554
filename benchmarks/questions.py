"""Three questions on one 32-frame video, end to end with decoding: once against three times.

    python benchmarks/questions.py [--rounds 3] [--family internvl] [--tiny]

A random body of 106 M parameters and a small random tower, float32, one thread. Once: all three
questions together. Three times: each by itself, as harnesses do, with the same code. With --family
a class of transformers with a random body of the same size, 160 frames, and `generate()` of the
class for each question as well, given the same frames.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import torch
from harness import interleave, machine, say_ratio
from random_model import BODY_106M, BODY_TINY, random_session

from longva_eval.embedded import HAYSTACK
from longva_eval.engine.conversation import Failure
from longva_eval.engine.generation import Generation, GenerationSettings
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.engine.verify import reference_inputs
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


def _family(name: str, *, tiny: bool) -> Session:
    """A session of a family with a body in which prefill dominates."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    folder = Path(tempfile.mkdtemp(prefix="family"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    body = {name: size for name, size in BODY_106M.items() if name != "vocab_size"}
    made = import_module("tiny_families").make_family(folder, name, changes={} if tiny else body)
    return open_session(str(made), device="cpu", dtype="float32", decode_process=False,
                        frames=FramePolicy(max_frames=2 if tiny else 160))  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    parser.add_argument("--family", choices=["internvl", "llava_onevision"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.family:
        session, video = _family(options.family, tiny=options.tiny), HAYSTACK
    else:
        session, video = random_session(BODY_TINY if options.tiny else BODY_106M), VIDEO
        session.frames = FramePolicy(max_frames=2 if options.tiny else 32)
    settings = GenerationSettings(max_new_tokens=2)  # a letter, and the end

    def together() -> list[tuple[int, ...]]:
        prompts = [session.prompt(question, [video]) for question in QUESTIONS]
        return [_tokens(answer) for answer in session.generate(prompts, settings)]

    def apart() -> list[tuple[int, ...]]:
        answers = []
        for question in QUESTIONS:
            (answer,) = session.generate([session.prompt(question, [video])], settings)
            answers.append(_tokens(answer))
        return answers

    def by_generate() -> list[tuple[int, ...]]:
        answers = []
        for question in QUESTIONS:
            inputs = reference_inputs(session, session.prompt(question, [video]), question, [video])
            found = session.checkpoint.family.model.generate(  # type: ignore[attr-defined]
                **inputs, max_new_tokens=2, do_sample=False
            )
            answers.append(tuple(found[0, inputs["input_ids"].shape[1] :].tolist()))
        return answers

    ways = {"each by itself": apart, "together": together}
    if options.family:
        ways["generate() each"] = by_generate
    seconds, results = interleave(ways, rounds=options.rounds)
    print("answers equal:", all(each == results["together"] for each in results.values()))
    if options.family:
        say_ratio("generate() each / together, CPU time", seconds["generate() each"],
                  seconds["together"], wanted="2.7")  # fmt: skip
    say_ratio("each by itself / together, CPU time", seconds["each by itself"],
              seconds["together"], wanted="2.8")  # fmt: skip


if __name__ == "__main__":
    main()
