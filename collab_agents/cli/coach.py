"""The coach: what lookahead makes of the replies of a turn, shown beside the one that was given."""

import asyncio
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

from langchain_core.messages import BaseMessage
from rich.table import Table
from rich.text import Text

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.text import harmless
from collab_agents.assistants import Assistant
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.lookahead import create_candidate_graph, create_lookahead_graph
from collab_agents.graphs.nodes import inside, turn_of
from collab_agents.graphs.rollout import why_unscored
from collab_agents.graphs.states import branch_of
from collab_agents.lookahead import Lookahead
from collab_agents.messages import to_dicts
from collab_agents.rewards import MultiturnReward
from collab_agents.trajectories import Candidate, Message, Turn
from collab_agents.users import SimulatedUser


class Coach:
    """Weighs a person's reply against what the assistant would have said, by the same lookahead."""

    def __init__(self, user: SimulatedUser, assistant: Assistant, reward: MultiturnReward, look: Lookahead) -> None:
        self._look = look
        futures, window = look.futures, look.window
        self._said = create_lookahead_graph(user, assistant, reward, futures=futures, window=window)
        self._candidate = create_candidate_graph(user, assistant, reward, futures=futures, window=window)

    async def weigh(self, state: dict[str, Any], reply: Sequence[BaseMessage]) -> Turn:
        """The turn, the person's reply first and chosen, whatever it is worth.

        state: of the conversation before the reply; what the user remembers in it is what each future begins with.
        """
        turn = derive_seed(state["seed"], "turn", state.get("exchanges", 0))
        before: Any = state
        proactive = self._look.proactive_candidates
        branches = [
            branch_of(before) | {"index": i, "proactive": 0 < i <= proactive, "seed": derive_seed(turn, "candidate", i)}
            for i in range(self._look.candidates + 1)
        ]
        said = branches[0] | {"messages": [*state["messages"], *reply]}
        candidates = await asyncio.gather(
            self._weigh(self._said, said, before), *(self._weigh(self._candidate, one, before) for one in branches[1:])
        )
        return Turn(prompt=to_dicts(state["messages"]), chosen=0, candidates=candidates)

    async def _weigh(self, graph: Graph, branch: dict[str, Any], before: Any) -> Candidate:
        index, proactive = branch["index"], branch["proactive"]
        place = inside(f"candidate {index}", turn=turn_of(before), candidate=index, seed=branch["seed"])
        try:
            end = await graph.ainvoke(branch, place)
        except Exception as error:
            return Candidate(proactive=proactive, error=reason_of(error))
        return Candidate(
            messages=to_dicts(end["messages"][len(before["messages"]) :]),
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
