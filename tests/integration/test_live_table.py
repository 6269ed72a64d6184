"""The table of a run under way: on a terminal of any size, in a notebook, and what is left of it."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jupyter_client.manager import KernelManager

from benchmarks.process import ROOT, Server
from tests.support.commands import COMMAND
from tests.support.screen import Terminal

Serve = Callable[..., Server]
FINAL = r"tasks \d+/\d+ \(0 under way, \d+ failed\)  turns \d+  calls \d+ \(.*/s\)  tokens [\d,]+  \d+ s"


def config(server: Server, folder: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "assistant": {"model": {"name": "openai:any", "base_url": server.url}},
        "user": {"kind": "agenda", "personas": [{"name": "patient", "patience": 99}]},
        "judges": [{"name": "token_cost", "options": {"rate": 0.001}}],
        "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
        "limits": {"max_concurrency": 6},
        "tasks": {"source": "offline", "split": "train", "limit": 6},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings | changes))
    return file


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Runs a command at a terminal, and kills it if the test has not seen it end."""
    begun: list[Terminal] = []

    def start(*arguments: object, columns: int = 120, lines: int = 30, **environment: str) -> Terminal:
        command = [*COMMAND, *map(str, arguments)]
        begun.append(Terminal(command, columns, lines, PYTHONPATH=str(ROOT), **environment))
        return begun[-1]

    yield start
    for one in begun:
        try:
            one.kill()
        except ProcessLookupError:
            continue


def test_generate_shows_what_each_task_does_and_leaves_one_line(
    serve: Serve, tmp_path: Path, play: Callable[..., Terminal]
) -> None:
    server = serve("--latency", "0.4", "--error-rate", "0.3")
    terminal = play("generate", "--config", config(server, tmp_path), "--out", tmp_path / "run")
    terminal.see("HTTP 503")
    screen = terminal.see(r"2/2 +[012]/2 +-?\d\.\d{3} .*user: \w+")
    lines = screen.splitlines()
    (header,) = [line for line in lines if line.startswith("task ")]
    assert header.split() == ["task", "persona", "turn", "candidates", "reward", "time", "last", "words"]
    rows = [line for line in lines if line.startswith("offline-train-")]
    assert [row.split()[0] for row in rows] == [f"offline-train-00{number}" for number in range(6)]
    for row in rows:
        assert re.search(r"patient +[12]/2 +[012]/2 +(-?\d\.\d{3} )? +0:\d\d  (user: \w+|$)", row), row
    assert re.search(r"0 of 6 tasks  ─{30}  6 under way  0:\d\d", screen)
    assert re.search(r"calls \d+ \(\d+/s\)  tokens [\d,]+  turns \d", screen)
    assert re.search(r"\d+ × call tried again: HTTP 503", screen)
    code, screen = terminal.end()
    assert code == 0
    assert re.search(FINAL, screen)
    assert "6 new trajectories" in screen
    assert "last words" not in screen
    assert "×" not in screen
    assert terminal.screen.cursor_shown


def test_a_small_terminal_shows_what_fits_without_colours_and_ctrl_c_cleans_up(
    serve: Serve, tmp_path: Path, play: Callable[..., Terminal]
) -> None:
    server = serve("--latency", "0.4")
    file, out = config(server, tmp_path), tmp_path / "run"
    terminal = play("generate", "--config", file, "--out", out, columns=60, lines=8, NO_COLOR="1")
    screen = terminal.see(r"offl\S+ +[12]/2 +[012]/2 .*user: \w")
    assert "and 4 more under way" in screen
    assert "0 of 6 tasks" in screen
    assert "calls" in screen
    assert not re.search(r"\x1b\[[0-9;]*3\dm", terminal.raw), "there are colours"
    terminal.type("\x03")
    code, screen = terminal.end()
    assert code == 130
    assert "Stopped. Finished conversations are in" in screen
    assert "under way)" not in screen.replace("\n", " ").replace("(0 under way", "")
    assert "last words" not in screen
    assert terminal.screen.cursor_shown


def test_the_table_follows_the_size_of_the_terminal(
    serve: Serve, tmp_path: Path, play: Callable[..., Terminal]
) -> None:
    server = serve("--latency", "0.6")
    terminal = play("generate", "--config", config(server, tmp_path), "--out", tmp_path / "run")
    terminal.see("user: ")
    for columns, lines, wanted in ((60, 20, "offl…ain-005"), (60, 8, "and 4 more"), (140, 30, "patient .*user: ")):
        terminal.resize(columns, lines)
        screen = terminal.see(wanted)
        assert len(re.findall("^off", screen, re.MULTILINE)) == (2 if lines == 8 else 6)
        assert screen.count("last words") == screen.count("of 6 tasks") == 1
    code, screen = terminal.end()
    assert code == 0
    assert "last words" not in screen
    assert len(re.findall(FINAL, screen)) == 1


