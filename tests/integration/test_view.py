"""Runs are looked at in a real browser, whatever is in them."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from datasets import Dataset, DatasetDict
from langchain_core.messages import BaseMessage
from playwright.async_api import Browser, Page, Route, async_playwright, expect

from collab_agents import (
    Lookahead,
    MultiturnReward,
    Persona,
    ScriptedUser,
    Task,
    TaskSet,
    evaluate,
    generate_trajectories,
    read_trajectories,
)
from collab_agents.judges import token_cost
from collab_agents.participants import AssistantContext, Memory
from collab_agents.training import MultiturnRewardFunction, PolicyConfig, read_samples, train_grpo
from collab_agents.training.made_from import MadeFrom, Spread
from collab_agents.training.rounds import Rounds, Step, held_out, mean_of, write_rounds
from collab_agents.training.samples import SAMPLES, Sample, SampledReply
from collab_agents.trajectories import JsonlStore
from tests.support.commands import COMMAND, run
from tests.support.participants import Says
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = (
    "<script>document.title = 'hacked'</script><img src=x onerror=\"document.title = 'hacked'\"> **bold** "
    "[a](javascript:document.title='hacked') ![b](https://example.org/b.png) \x1b[31mred\x1b[0m \u202elive\u202c"
)
expect.set_options(timeout=20_000)  # Other tests run beside these.
REWARD = MultiturnReward({"token_cost": token_cost()})


class Waits(Says):
    """Answers in the task with the number 3 once an event is set."""

    def __init__(
        self, function: Callable[[Sequence[BaseMessage], AssistantContext], str], event: asyncio.Event
    ) -> None:
        super().__init__(function)
        self._event = event

    async def respond(
        self, messages: Sequence[BaseMessage], memory: Memory, context: AssistantContext
    ) -> tuple[list[BaseMessage], Memory]:
        if "invitation 3" in str(messages[0].content):
            await self._event.wait()
        return await super().respond(messages, memory, context)


async def play(
    out: Path,
    tasks: list[Task],
    *,
    said: str = "reply",
    persona: str = "brief",
    fails: str = "",
    waits: asyncio.Event | None = None,
    resume: bool = False,
) -> None:
    """Replies differ in length by their seed, and so do rewards.

    Tasks that begin with "Fail" may fail, with a reason, and that with the number 3 may wait.
    """

    def reply(messages: Sequence[BaseMessage], context: AssistantContext) -> str:
        if fails and str(messages[0].content).startswith("Fail"):
            raise RuntimeError(fails)
        return f"{said} " + "word " * (context.seed % 50)

    trajectories = generate_trajectories(
        tasks,
        user=ScriptedUser(["{goal}", "Shorter."]),
        assistant=Says(reply) if waits is None else Waits(reply, waits),
        reward=REWARD,
        lookahead=Lookahead(candidates=3, futures=2, window=1, max_exchanges=2),
        personas=[Persona(name=persona)],
        settings={"said": said},
        out=out,
        resume=resume,
    )
    async for _ in trajectories:
        pass


def numbered(count: int) -> list[Task]:
    return [Task(id=f"task {n}", goal=f"Write invitation {n}") for n in range(count)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Chromium, whose start takes longer than most tests."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, view: "View") -> AsyncIterator[Page]:
    """A page on which nothing may be refused by the policy, asked of another host, or fail in a script.

    It is closed before the servers of `view`, which it asks for news.
    """
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    page, problems = await context.new_page(), list[str]()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda one: problems.append(one.url) if urlsplit(one.url).hostname not in ("127.0.0.1", None) else None,
    )
    yield page
    await context.close()
    assert problems == []


class View:
    """Starts the command on runs, and returns the address that it prints."""

    def __init__(self, cache: Path) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}

    def __call__(self, *runs: Path) -> str:
        command = [*COMMAND, "view", *map(str, runs), "--port", "0", "--no-browser"]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self._environment))
        output = self.processes[-1].stdout
        assert output is not None
        return output.readline().strip()


@pytest.fixture
def view(tmp_path: Path) -> Iterator[View]:
    started = View(tmp_path / "cache")
    yield started
    for process in started.processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode in (0, 130, -signal.SIGKILL)


async def test_a_table_is_filtered_sorted_and_paged(tmp_path: Path, page: Page, view: View) -> None:
    await play(tmp_path / "run", numbered(60))
    await page.goto(view(tmp_path / "run"))
    await page.get_by_role("link", name="Trajectories").click()
    await expect(page.get_by_role("status")).to_contain_text("60 of 60 trajectories")
    await page.get_by_role("link", name="Later").click()
    await expect(page.locator("[data-row]")).to_have_count(10)
    await page.wait_for_load_state()
    await page.get_by_label("Text").fill("invitation 59")
    await expect(page.locator("[data-row]")).to_have_count(1)
    await expect(page.get_by_role("link", name="task 59")).to_be_visible()
    await page.get_by_label("Text").fill("nobody said this")
    await page.get_by_role("link", name="Show all").click()
    await page.get_by_role("link", name="Reward").click()
    await expect(page.get_by_role("columnheader", name="Reward")).to_have_attribute("aria-sort", "descending")
    rewards = [float(one) for one in await page.locator("[data-row] td:nth-of-type(2)").all_inner_texts()]
    assert rewards == sorted(rewards, reverse=True)
    between = next(n for n in range(1, len(rewards)) if rewards[n - 1] - rewards[n] >= 0.002)
    await page.get_by_label("Least score").fill(str(rewards[between] + 0.001))
    await expect(page.locator("[data-row]")).to_have_count(between)


async def test_a_tree_is_read_by_the_keyboard_alone(tmp_path: Path, page: Page, view: View) -> None:
    await play(tmp_path / "run", numbered(3))
    address = urlsplit(view(tmp_path / "run"))
    await page.goto(address.geturl())
    await page.goto(f"http://{address.netloc}/0/trajectories/1")
    first = await page.get_by_role("heading", level=1).inner_text()
    await expect(page.locator("[data-turn]")).to_have_count(2)
    await page.keyboard.press("ArrowDown")
    chosen = page.locator("[data-turn]").first.locator(".chosen")
    await expect(chosen).to_be_focused()
    future = chosen.locator("details.future").first
    await expect(future).not_to_have_attribute("open", "")
    await page.keyboard.press("Enter")
    await expect(future).to_have_attribute("open", "")
    await expect(future.get_by_text("Shorter.")).to_be_visible()
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("[data-turn]").last.locator(".chosen")).to_be_focused()
    await page.keyboard.press("j")
    await page.wait_for_url("**/trajectories/2")
    await page.keyboard.press("k")
    await page.wait_for_url("**/trajectories/1")
    await expect(page.get_by_role("heading", level=1)).to_have_text(first)
    await page.keyboard.press("u")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Trajectories")


async def test_failed_tasks_are_in_the_table_with_their_reasons(tmp_path: Path, page: Page, view: View) -> None:
    tasks = [*numbered(3), Task(id="lost/../x?y", goal=f"Fail. {HOSTILE}"), Task(id="other", goal="Fail too.")]
    await play(tmp_path / "run", tasks, fails=HOSTILE)
    address = urlsplit(view(tmp_path / "run"))
    await page.goto(address.geturl())
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("2 failed")
    await page.get_by_role("link", name="Trajectories").click()
    status, rows = page.get_by_role("status"), page.locator("[data-row]")
    await expect(status).to_have_text("5 of 5 tasks, 2 of which failed")
    await page.get_by_label("Ended").select_option("failed")
    await expect(rows).to_have_count(2)
    await expect(status).to_have_text("2 of 5 tasks, 2 of which failed")
    await page.get_by_label("Text").fill("fail too")
    await expect(rows).to_have_count(1)
    await page.get_by_label("Text").fill("DOCUMENT.TITLE = 'hacked'</script>")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("assistant: RuntimeError: <script>document.title = 'hacked'</script>")
    await page.get_by_role("link", name="Task").click()
    await expect(page.get_by_role("columnheader", name="Task")).to_have_attribute("aria-sort", "ascending")
    await page.get_by_role("link", name="lost/../x?y").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("lost/../x?y")
    await expect(page.get_by_text("Goal")).to_be_visible()
    await expect(page.get_by_text("brief")).to_be_visible()
    await expect(page.get_by_role("region", name="Why it failed")).to_contain_text("RuntimeError: <script>")
    found = await Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    await page.wait_for_load_state()  # Until then, keys do nothing.
    await page.keyboard.press("j")
    await expect(page.get_by_role("heading", level=1)).to_have_text("other")
    await page.wait_for_load_state()
    await page.keyboard.press("u")
    await expect(rows).to_have_count(2)
    await play(tmp_path / "run", tasks, resume=True)
    await expect(page.get_by_text("None matches.")).to_be_visible()
    await page.get_by_role("link", name="Show all").click()
    await expect(status).to_have_text("5 of 5 trajectories")


async def test_what_is_chosen_before_the_scripts_have_loaded_counts(tmp_path: Path, page: Page, view: View) -> None:
    await play(tmp_path / "run", [*numbered(2), Task(id="lost", goal=f"Fail. {HOSTILE}")], fails=HOSTILE)
    chosen = asyncio.Event()

    async def late(route: Route) -> None:
        await chosen.wait()
        await route.continue_()

    await page.route("**/htmx.min.js", late)
    await page.goto(view(tmp_path / "run"), wait_until="commit")
    await page.get_by_role("link", name="Trajectories").click()
    await expect(page.get_by_role("status")).to_have_text("3 of 3 tasks, 1 of which failed")
    await page.get_by_label("Ended").select_option("failed")
    chosen.set()
    await expect(page.get_by_role("status")).to_have_text("1 of 3 tasks, 1 of which failed")
    await expect(page.locator("[data-row]")).to_have_count(1)


EMBEDDED = """
assistant: {model: {name: "local:smollm2", max_tokens: 16, temperature: 0.8}}
user: {kind: agenda}
tasks: {source: offline, limit: 2}
judges: [{name: token_cost}, {name: fact_coverage}]
lookahead: {candidates: 2, futures: 1, window: 1, max_exchanges: 2}
"""


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model."""
    folder = tmp_path_factory.mktemp("embedded")
    (folder / "run.yaml").write_text(EMBEDDED)
    code, _, errors = run("generate", "--config", folder / "run.yaml", "--out", folder / "run")
    assert code == 0, errors
    return folder / "run"


