"""Trajectories as HTML, by templates that pages, reports and notebooks share.

All text of a conversation is untrusted. Templates escape it, and Markdown is rendered without HTML, images and links to
anything but the web.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from collab_agents.trajectories import Message
from collab_agents.usage import amount

_LONGEST = 20_000
"""Characters. A longer text is shown as it is, since it takes long to render."""
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e]")
"""Control characters, and those that turn the direction of the text that follows."""


def render(template: str, **values: object) -> str:
    """Return a page."""
    return _environment().get_template(template).render(**values)


def asset(name: str) -> str:
    """Return the text of a style sheet or a script."""
    return (files("collab_agents.view") / "static" / name).read_text(encoding="utf-8")


def markdown(text: str) -> Markup:
    """Return a message as HTML."""
    text = plain(text)
    if len(text) > _LONGEST:
        return Markup("<pre>{}</pre>").format(text)
    return Markup(_markdown().render(text))


def plain(text: object) -> str:
    """Return a text with its control characters made visible."""
    return _CONTROL.sub(_symbol, str(text))


def _symbol(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"[U+{code:04X}]"


def text_of(message: Message) -> str:
    """Return the text of a message, whose content may be a text or a list of blocks."""
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    blocks = content if isinstance(content, Sequence) else [content]
    return "\n\n".join(
        str(one.get("text") or f"[{one.get('type')}]") if isinstance(one, dict) else str(one) for one in blocks
    )


def tool_name(call: Any) -> str:
    """Return the name of the tool that a message calls."""
    return str(_function(call).get("name") or "a tool")


def tool_arguments(call: Any) -> str:
    """Return what a tool is called with, as JSON."""
    given = _function(call).get("arguments", _function(call).get("args", {}))
    return given if isinstance(given, str) else json.dumps(given, indent=2, ensure_ascii=False, default=str)


def _function(call: Any) -> Mapping[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    return function if isinstance(function, Mapping) else {}


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for reading; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def significant(value: float | None) -> str:
    """Return a number of any size for reading, to two or three digits; a dash for None."""
    if value is None:
        return "–"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.01 else f"{value:.2g}"


def count(value: float | None) -> str:
    """Return a whole number for reading; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Return a difference for reading; a dash for None."""
    return "–" if value is None else f"{value:+,.{digits}f}"


def money(value: float | None) -> str:
    """Return dollars for reading; a dash for None."""
    return "–" if value is None else f"${amount(value)}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("collab_agents.view"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else plain(value),
    )
    environment.filters |= {
        "markdown": markdown,
        "number": number,
        "count": count,
        "signed": signed,
        "significant": significant,
        "money": money,
        "text_of": text_of,
        "tool_arguments": tool_arguments,
        "tool_name": tool_name,
    }
    return environment


@cache
def _markdown() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"html": False, "breaks": True}).disable("image")
    parser.validateLink = lambda url: url.startswith(("https://", "http://", "mailto:"))  # type: ignore[method-assign]
    parser.add_render_rule("link_open", _link_open)
    return parser


def _link_open(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    href = escape(tokens[index].attrGet("href") or "")
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'
