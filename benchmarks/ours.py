"""One run of this library's side of a benchmark, in a process of its own; prints what it cost as JSON."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from langchain_core.messages import AIMessage, BaseMessage

from benchmarks.side import EXCHANGES, GOAL, arguments, report
from collab_agents import (
    ChatAssistant,
    Limits,
    LLMUser,
    Lookahead,
    MultiturnReward,
    Persona,
    ScriptedUser,
    Task,
    generate_trajectories,
    load_chat_model,
)
from collab_agents.judges import bleu, interactivity, token_cost
from collab_agents.models.openai import LimitedChatOpenAI  # Like the peer's client, imported before the clock starts.
from collab_agents.participants import AssistantContext, Memory
from collab_agents.runs import play_conversations


def tasks(count: int) -> Iterator[Task]:
    for index in range(count):
        yield Task(id=f"task-{index}", goal=f"{GOAL} (request {index})", reference=f"You are invited! {GOAL}")


async def paper(url: str, count: int, out: str | None) -> int:
    """CollabLLM's work: an LLM user, BLEU of the extracted document, interactivity and token cost."""
    model = load_chat_model("openai:any", base_url=url, limits=Limits(max_concurrent_calls=600))
    assert isinstance(model, LimitedChatOpenAI)
    judges = {"bleu": bleu(model), "interactivity": interactivity(model), "token_cost": token_cost()}
    trajectories = generate_trajectories(
        tasks(count),
        user=LLMUser(model),
        assistant=ChatAssistant(model),
        reward=MultiturnReward(judges),
        lookahead=Lookahead(candidates=3, futures=3, window=2, max_exchanges=3),
        personas=[Persona(name="plain")],
        max_concurrency=count,
        out=out,
    )
    return len([one.task.id async for one in trajectories])


async def small(url: str, count: int, out: str | None) -> int:
    """Small tasks, for memory: scripted users, one judge that needs no model."""
    model = load_chat_model("openai:any", base_url=url)
    trajectories = generate_trajectories(
        tasks(count),
        user=ScriptedUser(["I need an invitation.", "Make it shorter.", "And friendlier."]),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"token_cost": token_cost()}),
        lookahead=Lookahead(candidates=2, futures=1, window=1, max_exchanges=2),
        max_concurrency=32,
        out=out,
    )
    finished = 0
    async for _ in trajectories:
        finished += 1
    return finished


async def plain(url: str, count: int, out: str | None) -> int:
    """Conversations without lookahead, all at once; the model plays the user, too."""
    model = load_chat_model("openai:any", base_url=url, limits=Limits(max_concurrent_calls=600))
    trajectories = play_conversations(
        tasks(count),
        user=LLMUser(model),
        assistant=ChatAssistant(model),
        reward=MultiturnReward({"token_cost": token_cost()}),
        max_exchanges=EXCHANGES,
        max_concurrency=count,
        out=out,
    )
    return len([one.task.id async for one in trajectories])


class Waits:
    """An assistant that takes 0.1 s and nearly no CPU for a reply."""

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        await asyncio.sleep(0.1)
        return [AIMessage(f"{GOAL} Is this draft number {len(messages)} what you had in mind?")], memory


async def scripted(url: str, count: int, out: str | None) -> int:
    """The same conversations without any model, so that nothing hides what it costs to play and keep them."""
    trajectories = play_conversations(
        tasks(count),
        user=ScriptedUser([f"{change}, please: {GOAL}" for change in ("A draft", "Shorter", "Friendlier", "Bolder")]),
        assistant=Waits(),
        reward=MultiturnReward({"token_cost": token_cost()}),
        max_exchanges=EXCHANGES,
        max_concurrency=count,
        out=out,
    )
    return len([one.task.id async for one in trajectories])


WORK = {"paper": paper, "small": small, "plain": plain, "scripted": scripted}


def main() -> None:
    parser = arguments()
    parser.add_argument("--work", choices=WORK, default="paper")
    parser.add_argument("--in-memory", action="store_true", help="without a run folder")
    given = parser.parse_args()
    with nullcontext() if given.in_memory else tempfile.TemporaryDirectory() as out:
        report(lambda: asyncio.run(WORK[given.work](given.url, given.tasks, out)))


if __name__ == "__main__":
    main()