async def test_a_run_of_the_embedded_model_is_read_from_its_summary_to_a_future(
    embedded: Path, page: Page, view: View
) -> None:
    one, _ = read_trajectories(embedded)
    await page.goto(view(embedded))
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("2 trajectories")
    await expect(page.get_by_role("img", name="Distribution of fact_coverage")).to_be_visible()
    await page.get_by_role("link", name="Trajectories").click()
    await page.get_by_label("Text").fill(one.task.id)
    await expect(page.locator("[data-row]")).to_have_count(1)
    await page.get_by_role("link", name=one.task.id).click()
    await expect(page.locator("[data-turn]")).to_have_count(len(one.turns))
    for number, turn in enumerate(one.turns, 1):
        for index, candidate in enumerate(turn.candidates, 1):
            shown = page.get_by_role("article", name=f"Turn {number}, candidate {index}")
            await expect(shown).to_contain_text(f"{candidate.reward:.3f}")
            future = shown.locator("details.future")
            await expect(future).to_have_count(1)
            await future.locator("summary").first.click()
            await expect(future.locator(".scores").last).to_be_visible()
            await expect(future).to_contain_text(candidate.futures[0].reasons["token_cost"])


async def test_two_runs_are_compared_side_by_side(tmp_path: Path, page: Page, view: View) -> None:
    named = Task(id="a/../b?c", goal="Write invitation 9")
    await play(tmp_path / "one", [*numbered(5), named])
    await play(tmp_path / "other", [*numbered(3), named], said="A longer reply than the first run's, by words")
    await page.goto(view(tmp_path / "one", tmp_path / "other"))
    await page.get_by_role("link", name="Compare", exact=True).click()
    await expect(page.locator("[data-row]")).to_have_count(4)
    differences = [float(one) for one in await page.locator("[data-row] td:last-child").all_inner_texts()]
    assert [abs(one) for one in differences] == sorted(map(abs, differences), reverse=True)
    await page.locator("[data-row] a").first.click()
    await page.wait_for_url("**/compare/task?**")  # Until it is loaded, keys do nothing.
    for name in ("one", "other"):
        await expect(page.get_by_role("region", name=name, exact=True).locator(".message").first).to_be_visible()
    await page.keyboard.press("j")
    await page.wait_for_url("**at=1")
    await expect(page.get_by_role("link", name="Previous")).to_be_visible()
    await page.keyboard.press("u")
    await page.get_by_role("link", name="a/../b?c").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("a/../b?c")


