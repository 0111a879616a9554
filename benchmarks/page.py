"""How large the page of a full benchmark is, and how long it takes to make and to open.

2,700 questions on 900 videos, as in Video-MME, two runs of 128 and 32 frames. The videos are
drawn as noise that moves, which no codec packs well, so that the film strips use up what they may:
a worst case for the size. Needs Chromium for the time to open.

    python benchmarks/page.py [--questions 2700] [--keep FOLDER]

Wanted: below 40 MB, open in under 3 s.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

from browser import find_chromium, open_browser, open_tab
from harness import machine
from page_runs import sample, write_run

from longva_eval.cli import main as longva_eval

_DRAWN_VIDEOS = 12
_FRAMES = 128
_WIDTH, _HEIGHT = 192, 108


def main() -> None:
    """Draw the runs, make the page, open it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=2700)
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--keep", type=Path, help="folder for runs, videos and the page")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        runs = write_runs(folder, options.questions)
        page = folder / "page.html"
        began = time.perf_counter()
        longva_eval(["report", *map(str, runs), "--out", str(page)])
        made = time.perf_counter() - began
        began = time.perf_counter()
        longva_eval(["report", *map(str, runs), "--out", str(folder / "bare.html"), "--no-film"])
        bare = time.perf_counter() - began
        size = page.stat().st_size
        print(f"{options.questions:,} questions, two runs: {size / 1e6:.1f} MB (wanted: < 40)")
        print(f"  made in {made:.0f} s, {bare:.1f} s of it without film strips")
        if find_chromium() is None:
            print("  no Chromium is installed: the time to open was not measured")
            return
        load, ready = open_times(page, options.rounds)
        print(
            f"  opens in {statistics.median(load):.2f} s (load event; {min(load):.2f} to "
            f"{max(load):.2f}), samples are listed after {statistics.median(ready):.2f} s "
            f"({min(ready):.2f} to {max(ready):.2f}; wanted: < 3)"
        )


def open_times(page: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds until the load event, and until the first samples are listed."""
    load, ready = [], []
    for _ in range(rounds):
        with open_browser() as browser:
            began = time.monotonic()
            tab = open_tab(browser, page.as_uri(), width=1280)
            load.append(time.monotonic() - began)
            tab.page.locator("#list .row").first.wait_for()
            ready.append(time.monotonic() - began)
            if tab.errors:
                raise RuntimeError(tab.errors)
    return load, ready


def write_runs(folder: Path, num_questions: int) -> list[Path]:
    """Two runs of lmms-eval's form, and the videos their samples name."""
    chance = random.Random(0)
    drawn = [write_noise(folder / f"drawn{n}.mp4", n) for n in range(_DRAWN_VIDEOS)]
    videos = []
    for number in range((num_questions + 2) // 3):
        video = folder / "videos" / f"{number:03}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        if not video.exists():
            shutil.copy(drawn[number % _DRAWN_VIDEOS], video)
        videos.append(video)
    words = re.findall(r"\w+", "what does the person in red do after the second scene has ended")
    runs = []
    for frames, share in ((32, 0.45), (128, 0.52)):
        indices = [int(i) for i in np.linspace(0, _FRAMES - 1, frames, dtype=int)]
        rows = []
        for number in range(num_questions):
            shuffled = random.Random(number)
            place = number // 3
            rows.append(
                sample(
                    number,
                    text="A" if chance.random() < share else "BCD"[number % 3],
                    question=" ".join(shuffled.choices(words, k=14)) + "?",
                    options=[" ".join(shuffled.choices(words, k=7)) for _ in range(4)],
                    categories={
                        "duration": ("short", "medium", "long")[place // 300 % 3],
                        "domain": f"Domain {place % 6}",
                        "task_type": f"Task type {number % 12}",
                    },
                    video=videos[place],
                    frames=indices,
                    num_frames_total=_FRAMES,
                )
            )
        runs.append(write_run(folder / f"run{frames}", rows, frames=frames, task="videomme_like"))
    return runs


def write_noise(path: Path, seed: int) -> Path:
    """A video of coarse and fine noise that moves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    fine = generator.integers(0, 256, (_HEIGHT + _FRAMES, _WIDTH, 3), dtype=np.uint8)
    coarse = generator.integers(0, 256, (14, 24, 3)).repeat(8, 0).repeat(8, 1)[:_HEIGHT, :_WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        stream.options = {"crf": "30", "preset": "ultrafast", "g": "8"}
        for number in range(_FRAMES):
            mixed = (fine[number : number + _HEIGHT] // 2 + np.roll(coarse, number, 1) // 2).astype(
                "u1"
            )
            for packet in stream.encode(av.VideoFrame.from_ndarray(mixed)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


if __name__ == "__main__":
    main()
