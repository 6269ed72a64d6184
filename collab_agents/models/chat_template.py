"""Tokenize a conversation for a local model so that only its chat template can write special tokens."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from collab_agents.models.tool_prompts import for_template
from collab_agents.trajectories import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def _text(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], options: dict[str, Any]) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, **options)


def chat_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[int]:
    """Return the tokens of a conversation of role/content dicts in the tokenizer's chat template.

    The text of a special token in a message, such as `<|im_start|>`, is tokenized like any other text. Tools are told
    of in the template's own way, or in Hermes' if it has none. `options` are those of `apply_chat_template`.
    """
    messages, options["tools"] = for_template(tokenizer, messages, tools)
    special = _special(tokenizer)
    if special is None or not _holds(messages, special):
        return _ids(tokenizer, _text(tokenizer, messages, options))
    mark = next(mark for mark in map(chr, range(0xE000, 0xF8FF)) if not _holds(messages, re.compile(mark)))
    texts: list[str] = []

    def held_back(found: re.Match[str]) -> str:
        texts.append(found[0])
        return f"{mark}{len(texts) - 1}{mark}"

    text = _text(tokenizer, _replaced(messages, special, held_back), options)
    ids: list[int] = []
    for index, part in enumerate(re.split(f"{mark}(\\d+){mark}", text)):
        if index % 2:
            ids += _ids(tokenizer, texts[int(part)], split_special_tokens=True)
        elif part:
            ids += _ids(tokenizer, part)
    return ids


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str, **options: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, **options)["input_ids"])


@lru_cache(maxsize=16)
def _special(tokenizer: "PreTrainedTokenizerBase") -> re.Pattern[str] | None:
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    texts = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, texts))) if texts else None


def _holds(value: object, pattern: re.Pattern[str]) -> bool:
    if isinstance(value, str):
        return pattern.search(value) is not None
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return any(_holds(part, pattern) for part in parts)


def _replaced(value: Any, pattern: re.Pattern[str], by: Callable[[re.Match[str]], str]) -> Any:
    if isinstance(value, str):
        return pattern.sub(by, value)
    if isinstance(value, Mapping):
        return {key: _replaced(part, pattern, by) for key, part in value.items()}
    return [_replaced(part, pattern, by) for part in value] if isinstance(value, list | tuple) else value
