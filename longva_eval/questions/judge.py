"""Asking a language model to judge an open answer, and knowing beforehand whether one can be asked.

lmms-eval's tasks read the judge's settings from the environment; these are the same:

    API_TYPE        openai (the default, and the only one that these tasks know)
    OPENAI_API_URL  where requests are posted; https://api.openai.com/v1/chat/completions
    OPENAI_API_KEY  the key
    MODEL_VERSION   the judging model; gpt-4o-2024-11-20

`judge_problems` says before a run what is missing. What the judge is told is the host's own text:
each of its functions writes a request and posts it in one go, so `host_request` lets it write and
takes the request at the door; posting it, trying again and reading the answer are done here,
because there a judge that fails scores 0 in silence (Video-ChatGPT, Video-DD) or ends the run after
the last question (ActivityNet-QA). Here a failure is `JudgeError`, and tasks count it.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.questions.host_tasks import copy_of_host_task

__all__ = [
    "JUDGED_TASKS",
    "Judge",
    "JudgeError",
    "Judgement",
    "host_request",
    "judge_from_environment",
    "judge_problems",
    "read_judgement",
    "require_judge",
]

JUDGED_TASKS: Final = (
    "longva_activitynetqa",
    "longva_videochatgpt*",
    "longva_video_dd",
    "longva_short_video_judged",
    "longva_paper_judged",
    "longva_vdc*",
    # lmms-eval's own
    "activitynetqa",
    "videochatgpt*",
    "video_dc499",
    "background_test",
    "camera_test",
    "detailed_test",
    "main_object_test",
    "short_test",
)
"""Names of tasks and groups that need a judge; `*` as in a shell."""

_URL = "https://api.openai.com/v1/chat/completions"
_MODEL = "gpt-4o-2024-11-20"
_PLACEHOLDER = "YOUR_API_KEY"
_TOO_BUSY = (429, 500, 502, 503, 504)
_HIGHEST = 5
RETRIES = 4
"""How often a request is sent again that met a busy server or no connection."""
BACKOFF_SECONDS = 1.0
"""The second wait; each is twice the one before. A server's Retry-After goes first."""


