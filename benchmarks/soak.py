"""A long run in which much goes wrong: random faults and kills, and every question accounted for.

    python benchmarks/soak.py [--videos 100] [--kills 12] [--seed 1] [--folder DIR]

Ten questions on each generated video (benchmarks/small_task.py), asked of the embedded model with
`longva-eval run` and `on_error=skip`. Some videos are missing, cut off, damaged, empty, a text or a
folder; some have names with blanks, other scripts and line breaks; some prompts are longer than the
context; and the model's copy has infinity in the embedding of one rare word, so that the logits of
questions with that word are NaN. The run gets SIGKILL at random moments and is started again until
it ends.

Then every question must stand in the samples once, those with a fault as failed and for the right
reason, the others with the answers of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file
from small_task import (
    comparable,
    differences,
    result_files,
    run_command,
    run_environment,
    write_tasks,
)

from longva_eval.embedded import embedded_checkpoint

__all__ = ["Soak", "accounting", "soak"]

QUESTIONS_PER_VIDEO: Final = 10
_TASK: Final = "small_generate"
_RARE_WORD: Final = "zebra"
_SHARE_OF_VIDEOS: Final = 0.02
"""Of all videos, for each way in which one can be broken."""
_SHARE_OF_QUESTIONS: Final = 0.02
"""Of all questions on sound videos, for each way in which a prompt can be impossible."""
_ODD_NAMES: Final = (" a b", "é 日本", "line\nbreak", '\'"quotes"', "%20?#&")


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 6 // 10)


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data) * 3 // 4, 101):
        data[place] ^= 0x55
    path.write_bytes(data)


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKS: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "video missing": (Path.unlink, "cannot be opened"),
    "video cut off": (_cut, "cannot be read as a video"),
    "video damaged": (_damage, "damaged|cannot be decoded|cannot be read as a video"),
    "video empty": (lambda path: path.write_bytes(b""), "is empty"),
    "a text": (lambda path: path.write_text("<html>404 Not Found</html>"), "it is a text"),
    "a folder": (_make_folder, "is a folder"),
}
"""What happens to videos, and what the reason must say."""
PROMPTS: Final[dict[str, tuple[str, str]]] = {
    "prompt too long": ("over " * 2500, "PromptError.*context"),
    "NaN logits": (f"{_RARE_WORD} ", "NumericalError.*NaN"),
}
"""What is put before questions, and what the reason must say."""
REASONS: Final = {name: reason for name, (_, reason) in [*BREAKS.items(), *PROMPTS.items()]}


@dataclass(frozen=True, kw_only=True)
class Soak:
    """How it went."""

    num_videos: int
    outcomes: Mapping[str, int]
    """Of all questions; those that failed by what is wrong with them."""
    kept_at_kills: Sequence[int]
    """Answers in the journal at each kill."""
    computed_twice: int
    problems: Sequence[str]
    """Everything that is not as it should be."""
    seconds: float


def soak(folder: Path, *, num_videos: int, kills: int, seed: int = 1) -> Soak:
    """Run once undisturbed and once with kills; account for every question.

    Args:
        folder: For all that is made; must be empty.
        num_videos: Ten questions each.
        kills: How often the run gets SIGKILL.
        seed: Of faults and moments.

    Raises:
        RuntimeError: If a run that was left alone fails.
    """
    began = time.monotonic()
    rng = random.Random(f"soak-{seed}")
    faults = write_soak(folder, num_videos=num_videos, rng=rng)
    whole, killed = folder / "whole", folder / "killed"
    _run_to_the_end(folder, whole)
    kept = []
    for target in sorted(rng.randrange(num_videos * QUESTIONS_PER_VIDEO) for _ in range(kills)):
        _run_until(folder, killed, target, delay=rng.random())
        kept.append(_journal_lines(killed)[0])
    _run_to_the_end(folder, killed)
    lines, distinct = _journal_lines(killed)
    samples = _samples(killed)
    asked = [json.loads(line)["question_id"] for line in _lines(folder / "tasks/rows.jsonl")]
    problems = accounting(asked, faults, samples, _samples(whole))
    for name in differences(comparable(whole), comparable(killed)):
        problems.append(f"{name} is not that of the whole run")
    if lines != distinct:
        problems.append(f"{lines - distinct} answers were computed twice")
    return Soak(
        num_videos=num_videos,
        outcomes=Counter(_outcome(sample, faults) for sample in samples),
        kept_at_kills=kept,
        computed_twice=lines - distinct,
        problems=problems,
        seconds=time.monotonic() - began,
    )


def write_soak(folder: Path, *, num_videos: int, rng: random.Random) -> dict[str, str]:
    """Write the tasks, the broken videos and the checkpoint.

    Returns:
        Question -> what is wrong with it, for those with a fault.
    """
    tasks = folder / "tasks"
    few = write_tasks(tasks, num_videos=num_videos)
    videos = sorted({row["path"] for row in few})
    renamed = {}
    for number, path in enumerate(videos):
        odd = _ODD_NAMES[number // 10 % len(_ODD_NAMES)] if number % 10 == 0 else ""
        renamed[path] = path.replace(".mp4", f"{odd}.mp4")
        Path(path).rename(renamed[path])
    rows = list(_more_questions(few))
    broken = iter(rng.sample(videos, len(BREAKS) * _share(_SHARE_OF_VIDEOS, num_videos)))
    fault_of_video = {}
    for name, (break_it, _) in BREAKS.items():
        for _ in range(_share(_SHARE_OF_VIDEOS, num_videos)):
            path = next(broken)
            break_it(Path(renamed[path]))
            fault_of_video[path] = name
    faults = {}
    sound = [row for row in rows if row["path"] not in fault_of_video]
    count = _share(_SHARE_OF_QUESTIONS, len(sound))
    impossible = iter(rng.sample(sound, len(PROMPTS) * count))
    for name, (before, _) in PROMPTS.items():
        for _ in range(count):
            row = next(impossible)
            row["question"] = before + row["question"]
            faults[row["question_id"]] = name
    for row in rows:
        if row["path"] in fault_of_video:
            faults[row["question_id"]] = fault_of_video[row["path"]]
        row["path"] = renamed[row["path"]]
    (tasks / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    _write_checkpoint(folder / "checkpoint")
    return faults


def _more_questions(rows: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Ten questions on each video: its three, with their options in other orders."""
    by_video: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_video.setdefault(row["path"], []).append(row)
    for asked in by_video.values():
        turned = [_turned(row, turn) for turn in range(4) for row in asked]
        yield from turned[:QUESTIONS_PER_VIDEO]


