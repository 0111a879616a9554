"""What this environment can run, and how to mend what it cannot.

Every check is a function that gives findings; they run side by side. What is slow or could take the
process down (importing torch, decoding) happens in processes of its own. Nothing is taken for
granted that can be tried: decoders decode, the model's name is looked up in lmms-eval's registry,
files are counted. No torch in this process, nothing is downloaded, and no secret is read: whether
a key is set, not what it says.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from longva_eval.files import hf_home as hf_home_folder
from longva_eval.local.prepare import DataStatus, data_status, read_layouts

__all__ = ["AREAS", "Diagnosis", "Finding", "TaskVerdict", "examine"]

Status = Literal["ok", "note", "problem"]
AREAS = ("machine", "packages", "decoding", "lmms-eval", "data", "network", "judge")

_NETWORK_SECONDS = 4.0
_PROCESS_SECONDS = 180.0
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_SHOWN = (
    "longva-eval", "lmms-eval", "torch", "transformers", "datasets", "huggingface_hub", "av",
    "decord", "torchcodec", "numpy", "pillow",
)  # fmt: skip
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

_TASKS = """
import json, re, sys
import lmms_eval.models  # loads the plugins, which add our folder
from lmms_eval.tasks import TaskManager
import yaml
class Loader(yaml.SafeLoader):
    pass
Loader.add_constructor("!function", lambda loader, node: None)
index = TaskManager(verbosity="ERROR").task_index
def members(name, seen):
    entry = index.get(name)
    if entry is None or name in seen:
        return [] if entry is None else [name]
    found = entry.get("task")
    if entry["type"] == "task":
        return [name]
    if not isinstance(found, list):
        path = entry.get("yaml_path")
        if path in (None, -1):
            return [name]
        with open(path, encoding="utf-8") as file:
            found = (yaml.load(file, Loader) or {}).get("task")
    names = [item if isinstance(item, str) else (item.get("task") or item.get("group"))
             for item in (found if isinstance(found, list) else [])]
    leaves = [leaf for item in names if isinstance(item, str)
              for leaf in members(item, seen | {name})]
    return leaves or [name]
