"""What could make the reward of a candidate vary less at the same number of calls, measured on the embedded model.

    python -m benchmarks.variance --out .bench/variance.json
    python -m benchmarks.variance --read .bench/variance.json

The first turns of held-out offline tasks, 4 candidates each, half of them proactive, and futures of 2 exchanges:

- judged: an LLM judge gives each future several verdicts. Are more futures or more verdicts better?
- dealt: each persona plays equally many futures. What is gained by dealing personas evenly instead of drawing them?
- antithetic: futures in pairs, in the second of which the user's random draws u are 1 - u.
- crossed: seeds of the user by seeds of the assistant. How much of the variance is each one's?
- cooler: the assistant of the futures at temperatures 0.7, 0.3 and 0. Do cool futures rank candidates as warm ones do?

Sizes begin with a number of tasks. The designs share one queue in this order, and the file is written whenever one
ends.
"""

import argparse
import asyncio
import json
import math
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage

from benchmarks.anova import Array
from benchmarks.variance_tables import show
from collab_agents import (
    PERSONAS,
    AgendaUser,
    Assistant,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    Persona,
    SimulatedUser,
    Task,
    create_lookahead_graph,
    load_chat_model,
    offline_tasks,
)
from collab_agents._internal.seeds import derive_seed
from collab_agents.graphs.candidates import plan_candidates
from collab_agents.graphs.conversation import Graph
from collab_agents.judges import Conversation, Judge, Score, as_judge, fact_coverage, interactivity, token_cost
from collab_agents.models.engines.base import Completion, Engine, Job
from collab_agents.models.local import LocalChatModel
from collab_agents.participants import AssistantContext, Memory, TurnContext, UserContext
from collab_agents.usage import track_usage
from collab_agents.users import agenda

RECIPE = ("busy-manager", "first-timer", "patient-teacher")
"""The personas of benchmarks/lookahead.yaml."""
SLIPPING = ("forgetful-widower", "undecided-bride", "startup-founder")
"""Personas that often tell wrong facts, change their minds, or misspell words."""
ROSTER = (*RECIPE, *SLIPPING)
WARM = 0.7
TEMPERATURES = (WARM, 0.3, 0.0)
LOOK = Lookahead(candidates=4, futures=1, window=2, proactive_ratio=0.5)
SIZES = {
    "judged": ("TASKS", "FUTURES", "VERDICTS"),
    "dealt": ("TASKS", "FUTURES_OF_EACH_PERSONA"),
    "antithetic": ("TASKS", "PAIRS"),
    "crossed": ("TASKS", "USERS", "ASSISTANTS"),
    "cooler": ("TASKS", "FUTURES_OF_THE_TRUTH", "FUTURES"),
}
DEFAULTS = {
    "judged": (12, 6, 4),
    "dealt": (20, 4),
    "antithetic": (20, 12),
    "crossed": (24, 8, 8),
    "cooler": (40, 32, 12),
}
C = TypeVar("C", bound=TurnContext)
Index = tuple[int, ...]

# The participants: the library's, with seeds from outside and replies that are not generated twice.

_user_seed: ContextVar[int | None] = ContextVar("user_seed", default=None)
_assistant_seed: ContextVar[int | None] = ContextVar("assistant_seed", default=None)
_draws: ContextVar[type[random.Random]] = ContextVar("draws", default=random.Random)


@contextmanager
def seeds(user: int, assistant: int) -> Iterator[None]:
    """Give the user and the assistant inside seeds of their own, in place of those of the future."""
    tokens = _user_seed.set(user), _assistant_seed.set(assistant)
    try:
        yield
    finally:
        _user_seed.reset(tokens[0])
        _assistant_seed.reset(tokens[1])


def _reseeded(context: C, seed: int | None, place: int) -> C:
    return context if seed is None else replace(context, seed=derive_seed(seed, place))


class SeededUser:
    """A user whose seed `seeds` decides."""

    def __init__(self, user: SimulatedUser) -> None:
        self._user = user

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: UserContext
    ) -> tuple[BaseMessage | None, Memory]:
        return await self._user.respond(messages, memory, _reseeded(context, _user_seed.get(), len(messages)))


