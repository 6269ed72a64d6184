"""One run of openevals' side of the plain conversations, in its own virtual environment."""

import asyncio
from collections import defaultdict
from typing import Any

from langchain_openai import ChatOpenAI
from openevals.simulators import create_async_llm_simulated_user, run_multiturn_simulation_async

from benchmarks.side import EXCHANGES, GOAL, arguments, report


async def play(url: str, tasks: int) -> int:
    model = ChatOpenAI(model="any", base_url=url, api_key="unused")
    said: defaultdict[str, list[Any]] = defaultdict(list)

    async def app(message: Any, *, thread_id: str, **_: Any) -> Any:
        said[thread_id].append({"role": "user", "content": message["content"]})
        said[thread_id].append(await model.ainvoke(said[thread_id]))
        return said[thread_id][-1]

    simulations = [
        run_multiturn_simulation_async(
            app=app,
            user=create_async_llm_simulated_user(system=f"{GOAL} (request {index})", client=model),
            max_turns=EXCHANGES,
        )
        for index in range(tasks)
    ]
    done = await asyncio.gather(*simulations, return_exceptions=True)
    return sum(not isinstance(one, BaseException) for one in done)


if __name__ == "__main__":
    given = arguments().parse_args()
    report(lambda: asyncio.run(play(given.url, given.tasks)))