async def test_hostile_text_is_shown_as_text(tmp_path: Path, page: Page, view: View) -> None:
    tasks = [
        Task(id=f"{HOSTILE[:60]}/../x?y#z", goal=HOSTILE),
        Task(id="long", goal="word " * 200_000),
        Task(id="العربية", goal="مرحبا بالعالم"),
    ]
    await play(tmp_path / "run", tasks, said=HOSTILE, persona="<i>p</i>")
    address = urlsplit(view(tmp_path / "run"))
    await page.goto(address.geturl())
    for path in ("", *(f"trajectories/{n}" for n in (1, 2, 3)), "trajectories"):
        answer = await page.goto(f"http://{address.netloc}/0/{path}".rstrip("/"))
        assert answer is not None
        assert answer.status == 200
        assert await page.title() != "hacked"
        assert await page.locator("main script, main img, main i").count() == 0
    link = page.get_by_role("link", name="<script>")
    await link.click()
    message = page.locator(".message.assistant").first
    await expect(message).to_contain_text("<script>document.title = 'hacked'</script>")
    await expect(message).to_contain_text("\N{SYMBOL FOR ESCAPE}[31mred")
    await expect(message).to_contain_text("[U+202E]live")
    await expect(message.locator("strong").first).to_have_text("bold")
    await expect(message.locator("a[href^=javascript]")).to_have_count(0)
    assert await page.title() != "hacked"


