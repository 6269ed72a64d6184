"""Join a Ray cluster, or start Ray on this machine."""

import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray

from collab_agents._internal.reasons import words_of
from collab_agents.errors import ConfigError, WorkersError
from collab_agents.runs.workers.options import RayOptions

_CONNECT_SECONDS = 5.0

_ATTEMPTS = 4
"""Ray's server for ray:// crashes in a part of its starts, since it forks while gRPC is busy (seen in ray 2.60)."""

_METRICS = "RAY_enable_metrics_collection"
"""If a process collects Ray's metrics, its memory grows by half a kB a second for each name of a task it has seen."""

_OPTIONS = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
"""Resources that Ray's actors take as options of their own."""


@contextmanager
def connected(options: RayOptions, modules: list[str]) -> Iterator[bool]:
    """Connect to Ray, and disconnect at the end unless Ray was initialized before.

    Yields whether calls may have names of their own: not if Ray collects metrics in this process.

    Args:
        options: The cluster and its workers.
        modules: Files and folders of modules to send to workers on other machines.

    Raises:
        ConfigError: If the runtime environment is not valid.
        WorkersError: If the cluster cannot be reached.
    """
    if ray.is_initialized():
        yield False
        return
    _check_reachable(options.address)
    environment = dict(options.runtime_env)
    if options.address is not None:
        environment["env_vars"] = {_METRICS: "0", **environment.get("env_vars", {})}
        if not {"py_modules", "working_dir"} & environment.keys():
            environment["py_modules"] = modules
    os.environ.setdefault(_METRICS, "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        with _own_signals():
            _connect(
                address=options.address or "local",
                num_cpus=_cores(options) if options.address is None else None,
                runtime_env=environment or None,
                namespace="collab-agents",
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"ray.runtime_env: {words_of(error)}") from error
    except Exception as error:  # Ray raises its own, and those of the libraries that it calls.
        where = options.address or "this machine"
        raise WorkersError(f"Ray cannot be reached at {where}: {words_of(error)}") from error
    try:
        yield os.environ[_METRICS] == environment.get("env_vars", {}).get(_METRICS, "0") == "0"
    finally:
        with _own_signals():
            ray.shutdown()


def _connect(**options: Any) -> None:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            ray.init(**options)
            return
        except ConnectionAbortedError:
            if attempt == _ATTEMPTS:
                raise


def _check_reachable(address: str | None) -> None:
    """Raise WorkersError if nobody listens at the address. Ray itself would try again for minutes."""
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkersError(f"Ray cannot be reached at {address}: {error.strerror or error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # Not on the main thread, where Ray does not replace it either.
            signal.signal(signal.SIGTERM, before)


def _cores(options: RayOptions) -> int:
    """Return how many processors a Ray on this machine is to have, so that the wanted workers fit."""
    wanted = (options.workers or 1) * options.resources.get("CPU", 0.0)
    return max(os.cpu_count() or 1, math.ceil(wanted))


def actor_options(options: RayOptions) -> dict[str, Any]:
    """Return the resources of a worker as options of a Ray actor."""
    found: dict[str, Any] = {"num_cpus": 0, "resources": {}}
    for name, amount in options.resources.items():
        if name in _OPTIONS:
            found[_OPTIONS[name]] = amount
        else:
            found["resources"][name] = amount
    return found


def room_for(options: RayOptions, nodes: list[Mapping[str, Any]]) -> int:
    """Return how many workers the cluster's nodes have resources for in all."""
    needs = {name: amount for name, amount in options.resources.items() if amount > 0}
    total = 0
    for node in nodes:
        has = node["Resources"] if node["Alive"] else {}
        total += min((int(has.get(name, 0.0) / amount) for name, amount in needs.items()), default=sys.maxsize)
    return total


def nodes_in_words(nodes: list[Mapping[str, Any]]) -> str:
    """Return the resources of the cluster's nodes, for an error."""
    shown = []
    for node in nodes:
        if node["Alive"]:
            has = {name: amount for name, amount in node["Resources"].items() if ":" not in name}
            shown.append(", ".join(f"{name} {amount:g}" for name, amount in sorted(has.items())) or "nothing")
    return "; ".join(shown) or "no nodes"
