"""Tables of several evaluated seeds, as Markdown for `training/seeds.md` and the model cards.

python -m training.report runs/seed0 runs/seed1 runs/seed2
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["main", "median_run"]


def _table(title: str, header: Sequence[object], rows: Mapping[str, Sequence[Any]]) -> list[str]:
    """Lines of a table; numbers with three decimals, texts as they are."""
    lines = [f"| {title} | " + " | ".join(map(str, header)) + " |"]
    lines.append("|---" * (len(header) + 1) + "|")
    for name, values in rows.items():
        cells = [value if isinstance(value, str) else f"{value:.3f}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _of_runs(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, list[str]]:
    """By row the numbers of all runs in a cell, and their mean; rows may end early."""
    length = max(len(values) for runs in rows.values() for values in runs.values())
    found = {}
    for name, runs in rows.items():
        cells = []
        for numbers in zip(*runs.values(), strict=True):
            each = " ".join(f"{number:.3f}" for number in numbers)
            cells.append(f"{each}, **{np.mean(numbers):.3f}**")
        found[name] = cells + [""] * (length - len(cells))
    return found


def long_score(result: dict[str, Any]) -> float:
    """What the median seed is chosen by: the long model's mean over 16 to 512 frames."""
    grid = result["grids"]["long"]
    kept = [a for n, a in zip(grid["num_frames"], grid["accuracy"], strict=True) if n <= 512]
    return float(np.mean(kept))


