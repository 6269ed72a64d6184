"""A run directory: settings, finished trajectories, failures, and a lock for one process."""

import errno
import hashlib
import json
import os
import platform
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from collab_agents._internal.secrets import mask, remember_environment
from collab_agents._internal.text import valid
from collab_agents.errors import RunDirectoryError
from collab_agents.lookahead import Lookahead
from collab_agents.personas import Persona
from collab_agents.tasks import Task
from collab_agents.trajectories import Failure, JsonlStore, Message, Trajectory, Turn, read_record
from collab_agents.usage import summed
from collab_agents.variance import ReliabilityTally

_MAY_CHANGE = re.compile(r"(^|\.)limits(\.|$)|^prices(\.|$)|^tasks\.limit$|^checkpoints$")
"""Settings that may differ when a run is resumed: they decide how much, how fast and where, not what is played."""


class RunDirectory:
    """A run's folder: a context manager that locks it for this process.

    Args:
        path: The folder. It is created if it does not exist.
        settings: Kept in run.json, and compared with those that are there.
        resume: Whether the folder may hold a run already.
        wait: Seconds to wait for another process that uses the folder.
        private: Whether new files are readable by their owner only, whatever the umask.

    Attributes:
        id: Distinguishes the run from any other, in a database that they share.
        spent: The calls, tokens and turns of the trajectories that were there when the folder was opened.

    Raises:
        RunDirectoryError: On entering, if another process uses the folder, it holds a run and `resume` is not set, or
            it was made with other settings.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        settings: Mapping[str, object],
        resume: bool = False,
        wait: float = 0,
        private: bool = True,
    ) -> None:
        self.path = Path(path)
        self.settings = dict(settings)
        self.resume = resume
        self.checkpoints = self.path / "checkpoints.sqlite"
        self.id = ""
        self.spent: dict[str, Any] = {}
        self._played: dict[str, str] = {}
        self._failed: dict[str, Failure] = {}
        self._reliability = ReliabilityTally()
        self._private = private
        self._trajectories = JsonlStore(self.path / "trajectories.jsonl", private=private)
        self._failures = JsonlStore(self.path / "failures.jsonl", private=private)
        self._lock = FileLock(self.path / "run.lock", timeout=wait, mode=0o600 if private else 0o644)

    @property
    def finished(self) -> Set[str]:
        """The ids of the tasks that are done."""
        return self._played.keys()

    def __enter__(self) -> "RunDirectory":
        remember_environment()
        try:
            self.path.mkdir(mode=0o700 if self._private else 0o777, parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise RunDirectoryError(
                f"{self.path} is in use by another run; wait for it to end or choose another directory"
            ) from error
        except OSError as error:
            raise RunDirectoryError(f"{self.path} cannot be used as a run directory: {error.strerror}") from error
        try:
            self._open()
        except OSError as error:
            self._lock.release()
            raise RunDirectoryError(f"{self.path} cannot be used as a run directory: {error.strerror}") from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def check_same(self, task: Task, persona: Persona | None) -> None:
        """Raise RunDirectoryError if the finished task differs from `task`, or was played by another persona."""
        if self._played[task.id] != digest(task, persona):
            raise changed_task_error(task.id)

    def finish(self, trajectory: Trajectory, *, sync: bool = True) -> None:
        """Keep a finished trajectory. It is on disk when this returns or, without `sync`, once `sync` has returned."""
        with explained(self._trajectories.path):
            self._trajectories.append(trajectory, sync=sync)
        self._played[trajectory.task.id] = digest(trajectory.task, trajectory.persona)
        self._reliability.add(trajectory.task.id, trajectory.turns, trajectory.usage.calls)
        if self._failed.pop(trajectory.task.id, None):
            self._replace_failures()

    def sync(self) -> None:
        """Bring the trajectories that were kept without `sync` to the disk. It may be called on any thread."""
        with explained(self._trajectories.path):
            self._trajectories.sync()

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

    def begin(self, on_disk: Mapping[str, Any]) -> None:
        """Count what an earlier attempt that was killed spent, as far as it is on disk.

        Args:
            on_disk: The calls, tokens and turns of all trajectories and checkpoints now. They are kept in run.json
                until `add_totals`, which a killed attempt does not reach.
        """
        run = self._read()
        if "on_disk_at_start" in run:
            before = run["on_disk_at_start"]
            # Turns that were there then may be in a database that is not used any more.
            self._add(run, _positive(summed(on_disk, before, sign=-1)))
        self._write(run | {"on_disk_at_start": dict(on_disk)})

    def add_totals(self, totals: Mapping[str, Any]) -> None:
        """Add what this attempt spent to the totals in run.json, and write how reliable the rewards of turns are."""
        run = self._read()
        run.pop("on_disk_at_start", None)
        self._add(run, totals)
        found = self._reliability.result()
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
        if (self.path / "trajectories.jsonl").exists() and not (self.path / "run.json").exists():
            raise RunDirectoryError(f"{self.path} has trajectories and no run.json: choose another directory")
        if (self.path / "run.json").exists():
            if not self.resume:
                raise RunDirectoryError(f"{self.path} already holds a run: resume it, or choose another directory")
            run = self._read()
            self._compare(run.get("config", {}))
            if "id" not in run:  # Made by an earlier version.
                run = {"id": uuid4().hex, **run}
                self._write(run)
        else:
            run = {"id": uuid4().hex, "config": self.settings, "versions": _versions()}
            self._write(run)
        self.id = run["id"]
        self._trajectories.open()
        self._failures.open()
        # SQLite gives the files beside it the same permissions.
        os.close(os.open(self.checkpoints, os.O_CREAT | os.O_WRONLY, 0o600 if self._private else 0o644))
        for number, line in self._trajectories.lines():
            try:
                self._played[line["task"]["id"]] = digest(line["task"], line.get("persona"))
                usage = line.get("usage") or {}
                turns = [Turn.model_validate(turn) for turn in line.get("turns") or []]
                self._reliability.add(line["task"]["id"], turns, usage.get("calls", 0))
                self.spent = summed(self.spent, usage | {"turns": len(turns) or turns_in(line.get("messages") or [])})
            except (LookupError, TypeError, AttributeError, ValueError) as error:
                raise RunDirectoryError(f"{self._trajectories.path}:{number}: it is not a trajectory") from error
        failures = read_failures(self.path)
        self._failed = {one.task.id: one for one in failures if one.task.id not in self.finished}
        if len(self._failed) < len(failures):
            self._failures.replace(list(self._failed.values()))

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
                    f"{self.path} was made with {key} = {before.get(key)!r}, and now it is {now.get(key)!r}: "
                    "resume with the same settings, or choose another directory"
                )

    def _read(self) -> dict[str, Any]:
        return _read_run(self.path / "run.json")

    def _write(self, run: dict[str, Any]) -> None:
        draft = self.path / "run.json.new"
        text = mask(json.dumps(run, indent=2, ensure_ascii=False) + "\n")
        with explained(self.path / "run.json"):
            with open(draft, "w", encoding="utf-8", opener=self._trajectories.opener) as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / "run.json")


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise a RunDirectoryError that says what to do if a run's file at `path` cannot be read or written."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:  # From the disk, or from another program that uses the file.
        if isinstance(error, OSError):
            full, reason = error.errno == errno.ENOSPC, error.strerror
        else:
            full, reason = error.sqlite_errorcode == sqlite3.SQLITE_FULL, str(error)
        if full:
            raise RunDirectoryError(f"{path.parent}: the disk is full; free some space and resume") from error
        raise RunDirectoryError(f"{path} cannot be used: {reason}; fix that and resume") from error
    except sqlite3.DatabaseError as error:
        raise RunDirectoryError(
            f"{path} is not a database, or is damaged ({error}): delete it to start the unfinished tasks again"
        ) from error


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
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("collab-agents", "langgraph", "langchain-core", "langchain-openai", "transformers", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def turns_in(messages: Iterable[Message]) -> int:
    """Count the assistant's answers in a conversation without lookahead."""
    return sum(one.get("role") == "assistant" and not one.get("tool_calls") for one in messages)


