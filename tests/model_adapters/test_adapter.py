"""The lmms-eval adapter: the reference outputs once more, as requests of the host."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OPEN, Golden
from lmms_eval.api.instance import GenerationResult, Instance
from PIL import Image
from video_files import Clip, write_video

from longva_eval.errors import MediaError, PromptError, SettingsError
from longva_eval.host.patches import HostRun
from longva_eval.media import decode_worker
from longva_eval.model_adapters.longva import LongVA

GENERATE = {"max_new_tokens": 16, "do_sample": False, "temperature": 0, "until": ["\n\n\n\n"]}


class Documents(list[dict[str, Any]]):
    """A split: documents by number."""


def adapter(golden_folder: Path = OPEN, **settings: Any) -> LongVA:
    values = {"device": "cpu", "dtype": "float32", "max_frames_num": 8, **settings}
    return LongVA(pretrained=str(golden_folder / "longva_tiny"), **values)


def request(
    number: int,
    context: str,
    second: Any,
    *,
    kind: str = "generate_until",
    to_visual: Callable[[Any], Any] = lambda document: document["media"],
    metadata: dict[str, Any] | None = None,
) -> Instance:
    return Instance(
        request_type=kind,
        arguments=(context, second, to_visual, number, "task", "test"),
        idx=0,
        metadata={"task": "task", "doc_id": number, "repeats": 1, **(metadata or {})},
    )


def hand_over(model: LongVA, documents: list[dict[str, Any]]) -> None:
    model.task_dict["task"] = {"test": Documents(documents)}


def media_of(golden: Golden, case: dict[str, Any]) -> list[Any]:
    """As tasks give it: pictures opened, videos as paths."""
    opened: list[Any] = [Image.open(golden.folder / name) for name in case.get("images", [])]
    return opened + ([str(golden.folder / case["video"])] if "video" in case else [])


@pytest.mark.process
@pytest.mark.golden_cases("text", "image", "video", "image+video", folders=("open",))
def test_answers_equal_the_original(golden: Golden, case_id: str) -> None:
    case = golden.cases[case_id]
    settings = golden.settings(case)
    model = adapter(max_frames_num=case.get("num_frames", 8), **settings)
    question = golden.question(case)
    # Where the reference puts pictures first by itself, the task says nothing of places.
    for prefix in ("<image> <image>\n", "<image>\n"):
        if question.startswith(prefix) and question.count("<image>") == prefix.count("<image>"):
            question = question.removeprefix(prefix)
    hand_over(model, [{"media": media_of(golden, case)}])
    asked = copy.deepcopy(GENERATE)
    (answer,) = model.generate_until([request(0, question, asked)])
    assert answer.text == case["generated"]["text"]
    assert answer.token_counts.input_tokens == case["seq_len"]
    assert answer.token_counts.output_tokens == len(case["generated"]["ids"])
    assert asked == GENERATE


@pytest.mark.process
@pytest.mark.golden_cases("loglikelihood", folders=("open",))
def test_likelihoods_equal_the_original(golden: Golden, case_id: str) -> None:
    case = golden.cases[case_id]
    model = adapter(max_frames_num=case.get("num_frames", 8))
    hand_over(model, [{"media": media_of(golden, case)}])
    (result,) = model.loglikelihood(
        [request(0, case["question"], case["continuation"], kind="loglikelihood")]
    )
    loss, is_greedy = result.text
    assert loss == pytest.approx(case["upstream_mean_loss"], abs=1e-4)
    assert is_greedy == case["greedy_match_continuation"]


@pytest.mark.process
def test_many_requests_come_back_in_the_hosts_order(open_golden: Golden) -> None:
    cases = [
        open_golden.cases[name]
        for name in ("video_landscape_8", "text_short", "image_tiny", "video_landscape_8")
    ]
    model = adapter()
    hand_over(model, [{"media": media_of(open_golden, case)} for case in cases])
    requests = [
        request(number, open_golden.question(case), GENERATE) for number, case in enumerate(cases)
    ]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        answers = model.generate_until([requests[number] for number in order])
        assert [answer.text for answer in answers] == [
            cases[number]["generated"]["text"] for number in order
        ]


@pytest.mark.slow
def test_likelihoods_of_options_share_their_prompt(open_golden: Golden) -> None:
    cases = [open_golden.cases[f"ll_choice_{letter}"] for letter in "ABCD"]
    model = adapter()
    hand_over(model, [{"media": media_of(open_golden, cases[0])}])
    results = model.loglikelihood(
        [request(0, c["question"], c["continuation"], kind="loglikelihood") for c in cases]
    )
    losses = [result.text[0] for result in results]
    assert losses == pytest.approx([case["upstream_mean_loss"] for case in cases], abs=1e-4)
    engine = model.recipe()["engine"]
    assert engine["tokens_computed"] < engine["tokens_asked"] / 3


def test_a_likelihood_may_take_its_text_from_the_document(open_golden: Golden) -> None:
    case = open_golden.cases["ll_text"]
    model = adapter()
    hand_over(model, [{"media": [], "answer": case["continuation"]}])
    (result,) = model.loglikelihood(
        [request(0, case["question"], lambda document: document["answer"], kind="loglikelihood")]
    )
    assert result.text[0] == pytest.approx(case["upstream_mean_loss"], abs=1e-4)


@pytest.mark.process
def test_several_videos_in_one_prompt(open_golden: Golden) -> None:
    model = adapter(max_frames_num=2)
    videos = [
        str(OPEN / "inputs" / name) for name in ("landscape_320x180.mp4", "portrait_180x320.mp4")
    ]
    hand_over(model, [{"media": videos}])
    (answer,) = model.generate_until([request(0, "Which one is longer?", GENERATE)])
    record = model.recipe()["prompts"]["task"]["0"]
    assert answer.token_counts.input_tokens == record["num_prompt_tokens"]
    assert [video["frame_indices"] for video in record["videos"]] == [[0, 179], [0, 249]]
    assert record["num_visual_tokens"] == 4 * 144


@pytest.mark.slow
def test_pictures_of_a_video_task_are_frames() -> None:
    model = adapter()
    pictures = [Image.new("RGB", (40, 30), (number, 0, 0)) for number in range(3)]
    hand_over(model, [{"media": pictures}])
    model.generate_until([request(0, "What moves?", GENERATE, metadata={"task_type": "video"})])
    record = model.recipe()["prompts"]["task"]["0"]
    assert record["num_visual_tokens"] == 3 * 144
    model.generate_until([request(0, "What moves?", GENERATE)])
    record = model.recipe()["prompts"]["task"]["0"]
    assert record["videos"] == []
    assert record["num_visual_tokens"] == 3 * 288


@pytest.mark.slow
def test_a_tasks_choice_of_encoding_is_left_aside_and_recorded() -> None:
    """As in the host, whose tasks say `original` or `pad`: a checkpoint's own encoding stays."""
    model = adapter()
    hand_over(model, [{"media": [Image.new("RGB", (40, 30))]}])
    model.generate_until([request(0, "What?", GENERATE | {"image_aspect_ratio": "pad"})])
    assert model.recipe()["prompts"]["task"]["0"]["num_visual_tokens"] == 288
    assert model.recipe()["ignored_generation_settings"] == ["image_aspect_ratio"]