class JudgeError(EvaluationError):
    """The judge could not be asked, or its answer cannot be read. Says which."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the judge said of an answer."""

    score: int
    """From 0 to 5; the part before the point, as the published scorers take it."""
    verdict: str | None
    """`yes` or `no`, where it was asked for."""
    text: str
    """Word for word."""
    model: str
    """As the server calls it."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A server that speaks OpenAI's chat completions."""

    url: str
    key: str
    model: str
    timeout: float = 60.0

    def ask(self, request: dict[str, Any]) -> tuple[str, str]:
        """Post a request.

        Args:
            request: The JSON body; `model` is set here.

        Returns:
            The text of the answer, and the model's name as the server gives it.

        Raises:
            JudgeError: If the server cannot be reached, refuses, or sends no text, after retries.
        """
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3 import Retry

        retry = Retry(
            total=RETRIES,
            backoff_factor=BACKOFF_SECONDS,
            status_forcelist=_TOO_BUSY,
            allowed_methods=["POST"],
            raise_on_status=False,
        )
        body = {**request, "model": self.model}
        headers = {"Authorization": f"Bearer {self.key}"}
        try:
            with requests.Session() as session:
                session.mount("http://", HTTPAdapter(max_retries=retry))
                session.mount("https://", HTTPAdapter(max_retries=retry))
                response = session.post(self.url, json=body, headers=headers, timeout=self.timeout)
        except requests.exceptions.RequestException as error:
            raise JudgeError(f"the judge at {self.url} cannot be reached: {error}") from error
        if response.status_code != 200:
            raise JudgeError(
                f"the judge at {self.url} answers HTTP {response.status_code}: "
                f"{_server_message(response.text)}"
            )
        try:
            answer = json.loads(response.text)
            text, model = answer["choices"][0]["message"]["content"], answer.get("model")
        except (json.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
            raise JudgeError(
                f"the judge at {self.url} sends no chat completion: {response.text[:200]!r}"
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise JudgeError(f"the judge {self.model} sends an empty answer")
        return text.strip(), str(model or self.model)

    def judge(self, request: dict[str, Any], *, with_verdict: bool = False) -> Judgement:
        """Post a request of `host_request` and read the score.

        Raises:
            JudgeError: As `ask`, or if there is no score from 0 to 5 (and, if asked for, no
                verdict).
        """
        text, model = self.ask(request)
        return read_judgement(text, model=model, with_verdict=with_verdict)


def judge_problems(task_names: Iterable[str], *, ask: bool = False) -> list[str]:
    """What keeps the judge that these tasks need from being asked; empty if nothing does.

    Args:
        task_names: Tasks and groups; those without a judge are of no account.
        ask: Whether to post one short request, which finds wrong keys, models and addresses.
    """
    needing = [
        name
        for name in task_names
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in JUDGED_TASKS)
    ]
    if not needing:
        return []
    tasks = ", ".join(needing)
    kind = os.environ.get("API_TYPE", "openai")
    problems = []
    if kind != "openai":
        problems.append(
            f"{tasks}: API_TYPE={kind}, but these tasks know only openai (any server that speaks "
            "chat completions): unset API_TYPE and set OPENAI_API_URL to the server."
        )
    if os.environ.get("OPENAI_API_KEY", _PLACEHOLDER).strip() in ("", _PLACEHOLDER):
        problems.append(
            f"{tasks}: answers are judged by a language model, and OPENAI_API_KEY is not set. "
            "export OPENAI_API_KEY=... (and OPENAI_API_URL, MODEL_VERSION for another server or "
            "model; a server without keys takes any text), or leave these tasks out."
        )
    url = os.environ.get("OPENAI_API_URL", _URL)
    if not re.match(r"https?://[^/\s]+/.*chat/completions", url):
        problems.append(
            f"{tasks}: OPENAI_API_URL={url} is not the address of chat completions; give it in "
            "full, such as http://localhost:8000/v1/chat/completions."
        )
    if problems or not ask:
        return problems
    refusal = _refusal(judge_from_environment())
    return [f"{tasks}: {refusal}"] if refusal else []


def require_judge(task: str) -> None:
    """End a run before its first question if its judge cannot be asked; for `process_docs`.

    Raises:
        SettingsError: Says what is missing.
    """
    problems = judge_problems([task], ask=True)
    if problems:
        raise SettingsError(" ".join(problems))


def judge_from_environment() -> Judge:
    """The judge that the environment names."""
    return Judge(
        url=os.environ.get("OPENAI_API_URL", _URL),
        key=os.environ.get("OPENAI_API_KEY", _PLACEHOLDER),
        model=os.environ.get("MODEL_VERSION", _MODEL),
    )


def host_request(task_folder: str, function: str, *arguments: Any) -> dict[str, Any]:
    """The request that a function of one of lmms-eval's tasks would post to its judge.

    Args:
        task_folder: Of lmms-eval's tasks, such as `activitynetqa`.
        function: Of its `utils.py`; posts with `requests.post(url, headers=, json=, timeout=)`.
        *arguments: For the function.

    Raises:
        EvaluationError: If lmms-eval has no such function, or it posts nothing.
    """
    module = _host_module(task_folder)
    try:
        getattr(module, function)(*arguments)
    except _CapturedRequest as captured:
        return captured.body
    except AttributeError as error:
        raise EvaluationError(
            f"lmms-eval's {task_folder} has no {function} any more; longva-eval supports "
            "lmms-eval 0.7."
        ) from error
    raise EvaluationError(f"lmms-eval's {task_folder}.{function} posted no request.")


def read_judgement(text: str, *, model: str = "", with_verdict: bool = False) -> Judgement:
    """Read `{'pred': 'yes', 'score': 4}`, in JSON or fences or with quotes that do not close.

    Raises:
        JudgeError: If there is no score, several that differ, one beyond 0 to 5, or no verdict.
    """
    quote = r"['\"`]*"
    scores = set(re.findall(rf"\bscore{quote}\s*[:=]\s*{quote}(-?\d+(?:\.\d+)?)", text, re.I))
    found = re.findall(rf"\bpred{quote}\s*[:=]\s*{quote}(yes|no)\b", text, re.I)
    verdicts = {verdict.lower() for verdict in found}
    if len(scores) != 1 or not 0 <= float(next(iter(scores))) <= _HIGHEST:
        raise JudgeError(f"the judge's answer has no score from 0 to {_HIGHEST}: {text[:200]!r}")
    if with_verdict and len(verdicts) != 1:
        raise JudgeError(f"the judge's answer has no yes or no: {text[:200]!r}")
    return Judgement(
        score=int(float(scores.pop())),
        verdict=verdicts.pop() if len(verdicts) == 1 else None,
        text=text,
        model=model,
    )


@functools.lru_cache(maxsize=8)
def _refusal(judge: Judge) -> str:
    """Why the judge cannot be asked; empty if it can. Once for each judge and process."""
    question = {"role": "user", "content": "Reply with the word ok."}
    try:
        judge.ask({"messages": [question], "temperature": 0, "max_tokens": 16})
    except JudgeError as error:
        return (
            f"{error} Check OPENAI_API_URL, OPENAI_API_KEY and MODEL_VERSION ({judge.model}); "
            "nothing was run."
        )
    return ""


def _server_message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (json.JSONDecodeError, LookupError, TypeError):
        return text[:200] or "no message"


class _CapturedRequest(BaseException):
    """Carries a request out of the host's function, past its `except Exception`."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__("a request to the judge")
        self.body = body


class _CapturingRequests:
    """Stands in the host's module where it has `requests`."""

    def __init__(self, exceptions: Any) -> None:
        self.exceptions = exceptions

    def post(self, url: str, *, json: dict[str, Any], **_: Any) -> None:
        """Take the request instead of sending it."""
        raise _CapturedRequest(json)


@functools.lru_cache(maxsize=8)
def _host_module(task_folder: str) -> ModuleType:
    module = copy_of_host_task(task_folder)
    vars(module)["requests"] = _CapturingRequests(sys.modules["requests"].exceptions)
    return module
