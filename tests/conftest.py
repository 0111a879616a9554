"""What tests share: the golden folders, small checkpoints, and the rule for `../shared`."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported: see longva_eval.cli.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:  # the process that only hands out tests does without PyTorch
    import torch

    from longva_eval.engine.session import Session
    from longva_eval.engine.vision import ClipVision
    from longva_eval.model.checkpoint import Checkpoint
    from longva_eval.needle.items import Item

TESTS = Path(__file__).parent
OPEN = TESTS / "data" / "golden_open"
SHARED = TESTS.parent.parent / "shared"
GOLDEN_FOLDERS = {"open": OPEN, "shared": SHARED / "golden"}
"""Reference outputs of the original code; the second lies beside the repository, where it does."""


_RUNNING: list[pytest.Item] = []
"""The test that is running."""


def _refuse_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """`make quick` leaves out what starts a process, so whatever starts one says so."""
    marks = ("process", "browser")
    if event != "subprocess.Popen" or not _RUNNING:
        return
    if not any(_RUNNING[0].get_closest_marker(mark) for mark in marks):
        pytest.fail(f"This test starts a process; mark it `process`: {arguments[1]}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--forks", action="store_true", help="a process per core that shares imports")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.forks:
        from forks import Forks

        config.pluginmanager.register(Forks())
    if not config.getoption("numprocesses", None):
        import torch

        # Tiny tensors: more threads only wait for each other.
        torch.set_num_threads(1)
        gc.disable()  # until all modules are there
    # How long drawing takes says how busy the machine is, not whether a property holds.
    settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("any machine")
    settings.register_profile("quick", max_examples=25)  # make quick
    sys.addaudithook(_refuse_processes)


def pytest_collection_finish() -> None:
    if "datasets" in sys.modules:
        from datasets import arrow_dataset, fingerprint

        # Pickling all of a small data set to name it takes longer than most that is done with it.
        arrow_dataset.generate_fingerprint = lambda _: fingerprint.generate_random_fingerprint()
    gc.freeze()  # a million objects of PyTorch's and transformers' modules, which stay
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    _RUNNING[:] = [item]
    try:
        return (yield)
    finally:
        _RUNNING.clear()


@dataclass
class Golden:
    """One folder of reference outputs, with its checkpoint open."""

    folder: Path
    session: Session
    data: dict[str, Any]
    arrays: dict[str, torch.Tensor]
    cases: dict[str, dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.cases = {case["id"]: case for case in self.data["cases"]}

    def settings(self, case: dict[str, Any]) -> dict[str, Any]:
        """The case's `config_overrides` as arguments of `open_session` and the adapter."""
        overrides = dict(case.get("config_overrides") or {})
        settings = {
            "mm_spatial_pool_stride": overrides.pop("mm_spatial_pool_stride", 2),
            "mm_spatial_pool_mode": overrides.pop("mm_spatial_pool_mode", "average"),
            "image_aspect_ratio": overrides.pop("image_aspect_ratio", "anyres"),
        }
        limit = overrides.pop("tokenizer_model_max_length", None)
        settings["long_prompt"] = "original" if limit else "error"
        settings["max_context_tokens"] = limit or 224_000
        assert not overrides, overrides
        return settings

    def session_for(self, case: dict[str, Any]) -> Session:
        """The open session with the settings of a case."""
        settings = self.settings(case)
        self.session.vision.pool_stride = settings["mm_spatial_pool_stride"]
        self.session.vision.pool_mode = settings["mm_spatial_pool_mode"]
        self.session.vision.aspect = settings["image_aspect_ratio"]
        self.session.long_prompt = settings["long_prompt"]
        self.session.context_length = settings["max_context_tokens"]
        from longva_eval.media.frames import FramePolicy

        self.session.frames = FramePolicy(max_frames=case.get("num_frames", 8))
        return self.session

    def media(self, case: dict[str, Any]) -> list[Path]:
        """Pictures, then the video, of a case."""
        names = [*case.get("images", []), *([case["video"]] if "video" in case else [])]
        return [self.folder / name for name in names]

    def question(self, case: dict[str, Any]) -> str:
        """What the user says, without the template."""
        prompt: str = case["prompt"]
        return prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0]

    def needles(self) -> list[Item]:
        from longva_eval.media.images import open_image
        from longva_eval.needle.items import Item, Shown

        return [
            Item(
                name=entry["used_image"],
                needles=(Shown(picture=open_image(self.folder / entry["used_image"])),),
                question=entry["question"],
                answer=entry["answer"],
            )
            for entry in self.data["v_niah"]["needles"]
        ]

    def haystack_videos(self) -> list[Path]:
        return [self.folder / name for name in self.data["v_niah"]["haystack_videos"]]


