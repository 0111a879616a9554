"""One video at 8, 16, ..., 384 frames: how often it is opened, decoded and encoded.

    python benchmarks/frame_sweep.py [--rounds 2] [--tiny]

Visual tokens only, with a small random tower: together through one encoder that was told what is to
come, against each frame count by itself. The video is made here: 60 s at 30 fps, 320x180.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from harness import interleave, machine, say_ratio
from random_model import BODY_30M, BODY_TINY, random_session

from longva_eval.engine.encoder import VisualEncoder
from longva_eval.media.frames import FramePolicy, sample_frames
from longva_eval.media.probe import probe_video
from longva_eval.media.sources import VideoFrames

COUNTS = (8, 16, 32, 64, 128, 256, 384)


def write_video(path: Path, num_frames: int) -> None:
    """Shapes that move, 30 frames a second."""
    rows, columns = np.mgrid[0:180, 0:320]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 320, 180, "yuv420p"
        for number in range(num_frames):
            wave = np.sin((columns + 3 * number) / 17) + np.cos((rows - 2 * number) / 23)
            grey = ((wave + 2) * 60).astype(np.uint8)
            picture = np.stack([grey, np.roll(grey, number, 1), 255 - grey], axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="the smallest size, to see it work")
    options = parser.parse_args()
    counts = (2, 4) if options.tiny else COUNTS
    torch.set_num_threads(1)
    print(machine())
    vision = random_session(BODY_TINY if options.tiny else BODY_30M).vision
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "minute.mp4"
        write_video(path, 30 if options.tiny else 1800)
        info = probe_video(path)
        asked = [
            vision.pieces(
                VideoFrames(info=info, sample=sample_frames(info, FramePolicy(max_frames=count)))
            )
            for count in counts
        ]
        work: dict[str, tuple[int, int]] = {}

        def together() -> list[float]:
            encoder = VisualEncoder(vision)
            encoder.expect(asked)
            sums = [float(sum(part.sum() for part in encoder.encode(pieces))) for pieces in asked]
            encoder.stop()
            work["together"] = (encoder.num_passes, encoder.num_encoded)
            return sums

        def apart() -> list[float]:
            sums, passes, frames = [], 0, 0
            for pieces in asked:
                encoder = VisualEncoder(vision)
                encoder.expect([pieces])
                sums.append(float(sum(part.sum() for part in encoder.encode(pieces))))
                encoder.stop()
                passes, frames = passes + encoder.num_passes, frames + encoder.num_encoded
            work["apart"] = (passes, frames)
            return sums

        seconds, results = interleave({"apart": apart, "together": together}, rounds=options.rounds)
    for name, (passes, frames) in work.items():
        print(f"{name}: {passes} decode passes, {frames} frames encoded of {sum(counts)} asked for")
    print("same tokens:", np.allclose(results["apart"], results["together"], rtol=1e-5))
    say_ratio("apart / together, CPU time", seconds["apart"], seconds["together"])


if __name__ == "__main__":
    main()
