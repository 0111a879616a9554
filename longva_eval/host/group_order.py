"""Results in the order in which a group names its tasks: the order of a paper's table.

lmms-eval sorts a group's tasks by name before it prints them. No torch.
"""

from __future__ import annotations

from typing import Any

__all__ = ["order_results"]


def order_results(results: dict[str, Any]) -> None:
    """Put `results["results"]` in order, in place: a group, then its tasks as its YAML has them.

    Args:
        results: What lmms-eval's `evaluate` returns: `results`, and `group_subtasks` with the
            members of each group.
    """
    rows: dict[str, Any] = results.get("results") or {}
    members: dict[str, list[str]] = results.get("group_subtasks") or {}
    below = {name for names in members.values() for name in names}
    ordered: dict[str, Any] = {}

    def visit(name: str) -> None:
        if name in rows and name not in ordered:
            ordered[name] = rows[name]
            for member in members.get(name, []):
                visit(member)

    for name in rows:
        if name not in below:
            visit(name)
    results["results"] = ordered | rows  # `ordered` comes first; nothing is lost
