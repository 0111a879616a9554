"""What this environment can run, and how to mend what it cannot.

Nothing is taken for granted that can be tried: decoders decode, lmms-eval starts an evaluation and
asks a question, a checkpoint is loaded, tasks read their documents. Each happens in a process of
its own, since importing torch is slow and a decoder can take its process down. Nothing is
downloaded, and no secret is read: whether a key is set, not what it says. Hardware and packages are
left to `python -m torch.utils.collect_env` and `pip check`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longva_eval.embedded import MODEL_CLASSES
from longva_eval.errors import SettingsError
from longva_eval.files import hf_home
from longva_eval.host.names import broken_bounds, check_tasks, task_leaves
from longva_eval.local.prepare import DataStatus, data_status, read_layouts, told_unaskable

__all__ = ["AREAS", "Diagnosis", "Finding", "TaskVerdict", "examine"]

Status = Literal["ok", "note", "problem"]
AREAS = {
    "packages": "Packages",
    "decoding": "Video decoding",
    "lmms-eval": "lmms-eval",
    "checkpoint": "Checkpoint",
    "data": "Data in HF_HOME",
    "judge": "Judge",
}
"""What is looked at, in this order, and how the page calls it."""

_HUB_SECONDS = 4.0
_PROCESS_SECONDS = 600.0
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
_YES = ("1", "TRUE", "ON", "YES")
_REMOTE_FILE_SYSTEMS = {
    "nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "fuse.gcsfuse",
    "fuse.s3fs", "9p", "wekafs", "fuse.ceph", "fuse.glusterfs",
}  # fmt: skip

_DECODE = """
import sys
from longva_eval.media.decode import read_frames
from longva_eval.embedded import HAYSTACK
from longva_eval.media.probe import probe_video
import numpy as np
info = probe_video(HAYSTACK)
def read(backend):
    return np.concatenate(list(read_frames(info, [0, 7, 40], backend=backend))).astype(int)
found = read(sys.argv[1])
difference = int(abs(found - read("pyav")).max()) if sys.argv[1] != "pyav" else 0
print("FOUND", found.shape, difference)
"""

_LOAD = """
import sys
from longva_eval.families.loading import load_checkpoint
from longva_eval.model.settings import LoadSettings
found = load_checkpoint(sys.argv[1], LoadSettings())
kind, context = found.describe()["architecture"], found.context_length
print(f"FOUND {kind} of {context:,} tokens, {found.describe()['dtype']} on {found.device}")
"""

_RESOLVE = """
import json, sys, lmms_eval.models as host
found = dict.fromkeys(sys.argv[1:])
for name in found:
    try:
        found[name] = host.MODEL_REGISTRY_V2.resolve(name).class_path
    except ValueError:
        pass
print("FOUND", json.dumps(found))
"""

_READ_TASKS = """
import json, sys
import lmms_eval.models  # loads the plugins, which add our folder
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.tasks import TaskManager
from tenacity import stop_after_attempt
ConfigurableTask.download.retry.stop = stop_after_attempt(1)
manager = TaskManager(verbosity="ERROR")
def documents(found):
    if isinstance(found, dict):
        return sum(map(documents, found.values()))
    return len(found.eval_docs)
