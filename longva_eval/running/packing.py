"""Jobs and their results as JSON, for the processes that share a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.engine.conversation import Conversation
from longva_eval.errors import EvaluationError, MediaError, NumericalError, PromptError
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece
from longva_eval.running.jobs import Job

__all__ = ["light", "pack_jobs", "pack_result", "unpack_failure", "unpack_jobs"]

_ERRORS = {kind.__name__: kind for kind in (MediaError, NumericalError, PromptError)}


def light(conversation: Conversation) -> Conversation:
    """The same prompt without media: enough to plan with."""
    table = _Table()
    return _unpack_conversation(_pack_conversation(conversation, table), table.rows)


class _Table:
    """Visual pieces, each once."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self._places: dict[tuple[Any, ...], int] = {}

    def add(self, piece: VisualPiece) -> int:
        key = (piece.key, piece.num_tokens, piece.place)
        if key not in self._places:
            self._places[key] = len(self.rows)
            self.rows.append([*key])
        return self._places[key]


def _pack_conversation(conversation: Conversation, table: _Table) -> dict[str, Any]:
    return {
        "pieces": [
            list(piece.token_ids) if isinstance(piece, TextPiece) else table.add(piece)
            for piece in conversation.prompt.pieces
        ],
        "visuals": [[table.add(piece) for piece in item] for item in conversation.visuals],
        "context": conversation.context_text,
        "cut": conversation.num_tokens_cut,
    }


def _unpack_conversation(packed: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> Conversation:
    known = [
        VisualPiece(key, num_tokens, None, place=tuple(place)) for key, num_tokens, place in rows
    ]
    pieces: list[Piece] = [
        known[piece] if isinstance(piece, int) else TextPiece(tuple(piece))
        for piece in packed["pieces"]
    ]
    return Conversation(
        prompt=Prompt(tuple(pieces)),
        context_text=packed["context"],
        visuals=tuple(tuple(known[place] for place in item) for item in packed["visuals"]),
        num_tokens_cut=packed["cut"],
    )


_SENT_AS_THEY_ARE = (
    "task", "doc_id", "idx", "repeat", "context", "letters", "rotation", "fit", "detail",
    "task_place", "picture_bytes", "value",
)  # fmt: skip
"""Fields of a job that are JSON already."""


def pack_jobs(jobs: Sequence[Job]) -> dict[str, Any]:
    """Jobs without their media, each visual piece once."""
    table = _Table()
    packed = [
        {
            **{name: getattr(job, name) for name in _SENT_AS_THEY_ARE},
            "conversation": job.conversation and _pack_conversation(job.conversation, table),
            "failure": _pack_failure(job.failure),
        }
        for job in jobs
    ]
    return {"jobs": packed, "pieces": table.rows}


def unpack_jobs(packed: Mapping[str, Any]) -> list[Job]:
    """Jobs of another process, enough to plan with."""
    jobs = []
    for fields in packed["jobs"]:
        values = dict(fields)
        conversation, failure = values.pop("conversation"), values.pop("failure")
        jobs.append(
            Job(
                **values,
                failure=unpack_failure(failure),
                conversation=conversation and _unpack_conversation(conversation, packed["pieces"]),
            )
        )
    return jobs


def pack_result(job: Job) -> list[Any]:
    """What became of a job, and which it is."""
    failure = _pack_failure(job.failure)
    return [job.task, job.doc_id, job.idx, job.repeat, job.rotation, job.value, failure]


def _pack_failure(failure: EvaluationError | None) -> list[str] | None:
    return None if failure is None else [type(failure).__name__, str(failure)]


def unpack_failure(packed: Sequence[str] | None) -> EvaluationError | None:
    """The error that another process met."""
    return None if packed is None else _ERRORS.get(packed[0], EvaluationError)(packed[1])
