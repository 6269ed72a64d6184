"""`pass_rate`: what code scores, and what its sandbox keeps it from doing. The programs and bubblewrap are real."""

import asyncio
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from benchmarks.process import ROOT
from collab_agents.errors import ConfigError
from collab_agents.judges import Conversation, Score, load_judge, pass_rate, problem_with
from collab_agents.judges._sandbox.jail import SandboxLimits
from collab_agents.tasks import Task
from tests.support.coding import TASKS, TIGHT, CodingTask, coding, run, said


def inside(*lines: str) -> str:
    """A `work` that does this before it gives the right answer."""
    body = "\n".join(f"    {line}" for line in [*lines, "return x + 1"])
    return f"import os, sys, time, socket, subprocess\ndef work(x):\n{body}"


FORGED = """
import os
for fd in range(3, 20):
    try:
        os.write(fd, b'{"kind": "asserts", "count": 1}\\n{"kind": "end"}\\n')
    except OSError:
        pass
os._exit(0)
work = 1
"""
MEMFDS = """
import os
def work(x):
    while True:
        os.write(os.memfd_create('hoard'), bytes(4 << 20))
"""
BUFFERS = """
import os, socket, time
def work(x):
    for _ in range(8):
        if os.fork() == 0: break
    kept = []
    while len(kept) < 200:
        pair = socket.socketpair()
        for one in pair:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            one.setblocking(False)
            try:
                while True: one.send(bytes(1 << 16))
            except BlockingIOError: pass
        kept.append(pair)
    time.sleep(60)
"""
LOOPBACK = """
import socket, time
def work(x):
    server = socket.create_server(('127.0.0.1', 0), backlog=500)
    kept = [server]
    while len(kept) < 400:
        one = socket.create_connection(server.getsockname())
        kept += [one, server.accept()[0]]
        one.setblocking(False)
        try:
            while True: one.send(bytes(1 << 16))
        except BlockingIOError: pass
    time.sleep(60)
"""
FAMILIES = """
import socket
def work(x):
    for family in (socket.AF_NETLINK, socket.AF_PACKET, socket.AF_VSOCK, socket.AF_ALG):
        try: socket.socket(family, socket.SOCK_STREAM)
        except OSError as error: assert error.errno == 97
        else: return family
    socket.socketpair()
    raise OSError('no such family')
"""
LEFT_FILES = """
import os
def work(x):
    for i in range(10**9):
        os.close(os.open(f'/tmp/{i}', os.O_CREAT))
"""
HOARDERS = """
import os, time
def work(x):
    for _ in range(20):
        if os.fork() == 0:
            hoard = b'x' * (100 << 20)
            time.sleep(60)
    time.sleep(60)
"""
HOSTILE = {
    "never ends": (inside("while True: pass"), "stopped: it used more than 2 s of CPU time"),
    "sleeps for ever": (inside("time.sleep(1000)"), "stopped: it ran longer than 4 s"),
    "ignores the CPU limit": (
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n" + inside("while True: pass"),
        "(status -9)",
    ),
    "forks without end": (inside("while True: os.fork()"), "BlockingIOError"),
    "fills memory": (inside("hoard = []", "while True: hoard.append(bytearray(10**7))"), "MemoryError"),
    "fills memory in many processes": (HOARDERS, "stopped: it held more than 256 MB of memory"),
    "fills memory that is no process's": (MEMFDS, "OSError"),
    "fills the buffers of sockets": (BUFFERS, "stopped: it held more than 256 MB of memory"),
    "fills the buffers of connections": (LOOPBACK, "stopped: it held more than 256 MB of memory"),
    "fills the buffers of pipes": (
        inside("import fcntl", "fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 20)"),
        "Operation not permitted",
    ),
    "fills attributes": (inside("os.setxattr('.', 'user.x', bytes(60000))"), "Operation not supported"),
    "asks for other sockets": (FAMILIES, "OSError: no such family"),
    "locks what others use": (inside("import fcntl", "fcntl.flock(open(os.__file__), 2)"), "not implemented"),
    "reads this machine's names": (
        inside("raise ValueError(os.uname().nodename + open('/proc/cmdline').read() + '.')"),
        "ValueError: sandbox.",
    ),
    "fills the disk with empty files": (LEFT_FILES, "stopped: it made more than 50,000 files"),
    "fills the disk with one file": (
        inside("with open('big', 'wb') as file:", "    while True: file.write(bytes(10**6))"),
        "File too large",
    ),
    "fills the disk with many files": (
        inside("for i in range(100):", "    with open(f'/tmp/{i}', 'wb') as file: file.write(bytes(10**6))"),
        "No space left on device",
    ),
    "fills shared memory": (
        inside("for i in range(100):", "    with open(f'/dev/shm/{i}', 'wb') as file: file.write(bytes(10**6))"),
        "No space left on device",
    ),
    "prints gigabytes": (inside("while True: print('x' * 10**6)"), "stopped: it printed more than 64 kB"),
    "kills its parent": (inside("os.kill(os.getppid(), 9)"), "line 1: assert work(1) == 2"),
    "kills everything": (inside("os.kill(-1, 9)"), "line 1: assert work(1) == 2"),
    "reads /etc/shadow": (inside("print(open('/etc/shadow').read())"), "No such file or directory: '/etc/shadow'"),
    "reads the project": (inside(f"open({str(ROOT / 'README.md')!r})"), "No such file or directory"),
    "writes to the system": (inside("open('/usr/planted', 'w')"), "Read-only file system: '/usr/planted'"),
    "writes to the root": (inside("open('/planted', 'w')"), "Read-only file system: '/planted'"),
    "writes to the interpreter": (inside("open(os.__file__, 'a')"), "os.py'"),
    "becomes root": (inside("os.setuid(0)"), "PermissionError"),
    "mounts": (inside("subprocess.run(['mount', '-t', 'tmpfs', 'none', '/tmp'], check=True)"), "Error"),
    "calls home": (inside("socket.create_connection(('192.0.2.1', 80), timeout=2)"), "unreachable"),
    "mounts by itself": (inside("subprocess.run(['unshare', '-rm', 'true'], check=True)"), "CalledProcess"),
    "looks into another process": (
        inside("import ctypes", "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0"),
        "AssertionError",
    ),
    "ends early": (inside("os._exit(0)"), "the program ended before its tests did (status 0)"),
    "exits": (inside("sys.exit(0)"), "SystemExit: 0"),
    "writes over its report": (inside("os.write(3, b'{')", "raise ValueError"), "0 of 2 tests passed"),
    "floods its report": (
        inside("os.write(3, b'[' * 10**6 + b'\\n' * 10**5)", "raise ValueError"),
        "0 of 2 tests passed",
    ),
    "raises what no file can hold": (inside(r"raise ValueError('\ud800\x1b\0')"), r"ValueError: \ud800"),
    "raises what raises": (
        "class Odd(Exception):\n    def __str__(self): raise self\n" + inside("raise Odd"),
        "line 1: assert work(1) == 2: Odd",
    ),
    "has no module that it wants": (inside("import nowhere"), "ModuleNotFoundError: No module named 'nowhere'"),
    "patches the tests": (
        "import unittest\nunittest.TestCase.assertEqual = abs = lambda *_: 0\n" + inside("return 0"),
        "0 of 2 tests passed",
    ),
    "forges its report": (FORGED, "the program ended before its tests did"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_zero_and_the_reason_within_its_limits(name: str) -> None:
    code, reason = HOSTILE[name]
    limits = TIGHT.model_copy(update={"wall_seconds": 4}) if "longer than" in reason else TIGHT
    started = time.monotonic()
    score = asyncio.run(run(code, limits=limits))
    assert score.value == 0.0
    assert reason in score.reason
    assert time.monotonic() - started < limits.wall_seconds + 10
    assert not Path("/usr/planted").exists()
    assert not Path("/planted").exists()


@pytest.mark.parametrize("name", ["kills everything", "reads /etc/shadow", "writes to the system", "calls home"])
async def test_an_ordinary_user_has_the_same_sandbox(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, reason = HOSTILE[name]
    score = await run(code)
    assert score.value == 0.0
    assert reason in score.reason
    assert (await run("def work(x): return x + 1")).value == 1.0


async def test_a_program_sees_no_environment_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    look = (
        "import glob, os\n"
        "def work(x):\n"
        "    seen = str(os.environ)\n"
        "    for file in glob.glob('/proc/*/environ'):\n"
        "        try: seen += open(file).read()\n"
        "        except PermissionError: pass\n"
        "    return 'hunter2' in seen, sorted(name for name in os.environ if 'TOKEN' in name or 'KEY' in name)\n"
    )
    score = await run(look, "assert work(1) == (False, []), work(1)")
    assert score == Score(1.0, "1 of 1 tests passed")


async def test_a_program_cannot_open_a_socket_to_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        score = await run(inside(f"socket.create_connection(('127.0.0.1', {port}))"))
        assert score.value == 0.0
        assert "ConnectionRefusedError" in score.reason
        with pytest.raises(TimeoutError):
            server.accept()


async def test_memory_is_watched_also_when_every_thread_of_the_event_loop_is_busy() -> None:
    ended = threading.Event()
    judge = pass_rate(limits=TIGHT)
    workers = ThreadPoolExecutor(8)
    asyncio.get_running_loop().set_default_executor(workers)
    code, reason = HOSTILE["fills memory in many processes"]
    mark = f"6{os.getpid()}"
    start = f"import subprocess, time\nsubprocess.Popen(['sleep', '{mark}'])\ntime.sleep(1)\n"
    scoring = asyncio.ensure_future(judge(said(start + code), coding()))
    await asyncio.to_thread(wait_for, mark)  # It has started, for which it needs a thread.
    busy = [asyncio.ensure_future(asyncio.to_thread(ended.wait)) for _ in range(20)]
    score = await scoring
    ended.set()
    await asyncio.gather(*busy)
    assert reason in score.reason


async def test_a_program_sees_no_process_of_ours() -> None:
    count = "import glob\ndef work(x): return len(glob.glob('/proc/[0-9]*'))"
    score = await run(count, "assert work(1) <= 3, work(1)")
    assert score.value == 1.0


def running() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def wait_for(mark: str) -> None:
    while mark not in running():
        time.sleep(0.05)


@pytest.mark.parametrize(("isolation", "session"), [("bubblewrap", True), ("none", False)])
async def test_what_a_program_leaves_running_ends_with_it(isolation: str, session: bool) -> None:
    mark = f"7{os.getpid()}"
    start = f"import subprocess\nsubprocess.Popen(['sleep', '{mark}'], start_new_session={session})\n"
    score = await run(start + "def work(x): return x + 1", sandbox=isolation)
    assert score == Score(1.0, "2 of 2 tests passed")
    assert mark not in await asyncio.to_thread(running)


async def test_a_cancelled_run_leaves_nothing_behind() -> None:
    mark = f"8{os.getpid()}"
    task = asyncio.create_task(run(inside(f"subprocess.run(['sleep', '{mark}'])")))
    await asyncio.to_thread(wait_for, mark)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mark not in await asyncio.to_thread(running)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
async def test_reference_solutions_pass_and_broken_ones_do_not(task: CodingTask) -> None:
    assert len(TASKS) >= 30
    judge = pass_rate()
    goal = coding(task.tests, entry_point=task.entry_point)
    right, *wrong = await asyncio.gather(*(judge(said(code), goal) for code in (task.solution, *task.broken)))
    assert right.value == 1.0, right.reason
    for code, score in zip(task.broken, wrong, strict=True):
        assert score.value is not None, score.reason
        assert score.value < 1.0, code
        assert score.reason


async def test_runs_cancelled_while_they_start_leave_nothing_behind() -> None:
    mark = f"9{os.getpid()}"
    judge = pass_rate(limits=TIGHT)
    for _ in range(25):
        code = inside(f"subprocess.run(['sleep', '{mark}'])")
        runs = [asyncio.ensure_future(judge(said(code), coding())) for _ in range(4)]
        await asyncio.sleep(random.random() * 0.03)
        for one in runs:
            one.cancel()
        await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 10)
    deadline = time.monotonic() + 10
    while mark in (left := await asyncio.to_thread(running)) or "/run/script.py" in left:
        assert time.monotonic() < deadline, left
        await asyncio.sleep(0.1)


async def test_a_sandbox_that_does_not_start_gives_no_score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    judge = pass_rate(limits=TIGHT)
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: out of namespaces' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    score = await judge(said("def work(x): return x + 1"), coding())
    assert score == Score(None, "the sandbox did not start (status 1): bwrap: out of namespaces")


def test_limits_that_are_there_already_are_kept() -> None:
    program = (
        "import asyncio; from tests.support.coding import run; print(asyncio.run(run('def work(x): return x + 1')))"
    )
    command = ["bash", "-c", f'ulimit -f 20000 -t 100; exec {sys.executable} -c "{program}"']
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "value=1.0" in done.stdout, done.stderr


UNITTEST = "import unittest\nclass T(unittest.TestCase):\n"
STYLES = (
    "def check(candidate):\n    assert candidate(1) == 2\ncheck(work)",
    "def test_a(): assert work(1) == 2\nif __name__ == '__main__':\n    test_a()",
    "def test_a(): assert work(1) == 2\ntest_a()",
    "for a, b in ((1, 2), (2, 3)):\n    assert work(a) == b",
    UNITTEST + "    def test_a(self): self.assertEqual(work(1), 2)\nunittest.main()",
    UNITTEST
    + "    made = 0\n    @classmethod\n    def setUpClass(cls): cls.made += 1\n"
    + "    def test_a(self): self.assertEqual(self.made, work(0))\n"
    + "    def test_b(self): self.assertEqual(self.made, 1)",
    "def test_helper(x): return x\ndef test_a(): assert test_helper(work(1)) == 2",
    "from __future__ import annotations\ndef test_a(x: Nowhere = 1): assert work(x) == 2",
    "assert " + " + ".join(["work(0)"] * 1200) + " == 1200",
    "import multiprocessing as mp\nassert mp.get_context('spawn').Pool(2).map(abs, [work(0), -1]) == [1, 1]",
    "import getpass, socket\nassert getpass.getuser()\nassert socket.gethostbyname('localhost') and work(0) == 1",
    "from solution import work as same\nassert same(1) == 2",
    "import os\nos.chmod('.', 0o700)\nassert os.path.exists(__file__) and work(1) == 2",
)


@pytest.mark.parametrize("tests", STYLES, ids=range(len(STYLES)))
async def test_tests_of_every_style_tell_right_from_wrong(tests: str) -> None:
    right = await run("def work(x): return x + 1", tests)
    assert right.value == 1.0, right.reason
    wrong = await run("def work(x): return x + 2", tests)
    assert wrong.value is not None, wrong.reason
    assert wrong.value < 1.0


async def test_tests_that_are_not_reached_count_as_failed() -> None:
    tests = "assert work(0) == 1\ndata = work(5)\nclass T:\n    pass\n" + "".join(
        f"def test_{i}(): pass\n" for i in range(9)
    )
    score = await run("def work(x):\n    if x > 4: raise ValueError('no')\n    return x + 1", tests)
    assert score == Score(0.1, "1 of 10 tests passed; line 2: data = work(5): ValueError: no (isolation: shared)")


@pytest.mark.parametrize(
    "reply",
    [
        "```Python\ndef work(x): return x + 1\n```",
        "~~~python\ndef work(x): return x + 1\n~~~",
        "1. Like this:\n\n   ```python\n   def work(x):\n       return x + 1\n   ```",
        "```python\ndef work(x): return x + 1",
        "```python\ndef work(x): return x + 1\n```\nwhich gives\n```\n2 is the answer\n```",
        "```python title=a.py\nwork = lambda x: x + 1\n```",
    ],
)
async def test_code_is_found_however_it_is_fenced(reply: str) -> None:
    talk = Conversation([AIMessage(reply), HumanMessage("And how?"), AIMessage("```python\nprint(work(3))\n```")])
    assert (await pass_rate(limits=TIGHT)(talk, coding())).value == 1.0


async def test_a_hundred_runs_at_once_finish_and_the_event_loop_goes_on() -> None:
    judge = pass_rate(limits=SandboxLimits(wall_seconds=30))
    beats: list[float] = []

    async def beat() -> None:
        while True:
            await asyncio.sleep(0.01)
            beats.append(time.monotonic())

    heart = asyncio.create_task(beat())
    codes = [f"def work(x): return x + {1 if i % 2 else 2 - x_is_one(i)}" for i in range(100)]
    scores = await asyncio.gather(*(judge(said(code), coding()) for code in codes))
    heart.cancel()
    assert [score.value for score in scores] == [1.0 if i % 2 else float(x_is_one(i)) for i in range(100)]
    assert max(after - before for before, after in itertools.pairwise(beats)) < 2


def x_is_one(index: int) -> int:
    return index // 2 % 2


async def test_the_share_of_tests_counts_or_all_of_them() -> None:
    half = "def work(x): return 2"
    assert await run(half) == Score(0.5, "1 of 2 tests passed; line 2: assert work(2) == 3: AssertionError")
    assert (await run(half, all_or_nothing=True)).value == 0.0
    assert (await run("def work(x): return x + 1", all_or_nothing=True)).value == 1.0


async def test_tests_may_be_a_list_and_see_what_stands_between_them() -> None:
    tests = ["x = work(1)", "assert x == 2", "x = work(4)", "assert x == 5", "import nowhere", "assert False"]
    assert (await run("def work(x): return x + 1", tests[:4])).value == 1.0
    score = await run("def work(x): return x + 1", tests)
    assert score == Score(None, "the tests need the module nowhere, which is not installed")
    assert await run("def work(x): return x", "y = 1") == Score(None, "the tests contain no test")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def work(x:\n  pass", "the code does not run: SyntaxError"),
        ("import nowhere\nwork = 1", "the code does not run: ModuleNotFoundError"),
        ("raise ValueError('no')\nwork = 1", "the code does not run: ValueError: no"),
        ("def other(x): pass", "the conversation produced no code"),
        ("work = 3", "TypeError: 'int' object is not callable"),
    ],
)
async def test_code_that_does_not_run_gets_zero_and_says_why(code: str, reason: str) -> None:
    score = await run(code)
    assert score.value == 0.0
    assert reason in score.reason


async def test_the_code_is_that_of_the_last_message_that_defines_what_is_wanted() -> None:
    judge = pass_rate(limits=TIGHT)
    talk = [
        AIMessage("```python\ndef work(x): return 0\n```"),
        HumanMessage("That is wrong."),
        AIMessage("```py\ndef work(x):\n    return helper(x)\n```\nwith\n```\ndef helper(x):\n    return x + 1\n```"),
        HumanMessage("How do I install it?"),
        AIMessage("Like this: ```bash\npip install it\n```\n```sh\nls\n```"),
    ]
    assert (await judge(Conversation(talk), coding())).value == 1.0
    nothing = await judge(Conversation([AIMessage("No code.")]), coding())
    assert nothing == Score(0.0, "the conversation produced no code")


async def test_without_a_sandbox_the_limits_still_hold(tmp_path: Path) -> None:
    assert (await run("def work(x): return x + 1", sandbox="none")).value == 1.0
    for name in ("never ends", "fills memory", "prints gigabytes", "fills the disk with one file", "ends early"):
        code, reason = HOSTILE[name]
        score = await run(code, sandbox="none")
        assert score.value == 0.0
        assert reason in score.reason


def test_without_bubblewrap_it_refuses_and_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError) as error:
        pass_rate()
    assert "apt-get install bubblewrap" in str(error.value)
    assert "sandbox: none" in str(error.value)
    pass_rate(sandbox="none")


