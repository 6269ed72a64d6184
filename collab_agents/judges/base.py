"""What a judge is, and what it is given."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from collab_agents._internal.containment import Late, within
from collab_agents.errors import CollabError, ConfigError, ModelError, UnusableReply
from collab_agents.judges.artefact import extract_artefact
from collab_agents.messages import replies
from collab_agents.personas import Persona
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
    faults: tuple[str, ...] = ()
    """The kinds of fault that were found in the simulated user. `Lookahead.drop_faulty` drops a future with any."""


@dataclass
class Conversation:
    """A finished conversation as judges see it."""

    messages: Sequence[BaseMessage]
    """Everything that was said, including the future; without system prompts."""
    seed: int = 0
    """The branch's seed, for judges that sample."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """The final state of an app that is the assistant, without its messages."""
    persona: Persona | None = None
    """Who played the user."""
    start: int = 0
    """How many of the messages came before the future; 0 if the conversation is judged as a whole."""
    stopped: Literal["user", "max_turns", "interrupted"] | None = None
    """Why it ended, as in `trajectories.Trajectory`. None if it had not ended, or nobody knows."""
    _artefacts: dict[tuple[int, str], str | CollabError] = field(default_factory=dict, repr=False)
    _extracting: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def assistant_texts(self) -> list[str]:
        """Return what the assistant said, one text per turn; see `messages.replies`."""
        return replies(self.messages)

    def question(self, text: str | Prompt) -> list[BaseMessage]:
        """Return a prompt that asks a model something about the conversation.

        Every judge's prompt starts with the same instructions and transcript, so that a provider's prefix cache reads
        the conversation once.

        Args:
            text: The question. Parts of a plain text that imitate the prompt are escaped.
        """
        shown = render("judge_conversation", transcript=transcript(self.messages), question=text)
        return [SystemMessage(render("judge")), HumanMessage(shown)]

    async def artefact(self, model: BaseChatModel, kind: str = "text") -> str:
        """Let the model extract what the conversation produced, such as a document, an answer or code.

        It is extracted once, however many judges ask for it with the same model and kind.

        Raises:
            UnusableReply: If the model returns nothing usable.
            ModelError: If the model cannot be called.
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
    """A judge that can tell, before a task is played, that it cannot judge it.

    There is no score, and a reason, if the task has such a problem, or if the judge's model cannot be called or gives
    no usable answer.

    Args:
        score: Scores a conversation.
        problem_with: Returns why a task cannot be judged, as a clause, or None.
        clarifies: Whether the value says if the assistant asked where `metadata.ambiguous` is true, and only there. A
            scorecard counts such a judge by class.
        collaboration: Whether the value says how well the assistant collaborates. A scorecard shows such a judge beside
            the task's metric.
        reviews_user: Whether the scores have the `faults` of the simulated user.
    """

    def __init__(
        self,
        score: Judge,
        problem_with: Callable[[Task], str | None],
        *,
        clarifies: bool = False,
        collaboration: bool = False,
        reviews_user: bool = False,
    ) -> None:
        self._score = score
        self.problem_with = problem_with
        self.clarifies = clarifies
        self.collaboration = collaboration
        self.reviews_user = reviews_user

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
    reviews_user: bool = False,
) -> Callable[[Judge], Judge]:
    """Make a function a `CheckedJudge`, with these arguments."""
    return lambda score: CheckedJudge(
        score, problem_with, clarifies=clarifies, collaboration=collaboration, reviews_user=reviews_user
    )


async def in_time(work: Awaitable[T], seconds: float | None) -> T:
    """Await custom work. Raises UnusableReply if it takes longer than `seconds`."""
    try:
        return await within(seconds, work)
    except Late as error:
        raise UnusableReply(f"it did not answer within {seconds:g} s") from error


def needs_reference(task: Task) -> str | None:
    return None if (task.reference or "").strip() else f"task {task.id!r} has no reference to compare with"


def problem_with(judge: Judge, task: Task) -> str | None:
    """Return why the judge cannot judge the task, as far as the task alone shows, or None."""
    return judge.problem_with(task) if isinstance(judge, CheckedJudge) else None


OWN_TIMEOUT = 300.0
"""Seconds that a custom judge gets for a conversation by default."""


def as_judge(function: AnyJudge | Judge, *, timeout: float | None = OWN_TIMEOUT) -> Judge:
    """Make a judge of a plain function, sync or async, that returns a number, a `Score`, or None for no score.

    Args:
        function: Called with the `Conversation` and the `Task`. A sync function is called on the event loop, so it must
            not block. The judges of this library are returned as they are.
        timeout: Seconds for one conversation, after which there is no score; None waits forever.

    Raises:
        ConfigError: If the function cannot be called with a conversation and a task.

    Example:
        def polite(conversation, task):
            return float("please" in conversation.messages[-1].text.lower())

        reward = MultiturnReward({"polite": as_judge(polite), "cost": token_cost()})
    """
    if isinstance(function, CheckedJudge):
        return function
    if not callable(function):
        raise ConfigError(f"a judge is a function of a conversation and a task, got {function!r}")
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        name = getattr(function, "__qualname__", repr(function))
        raise ConfigError(f"judge {name} must take two arguments: a conversation and a task") from error
    except ValueError:  # Some builtins have no signature.
        pass

    async def judge(conversation: Conversation, task: Task) -> Score:
        async def judged() -> Judgement:
            result = function(conversation, task)
            return await result if inspect.isawaitable(result) else result

        value = await in_time(judged(), timeout)
        return value if isinstance(value, Score) else Score(None if value is None else float(value))

    return judge
