"""Does everything still work with the newest, or the oldest, packages that pyproject.toml admits?

    python .ci/other_versions.py newest|oldest [--python 3.12]

Makes an environment in .venv-newest or .venv-oldest, runs an evaluation through lmms-eval and the
tests that start no process, and prints how its packages differ from the tested set
(requirements.lock). If something fails, packages are put back to their tested versions, half of the
suspects at a time, until it works (of tests, those that failed): that names the package that broke
it.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
RESOLUTION = {"newest": "highest", "oldest": "lowest-direct"}
TEST_TOOLS = ("hypothesis", "pytest", "pytest-timeout")
"""The newest of these in both environments: their age is not what is tried."""

_READ_LOCK = """
import sys
from packaging.requirements import Requirement
for line in open(sys.argv[1], encoding="utf-8"):
    if line[0].isalnum():
        requirement = Requirement(line.rstrip("\\\\\\n "))
        if requirement.marker is None or requirement.marker.evaluate():
            print(f"{requirement.name}{requirement.specifier}")
"""

Check = Callable[[Path], str | None]
"""Given the environment's Python: None if it works, or what was printed."""


def main() -> int:
    """Make the environment and try it. Returns 0 if everything worked, else 1."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("which", choices=RESOLUTION)
    parser.add_argument("--python", default=sys.executable, help="a version, or an interpreter")
    options = parser.parse_args()
    folder = ROOT / f".venv-{options.which}"
    print(f"== The {options.which} packages, in {folder.name} ==", flush=True)
    uv("venv", "--clear", "--python", options.python, str(folder))
    python = folder / "bin" / "python"
    # The lowest version that this Python has a wheel of: older ones rarely build.
    wheels = [part for name in our_dependencies() for part in ("--only-binary", name)]
    how = ("--resolution", RESOLUTION[options.which], *wheels)
    uv("pip", "install", "--python", str(python), *how, "--editable", str(ROOT))
    uv("pip", "install", "--python", str(python), *TEST_TOOLS)

    tested = versions(run(python, "-c", _READ_LOCK, ROOT / "requirements.lock"))
    here = versions(uv("pip", "freeze", "--python", str(python)))
    changed = sorted(name for name in here if here[name] != tested.get(name, here[name]))
    about = run(python, "-c", "import platform; print('Python', platform.python_version())").strip()
    print(f"{about}; {len(changed)} packages differ from the tested set:")
    print("\n".join(f"  {name} {tested[name]} -> {here[name]}" for name in changed), flush=True)
    failed = False
    checks: dict[str, Check] = {"an evaluation": evaluation, "quick tests": quick_tests}
    for name, check in checks.items():
        start = time.monotonic()
        log = check(python)
        seconds = time.monotonic() - start
        print(f"{name}: {'works' if log is None else 'FAILS'} ({seconds:.0f} s)", flush=True)
        if log is not None:
            failed = True
            print("\n".join(f"  | {line}" for line in log.strip().splitlines()[-30:]), flush=True)
            tests = set(re.findall(r"(?m)^(?:FAILED|ERROR) (tests/[\w/.]+(?:::\w+)?)", log))
            again = partial(quick_tests, only=sorted(tests)) if tests else check
            # Tested versions need packages that these do not, such as CUDA's in another version.
            put(python, [f"{name}=={tested[name]}" for name in tested if name not in here])
            broke = culprits(python, again, {name: (here[name], tested[name]) for name in changed})
            if broke:
                print(f"  These broke it: {', '.join(f'{n} {here[n]}' for n in broke)}")
            else:
                print("  No package alone: it fails with the tested versions too.")
    print(f"{options.which} packages, {about}: {'FAILED' if failed else 'all works'}", flush=True)
    return int(failed)


def our_dependencies() -> list[str]:
    """The packages that pyproject.toml names (Python 3.10 has no reader of TOML)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = text.split("\ndependencies = [")[1].split("\n]")[0]
    return re.findall(r'^ +"([\w-]+)', listed, re.MULTILINE)


def evaluation(python: Path) -> str | None:
    """Two documents of the mini suite, asked by lmms-eval of the embedded model."""
    with tempfile.TemporaryDirectory() as out:
        return failure(
            python, "-m", "longva_eval", "run", "--model", "longva", "--tasks", "longva_mini_small",
            "--model_args", "pretrained=longva-tiny,device=cpu,max_frames_num=8", "--limit", "2",
            "--output_path", out,
        )  # fmt: skip


def quick_tests(python: Path, *, only: Sequence[str] = ()) -> str | None:
    """The tests of `make quick`, or some of them."""
    return failure(
        python, "-m", "pytest", "-q", "--forks", "-p", "no:cacheprovider",
        "-m", "not process and not browser and not slow", "--hypothesis-profile", "quick", *only,
    )  # fmt: skip


def culprits(python: Path, check: Check, changed: dict[str, tuple[str, str]]) -> list[str]:
    """Of packages with their present and tested versions, those that break a check.

    Halves the suspects while one half, put back to its tested versions, mends the check; what is
    left when neither half does broke it together. Empty if even all of them mend nothing.
    """

    def mended_by(names: list[str]) -> bool:
        put(python, [f"{name}=={changed[name][1]}" for name in names])
        works = check(python) is None
        put(python, [f"{name}=={changed[name][0]}" for name in names])
        return works

    suspects = list(changed)
    if not suspects or not mended_by(suspects):
        return []
    while len(suspects) > 1:
        middle = len(suspects) // 2
        for half in (suspects[:middle], suspects[middle:]):
            if mended_by(half):
                suspects = half
                break
        else:
            break
    return suspects


def put(python: Path, pins: list[str]) -> None:
    """Install exactly these versions, whatever else is there asks for."""
    uv("pip", "install", "--no-deps", "--python", str(python), *pins)


def versions(lines: str) -> dict[str, str]:
    """Name -> version of the lines `name==version`."""
    return dict(line.split("==", 1) for line in lines.splitlines() if "==" in line)


def uv(*arguments: str) -> str:
    """What a command of uv prints; ends this program with its message if it fails."""
    return run(UV, *arguments)


def run(*command: str | Path) -> str:
    """What a command prints; ends this program with its message if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command[:4]))} failed:\n{done.stderr}")
    return done.stdout


def failure(*command: str | Path) -> str | None:
    """None if a command ends with status 0, otherwise what it printed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    return None if done.returncode == 0 else done.stdout


if __name__ == "__main__":
    sys.exit(main())