def test_a_bubblewrap_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(ConfigError, match=r"cannot make a sandbox for .* here"):
        pass_rate()


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (Task(id="t", goal="p"), "task 't' has no metadata.tests (Python source) to run"),
        (coding("def ("), "task 't': metadata.tests is not Python: "),
        (coding(entry_point="a b"), "task 't': metadata.entry_point must be a Python name, got 'a b'"),
        (coding(libraries=["os", "no_such_library"]), "task 't' needs no_such_library, which "),
    ],
)
async def test_a_task_without_runnable_tests_is_found_before_anything_is_played(task: Task, problem: str) -> None:
    judge = pass_rate()
    assert (problem_with(judge, task) or "").startswith(problem)
    score = await judge(said("def work(x): return x + 1"), task)
    assert score.value is None
    assert score.reason.startswith(problem)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sandbox": "docker"}, "judge 'pass_rate': sandbox: input should be 'bubblewrap' or 'none', got 'docker'"),
        ({"limits": {"cpu_seconds": 0}}, "judge 'pass_rate': limits.cpu_seconds: input should be greater than 0"),
        ({"limits": {"ram": 1}}, "judge 'pass_rate': limits.ram: unknown field"),
        ({"python": "/no/python"}, "python: '/no/python' does not run as a Python interpreter"),
    ],
)
def test_a_wrong_option_is_refused_in_a_sentence(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_judge("pass_rate", options=options)
    assert problem in str(error.value)
