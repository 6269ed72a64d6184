"""The coach: the lookahead's scores of a turn's replies, shown beside the reply that was given."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import Any

from langchain_core.messages import BaseMessage
from rich.table import Table
from rich.text import Text

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.text import harmless
from collab_agents.assistants import Assistant
from collab_agents.graphs.candidates import PlannedCandidate, plan_candidates, record_candidate
from collab_agents.graphs.conversation import Graph
from collab_agents.graphs.lookahead import create_candidate_graph, create_lookahead_graph
from collab_agents.graphs.nodes import inside, turn_of
from collab_agents.graphs.states import ConversationState, branch_of
from collab_agents.lookahead import Lookahead
from collab_agents.messages import to_dicts
from collab_agents.rewards import MultiturnReward
from collab_agents.trajectories import Candidate, Message, Turn
from collab_agents.users import SimulatedUser


class Coach:
    """Scores a person's reply and the assistant's candidates with the same lookahead."""

    def __init__(
        self, user: SimulatedUser, assistant: Assistant, reward: MultiturnReward, lookahead: Lookahead
    ) -> None:
        self._lookahead = lookahead
        self._said = create_lookahead_graph(user, assistant, reward, lookahead)
        self._candidate = create_candidate_graph(user, assistant, reward, lookahead)

    async def weigh(self, state: ConversationState, reply: Sequence[BaseMessage]) -> Turn:
        """Return the turn, with the person's reply as the first candidate and the chosen one, whatever its reward.

        `state` is that of the conversation before the reply; each future begins with the user's memory in it.
        """
        turn = derive_seed(state["seed"], "turn", state.get("exchanges", 0))
        own = PlannedCandidate(0, False, derive_seed(turn, "candidate", 0))
        samples = plan_candidates(self._lookahead, turn, first=1)
        said = branch_of(state) | {"messages": [*state["messages"], *reply]}
        candidates = await asyncio.gather(
            self._weigh(self._said, said, own, state),
            *(self._weigh(self._candidate, branch_of(state), sample, state) for sample in samples),
        )
        return Turn(prompt=to_dicts(state["messages"]), chosen=0, candidates=candidates)

    async def _weigh(
        self, graph: Graph, branch: dict[str, Any], sample: PlannedCandidate, before: ConversationState
    ) -> Candidate:
        place = inside(f"candidate {sample.index}", turn=turn_of(before), candidate=sample.index, seed=sample.seed)
        try:
            end = await graph.ainvoke(branch | asdict(sample), place)
        except Exception as error:
            return record_candidate(
                branch["messages"][len(before["messages"]) :],
                proactive=sample.proactive,
                weighed=None,
                error=reason_of(error),
            )
        return record_candidate(end["messages"][len(before["messages"]) :], proactive=sample.proactive, weighed=end)


def coach_table(turn: Turn, *, person: bool) -> Table:
    """Return a table with each candidate's reward, scores and first words, or why it has none.

    `person` says whether the first candidate is the person's own reply.
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
        name += " (proactive)" if one.proactive else ""
        name += " (chosen)" if chosen and not person else ""
        words = shorten(words_of(one.messages), 72, placeholder=" ...")
        said = Text(harmless(f"{words}  {one.error or ''}".strip()), style="red" if one.error else "")
        scores = (number(one.scores.get(judge)) for judge in judges)
        table.add_row(name, number(one.reward), *scores, said, style="green" if chosen else None)
    return table


def words_of(messages: Sequence[Message]) -> str:
    """Return the text of an assistant's reply, with the names of the tools it calls, in one line."""
    parts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            content = message.get("content") or ""
            parts += (content if isinstance(content, str) else str(content)).split()
            parts += [f"[calls {call['function']['name']}]" for call in message.get("tool_calls") or []]
    return " ".join(parts)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
