"""Existing agents as assistants: real compiled graphs, with real checkpointers, and models behind a loopback server."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.prebuilt import ToolRuntime, create_react_agent
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, interrupt

from benchmarks.process import Server
from collab_agents import (
    AskUser,
    GraphAssistant,
    Lookahead,
    MultiturnReward,
    ScriptedUser,
    create_conversation_graph,
    create_lookahead_graph,
    create_rollout_graph,
    is_simulating,
    load_chat_model,
    simulate_as,
)
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.judges import Conversation, evaluator, token_cost
from collab_agents.participants import UserContext
from collab_agents.users import Memory
from tests.support.apps import CONTEXT, Calls, app_of
from tests.support.reading import line_in, texts
from tests.support.tasks import party

COST = MultiturnReward({"cost": token_cost()})


@tool
def look_up(order: str) -> str:
    """Look up an order."""
    return f"order {order} is two mugs"


def says(words: str) -> Callable[[Any], Any]:
    return lambda state: {"messages": [AIMessage(f"{words} {len(state['messages'])}")]}


async def marked_user(
    messages: Sequence[BaseMessage], memory: Memory, context: UserContext
) -> tuple[BaseMessage, Memory]:
    """Says who it is in every message, so that it is known again where it does not belong."""
    mark = memory.get("mark", context.seed)
    return HumanMessage(f"It is me, <{mark}>, again."), {"mark": mark}


@asynccontextmanager
async def savers(kind: str, folder: Path) -> "AsyncIterator[tuple[BaseCheckpointSaver[Any], Callable[[], Any]]]":
    """A checkpointer, and what reads everything that is in it."""
    if kind == "memory":
        saver = InMemorySaver()
        yield saver, lambda: (repr(saver.storage), repr(saver.writes), repr(saver.blobs))
    else:
        file = str(folder / "threads.sqlite")
        async with AsyncSqliteSaver.from_conn_string(file) as kept:
            yield kept, lambda: list(sqlite3.connect(file).iterdump())


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_live_thread_is_branched_and_stays_byte_for_byte_as_it_was(
    kind: str, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--call-tools", "--log", "--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    async with savers(kind, tmp_path) as (saver, everything):
        app = create_react_agent(model, [look_up], checkpointer=saver, name="shop")
        live: RunnableConfig = {"configurable": {"thread_id": "customer 42"}}
        await app.ainvoke({"messages": [HumanMessage("Hello, where is my order?")]}, live)
        before, calls = everything(), len(server.bodies())

        assistant = GraphAssistant(app)
        messages, memory = await assistant.fork(live)
        graph = create_rollout_graph(
            marked_user, assistant, COST, Lookahead(candidates=3, futures=3, window=2, max_exchanges=1)
        )
        asked = [*messages, HumanMessage("It is late.")]
        end = await graph.ainvoke({"messages": asked, "assistant_memory": memory, "task": party(), "seed": 7})

        assert everything() == before
        (turn,) = end["turns"]
        futures = [future for candidate in turn["candidates"] for future in candidate["futures"]]
        assert len(futures) == 9
        assert all(future["reward"] is not None for future in futures)
        replies = [tuple(str(message["content"]) for message in one["messages"]) for one in turn["candidates"]]
        assert len(set(replies)) == 3
        assert all(
            one["messages"][0]["tool_calls"] and one["messages"][1]["role"] == "tool" for one in turn["candidates"]
        )

    # What the model was given in each branch: the live thread, one candidate, and one user's words.
    said = [[str(message["content"]) for message in body["messages"]] for body in server.bodies()[calls:]]
    known = texts(asked)
    for prompt in said:
        assert prompt[: len(known)] == known
        marks = {words for words in prompt if words.startswith("It is me")}
        assert len(marks) <= 1
        assert sum(set(prompt) >= {reply[-1]} for reply in replies) <= 1
    assert len({mark for prompt in said for mark in prompt if mark.startswith("It is me")}) == 9
    assert max(map(len, said)) == len(known) + 3 + (1 + 3) + (1 + 2), "a reply is a call, its result, and words"


@pytest.mark.parametrize("where", ["configurable", "metadata"])
async def test_the_run_id_that_a_server_sets_does_not_make_a_turn_a_resumption(where: Any) -> None:
    assistant = GraphAssistant(app_of(says("reply"), checkpointer=InMemorySaver()))
    graph = create_conversation_graph(ScriptedUser(["a", "b", "c"]), assistant)
    config: Any = {where: {"run_id": "11111111-1111-1111-1111-111111111111"}}
    end = await graph.ainvoke({"messages": [], "task": party()}, config)
    assert texts(end["messages"]) == ["a", "reply 1", "b", "reply 3", "c", "reply 5"]


async def test_what_a_branch_came_to_can_take_the_live_threads_place(tmp_path: Path) -> None:
    async with savers("sqlite", tmp_path) as (saver, _):
        app = app_of(says("reply"), checkpointer=saver)
        live: RunnableConfig = {"configurable": {"thread_id": "1"}}
        await app.ainvoke({"messages": [("user", "one")]}, live)
        assistant = GraphAssistant(app)
        messages, memory = await assistant.fork(live)
        _, after = await assistant.respond([*messages, HumanMessage("two")], memory, CONTEXT)
        await assistant.commit(after)
        state = await app.aget_state(live)
        assert texts(state.values["messages"]) == ["one", "reply 1", "two", "reply 3"]
        with pytest.raises(RolloutError, match="thread '1' has gone on since it was forked"):
            await assistant.commit(after)
        await app.ainvoke({"messages": [("user", "three")]}, live)
        assert len((await app.aget_state(live)).values["messages"]) == 6
        history = [one async for one in app.aget_state_history(live)]
        assert len(history[-1].values["messages"]) == 0
        assert all(one.parent_config["configurable"] for one in history[:-1]), "one unbroken line"


async def test_a_thread_of_a_sync_saver_is_forked_at_any_of_its_checkpoints(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "sync.sqlite")) as saver:
        app = app_of(says("reply"), checkpointer=saver)
        live: RunnableConfig = {"configurable": {"thread_id": "1"}}
        for words in ("one", "two"):
            app.invoke({"messages": [("user", words)]}, live)
        early = next(
            one.config for one in app.get_state_history(live) if len(one.values["messages"]) == 2 and not one.next
        )
        assistant = GraphAssistant(app)
        messages, memory = await assistant.fork(early)
        assert texts(messages) == ["one", "reply 1"]
        reply, _ = await assistant.respond([*messages, HumanMessage("other")], memory, CONTEXT)
        assert texts(reply) == ["reply 3"]
        assert len(app.get_state(live).values["messages"]) == 4


async def test_an_app_without_a_checkpointer_is_given_the_whole_conversation() -> None:
    graph = create_conversation_graph(ScriptedUser(["a", "b"]), GraphAssistant(app_of(says("reply"))))
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"]) == ["a", "reply 1", "b", "reply 3"]


async def test_an_app_inside_a_graph_with_a_checkpointer_keeps_to_itself() -> None:
    kept = InMemorySaver()
    graph = create_conversation_graph(
        ScriptedUser(["a", "b"]), GraphAssistant(app_of(says("reply"), checkpointer=InMemorySaver())), checkpointer=kept
    )
    config: RunnableConfig = {"configurable": {"thread_id": "outer"}}
    end = await graph.ainvoke({"messages": [], "task": party().model_dump()}, config)
    assert texts(end["messages"]) == ["a", "reply 1", "b", "reply 3"]
    assert set(kept.storage) == {"outer"}
    assert set(kept.storage["outer"]) == {""}


async def test_state_keys_context_and_the_callers_settings_reach_the_app() -> None:
    class Shop(TypedDict):
        question: str
        locale: str
        answer: str

    async def work(state: Shop, config: RunnableConfig, runtime: Runtime[Any]) -> dict[str, Any]:
        settings = config["configurable"]
        return {
            "answer": f"{state['question']}|{state['locale']}|{runtime.context}|{settings['tier']}|{settings['who']}"
        }

    assistant = GraphAssistant(
        app_of(work, Shop, context=str),
        input_key=None,
        output_key="answer",
        inputs={"question": lambda messages: messages[-1].content, "locale": "de"},
        context="the context",
        config={"configurable": {"tier": "gold"}},
    )
    graph = create_conversation_graph(ScriptedUser(["why?"]), assistant)
    end = await graph.ainvoke({"messages": [], "task": party()}, {"configurable": {"who": "Ann"}})
    assert texts(end["messages"]) == ["why?", "why?|de|the context|gold|Ann"]


async def test_proactive_candidates_have_inputs_of_their_own() -> None:
    class Styled(MessagesState):
        style: str

    app = app_of(lambda state: {"messages": [AIMessage(state["style"])]}, Styled)
    assistant = GraphAssistant(app, inputs={"style": "answer"}, proactive_inputs={"style": "ask"})
    graph = create_rollout_graph(
        ScriptedUser(["a"]), assistant, COST, Lookahead(candidates=2, futures=1, window=0, proactive_ratio=0.5)
    )
    end = await graph.ainvoke({"messages": [], "task": party()})
    candidates = end["turns"][0]["candidates"]
    assert [(one["proactive"], one["messages"][0]["content"]) for one in candidates] == [
        (False, "answer"),
        (True, "ask"),
    ]


async def test_any_runnable_and_a_bare_chat_model_are_apps_too(serve: Callable[..., Server]) -> None:
    reply, _ = await GraphAssistant(RunnableLambda(lambda given: given["messages"][-1].content.upper())).respond(
        [HumanMessage("hey")], {}, CONTEXT
    )
    assert texts(reply) == ["HEY"]
    model = load_chat_model("openai:any", base_url=serve().url)
    assert (await GraphAssistant(model).respond([HumanMessage("hey")], {}, CONTEXT))[0][0].type == "ai"


async def test_judges_read_the_final_state_of_the_app() -> None:
    class Shop(MessagesState):
        cart: Annotated[list[str], lambda old, new: old + new]

    def work(state: Shop) -> dict[str, Any]:
        return {"messages": [AIMessage("done")], "cart": [state["messages"][-1].content]}

    def in_cart(conversation: Conversation, task: Any) -> float:
        return float(len(conversation.state["cart"]))

    def openevals_like(*, outputs: Any, state: dict[str, Any]) -> dict[str, Any]:
        return {"key": "cart", "score": "mug" in state["cart"]}

    reward = MultiturnReward({"cart": in_cart, "eval": evaluator(openevals_like)})
    for saver in (None, InMemorySaver()):
        assistant = GraphAssistant(app_of(work, Shop, checkpointer=saver))
        graph = create_conversation_graph(ScriptedUser(["mug", "cup"]), assistant, reward=reward)
        end = await graph.ainvoke({"messages": [], "task": party()})
        # Without a checkpointer an app forgets, in life as here.
        assert end["scores"] == ({"cart": 2.0, "eval": 1.0} if saver else {"cart": 1.0, "eval": 0.0})


async def test_a_store_is_read_and_what_a_branch_writes_stays_in_the_branch() -> None:
    store = InMemoryStore()
    store.put(("notes",), "old", {"text": "from before"})

    async def work(state: MessagesState, runtime: Runtime[Any]) -> dict[str, Any]:
        assert runtime.store is not None
        words = str(state["messages"][-1].content)
        await runtime.store.aput(("notes",), words, {"text": words})
        if words == "forget":
            await runtime.store.adelete(("notes",), "old")
        found = await runtime.store.asearch(("notes",))
        return {"messages": [AIMessage(" ".join(sorted(item.key for item in found)))]}

    assistant = GraphAssistant(app_of(work, store=store))
    first, memory = await assistant.respond([HumanMessage("a")], {}, CONTEXT)
    assert texts(first) == ["a old"]
    for words, known in (("b", "a b old"), ("forget", "a forget")):
        reply, _ = await assistant.respond([HumanMessage(words)], memory, CONTEXT)
        assert texts(reply) == [known]
    assert [item.key for item in store.search(("notes",))] == ["old"]


def asking_app(saver: Any = None) -> Any:
    def work(state: MessagesState) -> dict[str, Any]:
        answer = interrupt({"question": "Shall I cancel it?"})
        return {"messages": [AIMessage(f"You said {answer}.")]}

    return app_of(work, checkpointer=saver)


@pytest.mark.parametrize("saver", [None, InMemorySaver()])
async def test_an_interrupt_is_answered_by_a_policy(saver: Any) -> None:
    async def policy(value: Any) -> str:
        return f"yes to {value['question']!r}"

    assistant = GraphAssistant(asking_app(saver), interrupts=policy)
    graph = create_conversation_graph(ScriptedUser(["cancel", "again"]), assistant)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"])[1::2] == ["You said yes to 'Shall I cancel it?'."] * 2


@pytest.mark.parametrize("saver", [None, InMemorySaver()])
async def test_an_interrupt_is_answered_by_the_simulated_user(saver: Any) -> None:
    assistant = GraphAssistant(asking_app(saver), interrupts="user")
    graph = create_lookahead_graph(
        ScriptedUser(["cancel", "please do", "thanks"]), assistant, COST, Lookahead(futures=2, window=2)
    )
    messages: list[BaseMessage] = [HumanMessage("cancel")]
    reply, memory = await assistant.respond(messages, {}, CONTEXT)
    assert texts(reply) == ["Shall I cancel it?"]
    end = await graph.ainvoke({"messages": [*messages, *reply], "assistant_memory": memory, "task": party()})
    for future in end["futures"]:
        assert [one["content"] for one in future["messages"]] == [
            "please do",
            "You said please do.",
            "thanks",
            "Shall I cancel it?",
        ]


async def test_how_the_user_is_asked_and_how_the_app_goes_on_can_be_told() -> None:
    ask = AskUser(show=lambda value: value["question"].upper(), resume=lambda words, value: {"type": words, **value})
    assistant = GraphAssistant(asking_app(), interrupts=ask)
    reply, memory = await assistant.respond([HumanMessage("cancel")], {}, CONTEXT)
    assert texts(reply) == ["SHALL I CANCEL IT?"]
    reply, _ = await assistant.respond([HumanMessage("cancel"), *reply, HumanMessage("ok")], memory, CONTEXT)
    assert texts(reply) == ["You said {'type': 'ok', 'question': 'Shall I cancel it?'}."]


async def test_an_interrupt_that_nothing_answers_is_an_error() -> None:
    with pytest.raises(RolloutError, match=r"app 'shop' interrupts with 'Shall I cancel it\?': set `interrupts` to"):
        await GraphAssistant(asking_app(InMemorySaver())).respond([HumanMessage("cancel")], {}, CONTEXT)


@pytest.mark.parametrize("how", ["replaced", "marked", "by itself"])
async def test_tools_with_side_effects_are_stood_in_for_in_a_simulation(how: str) -> None:
    done: list[str] = []

    @tool
    def cancel(order: str) -> str:
        """Cancel an order."""
        if how == "by itself" and is_simulating():
            return f"{order} would be cancelled"
        done.append(order)
        return f"{order} is cancelled"

    marked = simulate_as(lambda order: f"{order} would be cancelled")(cancel) if how == "marked" else cancel
    app = Calls([marked]).app
    instead = {"cancel": lambda order: f"{order} would be cancelled"} if how == "replaced" else {}
    graph = create_rollout_graph(
        ScriptedUser(["7", "8", "9"]),
        GraphAssistant(app, simulate_tools=instead),
        COST,
        Lookahead(candidates=2, futures=2, window=1),
    )
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"])[1:4] == ["", "7 would be cancelled", "It says: 7 would be cancelled"]
    assert done == []
    await app.ainvoke({"messages": [HumanMessage("7")]})
    assert done == ["7"], "the live app is not touched"


@pytest.mark.parametrize("saver", [None, InMemorySaver()])
async def test_a_chosen_reply_is_performed_once_and_goes_on_from_what_the_tool_really_gave(saver: Any) -> None:
    done: list[str] = []

    @tool
    def cancel(order: str) -> str:
        """Cancel an order."""
        done.append(order)
        return "it was sent already" if order == "8" else f"{order} is cancelled"

    assistant = GraphAssistant(
        Calls([cancel], checkpointer=saver).app, simulate_tools={"cancel": lambda order: f"{order} is cancelled"}
    )
    for order, words in (("7", "It says: 7 is cancelled"), ("8", "It says: it was sent already")):
        messages = [HumanMessage(order, id="u")]
        reply, after = await assistant.respond(messages, {}, CONTEXT)
        assert texts(reply)[-1] == f"It says: {order} is cancelled"
        done_now = await assistant.execute(messages, {}, reply, after)
        reply, after = done_now.reply, done_now.memory
        assert texts(reply)[-1] == words
        assert done.pop() == order
        assert done == []
        if saver:  # And the app itself knows what really happened.
            messages += [*reply, HumanMessage("7", id="u2")]
            reply, after = await assistant.respond(messages, after, CONTEXT)
            assert len(reply) == 3


@pytest.mark.parametrize("how", ["replaced", "marked"])
async def test_wrong_arguments_are_told_to_the_model_as_by_the_real_tool(how: str) -> None:
    @tool
    async def cancel(order: int, runtime: ToolRuntime, reason: str = "") -> str:
        """Cancel an order."""
        raise AssertionError("a real call")

    instead = f"{how} result"
    app = Calls([simulate_as(instead)(cancel) if how == "marked" else cancel]).app
    assistant = GraphAssistant(app, simulate_tools={"cancel": instead} if how == "replaced" else {})
    plain = await app.ainvoke({"messages": [HumanMessage("seven")]})
    reply, _ = await assistant.respond([HumanMessage("seven")], {}, CONTEXT)
    assert "order: Input should be a valid integer" in texts(reply)[1]
    assert texts(reply) == texts(plain["messages"])[1:]
    reply, _ = await assistant.respond([HumanMessage("7")], {}, CONTEXT)
    assert texts(reply)[1] == instead


def test_a_tool_that_the_app_does_not_have_cannot_be_replaced() -> None:
    with pytest.raises(
        ConfigError, match=r"simulate_tools: the app 'shop' has no tool 'look_upp'.*did you mean 'look_up'"
    ):
        GraphAssistant(Calls([look_up]).app, simulate_tools={"look_upp": "nothing"})


async def test_the_same_seed_gives_the_same_futures_through_an_app_too(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve("--deterministic").url)
    app = create_react_agent(model, [look_up], name="shop")
    graph = create_rollout_graph(
        marked_user, GraphAssistant(app), COST, Lookahead(candidates=2, futures=2, max_exchanges=2)
    )
    first, second, third = [await graph.ainvoke({"messages": [], "task": party(), "seed": seed}) for seed in (1, 1, 2)]
    said = [[[one["content"] for one in turn["prompt"]] for turn in end["turns"]] for end in (first, second, third)]
    assert said[0] == said[1] != said[2]


async def test_calls_of_an_apps_own_models_are_counted(serve: Callable[..., Server]) -> None:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    server = serve()
    plain = ChatOpenAI(model="any", base_url=server.url, api_key=SecretStr("none"))
    ours = load_chat_model("openai:any", base_url=server.url)
    both = app_of(lambda state: {"messages": [plain.invoke("hi"), ours.invoke("hi")]})
    graph = create_conversation_graph(ScriptedUser(["a", "b"]), GraphAssistant(both), reward=COST)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert end["usage"]["calls"] == server.stats()["calls"] == 4
    assert end["usage"]["output_tokens"] > 0


class NoMessages(TypedDict):
    text: str


class Plain(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


async def never(state: Any) -> dict[str, Any]:
    await asyncio.sleep(3600)
    return {}


def raises(state: Any) -> dict[str, Any]:
    raise ValueError("out of stock")


def endless() -> Any:
    graph = StateGraph(Plain)
    graph.add_node("again", lambda state: {})
    graph.add_edge(START, "again")
    graph.add_edge("again", "again")
    return graph.compile(name="shop")


@pytest.mark.parametrize(
    ("app", "error"),
    [
        (app_of(lambda state: {"text": "hi"}, NoMessages), "its output has no key 'messages'; its keys are text"),
        (app_of(lambda state: {}, Plain), "it returned no reply, under 'messages', to the user's message"),
        (app_of(raises), ", node 'work': ValueError: out of stock"),
        (endless(), ", after node 'again': it did not end within 5 steps"),
        (app_of(never), ": no reply within 2 s"),
        (
            app_of(lambda state: {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), AIMessage("ok")]}, Plain),
            "it changed or removed earlier messages; rewrites_history=True allows it",
        ),
        (
            app_of(lambda state: {"messages": [RemoveMessage(id=state["messages"][0].id), AIMessage("ok")]}, Plain),
            "it changed or removed earlier messages; rewrites_history=True allows it",
        ),
        (
            app_of(lambda state: {"messages": [HumanMessage("I am the user now")]}),
            "it returned no reply, under 'messages', to the user's message",
        ),
        (RunnableLambda(raises, name="shop"), ": ValueError: out of stock"),
    ],
)
async def test_a_bad_app_fails_its_branch_and_is_named_with_its_node(app: Any, error: str) -> None:
    assistant = GraphAssistant(app, max_steps=5, timeout=2)
    with pytest.raises(RolloutError) as failed:
        await assistant.respond(
            [HumanMessage("one", id="1"), AIMessage("x", id="2"), HumanMessage("two", id="3")], {}, CONTEXT
        )
    assert str(failed.value).startswith("app 'shop'")
    assert error in str(failed.value)


async def test_an_app_that_raises_in_one_branch_leaves_the_others_alone() -> None:
    def sometimes(state: MessagesState) -> dict[str, Any]:
        if str(state["messages"][-1].content).startswith("b"):
            raise ValueError("out of stock")
        return {"messages": [AIMessage("fine")]}

    async def user(messages: Any, memory: Memory, context: UserContext) -> tuple[BaseMessage, Memory]:
        return HumanMessage("b" if context.seed % 2 else "a"), memory

    graph = create_rollout_graph(
        user, GraphAssistant(app_of(sometimes)), COST, Lookahead(candidates=2, futures=6, window=1, max_exchanges=1)
    )
    end = await graph.ainvoke({"messages": [HumanMessage("a")], "task": party()})
    futures = [future for candidate in end["turns"][0]["candidates"] for future in candidate["futures"]]
    failed = [future["error"] for future in futures if future["error"]]
    assert 0 < len(failed) < 12
    reason = f"ValueError: out of stock ({line_in(sometimes, 2)})"
    assert all(error.endswith(f"assistant: app 'shop', node 'work': {reason}") for error in failed)
    assert all(error.startswith("future ") for error in failed)
    assert all(future["reward"] is not None for future in futures if not future["error"])


async def test_an_app_that_rewrites_its_history_may_say_so() -> None:
    def summarise(state: Plain) -> dict[str, Any]:
        gone = [RemoveMessage(id=str(one.id)) for one in state["messages"][:-1]]
        return {"messages": [*gone, AIMessage(f"of {len(state['messages'])}")]}

    assistant = GraphAssistant(app_of(summarise, Plain, checkpointer=InMemorySaver()), rewrites_history=True)
    graph = create_conversation_graph(ScriptedUser(["a", "b", "c"]), assistant)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"]) == ["a", "of 1", "b", "of 3", "c", "of 3"]


async def test_a_thread_that_is_not_there_yet_is_forked_and_made_by_the_commit() -> None:
    app = app_of(says("reply"), checkpointer=InMemorySaver())
    assistant = GraphAssistant(app)
    live: RunnableConfig = {"configurable": {"thread_id": "new"}}
    messages, memory = await assistant.fork(live)
    assert messages == []
    with pytest.raises(ConfigError, match="app 'shop': there is nothing to commit yet: no turn has run"):
        await assistant.commit(memory)
    _, after = await assistant.respond([HumanMessage("one")], memory, CONTEXT)
    assert (await app.aget_state(live)).values == {}
    await assistant.commit(after)
    assert texts((await app.aget_state(live)).values["messages"]) == ["one", "reply 1"]
    with pytest.raises(RolloutError, match="thread 'new' has gone on since it was forked"):
        await assistant.commit(after)
    with pytest.raises(ConfigError, match="app 'shop' has no checkpoint '0' in thread 'new'"):
        await assistant.fork({"configurable": {"thread_id": "new", "checkpoint_id": "0"}})
    with pytest.raises(ConfigError, match="app 'shop' has no checkpointer, and so no thread to fork"):
        await GraphAssistant(app_of(says("x"))).fork(live)


async def test_a_sub_agent_that_only_a_tool_calls_keeps_its_thread_and_may_ask() -> None:
    def expert(state: MessagesState) -> dict[str, Any]:
        answer = interrupt("May I?") if len(state["messages"]) == 1 else "no need"
        return {"messages": [AIMessage(f"{answer}, after {len(state['messages'])}")]}

    inner = StateGraph(MessagesState)
    inner.add_node("expert", expert)
    inner.add_edge(START, "expert")
    sub = inner.compile(checkpointer=True)

    async def work(state: MessagesState) -> dict[str, Any]:
        asked = await (await _called_elsewhere(sub)).ainvoke({"messages": [state["messages"][-1]]})
        return {"messages": [AIMessage(asked["messages"][-1].content)]}

    assistant = GraphAssistant(app_of(work, checkpointer=InMemorySaver()), interrupts="user")
    graph = create_conversation_graph(ScriptedUser(["a", "yes", "b"]), assistant)
    end = await graph.ainvoke({"messages": [], "task": party()})
    assert texts(end["messages"])[1::2] == ["May I?", "yes, after 1", "no need, after 3"]


async def _called_elsewhere(graph: Any) -> Any:
    """So that LangGraph does not find it by looking at the node."""
    return graph


async def test_a_fork_of_a_thread_that_waits_is_committed_with_its_answer() -> None:
    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{interrupt('first?')}, {interrupt('second?')}")]}

    app = app_of(work, checkpointer=InMemorySaver())
    live: RunnableConfig = {"configurable": {"thread_id": "1"}}
    await app.ainvoke({"messages": [HumanMessage("go")]}, live)
    with pytest.raises(ConfigError, match="its thread waits for an answer to 'first\\?': set interrupts='user'"):
        await GraphAssistant(app).fork(live)

    assistant = GraphAssistant(app, interrupts="user")
    messages, memory = await assistant.fork(live)
    reply, after = await assistant.respond([*messages, HumanMessage("A")], memory, CONTEXT)
    assert texts(reply) == ["second?"]
    assert (await app.aget_state(live)).interrupts[0].value == "first?"
    await assistant.commit(after)
    assert (await app.aget_state(live)).interrupts[0].value == "second?"
    end = await app.ainvoke(Command(resume="B"), live)
    assert end["messages"][-1].content == "A, B"


async def test_only_what_is_a_fork_is_committed_and_a_breakpoint_is_no_reply() -> None:
    assistant = GraphAssistant(app_of(says("x"), checkpointer=InMemorySaver()))
    _, after = await assistant.respond([HumanMessage("a")], {}, CONTEXT)
    with pytest.raises(ConfigError, match="app 'shop': only what began with fork can be committed"):
        await assistant.commit(after)
    held = app_of(says("x"), checkpointer=InMemorySaver(), interrupt_before=["work"])
    with pytest.raises(RolloutError, match="app 'shop': it stopped before node 'work', by interrupt_before or"):
        await GraphAssistant(held).respond([HumanMessage("a")], {}, CONTEXT)


async def test_a_conversation_that_has_been_cut_is_followed_or_refused_by_its_ids() -> None:
    assistant = GraphAssistant(app_of(says("reply"), checkpointer=InMemorySaver()))
    first: list[BaseMessage] = [HumanMessage("a", id="a")]
    reply, memory = await assistant.respond(first, {}, CONTEXT)
    again, _ = await assistant.respond([reply[-1], HumanMessage("b", id="b")], memory, CONTEXT)
    assert texts(again) == ["reply 3"]
    with pytest.raises(RolloutError, match="the conversation has lost the message that the app saw last"):
        await assistant.respond([HumanMessage("b", id="b")], memory, CONTEXT)


async def test_a_summary_in_the_place_of_messages_is_history() -> None:
    def summarise(state: Plain) -> dict[str, Any]:
        last = state["messages"][-1]
        kept = [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("A summary."), last]
        return {"messages": [*kept, AIMessage(f"of {len(state['messages'])}")]}

    assistant = GraphAssistant(app_of(summarise, Plain, checkpointer=InMemorySaver()), rewrites_history=True)
    end = await create_conversation_graph(ScriptedUser(["a", "b"]), assistant).ainvoke(
        {"messages": [], "task": party()}
    )
    assert texts(end["messages"]) == ["a", "of 1", "b", "of 4"]


async def test_what_one_branch_does_to_an_input_is_not_seen_in_another() -> None:
    class Shop(MessagesState):
        cart: list[str]

    def work(state: Shop) -> dict[str, Any]:
        state["cart"].append("mug")
        return {"messages": [AIMessage(f"{state['cart']}")]}

    assistant = GraphAssistant(app_of(work, Shop), inputs={"cart": []})
    for _ in range(2):
        assert texts((await assistant.respond([HumanMessage("a")], {}, CONTEXT))[0]) == ["['mug']"]


@pytest.mark.parametrize("output", [42, object(), [{"text": "x"}]])
async def test_an_output_that_is_no_message_is_named(output: Any) -> None:
    with pytest.raises(RolloutError, match=r"app 'shop': 'messages' is .+: expected messages, a message or a string"):
        await GraphAssistant(RunnableLambda(lambda given: output, name="shop")).respond(
            [HumanMessage("a")], {}, CONTEXT
        )


async def test_the_same_question_twice_in_a_turn_is_answered_twice(serve: Callable[..., Server]) -> None:
    model = load_chat_model("openai:any", base_url=serve("--deterministic").url)

    async def votes(state: MessagesState) -> dict[str, Any]:
        said = [(await model.ainvoke("How much?")).content for _ in range(3)]
        return {"messages": [AIMessage(" | ".join(map(str, said)))]}

    assistant = GraphAssistant(app_of(votes))
    first, again = [(await assistant.respond([HumanMessage("a")], {}, CONTEXT))[0][0].content for _ in range(2)]
    assert first == again
    assert len(set(str(first).split(" | "))) == 3
