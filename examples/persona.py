"""A persona of one's own, and scored trajectories, with no API: python examples/persona.py"""

import asyncio

from collab_agents import (
    AgendaUser,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    Persona,
    generate_trajectories,
    load_chat_model,
    offline_tasks,
)
from collab_agents.judges import fact_coverage, token_cost

hurried = Persona(name="hurried-parent", background="You have five minutes.", patience=3, disclosure="guarded")
reward = MultiturnReward(
    {"facts": fact_coverage(), "cost": token_cost(rate=0.0005)},
    weights={"facts": 1.0, "cost": 0.5},
)


async def main() -> None:
    assistant = ChatAssistant(load_chat_model("local:smollm2", max_tokens=64, temperature=0.7))
    async for trajectory in generate_trajectories(
        offline_tasks("train")[:2], user=AgendaUser(), assistant=assistant, reward=reward, personas=[hurried],
        lookahead=Lookahead(candidates=2, futures=2, window=1, max_exchanges=2, proactive_ratio=0.5),
    ):  # fmt: skip
        for turn in trajectory.turns:
            print(trajectory.task.id, [candidate.reward for candidate in turn.candidates], "chose", turn.chosen)


asyncio.run(main())
