"""Python processes that begin with PyTorch loaded, so that a command's start costs a third.

A server forks each of them: it has a memory, folder, environment, streams and exit status of its
own, like a process that was started, and `-m`, `-c` and a script mean what they mean there. Workers
of torchrun are forked too. What reads the environment when it is imported (transformers, datasets,
lmms-eval) is not loaded before. Tests of the start itself use `subprocess`.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.process
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Process", "run"]

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch._inductor.test_operators", "torch.distributed.fsdp",
     "torchvision", "scipy.stats", "pandas", "pyarrow.dataset", "sympy", "matplotlib.figure",
     "PIL.Image", "av", "aiohttp", "requests", "jinja2"]
)  # fmt: skip
_STARTING = threading.Lock()


class Process:
    """A process that has begun; what tests use of `subprocess.Popen`.

    Args:
        command: This interpreter, then `-m MODULE`, `-c CODE` or a script, and arguments.
        stdout: File that its output is added to.
        stderr: The same for its errors.
        cwd: Folder; the present one if None.
        env: Its whole environment; the present one if None.
        leads: Whether it leads a session of its own.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        stdout: Path,
        stderr: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        leads: bool = False,
    ) -> None:
        python, *arguments = map(str, command)
        assert python == sys.executable
        sys.audit("subprocess.Popen", python, [python, *arguments], cwd, env)
        self.args = [python, *arguments]
        self._process = _FORKING.Process(
            target=_become,
            args=(arguments, cwd or Path.cwd(), dict(env or os.environ), [stdout, stderr], leads),
        )
        with _STARTING:
            before = dict(os.environ)
            os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE")  # of the server
            try:
                self._process.start()
            finally:
                os.environ.clear()
                os.environ.update(before)
            # No other thread that starts one looks after this one.
            multiprocessing.process._children.discard(self._process)  # type: ignore[attr-defined]
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit status, or the number of its signal below 0; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, within `timeout` seconds."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """What `subprocess.run(command, capture_output=True, text=True)` gives."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = Process(command, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
        status = process.wait(timeout)
        return subprocess.CompletedProcess(
            process.args, status, stdout.read_text("utf-8"), stderr.read_text("utf-8")
        )


def _become(
    arguments: list[str],
    cwd: Path,
    environment: dict[str, str],
    streams: list[Path],
    leads: bool,
) -> None:
    """Be the process of a command, to its end."""
    import torch

    gc.freeze()
    if leads:
        os.setsid()
    for number, path in enumerate(streams, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    torch.set_num_threads(1)
    places = (sys.prefix, sys.base_prefix)
    installed = [path for path in sys.path if any(map(Path(path).is_relative_to, places))]
    named = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    option, *rest = arguments
    first = {"-m": str(cwd), "-c": ""}.get(option, str(Path(option).parent))
    sys.path[:] = [first, *named, *installed]
    sys.argv[:] = [option, *(rest[1:] if option in ("-m", "-c") else rest)]
    if arguments[:2] == ["-m", "torch.distributed.run"]:
        _fork_workers(*streams)
    status: object = 0
    try:
        if option == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif option == "-c":
            main = types.ModuleType("__main__")
            sys.modules["__main__"] = main
            exec(rest[0], main.__dict__)
        else:
            runpy.run_path(option, run_name="__main__")
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.exit(status)


def _fork_workers(stdout: Path, stderr: Path) -> None:
    """Have the server that forked this process fork those that torchrun starts."""
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    def start(args: Sequence[str], env: Mapping[str, str], **_: object) -> Process:
        command = [word for place, word in enumerate(args) if (place, word) != (1, "-u")]
        return Process(command, env=env, stdout=stdout, stderr=stderr, leads=True)

    multiprocessing.forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    sys.path.append(str(Path(__file__).parent))  # where the server's process finds this module
    subprocess_handler.Popen = start
