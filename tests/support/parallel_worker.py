"""What each of several processes does in `test_parallel.py`, and one process to compare with.

`python parallel_worker.py SIZE FOLDER [MODE]`, started once per process with torch.distributed's
variables. Process 0 writes what it computed to FOLDER/SIZE.pt and prints `loaded` before.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from longva_eval.engine.generation import GenerationSettings
from longva_eval.engine.session import Session, open_session
from longva_eval.errors import EvaluationError
from longva_eval.media.frames import FramePolicy
from longva_eval.model.rope import RopeSettings
from longva_eval.prompts.pieces import tokenize
from longva_eval.prompts.visits import Query
from longva_eval.running import tensor_parallel as parallel
from longva_eval.running.tensor_parallel import joined

OPEN = Path(__file__).parents[1] / "data" / "golden_open"
QUESTIONS = ("What happens?", "How many rings are there?")


def small_session(
    tensor_parallel: int = 1, pretrained: str | Path = OPEN / "longva_tiny"
) -> Session:
    return open_session(
        pretrained,
        device="cpu",
        dtype="float32",
        frames=FramePolicy(max_frames=3),
        chunk_tokens=300,
        decode_process=False,
        tensor_parallel=tensor_parallel,
    )


def answers(session: Session) -> dict[str, Any]:
    """Tokens and logits: greedy answers, with another RoPE base, and forced answers."""
    found: dict[str, Any] = {"tokens": [], "logits": []}
    video = str(OPEN / "inputs/landscape_320x180.mp4")
    prompts = [session.prompt(question, [video]) for question in QUESTIONS]
    for theta in (None, 5e5):
        if theta is not None:
            session.change_rope(RopeSettings(theta=theta))
        for answer in session.generate(prompts, GenerationSettings(max_new_tokens=8)):
            assert not isinstance(answer, EvaluationError)
            found["tokens"].append(answer.token_ids)
        queries = [Query(p.prompt, read_from=p.prompt.num_tokens - 4) for p in prompts]
        for visit in session.engine.visit(queries):
            found["logits"].append(visit.logits.clone())
    expected = tokenize(session.checkpoint.tokenizer, "a red ring")
    forced = session.force([p.prompt for p in prompts], [expected] * 2, max_new_tokens=2)
    found["forced"] = [one.scores.log_probs for one in forced]
    found["generated"] = [one.generated for one in forced]
    return found


def main(size: int, folder: Path, mode: str = "answers") -> None:
    if mode == "silent":
        parallel._SILENT_SECONDS, parallel._GRACE_SECONDS = 8.0, 1.0
    if mode == "elsewhere":
        os.chdir(OPEN if os.environ["RANK"] == "0" else folder)
    with joined(size) as leads:
        if not leads:
            return
        session = small_session(size, *(["./longva_tiny"] if mode == "elsewhere" else []))
        print("loaded", flush=True)
        if mode == "answers":
            found = answers(session)
            small_session(size)  # takes the place of the first one
            try:
                answers(session)
            except EvaluationError as error:
                found["replaced"] = str(error)
            torch.save(found, folder / f"{size}.pt")
        else:
            while True:  # until another process is ended, or stopped
                answers(session)
                time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
