"""Copy the median seed's models into the package, with their model cards.

python -m training.ship runs/seed0 runs/seed1 runs/seed2
python -m training.ship --second runs/second6 runs/second7 runs/second8
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any, Final

from training.evaluate_second import median_run as median_second
from training.evaluate_second import render, verdicts
from training.report import median_run
from training.train import LONG_CONTEXT, SHORT_CONTEXT

__all__ = ["main", "model_card", "second_card"]

DATA: Final = Path("longva_eval/data")


def _row(values: list[Any]) -> str:
    return "| " + " | ".join(str(value) for value in values) + " |"


def model_card(name: str, *, seed: str, seeds: list[str], result: dict[str, Any]) -> str:
    """The README of one model.

    Args:
        name: "longva-tiny" or "longva-tiny-short".
        seed: The run that ships.
        seeds: All runs that were trained.
        result: The evaluation of that run.
    """
    is_long = name == "longva-tiny"
    key = "long" if is_long else "short"
    context = LONG_CONTEXT if is_long else SHORT_CONTEXT
    grid = result["grids"][key]
    twin = result["grids"].get(f"{key}, text twin", {"accuracy": []})
    mini = result[f"{key}_mini_benchmark"]["accuracy"]
    counts = list(mini["long"])
    twin_row = [f"{value:.2f}" for value in twin["accuracy"]]
    twin_row += [""] * (len(grid["num_frames"]) - len(twin_row))
    lines = [
        f"# {name}",
        "",
        "A LongVA-architecture vision-language model small enough to ship inside a wheel, trained",
        "from nothing on drawn pictures and generated text. It exists to show the suite at work;",
        "it knows 24 silhouettes, 8 colours and 10 digits, and nothing about the world.",
        "",
        f"* Language model: Qwen2, 3 layers, hidden size 128; text of up to {context} tokens"
        + (" (RoPE theta 1e6)." if is_long else " (RoPE theta 1e4)."),
        "* Vision tower: CLIP, 48-pixel pictures, 12-pixel patches; 4 visual tokens a frame.",
        "* Aligned on single UniRes pictures of at most 49 grids. No video was used in training.",
        f"* Weights in bfloat16. {seed}, the median of {', '.join(seeds)}; see `docs/tiny.md`.",
    ]
    if is_long:
        lines.append(
            "* Its baseline is `longva-tiny-short`: the same before the context extension."
        )
    else:
        lines.append("* The baseline of `longva-tiny`, which continues from its language model.")
    lines += [
        "",
        "## Numbers",
        "",
        "V-NIAH on the shipped haystack and needles, mean over six depths and 26 needles; the text",
        f"twin gives each frame as its caption's words. Guess floor {result['guess_floor']:.3f}.",
        "",
        _row(["frames", *grid["num_frames"]]),
        _row(["---"] * (len(grid["num_frames"]) + 1)),
        _row(["video", *[f"{value:.2f}" for value in grid["accuracy"]]]),
        _row(["text twin", *twin_row]),
        "",
        "Mini benchmark (60 questions for each duration) by frames:",
        "",
        _row(["videos", *counts]),
        _row(["---"] * (len(counts) + 1)),
        *[_row([d, *[f"{v:.2f}" for v in row.values()]]) for d, row in mini.items()],
        "",
        "## Prompts and answers",
        "",
        "ChatML, as in LongVA. Questions must use the words of the tokenizer; others become",
        "`<unk>`. An answer is one word and `<|im_end|>`. **Multiple-choice questions are answered",
        "with the right option's word, not with its letter**, whatever the prompt asks for.",
        "",
        "## Recipe",
        "",
        "`python -m training.train --seed N --out runs/seedN` in the project's repository;",
        "`training/README.md` explains the steps. Media of the evaluation come from other seeds",
        "than the training pictures, and no choice was made on them.",
        "",
        "## Limits",
        "",
        "Only drawn scenes in the style of `longva_eval.needle.scenes`; questions about the colour",
        "or the number beside one silhouette. Nothing here says how a real model behaves.",
    ]
    return "\n".join(lines) + "\n"


def second_card(*, seed: str, results: dict[str, dict[str, Any]]) -> str:
    """The README of longva-tiny-2.

    Args:
        seed: The run that ships.
        results: What `training.evaluate_second` found of every run.
    """
    missed = [name for name, reached in verdicts(results[seed]).items() if not reached]
    return f"""# longva-tiny-2

longva-tiny with a fourth layer, taught on text and single pictures to answer with an option's
letter, to follow a chain of two hops, to say which came first and to count to three.
It exists to show needle tests at work (`docs/needle_tests.md`), and knows nothing about the world.

* Language model: Qwen2, 4 layers, hidden size 128; text of up to {LONG_CONTEXT} tokens.
* Vision tower: CLIP, 48-pixel pictures, 12-pixel patches; 4 visual tokens a frame.
* Aligned on single UniRes pictures of at most 40 grids. No video was used in training.
* Weights in bfloat16. {seed}, the median of {", ".join(results)}; see `docs/tiny.md`.
* Targets that it misses: {", ".join(missed) or "none"}.

{render({seed: results[seed]}).rsplit(chr(10), 2)[0]}

Questions must use the words of the tokenizer; others become `<unk>`.
"""


def main() -> None:
    """Copy the models and write their cards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="all honest runs, evaluated")
    parser.add_argument("--second", action="store_true", help="they are of train_second")
    arguments = parser.parse_args()
    results = {run.name: json.loads((run / "eval.json").read_text()) for run in arguments.runs}
    chosen = (median_second if arguments.second else median_run)(results)
    source = next(run for run in arguments.runs if run.name == chosen)
    for name in ("longva-tiny-2",) if arguments.second else ("longva-tiny", "longva-tiny-short"):
        target = DATA / name
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(source / name, target)
        if arguments.second:
            card = second_card(seed=chosen, results=results)
        else:
            card = model_card(name, seed=chosen, seeds=list(results), result=results[chosen])
        (target / "README.md").write_text(card)
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        print(f"{target}: {chosen}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