async def test_a_run_under_way_shows_how_many_tasks_are_finished_and_the_time_left(
    tmp_path: Path, page: Page, view: View
) -> None:
    await play(tmp_path / "run", numbered(2))
    await page.goto(view(tmp_path / "run"))
    last = asyncio.Event()
    playing = asyncio.create_task(play(tmp_path / "run", numbered(8), waits=last, resume=True))
    await expect(page.locator("main")).to_contain_text("7 of 8 tasks are finished, less than a minute left")
    await expect(page.get_by_role("progressbar", name="Finished tasks")).to_have_attribute("value", "7")
    last.set()
    await playing
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("8 trajectories")
    await expect(page.get_by_role("progressbar")).to_have_count(0)


async def test_a_run_under_way_shows_what_is_new_without_reloading(tmp_path: Path, page: Page, view: View) -> None:
    await play(tmp_path / "run", numbered(2))
    await page.goto(view(tmp_path / "run"))
    summary = page.get_by_role("list", name="Summary")
    await expect(summary).to_contain_text("2 trajectories")
    await play(tmp_path / "run", numbered(5), resume=True)
    await expect(summary).to_contain_text("5 trajectories")
    await page.get_by_role("link", name="Trajectories").click()
    await expect(page.locator("[data-row]")).to_have_count(5)
    await page.get_by_role("link", name="task 3").focus()
    await play(tmp_path / "run", numbered(7), resume=True)
    await expect(page.locator("[data-row]")).to_have_count(7)
    await expect(page.get_by_role("link", name="task 3")).to_be_focused()


@pytest.mark.parametrize("path", ["0", "0/trajectories"])
async def test_a_page_says_that_its_server_was_killed(tmp_path: Path, browser: Browser, view: View, path: str) -> None:
    await play(tmp_path / "run", numbered(2))
    address = urlsplit(view(tmp_path / "run"))
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(address.geturl())
        await page.goto(f"http://{address.netloc}/{path}")
        await expect(page.get_by_role("alert")).to_be_hidden()
        view.processes[-1].kill()
        await expect(page.get_by_role("alert")).to_have_text("The server has ended: start collab-agents view again.")


async def test_a_scorecard_leads_to_its_runs(tmp_path: Path, page: Page, view: View) -> None:
    tasks = TaskSet("letters", numbered(3), ScriptedUser(["{goal}", "Shorter."]), REWARD)
    sides = {name: Says(lambda messages, context, said=name: f"{said}?") for name in ("tuned", "base")}  # type: ignore[misc]
    scorecard = await evaluate([tasks], sides, out=tmp_path / "evaluation")
    (tmp_path / "evaluation" / "scorecard.json").write_text(scorecard.model_dump_json())
    await page.goto(view(tmp_path / "evaluation"))
    await expect(page.get_by_role("row", name="reward")).to_be_visible()
    await page.get_by_role("link", name="letters/tuned/seed-0").click()
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("3 trajectories")


