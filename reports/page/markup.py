"""HTML that cannot be broken by what is in it: text is escaped unless it is `Markup` already.

Control characters become visible signs, halves of characters the replacement sign, so that every
text can be encoded and nothing in it goes unseen.
"""

from __future__ import annotations

import html
import json
import re
from typing import Any, Final

__all__ = ["Markup", "isolated", "joined", "script_json", "tag", "visible"]

_VOID: Final = frozenset(["br", "col", "hr", "img", "input", "link", "meta"])
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def visible(text: str) -> str:
    """A text without characters that a page could not show."""

    def sign(found: re.Match[str]) -> str:
        code = ord(found[0])
        if code < 0x20:
            return chr(0x2400 + code)
        return "\u2421" if code == 0x7F else "\ufffd"

    return _UNSEEN.sub(sign, text.replace("\r\n", "\n"))


def tag(name: str, /, *children: str, **attributes: str | int | float | bool | None) -> Markup:
    """An element.

    Args:
        name: Of the element.
        *children: Escaped unless they are `Markup`.
        **attributes: `class_` is class, `aria_label` is aria-label; None and False leave one out,
            True gives it no value.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        parts.append(f" {key.rstrip('_').replace('_', '-')}")
        if value is not True:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            parts.append(f'="{html.escape(visible(shown))}"')
    parts.append(">")
    if name not in _VOID:
        parts += [joined(*children), f"</{name}>"]
    return Markup("".join(parts))


def joined(*children: str) -> Markup:
    """Several pieces one after the other, each escaped unless it is `Markup`."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else html.escape(visible(child), quote=False)
            for child in children
        )
    )


def isolated(text: str) -> Markup:
    """A text from outside, which may run from right to left, apart from what stands around it."""
    return tag("bdi", text)


def script_json(identity: str, value: Any) -> Markup:
    """Data for a script, in an element that is not run.

    No character in it can end the element or begin another one: `<`, `>` and `&` are escaped, and
    so are the line ends that JSON allows and scripts do not.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>\n')
