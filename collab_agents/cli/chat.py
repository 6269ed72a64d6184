"""A conversation with a person at the terminal, with the same graphs and a trajectory as its result."""

import asyncio
import os
import secrets
import shlex
import signal
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, StreamMode
from rich.console import Console
from rich.table import Table
from rich.text import Text

from collab_agents._internal.reasons import nearest, reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.text import harmless
from collab_agents.cli.candidates import LiveCandidates
from collab_agents.cli.coach import Coach, coach_table, number
from collab_agents.cli.progress import LOADING
from collab_agents.cli.terminal import StreamedReply, Terminal
from collab_agents.config import RunConfig
from collab_agents.config.build import Composition, compose, personas_of, tasks_of
from collab_agents.costs import given_prices
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.graphs import create_conversation_graph, create_rollout_graph
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.nodes import judge_node
from collab_agents.humans import HumanAssistant, HumanUser, check_simulated
from collab_agents.messages import text_of, to_dicts
from collab_agents.models.load import check_chat_models
from collab_agents.models.local import LocalChatModel
from collab_agents.participants import problem_for
from collab_agents.personas import pick_persona
from collab_agents.runs.directory import RunDirectory
from collab_agents.tasks import Task
from collab_agents.trajectories import JsonlStore, Trajectory, Turn
from collab_agents.usage import Usage, track_usage
from collab_agents.value import value_of

Side = Literal["user", "assistant"]

_SETTINGS = {"made_by": "collab-agents chat"}
"""The settings in run.json that mark a directory of sessions."""

_WAIT_SECONDS = 30.0
"""Seconds to wait while another session is added to the same directory."""


async def chat(config: RunConfig, out: Path, *, side: Side, coach: bool, task_id: str | None, show_goal: bool) -> None:
    """Run one conversation in which the person plays one side, judge it, and add it to the sessions in `out`.

    A session that is stopped (Ctrl-C, a closed terminal), or whose model fails, is kept too, unless the person has said
    nothing. Raises ConfigError for a task that does not exist or cannot be played or judged, RunDirectoryError if
    `out` holds another run, and whatever the graph raised.
    """
    with Console().status(LOADING), given_prices(config.prices), track_usage() as checking:
        parts = compose(config)
        if coach or side == "assistant":
            instead = "collab-agents chat has you at the terminal; give a user that is simulated"
            check_simulated(parts.user, instead=instead)
        if coach or side == "user":
            check_simulated(parts.assistant, instead="collab-agents chat --as assistant lets you be it")
        task = _task(config, parts, task_id, simulated=coach or side == "assistant")
        await check_chat_models(parts.models)
        for model in parts.models:
            if isinstance(model, LocalChatModel):  # Its first call takes a second more than the others.
                await model.ainvoke("Hello", max_tokens=1)
    with RunDirectory(out, settings=_SETTINGS, resume=True, wait=_WAIT_SECONDS):
        pass  # Check that it can be used.
    session = _Session(config, parts, task, Terminal(), side=side, coach=coach, show_goal=show_goal)
    _stop_when_the_terminal_closes()
    started = time.monotonic()
    why = ""
    try:
        with given_prices(config.prices), track_usage(session.usage):
            await session.play()
    except BaseException as error:
        why = "the session was stopped" if isinstance(error, asyncio.CancelledError) else reason_of(error)
        raise
    finally:
        trajectory = session.trajectory(why)
        if trajectory:
            checking.add(trajectory.usage)
            _keep(trajectory, out, checking, time.monotonic() - started)
        session.close(trajectory, out)


def _task(config: RunConfig, parts: Composition, wanted: str | None, *, simulated: bool) -> Task:
    """Return the task if it can be played and judged, else raise ConfigError."""
    source = config.tasks.source
    ids: list[str] = []
    for task in tasks_of(config.tasks):
        if wanted in (None, task.id):
            problem = problem_for(parts.user, task) if simulated else None
            problem = problem or parts.reward.problem_with(task)
            if problem is None and (value := value_of(config.lookahead)):
                problem = value.problem_with(task)
            if problem:
                raise ConfigError(f"{source}: {problem}")
            return task
        ids.append(task.id)
    if not ids:
        raise ConfigError(f"{source} has no tasks")
    hint = nearest(str(wanted), ids) or f"; the first is {ids[0]!r}"
    raise ConfigError(f"--task {wanted!r}: {source} has no such task among its {len(ids)}{hint}")


