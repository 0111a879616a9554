"""Versions of what a number was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_versions"]


def package_versions() -> dict[str, str]:
    """Versions of the packages that can move a number."""
    names = [
        "longva-eval", "lmms-eval", "transformers", "torch", "tokenizers", "pillow", "decord",
        "torchcodec", "av", "numpy",
    ]  # fmt: skip
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
