"""Tables of the paper: what they cost and need, and how printed and measured numbers meet."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import datasets
import pytest
from support import image_task_data as pictures
from support import processes
from support.host_runs import videomme_line, write_host_run

from longva_eval.commands.reproduce import main
from longva_eval.errors import DataError, SettingsError
from longva_eval.local.layouts import find_layouts
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reproduction import Reproduced, reproduced
from longva_eval.reports.tables.published import find_benchmark, published_rows, published_scores
from longva_eval.studies.targets import TARGETS

pytestmark = [
    # lmms-eval leaves the results file it has written to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TINY = ["--pretrained", "longva-tiny", "--model-args", "device=cpu,dtype=float32"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all: `datasets` and lmms-eval keep where their cache is."""
    path = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(path))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", path / "datasets")
        yield path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "reproduction.json").read_text())
    return rows


@pytest.mark.process
def test_table_4_runs_through_on_the_mini_suite(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["table4", *TINY, "--quick", "--limit", "9", "--out", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out")
    assert [(row["part"], row["frames"]) for row in rows[3:5]] == [
        ("Overall", "8"),
        ("Short", "16"),
    ]
    assert rows[3]["paper_percent"] == 47.9
    assert rows[3]["ours_percent"] is not None
    assert {row["verdict"] for row in rows if row["ours_percent"] is not None} == {"other data"}
    shown = capsys.readouterr().out
    assert "decoding    at most " in shown
    assert "longva_mini_small stands in for the benchmark" in " ".join(shown.split())


@pytest.mark.process
def test_figure_4_runs_through_on_the_embedded_needles(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure4", *TINY, "--quick", "--out", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out")
    assert [row["frames"] for row in rows[:3]] == ["16", "64", "200"]
    assert rows[0]["ours_percent"] > 90
    assert rows[0]["verdict"] == "not printed"
    assert rows[-1] == {
        "part": "needles found", "frames": "3,000", "paper_percent": pytest.approx(76.67),
        "ours_percent": None, "difference_points": None, "interval_95": None, "questions": 0,
        "verdict": "not measured",
    }  # fmt: skip
    assert (tmp_path / "out" / "heatmap.png").is_file()


@pytest.mark.process
def test_table_6_lays_its_data_out_and_runs_on_them(home: Path, tmp_path: Path) -> None:
    made = [pictures.ai2d(), pictures.chartqa(), pictures.docvqa(), pictures.infovqa(),
            pictures.realworldqa(), pictures.mmmu()]  # fmt: skip
    for data in made:
        data.write(tmp_path / "copy" / data.path)
    call = ["table6", *TINY, "--data", str(tmp_path / "copy"), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="ai2d"):  # rows are missing
        main(call)
    # A process of its own: datasets and lmms-eval keep what earlier tests told them of a cache.
    command = [sys.executable, "-m", "longva_eval", "reproduce", *call]
    ended = processes.run([*command, "--allow-missing", "--limit", "1"])
    assert ended.returncode == 0, ended.stderr
    rows = rows_of(tmp_path / "out")
    assert [row["part"] for row in rows] == [
        "AI2D", "ChartQA", "DocVQA", "InfoVQA", "RealWorldQA", "MMMU",
    ]  # fmt: skip
    assert [row["paper_percent"] for row in rows] == [70.7, 70.4, 80.8, 49.4, 60.0, 42.6]
    assert {row["verdict"] for row in rows} == {"other data"}
    assert {row["questions"] for row in rows} == {1}
    assert "ai2d: " in ended.stdout


def test_a_table_without_a_stand_in_says_so() -> None:
    with pytest.raises(SettingsError, match="table6 has no --quick"):
        main(["table6", *TINY, "--quick"])


# What is missing ----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub whose data sets are two files of 1.5 GB."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            files = [{"rfilename": name, "size": 1_500_000_000} for name in "ab"]
            self.wfile.write(json.dumps({"siblings": files}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield asked
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_missing_data_come_with_their_size_and_the_commands(
    tmp_path: Path,
    hub: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert main(["table6", "--pretrained", "lmms-lab/LongVA-7B", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert (
        "hf download lmms-lab-encoder/DocVQA --repo-type dataset --local-dir "
        "DIR/lmms-lab-encoder/DocVQA  # 3.0 GB\n"
    ) in shown
    assert shown.count("hf download") == 5  # two of the six are parts of one
    assert "longva-eval prepare longva_images --from DIR" in shown
    assert "15,403 questions on a picture each" in shown
    assert hub[0] == "/api/datasets/lmms-lab-encoder/ai2d?blobs=true"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="table4 needs data that is not here"):
        main(["table4", "--pretrained", "lmms-lab/LongVA-7B"])
    shown = capsys.readouterr().out
    assert "# size unknown: the hub is out of reach" in shown
    assert "21.59 GB in bfloat16 at 55,406 tokens" in shown


@pytest.mark.slow
def test_a_group_stands_for_the_data_of_all_its_tasks() -> None:
    names = [layout.name for layout in find_layouts("longva_images")]
    assert names == ["ai2d", "chartqa", "docvqa_val", "infovqa_val", "realworldqa", "mmmu_val"]
    nested = {layout.name for layout in find_layouts("longva_paper")}
    assert {"ai2d", "videomme", "mlvu_dev", "nextqa_mc"} <= nested


# Verdicts -----------------------------------------------------------------------------------------


def overall(folder: Path, right: int, number: int) -> Reproduced:
    """A run of Video-MME with so many right answers, spread over its videos, at 384 frames."""
    lines = [
        videomme_line(n, "A" if n * right // number != (n + 1) * right // number else "B", "A")
        for n in range(number)
    ]
    write_host_run(folder, {"videomme": lines}, results={"videomme": {"acc,none": right / number}})
    target = TARGETS["table4"]
    scores = [s for s in published_scores() if s.source_table.startswith(target.source)]
    benchmark = find_benchmark("Video-MME", scores)
    printed, _ = published_rows(scores, benchmark, models=[target.model])
    return reproduced([("384", read_run(folder))], benchmark, printed)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "number", "verdict"),
    [(1399, 2700, "as printed"), (1380, 2700, "consistent"), (1200, 2700, "differs"),
     (463, 900, "other data")],
)  # fmt: skip
def test_the_verdict_follows_from_data_difference_and_interval(
    tmp_path: Path, right: int, number: int, verdict: str
) -> None:
    found = overall(tmp_path, right, number)
    assert found.paper == 51.8
    assert found.difference == pytest.approx(100 * right / number - 51.8)
    assert found.interval is not None
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.verdict == verdict
