"""What the checks of a video cost: an hour of H.264, with them and without, interleaved.

    python benchmarks/media_checks.py [--minutes 60] [--rounds 5] [--work FOLDER] [--tiny]

With: the look at all packets, the digest of the whole file (nothing kept from earlier runs), what
FFmpeg says is read after every block, the file's identity. Without: the same frames, decoded by the
same plan, which is there already. Processor seconds of a process each; imports are not counted.
640x360, 25 frames a second, a key frame every ten seconds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from decode import check, run
from harness import machine, run_fresh

CHILD = """
import json, os, sys, time
import av
os.environ["XDG_CACHE_HOME"] = sys.argv[4]
from longva_eval.media.decode import read_frames
from longva_eval.media.decode_worker import _Messages
from longva_eval.media.frames import FramePolicy, sample_frames
from longva_eval.media.packets import WHEN_OPENED
from longva_eval.media.probe import probe_video
path, count, is_checked = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "with"
policy = FramePolicy(max_frames=count) if count else FramePolicy(fps=1, max_frames=100_000)
if is_checked:
    av.logging.restore_default_callback()
    av.logging.set_libav_level(av.logging.ERROR)
    messages = _Messages()
    WHEN_OPENED.append(messages.forget)
else:
    info = probe_video(path)
    indices = sample_frames(info, policy).indices
began, total = time.process_time(), 0
if is_checked:
    info = probe_video(path)
    indices = sample_frames(info, policy).indices
for block in read_frames(info, indices):
    if is_checked:
        messages.check(info)
    total += len(block)
print(json.dumps({"seconds": time.process_time() - began, "frames": total}))
"""


def make_video(path: Path, minutes: int, size: str) -> Path:
    """One generated minute, repeated by stream copy."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        minute = path.with_name(f"checks-minute-{size}.mp4")
        source = f"testsrc2=s={size}:r=25:d=60,noise=alls=6:allf=t"
        run("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "veryfast", "-bf", "2",
            "-crf", "26", "-pix_fmt", "yuv420p", str(minute))  # fmt: skip
        run("-stream_loop", str(minutes - 1), "-i", str(minute), "-c", "copy", str(path))
    return path


def main() -> None:
    """Measure and print a table as it stands in docs/reliability.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    if options.tiny:
        options.minutes = options.rounds = 1
    size, counts = ("64x36", (8,)) if options.tiny else ("640x360", (128, 384, 0))
    video = options.work / f"checks-{options.minutes}min-{size}.mp4"
    make_video(video, options.minutes, size)
    print(f"{machine()}; {video.stat().st_size / 1e6:.0f} MB, {options.rounds} rounds\n")
    print("| frames | without, s | with, s | more |")
    print("|---|---|---|---|")
    for count in counts:
        seconds: dict[str, list[float]] = {"without": [], "with": []}
        for number in range(options.rounds):
            for how in sorted(seconds, reverse=bool(number % 2)):
                with tempfile.TemporaryDirectory() as cache:
                    found = run_fresh(CHILD, str(video), str(count), how, cache)
                seconds[how].append(check(found, count or options.minutes * 60))
        bare, checked = (statistics.median(seconds[how]) for how in ("without", "with"))
        print(f"| {count or 'one a second'} | {bare:.2f} | {checked:.2f} | "
              f"{100 * (checked / bare - 1):.1f} % |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
