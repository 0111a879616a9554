"""What every task costs: seconds per 100 documents with the embedded model, processor and clock.

    python benchmarks/task_times.py [--documents 24] [--tasks longva_ai2d,longva_mlvu_dev]

Data sets are drawn in the schema of the real ones (`tests/*_data.py`), laid out by `longva-eval
prepare`, and asked by `lmms-eval` processes without a network. Videos are 40 s of noise, each
another; pictures are small, and MMLongBench's texts are a line: what this compares is the work
around a document, not the size of real data. Judges are a server on this machine that always says
the same.

Time runs while the adapter answers a task's requests: reading media, vision tower, prefill and
decoding. Start-up, loading and scoring are not in it, nor is one answer to warm up. Tasks with the
same data go into different processes, so that none finds another's frames.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from harness import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

MODEL = "longva"
MODEL_ARGS = "pretrained=longva-tiny,max_frames_num=32,device=cpu,journal=off"
WITHOUT_DATA_OF_OTHERS = {
    "mini": ["longva_mini", "longva_mini_subtitles", "longva_mini_small"],
    "long_answers": ["longva_long_answers"],
    "vniah": ["vniah_small", "vniah_generate_frames", "vniah_generate_clip"],
    "scalelong": ["longva_scalelong"],
    "mmlongbench": [f"longva_mmlongbench_{length}k" for length in (8, 16, 32, 64, 128)],
}
"""Tasks that `longva-eval prepare` has no part in."""
LEFT_OUT = {"vniah": "its grid goes to 3,001 frames, beyond the embedded model's 512"}

Row = Mapping[str, Any]


# --- data -----------------------------------------------------------------------------------------


def repeated(rows: Sequence[Row], number: int, **numbered: str) -> list[dict[str, Any]]:
    """That many rows; the named columns get the number of their round, so that they differ.

    Args:
        rows: Asked again and again.
        number: How many are wanted.
        **numbered: Column and form of its new value: `{old}`, `{n}` (the round).
    """
    found = []
    for place in range(number):
        row = dict(rows[place % len(rows)])
        for column, form in numbered.items():
            value = form.format(old=row[column], n=place // len(rows))
            row[column] = int(value) if isinstance(row[column], int) else value
        found.append(row)
    return found


class Data:
    """All data sets, of about as many documents each, laid out below one HF_HOME."""

    def __init__(self, folder: Path, number: int) -> None:
        self.source = folder / "downloads"
        self.home = folder / "hf"
        self.number = number
        self.nltk = folder / "nltk_data"
        self._seeds = count(1)

    def write(self) -> None:
        """Make everything there is."""
        import datasets
        import image_task_data as pictures

        datasets.disable_progress_bars()
        self.home.mkdir(parents=True)
        self._videomme()
        self._long_video()
        self._pictures(pictures)
        self._short_video(pictures)
        self._egoschema()
        self._vdc()
        pictures.write_nltk_data(self.nltk)

    def _prepare(self, name: str, rows: list[Row] | Any, videos: Iterable[str]) -> None:
        """Write rows (or what can write itself) and videos as a download, and lay it out."""
        from long_video_data import write_parquet

        from longva_eval.local.layouts import read_layouts
        from longva_eval.local.prepare import prepare

        folder = self.source / name
        layout = read_layouts()[name]
        if isinstance(rows, list):
            place = folder / (layout.config or "data")
            write_parquet(place / f"{layout.split}-00000-of-00001.parquet", rows)
        else:
            rows.write(folder)
        for video in sorted(set(videos)):
            self._video(folder / "videos" / (video if "." in video else f"{video}.mp4"))
        prepare(name, folder, self.home, allow_missing=True)

    def _video(self, path: Path) -> None:
        from long_video_data import write_video

        write_video(path, seed=next(self._seeds), num_frames=80)

    def _videomme(self) -> None:
        import videomme_data

        rows = videomme_data.videomme_rows()  # nine on a short, a medium and a long video
        rows = repeated(rows, self.number, videoID="{old}-{n}", question_id="{n}-{old}")
        self._prepare("videomme", rows, [row["videoID"] for row in rows])
        for name in sorted({row["videoID"] for row in rows})[::2]:
            self._subtitles(self.home / "videomme" / "subtitle" / f"{name}.srt")
        rows = repeated(
            videomme_data.videomme_v2_rows(), max(4, self.number // 4 * 4), video_id="{n}{old}",
            question_id="{n}{old}",
        )  # fmt: skip
        self._prepare("videomme_v2", rows, [row["video_id"] for row in rows])
        folder = self.home / "videomme_v2" / "subtitle"
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted({row["video_id"] for row in rows}):
            words = [{"text": f"word{n}", "start_time": n, "end_time": n + 1} for n in range(40)]
            text = "".join(json.dumps(word) + "\n" for word in words)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    def _subtitles(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cues = [
            f"{n}\n00:00:{n:02d},000 --> 00:00:{n + 1:02d},000\nSomeone says {n}.\n"
            for n in range(40)
        ]
        path.write_text("\n".join(cues), encoding="utf-8")

    def _long_video(self) -> None:
        import long_video_data as data

        for name, prefix in (("longvideobench_val", ""), ("longvideobench_test", "t_")):
            rows = repeated(
                data.longvideobench_rows(), self.number, id=prefix + "{n}_{old}",
                video_path=prefix + "{n}_{old}",
            )  # fmt: skip
            if prefix:
                rows = [{**row, "correct_choice": -1} for row in rows]
            self._prepare(name, rows, [row["video_path"] for row in rows])
        for name, drawn, numbered in (
            ("mlvu_dev", data.mlvu_dev_rows(), {}),
            ("mlvu_test", data.mlvu_test_rows(), {"question_id": "{old}_{n}"}),
        ):
            rows = repeated(drawn, self.number, video_name="{n}_{old}", **numbered)
            self._prepare(name, rows, [row["video_name"] for row in rows])
        rows = repeated(data.lvbench_rows(), self.number, uid="{n}{old}", video_path="{n}_{old}")
        self._prepare("lvbench", rows, [row["video_path"] for row in rows])
        self._infinibench(data)
        folder = self.home / "scalelong"
        (questions,) = data.scalelong_lines()[0].values()
        lines = [
            json.dumps({f"video{n}": questions})
            for n in range(max(1, self.number // len(questions)))
        ]
        folder.mkdir()
        (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for n in range(len(lines)):
            self._video(folder / "videos" / f"video{n}.mp4")
        for length in data.LENGTHS:
            parts = json.loads((_tasks() / "mmlongbench" / f"parts_{length}k.json").read_text())
            data.write_mmlongbench(self.home, parts)

    def _infinibench(self, data: Any) -> None:
        from longva_eval.local.prepare import prepare

        folder = self.source / "infinibench"
        skills = folder / "validation" / "skills_json"
        skills.mkdir(parents=True)
        rows = repeated(
            [{**row, "options": str(row["options"])} for row in data.infinibench_rows()],
            self.number, question_id="{old}_{n}",
        )  # fmt: skip
        for place, row in enumerate(rows):
            row["video_path_mp4"] = f"TV_shows/videos/castle/season_1/episode_{place // 3}.mp4"
            self._video(folder / row["video_path_mp4"]) if place % 3 == 0 else None
        for skill in {row["skill_name"] for row in rows}:
            own = [row for row in rows if row["skill_name"] == skill]
            (skills / f"{skill}.json").write_text(json.dumps(own), encoding="utf-8")
        prepare("infinibench", folder, self.home, allow_missing=True)

    def _pictures(self, data: Any) -> None:
        for name, drawn, columns in (
            ("ai2d", data.ai2d(), {}),
            ("chartqa", data.chartqa(), {}),
            ("docvqa_val", data.docvqa(), {"questionId": "{n}{old}"}),
            ("docvqa_test", data.docvqa("test"), {"questionId": "{n}{old}"}),
            ("infovqa_val", data.infovqa(), {"questionId": "{n}{old}"}),
            ("infovqa_test", data.infovqa("test"), {"questionId": "{n}{old}"}),
            ("realworldqa", data.realworldqa(), {}),
            ("mmmu_val", data.mmmu(), {"id": "{old}{n}"}),
            ("mmmu_test", data.mmmu("test"), {"id": "{old}{n}"}),
        ):
            rows = repeated(drawn.rows, self.number, **columns)
            for place, row in enumerate(rows):
                for column in [name for name in row if name.startswith("image")]:
                    if isinstance(row[column], dict):  # each a picture of its own
                        row[column] = data.picture(place, size=(160, 110))
            self._prepare(name, _with_rows(drawn, rows), [])

    def _short_video(self, data: Any) -> None:
        for name, drawn, columns, video in (
            ("nextqa_mc", data.nextqa_mc(), {"video": "{n}{old}"}, "{video}"),
            ("nextqa_oe_test", data.nextqa_oe(), {"video": "7{n}{old}"}, "{video}"),
            ("nextqa_oe_val", data.nextqa_oe("validation"), {"video": "8{n}{old}"}, "{video}"),
            ("activitynetqa", data.activitynetqa(),
             {"video_name": "{n}{old}", "question_id": "{n}{old}"}, "v_{video_name}"),
            ("videochatgpt_gen", data.videochatgpt(), {"video_name": "{n}{old}"}, "{video_name}"),
            ("videochatgpt_temporal", data.videochatgpt("Temporal"), {"video_name": "t{n}{old}"},
             "{video_name}"),
            ("videochatgpt_consistency", data.videochatgpt("Consistency"),
             {"video_name": "c{n}{old}"}, "{video_name}"),
            ("video_dd", data.video_dd(), {"video_name": "d{n}{old}"}, "{video_name}"),
        ):  # fmt: skip
            number = 2 * self.number if "consistency" in name else self.number  # pairs
            rows = repeated(drawn.rows, number, **columns)
            self._prepare(name, _with_rows(drawn, rows), [video.format(**row) for row in rows])

    def _egoschema(self) -> None:
        acts = ("cuts wood", "paints a wall", "reads", "cooks", "sleeps")
        options = [f"{letter}. C {act}" for letter, act in zip("ABCDE", acts, strict=True)]
        for name, answer in (("egoschema", None), ("egoschema_subset", "2")):
            rows: list[Row] = [
                {
                    "question_idx": str(n),
                    "question": "What does C do first?",
                    "video_idx": f"{name}-{n}",
                    "option": options,
                    "answer": answer,
                }
                for n in range(self.number)
            ]
            self._prepare(name, rows, [row["video_idx"] for row in rows])

    def _vdc(self) -> None:
        pairs = [{"question": "What drives?", "answer": "a car"}]
        rows: list[Row] = [
            {"video_name": f"vdc{n}", "caption": "A red car drives by.", "qa_list": pairs}
            for n in range(self.number)
        ]
        self._prepare("vdc", rows, [row["video_name"] for row in rows])


def _with_rows(drawn: Any, rows: Sequence[Row]) -> Any:
    """A data set of `image_task_data` with other rows."""
    return type(drawn)(drawn.path, drawn.config, drawn.split, drawn.features, rows)


def _tasks() -> Path:
    from longva_eval.embedded import tasks_folder

    return tasks_folder()


# --- runs -----------------------------------------------------------------------------------------


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the base class's name
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "{'pred': 'yes', 'score': 4}"}
        payload = json.dumps({"model": "fixed", "choices": [{"message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        """Keep the output clean."""


def processes(wanted: Sequence[str]) -> list[list[str]]:
    """The tasks of each process: none shares its data with another."""
    from longva_eval.local.layouts import read_layouts

    names = {path.stem for path in _tasks().glob("*/*.yaml")}
    by_data = [[t for t in layout.tasks if t in names] for layout in read_layouts().values()]
    rows: list[list[str]] = []
    for tasks in [*by_data, *WITHOUT_DATA_OF_OTHERS.values()]:
        for place, task in enumerate(task for task in tasks if not wanted or task in wanted):
            rows += [[]] * (place + 1 - len(rows))
            rows[place] = [*rows[place], task]
    return rows


def run(
    tasks: Sequence[str], data: Data, out: Path, *, model: str = MODEL, model_args: str = MODEL_ARGS
) -> dict[str, dict[str, float]]:
    """Run tasks in a process of lmms-eval.

    Returns:
        Per task the number of requests, seconds by the clock and of processor time.
    """
    judge = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    threading.Thread(target=judge.serve_forever, daemon=True).start()
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "HF_HOME": str(data.home), "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE",
        "NLTK_DATA": str(data.nltk), "OPENAI_API_KEY": "none", "MODEL_VERSION": "fixed",
        "OPENAI_API_URL": f"http://127.0.0.1:{judge.server_address[1]}/v1/chat/completions",
    }  # fmt: skip
    environment.pop("API_TYPE", None)
    command = [
        sys.executable, __file__, "--child", str(out / "times.json"),
        "--model", model, "--model_args", model_args, "--tasks", ",".join(tasks),
        "--limit", str(data.number), "--output_path", str(out), "--log_samples",
    ]  # fmt: skip
    try:
        with (out / "log.txt").open("w") as log:
            done = subprocess.run(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False
            )
    finally:
        judge.shutdown()
        judge.server_close()
    file = out / "times.json"  # lmms-eval exits with 0 when an evaluation fails
    times: dict[str, dict[str, float]] = json.loads(file.read_text()) if file.is_file() else {}
    if done.returncode != 0 or not set(tasks) <= set(times):
        raise SystemExit(f"lmms-eval failed; the end of {log.name}:\n{_tail(out / 'log.txt')}")
    return times


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])


def child(times_file: Path) -> None:
    """lmms-eval's own command line; the adapter's work is timed task by task."""
    import psutil
    from lmms_eval.__main__ import cli_evaluate

    from longva_eval.model_adapters.longva import LongVA

    times: dict[str, dict[str, float]] = {}

    def processor_seconds() -> float:
        own = psutil.Process()
        spent = 0.0
        for process in (own, *own.children(recursive=True)):  # videos are decoded in another
            used = process.cpu_times()
            spent += used.user + used.system
        return spent

    def by_task(requests: Sequence[Any]) -> Iterator[list[Any]]:
        groups: dict[str, list[Any]] = {}
        for request in requests:
            groups.setdefault(str(request.task_name), []).append(request)
        yield from groups.values()

    def timed(method: Any) -> Any:
        @functools.wraps(method)
        def answer(self: Any, requests: Sequence[Any]) -> list[Any]:
            answers: dict[int, Any] = {}
            if not times and requests:  # what the first answer alone costs: a decoder, kernels
                method(self, requests[-1:])
            for group in by_task(requests):
                before = (time.perf_counter(), processor_seconds())
                for request, text in zip(group, method(self, group), strict=True):
                    answers[id(request)] = text
                row = {
                    "requests": len(group),
                    "seconds": time.perf_counter() - before[0],
                    "processor_seconds": processor_seconds() - before[1],
                }
                times[str(group[0].task_name)] = row
            times_file.write_text(json.dumps(times), encoding="utf-8")
            return [answers[id(request)] for request in requests]

        return answer

    for name in ("generate_until", "generate_until_multi_round"):
        setattr(LongVA, name, timed(getattr(LongVA, name)))
    cli_evaluate()


def main() -> None:
    """Draw the data, run the tasks, print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=24, help="of each task, about")
    parser.add_argument("--tasks", default="", help="only these, joined by commas")
    arguments = parser.parse_args()
    print(machine())
    print(f"{MODEL_ARGS}; {arguments.documents} documents a task\n")
    print("seconds per 100 documents")
    print(f"{'task':<34}{'documents':>10}{'processor time':>16}{'by the clock':>14}")
    with tempfile.TemporaryDirectory(prefix="task_times") as folder:
        data = Data(Path(folder), arguments.documents)
        data.write()
        wanted = [task for task in arguments.tasks.split(",") if task]
        for number, tasks in enumerate(processes(wanted)):
            found = run(tasks, data, Path(folder) / f"out{number}")
            for task in tasks:
                row = found[task]
                clock, spent = (
                    100 * row[key] / row["requests"] for key in ("seconds", "processor_seconds")
                )
                print(f"{task:<34}{row['requests']:>10}{spent:>16.1f}{clock:>14.1f}", flush=True)
    for task, reason in LEFT_OUT.items():
        print(f"{task:<34} left out: {reason}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        times_path = Path(sys.argv[2])
        sys.argv[1:] = sys.argv[3:]
        child(times_path)
    else:
        main()