def test_an_evaluation_says_which_assistant_plays_a_task(
    serve: Serve, tmp_path: Path, play: Callable[..., Terminal]
) -> None:
    server = serve("--latency", "0.4")
    file = config(server, tmp_path, tasks=[{"source": "offline", "split": "test", "limit": 2}])
    (tmp_path / "other.yaml").write_text("assistant:\n  model: {name: 'openai:any', base_url: '" + server.url + "'}\n")
    against = ("--against", tmp_path / "other.yaml")
    terminal = play("evaluate", "--config", file, *against, "--out", tmp_path / "out", lines=80)
    screen = terminal.see(r"offline-test-\S+ +other +patient +[12]/2 +0:\d\d  (user|assistant): \w+")
    (header,) = [line for line in screen.splitlines() if line.startswith("task ")]
    assert header.split() == ["task", "run", "persona", "turn", "time", "last", "words"]
    assert sorted(re.findall(r"^offline-test-\S+ +(\w+)", screen, re.MULTILINE)) == ["other", "other", "run", "run"]
    code, screen = terminal.end()
    assert code == 0
    assert "tasks 4/4 (0 under way, 0 failed)" in screen
    assert "last words" not in screen


PIECES = """
import asyncio
from collab_agents import LiveTable, MultiturnReward, ScriptedUser, Task
from collab_agents.judges import token_cost
from collab_agents.runs import play_conversations
from tests.support.participants import Says

HOSTILE = "\\x1b[2J\\x1b]0;owned\\x07[bold red]plain[/] \\u202eright\\x9b31m\\nsecond\\tline \\ud83d 漢字 "
HOSTILE += "x" * 1_000_000

class Slow(Says):
    async def respond(self, messages, memory, context):
        await asyncio.sleep(0.7)
        if "t2" in messages[0].content[-9:]:
            raise RuntimeError("no luck")
        return await super().respond(messages, memory, context)

async def main(table):
    tasks = [Task(id=f"t{n}\\x1b[31m", goal=f"Write t{n}.") for n in range(3)]
    async for one in play_conversations(
        tasks, user=ScriptedUser([HOSTILE + "{goal}", HOSTILE]), assistant=Slow(lambda *_: HOSTILE),
        reward=MultiturnReward({"cost": token_cost()}), progress=table, max_exchanges=2):
        print("finished", one.task.id[:2])
"""


def test_in_a_program_hostile_words_are_only_words_and_prints_and_logs_stay_above_the_table() -> None:
    program = PIECES + "import logging; logging.basicConfig(); asyncio.run(main(LiveTable()))"
    terminal = Terminal([sys.executable, "-c", program], 100, 20, PYTHONPATH=str(ROOT))
    screen = terminal.see("user: ")
    assert re.search(
        r"^t0\[31m +[12]/2 +0:\d\d  user: \[2J\]0;owned\[bold red\]plain\[/\] right31m second line \S 漢 ?字 +x+…$",
        screen,
        re.MULTILINE,
    )
    terminal.see("finished t[01]")
    code, screen = terminal.end()
    assert code == 0
    logged, *printed, last = [line for line in screen.splitlines() if line]
    assert logged.startswith("WARNING:collab_agents.runs.generate:task t2")
    assert logged.endswith("could not be finished: assistant: RuntimeError: no luck")
    assert sorted(printed) == ["finished t0", "finished t1"]
    assert re.fullmatch(FINAL, last)


def test_with_its_output_in_a_file_a_program_prints_lines_there_and_the_last_line_on_stderr() -> None:
    command = [sys.executable, "-c", PIECES + "asyncio.run(main(LiveTable()))"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, timeout=60)
    assert sorted(done.stdout.splitlines()) == ["finished t0", "finished t1"]
    assert re.search(FINAL, done.stderr.splitlines()[-1])
    assert "last words" not in done.stderr


def test_an_error_in_the_middle_of_a_run_leaves_a_clean_screen() -> None:
    broken = PIECES.replace('print("finished", one.task.id[:2])', "raise SystemExit('over')")
    terminal = Terminal([sys.executable, "-c", broken + "asyncio.run(main(LiveTable()))"], PYTHONPATH=str(ROOT))
    terminal.see("last words")
    code, screen = terminal.end()
    assert code == 1
    assert "over" in screen
    assert re.search(FINAL, screen)
    assert "last words" not in screen
    assert terminal.screen.cursor_shown


async def test_a_notebook_shows_the_table_in_one_place_and_the_last_line_stays() -> None:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        shown: list[tuple[str, str]] = []

        def note(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] in ("display_data", "update_display_data"):
                shown.append((content["transient"]["display_id"], content["data"]["text/plain"]))
            assert message["msg_type"] != "error", content

        await asyncio.to_thread(
            client.execute_interactive, PIECES + "await main(LiveTable())", output_hook=note, timeout=60
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert len({where for where, _ in shown}) == 1
    assert any("last words" in text and "user: [2J]0;owned" in text for _, text in shown)
    assert re.search(FINAL, shown[-1][1])
    assert not any("\x1b" in text for _, text in shown)
