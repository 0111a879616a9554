"""Files and rows that mean harm: nothing is run, nothing outside read, nothing takes for ever."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset
from lmms_eval.api.instance import Instance
from PIL import Image, ImageFile
from safetensors.torch import load_file
from video_files import Clip, write_video

from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.errors import CheckpointError, EvaluationError, MediaError
from longva_eval.families.loading import load_checkpoint
from longva_eval.media.frames import FramePolicy
from longva_eval.media.images import open_image
from longva_eval.model.settings import LoadSettings
from longva_eval.model_adapters.longva import LongVA
from longva_eval.questions import documents
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.outcomes import FAILED
from longva_eval.questions.pictures import open_picture
from longva_eval.running.journal import Journal

ROOT = Path(__file__).parents[2]
PACKAGED = ("longva_eval", "model_adapters", "reports", "tasks")
SECONDS = 60.0
"""Within which a hostile checkpoint must be refused, on a machine that does other things."""

# Our own code -------------------------------------------------------------------------------------

_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
_CALLS = {
    "eval", "exec", "compile", "os.system", "os.popen", "torch.load", "numpy.load", "np.load",
    "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "pd.read_pickle",
}  # fmt: skip
_FLAGS = {"trust_remote_code", "allow_pickle", "weights_only", "shell"}


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _dangers(tree: ast.AST) -> Iterator[str]:
    """What could run code that comes from a file."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            yield from (name for name in names if name.split(".")[0] in _MODULES)
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name in _CALLS:
                yield name
            if name in ("yaml.load", "yaml.load_all"):
                given = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
                loaders = [_name(loader) for loader in given]
                if not loaders or not all(loader in _SAFE_LOADERS for loader in loaders):
                    yield f"{name} with {loaders or 'no loader'}"
            for keyword in node.keywords:
                is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg in _FLAGS and not is_off:
                    yield f"{name}({keyword.arg}=...)"


_SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader", "Loader"}
"""The last is a class of ours, see the test."""


@pytest.mark.slow
def test_nothing_in_the_package_can_run_code_that_a_file_brings() -> None:
    found = []
    for folder in PACKAGED:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
            found += [f"{path.relative_to(ROOT)}: {danger}" for danger in _dangers(tree)]
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and node.name == "Loader":
                    # The host's own tasks are code: their `!function` names a module beside them.
                    of_host = path.name == "patches.py"
                    base = "yaml.CFullLoader" if of_host else "yaml.SafeLoader"
                    assert [_name(each) for each in node.bases] == [base], path
    assert found == ["longva_eval/host/patches.py: yaml.full_load"]  # likewise


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "torch.load('x')",
     "yaml.load(text)", "yaml.load(text, yaml.Loader)", "f(trust_remote_code=True)",
     "np.load(p, allow_pickle=flag)", "subprocess.run(c, shell=True)"],
)  # fmt: skip
def test_such_code_would_be_found(code: str) -> None:
    assert list(_dangers(ast.parse(code)))


# Checkpoints --------------------------------------------------------------------------------------


class _Touch:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _refuse(folder: Path, match: str) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(folder, LoadSettings(device="cpu", dtype="float32"))
    assert time.monotonic() - began < SECONDS


def _one_file(folder: Path) -> Path:
    """Leave one weight file, without an index."""
    for path in folder.glob("model*"):
        path.unlink()
    return folder / "model.safetensors"


def test_pickles_are_not_opened_under_any_name(
    copy_checkpoint: Callable[[], Path], tmp_path: Path
) -> None:
    data = pickle.dumps(_Touch(tmp_path / "was-run"))
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.safetensors"):
        folder = copy_checkpoint()
        _one_file(folder)
        (folder / name).write_bytes(data)
        _refuse(folder, r"no \*\.safetensors weights|model\.safetensors cannot be read")
    folder = copy_checkpoint()
    index = folder / "model.safetensors.index.json"
    (folder / "weights.bin").write_bytes(data)
    weight_map = dict.fromkeys(json.loads(index.read_text())["weight_map"], "weights.bin")
    index.write_text(json.dumps({"weight_map": weight_map}))
    _refuse(folder, r"names 'weights\.bin', which is no \.safetensors file beside it")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("name", ["../out.safetensors", "/etc/passwd", "a/b.safetensors", ""])
