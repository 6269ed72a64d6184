"""Conversations as tokens and labels for SFT: only the assistant's tokens have labels."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from collab_agents.errors import ConfigError
from collab_agents.training.policy import clean, tokens
from collab_agents.trajectories import Message

IGNORED = -100


def labelled(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    """Return `input_ids` and `labels`; labels are -100 outside the assistant's messages and their end tokens.

    A template with `{% generation %}` markers says which tokens are the assistant's. Without markers, they are the
    tokens that a message adds to the prompt before it.

    Raises:
        ConfigError: If a template without markers does not render a longer conversation with the tokens of the shorter
            one at its beginning, so that the assistant's tokens are unknown.
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
                "the chat template has no {% generation %} markers and renders a message differently once others "
                "follow, so the assistant's tokens are unknown: set model.chat_template to a file with a template that "
                "has the markers around the assistant's words"
            )
        labels[len(before) : len(after)] = after[len(before) :]
    return {"input_ids": ids, "labels": labels}


def _marked(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> dict[str, list[int]]:
    out = tokenizer.apply_chat_template(
        clean(messages), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = out["input_ids"], out["assistant_masks"]
    return {"input_ids": ids, "labels": [i if m else IGNORED for i, m in zip(ids, mask, strict=True)]}
