"""The coach: what lookahead makes of the replies of a turn, shown beside the one that was given."""

import asyncio
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from langchain_core.messages import BaseMessage
from rich.table import Table
from rich.text import Text

from collab_agents.assistants import Assistant
from collab_agents.cli.terminal import harmless
from collab_agents.config import Lookahead
from collab_agents.errors import reason_of
from collab_agents.graphs import create_lookahead_graph
from collab_agents.graphs.rollout import why_unscored
from collab_agents.messages import to_dicts
from collab_agents.rewards import MultiturnReward
from collab_agents.seeds import derive_seed
from collab_agents.trajectories import Candidate, Message, Turn
from collab_agents.users import SimulatedUser


class Coach:
    """Weighs a person's reply against what the assistant would have said, by the same lookahead."""

    def __init__(self, user: SimulatedUser, assistant: Assistant, reward: MultiturnReward, look: Lookahead) -> None:
        self._assistant = assistant
        self._look = look
        self._graph = create_lookahead_graph(user, assistant, reward, futures=look.futures, window=look.window)

    async def weigh(self, state: dict[str, Any], reply: Sequence[BaseMessage]) -> Turn:
        """The turn, the person's reply first and chosen, whatever it is worth.

        state: of the conversation before the reply; what the user remembers in it is what each future begins with.
        """
        turn = derive_seed(state["seed"], "turn", state.get("exchanges", 0))
        seeds = [derive_seed(turn, "candidate", index) for index in range(self._look.candidates + 1)]
        proactive = self._look.proactive_candidates
        candidates = await asyncio.gather(
            self._weigh(state, reply, seeds[0]),
            *(self._sample(state, seed, index < proactive) for index, seed in enumerate(seeds[1:])),
        )
        return Turn(prompt=to_dicts(state["messages"]), chosen=0, candidates=candidates)

    async def _sample(self, state: dict[str, Any], seed: int, proactive: bool) -> Candidate:
        lent = {"seed": derive_seed(seed, "assistant", len(state["messages"])), "proactive": proactive}
        try:
            reply, _ = await self._assistant.respond([one.model_copy() for one in state["messages"]], lent)
        except Exception as error:
            return Candidate(proactive=proactive, error=f"assistant: {reason_of(error)}")
        return await self._weigh(state, reply, seed, proactive)

    async def _weigh(
        self, state: dict[str, Any], reply: Sequence[BaseMessage], seed: int, proactive: bool = False
    ) -> Candidate:
        kept = {key: state.get(key) for key in ("task", "persona", "memory") if state.get(key) is not None}
        end = await self._graph.ainvoke({**kept, "messages": [*state["messages"], *reply], "seed": seed})
        return Candidate(
            messages=to_dicts(reply),
            proactive=proactive,
            reward=end["reward"],
            scores=end["scores"],
            futures=end["futures"],
            error=None if end["reward"] is not None else why_unscored(end["futures"]),
        )


def coach_table(turn: Turn, *, person: bool) -> Table:
    """A candidate a row: its reward, its scores and its first words, or why it has none.

    person: whether the first candidate is the person's own reply.
    """
    judges = list(dict.fromkeys(name for one in turn.candidates for name in one.scores))
    table = Table(title=Text("what lookahead makes of it", style="italic"), title_justify="left")
    table.add_column("reply")
    for name in ("reward", *judges):
        table.add_column(Text(name), justify="right")
    table.add_column("words", overflow="fold")
    for index, one in enumerate(turn.candidates):
        chosen = index == turn.chosen
        name = "yours" if person and index == 0 else str(index + (not person))
        name += " (proactive)" * one.proactive + " (chosen)" * (chosen and not person)
        words = shorten(words_of(one.messages), 72, placeholder=" ...")
        said = Text(harmless(f"{words}  {one.error or ''}".strip()), style="red" if one.error else "")
        scores = (number(one.scores.get(judge)) for judge in judges)
        table.add_row(name, number(one.reward), *scores, said, style="green" if chosen else None)
    return table


def words_of(messages: Sequence[Message]) -> str:
    """What an assistant's reply says, the names of the tools it calls included, in one line."""
    parts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            content = message.get("content") or ""
            parts += (content if isinstance(content, str) else str(content)).split()
            parts += [f"[calls {call['function']['name']}]" for call in message.get("tool_calls") or []]
    return " ".join(parts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
