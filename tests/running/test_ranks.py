"""Several processes: who computes what, and nobody waits for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import PrefixStore, TCPStore

from longva_eval.errors import EvaluationError
from longva_eval.host.patches import _in_document_order
from longva_eval.running.ranks import Ranks, Share, assign

Stores = tuple[TCPStore, TCPStore]


@pytest.fixture
def stores() -> Stores:
    """A store over TCP, as torch.distributed starts one, and two connections to it."""
    server = TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=300))
    return server, TCPStore("localhost", server.port, timeout=timedelta(seconds=300))


@pytest.fixture
def two(stores: Stores) -> Iterator[list[Ranks]]:
    ranks = [Ranks(rank, 2, PrefixStore("run", store)) for rank, store in enumerate(stores)]
    yield ranks
    for one in ranks:
        one.close()


def test_everybody_hears_everybody(two: list[Ranks]) -> None:
    values = [{"zero": [1, None, "ü"]}, {"one": "x" * 3_000_000}]
    with ThreadPoolExecutor() as pool:
        for _ in range(2):
            jobs = [
                pool.submit(rank.share, "v", value) for rank, value in zip(two, values, strict=True)
            ]
            assert [job.result(timeout=300) for job in jobs] == [values, values]


def test_counts_are_common(two: list[Ranks]) -> None:
    assert two[0].count("failed", 2) == 2
    assert two[1].count("failed", 3) == 5
    assert Ranks().count("failed", 2) == 2


def test_who_waits_for_a_failed_process_hears_why(two: list[Ranks]) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(two[0].share, "v", 1)
        two[1].fail("MediaError: film.mp4 is broken")
        with pytest.raises(EvaluationError, match=r"Process 1 of 2 failed: .*film.mp4"):
            waiting.result(timeout=300)
    with pytest.raises(EvaluationError, match="Process 1 of 2 failed"):
        two[0].check()
    two[1].check()  # not of itself


def test_who_waits_for_a_silent_process_is_told(two: list[Ranks]) -> None:
    two[0]._silent_seconds = 1
    two[1].close()
    began = time.monotonic()
    with pytest.raises(EvaluationError, match="Process 1 of 2 has not been heard of for 1 s"):
        two[0].share("v", 1)
    assert time.monotonic() - began < 20


def test_one_process_needs_no_store() -> None:
    assert Ranks(3, 8).share("v", [1]) == [[1]]
    assert Ranks().size == 1
    Ranks().check()
    Ranks().fail("nobody hears")


def video_questions(num_videos: int, tokens: int = 1000) -> list[Share]:
    return [
        Share(3 * video + n, f"video{video}", tokens, tokens if n == 0 else 30)
        for video in range(num_videos)
        for n in range(3)
    ]


def test_questions_on_a_video_stay_together() -> None:
    shares = assign(video_questions(8), 3)
    assert sorted(map(len, shares)) == [6, 9, 9]
    for share in shares:
        assert {index // 3 * 3 for index in share} == {i for i in share if i % 3 == 0}


def test_a_single_video_is_not_read_twice() -> None:
    assert assign(video_questions(1), 2) == [[0, 1, 2], []]


def test_a_needle_grid_is_divided() -> None:
    # Cells of one haystack: what each adds is most of it.
    grid = [Share(n, "haystack", 1000, 1000 if n == 0 else 800) for n in range(20)]
    shares = assign(grid, 2)
    assert [len(share) for share in shares] == [10, 10]
    assert shares[0] == list(range(10))  # neighbours, which share most


@given(
    groups=st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=5), max_size=12),
    size=st.integers(1, 5),
)
def test_every_prompt_goes_to_exactly_one(groups: list[list[int]], size: int) -> None:
    work = [
        Share(0, f"g{place}", 600, 600 if n == 0 else new)
        for place, group in enumerate(groups)
        for n, new in enumerate(group)
    ]
    work = [replace(piece, index=index) for index, piece in enumerate(work)]
    shares = assign(work, size)
    assert len(shares) == size
    assert sorted(index for share in shares for index in share) == list(range(len(work)))


@given(count=st.integers(0, 30), size=st.integers(1, 5))
def test_dealt_lists_are_put_back_in_order(count: int, size: int) -> None:
    dealt = [number for rank in range(size) for number in range(count)[rank::size]]
    assert _in_document_order(dealt, size) == list(range(count))