def test_an_index_cannot_name_files_elsewhere(
    copy_checkpoint: Callable[[], Path], name: str
) -> None:
    folder = copy_checkpoint()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    _refuse(folder, r"which is no \.safetensors file beside it")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 90_000_000) + b"{" + b" " * 1000,
        struct.pack("<Q", 10) + b"[" * 10,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
    ids=["empty", "all ones", "2^62", "longer than the file", "no JSON", "no tensors", "deep"],
)
def test_weight_files_with_a_wrong_header_are_refused(
    copy_checkpoint: Callable[[], Path], data: bytes
) -> None:
    folder = copy_checkpoint()
    _one_file(folder).write_bytes(data)
    _refuse(folder, r"model\.safetensors cannot be read|does not hold the weights|config\.json")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 1 << 60]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "PICKLE", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
    ],
)
def test_tensors_that_claim_more_than_there_is_are_refused(
    copy_checkpoint: Callable[[], Path], entry: dict[str, Any]
) -> None:
    folder = copy_checkpoint()
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    _one_file(folder).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    _refuse(folder, r"model\.safetensors cannot be read")


_NAMES_AND_SIZES = [
    (name, value)
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                 "num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    for value in (-1, 0, 1 << 40, "many", None)
    if not (name == "num_key_value_heads" and value is None)
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), _NAMES_AND_SIZES)
def test_sizes_that_are_none_are_refused_before_memory_is_asked_for(
    copy_checkpoint: Callable[[], Path], name: str, value: Any
) -> None:
    folder = copy_checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    _refuse(folder, name)


@pytest.mark.parametrize(
    "values",
    [{"vocab_size": 1 << 23}, {"intermediate_size": 1 << 18, "num_hidden_layers": 1000},
     {"head_dim": 1 << 12, "num_attention_heads": 1 << 10}],
)  # fmt: skip
def test_a_configuration_of_a_far_larger_model_is_refused(
    copy_checkpoint: Callable[[], Path], values: dict[str, Any]
) -> None:
    folder = copy_checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    _refuse(folder, r"asks for [\d,]+ weights .*They do not belong together")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vision_tower/config.json", {"num_hidden_layers": 1 << 40}, "num_hidden_layers"),
        ("vision_tower/config.json", {"hidden_size": 1 << 40}, "hidden_size"),
        ("vision_tower/config.json", {"image_size": 1 << 30}, "image_size"),
        ("vision_tower/config.json", {"patch_size": 0}, "patch_size"),
        ("vision_tower/preprocessor_config.json", {"size": 1 << 30}, "size"),
        ("vision_tower/preprocessor_config.json", {"crop_size": -1}, "crop_size"),
        ("config.json", {"image_grid_pinpoints": [[12 << 40, 12 << 40]]}, "image_grid_pinpoints"),
        ("config.json", {"rms_norm_eps": "tiny"}, "cannot be loaded|rms_norm_eps"),
        ("config.json", {"hidden_act": "os.system"}, "cannot be loaded|hidden_act"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}, "architectures": ["Evil"]},
         "architectures"),
    ],
)  # fmt: skip
def test_other_values_of_a_configuration_are_refused(
    copy_checkpoint: Callable[[], Path], file: str, values: dict[str, Any], message: str
) -> None:
    folder = copy_checkpoint()
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    _refuse(folder, message)


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.T", "evil.T"]}},
        {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}},
    ],
)
def test_code_beside_a_tokenizer_is_never_imported(
    copy_checkpoint: Callable[[], Path], tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = copy_checkpoint()
    mark = tmp_path / "was-run"
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    try:  # a tokenizer that is whole without the code may be used
        load_checkpoint(folder, LoadSettings(device="cpu", dtype="float32"))
    except CheckpointError as error:
        message = str(error)
        assert "tokenizer" in message.lower()
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    ["{}", "[" * 100_000, '{"model": {"type": "BPE", "vocab": {}, "merges": [["a"]]}}',
     '{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "b"}}'],
)  # fmt: skip
def test_hostile_tokenizer_files_are_a_checkpoint_error(
    copy_checkpoint: Callable[[], Path], text: str
) -> None:
    folder = copy_checkpoint()
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(text)
    _refuse(folder, "tokenizer")


