"""Coding tasks, each with a right solution and wrong ones, and what `pass_rate` is given to judge one."""

import json
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage

from benchmarks.process import ROOT
from collab_agents.judges import Conversation, Score, pass_rate
from collab_agents.judges._sandbox.jail import SandboxLimits
from collab_agents.tasks import Task


@dataclass(frozen=True)
class CodingTask:
    """One task. The solution's code is run first, the tests' code afterwards, in the same module namespace."""

    name: str  # unique, snake_case
    style: str  # of the tests: unittest, asserts, pytest (`def test_...()` functions) or check (HumanEval's function)
    entry_point: str  # the function or class that the tests call
    tests: str
    solution: str  # passes every test
    broken: tuple[str, ...]  # each fails at least one test


def _read() -> tuple[CodingTask, ...]:
    """Those in the data folder. There, each broken solution says how it is broken."""
    with (ROOT / "tests" / "data" / "coding_tasks.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(CodingTask(**row | {"broken": tuple(one["code"] for one in row["broken"])}) for row in rows)


TASKS = _read()
UNITTEST_TASKS = tuple(task for task in TASKS if task.style == "unittest")

TIGHT = SandboxLimits(
    wall_seconds=30, cpu_seconds=2, memory_mb=256, processes=32, file_mb=4, scratch_mb=8, output_kb=64
)
TESTS = "assert work(1) == 2\nassert work(2) == 3"


def said(code: str) -> Conversation:
    return Conversation([HumanMessage("Please write it."), AIMessage(f"Here it is:\n\n```python\n{code}\n```\nBye.")])


def coding(tests: str | list[str] = TESTS, **metadata: Any) -> Task:
    return Task(id="t", goal="You want a function.", metadata={"tests": tests, "entry_point": "work"} | metadata)


async def run(code: str, tests: str | list[str] = TESTS, **options: Any) -> Score:
    return await pass_rate(**({"limits": TIGHT} | options))(said(code), coding(tests))
