"""`longva-eval`: its subcommands, each loaded when it is called.

So `longva-eval --help` and the commands that only read files start without torch.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from longva_eval import __version__
from longva_eval.errors import EvaluationError, ResourceError, nearest
from longva_eval.text import Terminal

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "run": "lmms-eval's own run, resumed where it was interrupted, with an honest exit status",
    "niah": "V-NIAH: hide pictures in a video, ask for them at every depth and length",
    "heatmap": "draw one or several all_accuracies.json in one figure",
    "compare": "runs beside published scores, or against a baseline, with honest statistics",
    "power": "how many questions show a difference, before anything is run",
    "reproduce": "a table or figure of the LongVA paper: cost, missing data, runs, verdict",
    "explain": "why two runs differ: recipes, prompts, frames, readings, and the gap by cause",
    "rescore": "one run's answers under the rules of boards and other harnesses",
    "show": "a run in the terminal: scores, outcomes, problems, single questions",
    "report": "one self-contained page about runs, with the frames the model saw",
    "view": "a folder of runs in the browser, up to date while they answer",
    "export": "a run as a log of another viewer: inspect_ai's",
    "sweep": "one model at several numbers of frames and RoPE settings, loaded and decoded once",
    "plan": "tokens, FLOPs, memory and time of a run before it is started",
    "demo": "V-NIAH, a sweep, a comparison and a page, offline, in minutes",
    "doctor": "what this environment can run, and how to mend what it cannot",
    "verify": "our engine beside transformers' own generate(), on any checkpoint of a known family",
    "prepare": "check a local copy of a benchmark and lay it out for runs without a network",
    "submit": "a complete run as the file a leaderboard takes; sends nothing",
    "tasks-path": "print the folder of our lmms-eval tasks, for --include_path",
}
"""What each does; it is `main` of the module in `longva_eval.commands` of that name."""

_OF_THE_DISK = frozenset(
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO]
)
"""Errors that the user's disk makes, wherever in the program they come up."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit status: 0, 1 for an error, 2 for a wrong call."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else ""
    stdout, stderr = sys.stdout, sys.stderr
    streams: Any = sys  # they are typed as files, and need only what print() asks for
    if stdout is not None:  # closed, as by a shell's >&-
        streams.stdout = Terminal(stdout, "Standard output")
    if stderr is not None:
        streams.stderr = Terminal(stderr, "Standard error", bars=True)
    try:
        return _run(name, arguments[1:])
    except EvaluationError as error:
        _discard_output(stdout)
        with contextlib.suppress(ResourceError, BrokenPipeError):
            print(f"longva-eval {name}: {error}".replace("\r", "\\r"), file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough: `longva-eval plan | head`
        _discard_output(stdout)
        return 0
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = error.filename or "a file"
        print(f"longva-eval {name}: {where}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nlongva-eval {name}: stopped.", file=sys.stderr)
        return 130
    finally:
        streams.stdout, streams.stderr = stdout, stderr


def _run(name: str, arguments: Sequence[str]) -> int:
    if name in ("", "-h", "--help", "help"):
        print(_usage(), flush=True)
        return 0 if name else 2
    if name in ("-V", "--version"):
        print(f"longva-eval {__version__}", flush=True)
        return 0
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f"\n\n{_usage()}"
        print(f"longva-eval: there is no command {name!r}.{hint}", file=sys.stderr)
        return 2
    # Read when torch is loaded. Threads that wait by spinning make a busy machine several times
    # slower, and small models on a CPU wait often.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from longva_eval.commands.mistakes import check_arguments

    _log_to_terminal()
    try:
        check_arguments(name, arguments)
        command = importlib.import_module(f"longva_eval.commands.{name.replace('-', '_')}")
        status = command.main(arguments)
    except SystemExit:  # argparse has printed its help
        print(end="", flush=True)
        raise
    print(end="", flush=True)
    return int(status or 0)


def _discard_output(stdout: Any) -> None:
    """Leave nothing for Python to write at its end, where it could only fail."""
    try:
        print(end="", file=stdout, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())


def _log_to_terminal() -> None:
    """Plain lines on standard error; libraries only log, commands say where to."""
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="INFO", format="{message}")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return (
        "usage: longva-eval COMMAND [OPTIONS]      (longva-eval COMMAND --help tells more)\n\n"
        + "\n".join(lines)
        + "\n\nEvaluations run in lmms-eval itself:\n"
        "  lmms-eval --model longva --tasks longva_videomme --model_args pretrained=longva-tiny"
    )
