"""What `longva-eval run` says when the evaluation could not begin."""

from __future__ import annotations

import pytest
from tenacity import RetryError, retry, stop_after_attempt

from longva_eval.cli import main
from longva_eval.commands.run import failure_text
from longva_eval.errors import SettingsError
from longva_eval.host.evaluation import Finished

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def retried(error: Exception) -> RetryError:
    """What the host raises after it tried several times to load a task's data."""

    @retry(stop=stop_after_attempt(2))
    def fail() -> None:
        raise error

    with pytest.raises(RetryError) as caught:
        fail()
    return caught.value


def told_of(error: BaseException, tasks: str | None) -> str:
    return failure_text(Finished(arguments={"tasks": tasks}, error=error), error)


@pytest.mark.parametrize("given", [[], ["--fresh"]])
def test_without_arguments_the_usage_is_told(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *given]) == 2
    assert capsys.readouterr().err.startswith("usage: longva-eval run [--fresh]")


@pytest.mark.parametrize("value", ["¼", "²", "Ⅳ", "一"])
def test_a_number_that_python_does_not_read_is_told_with_its_name(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["run", "--model", "longva", "--model_args", f"pretrained=longva-tiny,fps={value}"])
        == 1
    )
    assert f"fps={value} is no number that can be read" in capsys.readouterr().err


def test_data_out_of_reach_is_said_with_the_commands_that_mend_it() -> None:
    error = retried(ConnectionError("Couldn't reach 'lmms-lab/Video-MME' on the Hub"))
    told = told_of(error, "longva_videomme")
    assert told.startswith("ConnectionError: Couldn't reach 'lmms-lab/Video-MME'")
    assert "longva-eval prepare videomme --from DIR" in told
    assert told.endswith("longva-eval doctor --tasks longva_videomme")


def test_other_errors_are_named_without_a_word_on_data() -> None:
    assert told_of(retried(KeyError("url")), "longva_videomme") == "KeyError: 'url'"
    assert told_of(BrokenPipeError("pipe"), "mme") == "BrokenPipeError: pipe"
    assert told_of(SettingsError("fps must be above 0."), "mme") == "fps must be above 0."


def test_an_evaluation_without_tasks_is_said() -> None:
    told = told_of(SystemExit(), None)
    assert told == "lmms-eval ended without --tasks before it evaluated anything."


@pytest.mark.slow
def test_a_misspelt_argument_of_the_model_is_told_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    arguments = "pretrained=longva-tiny,device=cpu,dtype=float31"
    given = ["--model", "longva", "--model_args", arguments, "--tasks", "longva_mini_small"]
    assert main(["run", *given]) == 1
    said, told = capfd.readouterr()
    assert "Traceback" not in said + told
    assert "Error during evaluation" not in said + told
    assert (said + told).count("float31") - said.count(arguments) == told.count("float31") == 1
