"""Studies: what a grid means, points that are ordinary runs, and points that fail."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml
from lmms_eval import evaluator
from lmms_eval.tasks import TaskManager

from longva_eval.cli import main as longva_eval
from longva_eval.commands.compare import main as compare
from longva_eval.commands.report import main as report
from longva_eval.commands.sweep import main, run_study
from longva_eval.errors import MediaError, SettingsError
from longva_eval.model.rope import RopeSettings
from longva_eval.reports.figures.curve import CurveLine, CurvePanel, draw_curves
from longva_eval.reports.reading.controls import rotation_scores
from longva_eval.reports.reading.runs import Run, read_run, read_runs
from longva_eval.reports.reading.study import OVERALL, read_study, study_curves
from longva_eval.reports.study import write_study
from longva_eval.reports.tables.overview import show_run
from longva_eval.studies.definition import (
    Study,
    check_same_study,
    read_record,
    read_study_file,
    rope_label,
    study_from,
    study_text,
)
from longva_eval.studies.points import PointRun, overview

pytestmark = [
    # lmms-eval leaves the results file it has written to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FRAMES = (3, 8, 16)
THETAS = (None, 5e4)
ARGUMENTS = {"device": "cpu", "dtype": "float32"}
TASK = "longva_mini_small"


def study(**changes: Any) -> Study:
    values = {
        "pretrained": "longva-tiny", "tasks": (TASK,), "frames": FRAMES, "rope_theta": THETAS,
        "limit": 7, "model_args": ARGUMENTS, **changes,
    }  # fmt: skip
    return Study(**values)


def study_results(folder: Path) -> list[Path]:
    points = read_record(folder)["points"]
    return [folder / str(each["results"]) for each in points if each["status"] == "complete"]


# Settings -----------------------------------------------------------------------------------------


def test_a_grid_has_a_point_for_every_combination() -> None:
    points = study(frames=(8, 16)).points()
    assert [point.name for point in points] == [
        "frames-8-own-rope", "frames-16-own-rope", "frames-8-theta-50000", "frames-16-theta-50000",
    ]  # fmt: skip
    assert points[2].arguments == (
        "pretrained=longva-tiny,device=cpu,dtype=float32,max_frames_num=8,rope_theta=50000.0"
    )
    assert points[2].rope == RopeSettings(theta=5e4)
    assert [p.name for p in study(frames=(8,), rope_theta=(None,)).points()] == ["frames-8"]
    files = ("uniform", "file:a/b.json", "file:a-b.json")
    with pytest.raises(SettingsError, match=r"called frames-3-own-rope-file-a-b\.json"):
        study(frame_policy=files)
    with pytest.raises(SettingsError, match="give all of them with --kv-press"):
        study_from(study().describe() | {"model_args": "kv_press=knorm:1"}, where="here")


def test_two_bases_never_share_a_folder() -> None:
    bases = (1e6, 1.0000001e6, 1000000.5)
    assert len({point.name for point in study(rope_theta=bases).points()}) == 3 * len(FRAMES)


def test_a_factor_is_for_the_types_that_need_one() -> None:
    found = study(rope_theta=(None,), rope_type=(None, "yarn", "linear"), rope_factor=(2.0, 4.0))
    assert [rope_label(rope) for rope in found.ropes()] == [
        "own RoPE", "yarn x 2", "yarn x 4", "linear x 2", "linear x 4",
    ]  # fmt: skip
    more = study(
        rope_type=("yarn",), rope_factor=(2.0,), model_args={"rope_original_length": "512"}
    )
    assert more.ropes()[0].original_length == 512
    assert more.points()[0].arguments.endswith(
        "rope_type=yarn,rope_factor=2.0,rope_original_length=512"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_factor": (4.0,)}, "needs a rope_type that uses it"),
        ({"rope_type": ("yarn",)}, "rope_type=yarn needs rope_factor"),
        ({"rope_type": ("turbo",)}, "rope_type='turbo' is unknown"),
        ({"rope_theta": (0.5,)}, "must be a finite number above 1"),
        ({"model_args": {"rope_original_length": "512"}}, "has no effect without --rope-type"),
    ],
)
def test_an_impossible_grid_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        study(**changes)


def test_a_study_in_yaml_is_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    # YAML reads 1e6, without a point, as a text.
    path.write_text(
        "pretrained: longva-tiny\ntasks: [a, b]\nframes: 16, 8\nrope_theta: [own, 1e6, 5.0e+4]\n"
        "limit: 4\nmodel_args: {fps: 2, reuse: true}\n"
    )
    found = study_from(read_study_file(path), where=str(path))
    assert found == Study(
        pretrained="longva-tiny", tasks=("a", "b"), frames=(8, 16), rope_theta=(None, 1e6, 5e4),
        limit=4, model_args={"fps": "2", "reuse": "true"},
    )  # fmt: skip
    again = tmp_path / "again.yaml"
    again.write_text(study_text(found))
    assert study_from(read_study_file(again), where="again") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrained: [", "is no valid YAML"),
        ("- a\n- b\n", "must be a mapping with pretrained, tasks and frames, not list"),
        ("frame: 8\n", "unknown key 'frame'. Did you mean frames?"),
        ("pretrained: a\n", "a study needs tasks and frames"),
        ("pretrained: a\ntasks: t\nframes: [8, no]\n", "frames: False is no whole number"),
        ("pretrained: a\ntasks: t\nframes: 8.5\n", "frames: 8.5 is no whole number"),
        ("pretrained: a\ntasks: t\nframes: 8\nrope_theta: big\n", "rope_theta: 'big' is no number"),
        ("pretrained: a\ntasks: t\nframes: 8\nlimit: 2.5\n", "limit: 2.5 must be a number of"),
        ("pretrained: a\ntasks: t\nframes: 8\nmodel_args: {max_frames_num: 4}\n",
         "max_frames_num: give all numbers of frames with --frames"),
        ("pretrained: a\ntasks: t\nframes: 8\nmodel_args: dtype\n", "must read name=value"),
        ("pretrained: 7\ntasks: t\nframes: 8\n", "pretrained must be a text, not 7"),
        ("pretrained: a\ntasks: t\nframes: 8\nmodel: gpt\n", "model='gpt' is unknown; use longva,"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        main([str(path), "--out", str(tmp_path / "out")])
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_on_the_command_line_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        longva_eval(["sweep", "--tasks", "longva_mini", "--frames", "8", "--out", str(tmp_path)])
        == 1
    )
    told = capsys.readouterr().err
    assert told == "longva-eval sweep: command line: a study needs pretrained.\n"


def test_numbers_of_frames_can_be_a_range(tmp_path: Path) -> None:
    given = ["--pretrained", "p", "--tasks", "t", "--out", str(tmp_path)]
    asked = {"pretrained": "p", "tasks": "t", "frames": "8:32:8"}
    assert study_from(asked, where="command line").frames == (8, 16, 24, 32)
    with pytest.raises(SettingsError, match="--frames '8:32' is neither START:STOP:STEP"):
        main([*given, "--frames", "8:32"])


def test_one_point_is_told_as_one(tmp_path: Path) -> None:
    (point,) = study(frames=(8,), rope_theta=(None,)).points()
    assert overview([PointRun(point=point, folder=tmp_path)]) == "1 point."


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml cannot be read: No such file"):
        main([str(tmp_path / "none.yaml"), "--out", str(tmp_path)])


def test_another_study_in_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(study_text(study()))
    # One that ended before it answered anything, since its task was misspelt, holds nothing.
    check_same_study(study(tasks=("another",)), tmp_path)
    answer = tmp_path / "points" / "frames-8" / "journal" / "answers.jsonl"
    answer.parent.mkdir(parents=True)
    answer.write_text("{}")
    check_same_study(study(), tmp_path)
    check_same_study(study(frames=(8, 512), rope_theta=(1e7,)), tmp_path)  # another grid of it
    check_same_study(study(model_args=ARGUMENTS | {"on_error": "skip"}), tmp_path)
    with pytest.raises(SettingsError, match=r"model_args.dtype is float32 there and bfloat16 now"):
        check_same_study(study(model_args=ARGUMENTS | {"dtype": "bfloat16"}), tmp_path)
    with pytest.raises(SettingsError, match=r"limit is 7 there and 8 now"):
        main(["--pretrained", "longva-tiny", "--tasks", TASK, "--frames", "8", "--limit", "8",
              "--model-args", "device=cpu,dtype=float32", "--out", str(tmp_path)])  # fmt: skip


def test_a_sweep_is_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="A sweep is one process"):
        run_study(study(), tmp_path)


# A real study -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hf_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the mini suite is drawn, once."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("hf")
        patch.setenv("HF_HOME", str(path))
        yield path


@pytest.fixture(scope="module")
def swept(hf_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    assert run_study(study(), folder, published="Video-MME") == 0
    return folder


def answers(samples: list[dict[str, Any]]) -> list[Any]:
    return [
        {name: sample[name] for name in ("doc_id", "target", "filtered_resps", "accuracy")}
        for sample in samples
    ]


def samples_of(run: Run) -> list[dict[str, Any]]:
    path = run.path.with_name(run.path.name.replace("_results.json", f"_samples_{TASK}.jsonl"))
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.process
def test_every_answer_is_that_of_a_run_by_itself(swept: Path, hf_home: Path) -> None:
    manager = TaskManager("WARNING", model_name="longva")
    for point, path in zip(study().points(), study_results(swept), strict=True):
        alone = evaluator.simple_evaluate(
            model="longva",
            model_args=point.arguments + ",journal=off",
            tasks=[TASK],
            limit=7,
            task_manager=manager,
        )
        run = read_run(path)
        lines = samples_of(run)
        assert len(lines) == 7
        alone_lines = json.loads(json.dumps(alone["samples"][TASK], default=str))
        wanted = [line | {"filtered_resps": line["filtered_resps"][0]} for line in alone_lines]
        assert answers(lines) == answers(wanted)
        for line, other in zip(lines, alone_lines, strict=True):
            here, there = line["longva_eval"], other["longva_eval"]
            for name in ("option_probabilities", "option_mass"):  # equal to the last bits of logits
                assert here.pop(name) == pytest.approx(there.pop(name), abs=2e-5)
            assert here == there
        recipe, other_recipe = run.recipe, json.loads(json.dumps(alone["longva_eval"], default=str))
        for name in set(recipe) - {"engine", "journal"}:
            assert recipe[name] == other_recipe[name], name
        assert run.results["results"][TASK].items() >= {
            name: value
            for name, value in alone["results"][TASK].items()
            if isinstance(value, float)
        }.items()  # fmt: skip


@pytest.mark.process
def test_axes_of_method_are_points_with_their_names(hf_home: Path, tmp_path: Path) -> None:
    axes = study(
        frames=(8,), rope_theta=(None,), limit=4, frame_policy=("uniform", "scene"),
        positions=("own", "stride:4"), kv_press=("none", "random:0.25"),
    )  # fmt: skip
    assert run_study(axes, tmp_path) == 0
    points, paths = axes.points(), study_results(tmp_path)
    assert len(points) == len(paths) == 8
    last = points[-1]
    assert last.name == "frames-8-scene-stride-4-random-0.25"
    assert last.rope_label == "own RoPE, scene, stride:4, random:0.25"
    alone = evaluator.simple_evaluate(
        model="longva", model_args=last.arguments + ",journal=off", tasks=[TASK], limit=4,
        task_manager=TaskManager("WARNING", model_name="longva"),
    )  # fmt: skip
    run = read_run(paths[-1])
    for line, other in zip(samples_of(run), alone["samples"][TASK], strict=True):
        there = json.loads(json.dumps(other["longva_eval"], default=str))
        # Prompts of other points add cuts, which round otherwise: the last of six digits may.
        shares = [facts.pop("option_probabilities", {}) for facts in (line["longva_eval"], there)]
        assert shares[0] == pytest.approx(shares[1], abs=2e-6)
        assert line["longva_eval"] == there
        assert 0 < line["longva_eval"]["kv_tokens"] < line["longva_eval"]["num_prompt_tokens"]
    assert run.recipe["kv_press"] == "random:0.25"
    assert run.recipe["frames"]["policy"] == "scene"
    assert run.recipe["rope"]["positions"] == "stride:4"
    assert "kv_press" not in read_run(paths[0]).recipe
    # Every policy in turn beside the first of its axis: 3 axes x 4 settings of the others.
    text = (tmp_path / "scores.md").read_text()
    rows = [row for row in text.splitlines() if row.startswith(f"| {TASK} |")]
    assert len(rows) == 12
    assert sum("| random:0.25 | none | 8 |" in row for row in rows) == 4
    assert run_study(study_from(read_study_file(tmp_path), where=""), tmp_path) == 0


@pytest.mark.process
def test_frames_are_decoded_and_encoded_once_for_all_points(swept: Path) -> None:
    record = read_record(swept)
    runs = [read_run(path) for path in study_results(swept)]
    seen: set[tuple[str, int]] = set()
    shown = 0
    for run in runs:
        for line in samples_of(run):
            (video,) = line["longva_eval"]["videos"]
            seen.update((line["accuracy"]["cluster"], index) for index in video["frame_indices"])
            shown += len(set(video["frame_indices"]))
    assert record["work"]["frames_encoded"] == len(seen) < shown / 2
    assert record["work"]["media_read"] == len({cluster for cluster, _ in seen}) == 3
    assert [point["answers"] for point in record["points"]] == [
        {"taken_over": 0, "computed": 7}
    ] * 6  # fmt: skip


@pytest.mark.process
def test_controls_are_points_over_the_same_frames(hf_home: Path, tmp_path: Path) -> None:
    controls = ("blind", "shuffle", "single-frame", "circular")
    asked = study(frames=(3, 8), rope_theta=(None,), limit=4, control=("none", *controls))
    assert run_study(asked, tmp_path) == 0
    found = {point["name"]: point for point in read_record(tmp_path)["points"]}
    assert set(found) == {
        *(f"frames-{n}{end}" for n in (3, 8) for end in ("", "-shuffle", "-circular")),
        "frames-8-blind", "frames-8-single-frame",
    }  # fmt: skip
    runs = {name: read_run(tmp_path / point["results"]) for name, point in found.items()}
    seen: set[tuple[str, int]] = set()
    samples = {name: samples_of(run) for name, run in runs.items()}
    for plain, circular in zip(samples["frames-8"], samples["frames-8-circular"], strict=True):
        (video,) = plain["longva_eval"]["videos"]
        seen.update((plain["accuracy"]["cluster"], n) for n in video["frame_indices"])
        rotations = circular["longva_eval"]["rotations"]
        assert [each["by"] for each in rotations] == list(range(4))
        assert rotations[0]["choice"] == plain["accuracy"]["choice"] == rotations[0]["read"]
        texts = plain["accuracy"]["options"]
        for each in rotations:  # the letter that stood before the same words
            if each["choice"]:
                assert each["text"] in texts["ABCD".index(each["choice"])]
                assert "ABCD".index(each["read"]) == ("ABCD".index(each["choice"]) + each["by"]) % 4
        assert plain["filtered_resps"] == circular["filtered_resps"]
    for sample in samples["frames-8-blind"]:
        assert sample["longva_eval"]["videos"] == []
        assert sample["longva_eval"]["num_visual_tokens"] == 0
    work = read_record(tmp_path)["work"]
    frames_of_3 = {
        (line["accuracy"]["cluster"], n) for line in samples["frames-3"]
        for n in line["longva_eval"]["videos"][0]["frame_indices"]
    }  # fmt: skip
    assert work["frames_encoded"] == len(seen | frames_of_3)
    assert runs["frames-8-blind"].recipe["control"] == "blind"
    (task,) = study_curves(read_study(tmp_path))
    assert task.lines == ["own RoPE", "own RoPE, shuffle", "own RoPE, circular"]
    assert set(task.floors(OVERALL)) == {"blind", "single-frame"}
    rights = [rotation_scores(sample) for sample in runs["frames-8-circular"].tasks[TASK].samples]
    curve = task.find("own RoPE, circular", OVERALL)
    assert curve is not None
    assert curve.bands.means[-1] == sum(map(min, rights)) / len(rights)
    text = show_run(runs["frames-8-circular"])
    assert "right under every" in text
    assert "the model does not answer by letters" in " ".join(text.split())


@pytest.mark.process
def test_points_are_ordinary_runs_for_every_reader(swept: Path) -> None:
    runs = read_runs(swept / "points")
    assert len(runs) == 6
    for run in runs:
        assert run.model == "longva"
        assert run.model_args["pretrained"] == "longva-tiny"
        assert len(run.tasks[TASK].samples) == 7
        assert [problem.kind for problem in run.problems if problem.kind == "limit"] == ["limit"]
    assert sorted(run.frames() for run in runs) == sorted([*"33", *"88", "16", "16"])


@pytest.mark.process
def test_the_page_and_the_comparison_read_a_study(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert report([str(swept), "--out", str(page), "--no-film"]) == 0
    html = page.read_text(encoding="utf-8")
    assert "longva-tiny, RoPE base 50,000, longva_mini_small" in html
    assert "does not surely rise after 3 frames" in html or "surely rises up to" in html
    few, many = (str(swept / "points" / f"frames-{n}-own-rope") for n in (3, 16))
    capsys.readouterr()
    assert compare([few, many, "--baseline", few]) == 0
    assert "longva-tiny, 16 frames minus longva-tiny, 3 frames" in capsys.readouterr().out


@pytest.mark.process
def test_the_record_tables_and_figures_agree(swept: Path) -> None:
    record = read_record(swept)
    found = read_study(swept)
    assert [point.frames for point in found.points] == [3, 8, 16] * 2
    (curves,) = study_curves(found)
    assert curves.subsets == ("short", "medium", OVERALL)
    assert curves.ropes == ("own RoPE", "theta 50,000")
    assert curves.chance == 0.25
    overall = curves.find("own RoPE", OVERALL)
    assert overall is not None
    means = [
        sum(line["accuracy"]["score"] for line in samples_of(run)) / 7
        for run in (read_run(path) for path in study_results(swept)[:3])
    ]
    assert [estimate.mean for estimate in overall.estimates] == pytest.approx(means)
    assert len(record["scores"]) == 2 * 3 * 3
    assert record["plateaus"][0]["subset"] == "short"
    with (swept / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [row["score"] for row in record["scores"]]
    text = (swept / "scores.md").read_text(encoding="utf-8")
    assert f"| {100 * means[2]:.1f} \\[" in text
    assert "run with --limit 7, on 7 of 18 questions: no score of the benchmark." in text
    assert "Published: LongVA-7B on Video-MME, LongVA Table 4" in text
    assert "That is another benchmark than longva_mini_small." in text
    for name in ("frames", "rope"):
        for suffix in ("png", "svg"):
            assert (swept / f"{name}_{TASK}.{suffix}").stat().st_size > 10_000
    assert yaml.safe_load((swept / "study.yaml").read_text())["frames"] == [3, 8, 16]


@pytest.mark.process
def test_questions_can_be_split_by_another_category(swept: Path) -> None:
    (curves,) = study_curves(read_study(swept), by="domain")
    assert len(curves.subsets) > 2
    with pytest.raises(SettingsError, match=r"--by colour: no task has .*There are: .*duration"):
        study_curves(read_study(swept), by="colour")


@pytest.mark.process
def test_a_complete_study_is_only_drawn_again(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"  # drawn without the published scores, which other tests look for
    shutil.copytree(swept, folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "points").rglob("*")}
    assert run_study(study(), folder) == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "points").rglob("*")} == before
    told = capsys.readouterr().out
    assert "6 points, 6 complete: nothing is left to compute." in told
    assert "Published" not in told


@pytest.mark.process
def test_a_point_can_be_added_but_not_beside_other_weights(
    swept: Path, hf_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(swept, folder)
    for point in (folder / "points").glob("*-theta-*"):
        shutil.rmtree(point)
    more = study(frames=(8,), rope_theta=(None,))
    # The plain grid names its points otherwise: the one point is not there yet.
    assert run_study(more, folder) == 0
    assert "frames-8: " in capsys.readouterr().out
    record = json.loads((folder / "points/frames-8/point.json").read_text())
    assert record["answers"] == {"taken_over": 0, "computed": 7}
    record["settings"]["weights_fingerprint"] = "other"
    (folder / "points/frames-8/point.json").write_text(json.dumps(record))
    with pytest.raises(SettingsError, match="weights_fingerprint is other there and"):
        run_study(study(frames=(3, 8), rope_theta=(None,)), folder)


@pytest.mark.process
def test_a_killed_study_goes_on_where_it_was(swept: Path, hf_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [
        sys.executable, "-m", "longva_eval", "sweep", "--pretrained", "longva-tiny", "--tasks",
        TASK, "--frames", "3,8,16", "--rope-theta", "own,5e4", "--limit", "7", "--model-args",
        "device=cpu,dtype=float32", "--out", str(folder),
    ]  # fmt: skip
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    process = processes.Process(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
    deadline = time.monotonic() + 300
    while journal_lines(folder) < 5 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, log.read_text(encoding="utf-8")
    kept = journal_lines(folder)
    assert 5 <= kept < 42
    assert not (folder / "study.json").exists()
    assert run_study(study(), folder) == 0
    record = read_record(folder)
    taken = sum(point["answers"]["taken_over"] for point in record["points"])
    computed = sum(point["answers"]["computed"] for point in record["points"])
    assert (taken, computed) == (kept, 42 - kept)
    for one, other in zip(study_results(folder), study_results(swept), strict=True):
        assert answers(samples_of(read_run(one))) == answers(samples_of(read_run(other)))


def journal_lines(folder: Path) -> int:
    files = list(folder.glob("points/*/journal/*/*.jsonl"))
    return sum(path.read_bytes().count(b'"key"') for path in files)


# Points that fail ---------------------------------------------------------------------------------


@pytest.mark.process
def test_a_point_whose_prompts_do_not_fit_is_missing_and_the_others_are_there(
    hf_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = study(rope_theta=(None,), limit=2, model_args=ARGUMENTS | {"max_context_tokens": "135"})
    assert run_study(small, tmp_path) == 1
    captured = capsys.readouterr()
    assert "missing: frames-16: Task longva_mini_small, document 0: The prompt has" in captured.err
    assert "[3/3] frames-16: missing, Task longva_mini_small, document 0" in captured.out
    assert "1 of 3 points are missing; the same command goes on with them." in captured.err
    points = read_record(tmp_path)["points"]
    assert [point["status"] for point in points] == ["complete", "complete", "missing"]
    assert "the context holds 135" in points[2]["reason"]
    assert "Point frames-16 is missing: Task" in captured.out
    assert len(study_results(tmp_path)) == 2


@pytest.mark.process
def test_videos_that_cannot_be_read_are_counted_or_end_it(
    hf_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import shutil

    home = tmp_path / "hf"
    shutil.copytree(hf_home / "longva_eval", home / "longva_eval")
    monkeypatch.setenv("HF_HOME", str(home))
    first, *_ = sorted((home / "longva_eval/mini/2").glob("*.mp4"))
    first.write_bytes(b"no video")
    manifest = home / "longva_eval/mini/2/manifest.json"
    # Damage is told by the suite itself; here the video never was better.
    status = run_study(study(frames=(3,), rope_theta=(None,), limit=1), tmp_path / "damaged")
    assert status == 1
    assert f"{first.name} is damaged: its SHA-256 is" in capsys.readouterr().err
    content = json.loads(manifest.read_text())
    entries = content["videos"]
    next(e for e in entries if e["file"] == first.name)["file_sha256"] = hashlib.sha256(
        b"no video"
    ).hexdigest()
    manifest.write_text(json.dumps(content))
    folder = tmp_path / "out"
    broken = study(rope_theta=(None,), frames=(3, 8), limit=4)
    assert run_study(broken, folder) == 1
    told = capsys.readouterr()
    assert f"missing: frames-3, frames-8: Task {TASK}, document 0: " in told.err
    assert first.name in told.err
    assert not list(folder.rglob("*_results.json"))
    skipping = study(
        rope_theta=(None,), frames=(3, 8), limit=4,
        model_args=ARGUMENTS | {"on_error": "skip", "max_failed": "3"},
    )  # fmt: skip
    assert run_study(skipping, folder) == 0
    points = read_record(folder)["points"]
    assert [point["outcomes"][TASK]["failed"] for point in points] == [3, 3]
    (curves,) = study_curves(read_study(folder))
    overall = curves.find("own RoPE", OVERALL)
    assert overall is not None
    assert (overall.num_failed, overall.estimates[0].num_questions) == ((3, 3), 4)


@pytest.mark.slow
def test_an_unknown_task_is_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"no task 'longva_mini_smal'\. Did you mean 'longva_mini_small'"
    ):
        run_study(study(tasks=(TASK, "longva_mini_smal"), pretrained="/nowhere"), tmp_path)


def test_a_rope_setting_that_does_not_fit_is_said_at_once(hf_home: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="rope_pinned_length"):
        run_study(study(rope_type=("default", "dynamic"), rope_factor=(2.0,)), tmp_path)
    assert not (tmp_path / "points").exists()


def test_start_over_leaves_alone_what_is_no_study(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(SettingsError, match="holds no study; it is left alone"):
        run_study(study(), tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").exists()


# Reports ------------------------------------------------------------------------------------------


def test_a_study_without_a_record_is_said(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"study\.json cannot be read: No such file"):
        write_study(tmp_path)
    (tmp_path / "study.json").write_text('{"points": [')
    with pytest.raises(MediaError, match="is not valid JSON"):
        read_study(tmp_path)


def test_a_curve_names_its_lines_and_draws_published_ones_without_a_band() -> None:
    line = CurveLine(
        label="short", frames=[8, 16], means=[0.5, 0.6], intervals=[(0.4, 0.6), (0.5, 0.7)],
        plateau=8,
    )  # fmt: skip
    published = CurveLine(label="short", frames=[8, 32], means=[0.55, 0.61], is_published=True)
    panel = CurvePanel(title="", lines=[line, published], chance=0.25)
    figure = draw_curves([panel], title="model", legend_title="videos")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "short",
        "published",
        "stops rising",
    ]
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "16", "32"]
    assert len(axes.collections) == 1
    assert axes.get_xlabel() == "Frames shown to the model"
    with pytest.raises(ValueError, match="at least one line"):
        draw_curves([], title="")
