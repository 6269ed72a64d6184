"""A run that is left early, in any way, ends what is under way and can be resumed at once."""

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from benchmarks.process import ROOT

TIMES = 8
TASKS = 3

WAYS = ("break", "exception", "cancel", "wait_for", "aclose", "garbage", "abandoned")
KINDS = ("generate", "play")
CELLS = {way: f"await leave('{{kind}}', {{out}}, '{way}')" for way in WAYS} | {
    "break": "async for one in stream('{kind}', {out}): break",
    "exception": "async for one in stream('{kind}', {out}): 1 / 0",
    "aclose": "mine = stream('{kind}', {out})\nawait anext(mine)\nawait mine.aclose()",
    "abandoned": "mine = stream('{kind}', {out})\nawait anext(mine)\nkept.append(mine)",
}

PIECES = f"""
import asyncio, gc, itertools, sys, tempfile, threading
from pathlib import Path
from collab_agents import AgendaUser, Lookahead, MultiturnReward, read_trajectories
from collab_agents.runs import generate_trajectories, play_conversations
from collab_agents.judges import fact_coverage
from tests.support.participants import Counts
from tests.support.tasks import parties

def stream(kind, out, **options):
    pieces = dict(user=AgendaUser(), assistant=Counts(), reward=MultiturnReward({{"coverage": fact_coverage()}}))
    more = dict(out=out, max_concurrency=2, **options)
    if kind == "play":
        return play_conversations(parties({TASKS}), **pieces, **more, max_exchanges=1)
    shape = Lookahead(candidates=1, futures=1, window=1, max_exchanges=1)
    return generate_trajectories(parties({TASKS}), **pieces, **more, lookahead=shape)

async def resume(kind, out):
    before = len(list(read_trajectories(out)))
    rest = [one async for one in stream(kind, out, resume=True)]
    ids = [one.task.id for one in read_trajectories(out)]
    assert len(set(ids)) == len(ids) == {TASKS}, ids
    # A run that was abandoned may have gone on until it was resumed.
    assert len(rest) <= {TASKS} - before, (before, len(rest))

kept = []

async def leave(kind, out, way):
    if way == "break":
        async for _ in stream(kind, out):
            break
    elif way == "exception":
        try:
            async for _ in stream(kind, out):
                raise ValueError("of the body")
        except ValueError:
            pass
    elif way == "cancel":
        async def consume():
            async for _ in stream(kind, out):
                await asyncio.sleep(0)
        running = asyncio.create_task(consume())
        await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
    elif way == "wait_for":
        async def consume():
            mine = stream(kind, out)
            async for _ in mine:
                await asyncio.sleep(0.05)
        try:
            await asyncio.wait_for(consume(), 0.03)
        except TimeoutError as error:
            kept.append(error)
    elif way == "aclose":
        mine = stream(kind, out)
        await anext(mine)
        await mine.aclose()
    elif way == "garbage":
        mine = stream(kind, out)
        circle = [mine]
        circle.append(circle)
        await anext(mine)
        del mine, circle
        gc.collect()
    elif way == "abandoned":
        mine = stream(kind, out)
        await anext(mine)
        kept.append(mine)

WAYS, KINDS = {WAYS}, {KINDS}
"""


def run_python(code: str, folder: Path, seconds: float = 120) -> None:
    """Run it to the end of its process, with nothing to complain about."""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", PIECES + textwrap.dedent(code)],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_that_is_left_can_be_resumed_at_once_in_the_same_loop(tmp_path: Path) -> None:
    run_python(
        f"""
        async def main():
            for way in WAYS:
                for number in range({TIMES}):
                    kind, out = KINDS[number % 2], Path(way) / str(number)
                    await leave(kind, out, way)
                    await resume(kind, out)
        asyncio.run(main())
        assert [one for one in threading.enumerate() if not one.daemon] == [threading.main_thread()]
        """,
        tmp_path,
    )


def test_a_run_that_is_left_ends_with_its_loop(tmp_path: Path) -> None:
    run_python(
        f"""
        for way in WAYS:
            for number in range({TIMES}):
                kind, out = KINDS[number % 2], Path(way) / str(number)
                asyncio.run(leave(kind, out, way))
                asyncio.run(resume(kind, out))
        """,
        tmp_path,
    )


def test_a_run_that_is_left_in_a_test_ends_with_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_leaving.py").write_text(
        PIECES
        + textwrap.dedent(
            f"""
            import pytest

            @pytest.mark.parametrize("number", range({TIMES}))
            @pytest.mark.parametrize("way", WAYS)
            async def test_leaving(way, number):
                await leave(KINDS[number % 2], Path(way) / str(number), way)

            @pytest.mark.parametrize("number", range({TIMES}))
            @pytest.mark.parametrize("way", WAYS)
            async def test_resuming(way, number):
                await resume(KINDS[number % 2], Path(way) / str(number))
            """
        )
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error::pytest.PytestUnraisableExceptionWarning\n"
    )
    run_python("import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))", tmp_path)


def test_a_run_that_is_left_in_a_notebook_can_be_resumed_in_the_next_cell(tmp_path: Path) -> None:
    manager = KernelManager()
    said = tmp_path / "said"
    with said.open("wb") as output:
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        manager.start_kernel(cwd=str(tmp_path), stdout=output, stderr=output, env=environment)
        kernel = manager.client()
        kernel.start_channels()
        try:
            kernel.wait_for_ready(timeout=60)
            complaints = run_cell(kernel, PIECES)
            for way in WAYS:
                for number in range(TIMES):
                    kind, out = KINDS[number % 2], f"Path('{way}') / '{number}'"
                    complaints += run_cell(kernel, CELLS[way].format(kind=kind, out=out))
                    complaints += run_cell(kernel, f"await resume('{kind}', {out})")
            assert complaints == ""
        finally:
            kernel.stop_channels()
            manager.shutdown_kernel()
    assert "destroyed" not in said.read_text()


def run_cell(kernel: Any, code: str) -> str:
    """What a notebook would show below the cell: what it prints, and its error, if it is not the one we make."""
    shown: list[str] = []

    def show(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            shown.append(content["text"])
        elif message["msg_type"] == "error" and content["ename"] != "ZeroDivisionError":
            shown.append("\n".join(content["traceback"]))

    kernel.execute_interactive(code, output_hook=show, timeout=60, allow_stdin=False)
    return "".join(shown)