@pytest.mark.parametrize(("given", "meant"), [("off", False), ("no", False), ("on", True)])
def test_reuse_understands_words(given: str, meant: bool) -> None:
    assert adapter(reuse=given).recipe()["reuse"] is meant


def test_a_needle_prompt_may_be_longer_than_the_context() -> None:
    model = adapter(max_context_tokens=10)
    hand_over(model, [{"media": [], "answer": "Yes"}])
    (answer,) = model.generate_until([request(0, "Is it?", {"score_column": "answer"})])
    assert json.loads(answer.text)["answer_ids"]


@pytest.mark.slow
def test_option_probabilities_are_kept_and_each_try_draws_anew(tmp_path: Path) -> None:
    choice = "Which?\nA. red\nB. blue\nAnswer with the letter."
    drawn = request(0, choice, {"max_new_tokens": 4, "do_sample": True, "temperature": 5.0})
    plain = request(1, "What is shown?", {"max_new_tokens": 4})

    def ask() -> tuple[list[str], dict[str, Any], dict[str, Any]]:
        model = adapter(journal=str(tmp_path / "journal"))
        model.begin_run(HostRun(output=None))
        hand_over(model, [{"media": None}, {"media": None}])
        said = [found.text for found in model.generate_until([drawn] * 4 + [plain])]
        first, second = model.sample_info("task", 0), model.sample_info("task", 1)
        assert first is not None
        assert second is not None
        model.clean()
        return said, first, second

    said, sample, other = ask()
    assert len(set(said[:4])) > 1
    assert sample["seeds"] == [0, 1, 2, 3]
    assert set(sample["option_probabilities"]) == {"A", "B"}
    assert sum(sample["option_probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert 0 < sample["option_mass"] < 1
    assert not {"seeds", "option_probabilities"} & set(other)
    assert ask() == (said, sample, other)  # from the journal


@pytest.mark.slow
def test_every_rotation_is_asked_once_and_what_cannot_be_rotated_is_refused() -> None:
    choice = "Which?\nA. red\nB. blue\nC. green\nAnswer with the letter."
    model = adapter(control="circular")
    options = ["A. red", "B. blue", "C. green"]
    hand_over(model, [{"media": None, "options": options} for _ in range(2)])
    (said,) = model.generate_until([request(0, choice, {"max_new_tokens": 4})])
    sample = model.sample_info("task", 0)
    assert sample is not None
    assert [each["by"] for each in sample["rotations"]] == [0, 1, 2]
    assert sample["rotations"][0]["text"] == said.text
    model.task_dict["task"]["test"][1]["options"] = ["red", "blue"]
    for context in ("What is shown?", choice):
        with pytest.raises(SettingsError, match="document 1: the prompt does not list its options"):
            model.generate_until([request(1, context, {"max_new_tokens": 4})])
    with pytest.raises(SettingsError, match="compares likelihoods"):
        model.loglikelihood([])


def test_a_stop_string_ends_the_answer(open_golden: Golden) -> None:
    case = open_golden.cases["text_short"]
    model = adapter()
    hand_over(model, [{"media": []}])
    text = case["generated"]["text"]
    stop = text[8:10]
    (answer,) = model.generate_until(
        [request(0, open_golden.question(case), GENERATE | {"until": [stop]})]
    )
    assert answer.text == text.split(stop)[0].strip()
    assert answer.token_counts.output_tokens < 16


def test_an_answer_scored_as_input_comes_back_as_json() -> None:
    model = adapter()
    hand_over(model, [{"media": [], "answer": "Yes"}, {"media": [], "answer": "No"}])
    answers = model.generate_until(
        [request(n, "Is it?", {"score_column": "answer", "max_new_tokens": 3}) for n in range(2)]
    )
    reports = [json.loads(answer.text) for answer in answers]
    for report in reports:
        assert set(report) >= {"generated", "correct", "logprob", "answer_ids", "pred_ids"}
        assert report["correct"] == (report["answer_ids"] == report["pred_ids"])
    assert reports[0]["logprob"] != reports[1]["logprob"]
    assert reports[0]["generated"] == reports[1]["generated"]


def test_a_document_without_the_scored_column_is_named() -> None:
    model = adapter()
    hand_over(model, [{"media": []}])
    with pytest.raises(SettingsError, match="Task task, document 0: the task scores its column"):
        model.generate_until([request(0, "Is it?", {"score_column": "answer"})])


@pytest.mark.slow
def test_rounds_go_on_until_the_task_ends_them() -> None:
    model = adapter()
    hand_over(model, [{"media": []}])
    seen: list[tuple[int, list[str]]] = []

    def to_text(
        document: Any, *, previous_output: list[str], round_idx: int, previous_round_info: Any
    ) -> tuple[Any, Any, bool, list[str], Any]:
        seen.append((round_idx, list(previous_output)))
        if round_idx == 2:
            return None, None, True, previous_output, None
        return [], f"You said {previous_output[-1]}. And now?", False, previous_output, None

    instance = Instance(
        request_type="generate_until_multi_round",
        arguments=(
            "Hello",
            GENERATE,
            lambda document: document["media"],
            to_text,
            0,
            "task",
            "test",
        ),
        idx=0,
        metadata={"task": "task", "doc_id": 0, "repeats": 1},
    )
    (answers,) = model.generate_until_multi_round([instance])
    assert len(answers) == 2
    assert seen == [(1, answers[:1]), (2, answers)]


def test_no_requests_give_no_answers() -> None:
    model = adapter()
    assert model.generate_until([]) == []
    assert model.loglikelihood([]) == []


def test_a_missing_video_ends_the_run_with_its_name() -> None:
    model = adapter()
    hand_over(model, [{"media": ["/nowhere/film.mp4"]}])
    with pytest.raises(MediaError, match=r"Task task, document 0: .*/nowhere/film.mp4"):
        model.generate_until([request(0, "What happens?", GENERATE)])


def test_a_task_that_would_end_the_process_is_an_error() -> None:
    def give_up(document: Any) -> Any:
        raise SystemExit("video path:film.mp4 does not exist, please check")

    model = adapter()
    hand_over(model, [{}])
    with pytest.raises(MediaError, match=r"document 0: the task gave up: video path:film.mp4"):
        model.generate_until([request(0, "What happens?", GENERATE, to_visual=give_up)])


def test_a_document_without_its_picture_is_an_error() -> None:
    model = adapter()
    hand_over(model, [{"media": [None]}])
    with pytest.raises(MediaError, match="document 0: the document has no picture or video"):
        model.generate_until([request(0, "What is it?", GENERATE)])


@pytest.mark.process
def test_a_prompt_beyond_the_context_is_refused_by_default(open_golden: Golden) -> None:
    model = adapter(max_context_tokens=700)
    hand_over(model, [{"media": [str(OPEN / "inputs/landscape_320x180.mp4")]}])
    with pytest.raises(PromptError, match=r"1,1\d\d tokens .* context holds 700.*keep_question"):
        model.generate_until([request(0, "What happens?", GENERATE)])


@pytest.mark.process
def test_a_shortened_prompt_keeps_its_question_and_says_so() -> None:
    model = adapter(max_context_tokens=700, long_prompt="keep_question")
    hand_over(model, [{"media": [str(OPEN / "inputs/landscape_320x180.mp4")]}])
    model.generate_until([request(0, "What happens?", GENERATE)])
    record = model.recipe()["prompts"]["task"]["0"]
    assert record["num_prompt_tokens"] == 700
    assert (
        record["num_tokens_cut"]
        == record["videos"][0]["num_frames_asked"] * 144 - record["num_visual_tokens"]
    )


@pytest.mark.process
def test_likelihoods_of_shortened_prompts_are_refused() -> None:
    model = adapter(max_context_tokens=700, long_prompt="keep_question")
    hand_over(model, [{"media": [str(OPEN / "inputs/landscape_320x180.mp4")]}])
    with pytest.raises(PromptError, match="likelihoods need the whole one"):
        model.loglikelihood([request(0, "What happens?", "Rain", kind="loglikelihood")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_frame_num": 8}, "Unknown argument 'max_frame_num'. Did you mean max_frames_num?"),
        ({"rope_thetta": 1e6}, "Did you mean rope_theta?"),
        ({"model_name": "llava_qwen"}, "architecture is read from the checkpoint's config.json"),
        ({"max_frames_num": 0}, "max_frames_num=0 must be at least 1"),
        ({"max_frames_num": 2.5}, "max_frames_num=2.5 must be a whole number"),
        ({"reuse": "perhaps"}, "reuse='perhaps' must be true or false"),
        ({"mm_spatial_pool_stride": 0}, "mm_spatial_pool_stride=0"),
        ({"fps": -1}, "fps=-1.0 must be above 0"),
        ({"short_video": "loop"}, "short_video='loop' is unknown"),
        ({"dtype": "float8"}, "dtype='float8' is unknown"),
        ({"attn_implementation": "magic"}, "attn_implementation='magic' is unknown"),
        ({"conv_template": "vicuna_v1"}, "conv_template='vicuna_v1' is unknown; use auto or qwen"),
        ({"rope_type": "dynamic", "rope_factor": 2}, "rope_pinned_length=<tokens>"),
        ({"rope_factor": "many"}, "rope_factor='many' must be a number"),
        ({"video_decode_backend": "vlc"}, "video_decode_backend='vlc' is unknown"),
        ({"image_aspect_ratio": "square"}, "image_aspect_ratio='square' is unknown"),
    ],
)
def test_wrong_arguments_are_refused_by_name(settings: dict[str, Any], message: str) -> None:
    import re

    with pytest.raises(SettingsError, match=re.escape(message)):
        adapter(**settings)


def test_model_args_of_the_command_line_arrive() -> None:
    folder = OPEN / "longva_tiny"
    model = LongVA.create_from_arg_string(
        f"pretrained={folder},dtype=float32,max_frames_num=4,rope_type=linear,rope_factor=4,"
        "rope_theta=1e6,reuse=false",
        {"batch_size": "auto", "max_batch_size": None, "device": "cpu"},
    )
    recipe = model.recipe()
    assert recipe["frames"]["max_frames"] == 4
    assert recipe["rope"]["parameters"] == {
        "rope_type": "linear",
        "factor": 4.0,
        "rope_theta": 1e6,
    }


def test_long_rope_factors_are_lists_joined_by_slashes() -> None:
    model = adapter(
        rope_type="longrope",
        rope_factor=2,
        rope_pinned_length=10,
        rope_short_factor="1/2/3/4",
    )
    assert model.recipe()["rope"]["parameters"]["short_factor"] == [1.0, 2.0, 3.0, 4.0]


def test_the_recipe_outlives_the_model() -> None:
    model = adapter()
    before = model.recipe()
    model.clean()
    assert model.recipe() == before
    json.dumps(before)


def test_results_are_the_hosts_type() -> None:
    model = adapter()
    hand_over(model, [{"media": []}])
    (answer,) = model.generate_until([request(0, "Hello", GENERATE)])
    assert isinstance(answer, GenerationResult)


# A video that is replaced during a run: nothing of the other one is kept under its name.


def ask_twice(path: Path, folder: Path, *, caches: bool = True) -> list[str]:
    """Two questions about a video, as a run asks them."""
    kept = {"journal": str(folder / "journal"), "feature_cache": str(folder / "features")}
    model = adapter(**(kept if caches else {"journal": "off"}))
    hand_over(model, [{"media": [str(path)]}] * 2)
    questions = ("What happens?", "What is shown?")
    found = model.generate_until([request(n, q, GENERATE) for n, q in enumerate(questions)])
    return [answer if isinstance(answer, str) else answer.text for answer in found]


@pytest.mark.process
def test_a_video_replaced_between_planning_and_decoding_leaves_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "clip", Clip(num_frames=40, width=96, height=64))
    other = write_video(tmp_path / "other", Clip(num_frames=40, width=64, height=96))
    shutil.copy(path, tmp_path / "kept.mp4")
    right = ask_twice(path, tmp_path, caches=False)
    read = decode_worker.DecodeWorker.read_frames

    def after_replacement(self, info, indices, **more):  # type: ignore[no-untyped-def]
        if other.exists():
            other.replace(path)
        return read(self, info, indices, **more)

    with monkeypatch.context() as during:
        during.setattr(decode_worker.DecodeWorker, "read_frames", after_replacement)
        with pytest.raises(MediaError, match=r"clip\.mp4 has changed since it was looked at"):
            ask_twice(path, tmp_path)
    assert not other.exists()
    # The right video again, and then the other one, with what the failed run left behind.
    swapped = path.rename(tmp_path / "swapped.mp4")
    shutil.copy(tmp_path / "kept.mp4", path)
    assert ask_twice(path, tmp_path) == right
    assert ask_twice(swapped, tmp_path) == ask_twice(swapped, tmp_path, caches=False)
