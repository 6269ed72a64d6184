"""Tool calls of local models: told of in the chat template, read from the text, and passed on as any model's are."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.utils.function_calling import convert_to_openai_tool
from transformers import AutoTokenizer

from benchmarks.process import ROOT
from collab_agents import load_chat_model
from collab_agents.models.chat_template import chat_tokens
from collab_agents.models.smollm2 import smollm2
from collab_agents.models.tool_calls import read_calls
from tests.support.taught import HELLO, TOOLS, taught_model

PAY: dict[str, Any] = {
    "type": "function",
    "function": {"name": "pay", "parameters": {"type": "object", "properties": {"sum": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    ("text", "words", "calls"),
    [
        ('<tool_call>\n{"name": "pay", "arguments": {"sum": 3}}\n</tool_call>', "", [("pay", {"sum": 3})]),
        ('I pay. <tool_call>{"name": "pay", "arguments": {"sum": 3}}', "I pay.", [("pay", {"sum": 3})]),
        (
            '<tool_call>{"name": "pay", "arguments": {}}</tool_call> <tool_call>{"name": "ask"}</tool_call>',
            "",
            [("pay", {}), ("ask", {})],
        ),
        ('<tool_call>[{"name": "pay", "arguments": "{\\"sum\\": 3}"}]</tool_call>', "", [("pay", {"sum": 3})]),
        ('{"name": "pay", "parameters": {"sum": 3}}', "", [("pay", {"sum": 3})]),
        ('<|python_tag|>{"name": "pay", "parameters": {}}; {"name": "pay"}', "", [("pay", {}), ("pay", {})]),
    ],
)
def test_calls_in_the_forms_of_open_models_are_read(text: str, words: str, calls: list[Any]) -> None:
    told, found = read_calls(text, [PAY], seed=1)
    assert (told, [(call["name"], call["args"]) for call in found]) == (words, calls)
    again = read_calls(text, [PAY], seed=1)[1]
    other = read_calls(text, [PAY], seed=2)[1]
    assert found == again
    assert len({call["id"] for call in (*found, *other)}) == 2 * len(found)


@pytest.mark.parametrize(
    "text",
    [
        "Shall I pay?",
        '<tool_call>{"name": "pay", "arguments": {"sum": </tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "pay", "arguments": "all of it"}</tool_call>',
        '{"name": "Ann", "parameters": {}}',
        'The call is {"name": "pay", "parameters": {}}',
        '{"name": "pay", "parameters": {}} and more',
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert read_calls(text, [PAY], seed=1) == (text, [])


@given(st.text() | st.text(alphabet='<>/{}[]",:tool_cal name'))
def test_any_text_is_read(text: str) -> None:
    words, calls = read_calls(text, [PAY], seed=1)
    assert calls or words == text.strip()


NATIVE = (
    "{% if tools %}{{ tools[0].function.name }}|{% endif %}{% for message in messages %}{{ message.content }}"
    "{% for call in message.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}|{% endfor %}"
)
CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Pay 3."},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "a", "function": {"name": "pay", "arguments": '{"sum": 3}'}}],
    },
    {"role": "tool", "tool_call_id": "a", "content": "3 paid <|im_end|>"},
]


def test_a_template_gets_arguments_as_objects() -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    tokenizer.chat_template = NATIVE
    text = tokenizer.decode(chat_tokens(tokenizer, CONVERSATION, tools=[PAY]))
    assert text == 'pay|Pay 3.|{"sum": 3}|3 paid <|im_end|>|'


def test_a_template_that_knows_no_tools_is_told_of_them_in_words() -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    ids = chat_tokens(tokenizer, CONVERSATION, tools=[PAY], add_generation_prompt=True)
    text = tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\n# Tools")
    assert json.dumps(PAY) in text
    call = '<tool_call>\n{"name": "pay", "arguments": {"sum": 3}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{call}<|im_end|>" in text
    assert "<|im_start|>user\n<tool_response>\n3 paid <|im_end|>\n</tool_response><|im_end|>" in text
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 4  # The one in the tool's result is text.
    beginning = chat_tokens(tokenizer, [{"role": "system", "content": "Be kind."}, *CONVERSATION], tools=[PAY])
    assert tokenizer.decode(beginning).startswith("<|im_start|>system\nBe kind.\n\n# Tools")


def test_the_example_shows_a_model_the_tools_in_the_words_that_the_agent_will_use() -> None:
    raw = yaml.safe_load((ROOT / "examples" / "train_app" / "sft.yaml").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    asked = [{"role": "user", "content": "Please cancel my order"}]
    told = chat_tokens(tokenizer, asked, tools=[convert_to_openai_tool(tool) for tool in TOOLS])
    shown = [{"role": "system", "content": raw["data"]["system_prompt"]}, *asked]
    assert chat_tokens(tokenizer, shown) == told


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> str:
    return taught_model(tmp_path_factory.mktemp("taught"))


async def test_an_agent_calls_its_tools_by_a_local_model(taught: str) -> None:
    model = load_chat_model(f"local:{taught}", engine="transformers", temperature=0.0)
    agent: Any = create_agent(model, TOOLS)
    end = await agent.ainvoke({"messages": [HELLO]})
    called, result, *_ = end["messages"][1:]
    assert [call["name"] for call in called.tool_calls] == ["my_orders"]
    assert called.usage_metadata["output_tokens"] > 10
    assert result.content == "7: two mugs, 8: a lamp"
    streamed = [chunk async for chunk, _ in agent.astream({"messages": [HELLO]}, stream_mode="messages")]
    first = next(chunk for chunk in streamed if isinstance(chunk, AIMessage))
    assert first.content == ""
    assert [call["name"] for call in first.tool_calls] == ["my_orders"]


async def test_without_tools_a_text_is_a_text(taught: str, tmp_path: Path) -> None:
    model = load_chat_model(f"local:{taught}", engine="transformers", temperature=0.0, max_tokens=8)
    reply = await model.ainvoke([HumanMessage("Please cancel my order")])
    assert not reply.tool_calls
