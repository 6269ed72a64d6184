"""`simulate`: one conversation with an app, and what it refuses."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState
from pydantic import BaseModel
from typing_extensions import TypedDict

from benchmarks.process import Server
from collab_agents import (
    AgendaUser,
    ChatAssistant,
    GraphAssistant,
    ScriptedUser,
    create_lookahead_agent,
    load_chat_model,
    simulate,
)
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.judges import fact_coverage, token_cost
from tests.support.app_shapes import Scripted
from tests.support.apps import CONTEXT, app_of, paying, steps
from tests.support.plain_and_ahead import COST
from tests.support.reading import texts
from tests.support.tasks import DRAFT, party


async def test_an_app_a_goal_and_a_persona_give_a_trajectory(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    model = load_chat_model("openai:any", base_url=server.url)
    done: list[str] = []
    app = create_agent(Scripted(script=steps("pay")), [paying(done)], name="shop")
    trajectory = await simulate(
        app,
        goal="You want to pay for a mug.",
        persona="hurried-parent",
        model=model,
        judges={"cost": token_cost()},
        max_exchanges=2,
        simulate_tools={"pay": "pretended"},
    )
    assert done == []
    kinds = [message["role"] for message in trajectory.messages]
    assert kinds[:4] == ["user", "assistant", "tool", "assistant"], "several messages a turn"
    assert (trajectory.task.goal, trajectory.stopped) == ("You want to pay for a mug.", "max_turns")
    assert trajectory.persona is not None
    assert trajectory.persona.background in server.prompts()[0]
    assert trajectory.reward is not None
    assert (server.stats()["calls"], trajectory.usage.calls) == (2, 2 + 4), "the user's calls, and the app's"


async def test_an_app_may_be_a_function_a_model_or_an_assistant(serve: Callable[..., Server]) -> None:
    async def shop(messages: Sequence[BaseMessage]) -> str:
        return f"{len(messages)} so far"

    def sync_shop(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
        return [AIMessage("Well,"), AIMessage(f"{len(messages)} so far")]

    model = load_chat_model("openai:any", base_url=serve().url)
    for app, said in ((shop, "3 so far"), (sync_shop, "3 so far"), (model, ""), (ChatAssistant(model), "")):
        trajectory = await simulate(app, goal="Anything", user=ScriptedUser(["a", "b"]), max_exchanges=2)
        if app is not sync_shop:
            assert len(trajectory.messages) == 4
            assert said in trajectory.messages[-1]["content"]
        assert (trajectory.reward, trajectory.scores) == (None, {})
    task = party()
    trajectory = await simulate(lambda messages: DRAFT, goal=task, user=AgendaUser(), judges={"facts": fact_coverage()})
    assert (trajectory.task, trajectory.scores, trajectory.stopped) == (task, {"facts": 1.0}, "user")


async def test_what_the_door_cannot_take_is_said_in_one_sentence() -> None:
    app = app_of(lambda state: {"messages": [AIMessage("fine")]})
    for arguments, problem in (
        ({"persona": "hurried-paren"}, "there is no persona 'hurried-paren'.*did you mean 'hurried-parent'"),
        ({"simulate_tolls": {}}, "simulate has no option 'simulate_tolls'; did you mean 'simulate_tools'"),
        ({"model": "openai:any", "user": ScriptedUser([])}, "user cannot be combined with model"),
    ):
        with pytest.raises(ConfigError, match=problem):
            await simulate(app, goal="x", **arguments)
    for empty, problem in (
        ({"goal": ""}, "simulate: goal: string should"),
        ({"goal": "x", "user": 7}, "simulate: user: a simu"),
    ):
        with pytest.raises(ConfigError, match=problem):
            await simulate(app, **{"user": ScriptedUser([]), **empty})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="app: expected a compiled graph, a Runnable or a function, got int"):
        await simulate(7, goal="x", user=ScriptedUser([]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_turns is an option for an app, not for an Assistant"):
        await simulate(GraphAssistant(app), goal="x", user=ScriptedUser([]), max_turns=1)


class Answer(BaseModel):
    text: str
    sure: bool = True


class Question(TypedDict, total=False):
    question: str
    result: Any


async def test_a_reply_is_read_from_a_path_or_by_a_function_and_the_last_words_may_be_all_that_is_given() -> None:
    def work(state: Question) -> Question:
        return {"result": {"answers": [Answer(text=f"You asked {state['question']!r}.")]}}

    for output in ("result.answers.0.text", lambda state: state["result"]["answers"][0].text):
        assistant = GraphAssistant(app_of(work, Question), input_key="question", input_as="text", output_key=output)
        end = await create_lookahead_agent(assistant, ScriptedUser(["b"] * 3), COST).ainvoke(
            {"messages": [HumanMessage("x"), AIMessage("y"), HumanMessage("why?")]}
        )
        assert texts(end["messages"])[-1] == "You asked 'why?'."
        assert assistant.state_of(end["assistant_memory"])["result"]["answers"][0].text
    for output, problem in (
        (
            "result.replies.0",
            r"its output has no 'result\.replies\.0': KeyError: 'replies'; its keys are",
        ),
        (
            lambda state: state["other"],
            r"output_key failed: KeyError: 'other' \(.*test_simulate.py:\d+\); its keys are question, result",
        ),
        ("result.answers", r"'result\.answers' is '\[Answer.*: expected messages, a message or a string"),
    ):
        with pytest.raises(RolloutError, match=problem):
            await GraphAssistant(
                app_of(work, Question), input_key="question", input_as="text", output_key=output
            ).respond([HumanMessage("why?")], {}, CONTEXT)


async def test_a_structured_response_is_the_reply_while_the_thread_keeps_the_messages() -> None:
    class Structured(MessagesState, total=False):
        structured_response: Answer

    def work(state: Structured) -> dict[str, Any]:
        return {
            "messages": [AIMessage("{...}")],
            "structured_response": Answer(text=f"after {len(state['messages'])}"),
        }

    app = app_of(work, Structured, checkpointer=InMemorySaver())
    trajectory = await simulate(
        app, goal="x", user=ScriptedUser(["a", "b", "c"]), output_key="structured_response.text"
    )
    assert [message["content"] for message in trajectory.messages[1::2]] == ["after 1", "after 3", "after 5"]
