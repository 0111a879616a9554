"""Ask a model about every file of the fault set, as an evaluation would, and say what became of it.

python tests/faults/run.py                 # prints the table
python tests/faults/run.py --write         # and puts it into README.md beside this
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from faults.files import FAULTS, FRAMES, Fault, make_fault

from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import EvaluationError, MediaError
from longva_eval.media.frames import FramePolicy

ROOT = Path(__file__).parents[2]
TIME_LIMIT_SECONDS = 60.0
NUM_FRAMES = 8
_BEGIN, _END = "<!-- fault table: tests/faults/run.py --write -->", "<!-- end of fault table -->"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one file."""

    fault: Fault
    was_asked: bool
    """Whether the model answered a prompt with this file."""
    num_frames_seen: int
    message: str
    seconds: float
    largest_error: float | None
    """Of the frames that were seen, the largest mean difference from FFmpeg's, in levels of 255;
    None where there is nothing to compare."""


def open_small_session() -> Session:
    """The reference checkpoint of the tests, on eight frames."""
    folder = ROOT / "tests/data/golden_open/longva_tiny"
    policy = FramePolicy(max_frames=NUM_FRAMES)
    return open_session(str(folder), frames=policy, dtype="float32", device="cpu")


def ask(session: Session, fault: Fault, path: Path) -> Outcome:
    """One prompt with this file, prepared and answered as the adapter does."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # as importing lmms-eval's tasks does
    began = time.perf_counter()
    seen, message, error = (), "", None
    try:
        conversation = session.prompt("<image>\nWhat is shown?", [str(path)])
        (answer,) = session.generate([conversation])
        if isinstance(answer, EvaluationError):
            raise answer
        seen = conversation.frames[0].indices if conversation.frames else (0,)
    except MediaError as problem:
        message = str(problem)
    seconds = time.perf_counter() - began
    if seen and not fault.is_picture:
        info = session.probe(path)
        found = np.concatenate(list(session.read(info, seen, backend=session.backend)))
        error = _difference(found, _ffmpeg_frames(path), list(seen))
    return Outcome(
        fault=fault,
        was_asked=not message,
        num_frames_seen=len(seen),
        message=message,
        seconds=seconds,
        largest_error=error,
    )


def _ffmpeg_frames(path: Path) -> npt.NDArray[np.uint8] | None:
    """Every frame that the `ffmpeg` command shows, of the stream it picks; None without it."""
    if shutil.which("ffmpeg") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["ffmpeg", "-v", "error", "-i", f"file:{path}", "-an", "-fps_mode",
             "passthrough", "-pix_fmt", "rgb24",
             f"{folder}/%05d.ppm"],
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return np.stack([np.asarray(Image.open(file)) for file in sorted(Path(folder).iterdir())])


def _difference(
    found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8] | None, indices: list[int]
) -> float | None:
    if expected is None:
        return None
    if found.shape[1:] != expected.shape[1:] or max(indices) >= len(expected):
        return float("inf")
    levels = np.abs(found.astype(float) - expected[indices])
    return float(levels.mean(axis=(1, 2, 3)).max())


def table(outcomes: list[Outcome], session_note: str) -> str:
    """Markdown: the files that were answered, by what was seen; then each error."""
    answered: dict[str, list[str]] = {}
    lines = ["| file | error |", "|---|---|"]
    for outcome in outcomes:
        if not outcome.was_asked:
            lines.append(f"| {outcome.fault.name} | {_without_folder(outcome.message)} |")
            continue
        became = f"{outcome.num_frames_seen} frames seen"
        if outcome.fault.is_picture:
            became = "pictures"
        elif outcome.largest_error is not None:
            became += f", at most {outcome.largest_error:.1f} levels from FFmpeg's"
        answered.setdefault(became, []).append(outcome.fault.name)
    told = [f"Answered, {became}: {'; '.join(names)}." for became, names in answered.items()]
    return "\n\n".join([session_note, *told, "\n".join(lines)])


def _without_folder(message: str) -> str:
    short = re.sub(r"(?<![\w<&:])/[^ '\"]*/", "", message)
    return short.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Run the set. Returns 1 if any file met another fate than expected."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    session = open_small_session()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        ask(session, FAULTS[0], make_fault(FAULTS[0], Path(folder) / "imports"))
        for fault in FAULTS:
            outcomes.append(ask(session, fault, make_fault(fault, Path(folder))))
    blind = sum(o.was_asked and not o.num_frames_seen for o in outcomes)
    unexpected = [o for o in outcomes if o.was_asked != (o.fault.expect == FRAMES)]
    slowest = max(outcome.seconds for outcome in outcomes)
    note = (
        f"{len(outcomes)} files: {sum(o.was_asked for o in outcomes)} answered, "
        f"{sum(not o.was_asked for o in outcomes)} refused, {blind} answered blind, slowest "
        f"{slowest:.1f} s."
    )
    text = table(outcomes, note)
    print(text)
    for outcome in unexpected:
        print(f"UNEXPECTED: {outcome.fault.name}: {outcome.message or 'answered'}")
    if options.write:
        page = Path(__file__).with_name("README.md")
        before, _, rest = page.read_text().partition(_BEGIN)
        _, _, after = rest.partition(_END)
        page.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}")
    return int(bool(unexpected or blind))


if __name__ == "__main__":
    sys.exit(main())
