"""Lookahead within a budget: sample candidate replies, score each, and choose one."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from collab_agents._internal.containment import abandon, contained
from collab_agents._internal.langgraph_private import streams_messages
from collab_agents._internal.reasons import reason_of
from collab_agents._internal.tracing import traced, with_handlers
from collab_agents.allocation import best_candidate, sure_choice
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.graphs.candidates import PlannedCandidate, plan_candidates, record_candidate
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.futures import rewards_of
from collab_agents.graphs.nodes import inside, turn_of
from collab_agents.graphs.states import State
from collab_agents.lookahead import Budget, Lookahead
from collab_agents.messages import as_text, to_dicts
from collab_agents.participants import Memory
from collab_agents.rewards import best_of
from collab_agents.tasks import Task
from collab_agents.trajectories import Candidate, Expected
from collab_agents.usage import SAID_AGAIN, track_usage
from collab_agents.value import ValueModel

logger = logging.getLogger(__name__)

_TIME = "the time budget was spent"


@dataclass
class Choice:
    """The candidate that was chosen."""

    reply: list[BaseMessage]
    """The candidate's messages."""
    memory: Memory
    """The assistant's memory after them."""
    record: dict[str, Any]
    """How it was chosen, for the `lookahead` channel."""


class Deliberation:
    """Runs candidates and their futures concurrently, and cancels them when the budget is spent.

    Args:
        reply_graph: Gives one candidate for a branch's state.
        lookahead_graph: Looks ahead after one candidate, from a branch's state.
        lookahead: How many candidates, and how many of them proactive.
        budget: The time and calls for one reply.
        agree: Whether replies (as text, tool calls included) are so alike that looking ahead would gain nothing.
        value: Expects rewards of the candidates. Futures are played only if it is not sure which is the best.
    """

    def __init__(
        self,
        reply_graph: Graph,
        lookahead_graph: Graph,
        *,
        lookahead: Lookahead,
        budget: Budget,
        agree: Callable[[Sequence[str]], bool],
        value: ValueModel | None = None,
    ) -> None:
        self.reply_graph = reply_graph
        self.lookahead_graph = lookahead_graph
        self.lookahead = lookahead
        self.budget = budget
        self.agree = agree
        self.value = value

    async def choose(self, state: State, goal: Callable[[], Task | Awaitable[Task]]) -> Choice:
        """Choose the candidate with the highest reward.

        The first candidate is chosen instead if the candidates agree, the budget is spent or none could be scored. With
        a value model it is the highest expected reward, and if that is sure enough, no future is played.

        Args:
            state: A branch's state that ends with the user's message.
            goal: Finds the simulated user's task; sync or async.

        Raises:
            RolloutError: If there is no candidate, or none in time.
        """
        run = _Choosing(self, state, goal)
        started = asyncio.get_running_loop().time()
        limit = None if self.budget.seconds is None else self.budget.seconds + self.budget.grace
        with track_usage() as usage, unheard([run.calls]), contained(limit):
            await run.finish()
        seconds = asyncio.get_running_loop().time() - started
        index, why = run.chosen()
        one = run.replies[index]
        record = {
            "chosen": index,
            "why": why,
            "candidates": [run.record(sample).model_dump() for sample in run.samples],
            "usage": asdict(usage),
            "seconds": round(seconds, 3),
        }
        return Choice(one["messages"][len(state["messages"]) :], one["assistant_memory"], record)


