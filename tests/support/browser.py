"""The installed Chromium, headless, driven by playwright: what the page does in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed: pip install '.[dev]'")

from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=60_000)  # 5 s are too few where others use the machine too
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """The program: $CHROMIUM, or what is installed."""
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else NAMES
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser that ends with the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """An opened page, what it has complained about and what it has asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.page.context.close()


def open_tab(
    browser: Browser, address: str, *, width: int = 1200, height: int = 900, **context: Any
) -> Tab:
    """Open an address and wait for the load event."""
    tab = Tab(
        browser.new_context(viewport={"width": width, "height": height}, **context).new_page()
    )
    tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.page.on(
        "console", lambda said: tab.errors.append(said.text) if said.type == "error" else None
    )
    tab.page.on(
        "request",
        lambda asked: None if asked.url.startswith("data:") else tab.requests.append(asked.url),
    )
    tab.page.goto(address)
    return tab
