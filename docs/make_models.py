"""Write the table of families in docs/models.md from what the engine does on tiny checkpoints.

    python docs/make_models.py

Each family is made as the tests make it (tests/support/tiny_families.py), asked what `longva-eval
verify` asks, and given a needle grid: three lengths, three depths, two needles, with controls.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import transformers

from longva_eval import embedded
from longva_eval.engine.opening import open_session
from longva_eval.engine.verify import summary_of, verify
from longva_eval.media.frames import FramePolicy
from longva_eval.needle.asking import run_grid
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.media import load_needles, open_haystack

DOCS = Path(__file__).parent
GRID = NeedleGrid(frame_counts=(8, 16, 32), depths=(0.0, 0.5, 1.0))
TITLES = ("`model_type`", "class", "pictures", "videos", "shared", "V-NIAH", "RoPE turns by",
          "tokens equal", "largest logit difference", "tokens saved")  # fmt: skip


def main() -> None:
    """Measure, and replace the table between the page's two marks."""
    sys.path.insert(0, str(DOCS.parent / "tests" / "support"))
    from tiny_families import KINDS

    with tempfile.TemporaryDirectory() as folder:
        rows = [row_of(name, Path(folder)) for name in KINDS if "thinking" not in name]
    table = "\n".join(
        "| " + " | ".join(row) + " |" for row in [TITLES, ["---"] * len(TITLES), *rows]
    )
    page = DOCS / "models.md"
    said = (
        f"transformers {transformers.__version__}, float32, CPU; random weights. Verified against "
        "`generate()` of the class; tokens saved: of a needle grid of 8, 16 and 32 frames.\n"
    )
    text = re.sub(
        r"(<!-- families -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{said}\n{table}\n{found[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    page.write_text(text, encoding="utf-8")


def row_of(name: str, folder: Path) -> list[str]:
    """One family, measured."""
    from tiny_families import make_family

    made = make_family(folder / name, name)
    session = open_session(str(made), device="cpu", dtype="float32", decode_process=False,
                           frames=FramePolicy(max_frames=6))  # fmt: skip
    found = verify(session, embedded.HAYSTACK)
    summary = summary_of(found)
    cases = {each.case: each.is_equal for each in found}
    family = session.checkpoint.family
    before = session.engine.counts.tokens_asked, session.engine.counts.tokens_computed
    needles = load_needles(embedded.NEEDLES)[:2]
    run_grid(session, open_haystack([embedded.HAYSTACK]), needles, GRID, controls=True)
    counts = session.engine.counts
    asked, computed = counts.tokens_asked - before[0], counts.tokens_computed - before[1]
    mixed = "and pictures" if "a picture and a video" in cases else "alone"
    return [
        f"`{name}`",
        f"`{type(family.model).__name__}`",
        "several" if cases["two pictures"] else "NO",
        f"several, {mixed}" if cases["two videos"] else "NO",
        "pairs of frames" if family.frames_per_unit == 2 else "frames",
        "teacher-forced",
        ", ".join(family.rope_axes),
        f"{sum(cases.values())} of {summary['cases']}",
        f"{summary['largest_logit_difference']:.0e}",
        f"{asked / computed:.1f} x",
    ]


if __name__ == "__main__":
    main()
