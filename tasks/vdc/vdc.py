"""VDCscore's texts, as lmms-eval has them: prompts for captions, and what its judge is told.

The host's module for VDC needs SGLang to be imported at all, and its judge at one fixed address.
Here its functions write their messages into a list instead, and any server that speaks chat
completions can answer them (`longva_eval.questions.judge`); SGLang's own does, at
`/v1/chat/completions`.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Sequence
from typing import Any, Literal

from longva_eval.questions.host_tasks import copy_of_host_task

__all__ = ["Kind", "answer_request", "caption_prompts", "match_request"]

Kind = Literal["camera", "short", "background", "main_object", "detailed"]
"""What a caption is to be about, in the order of the published tables."""


def caption_prompts(kind: Kind) -> Sequence[str]:
    """The prompts of a kind; the host draws one of them for each video, unseeded."""
    prompts: Sequence[str] = getattr(_host(), f"{kind.upper()}_CAPTION_PROMPTS")
    return prompts


def answer_request(question: str, caption: str) -> dict[str, Any]:
    """Lets the judge answer a question about the video from the caption alone."""
    return _request("gener_pred_response", pred_cap=caption, q=question)


def match_request(question: str, answer: str, predicted: str) -> dict[str, Any]:
    """Lets the judge compare that answer with the right one."""
    qa = {"question": question, "answer": answer, "pred_answer": predicted}
    return _request("gener_pred_score", qa=qa)


class _CapturedPrompt:
    """Stands where the host's functions have SGLang's state; keeps what is added to it."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {"messages": [], "temperature": 0}

    def __iadd__(self, part: dict[str, Any]) -> _CapturedPrompt:
        if "role" in part:
            self.body["messages"].append(part)
        else:
            self.body |= part
        return self


def _request(function: str, **arguments: Any) -> dict[str, Any]:
    prompt = _CapturedPrompt()
    getattr(_host(), function)(prompt, **arguments)
    return prompt.body


@functools.lru_cache(maxsize=1)
def _host() -> types.ModuleType:
    """A copy of the host's module for us alone, with stand-ins for SGLang's five words."""
    sglang = types.ModuleType("sglang")
    vars(sglang).update(
        function=lambda f: f,
        system=lambda text: {"role": "system", "content": text},
        user=lambda text: {"role": "user", "content": text},
        assistant=lambda generated: generated,
        gen=lambda _name, *, max_tokens: {"max_tokens": max_tokens},
        RuntimeEndpoint=None,
        set_default_backend=None,
    )
    return copy_of_host_task("vdc", {"sglang": sglang})
