import ast
import json
import re
import secrets
from functools import lru_cache
from pathlib import Path
from textwrap import dedent
from typing import Any

from langchain_core.language_models import BaseChatModel
from pydantic import ConfigDict, validate_call

from collab_agents.judges import unit_tests
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.sandbox import Isolation, Outcome, Sandbox, SandboxLimits
from collab_agents.tasks import Task

_FENCED = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*(\w*)(?:[^\w\n][^\n]*)?\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)


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

    The model distils the code from the conversation (see `Conversation.artefact`), told the function it has to
    define; without a model it is the fenced code of the last assistant message that has any and, where the task
    names an entry point, defines it.

    all_or_nothing: 1 if every test passes, else 0 (pass@1).
    sandbox: "bubblewrap", or "none" to run code with this user's rights; see `Sandbox`.
    python: the interpreter that has the libraries which the tests need; by default this one.
    limits: see `SandboxLimits`.

    The task's tests are `metadata["tests"]`, Python source or a list of it, run after the code in its module:
    unittest classes, functions `test_...`, top-level asserts, or HumanEval's `check(candidate)`. `entry_point` and
    `code_prompt` in the metadata, if there, name the function and how its code starts; `libraries` are modules that
    the interpreter must have. Code that does not run, or is stopped by a limit, gets 0 with the reason; tests that
    cannot run get "no score". Code and tests share a process, so a solution that sets out to patch the test
    framework can; what it prints, or ending early, earns it nothing.

    Raises ConfigError if bubblewrap is missing or does not work here.
    """
    box = Sandbox(sandbox, python=python, limits=limits)

    def problem_with(task: Task) -> str | None:
        return _problem_with(task) or _missing_library(task, box)

    @checked(problem_with)
    async def judge(conversation: Conversation, task: Task) -> Score:
        code = await _code(conversation, task, model)
        if not code.strip():
            return Score(0.0, "the conversation produced no code")
        secret = secrets.token_hex(16)
        tests = _tests(task)
        request: dict[str, object] = {
            "solution": code,
            "tests": tests,
            "entry_point": task.metadata.get("entry_point"),
            "secret": secret,
        }
        outcome = await box.run(Path(unit_tests.__file__), request)
        score = _score(outcome, secret)
        if all_or_nothing and score.value is not None and score.value < 1:
            return Score(0.0, score.reason)
        return score

    return judge


def _score(outcome: Outcome, secret: str) -> Score:
    if outcome.stopped:
        return Score(0.0, f"stopped: {outcome.stopped}")
    reports = [_parsed(line) for line in outcome.results.splitlines() if secret.encode() in line]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        by_kind.setdefault(report.get("kind", ""), []).append(report)
    if "started" not in by_kind:
        return Score(None, f"the sandbox did not start (status {outcome.status}): {outcome.printed.strip()[-200:]}")
    tests = by_kind.get("test", [])
    failed = [test for test in tests if test.get("problem")]
    failure = f"; {failed[0]['name']}: {failed[0]['problem']}" if failed else ""
    if "broken" in by_kind:
        return Score(0.0, f"the code does not run: {by_kind['broken'][0]['reason']}")
    if "unready" in by_kind:
        return Score(None, f"the tests need the module {by_kind['unready'][0]['module']}, which is not there")
    if "end" not in by_kind or by_kind["end"][0]["number"] != len(reports):
        why = failure or (f": {outcome.printed.strip()[-200:]}" if outcome.printed.strip() else "")
        return Score(0.0, f"the program ended before its tests did (status {outcome.status}){why}")
    # Where a statement between the tests fails, those behind it are not reached.
    total = len(tests) if "defined" in by_kind else max(len(tests), by_kind["planned"][0]["count"])
    if not total:
        return Score(None, "the tests hold no test")
    passed = len(tests) - len(failed)
    return Score(passed / total, f"{passed} of {total} tests passed{failure}")


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


async def _code(conversation: Conversation, task: Task, model: BaseChatModel | None) -> str:
    entry_point = task.metadata.get("entry_point")
    if model is None:
        return _fenced_code(conversation, entry_point)
    kind = "Python code"
    if entry_point:
        kind += f" that defines `{entry_point}`"
    if start := task.metadata.get("code_prompt"):
        kind += f" (whole and executable as it is, starting with these lines:\n{start}\n)"
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
    entry_point = task.metadata.get("entry_point")
    if entry_point is not None and not (isinstance(entry_point, str) and entry_point.isidentifier()):
        return f"task {task.id!r}: metadata.entry_point is {entry_point!r}: a name is needed"
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
        "name an interpreter that has it by the judge's option python"
    )
