"""Many trajectories at once, on disk as they finish, with no API: python examples/batch.py [folder [tasks]]

Run it again after a kill, and it goes on where it was.
"""

import asyncio
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

from collab_agents import (
    AgendaUser,
    ChatAssistant,
    Lookahead,
    MultiturnReward,
    generate_trajectories,
    load_chat_model,
    offline_tasks,
    read_trajectories,
    sample_personas,
)
from collab_agents.judges import asks_first, fact_coverage, token_cost


async def main(out: Path, count: int) -> None:
    number = 0
    async for trajectory in generate_trajectories(
        offline_tasks("train")[:count],
        user=AgendaUser(),
        assistant=ChatAssistant(load_chat_model("local:smollm2", max_tokens=32, temperature=0.7)),
        reward=MultiturnReward(
            {"facts": fact_coverage(), "asks": asks_first(), "cost": token_cost()}, weights={"asks": 0.1}
        ),
        personas=sample_personas(4, seed=2),
        lookahead=Lookahead(candidates=2, futures=1, window=1, max_exchanges=1, proactive_ratio=0.5),
        max_concurrency=4,
        out=out,
        resume=(out / "run.json").exists(),
    ):
        number += 1
        print(f"{number} of {count}: {trajectory.task.id}, reward {trajectory.reward:.2f}")
    kept = list(read_trajectories(out))
    chosen = Counter(turn.candidates[turn.chosen].proactive for one in kept for turn in one.turns)
    print(f"{len(kept)} trajectories in {out}; {chosen[True]} of {chosen.total()} replies chosen were proactive ones")


if __name__ == "__main__":
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("folder", nargs="?", type=Path, default=Path("runs/batch"))
    arguments.add_argument("tasks", nargs="?", type=int, default=4)
    given = arguments.parse_args()
    asyncio.run(main(given.folder, given.tasks))