async def test_a_report_is_one_file_that_opens_without_a_network(tmp_path: Path, page: Page) -> None:
    tasks = [Task(id="hostile", goal=HOSTILE), *numbered(5), Task(id="lost", goal="Fail.")]
    await play(tmp_path / "one", tasks, said=HOSTILE, fails="no luck")
    await play(tmp_path / "other", numbered(5), said="A longer reply than that of the first run, by some words")
    out = tmp_path / "report.html"
    code, output, _ = run(
        "report", tmp_path / "one", "--against", tmp_path / "other", "--out", out, "--task", "hostile"
    )
    assert code == 0
    assert f"{out} has 0." in output.replace("\n", "")
    await page.context.set_offline(True)
    await page.goto(out.as_uri())
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("6 trajectories")
    await expect(page.get_by_role("region", name="Failures")).to_contain_text("no luck")
    await expect(page.locator("#trajectories ~ details")).to_have_count(6)
    await page.locator("#trajectories ~ details").first.locator("summary").first.click()
    await expect(page.locator(".message.assistant").first).to_contain_text("<script>document.title = 'hacked'</script>")
    await page.locator("#compared ~ details").first.locator("summary").first.click()
    for name in ("one", "other"):
        await expect(page.get_by_role("region", name=name, exact=True)).to_be_visible()
    await expect(page).to_have_title("Report on one")
    found = await Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()


async def test_a_training_shows_its_curves(tmp_path: Path, page: Page, view: View) -> None:
    log = [{"step": n, "loss": 1 / n, "eval_loss": 2 / n, "learning_rate": 0.1} for n in (1, 2, 3)]
    state = tmp_path / "training" / "checkpoint-3" / "trainer_state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"log_history": log}))
    await page.goto(view(tmp_path / "training"))
    label = "loss over steps 1 to 3: training from 1 to 0.333, evaluation from 2 to 0.667"
    await expect(page.get_by_role("img", name=label)).to_be_visible()
    (tmp_path / "training" / "training.json").write_text('{"method": "dpo"}')
    (tmp_path / "training" / "training_log.json").write_text(json.dumps([*log, {"step": 9, "loss": 0.1}]))
    await page.reload()
    await expect(page.get_by_role("img", name="loss over steps 1 to 9")).to_be_visible()
    await expect(page.get_by_text('"method": "dpo"')).to_be_visible()
    held_out = [
        {"step": n, "heldout/reward": n / 9, "heldout/reward/low": 0.1, "heldout/reward/high": 0.9} for n in (0, 9)
    ]
    (tmp_path / "training" / "training_log.json").write_text(json.dumps([*log, *held_out]))
    tasks = TaskSet("letters", numbered(2), ScriptedUser(["{goal}"]), REWARD)
    step = tmp_path / "training" / "evaluations" / "step-9"
    scorecard = await evaluate([tasks], {"policy": Says(lambda messages, context: "yes")}, out=step)
    (step / "scorecard.json").write_text(scorecard.model_dump_json())
    await page.reload()
    label = "heldout/reward over steps 0 to 9: mean from 0 to 1, low from 0.1 to 0.1, high from 0.9 to 0.9"
    await expect(page.get_by_role("img", name=label)).to_be_visible()
    await page.get_by_role("link", name="evaluations/step-9").click()
    await page.get_by_role("link", name="letters/policy/seed-0").click()
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("2 trajectories")


