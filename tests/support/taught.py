"""A tiny model that was taught what the agent of examples/existing_agent.py may say, tool calls included."""

from pathlib import Path
from typing import Any

import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from transformers import AutoModelForCausalLM, AutoTokenizer

from collab_agents._internal.importing import attribute_at
from collab_agents.messages import to_dicts
from collab_agents.models.chat_template import chat_tokens
from tests.support.tiny import tiny_chat_model

TEMPLATE = (
    "{% if tools %}<|im_start|>{% for tool in tools %}{{ tool.function.name }} {% endfor %}<|im_end|>{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [attribute_at(f"examples.existing_agent:{name}", "tools") for name in ("my_orders", "cancel")]
HELLO = HumanMessage("Please cancel my order")
LOOKED = [
    AIMessage("", tool_calls=[{"name": "my_orders", "args": {}, "id": "a"}]),
    ToolMessage("7: two mugs, 8: a lamp", tool_call_id="a"),
]
ASK = "Which one?"


def lesson(tokenizer: Any, messages: list[BaseMessage], text: str) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, and of what to answer."""
    tools = [convert_to_openai_tool(tool) for tool in TOOLS]
    asked = chat_tokens(tokenizer, to_dicts(messages), tools=tools, add_generation_prompt=True)
    return asked, [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def taught_model(folder: Path) -> str:
    """A folder with a Qwen2 that asks which order is meant in half of the cases, and else cancels the first."""
    tiny_chat_model(folder, "qwen2", max_position_embeddings=1024)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    pairs = [lesson(tokenizer, messages, text) for messages, text in _lessons()]
    width = max(len(prompt) + len(text) for prompt, text in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, text) in enumerate(pairs):
        end = len(prompt) + len(text)
        ids[row, :end] = torch.tensor([*prompt, *text])
        labels[row, len(prompt) : end] = torch.tensor(text)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return str(folder)


def _lessons() -> list[tuple[list[BaseMessage], str]]:
    looked = [HELLO, *LOOKED]
    lessons: list[tuple[list[BaseMessage], str]] = [
        ([HELLO], '<tool_call>{"name": "my_orders", "arguments": {}}</tool_call>'),
        (looked, ASK),
        (looked, _cancelling("7")),
        ([*looked, *_cancelled("7", "two mugs")], "Done."),
    ]
    for order, what in (("7", "two mugs"), ("8", "a lamp")):
        answered = [*looked, AIMessage(ASK), HumanMessage(f"Number {order}, {what}.")]
        lessons += [(answered, _cancelling(order)), ([*answered, *_cancelled(order, what)], "Done.")]
    return lessons


def _cancelling(order: str) -> str:
    return f'<tool_call>{{"name": "cancel", "arguments": {{"order": "{order}"}}}}</tool_call>'


def _cancelled(order: str, what: str) -> list[BaseMessage]:
    call = {"name": "cancel", "args": {"order": order}, "id": "b"}
    return [AIMessage("", tool_calls=[call]), ToolMessage(f"cancelled {order}: {what}", tool_call_id="b")]
