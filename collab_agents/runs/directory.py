"""A run directory: settings, finished trajectories, failures, and a lock for one process."""

import asyncio
import json
import logging
import os
import platform
import re
import sqlite3
from collections.abc import Iterator, Mapping, Set
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from collab_agents._internal.addresses import address_of, place_at, spelled
from collab_agents._internal.parts import parsed, parts_of, whole_lines
from collab_agents._internal.parts import turns_in as turns_in
from collab_agents._internal.secrets import mask, remember_environment
from collab_agents._internal.stream import until_done
from collab_agents._internal.whole import replacing
from collab_agents.errors import CollabError, RunDirectoryError
from collab_agents.lookahead import Lookahead
from collab_agents.personas import Persona
from collab_agents.runs._disk import explained as explained
from collab_agents.runs.elsewhere import WRITER, Elsewhere, read_json, working_folder
from collab_agents.runs.index import Index
from collab_agents.runs.index import digest as digest
from collab_agents.runs.parts import OneFile, PartFiles, Parts, Store
from collab_agents.tasks import Task
from collab_agents.trajectories import Failure, JsonlStore, Trajectory, read_record
from collab_agents.usage import summed

logger = logging.getLogger(__name__)

_MAY_CHANGE = re.compile(r"(^|\.)limits(\.|$)|^prices(\.|$)|^tasks\.limit$|^checkpoints$")
"""Settings that may differ when a run is resumed: they decide how much, how fast and where, not what is played."""
_GLANCE = 0.2
"""Seconds to wait for a viewer, which takes the lock for an instant to see whether a run has it."""
_ATTEMPT = ("attempt", "on_disk_at_start")
"""What run.json has only while a process plays the run, and after one that was killed."""


