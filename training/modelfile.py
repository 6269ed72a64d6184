"""The Modelfile by which Ollama takes a GGUF file, with its chat template in Ollama's language.

Ollama does not run the template in the file. It knows those of well-known models and guesses among them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from collab_agents.training.gguf_tokenizer import adds_bos
from collab_agents.trajectories import Message

_SAID = ("\ue000", "\ue001", "\ue002", "\ue003", "\ue004")
"""Contents of messages that no template has in it."""


@dataclass(frozen=True)
class _Frames:
    """What a chat template writes around the messages."""

    begin: str
    before: dict[str, str]
    """By role, what is before a message."""
    after: str
    prompt: str
    """What is before the reply that is asked for."""
    system: str
    """The system prompt of a conversation that has none."""

    def text(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a conversation."""
        if self.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        framed = (f"{self.before[one['role']]}{one['content']}{self.after}" for one in messages)
        return f"{self.begin}{''.join(framed)}{self.prompt}"


def write_modelfile(file: Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write the Modelfile of a GGUF file beside it, and return it."""
    lines = [f"FROM ./{file.name}"]
    if (found := ollama_template(tokenizer)) is not None:
        template, system = found
        lines.append(f'TEMPLATE """{template}"""')
        if system:
            lines.append(f'SYSTEM """{system}"""')
    target = file.with_suffix(".Modelfile")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target


def ollama_template(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """Return the tokenizer's chat template for Ollama, and the system prompt that it puts where there is none.

    It is made from what the template writes around each message. None if that is not the same everywhere, such as in
    templates that add a date.
    """
    if not tokenizer.chat_template:
        return None
    try:
        frames = _frames(tokenizer)
    except Exception:  # A template may refuse a conversation by an error of any kind.
        return None
    if frames is None:
        return None
    begin = frames.begin
    if adds_bos(tokenizer):  # So does Ollama.
        if not begin.startswith(str(tokenizer.bos_token)):
            return None
        begin = begin.removeprefix(str(tokenizer.bos_token))
    kept = (begin, *frames.before.values(), frames.after, frames.prompt, frames.system)
    if any(mark in text for text in kept for mark in ("{{", '"""')):
        return None
    roles = " else ".join(f'if eq .Role "{role}" }}}}{text}{{{{' for role, text in frames.before.items())
    messages = f"{{{{ range .Messages }}}}{{{{ {roles} end }}}}{{{{ .Content }}}}{frames.after}{{{{ end }}}}"
    return f"{begin}{messages}{frames.prompt}", frames.system


def _frames(tokenizer: PreTrainedTokenizerBase) -> _Frames | None:
    whole = _messages("system", "user", "assistant", "user")
    lead, after_system, after_user, after_assistant, after = _split(_text(tokenizer, whole, prompt=False), len(whole))
    if not (after and all(one.startswith(after) for one in (after_system, after_user, after_assistant))):
        return None
    user, assistant = after_system.removeprefix(after), after_user.removeprefix(after)
    prompt = _split(_text(tokenizer, whole), len(whole))[-1].removeprefix(after)
    begin, system = _split(_text(tokenizer, _messages("user")), 1)[0].removesuffix(user), ""
    if not lead.startswith(begin):  # It has a system prompt of the template's own.
        begin, system = "", begin.removeprefix(lead).removesuffix(after)
    frames = _Frames(
        begin, {"system": lead.removeprefix(begin), "user": user, "assistant": assistant}, after, prompt, system
    )
    longer = (
        whole,
        _messages("user", "assistant", "user"),
        _messages("system", "user", "assistant", "user", "assistant"),
    )
    return frames if all(frames.text(one) == _text(tokenizer, one) for one in longer) else None


def _messages(*roles: str) -> list[Message]:
    return [{"role": role, "content": said} for role, said in zip(roles, _SAID, strict=False)]


def _text(tokenizer: Any, messages: Sequence[Message], *, prompt: bool = True) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt)


def _split(text: str, marks: int) -> list[str]:
    """Return the parts of a text between the first of the messages' contents, which it has in this order."""
    parts = []
    for mark in _SAID[:marks]:
        before, _, text = text.partition(mark)
        parts.append(before)
    return [*parts, text]