# Paths --------------------------------------------------------------------------------------------


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hf"
    (home / "quiz/data").mkdir(parents=True)
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (home / "quiz/data.mp4").write_bytes(b"x")
    (home / "quiz/data/sub folder").mkdir()
    monkeypatch.setenv("HF_HOME", str(home))
    return home


@pytest.mark.parametrize(
    "name",
    ["../../../secret.mp4", "../../../secret", "a/../../../../secret", "..", ".", "/", "//", "",
     "clip\0.mp4", "/../../secret"],
)  # fmt: skip
def test_a_row_cannot_name_a_file_outside_of_its_folder(hf_home: Path, name: str) -> None:
    with pytest.raises(MediaError, match=r"cannot lie in .*quiz/data"):
        documents.media_path("quiz/data", name)
    with pytest.raises(MediaError, match=r"cannot lie in .*quiz/data"):
        documents.path_below("quiz/data", name)


def test_an_absolute_name_means_a_file_in_the_folder(hf_home: Path) -> None:
    (hf_home / "quiz/data/etc").mkdir()
    with pytest.raises(MediaError, match=r"quiz/data/etc/passwd does not exist"):
        documents.media_path("quiz/data", "/etc/passwd")


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000 + "b"])
def test_a_name_that_is_too_long_is_an_error_of_its_question(hf_home: Path, name: str) -> None:
    assert hf_home.is_dir()
    with pytest.raises(MediaError):
        documents.media_path("quiz/data", name)


def test_a_record_of_such_a_row_names_no_media(hf_home: Path) -> None:
    document = documents.make_choice_doc(
        question_id="1", video="../../../secret.mp4", question="What?", options=["a", "b"],
        answer="A", categories={},
    )  # fmt: skip
    quiz = ChoiceTask(name="Quiz", folder="quiz/data", columns=(), read=dict)
    record = quiz.record(document, "A")
    assert record["media"] == []
    assert hf_home.is_dir()


def test_subtitle_files_of_rows_stay_in_their_folder(hf_home: Path) -> None:
    from longva_eval.tasks.videomme import utils

    (hf_home.parent / "secret.srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nsecret\n")
    with pytest.raises(MediaError, match=r"cannot lie in .*videomme/subtitle"):
        utils.SUBTITLES.doc_to_text({"video": "../../../secret", "question": "", "options": []})


ODD_NAMES = ["a b.mp4", "é 日本.mp4", "line\nbreak.mp4", "'\"quotes\".mp4", "%20?#&=,;.mp4",
             "-starts-with-a-dash.mp4", "\u202egpj.mp4", "tab\t.mp4", "<b>.mp4"]  # fmt: skip


@pytest.fixture(scope="module")
def session() -> Session:
    folder = Path(__file__).parents[1] / "data/golden_open/longva_tiny"
    return open_session(
        str(folder), frames=FramePolicy(max_frames=4), dtype="float32", device="cpu"
    )


@pytest.mark.process
def test_names_with_blanks_other_scripts_and_line_breaks_work(
    session: Session, tmp_path: Path
) -> None:
    video = write_video(tmp_path / "clip", Clip(num_frames=8))
    expected = session.prompt("<image>\nWhat?", [str(video)])
    for name in ODD_NAMES:
        path = tmp_path / name
        shutil.copy(video, path)
        found = session.prompt("<image>\nWhat?", [str(path)])
        assert found.prompt.digest == expected.prompt.digest, name
        assert json.loads(json.dumps(found.describe())) == found.describe()
    answers = session.generate(
        [session.prompt("<image>\nWhat?", [str(tmp_path / name)]) for name in ODD_NAMES[:3]]
    )
    assert not any(isinstance(answer, EvaluationError) for answer in answers)


# Pictures -----------------------------------------------------------------------------------------


