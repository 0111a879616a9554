"""Runs as the files that leaderboards take, and the board's own number beside ours.

A file is made of a complete run only: with questions missing, failed, asked twice or left out by
`--limit` there is an error that names them. Questions without a readable answer are part of a
complete run; each board has its own way with them, which is said. What is written is read back and
held against the board's form. Nothing is ever sent anywhere.

Reads files only; no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from longva_eval.errors import DataError, SettingsError
from longva_eval.files import write_atomically
from longva_eval.local.layouts import find_layouts
from longva_eval.local.prepare import read_prepared
from longva_eval.reports.boards.boards import BOARDS, Board, Comparison, natural_order
from longva_eval.reports.boards.host import HOST_TASKS, from_host
from longva_eval.reports.reading.runs import Run, TaskRun
from longva_eval.reports.reading.samples import count_of

__all__ = ["BOARDS", "Submission", "submit"]

_SHOWN = 20
_BLOCKING: Final = {
    "truncated", "damaged", "no samples", "limit", "number of samples", "repeated",
    "unread", "predict only",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A file that was written."""

    board: Board
    task: str
    run: Run
    path: Path
    num_questions: int
    num_silent: int
    comparison: Comparison
    notes: tuple[str, ...] = ()


def submit(
    board_name: str, run: Run, out: Path, *, task: str | None = None, hf_home: Path | None = None
) -> Submission:
    """Write a run as a board's file.

    Args:
        board_name: One of `BOARDS`.
        run: From `read_run`.
        out: The file.
        task: Which of the run's tasks, if it has several that fit.
        hf_home: Where prepared data lies; says which questions there are, by name.

    Raises:
        SettingsError: If there is no such board, or the run has no task for it.
        DataError: If the run is not complete, or does not fit the board's form.
    """
    if board_name not in BOARDS:
        raise SettingsError(
            f"there is no board called {board_name!r}; there are {', '.join(BOARDS)}."
        )
    board = BOARDS[board_name]
    chosen = _choose_task(board, run, task)
    problems = _incomplete(board, run, chosen, hf_home)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise DataError(
            f"{run.path} is no complete run of {chosen.name}, and {board.title} takes no other. "
            f"Nothing was written.\n{listed}"
        )
    samples = chosen.samples if chosen.is_ours else tuple(map(from_host, chosen.samples))
    content = board.build(samples)
    with write_atomically(out) as temporary:
        temporary.write_text(
            json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        wrong = board.check(json.loads(temporary.read_text(encoding="utf-8")))
        if wrong:
            more = [f"... and {len(wrong) - _SHOWN:,} more"] if len(wrong) > _SHOWN else []
            listed = "\n".join(f"  {line}" for line in [*wrong[:_SHOWN], *more])
            raise DataError(
                f"{run.path} does not give the form that {board.title} takes; nothing was "
                f"written.\n{listed}"
            )
    return Submission(
        board=board,
        task=chosen.name,
        run=run,
        path=out,
        num_questions=len(chosen.samples),
        num_silent=sum(question.outcome == "no answer" for question in chosen.samples),
        comparison=board.rule.compare(samples) if board.rule else Comparison(),
        notes=tuple(problem.text for problem in run.problems if problem.kind == "several runs"),
    )


# ---- is the run complete ------------------------------------------------------------------------


def _choose_task(board: Board, run: Run, name: str | None) -> TaskRun:
    taken = [*board.tasks, *(host for host, own in HOST_TASKS.items() if own in board.tasks)]
    fitting = [task for task in taken if task in run.tasks]
    if name is not None:
        if name not in fitting:
            raise SettingsError(
                f"--task {name}: {board.title} takes {', '.join(taken)}, and the run has "
                f"{', '.join(run.tasks)}."
            )
        return run.tasks[name]
    if not fitting:
        raise SettingsError(
            f"{board.title} takes runs of {' or '.join(taken)}; {run.path} has "
            f"{', '.join(run.tasks)}."
        )
    if len(fitting) > 1:
        raise SettingsError(
            f"{run.path} has {' and '.join(fitting)}; choose one with --task {fitting[0]}."
        )
    return run.tasks[fitting[0]]


def _incomplete(board: Board, run: Run, task: TaskRun, hf_home: Path | None) -> list[str]:
    """Why the run is not complete, a line each; empty if it is."""
    problems = [p.text for p in run.problems_of(task.name) if p.kind in _BLOCKING]
    # The record's own: where ids repeat, a reader of runs gives none.
    ids = [str(q.record.get("question_id") or q.question_id or "") for q in task.samples]
    if not all(ids):
        problems.append("its samples do not say which questions they are of")
        return problems
    failed = [i for q, i in zip(task.samples, ids, strict=True) if q.outcome == "failed"]
    if failed:
        reasons = Counter(q.reason or "no reason given" for q in task.samples if q.reason)
        most = f" Most often: {reasons.most_common(1)[0][0]}" if reasons else ""
        problems.append(f"{count_of(len(failed), 'question')} failed: {_some(failed)}.{most}")
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        problems.append(
            f"{count_of(len(repeated), 'question')} asked more than once: {_some(repeated)}"
        )
    own = HOST_TASKS.get(task.name, task.name)
    expected = board.tasks[own]
    known = _known_ids(own, hf_home, expected)
    if known is not None:
        missing = [name for name in known if name not in set(ids)]
        strange = [name for name in ids if name not in set(known)]
        if missing:
            problems.append(
                f"{count_of(len(missing), 'question')} of {expected:,} missing: {_some(missing)}"
            )
        if strange:
            problems.append(
                f"{count_of(len(strange), 'question')} that the benchmark does not have: "
                f"{_some(strange)}"
            )
    elif len(set(ids)) != expected:
        problems.append(
            f"it has {len(set(ids)):,} questions, and the benchmark {expected:,} (which are "
            f"missing is known where the data were prepared: longva-eval prepare, --hf-home)"
        )
    return list(dict.fromkeys(problems))


def _known_ids(task: str, hf_home: Path | None, expected: int) -> list[str] | None:
    """The benchmark's questions by name, where a whole copy was prepared."""
    if hf_home is None:
        return None
    (layout,) = find_layouts(task)
    prepared = read_prepared(layout.name, hf_home)
    ids = (prepared or {}).get("ids")
    return [str(name) for name in ids] if ids and len(ids) == expected else None


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names, key=natural_order)[:_SHOWN]) + more
