"""The base of the rotary embedding, as configurations state it: never assumed, never chosen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longva_eval.errors import CheckpointError
from longva_eval.families.loading import load_checkpoint
from longva_eval.model.files import rope_parameters_of
from longva_eval.model.rope import RopeSettings
from longva_eval.model.settings import LoadSettings

HERE = Path("config.json")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"rope_theta": 1e9}, {"rope_type": "default", "rope_theta": 1e9}),
        ({"rope_theta": 1e9, "rope_parameters": {"rope_type": "default", "rope_theta": 1e9}},
         {"rope_type": "default", "rope_theta": 1e9}),
        ({"rope_theta": 1e9, "rope_parameters": {"rope_type": "default"}},
         {"rope_type": "default", "rope_theta": 1e9}),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}},
         {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6}),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6}},
         {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6}),
    ],
)  # fmt: skip
def test_both_forms_are_read(values: dict[str, Any], expected: dict[str, Any]) -> None:
    assert rope_parameters_of(values, default_theta=None, where=HERE) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_theta": 1e9, "rope_parameters": {"rope_theta": 1e4}},
         r"rope_theta is 1000000000\.0, and 10000\.0 in rope_parameters"),
        ({"rope_theta": 1e9, "rope_scaling": {"type": "linear", "factor": 4.0},
          "rope_parameters": {"rope_type": "default"}},
         r"rope_type is 'linear', and 'default' in rope_parameters"),
        ({"rope_theta": 1e9, "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
          "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
         r"factor is 4\.0, and 2\.0 in rope_parameters"),
        ({}, r"config\.json has no rope_theta"),
        ({"rope_theta": None}, r"config\.json has no rope_theta"),
        ({"rope_parameters": {"rope_type": "default"}}, r"config\.json has no rope_theta"),
        ({"rope_theta": 1e9, "rope_scaling": [4]}, r"must be objects"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_or_is_missing_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        rope_parameters_of(values, default_theta=None, where=HERE)


def test_a_checkpoint_without_a_base_loads_only_with_one_that_is_given(
    copy_checkpoint: Callable[[], Path],
) -> None:
    folder = copy_checkpoint()
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["rope_theta"]
    path.write_text(json.dumps(config), encoding="utf-8")
    settings = {"device": "cpu", "dtype": "float32"}
    with pytest.raises(CheckpointError, match=r"config\.json has no rope_theta"):
        load_checkpoint(folder, LoadSettings(**settings))
    given = LoadSettings(**settings, rope=RopeSettings(theta=1e9))
    assert load_checkpoint(folder, given).config.rope_parameters["rope_theta"] == 1e9
