"""`longva-eval niah`: the needle tests, from a video and pictures to figures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longva_eval import embedded
from longva_eval.commands.needle_options import add_item_options, check_used
from longva_eval.errors import SettingsError
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.controls import circular_items
from longva_eval.needle.items import ItemSettings
from longva_eval.needle.kinds import DRAWN_TESTS, TEST_NAMES
from longva_eval.reports.figures.needle_tests import save_examples, save_runs
from longva_eval.text import parse_range, parse_whole_range

if TYPE_CHECKING:  # it imports torch
    from longva_eval.needle.tests import NeedleTest

__all__ = ["main"]

_LOADING = (
    "revision", "device", "device_map", "dtype", "attn_implementation", "conv_template",
    "chunk_tokens", "pool_after_projection", "feature_cache",
)  # fmt: skip
"""Options that are settings of the session."""

_REFUSED = (
    (
        ("as_text", "haystack"),
        ("captions", "text"),
        "--as-text needs --captions FILE for a haystack of yours; or give --text FILE, a text to "
        "hide the needles' captions in.",
    ),
    (("captions", "text"), (), "--captions and --text both say what frames become: give one."),
    (("captions",), ("as_text",), "--captions has no effect without --as-text."),
    (("at", "spread"), (), "--at states where pictures stand; leave --spread out."),
    (
        ("likeness", "needles"),
        (),
        "--likeness is for drawn distractors; those of --needles show the needle's object.",
    ),
    (
        ("no_controls", "latent"),
        (),
        "latent keeps what is answered on its pictures alone: leave --no-controls out.",
    ),
    (("show",), ("write_tasks",), "--show has no effect without --write-tasks."),
    *(
        (("write_tasks", name), (), f"lmms-eval's tasks have no --{name.replace('_', '-')}.")
        for name in ("as_text", "captions", "text", "circular")
    ),
)
"""What is said where all of the first options or tests are given, and none of the second."""


def main(arguments: Sequence[str]) -> int:
    """Run the needle tests and write their results."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(options)
    missing = [name for name in ("pretrained", "out") if getattr(options, name) is None]
    if missing and not (options.write_tasks or options.examples):
        parser.error(f"the following arguments are required: --{', --'.join(missing)}")

    from longva_eval.needle.asking import open_needle_session
    from longva_eval.needle.media import check_captioned, open_haystack, twin_captions
    from longva_eval.needle.run import run_tests
    from longva_eval.needle.tests import make_tests, write_tasks

    haystack = open_haystack(options.haystack or [embedded.HAYSTACK])
    asked = {each.name: getattr(options, each.name, None) for each in fields(ItemSettings)}
    settings: dict[str, Any] = {name: v for name, v in asked.items() if v is not None}
    tests = make_tests(
        options.test or ["single"],
        frame_counts=parse_whole_range(options.frames, name="frames"),
        depths=options.depths and tuple(parse_range(options.depths, name="depths")),
        spreads=tuple(parse_range(options.spread or "0.5", name="spread")),
        at=parse_whole_range(options.at, name="at") if options.at else (),
        lattice=options.lattice,
        needles=options.needles or str(embedded.NEEDLES),
        own=options.needles is not None,
        settings=ItemSettings(side=haystack.side_pixels, **settings),
    )
    if options.examples:
        for path in save_examples(tests, haystack, Path(options.examples)):
            print(path)
        return 0
    if options.write_tasks:
        for path in write_tasks(
            tests,
            Path(options.write_tasks),
            options.haystack,
            show=options.show or "pictures",
            controls=not options.no_controls,
        ):
            print(path)
        return 0
    longest = max(tests[0].grid.frame_counts)
    haystack.check_length(longest)
    captions = None
    if options.text or options.as_text:
        for test in tests:
            if test.has_twin:
                check_captioned(test.items)
        captions = twin_captions(text=options.text, captions=options.captions, num_frames=longest)
    for remark in _remarks(options, tests):
        print(remark)
    rope = RopeSettings(
        rope_type=options.rope_type,
        factor=options.rope_factor,
        original_length=options.rope_original_length,
        pinned_length=options.rope_pinned_length,
    )
    runs = run_tests(
        open_needle_session(
            options.pretrained,
            reuse=not options.no_reuse,
            **{name: getattr(options, name) for name in _LOADING},
        ),
        haystack,
        tests,
        Path(options.out),
        model=Path(options.pretrained).name,
        ropes=[replace(rope, theta=theta) for theta in options.rope_theta or [None]],
        own_folders=bool(options.test),
        captions=captions,
        max_new_tokens=options.max_new_tokens,
        controls=not options.no_controls,
        circular=options.circular,
        fresh=options.fresh,
    )
    for told in save_runs(runs, in_one_figure=bool(options.test)):
        print(told)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises SettingsError for options that do not go together, or change nothing."""
    tests = options.test or ["single"]
    given = {name for name, value in vars(options).items() if value not in (None, False)} | {*tests}
    for all_of, none_of, message in _REFUSED:
        if given.issuperset(all_of) and given.isdisjoint(none_of):
            raise SettingsError(message)
    check_used(given, tests)


def _remarks(options: argparse.Namespace, tests: Sequence[NeedleTest]) -> Iterator[str]:
    """What an option does not change in a test, though it does in others.

    Raises:
        SettingsError: If --circular changes nothing at all.
    """
    rotated = {test.name for test in tests if len(circular_items(test.items)) > len(test.items)}
    if options.circular and not rotated:
        raise SettingsError(
            "--circular rotates options, and no question here has any: give --answer letters, or "
            "--needles that have them."
        )
    for test in tests:
        by_letter = test.name in rotated
        if options.needles and not test.needles:
            yield f"{test.name}: its pictures are drawn, not those of --needles."
        if (options.as_text or options.text) and not test.has_twin:
            yield f"No text twin of {test.name}: captions do not tell what its pictures show."
        if options.answer and by_letter != (options.answer == "letters"):
            form = "by letter" if by_letter else "in words"
            yield f"{test.name} is asked {form}, whatever --answer says."
        if options.circular and not by_letter:
            yield f"--circular rotates nothing in {test.name}: it has no options."


def _names(text: str) -> list[str]:
    """`order,count`."""
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in TEST_NAMES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))}: the tests are {', '.join(TEST_NAMES)}"
        )
    return names


def _numbers(text: str) -> list[float]:
    """`1e6` or `1e6,1e9`."""
    try:
        return [float(part) for part in text.rstrip(",").split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several A,B,C") from error


class _Flat(argparse.Action):
    """Keeps lists, with blanks between them on the command line, as one list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, [value for group in values for value in group])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval niah",
        description="V-NIAH: hide each needle picture at every depth of videos of every length, "
        "ask for it, and draw the heatmap. With --test: harder needle tests, whose pictures are "
        "drawn (docs/needle_tests.md).",
        epilog="Example, the paper's grid: longva-eval niah --pretrained lmms-lab/LongVA-7B "
        "--haystack film.mp4 --needles lmms-lab/v_niah_needles --frames 200:3000:200 "
        "--depths 0:1:0.2 --out runs/longva-7b",
    )
    add: Any = parser.add_argument
    add("--pretrained", help="folder, hub id, or embedded: longva-tiny")
    add("--revision", help="branch, tag or commit of the hub id")
    add(
        "--haystack",
        action="append",
        help="video; give it again for more, one after the other (default: the embedded one)",
    )
    add(
        "--needles",
        help="folder with dataset.json, or lmms-lab/v_niah_needles (default: the embedded ones); "
        "keys, distractor, order and count of --test show them, too",
    )
    add("--frames", required=True, help="haystack lengths: 200:3000:200 or 6,12,24")
    add("--depths", help="needle depths: 0:1:0.2 (default) or 0,0.5,1; of --test 0,0.5,1")
    add(
        "--lattice",
        type=int,
        metavar="STEP",
        help="instead of depths: needles before frames 0, STEP, 2 STEP, ... in every length",
    )
    tests = "; ".join(f"{name}: {test.asks}" for name, test in DRAWN_TESTS.items())
    add(
        "--test",
        type=_names,
        metavar="NAME[,NAME]",
        help=f"tests to run, into a folder each. single: V-NIAH; {tests}",
    )
    add(
        "--spread",
        help="part of the haystack over which the pictures of a test stand: 0.5 (default) or "
        "several, 0.1,0.5,1",
    )
    add("--at", help="instead of depths and spread: frames that the pictures stand before, 8,40,72")
    add("--items", type=int, help="questions of a test (24); fewer than 22 can claim no length")
    add("--seed", type=int, help="of the drawn pictures (0)")
    add("--answer", help="words (default) or letters: what a test asks for")
    add_item_options(add)
    add(
        "--as-text",
        action="store_true",
        help="ask once more with each frame as its caption: what is lost in vision",
    )
    add("--captions", type=Path, help='of the haystack\'s frames: lines {"caption": "A dog runs."}')
    add(
        "--text",
        type=Path,
        metavar="FILE",
        help="as --as-text, but each haystack frame becomes a sentence of this text; drawn: of "
        "sentences about drawn frames",
    )
    add(
        "--write-tasks",
        metavar="DIR",
        help="run nothing, but write the tests as tasks for lmms-eval --include_path DIR, and each "
        "on its pictures alone (_needle_only)",
    )
    add(
        "--show",
        choices=("pictures", "clip"),
        help="with --write-tasks: frames as pictures (default), or as a clip, for models that take "
        "video files",
    )
    add(
        "--examples",
        metavar="DIR",
        help="run nothing, but draw what each test shows and asks: a figure for each",
    )
    add("--out", help="folder for the results")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    add("--device-map", help="auto spreads the model over all devices")
    add("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    add("--attn-implementation", default="auto", help="auto, fa3, fa4, cudnn, sdpa, eager")
    add(
        "--conv-template",
        default="auto",
        help="auto, qwen_1_5; LLaVA-NeXT also vicuna_v1, mistral_instruct",
    )
    add(
        "--pool-after-projection",
        action="store_true",
        help="LLaVA-NeXT-Video: pool frames after the projector, as the published panels",
    )
    add(
        "--rope-theta",
        type=_numbers,
        nargs="+",
        action=_Flat,
        metavar="THETA",
        help="base of the rotary embedding; several, with blanks or commas between, run one after "
        "the other, into a folder each",
    )
    add("--rope-type", help="linear, ntk, yarn, llama3, dynamic, default")
    add("--rope-factor", type=float, help="factor of the rope type")
    add("--rope-original-length", type=int, help="tokens; the checkpoint's if left out")
    add("--rope-pinned-length", type=int, help="tokens; for dynamic")
    add("--chunk-tokens", default="auto", help="prefill chunk: auto, or tokens")
    add("--max-new-tokens", type=int, default=8, help="tokens of the model's own answer (8)")
    add("--feature-cache", help="folder where visual tokens are kept for later runs")
    add(
        "--no-controls",
        action="store_true",
        help="leave out the same questions without the needle, blind, and on the needle alone",
    )
    add(
        "--circular",
        action="store_true",
        help="ask needles with options again for every rotation of them",
    )
    add("--fresh", action="store_true", help="start over; what is in --out is set aside")
    add("--no-reuse", action="store_true", help="prefill every cell from nothing, to compare")
    return parser