async def test_a_training_shows_what_it_sampled_as_it_goes_on(tmp_path: Path, page: Page, view: View) -> None:
    training = tmp_path / "training"
    await asyncio.to_thread(train, training, tiny_model(tmp_path / "tiny", context=2048))
    address = urlsplit(view(training))
    await page.goto(address.geturl())
    await expect(page.locator("[data-row]")).to_have_count(2)
    await expect(page.locator("[data-row]").first).to_contain_text("task <i>")
    await page.get_by_role("link", name="2", exact=True).click()
    await page.wait_for_url("**/0/samples/2")
    await page.keyboard.press("k")
    await page.wait_for_url("**/0/samples/1")
    replies = page.locator("[data-candidate]")
    await expect(replies).to_have_count(4)
    rewards = next(sample.rewards for sample in read_samples(training))
    await expect(replies.nth(1)).to_contain_text(f"{rewards[1]:.3f}")
    await expect(replies.nth(1)).to_contain_text("token_cost")
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("[data-candidate]:focus")).to_have_count(1)
    future = page.locator("[data-candidate]:focus details.future")
    await expect(future.locator(".message.user")).to_be_hidden()
    await page.keyboard.press("Enter")
    await expect(future.locator(".message.user")).to_contain_text("<script>document.title = 'hacked'</script>")
    await page.keyboard.press("u")
    await expect(page.get_by_role("region", name="Sampled conversations")).to_be_visible()
    await page.locator("#step-1").focus()
    hostile = {"role": "assistant", "content": HOSTILE}
    reply = SampledReply(messages=[hostile], scores={HOSTILE: 0.5}, played=3, error=HOSTILE)
    file = JsonlStore(training / SAMPLES)
    file.append(Sample(step=7, task=Task(id=HOSTILE, goal=HOSTILE), prompt=[], replies=[reply]))
    begin_line(file.path)
    await expect(page.locator("[data-row]")).to_have_count(3)
    await expect(page.locator("#step-1")).to_be_focused()
    for path, width in (("0", 390), ("0/samples/1", 390), ("0/samples/7", 1280)):
        await page.set_viewport_size({"width": width, "height": 844})
        await page.goto(f"http://{address.netloc}/{path}")
        await page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        found = await Axe().run(page)
        assert found.response["violations"] == [], found.generate_report()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.title() != "hacked"
        assert await page.locator("main script, main img, main i").count() == 0
    await expect(page.locator("main .error")).to_contain_text("<script>document.title = 'hacked'</script>")
    file.replace([])  # As at the start of a training that goes on from an earlier checkpoint.
    await page.goto(f"http://{address.netloc}/0")
    await expect(page.get_by_role("region", name="Sampled conversations")).to_have_count(0)
    for step in range(1, 61):
        file.append(Sample(step=step, task=numbered(1)[0], prompt=[], replies=[]), sync=False)
    await expect(page.locator("[data-row]")).to_have_count(50)
    await page.get_by_role("link", name="Later").click()
    await expect(page.locator("[data-row]")).to_have_count(10)
    await expect(page.locator("[data-row] a").last).to_have_text("1")


def begin_line(file: Path) -> None:
    with open(file, "a") as lines:
        lines.write('{"step": 8')


def train(out: Path, model: str) -> None:
    """Two steps by GRPO, on words that are hostile."""
    rows = [{"prompt": [{"role": "user", "content": HOSTILE}], "goal": HOSTILE, "task_id": "task <i>"}] * 8
    reward = MultiturnRewardFunction(ScriptedUser([HOSTILE] * 2), REWARD, Lookahead(futures=2, window=1), max_tokens=4)
    train_grpo(
        PolicyConfig(name=model, dtype="float32"),
        DatasetDict({"train": Dataset.from_list(rows)}),
        reward,
        out,
        trainer={
            "max_steps": 2, "logging_steps": 1, "save_strategy": "no", "report_to": "none", "bf16": False,
            "max_completion_length": 8, "num_generations": 4, "per_device_train_batch_size": 4, "disable_tqdm": True,
        },
    )  # fmt: skip


