"""Make the haystack video and the needles.

    python -m training.make_media                 # what ships, into longva_eval/data
    python -m training.make_media --tuning        # for choices, into runs/tuning_media

The two use different seeds, and neither a seed of the training. Choices (recipe, RoPE theta) are
made on the tuning media only; reported numbers come from the shipped ones.
"""

import argparse
import json
import random
from itertools import islice
from pathlib import Path
from typing import Final

from PIL import Image

from longva_eval.needle.scenes import (
    COLORS,
    LOCATORS,
    caption_words,
    haystack_scenes,
    random_scene,
    render_scene,
)
from longva_eval.tasks.mini.mini_benchmark import encode_video
from training.textdata import needle_prompt

__all__ = ["SHIPPED_SEED", "TUNING_SEED", "make_haystack", "make_needles"]

SHIPPED_SEED: Final = 20240624
TUNING_SEED: Final = 31415
HAYSTACK_FRAMES: Final = 1200
FRAME_RATE: Final = 1
SIDE: Final = 96


def make_haystack(path: Path, *, seed: int, num_frames: int = HAYSTACK_FRAMES) -> list[list[str]]:
    """Write the haystack as H.264.

    Args:
        path: The MP4 file to write.
        seed: Seed of the scenes.
        num_frames: Length.

    Returns:
        The caption of each frame.
    """
    rng = random.Random(f"haystack-{seed}")
    scenes = list(islice(haystack_scenes(rng), num_frames))
    frames = (render_scene(scene, side=SIDE) for scene in scenes)
    encode_video(path, frames, frame_rate=FRAME_RATE, quality=23, preset="slow")
    return [list(caption_words(scene)) for scene in scenes]


def make_needles(folder: Path, *, seed: int) -> dict[str, list[str]]:
    """Write the needles with their questions.

    There are two needles for each colour and one for each digit, so that a model that always
    gives the same answer has 2 of 16 and 1 of 10 right.

    Args:
        folder: Gets the PNG files and `dataset.json`.
        seed: Seed of the needles.

    Returns:
        The caption of each picture, by file name.
    """
    rng = random.Random(f"needles-{seed}")
    folder.mkdir(parents=True, exist_ok=True)
    asked = [("color", color) for color in COLORS for _ in range(2)]
    asked += [("number", digit) for digit in "0123456789"]
    rng.shuffle(asked)
    nouns = rng.sample(LOCATORS, len(LOCATORS))
    nouns += rng.sample(LOCATORS, len(asked) - len(nouns))
    captions, entries = {}, []
    for number, ((kind, answer), noun) in enumerate(zip(asked, nouns, strict=True), start=1):
        scene = random_scene(
            rng,
            shape=noun,
            color=answer if kind == "color" else None,
            digit=answer if kind == "number" else rng.choice("0123456789"),
        )
        name = f"{number:02d}_{noun}.png"
        Image.fromarray(render_scene(scene, side=SIDE)).save(folder / name, optimize=True)
        captions[name] = list(caption_words(scene))
        entries.append(
            {
                "path": name,
                "prompt": needle_prompt(noun, kind=kind),
                "answer": answer,
                "caption": " ".join(captions[name]),
                "choices": list(COLORS) if kind == "color" else list("0123456789"),
            }
        )
    (folder / "dataset.json").write_text(json.dumps(entries, indent=1) + "\n")
    return captions


def main() -> None:
    """Write the media and print what was made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", action="store_true", help="make the media for choices")
    parser.add_argument("--out", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    seed = TUNING_SEED if arguments.tuning else SHIPPED_SEED
    default = Path("runs/tuning_media") if arguments.tuning else Path("longva_eval/data")
    out = arguments.out or default
    out.mkdir(parents=True, exist_ok=True)
    captions = {
        "haystack": make_haystack(out / "haystack.mp4", seed=seed),
        "needles": make_needles(out / "needles", seed=seed),
    }
    (out / "captions.json").write_text(json.dumps(captions, separators=(",", ":")) + "\n")
    size = (out / "haystack.mp4").stat().st_size
    print(
        f"{out}: haystack of {len(captions['haystack'])} frames ({size / 1e6:.2f} MB), "
        f"{len(captions['needles'])} needles, seed {seed}"
    )


if __name__ == "__main__":
    main()
