"""Users of one's own: functions, classes, Runnables and apps, their tools and templates, and branches kept apart."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.process import Server
from collab_agents import (
    LLMUser,
    Lookahead,
    MultiturnReward,
    Persona,
    ScriptedUser,
    Task,
    create_conversation_graph,
    create_lookahead_graph,
    create_rollout_graph,
    load_chat_model,
    read_trajectories,
)
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.judges import token_cost
from collab_agents.participants import UserContext
from collab_agents.users import STOP, Memory, RunnableUser, as_user, closing, is_closing, load_user, user_state
from tests.support.participants import SHORT
from tests.support.reading import texts
from tests.support.tasks import party

COST = MultiturnReward({"cost": token_cost()})


def says_goal(given: dict[str, Any]) -> str:
    own = sum(message.type == "ai" for message in given["messages"])
    return f"{given['goal']} {own} {given['persona'][:8]}" + (f" bye {STOP}" if own == 2 else "")


class Polite:
    def __init__(self, word: str = "please") -> None:
        self.word = word

    async def respond(self, messages: Sequence[BaseMessage], memory: Memory) -> tuple[Any, Memory]:
        count = memory.get("count", 0) + 1
        return (f"{self.word} {count}" if count < 4 else closing("thanks")), {"count": count}


async def polite(messages: Sequence[BaseMessage], memory: Memory) -> tuple[Any, Memory]:
    return await Polite().respond(messages, memory)


def polite_app(**compiled: Any) -> Any:
    def work(state: MessagesState) -> dict[str, Any]:
        own = sum(message.type == "ai" for message in state["messages"])
        return {"messages": [AIMessage(f"please {own + 1}" if own < 3 else f"thanks{STOP}")]}

    graph = StateGraph(MessagesState)
    graph.add_node("work", work)
    graph.add_edge(START, "work")
    return graph.compile(**compiled)


USERS: dict[str, Callable[[], Any]] = {
    "function": lambda: polite,
    "class": Polite,
    "app": polite_app,
    "app with a thread": lambda: polite_app(checkpointer=InMemorySaver()),
}


@pytest.mark.parametrize("kind", USERS)
async def test_a_user_of_ones_own_plays_in_every_graph(kind: str) -> None:
    task = party()
    end = await create_conversation_graph(USERS[kind](), SHORT).ainvoke({"messages": [], "task": task})
    said = ["please 1", "please 2", "please 3", "thanks"]
    assert texts(end["messages"])[0::2] == said
    assert end["stopped"] == "user"

    look = create_lookahead_graph(USERS[kind](), SHORT, COST, Lookahead(futures=2, window=2))
    seen = await look.ainvoke({"messages": [HumanMessage("please 1"), AIMessage("a")], "task": task})
    heard = [[one["content"] for one in future["messages"] if one["role"] == "user"] for future in seen["futures"]]
    first = 1 if kind in ("function", "class") else 2  # A function has not spoken yet; an app sees that it has.
    assert heard == [[f"please {first}", f"please {first + 1}"]] * 2

    rollout = create_rollout_graph(USERS[kind](), SHORT, COST, Lookahead(candidates=2, futures=2, window=1))
    end = await rollout.ainvoke({"messages": [], "task": task})
    assert texts(end["messages"])[0::2] == said


async def test_a_runnable_gets_the_goal_the_persona_and_the_sides_changed(serve: Callable[..., Server]) -> None:
    graph = create_conversation_graph(RunnableLambda(says_goal), SHORT)
    persona = Persona(name="p", background="A baker.")
    end = await graph.ainvoke({"messages": [], "task": Task(id="t", goal="Buns!"), "persona": persona})
    assert texts(end["messages"])[0::2] == ["Buns! 0 A baker.", "Buns! 1 A baker.", "Buns! 2 A baker. bye"]
    assert end["stopped"] == "user"

    server = serve("--log")
    prompt = ChatPromptTemplate([("system", "You want {goal}"), MessagesPlaceholder("messages")])
    user = as_user(prompt | load_chat_model("openai:any", base_url=server.url))
    assert isinstance(user, RunnableUser)
    heard: list[BaseMessage] = [
        HumanMessage("Buns?"),
        AIMessage("", tool_calls=[{"name": "bake", "args": {}, "id": "1"}]),
        ToolMessage("baked", tool_call_id="1"),
        AIMessage("Here they are."),
    ]
    await user.respond(heard, {}, UserContext(task=Task(id="t", goal="Buns!"), seed=1))
    (body,) = server.bodies()
    assert [(one["role"], one["content"]) for one in body["messages"]] == [
        ("system", "You want Buns!"),
        ("assistant", "Buns?"),
        ("user", "Here they are."),
    ]


async def test_a_user_that_changes_what_it_is_given_changes_nothing_in_another_branch() -> None:
    seen: list[tuple[Any, ...]] = []

    async def vandal(
        messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage, Memory]:
        task = context.task
        notes = memory.setdefault("notes", {"list": []})
        marks = [
            len(notes["list"]),
            len(task.metadata["agenda"]["facts"]),
            *(len(str(message.content)) for message in messages[:2]),
            *(len(message.additional_kwargs) + len(message.response_metadata) for message in messages[:2]),
        ]
        seen.append(tuple(marks))
        notes["list"].append(context.seed)
        task.metadata["agenda"]["facts"].clear()
        for message in messages:
            message.additional_kwargs["seen"] = True
            message.response_metadata["seen"] = True
            if isinstance(message.content, list):
                message.content.append({"type": "text", "text": "I was here"})
            else:
                message.content = "overwritten"
        return HumanMessage("again"), memory

    graph = create_rollout_graph(vandal, SHORT, COST, Lookahead(candidates=3, futures=3, window=1, max_exchanges=2))
    messages = [HumanMessage([{"type": "text", "text": "Hello"}])]
    end = await graph.ainvoke({"messages": messages, "task": party(), "memory": {}})
    assert end["messages"][0].content == [{"type": "text", "text": "Hello"}]
    assert len(party().metadata["agenda"]["facts"]) == 3
    # Within a branch notes add up, one a turn; all else is each time as it was at first.
    assert {marks[0] for marks in seen} == {0, 1}
    assert {marks[1:] for marks in seen} == {(3, len(str(messages[0].content)), len("reply 1"), 0, 0)}


async def test_what_is_no_message_is_named() -> None:
    async def wrong(messages: Any, memory: Memory) -> Any:
        return AIMessage("I am the assistant")

    with pytest.raises(
        RolloutError, match=r"simulated_user: the user returned .*\(a user's message, a text or None, me"
    ):
        await create_conversation_graph(wrong, SHORT).ainvoke({"messages": [], "task": party()})


@tool
def find_order(when: str) -> str:
    """Find one's own order."""
    state = user_state()
    state["looked"] = [*state.get("looked", []), when]
    return f"order {state['account']}-77"


