"""What fuzz tests share: values and files that are nearly right, and wrong somewhere."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["JSON", "TEXT", "changed", "damaged", "dumps", "fuzz", "read_or_refused"]

Value = TypeVar("Value")

TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "\0", "\n", "\ud800", "../../etc/passwd", "/etc/passwd", "1e999"]),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**400])
    | st.floats()
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
"""Any JSON, with what tends to break readers: huge and non-finite numbers, halves of characters."""


def fuzz(max_examples: int) -> Any:
    """Settings of a fuzz test: no clock, and files of earlier examples may be in the way.

    The same examples each time, so that a change is not refused for what it did not do. To look for
    more: FUZZ_TIMES=20 pytest tests -k fuzz
    """
    times = int(os.environ.get("FUZZ_TIMES", "0"))
    return settings(
        max_examples=max_examples * max(1, times),
        derandomize=times == 0,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def dumps(value: Any) -> str:
    """As JSON; Python's NaN and Infinity included, as lmms-eval writes them."""
    return json.dumps(value)


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """A JSON value in which up to `most` parts were replaced, left out or given another name."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, most))):
        holder = value
        path = []
        while isinstance(holder, (dict, list)) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys))
            path.append((holder, key))
            if draw(st.integers(0, 3)) == 0:
                break
            holder = holder[key]
        if not path:
            return draw(JSON)
        holder, key = path[-1]
        kind = draw(st.integers(0, 3))
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw(TEXT)] = holder.pop(key)
        else:
            holder[key] = draw(JSON)
    return value


@st.composite
def damaged(draw: st.DrawFn, data: bytes, most: int = 4) -> bytes:
    """Bytes of which some were flipped, cut off, put in, or said twice."""
    found = bytearray(data)
    for _ in range(draw(st.integers(0, most))):
        place = draw(st.integers(0, len(found)))
        kind = draw(st.integers(0, 4))
        if kind == 0 and place < len(found):
            found[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            found[place:place] = draw(st.binary(max_size=20))
        elif kind == 3:
            found[place:place] = found[place : place + draw(st.integers(1, 400))]
        else:
            del found[place : place + draw(st.integers(1, 60))]
    return bytes(found)


def read_or_refused(read: Callable[[], Value], refusal: type[Exception], name: str) -> Value | None:
    """What a reader gives; None if it refused with its own error, which must name the file."""
    try:
        return read()
    except refusal as error:
        message = str(error)
    assert name in message
    return None