class _Choosing:
    """One deliberation in progress."""

    def __init__(self, plan: Deliberation, state: State, goal: Callable[[], Task | Awaitable[Task]]) -> None:
        self.plan = plan
        self.state = state
        self.goal = goal
        self.samples = plan_candidates(plan.lookahead, state["seed"])
        self.replies: dict[int, State] = {}
        self.weighed: dict[int, State] = {}
        self.errors: dict[int, str] = {}
        self.expected: dict[int, Expected] = {}
        self.sure: int | None = None
        self.stopped = ""
        self._loop = asyncio.get_running_loop()
        self._end = None if plan.budget.seconds is None else self._loop.time() + plan.budget.seconds
        self.calls = _CallBudget(plan.budget.calls)
        self._failed: Exception | None = None
        self._replying: dict[asyncio.Task[State], int] = {}
        self._weighing: dict[asyncio.Task[State], int] = {}

    async def finish(self) -> None:
        self._spent = asyncio.create_task(self.calls.spent.wait())
        self._found = asyncio.create_task(self._find_goal())
        for sample in self.samples:
            self._start(self._replying, sample.index, self._reply(sample))
        try:
            try:
                async with asyncio.timeout(self.plan.budget.seconds):
                    await self._look_ahead()
            except TimeoutError:
                self.stopped = _TIME
            await abandon([*self._weighing, self._found])
            if not self.replies:
                await self._last_call()
        finally:
            self.calls.closed = True
            await abandon([self._spent, self._found, *self._weighing, *self._replying])

    def chosen(self) -> tuple[int, str]:
        """Return the index of the candidate to give, and why."""
        first, what = min(self.replies), "the first candidate"
        if self.expected:
            first, what = max(self.expected, key=lambda one: self.expected[one].mean), "the best of the value model"
        if self.stopped:
            return first, f"{what}: {self.stopped}"
        if self.sure is not None:
            return self.sure, "the value model is sure enough"
        best = self._best()
        if best is None:
            return first, f"{what}: none could be scored"
        return best, "the highest expected reward" if self.expected else "the highest reward"

    def _best(self) -> int | None:
        indices = range(len(self.samples))
        if self.plan.value is None or not self.expected:
            return best_of([self.weighed.get(index, {}).get("reward") for index in indices])
        rewards = [rewards_of(self.weighed.get(index, {}).get("futures", [])) for index in indices]
        return best_candidate(rewards, self.plan.value.components, [self.expected.get(index) for index in indices])

    def record(self, sample: PlannedCandidate) -> Candidate:
        reply, weighed = self.replies.get(sample.index), self.weighed.get(sample.index)
        return record_candidate(
            reply["messages"][len(self.state["messages"]) :] if reply else [],
            proactive=sample.proactive,
            weighed=weighed,
            expected=self.expected.get(sample.index),
            error=self.errors.get(sample.index) or (None if weighed else self.stopped or "there was no lookahead"),
        )

    async def _look_ahead(self) -> None:
        while under_way := {**self._replying, **self._weighing}:
            done, _ = await asyncio.wait({*under_way, self._spent}, return_when=asyncio.FIRST_COMPLETED)
            if self._end is not None and self._loop.time() > self._end:
                raise TimeoutError  # The event loop was blocked past the deadline; results arriving now are too late.
            for task in under_way.keys() & done:
                self._take(task)
            if self.calls.spent.is_set():
                self.stopped = "the call budget was spent"
                return
            if self._weighing or self.weighed or await self._is_open():
                for index in self.replies:
                    if index not in self.weighed and index not in self._weighing.values() and index not in self.errors:
                        self._start(self._weighing, index, self._look_ahead_after(self.samples[index]))
            elif self.sure is not None:
                return
            elif not self._replying and self.replies:
                self.stopped = "the candidates agree" if len(self.replies) > 1 else "there is no other"
                return

    async def _is_open(self) -> bool:
        """Return whether to look ahead: two candidates differ, and no value model is sure which is the best.

        Without a value model, a slow third candidate delays nothing. A value model compares all of them.
        """
        if len(self.replies) < 2 or self._agree():
            return False
        value = self.plan.value
        if value is None:
            return True
        if self._replying:
            return False
        if self.expected:
            return True
        indices = sorted(self.replies)
        before = self.state["messages"]
        replies = [to_dicts(self.replies[index]["messages"][len(before) :]) for index in indices]
        try:
            found = await value.expect(to_dicts(before), replies)
            best = sure_choice(found, value.components, self.plan.lookahead)
            self.expected = dict(zip(indices, found, strict=True))
        except Exception as error:
            logger.warning("the value model failed, so futures are played: %s", reason_of(error))
            return True
        self.sure = None if best is None else indices[best]
        return best is None

    async def _last_call(self) -> None:
        """Wait for the first reply of those in progress and, if the time is up, of one more call."""
        stopped_at = self._end if self.stopped == _TIME and self._end is not None else self._loop.time()
        until = stopped_at + self.plan.budget.grace
        if self.stopped and not self.calls.spent.is_set() and self._loop.time() < until:
            self._start(self._replying, 0, self._reply(self.samples[0]))
        try:
            async with asyncio.timeout_at(until):
                while self._replying and not self.replies:
                    done, _ = await asyncio.wait(self._replying, return_when=asyncio.FIRST_COMPLETED)
                    if self._loop.time() > until:
                        raise TimeoutError
                    for task in done:
                        self._take(task)
        except TimeoutError:
            waited = f"{self.plan.budget.grace:g} s after"
            raise RolloutError(f"there is no reply {waited} {self.stopped}") from None
        if not self.replies:
            raise RolloutError(f"no candidate: {'; '.join(dict.fromkeys(self.errors.values()))}") from self._failed

    def _take(self, task: asyncio.Task[State]) -> None:
        replying = task in self._replying
        index = (self._replying if replying else self._weighing).pop(task)
        try:
            result = task.result()
        except ConfigError:  # Raised by `goal`: nodes raise RolloutError.
            raise
        except Exception as error:
            self._failed = error
            self.errors[index] = f"candidate {index}: {reason_of(error)}"
            return
        if replying:
            self.replies.setdefault(index, result)
            self.errors.pop(index, None)
        else:
            self.weighed[index] = result

    def _agree(self) -> bool:
        said = [as_text(reply["messages"][len(self.state["messages"]) :]) for reply in self.replies.values()]
        return self.plan.agree(said)

    async def _find_goal(self) -> Task:
        with traced(role="goal"):
            goal = self.goal()
            return await goal if inspect.isawaitable(goal) else goal

    async def _reply(self, sample: PlannedCandidate) -> State:
        branch = {**self.state, "seed": sample.seed, "proactive": sample.proactive}
        return await self.plan.reply_graph.ainvoke(branch, self._named("candidate", sample))

    async def _look_ahead_after(self, sample: PlannedCandidate) -> State:
        branch = {**self.replies[sample.index], "seed": sample.seed, "task": await asyncio.shield(self._found)}
        return await self.plan.lookahead_graph.ainvoke(branch, self._named("lookahead after candidate", sample))

    def _named(self, what: str, sample: PlannedCandidate) -> RunnableConfig:
        turn = turn_of(self.state)
        return inside(f"{what} {sample.index}", turn=turn, candidate=sample.index, seed=sample.seed)

    def _start(self, where: dict[asyncio.Task[State], int], index: int, work: Coroutine[Any, Any, State]) -> None:
        where[asyncio.create_task(work, name=f"candidate {index}")] = index