asked = json.loads(sys.argv[1])
print("FOUND", json.dumps({
    "tasks": {name: members(name, frozenset()) if name in index else None for name in asked},
    "ours": sum(name.startswith("longva_") or name.startswith("vniah") for name in index),
    "all": len(index),
}))
"""


@dataclass(frozen=True, kw_only=True)
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
        """Whether everything that was asked for can run."""
        return all(task.can_run for task in self.tasks)


def examine(
    tasks: Sequence[str] = (),
    *,
    hf_home: Path | None = None,
    output: Path | None = None,
    ask_hub: bool = True,
) -> Diagnosis:
    """Look at this environment.

    Args:
        tasks: Ids of tasks or groups that are to run.
        hf_home: Where data lies; HF_HOME by default.
        output: Where results will be written; the current folder by default.
        ask_hub: Whether to try the network.

    Returns:
        The findings, and for every task whether it can run.
    """
    start = time.monotonic()
    home = hf_home or hf_home_folder()
    with ThreadPoolExecutor(max_workers=12) as pool:
        checks: list[Callable[[], list[Finding]]] = [
            _check_python,
            lambda: _check_gpu(),
            _check_memory,
            lambda: _check_disk(home, output or Path.cwd()),
            _check_packages,
            *(lambda name=name: _check_decoder(name) for name in ("torchcodec", "decord", "pyav")),
            _check_ffmpeg,
            _check_model,
            lambda: _check_offline(),
        ]
        running = [pool.submit(_guarded, check) for check in checks]
        hub = pool.submit(_check_hub, ask_hub)
        data = pool.submit(_data, home)
        index = pool.submit(_task_index, tasks) if tasks else None
        findings = [finding for future in running for finding in future.result()]
        findings += hub.result()
        statuses = data.result()
        findings += [_describe(status) for status in statuses] or [
            Finding(area="data", name="layouts", status="note", text="no layouts of local data")
        ]
        findings += _check_cache_variables(home)
        verdicts: list[TaskVerdict] = []
        if index is not None:
            found, seen = index.result()
            findings += found
            reachable = any(f.name == "hub" and f.status == "ok" for f in findings)
            verdicts = [_judge_task(task, seen, statuses, reachable, findings) for task in tasks]
        findings += _check_judge(tasks)
    findings.sort(key=lambda finding: AREAS.index(finding.area))
    return Diagnosis(
        findings=tuple(findings), tasks=tuple(verdicts), seconds=time.monotonic() - start
    )


# ---- machine ------------------------------------------------------------------------------------


def _check_python() -> list[Finding]:
    version = platform.python_version()
    return [_finding("machine", "Python", "ok", f"{version}, {platform.system()}")]


def _check_gpu() -> list[Finding]:
    """GPUs by the driver's word; what torch was built for by its package, without importing it."""
    from longva_eval.studies.cost import max_frames
    from longva_eval.studies.shape import LONGVA_7B

    built_for = _torch_build()
    answer = _nvidia_smi()
    if answer is None:
        if platform.system() == "Darwin":
            text = "none of NVIDIA's; models run on the CPU"
        else:
            text = "no NVIDIA GPU (nvidia-smi is not there or sees none); models run on the CPU"
        return [
            _finding(
                "machine", "GPU", "note", text,
                "fine for the embedded models; LongVA-7B needs one: device=cuda",
            )
        ]  # fmt: skip
    findings = []
    for number, line in enumerate(answer):
        name, total, free, capability, driver = line
        has_bf16 = capability >= 8.0
        frames = max_frames(LONGVA_7B, int(free * 2**20)) if has_bf16 else 0
        text = (
            f"{name}, {total / 1024:.0f} GiB ({free / 1024:.0f} free), driver {driver}, bfloat16 "
            f"{'yes' if has_bf16 else 'no'}"
        )
        if frames:
            text += f"; room for LongVA-7B with {frames:,} frames"
        findings.append(
            _finding(
                "machine", f"GPU {number}", "ok" if frames else "note", text,
                "" if frames else "LongVA-7B in bfloat16 needs 16 GB free and compute capability "
                "8.0 (A100, RTX 30): see longva-eval plan",
            )
        )  # fmt: skip
    if built_for == "CPU":
        findings.append(
            _finding(
                "machine", "torch and GPU", "problem",
                "there is a GPU, and the installed torch was built without CUDA",
                "pip install --force-reinstall torch --index-url "
                "https://download.pytorch.org/whl/cu126",
            )
        )  # fmt: skip
    return findings


def _nvidia_smi() -> list[tuple[str, float, float, float, str]] | None:
    query = "name,memory.total,memory.free,compute_cap,driver_version"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=15,
            check=True,
        )
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        return [(r[0], float(r[1]), float(r[2]), float(r[3]), r[4]) for r in rows if r] or None
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _torch_build() -> str:
    """`CPU`, or the CUDA version torch was built for; empty if unknown."""
    try:
        path = importlib.metadata.distribution("torch").locate_file("torch/version.py")
        text = Path(str(path)).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError):
        return ""
    for line in text.splitlines():
        if line.startswith("cuda"):
            value = line.split("=")[-1].strip().strip("'\"")
            return "CPU" if value == "None" else value
    return ""


def _check_memory() -> list[Finding]:
    total, free = _memory()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = f"{total / 1e9:.0f} GB ({free / 1e9:.0f} free), {cpus} CPU cores"
    if free < 4e9:
        mend = "loading LongVA-7B passes 15 GB through memory; the embedded models need 2 GB"
        return [_finding("machine", "memory", "note", text, mend)]
    return [_finding("machine", "memory", "ok", text)]