class RunDirectory:
    """A run's folder: a context manager that locks it for this process.

    `async with` opens and closes it on a thread.

    Args:
        path: The folder or address, or `Parts`. It is created if it does not exist.
        settings: Kept in run.json, and compared with those that are there.
        resume: Whether the folder may hold a run already.
        wait: Seconds to wait for another process that uses the folder.
        private: Whether new files are readable by their owner only, whatever the umask.

    Attributes:
        id: Distinguishes the run from any other, in a database that they share.
        path: The folder; for an address, the working folder.
        name: The folder or the address, for messages.
        spent: The calls, tokens and turns of the trajectories that were there when the folder was opened.

    Raises:
        RunDirectoryError: On entering, if another process uses the folder, it holds a run and `resume` is not set, or
            it was made with other settings.
    """

    def __init__(
        self,
        path: str | Path | Parts,
        *,
        settings: Mapping[str, object],
        resume: bool = False,
        wait: float = 0,
        private: bool = True,
    ) -> None:
        self._wanted = path if isinstance(path, Parts) else None
        self._elsewhere: Elsewhere | None = None
        if address := address_of(path):
            folder = self._wanted.folder if self._wanted else None
            self._elsewhere = Elsewhere(address, Path(folder) if folder else None)
        self.path = self._elsewhere.folder if self._elsewhere else Path(path)
        self.name = spelled(path)
        self.settings = dict(settings)
        self.resume = resume
        self.checkpoints = self.path / "checkpoints.sqlite"
        self.id = ""
        self.spent: dict[str, Any] = {}
        self._failed: dict[str, Failure] = {}
        self._private = private
        self._store: Store = OneFile(self.path, private=private)
        self._failures = JsonlStore(self.path / "failures.jsonl", private=private)
        self._index = Index(self.path / "index.sqlite", private=private)
        self._lock = FileLock(
            self.path / "run.lock", timeout=max(wait, _GLANCE), mode=0o600 if private else 0o644, thread_local=False
        )

    @property
    def finished(self) -> Set[str]:
        """The ids of the tasks that are done."""
        return self._index

    def __enter__(self) -> "RunDirectory":
        remember_environment()
        try:
            self.path.mkdir(mode=0o700 if self._private else 0o777, parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise RunDirectoryError(
                f"{self.name} is in use by another run; wait for it to end or choose another directory"
            ) from error
        except OSError as error:
            raise RunDirectoryError(f"{self.name} cannot be used as a run directory: {error.strerror}") from error
        try:
            self._open()
        except BaseException as error:
            self._index.close()
            if self._elsewhere is not None and not (self.path / "run.json").exists():
                self._elsewhere.remove_folder()
            self._lock.release()
            if isinstance(error, OSError):
                raise RunDirectoryError(f"{self.name} cannot be used as a run directory: {error.strerror}") from error
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._store.close()
            self._index.close()
            if self._elsewhere is not None and kind is None and not self._failed and not self._has_turns():
                self._elsewhere.remove_folder()
        except CollabError as error:
            self._index.close()
            if kind is None:
                raise
            logger.warning("%s", error)  # The run ends with another error.
        finally:
            self._lock.release()

    async def __aenter__(self) -> "RunDirectory":
        opening: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(self.__enter__))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await until_done(opening)
            if not opening.cancelled() and opening.exception() is None:
                self.__exit__(asyncio.CancelledError)
            raise

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        closing: asyncio.Future[Any] = asyncio.ensure_future(asyncio.to_thread(self.__exit__, kind))
        await until_done(closing)
        closing.result()

    def check_same(self, task: Task, persona: Persona | None) -> None:
        """Raise RunDirectoryError if the finished task differs from `task`, or was played by another persona."""
        if not self._index.has_same(task, persona):
            raise changed_task_error(task.id)

    def finish(self, trajectory: Trajectory, *, line: str | None = None, sync: bool = True) -> None:
        """Keep a finished trajectory. It is on disk when this returns or, without `sync`, once `sync` has returned.

        Args:
            trajectory: The trajectory.
            line: The trajectory as a line, see `line_of`, if that is known.
            sync: Whether to bring it to the disk.
        """
        with explained(self._store.path):
            part = self._store.append(trajectory if line is None else line, sync=sync)
        self._index.add(trajectory, part)
        if self._failed.pop(trajectory.task.id, None):
            self._replace_failures()

    @property
    def totals(self) -> dict[str, Any]:
        """What all attempts spent, as far as known."""
        return self._read().get("totals", {})

    def trajectories(self) -> Iterator[Trajectory]:
        """Yield the finished trajectories."""
        for part in self._store.parts():
            for number, line in part.lines():
                yield read_record(Trajectory, parsed(line, part.path, number), part.path, number)

    def sync(self) -> None:
        """Bring the trajectories that were kept without `sync` to the disk. It may be called on any thread."""
        with explained(self._store.path):
            self._store.sync()

    def fail(self, failure: Failure) -> None:
        """Keep why a task could not be finished, replacing its earlier failure."""
        known = failure.task.id in self._failed
        self._failed[failure.task.id] = failure
        if known:
            self._replace_failures()
        else:
            with explained(self._failures.path):
                self._failures.append(failure)

    def _replace_failures(self) -> None:
        with explained(self._failures.path):
            self._failures.replace(list(self._failed.values()))

    def begin(self, on_disk: Mapping[str, Any], *, tasks: int | None = None) -> None:
        """Begin an attempt, and count what an earlier one that was killed spent, as far as it is on disk.

        Args:
            on_disk: The calls, tokens and turns of all trajectories and checkpoints now. They are kept in run.json
                until `add_totals`, which a killed attempt does not reach.
            tasks: How many tasks the run has, finished ones included; None if that is not known.
        """
        run = self._read()
        if "on_disk_at_start" in run:
            before = run["on_disk_at_start"]
            # Turns that were there then may be in a database that is not used any more.
            self._add(run, _positive(summed(on_disk, before, sign=-1)))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        attempt = {"began": now, "finished": len(self.finished), "failed": len(self._failed)}
        run |= {"tasks": tasks, "attempt": attempt, "on_disk_at_start": dict(on_disk)}
        self._write({name: value for name, value in run.items() if value is not None})

    def add_totals(self, totals: Mapping[str, Any]) -> None:
        """Add what this attempt spent to the totals in run.json, and write how reliable the rewards of turns are."""
        run = self._read()
        for name in _ATTEMPT:
            run.pop(name, None)
        self._add(run, totals)
        found = self._index.tally.result()
        if found.turns:
            run["reliability"] = found.model_dump() | {"advice": found.advice}
        self._write(run)

    def note(self, name: str, value: object) -> None:
        """Keep a JSON value in run.json, beside the configuration and the totals."""
        self._write(self._read() | {name: value})

    def _add(self, run: dict[str, Any], totals: Mapping[str, int | float]) -> None:
        run["totals"] = summed(run.get("totals", {}), totals)
        run["totals"] |= {"trajectories": len(self.finished), "failures": len(self._failed)}

    def _open(self) -> None:
        for file in self.path.iterdir():
            if file.is_symlink():
                raise RunDirectoryError(f"{file} is a symbolic link: a run keeps its files in its own directory")
        here = (self.path / "run.json").exists()
        theirs = None if self._elsewhere is None else self._elsewhere.run()
        if not here and theirs is None:
            if parts_of(self.path):
                raise RunDirectoryError(f"{self.path} has trajectories and no run.json: choose another directory")
            writer = {WRITER: token_hex(8)} if self._elsewhere else {}
            self._write({"id": uuid4().hex, "config": self.settings, "versions": versions(), **writer})
        elif not self.resume:
            raise RunDirectoryError(f"{self.name} already holds a run: resume it, or choose another directory")
        elif here:
            mine = self._read()
            if self._elsewhere is not None and theirs is not None:
                self._elsewhere.check_ours(mine.get(WRITER), theirs.get(WRITER))
            self._compare(mine.get("config", {}))
        elif self._elsewhere is not None and theirs is not None:
            self._compare(theirs.get("config", {}))
            self._elsewhere.fetch_failures()
            self._write(theirs | {WRITER: token_hex(8)})
            self._elsewhere.claim()
        run = self._read()
        if "id" not in run:  # Made by an earlier version.
            run = {"id": uuid4().hex, **run}
            self._write(run)
        self.id = run["id"]
        if parts := self._parts():
            self._store = PartFiles(self.path, parts, private=self._private, elsewhere=self._elsewhere)
        there = self._store.open()
        self._failures.open()
        # SQLite gives the files beside it the same permissions.
        os.close(os.open(self.checkpoints, os.O_CREAT | os.O_WRONLY, 0o600 if self._private else 0o644))
        failures = read_failures(self.path)
        self._index.open(there)
        self.spent = asdict(self._index.usage) | {"turns": self._index.turns}
        self._failed = {one.task.id: one for one in failures if one.task.id not in self.finished}
        if len(self._failed) < len(failures):
            self._failures.replace(list(self._failed.values()))
        self._store.begin()

    def _has_turns(self) -> bool:
        """Whether turns of unfinished tasks are kept here."""
        if not self.checkpoints.stat().st_size:
            return False
        with explained(self.checkpoints), closing(sqlite3.connect(self.checkpoints)) as database:
            return database.execute("SELECT 1 FROM checkpoints LIMIT 1").fetchone() is not None

    def _parts(self) -> Parts | None:
        """Return how trajectories are kept in parts, or None if they are not."""
        run = self._read()
        known = run.get("in_parts")
        if self._wanted is None and (known or not self._elsewhere):
            return Parts(self.path, **known) if known else None
        wanted = self._wanted or Parts(self.path)
        how = {"format": wanted.format, "megabytes": wanted.megabytes}
        if known != how:
            self._write(run | {"in_parts": how})
        return wanted

    def _compare(self, made_with: Mapping[str, object]) -> None:
        # Earlier versions had another name for the column of goals.
        before = {re.sub(r"columns\.prompt$", "columns.goal", key): value for key, value in _leaves(made_with)}
        if "lookahead.futures" in before:  # They did not have all of its settings either.
            before = {f"lookahead.{key}": value for key, value in Lookahead().model_dump().items()} | before
        now = dict(_leaves(json.loads(json.dumps(self.settings))))
        # And some ran before all settings of the lookahead could be chosen.
        defaults = {f"lookahead.{key}": value for key, value in Lookahead().model_dump().items()}
        before = {key: defaults[key] for key in now if key in defaults} | before
        # They also wrote this for users that no model plays.
        if "user.attempts" not in now:
            before.pop("user.attempts", None)
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key) and not _MAY_CHANGE.search(key):
                raise RunDirectoryError(
                    f"{self.name} was made with {key} = {before.get(key)!r}, and now it is {now.get(key)!r}: "
                    "resume with the same settings, or choose another directory"
                )

    def _read(self) -> dict[str, Any]:
        return read_json(self.path / "run.json")

    def _write(self, run: dict[str, Any]) -> None:
        text, path = mask(json.dumps(run, indent=2, ensure_ascii=False) + "\n"), self.path / "run.json"
        with explained(path), replacing(path, self._failures.opener) as file:
            file.write(text)


