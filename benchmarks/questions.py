"""Three questions on one 32-frame video, end to end with decoding: once against three times.

    python benchmarks/questions.py [--rounds 3] [--family internvl] [--tiny]

A random body of 106 M parameters and a small random tower, float32, one thread. Once: all three
questions together. Three times: each by itself, as harnesses do, with the same code. With --family
a class of transformers with a random body of the same size, and `generate()` of the class for each
question as well, given the same frames; for Qwen2.5-VL also the host's own adapter `qwen2_5_vl`,
given the same number of frames and of tokens.
"""

from __future__ import annotations

import argparse
import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

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
FRAMES = {"internvl": 160, "llava_onevision": 160, "qwen2_5_vl": 64}
"""Frames of the video, by family."""
QUESTIONS = [
    "What happens first in this video?",
    "Which colour does the disc have?",
    "How many rings can be seen at the end?",
]


def _tokens(answer: Generation | Failure) -> tuple[int, ...]:
    assert isinstance(answer, Generation), answer
    return answer.token_ids


def _family(name: str, *, frames: int, tiny: bool) -> Session:
    """A session of a family with a body in which prefill dominates."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
    folder = Path(tempfile.mkdtemp(prefix="family"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    body: dict[str, Any] = {key: size for key, size in BODY_106M.items() if key != "vocab_size"}
    if name == "qwen2_5_vl":
        body["rope_parameters"] = {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12],
        }  # fmt: skip
    made = import_module("tiny_families").make_family(folder, name, changes={} if tiny else body)
    return open_session(str(made), device="cpu", dtype="float32", decode_process=False,
                        frames=FramePolicy(max_frames=frames))  # fmt: skip


class _Host:
    """lmms-eval's own adapter `qwen2_5_vl` on the same checkpoint, in float32 as ours."""

    def __init__(self, session: Session, frames: int, size: tuple[int, int]) -> None:
        from lmms_eval.models.chat.qwen2_5_vl import Qwen2_5_VL

        folder = session.checkpoint.origin.folder
        pixels = size[0] * size[1]
        self._model = Qwen2_5_VL(str(folder), device="cpu", device_map="cpu", max_num_frames=frames,
                                 min_pixels=pixels, max_pixels=pixels)  # fmt: skip
        self._model.model.float()
        self._model.task_dict = {"questions": {"test": QUESTIONS}}
        self.lengths: list[int] = []
        generate = self._model.model.generate

        def counted(**inputs: Any) -> Any:
            self.lengths.append(inputs["input_ids"].shape[1])
            return generate(**inputs)

        self._model.model.generate = counted

    def __call__(self) -> list[str]:
        from lmms_eval.api.instance import Instance

        self.lengths.clear()
        given = {"max_new_tokens": 2, "temperature": 0}
        asked = [
            Instance("generate_until", (text, _messages, dict(given), n, "questions", "test"), n,
                     {"task": "questions", "doc_id": n, "repeats": 1})
            for n, text in enumerate(QUESTIONS)
        ]  # fmt: skip
        return [answer.text for answer in self._model.generate_until(asked)]


def _messages(question: str) -> list[dict[str, Any]]:
    video = {"type": "video", "url": str(HAYSTACK)}
    return [{"role": "user", "content": [video, {"type": "text", "text": question}]}]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    parser.add_argument("--family", choices=FRAMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if options.family:
        frames = 2 if options.tiny else FRAMES[options.family]
        session, video = _family(options.family, frames=frames, tiny=options.tiny), HAYSTACK
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

    ways: dict[str, Callable[[], Any]] = {
        "each by itself": apart, "together": together,
    }  # fmt: skip
    if options.family:
        ways["generate() each"] = by_generate
    if options.family == "qwen2_5_vl":
        prompt = session.prompt(QUESTIONS[0], [video]).prompt
        shape = prompt.visual_pieces[0].source.how
        ways["the host's qwen2_5_vl"] = host = _Host(session, frames, (shape.height, shape.width))
    seconds, results = interleave(ways, rounds=options.rounds)
    ours = [name for name in ways if "host" not in name]
    print("answers equal:", all(results[name] == results["together"] for name in ours))
    if options.family == "qwen2_5_vl":
        own = [session.prompt(text, [video]).prompt.num_tokens for text in QUESTIONS]
        print("tokens of the prompts:", sorted(own), "of the host's:", sorted(host.lengths))
        say_ratio("the host's qwen2_5_vl / together, CPU time", seconds["the host's qwen2_5_vl"],
                  seconds["together"], wanted="2.7")  # fmt: skip
    if options.family:
        say_ratio("generate() each / together, CPU time", seconds["generate() each"],
                  seconds["together"], wanted="2.7")  # fmt: skip
    say_ratio("each by itself / together, CPU time", seconds["each by itself"],
              seconds["together"], wanted="2.8")  # fmt: skip


if __name__ == "__main__":
    main()