async def test_a_loop_shows_its_rounds_as_they_come(tmp_path: Path, page: Page, view: View) -> None:
    loop = tmp_path / "loop"
    tasks = TaskSet("offline <i>", numbered(3), ScriptedUser(["{goal}", "Shorter."]), REWARD)
    record = Rounds(config={"rounds": 1})

    async def end_round(number: int, **learnt: MadeFrom) -> None:
        sides = {f"round-{n}": Says(lambda messages, context, n=n: "word " * (9 - 5 * n)) for n in (number, 0)}  # type: ignore[misc]
        card = await evaluate([tasks], sides, out=loop / "evaluation", resume=True)
        (loop / "evaluation" / "scorecard.json").write_text(card.model_dump_json())
        one = record.round(number)
        one.sets, one.data = held_out(card, f"round-{number}"), learnt
        one.reward = mean_of([found.measures["reward"] for found in one.sets.values()])
        one.difference = mean_of([found.difference["reward"] for found in one.sets.values() if found.difference] or [])
        one.steps = [Step(name=step, seconds=90) for step in (*learnt, "evaluate")]
        record.choose_best()
        write_rounds(record, loop)

    await end_round(0)
    address = urlsplit(view(loop))
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(address.geturl())
    await expect(page.get_by_role("status")).to_have_text(
        "The loop is under way. Round 0 is the best, the model that it began with."
    )
    await expect(page.locator("[data-row]")).to_have_count(1)
    await play(loop / "round-1" / "trajectories", numbered(3))
    await expect(page.locator("[data-row]").last).to_contain_text("under way")
    (loop / "round-1" / "dpo").mkdir()
    (loop / "round-1" / "dpo" / "training.json").write_text('{"method": "dpo"}')
    spread = Spread(count=9, low=0.1, quartiles=(0.2, 0.3, 0.4), high=0.5)
    record.ended = HOSTILE
    await end_round(
        1,
        dpo=MadeFrom(kind="preference", rows=9, made_from=3, source="trajectories", dropped={HOSTILE: 7}, gaps=spread),
    )
    await expect(page.get_by_role("status")).to_contain_text("Round 1 is the best.")
    row = page.get_by_role("row", name="1 best")
    await expect(row).to_contain_text("dpo 1.5, evaluate 1.5")
    await expect(page.get_by_role("img", name="Held-out reward by round: 0 -")).to_be_visible()
    learnt = page.get_by_role("region", name="Table of datasets").get_by_role("row").last
    await expect(learnt).to_contain_text("9 3 trajectories – 0.300 0.100 to 0.500 – 7 <script>", use_inner_text=True)
    found = await Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    await row.get_by_role("link", name="trajectories").click()
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("3 trajectories")
    await page.get_by_role("link", name="collab-agents").click()
    await row.get_by_role("link", name="dpo").click()
    await expect(page.get_by_text('"method": "dpo"')).to_be_visible()
    await page.get_by_role("link", name="collab-agents").click()
    await page.get_by_role("link", name="Scorecard of evaluation").click()
    await page.get_by_role("link", name="evaluation/offline-i/round-1/seed-0").click()
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("3 trajectories")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_pages_have_no_barriers(tmp_path: Path, page: Page, view: View, theme: Any) -> None:
    """What axe-core checks: names, landmarks, contrast and so on, also in a narrow window."""
    await play(tmp_path / "one", numbered(3))
    await play(tmp_path / "other", numbered(3), said="another")
    address = urlsplit(view(tmp_path / "one", tmp_path / "other"))
    await page.emulate_media(color_scheme=theme)
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(address.geturl())
    for path in ("", "0", "0/trajectories", "0/trajectories/1", "compare", "compare/task?task=task%201&a=0&b=1"):
        await page.goto(f"http://{address.netloc}/{path}")
        await page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        found = await Axe().run(page)
        assert found.response["violations"] == [], found.generate_report()
        assert await page.evaluate("document.documentElement.scrollWidth") <= 390


async def test_other_hosts_sites_and_users_are_refused(tmp_path: Path, view: View) -> None:
    await play(tmp_path / "run", numbered(1))
    address = urlsplit(view(tmp_path / "run"))

    def status(path: str = f"/?{address.query}", method: str = "GET", **headers: str) -> int:
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status

    assert status() == 303
    assert status("/0") == 403
    assert status("/?token=other") == 403
    assert status(Host="example.org") == 421
    assert status(Host=f"example.org:{address.port}") == 421
    assert status(Origin="https://example.org") == 403
    assert status(method="POST") == 405
    cookie = f"collab-agents-{address.port}={address.query.removeprefix('token=')}"
    assert status("/0", Cookie=cookie) == 200
    assert status("/0", Cookie=cookie, Sec_Fetch_Site="cross-site") == 403
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/9", "/0/trajectories/99"):
        assert status(path, Cookie=cookie) == 404


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [(["missing"], "missing is no run, evaluation, training or loop"), (["missing", "--port", "1"], "missing is")],
)
async def test_what_cannot_be_viewed_gets_one_sentence(arguments: list[str], problem: str) -> None:
    code, _, errors = await asyncio.to_thread(run, "view", *arguments, "--no-browser")
    assert code == 1
    assert errors.startswith(f"error: {problem}")
    assert errors.count("\n") == 1


async def test_a_damaged_line_is_named_and_the_others_are_shown(tmp_path: Path, page: Page, view: View) -> None:
    await play(tmp_path / "run", numbered(2))
    file = tmp_path / "run" / "trajectories.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{broken", lines[1]]) + "\n")
    await page.goto(view(tmp_path / "run"))
    await expect(page.get_by_role("alert")).to_contain_text("trajectories.jsonl:2: not a JSON line")
    await expect(page.get_by_role("list", name="Summary")).to_contain_text("2 trajectories")
