"""What a run pays besides the model: a profile of whole runs, ours beside the host's own way.

    python benchmarks/whole_run.py [--jobs mini videos] [--rounds 2] [--against FOLDER] [--tiny]

Each way is a process; the rows are its processor seconds by what the main thread was doing, looked
at 50 times a second; "children" are decoders and the end of the process. Two jobs, in turns:

* `mini`: the mini suite, 60 videos x 3 questions: `longva-eval run` with the embedded model.
* `videos`: 12 generated videos of 320 pixels and 16 to 256 s, x 3 questions, 32 frames, a tiny
  random LLaVA-OneVision: lmms-eval's own `llava_hf` beside `longva-eval run --model longva_hf`.
  The host's way starts with our patches to lmms-eval too.

With `--against` a second checkout of this repository runs the same, for a before and after. Last
come the parts that grow with the number of questions: planning, journal, hashing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import import_module
from pathlib import Path
from types import FrameType

from harness import machine, measure_here
from small_task import run_environment, write_tasks

ROOT = Path(__file__).parent.parent
PARTS = {
    "imports": {"_find_and_load"},
    "index of tasks": {"initialize_tasks"},
    "model": {"create_from_arg_string"},
    "data": {"get_task_dict", "build_all_requests"},
    "answers": {"generate_until"},
}
"""By functions on the stack, the first that is found; all else is scores and files."""
REST = "scores, files"


# --- in the process that is looked at -------------------------------------------------------------


def part_of(frame: FrameType | None) -> str:
    """What a thread is doing."""
    names = set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return next((part for part, known in PARTS.items() if known & names), REST)


def child(file: Path, way: str) -> None:
    """Run a way with the arguments that follow, and write its profile."""
    main = threading.get_ident()
    spent = dict.fromkeys((*PARTS, REST), 0.0)
    spent["imports"] = time.process_time()  # the interpreter, and what is imported up to here
    ended = threading.Event()

    def look() -> None:
        before = time.process_time()
        while not ended.wait(0.02):
            part = part_of(sys._current_frames().get(main))
            now = time.process_time()
            spent[part] += now - before
            before = now

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        if way == "host":
            sys.argv = ["lmms-eval", *sys.argv[1:]]
            status = import_module("lmms_eval.__main__").cli_evaluate()
        else:
            status = import_module("longva_eval.cli").main(["run", *sys.argv[1:]])
    finally:
        ended.set()
        watcher.join()
    spent[REST] += time.process_time() - sum(spent.values())
    file.write_text(json.dumps(spent), encoding="utf-8")
    sys.exit(status)


# --- jobs -----------------------------------------------------------------------------------------


def run(way: str, arguments: list[str], work: Path, *, checkout: Path) -> dict[str, float]:
    """Processor seconds of a way by part, and all of them."""
    output = Path(tempfile.mkdtemp(dir=work))
    command = [sys.executable, __file__, "--child", str(output / "spent.json"), way, *arguments,
               "--output_path", str(output), "--log_samples"]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = run_environment(work) | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0 or not list(output.rglob("*_results.json")):
        raise SystemExit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    spent: dict[str, float] = json.loads((output / "spent.json").read_text(encoding="utf-8"))
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**spent, "children": whole - sum(spent.values()), "all": whole}


def mini(_: Path, *, tiny: bool) -> dict[str, tuple[str, list[str]]]:
    """The mini suite, our way."""
    task = "longva_mini_small" if tiny else "longva_mini"
    frames = 2 if tiny else 32
    return {"ours": ("ours", ["--model", "longva", "--model_args",
                              f"pretrained=longva-tiny,device=cpu,max_frames_num={frames}",
                              "--tasks", task, *(["--limit", "1"] if tiny else [])])}  # fmt: skip


def videos(work: Path, *, tiny: bool) -> dict[str, tuple[str, list[str]]]:
    """Questions on videos, both ways."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    model = import_module("tiny_families").make_family(work / "model", "llava_onevision")
    write_tasks(work / "tasks", num_videos=1 if tiny else 12, side=32 if tiny else 320, mixed=True)
    shared = ["--include_path", str(work / "tasks"), "--tasks", "small_generate"]
    settings = f"pretrained={model},device=cpu,max_frames_num={2 if tiny else 32}"
    # The chat template takes content in parts; this adapter of the host's gives one text.
    plain = "{% for message in messages %}{{ message.content }}{% endfor %}"
    theirs = f"{settings},device_map=cpu,chat_template={plain}"
    return {
        "host": (
            "host",
            ["--model", "llava_hf", "--force_simple", "--model_args", theirs, *shared],
        ),
        "ours": ("ours", ["--model", "longva_hf", "--model_args", settings, *shared]),
    }


