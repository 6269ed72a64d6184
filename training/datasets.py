"""Datasets for TRL from scored trajectories: conversations, preferences and prompts.

Every dataset is conversational (role/content dicts, with tool messages) and has a column `task_id`. It is split by
task, so the turns of one task are never in both splits.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset, load_from_disk

from collab_agents._internal.bootstrap import Array
from collab_agents._internal.rows import load_fresh
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.lookahead import Components
from collab_agents.personas import Persona
from collab_agents.rewards import unbiased
from collab_agents.tasks import Task
from collab_agents.training.made import Made
from collab_agents.training.on_disk import Best, RowFile, Seen
from collab_agents.training.published import Row, from_published, is_published
from collab_agents.trajectories import Candidate, Message, Trajectory, Turn, is_run, read_trajectories
from collab_agents.variance import ReliabilityTally, better_probability, true_rewards

Pairs = Literal["best_worst", "all"]


def dataset_of(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Return the rows as a dataset with all their columns; `Dataset.from_list` takes only the first row's."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])


def read_all(sources: Iterable[str | Path]) -> Iterable[Trajectory]:
    """Read the trajectories of run directories, JSONL files and datasets in a published form, one at a time.

    Args:
        sources: Run directories, JSONL files of trajectories, or published datasets: folders saved by `datasets`,
            JSON, JSONL or Parquet files, or Hub repositories. If there are several sources, the task ids of published
            conversations begin with their source.

    Returns:
        The trajectories. Every iteration reads them again.

    Raises:
        RunDirectoryError: While reading, for a run without a finished trajectory.
        ConfigError: For no source or, while reading, for a source that is none of these.
    """
    listed = [str(source) for source in sources]
    if not listed:
        raise ConfigError("no run directory or dataset was given: name at least one")
    return _Trajectories(listed)


@dataclass(frozen=True)
class _Trajectories:
    sources: Sequence[str]

    def __iter__(self) -> Iterator[Trajectory]:
        for source in self.sources:
            found = False
            for trajectory in _read(source, named=len(self.sources) > 1):
                found = True
                yield trajectory
            if not found:
                raise RunDirectoryError(
                    f"{source}: there is no finished trajectory; see failures.jsonl, or generate first"
                )


def _read(source: str, *, named: bool) -> Iterator[Trajectory]:
    path = Path(source)
    if is_run(source) or _holds_trajectories(path):
        yield from map(_of_its_task, read_trajectories(source))
        return
    rows = load_rows(source)
    first = next(iter(rows), None)
    if first is not None and not is_published(first):
        raise ConfigError(
            f"{source}: neither a run directory nor a dataset in a published form (columns: {', '.join(first)})"
        )
    for trajectory in from_published(rows, source=source):
        if named:
            task = trajectory.task.model_copy(update={"id": f"{source}#{trajectory.task.id}"})
            trajectory = trajectory.model_copy(update={"task": task})
        yield trajectory


def _of_its_task(trajectory: Trajectory) -> Trajectory:
    """Give a session of `collab-agents chat`, which has its own id, the id of its task."""
    session = trajectory.task.metadata.get("session")
    if not isinstance(session, dict) or "task" not in session:
        return trajectory
    return trajectory.model_copy(update={"task": trajectory.task.model_copy(update={"id": session["task"]})})


def _holds_trajectories(path: Path) -> bool:
    if not (path.is_file() and path.suffix == ".jsonl"):
        return False
    with open(path, encoding="utf-8") as file:
        try:
            return {"task", "messages", "turns"} <= set(json.loads(file.readline()))
        except (ValueError, TypeError):
            return False


def load_rows(source: str) -> Dataset:
    """Return a dataset's rows, with all splits concatenated. Raises ConfigError if it cannot be read."""
    return concatenate_datasets(list(load_splits(source).values()))


def load_splits(source: str) -> DatasetDict:
    """Return a dataset's splits ("train" if it has none). Raises ConfigError if it cannot be read."""
    path = Path(source)
    try:
        if path.is_dir() and ((path / "state.json").exists() or (path / "dataset_dict.json").exists()):
            loaded = load_from_disk(str(path))
        elif path.is_file():
            loaded = _read_file(path)
        elif source.startswith((".", "/", "~")) and not path.exists():
            raise ConfigError(f"{source}: there is no such file or folder")
        else:
            loaded = load_fresh(source)
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{source}: there is no such folder, and no such readable dataset on the Hub: {reason}"
        ) from error
    return DatasetDict({"train": loaded}) if isinstance(loaded, Dataset) else loaded


