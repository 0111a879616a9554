"""The command line: what it writes, what it says, and how it fails."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OPEN

from longva_eval.cli import COMMANDS, main
from longva_eval.commands.niah import _parser as niah_parser
from longva_eval.embedded import tasks_folder

VIDEOS = [OPEN / "inputs/landscape_320x180.mp4", OPEN / "inputs/portrait_180x320.mp4"]


@pytest.fixture(scope="module")
def needles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("needles")
    for name in ("rgba_420x300.png", "grey_256x400.png"):
        (folder / name).write_bytes((OPEN / "inputs" / name).read_bytes())
    entries = [
        {"path": "rgba_420x300.png", "prompt": "\nWhat colour is the ring?", "answer": "Orange"},
        {
            "path": "grey_256x400.png",
            "prompt": "\nHow many discs?\nA. Two\nB. Three",
            "answer": "B",
        },
    ]
    (folder / "dataset.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def niah(needles: Path, out: Path, *more: str) -> int:
    haystack = [argument for video in VIDEOS for argument in ("--haystack", str(video))]
    return main(
        ["niah", "--pretrained", str(OPEN / "longva_tiny"), *haystack, "--needles", str(needles),
         "--frames", "2,5", "--depths", "0:1:0.5", "--device", "cpu", "--out", str(out), *more]
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(needles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole run, and what it printed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert niah(needles, out) == 0
    return out, said.getvalue()


@pytest.mark.process
def test_niah_writes_what_the_original_writes_and_more(finished: tuple[Path, str]) -> None:
    out, _ = finished
    rows = json.loads((out / "all_accuracies.json").read_text(encoding="utf-8"))
    assert [(row["Num. Frame"], row["Frame Depth"]) for row in rows] == [
        (2, 0.0), (2, 50.0), (2, 100.0), (5, 0.0), (5, 50.0), (5, 100.0),
    ]  # fmt: skip
    cells = [json.loads(line) for line in (out / "cells.jsonl").read_text("utf-8").splitlines()]
    assert len(cells) == 12
    assert set(cells[0]) >= {
        "num_frames", "depth", "insert_index", "needle", "answer_ids", "pred_ids", "correct",
        "logprob", "generated",
    }  # fmt: skip
    assert [cell["insert_index"] for cell in cells if cell["needle"] == 0] == [0, 1, 2, 0, 2, 5]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["average_accuracy"] == pytest.approx(sum(row["Score"] for row in rows) / 6)
    assert [source["num_frames_used"] for source in run["haystack"]] == [15, 10]
    assert run["model"]["rope"]["inv_freq_sha256"]
    assert (out / "heatmap.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in (out / "heatmap.svg").read_bytes()[:400]
    assert not list(out.glob("*part*"))


@pytest.mark.process
def test_finished_results_are_shown_again_and_others_never_replace_them(
    needles: Path,
    finished: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(finished[0], tmp_path / "out")
    printed = finished[1].replace(str(finished[0]), str(out))
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    assert niah(needles, out) == 0
    again = capsys.readouterr().out
    assert again == f"{out} is complete already: nothing is computed. --fresh starts over.\n" + (
        printed
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first

    for more, difference in (
        (("--frames", "2"), "grid.frames is [2, 5] there and [2] now"),
        (("--dtype", "bfloat16"), "model.dtype is float32 there and bfloat16 now"),
        (("--rope-type", "linear", "--rope-factor", "2"), "model.rope."),
    ):
        assert niah(needles, out, *more) == 1
        error = capsys.readouterr().err
        assert difference in error
        assert "Give another --out, or set what is there aside with --fresh." in error
        assert "cannot be read" not in error
    assert {name: (out / name).read_bytes() for name in first} == first

    assert niah(needles, out, "--frames", "2", "--fresh") == 0
    assert (out / "run.json.1").read_bytes() == first["run.json"]
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["grid"]["frames"] == [2]


@pytest.mark.process
def test_a_finished_test_that_is_damaged_is_not_shown(
    needles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert niah(needles, out, "--frames", "2", "--no-controls") == 0
    lines = (out / "cells.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (out / "cells.jsonl").write_text("".join(lines[:-1]), encoding="utf-8")
    assert niah(needles, out, "--frames", "2", "--no-controls") == 1
    assert "cells.jsonl has 5 of 6 answers" in capsys.readouterr().err


def test_a_short_haystack_is_noticed_before_the_model_is_loaded(
    needles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder without weights would be the first error otherwise.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    assert niah(needles, tmp_path / "out", "--frames", "99", "--pretrained", str(broken)) == 1
    assert "has 25 frames at one a second; 99 are asked for" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_several_thetas_go_into_folders_of_their_own(needles: Path, tmp_path: Path) -> None:
    assert niah(needles, tmp_path / "out", "--rope-theta", "1e6,1e9") == 0
    cells = {}
    for theta in ("1000000", "1000000000"):
        folder = tmp_path / "out" / f"rope_theta_{theta}"
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        assert run["model"]["rope"]["parameters"]["rope_theta"] == float(theta)
        cells[theta] = (folder / "cells.jsonl").read_text(encoding="utf-8")
    assert cells["1000000"] != cells["1000000000"]


@pytest.mark.parametrize("thetas", [["1e6,1e9"], ["1e6", "1e9"], ["1e6,", "1e9"]])
def test_thetas_have_blanks_or_commas_between(thetas: list[str]) -> None:
    options = niah_parser().parse_args(
        ["--pretrained", "m", "--frames", "8", "--out", "o", "--rope-theta", *thetas]
    )
    assert options.rope_theta == [1e6, 1e9]


def test_a_theta_that_is_no_number_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        niah_parser().parse_args(["--rope-theta", "1e6,own"])
    assert "--rope-theta: '1e6,own' is no number" in capsys.readouterr().err


@pytest.mark.process
def test_a_lattice_asks_at_absolute_positions(needles: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    haystack = ["--haystack", str(VIDEOS[0])]
    status = main(
        ["niah", "--pretrained", str(OPEN / "longva_tiny"), *haystack, "--needles", str(needles),
         "--frames", "2,4,6", "--lattice", "2", "--device", "cpu", "--out", str(out)]
    )  # fmt: skip
    assert status == 0
    rows = json.loads((out / "lattice_accuracies.json").read_text(encoding="utf-8"))
    assert [(row["Num. Frame"], row["Insert Index"]) for row in rows] == [
        (2, 0), (2, 2), (4, 0), (4, 2), (4, 4), (6, 0), (6, 2), (6, 4), (6, 6),
    ]  # fmt: skip
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["grid"]["kind"] == "lattice"
    # One growing video per needle and position serves all lengths.
    assert run["engine"]["tokens_computed"] < run["engine"]["tokens_asked"] / 2
    assert (out / "heatmap.png").stat().st_size > 10_000


@pytest.mark.process
def test_the_order_of_work_does_not_change_a_number(
    needles: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    assert niah(needles, tmp_path / "apart", "--no-reuse") == 0
    assert niah(needles, tmp_path / "chunked", "--chunk-tokens", "100") == 0

    def lines(folder: Path) -> list[dict[str, object]]:
        text = (folder / "cells.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    for name in ("apart", "chunked"):
        for one, two in zip(lines(finished[0]), lines(tmp_path / name), strict=True):
            assert one.pop("logprob") == pytest.approx(two.pop("logprob"), abs=1e-4)
            assert one.pop("min_margin") == pytest.approx(two.pop("min_margin"), abs=1e-4)
            assert one == two


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--frames", "2:9"), "--frames '2:9' is neither START:STOP:STEP nor a list"),
        (("--frames", "2.5"), "--frames must be whole numbers"),
        (("--depths", "0,2"), r"depths=[0.0, 2.0] must lie between 0 and 1"),
        (("--lattice", "2"), "--lattice states where needles stand; leave --depths out"),
        (("--frames", "99"), "has 25 frames at one a second; 99 are asked for"),
        (("--needles", "nowhere"), "--needles nowhere does not exist"),
        (("--haystack", "nowhere.mp4"), "--haystack nowhere.mp4 does not exist"),
        (("--rope-type", "linear"), "rope_type=linear needs rope_factor"),
        (("--pretrained", "nowhere"), "none of the embedded checkpoints (longva-tiny"),
    ],
)
def test_wrong_input_is_said_in_one_line(
    needles: Path,
    tmp_path: Path,
    arguments: tuple[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert niah(needles, tmp_path / "out", *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_published_heatmaps_have_the_published_averages(
    shared_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((shared_folder / "v_niah" / "published").rglob("all_accuracies.json"))
    out = tmp_path / "published.svg"
    assert main(["heatmap", *map(str, files), "--out", str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    # LLaVA-NeXT-Video-7B-32K at theta 1e6 and 1e8, LongVA-7B: the repository's avg_accuracy.txt.
    averages = {line.split("  ")[1]: line.split()[0] for line in printed[:3]}
    assert averages == {
        "LLaVA-NeXT-Video-7B-32K, theta 1e6": "0.1467",
        "LLaVA-NeXT-Video-7B-32K, theta 1e8": "0.2844",
        "LongVA-7B": "0.9089",
    }
    assert out.stat().st_size > 10_000


def test_a_heatmap_needs_a_title_for_each_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["heatmap", "a.json", "b.json", "--title", "one"]) == 1
    assert "1 --title were given for 2 files" in capsys.readouterr().err


def test_a_heatmap_is_drawn_from_a_niah_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "model"
    folder.mkdir(parents=True)
    rows = [{"Num. Frame": 4, "Frame Depth": depth, "Score": depth / 100} for depth in (0, 100)]
    (folder / "all_accuracies.json").write_text(json.dumps(rows), encoding="utf-8")
    out = tmp_path / "drawn.svg"
    assert main(["heatmap", str(folder), "--out", str(out)]) == 0
    accuracies = folder / "all_accuracies.json"
    assert capsys.readouterr().out.startswith(f"0.5000  model  ({accuracies})\n")
    assert out.stat().st_size > 5_000

    assert main(["heatmap", str(folder.parent), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "it has no all_accuracies.json. Below it there are" in error
    assert str(folder) in error

    lattice = folder / "lattice_accuracies.json"
    lattice.write_text('[{"Num. Frame": 4, "Insert Index": 2, "Score": 1.0}]', encoding="utf-8")
    assert main(["heatmap", str(lattice), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert "of a lattice by absolute position" in error
    assert str(accuracies) in error


def test_a_heatmap_is_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heatmap", "a.json", "--out", "a.txt"]) == 1
    assert "--out a.txt must end in .png, .svg or .pdf" in capsys.readouterr().err


def test_every_command_exists_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, summary in COMMANDS.items():
        assert summary
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"longva-eval {name}" in capsys.readouterr().out


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsense"]) == 2
    assert "there is no command 'nonsense'" in capsys.readouterr().err


def test_no_command_shows_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "niah" in capsys.readouterr().out


def test_the_tasks_folder_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks-path"]) == 0
    assert capsys.readouterr().out.strip() == str(tasks_folder())


@pytest.mark.process
def test_help_starts_without_torch() -> None:
    code = """
import sys
from longva_eval.cli import COMMANDS, main

main(["--help"])
assert "matplotlib" not in sys.modules
for name in set(COMMANDS) - {"run"}:  # run's options are lmms-eval's own
    for arguments in ["--help"], ["--no-such-option", "x"]:
        try:
            main([name, *arguments])
        except SystemExit:
            pass
        else:
            raise AssertionError(f"{name} went on")
    assert "torch" not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
