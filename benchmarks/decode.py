"""Decoding: ours against lmms-eval's `read_video` and against decord, on an hour of video.

    python benchmarks/decode.py [--minutes 60] [--rounds 1] [--counts 384 0] [--work DIR] [--tiny]

Makes the file itself with ffmpeg: 640x360, 30 fps, H.264 with B-frames, a cut every 2.5 s; one
generated minute, repeated by stream copy. Each run is a process of its own; imports are not
counted, opening and looking at the file is. The last columns are ours by the clock, with one core
and two, in turns. Also compares the peak memory of decoding and
preparing 384 frames of 720p.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

from harness import machine, run_fresh

OURS = """
import sys, json, time
import numpy as np
from longva_eval.media import decode
from longva_eval.media.decode import read_frames
from longva_eval.media.probe import probe_video
from longva_eval.media.frames import FramePolicy, sample_frames
path, count, cores = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
decode.own_cores = lambda: cores
began, clock = time.process_time(), time.perf_counter()
info = probe_video(path)
policy = FramePolicy(max_frames=count) if count else FramePolicy(fps=1, max_frames=100_000)
total = 0
for block in read_frames(info, sample_frames(info, policy).indices):
    total += len(block)
print(json.dumps({"seconds": time.process_time() - began, "frames": total,
                  "clock": time.perf_counter() - clock}))
