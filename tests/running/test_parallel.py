"""Several devices of one process, several machines, and what takes the place of a larger engine."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lmms_eval.models as host_models
import pytest
import torch
from accelerate import cpu_offload, dispatch_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from conftest import OPEN, TESTS
from PIL import Image
from small_task import result_files
from tiny_llava_next import make_checkpoint

from longva_eval.cli import main
from longva_eval.engine.generation import GenerationSettings
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import EvaluationError, SettingsError
from longva_eval.media.frames import FramePolicy
from longva_eval.model.rope import RopeSettings
from longva_eval.model_adapters.longva import LongVA
from longva_eval.prompts.pieces import tokenize
from longva_eval.prompts.visits import Query
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.tables.overview import show_run

PAGE = TESTS.parent / "docs" / "parallel.md"
QUESTIONS = ("What happens?", "How many rings are there?")


def small_session() -> Session:
    return open_session(
        OPEN / "longva_tiny",
        device="cpu",
        dtype="float32",
        frames=FramePolicy(max_frames=3),
        chunk_tokens=300,
        decode_process=False,
    )


def answers(session: Session) -> dict[str, Any]:
    """Tokens and logits: greedy answers, with another RoPE base, and forced answers."""
    found: dict[str, Any] = {"tokens": [], "logits": []}
    video = str(OPEN / "inputs/landscape_320x180.mp4")
    prompts = [session.prompt(question, [video]) for question in QUESTIONS]
    for theta in (None, 5e5):
        if theta is not None:
            session.change_rope(RopeSettings(theta=theta))
        for answer in session.generate(prompts, GenerationSettings(max_new_tokens=8)):
            assert not isinstance(answer, EvaluationError)
            found["tokens"].append(answer.token_ids)
        queries = [Query(p.prompt, read_from=p.prompt.num_tokens - 4) for p in prompts]
        for visit in session.engine.visit(queries):
            found["logits"].append(visit.logits.clone())
    expected = tokenize(session.checkpoint.tokenizer, "a red ring")
    forced = session.force([p.prompt for p in prompts], [expected] * 2, max_new_tokens=2)
    found["logits"] += [torch.tensor(one.scores.log_probs) for one in forced]
    found["tokens"] += [one.generated for one in forced]
    return found


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


@pytest.mark.slow
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


@pytest.mark.slow
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


# What takes the place of an engine over several GPUs.


@pytest.mark.parametrize("name", ["tensor_parallel", "context_parallel"])
def test_a_model_larger_than_a_gpu_is_sent_to_what_can_do_it(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is not an argument.*device_map=auto.*vllm"):
        LongVA(pretrained="longva-tiny", device="cpu", **{name: 2})


def documented_commands() -> list[dict[str, str]]:
    """Options of the commands in docs/parallel.md that run one of the host's own models."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in re.findall(r"^    (longva-eval run .*)$", text, re.MULTILINE):
        words = shlex.split(line)[2:]
        options = dict(zip(words[::2], words[1::2], strict=False))
        if options["--model"] != "longva":
            found.append(options)
    return found


def named_arguments(path: Path, class_name: str) -> Iterator[str]:
    """Arguments of `__init__` of a class in a file, read without importing it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                    yield from (argument.arg for argument in item.args.args)


def test_the_documented_lines_for_vllm_and_sglang_have_arguments_of_the_hosts_models() -> None:
    commands = documented_commands()
    assert [options["--model"] for options in commands] == ["vllm", "sglang"]
    spec = find_spec("lmms_eval.models")
    assert spec is not None
    assert spec.origin is not None
    for options in commands:
        model = options["--model"]
        class_name = host_models.AVAILABLE_CHAT_TEMPLATE_MODELS[model]
        path = Path(spec.origin).parent / "chat" / f"{model}.py"
        known = set(named_arguments(path, class_name))
        given = {part.split("=")[0] for part in options["--model_args"].split(",")}
        assert {"model", "tensor_parallel_size", "nframes"} <= given <= known


@pytest.mark.process
# lmms-eval leaves the file of its results open.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_our_tasks_and_reports_work_with_a_model_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (options, _) = documented_commands()
    tasks = options["--tasks"].replace("longva_videomme", "longva_mini_small")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    command = ["run", "--model", "dummy", "--model_args", "response=B", "--tasks", tasks]
    command += ["--limit", "4", "--output_path", str(tmp_path / "out"), "--log_samples"]
    assert main(command) == 0
    samples = {path.name.split("_samples_")[1]: path for path in result_files(tmp_path / "out")[1:]}
    assert sorted(samples) == ["longva_mini_small.jsonl", "vniah_generate_frames.jsonl"]
    lines = samples["longva_mini_small.jsonl"].read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["filtered_resps"] for line in lines] == ["B"] * 4
    shown = show_run(read_run(tmp_path / "out"), width=100)
    assert "longva_mini_small" in shown
    assert "vniah_generate_frames" in shown


# The recipe for several machines.


def slurm_script() -> str:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (script,) = [block for block in blocks if "#SBATCH" in block]
    return str(script)


@pytest.mark.process
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
