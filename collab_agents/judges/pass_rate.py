import ast
import re
import signal
from functools import lru_cache
from pathlib import Path
from textwrap import dedent
from typing import Literal

from langchain_core.language_models import BaseChatModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError, validate_call

from collab_agents.judges._sandbox.isolation import solutions_names
from collab_agents.judges._sandbox.jail import Isolation, Outcome, Sandbox, SandboxLimits
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.prompts import render
from collab_agents.tasks import Task

_FENCED = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*(\w*)(?:[^\w\n][^\n]*)?\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)

_EXAMINER = Path(__file__).parent / "_sandbox" / "examiner"
_LONGEST = 2_000


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def pass_rate(
    model: BaseChatModel | None = None,
    *,
    all_or_nothing: bool = False,
    sandbox: Isolation = "bubblewrap",
    python: str | None = None,
    limits: SandboxLimits = SandboxLimits(),  # noqa: B008  (frozen)
) -> Judge:
    """The share of a task's unit tests that the conversation's code passes, in [0, 1].

    The task's tests are `metadata["tests"]`, Python source or a list of it, run after the code in its module: unittest
    classes, functions `test_...`, top-level asserts, or HumanEval's `check(candidate)`. The metadata may also have
    `entry_point` (the function's name), `code_prompt` (how its code starts) and `libraries` (modules that the
    interpreter must have). Code that does not run, or that a limit stops, gets 0 with the reason. Tests that cannot run
    give no score.

    Tests that pass plain values and check the plain values that are returned run in a separate process, and call the
    code's functions across a pipe: nothing that the code does in its process changes what they see. Tests that need
    more than values (the code's own classes, files, libraries, mocks) share its process, and the reason ends with
    "(isolation: shared)". There, code that sets out to deceive its tests may succeed, although canaries that must fail
    run beside them. `metadata["isolation"] = "shared"` runs a task's tests that way in any case.

    Args:
        model: Extracts the code from the conversation (see `Conversation.artefact`), and is told which function it has
            to define. Without a model, the code is the fenced code of the last assistant message that has any and that
            defines the entry point, if the task names one.
        all_or_nothing: Whether the score is 1 if every test passes and else 0 (pass@1).
        sandbox: "bubblewrap", or "none" to run code with this user's rights; see `Sandbox`.
        python: The interpreter with the libraries that the tests need; by default this one.
        limits: See `SandboxLimits`.

    Raises:
        ConfigError: If bubblewrap is missing or does not work here.
    """
    box = Sandbox(sandbox, python=python, limits=limits)

    def problem_with(task: Task) -> str | None:
        return _problem_with(task) or _missing_library(task, box)

    @checked(problem_with)
    async def judge(conversation: Conversation, task: Task) -> Score:
        code = await _code(conversation, task, model)
        if not code.strip():
            return Score(0.0, "the conversation produced no code")
        tests, entry_point = _tests(task), task.metadata.get("entry_point")
        names = None if task.metadata.get("isolation") == "shared" else solutions_names(tests, entry_point)
        request: dict[str, object] = {
            "solution": code,
            "tests": tests,
            "entry_point": entry_point,
            "isolated": names is not None,
            "names": names,
        }
        score = _score(await box.run(_EXAMINER, request), limits, shared=names is None)
        if names is None and score.value is not None:
            score = Score(score.value, f"{score.reason} (isolation: shared)")
        if all_or_nothing and score.value is not None and score.value < 1:
            return Score(0.0, score.reason)
        return score

    return judge


