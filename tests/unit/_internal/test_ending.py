"""The end of a command: its exit code, and no complaints about work that ignored its cancellation."""

import subprocess
import sys

LEAVES_A_TASK = """
import asyncio
from collab_agents._internal.sync import run
from collab_agents.cli.ending import leave

async def report():
    pass

async def ignores_cancellation():
    try:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue
    except BaseException:
        await asyncio.shield(report())  # As LangGraph does.
        raise

async def main():
    asyncio.create_task(ignores_cancellation())
    await asyncio.sleep(0)

run(main())
leave(3)
"""


def test_a_task_that_ignores_its_cancellation_is_left_without_complaint() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_A_TASK], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
