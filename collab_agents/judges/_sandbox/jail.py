"""Run an untrusted Python script in a bubblewrap sandbox, within limits.

This module knows nothing about judges or tests, only about a script, its input and its output.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from collab_agents._internal.per_loop import PerLoop
from collab_agents.errors import ConfigError
from collab_agents.judges._sandbox.seccomp import filter_file, memory_file

Isolation = Literal["bubblewrap", "none"]

READY = b"ready\n"
"""The line that a script writes once it has started. Only then is it sent its request."""

_WATCH_SECONDS = 0.1
_GRACE_SECONDS = 2.0
_RESULT_BYTES = 4 << 20
_PIPE_BYTES = 64 << 10
_SOCKET_BYTES = 2 * 208 << 10
"""The capacity of a pipe and a socket. Seccomp keeps their buffers at the initial size."""

_FILES = 50_000
_NOBODY = 65534
_SCRATCH = ("/tmp", "/dev/shm")
_OF_THE_SYSTEM = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
# The script is process 1: no other process in the sandbox can signal it, and all processes end with it.
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try", "--as-pid-1")
# For real root, process limits have no effect (Linux does not count root's processes), so each run gets users of its
# own. The range lies inside the 65,536 users that a container has.
_USERS = itertools.count(os.getpid())


class SandboxLimits(BaseModel):
    """Resources that a program may use before it is stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    wall_seconds: PositiveFloat = 60.0
    """Wall-clock seconds, including the start-up of the interpreter."""
    cpu_seconds: PositiveInt = 30
    """CPU seconds of each process."""
    memory_mb: PositiveInt = 2048
    """Memory of all processes together. No process may reserve more."""
    processes: PositiveInt = 64
    """Concurrent processes, threads included. Not limited with isolation "none".

    Before Linux 5.14, all of this user's processes count, not only those of one run.
    """
    file_mb: PositiveInt = 16
    """Size of each file written."""
    scratch_mb: PositiveInt = 64
    """Size of all files together, and as much again in /dev/shm. Not limited with isolation "none"."""
    output_kb: PositiveInt = 1024
    """Size of the printed output."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes:
        results: What the script wrote to its standard output.
        printed: What the script wrote to its standard error.
        stopped: The limit that ended the run, as a clause ("it ran longer than 60 s"), or "".
        status: The exit status, negative for a signal.
    """

    results: bytes
    printed: str
    stopped: str
    status: int


