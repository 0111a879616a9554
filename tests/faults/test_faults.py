"""Every file of the fault set, asked about as an evaluation would."""

from __future__ import annotations

import re
from pathlib import Path

import av
import pytest
from faults.files import FAULTS, FRAMES, Fault, make_fault
from faults.run import NUM_FRAMES, TIME_LIMIT_SECONDS, ask, open_small_session

from longva_eval.engine.session import Session


@pytest.fixture(scope="module")
def session() -> Session:
    av.logging.set_level(av.logging.PANIC)
    return open_small_session()


@pytest.mark.process
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_file_gives_its_frames_or_an_error_that_names_it(
    session: Session, tmp_path: Path, fault: Fault
) -> None:
    path = make_fault(fault, tmp_path)
    outcome = ask(session, fault, path)
    assert outcome.seconds < TIME_LIMIT_SECONDS
    if fault.expect == FRAMES:
        assert outcome.was_asked, outcome.message
        assert outcome.num_frames_seen == (1 if fault.is_picture else NUM_FRAMES)
        # Another frame of these clips differs by 40 levels or more.
        assert outcome.largest_error is None or outcome.largest_error < 2
    else:
        assert not outcome.was_asked
        assert re.search(fault.expect, outcome.message), outcome.message
        assert path.name in outcome.message
