"""One model over several processes, and over several devices of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from conftest import OPEN
from parallel_worker import answers, small_session
from PIL import Image
from small_task import comparable, differences, run_command, run_environment, write_tasks
from tiny_llava_next import make_checkpoint

from longva_eval.commands.niah import main as niah
from longva_eval.commands.run import _tensor_parallel
from longva_eval.engine.session import open_session
from longva_eval.errors import SettingsError
from longva_eval.model_adapters.longva import LongVA
from longva_eval.prompts.visits import Query
from longva_eval.running.tensor_parallel import check_divisible, check_tensor_parallel, joined

TESTS = Path(__file__).parents[1]
WORKER = TESTS / "parallel_worker.py"
RECIPE = TESTS.parent / "docs" / "parallel.md"
LIMIT_SECONDS = 240


def close(one: torch.Tensor, two: torch.Tensor) -> None:
    # float32; sums over heads and inner features are taken in two parts.
    torch.testing.assert_close(one, two, rtol=0, atol=5e-5)


# What is refused.


@pytest.mark.parametrize(
    ("size", "settings", "message"),
    [
        (0, {}, r"tensor_parallel=0 must be at least 1"),
        (2, {}, r"torchrun --nproc-per-node 2 -m longva_eval run"),
        (2, {"device_map": "auto"}, r"Use one of them"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    size: int, settings: dict[str, Any], message: str
) -> None:
    values = {"device": "auto", "device_map": None, **settings}
    with pytest.raises(SettingsError, match=message):
        check_tensor_parallel(size, **values)


@pytest.mark.parametrize(
    ("changes", "raw", "message"),
    [
        ({}, {}, r"tensor_parallel=4 does not divide the 6 heads and 2 KV heads.*possible: 2\."),
        ({"base_model_tp_plan": None}, {}, r"no plan for dividing"),
        ({}, {"quantization_config": {"bits": 4}}, r"is quantised"),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused_before_its_weights_are_read(
    changes: dict[str, Any], raw: dict[str, Any], message: str
) -> None:
    config = SimpleNamespace(
        **{"num_attention_heads": 6, "num_key_value_heads": 2, "base_model_tp_plan": {"x": "y"}}
        | changes
    )
    with pytest.raises(SettingsError, match=message):
        check_divisible(4, config, raw, OPEN / "longva_tiny")


def test_longva_7b_can_be_divided_two_and_four_ways() -> None:
    config = SimpleNamespace(
        num_attention_heads=28, num_key_value_heads=4, base_model_tp_plan={"x": "y"}
    )
    for size in (1, 2, 4):
        check_divisible(size, config, {}, Path("LongVA-7B"))
    with pytest.raises(SettingsError, match=r"possible: 2, 4\."):
        check_divisible(8, config, {}, Path("LongVA-7B"))


def test_processes_that_were_not_started_cannot_join() -> None:
    with pytest.raises(SettingsError, match=r"needs 2 processes, and 1 were started"), joined(2):
        pass


def test_several_teams_in_one_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=r"4 were started.*Several teams in one run"), joined(2):
        pass


def test_lmms_eval_alone_is_told_how_to_start_processes_that_share() -> None:
    with pytest.raises(SettingsError, match=r"lmms-eval by itself would give each process other"):
        LongVA(pretrained="longva-tiny", device="cpu", tensor_parallel=2)


def test_context_parallel_is_refused_with_its_reason() -> None:
    with pytest.raises(SettingsError, match=r"refuses queries that are fewer than keys"):
        LongVA(pretrained="longva-tiny", device="cpu", context_parallel=2)


def test_the_command_says_how_many_processes_share_the_model(tmp_path: Path) -> None:
    def sizes(text: str, *more: str) -> int:
        return _tensor_parallel(["--model", "longva", "--model_args", text, *more])

    assert sizes("pretrained=longva-tiny") == 1
    assert sizes("pretrained=longva-tiny,tensor_parallel=4") == 4
    assert _tensor_parallel(["--model", "other", "--model_args", "tensor_parallel=4"]) == 1
    with pytest.raises(SettingsError, match="tensor_parallel='many' must be a whole number"):
        sizes("tensor_parallel=many")
    path = tmp_path / "runs.yaml"
    run = "- model: longva\n  model_args: pretrained=longva-tiny,tensor_parallel=%d\n"
    path.write_text(run % 2)
    assert _tensor_parallel(["--config", str(path)]) == 2
    path.write_text(run % 2 + run % 4)
    with pytest.raises(SettingsError, match="start them as commands of their own"):
        _tensor_parallel(["--config", str(path)])


# Several devices in one process.


def offload_all(model: torch.nn.Module, folder: Path) -> None:
    cpu_offload(model, execution_device=torch.device("cpu"))


def spread(model: torch.nn.Module, folder: Path) -> None:
    """Parts with hooks, some of them on disk until they are needed."""
    places = {
        "model.embed_tokens": "disk",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.layers.2": "cpu",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "model.vision_tower": "disk",
        "model.mm_projector": "cpu",
        "lm_head": "disk",
    }
    dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize("place", [offload_all, spread])
def test_a_model_that_is_spread_gives_the_same_numbers(
    place: Callable[[torch.nn.Module, Path], None], tmp_path: Path
) -> None:
    whole, parted = small_session(), small_session()
    place(parted.checkpoint.model, tmp_path)  # type: ignore[arg-type]  # it is a module
    assert parted.checkpoint.model.model.embed_tokens.weight.is_meta
    one, two = answers(whole), answers(parted)
    assert one["tokens"] == two["tokens"]
    for expected, found in zip(one["logits"], two["logits"], strict=True):
        assert torch.equal(expected, found)
    assert parted.describe()["device"] == "cpu"
    assert len(parted.checkpoint.vision_digest()) == 24


def test_the_newline_of_pictures_is_found_wherever_it_lies(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path, "pictures-llama")
    found = []
    for place in (None, offload_all):
        session = open_session(checkpoint, device="cpu", dtype="float32", decode_process=False)
        if place is not None:
            place(session.checkpoint.model.inner, tmp_path)  # type: ignore[attr-defined]
        prompt = session.prompt("What is it?", [Image.new("RGB", (90, 50), "red")])
        visits = session.engine.visit([Query(prompt.prompt)])
        found.append([visit.logits.clone() for visit in visits])
    assert torch.equal(found[0][0], found[1][0])


# Several processes.


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **more}


def torchrun(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *arguments]
    return subprocess.run(
        command, env=environment(**more), capture_output=True, text=True, timeout=LIMIT_SECONDS
    )


@contextmanager
def two_processes(folder: Path, mode: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes with nothing above them that would end one for the other."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = str(probe.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), "2", str(folder), mode],
            env=environment(
                RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="localhost",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.slow
def test_two_processes_that_share_a_model_say_what_one_says(tmp_path: Path) -> None:
    run = torchrun(str(WORKER), "2", str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("loaded") == 1
    two = torch.load(tmp_path / "2.pt", weights_only=True)
    one = answers(small_session())
    assert one["tokens"] == two["tokens"]
    assert one["generated"] == two["generated"]
    for expected, found in zip(one["logits"], two["logits"], strict=True):
        close(expected, found)
    close(torch.tensor(one["forced"]), torch.tensor(two["forced"]))
    assert "hold one at a time" in two["replaced"]


@pytest.mark.slow
def test_a_machine_without_the_checkpoint_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    with two_processes(tmp_path, "elsewhere") as processes:
        output, error = processes[0].communicate(timeout=LIMIT_SECONDS)
    assert processes[0].returncode == 1
    assert "loaded" not in output
    assert "Process 1 of 2 failed: CheckpointError: pretrained=./longva_tiny: there is no" in error


@pytest.mark.slow
@pytest.mark.parametrize("ended", [0, 1])
def test_a_process_that_is_killed_ends_the_other(ended: int, tmp_path: Path) -> None:
    with two_processes(tmp_path, "endless") as processes:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline().strip() == "loaded"
        processes[ended].kill()
        began = time.monotonic()
        _, error = processes[1 - ended].communicate(timeout=60)
        assert time.monotonic() - began < 60
    assert processes[1 - ended].returncode not in (0, -signal.SIGKILL)
    assert re.search(r"lost the others|connection between the processes is gone", error)


@pytest.mark.slow
def test_a_process_that_falls_silent_ends_the_other(tmp_path: Path) -> None:
    with two_processes(tmp_path, "silent") as processes:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline().strip() == "loaded"
        processes[1].send_signal(signal.SIGSTOP)
        _, error = processes[0].communicate(timeout=60)
    assert processes[0].returncode == 1
    assert "Process 1 of 2 has not been heard of for 8 s" in error


@pytest.mark.slow
def test_niah_on_two_processes_gives_the_cells_of_one(tmp_path: Path) -> None:
    found = []
    for size in (1, 2):
        out = tmp_path / str(size)
        options = ["--pretrained", "longva-tiny", "--frames", "4", "--depths", "0,1"]
        options += ["--device", "cpu", "--dtype", "float32", "--no-controls"]
        options += ["--tensor-parallel", str(size), "--out", str(out)]
        if size == 2:
            run = torchrun("-m", "longva_eval", "niah", *options)
            assert run.returncode == 0, run.stderr
            assert run.stdout.count("Every answer:") == 1
        else:
            assert niah(options) == 0
        found.append([json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()])
        record = json.loads((out / "run.json").read_text())
        assert record["model"].get("tensor_parallel", 1) == size
    assert len(found[0]) == len(found[1]) > 0
    for one, two in zip(*found, strict=True):
        assert {k: v for k, v in one.items() if not isinstance(v, (float, list))} == {
            k: v for k, v in two.items() if not isinstance(v, (float, list))
        }


@pytest.mark.slow
def test_a_run_on_two_processes_that_share_the_model_writes_the_files_of_one(
    tmp_path: Path,
) -> None:
    write_tasks(tmp_path / "tasks", num_videos=1)
    found = []
    for size in (1, 2):
        output = tmp_path / str(size)
        command = run_command(
            tmp_path / "tasks",
            output,
            names=["small_generate"],
            processes=size,
            model_args=f",tensor_parallel={size}",
        )
        run = subprocess.run(
            command, env=run_environment(tmp_path), capture_output=True, text=True,
            cwd=tmp_path, timeout=2 * LIMIT_SECONDS,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        # One process speaks, and one journals.
        assert run.stdout.count("Everything that was asked for is there.") == 1
        assert len(list(output.rglob("journal/*/*.jsonl"))) == 1
        found.append(comparable(output))
    one, two = found
    assert differences(one, two) == ["longva_eval"]
    assert two["longva_eval"].pop("tensor_parallel") == 2
    assert differences(one, two) == []


# The recipe for several machines.


def slurm_script() -> str:
    blocks = re.findall(r"```bash\n(.*?)```", RECIPE.read_text(encoding="utf-8"), re.DOTALL)
    (script,) = [block for block in blocks if "#SBATCH" in block]
    return str(script)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_starts_one_launcher_per_machine(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(slurm_script())
    subprocess.run(["bash", "-n", str(script)], check=True)
    stubs = {
        "scontrol": 'printf "node7\\nnode8\\n"',
        "srun": 'while [[ $1 == --* ]]; do shift; done; for n in 0 1; do "$@"; done',
        "torchrun": 'printf "%s " "$@"; echo',
    }
    for name, body in stubs.items():
        path = tmp_path / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    run = subprocess.run(
        ["bash", str(script)],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "42", "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node[7-8]", "SHARED": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    lines = run.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "--nnodes 2 " in line
        assert "--rdzv-endpoint node7:29500 --rdzv-id 42 " in line
        assert "-m longva_eval run --model longva " in line
        assert f"--output_path {tmp_path}/" in line
