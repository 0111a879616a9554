"""Recipes that makers stated, as arguments of a run and of a sweep."""

from __future__ import annotations

from typing import Any

import pytest

from longva_eval.commands import sweep
from longva_eval.errors import SettingsError
from longva_eval.model_adapters.arguments import (
    FamilyArguments,
    LongVAArguments,
    read_arguments,
)
from longva_eval.studies.definition import Study
from longva_eval.studies.recipes import RECIPES, SHOWN_BY, with_recipe


def study(*arguments: str) -> Study:
    return sweep._study(sweep._parser().parse_args([*arguments, "--out", "out"]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_what_its_model_takes_and_says_where_it_was_stated(name: str) -> None:
    recipe = RECIPES[name]
    kind = {"longva": LongVAArguments, "longva_hf": FamilyArguments}[recipe.model]
    given: dict[str, Any] = {"pretrained": "x", **recipe.model_args}
    given = {key: float(value) if value.isdigit() else value for key, value in given.items()}
    read_arguments(kind, given)
    assert recipe.stated.keys() <= SHOWN_BY.keys()
    assert recipe.source.startswith("https://github.com/")


def test_what_the_user_says_wins() -> None:
    given = ["--tasks", "t", "--model_args", "pretrained=p,fps=1"]
    arguments = with_recipe("qwen3-vl", given)
    assert arguments == [
        "--model", "longva_hf", "--model_args", "fps=2,max_frames_num=2048,pretrained=p,fps=1",
        "--tasks", "t",
    ]  # fmt: skip
    from lmms_eval.utils import simple_parse_args_string

    assert simple_parse_args_string(arguments[3])["fps"] == 1
    made = study("--like", "qwen3-vl", "--pretrained", "p", "--tasks", "t", "--model-args", "fps=1")
    assert (made.model, made.frames, made.model_args) == ("longva_hf", (2048,), {"fps": "1"})
    made = study("--like", "longva-paper", "--pretrained", "p", "--tasks", "t", "--frames", "8,16")
    assert (made.model, made.frames) == ("longva", (8, 16))
    assert made.model_args["conv_template"] == "qwen_1_5"


def test_a_recipe_of_another_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="sets arguments of --model longva_hf, not of qwen3_vl"):
        with_recipe("qwen3-vl", ["--model", "qwen3_vl"])
