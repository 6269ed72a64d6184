"""Every block of code in the README and in docs/ runs as it is written, without the Internet.

A page is one story: its blocks run from top to bottom in an empty folder, where a block that names a file
("```yaml run.yaml") is saved first. Models of OpenAI are a server on loopback, and models of the Hub are folders with a
tiny one.
"""

import asyncio
import inspect
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch
from xml.etree import ElementTree

import pytest
import yaml
from pydantic import TypeAdapter
from typer.main import get_command

from benchmarks.process import ROOT, Server
from collab_agents._internal.importing import attribute_at
from collab_agents.cli.app import app as commands
from collab_agents.cli.app import run_command
from collab_agents.config import (
    AssistantConfig,
    EvalConfig,
    JudgeConfig,
    RunConfig,
    TasksConfig,
    UserConfig,
    load_config,
)
from collab_agents.config.build import compose, personas_of, tasks_of
from collab_agents.judges import JUDGES
from collab_agents.personas import Persona
from collab_agents.server.settings import Settings
from collab_agents.tasks import TASK_SETS, Task
from collab_agents.tasks.agenda import Agenda
from collab_agents.training.config import EvaluationConfig, OfflineConfig, OnlineConfig, RewardConfig, SamplesConfig
from collab_agents.training.loop import LoopConfig, read_loop
from collab_agents.training.made_from import MadeFrom
from collab_agents.training.rounds import HeldOut, Mean, Round, Rounds, Step
from collab_agents.training.samples import Sample, SampledReply
from collab_agents.trajectories import Candidate, Failure, Future, Trajectory, Turn, read_trajectories
from tests.support.tiny import tiny_chat_model

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "make demo": "minutes of the embedded model",
    "make test": "runs this test",
    "git clone": "needs the repository's address",
    "pip install": "needs a package index; `make setup` installs the same",
    "langgraph dev": "test_a_client_plays_a_rollout_on_the_server starts it",
    "collab-agents generate --config examples/openai.yaml --out s3://": "needs a bucket; test_s3 has one",
    "collab-agents show s3://": "needs a bucket",
    "collab-agents dataset --from s3://": "needs a bucket",
    "accelerate launch": "starts several processes",
    "torchrun": "starts several processes",
    "collab-agents evaluate --config examples/evaluate/proactive.yaml": "minutes of the embedded model",
    "collab-agents train ppo --config examples/train_collaborator": "minutes of the embedded model",
    **{
        f"collab-agents {command} --config examples/train_collaborator/gpu": "a GPU; test_recipes has tiny models"
        for command in ("generate", "train sft", "train dpo", "train grpo")
    },
    "collab-agents merge --adapter runs/qwen3-4b": "a GPU; test_recipes has tiny models",
    **{
        f"collab-agents {command} examples/train_app": "minutes of the embedded model; test_apps trains a tiny one"
        for command in ("generate --config", "train sft --config", "train grpo --config")
    },
    "collab-agents merge --adapter runs/shop": "the embedded model again",
    "collab-agents push": "needs a token; test_push has a Hub",
    "ollama": "another program",
    "llama-server": "another program",
    "collab-agents improve": "hours of the embedded model; test_improve has a loop of a tiny one",
}
"""Shell lines that are parsed and not run, by how they begin, and why."""

