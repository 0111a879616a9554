"""Results come in the order of the jobs, whatever is worked on ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from longva_eval.media.ahead import Ahead


def results(ahead: Ahead[int, int]) -> list[tuple[int, int | str | None]]:
    found: list[tuple[int, int | str | None]] = []
    while (given := ahead.next()) is not None:
        end = None if given.error is None else str(given.error)
        found.append((given.job, end if given.result is None else given.result))
    return found


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_order_is_that_of_the_jobs_and_an_error_is_of_its_own(threads: int) -> None:
    def work(job: int) -> Iterator[int]:
        for result in range(job):
            yield 10 * job + result
        if job == 2:
            raise ValueError("two is broken")

    ahead = Ahead(range(4), work, threads=threads, room=3, size=lambda _: 1, name="ahead")
    expected = [(0, None), (1, 10), (1, None), (2, 20), (2, 21), (2, "two is broken")]
    assert results(ahead) == [*expected, (3, 30), (3, 31), (3, 32), (3, None)]
    ahead.stop()


def test_what_waits_stays_within_the_room_and_the_first_goes_on() -> None:
    made = threading.Semaphore(0)
    all_made: list[int] = []

    def work(job: int) -> Iterator[int]:
        if job == 0:
            blocked.wait(10)
        for result in range(4):
            all_made.append(job)
            made.release()
            yield result

    blocked = threading.Event()
    ahead = Ahead(range(3), work, threads=3, room=5, size=lambda _: 2, name="ahead")
    for _ in range(4):  # two wait, and the third of each thread is in its hands
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.1)
    assert set(all_made) == {1, 2}
    blocked.set()  # no room is left, and yet the first job is not held up
    assert [job for job, _ in results(ahead)] == [0] * 5 + [1] * 5 + [2] * 5
    ahead.stop()


def test_a_job_is_begun_when_the_others_allow_it() -> None:
    begun: list[int] = []

    def work(job: int) -> Iterator[int]:
        begun.append(job)
        yield job
        if job == 1:
            allowed.wait(10)

    allowed = threading.Event()
    ahead = Ahead(
        range(3),
        work,
        threads=3,
        room=100,
        size=lambda _: 1,
        may_begin=lambda others: 1 not in others,
        name="ahead",
    )
    assert [ahead.next() for _ in range(3)][-1].result == 1  # type: ignore[union-attr]
    assert 2 not in begun
    allowed.set()
    assert results(ahead) == [(1, None), (2, 2), (2, None)]
    ahead.stop()


def test_jobs_that_end_with_an_error_and_stopping_early() -> None:
    def jobs() -> Iterator[int]:
        yield 1
        raise OSError("the list is cut off")

    ahead = Ahead(jobs(), lambda job: [job], threads=3, room=1, size=lambda _: 1, name="cut")
    assert [ahead.next().result for _ in range(2)] == [1, None]  # type: ignore[union-attr]
    with pytest.raises(OSError, match="cut off"):
        ahead.next()
    full = Ahead(range(9), lambda job: [job] * 9, threads=3, room=1, size=lambda _: 1, name="cut")
    assert full.next() is not None
    for each in (ahead, full):
        each.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "cut"]
