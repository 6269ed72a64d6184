"""Errors in the user's own code: the reason names their file and line, and --debug prints the traceback."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from benchmarks.process import Server
from collab_agents import GraphAssistant, ScriptedUser, create_lookahead_agent
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.rewards import MultiturnReward
from collab_agents.runs.directory import read_failures
from tests.support.commands import run
from tests.support.plain_and_ahead import COST

OWN = """\
import json

def read(text):
    return json.loads(text)["score"]

def judge(conversation, task):
    return read('{"scores": 1}')

class User:
    async def respond(self, messages, memory):
        return read("I think {"), memory

user = User()
"""


@pytest.fixture
def generate(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs `collab-agents generate` in a folder with a module `failing`."""
    server, logger = serve(), logging.getLogger("collab_agents")
    (tmp_path / "failing.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)

    def generate(changes: dict[str, Any], *options: str) -> tuple[int, str, str]:
        settings: dict[str, Any] = {
            "assistant": {"model": {"name": "openai:any", "base_url": server.url}},
            "judges": [{"name": "fact_coverage"}],
            "lookahead": {"candidates": 1, "futures": 1, "window": 1, "max_exchanges": 1},
            "tasks": {"source": "offline", "limit": 1},
        }
        Path("run.yaml").write_text(yaml.safe_dump(settings | changes))
        return run("generate", "--config", "run.yaml", "--out", "run", *options)

    yield generate
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    for module in ("failing", "broken"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("changes", "reason", "frame"),
    [
        ({"judges": [{"name": "failing:judge"}]}, "KeyError: 'score' (failing.py:4)", 'failing.py", line 7, in judge'),
        (
            {"user": {"kind": "failing:user"}},
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (failing.py:4)",
            'failing.py", line 11, in respond',
        ),
    ],
    ids=["judge", "user"],
)
def test_what_fails_in_a_run_names_the_users_own_line(
    changes: dict[str, Any], reason: str, frame: str, generate: Callable[..., tuple[int, str, str]]
) -> None:
    code, output, error = generate(changes)
    assert (code, error) == (1, "")
    assert reason in " ".join(output.split())
    (failure,) = read_failures("run")
    assert failure.error.endswith(reason)

    code, _, error = generate(changes, "--resume", "--debug")
    assert code == 1
    assert frame in error


def test_what_cannot_be_imported_names_the_users_own_line(
    generate: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text("import os\n\nLIMIT = int(os.environ['NOT_THERE'])\n")
    code, _, error = generate({"judges": [{"name": "broken:judge"}]})
    reason = "'broken' cannot be imported: KeyError: 'NOT_THERE' (broken.py:3)"
    assert (code, error) == (1, f"error: judge: {reason}\n")

    code, _, error = generate({"judges": [{"name": "broken:judge"}]}, "--debug")
    assert code == 1
    assert 'broken.py", line 3, in <module>' in error
    assert error.strip().endswith(reason)


@pytest.mark.parametrize("judge", [lambda conversation: 1.0, lambda conversation, task, more: 1.0, 0.5])
def test_a_judge_that_takes_something_else_is_refused_at_the_door(judge: Any) -> None:
    with pytest.raises(ConfigError, match="a conversation and a task"):
        MultiturnReward({"mine": judge})


async def test_a_failing_policy_names_its_line_and_stays_the_cause() -> None:
    def asks(state: MessagesState) -> Any:
        return {"messages": [("ai", interrupt("Shall I?"))]}

    def policy(value: Any) -> Any:
        return value["question"]

    graph = StateGraph(MessagesState)
    graph.add_node("asks", asks)
    graph.add_edge(START, "asks")
    app = graph.compile(checkpointer=InMemorySaver())
    assistant = GraphAssistant(app, interrupts=policy)
    agent = create_lookahead_agent(assistant, ScriptedUser(["a"]), COST, checkpointer=InMemorySaver())
    line = policy.__code__.co_firstlineno + 1
    with pytest.raises(RolloutError, match=rf"TypeError: .* \(.*test_own_code.py:{line}\)") as caught:
        await agent.ainvoke({"messages": [("user", "a mug")]}, {"configurable": {"thread_id": "1"}})
    causes = []
    error: BaseException | None = caught.value
    while error := error and error.__cause__:
        causes.append(type(error))
    assert TypeError in causes
