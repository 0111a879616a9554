"""The page in a browser: what its script adds, and what it must not do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Tab, find_chromium, open_browser, open_tab
from page_runs import HOSTILE, needle_folder, questions, sample, write_run
from playwright.sync_api import Browser, expect
from video_files import Clip, write_video

from longva_eval.cli import main

__all__ = ["needle_folder"]

Show = Callable[..., Tab]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        find_chromium() is None, reason="no Chromium is installed; set CHROMIUM to one"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("two_runs")
    file = write_video(tmp_path / "clip", Clip())
    given = {"video": file, "frames": (0, 9, 19), "num_frames_total": 20}
    hostile = sample(
        60, text=HOSTILE, question=HOSTILE, options=(HOSTILE, "b", "c", "d"),
        categories={"duration": HOSTILE},
        facts={"option_probabilities": {"A": 0.7, "B": 0.1, "C": 0.1, "D": 0.1}},
    )  # fmt: skip
    first = write_run(tmp_path / "a", [*questions(20, 60, **given), hostile])
    second = write_run(tmp_path / "b", [*questions(45, 60), hostile], model=HOSTILE[:40])
    out = tmp_path / "page.html"
    runs = [str(first), str(second), "--media", str(tmp_path)]
    assert main(["report", *runs, "--out", str(out), "--title", HOSTILE]) == 0
    return out


@pytest.fixture
def show(browser: Browser) -> Iterator[Show]:
    """Opens a page, and closes it without complaints."""
    tabs: list[Tab] = []

    def opened(path: Path, fragment: str = "", width: int = 1200) -> Tab:
        tabs.append(open_tab(browser, path.as_uri() + fragment, width=width, height=900))
        expect(tabs[-1].page.locator("#count")).not_to_be_empty()
        # A browser goes to the fragment when it draws, which may be after the load event.
        tabs[-1].page.evaluate(
            "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        return tabs[-1]

    yield opened
    for tab in tabs:
        assert tab.errors == []
        tab.close()


def listed(tab: Tab) -> str:
    return tab.page.locator("#count").inner_text()


def open_question(tab: Tab) -> str:
    return tab.page.locator("#list [aria-expanded=true]").inner_text()


def test_it_opens_without_errors_and_asks_for_nothing(show: Show, two_runs: Path) -> None:
    tab = show(two_runs)
    assert tab.requests == [two_runs.as_uri()]
    assert listed(tab) == "61 questions"


def test_hostile_text_is_text(show: Show, two_runs: Path) -> None:
    tab = show(two_runs, "#sample=longva_mini%2F020-1")
    shown = HOSTILE.replace("\x00", "\u2400").replace("\x07", "\u2407").replace("\ud800", "\ufffd")
    assert tab.page.title().startswith("</script><script>document")
    for place in (".question", ".options bdi", ".said"):
        assert tab.page.locator(place).first.text_content() == shown
    assert tab.page.locator("img").count() == 0
    assert tab.page.locator(".probs td.number").first.inner_text() == "70.0 %"


def test_filters_work_and_stay_in_the_address(show: Show, two_runs: Path) -> None:
    assert listed(show(two_runs, "#outcome=wrong&run=0")) == "40 of 61 questions"  # 60 - 20
    tab = show(two_runs, "#relation=second&first=0&second=1")
    assert listed(tab) == "25 of 61 questions"  # 45 - 20
    assert tab.page.locator("[name=relation]").input_value() == "second"
    tab = show(two_runs, "#c.duration=short&q=flag%2027")
    assert listed(tab) == "1 of 61 questions"
    tab.page.locator("[name=outcome]").select_option("right")
    assert "outcome=right" in tab.page.url
    tab.page.get_by_role("button", name="Show all").click()
    assert listed(tab) == "61 questions"


def test_the_list_has_the_right_answer_and_every_runs_and_sorts(show: Show, two_runs: Path) -> None:
    tab = show(two_runs)
    rows = tab.page.locator("#list tbody tr:not(.below)")
    assert rows.count() == 20
    cells = rows.nth(0).locator("td")
    assert [" ".join(text.split()) for text in cells.all_inner_texts()[2:]] == [
        "A", "✓ right A", "✓ right A", "",
    ]  # fmt: skip
    tab.page.locator("#list thead button").nth(3).click()  # run A: what is worst first
    assert "flag 20?" in rows.nth(0).inner_text()
    tab.page.locator("#list thead button").nth(3).click()
    assert "flag 0?" in rows.nth(0).inner_text()
    assert "sort=run0-down" in tab.page.url
    tab.page.locator("#list thead button").nth(5).click()  # where the two disagree
    assert rows.locator(".differs").all_inner_texts() == ["≠"] * 20
    again = show(two_runs, "#sort=id-down&first=1&second=0")
    heads = again.page.locator("#list thead .letter")
    assert heads.all_inner_texts() == ["B", "A"]  # the compared runs first
    assert again.page.locator("#list .id").first.inner_text() == "020-1"


def test_keys_lead_to_the_next_disagreement(show: Show, two_runs: Path) -> None:
    tab = show(two_runs)
    press = tab.page.keyboard.press
    press("j")
    assert "flag 0?" in open_question(tab)
    press("d")
    assert "flag 20?" in open_question(tab)  # on the next page of the list: A has 20 right, B 45
    press("d")
    assert "flag 21?" in open_question(tab)
    press("k")
    press("k")
    assert "flag 19?" in open_question(tab)
    press("D")
    assert "flag 19?" in open_question(tab)  # there is none before
    press("/")
    tab.page.keyboard.type("flag 33")
    expect(tab.page.locator("#count")).to_have_text("1 of 61 questions")
    press("Escape")
    press("j")
    assert "flag 33?" in open_question(tab)
    press("Escape")
    assert tab.page.locator("#list [aria-expanded=true]").count() == 0


def test_a_sample_has_a_link_and_pages_turn(show: Show, two_runs: Path) -> None:
    tab = show(two_runs)
    tab.page.get_by_role("button", name="Next").click()
    assert "flag 20?" in tab.page.locator("#list").inner_text()
    tab = show(two_runs, "#sample=longva_mini%2F016-2")
    assert "flag 49?" in open_question(tab)
    expect(tab.page.locator("#list [aria-expanded=true]")).to_be_focused()
    assert listed(show(two_runs, "#sample=longva_mini%2Fnone")).startswith(
        "This page has no such sample."
    )


def test_a_frame_can_be_enlarged_and_saved(show: Show, two_runs: Path, tmp_path: Path) -> None:
    from PIL import Image

    tab = show(two_runs, "#sample=longva_mini%2F016-2")
    pictures = tab.page.locator(".film .picture")
    assert pictures.count() == 3
    pictures.nth(1).click()
    caption = tab.page.locator("dialog p")
    assert caption.inner_text().endswith("2 of 3")
    tab.page.keyboard.press("ArrowRight")
    assert caption.inner_text().endswith("3 of 3")
    for name, parts in (("Save frame", 1), ("Save strip", 3)):
        with tab.page.expect_download() as download:
            tab.page.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / "saved.png")
        saved = Image.open(tmp_path / "saved.png").convert("RGB")
        width = saved.width // parts
        seen = saved.getpixel((saved.width - width + 12, 9))
        flat = tuple(19 * step % 256 for step in (37, 91, 53))  # one quarter of frame 19
        assert isinstance(seen, tuple)
        assert max(abs(a - b) for a, b in zip(seen, flat, strict=True)) < 30
        assert download.value.suggested_filename.startswith("longva_mini_016-2_")
    tab.page.keyboard.press("Escape")
    expect(pictures.nth(1)).to_be_focused()


def test_a_heatmap_tells_what_was_missed(show: Show, needle_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert main(["report", str(needle_folder), "--out", str(out)]) == 0
    tab = show(out)
    cell = tab.page.locator('[aria-label^="64 frames, depth 50"]')
    cell.focus()
    told = tab.page.locator(".cell-info").first.inner_text()
    assert told.startswith("64 frames, depth 50 %: 2 of 3 needles, 66.7 % (20.8 to 93.9). Missed: ")
    assert "said yellow" in told
    tab.page.keyboard.press("ArrowDown")
    expect(tab.page.locator('[aria-label^="64 frames, depth 100"]')).to_be_focused()
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#count")).to_have_text("3 of 18 questions")
    tab.page.locator("#list .row").nth(1).click()
    assert tab.page.locator(".film li.needle").count() == 1


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_as_wide_as_its_window(
    show: Show, two_runs: Path, needle_folder: Path, tmp_path: Path, width: int
) -> None:
    needles = tmp_path / "page.html"
    assert main(["report", str(needle_folder), "--out", str(needles), "--no-film"]) == 0
    for page, fragment in ((two_runs, "#sample=longva_mini%2F020-1"), (needles, "#needles")):
        tab = show(page, fragment, width)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        box = tab.page.locator(".sticky").bounding_box()
        assert box is not None
        assert box["y"] == 0  # sections and letters of the runs stay in sight
        assert box["height"] < 90


def test_a_task_s_name_breaks_at_its_underscores_only(show: Show, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", questions(9), task="longva_mini_small")
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    name = show(out, width=1100).page.locator("th.task bdi").first
    assert name.text_content() == "longva_mini_small"
    name.evaluate("name => name.parentElement.style.width = 0")  # as narrow as it gets
    lines = name.evaluate(
        """name => [...name.textContent].map((_, place) => {
          const walk = document.createTreeWalker(name, NodeFilter.SHOW_TEXT);
          while (walk.nextNode() && place >= walk.currentNode.length)
            place -= walk.currentNode.length;
          const range = document.createRange();
          range.setStart(walk.currentNode, place);
          range.setEnd(walk.currentNode, place + 1);
          return range.getBoundingClientRect().top;
        })"""
    )
    breaks = [place for place in range(1, len(lines)) if lines[place] != lines[place - 1]]
    assert breaks
    assert set(breaks) <= {7, 12}  # longva_ mini_ small
