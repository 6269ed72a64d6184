"""A tokenizer and chat template read from a folder without transformers, whose import takes seconds."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer

from collab_agents.trajectories import Message

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class FastTokenizer:
    """What `chat_tokens` needs of a transformers tokenizer.

    Args:
        folder: With tokenizer.json, tokenizer_config.json, and a chat template in chat_template.jinja or
            tokenizer_config.json.
    """

    def __init__(self, folder: Path) -> None:
        self._file = str(folder / "tokenizer.json")
        self._tokenizer = Tokenizer.from_file(self._file)
        self._config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = folder / "chat_template.jinja"
        text = template.read_text(encoding="utf-8") if template.exists() else self._config.get("chat_template")
        self.chat_template: str | None = text if isinstance(text, str) else None

    @cached_property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        return self._tokenizer.get_added_tokens_decoder()

    @property
    def all_special_tokens(self) -> list[str]:
        return list(self._special.values())

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        *,
        tokenize: bool = False,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """Return the conversation's text. Raises jinja2's TemplateError if the template refuses it."""
        assert not tokenize
        return self._template.render(
            messages=messages, tools=tools, documents=None, add_generation_prompt=add_generation_prompt, **self._special
        )

    def __call__(
        self, text: str, *, add_special_tokens: bool = False, split_special_tokens: bool = False
    ) -> dict[str, list[int]]:
        tokenizer = self._splitting if split_special_tokens else self._tokenizer
        return {"input_ids": tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def eos_token_id(self) -> int | None:
        return self._tokenizer.token_to_id(self._special.get("eos_token", ""))

    @cached_property
    def _special(self) -> dict[str, str]:
        named = {name: self._config.get(name) for name in _NAMES}
        texts = {name: one.get("content") if isinstance(one, dict) else one for name, one in named.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    @cached_property
    def _splitting(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(self._file)
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _template(self) -> Template:
        # As in transformers, whose `generation` blocks mark the assistant's words for training.
        text = re.sub(r"({%-?)\s*generation\s*(-?%})", r"\1 if true \2", self.chat_template or "")
        text = re.sub(r"({%-?)\s*endgeneration\s*(-?%})", r"\1 endif \2", text)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        return environment.from_string(text)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)
