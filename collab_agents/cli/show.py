from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from collab_agents._internal.text import harmless
from collab_agents.cli.costs import usage_table
from collab_agents.cli.progress import print_failures
from collab_agents.cli.summary import Summary
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.lookahead import Components
from collab_agents.rewards import best_in
from collab_agents.runs.directory import read_failures, read_totals
from collab_agents.trajectories import Candidate, Message, Trajectory, is_run, read_trajectories
from collab_agents.usage import Usage
from collab_agents.variance import ReliabilityTally, chosen_probabilities

_IDS = 8
_IN_TABLE = ("parts", "priced", "dollars")
_ENDS = {"user": "the user ended it", "max_turns": "the exchanges ran out", "interrupted": "it was interrupted"}


def show(run: Path, task: str | None, *, turn: int | None, brief: bool) -> None:
    """Print the trajectory of a task or one of its turns, or a summary of the run. `brief` cuts messages to a line.

    Raises RunDirectoryError if there is none, and ConfigError if there is no such turn.
    """
    if task is None:
        if turn is not None or brief:
            raise ConfigError("--turn and --brief need --task, the trajectory to print")
        _summarise(run)
        return
    found, components = _find(run, task)
    if turn is not None and turn > len(found.turns):
        raise ConfigError(f"--turn {turn}: {task} has {len(found.turns)} turns by lookahead")
    tree = _tree(found, turn, chosen_probabilities(found.turns, components))
    Console().print(tree, no_wrap=brief or None, overflow="ellipsis" if brief else None)


def _find(run: Path, task: str) -> tuple[Trajectory, Components | None]:
    """Return the task's trajectory, and the variances of the whole run's rewards."""
    found: Trajectory | None = None
    tally = ReliabilityTally()
    for trajectory in read_trajectories(run):
        tally.add(trajectory.task.id, trajectory.turns, trajectory.usage.calls)
        if found is None and trajectory.task.id == task:
            found = trajectory
    if found is None:
        raise RunDirectoryError(f"{run} has no finished trajectory of a task {task!r}")
    return found, tally.components()


def _summarise(run: Path) -> None:
    console, summary, ids = Console(), Summary(), list[str]()
    for trajectory in read_trajectories(run):
        summary.add(trajectory)
        if len(ids) <= _IDS:
            ids.append(trajectory.task.id)
    if not ids:
        raise RunDirectoryError(f"{run} has no finished trajectory")
    summary.print(console, "trajectories")
    if is_run(run):
        totals = read_totals(run)
        usage = Usage.of(totals)
        if usage.parts:
            console.print(usage_table(usage, "model calls"))
        counts = {name: value for name, value in totals.items() if name not in _IN_TABLE}
        console.print(_styled(", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()), ""))
        print_failures(console, read_failures(run), run / "failures.jsonl")
    tasks = ", ".join(ids[:_IDS]) + (", ..." if len(ids) > _IDS else "")
    console.print(_styled(f"--task prints one of them as a tree: {tasks}", ""))


def _tree(trajectory: Trajectory, only: int | None, probabilities: Sequence[float | None]) -> Tree:
    persona = f", played by {trajectory.persona.name}" if trajectory.persona else ""
    root = Tree(_styled(f"task {trajectory.task.id} ({trajectory.task.kind}{persona})", "bold"))
    root.add(_styled(f"goal: {trajectory.task.goal}", "italic"))
    if not trajectory.turns:  # Played without lookahead.
        for message in trajectory.messages:
            root.add(_said(message))
    for number, turn in enumerate(trajectory.turns, 1):
        if only not in (None, number):
            continue
        known = probabilities[number - 1]
        sure = "" if known is None else f": the chosen candidate is the best with probability {known:.2f}"
        branch = root.add(_styled(f"turn {number}{sure}", "bold cyan"))
        branch.add(_said(turn.prompt[-1]))
        best = best_in(trajectory.turns[:number])
        for index, candidate in enumerate(turn.candidates):
            _add_candidate(branch, index, candidate, chosen=index == turn.chosen, highest=index == best)
    end = f"end: {_ENDS[trajectory.stopped]}; reward {_number(trajectory.reward)}  {_scores(trajectory.scores)}"
    root.add(_styled(end, "bold"))
    unjudged = [trajectory.reasons.get(name, "") for name, score in trajectory.scores.items() if score is None]
    for reason in dict.fromkeys(unjudged):
        root.add(_styled(f"not judged: {reason}", "red"))
    if trajectory.turns and only in (None, len(trajectory.turns)):
        last = trajectory.turns[-1]
        for message in trajectory.messages[len(last.prompt) + len(last.candidates[last.chosen].messages) :]:
            root.add(_said(message))
    return root


def _add_candidate(branch: Tree, index: int, candidate: Candidate, *, chosen: bool, highest: bool) -> None:
    mark = "chosen " if chosen else "highest " if highest else ""
    proactive = " (proactive)" if candidate.proactive else ""
    error = candidate.standard_error
    reward = _number(candidate.reward) + ("" if error is None else f" \N{PLUS-MINUS SIGN} {error:.3f}")
    title = f"{mark}candidate {index}{proactive}: reward {reward}  {_scores(candidate.scores)}"
    node = branch.add(_styled(title, "green" if chosen else "default"))
    for message in candidate.messages:
        node.add(_said(message))
    if candidate.error:
        node.add(_styled(candidate.error, "red"))
    for number, future in enumerate(candidate.futures):
        title = f"future {number}: reward {_number(future.reward)}  {_scores(future.scores)}"
        leaf = node.add(_styled(title, "yellow"))
        if future.error:
            leaf.add(_styled(future.error, "red"))
        if future.dropped:
            leaf.add(_styled(f"dropped for faults of the simulated user: {', '.join(future.dropped)}", "red"))
        for message in future.messages:
            leaf.add(_said(message))


def _said(message: Message) -> Text:
    words = message.get("content") or ""
    calls = [f"[calls {call['function']['name']}]" for call in message.get("tool_calls") or []]
    text = words if isinstance(words, str) else str(words)
    return Text.assemble((f"{message['role']}: ", "bold"), harmless(" ".join([*text.split(), *calls])))


def _styled(text: str, style: str) -> Text:
    return Text(harmless(text), style=style, no_wrap=False)


def _scores(scores: dict[str, float | None]) -> str:
    return "  ".join(f"{name} {_number(value)}" for name, value in scores.items())


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