def _memory() -> tuple[float, float]:
    """Bytes there are and are free, of the container where there is one."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = free = float(os.sysconf("SC_PHYS_PAGES") * page)
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = float(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass  # no Linux: what is free is not known
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return min(total, limit), min(free, limit - used)
    except (OSError, ValueError):
        return total, free


def _check_disk(hf_home: Path, output: Path) -> list[Finding]:
    findings = []
    for name, folder in (("HF_HOME", hf_home), ("results", output)):
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free
        text = f"{folder}: {free / 1e9:,.0f} GB free"
        if not os.access(there, os.W_OK):
            mend = "set HF_HOME, or --output_path, to a folder of yours"
            findings.append(
                _finding("machine", name, "problem", f"{there} cannot be written to", mend)
            )
        elif free < 20e9 and name == "HF_HOME":
            mend = "LongVA-7B takes 16 GB, Video-MME about 100: point HF_HOME to a larger disk"
            findings.append(_finding("machine", name, "note", text, mend))
        else:
            findings.append(_finding("machine", name, "ok", text))
    return findings


# ---- packages and decoders ----------------------------------------------------------------------


def _check_packages() -> list[Finding]:
    """Versions against what longva-eval and lmms-eval ask for, as `pip check` would."""
    from packaging.requirements import Requirement

    versions = {name: _version(name) for name in _SHOWN}
    findings = []
    for owner in ("longva-eval", "lmms-eval"):
        try:
            asked = importlib.metadata.requires(owner) or []
        except importlib.metadata.PackageNotFoundError:
            mend = f"pip install {owner}"
            findings.append(_finding("packages", owner, "problem", "is not installed", mend))
            continue
        for text in asked:
            requirement = Requirement(text)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            version = _version(requirement.name)
            wanted = f"{requirement.name}{requirement.specifier}"
            if version is None:
                # An absent package of lmms-eval's long list matters to some of its models only.
                status: Status = "problem" if owner == "longva-eval" else "note"
                line = f"{owner} asks for {wanted}, which is not installed"
                findings.append(
                    _finding("packages", requirement.name, status, line, f"pip install '{wanted}'")
                )
            elif not requirement.specifier.contains(version, prereleases=True):
                line = f"{version} is installed, {owner} asks for {wanted}"
                findings.append(
                    _finding(
                        "packages", requirement.name, "problem", line, f"pip install '{wanted}'"
                    )
                )
    shown = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    findings.insert(0, _finding("packages", "versions", "ok", shown))
    build = _torch_build()
    if build:
        findings.insert(1, _finding("packages", "torch", "ok", f"built for {_named_build(build)}"))
    if _version("longva") is not None:
        findings.append(
            _finding(
                "packages", "longva", "note",
                "the original's package is installed; it is not used, and its pins of 2024 may "
                "hold others back", "pip uninstall longva",
            )
        )  # fmt: skip
    if _version("opencv-python") and _version("opencv-python-headless"):
        findings.append(
            _finding(
                "packages", "opencv", "note",
                "opencv-python and opencv-python-headless overwrite each other's files",
                "pip uninstall opencv-python opencv-python-headless; pip install "
                "opencv-python-headless",
            )
        )  # fmt: skip
    return findings


def _named_build(build: str) -> str:
    return "CPUs only" if build == "CPU" else f"CUDA {build}"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_decoder(name: str) -> list[Finding]:
    """Decode three frames of the embedded video in a process of its own."""
    package = {"pyav": "av"}.get(name, name)
    optional = name == "torchcodec"
    if _version(package) is None:
        status: Status = "note" if optional else "problem"
        text = "not installed" + (" (optional, and the fastest)" if optional else "")
        return [_finding("decoding", name, status, text, f"pip install {package}")]
    done, failure = _run_python(_DECODE, name)
    if done is None:
        status = "note" if optional else "problem"
        mend = (
            "apt-get install ffmpeg (4 to 8), and a torchcodec that fits the installed torch: "
            "https://github.com/meta-pytorch/torchcodec"
            if optional
            else f"pip install --force-reinstall {package}"
        )
        return [_finding("decoding", name, status, failure, mend)]
    difference = int(done.split()[-1])
    if difference > 2:
        text = f"frames differ from PyAV's by up to {difference} of 255"
        return [_finding("decoding", name, "problem", text, f"pip install --upgrade {package}")]
    same = "" if name == "pyav" else ", the frames PyAV gives"
    text = f"{_version(package)} decodes{same}"
    return [_finding("decoding", name, "ok", text)]


def _check_ffmpeg() -> list[Finding]:
    path = shutil.which("ffmpeg")
    if path is None:
        text = "no ffmpeg command; only torchcodec needs FFmpeg's libraries, PyAV brings its own"
        return [_finding("decoding", "ffmpeg", "note", text, "apt-get install ffmpeg")]
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=15, check=False
        )
        version = " ".join(done.stdout.split()[:3])
    except (OSError, subprocess.SubprocessError) as error:
        return [_finding("decoding", "ffmpeg", "note", f"{path} does not start: {error}")]
    return [_finding("decoding", "ffmpeg", "ok", f"{version} ({path})")]


# ---- lmms-eval ----------------------------------------------------------------------------------


def _check_model() -> list[Finding]:
    """Whose class lmms-eval would load for each of our model ids."""
    from longva_eval.embedded import MODEL_CLASSES, tasks_folder

    if _version("lmms-eval") is None:
        return []  # said among the packages
    entries = importlib.metadata.entry_points(group="lmms_eval.models")
    plugins = sorted({entry.value.partition(":")[0].partition(".")[0] for entry in entries})
    code = (
        "import json, lmms_eval.models as m\n"
        "names = " + repr(sorted(MODEL_CLASSES)) + "\n"
        "found = {}\n"
        "for name in names:\n"
        "    try:\n"
        "        found[name] = m.MODEL_REGISTRY_V2.resolve(name).class_path\n"
        "    except ValueError:\n"
        "        found[name] = None\n"
        "print('FOUND', json.dumps(found))\n"
    )
    done, failure = _run_python(code)
    if done is None:
        mend = "pip install --force-reinstall 'lmms-eval>=0.7.3,<0.8'"
        return [_finding("lmms-eval", "models", "problem", failure, mend)]
    findings = []
    found: dict[str, str | None] = json.loads(done.removeprefix("FOUND "))
    wrong = {name: path for name, path in found.items() if path != MODEL_CLASSES[name]}
    for name, path in wrong.items():
        if path is None or path.startswith("lmms_eval."):
            text = f"--model {name} is {path or 'unknown'}, not ours: our entry point was not read"
            mend = "pip install --force-reinstall longva-eval"
            others = [p for p in plugins if p != "longva_eval"]
            if others:
                text += f" (plugins: {', '.join(plugins)}; if one fails, lmms-eval drops all)"
                mend += f", or uninstall {', '.join(others)}"
        else:
            owner = path.partition(".")[0]
            text = f"--model {name} is {path}: another plugin took the name"
            mend = f"pip uninstall {owner}"
        findings.append(_finding("lmms-eval", f"model {name}", "problem", text, mend))
    right = [name for name in found if name not in wrong]
    if right:
        text = f"--model {', '.join(right)}: registered, and ours"
        findings.append(_finding("lmms-eval", "models", "ok", text))
    count = len(list(tasks_folder().glob("*/*.yaml")))
    if count:
        findings.append(_finding("lmms-eval", "tasks", "ok", f"{count} of ours: {tasks_folder()}"))
    else:
        mend = "reinstall longva-eval"
        findings.append(_finding("lmms-eval", "tasks", "problem", "none of ours", mend))
    if os.environ.get("LMMS_EVAL_PLUGINS"):
        text = f"LMMS_EVAL_PLUGINS={os.environ['LMMS_EVAL_PLUGINS']} is read before entry points"
        findings.append(_finding("lmms-eval", "plugins", "note", text))
    return findings


def _task_index(tasks: Sequence[str]) -> tuple[list[Finding], dict[str, list[str] | None]]:
    """What lmms-eval knows the tasks as, groups taken apart; reads its 2,000 files."""
    done, failure = _run_python(_TASKS, json.dumps(list(tasks)))
    if done is None:
        mend = "see the message; `lmms-eval --tasks list` should say the same"
        finding = _finding("lmms-eval", "task index", "problem", failure, mend)
        return [finding], dict.fromkeys(tasks)
    found = json.loads(done.removeprefix("FOUND "))
    text = f"{found['all']:,} tasks and groups known, {found['ours']} of them ours"
    status: Status = "ok" if found["ours"] else "problem"
    mend = "" if found["ours"] else "add --include_path $(longva-eval tasks-path)"
    return [_finding("lmms-eval", "task index", status, text, mend)], found["tasks"]


# ---- data, network, judge -----------------------------------------------------------------------


def _data(hf_home: Path) -> list[DataStatus]:
    layouts = read_layouts().values()
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda layout: data_status(layout, hf_home), layouts))


def _describe(status: DataStatus) -> Finding:
    layout = status.layout
    if status.state == "missing":
        text = "not laid out" if not status.problem.startswith("unreadable") else status.problem
        return _finding(
            "data", layout.name, "note", text, f"longva-eval prepare {layout.name} --from DIR"
        )
    counts = [f"{status.num_rows:,} rows"]
    counts += [f"{c.num_found:,} of {c.num_named:,} {c.layout.kind}s" for c in status.media]
    if status.state == "found":
        return _finding("data", layout.name, "ok", ", ".join(counts))
    mend = f"longva-eval prepare {layout.name} --from DIR; as it is, runs need on_error=skip"
    return _finding("data", layout.name, "note", f"partly: {status.problem}", mend)


def _check_cache_variables(hf_home: Path) -> list[Finding]:
    findings = []
    wanted = (hf_home / "datasets").absolute()
    for name in ("HF_DATASETS_CACHE", "LMMS_EVAL_DATASETS_CACHE"):
        value = os.environ.get(name)
        if value and Path(value).expanduser().absolute() != wanted:
            text = f"{name}={value}: prepared rows lie in {wanted}"
            findings.append(_finding("data", "rows", "problem", text, f"unset {name}"))
    kind = _file_system(hf_home)
    if kind in _REMOTE_FILE_SYSTEMS and not os.environ.get("LMMS_EVAL_DATASETS_CACHE"):
        text = f"{hf_home} is on {kind}: lmms-eval then looks for rows on a local disk instead"
        mend = f"export LMMS_EVAL_DATASETS_CACHE={wanted}"
        findings.append(_finding("data", "rows", "problem", text, mend))
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


def _check_offline() -> list[Finding]:
    on = [
        name for name in _OFFLINE if os.environ.get(name, "").upper() in ("1", "TRUE", "ON", "YES")
    ]
    if not on:
        return []
    return [_finding("network", "offline", "note", f"{', '.join(on)} set: nothing is downloaded")]


def _check_hub(ask: bool) -> list[Finding]:
    """Whether the hub answers; `hub` is ok only if data could be downloaded now."""
    if not ask or _check_offline():
        text = "not asked, since offline was chosen"
        return [_finding("network", "hub", "note", text)]
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    start = time.monotonic()
    try:
        request = urllib.request.Request(f"{endpoint}/api/models?limit=1", method="GET")
        with urllib.request.urlopen(request, timeout=_NETWORK_SECONDS) as answer:
            answer.read(1)
    except urllib.error.HTTPError:
        pass  # it is there, and says no to this question
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        text = f"{endpoint} does not answer ({reason})"
        mend = "prepare data with longva-eval prepare, and run with HF_HUB_OFFLINE=1"
        return [_finding("network", "hub", "note", text, mend)]
    findings = [
        _finding("network", "hub", "ok", f"{endpoint} answers ({time.monotonic() - start:.1f} s)")
    ]
    token = Path(os.environ.get("HF_TOKEN_PATH") or hf_home_folder() / "token").expanduser()
    if not os.environ.get("HF_TOKEN") and not token.is_file():
        text = "not logged in; most tasks of lmms-eval ask for a login before they download"
        findings.append(_finding("network", "login", "note", text, "hf auth login"))
    return findings


def _check_judge(tasks: Sequence[str]) -> list[Finding]:
    from longva_eval.questions.judge import judge_problems

    if tasks:
        return [_finding("judge", "judge", "problem", problem) for problem in judge_problems(tasks)]
    problems = judge_problems(["longva_activitynetqa"])
    if problems:
        text = (
            "no judge is set up; only open questions need one (Video-ChatGPT, ActivityNet-QA ...)"
        )
        return [_finding("judge", "judge", "note", text, "export OPENAI_API_KEY=...")]
    return [_finding("judge", "judge", "ok", "a judge is set up (not asked)")]


# ---- tasks that were asked for ------------------------------------------------------------------


def _judge_task(
    task: str,
    known: dict[str, list[str] | None],
    statuses: Sequence[DataStatus],
    hub_answers: bool,
    findings: Sequence[Finding],
) -> TaskVerdict:
    from longva_eval.questions.judge import judge_problems

    leaves = known.get(task)
    if leaves is None:
        reason = f"lmms-eval knows no task or group {task!r}; see `lmms-eval --tasks list`"
        return TaskVerdict(name=task, can_run=False, reasons=(reason,))
    wrong = [
        f"{f.name}: {f.text}"
        for f in findings
        if f.status == "problem" and f.area in ("packages", "lmms-eval", "decoding", "data")
    ]
    notes = []
    for leaf in leaves:
        for status in statuses:
            layout = status.layout
            if leaf not in layout.tasks:
                continue
            command = f"longva-eval prepare {layout.name} --from DIR"
            if status.state == "missing" and not hub_answers:
                wrong.append(f"{leaf}: its data is not here and the hub is out of reach; {command}")
            elif status.state == "missing":
                notes.append(f"{leaf}: its data would be downloaded from {layout.dataset}")
            elif status.state == "partly":
                notes.append(
                    f"{leaf}: {status.problem}; add on_error=skip to --model_args, and "
                    "max_failed if it is more than 5 %"
                )
        wrong += judge_problems([leaf])
    reasons = dict.fromkeys([*wrong, *notes] if wrong else notes)
    return TaskVerdict(name=task, can_run=not wrong, reasons=tuple(reasons))


# ---- helpers ------------------------------------------------------------------------------------


def _finding(area: str, name: str, status: Status, text: str, mend: str = "") -> Finding:
    return Finding(area=area, name=name, status=status, text=text, mend=mend)


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that fails is a finding, and the others go on."""
    try:
        return check()
    except Exception as error:
        name = getattr(check, "__name__", "check").removeprefix("_check_")
        return [_finding("machine", name, "problem", f"could not be looked at: {error!r}")]


def _run_python(code: str, *arguments: str) -> tuple[str | None, str]:
    """What a piece of code says after FOUND, in a process of its own; or None and why not."""
    environment: dict[str, Any] = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            timeout=_PROCESS_SECONDS,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"gave no answer within {_PROCESS_SECONDS:.0f} s"
    except OSError as error:
        return None, f"{sys.executable} does not start: {error}"
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if done.returncode == 0 and found:
        return found[-1], ""
    if done.returncode < 0:
        return None, f"the process was ended by signal {-done.returncode}"
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    return None, (lines[-1][:300] if lines else f"exit status {done.returncode} without a message")