class _Report(BaseModel):
    """A line of what comes out of the sandbox."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["started", "unready", "broken", "planned", "defined", "test", "tampered", "ended", "end"]
    number: int
    name: str = Field(default="", max_length=_LONGEST)
    problem: str = Field(default="", max_length=_LONGEST)
    reason: str = Field(default="", max_length=_LONGEST)
    module: str = Field(default="", max_length=_LONGEST)
    count: int = Field(default=0, ge=0)
    status: int | None = None


def _score(outcome: Outcome, limits: SandboxLimits, *, shared: bool) -> Score:
    if outcome.stopped:
        return Score(0.0, f"stopped: {outcome.stopped}")
    try:
        reports = [_Report.model_validate_json(line) for line in outcome.results.splitlines()]
    except ValidationError:
        return Score(0.0, "the sandbox's report cannot be read")
    by_kind: dict[str, list[_Report]] = {}
    for report in reports:
        by_kind.setdefault(report.kind, []).append(report)
    printed = " ".join(outcome.printed[-_LONGEST:].split())[-200:]
    if "started" not in by_kind:
        return Score(None, f"the sandbox did not start (status {outcome.status}): {printed}")
    tests = by_kind.get("test", [])
    failed = [test for test in tests if test.problem]
    failure = f"; {failed[0].name}: {failed[0].problem}" if failed else ""
    if "broken" in by_kind:
        return Score(0.0, f"the code does not run: {by_kind['broken'][0].reason}")
    if "unready" in by_kind and not (shared and "planned" in by_kind):  # By then, the code may have seen to that.
        report = by_kind["unready"][0]
        missing = f"the tests need the module {report.module}, which is not installed"
        return Score(None, f"this Python cannot read the tests: {report.reason}" if report.reason else missing)
    if "tampered" in by_kind:
        return Score(0.0, f"the code interferes with its tests{failure}")
    status = by_kind["ended"][0].status if "ended" in by_kind else outcome.status
    if status is not None and -status == signal.SIGXCPU:
        return Score(0.0, f"stopped: it used more than {limits.cpu_seconds} s of CPU time")
    whole = "planned" in by_kind and "end" in by_kind and by_kind["end"][0].number == len(reports)
    if "ended" in by_kind or not whole:
        why = failure or (f": {printed}" if printed else "")
        return Score(0.0, f"the program ended before its tests did (status {status}){why}")
    # Where a statement between the tests fails, those behind it are not reached.
    planned = by_kind["planned"][0].count
    total = len(tests) if "defined" in by_kind and tests else max(len(tests), planned)
    if not total:
        return Score(None, "the tests contain no test")
    passed = len(tests) - len(failed)
    return Score(passed / total, f"{passed} of {total} tests passed{failure}")


async def _code(conversation: Conversation, task: Task, model: BaseChatModel | None) -> str:
    entry_point = task.metadata.get("entry_point")
    if model is None:
        return _fenced_code(conversation, entry_point)
    kind = f"Python code that defines `{entry_point}`" if entry_point else "Python code"
    if start := task.metadata.get("code_prompt"):
        kind = render("code", what=kind, start=start)
    text = await conversation.artefact(model, kind)
    return _blocks(text) or text


def _fenced_code(conversation: Conversation, entry_point: str | None) -> str:
    """The code blocks of the last message that has what is wanted."""
    for text in reversed(conversation.assistant_texts()):
        code = _blocks(text)
        if code and (not entry_point or _defines(code, entry_point)):
            return code
    return ""


def _blocks(text: str) -> str:
    """The Python in a message's fences. A block without a language is Python if it reads as such."""
    blocks = []
    for _, language, block in _FENCED.findall(text):
        code = dedent(block)
        if language.lower() in ("python", "py", "python3") or (not language and _syntax_problem(code) is None):
            blocks.append(code)
    return "\n\n".join(blocks)


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    ways = (rf"^\s*(?:(?:async\s+)?def|class)\s+{name}\b", rf"^\s*{name}\s*[:=]", rf"\bimport\b.*\b{name}\b")
    return any(re.search(way, code, re.MULTILINE) for way in ways)


def _tests(task: Task) -> str:
    tests = task.metadata["tests"]
    return tests if isinstance(tests, str) else "\n".join(tests)


def _problem_with(task: Task) -> str | None:
    tests = task.metadata.get("tests")
    if isinstance(tests, list) and all(isinstance(one, str) for one in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str) or not tests.strip():
        return f"task {task.id!r} has no metadata.tests (Python source) to run"
    if (problem := _syntax_problem(tests)) is not None:
        return f"task {task.id!r}: metadata.tests is not Python: {problem}"
    if task.metadata.get("isolation") not in (None, "shared"):
        return f"task {task.id!r}: metadata.isolation must be 'shared' or absent, got {task.metadata['isolation']!r}"
    entry_point = task.metadata.get("entry_point")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        return f"task {task.id!r}: metadata.entry_point must be a Python name, got {entry_point!r}"
    return None


@lru_cache(maxsize=4096)
def _syntax_problem(code: str) -> str | None:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error)
    return None


def _missing_library(task: Task, box: Sandbox) -> str | None:
    there = box.interpreter.modules
    missing = [name for name in task.metadata.get("libraries") or [] if name.partition(".")[0] not in there]
    if not missing:
        return None
    return (
        f"task {task.id!r} needs {', '.join(sorted(missing))}, which {box.python} does not have: install it there, or "
        "set the judge's option python to an interpreter that has it"
    )