def _stop_when_the_terminal_closes() -> None:
    """Handle SIGHUP like Ctrl-C, unless it is ignored (nohup)."""
    stop = signal.getsignal(signal.SIGINT)
    if callable(stop) and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, stop)


class _Session:
    """One conversation, with its graph's current `state` and the `turns` that the coach has scored."""

    def __init__(
        self,
        config: RunConfig,
        parts: Composition,
        task: Task,
        terminal: Terminal,
        *,
        side: Side,
        coach: bool,
        show_goal: bool,
    ) -> None:
        self.terminal = terminal
        self.side = side
        self.coach = coach
        self.show_goal = show_goal and side == "user"
        self.parts = parts
        self._look = config.lookahead
        self.usage = Usage()
        self.turns: list[Turn] = []
        now = datetime.now(UTC)
        about = {"person": side, "task": task.id, "coach": coach, "started": now.isoformat(timespec="seconds")}
        if coach or side == "user":
            about["assistant"] = config.assistant.model.name if config.assistant.model else config.assistant.app
        # A task may have many sessions, but ids in a run are distinct.
        name = f"{task.id}@{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        self.task = task.model_copy(update={"id": name, "metadata": {**task.metadata, "session": about}})
        simulated = coach or side == "assistant"
        personas = personas_of(config.user) if simulated else []
        self.persona = pick_persona(personas, seed=config.seed, task_id=task.id)
        self.state: dict[str, Any] = {
            "messages": [],
            "task": self.task.model_dump(),
            "persona": self.persona.model_dump() if self.persona else None,
            "seed": derive_seed(config.seed, name),
        }
        self._said_something = False
        self._graph = self._create_graph(config)
        self._weighing = Coach(parts.user, parts.assistant, parts.reward, config.lookahead) if coach else None
        self._candidates = LiveCandidates(terminal.console) if side == "user" and coach else None
        self._waiting = self._candidates or terminal.console.status("looking ahead ..." if coach else "waiting ...")
        self._reply = StreamedReply(terminal)

    def _create_graph(self, config: RunConfig) -> Graph:
        parts, lookahead = self.parts, config.lookahead
        person = HumanUser(show_goal=self.show_goal)
        if self.side == "user" and self.coach:
            return create_rollout_graph(
                person,
                parts.assistant,
                parts.reward,
                lookahead,
                simulated_user=parts.user,
                checkpointer=InMemorySaver(),
            )
        sides = (person, parts.assistant) if self.side == "user" else (parts.user, HumanAssistant())
        return create_conversation_graph(
            *sides, max_exchanges=lookahead.max_exchanges, reward=parts.reward, checkpointer=InMemorySaver()
        )

    async def play(self) -> None:
        """Run the conversation until it is over and judged."""
        self._open()
        given: dict[str, Any] | Command[Any] = dict(self.state)
        while True:
            try:
                if self.side == "assistant" or self.coach:
                    self._waiting.start()
                async with aclosing(self._updates(given)) as updates:
                    async for node, update in updates:
                        await self._show(node, update)
            finally:
                self._waiting.stop()
            if not self.state.pop("__interrupt__", None):
                return
            said = await self.terminal.ask("you")
            if said is None or said == "/quit":
                if not self._said_something:
                    return
                if self.side == "assistant":  # An assistant cannot end a conversation, only leave it.
                    self.state |= await judge_node(self.parts.reward, self.parts.assistant)(self.state)
                    return
                said = ""
            self._said_something = self._said_something or bool(said)
            given = Command(resume=said)

    async def _updates(self, given: dict[str, Any] | Command[Any]) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield the nodes' updates, keep the state up to date, and show the assistant's text as it streams."""
        thread: RunnableConfig = {"configurable": {"thread_id": self.task.id}}
        modes: list[StreamMode] = ["updates", "values"]
        if self.side == "user":
            modes.append("messages")
        stream: Any = self._graph.astream(given, thread, stream_mode=modes, subgraphs=True)
        async with aclosing(stream):
            async for path, mode, event in stream:
                if mode == "messages":
                    (self._candidates or self._reply).add(*event)
                elif path:
                    continue  # From a graph inside a node.
                elif mode == "values":
                    self.state |= event
                else:
                    for node, update in event.items():
                        if node != "__interrupt__":
                            yield node, update

    async def _show(self, node: str, update: dict[str, Any]) -> None:
        said: list[BaseMessage] = update.get("messages") or []
        if node == "candidate" and self._candidates:
            self._candidates.scored(update["candidates"][0])
        if node == "simulated_user" and self.side == "assistant":
            self._waiting.stop()
            for message in said:
                self.terminal.say("user", text_of(message))
        elif node in ("assistant", "choose") and self.side == "user":
            self._waiting.stop()
            self._reply.finish(said)
        if node == "choose":
            self._add(Turn.model_validate(update["turns"][0]))
        elif node == "assistant" and self._weighing:
            before: Any = dict(self.state)
            self.state["messages"] = [*before["messages"], *said]  # Kept even if the coach fails.
            self._add(await self._weighing.weigh(before, said))

    def _add(self, turn: Turn) -> None:
        self._waiting.stop()
        self.turns.append(turn)
        self.terminal.console.print(coach_table(turn, person=self.side == "assistant"))

    def _open(self) -> None:
        note = self.terminal.note
        if self.side == "user":
            note("You are the user.", "italic")
            if self.show_goal:
                note(f"Your goal: {self.task.goal}", "italic")
        else:
            note("You are the assistant. The user has a goal that you do not know.", "italic")
        if self._candidates:
            note(
                f"Each reply is the best of {self._look.candidates} candidates, by the mean reward of "
                f"{self._look.futures_in_words} simulated futures.",
                "italic",
            )
        note(
            "A line is a message; end it with \\ to continue on the next line. /quit or Ctrl-D ends the conversation, "
            f"which has at most {self._look.max_exchanges} exchanges.",
            "italic",
        )

    def trajectory(self, why: str) -> Trajectory | None:
        """Return the session so far, or None if the person said nothing. `why` says why it was interrupted, if so."""
        if not self._said_something:
            return None
        judges = list(self.parts.reward.judges)
        judged = "scores" in self.state
        return Trajectory(
            task=self.task,
            persona=self.persona,
            seed=self.state["seed"],
            messages=to_dicts(self.state["messages"]),
            stopped=self.state.get("stopped") or "interrupted",
            turns=self.turns,
            reward=self.state.get("reward"),
            scores=self.state["scores"] if judged else dict.fromkeys(judges),
            reasons=self.state["reasons"] if judged else dict.fromkeys(judges, why),
            usage=self.usage,
        )

    def close(self, trajectory: Trajectory | None, out: Path) -> None:
        """Show the scores and where the session is kept."""
        if trajectory is None:
            self.terminal.note("\nYou said nothing, so nothing was kept.")
            return
        table = Table(title=Text("the conversation", style="italic"), title_justify="left")
        table.add_column("judge")
        table.add_column("score", justify="right")
        if None in trajectory.scores.values():
            table.add_column("why not scored", overflow="fold")
        table.add_row("reward", number(trajectory.reward))
        for name, score in trajectory.scores.items():
            reason = [Text(harmless(trajectory.reasons.get(name, "")))] if score is None else []
            table.add_row(Text(name), number(score), *reason)
        self.terminal.write("\n")
        self.terminal.console.print(table)
        name = trajectory.task.id
        show = shlex.join(["collab-agents", "show", str(out), "--task", name])
        self.terminal.note(f"Kept as {name} in {out}:")
        self.terminal.command(show)


def _keep(trajectory: Trajectory, out: Path, spent: Usage, seconds: float) -> None:
    """Add the session to the directory. If that fails, save it elsewhere and raise a RunDirectoryError saying where."""
    try:
        with RunDirectory(out, settings=_SETTINGS, resume=True, wait=_WAIT_SECONDS) as run:
            run.finish(trajectory)
            run.add_totals({**asdict(spent), "turns": len(trajectory.turns), "seconds": round(seconds, 3)})
    except BaseException as error:
        handle, name = tempfile.mkstemp(prefix="collab-agents-chat-", suffix=".jsonl")
        os.close(handle)
        JsonlStore(name).append(trajectory)
        raise RunDirectoryError(f"{reason_of(error)}; the session is in {name}") from error
