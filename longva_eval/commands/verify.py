"""`longva-eval verify`: our engine beside transformers' own `generate()` on a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from longva_eval.embedded import HAYSTACK

__all__ = ["main"]


def main(arguments: Sequence[str]) -> int:
    """Compare, and print what was found. Returns 1 if an answer differs."""
    options = _parser().parse_args(arguments)
    from longva_eval.engine.opening import open_session
    from longva_eval.engine.verify import summary_of, verify, verify_attention
    from longva_eval.media.frames import FramePolicy

    session = open_session(
        options.pretrained,
        revision=options.revision,
        device=options.device,
        device_map=options.device_map,
        dtype=options.dtype,
        attn_implementation=options.attn_implementation,
        thinking=options.thinking,
        frames=FramePolicy(max_frames=options.frames),
    )
    video, count = options.video or HAYSTACK, options.max_new_tokens
    if options.against:
        found = verify_attention(session, video, options.against, max_new_tokens=count)
    else:
        found = verify(session, video, max_new_tokens=count)
    reference = options.against or "generate()"
    summary = summary_of(found)
    described = session.describe()
    if options.format == "json":
        record = {**summary, "each": [asdict(each) for each in found], "model": described}
        print(json.dumps(record, indent=2))
        return 0 if summary["tokens_equal"] else 1
    print(f"{described['architecture']} in {described['dtype']} on {described['device']}, "
          f"attention {described['attn_implementation']}, "
          f"transformers {described['versions']['transformers']}")  # fmt: skip
    for each in found:
        verdict = "equal" if each.is_equal else f"DIFFERS in {each.flips} tokens"
        if not each.prompts_equal:
            verdict = "OTHER PROMPT"
        print(
            f"  {each.case:34} {each.num_prompt_tokens:8,} tokens  {verdict:24} logits differ by "
            f"{each.logit_difference:.1e} (margin {each.margin:.1e}); {each.seconds:.2f} s, "
            f"{reference} {each.reference_seconds:.2f} s"
        )
    print(
        f"{summary['cases']} cases, {summary['flips']} tokens differ, largest difference of logits "
        f"{summary['largest_logit_difference']:.1e}."
    )
    return 0 if summary["tokens_equal"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longva-eval verify",
        description="Ask a checkpoint the same things through this suite's engine and through "
        "transformers' own generate(), and compare prompts, logits and answers. In float32 answers "
        "are equal; in bfloat16 near ties may fall either way, and the margin shows it.",
    )
    parser.add_argument("pretrained", metavar="PRETRAINED", help="a folder or hub id")
    parser.add_argument("--video", help="a video file (default: the embedded one)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a video (8)")
    parser.add_argument("--max-new-tokens", type=int, default=16, help="of each answer (16)")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    parser.add_argument("--thinking", choices=["off", "on"], default="off")
    parser.add_argument("--revision", help="branch, tag or commit of the hub repository")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--device-map", help="auto spreads the model over all devices")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    parser.add_argument(
        "--against",
        metavar="ATTENTION",
        help="compare with another attention back end instead, on any model: sdpa, eager, ...",
    )
    parser.add_argument("--attn-implementation", default="auto", help="as in --model_args")
    return parser
