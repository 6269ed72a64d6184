"""One run of DeepEval's side of the plain conversations, in its own virtual environment."""

import os
from typing import Any

os.environ["DEEPEVAL_TELEMETRY_OPT_OUT"] = "YES"

from deepeval.dataset import ConversationalGolden
from deepeval.models import GPTModel
from deepeval.simulator import ConversationSimulator
from deepeval.test_case import Turn
from openai import AsyncOpenAI

from benchmarks.side import EXCHANGES, GOAL, arguments, report


def play(url: str, tasks: int) -> int:
    """Return how many conversations were handed over before the first that failed, which ends all."""
    client = AsyncOpenAI(base_url=url, api_key="unused")
    finished = []

    async def app(input: str, turns: list[Turn]) -> Turn:
        said: Any = [{"role": turn.role, "content": turn.content} for turn in turns]
        reply = await client.chat.completions.create(model="any", messages=said)
        return Turn(role="assistant", content=reply.choices[0].message.content)

    simulator = ConversationSimulator(
        model_callback=app,
        simulator_model=GPTModel(model="gpt-4.1", base_url=url, api_key="unused"),
        max_concurrent=tasks,
    )
    goldens = [ConversationalGolden(scenario=f"{GOAL} (request {index})") for index in range(tasks)]
    try:
        simulator.simulate(goldens, EXCHANGES, on_simulation_complete=lambda case, index: finished.append(index))
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}")
    return len(finished)


if __name__ == "__main__":
    given = arguments().parse_args()
    report(lambda: play(given.url, given.tasks))
