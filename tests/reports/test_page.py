import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from page_runs import HOSTILE, needle_folder, questions, sample, write_run
from PIL import Image
from video_files import Clip, write_video

from longva_eval import embedded
from longva_eval.cli import main
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.files import image_digest
from longva_eval.media.images import open_image
from longva_eval.media.probe import probe_video
from longva_eval.questions.outcomes import FAILED
from longva_eval.reports.page.film import (
    SeenFrame,
    Strip,
    StripPlan,
    make_strips,
    picture_file_digest,
    plan_needle,
    plan_pictures,
    plan_videos,
)
from longva_eval.reports.page.media import MediaFinder
from longva_eval.reports.page.page import PageRun, build_page
from longva_eval.reports.page.rendering import script_json, visible
from longva_eval.reports.reading.needle_runs import grid_of, read_needle_run
from longva_eval.reports.reading.runs import read_run

__all__ = ["needle_folder"]


class Page(HTMLParser):
    """A page taken apart: its elements, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.text: list[str] = []
        self.scripts: dict[str, str] = {}
        self.feed(text.replace("<wbr>", ""))  # where a word may break
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "input", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            identity = self.elements[-1][1].get("id") or ""
            self.scripts[identity] = self.scripts.get(identity, "") + data
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)

    def shown(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(*paths: Path, **given: Any) -> Page:
    return Page(build_page([PageRun(run=read_run(path)) for path in paths], **given))


# The file -----------------------------------------------------------------------------------------


def test_a_page_is_whole_and_names_nothing_outside_of_itself(tmp_path: Path) -> None:
    text = build_page([PageRun(run=read_run(write_run(tmp_path, questions(9))))])
    page = Page(text)
    assert page.wrong == []
    assert page.open == []
    assert "http:" not in text.replace("http://www.w3.org", "")
    assert "https:" not in text
    for name, attributes in page.elements:
        assert "src" not in attributes, name
        assert "style" not in attributes, name
        assert not any(key.startswith("on") for key in attributes), name
        href = attributes.get("href")
        assert href is None or href.startswith("#"), href
    policy = next(
        attributes["content"]
        for name, attributes in page.elements
        if name == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_everything_has_the_name_a_screen_reader_says(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", questions(3), frames=8)
    second = write_run(tmp_path / "b", questions(9), frames=32)
    page = page_of(first, second)
    names = [name for name, _ in page.elements]
    assert names.count("h1") == 1
    assert names.count("main") == 1
    html = next(attributes for name, attributes in page.elements if name == "html")
    assert html["lang"] == "en"
    identities = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(identities) == len(set(identities))
    for name, attributes in page.elements:
        if name == "th":
            assert attributes.get("scope") in ("col", "row", "rowgroup")
        if name == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        if name == "section":
            assert attributes.get("aria-label") or attributes["aria-labelledby"] in identities
        if name == "a" and (attributes.get("href") or "").startswith("#"):
            target = (attributes["href"] or "")[1:]
            assert "=" in target or target in identities, target


def test_colours_of_text_stand_out_from_their_ground() -> None:
    style = Path("reports/page/assets/page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark = ({**dict(re.findall(r"--([\w-]+): (#\w{6})", block))} for block in blocks[:2])
    assert len(blocks) == 3  # and the one for print, which is light
    for colours in (light, dark):
        for text in ("ink", "muted", "link"):
            for ground in ("paper", "card", "soft", "warn"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in [f"run-{number}" for number in range(8)] + ["right", "wrong", "failed"]:
            assert contrast(colours[mark], colours["paper"]) >= 3.0, mark


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (
            v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)


def test_what_cannot_be_shown_becomes_a_sign() -> None:
    assert visible("a\x00\ud800b\x7f\r\n") == "a\u2400\ufffdb\u2421\n"


def test_data_for_the_script_cannot_end_its_element() -> None:
    written = script_json("x", {"text": HOSTILE})
    assert re.fullmatch(
        r'<script type="application/json" id="x">[^<>&\u2028\u2029]*</script>\n', written
    )
    assert json.loads(written[written.index("{") : written.rindex("}") + 1])["text"] == HOSTILE


@pytest.mark.process
def test_the_page_is_made_without_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", questions(9))
    code = (
        "import sys; from longva_eval.cli import main; "
        f"status = main(['report', {str(run)!r}, '--out', {str(tmp_path / 'page.html')!r}]); "
        "sys.exit(status or int('torch' in sys.modules or 'matplotlib' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "No film strip could be made" in done.stdout


# Numbers ------------------------------------------------------------------------------------------


def test_scores_stand_with_interval_and_outcomes(tmp_path: Path) -> None:
    rows = [*questions(7, 10), sample(10, text="The sky."), sample(11, text="")]
    shown = page_of(write_run(tmp_path, rows)).shown()
    assert "58.3 %" in shown  # 7 of 12
    assert "7 right, 3 wrong, 2 no answer" in shown
    assert "few: 2 videos hold a miss" in shown


def test_failed_questions_count_and_the_score_without_them_stands_below(tmp_path: Path) -> None:
    rows = [*questions(6, 9), sample(9, text=FAILED), sample(10, text=FAILED), sample(11, text="A")]
    shown = page_of(write_run(tmp_path, rows)).shown()
    assert "58.3 %" in shown  # 7 of 12
    assert "without the 2 failed: 70.0 %" in shown
    assert "clip.mp4 is cut off: fetch it again." in shown


@pytest.mark.slow
def test_two_runs_are_compared_on_the_questions_both_were_asked(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", questions(3))
    second = write_run(tmp_path / "b", questions(9, 12)[:11], model="other")
    third = write_run(
        tmp_path / "c", questions(3), model="third", task="longva_mini_small", frames=2048
    )
    shown = page_of(first, second, third).shown()
    assert "longva_mini B minus A 11" in shown
    assert "+54.5" in shown  # 9 of 11 minus 3 of 11
    assert "B: 6, A: 0" in shown
    assert "longva_mini_small: not in the baseline; not compared." in shown
    assert " 2,048 12 " in shown  # frames and questions, in its row
    assert "Nothing could be compared" not in shown  # B minus A could
    assert "Nothing could be compared" in page_of(first, third).shown()


@pytest.mark.slow
def test_runs_on_different_data_are_not_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", questions(3))
    second = write_run(tmp_path / "b", questions(3, answer="C"), model="other")
    other = [
        {**row, "accuracy": {**row["accuracy"], "question_id": f"x{row['doc_id']}"}}
        for row in questions(5)
    ]
    third = write_run(tmp_path / "c", other, model="third")
    shown = page_of(first, second, third).shown()
    assert "12 of 12 questions with the same id have different right answers" in shown
    assert "have no question in common (12 and 12" in shown


def test_a_curve_is_drawn_of_one_model_at_several_numbers_of_frames(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / str(count), questions(right), frames=count)
        for count, right in ((8, 3), (16, 9), (32, 9))
    ]
    page = page_of(*runs)
    curves = [a for name, a in page.elements if name == "svg" and a.get("class") == "curve"]
    assert len(curves) == 1
    assert "Overall does not surely rise after 8 frames; a later rise" in page.shown()
    assert "guessing" in page.shown()


@pytest.mark.slow
def test_categories_have_bars_of_every_run(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", questions(3))
    second = write_run(tmp_path / "b", questions(9), model="other")
    shown = page_of(first, second).shown()
    found = shown[shown.index("By category") :]
    assert re.search(r"short\s*6 questions\s*A\s*50\.0 %", found)  # questions 0 to 2 of 6


def test_a_run_on_part_of_a_benchmark_says_so_first(tmp_path: Path) -> None:
    run = write_run(tmp_path, questions(9), limit=12, num_in_benchmark=2700)
    shown = page_of(run).shown()
    assert "Before you read the numbers" in shown
    assert "12 of 2,700" in shown
    assert shown.index("run with --limit 12") < shown.index("75.0 %")
    assert "part of the benchmark" in shown


def test_a_run_without_samples_shows_what_the_host_wrote_and_nothing_more(tmp_path: Path) -> None:
    run = write_run(tmp_path, None, score=0.512, num_asked=900)
    page = page_of(run)
    shown = page.shown()
    assert "51.2 %" in shown
    assert "accuracy as lmms-eval wrote it; there are no samples to count" in shown
    assert "has no samples file" in shown
    assert not any(a.get("id") == "list" for _, a in page.elements)


def test_a_samples_file_that_breaks_off_says_so_first(tmp_path: Path) -> None:
    write_run(tmp_path, questions(9))
    file = next(tmp_path.glob("*_samples_*.jsonl"))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    shown = page_of(tmp_path).shown()
    assert "breaks off in its last line" in shown
    assert "the results file speaks of 12 questions" in shown
    assert shown.index("breaks off in its last line") < shown.index("Summary Scores")


def test_a_split_whose_answers_are_not_public_has_no_score(tmp_path: Path) -> None:
    rows = questions(0, answer="", hidden_answer=True)
    shown = page_of(write_run(tmp_path, rows)).shown()
    assert "The right answers are not public: nothing to score." in shown
    assert "0.0 %" not in shown


def test_a_metric_that_is_no_share_is_not_shown_in_percent(tmp_path: Path) -> None:
    rows = [
        {"doc_id": n, "target": "a dog", "filtered_resps": "a dog", "input": f"Describe {n}.",
         "gpt_eval_score": {"video_name": f"v{n}", "score": float(n % 6), "Q": "?", "A": "a dog"}}
        for n in range(12)
    ]  # fmt: skip
    path = tmp_path / "20261101_120000_samples_video_dc499.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown = page_of(path).shown()
    assert "2.5" in shown
    assert "12 scored" in shown
    assert "250" not in shown


def test_a_study_is_shown_point_by_point(tmp_path: Path) -> None:
    points = [("frames-8", 8, 3), ("frames-16", 16, 6), ("frames-32", 32, None)]
    told = []
    for name, count, right in points:
        if right is not None:
            run = write_run(tmp_path / "points" / name, questions(right), frames=count)
        told.append(
            {"name": name, "frames": count, "rope_label": "own RoPE"}
            | ({"status": "missing", "reason": "killed"} if right is None else
               {"status": "complete", "results": str(run.relative_to(tmp_path))})
        )  # fmt: skip
    record = {"study": 1, "settings": {"pretrained": "longva-tiny"}, "points": told}
    (tmp_path / "study.json").write_text(json.dumps(record), encoding="utf-8")
    out = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(out), "--no-film"]) == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert "is not finished: 1 of 3 points are missing (frames-32)" in page.shown()
    assert sum(a.get("class") == "curve" for _, a in page.elements) == 1


def test_what_is_said_of_all_points_alike_is_printed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = []
    for count in (8, 16, 32):
        folder = tmp_path / "points" / f"frames-{count}"
        run = write_run(folder, questions(9), frames=count, limit=12, num_in_benchmark=54)
        points.append(
            {"name": folder.name, "frames": count, "rope_label": "own RoPE", "status": "complete",
             "results": str(run.relative_to(tmp_path))}
        )  # fmt: skip
    record = {"study": 1, "settings": {"pretrained": "longva-tiny"}, "points": points}
    (tmp_path / "study.json").write_text(json.dumps(record), encoding="utf-8")
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--out", str(page), "--no-film"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "--limit 12" in line]
    assert line.endswith("no score of the benchmark. (3 runs)")
    assert Page(page.read_text(encoding="utf-8")).shown().count("run with --limit 12") == 1


@pytest.mark.slow
def test_rope_settings_at_several_frames_become_a_heatmap(tmp_path: Path) -> None:
    runs = []
    for theta, right in ((None, 3), (5e4, 9)):
        for count in (8, 16):
            path = write_run(tmp_path / f"{theta}-{count}", questions(right), frames=count)
            results = json.loads(path.read_text(encoding="utf-8"))
            asked = {} if theta is None else {"theta": theta}
            results["longva_eval"]["rope"] = {"asked": asked}
            path.write_text(json.dumps(results), encoding="utf-8")
            runs.append(path)
    page = page_of(*runs)
    labels = [a["aria-label"] or "" for _, a in page.elements if a.get("class") == "cell"]
    assert len(labels) == 4
    assert labels[3].startswith("RoPE base 50,000, 16 frames: 75.0 %")


# Needles ------------------------------------------------------------------------------------------


def test_a_needle_folder_becomes_a_heatmap_with_its_controls(needle_folder: Path) -> None:
    run, controls = read_needle_run(needle_folder)
    # The needle is no frame of the haystack, in the run's name as in its row.
    assert run.frames() == run.frames("V-NIAH") == "16 to 64"
    page = Page(build_page([PageRun(run=run, controls=controls)]))
    cells = [a for _, a in page.elements if a.get("class") == "cell"]
    assert len(cells) == 6 + 2
    labels = [cell["aria-label"] or "" for cell in cells]
    assert "64 frames, depth 50 %: 2 of 3 needles, 66.7 % (20.8 to 93.9)" in labels
    assert any("without a needle: 1 of 3" in label for label in labels)
    shown = page.shown()
    assert "Controls: needle only 100.0 %, no needle 33.3 %, blind 0.0 %." in shown
    assert "Answered without being seen, so they prove nothing: " in shown


def test_a_needle_test_whose_answers_break_off_says_so(needle_folder: Path) -> None:
    cells = needle_folder / "cells.jsonl"
    cells.write_text(cells.read_text(encoding="utf-8")[:-40], encoding="utf-8")
    run, _ = read_needle_run(needle_folder)
    assert len(run.tasks["V-NIAH"].samples) == 17
    assert [problem.kind for problem in run.problems] == ["truncated"]
    assert "1 line cannot be read and left out (line 18: " in run.problems[0].text


def test_samples_of_a_needle_task_are_a_grid_too(tmp_path: Path) -> None:
    rows = [
        {"doc_id": n, "target": "6", "filtered_resps": "6", "input": "?", "vniah_accuracy": {
            "question_id": f"q{n}", "num_frames": 16 * (1 + n // 4), "depth": n % 2 / 1,
            "insert_index": 0, "needle": n % 4 // 2, "needle_name": f"{n % 4 // 2}.png",
            "answer": "6", "generated": "6", "score": float(n != 5)}}
        for n in range(8)
    ]  # fmt: skip
    path = tmp_path / "20261101_120000_samples_vniah_small.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    grid = grid_of(read_run(path).tasks["vniah_small"])
    assert grid is not None
    assert {place: sum(s.score for s in samples) for place, samples in grid.items()} == {
        (16, 0.0): 2.0, (16, 1.0): 2.0, (32, 0.0): 2.0, (32, 1.0): 1.0,
    }  # fmt: skip


# Film strips --------------------------------------------------------------------------------------


def video(*indices: int, total: int = 20) -> dict[str, Any]:
    return {"frame_indices": list(indices), "num_frames_total": total,
            "timestamps_seconds": [index / 10 for index in indices]}  # fmt: skip


def strips_of(*plans: StripPlan | str, budget: int = 10**6) -> list[Strip | str]:
    wanted = [plan for plan in plans if isinstance(plan, StripPlan)]
    assert len(wanted) == len(plans), plans
    made = make_strips(wanted, budget_bytes=budget, num_workers=1)
    return [made[plan.key()] for plan in wanted]


@pytest.mark.process
def test_a_strip_shows_the_frames_at_the_recorded_indices(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip", Clip())
    (strip,) = strips_of(plan_videos([file], [video(0, 7, 7, 19)]))
    assert isinstance(strip, Strip)
    (tmp_path / "strip.webp").write_bytes(strip.data)
    sheet = Image.open(tmp_path / "strip.webp").convert("RGB")
    assert sheet.size == (4 * strip.frame_width_pixels, strip.frame_height_pixels)
    assert strip.labels == ("0:00", "0:00.7", "0:00.7", "0:01.9")
    for column, index in enumerate((0, 7, 7, 19)):
        flat = (index * 37 % 256, index * 91 % 256, index * 53 % 256)  # one quarter of each frame
        seen = sheet.getpixel((column * strip.frame_width_pixels + 12, 9))
        assert isinstance(seen, tuple)
        assert max(abs(a - b) for a, b in zip(seen, flat, strict=True)) < 30, (index, seen, flat)


def test_a_long_strip_is_thinned_evenly_and_says_of_how_many(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip", Clip(num_frames=128))
    plan = plan_videos([file], [video(*range(128), total=128)])
    assert isinstance(plan, StripPlan)
    assert plan.num_seen == 128
    assert [frame.number for frame in plan.frames] == [round(127 * k / 15) for k in range(16)]


@pytest.mark.process
def test_another_file_under_the_same_name_gives_a_reason_instead_of_a_strip(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip", Clip(num_frames=20))
    (reason,) = strips_of(plan_videos([file], [video(0, 5, total=48)]))
    assert isinstance(reason, str)
    assert "has 20 frames, the run saw one of 48: it is not the same file any more" in reason


@pytest.mark.process
def test_a_damaged_file_gives_its_error_as_reason(tmp_path: Path) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"\x00" * 4096)
    good = write_video(tmp_path / "good", Clip())
    broken, fine = strips_of(plan_videos([file], [video(0, 5)]), plan_videos([good], [video(0, 5)]))
    assert isinstance(broken, str)
    assert "cannot be read as a video" in broken
    assert isinstance(fine, Strip)


@pytest.mark.process
def test_strips_stay_within_their_budget_and_share_it_evenly(tmp_path: Path) -> None:
    noise = Clip(num_frames=32, width=320, height=240)
    files = [write_video(tmp_path / f"clip{n}", noise) for n in range(4)]
    plans = [plan_videos([f], [video(*range(32), total=32)]) for f in files]
    rich = strips_of(*plans)
    poor = strips_of(*plans, budget=4 * 6_000)
    assert all(isinstance(strip, Strip) for strip in [*rich, *poor])
    sizes = [len(strip.data) for strip in poor if isinstance(strip, Strip)]
    assert sum(sizes) <= 4 * 6_000
    assert max(sizes) < 1.5 * min(sizes)
    assert sum(sizes) < sum(len(s.data) for s in rich if isinstance(s, Strip))
    none = strips_of(*plans, budget=2 * 3_000)
    assert sum(isinstance(strip, Strip) for strip in none) <= 2
    assert any("Left out to keep the page small" in s for s in none if isinstance(s, str))


def test_a_needle_is_always_drawn_and_marked(tmp_path: Path) -> None:
    info = probe_video(embedded.HAYSTACK)
    picture = tmp_path / "needle.png"
    Image.new("RGB", (40, 20), (255, 0, 255)).save(picture)
    for place in (0, 97, 200):
        plan = plan_needle([info], picture, num_frames=200, insert_index=place)
        assert isinstance(plan, StripPlan)
        assert plan.num_seen == 201
        assert plan.needle is not None
        assert plan.frames[plan.needle] == SeenFrame(picture, None)
        assert plan.labels[plan.needle] == "needle"
        assert len(plan.frames) == 16
    assert "it is another video" in str(
        plan_needle([info], picture, num_frames=5000, insert_index=0)
    )


def test_a_model_that_does_not_say_its_frames_gets_no_strip(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip", Clip())
    assert "did not record which frames" in str(plan_videos([file], [{"num_frames_total": 20}]))
    assert "frames of 0 videos, but the question names 1" in str(plan_videos([file], []))


def test_pictures_of_a_prompt_are_shown(tmp_path: Path) -> None:
    Image.new("L", (300, 200), 90).save(tmp_path / "a.png")
    (strip,) = strips_of(plan_pictures([tmp_path / "a.png"]))
    assert isinstance(strip, Strip)
    assert strip.labels == ("picture",)
    assert strip.frame_width_pixels / strip.frame_height_pixels == pytest.approx(1.5, abs=0.02)


def test_media_that_moved_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    file = write_video(tmp_path / "deep" / "er" / "abc", Clip(num_frames=3))
    finder = MediaFinder([tmp_path])
    assert finder.find("/gone/abc.mp4") == file
    assert finder.find_by_stem("abc") == file
    assert finder.find("/gone/abd.mp4") is None
    assert finder.find("a\0b") is None
    with pytest.raises(MediaError, match="is no folder to look for media in"):
        MediaFinder([tmp_path / "nothing"])


def test_a_pictures_digest_is_the_one_that_needle_tests_record(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 60).convert("P").save(path)
    for file in (path, next(embedded.NEEDLES.glob("*.png"))):
        assert picture_file_digest(file) == image_digest(open_image(file))


# The command --------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_command_writes_a_page_with_film_strips(
    tmp_path: Path, needle_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_video(tmp_path / "clip", Clip())
    rows = questions(9, video=file, frames=(0, 9, 19), num_frames_total=20)
    run = write_run(tmp_path / "run", rows)
    out = tmp_path / "new" / "page.html"
    given = ["report", str(run), str(needle_folder), "--out", str(out)]
    assert main([*given, "--media", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert f"Wrote {out}" in said
    page = Page(out.read_text(encoding="utf-8"))
    strips = [json.loads(text) for name, text in page.scripts.items() if name.startswith("strip-")]
    assert len(strips) == 1 + 18  # twelve questions share one; each needle cell has its own
    assert {strip["seen"] for strip in strips} == {3, 17, 65}
    task = json.loads(page.scripts["task-0"])
    assert {answer["z"] for row in task["rows"] for answer in row["r"].values()} == {"0"}


@pytest.mark.slow
def test_pictures_of_this_machine_do_not_get_into_the_page_of_a_received_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    secret = mine / "secret.png"
    Image.new("RGB", (40, 20), (255, 0, 255)).save(secret)
    received = tmp_path / "received"
    names = [str(secret), str(received / ".." / "mine" / "secret.png"), str(received / "link.png")]
    rows = [sample(n, text="A", video=name) for n, name in enumerate(names)]
    run = write_run(received, rows)
    (received / "link.png").symlink_to(secret)
    out = tmp_path / "page.html"
    for given, strips in (([], 0), (["--media", str(mine)], 3)):
        assert main(["report", str(run), "--out", str(out), *given]) == 0
        found = Page(out.read_text(encoding="utf-8")).scripts
        assert sum(name.startswith("strip-") for name in found) == strips
        said = capsys.readouterr().out
        assert (
            f"lie outside of the runs' folders and were not opened: --media {mine}" in said
        ) is (not strips)


def test_a_haystack_of_another_digest_is_not_shown(tmp_path: Path, needle_folder: Path) -> None:
    record = json.loads((needle_folder / "run.json").read_text(encoding="utf-8"))
    record["haystack"][0]["digest"] = "0" * 24
    (needle_folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    out = tmp_path / "page.html"
    assert main(["report", str(needle_folder), "--out", str(out)]) == 0
    task = json.loads(Page(out.read_text(encoding="utf-8")).scripts["task-0"])
    assert len(task["reasons"]) == 1
    assert "is not the haystack of this run: its digest differs" in task["reasons"][0]


def test_wrong_calls_of_the_command_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "holds no run of lmms-eval" in capsys.readouterr().err
    run = write_run(tmp_path / "run", questions(3))
    assert main(["report", str(run), "--out", str(tmp_path)]) == 1
    assert "it is a folder. Name a file." in capsys.readouterr().err
    assert main(["report", str(run), "--film-mb", "-1"]) == 1
    assert "--film-mb -1 must be from 0 to 1,000" in capsys.readouterr().err
    assert issubclass(SettingsError, Exception)