JOBS = {"mini": mini, "videos": videos}


def measure_job(name: str, work: Path, *, rounds: int, against: Path | None, tiny: bool) -> None:
    """Run a job's ways in turns and print their medians."""
    ways = JOBS[name](work, tiny=tiny)
    checkouts = {"": ROOT} | ({" before": against} if against is not None else {})
    turns = [(way + label, *ways[way], place) for way in ways for label, place in checkouts.items()
             if way == "ours" or not label]  # fmt: skip
    found: dict[str, list[dict[str, float]]] = {label: [] for label, *_ in turns}
    if name == "mini":  # its videos are drawn on first use
        run(*turns[0][1:3], work, checkout=ROOT)
    for number in range(rounds):
        for label, way, arguments, place in turns if number % 2 == 0 else turns[::-1]:
            found[label].append(run(way, arguments, work, checkout=place))
    print(f"\n{name}: processor seconds, medians of {rounds}")
    print(f"{'':<16}" + "".join(f"{label:>14}" for label in found))
    for part in (*PARTS, REST, "children", "all"):
        medians = [statistics.median(row[part] for row in rows) for rows in found.values()]
        print(f"{part:<16}" + "".join(f"{seconds:14.2f}" for seconds in medians), flush=True)


# --- what grows with the number of questions ------------------------------------------------------


def measure_growth(count: int, folder: Path) -> None:
    """Planning, the journal and hashing, for so many questions, three to a video."""
    from visual_tokens import frame

    from longva_eval.prompts.pieces import Prompt, TextPiece
    from longva_eval.prompts.visits import Query, plan_visits
    from longva_eval.running.journal import Journal

    def asked() -> list[Query]:
        found = []
        for number in range(count):
            if number % 3 == 0:
                shown = [frame(f"{number}#{place}", 144) for place in range(32)]
            found.append(Query(Prompt((*shown, TextPiece(tuple(range(number, number + 60)))))))
        return found

    queries = asked()
    took, _ = measure_here(lambda: plan_visits(queries, chunk_tokens=2048))
    print(f"\n{count:,} prompts of 32 frames planned in {took:.2f} s")

    def write() -> None:
        with Journal(folder, {"model": "none"}) as journal:
            for number, query in enumerate(queries):
                key = {"document": number, "prompt": query.prompt.digest}
                journal.put(key, {"text": "A", "token_ids": [1, 2]}, about=f"document {number}")

    took, _ = measure_here(write)
    again, journal = measure_here(lambda: Journal(folder, {"model": "none"}))
    assert len(journal) == count
    print(f"{count:,} answers written to the journal in {took:.2f} s, read in {again:.2f} s")
    data = bytes(1 << 20)
    took, _ = measure_here(lambda: [hashlib.sha256(data) for _ in range(100)])
    print(f"hashing: {100 * (1 << 20) / took / 1e6:,.0f} MB/s", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="whole_run") as folder:
        for name in options.jobs:
            measure_job(name, Path(folder), rounds=1 if options.tiny else options.rounds,
                        against=options.against, tiny=options.tiny)  # fmt: skip
        measure_growth(30 if options.tiny else 10_000, Path(folder) / "journal")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        written, name = sys.argv[2:4]
        sys.argv[1:] = sys.argv[4:]
        child(Path(written), name)
    else:
        main()
