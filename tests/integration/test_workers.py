"""A run on Ray gives the same trajectories as in one process, each once, whatever dies on the way."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import types
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster
from ray.util.state import list_actors, list_tasks

from benchmarks.process import ROOT, Server
from collab_agents import (
    ChatAssistant,
    Limits,
    LLMUser,
    Lookahead,
    MultiturnReward,
    Progress,
    RayOptions,
    ScriptedUser,
    SpendingLimits,
    Task,
    TaskSet,
    Trajectory,
    evaluate,
    load_chat_model,
    read_trajectories,
)
from collab_agents.errors import ConfigError, LimitReached, WorkersError
from collab_agents.judges import token_cost
from collab_agents.runs.directory import read_failures, read_totals
from collab_agents.training import MultiturnRewardFunction
from collab_agents.training.rewards import Scored
from tests.support.commands import run, start
from tests.support.postgres import PostgresServer
from tests.support.workers import Deadly, Frank, Locked, collected, played, tasks


@pytest.fixture(scope="module")
def client() -> str:
    """The address of the cluster for Ray's client."""
    return f"ray://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def cluster(client: str) -> Iterator[Cluster]:
    """A head without processors, and a node with four."""
    ports = {"dashboard_port": free_port(), "ray_client_server_port": int(client.rpartition(":")[2])}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, **ports})
    made.add_node(num_cpus=4)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def apart(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that a further node of the cluster, with the resource "apart", does not have."""
    folder = tmp_path_factory.mktemp("apart")
    ray = ["--address", cluster.address, "--num-cpus", "1", "--resources", '{"apart": 1}', "--block"]
    hidden = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(folder), "--die-with-parent"]
    command = [*hidden, sys.executable, "-m", "ray.scripts.scripts", "start", *ray]
    node = subprocess.Popen(command, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield folder
    node.terminate()
    node.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def pids(folder: Path) -> list[int]:
    return [int(one.name.partition("-")[2]) for one in folder.glob("process-*")]


async def test_one_worker_and_three_give_the_trajectories_of_one_process(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--deterministic", "--latency", "0.01")
    model = load_chat_model("openai:any", base_url=server.url, temperature=0.7)
    options: dict[str, Any] = {"user": LLMUser(model), "assistant": ChatAssistant(model), "seed": 3}
    alone, progress = tmp_path / "alone", Progress()
    expected = await collected(tasks(8), out=alone, progress=progress, **options)
    for count in (1, 3):
        out, seen = tmp_path / str(count), Progress()
        ray = RayOptions(address=cluster.address, workers=count)
        assert await collected(tasks(8), out=out, ray=ray, progress=seen, **options) == expected
        assert {one.task.id: one for one in read_trajectories(out)} == expected
        counts = ("finished", "failed", "running", "candidates", "turns", "usage")
        assert [getattr(seen, name) for name in counts] == [getattr(progress, name) for name in counts]
        here, there = read_totals(alone), read_totals(out)
        assert {**here, "seconds": 0} == {**there, "seconds": 0}


async def test_progress_tells_how_tasks_on_workers_stand_and_which_errors_they_met(
    cluster: Cluster, serve: Callable[..., Server]
) -> None:
    server = serve("--latency", "1.2", "--error-rate", "0.1")  # Workers report once a second.
    model = load_chat_model("openai:any", base_url=server.url)
    stood: dict[str, set[tuple[int, str]]] = {}

    def note(progress: Progress) -> None:
        for one in progress.under_way:
            if one.now.words:
                stood.setdefault(one.task, set()).add((one.now.turn, one.now.speaker))

    progress = Progress(on_change=note)
    ray = RayOptions(address=cluster.address, workers=2)
    await collected(tasks(4), assistant=ChatAssistant(model), ray=ray, progress=progress)
    assert stood.keys() == {"t0", "t1", "t2", "t3"}
    assert set().union(*stood.values()) >= {(1, "user"), (2, "user")}
    assert not progress.under_way
    assert progress.errors == {"call tried again: HTTP 503": server.stats()["errors"]}


async def test_tasks_of_a_worker_that_dies_are_played_again(cluster: Cluster, tmp_path: Path) -> None:
    wanted, out = tasks(12, deadly=(2, 7)), tmp_path / "run"
    (marks := tmp_path / "marks").mkdir()
    ray = RayOptions(address=cluster.address, workers=2)
    found = await collected(wanted, assistant=Deadly(marks), out=out, ray=ray, max_concurrency=6)
    assert len(list(marks.glob("died-*"))) >= 2
    assert len(pids(marks)) > 2, "no worker took the place of one that died"
    assert sorted(found) == sorted(one.id for one in wanted)
    assert {one.task.id: one for one in read_trajectories(out)} == found
    assert not read_failures(out)
    # Where nobody dies a second time, it is as if nothing had happened.
    assert await collected(wanted, assistant=Deadly(marks), max_concurrency=6) == found


async def test_a_task_that_always_kills_its_worker_takes_no_other_with_it(cluster: Cluster, tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    ray, assistant = RayOptions(address=cluster.address, workers=1), Deadly(marks, once=False)
    out = tmp_path / "run"
    found = await collected(tasks(6, deadly=(1,)), assistant=assistant, out=out, ray=ray)
    assert sorted(found) == ["t0", "t2", "t3", "t4", "t5"]
    (failure,) = read_failures(out)
    assert failure.task.id == "t1"
    assert failure.error.startswith("4 workers died while they played it; the last: on ")


async def test_a_node_that_is_removed_costs_no_task(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        second = cluster.add_node(num_cpus=1)
        (marks := tmp_path / "marks").mkdir()
        ray, out = RayOptions(address=cluster.address, workers=2), tmp_path / "run"
        found: list[Trajectory] = []
        wanted = []

        async def until_ten_are_played_without_it() -> AsyncIterator[Task]:
            with_it = 0
            for task in tasks(1000):
                if second is not None:
                    with_it = len(found)
                elif len(found) >= with_it + 10:
                    return
                wanted.append(task)
                yield task

        assistant = Deadly(marks, seconds=0.1)
        stream = played(until_ten_are_played_without_it(), assistant=assistant, out=out, ray=ray, max_concurrency=4)
        async for one in stream:
            found.append(one)
            if second is not None and len(pids(marks)) == 2:
                cluster.remove_node(second, allow_graceful=False)
                second = None
        assert second is None, "there was never a second worker"
        assert sorted(one.task.id for one in found) == sorted(one.id for one in wanted)
        assert Counter(one.task.id for one in read_trajectories(out)) == Counter(one.id for one in wanted)
    finally:
        cluster.shutdown()


DRIVER = """
import asyncio, sys
from pathlib import Path
from collab_agents import RayOptions
from tests.support.workers import Deadly, collected, tasks
address, marks, out = sys.argv[1:]
options = dict(assistant=Deadly(Path(marks)), out=out, resume=True, max_concurrency=4)
asyncio.run(collected(tasks(20), ray=RayOptions(address=address, workers=1), **options))
"""


def test_a_driver_that_is_killed_resumes_and_plays_no_finished_task_again(cluster: Cluster, tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    out = tmp_path / "run"
    command = [sys.executable, "-c", DRIVER, cluster.address, str(marks), str(out)]
    driver = subprocess.Popen(command, cwd=ROOT)
    while not (out / "trajectories.jsonl").exists() or len(list(read_trajectories(out))) < 5:
        assert driver.poll() is None, "the run ended before it was killed"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    before = {one.task.id: one for one in read_trajectories(out)}
    assert 5 <= len(before) < 20
    subprocess.run(command, cwd=ROOT, check=True)
    after = list(read_trajectories(out))
    assert Counter(one.task.id for one in after) == Counter(one.id for one in tasks(20))
    assert after[: len(before)] == list(before.values())
    whole = asyncio.run(collected(tasks(20), assistant=Deadly(marks, seconds=0)))
    assert {one.task.id: one for one in after} == whole


async def test_a_worker_that_dies_loses_no_finished_turn_if_turns_are_in_a_database(
    cluster: Cluster, postgres: PostgresServer, database: str, tmp_path: Path
) -> None:
    (marks := tmp_path / "marks").mkdir()
    said = ["{goal}", "Shorter.", "Now die, please.", "Thanks."]
    found = await collected(
        tasks(1),
        user=ScriptedUser(said),
        assistant=Deadly(marks),
        lookahead=Lookahead(candidates=1, futures=1, window=0),
        out=tmp_path / "run",
        checkpoints=postgres.address(database),
        ray=RayOptions(address=cluster.address, workers=1),
    )
    assert len(found["t0"].turns) == 4
    heard = sorted(one.read_text().splitlines() for one in marks.glob("process-*"))
    assert heard == [["Now die, please.", "Thanks."], ["Write 0", "Shorter.", "Now die, please."]]


async def test_limits_hold_for_all_workers_together(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--latency", "0.2")
    model = load_chat_model("openai:any", base_url=server.url, limits=Limits(max_concurrent_calls=5))
    ray = RayOptions(address=cluster.address, workers=2)

    async def until_both_work() -> AsyncIterator[Task]:
        for task in tasks(100):
            if server.stats()["peak"] < 5:
                yield task

    played_all = played(until_both_work(), assistant=ChatAssistant(model), ray=ray, max_concurrency=10)
    assert [one async for one in played_all]
    assert server.stats()["peak"] == 5


async def test_a_rate_limit_holds_for_all_workers_and_for_one_that_takes_a_dead_ones_place(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--latency", "0.01")
    limits = Limits(requests_per_minute=25)
    model = load_chat_model("openai:any", base_url=server.url, limits=limits)
    out, address = tmp_path / "run", cluster.address
    stream = played(tasks(40), assistant=ChatAssistant(model), out=out, ray=RayOptions(address=address, workers=2))

    async def play() -> None:
        async for _ in stream:
            pass

    async with aclosing(stream):
        playing = asyncio.create_task(play())
        while server.stats()["calls"] < 25:
            assert not playing.done()
            await asyncio.sleep(0.05)
        for worker in workers_of(cluster):
            os.kill(worker, signal.SIGKILL)
        while not workers_of(cluster):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(3)
        assert server.stats()["calls"] == 25
        playing.cancel()


def workers_of(cluster: Cluster) -> list[int]:
    """The processes of workers that can be called."""
    found = list_actors(address=cluster.address, filters=[("state", "=", "ALIVE")])
    return [one.pid for one in found if one.pid]


async def test_a_budget_holds_for_all_workers_and_can_be_raised(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server, out = serve("--deterministic", "--latency", "0.02"), tmp_path / "run"
    model = load_chat_model("openai:any", base_url=server.url)
    options: dict[str, Any] = {"assistant": ChatAssistant(model), "out": out, "max_concurrency": 4}
    ray = RayOptions(address=cluster.address, workers=2)
    with pytest.raises(LimitReached, match=r"limits\.max_calls is 40"):
        await collected(tasks(20), ray=ray, limits=SpendingLimits(max_calls=40), **options)
    calls = server.stats()["calls"]
    # At most the turns that were under way, of 4 tasks and 4 calls each.
    assert 40 <= calls <= 40 + 4 * 4
    assert read_totals(out)["calls"] == calls
    await collected(tasks(20), ray=ray, resume=True, limits=SpendingLimits(max_calls=1000), **options)
    assert Counter(one.task.id for one in read_trajectories(out)) == Counter(one.id for one in tasks(20))


async def test_an_evaluation_on_workers_gives_the_same_scorecard(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve("--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    reward = MultiturnReward({"token_cost": token_cost()})
    sets = [TaskSet("letters", tasks(5), LLMUser(model), reward, max_exchanges=2)]
    sides = {"one": ChatAssistant(model), "other": ChatAssistant(model, system_prompt="Be brief.")}
    expected = await evaluate(sets, sides, repeats=2)
    ray, progress = RayOptions(address=cluster.address, workers=2), Progress()
    found = await evaluate(sets, sides, repeats=2, ray=ray, out=tmp_path / "out", progress=progress)
    assert found == expected
    assert (progress.finished, progress.total) == (20, 20)


def test_rewards_of_replies_in_training_are_the_same_on_workers(cluster: Cluster, serve: Callable[..., Server]) -> None:
    server = serve("--deterministic")
    model = load_chat_model("openai:any", base_url=server.url)
    reward, ahead = MultiturnReward({"token_cost": token_cost()}), Lookahead(futures=2, window=2)
    prompts = [[{"role": "user", "content": f"A letter of {n} lines."}] for n in range(6)]
    replies = [[{"role": "assistant", "content": f"To whom, and why {n}?"}] for n in range(6)]
    goals = [f"A letter of {n} lines." for n in range(6)]
    here = MultiturnRewardFunction(LLMUser(model), reward, ahead, assistant=model)
    scored: list[list[Scored]] = []
    here.on_scored = scored.append
    expected = asyncio.run(here(prompts, replies, goal=goals))
    assert len(set(expected)) > 1
    ray = RayOptions(address=cluster.address, workers=2)
    there = MultiturnRewardFunction(LLMUser(model), reward, ahead, assistant=model, ray=ray)
    there.on_scored = scored.append
    try:
        for _ in range(2):  # TRL may call it from another event loop every time.
            assert asyncio.run(there(prompts, replies, goal=goals)) == expected
    finally:
        there.close()
    first, *others = [[one.result["futures"] for one in batch] for batch in scored]
    assert others == [first, first]
    with pytest.raises(ConfigError, match="ray needs an assistant"):
        MultiturnRewardFunction(LLMUser(model), reward, ahead, ray=ray)


async def test_what_cannot_be_sent_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^assistant\.inner\['guard'\] cannot be sent to workers \(TypeError"):
        await collected(tasks(1), assistant=Locked(), out=tmp_path / "run", ray=RayOptions(workers=1))
    assert not (tmp_path / "run").exists()


async def test_a_module_that_workers_lack_is_named(cluster: Cluster, tmp_path: Path) -> None:
    module = types.ModuleType("only_here")
    exec(
        "class Own:\n    async def respond(self, messages, memory, context):\n        return [], memory",
        vars(module),
    )
    sys.modules["only_here"] = module
    ray = RayOptions(address=cluster.address, workers=1)
    try:
        with pytest.raises(WorkersError, match=r"the worker on .* cannot load the run: .*No module named 'only_here'"):
            await collected(tasks(1), assistant=module.Own(), out=tmp_path / "run", ray=ray)
    finally:
        del sys.modules["only_here"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (
            {
                "sitecustomize.py": "import sys\n"
                "class Blocks:\n"
                "    def find_spec(self, name, path=None, target=None):\n"
                "        if name.partition('.')[0] == 'collab_agents':\n"
                "            raise ModuleNotFoundError(\"No module named 'collab_agents'\", name=name)\n"
                "sys.meta_path.insert(0, Blocks())\n"
            },
            r"the node .* cannot import collab-agents .*install it there",
        ),
        (
            {
                "sitecustomize.py": "from importlib import metadata\n"
                "found = metadata.version\n"
                "metadata.version = lambda name: '9.9' if name == 'collab-agents' else found(name)\n"
            },
            r"the node .* has collab-agents 9\.9, and this process has .*install the same version",
        ),
    ],
    ids=["missing", "other version"],
)
async def test_a_node_with_the_wrong_package_is_named(
    cluster: Cluster, tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
    ray = RayOptions(address=cluster.address, workers=1, runtime_env=environment)
    (marks := tmp_path / "marks").mkdir()
    with pytest.raises(WorkersError, match=problem):
        await collected(tasks(1), assistant=Deadly(marks), out=tmp_path / "run", ray=ray)
    assert not (tmp_path / "run").exists()


def test_the_command_line_plays_an_app_of_ones_own_on_a_ray_of_its_own_and_goes_on_in_a_cluster(
    cluster: Cluster, serve: Callable[..., Server], tmp_path: Path
) -> None:
    """And ends in good order when it is terminated."""
    server = serve("--deterministic", "--latency", "0.2")
    config = {
        "assistant": {"app": "tests.support.workers:assistant_at", "options": {"url": server.url}},
        "user": {"kind": "scripted", "lines": ["{goal}", "Shorter."]},
        "judges": [{"name": "token_cost"}],
        "lookahead": {"candidates": 2, "futures": 1, "window": 1, "max_exchanges": 2},
        "limits": {"max_concurrency": 4},
        "tasks": {"source": str(tmp_path / "tasks.jsonl")},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    (tmp_path / "tasks.jsonl").write_text("\n".join(one.model_dump_json() for one in tasks(16)))
    out = tmp_path / "run"
    command = ("generate", "--config", tmp_path / "run.yaml", "--out", out, "--resume", "--ray")
    process = start(*command, "--workers", "2")
    while server.stats()["calls"] < 60 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors == f"Stopped. Finished conversations are in {out}; continue with --resume.\n"
    finished = {one.task.id for one in read_trajectories(out)}
    assert 0 < len(finished) < 16
    assert read_totals(out)["calls"] >= sum(one.usage.calls for one in read_trajectories(out))

    process = start(*command, cluster.address, "--workers", "1")
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert "16/16" in output
    assert Counter(one.task.id for one in read_trajectories(out)) == Counter(one.id for one in tasks(16))


@pytest.mark.parametrize("through", ["cluster", "client"])
def test_modules_are_sent_to_a_machine_that_lacks_them(
    cluster: Cluster, client: str, apart: Path, through: str
) -> None:
    (apart / "polite.py").write_text(
        "from langchain_core.messages import AIMessage\n"
        "from polite_words import WORDS\n"
        "class Assistant:\n"
        "    async def respond(self, messages, memory, context):\n"
        "        return [AIMessage(WORDS)], memory\n"
    )
    (apart / "polite_words.py").write_text("WORDS = 'Thank you!'")
    config = {
        "assistant": {"app": "polite:Assistant"},
        "user": {"kind": "scripted", "lines": ["{goal}", "Shorter."]},
        "judges": [{"name": "token_cost"}],
        "lookahead": {"candidates": 1, "futures": 1, "window": 0, "max_exchanges": 1},
        "tasks": {"source": "tasks.jsonl"},
    }
    (apart / "run.yaml").write_text(json.dumps(config))
    (apart / "tasks.jsonl").write_text("\n".join(one.model_dump_json() for one in tasks(3)))
    address = {"cluster": cluster.address, "client": client}[through]
    process = start(
        *("generate", "--config", "run.yaml", "--out", through, "--ray", address),
        *("--workers", "1", "--worker-resources", '{"apart": 1}'),
        cwd=apart,
    )
    _, errors = process.communicate(timeout=280)
    assert (process.returncode, errors) == (0, "")
    assert [one.messages[-1]["content"] for one in read_trajectories(apart / through)] == ["Thank you!"] * 3


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--workers", "2"], "--workers belongs to --ray"),
        (["--ray", "--worker-resources", "GPU=1"], "--worker-resources must be a JSON object such as"),
        (["--ray", "--worker-resources", '{"CPU": -1}'], "--worker-resources: resources.CPU: "),
    ],
)
def test_wrong_options_get_one_sentence(tmp_path: Path, arguments: list[str], problem: str) -> None:
    config, out = ROOT / "examples" / "demo.yaml", tmp_path / "run"
    code, _, errors = run("generate", "--config", config, "--out", out, *arguments)
    check_refused(code, errors, problem, out)


def check_refused(code: int, errors: str, problem: str, out: Path) -> None:
    assert code == 1
    assert errors.startswith(f"error: {problem}")
    assert errors.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--ray", "127.0.0.1:1"], "Ray cannot be reached at 127.0.0.1:1: "),
        (["--ray", "--worker-resources", '{"GPU": 1}'], "no worker can be started: each needs GPU 1, and the nodes of"),
    ],
)
def test_a_ray_that_cannot_play_gets_one_sentence(tmp_path: Path, arguments: list[str], problem: str) -> None:
    config, out = ROOT / "examples" / "demo.yaml", tmp_path / "run"
    # In a process of its own, since a Ray on this machine and a cluster of tests do not get on in one.
    process = start("generate", "--config", config, "--out", out, *arguments)
    _, errors = process.communicate(timeout=120)
    check_refused(process.returncode, errors, problem, out)


async def test_the_dashboard_shows_tasks_by_name(cluster: Cluster, tmp_path: Path) -> None:
    (marks := tmp_path / "marks").mkdir()
    ray, out = RayOptions(address=cluster.address, workers=1), tmp_path / "run"
    odd = [one.model_copy(update={"metadata": {"half": "\ud83d"}}) for one in tasks(3)]  # Half a character.
    async for one in played(odd, assistant=Deadly(marks, seconds=1), ray=ray, out=out):
        names = {task.name for task in list_tasks(address=cluster.address, limit=10_000)}
        assert f"task {one.task.id}" in names
    assert [one.task.metadata for one in read_trajectories(out)] == [{"half": "\N{REPLACEMENT CHARACTER}"}] * 3


async def test_a_worker_collects_garbage_seldom_and_no_metrics_by_task(cluster: Cluster) -> None:
    """Each took a part of its time or memory that grew with the run."""
    found = await collected(tasks(1), assistant=Frank(), ray=RayOptions(address=cluster.address, workers=1))
    assert found["t0"].messages[1]["content"] == "50000 0"