@pytest.fixture
def truncated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Pictures that are cut off, and Pillow told to fill them up, as importing lmms-eval does."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    paths = []
    for name in ("cut.png", "cut.jpg", "cut.webp", "cut.gif"):
        path = tmp_path / name
        Image.effect_mandelbrot((256, 256), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(path)
        data = path.read_bytes()
        path.write_bytes(data[: len(data) * 6 // 10])
        paths.append(path)
    return paths


def test_pictures_that_are_cut_off_are_refused_whatever_pillow_was_told(
    truncated: list[Path],
) -> None:
    with Image.open(truncated[0]) as filled:
        assert filled.convert("RGB").size == (256, 256)  # what lmms-eval would show
    for path in truncated:
        with pytest.raises(MediaError, match=rf"{path.name} cannot be read"):
            open_image(path)
        with pytest.raises(MediaError, match="a row: the picture cannot be read"):
            open_picture({"bytes": path.read_bytes(), "path": None}, where="a row")
    assert ImageFile.LOAD_TRUNCATED_IMAGES  # left as others want it


@pytest.mark.slow
def test_threads_that_open_pictures_do_not_disturb_each_other(
    truncated: list[Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.png"
    Image.new("RGB", (64, 64)).save(whole)
    outcomes: list[str] = []

    def work() -> None:
        for _ in range(30):
            try:
                open_image(truncated[0])
            except MediaError:
                outcomes.append("refused")
            outcomes.append(str(open_image(whole).size))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("refused") == outcomes.count("(64, 64)") == 240
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.slow
def test_a_cut_off_picture_of_lmms_evals_own_tasks_fails_by_name(
    truncated: list[Path], tmp_path: Path
) -> None:
    whole = tmp_path / "whole.png"
    Image.new("RGB", (64, 64), (200, 0, 0)).save(whole)
    cells = [{"bytes": path.read_bytes(), "path": None} for path in (truncated[0], whole)]
    features = datasets.Features({"image": datasets.Image()})
    # Pillow gives a picture here, and lmms-eval would ask about it.
    documents_of_host = Dataset.from_dict({"image": cells}, features=features)
    assert documents_of_host[0]["image"].size == (256, 256)
    model = LongVA(
        pretrained=str(ROOT / "tests/data/golden_open/longva_tiny"), device="cpu",
        dtype="float32", on_error="skip", max_failed=1, journal="off",
    )  # fmt: skip
    model.task_dict["task"] = {"test": documents_of_host}
    requests = [
        Instance(
            request_type="generate_until",
            arguments=("What?", {"max_new_tokens": 2}, lambda d: [d["image"]], n, "task", "test"),
            idx=0,
            metadata={"task": "task", "doc_id": n, "repeats": 1},
        )
        for n in range(2)
    ]
    failed, answered = model.generate_until(requests)
    assert failed.text == FAILED
    assert answered.text != FAILED
    reason = (model.sample_info("task", 0) or {})["reason"]
    assert "Task task, document 0" in reason
    assert "truncated" in reason


# Journals -----------------------------------------------------------------------------------------


def test_a_journal_with_things_of_others_in_it_opens_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal", {"frames": 8}) as journal:
        journal.put({"document": 1}, {"text": "A"})
    (place,) = (path for path in (tmp_path / "journal").iterdir() if path.is_dir())
    os.mkfifo(place / "pipe.jsonl")
    (place / "folder.jsonl").mkdir()
    (place / "circle.jsonl").symlink_to("circle.jsonl")
    began = time.monotonic()
    with Journal(tmp_path / "journal", {"frames": 8}) as journal:
        assert journal.get({"document": 1}) == {"text": "A"}
    assert time.monotonic() - began < SECONDS


def test_the_small_checkpoint_itself_loads(copy_checkpoint: Callable[[], Path]) -> None:
    """What is broken above is whole before."""
    folder = copy_checkpoint()
    names = {name for path in folder.glob("model*.safetensors") for name in load_file(path)}
    checkpoint = load_checkpoint(folder, LoadSettings(device="cpu", dtype="float32"))
    assert len(names) >= len(checkpoint.model.state_dict()) - 1
