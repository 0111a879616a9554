"""Templates that cannot be broken by what is put into them.

jinja2 escapes every text. Control characters become visible signs and halves of characters the
replacement sign, so that every text can be encoded and nothing in it goes unseen.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from longva_eval.reports.figures.colours import COLOURS, colour_of, ink_on

__all__ = ["asset", "digest", "render", "script_json", "style_sheet", "visible"]

_FOLDER: Final = Path(__file__).parent
_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def visible(text: str) -> str:
    """A text without characters that a page could not show."""

    def sign(found: re.Match[str]) -> str:
        code = ord(found[0])
        if code < 0x20:
            return chr(0x2400 + code)
        return "\u2421" if code == 0x7F else "\ufffd"

    return _UNSEEN.sub(sign, text.replace("\r\n", "\n"))


def script_json(identity: str, value: Any) -> Markup:
    """Data for a script, in an element that is not run.

    No character in it can end the element or begin another one: `<`, `>` and `&` are escaped, and
    so are the line ends that JSON allows and scripts do not.
    """
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    element = Markup('<script type="application/json" id="{}">{}</script>\n')
    return element.format(identity, Markup(text))


def render(template: str, **values: Any) -> str:
    """A template of `templates/` with its values, every text of which is escaped."""
    return _environment().get_template(template).render(**values)


def asset(name: str) -> Markup:
    """A file of `assets/`."""
    return Markup((_FOLDER / "assets" / name).read_text(encoding="utf-8"))


@functools.cache
def style_sheet() -> Markup:
    """The style, with the colours of heatmaps: a class for each percent, as `.c87`."""
    shades = "".join(
        f".c{percent}{{background:{colour_of(percent / 100)};color:{ink_on(percent / 100)}}}"
        for percent in range(101)
    )
    scale = f".scale{{background:linear-gradient(90deg,{','.join(COLOURS)})}}"
    return Markup(f"{asset('page.css')}{shades}\n{scale}\n")


def digest(text: str) -> str:
    """What a content security policy calls a style or a script by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"short": _short, "name": _name}
    made.globals |= {"script_json": script_json, "zip": zip}
    return made


def _shown(value: Any) -> Any:
    if isinstance(value, Markup):
        return value
    return f"{value:g}" if isinstance(value, float) else visible(str(value))


def _name(text: str) -> Markup:
    """A name, which may go on in the next line after each of its underscores."""
    return Markup("_<wbr>").join(visible(text).split("_"))


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"
