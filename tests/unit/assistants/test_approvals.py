"""Apps that ask before they act: an answer given in a simulation authorises nothing real."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from collab_agents import (
    AskUser,
    GraphAssistant,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_agent,
    is_simulating,
)
from collab_agents.assistants.apps.interrupts import answer_in, question_in
from collab_agents.errors import RolloutError
from tests.support.app_shapes import Scripted
from tests.support.apps import CONTEXT, approve, steps
from tests.support.plain_and_ahead import COST
from tests.support.reading import texts
from tests.support.tasks import party

AT: Any = {"configurable": {"thread_id": "agent"}}
ASKED: Any = {"messages": [HumanMessage("a mug")]}


def shop(done: list[str], *, asks: str = "batched", saver: Any = None) -> Any:
    """An agent that pays and asks before: by the middleware, in one of its modes, or in the tool itself."""

    @tool
    async def pay(what: str) -> str:
        """Pay for it."""
        if asks == "tool":
            answer = interrupt({"question": f"Shall I pay for {what}?"})
            if answer != "yes":
                return f"not paid: {answer}"
        done.append(what)
        return f"paid {what}"

    mode: Any = asks
    middleware: list[Any] = []
    if asks != "tool":
        middleware = [HumanInTheLoopMiddleware(interrupt_on={"pay": True}, interrupt_mode=mode)]
    return create_agent(Scripted(script=steps("pay")), [pay], middleware=middleware, checkpointer=saver, name="shop")


def ahead(assistant: GraphAssistant, **options: Any) -> Any:
    return create_lookahead_agent(assistant, ScriptedUser(["a"] * 9), COST, agree=lambda texts: False, **options)


@pytest.mark.parametrize("asks", ["batched", "per_call"])
async def test_a_policy_that_approves_in_the_simulation_alone_authorises_nothing(asks: str) -> None:
    def policy(value: Any) -> Any:
        if is_simulating():
            return approve(value)
        decision = {"type": "reject", "message": "not today"}
        return decision if asks == "per_call" else {"decisions": [decision]}

    done: list[str] = []
    assistant = GraphAssistant(shop(done, asks=asks), interrupts=policy, simulate_tools={"pay": "pretended"})
    end = await ahead(assistant).ainvoke(ASKED)
    assert done == []
    assert "not today" in str(end["messages"][-2].content)


@pytest.mark.parametrize("asks", ["batched", "per_call", "tool"])
async def test_what_no_policy_answers_is_an_interrupt_of_the_agent(asks: str) -> None:
    done: list[str] = []
    assistant = GraphAssistant(
        shop(done, asks=asks, saver=InMemorySaver()), interrupts="user", simulate_tools={"pay": "pretended"}
    )
    agent = ahead(assistant, checkpointer=InMemorySaver())
    first = await agent.ainvoke(ASKED, AT)
    (asked,) = first["__interrupt__"]
    assert ("a mug" in str(asked.value), done, texts(first["messages"])) == (True, [], ["a mug"])
    answer = "yes" if asks == "tool" else approve(asked.value)
    end = await agent.ainvoke(Command(resume=answer), AT)
    assert done == ["a mug"]
    assert texts(end["messages"]) == ["a mug", "", "paid a mug", "It says: paid a mug"]
    again = await agent.ainvoke({"messages": [HumanMessage("two cups")]}, AT)
    end = await agent.ainvoke(Command(resume={again["__interrupt__"][0].id: answer}), AT)
    assert (done, texts(end["messages"])[-1]) == (["a mug", "two cups"], "It says: paid two cups")


async def test_a_policy_may_answer_in_the_simulation_and_leave_the_real_answer_to_a_person() -> None:
    done: list[str] = []
    assistant = GraphAssistant(
        shop(done),
        interrupts=lambda value: approve(value) if is_simulating() else None,
        simulate_tools={"pay": "pretended"},
    )
    agent = ahead(assistant, checkpointer=InMemorySaver())
    out = await agent.ainvoke(ASKED, AT)
    assert (len(out["__interrupt__"]), done) == (1, [])
    out = await agent.ainvoke(Command(resume=approve(None)), AT)
    assert (done, texts(out["messages"])[-1]) == (["a mug"], "It says: paid a mug")


async def test_several_questions_of_one_turn_are_asked_one_after_the_other_and_nothing_runs_twice() -> None:
    done: list[str] = []

    @tool
    async def pay(what: str) -> str:
        """Pay for it."""
        before = len(done)
        answer = interrupt(f"Payment {before + 1}?")
        done.append(answer)
        return f"paid {answer}"

    assistant = GraphAssistant(
        create_agent(Scripted(script=steps("pay", "pay")), [pay], name="shop"), simulate_tools={"pay": "pretended"}
    )
    agent = ahead(assistant, checkpointer=InMemorySaver())
    out = await agent.ainvoke(ASKED, AT)
    for number in (1, 2):
        assert [one.value for one in out["__interrupt__"]] == [f"Payment {number}?"]
        out = await agent.ainvoke(Command(resume=f"answer {number}"), AT)
    assert done == ["answer 1", "answer 2"]
    assert out["messages"][-1].content == "It says: paid answer 1 & paid answer 2"


async def test_questions_at_the_same_time_are_asked_at_the_same_time() -> None:
    done: list[str] = []

    @tool
    async def pay(what: str) -> str:
        """Pay for it."""
        done.append(f"{what} {interrupt(f'Pay for {what}?')}")
        return f"paid {what}"

    def script(messages: Any) -> AIMessage:
        if messages[-1].type == "tool":
            return AIMessage("Done.")
        called = [{"name": "pay", "args": {"what": what}, "id": what} for what in ("mug", "cup")]
        return AIMessage("", tool_calls=called)

    app = create_agent(Scripted(script=script), [pay], name="shop")
    agent = ahead(GraphAssistant(app, simulate_tools={"pay": "pretended"}), checkpointer=InMemorySaver())
    out = await agent.ainvoke(ASKED, AT)
    asked = {one.value: one.id for one in out["__interrupt__"]}
    assert set(asked) == {"Pay for mug?", "Pay for cup?"}
    answers = {asked["Pay for mug?"]: "in cash", asked["Pay for cup?"]: "by card"}
    out = await agent.ainvoke(Command(resume=answers), AT)
    assert sorted(done) == ["cup by card", "mug in cash"]
    assert out["messages"][-1].content == "Done."


async def test_while_a_reply_is_not_executed_to_its_end_the_agent_takes_no_new_message() -> None:
    done: list[str] = []
    assistant = GraphAssistant(shop(done), interrupts="user", simulate_tools={"pay": "pretended"})
    agent = ahead(assistant, checkpointer=InMemorySaver())
    await agent.ainvoke(ASKED, AT)
    out = await agent.ainvoke({"messages": [HumanMessage("two cups")]}, AT)
    assert len(out["__interrupt__"]) == 1, "it still waits"
    assert (texts(out["messages"]), done) == (["a mug"], [])
    out = await agent.ainvoke(Command(resume=approve(None)), AT)
    assert (texts(out["messages"])[-1], done) == ("It says: paid a mug", ["a mug"])
    out = await agent.ainvoke({"messages": [HumanMessage("two cups")]}, AT)
    assert "two cups" in str(out["__interrupt__"][0].value)


async def test_an_agent_without_a_checkpointer_asks_the_user_in_words() -> None:
    done: list[str] = []
    assistant = GraphAssistant(
        shop(done, saver=InMemorySaver()), interrupts="user", simulate_tools={"pay": "pretended"}
    )
    agent = ahead(assistant)
    end = await agent.ainvoke(ASKED)
    assert texts(end["messages"])[-1].startswith('I am about to do this:\n- pay({"what": "a mug"})\nAnswer "yes"')
    assert done == []
    asked = [*end["messages"], HumanMessage("Yes, please.")]
    end = await agent.ainvoke({"messages": asked, "assistant_memory": end["assistant_memory"]})
    assert (done, texts(end["messages"])[-1]) == (["a mug"], "It says: paid a mug")


async def test_where_nobody_can_answer_for_real_that_is_said() -> None:
    done: list[str] = []
    assistant = GraphAssistant(shop(done, asks="tool"), simulate_tools={"pay": "pretended"})
    with pytest.raises(RolloutError, match=r"the app asks 'Shall I pay for a mug\?', and nothing can answer: give the"):
        await ahead(assistant).ainvoke(ASKED)
    assert done == []


@pytest.mark.parametrize(
    ("words", "came"),
    [
        ("Yes, go ahead.", "would pay a mug"),
        ('edit {"what": "two mugs"}', "would pay two mugs"),
        ("No, that is too dear.", "No, that is too dear."),
        ("Yes, but not now.", "Yes, but not now."),
    ],
)
@pytest.mark.parametrize("asks", ["batched", "per_call"])
async def test_the_simulated_user_understands_what_the_middleware_asks(asks: str, words: str, came: str) -> None:
    done: list[str] = []
    assistant = GraphAssistant(
        shop(done, asks=asks), interrupts="user", simulate_tools={"pay": lambda what: f"would pay {what}"}
    )
    end = await create_conversation_graph(ScriptedUser(["a mug", words]), assistant).ainvoke(
        {"messages": [], "task": party()}
    )
    said = texts(end["messages"])
    assert said[2].startswith("I am about to do this:")
    assert came in said[-1]
    assert done == []


def test_only_a_plain_yes_approves_and_only_what_is_allowed_is_decided() -> None:
    def asked(*allowed: str, names: tuple[str, ...] = ("pay",)) -> dict[str, Any]:
        return {
            "action_requests": [{"name": name, "args": {}} for name in names],
            "review_configs": [{"action_name": name, "allowed_decisions": list(allowed)} for name in names],
        }

    assert answer_in("ok", asked("approve", "reject", names=("pay", "send"))) == {
        "decisions": [{"type": "approve"}] * 2
    }
    for words in ("Yes, please.", "OK!", "Sure, go ahead", "That is fine, thank you"):
        assert answer_in(words, asked("approve", "reject")) == {"decisions": [{"type": "approve"}]}
    no = ("Hm, ok?", "yes but later", "don't", "edit this", "Yes. Do NOT pay", "ok, don\u2019t", "OK wait, stop")
    for words in (*no, "ok cancel that", "Correct me if I'm wrong", "fine, whatever, no", ""):
        assert answer_in(words, asked("approve", "edit", "reject")) == {
            "decisions": [{"type": "reject", "message": words}]
        }
    assert answer_in("Blue", asked("respond")) == {"decisions": [{"type": "respond", "message": "Blue"}]}
    assert answer_in("respond Blue", asked("approve", "respond")) == {
        "decisions": [{"type": "respond", "message": "Blue"}]
    }
    assert '"respond" and what the tool should have answered' in question_in(asked("respond"))
    assert answer_in("Blue", {"question": "Which?"}) == "Blue"


async def test_a_policy_that_does_not_answer_or_raises_fails_its_branch() -> None:
    async def silent(value: Any) -> Any:
        await asyncio.sleep(3600)

    def broken(value: Any) -> Any:
        raise SystemExit(3)

    cases: list[tuple[Callable[[Any], Any], str]] = [
        (silent, r"no answer within 1 s"),
        (broken, r"it called sys\.exit\(3\)"),
    ]
    for policy, reason in cases:
        assistant = GraphAssistant(shop([]), interrupts=policy, timeout=1)
        with pytest.raises(RolloutError, match=f"app 'shop': interrupts, asked .*: {reason}"):
            await assistant.respond([HumanMessage("a mug")], {}, CONTEXT)


async def test_a_conversation_asks_and_hears_in_words_of_ones_own() -> None:
    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"You said {interrupt({'question': 'Which?'})}.")]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    ask = AskUser(show=lambda value: value["question"].upper(), resume=lambda words, value: words.lower())
    assistant = GraphAssistant(graph.compile(name="shop"), interrupts=ask)
    end = await create_conversation_graph(ScriptedUser(["a", "BLUE"]), assistant).ainvoke(
        {"messages": [], "task": party()}
    )
    assert texts(end["messages"])[1:] == ["WHICH?", "BLUE", "You said blue."]
