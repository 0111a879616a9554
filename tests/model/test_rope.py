"""RoPE settings become the frequencies that their papers state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import Golden
from transformers import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from longva_eval.errors import SettingsError
from longva_eval.model.rope import RopeSettings, inv_freq_hash, resolve_rope_parameters

HEAD_DIM = 8
OWN = {"rope_type": "default", "rope_theta": 1e6}


def resolve(settings: RopeSettings, own: dict[str, Any] | None = None) -> dict[str, Any]:
    return resolve_rope_parameters(
        own or OWN, settings, head_dim=HEAD_DIM, max_position_embeddings=1000
    )


def frequencies(parameters: dict[str, Any]) -> torch.Tensor:
    config = Qwen2Config(
        hidden_size=HEAD_DIM * 2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1000,
        rope_parameters=dict(parameters),
    )
    inv_freq: torch.Tensor = Qwen2RotaryEmbedding(config).inv_freq
    return inv_freq


def plain(theta: float) -> torch.Tensor:
    return theta ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM)


def test_nothing_asked_changes_nothing() -> None:
    assert RopeSettings().is_unchanged
    assert resolve(RopeSettings()) == OWN


def test_theta_alone_keeps_the_checkpoints_own_method() -> None:
    own = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6}
    assert resolve(RopeSettings(theta=1e9), own) == own | {"rope_theta": 1e9}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (RopeSettings(theta=1e9), plain(1e9)),
        (RopeSettings(rope_type="default"), plain(1e6)),
        (RopeSettings(rope_type="linear", factor=4), plain(1e6) / 4),
        # b' = b s^(d / (d - 2))
        (RopeSettings(rope_type="ntk", factor=4), plain(1e6 * 4 ** (8 / 6))),
        # b' = b (s L / L0 - (s - 1))^(d / (d - 2)) at the pinned L = 3000, L0 = 1000
        (
            RopeSettings(rope_type="dynamic", factor=2, pinned_length=3000),
            plain(1e6 * (2 * 3 - 1) ** (8 / 6)),
        ),
        # shorter than the original length: nothing to stretch
        (RopeSettings(rope_type="dynamic", factor=2, pinned_length=500), plain(1e6)),
    ],
)
def test_frequencies_follow_the_formula(settings: RopeSettings, expected: torch.Tensor) -> None:
    torch.testing.assert_close(frequencies(resolve(settings)), expected, rtol=1e-5, atol=0)


def test_dynamic_equals_transformers_at_the_pinned_length() -> None:
    config = Qwen2Config(
        hidden_size=HEAD_DIM * 2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=1000,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
    )
    theirs = Qwen2RotaryEmbedding(config)
    theirs(torch.zeros(1, 1, HEAD_DIM), torch.arange(3000)[None])  # it adapts to what it is shown
    ours = resolve(RopeSettings(rope_type="dynamic", factor=2, pinned_length=3000))
    torch.testing.assert_close(frequencies(ours), theirs.inv_freq, rtol=1e-5, atol=0)


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones() -> None:
    parameters = resolve(RopeSettings(rope_type="yarn", factor=4, original_length=1000))
    assert parameters["original_max_position_embeddings"] == 1000
    found = frequencies(parameters)
    base = plain(1e6)
    assert found[0] == pytest.approx(float(base[0]))
    assert found[-1] == pytest.approx(float(base[-1]) / 4)


def test_llama3_divides_long_wavelengths_only() -> None:
    parameters = resolve(RopeSettings(rope_type="llama3", factor=8, original_length=500))
    assert (parameters["low_freq_factor"], parameters["high_freq_factor"]) == (1.0, 4.0)
    found, base = frequencies(parameters), plain(1e6)
    for ours, own in zip(found.tolist(), base.tolist(), strict=True):
        wavelength = 2 * math.pi / own
        if wavelength < 500 / 4:
            assert ours == pytest.approx(own)
        elif wavelength > 500:
            assert ours == pytest.approx(own / 8)


@pytest.mark.parametrize(("pinned", "divisor"), [(500, 2.0), (3000, 5.0)])
def test_longrope_takes_the_factors_of_the_pinned_length(pinned: int, divisor: float) -> None:
    settings = RopeSettings(
        rope_type="longrope",
        factor=3,
        pinned_length=pinned,
        short_factor=(2.0,) * 4,
        long_factor=(5.0,) * 4,
    )
    parameters = resolve(settings)
    assert parameters["short_factor"] == parameters["long_factor"] == [divisor] * 4
    torch.testing.assert_close(frequencies(parameters), plain(1e6) / divisor, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_type": "magic"}, "rope_type='magic' is unknown; use one of default, linear"),
        ({"rope_type": "linear"}, "rope_type=linear needs rope_factor"),
        ({"rope_type": "linear", "factor": 0.5}, "rope_factor=0.5 must be"),
        ({"factor": 4.0}, "rope_factor=4.0 needs a rope_type"),
        ({"theta": -1.0}, "rope_theta=-1.0 must be"),
        ({"theta": float("nan")}, "rope_theta=nan must be"),
        ({"rope_type": "linear", "factor": 2, "beta_fast": 3.0}, "rope_beta_fast has no effect"),
        ({"pinned_length": 9}, "rope_pinned_length has no effect"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        RopeSettings(**values)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_methods_that_depend_on_the_length_must_be_pinned(rope_type: Any) -> None:
    with pytest.raises(SettingsError, match=r"rope_pinned_length=<tokens>"):
        resolve(RopeSettings(rope_type=rope_type, factor=2))
    with pytest.raises(SettingsError, match=r"rope_pinned_length"):
        resolve(RopeSettings(theta=1e7), {"rope_type": rope_type, "factor": 2, "rope_theta": 1e6})


def test_longrope_counts_its_factors() -> None:
    settings = RopeSettings(rope_type="longrope", factor=2, pinned_length=9, short_factor=(1.0,))
    with pytest.raises(
        SettingsError, match="rope_short_factor with 4 numbers joined by '/', got 1"
    ):
        resolve(settings)


def test_a_changed_model_equals_a_rebuilt_one_and_goes_back(open_golden: Golden) -> None:
    session = open_golden.session_for({})
    before = session.checkpoint.describe()["rope"]
    session.change_rope(RopeSettings(theta=1e6))
    changed = session.checkpoint.describe()["rope"]
    assert changed["asked"] == {"theta": 1e6}
    assert changed["parameters"]["rope_theta"] == 1e6
    assert changed["inv_freq_sha256"] != before["inv_freq_sha256"]
    session.change_rope(RopeSettings())
    assert session.checkpoint.describe()["rope"] == before


def test_the_hash_names_the_frequencies() -> None:
    assert inv_freq_hash(plain(1e6)) == inv_freq_hash(plain(1e6).double())
    assert inv_freq_hash(plain(1e6)) != inv_freq_hash(plain(1e7))
