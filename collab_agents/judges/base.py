"""What a judge is, and what it is given."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from collab_agents._internal.containment import Late, within
from collab_agents.errors import CollabError, ConfigError, ModelError, UnusableReply
from collab_agents.judges.artefact import extract_artefact
from collab_agents.messages import replies
from collab_agents.prompts import Prompt, render, transcript
from collab_agents.tasks import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Score:
    """A judgement with its reason.

    A value of None is "no score": the conversation could not be judged, and is left out of averages.
    """

    value: float | None
    reason: str = ""


@dataclass
class Conversation:
    """A finished conversation as judges see it.

    messages: everything said, the last future included; no system prompts.
    seed: this branch's own, for judges that sample.
    state: what else the assistant has come to: of an app, its final state without the messages.
    """

    messages: Sequence[BaseMessage]
    seed: int = 0
    state: Mapping[str, Any] = field(default_factory=dict)
    _artefacts: dict[tuple[int, str], str | CollabError] = field(default_factory=dict, repr=False)
    _extracting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def assistant_texts(self) -> list[str]:
        """What the assistant said, one text for each of its turns (see `messages.replies`)."""
        return replies(self.messages)

    def question(self, text: str | Prompt) -> list[BaseMessage]:
        """The prompt that asks a model something about the conversation. A text has what imitates the prompt escaped.

        Every judge's prompt starts with the same instructions and the same transcript, and differs only after
        them, so that a provider's prefix cache reads the conversation once.
        """
        shown = render("judge_conversation", transcript=transcript(self.messages), question=text)
        return [SystemMessage(render("judge")), HumanMessage(shown)]

    async def artefact(self, model: BaseChatModel, kind: str = "text") -> str:
        """What the conversation produced (a document, an answer, code), distilled from it by the model.

        Made once, however many judges ask for it with the same model and kind. Raises UnusableReply if the model
        gives nothing usable, ModelError if it cannot be called.
        """
        key = (id(model), kind)
        async with self._extracting:
            if key not in self._artefacts:
                question = self.question(render("artefact", kind=kind))
                try:
                    self._artefacts[key] = await extract_artefact(model, question, seed=self.seed)
                except CollabError as error:
                    self._artefacts[key] = error
        artefact = self._artefacts[key]
        if isinstance(artefact, CollabError):
            raise artefact
        return artefact


Judge = Callable[[Conversation, Task], Awaitable[Score]]
"""Scores a finished conversation on a task; higher is better."""


Judgement = Score | float | None
AnyJudge = Callable[[Conversation, Task], Judgement | Awaitable[Judgement]]
"""What `as_judge` takes: a plain function, sync or async, that returns a number, a `Score`, or None for no score."""


class CheckedJudge:
    """A judge that can say of a task, before anything is played, that it cannot judge it.

    A task with such a problem, or a model that cannot be called or answers nothing usable within its attempts, gives
    "no score" with the reason.

    clarifies: whether the value says if the assistant asked where `metadata.ambiguous` is true, and only there, which
        a scorecard counts by class. collaboration: whether it says how well the assistant collaborates, which a
        scorecard shows beside the task's metric.
    """

    def __init__(
        self,
        score: Judge,
        problem_with: Callable[[Task], str | None],
        *,
        clarifies: bool = False,
        collaboration: bool = False,
    ) -> None:
        self._score = score
        self.problem_with = problem_with
        self.clarifies = clarifies
        self.collaboration = collaboration

    async def __call__(self, conversation: Conversation, task: Task) -> Score:
        if problem := self.problem_with(task):
            return Score(None, problem)
        try:
            return await self._score(conversation, task)
        except (UnusableReply, ModelError) as error:
            return Score(None, str(error))


def checked(
    problem_with: Callable[[Task], str | None] = lambda task: None,
    *,
    clarifies: bool = False,
    collaboration: bool = False,
) -> Callable[[Judge], Judge]:
    """Make a `CheckedJudge` of a function. problem_with: why a task cannot be judged, as a clause, or None."""
    return lambda score: CheckedJudge(score, problem_with, clarifies=clarifies, collaboration=collaboration)


async def in_time(work: Awaitable[T], seconds: float | None) -> T:
    """Raises UnusableReply if the work of somebody's function takes longer, in seconds."""
    try:
        return await within(seconds, work)
    except Late as error:
        raise UnusableReply(f"it did not answer within {seconds:g} s") from error


def needs_reference(task: Task) -> str | None:
    return None if (task.reference or "").strip() else f"task {task.id!r} has no reference to compare with"


def problem_with(judge: Judge, task: Task) -> str | None:
    """Why the judge cannot judge the task, as far as it can tell from the task alone."""
    return judge.problem_with(task) if isinstance(judge, CheckedJudge) else None


OWN_TIMEOUT = 300.0
"""Seconds that a judge of one's own gets for a conversation, unless told otherwise."""


def as_judge(function: AnyJudge | Judge, *, timeout: float | None = OWN_TIMEOUT) -> Judge:
    """A judge made of a plain function, sync or async, that returns a number or a `Score`.

    A sync function is called on the event loop: it must not wait. timeout: seconds for one conversation, after which
    there is no score; None waits for ever. The judges of this library have limits of their own. Raises ConfigError
    for what cannot be called with a conversation and a task.
    """
    if isinstance(function, CheckedJudge):
        return function
    if not callable(function):
        raise ConfigError(f"a judge is a function of a conversation and a task, got {function!r}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(f"judge {name}: it is called with a conversation and a task, and takes others") from error
    except ValueError:  # Of some builtins: what they take is not known.
        pass

    async def judge(conversation: Conversation, task: Task) -> Score:
        async def judged() -> Judgement:
            result = function(conversation, task)
            return await result if inspect.isawaitable(result) else result

        value = await in_time(judged(), timeout)
        return value if isinstance(value, Score) else Score(None if value is None else float(value))

    return judge
