"""The boards' own functions, out of the boards' own files, without importing those.

The files are not part of this repository. With `LONGVA_EVAL_OFFICIAL` naming a folder that holds
them, tests run them beside ours; without it, tests use the verdicts kept in
`tests/data/official_verdicts`.

    eval_your_results.py   github.com/thanku-all/parse_answer @ afd52cf
    eval_utils.py          github.com/MMMU-Benchmark/MMMU, mmmu/utils @ bb0b95a
    test_bench.py          github.com/JUNJIE99/MLVU, evaluation_test @ fd060c1
    choice_bench.py        the same, evaluation/multiple_choice_evaluation
    answer_util.py         github.com/THUDM/LVBench, lvbench/utils @ f998d95
    vlmevalkit_DATE_FILE   github.com/open-compass/VLMEvalKit, vlmeval/utils/matching_util.py and
                           vlmeval/dataset/utils/{videomme,longvideobench,mlvu}.py; DATE is 2026_05
                           (@ c44bc601) or 2026_06 (@ a67ace50)
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FILES = ("eval_your_results.py", "eval_utils.py", "test_bench.py", "choice_bench.py")
VERDICTS = Path(__file__).parents[1] / "data/official_verdicts"


def official_folder() -> Path | None:
    """The folder with the official files, or None."""
    folder = os.environ.get("LONGVA_EVAL_OFFICIAL")
    return Path(folder) if folder else None


def functions_of(path: Path, *names: str) -> dict[str, Callable[..., Any]]:
    """Top-level functions of a file, with the constants beside them; nothing else of it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.Assign))]
    import typing

    import numpy

    space: dict[str, Any] = {
        "re": re, "random": random, "np": numpy, "json": json, "os": os,
        "get_logger": lambda _: None,
        **{name: getattr(typing, name) for name in ("Dict", "List", "Optional", "Union")},
    }  # fmt: skip
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    return {name: space[name] for name in names}


def videomme(folder: Path) -> dict[str, Callable[..., Any]]:
    """`extract_characters_regex` and `eval_your_results`."""
    return functions_of(
        folder / "eval_your_results.py", "extract_characters_regex", "eval_your_results"
    )


def mmmu(folder: Path) -> tuple[Callable[..., str], Callable[..., bool]]:
    """The letter it reads, `-` where it draws one; and whether an open answer is right."""
    path = folder / "eval_utils.py"
    found = functions_of(path, "parse_multi_choice_response", "parse_open_response", "eval_open")
    read = found["parse_multi_choice_response"]
    read.__globals__["random"] = SimpleNamespace(choice=lambda _: "-", seed=lambda _: None)
    return (
        lambda response, options: str(read(response, list(options), options)),
        lambda response, right: bool(
            found["eval_open"](right, found["parse_open_response"](response))
        ),
    )


def mlvu(folder: Path) -> tuple[Callable[[str], str], Callable[[str, str], bool]]:
    """What the test script hands in for an answer, and the check on the dev set."""
    tree = ast.parse((folder / "test_bench.py").read_text(encoding="utf-8"))
    main = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "main")
    cut = next(
        node for node in ast.walk(main)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "')' in pred"
    )  # fmt: skip
    code = compile(ast.Module([cut], []), "test_bench.py", "exec")

    def handed_in(response: str) -> str:
        space = {"pred": response.strip()}  # as the script strips what was decoded
        exec(code, space)
        return str(space["pred"])

    check = functions_of(folder / "choice_bench.py", "check_ans")["check_ans"]
    return handed_in, lambda response, answer: bool(check(response, f"({answer}) an option"))


def longvideobench() -> Callable[[str], str]:
    """The letter that lmms-eval's rule reads, `-` where it draws one."""
    read = of_host("longvideobench/utils.py", "parse_multi_choice_response")
    return lambda response: str(read(response, ["-"], {}))


def of_host(file: str, name: str) -> Callable[..., Any]:
    """A function of lmms-eval's tasks that calls nothing beside it; it draws `-`."""
    import importlib.util

    import numpy

    found = importlib.util.find_spec("lmms_eval")
    assert found is not None
    assert found.submodule_search_locations
    path = Path(found.submodule_search_locations[0]) / "tasks" / file
    wanted = [
        node for node in ast.parse(path.read_text(encoding="utf-8")).body
        if (isinstance(node, ast.FunctionDef) and node.name == name)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("_"))
    ]  # fmt: skip
    import typing

    space: dict[str, Any] = {
        "re": re, "np": numpy, "random": SimpleNamespace(choice=lambda _: "-"),
        **{name: getattr(typing, name) for name in ("List", "Optional")},
    }  # fmt: skip
    exec(compile(ast.Module(wanted, []), str(path), "exec"), space)
    function: Callable[..., Any] = space[name]
    return function


def vlmevalkit(folder: Path, date: str) -> SimpleNamespace:
    """`videomme`, `longvideobench`: the letter or ""; `infer`: a letter, Z or False; `mlvu`: 0, 1.

    Without a judge, as with `exact_matching`.
    """
    import copy
    import string

    start = f"vlmevalkit_{date.replace('-', '_')}"
    matching = functions_of(folder / f"{start}_matching_util.py", "can_infer", "can_infer_option")
    matching["can_infer"].__globals__.update(cp=copy, string=string, os=os)
    mlvu_check = functions_of(folder / f"{start}_mlvu.py", "check_ans_with_model")

    def infer(text: str, options: dict[str, str]) -> Any:
        return matching["can_infer"](text, dict(options))

    mlvu_check["check_ans_with_model"].__globals__["extract_answer_from_item"] = (
        lambda _model, item, _name: {"opt": infer(item["prediction"], item["options"]) or "Z"}
    )
    return SimpleNamespace(
        **{
            name: functions_of(folder / f"{start}_{name}.py", "extract_characters_regex")[
                "extract_characters_regex"
            ]
            for name in ("videomme", "longvideobench")
        },
        infer=infer,
        mlvu=lambda text, options, answer: bool(
            mlvu_check["check_ans_with_model"](
                text, f"({answer}) {options[answer]}", None,
                {"prediction": text, "options": options, "answer": answer},
            )
        ),
    )  # fmt: skip


def official_verdicts(folder: Path) -> dict[str, list[Any]]:
    """Rule -> its verdict on every generated answer; what `make_verdicts.py` keeps."""
    from official_answers import choice_answers, choice_questions, open_questions

    letters, opened = mmmu(folder)
    handed_in, dev_check = mlvu(folder)
    answers, questions = choice_answers(), choice_questions()
    extract = videomme(folder)["extract_characters_regex"]
    polish = functions_of(folder / "answer_util.py", "polish_answer")["polish_answer"]
    infer = {date: vlmevalkit(folder, date).infer for date in ("2026-05", "2026-06")}
    return {
        "lvbench": [polish(answer) or "-" for answer in answers],
        **{
            f"vlmevalkit_{date}": [
                "-" if (found := read(answer, options)) in (False, "Z") else found
                for answer, options in questions
            ]
            for date, read in infer.items()
        },
        "videomme": [extract(answer) or "-" for answer in answers],
        "mmmu": [letters(answer, options) for answer, options in questions],
        "mmmu_open": ["1" if opened(answer, right) else "0" for answer, right in open_questions()],
        "mlvu_test": [handed_in(answer) for answer in answers],
        "mlvu_dev": ["1" if dev_check(a, "ABCDE"[n % 5]) else "0" for n, a in enumerate(answers)],
    }