for name in sys.argv[1:]:
    try:
        told = [name, documents(manager.load_task_or_group([name])), ""]
    except BaseException as error:
        error = getattr(error, "last_attempt", None) and error.last_attempt.exception() or error
        said = f"{type(error).__name__}: {error}"
        told = [name, 0, said.splitlines()[0]]
    print("FOUND", json.dumps(told), flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    area: str
    name: str
    status: Status
    """`problem` keeps something from running, `note` is worth knowing."""
    text: str
    mend: str = ""
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class TaskVerdict:
    """Whether a task that was asked for can run here."""

    name: str
    can_run: bool
    reasons: tuple[str, ...]
    """Why not; or, if it can, what to know."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that was found."""

    findings: tuple[Finding, ...]
    tasks: tuple[TaskVerdict, ...]
    seconds: float

    @property
    def can_run(self) -> bool:
        """Whether nothing is broken, and everything that was asked for can run."""
        broken = any(finding.status == "problem" for finding in self.findings)
        return not broken and all(task.can_run for task in self.tasks)


def examine(
    tasks: Sequence[str] = (),
    *,
    pretrained: str = "",
    home: Path | None = None,
    quick: bool = False,
) -> Diagnosis:
    """Look at this environment.

    Args:
        tasks: Ids of tasks or groups that are to run.
        pretrained: A checkpoint that is to be loaded.
        home: Where data lies; HF_HOME by default.
        quick: Leave out what asks the model: the evaluation.

    Returns:
        The findings, and for every task whether it can run.
    """
    start = time.monotonic()
    home = home or hf_home()
    with ThreadPoolExecutor(max_workers=4) as pool:
        checks: list[Callable[[], list[Finding]]] = [
            _check_packages,
            _check_models,
            *(lambda name=name: _check_decoder(name) for name in ("torchcodec", "decord", "pyav")),
        ]
        if not quick:
            checks.append(_check_evaluation)
        if pretrained:
            checks.append(lambda: _check_checkpoint(pretrained))
        running = [pool.submit(_guarded, check) for check in checks]
        reading = pool.submit(_read_tasks, tasks, home)
        statuses = [data_status(layout, home, ask=True) for layout in read_layouts().values()]
        findings = [finding for future in running for finding in future.result()]
        findings += [_describe(status) for status in statuses]
        findings += _check_cache_variables(home)
        findings += _check_judge(tasks)
        wrong = [f"{f.name}: {f.text}" for f in findings if f.status == "problem"]
        read = reading.result()
        hub = _hub_problem() if any(error for _, error in read.values()) else ""
        verdicts = [_verdict(task, read, statuses, hub, wrong) for task in tasks]
    findings.sort(key=lambda finding: list(AREAS).index(finding.area))
    return Diagnosis(
        findings=tuple(findings), tasks=tuple(verdicts), seconds=time.monotonic() - start
    )


# ---- packages, decoders, lmms-eval ---------------------------------------------------------------


def _check_packages() -> list[Finding]:
    """What `longva-eval run` refuses to start with, in its words."""
    problems = broken_bounds()
    found = [Finding("packages", name, "problem", *told) for name, told in problems.items()]
    return found or [Finding("packages", "versions", "ok", "all within our bounds")]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_decoder(name: str) -> list[Finding]:
    """Decode three frames of the embedded video in a process of its own."""
    package = {"pyav": "av"}.get(name, name)
    optional = name == "torchcodec"
    status: Status = "note" if optional else "problem"
    if _version(package) is None:
        text = "not installed" + (" (optional, and the fastest)" if optional else "")
        return [Finding("decoding", name, status, text, f"pip install {package}")]
    done, failure = _run_python(_DECODE, name)
    if done is None:
        mend = (
            "apt-get install ffmpeg (4 to 8), and a torchcodec that fits the installed torch: "
            "https://github.com/meta-pytorch/torchcodec"
            if optional
            else f"pip install --force-reinstall {package}"
        )
        return [Finding("decoding", name, status, failure, mend)]
    difference = int(done.split()[-1])
    if difference > 2:
        text = f"frames differ from PyAV's by up to {difference} of 255"
        return [Finding("decoding", name, "problem", text, f"pip install --upgrade {package}")]
    same = "" if name == "pyav" else ", the frames PyAV gives"
    return [Finding("decoding", name, "ok", f"{_version(package)} decodes{same}")]


def _check_models() -> list[Finding]:
    """Whose class lmms-eval would load for each of our model ids."""
    if _version("lmms-eval") is None:
        return []  # said among the packages
    done, failure = _run_python(_RESOLVE, *sorted(MODEL_CLASSES))
    if done is None:
        mend = "pip install --force-reinstall 'lmms-eval>=0.7.3,<0.8'"
        return [Finding("lmms-eval", "models", "problem", failure, mend)]
    entries = importlib.metadata.entry_points(group="lmms_eval.models")
    plugins = sorted({entry.value.partition(":")[0].partition(".")[0] for entry in entries})
    others = ", ".join(name for name in plugins if name != "longva_eval")
    findings = []
    found: dict[str, str | None] = json.loads(done.removeprefix("FOUND "))
    wrong = {name: path for name, path in found.items() if path != MODEL_CLASSES[name]}
    for name, path in wrong.items():
        if path is None or path.startswith("lmms_eval."):
            text = f"--model {name} is {path or 'unknown'}, not ours: our entry point was not read"
            mend = "pip install --force-reinstall longva-eval"
            if others:
                text += f" (other plugins: {others}; if one fails, lmms-eval drops all)"
                mend += f", or uninstall {others}"
        else:
            text = f"--model {name} is {path}: another plugin took the name"
            mend = f"pip uninstall {path.partition('.')[0]}"
        findings.append(Finding("lmms-eval", f"model {name}", "problem", text, mend))
    if right := [name for name in found if name not in wrong]:
        text = f"--model {', '.join(right)}: registered, and ours"
        findings.append(Finding("lmms-eval", "models", "ok", text))
    if os.environ.get("LMMS_EVAL_PLUGINS"):
        text = f"LMMS_EVAL_PLUGINS={os.environ['LMMS_EVAL_PLUGINS']} is read before entry points"
        findings.append(Finding("lmms-eval", "plugins", "note", text))
    return findings


def _check_evaluation() -> list[Finding]:
    """Let lmms-eval start as it does for a user, and ask the embedded model a question."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(Path(folder, "home"))}
        done = _run(
            [sys.executable, "-m", "lmms_eval", "--model", "longva", "--model_args",
             "pretrained=longva-tiny,device=cpu,dtype=float32,max_frames_num=4", "--tasks",
             "longva_mini_small", "--limit", "1", "--output_path", folder],
            environment,
        )  # fmt: skip
        # lmms-eval ends with status 0 after an error too: only results count.
        if not isinstance(done, str) and any(Path(folder).rglob("*_results.json")):
            text = "lmms-eval asked longva-tiny a question and wrote its results"
            return [Finding("lmms-eval", "evaluation", "ok", text)]
    text = f"no evaluation can start: {done if isinstance(done, str) else _last_error(done)}"
    mend = "mend what is named above; if nothing is: pip install -r requirements.lock (tested)"
    return [Finding("lmms-eval", "evaluation", "problem", text, mend)]


def _check_checkpoint(pretrained: str) -> list[Finding]:
    """Load a checkpoint, whole."""
    done, failure = _run_python(_LOAD, pretrained)
    name = Path(pretrained).name
    if done is None:
        return [Finding("checkpoint", name, "problem", failure)]
    return [Finding("checkpoint", name, "ok", done.removeprefix("FOUND "))]


# ---- data and judge ------------------------------------------------------------------------------


def _describe(status: DataStatus) -> Finding:
    layout = status.layout
    if status.state == "missing":
        text = "not laid out" if not status.problem.startswith("unreadable") else status.problem
        return Finding(
            "data", layout.name, "note", text, f"longva-eval prepare {layout.name} --from DIR"
        )
    counts = [f"{status.num_rows:,} rows"]
    counts += [f"{c.num_found:,} of {c.num_named:,} {c.layout.kind}s" for c in status.media]
    told = [told_unaskable(status.unaskable)] if status.unaskable else []
    if status.state == "found":
        text = "; ".join([", ".join(counts), *told])
        return Finding("data", layout.name, "note" if told else "ok", text)
    mend = f"longva-eval prepare {layout.name} --from DIR; as it is, runs need on_error=skip"
    text = "; ".join([f"partly: {status.problem}", *told])
    return Finding("data", layout.name, "note", text, mend)


def _check_cache_variables(hf_home: Path) -> list[Finding]:
    findings = []
    wanted = (hf_home / "datasets").absolute()
    for name in ("HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"):
        value = os.environ.get(name)
        if value and Path(value).expanduser().absolute() != wanted:
            text = f"{name}={value}: prepared rows lie in {wanted}"
            findings.append(Finding("data", "rows", "problem", text, f"unset {name}"))
    kind = _file_system(hf_home)
    if kind in _REMOTE_FILE_SYSTEMS and not os.environ.get("LMMS_EVAL_DATASETS_CACHE"):
        text = f"{hf_home} is on {kind}: lmms-eval then looks for rows on a local disk instead"
        mend = f"export LMMS_EVAL_DATASETS_CACHE={wanted}"
        findings.append(Finding("data", "rows", "problem", text, mend))
    return findings


def _file_system(path: Path) -> str:
    """The kind of file system a path lies on, where /proc tells."""
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    mounts = {fields[1]: fields[2] for line in lines if len(fields := line.split()) > 2}
    folder = path.absolute()
    return next((mounts[str(p)] for p in (folder, *folder.parents) if str(p) in mounts), "")


def _check_judge(tasks: Sequence[str]) -> list[Finding]:
    from longva_eval.questions.judge import judge_problems

    if tasks:
        return [Finding("judge", "judge", "problem", problem) for problem in judge_problems(tasks)]
    problems = judge_problems(["longva_activitynetqa"])
    if problems:
        text = (
            "no judge is set up; only open questions need one (Video-ChatGPT, ActivityNet-QA ...)"
        )
        return [Finding("judge", "judge", "note", text, "export OPENAI_API_KEY=...")]
    return [Finding("judge", "judge", "ok", "a judge is set up (not asked)")]


# ---- tasks that were asked for -------------------------------------------------------------------


def _read_tasks(tasks: Sequence[str], home: Path) -> dict[str, tuple[int, str]]:
    """Every task that `tasks` come down to -> number of its documents, or why there are none.

    lmms-eval reads them offline, and `process_docs` looks at each: as at the start of a run.
    """
    read: dict[str, tuple[int, str]] = {}
    for task in tasks:
        try:
            check_tasks([task])
        except SettingsError as error:
            read[task] = 0, str(error)
    leaves = [leaf for task in tasks if task not in read for leaf in task_leaves(task)]
    if leaves:
        environment = {
            "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        }  # fmt: skip
        done = _run([sys.executable, "-c", _READ_TASKS, *dict.fromkeys(leaves)], environment)
        if isinstance(done, str):
            return read | dict.fromkeys(leaves, (0, done))
        for line in done.stdout.splitlines():
            if line.startswith("FOUND "):
                name, count, problem = json.loads(line.removeprefix("FOUND "))
                read[name] = count, problem
        missing = [leaf for leaf in leaves if leaf not in read]
        read |= dict.fromkeys(missing, (0, _last_error(done) if missing else ""))
    return read


def _verdict(
    task: str,
    read: dict[str, tuple[int, str]],
    statuses: Sequence[DataStatus],
    hub_problem: str,
    wrong: Sequence[str],
) -> TaskVerdict:
    """Whether a task can run: its documents are there, and nothing else keeps it from running."""
    from longva_eval.questions.judge import judge_problems

    reasons, notes = list(wrong), []
    for leaf in task_leaves(task):
        count, problem = read.get(leaf, (0, "was not read"))
        data = next((s for s in statuses if leaf in s.layout.tasks), None)
        if problem and data is not None and data.state == "missing":
            way = f"longva-eval prepare {data.layout.name} --from DIR"
            if hub_problem:
                reasons.append(f"{leaf}: its data is not here, and {hub_problem}; {way}")
            else:
                notes.append(f"{leaf}: its data would be downloaded from {data.layout.dataset}")
        elif problem:
            reasons.append(f"{leaf}: {problem}")
        elif data is not None and data.state == "partly":
            notes.append(
                f"{leaf}: {data.problem}; add on_error=skip to --model_args, and max_failed if it "
                "is more than 5 %"
            )
        else:
            notes.append(f"{leaf}: {count:,} documents")
        if data is not None and data.unaskable:
            notes.append(f"{leaf}: {told_unaskable(data.unaskable)}")
        reasons += judge_problems([leaf])
    return TaskVerdict(
        name=task, can_run=not reasons, reasons=tuple(dict.fromkeys(reasons + notes))
    )


def _hub_problem() -> str:
    """Why data cannot be downloaded now; empty if it can."""
    offline = [name for name in _OFFLINE if os.environ.get(name, "").upper() in _YES]
    if offline:
        return f"{' and '.join(offline)} was chosen"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=_HUB_SECONDS):
            return ""
    except urllib.error.HTTPError:
        return ""  # it is there, and says no to this question
    except (OSError, ValueError) as error:
        return f"{endpoint} does not answer ({getattr(error, 'reason', None) or error})"


# ---- helpers -------------------------------------------------------------------------------------


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that fails is a finding, and the others go on."""
    try:
        return check()
    except Exception as error:
        name = getattr(check, "__name__", "check").removeprefix("_check_")
        return [Finding("packages", name, "problem", f"could not be looked at: {error!r}")]


def _run(
    command: Sequence[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str] | str:
    """A process that has ended by itself; or why it did not."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_PROCESS_SECONDS,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **environment},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"gave no answer within {_PROCESS_SECONDS:.0f} s"
    except OSError as error:
        return f"{sys.executable} does not start: {error}"
    if done.returncode < 0:
        return f"the process was ended by signal {-done.returncode}"
    return done


def _last_error(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of what was printed that names an error; the last of all if none does."""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    told = (errors or lines or [f"exit status {done.returncode} without a message"])[-1]
    return told[:300]


def _run_python(code: str, *arguments: str) -> tuple[str | None, str]:
    """What a piece of code says after FOUND, in a process of its own; or None and why not."""
    done = _run([sys.executable, "-c", code, *arguments], {})
    if isinstance(done, str):
        return None, done
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    return (found[-1], "") if done.returncode == 0 and found else (None, _last_error(done))
