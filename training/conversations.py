"""Conversations as tokens and labels for SFT: the assistant's words are learnt, everything else is context."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from collab_agents.errors import ConfigError
from collab_agents.training.policy import clean, tokens
from collab_agents.trajectories import Message

IGNORED = -100


def labelled(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    """`input_ids` and `labels`, which are -100 outside the assistant's messages; the token that ends one is inside.

    A template with `{% generation %}` markers says itself what the assistant's tokens are. Of one without, the
    assistant's tokens are what a message adds to the prompt before it; raises ConfigError if a longer conversation
    does not begin with the shorter one's tokens, since it then cannot be told.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and "{% generation" in template.replace("{%-", "{%"):
        return _marked(tokenizer, messages)
    ids = tokens(tokenizer, messages)
    labels = [IGNORED] * len(ids)
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokens(tokenizer, messages[:number], prompt=True)
        after = tokens(tokenizer, messages[: number + 1])
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise ConfigError(
                "the chat template has no {% generation %} markers and renders a conversation differently once it goes "
                "on, so the assistant's tokens cannot be told: give model.chat_template, a file with a template that "
                "has the markers around the assistant's words"
            )
        labels[len(before) : len(after)] = after[len(before) :]
    return {"input_ids": ids, "labels": labels}


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    out: Any = tokenizer.apply_chat_template(
        clean(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = out["input_ids"], out["assistant_masks"]
    return {"input_ids": ids, "labels": [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]}