class SeededAssistant:
    """An assistant whose seed `seeds` decides, and which answers the same messages and seed once.

    Args:
        assistant: The assistant, which has no memory.
        greedy: Whether its replies do not depend on the seed.
    """

    def __init__(self, assistant: Assistant, *, greedy: bool = False) -> None:
        self._assistant = assistant
        self._greedy = greedy
        self._known: dict[object, asyncio.Future[tuple[list[BaseMessage], Memory]]] = {}

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        own = 0 if self._greedy else _assistant_seed.get()
        context = _reseeded(context, own, len(messages))
        key = (tuple((one.type, one.text) for one in messages), context.seed, context.proactive)
        if key not in self._known:
            self._known[key] = asyncio.ensure_future(self._assistant.respond(messages, memory, context))
        reply, after = await self._known[key]
        return [one.model_copy() for one in reply], after


class Direct(random.Random):
    """Makes every draw of one uniform number, in which it is monotone, so that `Mirrored` can draw the opposite."""

    mirrored = False

    def random(self) -> float:
        drawn = super().random()
        return 1 - 2**-53 - drawn if self.mirrored else drawn

    def _randbelow(self, n: int) -> int:
        return int(self.random() * n)


class Mirrored(Direct):
    """Draws 1 - u where `Direct` draws u."""

    mirrored = True


@contextmanager
def agenda_draws() -> Iterator[None]:
    """Let agenda users draw from the class of generator that `_draws` has."""
    with patch.object(agenda, "random", SimpleNamespace(Random=lambda seed: _draws.get()(seed))):
        yield


class Trimmed:
    """Makes an engine keep to regular expressions by cutting its text off where it no longer matches."""

    constrains = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.context, self.temperature = engine.context, engine.temperature
        self.encode, self.tokens = engine.encode, engine.tokens

    async def complete(self, job: Job) -> Completion:
        done = await self._engine.complete(replace(job, constraint={}, stop=('"',)))  # Where a string ends.
        found = re.match(job.constraint.get("regex", ""), done.text)
        return replace(done, text=found[0]) if found else done


def judging(model: BaseChatModel) -> BaseChatModel:
    """Return the model so that it gives verdicts in JSON, which the embedded one hardly ever does by itself."""
    if not isinstance(model, LocalChatModel) or model.engine.constrains:
        return model
    options = {"temperature": model.temperature, "max_tokens": model.max_tokens, "limits": model.limits}
    return LocalChatModel.over(Trimmed(model.engine), name=model.model_name, **options)


def sampled(judge: Judge, sample: int) -> Judge:
    """Return a judge that gives another verdict for each sample."""

    async def judge_again(conversation: Conversation, task: Task) -> Score:
        return await judge(replace(conversation, seed=derive_seed(conversation.seed, "sample", sample)), task)

    return as_judge(judge_again, timeout=None)


# Playing.


@dataclass
class Turn:
    """A first turn: what was said before the candidates, and the candidates."""

    task: Task
    persona: Persona
    seed: int
    opening: BaseMessage
    memory: Memory
    replies: list[list[BaseMessage]]


@dataclass
class Stage:
    """What futures are played on: a queue with an end, and the graphs."""

    concurrency: int
    deadline: float
    graphs: dict[float, Graph]
    """By the temperature of the assistant."""
    judged: Graph
    places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.places = asyncio.Semaphore(self.concurrency)

    async def play(self, graph: Graph, turn: Turn, candidate: int, seed: int, persona: Persona) -> dict[str, Any]:
        """Return the record of a future, as `trajectories.Future`."""
        state = await graph.ainvoke(
            {
                "messages": [turn.opening, *turn.replies[candidate]],
                "task": turn.task,
                "persona": persona,
                "memory": turn.memory,
                "seed": seed,
            }
        )
        return state["futures"][0]


Play = Callable[[Turn, int, Index], Awaitable[dict[str, Any]]]
"""Plays a candidate's future at an index of a design."""


@dataclass
class Design:
    """Futures of each candidate, arranged in an array."""

    name: str
    tasks: int
    shape: Index
    play: Play


