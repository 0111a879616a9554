"""The model with random weights that benchmarks/ measure is one that answers."""

from __future__ import annotations

import pytest
from conftest import OPEN

from benchmarks.random_model import random_session
from longva_eval.engine.generation import Generation, GenerationSettings

BODY = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1024,
}  # fmt: skip


@pytest.mark.slow
def test_a_session_with_random_weights_answers_about_a_video() -> None:
    session = random_session(BODY)
    prompt = session.prompt("What happens?", [OPEN / "inputs/landscape_320x180.mp4"])
    (answer,) = session.generate([prompt], GenerationSettings(max_new_tokens=2))
    assert isinstance(answer, Generation)
    assert len(answer.token_ids) == 2
    assert session.encoder.num_encoded > 0
    assert (
        session.checkpoint.vision_digest()
        != random_session(BODY, seed=1).checkpoint.vision_digest()
    )