async def test_a_user_looks_things_up_with_tools_of_its_own(serve: Callable[..., Server]) -> None:
    server = serve("--call-tools", "--log")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), tools=[find_order])
    task = Task(id="t", goal="Cancel your order.", metadata={"user_state": {"account": "K5"}})
    message, memory = await user.respond([], {}, UserContext(task=task, seed=1))
    assert message is not None
    assert memory["user_state"] == {"account": "K5", "looked": ["1"]}
    assert task.metadata["user_state"] == {"account": "K5"}
    asked, answered = server.bodies()
    assert asked["tools"][0]["function"]["name"] == "find_order"
    assert answered["messages"][-1]["content"] == "order K5-77"

    said = [HumanMessage("Hi"), AIMessage("Which order?")]
    _, later = await user.respond(said, memory, UserContext(task=task, seed=2))
    assert later["user_state"]["looked"] == ["1", "3"]
    scene = server.bodies()[2]["messages"][-1]["content"]
    assert '<note>[You used find_order({"when": "1"}): order K5-77]</note>\n<user>Hi</user>' in scene


async def test_what_a_user_has_used_up_does_not_come_back(serve: Callable[..., Server]) -> None:
    @tool
    def use_coupon(when: str) -> str:
        """Use the coupon."""
        return f"used {user_state().pop('coupon', None)}"

    server = serve("--call-tools", "--log")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), tools=[use_coupon])
    task = Task(id="t", goal="Buy.", metadata={"user_state": {"coupon": "X1"}})
    memory: Memory = {}
    for _ in range(2):
        _, memory = await user.respond([], memory, UserContext(task=task, seed=1))
    used = [body["messages"][-1]["content"] for body in server.bodies() if body["messages"][-1]["role"] == "tool"]
    assert used == ["used X1", "used None"]