"""

HOST = """
import sys, json, time
from lmms_eval.models.model_utils.load_video import read_video
path, count = sys.argv[1], int(sys.argv[2])
began = time.process_time()
frames = read_video(path, num_frm=count)
print(json.dumps({"seconds": time.process_time() - began, "frames": len(frames)}))
"""

DECORD = """
import sys, json, time
import numpy as np, decord
path, count = sys.argv[1], int(sys.argv[2])
began = time.process_time()
reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
frames = reader.get_batch(np.linspace(0, len(reader) - 1, count, dtype=int)).asnumpy()
print(json.dumps({"seconds": time.process_time() - began, "frames": len(frames)}))
"""

MEMORY_OURS = """
import sys, json, resource
import torch
from transformers import CLIPImageProcessorPil
from longva_eval.media.images import frames_to_pixel_values
from longva_eval.media.decode import read_frames
from longva_eval.media.probe import probe_video
from longva_eval.media.frames import FramePolicy, sample_frames
processor = CLIPImageProcessorPil(
    size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
info, policy = probe_video(sys.argv[1]), FramePolicy(max_frames=int(sys.argv[2]))
total = 0
for block in read_frames(info, sample_frames(info, policy).indices):
    total += len(frames_to_pixel_values(block, processor).half())
print(json.dumps({"bytes": peak() - before, "frames": total}))
"""

MEMORY_HOST = """
import sys, json, resource
from transformers import CLIPImageProcessor
from lmms_eval.models.model_utils.load_video import read_video
processor = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
frames = read_video(sys.argv[1], num_frm=int(sys.argv[2]))
pixels = processor.preprocess(frames, return_tensors="pt")["pixel_values"].half()
print(json.dumps({"bytes": peak() - before, "frames": len(pixels)}))
"""


def make_video(path: Path, *, minutes: int, size: str = "640x360", shot: float = 2.5) -> Path:
    """A generated minute of 24 shots of 2.5 s, cut hard, with motion and grain; repeated."""
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    minute = path.with_name(f"{24 * shot:g}s-{size}.mp4")
    shots = [
        f"testsrc2=size={size}:rate=30",
        f"mandelbrot=size={size}:rate=30:start_scale=0.4",
        f"gradients=size={size}:rate=30:speed=0.05:seed=7",
        f"life=size={size}:rate=30:mold=10:ratio=0.1:seed=3:life_color=#C83232",
    ]
    parts = [shots[number % len(shots)] for number in range(24)]
    inputs = [
        argument for part in parts for argument in ("-f", "lavfi", "-t", str(shot), "-i", part)
    ]
    chain = ";".join(
        f"[{n}:v]hue=h={n * 37 % 360},noise=alls=3:allf=t,format=yuv420p[v{n}]"
        for n in range(len(parts))
    )
    joined = "".join(f"[v{n}]" for n in range(len(parts))) + f"concat=n={len(parts)}:v=1[out]"
    if not minute.is_file():
        run("-filter_complex_threads", "1", *inputs, "-filter_complex", f"{chain};{joined}",
            "-map", "[out]", "-c:v", "libx264", "-preset", "medium", "-crf", "23", "-bf", "3",
            "-g", "250", str(minute))  # fmt: skip
    listing = path.with_suffix(".txt")
    listing.write_text(f"file '{minute.name}'\n" * minutes, encoding="utf-8")
    run("-f", "concat", "-safe", "0", "-i", str(listing), "-c", "copy", str(path))
    return path


def run(*arguments: str) -> None:
    """Call ffmpeg."""
    subprocess.run(["ffmpeg", "-y", "-loglevel", "error", *arguments], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--counts", type=int, nargs="+", help="frames; 0 is one a second")
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    print(machine())
    counts: tuple[int, ...]
    if options.tiny:
        options.minutes = options.rounds = 1
        shot, size, size_720p, counts, many = 0.25, "64x36", "128x72", (8, 0), 8
    else:
        shot, size, size_720p, counts, many = 2.5, "640x360", "1280x720", (8, 32, 128, 384, 0), 384
    counts = tuple(options.counts or counts)
    path = options.work / f"{24 * shot * options.minutes:g}s.mp4"
    video = make_video(path, minutes=options.minutes, size=size, shot=shot)
    print(f"{video.name}: {video.stat().st_size / 1e6:.0f} MB")
    fps_count = round(options.minutes * 24 * shot)
    wanted = {8: "200", 128: "17", 384: "7.5", 0: "2.0"}
    print("\nCPU seconds; frames by np.linspace, or one a second")
    print(f"{'frames':>8} {'host':>8} {'decord':>8} {'ours':>8} {'host/ours':>10} {'wanted':>7} "
          f"{'decord/ours':>12} {'clock, 1':>8} {'2 cores':>8}")  # fmt: skip
    for count in counts:
        asked = count or fps_count
        host, theirs, ours, alone, together = [], [], [], [], []
        for _ in range(options.rounds):
            if count in wanted:
                host.append(check(run_fresh(HOST, str(video), str(asked)), asked))
            if count:
                theirs.append(check(run_fresh(DECORD, str(video), str(asked)), asked))
            one, two = (run_fresh(OURS, str(video), str(count), cores) for cores in ("1", "2"))
            ours.append(check(one, asked))
            alone.append(one["clock"])
            together.append(two["clock"])
            check(two, asked)
        mine = statistics.median(ours)
        cells = [f"{statistics.median(t):8.2f}" if t else " " * 8 for t in (host, theirs)]
        ratio = f"{statistics.median(host) / mine:10.1f}" if host else " " * 10
        other = f"{statistics.median(theirs) / mine:12.2f}" if theirs else ""
        print(f"{count or '1 fps':>8} {cells[0]} {cells[1]} {mine:8.2f} {ratio} "
              f"{wanted.get(count, ''):>7} {other:>12} {statistics.median(alone):8.2f} "
              f"{statistics.median(together):8.2f}", flush=True)  # fmt: skip
    path = options.work / f"{24 * shot:g}s-720p.mp4"
    short = make_video(path, minutes=1, size=size_720p, shot=shot)
    print(f"\nPeak memory above imports, decode and prepare {many} frames of 720p")
    one, two = (
        statistics.median(
            run_fresh(way, str(short), str(many))["bytes"] for _ in range(options.rounds)
        )
        for way in (MEMORY_HOST, MEMORY_OURS)
    )
    print(
        f"host {one / 1e9:.2f} GB, ours {two / 1e9:.2f} GB: {one / max(two, 1):.1f} times less   "
        "wanted: 6"
    )


def check(result: dict[str, float], asked: int) -> float:
    """Seconds, after making sure that the work was done."""
    if abs(result["frames"] - asked) > 1:
        sys.exit(f"{result['frames']} frames came, {asked} were asked for")
    return result["seconds"]


if __name__ == "__main__":
    main()