def vision_of(checkpoint: Checkpoint) -> ClipVision:
    """How a checkpoint sees, with pooling as LongVA's."""
    from longva_eval.engine.vision import ClipVision

    return ClipVision(model=checkpoint.model, image_processor=checkpoint.image_processor)


_OPENED: dict[str, Golden] = {}


def golden_folder(name: str) -> Golden:
    """A golden folder, opened once per run."""
    folder = GOLDEN_FOLDERS[name]
    if not (folder / "cases.json").is_file():
        pytest.skip(f"the reference outputs in {folder.name} are not beside this checkout")
    if name not in _OPENED:
        from safetensors.torch import load_file

        from longva_eval.engine.opening import open_session

        _OPENED[name] = Golden(
            folder=folder,
            session=open_session(
                folder / "longva_tiny", device="cpu", dtype="float32", decode_process=False
            ),
            data=json.loads((folder / "cases.json").read_text(encoding="utf-8")),
            arrays=load_file(folder / "cases.safetensors"),
        )
    return _OPENED[name]


def case_ids(name: str, *kinds: str) -> list[str]:
    """Ids of the cases of a folder, without opening it; none if it is not there."""
    path = GOLDEN_FOLDERS[name] / "cases.json"
    if not path.is_file():
        return []
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return [case["id"] for case in cases if case["kind"] in kinds]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests marked with `golden_cases(kinds...)` every case of those kinds."""
    marker = metafunc.definition.get_closest_marker("golden_cases")
    if marker is None:
        return
    folders = marker.kwargs.get("folders", tuple(GOLDEN_FOLDERS))
    found = [(name, case) for name in folders for case in case_ids(name, *marker.args)]
    missing = [name for name in folders if not case_ids(name, *marker.args)]
    parameters = [  # `make quick` asks the project's own
        pytest.param(
            name, case, id=f"{name}-{case}", marks=[pytest.mark.slow] if name != "open" else []
        )
        for name, case in found
    ]
    parameters += [
        pytest.param(
            name,
            "",
            id=f"{name}-missing",
            marks=pytest.mark.skip(reason=f"no reference outputs '{name}' beside this checkout"),
        )
        for name in missing
    ]
    metafunc.parametrize(("golden_name", "case_id"), parameters)


@pytest.fixture
def golden(golden_name: str) -> Golden:
    return golden_folder(golden_name)


@pytest.fixture
def open_golden() -> Golden:
    """The folder that belongs to the project, always there."""
    return golden_folder("open")


@pytest.fixture
def shared_folder() -> Path:
    """Inputs that lie beside the repository for its developers."""
    if not SHARED.is_dir():
        pytest.skip("the folder with shared inputs is not beside this checkout")
    return SHARED


@pytest.fixture
def copy_checkpoint(tmp_path: Path) -> Callable[[], Path]:
    """A fresh, writable copy of the small checkpoint, to break."""
    import shutil

    numbers: Iterator[int] = iter(range(100))

    def copy() -> Path:
        target = tmp_path / f"checkpoint{next(numbers)}"
        shutil.copytree(OPEN / "longva_tiny", target)
        return target

    return copy
