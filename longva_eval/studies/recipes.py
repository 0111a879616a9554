"""Recipes that makers of models stated in public: `--like NAME` of `run`, `sweep` and `explain`.

What can be set becomes arguments of the model; what cannot is shown as it was stated. No torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from longva_eval.errors import SettingsError, nearest

__all__ = ["RECIPES", "SHOWN_BY", "Recipe", "find_recipe", "study_like", "with_recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What somebody stated, when and where."""

    title: str
    source: str
    """Address and date of the statement; addresses were read on 2026-11-29."""
    model: str
    """As `--model` of lmms-eval."""
    model_args: Mapping[str, str]
    """What `--like` sets; what the user sets wins."""
    stated: Mapping[str, str]
    """Setting -> the statement, in words."""
    recorded: Mapping[str, str] = field(default_factory=dict)
    """Name in a run's recipe (`recipe_of`) -> the value that a faithful run records."""


SHOWN_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "frames": ("frames rule", "frames seen"),
    "template": ("conv_template",),
    "decoder": ("video_decode_backend",),
    "tokens of a frame": ("mm_spatial_pool_stride", "mm_spatial_pool_mode"),
    "pictures": ("mm_patch_merge_type",),
    "pixels": ("prompt tokens", "size_for_frames"),
    "dtype": ("dtype",),
    "sampling": ("generation", "answers drawn"),
    "prompt": ("task", "task version"),
    "answer parser": ("task", "task version"),
}
"""Setting that recipes state -> names in a run's recipe that say what was run instead."""

RECIPES: Final[Mapping[str, Recipe]] = {
    "longva-paper": Recipe(
        title="LongVA, arXiv 2406.16852",
        source="https://github.com/EvolvingLMMs-Lab/LongVA README.md (commit 1021cad, 2024-06), "
        "its evaluation command; Table 4 of the paper",
        model="longva",
        model_args={"conv_template": "qwen_1_5", "video_decode_backend": "decord"},
        stated={
            "frames": "8 to 384, evenly spread (Table 4); the command has 32",
            "template": "qwen_1_5",
            "decoder": "decord",
            "tokens of a frame": "144: 336 pixels, pooled 2 x 2",
            "pictures": "UniRes",
            "dtype": "not stated; its code runs float16",
            "prompt": "not stated; lmms-eval's videomme of 2024-06",
            "answer parser": "not stated; lmms-eval's videomme of 2024-06",
        },
        recorded={
            "conv_template": "qwen_1_5",
            "video_decode_backend": "decord",
            "mm_spatial_pool_stride": "2",
            "mm_patch_merge_type": "unires",
        },
    ),
    "qwen3-vl": Recipe(
        title="Qwen3-VL on Video-MME",
        source="https://github.com/QwenLM/Qwen3-VL/issues/1540, maintainer's comments of "
        "2025-10-15 to 2025-10-17",
        model="longva_hf",
        model_args={"fps": "2", "max_frames_num": "2048"},
        stated={
            "frames": "2 a second, at most 2,048",
            "pixels": "up to 224K video tokens a video: no argument, but size.longest_edge in the "
            "checkpoint's video_preprocessor_config.json (2 x 32 x 32 pixels a token)",
            "sampling": "Thinking models: temperature 0.6, top_p 0.95, top_k 20, no penalties, "
            "32,768 tokens; Instruct: not stated",
            "prompt": "not stated",
            "answer parser": "not stated",
        },
        recorded={"frames fps": "2.0", "frames max_frames": "2048"},
    ),
    "qwen2.5-vl": Recipe(
        title="Qwen2.5-VL on LVBench",
        source="https://github.com/QwenLM/Qwen3-VL/issues/715, maintainer's comments of 2025-02-05",
        model="longva_hf",
        model_args={"fps": "2", "max_frames_num": "768"},
        stated={
            "frames": "2 a second, 4 to 768",
            "pixels": "48 x 28 x 28 to 128 x 28 x 28 a frame: no argument, but min_pixels and "
            "max_pixels in the checkpoint's preprocessor_config.json",
            "prompt": "MVBench's: 'Carefully watch the video and pay attention to the cause and "
            "sequence of events, ...', options, then 'Answer with the option's letter from the "
            "given choices directly'",
            "sampling": "not stated",
            "answer parser": "not stated",
        },
        recorded={"frames fps": "2.0", "frames max_frames": "768"},
    ),
}
"""By the name that `--like` takes."""


def find_recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        SettingsError: If there is none.
    """
    if name not in RECIPES:
        hint = nearest(name, RECIPES) or f" There are {', '.join(RECIPES)}."
        raise SettingsError(f"--like: there is no recipe {name!r}.{hint}")
    return RECIPES[name]


def study_like(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe sets in a study, under what is given; its number of frames is a grid of one.

    Raises:
        SettingsError: If there is no such recipe.
    """
    recipe = find_recipe(name)
    arguments = dict(recipe.model_args)
    frames = arguments.pop("max_frames_num", None)
    parts = [f"{key}={value}" for key, value in arguments.items()]
    own = [given["model_args"]] if given.get("model_args") else []
    found: dict[str, Any] = {"model": recipe.model, **({"frames": frames} if frames else {})}
    return found | dict(given) | {"model_args": ",".join([*parts, *own])}


def with_recipe(name: str, arguments: Sequence[str]) -> list[str]:
    """lmms-eval's arguments with what a recipe sets; what they say themselves wins.

    Raises:
        SettingsError: If there is no such recipe, or it is one of another `--model`.
    """
    recipe = find_recipe(name)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", default=recipe.model)
    parser.add_argument("--model_args", default="")
    given, rest = parser.parse_known_args(list(arguments))
    if given.model != recipe.model:
        raise SettingsError(
            f"--like {name} sets arguments of --model {recipe.model}, not of {given.model}."
        )
    parts = [f"{key}={value}" for key, value in recipe.model_args.items()]
    text = ",".join([*parts, *([given.model_args] if given.model_args else [])])
    return ["--model", given.model, "--model_args", text, *rest]
