"""People as users and assistants: asked by interrupts and resumed by commands, as in an application."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from collab_agents import (
    HumanAssistant,
    HumanUser,
    Lookahead,
    MultiturnReward,
    Persona,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_graph,
    create_rollout_graph,
    evaluate,
    generate_trajectories,
    play_conversations,
)
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext
from collab_agents.runs import TaskSet
from collab_agents.training import MultiturnRewardFunction
from collab_agents.users import Memory
from tests.support.tasks import party

COST = MultiturnReward({"token_cost": token_cost()})
THREAD: Any = {"configurable": {"thread_id": "1"}}
BEGIN: dict[str, Any] = {"messages": [], "task": party().model_dump()}


class Counts:
    """An assistant that numbers its replies, over all branches."""

    def __init__(self) -> None:
        self.calls = 0

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        self.calls += 1
        return [AIMessage(f"reply {self.calls} to {messages[-1].content}")], memory


def asked(state: dict[str, Any]) -> dict[str, Any]:
    """What the person is shown; a UI gets it as JSON."""
    (one,) = state["__interrupt__"]
    return json.loads(json.dumps(one.value))


def texts(state: dict[str, Any]) -> list[str]:
    return [str(message.content) for message in state["messages"]]


async def test_a_person_talks_to_an_assistant() -> None:
    graph = create_conversation_graph(HumanUser(), Counts(), reward=COST, checkpointer=InMemorySaver())
    persona = Persona(name="terse", verbosity="terse")
    state = await graph.ainvoke({**BEGIN, "persona": persona.model_dump()}, THREAD)
    goal, who = party().goal, persona.describe()
    assert asked(state) == {"role": "user", "said": None, "goal": goal, "persona": who, "problem": None}
    state = await graph.ainvoke(Command(resume="Hello"), THREAD)
    assert asked(state)["said"] == "reply 1 to Hello"
    state = await graph.ainvoke(Command(resume={"content": "Thanks.", "end": True}), THREAD)
    assert texts(state) == ["Hello", "reply 1 to Hello", "Thanks."]
    assert (state["stopped"], state["exchanges"]) == ("user", 1)
    assert state["reward"] < 0


@pytest.mark.parametrize("answer", ["", "  \n", {"end": True}, {"content": "", "end": True}, None])
async def test_nothing_said_ends_the_conversation(answer: Any) -> None:
    graph = create_conversation_graph(HumanUser(show_goal=False), Counts(), checkpointer=InMemorySaver())
    state = await graph.ainvoke(BEGIN, THREAD)
    assert asked(state) == {"role": "user", "said": None, "problem": None}
    # LangGraph itself takes None for no answer, unless it is the answer to a given question.
    resume = {state["__interrupt__"][0].id: None} if answer is None else answer
    state = await graph.ainvoke(Command(resume=resume), THREAD)
    assert (texts(state), state["stopped"]) == ([], "user")


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        ({"content": "Hi"}, "Hi"),
        ({"content": "Hi", "end": False}, "Hi"),
        ({"role": "user", "content": "Hi"}, "Hi"),
        ({"type": "human", "content": "Hi", "id": "of-a-ui"}, "Hi"),
        (HumanMessage("Hi"), "Hi"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}, None),
    ],
)
async def test_a_person_answers_with_a_text_or_a_message(answer: Any, content: str | None) -> None:
    graph = create_conversation_graph(HumanUser(), Counts(), checkpointer=InMemorySaver(), max_exchanges=1)
    await graph.ainvoke(BEGIN, THREAD)
    state = await graph.ainvoke(Command(resume=answer), THREAD)
    assert [message.type for message in state["messages"]] == ["human", "ai"]
    assert content in (None, state["messages"][0].content)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (7, "expected a text or a message with the role user, got int"),
        (["Hi"], "expected a text or a message with the role user, got list"),
        ({"role": "assistant", "content": "Hi"}, "expected a message with the role user, got assistant"),
        ({"role": "boss", "content": "Hi"}, "not a message with the role user: Unexpected message type: 'boss'"),
        ({"contnet": "Hi"}, "not a message with the role user: Message dict must contain 'role' and 'content' keys"),
        ({"content": "Hi", "ends": True}, "a message has no 'ends': expected role and content"),
        ({"content": "Hi", "end": "yes"}, "end must be true or false, got 'yes'"),
        ({"content": " "}, "the message is empty: say something, or end the conversation"),
    ],
)
async def test_an_answer_that_cannot_be_taken_is_asked_again_with_the_problem(answer: Any, problem: str) -> None:
    graph = create_conversation_graph(HumanUser(), Counts(), checkpointer=InMemorySaver())
    await graph.ainvoke(BEGIN, THREAD)
    await graph.ainvoke(Command(resume="one"), THREAD)
    state = await graph.ainvoke(Command(resume=answer), THREAD)
    again = asked(state)
    assert again["problem"].startswith(problem)
    assert again["said"] == "reply 1 to one"
    state = await graph.ainvoke(Command(resume="two"), THREAD)
    assert texts(state) == ["one", "reply 1 to one", "two", "reply 2 to two"]
    assert asked(state)["problem"] is None


async def test_a_person_answers_a_simulated_user() -> None:
    user = ScriptedUser(["one", "two"])
    graph = create_conversation_graph(user, HumanAssistant(), checkpointer=InMemorySaver())
    state = await graph.ainvoke(BEGIN, THREAD)
    assert asked(state) == {"role": "assistant", "said": "one", "problem": None}
    state = await graph.ainvoke(Command(resume=""), THREAD)
    assert asked(state)["problem"] == "the reply is empty: a reply ends with the assistant's words"
    call = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    reply = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Monday", "tool_call_id": "1"},
        "On Monday.",
    ]
    state = await graph.ainvoke(Command(resume=reply), THREAD)
    assert asked(state)["said"] == "two"
    state = await graph.ainvoke(Command(resume={"role": "assistant", "content": "Done."}), THREAD)
    assert [one.type for one in state["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert state["stopped"] == "user"


async def test_a_conversation_with_a_person_outlives_the_process(tmp_path: Path) -> None:
    """Every step with a new connection, a new graph and new participants, as after a restart."""
    answers: list[Any] = [BEGIN, Command(resume="one"), Command(resume=3), Command(resume="two"), Command(resume="")]
    for answer in answers:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
            graph = create_conversation_graph(HumanUser(), Counts(), reward=COST, checkpointer=saver)
            state = await graph.ainvoke(answer, THREAD)
    assert texts(state) == ["one", "reply 1 to one", "two", "reply 1 to two"]
    assert state["stopped"] == "user"


@pytest.mark.parametrize("lasting", [False, True])
async def test_a_person_is_asked_after_every_choice_of_a_rollout(lasting: bool, tmp_path: Path) -> None:
    assistant, memory = Counts(), InMemorySaver()
    told: list[Any] = []

    async def simulated(messages: Sequence[BaseMessage], memory: Memory) -> tuple[BaseMessage, Memory]:
        told.append({key: value for key, value in memory.items() if key not in ("task", "persona", "seed")})
        return HumanMessage("simulated"), {"own": 1}

    shape = Lookahead(candidates=2, futures=2, window=1, max_exchanges=3)

    async def step(given: Any) -> dict[str, Any]:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints.sqlite")) as saver:
            kept = saver if lasting else memory
            graph = create_rollout_graph(
                HumanUser(), assistant, COST, shape, simulated_user=simulated, checkpointer=kept
            )
            return await graph.ainvoke(given, THREAD)

    calls = 2 * (1 + 2)
    await step(BEGIN)
    assert assistant.calls == 0
    state = await step(Command(resume="one"))
    assert assistant.calls == calls
    assert asked(state)["said"] == state["messages"][-1].content
    assert "simulated" not in texts(state)
    state = await step(Command(resume={"content": ""}))  # Asked again: nothing is sampled anew.
    assert assistant.calls == calls
    state = await step(Command(resume="two"))
    assert assistant.calls == 2 * calls
    assert asked(state)["problem"] is None
    state = await step(Command(resume=""))
    assert assistant.calls == 2 * calls
    assert [message.type for message in state["messages"]] == ["human", "ai"] * 2
    assert [turn["prompt"][-1]["content"] for turn in state["turns"]] == ["one", "two"]
    futures = [future for turn in state["turns"] for one in turn["candidates"] for future in one["futures"]]
    assert {future["messages"][0]["content"] for future in futures} == {"simulated"}
    assert told == [{}] * 8, "who plays the futures remembers nothing of other futures"
    assert (state["stopped"], state["reward"] < 0) == ("user", True)


@pytest.mark.parametrize("graph", ["conversation", "rollout"])
async def test_a_person_takes_part_inside_an_applications_graph(graph: str) -> None:
    class AppState(MessagesState, total=False):
        task: dict[str, Any]
        stopped: str

    assistant, prepared = Counts(), []

    async def prepare(state: AppState) -> dict[str, Any]:
        prepared.append(1)
        return {"task": party().model_dump()}

    app = StateGraph(AppState)
    app.add_node("prepare", prepare)
    talk = create_conversation_graph(HumanUser(), assistant, max_exchanges=2)
    if graph == "rollout":
        talk = create_rollout_graph(
            HumanUser(),
            assistant,
            COST,
            Lookahead(candidates=2, window=0, max_exchanges=2),
            simulated_user=ScriptedUser([]),
        )
    app.add_node("talk", talk)
    app.add_edge(START, "prepare")
    app.add_edge("prepare", "talk")
    compiled = app.compile(checkpointer=InMemorySaver())
    state = await compiled.ainvoke({"messages": []}, THREAD)
    assert asked(state)["goal"] == party().goal
    await compiled.ainvoke(Command(resume="one"), THREAD)
    state = await compiled.ainvoke(Command(resume="two"), THREAD)
    assert [message.type for message in state["messages"]] == ["human", "ai"] * 2
    assert state["stopped"] == "max_turns"
    assert assistant.calls == (2 if graph == "conversation" else 4)
    assert prepared == [1]


async def test_a_graph_without_a_checkpointer_says_that_a_person_needs_one() -> None:
    with pytest.raises(RolloutError) as error:
        await create_conversation_graph(HumanUser(), Counts()).ainvoke(BEGIN)
    assert str(error.value) == (
        "simulated_user: a person is the user, and a graph that waits for a person needs a checkpointer: "
        "pass checkpointer=InMemorySaver(), or one that lasts"
    )
    with pytest.raises(ConfigError, match=r"^a person is the assistant, and a graph that waits"):
        await HumanAssistant().respond([], {}, AssistantContext())


async def test_a_person_is_refused_where_nobody_is_at_the_keyboard() -> None:
    user, assistant, script = HumanUser(), HumanAssistant(), ScriptedUser(["a"])
    with pytest.raises(ConfigError, match="a HumanUser cannot be in many conversations at once: pass simulated_user"):
        create_rollout_graph(user, Counts(), COST)
    with pytest.raises(ConfigError, match="a HumanUser cannot be in many"):
        create_rollout_graph(script, Counts(), COST, simulated_user=user)
    with pytest.raises(ConfigError, match="a HumanAssistant cannot be in many"):
        create_rollout_graph(script, assistant, COST)
    with pytest.raises(ConfigError, match="a HumanUser cannot be in many"):
        create_lookahead_graph(user, Counts(), COST)
    with pytest.raises(ConfigError, match=r"or with collab-agents chat$"):
        await anext(generate_trajectories([party()], user=user, assistant=Counts(), reward=COST))
    with pytest.raises(ConfigError, match=r"or with collab-agents chat$"):
        await anext(play_conversations([party()], user=script, assistant=assistant, reward=COST))
    with pytest.raises(ConfigError, match="a HumanUser cannot be in many"):
        MultiturnRewardFunction(user, COST)
    with pytest.raises(ConfigError, match=r"evaluate with simulated ones$"):
        await evaluate([TaskSet("t", [party()], user, COST)], {"a": Counts()})