def _turned(row: Mapping[str, Any], turn: int) -> dict[str, Any]:
    texts = [option.split(". ", 1)[1] for option in row["options"]]
    right = texts["ABCD".index(row["answer"])]
    texts = texts[turn:] + texts[:turn]
    return {
        **row,
        "question_id": f"{row['question_id']}-{turn}",
        "options": [f"{letter}. {text}" for letter, text in zip("ABCD", texts, strict=True)],
        "answer": "ABCD"[texts.index(right)],
    }


def _write_checkpoint(folder: Path) -> None:
    """The embedded model, with infinity in the embedding of one word."""
    source = embedded_checkpoint("longva-tiny")
    assert source is not None
    shutil.copytree(source, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][tokenizer["model"]["vocab"][_RARE_WORD], 0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def accounting(
    asked: Sequence[str],
    faults: Mapping[str, str],
    samples: Sequence[Mapping[str, Any]],
    undisturbed: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Everything that is wrong with the samples of a run.

    Args:
        asked: Question ids.
        faults: Question -> what is wrong with it.
        samples: Lines of the samples file.
        undisturbed: Those of a run that nobody killed.
    """
    found = Counter(sample["small_accuracy"]["question_id"] for sample in samples)
    problems = [f"question {name} is lost" for name in asked if name not in found]
    problems += [f"question {name} is there {n} times" for name, n in found.items() if n > 1]
    problems += [f"question {name} was never asked" for name in found if name not in set(asked)]
    expected = {sample["small_accuracy"]["question_id"]: sample for sample in undisturbed}
    for sample in samples:
        record = sample["small_accuracy"]
        name, outcome = record["question_id"], record["outcome"]
        fault, reason = faults.get(name), sample["longva_eval"]["reason"]
        if outcome not in ("right", "wrong", "no answer", "failed"):
            problems.append(f"question {name} has the outcome {outcome!r}")
        elif fault is None and outcome == "failed":
            problems.append(f"question {name} failed without a fault: {reason}")
        elif fault is not None and outcome != "failed":
            problems.append(f"question {name} was answered, in spite of: {fault}")
        elif fault is not None and not re.search(REASONS[fault], reason, re.DOTALL):
            problems.append(f"question {name} ({fault}) failed for another reason: {reason}")
        if name in expected and sample["filtered_resps"] != expected[name]["filtered_resps"]:
            problems.append(f"question {name} has another answer than without kills")
    return problems


def _share(share: float, count: int) -> int:
    return max(1, round(share * count))


def _command(folder: Path, output: Path) -> list[str]:
    command = run_command(
        folder / "tasks", output, names=(_TASK,), model_args=",on_error=skip,max_failed=0.9"
    )
    checkpoint = f"pretrained={folder / 'checkpoint'}"
    return [word.replace("pretrained=longva-tiny", checkpoint) for word in command]


def _run_to_the_end(folder: Path, output: Path) -> None:
    done = subprocess.run(
        _command(folder, output),
        env=run_environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"The run failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _run_until(folder: Path, output: Path, answers: int, *, delay: float) -> None:
    """Start a run and kill it, with its decoder, once so many answers are kept."""
    with (folder / "killed.log").open("ab") as log:
        run = subprocess.Popen(
            _command(folder, output),
            env=run_environment(folder),
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while run.poll() is None and _journal_lines(output)[0] < answers:
            time.sleep(0.05)
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def _journal_lines(output: Path) -> tuple[int, int]:
    """Answers in the journal, and how many different ones."""
    keys = []
    for path in output.rglob("journal/*/*.jsonl"):
        for line in path.read_bytes().split(b"\n")[1:-1]:
            with contextlib.suppress(ValueError):
                keys.append(json.loads(line)["key"])
    return len(keys), len(set(keys))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _samples(output: Path) -> list[dict[str, Any]]:
    _, path = result_files(output)
    return [json.loads(line) for line in _lines(path)]


def _outcome(sample: Mapping[str, Any], faults: Mapping[str, str]) -> str:
    record = sample["small_accuracy"]
    if record["outcome"] != "failed":
        return str(record["outcome"])
    return f"failed: {faults.get(record['question_id'], 'without a fault')}"


def table(result: Soak) -> str:
    """Markdown."""
    names = ["right", "wrong", "no answer", *(f"failed: {name}" for name in REASONS)]
    names += [name for name in result.outcomes if name not in names]
    kills = ", ".join(f"{kept:,}" for kept in result.kept_at_kills)
    return "\n".join(
        [
            f"{sum(result.outcomes.values()):,} questions on {result.num_videos} videos; SIGKILL "
            f"{len(result.kept_at_kills)} times, with {kills} answers in the journal.",
            "",
            "| what became of the questions | number |",
            "|---|---|",
            *(f"| {name} | {result.outcomes.get(name, 0)} |" for name in names),
            f"| lost, doubled, or with another outcome or answer | {len(result.problems)} |",
            f"| computed twice | {result.computed_twice} |",
        ]
    )


def main() -> int:
    """Soak and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=100)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep everything there; must not exist")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if options.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = options.folder.absolute()
            folder.mkdir(parents=True)
        result = soak(folder, num_videos=options.videos, kills=options.kills, seed=options.seed)
    print(table(result))
    print(f"{result.seconds:.0f} s")
    for problem in result.problems:
        print(f"PROBLEM: {problem}")
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