def read_failures(path: str | Path) -> list[Failure]:
    """Return the failures that a run directory holds."""
    file = Path(path) / "failures.jsonl"
    return [read_record(Failure, line, file, number) for number, line in JsonlStore(file).lines()]


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the settings that a run directory was made with; empty if it has no run.json."""
    file = Path(path) / "run.json"
    return _read_run(file).get("config", {}) if file.exists() else {}


def read_totals(path: str | Path) -> dict[str, Any]:
    """Return what all attempts at a run spent, as far as known; empty if it has no run.json.

    `Usage.of` makes a usage of it.
    """
    file = Path(path) / "run.json"
    return _read_run(file).get("totals", {}) if file.exists() else {}


def _read_run(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{file} is not JSON: {error}") from error
    parts = {"id": str, "config": dict, "totals": dict}
    if not isinstance(run, dict) or not all(isinstance(run.get(key, kind()), kind) for key, kind in parts.items()):
        raise RunDirectoryError(f"{file} was not written by a run: choose another directory")
    return run


def changed_task_error(task_id: str) -> RunDirectoryError:
    return RunDirectoryError(
        f"task {task_id!r} or its persona has changed since the run began: resume with the same tasks and personas, "
        "or choose another directory"
    )


def digest(task: Task | Mapping[str, object], persona: Persona | Mapping[str, object] | None) -> str:
    """Return a hash of a task and its persona, to tell whether they have changed."""
    kept = [
        Task.model_validate(task).model_dump(mode="json"),
        Persona.model_validate(persona).model_dump(mode="json") if persona else None,
    ]
    text = mask(json.dumps(valid(kept), sort_keys=True))
    return hashlib.sha256(text.encode()).hexdigest()