def median_run(results: dict[str, dict[str, Any]]) -> str:
    """The run in the middle by `long_score`; of an even number the lower one of the middle."""
    ordered = sorted(results, key=lambda name: long_score(results[name]))
    return ordered[(len(ordered) - 1) // 2]


def render(results: dict[str, dict[str, Any]]) -> str:
    """All tables."""
    first = next(iter(results.values()))
    grids = {
        name: {
            run: r["grids"][name]["accuracy"] for run, r in results.items() if name in r["grids"]
        }
        for name in first["grids"]
    }
    long = first["grids"]["long"]
    lines = _table("needles found by frames", long["num_frames"], _of_runs(grids))
    at_512 = long["num_frames"].index(512)
    depths = {run: r["grids"]["long"]["by_depth"][at_512] for run, r in results.items()}
    lines += _table("by depth", long["depths"], _of_runs({"long at 512 frames": depths}))
    only = {
        name: {run: [r[f"{name}_needle_only"]] for run, r in results.items()}
        for name in ("long", "short")
    }
    lines += _table("needle only", ["found"], _of_runs(only))
    lines.append(f"Guess floor: {first['guess_floor']:.3f}.\n")
    for title, key in (
        ("raised theta minus short (p)", "raised_theta_minus_short"),
        ("long minus raised theta (p)", "long_minus_raised_theta"),
    ):
        tested = {run: r for run, r in results.items() if r.get(key)}
        if tested:
            header = [test["num_frames"] for test in next(iter(tested.values()))[key]]
            differences = {
                f"{run}, theta {r['scaled_theta']:g}": [
                    f"{test['difference']:+.3f} ({test['p']:.2g})" for test in r[key]
                ]
                for run, r in tested.items()
            }
            lines += _table(title, header, differences)
    gains: dict[str, list[str]] = {}
    right: dict[str, dict[str, list[float]]] = {}
    counts: list[int] = []
    for model in ("long", "short"):
        key = f"{model}_mini_benchmark"
        for duration in ("short", "medium", "long"):
            counts = list(first[key]["accuracy"][duration])
            right[f"{model} model, {duration} videos"] = {
                run: list(r[key]["accuracy"][duration].values()) for run, r in results.items()
            }
        for run, result in results.items():
            mini = result[key]
            found = [f"{gain['points']:+.1f} ({gain['p']:.2g})" for gain in mini["gain"].values()]
            gains[f"{run}, {model}"] = [*found, " ".join(map(str, mini["no_answer"].values()))]
    lines += _table("mini benchmark by frames", counts, _of_runs(right))
    header = ["short videos", "medium", "long", "no answer at each number of frames"]
    lines += _table("gain in points (p)", header, gains)
    scores = {run: round(long_score(result), 4) for run, result in results.items()}
    lines.append(f"Mean of the long model over 16 to 512 frames: {scores}.")
    lines.append(f"Median: {median_run(results)}.")
    return "\n".join(lines) + "\n"


def bars(results: dict[str, dict[str, Any]]) -> str:
    """What the models are meant to show, and whether they do: means over the runs."""
    runs = list(results.values())
    full = [r for r in runs if "short, raised theta" in r["grids"]]
    lengths = runs[0]["grids"]["long"]["num_frames"]

    def mean(name: str, frames: int, among: list[dict[str, Any]] = runs) -> float:
        grids = [r["grids"][name] for r in among if name in r["grids"]]
        return float(np.mean([g["accuracy"][g["num_frames"].index(frames)] for g in grids]))

    at_512 = lengths.index(512)
    depths = np.mean([r["grids"]["long"]["by_depth"][at_512] for r in runs], axis=0)
    half = min(mean("long", n) for n in lengths if n <= 256)
    within = min(mean("short", n) for n in (16, 32, 64))
    twin = min(mean("long, text twin", n) for n in lengths if n <= 512)
    floor = runs[0]["guess_floor"]
    only = float(np.mean([r["long_needle_only"] for r in runs]))
    absent = max(max(r["grids"]["long, no needle"]["accuracy"]) for r in full)
    rows: list[tuple[str, str, bool]] = [
        (
            "long: at least .95 up to 256 frames, half its context",
            f"lowest {half:.3f}",
            half >= 0.95,
        ),
        (
            "long: at least .90 at 512 frames, its whole context",
            f"{mean('long', 512):.3f}",
            mean("long", 512) >= 0.9,
        ),
        ("long: no depth below .8 at 512 frames", f"lowest {min(depths):.3f}", min(depths) >= 0.8),
        ("short: at least .95 within its context", f"lowest {within:.3f}", within >= 0.95),
        (
            "short: at most .5 at four to eight times its context (256, 512 frames)",
            f"{mean('short', 256):.3f}, {mean('short', 512):.3f}",
            max(mean("short", 256), mean("short", 512)) <= 0.5,
        ),
    ]
    for run, result in results.items():
        if result not in full:
            continue
        between = [
            low["num_frames"]
            for low, high in zip(
                result["raised_theta_minus_short"], result["long_minus_raised_theta"], strict=True
            )
            if low["p"] < 0.01 > high["p"] and low["difference"] > 0 < high["difference"]
        ]
        text = f"both p < .01 at {between} frames" if between else "nowhere"
        rows.append((f"raised theta between short and long, {run}", text, bool(between)))
    rows += [
        (
            "no needle: at most .05 above the guess floor in every run",
            f"highest {absent:.3f}, floor {floor:.3f}",
            absent <= floor + 0.05,
        ),
        ("needle only: at least .98", f"{only:.3f}", only >= 0.98),
        ("text twin of long: at least .95 up to 512 frames", f"lowest {twin:.3f}", twin >= 0.95),
    ]
    for run, result in results.items():
        gain = result["long_mini_benchmark"]["gain"]
        points, p = gain["long"]["points"], gain["long"]["p"]
        rows.append(
            (
                f"mini benchmark, {run}: at least 15 points on long videos, p < .01, less on short",
                f"{points:+.0f} points, p {p:.2g}; short {gain['short']['points']:+.0f}",
                points >= 15 and p < 0.01 and gain["short"]["points"] < points,
            )
        )
    lines = ["| target | result | reached |", "|---|---|---|"]
    lines += [f"| {bar} | {text} | {'yes' if ok else '**no**'} |" for bar, text, ok in rows]
    return "\n".join(lines) + "\n\n"


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Four V-NIAH panels on one scale, means over the runs.

    Args:
        results: Evaluations by run.
        path: PNG to write.
    """
    from longva_eval.reports.figures.heatmap import needle_grid, save_heatmaps

    titles = {
        "long": "longva-tiny",
        "short": "longva-tiny-short",
        "short, raised theta": "longva-tiny-short, raised theta",
        "long, text twin": "longva-tiny, frames as captions",
    }
    panels = []
    for key, title in titles.items():
        grids = [r["grids"][key] for r in results.values() if key in r["grids"]]
        cells = np.mean([grid["by_depth"] for grid in grids], axis=0)  # (lengths, depths)
        rows = [
            {"Num. Frame": frames, "Frame Depth": 100 * depth, "Score": float(cells[column, row])}
            for column, frames in enumerate(grids[0]["num_frames"])
            for row, depth in enumerate(grids[0]["depths"])
        ]
        panels.append(needle_grid(rows, title=title))
    save_heatmaps(panels, path)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders with an eval.json")
    parser.add_argument("--figure", type=Path, help="PNG of the V-NIAH panels to write")
    arguments = parser.parse_args()
    results = {run.name: json.loads((run / "eval.json").read_text()) for run in arguments.runs}
    if arguments.figure:
        draw(results, arguments.figure)
    print("## Targets\n\n" + bars(results) + "## All tables\n\n" + render(results), end="")


if __name__ == "__main__":
    main()
