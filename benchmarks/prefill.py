"""Prefill of 8,192 tokens with a vocabulary of 152,064: memory and time.

    python benchmarks/prefill.py [--rounds 3] [--tiny]

Peak memory above the loaded model, each way in a process of its own: all logits (what the original
computes), transformers keeping the last logit, and the engine in chunks of 1,024. A random Qwen2 of
4 layers and 512 wide, float32, one thread.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from harness import machine, run_fresh

WAY = """
import sys, json, time
sys.path.insert(0, sys.argv[2])
import torch
from harness import peak_bytes
from random_model import random_session
from longva_eval.engine.prefix import PrefixEngine
from longva_eval.prompts.visits import Query
from longva_eval.prompts.pieces import Prompt, TextPiece
from visual_tokens import RandomTokens
torch.set_num_threads(1)
way, tokens, vocabulary = sys.argv[1], int(sys.argv[3]), int(sys.argv[4])
body = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": vocabulary}
session = random_session(body, attention="split_sdpa" if way == "engine" else "sdpa")
model = session.checkpoint.model
ids = torch.arange(tokens) % 1000
visuals = RandomTokens(512, device="cpu", dtype=torch.float32)
before, began = peak_bytes(), time.process_time()
with torch.inference_mode():
    if way == "engine":
        engine = PrefixEngine(model, visuals, chunk_tokens=1024)
        query = Query(Prompt((TextPiece(tuple(ids.tolist())),)))
        last = [visit.logits[-1] for visit in engine.visit([query])][0]
    else:
        keep = 0 if way == "all" else 1
        last = model(input_ids=ids[None], use_cache=True, logits_to_keep=keep).logits[0, -1]
print(json.dumps({"seconds": time.process_time() - began, "bytes": peak_bytes() - before,
                  "top": int(last.argmax())}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    print(machine())
    folder = str(Path(__file__).parent)
    tokens, vocabulary = (512, 2000) if options.tiny else (8192, 152064)
    runs: dict[str, list[dict[str, float]]] = {"all": [], "last": [], "engine": []}
    for number in range(options.rounds):
        for way in list(runs) if number % 2 == 0 else list(reversed(runs)):
            runs[way].append(run_fresh(WAY, way, folder, str(tokens), str(vocabulary)))
    memory = {way: statistics.median(run["bytes"] for run in runs[way]) for way in runs}
    seconds = {way: statistics.median(run["seconds"] for run in runs[way]) for way in runs}
    names = {
        "all": "all logits",
        "last": "last logit, one pass",
        "engine": "engine, chunks of 1,024",
    }
    for way, name in names.items():
        print(f"{name:<26} {seconds[way]:7.2f} s {memory[way] / 1e6:8.0f} MB")
    same = len({run["top"] for way in runs for run in runs[way]}) == 1
    print(f"same first token: {same}")
    print(
        f"memory, all logits / engine: {memory['all'] / max(memory['engine'], 1):.1f}   wanted: 13"
    )
    print(f"time, engine / last logit: {seconds['engine'] / seconds['last']:.2f}   wanted: <= 1.25")


if __name__ == "__main__":
    main()