def _read_file(path: Path) -> Dataset | DatasetDict:
    # `datasets` reads JSON numbers inexactly.
    if path.suffix == ".jsonl":
        rows = RowFile()
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    rows.append(json.loads(line))
        return rows.dataset()
    if path.suffix == ".json":
        return dataset_of(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".parquet":
        return load_dataset("parquet", data_files=str(path))
    raise ConfigError(f"{path}: expected a .json, .jsonl or .parquet file")


def sft_rows(
    trajectories: Iterable[Trajectory],
    *,
    lower_bounds: Mapping[str, float] | None = None,
    best_share: float = 1.0,
    system_prompt: str | None = None,
) -> Made:
    """Make rows for supervised fine-tuning: the conversation of each task with the highest reward.

    Args:
        trajectories: Scored trajectories.
        lower_bounds: The lowest score by judge, or by "reward". Conversations with a lower score, or without that
            score, are left out.
        best_share: The share of the tasks to keep, those with the highest rewards, in (0, 1]; rounded up.
        system_prompt: Put before every conversation that has none.

    Returns:
        Rows with the columns `messages`, `task_id` and `reward`.

    Raises:
        ConfigError: For a bound of an unknown judge, a share that is none, or if there are no rows.

    Example:
        made = sft_rows(read_all(["runs/first"]), lower_bounds={"fact_coverage": 0.5})
        splits = split_by_task(made.dataset(), eval_share=0.1)
    """
    if not 0 < best_share <= 1:
        raise ConfigError(f"best_share must be above 0 and at most 1, got {best_share}")
    made = Made("sft")
    bounds = lower_bounds or {}
    best = Best()
    for trajectory in trajectories:
        made.made_from += 1
        if bounds:
            _check_names(bounds, trajectory)
        if trajectory.reward is None:
            made.dropped["conversations without a reward"] += 1
        elif below := _below(trajectory, bounds):
            made.dropped[f"conversations below the bound of {below}"] += 1
        else:
            best.add(trajectory.task.id, trajectory.reward, len(made))
            messages = _till_assistant(trajectory.messages)
            made.add(
                {
                    "messages": _with_system(messages, system_prompt),
                    "task_id": trajectory.task.id,
                    "reward": trajectory.reward,
                }
            )
    if len(best) < len(made):
        made.dropped["conversations that are not their task's best"] = len(made) - len(best)
    most = math.ceil(best_share * len(best))
    if most < len(best):
        made.dropped[f"tasks beyond the best share of {best_share}"] = len(best) - most
    if most < len(made):
        made.keep(number for number, _ in best.rows(most))
    for _, reward in best.rows(most):
        made.rewards.add(reward)
    return _checked(made, "lower the bounds, or generate more")


def preference_rows(
    trajectories: Iterable[Trajectory],
    *,
    minimum_gap: float = 0.0,
    minimum_probability: float = 0.0,
    pairs: Pairs = "best_worst",
    system_prompt: str | None = None,
) -> Made:
    """Make preference rows: two replies to the same prompt with different rewards.

    With adaptive allocation, the rewards are those of the first futures (`rewards.unbiased`).

    Args:
        trajectories: Scored trajectories with turns.
        minimum_gap: The smallest difference in reward. Equal rewards never make a pair.
        minimum_probability: The smallest probability that the chosen reply is better, in [0, 1), given the variances of
            all the trajectories' rewards (see `variance.true_rewards`). The trajectories are then read twice, so they
            cannot be an iterator.
        pairs: "best_worst" pairs the best reply of each turn with the worst, "all" makes every pair.
        system_prompt: Put before every prompt that has none.

    Returns:
        Rows with the columns `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected` and `task_id`, and with
        a minimum probability also `probability`.

    Raises:
        ConfigError: If there are no rows, the probabilities are unknown, or trajectories that are to be read twice are
            an iterator.

    Example:
        made = preference_rows(read_all(["runs/first"]), minimum_gap=0.1)
        print(made.report())
    """
    made = Made("preference")
    largest_gap = -math.inf
    surest: float | None = None
    components = _components_of(trajectories) if minimum_probability else None
    for trajectory in trajectories:
        made.made_from += 1
        for turn in map(unbiased, trajectory.turns):
            scored = _distinct(turn)
            made.dropped["candidates without a reward"] += sum(one.reward is None for one in turn.candidates)
            made.dropped["turns without two different scored candidates"] += len(scored) < 2
            drawn = _true_rewards(scored, components) if components and scored else None
            for better, worse in _pairs(len(scored), pairs):
                chosen, rejected = scored[better], scored[worse]
                assert chosen.reward is not None
                assert rejected.reward is not None
                gap = chosen.reward - rejected.reward
                largest_gap = max(gap, largest_gap)
                if gap <= 0 or gap < minimum_gap:
                    made.dropped["pairs below the minimum gap" if gap > 0 else "pairs of equal reward"] += 1
                    continue
                row: Row = {
                    "prompt": _with_system(turn.prompt, system_prompt),
                    "chosen": chosen.messages,
                    "rejected": rejected.messages,
                    "score_chosen": chosen.reward,
                    "score_rejected": rejected.reward,
                    "task_id": trajectory.task.id,
                }
                probability = None if drawn is None else better_probability(drawn, better, worse)
                if probability is not None:
                    surest = max(probability, surest or 0.0)
                    if probability < minimum_probability:
                        made.dropped["pairs below the minimum probability"] += 1
                        continue
                    row["probability"] = probability
                made.add(row, reward=chosen.reward, gap=gap, probability=probability)
    if largest_gap == -math.inf:
        advice = "generate with candidates: 2 or more"
    elif surest is not None and surest < minimum_probability:
        advice = (
            f"the most probable pair has {surest:.2f}: lower minimum_probability ({minimum_probability:g}), or play "
            "more futures"
        )
    elif largest_gap <= 0:
        advice = "all candidates of every turn have the same reward: look at the judges, or raise the temperature"
    else:
        advice = f"the largest gap is {largest_gap:.3g}: lower minimum_gap ({minimum_gap:.3g}), or generate more"
    return _checked(made, advice)


def prompt_rows(trajectories: Iterable[Trajectory], *, system_prompt: str | None = None) -> Made:
    """Make rows for online training: every distinct prompt of every turn, with its task (see `prompt_row`).

    Args:
        trajectories: Trajectories with turns.
        system_prompt: Put before every prompt that has none.

    Raises:
        ConfigError: If there are no rows.
    """
    made = Made("prompts")
    seen = Seen()
    for trajectory in trajectories:
        made.made_from += 1
        for turn in trajectory.turns:
            if not seen.add([trajectory.task.id, turn.prompt]):
                made.dropped["repeated prompts"] += 1
                continue
            row = prompt_row(_with_system(turn.prompt, system_prompt), trajectory.task, trajectory.persona)
            made.add(row, reward=turn.candidates[0].reward if turn.candidates else None)
    return _checked(made, "generate first")


def prompt_row(prompt: Sequence[Message], task: Task, persona: Persona | None) -> Row:
    """Return a row for online training: the prompt, the task's fields and the persona.

    The task's metadata and the persona are JSON texts, so that all rows have the same types. `task_of_row` and
    `persona_of_row` read them back.
    """
    return {
        "prompt": list(prompt),
        "task_id": task.id,
        "kind": task.kind,
        "goal": task.goal,
        "reference": task.reference,
        "metadata": json.dumps(task.metadata),
        "persona": persona.model_dump_json() if persona else None,
    }


def task_of_row(row: Mapping[str, Any]) -> Task:
    """Return the task of a row made by `prompt_row`, or of any row with a column `goal`; other columns are optional."""
    metadata = row.get("metadata")
    return Task(
        id=str(row.get("task_id") or "task"),
        kind=row.get("kind") or "",
        goal=row["goal"],
        reference=row.get("reference"),
        metadata=json.loads(metadata) if isinstance(metadata, str) else metadata or {},
    )


def persona_of_row(row: Mapping[str, Any]) -> Persona | None:
    persona = row.get("persona")
    if persona is None:
        return None
    return Persona.model_validate_json(persona) if isinstance(persona, str) else Persona.model_validate(persona)


def split_by_task(dataset: Dataset, *, eval_share: float = 0.0, seed: int = 0) -> DatasetDict:
    """Split a dataset by task into `train` and, if `eval_share` is not 0, `eval`.

    Args:
        dataset: A dataset with a column `task_id`.
        eval_share: The approximate share of tasks in `eval`, in [0, 1). Each task is drawn by its id and the seed.
        seed: The seed of the draw.

    Raises:
        ConfigError: If `eval_share` is outside [0, 1), or a split would be empty.
    """
    check_share(eval_share)
    if eval_share == 0:
        return DatasetDict({"train": dataset})
    held = np.fromiter((is_held_out(task, eval_share, seed) for task in dataset["task_id"]), bool, len(dataset))
    if held.all() or not held.any():
        raise empty_side_error(eval_share, len(set(dataset["task_id"])))
    return DatasetDict({"train": dataset.select(np.flatnonzero(~held)), "eval": dataset.select(np.flatnonzero(held))})


def check_share(eval_share: float) -> None:
    """Raise ConfigError if a share of tasks is outside [0, 1)."""
    if not 0 <= eval_share < 1:
        raise ConfigError(f"eval_share must be at least 0 and below 1, got {eval_share}")


def is_held_out(task_id: object, eval_share: float, seed: int) -> bool:
    """Return whether a task is in `eval`."""
    return derive_seed(seed, "eval", str(task_id)) < eval_share * 2**31


def empty_side_error(eval_share: float, tasks: int) -> ConfigError:
    return ConfigError(
        f"eval_share {eval_share} of {tasks} tasks leaves one side empty: choose another share or seed, or more tasks"
    )


def _distinct(turn: Turn) -> list[Candidate]:
    """Return the scored candidates, best first, with only the first of identical replies."""
    scored = {json.dumps(one.messages): one for one in reversed(turn.candidates) if one.reward is not None}
    return sorted(scored.values(), key=lambda one: -(one.reward or 0.0))


def _pairs(count: int, pairs: Pairs) -> Iterator[tuple[int, int]]:
    """Return pairs of places among so many replies, sorted by reward."""
    if pairs == "all":
        yield from combinations(range(count), 2)
    elif count > 1:
        yield 0, count - 1


def _components_of(trajectories: Iterable[Trajectory]) -> Components:
    if iter(trajectories) is trajectories:
        raise ConfigError(
            "minimum_probability reads the trajectories twice: pass a list, or read_all(...), instead of an iterator"
        )
    tally = ReliabilityTally()
    for one in trajectories:
        tally.add(one.task.id, one.turns, one.usage.calls)
    components = tally.components()
    if components is None:
        raise ConfigError(
            "minimum_probability: how much rewards vary is unknown; it takes turns with two candidates or more, and "
            "candidates with two futures or more"
        )
    return components


def _true_rewards(scored: Sequence[Candidate], components: Components) -> Array:
    return true_rewards([one.reward or 0.0 for one in scored], [max(1, one.scored) for one in scored], components)


def _below(trajectory: Trajectory, bounds: Mapping[str, float]) -> str | None:
    scores = {**trajectory.scores, "reward": trajectory.reward}
    for name, bound in bounds.items():
        score = scores.get(name)
        if score is None or score < bound:
            return f"{bound:g} for {name}"
    return None


def _check_names(bounds: Mapping[str, float], trajectory: Trajectory) -> None:
    known = {*trajectory.scores, "reward"}
    for name in bounds:
        if trajectory.scores and name not in known:
            raise ConfigError(f"lower_bounds: {name!r} is not one of the judges {', '.join(sorted(known))}")


def _till_assistant(messages: Sequence[Message]) -> list[Message]:
    """Drop what follows the assistant's last message: nothing is learnt from it, and it costs memory."""
    end = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    return list(messages[: end + 1])


def _with_system(messages: Sequence[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None or (messages and messages[0]["role"] == "system"):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]


def _checked(made: Made, advice: str) -> Made:
    made.dropped = +made.dropped
    if not len(made):
        raise ConfigError(f"there is nothing to train on: {made.report()}. {advice[:1].upper()}{advice[1:]}.")
    return made
