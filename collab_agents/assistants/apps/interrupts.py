"""Interrupts of an app: how they are shown to the user, and how the user's words answer them."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_YES = (
    "yes|yep|yeah|ok|okay|sure|approve|approved|agreed|confirmed|correct|go ahead|do it|do that|please do|"
    "that is fine|that's fine|fine|i approve|of course"
)
_PLAIN_YES = re.compile(rf"(?:{_YES})(?: (?:{_YES}|please|thanks|thank you))*")
_DECISIONS = ("approve", "edit", "reject")


def question_in(value: object) -> str:
    """Put an interrupt's value into words for a person.

    The question is the value itself if it is a string, the string under a common key such as "question" or "message",
    or the whole value as JSON. For a request for approval, as LangChain's `HumanInTheLoopMiddleware` makes it, the
    question lists the actions and the possible answers.
    """
    if isinstance(value, str):
        return value
    if actions := _actions(value):
        asked = "\n".join(f"- {one['name']}({_json(one.get('args', {}))})" for one, _ in actions)
        return f"I am about to do this:\n{asked}\n{_how(actions[0][1])}"
    if isinstance(value, Mapping):
        for key in ("question", "query", "message", "prompt", "description", "content", "text"):
            if isinstance(value.get(key), str):
                return value[key]
    return _json(value)


def answer_in(words: str, value: Any) -> str | dict[str, object]:
    """Turn a person's words into the value that resumes an interrupt.

    The value is the words themselves or, for a request for approval, a decision for each action. Only a plain yes
    approves. Anything else that is not an edit rejects the action, with the words as the reason. If rejecting is not
    allowed and responding is, the words are the tool's result.
    """
    actions = _actions(value)
    if not actions:
        return words
    decisions = [_decision(words.strip(), action, allowed) for action, allowed in actions]
    return {"decisions": decisions} if "action_requests" in value else decisions[0]


@dataclass(frozen=True)
class AskUser:
    """Let the user, simulated or real, answer an app's interrupts in words.

    Attributes:
        show: Returns the question to show to the user, given the interrupt's value.
        resume: Returns the value to resume the app with, given the user's words and the interrupt's value.

    Example:
        yes_or_no = AskUser(resume=lambda words, value: words.lower().startswith("yes"))
        assistant = GraphAssistant(app, interrupts=yes_or_no)
    """

    show: Callable[[Any], str] = question_in
    resume: Callable[[str, Any], object] = answer_in


def _actions(value: object) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the actions that a request asks to approve, with the decisions allowed for each."""
    if not isinstance(value, Mapping):
        return []
    requests = [value] if value.get("type") == "tool_approval" else value.get("action_requests")
    if not isinstance(requests, list) or not all(isinstance(one, Mapping) and "name" in one for one in requests):
        return []
    reviews = value.get("review_configs") or ()
    allowed = {one.get("action_name"): list(one.get("allowed_decisions", ())) for one in reviews}
    return [(one, allowed.get(one["name"]) or list(_DECISIONS)) for one in requests]


def _how(allowed: list[str]) -> str:
    how = {
        "approve": '"yes" to approve',
        "edit": '"edit" and the new arguments as JSON',
        "reject": '"no" and why',
        "respond": '"respond" and what the tool should have answered',
    }
    return f"Answer {', or '.join(how[one] for one in allowed if one in how)}."


def _decision(words: str, action: Mapping[str, Any], allowed: list[str]) -> dict[str, object]:
    kind, _, rest = words.partition(" ")
    kind, rest = kind.strip(":,.").lower(), rest.strip()
    if kind == "edit" and "edit" in allowed and (arguments := _arguments(rest)) is not None:
        return {"type": "edit", "edited_action": {"name": action["name"], "args": arguments}}
    if kind == "respond" and "respond" in allowed:
        return {"type": "respond", "message": rest}
    plain = " ".join(re.sub(r"[.,;:!]", " ", words.lower()).split())
    if "approve" in allowed and _PLAIN_YES.fullmatch(plain):
        return {"type": "approve"}
    return {"type": "reject" if "reject" in allowed or "respond" not in allowed else "respond", "message": words}


def _arguments(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
