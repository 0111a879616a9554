"""200 different videos in one run: resident memory must not grow.

    python benchmarks/memory.py [--videos 200]

Writes small videos, asks two questions of each with the small reference checkpoint, and prints the
resident memory ten times.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from harness import machine

from longva_eval.engine.generation import GenerationSettings
from longva_eval.engine.opening import open_session
from longva_eval.media.frames import FramePolicy

CHECKPOINT = Path(__file__).parent.parent / "tests/data/golden_open/longva_tiny"


def resident_bytes() -> int:
    """Resident memory of this process now."""
    text = Path("/proc/self/statm").read_text(encoding="utf-8")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write_video(path: Path, *, seed: int) -> None:
    """A second of noise that drifts."""
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 255, (180, 320, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for shift in range(12):
            shifted = np.ascontiguousarray(np.roll(picture, 3 * shift, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shifted, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    session = open_session(
        CHECKPOINT, device="cpu", dtype="float32", frames=FramePolicy(max_frames=8)
    )
    settings = GenerationSettings(max_new_tokens=2)
    seen: list[int] = []
    done = 0
    step = max(1, options.videos // 10)

    def note(*_: object) -> None:
        nonlocal done
        done += 1
        if done % (2 * step) == 0:
            seen.append(resident_bytes())
            print(f"after {done // 2:4d} videos: {seen[-1] / 1e6:7.1f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        prompts = []
        for number in range(options.videos):
            path = Path(folder) / f"{number}.mp4"
            write_video(path, seed=number)
            prompts += [session.prompt(text, [path]) for text in ("What is it?", "Where is it?")]
        answers = session.generate(prompts, settings, on_answer=note)
    failed = sum(isinstance(answer, Exception) for answer in answers)
    growth = seen[-1] - seen[0]
    print(f"{len(answers)} answers, {failed} failed, {session.encoder.num_passes} videos read")
    print(f"growth from video {step} to {options.videos}: {growth / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