class Sandbox:
    """Runs scripts, as many concurrently as this process has cores, without blocking the event loop.

    The script is a package without dependencies, whose `supervise.main` is called. It receives its limits and users,
    applies them (`confine` in examiner), writes the line `READY`, and then receives its request on standard input.

    Args:
        isolation: "bubblewrap" gives each run its own process tree without network, a read-only view of the interpreter
            and the system's libraries and nothing else of the disk, an empty environment, and a scratch directory in
            memory. "none" runs the script as a plain process in a temporary directory: the limits apply, but the script
            can read, send and destroy whatever this user can.
        python: The interpreter with the libraries that the programs need (default: this one).
        limits: Resource limits of one run.

    Raises:
        ConfigError: If bubblewrap is missing or cannot make a sandbox here, or there is no such interpreter.
    """

    def __init__(
        self, isolation: Isolation = "bubblewrap", *, python: str | None = None, limits: SandboxLimits | None = None
    ) -> None:
        self.isolation = isolation
        self.limits = limits or SandboxLimits()
        self.interpreter = _probe(python or sys.executable)
        self.python = self.interpreter.executable
        self._root = isolation == "bubblewrap" and os.geteuid() == 0
        if isolation == "bubblewrap":
            self._try()

    async def run(self, package: Path, request: dict[str, object]) -> Outcome:
        """Run the package with `request`, as JSON, on its standard input."""
        user = 20_000 + 2 * (next(_USERS) % 20_000) if self._root else None
        limits = self.limits.model_dump() | ({} if self.isolation == "bubblewrap" else {"processes": None})
        options = json.dumps({"limits": limits, "user": user, "examiner": None if user is None else user + 1})
        payload = json.dumps(request).encode()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_cores.get())
            passed: list[int] = []
            if self.isolation == "none":
                folder = await asyncio.to_thread(tempfile.mkdtemp)
                stack.push_async_callback(asyncio.to_thread, _remove, folder)
                command, environment = [*self._start(package), options], self._environment(folder)
            else:
                folder, environment = "/", {}
                seccomp, files = stack.enter_context(_open_files(user))
                passed = [*files.values()] + ([] if seccomp is None else [seccomp])
                jail = await asyncio.to_thread(self._jail, package, seccomp, files)
                command = [*jail, "--", *self._start(Path("/run", package.name)), options]
            starting: asyncio.Task[asyncio.subprocess.Process] = asyncio.create_task(
                asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=folder,
                    env=environment,
                    start_new_session=True,
                    pass_fds=passed,
                )
            )

            async def end() -> None:
                await _end(await starting)

            # Shielded, because a process whose start is cancelled would never be ended.
            stack.push_async_callback(end)
            return await self._attend(await asyncio.shield(starting), payload)

    async def _attend(self, process: asyncio.subprocess.Process, payload: bytes) -> Outcome:
        """Write the request, read the output and watch the limits, until the process ends or exceeds one."""
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        results, printed = bytearray(), bytearray()
        room = self.limits.output_kb * 1024
        stopped = ""
        try:
            async with asyncio.timeout(self.limits.wall_seconds), asyncio.TaskGroup() as group:
                watching = group.create_task(self._watch(process.pid))
                errors = group.create_task(
                    _read(process.stderr, printed, room, f"it printed more than {room >> 10} kB")
                )
                # Only after READY: until then, nothing ends the script if this process is killed.
                if await process.stdout.readline() == READY:
                    feeding = group.create_task(_feed(process.stdin, payload))
                    await _read(process.stdout, results, _RESULT_BYTES, "it reported more than 4 MB")
                    feeding.cancel()
                # Processes that it left running may hold its standard error open.
                await asyncio.wait([errors], timeout=_GRACE_SECONDS)
                errors.cancel()
                watching.cancel()
        except* TimeoutError:
            stopped = f"it ran longer than {self.limits.wall_seconds:g} s"
        except* _Exceeded as error:
            stopped = str(error.exceptions[0])
        await _end(process)
        status = process.returncode or 0
        status = 128 - status if self.isolation == "bubblewrap" and status > 128 else status
        if -status == signal.SIGXCPU:
            stopped = f"it used more than {self.limits.cpu_seconds} s of CPU time"
        return Outcome(bytes(results), _plain(printed), stopped, status)

    async def _watch(self, root: int) -> None:
        """Raise when all processes together exceed the memory limit or have made too many files.

        The check runs on a thread, because the kernel is slow for many large processes, and on a dedicated one, because
        those of the event loop may all be busy.
        """
        pause = _WATCH_SECONDS
        while True:
            await asyncio.sleep(pause)
            started = time.monotonic()
            if problem := await asyncio.get_running_loop().run_in_executor(_watchers, self._exceeded, root):
                raise _Exceeded(problem)
            pause = max(_WATCH_SECONDS, 10 * (time.monotonic() - started))

    def _exceeded(self, root: int) -> str:
        family = _family(root)
        room = (self.limits.memory_mb << 20) - _buffers(family)
        # Memory that processes share counts once. Measuring that is slow, so it is done only when it matters.
        if sum(map(_resident, family)) > room < sum(map(_proportional, family)):
            return f"it held more than {self.limits.memory_mb} MB of memory"
        if self.isolation == "bubblewrap" and any(_files(family[-1], path) > _FILES for path in _SCRATCH):
            return f"it made more than {_FILES:,} files"
        return ""

    def _start(self, package: Path) -> list[str]:
        start = f"import sys; sys.path.insert(0, {str(package.parent)!r}); from {package.name}.supervise import main; "
        return [self.python, "-I", "-B", "-X", "utf8", "-c", f"{start}del sys.path[0]; main()"]

    def _jail(self, package: Path, seccomp: int | None, files: Mapping[str, int]) -> list[str]:
        command = [
            _bubblewrap(),
            *_NAMESPACES,
            "--hostname",
            "sandbox",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]
        if self._root:
            command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            command += ["--unshare-user", "--uid", str(_NOBODY), "--gid", str(_NOBODY)]
        if seccomp is not None:
            command += ["--seccomp", str(seccomp)]
        command += ["--ro-bind", "/usr", "/usr"]
        for path in _LINKS:
            if os.path.islink(path):
                command += ["--symlink", os.readlink(path), path]
            elif os.path.isdir(path):
                command += ["--ro-bind", path, path]
        command += ["--proc", "/proc", "--dev", "/dev"]
        for path in _SCRATCH:
            command += ["--perms", "1777", "--size", str(self.limits.scratch_mb << 20), "--tmpfs", path]
        for path in (*_OF_THE_SYSTEM, *self.interpreter.paths):
            for parent in reversed(Path(path).parents[:-1]):  # Otherwise bubblewrap makes them accessible to root only.
                command += ["--dir", str(parent)]
            command += ["--ro-bind-try", path, path]
        for path, file in files.items():
            command += ["--perms", "0444", "--ro-bind-data", str(file), path]
        command += ["--dir", "/run", "--ro-bind", str(package), f"/run/{package.name}"]
        command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]
        for name, value in self._environment("/tmp").items():
            command += ["--setenv", name, value]
        return command

    def _environment(self, folder: str) -> dict[str, str]:
        """Return an environment without this process's variables, with one thread for numerical libraries."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        path = os.pathsep.join([str(Path(self.python).parent), "/usr/local/bin", "/usr/bin", "/bin"])
        return threads | {"HOME": folder, "TMPDIR": folder, "PATH": path, "LANG": "C.UTF-8", "MPLBACKEND": "agg"}

    def _try(self) -> None:
        with _open_files(None) as (seccomp, files):
            command = [*self._jail(Path(__file__).parent, seccomp, files), "--", self.python, "-I", "-c", ""]
            passed = [*files.values()] + ([] if seccomp is None else [seccomp])
            made = subprocess.run(command, env={}, cwd="/", capture_output=True, text=True, pass_fds=passed)
        if made.returncode:
            raise ConfigError(
                f"bubblewrap cannot make a sandbox for {self.python} here ({' '.join(made.stderr.split())}): allow "
                "user namespaces, or choose sandbox: none for code that you trust"
            )


@contextmanager
def _open_files(user: int | None) -> Iterator[tuple[int | None, dict[str, int]]]:
    """Open the files that are passed to a jail: the filter on system calls, and the contents of its own paths.

    The kernel's command line is hidden, because it describes this machine.
    """
    number = _NOBODY if user is None else user
    contents = {
        "/etc/passwd": f"nobody:x:{number}:{number}:nobody:/tmp:/bin/sh\n",
        "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "/proc/cmdline": "",
    }
    with ExitStack() as stack:
        seccomp = filter_file()
        if seccomp is not None:
            stack.callback(os.close, seccomp)
        files = {path: memory_file("file", content.encode()) for path, content in contents.items()}
        for file in files.values():
            stack.callback(os.close, file)
        yield seccomp, files


class _Exceeded(Exception):
    """A limit was exceeded; the message is a clause."""


@dataclass(frozen=True)
class _Interpreter:
    """An interpreter: its executable (not a shim or link), its paths on disk and the modules it can import."""

    executable: str
    paths: tuple[str, ...]
    modules: frozenset[str]


_PROBE = """
import json, os, pkgutil, sys, sysconfig
paths = sysconfig.get_paths()
prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
parts = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")
there = [os.path.join(prefix, part) for prefix in prefixes for part in parts] + [paths["purelib"], paths["platlib"]]
here = [path for path in sys.path if any((os.path.realpath(path) + os.sep).startswith(f + os.sep) for f in prefixes)]
names = {module.name for module in pkgutil.iter_modules(here)} | set(sys.builtin_module_names)
print(json.dumps([sys.executable, sorted({path for path in there if os.path.exists(path)}), sorted(names)]))
"""


@cache
def _probe(python: str) -> _Interpreter:
    try:
        found = subprocess.run([python, "-I", "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        executable, paths, modules = json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ConfigError(f"python: {python!r} does not run as a Python interpreter: {error}") from error
    outside = tuple(path for path in paths if not path.startswith("/usr/"))
    return _Interpreter(executable, outside, frozenset(modules))


def _bubblewrap() -> str:
    command = shutil.which("bwrap")
    if command is None:
        raise ConfigError(
            "the sandbox needs bubblewrap: install it (apt-get install bubblewrap, dnf install bubblewrap), or choose "
            "sandbox: none for code that you trust"
        )
    return command


_watchers = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="sandbox watch")

_cores: PerLoop[asyncio.Semaphore] = PerLoop(lambda: asyncio.Semaphore(len(os.sched_getaffinity(0))))


async def _feed(stream: asyncio.StreamWriter, payload: bytes) -> None:
    with suppress(ConnectionError):  # It ended without reading.
        stream.write(payload)
        await stream.drain()
    stream.close()


async def _read(stream: asyncio.StreamReader, into: bytearray, room: int, beyond: str) -> None:
    while chunk := await stream.read(65536):
        into += chunk[: room - len(into)]
        if len(into) >= room:
            raise _Exceeded(beyond)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the processes that are left.

    Each process is killed separately, because one that is just starting does not yet end with its parent. The first is
    stopped beforehand, so that none escapes.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
        for pid in [*_family(process.pid)[1:], process.pid]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_SECONDS):
            # asyncio considers a process alive until its pipes are read to the end.
            for stream in (process.stdout, process.stderr):
                while stream is not None and await stream.read(65536):
                    pass
            await process.wait()


def _remove(folder: str) -> None:
    with suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)


def _plain(printed: bytes | bytearray) -> str:
    text = printed.decode(errors="replace")
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def _family(root: int) -> list[int]:
    """Return the process and all its descendants."""
    found = [root]
    for pid in found:
        with suppress(OSError):  # It has ended meanwhile.
            for thread in os.listdir(f"/proc/{pid}/task"):
                found.extend(map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()))
    return found


def _resident(pid: int) -> int:
    with suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def _buffers(family: list[int]) -> int:
    """Bound the kernel memory of the processes' pipes and sockets, in bytes, which is charged to no process."""
    pipes, sockets = set[str](), set[str]()
    for pid in family[1:]:
        with suppress(OSError):  # It has ended meanwhile.
            for file in os.scandir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    link = os.readlink(file.path)
                    (pipes if link.startswith("pipe:") else sockets if link.startswith("socket:") else set()).add(link)
    queued = _queued(family[-1]) if sockets else 0
    return len(pipes) * _PIPE_BYTES + len(sockets) * _SOCKET_BYTES + queued


def _queued(pid: int) -> int:
    """Return the bytes queued in the TCP connections of the process's network, whose buffers grow automatically."""
    queued = 0
    for table in ("tcp", "tcp6"):
        with suppress(OSError, IndexError, ValueError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                queued += sum(int(part, 16) for part in line.split()[4].split(":"))
    return 2 * queued  # Includes the kernel's overhead per buffer.


def _files(pid: int, path: str) -> int:
    """Count the files in the process's own file system at this path, whose size limit ignores empty files."""
    with suppress(OSError):
        inside = f"/proc/{pid}/root{path}"
        if os.stat(inside).st_dev != os.stat(path).st_dev:  # Otherwise it is just starting, and still sees ours.
            found = os.statvfs(inside)
            return found.f_files - found.f_ffree
    return 0