class _CallBudget(BaseCallbackHandler):
    """Refuses model calls beyond the budget and after the end, whichever library the model comes from.

    The first candidate's own calls are counted but never refused, because there has to be a reply.
    """

    raise_error = True
    run_inline = True

    def __init__(self, calls: int | None) -> None:
        self.calls = calls
        self.closed = False
        self.spent = asyncio.Event()
        self._started = 0
        self._loop = asyncio.get_running_loop()
        logging.getLogger("langchain_core.callbacks.manager").addFilter(_is_no_refusal)  # Added only once.

    def on_chat_model_start(self, *_: object, **about: Any) -> None:
        self._count(about)

    def on_llm_start(self, *_: object, **about: Any) -> None:
        self._count(about)

    def _count(self, about: dict[str, Any]) -> None:
        if SAID_AGAIN in (about.get("tags") or ()):
            return
        if self.closed:
            raise RolloutError("the reply has been given")
        place = about.get("metadata") or {}
        first = place.get("role") == "assistant" and place.get("candidate") == 0 and "future" not in place
        if self.calls is not None and self._started >= self.calls and not first:
            self._loop.call_soon_threadsafe(self.spent.set)  # A sync node of an app calls from a thread.
            raise RolloutError(f"the budget of {self.calls} calls is spent")
        self._started += 1


def _is_no_refusal(record: logging.LogRecord) -> bool:
    """Drop LangChain's warning about the exception with which this handler refuses a call."""
    return not record.args or _CallBudget.__name__ not in map(str, record.args)


@contextmanager
def unheard(handlers: Sequence[BaseCallbackHandler] = ()) -> Iterator[None]:
    """Keep model output inside the block out of the surrounding graph's message stream. Adds `handlers`."""
    around: RunnableConfig = var_child_runnable_config.get() or {}
    callbacks = with_handlers(around.get("callbacks"), handlers)
    if isinstance(callbacks, BaseCallbackManager):
        for handler in list(callbacks.handlers):
            if streams_messages(handler):
                callbacks.remove_handler(handler)
    config: RunnableConfig = {**around, "callbacks": callbacks}
    token = var_child_runnable_config.set(config)
    try:
        yield
    finally:
        var_child_runnable_config.reset(token)


def alike(share: float) -> Callable[[Sequence[str]], bool]:
    """Return a function that says whether texts share at least this fraction of their words, in order (difflib)."""

    def agree(texts: Sequence[str]) -> bool:
        first, *others = [text.split() for text in texts] or [[]]
        return all(SequenceMatcher(None, first, other, autojunk=False).ratio() >= share for other in others)

    return agree
