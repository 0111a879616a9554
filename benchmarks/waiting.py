"""How long a GPU would wait for frames: real decoding beside a model that only sleeps.

    python benchmarks/waiting.py [--videos 12] [--frames 384] [--ahead 1024] [--cores N] [--tiny]

Videos of 1, 2, ... minutes (640x360 H.264, made with ffmpeg as in decode.py), three questions on
each, through the encoder and its decode processes. In place of LongVA-7B a sleep: a frame takes
what the tower took on an H200, a prompt what `longva-eval plan` says of the tokens that are new.
Waiting is the time in which the encoder has no block to give. By the clock: for a machine with idle
cores. The decoders' processor time says how many cores keep up with such a GPU.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch
from decode import make_video
from harness import machine
from random_model import BODY_TINY, TOWER_TINY, random_session

from longva_eval.engine import encoder
from longva_eval.media.decode import own_cores
from longva_eval.media.decode_worker import DecodeWorkers
from longva_eval.media.frames import FramePolicy
from longva_eval.studies.cost import (
    ATTENTION,
    GPUS,
    QUESTION_TOKENS,
    estimate_seconds,
    measured_share,
    prefill_flops,
)
from longva_eval.studies.shape import LONGVA_7B

TOWER_FRAMES_PER_SECOND = 1050
"""CLIP-L/336 with its projector on an H200, docs/performance.md."""
QUESTIONS = ("What happens first?", "What happens then?", "What happens last?")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--frames", type=int, default=384)
    parser.add_argument("--gpu", choices=GPUS, default="h200")
    parser.add_argument("--attention", choices=ATTENTION, default="sdpa")
    parser.add_argument("--ahead", type=int, default=1024, help="MiB of pixels read ahead (1024)")
    parser.add_argument("--cores", type=int, default=own_cores(),
        help="kept busy by several videos; 1: one video after the other (all)")  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"))
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    size, shot = ("64x36", 0.25) if options.tiny else ("640x360", 2.5)
    if options.tiny:
        options.videos, options.frames = 2, 4
    print(machine())
    paths = [make_video(options.work / f"{size}-{n}.mp4", minutes=n, size=size, shot=shot)
             for n in range(1, options.videos + 1)]  # fmt: skip
    session = random_session(BODY_TINY, tower=TOWER_TINY)
    session.frames = FramePolicy(max_frames=options.frames)
    session.encoder = encoder.VisualEncoder(
        session.vision, bytes_ahead=options.ahead << 20, cores=options.cores
    )
    workers = DecodeWorkers()
    session.probe, session.read = workers.probe_video, workers.read_frames
    waited: list[float] = []
    by_loader = encoder._Loader.next

    def next_block(loader: Any) -> Any:
        began = time.perf_counter()
        found = by_loader(loader)
        waited.append(time.perf_counter() - began)
        return found

    def tokens(_source: Any, pixels: torch.Tensor, *, batch_size: int) -> list[torch.Tensor]:
        del batch_size
        time.sleep(len(pixels) / TOWER_FRAMES_PER_SECOND)
        return list(torch.zeros(len(pixels), piece_tokens, 1))

    prompts = [session.prompt(question, [path]).prompt for path in paths for question in QUESTIONS]
    shown = [prompt.visual_pieces for prompt in prompts]
    piece_tokens = shown[0][0].num_tokens
    frames = min(options.frames, len(shown[0]))
    video_tokens = LONGVA_7B.tokens_per_frame * frames
    _, share = measured_share(options.attention, video_tokens)
    ends = (video_tokens, video_tokens + QUESTION_TOKENS)
    seconds = [
        estimate_seconds(prefill_flops(LONGVA_7B, end, cached_tokens=start),
                         GPUS[options.gpu], utilization=share)
        for start, end in ((0, ends[0]), ends)
    ]  # fmt: skip
    encoder._Loader.next = next_block  # type: ignore[method-assign,assignment]
    session.vision.tokens = tokens  # type: ignore[method-assign,assignment]
    first_video = 0.0
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)  # ffmpeg, so far
    decoded_before = spent.ru_utime + spent.ru_stime
    began = time.perf_counter()
    try:
        session.encoder.expect(shown)
        for number, pieces in enumerate(shown):
            session.encoder.encode(pieces)
            if number == 0:
                first_video = sum(waited)
            time.sleep(seconds[1] + (seconds[0] if number % len(QUESTIONS) == 0 else 0.0))
    finally:
        encoder._Loader.next = by_loader  # type: ignore[method-assign]
        session.encoder.stop()
        whole = time.perf_counter() - began
        workers.close()
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    decoding = spent.ru_utime + spent.ru_stime - decoded_before
    computing = whole - sum(waited)
    print(f"{len(paths)} videos of 1 to {len(paths)} minutes, {frames} frames, {len(shown)} "
          f"questions; {options.gpu}, {options.attention}: {seconds[0]:.2f} s a video and "
          f"{seconds[1]:.3f} s a question")  # fmt: skip
    print(f"{whole:.1f} s, of it {sum(waited):.1f} s waiting for frames, {sum(waited) / whole:.1%} "
          f"(wanted: below 10 %); after the first video {sum(waited) - first_video:.1f} s, "
          f"{(sum(waited) - first_video) / (whole - first_video):.1%}; "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(f"decoders took {decoding:.1f} s of processor time, the model {computing:.1f} s; cores "
          f"that keep up with it: {math.ceil(decoding / computing)}")  # fmt: skip


if __name__ == "__main__":
    main()
