"""The needle tests beyond V-NIAH: what they show, ask and record, and what public ones got wrong.

The known defects (docs/needle_tests.md) have a test each: places that are ignored or not recorded,
letters that are not balanced, cells without their distractor, floors, unread answers left out.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import itertools
import json
import random
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger
from PIL import Image
from tiny_families import make_family

from longva_eval import embedded
from longva_eval.commands.niah import _parser as niah_parser
from longva_eval.commands.niah import _remarks as remarks
from longva_eval.commands.niah import main as niah
from longva_eval.commands.plan import main as plan
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.sources import FrameStack
from longva_eval.needle.asking import run_grid
from longva_eval.needle.controls import circular_items
from longva_eval.needle.grid import NeedleGrid, TestGrid, arrange, controls_of, seconds_shown
from longva_eval.needle.items import OPTION, TESTS_OF, Item, ItemSettings, Shown
from longva_eval.needle.kinds import DRAWN_TESTS, drawn_items
from longva_eval.needle.kinds.latent import PROPERTIES
from longva_eval.needle.kinds.own import own_items
from longva_eval.needle.media import (
    load_needles,
    open_haystack,
    read_captions,
    read_text,
    twin_captions,
)
from longva_eval.needle.results import read_answers, to_lines
from longva_eval.needle.run import run_and_write
from longva_eval.needle.scenes import COLORS
from longva_eval.needle.tests import make_tests
from longva_eval.prompts.pieces import VisualPiece
from longva_eval.questions.outcomes import mean_score
from longva_eval.reports.figures.needle_tests import (
    TestScores,
    _save_twin,
    draw_shown,
    draw_tests,
    draw_twin,
    lost_in_vision,
    read_test,
)

TESTS = Path(__file__).parents[2] / "tasks" / "vniah" / "utils.py"
LETTERED = ItemSettings(items=400, answer="letters")
WORDED = ItemSettings(items=400)


def grid_of(test: str, settings: ItemSettings, **changes: Any) -> TestGrid:
    made: dict[str, Any] = {"frame_counts": (64, 200), "depths": (0.0, 0.5, 1.0)}
    return TestGrid(place=DRAWN_TESTS[test].place, settings=settings, **made | changes)


def options_of(item: Item) -> dict[str, str]:
    return dict(OPTION.findall(item.question))


def shown_words(item: Item) -> list[list[str]]:
    return [shown.caption().split() for shown in item.needles]


def asked_noun(item: Item) -> str:
    found = re.search(r"with the (?:dark )?(\w+)", item.question)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def session() -> Session:
    return open_session("longva-tiny", dtype="float32", device="cpu", decode_process=False)


# Balance and floors

balanced = functools.cache(drawn_items)


@pytest.mark.parametrize("test", DRAWN_TESTS)
def test_every_letter_is_right_equally_often(test: str) -> None:
    items = balanced(test, LETTERED)
    letters = Counter(item.answer for item in items)
    assert set(letters) == set("ABCD")
    for count in letters.values():
        assert abs(count / len(items) - 0.25) <= 0.01
    for item in items:
        options = options_of(item)
        assert list(options) == list("ABCD")  # one block of options, all different
        assert len(set(options.values())) == 4
        assert item.question.count("\nA. ") == 1


@pytest.mark.parametrize("test", DRAWN_TESTS)
@pytest.mark.parametrize("form", [LETTERED, WORDED], ids=["letters", "words"])
def test_the_floor_is_what_a_guess_gets(test: str, form: ItemSettings) -> None:
    items = balanced(test, form)
    rng = random.Random(1)
    right = sum(rng.choice(item.choices) == item.answer for item in items for _ in range(50))
    floors = {item.floor for item in items}
    assert len(floors) == 1
    assert right / (50 * len(items)) == pytest.approx(floors.pop(), abs=0.012)
    # Whoever always says the same does not do better than that, either.
    answers = Counter(item.answer for item in items)
    if test != "order" or form is LETTERED:  # words of order are objects, many of them
        assert max(answers.values()) / len(items) == pytest.approx(items[0].floor, abs=0.01)


def test_which_object_is_named_first_does_not_tell_which_came_first() -> None:
    named = [
        re.findall(r"the (\w+)", item.question).index(item.answer)
        for item in drawn_items("order", WORDED)
    ]
    assert all(abs(named.count(place) / 400 - 1 / 3) <= 0.01 for place in range(3))


def test_every_count_comes_equally_often_zero_included() -> None:
    items = drawn_items("count", ItemSettings(items=400, most=3))
    assert Counter(item.answer for item in items) == dict.fromkeys("0123", 100)
    # How many pictures there are tells nothing.
    assert {len(item.needles) + len(item.distractors) for item in items} == {3}


@pytest.mark.parametrize("test", DRAWN_TESTS)
def test_an_item_does_not_depend_on_how_many_there_are(test: str) -> None:
    few, many = drawn_items(test, ItemSettings(items=3)), drawn_items(test, ItemSettings(items=9))
    assert [item.describe() for item in few] == [item.describe() for item in many[:3]]
    other = drawn_items(test, ItemSettings(items=3, seed=1))
    assert [item.describe() for item in few] != [item.describe() for item in other]


# What is asked follows from what is shown


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_a_chain_leads_from_the_named_object_to_the_answer(hops: int) -> None:
    for item in drawn_items("chain", ItemSettings(items=40, hops=hops)):
        shown = {words[0]: words for words in shown_words(item)}
        at = asked_noun(item)
        for _ in range(hops):
            at = shown[at][2]
        assert shown[at][1] == item.answer
        # Without the object that the question names, any coloured one could be meant.
        others = [shown.caption().split() for shown in item.distractors]
        assert at not in {words[0] for words in others}
        every = [*shown.values(), *others]
        named = {words[2] for words in every if words[1] == "none"}
        colored = {words[0]: words[1] for words in every if words[1] != "none"}
        assert len(colored) == len(set(colored.values())) == 3
        assert set(colored) <= named


def test_the_right_order_is_the_order_shown() -> None:
    for item in drawn_items("order", ItemSettings(items=40, n=4, answer="letters")):
        assert options_of(item)[item.answer].split(", ") == [
            words[0] for words in shown_words(item)
        ]
    for item in drawn_items("order", ItemSettings(items=40)):
        assert item.answer == shown_words(item)[0][0]


@pytest.mark.parametrize("n", [2, 3, 6])
def test_values_are_all_colours_and_no_option_is_told_by_the_others(n: int) -> None:
    for item in drawn_items("values", ItemSettings(items=60, n=n)):
        options = {letter: set(text.split(", ")) for letter, text in options_of(item).items()}
        assert options[item.answer] == {words[1] for words in shown_words(item)}
        assert all(len(option) == n for option in options.values())
        often = Counter(color for option in options.values() for color in option)
        assert len({sum(often[color] for color in option) for option in options.values()}) == 1
        # All that an option says was shown, if not of this object.
        shown = [*shown_words(item), *(each.caption().split() for each in item.distractors)]
        assert set(often) == {words[1] for words in shown}


def test_the_most_frequent_colour_is_that_of_the_object_and_not_of_the_other() -> None:
    for item in drawn_items("aggregate", ItemSettings(items=60, n=5)):
        ((most, count), *_) = Counter(words[1] for words in shown_words(item)).most_common()
        assert (most, count) == (item.answer, 3)
        other = [shown.caption().split()[1] for shown in item.distractors]
        assert len(set(other)) == 1
        assert item.answer not in other
        assert len(other) > count  # whoever counts colours alone is wrong


def test_only_the_marked_object_has_a_number_and_no_distractor_its_colour() -> None:
    for item in drawn_items("distractor", ItemSettings(items=60)):
        ((noun, color, digit, _),) = shown_words(item)
        assert (color, digit.isdigit()) == (item.answer, True)
        for other in item.distractors:
            words = other.caption().split()
            assert (words[0], words[2]) == (noun, "none")
            assert words[1] != color


def test_distractors_of_another_likeness_show_other_objects() -> None:
    for item in drawn_items("distractor", ItemSettings(items=60, likeness="other")):
        ((noun, color, digit, _),) = shown_words(item)
        others = [other.caption().split() for other in item.distractors]
        assert (color, digit.isdigit()) == (item.answer, True)
        assert len({noun, *(words[0] for words in others)}) == 5
        assert not any(words[1] == color or words[2] != "none" for words in others)


def test_a_latent_question_shares_no_word_with_its_needle() -> None:
    for noun, told in PROPERTIES.items():
        assert not any(word.startswith(noun[:4]) for word in told.split()), noun
    for item in drawn_items("latent", ItemSettings(items=60)):
        assert shown_words(item)[0][0] not in item.question


def test_a_motion_goes_where_the_answer_says_and_one_frame_does_not_tell() -> None:
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    for item in drawn_items("clip", ItemSettings(items=16)):
        centers = [shown.scene.center for shown in item.needles if shown.scene]
        for (x0, y0), (x1, y1) in pairwise(centers):
            moved = (round((x1 - x0) * 10), round((y1 - y0) * 10))
            assert (moved[0] > 0) - (moved[0] < 0) == steps[item.answer][0]
            assert (moved[1] > 0) - (moved[1] < 0) == steps[item.answer][1]


# Pictures of one's own


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cars, a dog, a cat: plain squares of different grey, with what they show."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number, (noun, color) in enumerate(
        [("car", "red"), ("car", "blue"), ("dog", "brown"), ("cat", "black")]
    ):
        Image.new("RGB", (40, 30), (60 * number, 9, 9)).save(folder / f"{number}.png")
        told = {"object": noun, "caption": f"A {color} {noun}.", "answer": color}
        prompt = f"\nWhat color is {noun} {number}?"
        rows.append({"path": f"{number}.png", "prompt": prompt, **told})
    (folder / "dataset.json").write_text(json.dumps(rows))
    return folder


def test_own_pictures_answer_what_is_asked_of_them(pictures: Path) -> None:
    own = load_needles(pictures)
    told = {item.needles[0].told: item for item in own}
    keys = own_items("keys", ItemSettings(items=9), own)
    assert len(keys) == len(own)  # a picture is asked for once
    for item, asked in zip(keys, own, strict=True):
        assert (item.question, item.answer) == (asked.question, asked.answer)
        assert len({shown.told for shown in item.needles}) == 3
        assert asked.needles[0] in item.needles
    places = [item.needles.index(one.needles[0]) for item, one in zip(keys, own, strict=True)]
    assert set(places[:3]) == {0, 1, 2}
    for item in own_items("distractor", ItemSettings(), own):
        assert told[item.needles[0].told].answer == item.answer
        assert {shown.object for shown in (*item.needles, *item.distractors)} == {"car"}
        assert item.order.count("N") == 1
        assert item.needles[0] not in item.distractors
    for item in own_items("order", ItemSettings(items=30), own):
        assert item.answer == item.needles[0].object
        assert len({shown.object for shown in item.needles}) == 3
    counted = own_items("count", ItemSettings(items=40, most=2), own)
    assert sorted(Counter(item.answer for item in counted).values()) == [13, 13, 14]
    for item in counted:
        noun = item.question.split("show the ")[1].split("?")[0]
        shown = (*item.needles, *item.distractors)
        assert [each.object for each in shown].count(noun) == int(item.answer)


@pytest.mark.parametrize(
    ("test", "changes", "message"),
    [
        ("keys", {"n": 5}, "--test keys needs 5 pictures; --needles has 4"),
        ("order", {"n": 4}, "--test order needs 4 objects; --needles has 3"),
    ],
)
def test_too_few_own_pictures_are_refused(
    pictures: Path, test: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        own_items(test, ItemSettings(**changes), load_needles(pictures))


def test_own_pictures_that_do_not_say_what_they_show_are_refused() -> None:
    with pytest.raises(SettingsError, match=r'asks about objects: give \S+ an "object" in dataset'):
        own_items("order", ItemSettings(), load_needles(embedded.NEEDLES))


# Places


@pytest.mark.slow
@given(
    test=st.sampled_from(list(DRAWN_TESTS)),
    count=st.integers(20, 400),
    depth=st.floats(0, 1),
    spread=st.floats(0.4, 1),
)
@settings(deadline=None, max_examples=150)
def test_pictures_stand_where_the_record_says_and_never_first_or_last(
    test: str, count: int, depth: float, spread: float
) -> None:
    items = drawn_items(test, ItemSettings(items=4, period=4))
    grid = grid_of(test, ItemSettings(period=4), frame_counts=(count,), depths=(depth,),
                   spreads=(spread,))  # fmt: skip
    try:
        cells = grid.lay_out(items).cells
    except SettingsError:
        return
    haystack = list(range(count))
    for cell in cells:
        item = items[cell.item]
        needles = [f"needle {n}" for n in range(len(item.needles))]
        others = [f"other {n}" for n in range(len(item.distractors))]
        frames = arrange(cell, item, haystack, needles, others)
        assert [frame for frame in frames if isinstance(frame, int)] == haystack
        assert isinstance(frames[0], int)
        assert isinstance(frames[-1], int)
        times = seconds_shown(cell)
        assert [frames[int(second)] for second in times] == needles
        for number, index in enumerate(cell.insert_indices):
            assert sum(isinstance(f, int) for f in frames[: int(times[number])]) == index
        pairs: list[object] = []  # as a model sees them that encodes frames in pairs
        for one, after in itertools.zip_longest(frames, frames[1:]):
            pairs.append(one)
            if isinstance(one, str) or (len(pairs) % 2 and not isinstance(after, int)):
                pairs.append(one)
        times = seconds_shown(cell, frames_per_unit=2)
        assert [pairs.index(name) for name in needles] == list(times)
        assert len(frames) == count + len(needles) + len(cell.distractor_indices)


@pytest.mark.parametrize("test", ["order", "count", "keys", "values", "chain", "aggregate"])
def test_depth_and_spread_move_all_pictures(test: str) -> None:
    items = drawn_items(test, ItemSettings(items=8))
    cells = (
        grid_of(test, ItemSettings(), frame_counts=(200,), spreads=(0.2, 0.6)).lay_out(items).cells
    )
    for number, item in enumerate(items):
        mine = [c for c in cells if c.item == number]
        assert len(mine) == 6
        places = {
            (c.depth, c.spread): sorted((*c.insert_indices, *c.distractor_indices)) for c in mine
        }
        for spread in (0.2, 0.6):
            low, middle, high = (places[depth, spread] for depth in (0.0, 0.5, 1.0))
            assert low[0] == 1
            assert high[-1] == 199
            assert low[0] < middle[0] < high[0]
            assert high[-1] - high[0] == pytest.approx(spread * 198, abs=1)
        assert all(a < b for a, b in pairwise(places[0.5, 0.6])), item.name


def test_a_cell_without_a_distractor_on_both_sides_is_refused() -> None:
    settings = ItemSettings(items=2, period=8)
    layout = grid_of("distractor", settings, frame_counts=(16, 64)).lay_out(
        drawn_items("distractor", settings)
    )
    for cell in layout.cells:
        (place,) = cell.insert_indices
        assert any(index <= place for index in cell.distractor_indices)
        assert any(index > place for index in cell.distractor_indices)
        assert all(index % 8 == 0 for index in cell.distractor_indices)
    assert {(cell.num_frames, cell.depth) for cell in layout.cells} == {(64, 0.5)}
    assert (
        "16 frames, depth 0: there is no distractor before the needle (period 8)" in layout.refused
    )
    assert (
        "64 frames, depth 1: there is no distractor after the needle (period 8)" in layout.refused
    )


def test_a_length_that_cannot_hold_its_pictures_is_refused_with_the_reason() -> None:
    settings = ItemSettings(items=2, n=5)
    items = drawn_items("order", settings)
    layout = grid_of("order", settings, frame_counts=(6, 60), spreads=(0.5,)).lay_out(items)
    assert {cell.num_frames for cell in layout.cells} == {60}
    assert "6 frames, depth 0: spread 0.5 has no room for 5 pictures" in layout.refused[0]
    with pytest.raises(SettingsError, match="No cell of this grid can hold the test:\n  6 frames"):
        grid_of("order", settings, frame_counts=(6,)).lay_out(items)


def test_a_model_that_sees_pairs_is_asked_what_pairs_can_hold() -> None:
    items = drawn_items("keys", ItemSettings(items=2))
    places = {"depths": (0.5,), "spreads": (0.6,)}
    grid = grid_of("keys", ItemSettings(), frame_counts=(15, 16, 6), **places)
    layout = grid.lay_out(items).in_whole_units(2)
    cells = [(cell.item, cell.num_frames, cell.insert_indices) for cell in layout.cells]
    assert cells == [(0, 16, (4, 8, 12)), (1, 16, (4, 8, 12))]
    odd, close = layout.refused
    assert "15 frames with pictures before (3, 7, 11): this model sees 2 frames at once" in odd
    assert "6 frames with pictures before (2, 3, 4)" in close
    clean = [cell for cell in controls_of(layout.cells, 1) if cell.control == "no needle"]
    assert [cell.num_frames for cell in clean] == [16]
    with pytest.raises(SettingsError, match="No cell of this grid can hold the test:\n  15 frames"):
        grid_of("keys", ItemSettings(), frame_counts=(15,)).lay_out(items).in_whole_units(2)


def test_depths_that_a_spread_makes_one_are_one_cell() -> None:
    items = drawn_items("order", ItemSettings(items=2))
    cells = (
        grid_of("order", ItemSettings(), frame_counts=(64,), spreads=(1.0,)).lay_out(items).cells
    )
    assert [(cell.item, cell.insert_indices) for cell in cells] == [
        (0, (1, 32, 63)),
        (1, (1, 32, 63)),
    ]


@pytest.mark.parametrize("test", ["count", "aggregate", "chain", "values"])
def test_the_depth_of_stated_places_does_not_tell_the_answer(test: str) -> None:
    items = drawn_items(test, ItemSettings(items=12))
    at = tuple(range(4, 4 + 5 * len(items[0].order), 5))
    cells = grid_of(test, ItemSettings(), frame_counts=(80, 100), at=at).lay_out(items).cells
    assert {(cell.num_frames, cell.depth) for cell in cells} == {(80, 0.05), (100, 0.04)}


def test_stated_places_are_the_same_in_every_length_that_can_hold_them() -> None:
    items = drawn_items("keys", ItemSettings(items=2))
    grid = grid_of("keys", ItemSettings(), frame_counts=(20, 40, 80), at=(4, 9, 30))
    layout = grid.lay_out(items)
    assert {cell.insert_indices for cell in layout.cells} == {(4, 9, 30)}
    assert {cell.num_frames for cell in layout.cells} == {40, 80}
    assert layout.refused == ["20 frames: no frame follows the picture before frame 30"]
    with pytest.raises(SettingsError, match="states 2 places for 3 pictures"):
        grid_of("keys", ItemSettings(), at=(4, 9)).lay_out(items)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 8}, "n=8 must be at least 2 and at most 7"),
        ({"n": 7}, "n=7 must be at most 6 for values"),
        ({"hops": 0}, "hops=0"),
        ({"answer": "letter"}, "answer='letter' must be words or letters"),
        ({"items": 0}, "items=0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        drawn_items("values", ItemSettings(**changes))


# Through the engine


@pytest.mark.slow
@pytest.mark.parametrize("test", ["order", "distractor", "clip"])
@pytest.mark.parametrize("as_text", [False, True], ids=["video", "text"])
def test_the_tree_gives_what_one_prefill_per_cell_gives(test: str, as_text: bool) -> None:
    settings = ItemSettings(items=3, n=2, period=4)
    items = circular_items(drawn_items(test, settings))
    grid = grid_of(test, settings, frame_counts=(12, 20), depths=(0.3, 0.6))
    haystack = open_haystack([embedded.HAYSTACK])
    captions = read_captions(None, num_frames=20) if as_text else None
    found = []
    computed = []
    for reuse in (True, False):
        session = open_session(
            "longva-tiny", dtype="float32", device="cpu", decode_process=False, reuse=reuse
        )
        found.append(run_grid(session, haystack, items, grid, controls=True, captions=captions,
                              max_new_tokens=2))  # fmt: skip
        computed.append(session.engine.counts.tokens_computed)
    for one, two in zip(*found, strict=True):
        assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
        assert (one.pred_ids, one.generated) == (two.pred_ids, two.generated)
    assert computed[0] < 0.75 * computed[1]


@pytest.fixture(scope="module")
def alone() -> Session:
    """A session that prefills every prompt by itself."""
    return open_session("longva-tiny", dtype="float32", device="cpu", decode_process=False,
                        reuse=False)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("test", DRAWN_TESTS)
def test_stated_places_give_what_one_prefill_per_cell_gives(
    test: str, session: Session, alone: Session
) -> None:
    settings = ItemSettings(items=2, n=2, motion_frames=2)
    items, haystack = drawn_items(test, settings), open_haystack([embedded.HAYSTACK])
    at = tuple(range(2, 2 * len(items[0].order) + 1, 2))
    grid = grid_of(test, settings, frame_counts=(14, 18), at=at)
    shared, each = (
        run_grid(one, haystack, items, grid, max_new_tokens=0) for one in (session, alone)
    )
    assert len(shared) == 4
    for one, two in zip(shared, each, strict=True):
        assert (one.insert_indices, one.pred_ids) == (two.insert_indices, two.pred_ids)
        assert one.logprob == pytest.approx(two.logprob, abs=1e-4)
    for line in map(json.loads, to_lines(shared).splitlines()):
        item = items[line["needle"]]
        facts = {name: line[name] for name in ("test", "question", "answer", "floor")}
        assert facts == {"test": test, "question": item.question.strip(), "answer": item.answer,
                         "floor": item.floor}  # fmt: skip
        shown = list(zip(item.order, at, itertools.count(), strict=False))
        assert line["insert_indices"] == [place for kind, place, _ in shown if kind == "N"]
        assert line["distractor_indices"] == [place for kind, place, _ in shown if kind == "D"]
        assert line["times"] == [place + before for kind, place, before in shown if kind == "N"]
        assert (line["num_frames"] in (14, 18), type(line["correct"])) == (True, bool)


@pytest.mark.slow
def test_stated_places_let_lengths_grow_out_of_each_other(session: Session) -> None:
    settings = ItemSettings(items=2)
    items, haystack = drawn_items("keys", settings), open_haystack([embedded.HAYSTACK])
    computed = []
    for places in ({"at": (4, 9, 14)}, {"depths": (0.5,)}):
        before = session.engine.counts.tokens_computed
        grid = grid_of("keys", settings, frame_counts=(20, 40, 60), **places)
        run_grid(session, haystack, items, grid, max_new_tokens=0)
        computed.append(session.engine.counts.tokens_computed - before)
    assert computed[0] < 0.7 * computed[1]


@pytest.mark.slow
@pytest.mark.parametrize("test", ["keys", "clip", "distractor"])
def test_frames_that_are_seen_in_pairs_are_recorded_as_they_are_shown(
    test: str, tmp_path: Path
) -> None:
    make_family(tmp_path, "qwen2_5_vl")
    session = open_session(tmp_path, dtype="float32", device="cpu", decode_process=False)
    settings = ItemSettings(items=1, period=5)
    items = drawn_items(test, settings)
    depths = (0.5,) if test == "distractor" else (0.0, 0.4, 1.0)
    grid = grid_of(test, settings, frame_counts=(16,), depths=depths, spreads=(0.6,))
    asked: list[Any] = []
    force = session.force
    session.force = lambda prompts, *a, **k: (asked.extend(prompts), force(prompts, *a, **k))[1]  # type: ignore[method-assign]
    answers = run_grid(session, open_haystack([embedded.HAYSTACK]), items, grid, max_new_tokens=0)
    assert len(answers) == len(depths)
    needles = {shown.image.tobytes() for shown in items[0].needles}
    for answer, prompt in zip(answers, asked, strict=True):
        units = [piece for piece in prompt.pieces if isinstance(piece, VisualPiece)]
        pictures = [unit for unit in units if isinstance(unit.source, FrameStack)]
        assert answer.times == tuple(
            unit.seconds[0]
            for unit in pictures
            if unit.source.pictures[0].convert("RGB").tobytes() in needles
        )
        assert units[0] not in pictures
        assert units[-1] not in pictures
        # In the haystack without its pictures, they stand where the record says.
        before = [unit for unit in units[: units.index(pictures[0])] if unit not in pictures]
        first = min((*answer.insert_indices, *answer.distractor_indices))
        assert 2 * len(before) == first


@pytest.mark.slow
def test_a_run_records_what_was_shown_asked_and_answered(session: Session, tmp_path: Path) -> None:
    settings = ItemSettings(items=4, answer="letters", period=4)
    items = drawn_items("distractor", settings)
    grid = grid_of("distractor", settings, frame_counts=(4, 16), depths=(0.5,))
    haystack = open_haystack([embedded.HAYSTACK])
    run = run_and_write(session, haystack, items, grid, tmp_path, circular=True)
    lines = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line, item in zip(lines, items, strict=True):
        assert line["test"] == "distractor"
        assert line["num_frames"] == 16
        assert line["insert_indices"] == [8]
        assert line["distractor_indices"] == [4, 8, 12]
        assert line["times"] == [10.0]  # after eight frames and two distractors
        assert line["question"] == item.question.strip()
        assert (line["answer"], line["floor"]) == (item.answer, 0.25)
        assert isinstance(line["correct"], bool)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["columns"]["16"]["floor"] == 0.25
    assert summary["refused_cells"]
    assert summary["circular"]["num_needles"] == 4
    assert len((tmp_path / "circular.jsonl").read_text().splitlines()) == 16
    again = run_and_write(session, haystack, items, grid, tmp_path, circular=True)
    assert again.was_there
    assert again.cells == run.cells


def test_cells_that_an_earlier_version_wrote_are_read(tmp_path: Path) -> None:
    line = {
        "num_frames": 16, "depth": 0.2, "insert_index": 3, "needle": 0, "answer_ids": [5],
        "pred_ids": [5], "correct": True, "logprob": -0.1, "min_margin": 2.0, "generated": "red",
        "num_prompt_tokens": 90,
    }  # fmt: skip
    path = tmp_path / "cells.jsonl"
    path.write_text(json.dumps(line) + "\n")
    (answer,) = read_answers(path)
    assert (answer.test, answer.insert_index, answer.answer_ids) == ("single", 3, (5,))


def test_latent_keeps_only_items_that_their_pictures_answer(
    session: Session, tmp_path: Path
) -> None:
    settings = ItemSettings(items=2)
    grid = grid_of("latent", settings, frame_counts=(8,), depths=(0.5,))
    haystack = open_haystack([embedded.HAYSTACK])
    items = drawn_items("latent", settings)
    answers = run_grid(session, haystack, items, grid, controls=True, max_new_tokens=0)
    # longva-tiny does not know what things do: what it says on a picture is made the answer of one.
    said = [session.checkpoint.tokenizer.decode(a.pred_ids).strip()
            for a in answers if a.control == "needle only"]  # fmt: skip
    known = replace(items[0], answer=said[0])
    unknown = replace(items[1], answer=next(color for color in COLORS if color != said[1]))
    run = run_and_write(session, haystack, [unknown, known], grid, tmp_path, max_new_tokens=0)
    assert run.summary["left_out"] == {unknown.name: 0.0}
    assert run.summary["controls"]["needle_only"] == 1.0
    assert [cell.needle_name for cell in run.cells] == [known.name]
    recorded = {answer.needle_name for answer in read_answers(tmp_path / "controls.jsonl")}
    assert recorded == {known.name, unknown.name}
    with pytest.raises(SettingsError, match="no item has a needle-only score of 90%"):
        run_and_write(session, haystack, [unknown], grid, tmp_path / "none", max_new_tokens=0)


# The text twin


def test_the_twin_reads_the_captions_in_place_of_the_frames(session: Session) -> None:
    settings = ItemSettings(items=2)
    items = drawn_items("keys", settings)
    grid = grid_of("keys", settings, frame_counts=(8,), depths=(0.5,))
    asked: list[Any] = []
    force = session.force
    session.force = lambda prompts, *a, **k: (asked.extend(prompts), force(prompts, *a, **k))[1]  # type: ignore[method-assign]
    try:
        captions = read_captions(None, num_frames=8)
        run_grid(session, open_haystack([embedded.HAYSTACK]), items, grid, captions=captions)
    finally:
        session.force = force  # type: ignore[method-assign]
    text = session.checkpoint.tokenizer.decode(
        [token for piece in asked[0].pieces for token in piece.token_ids]
    )
    assert not any(isinstance(piece, VisualPiece) for piece in asked[0].pieces)
    (cell,) = grid.lay_out(items[:1]).cells
    told = arrange(cell, items[0], captions, [s.caption() for s in items[0].needles], [])
    assert " ".join(told).split() == text.split("user")[1].split("Find")[0].split()


def test_a_picture_without_a_caption_has_no_twin(session: Session) -> None:
    item = Item(name="cat.png", needles=(Shown(picture=Image.new("RGB", (8, 8))),),
                question="\nWhat?", answer="red")  # fmt: skip
    grid = NeedleGrid(frame_counts=(4,), depths=(0.5,))
    with pytest.raises(SettingsError, match=r"The picture of cat\.png has no caption"):
        run_grid(session, open_haystack([embedded.HAYSTACK]), [item], grid,
                 captions=["nothing none none ."] * 4)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"caption": "A dog."}\n', "has 1 captions; 2 frames are asked for"),
        ('{"caption": "A dog."}\n{"text": "x"}\n', "line 2, is no caption"),
        ('{"caption": "A dog."}\n{"caption": " "}\n', "line 2, is no caption"),
        ("no json\n", "line 1, is no caption"),
    ],
)
def test_captions_that_are_none_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text(text)
    with pytest.raises(MediaError, match=rf"captions\.jsonl,? {message}"):
        read_captions(path, num_frames=2)


def test_a_text_gives_a_sentence_for_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("It was dark.  Was it\nlate? No!\n\nThe end")
    assert read_text(path, num_frames=3) == ["It was dark.", "Was it late?", "No!"]
    with pytest.raises(MediaError, match="has 4 sentences; 5 frames are asked for"):
        read_text(path, num_frames=5)
    with pytest.raises(MediaError, match="cannot be read as text"):
        read_text(tmp_path, num_frames=1)
    drawn = read_text(None, num_frames=40)
    assert drawn == read_text(None, num_frames=50)[:40]
    assert len(set(drawn)) > 2
    assert all(sentence.endswith(".") for sentence in drawn)


def test_captions_of_ones_own_are_sentences_in_lines() -> None:
    assert Shown(told="A cat sits.").caption(as_sentence=True) == "A cat sits."
    (item, *_) = drawn_items("chain", ItemSettings(items=1))
    sentences = [shown.caption(as_sentence=True) for shown in item.needles]
    assert any(
        re.fullmatch(r"A dark \w+, with a small white \w+ in a corner\.", s) for s in sentences
    )


def test_a_twin_says_captions_or_a_text(tmp_path: Path) -> None:
    captions, text = tmp_path / "captions.jsonl", tmp_path / "text.txt"
    captions.write_text('{"caption": "A dog."}\n{"caption": "A cat."}\n')
    text.write_text("One. Two. Three.")
    said = functools.partial(twin_captions, num_frames=2)
    assert said(text=None, captions=captions) == ["A dog.", "A cat."]
    assert said(text=text, captions=None) == ["One.", "Two."]
    assert said(text=Path("drawn"), captions=None) == read_text(None, num_frames=2)
    assert said(text=None, captions=None) == read_captions(None, num_frames=2)


def test_pictures_without_captions_are_refused_before_anything_is_asked(
    pictures: Path, tmp_path: Path
) -> None:
    needles = tmp_path / "needles"
    shutil.copytree(pictures, needles)
    rows = json.loads((needles / "dataset.json").read_text())
    del rows[2]["caption"]
    (needles / "dataset.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    with pytest.raises(SettingsError, match=r"The picture of 2\.png has no caption"):
        niah(["--pretrained", "longva-tiny", "--frames", "8", "--needles", str(needles),
              "--as-text", "--out", str(out)])  # fmt: skip
    assert not out.exists()


def scores(**changes: Any) -> TestScores:
    made: dict[str, Any] = {
        "test": "keys", "items": frozenset("ab"), "frames": (8, 16), "shares": (0.5, 0.25),
        "intervals": ((0.3, 0.7), (0.1, 0.5)), "tokens": (100.0, 200.0), "floor": 0.125,
        "needle_only": 1.0,
    }  # fmt: skip
    return TestScores(**made | changes)


def test_what_is_lost_in_vision_is_text_minus_video_and_both_are_drawn() -> None:
    video, text = scores(), scores(shares=(0.5, 1.0), tokens=(40.0, 80.0))
    assert lost_in_vision(video, text) == {8: 0.0, 16: 0.75}
    assert lost_in_vision(video, scores(frames=(16, 32))) == {16: 0.25}
    figure = draw_twin(video, text)
    assert "8 frames +0.0, 16 frames +75.0. 2 items." in [t.get_text() for t in figure.texts][1]
    drawn = {axes.get_title(loc="left"): axes.lines[-1].get_xydata() for axes in figure.axes}
    assert list(drawn) == ["Video", "Text twin"]
    assert drawn["Video"].tolist() == [[100, 50], [200, 25]]
    assert drawn["Text twin"].tolist() == [[40, 50], [80, 100]]


def test_every_test_has_a_panel_with_every_model() -> None:
    order = scores(test="order", shares=(1.0, 0.75))
    figure = draw_tests({"one": [scores(), order], "two": [scores(shares=(0.0, 0.125))]})
    drawn = {
        axes.get_title(loc="left"): [
            list(line.get_ydata()) for line in axes.lines if len(line.get_xdata()) == 2
            and list(line.get_xdata()) == [8, 16]
        ]
        for axes in figure.axes
    }  # fmt: skip
    assert drawn == {"keys": [[50, 25], [0, 12.5]], "order": [[100, 75]]}


def test_items_that_one_side_leaves_out_are_no_loss_in_vision(tmp_path: Path) -> None:
    for folder, found in (("", {"a": 1, "b": 1}), ("text", {"b": 1, "c": 0})):
        (tmp_path / folder).mkdir(exist_ok=True)
        rows = [
            {"num_frames": 8, "needle": n, "needle_name": name, "correct": bool(correct),
             "floor": 0.25, "num_prompt_tokens": 90}
            for n, (name, correct) in enumerate(found.items())
        ]  # fmt: skip
        (tmp_path / folder / "cells.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        summary = {"test": "latent", "controls": None}
        (tmp_path / folder / "summary.json").write_text(json.dumps(summary))
    assert read_test(tmp_path).shares == (1.0,)
    assert read_test(tmp_path / "text").shares == (0.5,)
    said = _save_twin(tmp_path, title="latent")
    assert "Lost in vision at 8 frames: +0.0 points over 1 items" in said
    (tmp_path / "text" / "cells.jsonl").write_text(json.dumps(rows[1]) + "\n")
    assert "no item is answered both ways" in _save_twin(tmp_path, title="latent")


# The command


@pytest.mark.process
def test_the_command_runs_several_tests_and_their_twins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pictures: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--pretrained", "longva-tiny", "--device", "cpu", "--dtype", "float32", "--frames",
                 "8,16", "--depths", "0.5", "--items", "2", "--test", "keys,clip", "--as-text",
                 "--max-new-tokens", "0", "--out", str(out)]  # fmt: skip
    captions = [f"nothing red {number} ." for number in range(16)]
    own = tmp_path / "captions.jsonl"
    own.write_text("\n".join(json.dumps({"caption": caption}) for caption in captions))
    assert niah([*arguments, "--haystack", str(embedded.HAYSTACK), "--captions", str(own)]) == 0
    run = json.loads((out / "keys" / "text" / "run.json").read_text())
    told = hashlib.sha256(json.dumps(captions).encode())
    assert run["captions_sha256"] == told.hexdigest()
    printed = capsys.readouterr().out
    assert "longva-tiny, keys, as text" in printed
    assert re.search(r"Lost in vision at 16 frames: \S+ points over 2 items", printed)
    assert "No text twin of clip" in printed
    for name in ("keys/cells.jsonl", "keys/text/cells.jsonl", "keys/twin.png", "clip/summary.json",
                 "tests.png", "tests.svg"):  # fmt: skip
        assert (out / name).stat().st_size > 0
    assert not (out / "clip" / "text").exists()

    # Pictures of one's own, hidden in a text.
    arguments[arguments.index("keys,clip")] = "order,chain"
    arguments[arguments.index("--as-text")] = "--text=drawn"
    arguments[arguments.index(str(out))] = str(tmp_path / "own")
    assert niah([*arguments, "--needles", str(pictures)]) == 0
    assert "chain: its pictures are drawn" in capsys.readouterr().out
    for folder in ("order", "order/text", "chain/text"):
        run = json.loads((tmp_path / "own" / folder / "run.json").read_text())
        assert run["needles"][0]["answer"] in ("car", "dog", "cat") or "chain" in folder


@pytest.mark.process
def test_examples_show_every_frame_and_frame_the_pictures(tmp_path: Path) -> None:
    given = ["--test", "keys,distractor", "--frames", "7", "--period", "3", "--examples"]
    assert niah([*given, str(tmp_path)]) == 0
    for name in ("keys", "distractor"):
        with Image.open(tmp_path / f"needle_{name}.png") as drawn:
            assert drawn.width == round(6.9 * 220)
    frame = Image.new("RGB", (8, 8))
    kinds = ["", "needle", "", "distractor", *[""] * 12]
    figure = draw_shown([(frame, kind) for kind in kinds], title="t", question="?", answer="a")
    framed = [bool(axes.patches) for axes in figure.axes if axes.images]
    assert framed == [bool(kind) for kind in kinds]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--as-text --haystack film.mp4", "--as-text needs --captions FILE for a haystack"),
        ("--captions a.jsonl", "--captions has no effect without --as-text"),
        ("--as-text --captions a.jsonl --text b.txt", "--captions and --text both say"),
        ("--test order --at 2,4,6 --spread 0.5", "--at states where pictures stand; leave --spr"),
        ("--test distractor --needles x --likeness other", "--likeness is for drawn distractors"),
        ("--answer letters", "--answer has no effect on single: it is for --test distractor, keys"),
        ("--items 9", "--items has no effect on single"),
        ("--test single --spread 0.1", "--spread has no effect on single"),
        ("--at 2,4,6", "--at has no effect on single"),
        ("--test count,clip --n 4", "--n has no effect on count, clip: it is for --test keys, val"),
        ("--test order --motion-frames 4", "--motion-frames has no effect on order: it is for"),
        ("--examples x --show clip", "--show has no effect without --write-tasks"),
        ("--write-tasks x --as-text", "lmms-eval's tasks have no --as-text"),
        ("--test keys,latent --no-controls", "latent keeps what is answered on its pictures alo"),
        ("--circular", "--circular rotates options, and no question here has any"),
        ("--test order,count --circular", "--circular rotates options, and no question here"),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    arguments: str, message: str, tmp_path: Path
) -> None:
    given = ["--pretrained", "longva-tiny", "--frames", "16", "--out", str(tmp_path / "out")]
    with pytest.raises(SettingsError, match=message):
        niah([*given, *arguments.split()])
    assert not (tmp_path / "out").exists()


def test_a_test_that_an_option_leaves_as_it_is_is_told(pictures: Path) -> None:
    given = ["--frames", "16", "--test", "keys,order,clip", "--answer", "letters", "--circular"]
    options = niah_parser().parse_args([*given, "--as-text", "--needles", str(pictures)])
    tests = make_tests(options.test, frame_counts=(16,), needles=options.needles, own=True,
                       settings=ItemSettings(answer=options.answer))  # fmt: skip
    assert list(remarks(options, tests)) == [
        "keys is asked in words, whatever --answer says.",
        "--circular rotates nothing in keys: it has no options.",
        "clip: its pictures are drawn, not those of --needles.",
        "No text twin of clip: captions do not tell what its pictures show.",
    ]


@pytest.mark.parametrize("test", DRAWN_TESTS)
def test_a_setting_is_told_to_be_for_the_tests_that_read_it(test: str) -> None:
    read: set[str] = set()

    class Watched(ItemSettings):
        def __getattribute__(self, name: str) -> Any:
            read.add(name)
            return super().__getattribute__(name)

    settings = Watched()
    read.clear()
    item = DRAWN_TESTS[test].make(0, settings)
    grid_of(test, settings, depths=(0.5,)).lay_out([item])
    assert read & set(TESTS_OF) == {name for name, tests in TESTS_OF.items() if test in tests}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "order,sort"], "'sort': the tests are single, distractor, keys"),
        (["--out", "x"], "the following arguments are required: --pretrained"),
    ],
)
def test_wrong_arguments_end_with_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        niah(["--frames", "8", *arguments])
    assert message in capsys.readouterr().err


# As tasks of the host


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vniah_utils", TESTS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.process
@pytest.mark.parametrize("test", DRAWN_TESTS)
def test_a_task_has_the_cells_of_the_command(test: str, tasks: ModuleType) -> None:
    (row,) = json.loads((TESTS.parent / f"grid_{test}.json").read_text())
    docs = list(tasks.expand_grid([row | {"frames": "16,32", "items": 3}]))
    changes = {name: row[name] for name in ("answer", "period") if name in row}
    settings = ItemSettings(items=3, side=96, **changes)
    depths = tuple(float(text) for text in row["depths"].split(":")[:2])
    grid = grid_of(test, settings, frame_counts=(16, 32),
                   depths=(depths[0], sum(depths) / 2, depths[1]))  # fmt: skip
    items = drawn_items(test, settings)
    cells = grid.lay_out(items).cells
    assert [
        (doc["needle"], doc["num_frames"], tuple(doc["insert_indices"]),
         tuple(doc["distractor_indices"]), doc["question"], doc["answer"])
        for doc in docs
    ] == [
        (cell.item, cell.num_frames, cell.insert_indices, cell.distractor_indices,
         items[cell.item].question, items[cell.item].answer)
        for cell in cells
    ]  # fmt: skip
    doc = docs[-1]
    pictures = tasks.doc_to_shown(doc)
    assert len(pictures) == doc["num_frames"] + len(doc["insert_indices"]) + len(
        doc["distractor_indices"]
    )
    for second, shown in zip(doc["times"], items[doc["needle"]].needles, strict=True):
        assert pictures[int(second)].tobytes() == shown.image.tobytes()
    (path,) = tasks.doc_to_shown(doc | {"show": "clip"}) if test == "order" else (__file__,)
    assert Path(path).is_file()


@pytest.mark.process
def test_a_task_shows_ones_own_pictures(pictures: Path, tmp_path: Path, tasks: ModuleType) -> None:
    made = ["--test", "distractor,chain", "--frames", "20", "--depths", "0.5", "--items", "3",
            "--period", "4", "--needles", str(pictures)]  # fmt: skip
    assert niah([*made, "--write-tasks", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "grid_distractor.json").read_text())
    doc, _ = tasks.expand_grid([row])
    own = own_items("distractor", ItemSettings(items=3), load_needles(pictures))
    assert doc["question"] == own[0].question
    shown = tasks.doc_to_shown(doc)
    (second,) = doc["times"]
    assert shown[int(second)].tobytes() == own[0].needles[0].image.tobytes()
    (row,) = json.loads((tmp_path / "grid_chain.json").read_text())
    assert "needles" not in row


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spred": "0.2"}, "'order' states spred='0.2'. It can state test"),
        ({"show": "film"}, "show='film'. It can state .*show \\(pictures or clip\\)"),
        ({"test": "sort"}, "test='sort'. It can state test \\(single or distractor"),
        ({"test": "single"}, "'single' states spread='0.5', answer='letters', items=24. It"),
        ({"test": "chain", "needles": "hf_home"}, "'chain' states needles='hf_home'"),
        ({"at": "3,6,9"}, "states depths='0:1:0.5', spread='0.5'.*at is in place of depths and"),
        ({"frames": None}, "states no frames"),
    ],
)
def test_a_row_that_the_test_would_not_use_is_refused(
    changes: dict[str, Any], message: str, tasks: ModuleType
) -> None:
    (row,) = json.loads((TESTS.parent / "grid_order.json").read_text())
    with pytest.raises(SettingsError, match=message):
        tasks.expand_grid([row | changes])


def test_cells_of_a_task_that_cannot_hold_the_test_are_named(tasks: ModuleType) -> None:
    (row,) = json.loads((TESTS.parent / "grid_order.json").read_text())
    told: list[str] = []
    handler = logger.add(told.append, format="{message}")
    docs = tasks.expand_grid([row | {"frames": "4,16", "depths": 0.5, "items": 2}])
    logger.remove(handler)
    assert {doc["num_frames"] for doc in docs} == {16}
    (refused,) = told
    assert "V-NIAH order: left out: 4 frames, depth 0.5: spread 0.5 has no room for 3" in refused


@pytest.mark.process
@pytest.mark.parametrize(("test", "shown"), [("count", 3), ("distractor", 5), ("single", 1)])
def test_a_task_asks_the_controls(test: str, shown: int, tasks: ModuleType) -> None:
    row = {"test": test, "haystack": "embedded", "frames": "6,9"}
    row |= {"needles": "embedded"} if test == "single" else {"items": 2, "period": 2}
    docs = {c: tasks.expand_grid([row | {"control": c}]) for c in ("needle only", "no needle")}
    asked = tasks.expand_grid([row])
    for control, lengths in (("needle only", {1}), ("no needle", {6, 9})):
        assert {doc["num_frames"] for doc in docs[control]} == lengths
        assert len({doc["question_id"] for doc in docs[control]}) == len(docs[control])
        assert {doc["question"] for doc in docs[control]} == {doc["question"] for doc in asked}
        record = tasks.process_generated(docs[control][0], ["?"])["vniah_accuracy"]
        assert (record["control"], record["depth"], list(record["times"])) == (control, None, [])
    alone, clean = (tasks.doc_to_shown(docs[control][-1]) for control in docs)
    assert (len(alone), len(clean)) == (shown, 9)
    item = tasks._item(docs["needle only"][-1])
    drawn = {each.image.tobytes() for each in (*item.needles, *item.distractors)}
    assert {picture.tobytes() for picture in alone} == drawn
    assert not drawn & {picture.tobytes() for picture in clean}


def test_tasks_are_written_for_models_that_take_video_files(
    tmp_path: Path, tasks: ModuleType
) -> None:
    given = ["--frames", "6", "--write-tasks", str(tmp_path)]
    assert niah([*given, "--test", "order", "--items", "1", "--show", "clip"]) == 0
    (row,) = json.loads((tmp_path / "grid_order.json").read_text())
    assert {doc["show"] for doc in tasks.expand_grid([row])} == {"clip"}
    (alone,) = json.loads((tmp_path / "grid_order_needle_only.json").read_text())
    assert alone == row | {"control": "needle only"}
    assert (tmp_path / "my_vniah_order_needle_only_generate.yaml").is_file()
    assert niah([*given, "--test", "keys", "--no-controls"]) == 0
    assert not list(tmp_path.glob("*keys_needle_only*"))
    with pytest.raises(SettingsError, match="--lattice cannot be written as a task"):
        niah([*given, "--lattice", "3"])


def test_an_unread_answer_stays_in_the_denominator(tasks: ModuleType) -> None:
    (row,) = json.loads((TESTS.parent / "grid_order.json").read_text())
    docs = list(tasks.expand_grid([row | {"frames": "16", "depths": "0.5", "items": 3}]))
    said = [docs[0]["answer"], "I cannot tell.", f"({docs[2]['answer']})"]
    records = [
        tasks.process_generated(doc, [text])["vniah_accuracy"]
        for doc, text in zip(docs, said, strict=True)
    ]
    assert [record["outcome"] for record in records] == ["right", "no answer", "right"]
    assert mean_score(records) == pytest.approx(2 / 3)
    assert all(
        record[name] == doc[name]
        for record, doc in zip(records, docs, strict=True)
        for name in ("test", "insert_indices", "distractor_indices", "floor", "times", "answer")
    )
    words = list(tasks.expand_grid([row | {"frames": "16", "depths": "0.5", "items": 1,
                                           "answer": "words"}]))  # fmt: skip
    others = [choice for choice in words[0]["choices"] if choice != words[0]["answer"]]
    for text, outcome in (
        (words[0]["answer"], "right"),
        (others[0], "wrong"),
        ("a cow", "no answer"),
    ):
        assert tasks.process_generated(words[0], [text])["vniah_accuracy"]["outcome"] == outcome


# As reports read it


@pytest.mark.slow
def test_a_test_is_a_task_of_its_own_in_reports(session: Session, tmp_path: Path) -> None:
    from longva_eval.reports.reading.needle_runs import read_needle_run

    settings = ItemSettings(items=2)
    grid = grid_of("count", settings, frame_counts=(16,), depths=(0.5,), spreads=(0.3, 0.6))
    haystack = open_haystack([embedded.HAYSTACK])
    run_and_write(session, haystack, drawn_items("count", settings), grid, tmp_path,
                  max_new_tokens=0)  # fmt: skip
    run, controls = read_needle_run(tmp_path)
    (task,) = run.tasks.values()
    assert task.name == "V-NIAH count"
    assert controls is not None
    assert len({sample.key for sample in task.samples}) == len(task.samples) == 4
    assert task.samples[0].question.startswith("How many frames show the")
    assert task.samples[0].frames_seen == 19


@pytest.mark.parametrize("name", ["vniah_order", "vniah_order_generate", "V-NIAH order"])
def test_published_grids_are_not_put_beside_other_tests(name: str) -> None:
    from longva_eval.reports.tables.benchmarks import BENCHMARKS

    patterns = {b.name: b.tasks for b in BENCHMARKS}
    assert not any(re.fullmatch(pattern, name) for pattern in patterns.values())
    assert re.fullmatch(patterns["V-NIAH"], "vniah_small")


# What a test costs


@pytest.mark.slow
@pytest.mark.parametrize("test", ["values", "distractor", "count"])
def test_the_plan_counts_what_the_engine_computes(test: str, session: Session) -> None:
    from longva_eval.embedded import CHECKPOINTS
    from longva_eval.studies.cost import PREFIX_TOKENS, QUESTION_TOKENS
    from longva_eval.studies.needle_cost import needle_cost
    from longva_eval.studies.shape import read_model_shape

    settings = ItemSettings(items=3, period=4)
    items = circular_items(drawn_items(test, settings))  # values is asked by letter
    grid = grid_of(test, settings, frame_counts=(16, 32), depths=(0.3, 0.7))
    shape = read_model_shape(CHECKPOINTS["longva-tiny"])
    cost = needle_cost(shape, items, grid)
    before = session.engine.counts.tokens_computed
    answers = run_grid(session, open_haystack([embedded.HAYSTACK]), items, grid, controls=True,
                       max_new_tokens=0)  # fmt: skip
    computed = session.engine.counts.tokens_computed - before
    assert cost.num_cells == len(answers)
    # Texts are counted at an average length: but for them, the same tokens.
    texts = len(answers) * (PREFIX_TOKENS + QUESTION_TOKENS)
    assert abs(cost.shared_tokens - computed) < texts
    frames = (cost.naive_tokens - texts) / shape.tokens_per_frame
    shown = {"blind": 0, "needle only": len(items[0].order)}
    assert frames == sum(
        shown.get(str(a.control), a.num_frames + len(a.insert_indices) + len(a.distractor_indices))
        for a in answers
    )
    assert cost.shared_tokens < cost.naive_tokens
    assert cost.shared_flops < cost.naive_flops


def test_plan_prints_a_table_for_each_test(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*more: str) -> dict[str, tuple[float, float]]:
        """Of each title, the tokens that each prompt alone costs, and that shared ones do."""
        plan(["--grid", "20,40", "--needles", "3", *more])
        found = re.findall(
            r"Needle test (.*?) +each alone +shared.*\n +tokens, M +([\d.]+) +([\d.]+)",
            capsys.readouterr().out,
        )
        return {title: (float(naive), float(shared)) for title, naive, shared in found}

    tables = printed("--test", "order,single")
    order = "order: 30 cells and controls, 3 items"
    assert list(tables) == [order, "single: 48 cells and controls, 3 items"]
    assert all(0 < shared < naive for naive, shared in tables.values())
    more = printed("--test", "order", "--n", "5")[order]
    assert more > tables[order]
    ((title, rotated),) = printed("--test", "order", "--circular").items()
    assert title == "order: 120 cells and controls, 3 items, 9 rotations"
    assert rotated[0] == pytest.approx(4 * tables[order][0], rel=0.02)
    assert rotated[1] < 2 * tables[order][1]  # the frames are shared, the questions are not


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--frames 20 --test order", "--test needs --grid"),
        ("--grid 20 --circular", "--circular has no effect without --test"),
        ("--grid 20 --spread 0.2", "--spread has no effect on single: it is for --test dist"),
        ("--grid 20 --test order,count --hops 2", "--hops has no effect on order, count"),
        ("--grid 20 --test order --at 2,4,6 --spread 0.2", "leave --spread out"),
    ],
)
def test_plan_refuses_what_would_change_nothing(arguments: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan(arguments.split())
