"""Custom personas, a custom user and scored trajectories, with no API: python examples/custom_persona.py"""

import asyncio
from collections.abc import Sequence

from langchain_core.messages import BaseMessage

from collab_agents import (
    AgendaUser,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    Persona,
    generate_trajectories,
    load_chat_model,
    offline_tasks,
    sample_personas,
)
from collab_agents.judges import fact_coverage, token_cost
from collab_agents.users import Memory, UserContext

hurried = Persona(name="hurried-parent", background="You have five minutes.", patience=3, disclosure="guarded")
others = sample_personas(3, seed=1, mix={"typos": {"often": 1}, "disclosure": {"open": 2, "normal": 1}})

reward = MultiturnReward(
    {"facts": fact_coverage(), "cost": token_cost(rate=0.0005)},
    weights={"facts": 1.0, "cost": 0.5},
)
agenda = AgendaUser()


async def shouts(
    messages: Sequence[BaseMessage], memory: Memory, context: UserContext
) -> tuple[BaseMessage | None, Memory]:
    """A user is a function: the agenda user, in capitals, and only every second time. What it remembers is returned."""
    message, after = await agenda.respond(messages, memory, context)
    if message is None:
        return None, after
    turns = memory.get("turns", 0)
    words = str(message.content).upper() if turns % 2 == 0 else message.content
    return message.model_copy(update={"content": words}), {**after, "turns": turns + 1}


async def main() -> None:
    assistant = ChatAssistant(load_chat_model("local:smollm2", max_tokens=32, temperature=0.7))
    lookahead = Lookahead(candidates=2, futures=1, window=1, max_exchanges=1, proactive_ratio=0.5)
    for user, personas in ((agenda, [hurried, *others]), (shouts, [hurried])):
        async for trajectory in generate_trajectories(
            offline_tasks("train")[:1],
            user=user,
            assistant=assistant,
            reward=reward,
            personas=personas,
            lookahead=lookahead,
        ):
            assert trajectory.persona
            print(f"{trajectory.task.id}, played by {trajectory.persona.name}: {trajectory.messages[0]['content']}")
            for turn in trajectory.turns:
                print("  rewards", [candidate.reward for candidate in turn.candidates], "chose", turn.chosen)


if __name__ == "__main__":
    asyncio.run(main())
