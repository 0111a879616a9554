"""A folder of runs in the browser: a server on this machine, for this machine.

It answers on the loopback address only, to requests that name it (a web page elsewhere cannot reach
it through a name of its own), and asks for nothing itself. The page is built again when results
change; what is in progress is read from the journals, which are only looked at. A film strip is
decoded when its question is opened.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from longva_eval.errors import MediaError, SettingsError
from longva_eval.reports.page.film import StripPlan, make_strips, strip_json
from longva_eval.reports.page.media import plan_film
from longva_eval.reports.page.page import build_page
from longva_eval.reports.page.rendering import render
from longva_eval.reports.page.runs import PageRun
from longva_eval.reports.reading.needle_runs import read_needle_run
from longva_eval.reports.reading.runs import read_runs
from longva_eval.running.journal import UnfinishedRun, unfinished_runs

__all__ = ["FolderView", "serve"]

_ADDRESS: Final = "127.0.0.1"
_STRIP_BYTES: Final = 500_000
_LAST_ANSWERS: Final = 10
_RESULTS: Final = ("*_results.json", "*_samples_*.jsonl", "cells.jsonl", "run.json", "summary.json")


class FolderView:
    """What is to be seen of a folder of runs; made again only when its files have changed.

    Args:
        folder: Runs of lmms-eval, needle tests and studies lie in it or below.
        media: As in `plan_film`.

    Raises:
        SettingsError: If it is no folder.
    """

    def __init__(self, folder: Path, media: Sequence[Path] = ()) -> None:
        if not folder.is_dir():
            raise SettingsError(f"{folder} is no folder.")
        self._folder = folder
        self._media = media
        self._lock = threading.Lock()
        self._shown = ""
        self._page = b""
        self._plans: dict[str, StripPlan] = {}

    def results(self) -> str:
        """A digest of the files of complete runs."""
        found = sorted(file for pattern in _RESULTS for file in self._folder.rglob(pattern))
        digest = hashlib.sha256()
        for file in found:
            try:
                told = file.stat()
            except OSError:  # gone meanwhile
                continue
            digest.update(f"{file}\0{told.st_size}\0{told.st_mtime_ns}\n".encode())
        return digest.hexdigest() if found else ""

    def progress(self) -> str:
        """HTML of what is in progress."""
        runs = [_told(run, self._folder) for run in unfinished_runs(self._folder)]
        return render("progress.html", runs=runs, has_runs=bool(self.results()))

    def state(self) -> dict[str, str]:
        """What the page asks for again and again."""
        return {"results": self.results(), "progress": self.progress()}

    def page(self) -> bytes:
        """The page about all runs that are complete."""
        with self._lock:
            results = self.results()
            if results != self._shown or not self._page:
                runs = _all_runs(self._folder)
                film, elsewhere = plan_film(runs, self._media)
                self._plans = {p.key(): p for p in film.values() if isinstance(p, StripPlan)}
                self._page = build_page(
                    runs,
                    title=f"Runs in {self._folder}",
                    film=film,
                    film_note=f"Frames are read when a question is opened. {elsewhere}".strip(),
                    live=Markup(self.progress()),
                ).encode("utf-8")
                self._shown = results
            return self._page

    def strip(self, key: str) -> Any:
        """A film strip as the page reads it, or why there is none; None if it is unknown."""
        plan = self._plans.get(key)
        if plan is None:
            return None
        made = make_strips([plan], budget_bytes=_STRIP_BYTES, num_workers=1)[key]
        return made if isinstance(made, str) else strip_json(made)


def _all_runs(folder: Path) -> list[PageRun]:
    """Every complete run below a folder, oldest first."""
    try:
        runs = [PageRun(run=run, folder=folder) for run in read_runs(folder)]
    except MediaError:  # none of lmms-eval
        runs = []
    for cells in sorted(folder.rglob("cells.jsonl")):
        run, controls = read_needle_run(cells.parent)
        runs.append(PageRun(run=run, controls=controls, folder=folder))
    return runs


def _told(run: UnfinishedRun, folder: Path) -> dict[str, Any]:
    """A run in progress, for the template."""
    checkpoint = str(run.settings.get("checkpoint", "")).rstrip("/").split("/")[-1]
    frames = run.settings.get("frames")
    most = frames.get("max_frames") if isinstance(frames, dict) else None
    where = run.folder.relative_to(folder).parent
    named = [str(where) if str(where) != "." else "", checkpoint, f"{most} frames" if most else ""]
    tasks = Counter(about.partition(", document ")[0] for about, _ in run.answers if about)
    last = [
        (about or f"answer {number:,}", str(value.get("text", value.get("generated", value))))
        for number, (about, value) in enumerate(run.answers, start=1)
    ]
    return {
        "name": ", ".join(part for part in named if part) or "a run",
        "is_running": run.is_running,
        "number": len(run.answers),
        "written": datetime.datetime.fromtimestamp(run.written).strftime("%H:%M:%S"),
        "tasks": [(task.removeprefix("Task "), number) for task, number in tasks.items()],
        "last": last[: -_LAST_ANSWERS - 1 : -1],
    }


def serve(view: FolderView, port: int) -> ThreadingHTTPServer:
    """A server of a folder on this machine; `serve_forever` runs it.

    Args:
        view: What to show.
        port: 0 takes one that is free.

    Raises:
        SettingsError: If the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own = {f"{name}:{server.server_port}" for name in (_ADDRESS, "localhost")}
            if self.headers.get("Host") not in own:
                self._send(b"This server answers for this machine only.", "text/plain", 403)
            elif self.path == "/":
                self._send(view.page(), "text/html; charset=utf-8")
            elif self.path == "/state":
                self._send(json.dumps(view.state()).encode(), "application/json")
            else:
                name, _, key = self.path.removeprefix("/").partition("/")
                found = view.strip(key) if name == "strip" else None
                text = json.dumps(found if found is not None else "There is no such strip.")
                self._send(text.encode(), "application/json", 404 if found is None else 200)

        def _send(self, data: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name there
            """Say nothing: a browser asks every two seconds."""

    try:
        server = ThreadingHTTPServer((_ADDRESS, port), Handler)
    except OSError as error:
        raise SettingsError(
            f"--port {port} cannot be used: {error.strerror}. Without it a free one is taken."
        ) from error
    server.daemon_threads = True
    return server
