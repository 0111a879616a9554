"""Several processes, one run: who does what, and nobody waits for ever.

lmms-eval gives each process every n-th document, so the questions on a video are scattered over
all of them. Here each process hears what all were given, whole videos go to one, and answers go
back to where the host expects them.

What processes tell each other goes through the key-value store that torch.distributed was started
with, never through collectives: a collective hangs when one process fails or has nothing to do,
and says so after its timeout, which lmms-eval sets to 17 hours. Here a wait ends when another
process reports a failure or falls silent.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger

from longva_eval.errors import EvaluationError

__all__ = ["Ranks", "Share", "assign", "current_ranks", "end_all"]

_POLL_SECONDS = 0.05
_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 300.0
"""A process that has not been heard of for so long is taken for dead."""
_GRACE_SECONDS = 20.0
"""A failed process that has not ended after this long is ended."""


class Ranks:
    """The processes that share a run.

    Args:
        rank: This process.
        size: How many there are.
        store: Of torch.distributed; None for one process.
        silent_seconds: A process that has not been heard of for so long is taken for dead.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, store: Any = None, *, silent_seconds: float = 300.0
    ) -> None:
        self.rank = rank
        self.size = size if store is not None else 1
        self._store = store
        self._silent_seconds = silent_seconds
        self._beats: dict[int, tuple[int, float]] = {}
        self._calls: dict[str, int] = {}
        self._end = threading.Event()
        if self.size > 1:
            threading.Thread(target=self._beat, daemon=True, name="longva-eval ranks").start()

    def share(self, name: str, value: Any) -> list[Any]:
        """Give a value to all processes; returns everybody's, by rank.

        Every process calls this equally often with a name. It waits for the others as long as
        they live.

        Raises:
            EvaluationError: If another process failed or fell silent.
        """
        if self.size == 1:
            return [value]
        number = self._calls[name] = self._calls.get(name, -1) + 1
        data = zlib.compress(json.dumps(value).encode())
        self._guard(self._store.set, f"{name}/{number}/{self.rank}", data)
        found = []
        for other in range(self.size):
            key = f"{name}/{number}/{other}"
            if other != self.rank:
                self._wait(key, other)
                data = self._guard(self._store.get, key)
                found.append(json.loads(zlib.decompress(data)))
            else:
                found.append(json.loads(json.dumps(value)))
        return found

    def count(self, name: str, number: int) -> int:
        """Add to a count that all processes share; returns the sum so far."""
        if self.size == 1:
            total = self._calls[f"count {name}"] = self._calls.get(f"count {name}", 0) + number
            return total
        return int(self._guard(self._store.add, f"count/{name}", number))

    def check(self) -> None:
        """Stop if another process has failed.

        Raises:
            EvaluationError: With what it said.
        """
        if self.size > 1 and self._guard(self._store.check, ["failed"]):
            rank, reason = json.loads(self._guard(self._store.get, "failed"))
            if rank != self.rank:
                raise EvaluationError(f"Process {rank} of {self.size} failed: {reason}")

    def check_alive(self, other: int) -> None:
        """Stop if another process has not been heard of for long; to be called again and again.

        Raises:
            EvaluationError: If it fell silent.
        """
        beat = int(self._guard(self._store.add, f"alive/{other}", 0))
        last, since = self._beats.get(other, (-1, 0.0))
        now = time.monotonic()
        if beat != last:
            self._beats[other] = (beat, now)
        elif now - since > self._silent_seconds:
            raise EvaluationError(
                f"Process {other} of {self.size} has not been heard of for "
                f"{self._silent_seconds:.0f} s; it was probably ended from outside (memory?). "
                "What was answered is in the journal: run the same command again."
            )

    def fail(self, reason: str) -> None:
        """Tell the others that this process cannot go on. Never raises."""
        if self.size > 1:
            try:
                if not self._store.check(["failed"]):
                    self._store.set("failed", json.dumps([self.rank, reason[:2000]]))
            except Exception as error:
                logger.debug("The other processes could not be told: {}", error)

    def close(self) -> None:
        """No more signs of life."""
        self._end.set()

    def _wait(self, key: str, other: int) -> None:
        while not self._guard(self._store.check, [key]):
            self.check()
            self.check_alive(other)
            time.sleep(_POLL_SECONDS)

    def _beat(self) -> None:
        while not self._end.wait(_BEAT_SECONDS):
            try:
                self._store.add(f"alive/{self.rank}", 1)
            except Exception:
                return  # the store is gone, and with it the run

    def _guard(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except RuntimeError as error:  # torch's DistError is one
            raise EvaluationError(
                f"The connection between the processes is gone: {error}. What was answered is in "
                "the journal: run the same command again."
            ) from error


_runs = 0


def current_ranks() -> Ranks:
    """The processes that torch.distributed was started for; this one alone if it was not.

    Every process calls this equally often: each call is a namespace of its own.
    """
    global _runs
    _runs += 1
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size < 2:
        return Ranks()
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return Ranks(int(os.environ.get("RANK", "0")), 1)
    # The one way to the store that the processes already share; private, and used by torch's own
    # launchers, so that it has stayed where it is since 1.8.
    store = distributed.distributed_c10d._get_default_store()
    return Ranks(
        distributed.get_rank(),
        distributed.get_world_size(),
        distributed.PrefixStore(  # type: ignore[attr-defined]  # torch names it, but not for mypy
            f"longva_eval/{_runs}", store
        ),
        silent_seconds=_SILENT_SECONDS,
    )


def end_all(ranks: Ranks | None, error: BaseException) -> None:
    """End this process so that the launcher ends the others; only where there are others.

    lmms-eval prints an exception and goes on, to a collective in which it waits for the process
    that failed. `SystemExit` passes it; if something then waits all the same, the process is ended
    after a while.

    Raises:
        SystemExit: With status 1.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return
    if ranks is not None:
        ranks.fail(f"{type(error).__name__}: {error}")
    traceback.print_exception(error)
    rank = os.environ.get("RANK", "0")
    print(f"longva-eval: process {rank} failed and ends the run.", file=sys.stderr, flush=True)

    def end() -> None:
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()
    raise SystemExit(1) from error


@dataclass(frozen=True)
class Share:
    """A piece of work: a prompt, in the order in which the engine visits them."""

    index: int
    """Which prompt."""
    group: str
    """What it is about: prompts on one video are one group."""
    tokens: int
    """Length."""
    new_tokens: int
    """Of them, those that the prompt before it in this order does not share."""


def assign(work: Sequence[Share], size: int) -> list[list[int]]:
    """Divide prompts among processes so that all have about as much to do.

    Whole groups go to one process. A group is divided, in the order of the engine, only where that
    saves time: if what its prompts add is more than what they share (a needle grid is, three
    questions on a video are not).

    Args:
        work: Prompts in the engine's order; a group's lie side by side.
        size: Number of processes.

    Returns:
        For each process, the indices of its prompts. The same on every process.
    """
    groups: dict[str, list[Share]] = {}
    for piece in work:
        groups.setdefault(piece.group, []).append(piece)
    parts: list[tuple[int, list[int]]] = []
    fair = sum(_cost(group) for group in groups.values()) / size
    for group in groups.values():
        added = sum(piece.new_tokens for piece in group[1:])
        pieces = 1
        if _cost(group) > fair and added > group[0].tokens:
            pieces = min(size, len(group))
        for number in range(pieces):
            part = group[len(group) * number // pieces : len(group) * (number + 1) // pieces]
            parts.append((_cost(part), [piece.index for piece in part]))
    shares: list[list[int]] = [[] for _ in range(size)]
    loads = [0] * size
    # The largest first, each to who has least; ties by rank, so that all agree.
    for cost, indices in sorted(parts, key=lambda part: (-part[0], part[1])):
        rank = loads.index(min(loads))
        loads[rank] += cost
        shares[rank].extend(indices)
    return [sorted(share) for share in shares]


def _cost(group: Sequence[Share]) -> int:
    """Tokens to compute, if these prompts are visited one after the other and nothing before."""
    return group[0].tokens + sum(piece.new_tokens for piece in group[1:]) if group else 0