def designs(stage: Stage, sizes: dict[str, Index]) -> list[Design]:
    warm = stage.graphs[WARM]

    async def judged(turn: Turn, candidate: int, index: Index) -> dict[str, Any]:
        return await stage.play(stage.judged, turn, candidate, _seed(turn, candidate, "judged", index), turn.persona)

    async def dealt(turn: Turn, candidate: int, index: Index) -> dict[str, Any]:
        persona = PERSONAS[ROSTER[index[0]]]
        return await stage.play(warm, turn, candidate, _seed(turn, candidate, "dealt", index), persona)

    async def antithetic(turn: Turn, candidate: int, index: Index) -> dict[str, Any]:
        pair, member = index
        _draws.set(Mirrored if member else Direct)  # In a task of its own.
        user, assistant = (_seed(turn, candidate, "antithetic", one) for one in ((pair,), index))
        with seeds(user, assistant):
            return await stage.play(warm, turn, candidate, assistant, turn.persona)

    async def crossed(turn: Turn, candidate: int, index: Index) -> dict[str, Any]:
        # All candidates have the same seeds, which shows what common random numbers give.
        user, assistant = (
            derive_seed(turn.seed, "crossed", who, one) for who, one in zip(("u", "a"), index, strict=True)
        )
        with seeds(user, assistant):
            return await stage.play(warm, turn, candidate, user, turn.persona)

    async def cooler(turn: Turn, candidate: int, index: Index) -> dict[str, Any]:
        truth = sizes["cooler"][1]
        place = index[0] - truth
        temperature = WARM if place < 0 else TEMPERATURES[place // sizes["cooler"][2]]
        seed = _seed(turn, candidate, "cooler", index)
        return await stage.play(stage.graphs[temperature], turn, candidate, seed, turn.persona)

    _, truth, futures = sizes["cooler"]
    shapes: dict[str, tuple[Index, Play]] = {
        "judged": (sizes["judged"][1:2], judged),
        "dealt": ((len(ROSTER), *sizes["dealt"][1:]), dealt),
        "antithetic": ((*sizes["antithetic"][1:], 2), antithetic),
        "crossed": (sizes["crossed"][1:], crossed),
        "cooler": ((truth + len(TEMPERATURES) * futures,), cooler),
    }
    return [Design(name, sizes[name][0], *parts) for name, parts in shapes.items()]


def _seed(turn: Turn, candidate: int, design: str, index: Index) -> int:
    return derive_seed(turn.seed, design, candidate, *index)


async def play_design(stage: Stage, design: Design, turns: Sequence[Turn]) -> dict[str, Any]:
    """Play a design's futures, task by task, until the deadline.

    Returns:
        By task and score, an array by candidate and index with None where there is no score; the numbers of model calls
        by role; the number of futures; failures by reason; and seconds.
    """
    tasks: dict[str, dict[str, Any]] = {turn.task.id: {} for turn in turns}
    failures: dict[str, int] = {}
    played = 0

    async def one(turn: Turn, candidate: int, index: Index) -> None:
        nonlocal played
        async with stage.places:
            if time.monotonic() > stage.deadline:
                return
            record = await design.play(turn, candidate, index)
        played += 1
        unscored = [record["reasons"].get(name, "") for name, value in record["scores"].items() if value is None]
        for reason in [record["error"]] if record["error"] else unscored:
            failures[reason[:60]] = failures.get(reason[:60], 0) + 1
        for name, value in [("reward", record["reward"]), *record["scores"].items()]:
            if name not in tasks[turn.task.id]:
                tasks[turn.task.id][name] = np.full((LOOK.candidates, *design.shape), np.nan)
            tasks[turn.task.id][name][candidate, *index] = np.nan if value is None else value

    begin = time.monotonic()
    with track_usage() as usage:
        await asyncio.gather(
            *(
                asyncio.create_task(one(turn, candidate, index))
                for turn in turns
                for candidate in range(LOOK.candidates)
                for index in np.ndindex(design.shape)
            )
        )
    return {
        "tasks": {task: {name: _plain(values) for name, values in scores.items()} for task, scores in tasks.items()},
        "calls": {role: counts.calls for role, counts in usage.by_role().items()},
        "futures": played,
        "failures": failures,
        "seconds": round(time.monotonic() - begin, 1),
    }


def _plain(values: Array) -> Any:
    if values.ndim:
        return [_plain(one) for one in values]
    return round(float(values), 6) if np.isfinite(values) else None


async def first_turn(task: Task, persona: Persona, user: SimulatedUser, assistant: Assistant, seed: int) -> Turn:
    seed = derive_seed(seed, task.id)
    opening, memory = await user.respond([], {}, UserContext(task=task, persona=persona, seed=seed))
    assert opening is not None
    made = await asyncio.gather(
        *(
            assistant.respond([opening], {}, AssistantContext(seed=one.seed, proactive=one.proactive))
            for one in plan_candidates(LOOK, seed)
        )
    )
    return Turn(task, persona, seed, opening, memory, [reply for reply, _ in made])


async def play(given: argparse.Namespace) -> None:
    sizes = {name: tuple(getattr(given, name)) for name in SIZES}
    options = json.loads(given.options) | ({"max_batch_size": given.batch} if given.batch else {})

    def assistant_at(temperature: float) -> Assistant:
        model = load_chat_model(given.model, temperature=temperature, max_tokens=given.max_tokens, **options)
        return SeededAssistant(ChatAssistant(model), greedy=not temperature)

    judges = {"fact_coverage": fact_coverage(), "token_cost": token_cost(rate=0.0005)}
    user = SeededUser(AgendaUser())
    model = load_chat_model(given.model, temperature=WARM, max_tokens=given.judge_tokens, **options)
    judge = interactivity(judging(model))
    verdicts = {f"verdict {sample}": sampled(judge, sample) for sample in range(sizes["judged"][2])}
    assistants = {temperature: assistant_at(temperature) for temperature in TEMPERATURES}
    begin = time.monotonic()
    stage = Stage(
        given.concurrency,
        begin + given.seconds,
        {
            temperature: create_lookahead_graph(user, assistant, MultiturnReward(judges), LOOK)
            for temperature, assistant in assistants.items()
        },
        create_lookahead_graph(
            user, assistants[WARM], MultiturnReward(judges | verdicts, dict.fromkeys(verdicts, 0.0)), LOOK
        ),
    )
    chosen = [design for design in designs(stage, sizes) if design.name in given.designs]
    tasks = offline_tasks("test")[: min(given.tasks, max(design.tasks for design in chosen))]
    personas = [PERSONAS[ROSTER[place % len(ROSTER)]] for place in range(len(tasks))]
    random.Random(given.seed).shuffle(personas)
    turns = await asyncio.gather(
        *(
            first_turn(task, persona, user, assistants[WARM], given.seed)
            for task, persona in zip(tasks, personas, strict=True)
        )
    )
    found: dict[str, Any] = {
        "settings": {**vars(given), "out": None, "read": None, "temperatures": TEMPERATURES},
        "turns": {turn.task.id: _turn_record(turn) for turn in turns},
        "designs": {},
    }

    async def run(design: Design) -> None:
        result = await play_design(stage, design, turns[: design.tasks])
        found["designs"][design.name] = result
        _write(given.out, found)
        after = time.monotonic() - begin
        print(f"{after:.0f} s: {design.name}, {result['futures']} futures, {result['calls']}", file=sys.stderr)

    with agenda_draws():
        await asyncio.gather(*(run(design) for design in chosen))


def _turn_record(turn: Turn) -> dict[str, Any]:
    return {
        "persona": turn.persona.name,
        "slips": turn.persona.name in SLIPPING,
        "opening": turn.opening.text,
        "replies": [" ".join(one.text for one in reply) for reply in turn.replies],
    }


def _write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="where to write the rewards of all futures")
    parser.add_argument("--read", type=Path, help="play nothing, and print what this file has")
    parser.add_argument("--model", default="local:smollm2")
    parser.add_argument("--options", default="{}", help="options of the model, as JSON")
    parser.add_argument("--batch", type=int, help="the most calls in a batch of a model in this process")
    parser.add_argument("--concurrency", type=int, default=8, help="futures at a time")
    parser.add_argument("--max-tokens", type=int, default=72, help="of a reply")
    parser.add_argument("--judge-tokens", type=int, default=96, help="of a verdict")
    parser.add_argument("--tasks", type=int, default=40, help="the most tasks of any design")
    parser.add_argument("--seconds", type=float, default=math.inf, help="after which no further future is begun")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--designs", nargs="+", choices=SIZES, default=list(SIZES))
    for name, parts in SIZES.items():
        parser.add_argument(f"--{name}", type=int, nargs=len(parts), metavar=parts, default=DEFAULTS[name])
    given = parser.parse_args()
    if not given.out and not given.read:
        parser.error("give --out, where to write, or --read")
    if not given.read:
        asyncio.run(play(given))
    show(given.read or given.out)


if __name__ == "__main__":
    main()