async def test_what_a_user_looked_up_stays_in_its_branch(serve: Callable[..., Server]) -> None:
    server = serve("--call-tools")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), tools=[find_order])
    task = Task(id="t", goal="Cancel.", metadata={"user_state": {"account": "K5"}})
    kept: list[Memory] = []

    async def watched(messages: Any, memory: Memory, context: UserContext) -> Any:
        message, after = await user.respond(messages, memory, context)
        kept.append(after)
        return message, after

    graph = create_rollout_graph(watched, SHORT, COST, Lookahead(candidates=2, futures=2, window=1, max_exchanges=2))
    end = await graph.ainvoke({"messages": [], "task": task})
    looked = [tuple(memory["user_state"]["looked"]) for memory in kept]
    assert len(set(looked)) == len(looked) == 1 + 4 + 4
    assert {len(one) for one in looked} == {1, 2, 3}
    assert len(end["memory"]["user_state"]["looked"]) == 2


async def test_a_tool_that_fails_tells_the_user_so(serve: Callable[..., Server]) -> None:
    def broken(when: str) -> str:
        """Never works."""
        raise OSError("no connection")

    server = serve("--call-tools", "--log")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), tools=[broken])
    await user.respond([], {}, UserContext(task=party(), seed=1))
    assert server.bodies()[-1]["messages"][-1]["content"] == "OSError: no connection"


async def test_a_tool_that_hangs_is_given_up_and_tells_the_user_so(serve: Callable[..., Server]) -> None:
    async def hangs(when: str) -> str:
        """Never answers."""
        await asyncio.sleep(3600)
        return when

    server = serve("--call-tools", "--log")
    user = LLMUser(load_chat_model("openai:any", base_url=server.url), tools=[hangs], tool_timeout=0.2)
    await user.respond([], {}, UserContext(task=party(), seed=1))
    assert server.bodies()[-1]["messages"][-1]["content"] == "hangs: no result within 0.2 s"


async def test_a_template_of_ones_own_is_what_the_model_reads(serve: Callable[..., Server]) -> None:
    server = serve("--log")
    model = load_chat_model("openai:any", base_url=server.url)
    pirate = Persona(name="pirate", background="You are a pirate.")
    user = LLMUser(model, template="Arr! $persona\nGet: $goal, for $$5\n\n$transcript\nAnswer in JSON.", persona=pirate)
    await user.respond([HumanMessage("Ahoy"), AIMessage("Hello")], {}, UserContext(task=party(), seed=1))
    scene = server.bodies()[0]["messages"][-1]["content"]
    assert scene.startswith("Arr! <character>You are a pirate.")
    assert f"Get: <goal>{party().goal}</goal>, for $5\n\n<user>Ahoy</user>\n<assistant>Hello</assistant>\n" in scene


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("$goal $transcript $mood", r"template: there is no variable \$mood: use \$goal, \$persona, \$transcript"),
        ("$goal", r"template: \$transcript is missing"),
        ("$goal $transcript for $5", r"template: write \$\$ for a \$ that does not begin a variable"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, error: str, serve: Callable[..., Server]) -> None:
    with pytest.raises(ConfigError, match=error):
        LLMUser(load_chat_model("openai:any", base_url="http://localhost:1/v1"), template=template)


OWN = """
from langchain_core.runnables import RunnableLambda
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import MessagesState, START, StateGraph

class Polite:
    def __init__(self, word="please"):
        self.word = word
    async def respond(self, messages, memory):
        return self.word + str(len(messages)), memory

async def function(messages, memory):
    return "function" + str(len(messages)), memory

runnable = RunnableLambda(lambda given: "runnable" + str(len(given["messages"])))
number = 3

@tool
def find_order() -> str:
    "Find the order."
    return "77"

graph = StateGraph(MessagesState)
graph.add_node("work", lambda state: {"messages": [AIMessage("app" + str(len(state["messages"])))]})
graph.add_edge(START, "work")
app = graph.compile(name="shop")

class Fixed:
    def __init__(self, words):
        self.words = words
    async def respond(self, messages, memory):
        return [AIMessage(self.words)], memory
"""


