"""Results of several jobs in the order of the jobs, while threads work ahead.

So are read the parts of a video (`longva_eval.media.decode`) and the videos of a run
(`longva_eval.engine.encoder`). Imports no torch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Ahead", "Given"]

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Given(Generic[Job, Result]):
    """What a job has given; the last of each has no result."""

    job: Job
    result: Result | None = None
    error: BaseException | None = None
    """Why it ended, if it did not simply come to its end."""


@dataclass
class _Begun(Generic[Job, Result]):
    """A job that was begun, and what it has given that nobody has asked for yet."""

    job: Job
    waiting: deque[Given[Job, Result]] = field(default_factory=deque)
    is_working: bool = True


class Ahead(Generic[Job, Result]):
    """Works on jobs in threads, ahead of who asks for the results.

    Args:
        jobs: In the order in which their results are wanted; one is taken when it is begun.
        work: Gives the results of a job, one after the other.
        threads: Jobs that are worked on at once, at most.
        room: Results that wait to be asked for take at most this together, in the unit of `size`.
            The job whose turn it is may always have one waiting: so nothing ever stands still.
        size: Of a result.
        may_begin: Whether one more job may be begun beside these.
        name: Of the threads.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        work: Callable[[Job], Iterable[Result]],
        *,
        threads: int,
        room: float,
        size: Callable[[Result], float],
        may_begin: Callable[[Sequence[Job]], bool] = lambda _: True,
        name: str,
    ) -> None:
        self._left = (_Begun[Job, Result](job) for job in jobs)
        self._work, self._room, self._size, self._may_begin = work, room, size, may_begin
        self._taken = 0.0
        self._begun: deque[_Begun[Job, Result]] = deque()
        self._threads_left = threads
        self._is_over = False
        self._broken: BaseException | None = None
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def next(self) -> Given[Job, Result] | None:
        """The next result, or the end of a job; None after the last one.

        Raises:
            BaseException: After the last one, if `jobs` ended with an error.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._begun[0].waiting if self._begun else not self._threads_left
            )
            if not self._begun:
                if self._broken is not None:
                    raise self._broken
                return None
            given = self._begun[0].waiting.popleft()
            if given.result is None:
                self._begun.popleft()
            else:
                self._taken -= self._size(given.result)
            self._changed.notify_all()
        return given

    def stop(self) -> None:
        """End the threads, each when it has its next result."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while (begun := self._begin()) is not None:
            error: BaseException | None = None
            try:
                for result in self._work(begun.job):
                    if not self._put(begun, result):
                        return
            except BaseException as caught:  # raised where it is asked for
                error = caught
            with self._changed:
                begun.waiting.append(Given(begun.job, error=error))
                begun.is_working = False
                self._changed.notify_all()

    def _begin(self) -> _Begun[Job, Result] | None:
        with self._turn:  # one at a time, in order
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._is_over
                        or self._may_begin([each.job for each in self._begun if each.is_working])
                    )
                )
            begun = None
            try:
                begun = None if self._is_over else next(self._left, None)
            except BaseException as error:  # raised where the next job is asked for
                self._broken = error
            with self._changed:
                if begun is not None:
                    self._begun.append(begun)
                self._threads_left -= begun is None
                self._changed.notify_all()
        return begun

    def _put(self, begun: _Begun[Job, Result], result: Result) -> bool:
        size = self._size(result)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_over
                    or self._taken + size <= self._room
                    or (self._begun[0] is begun and not begun.waiting)
                )
            )
            if self._is_over:
                return False
            self._taken += size
            begun.waiting.append(Given(begun.job, result, None))
            self._changed.notify_all()
        return True