IN_ANOTHER_TEST = {
    "local:smollm2": "test_examples runs the README's program from the installed wheel",
    "http://127.0.0.1:2024": "test_a_client_plays_a_rollout_on_the_server runs it",
}
"""Python blocks that another test runs, by what is in them."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, in which language, the file that it is, and its text."""

    page: str
    line: int
    language: str
    file: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    found, text = [], page.read_text(encoding="utf-8")
    for fence in re.finditer(r"^```(\w*) ?([\w./-]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        line = text.count("\n", 0, fence.start()) + 1
        found.append(Block(page.name, line, fence[1], fence[2], fence[3]))
    return found


BLOCKS = {page.name: blocks_of(page) for page in PAGES}

GROUP: Any = get_command(commands)

HUB_MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
"""The model of the Hub that the pages train."""

RUN: dict[str, Any] = {
    "assistant": {"model": "openai:gpt-4o-mini"},
    "judges": [{"name": "token_cost"}],
    "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
    "tasks": {"source": "offline"},
}
"""What completes a block that shows some sections of a `run.yaml`, and the file where a page does not show its own."""


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    server = Server("--latency", "0", "--deterministic", "--call-tools")
    yield server
    server.close()


@pytest.fixture
def folder(api: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a page's blocks run: an empty folder but for the data that pages name and do not show."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    (tmp_path / "questions.csv").write_text("key,sort,question,answer,topic\n1,sum,What is 2 + 2?,4,sums\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("OPENAI_BASE_URL", api.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-pages")
    monkeypatch.setenv("MY_SERVERS_KEY", "sk-of-my-server")
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", BLOCKS)
def test_the_blocks_of_a_page_run_from_top_to_bottom(page: str, folder: Path) -> None:
    if any(HUB_MODEL in block.text for block in BLOCKS[page]):
        tiny_chat_model(folder / HUB_MODEL, "qwen2", max_position_embeddings=4096)
    for block in BLOCKS[page]:
        if block.file:
            (folder / block.file).write_text(block.text)
    for block in BLOCKS[page]:
        try:
            CHECKS[block.language](block)
        except BaseException as error:
            error.add_note(f"{block.page}, line {block.line}")
            raise


def run_python(block: Block) -> None:
    if not any(mark in block.text for mark in IN_ANOTHER_TEST):
        execute(block.text, f"{block.page}:{block.line}")


def execute(program: str, name: str) -> None:
    # On one event loop, as far as it is asked for: LangChain keeps its connections to an address for the process.
    with patch.object(asyncio, "run", LOOP.run):
        exec(compile(program, name, "exec"), {"__name__": "__main__"})


LOOP = asyncio.Runner()


def run_shell(block: Block) -> None:
    for line in lines_of(block):
        words = shlex.split(line, comments=True)
        if "collab_agents" in words or words[0] == "collab-agents":
            words = words[words.index("collab-agents" if words[0] == "collab-agents" else "collab_agents") :]
            parse(words[1:])
        if any(line.startswith(one) for one in NOT_RUN):
            check_unrun(words)
        elif "chat" in words:
            command = [sys.executable, "-m", "collab_agents", *words[1:]]
            subprocess.run(command, input=b"A toast, please.\n/quit\n", check=True, capture_output=True)
        else:
            assert words[0] == "collab-agents", f"{line}: neither run nor in NOT_RUN"
            assert run_command(words[1:]) == 0


def lines_of(block: Block) -> list[str]:
    """The commands of a shell block, without the environment variables before them."""
    text = block.text.replace("\\\n", " ").replace(" && ", "\n")
    commands_alone = [re.sub(r"^(\w+=\S* )+", "", line) for line in text.splitlines()]
    return [line for line in commands_alone if line and not line.startswith(("#", "cd "))]


def parse(arguments: list[str]) -> None:
    """Raises click's error for an argument that a command does not take."""
    name, command, rest = GROUP.resolve_command(GROUP.make_context("collab-agents", [*arguments]), arguments)
    command.make_context(name, rest)


def check_unrun(words: list[str]) -> None:
    """What can be told of a command that is not run."""
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    if words[:2] == ["pip", "install"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for own in re.findall(r"^(?:\.|collab-agents)\[(\w+)\]", "\n".join(words), re.MULTILINE):
            assert own in extras
    if words[0] == "collab-agents":
        named = [words[i + 1] for i, word in enumerate(words) if word in ("--config", "--against")]
        assert all((ROOT / name).exists() for name in named)


def check_yaml(block: Block) -> None:
    """A whole file, or some sections of a `run.yaml`: these are read, and made into the objects that they name."""
    read = yaml.safe_load(block.text)
    path = Path(block.file or "block.yaml")
    if isinstance(read, list):
        assert [Persona.model_validate(one) for one in read]
    elif "train" in read:
        path.write_text(block.text)
        assert read_loop(path).trainings
    elif "data" in read:
        path.write_text(block.text)
        assert load_config(path, OnlineConfig if "reward" in read else OfflineConfig)
    elif "reward" in read:
        assert RewardConfig.model_validate(read["reward"])
    elif "samples" in read:
        assert SamplesConfig.model_validate(read["samples"])
    elif block.file == "eval.yaml":
        assert load_config(path, EvalConfig)
    else:
        path.write_text(yaml.safe_dump({**RUN, **read}))
        config = load_config(path, RunConfig)
        assert compose(config).reward.judges
        personas = config.user.personas
        if isinstance(personas, list) or not personas.source or Path(personas.source).exists():
            personas_of(config.user)
        if config.tasks.source == "offline" or Path(config.tasks.source).exists():
            assert list(tasks_of(config.tasks))


def check_json(block: Block) -> None:
    check_value(json.loads(block.text))


def check_jsonl(block: Block) -> None:
    for line in block.text.splitlines():
        check_value(json.loads(line))


def check_value(value: dict[str, Any]) -> None:
    if "turns" in value:
        Trajectory.model_validate(value)
    elif "error" in value:
        Failure.model_validate(value)
    elif "versions" in value:
        RunConfig.model_validate(value["config"])
    elif "graphs" in value:
        assert value["graphs"].keys() == json.loads((ROOT / "langgraph.json").read_text())["graphs"].keys()
        assert all(attribute_at(path, "graphs") for path in value["graphs"].values())
    else:
        task = Task.model_validate(value)
        assert Agenda.problem_in(task) is None or "agenda" not in task.metadata


CHECKS: dict[str, Callable[[Block], None]] = {
    "python": run_python,
    "bash": run_shell,
    "yaml": check_yaml,
    "json": check_json,
    "jsonl": check_jsonl,
}


def test_a_client_plays_a_rollout_on_the_server(api: Server, folder: Path) -> None:
    """The client of docs/server.md as it is written, but for the port."""
    (block,) = (one for one in BLOCKS["server.md"] if "langgraph_sdk" in one.text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shutil.copy(ROOT / "langgraph.json", folder)
    quiet = {"LANGSMITH_TRACING": "false", "LANGGRAPH_CLI_NO_ANALYTICS": "1", "LANGGRAPH_NO_VERSION_CHECK": "true"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **quiet, "PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ok", server, folder / "log")
        program = block.text.replace("http://127.0.0.1:2024", f"http://127.0.0.1:{port}")
        assert program != block.text
        execute(program, "server.md")
    finally:
        server.kill()
        server.wait()


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


def rows_of(page: str, cells: str) -> dict[str, str]:
    """The rows of a page's tables, by their first cell. cells: what the first and the last look like."""
    return dict(re.findall(cells, (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE))


def test_every_judge_is_documented_and_its_example_is_valid() -> None:
    judges = rows_of("judges.md", r"^\| `(\w+)` \|.*\| `(\{.*\})` \|$")
    assert set(judges) == set(JUDGES)
    for name, example in judges.items():
        config = JudgeConfig.model_validate(yaml.safe_load(example))
        parameters = inspect.signature(JUDGES[name].make).parameters
        assert (config.judge or config.name) == name
        assert set(config.options) <= set(parameters)
        needed = {one for one, parameter in parameters.items() if parameter.default is parameter.empty}
        assert needed <= set(config.options) | ({"model"} if config.model else set())
        options = rows_of("judges.md", rf"^\| (`{name}`) \|[^|]*\|[^|]*\|([^|]*)\|[^|]*\|$")[f"`{name}`"]
        assert set(parameters) - {"model"} == set(re.findall(r"`(\w+)`", options))


def test_every_task_set_is_documented_and_its_example_is_valid() -> None:
    tasks = rows_of("tasks.md", r"^\| `([\w-]+)` \|.*\| `tasks: (\{.*\})` \|$")
    assert set(tasks) == set(TASK_SETS)
    for name, example in tasks.items():
        settings = TasksConfig.model_validate(yaml.safe_load(example))
        parameters = set(inspect.signature(TASK_SETS[name]).parameters)
        assert settings.source == name
        assert set(settings.options) <= parameters
        options = rows_of("tasks.md", rf"^\| (`{name}`) \| ((?:`\w+`.*)?)\|[^|`]*\|$")[f"`{name}`"]
        assert parameters - {"split", "seed"} == set(re.findall(r"`(\w+)`", options))


def test_the_examples_of_users_and_assistants_are_valid() -> None:
    users = rows_of("users.md", r"^\| (.*?) \|.*\| `(\{.*\})` \|$")
    assistants = rows_of("agents.md", r"^\| (.*?) \|.*\| `(\{.*\})` \|$")
    user = TypeAdapter[UserConfig](UserConfig)
    assert all(user.validate_python(yaml.safe_load(one)) for one in users.values())
    assert all(AssistantConfig.model_validate(yaml.safe_load(one)) for one in assistants.values())
    assert len(users) == 4
    assert len(assistants) == 3


def test_every_setting_of_the_server_is_documented() -> None:
    text = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    keys = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)))
    assert set(Settings.model_fields) <= set(keys)


def test_every_command_and_section_is_documented() -> None:
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert all(re.search(rf"`(collab-agents )?{name}\b", text) for name in GROUP.commands)
    assert all(f"| `{name}` |" in text for name in RunConfig.model_fields)
    records = (Trajectory, Turn, Candidate, Future, Sample, SampledReply, MadeFrom, Rounds, Round, Step, HeldOut, Mean)
    for record in (*records, LoopConfig, EvaluationConfig):
        assert all(f"`{name}`" in text for name in record.model_fields)


def test_the_picture_is_drawn_of_any_trajectory(tmp_path: Path) -> None:
    (recorded, *_) = read_trajectories(ROOT / "tests" / "data" / "recorded" / "agenda.jsonl")
    turn = recorded.turns[0]
    turn.candidates[0].messages[-1]["content"] = "<b>&\x1b[2J " * 200
    turn.candidates[-1].futures[0] = Future(error="the server did not answer")
    (tmp_path / "trajectories.jsonl").write_text(recorded.model_dump_json() + "\n")
    command = [sys.executable, str(ROOT / "docs" / "draw_tree.py"), str(tmp_path), "--task", recorded.task.id]
    drawn = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for picture in (drawn, (ROOT / "docs" / "tree.svg").read_text(encoding="utf-8")):
        texts = [one.text for one in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
        assert any(str(text).startswith("Candidate 1") for text in texts)
    assert "the server did not answer" in drawn


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"))]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], link


def test_every_fence_is_a_block_and_what_is_not_run_is_still_there() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) == 2 * len(BLOCKS[page.name])
    lines = [line for blocks in BLOCKS.values() for one in blocks if one.language == "bash" for line in lines_of(one)]
    assert all(any(line.startswith(one) for line in lines) for one in NOT_RUN)
    programs = [one.text for blocks in BLOCKS.values() for one in blocks if one.language == "python"]
    assert all(sum(mark in text for text in programs) == 1 for mark in IN_ANOTHER_TEST)