def _positive(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _positive(value) if isinstance(value, Mapping) else max(value, 0) for key, value in counts.items()}


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


@cache
def versions() -> dict[str, str]:
    """Return the installed versions of what a run depends on."""
    found = {"python": platform.python_version()}
    for package in ("collab-agents", "langgraph", "langchain-core", "langchain-openai", "transformers", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_failures(path: str | os.PathLike[str]) -> list[Failure]:
    """Return the failures that a run directory holds."""
    found = []
    for one in failure_lines(path) if (place_at(path) / "failures.jsonl").exists() else ():
        if isinstance(one, RunDirectoryError):
            raise one
        found.append(one)
    return found


def failure_lines(path: str | os.PathLike[str]) -> Iterator[Failure | RunDirectoryError]:
    """Yield the failures in the failures.jsonl of a run, and for each damaged line what is wrong with it."""
    file = place_at(path) / "failures.jsonl"
    with file.open("rb") as lines:
        for number, line in whole_lines(lines):
            try:
                yield read_record(Failure, parsed(line, file, number), file, number)
            except RunDirectoryError as error:
                yield error


def is_in_use(path: str | os.PathLike[str]) -> bool:
    """Return whether a process of this machine plays the run, which may be at an address."""
    address = address_of(path)
    folder = working_folder(address) if address else place_at(path)
    try:
        import fcntl

        with open(f"{folder}/run.lock", "rb") as file:
            # Several can hold it at a time, so those who look do not take each other for a run.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; or nobody has played it here, or it is another user's.
        return False
    return False


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings that a run directory was made with; empty if it has no run.json."""
    return read_run(path).get("config", {})


def read_totals(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what all attempts at a run spent, as far as known; empty if it has no run.json.

    `Usage.of` makes a usage of it.
    """
    return read_run(path).get("totals", {})


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what run.json of a run directory says; empty if it has none."""
    file = place_at(path) / "run.json"
    return read_json(file) if file.exists() else {}


def changed_task_error(task_id: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"task {task_id!r} or its persona has changed since the run began: resume with the same tasks and personas, "
        "or choose another directory"
    )