def configured(folder: Path, user: Any, assistant: Any) -> Path:
    (folder / "mine.py").write_text(OWN)
    (folder / "tasks.jsonl").write_text('{"id": "t", "goal": "p"}\n')
    settings = {
        "assistant": assistant,
        "user": user,
        "judges": [{"name": "token_cost"}],
        "tasks": {"source": "tasks.jsonl"},
        "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder / "run.yaml"


@pytest.mark.parametrize(
    ("user", "first"),
    [
        ({"kind": "mine:Polite", "options": {"word": "hey"}}, "hey0"),
        ({"kind": "mine:runnable"}, "runnable0"),
    ],
)
def test_users_and_apps_of_ones_own_are_named_in_run_yaml(user: Any, first: str, tmp_path: Path) -> None:
    configured(tmp_path, user, {"app": "mine:app"})
    command = [sys.executable, "-m", "collab_agents", "generate", "--config", "run.yaml", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (trajectory,) = read_trajectories(tmp_path / "run")
    assert [one["content"] for one in trajectory.messages] == [first, "app1", first.replace("0", "2"), "app3"]


NO_TOOL = {
    "kind": "llm",
    "model": {"name": "openai:any", "base_url": "http://127.0.0.1:9/v1"},
    "tools": ["mine:number"],
}


async def test_a_template_and_tools_are_named_in_run_yaml(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collab_agents.config import RunConfig, load_config
    from collab_agents.config.build import compose

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    server = serve("--call-tools", "--log")
    model = {"name": "openai:any", "base_url": server.url}
    llm = {"kind": "llm", "model": model, "template": "Get $goal.\n$transcript\nIn JSON.", "tools": ["mine:find_order"]}
    user = compose(load_config(configured(tmp_path, llm, {"app": "mine:app"}), RunConfig)).user
    await user.respond([], {}, UserContext(task=party(), seed=1))
    asked, answered = server.bodies()
    assert asked["messages"][-1]["content"].startswith(f"Get <goal>{party().goal}</goal>.\n")
    assert answered["messages"][-1]["content"] == "77"


@pytest.mark.parametrize(
    ("user", "assistant", "error"),
    [
        ({"kind": "mine:Rude"}, {"app": "mine:app"}, "user.kind: 'mine' has no 'Rude'"),
        (
            {"kind": "agenta"},
            {"app": "mine:app"},
            "expected one of llm, agenda, scripted or module:attribute; did you",
        ),
        (
            {"kind": "mine:number"},
            {"app": "mine:app"},
            "user 'mine:number': a simulated user is an object with respond",
        ),
        (
            {"kind": "mine:Polite", "options": {"wort": 1}},
            {"app": "mine:app"},
            "has no option 'wort'; did you mean 'word'",
        ),
        (
            {"kind": "mine:runnable", "options": {"a": 1}},
            {"app": "mine:app"},
            "'mine:runnable' takes no model and no opt",
        ),
        (
            {"kind": "mine:function"},
            {"app": "mine:number"},
            "assistant 'mine:number': expected an app or an object with respond",
        ),
        ({"kind": "mine:function"}, {"app": "mine:app", "options": {"max_step": 3}}, "did you mean 'max_steps'"),
        ({"kind": "mine:function"}, {"app": "mine:Fixed"}, "assistant 'mine:Fixed': it cannot be made: TypeError"),
        ({"kind": "mine:function"}, {}, "assistant: set either model or app"),
        (NO_TOOL, {"app": "mine:app"}, "tools: expected a LangChain tool or a function, got 3"),
    ],
)
def test_what_cannot_be_used_in_run_yaml_is_one_sentence(
    user: Any, assistant: Any, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collab_agents.config import RunConfig, load_config
    from collab_agents.config.build import compose

    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(ConfigError, match=r".+") as failed:
        compose(load_config(configured(tmp_path, user, assistant), RunConfig))
    assert error in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_class_is_no_user_in_python() -> None:
    with pytest.raises(TypeError, match="got the class Polite: pass an instance of it"):
        as_user(Polite)
    with pytest.raises(ConfigError, match="'nothing_here' cannot be imported"):
        load_user("nothing_here:user")
    assert is_closing(closing("bye"))
    assert isinstance(as_user(ScriptedUser([])), ScriptedUser)
