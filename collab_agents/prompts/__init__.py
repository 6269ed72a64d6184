"""Prompt texts, one per file, with `$names` to fill in.

Values are filled in between tags and cannot open or close one, so they remain data whatever they say. Anything in a
value that looks like a tag of the prompts is escaped, as in HTML.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from string import Template

from langchain_core.messages import AIMessage, BaseMessage

from collab_agents.messages import as_seen, calls_in, is_users, name_of_tool, text_of

_TAGS = ("user", "assistant", "tool", "call", "note", "message", "goal", "character")


class Prompt(str):
    """A piece of a prompt in which everything from outside has been escaped."""


def render(name: str, /, **values: str) -> Prompt:
    """Return the prompt `name` with its `$names` filled in and escaped. Raises KeyError for a missing name."""
    return fill(template_of(name), **values)


def fill(template: Template, **values: str) -> Prompt:
    return Prompt(template.substitute({key: escape(value) for key, value in values.items()}))


@cache
def template_of(name: str) -> Template:
    return Template(_read(name))


def escape(text: str) -> Prompt:
    """Escape whatever in the text looks like a tag of a prompt, or like an escaped one."""
    if isinstance(text, Prompt):
        return text
    if "<" not in text and "&" not in text:
        return Prompt(text)
    return Prompt(_tags().sub(lambda found: found[0].replace("&", "&amp;", 1).replace("<", "&lt;", 1), text))


def tagged(tag: str, text: str) -> Prompt:
    return Prompt(f"<{tag}>{escape(text)}</{tag}>")


def transcript(messages: Iterable[BaseMessage], *, tools: bool = True) -> Prompt:
    """Return the conversation as text, with each message between tags.

    The transcript of a longer conversation begins with the shorter one's, so that prefix caches work. System messages
    are left out, and without `tools` so are tool calls and results, which a user does not see.
    """
    if not tools:
        messages = (message for message in as_seen(messages) if message.type != "ai" or message.content)
    return Prompt("".join(_message(message) for message in messages if message.type != "system"))


def _message(message: BaseMessage) -> str:
    words: str = escape(text_of(message).strip())
    if message.type == "human":
        tag = "user" if is_users(message) else "assistant"
        return f"<{tag}{'' if is_users(message) else ' to=itself'}>{words}</{tag}>\n"
    if isinstance(message, AIMessage):
        words += "".join(tagged("call", call) for call in calls_in(message))
        return f"<assistant>{words}</assistant>\n"
    if message.type == "tool":
        return f"<tool name={re.sub('[^a-zA-Z0-9_.-]', '_', name_of_tool(message))}>{words}</tool>\n"
    return f"<message>{words}</message>\n"


@cache
def _tags() -> re.Pattern[str]:
    """Return a pattern for opening and closing tags of prompts, with spaces or capitals or escaped."""
    texts = [one.read_text(encoding="utf-8") for one in files(__package__).iterdir() if one.name.endswith(".txt")]
    names = sorted({*_TAGS, *(name for text in texts for name in re.findall(r"</(\w+)>", text))})
    return re.compile(rf"(?:<|&(?:amp;)*lt;)(?=\s*/?\s*(?:{'|'.join(names)})\b)", re.IGNORECASE)


def _read(name: str) -> str:
    return files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").strip()
