"""What a run costs, on the command line: tables, limits, and the estimate before it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.process import Server
from collab_agents import Usage
from collab_agents.runs.directory import read_totals
from tests.support.commands import run

Serve = Callable[..., Server]
PRICE = {"input": 0.5, "output": 1.5}


def config(server: Server, folder: Path, **changes: Any) -> Path:
    model = {"name": "openai:any", "base_url": server.url}
    settings: dict[str, Any] = {
        "assistant": {"model": model},
        "user": {"kind": "llm", "model": model},
        "judges": [
            {"name": "bleu", "model": model},
            {"name": "interactivity", "model": model},
            {"name": "token_cost"},
        ],
        "lookahead": {"candidates": 2, "futures": 2, "window": 1, "max_exchanges": 2},
        "limits": {"max_concurrency": 2},
        "tasks": {"source": "offline", "limit": 4},
        "prices": {"openai:any": PRICE},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings | changes))
    return file


def test_a_run_says_what_it_cost_and_so_does_show(serve: Serve, tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "run"
    code, output, _ = run("generate", "--config", config(server, tmp_path), "--out", out)
    assert code == 0
    totals = read_totals(out)
    usage = Usage.of(totals)
    assert usage.calls == server.stats()["calls"]
    assert set(usage.parts) == {"other", "user", "assistant", "judge bleu", "judge interactivity"}
    assert usage.parts["other"].popitem()[1].calls == 1, "the call that checks the model"
    assert usage.cost == pytest.approx((0.5 * usage.input_tokens + 1.5 * usage.output_tokens) / 1e6)
    assert json.loads((out / "run.json").read_text())["totals"]["dollars"] == usage.cost
    _, shown, _ = run("show", out)
    for text in (output, shown):
        for part in ("judge bleu", f"{usage.calls:,}", f"{usage.input_tokens:,}", f"{usage.cost:.3g}"):
            assert part in text


def test_what_a_model_without_a_price_cost_is_unknown(serve: Serve, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, output, _ = run("generate", "--config", config(serve(), tmp_path, prices={}), "--out", out)
    assert code == 0
    assert re.search(r"all .* unknown", output)
    assert Usage.of(read_totals(out)).cost is None


def test_a_run_that_spent_its_limit_exits_with_one_sentence_and_resumes(serve: Serve, tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "run"
    limits: dict[str, Any] = {"max_concurrency": 2, "max_calls": 40}
    code, output, error = run("generate", "--config", config(server, tmp_path, limits=limits), "--out", out)
    made = server.stats()["calls"]
    assert code == 1
    assert error == (
        f"error: limits.max_calls is 40, and {made} calls were made; what is finished is in {out}: raise the limit and "
        "resume\n"
    )
    assert "model calls" in output
    limits = {"max_concurrency": 2, "max_cost": 5.0}
    command = ("generate", "--config", config(server, tmp_path, limits=limits), "--out", out, "--resume")
    code, output, error = run(*command)
    assert (code, error) == (0, "")
    assert "tasks 4/4" in output
    assert Usage.of(read_totals(out)).calls == server.stats()["calls"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"limits": {"max_cost": 5}, "prices": {}},
            "limits.max_cost needs the price of every model, and that of openai:any at",
        ),
        ({"limits": {"max_cost": 0}}, "limits.max_cost: input should be greater than 0, got '0'"),
        ({"limits": {"max_calls": -1}}, "limits.max_calls: input should be greater than 0"),
        ({"prices": {"any": PRICE}}, "expected a model's name with its provider, such as openai:my-model, got 'any'"),
        ({"prices": {"openai:any": {"input": 1}}}, "prices.openai:any.output: field required"),
        ({"prices": {"openai:any": {**PRICE, "cached": 1}}}, "prices.openai:any.cached: unknown field"),
        ({"prices": {"openai:any": {**PRICE, "input": -1}}}, "prices.openai:any.input: input should be greater than"),
    ],
)
def test_limits_and_prices_are_checked_before_any_work(
    changes: dict[str, Any], problem: str, serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    code, output, error = run("generate", "--config", config(server, tmp_path, **changes), "--out", tmp_path / "run")
    assert (code, output) == (1, "")
    assert problem in error
    assert error.count("\n") == 1
    assert server.stats()["calls"] == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("how", [(), ("--no-calls",)])
def test_an_estimate_is_close_to_the_run(how: tuple[str, ...], serve: Serve, tmp_path: Path) -> None:
    server = serve("--latency", "0.2", "--deterministic")
    file = config(server, tmp_path, tasks={"source": "offline", "limit": 6})
    code, output, error = run("generate", "--config", file, "--estimate", *how)
    assert (code, error) == (0, "")
    if how:
        assert server.stats()["calls"] == 0
    (line,) = (line for line in output.splitlines() if " calls, " in line)
    numbers = [float(number.replace(",", "")) for number in re.findall(r"\d[\d,.]*(?:e-\d+)?(?= )", line)]

    out = tmp_path / "run"
    assert run("generate", "--config", file, "--out", out)[0] == 0
    totals = read_totals(out)
    usage = Usage.of(totals)
    actual = [usage.calls - 1, usage.input_tokens + usage.output_tokens, usage.dollars, totals["seconds"] / 3600]
    assert numbers == pytest.approx(actual[: len(numbers)], rel=0.25)
    assert len(numbers) == 3 if how else 4
    assert ("hours unknown" in output) is bool(how)


def test_an_estimate_without_calls_takes_every_future_to_be_played_and_none_to_be_faulty(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve()
    shape = {"candidates": 2, "window": 1, "max_exchanges": 2, "drop_faulty": True}
    said = []
    for futures in ({"futures": 2, "max_futures": 4, "allocation": "adaptive"}, {"futures": 4}):
        file = config(server, tmp_path, lookahead=shape | futures)
        code, output, error = run("generate", "--config", file, "--estimate", "--no-calls")
        assert (code, error) == (0, "")
        said.append(output)
    assert said[0] == said[1]
    assert server.stats()["calls"] == 0


def test_a_run_judged_again_says_what_the_judges_cost(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    file = config(server, tmp_path, limits={"max_concurrency": 2, "max_cost": 5.0})
    assert run("generate", "--config", file, "--out", tmp_path / "run")[0] == 0
    code, output, error = run("rejudge", tmp_path / "run", "--config", file, "--out", tmp_path / "again", "--ask-all")
    assert (code, error) == (0, "")
    usage = Usage.of(read_totals(tmp_path / "again"))
    assert {"judge bleu", "judge interactivity"} <= set(usage.parts) <= {"other", "judge bleu", "judge interactivity"}
    assert usage.cost == pytest.approx((0.5 * usage.input_tokens + 1.5 * usage.output_tokens) / 1e6)
    assert f"{usage.cost:.3g}" in output


def test_what_an_estimate_needs(serve: Serve, tmp_path: Path) -> None:
    file = config(serve(), tmp_path)
    code, _, error = run("generate", "--config", file)
    assert (code, error) == (1, "error: --out is missing: the run directory to write\n")
    code, _, error = run("generate", "--config", file, "--out", tmp_path / "run", "--no-calls")
    assert (code, error) == (1, "error: --no-calls belongs to --estimate\n")
    file = config(serve(), tmp_path, assistant={"app": "tests.support.apps:no_such_app"})
    code, _, error = run("generate", "--config", file, "--estimate", "--no-calls")
    assert code == 1
    assert error == "error: --no-calls: assistant.app may call models of its own; leave --no-calls out\n"
