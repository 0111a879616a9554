"""How many flipped bits are noticed: six codecs, six rates, three draws, 108 files.

HEVC once more with a hash of each picture in its stream.

    python benchmarks/bit_flips.py [--draws 3] [--frames 200]

Each file is a copy of a generated one with 1 to 32 bits flipped somewhere. Sixteen frames are asked
of it as an evaluation asks. `heard`: an error. `harmless`: what is shown differs by less than two
of 255 levels. `silent`: other pictures, without a word.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from longva_eval.errors import MediaError
from longva_eval.media.frames import FramePolicy, read_frames

WIDTH, HEIGHT, RATE = 320, 240, 25
POLICY = FramePolicy(max_frames=16)
FLIPS = (1, 2, 4, 8, 16, 32)
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "H.264": ("libx264", ".mp4", "yuv420p", {"g": "25", "crf": "23"}),
    "HEVC": (
        "libx265",
        ".mp4",
        "yuv420p",
        {"x265-params": "keyint=25:crf=23:log-level=none:pools=none"},
    ),
    "HEVC with hashes": (
        "libx265",
        ".mp4",
        "yuv420p",
        {"x265-params": "keyint=25:crf=23:hash=1:log-level=none:pools=none"},
    ),
    "VP9": (
        "libvpx-vp9",
        ".webm",
        "yuv420p",
        {"g": "25", "crf": "32", "b": "0", "deadline": "realtime", "cpu-used": "6"},
    ),
    "AV1": ("libsvtav1", ".mp4", "yuv420p", {"g": "25", "preset": "10"}),
    "MPEG-2": ("mpeg2video", ".ts", "yuv420p", {"g": "12", "bf": "2", "q": "6"}),
    "MJPEG": ("mjpeg", ".avi", "yuvj420p", {"q": "6"}),
}
"""Encoder, suffix, pixel format and options."""


def write_film(path: Path, codec: str, num_frames: int) -> None:
    """A drifting pattern with a moving box."""
    encoder, _, pixel_format, options = CODECS[codec]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(encoder, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.options = options
        for number in range(num_frames):
            waves = [128 + 90 * np.sin((x * a + y * b) / 40 + number / c) for a, b, c in
                     ((1, 0, 5), (1, 2, 9), (0, 1, 7))]  # fmt: skip
            picture = np.stack(waves, -1).astype(np.uint8)
            left, top = number * 3 % (WIDTH - 60), number * 2 % (HEIGHT - 60)
            picture[top : top + 60, left : left + 60] = (number * 7 % 256, 40, 200)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def outcome(path: Path, intact: npt.NDArray[np.uint8]) -> str:
    """What becomes of a damaged file."""
    try:
        found = read_frames(path, POLICY).pixels
    except MediaError:
        return "heard"
    if found.shape != intact.shape:
        return "silent"
    levels = np.abs(found.astype(np.int16) - intact).mean(axis=(1, 2, 3))
    return "silent" if levels.max() >= 2 else "harmless"


def main() -> None:
    """Print a table as it stands in docs/reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--frames", type=int, default=200)
    options = parser.parse_args()
    print("| codec | heard | harmless | silent | silent, by flipped bits |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for codec, (_, suffix, _, _) in CODECS.items():
            path = Path(folder) / f"film{suffix}"
            write_film(path, codec, options.frames)
            data = path.read_bytes()
            intact = read_frames(path, POLICY).pixels
            became: Counter[str] = Counter()
            silent: Counter[int] = Counter()
            for flips in FLIPS:
                for draw in range(options.draws):
                    chance = random.Random(f"{codec} {flips} {draw}")
                    damaged = bytearray(data)
                    for _ in range(flips):
                        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
                    copy = Path(folder) / f"{flips}-{draw}{suffix}"
                    copy.write_bytes(damaged)
                    result = outcome(copy, intact)
                    became[result] += 1
                    silent[flips] += result == "silent"
            by_flips = ", ".join(f"{n}: {count}" for n, count in silent.items() if count)
            print(f"| {codec} | {became['heard']} | {became['harmless']} | {became['silent']} | "
                  f"{by_flips or '-'} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
