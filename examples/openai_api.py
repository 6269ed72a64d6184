"""CollabLLM's setup on an OpenAI model, or on any server with its API: OPENAI_API_KEY=... python examples/openai_api.py

OPENAI_BASE_URL and COLLAB_MODEL choose another server and model.
"""

import asyncio
import os

from collab_agents import (
    PERSONAS,
    ChatAssistant,
    LLMUser,
    MultiturnReward,
    Task,
    generate_trajectories,
    load_chat_model,
)
from collab_agents.judges import bleu, interactivity, token_cost

model = load_chat_model(
    f"openai:{os.environ.get('COLLAB_MODEL', 'gpt-4o-mini')}",
    base_url=os.environ.get("OPENAI_BASE_URL"),
    api_key=os.environ.get("OPENAI_API_KEY"),
)
task = Task(id="toast", goal="You want a toast for Ada's retirement after 31 years at the observatory; she loves "
            "comets and bad puns.", reference="Dear Ada, after 31 years of chasing comets ...")  # fmt: skip
judges = {"bleu": bleu(model), "interactivity": interactivity(model), "cost": token_cost()}


async def main() -> None:
    async for trajectory in generate_trajectories(
        [task], user=LLMUser(model), assistant=ChatAssistant(model), reward=MultiturnReward(judges),
        personas=list(PERSONAS.values()), out="runs/toast", resume=True,
    ):  # fmt: skip
        print(trajectory.reward, trajectory.scores, trajectory.usage)


asyncio.run(main())
