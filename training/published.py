"""Read and write the published CollabLLM multiturn datasets (arXiv 2502.00640; package `collabllm` 0.0.8).

The nested form has one row per conversation: `single_turn_prompt`, `single_turn_completion`, `single_turn_metadata`
and `turns[{prompt, responses[{completion, score, ...}]}]`. The flat form has one row per response, with `conv_id` and
`turn_id` (the number of messages in its prompt). Both are converted from and to `Trajectory`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset
from pydantic import ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents.errors import ConfigError
from collab_agents.rewards import mean, unbiased
from collab_agents.tasks import Task
from collab_agents.trajectories import Candidate, Future, Message, Trajectory, Turn

Row = dict[str, Any]
"""A row of a dataset."""

_CONVERSATION = ("single_turn_prompt", "single_turn_completion", "single_turn_metadata")
_FLAT = (*_CONVERSATION, "prompt", "completion", "conv_id", "score")


def is_published(columns: Iterable[str]) -> bool:
    """Whether a table with these columns is in one of the two forms."""
    there = set(columns)
    return there.issuperset({*_CONVERSATION, "turns"}) or there.issuperset(_FLAT)


def from_published(rows: Iterable[Mapping[str, Any]], *, source: str = "the dataset") -> Iterator[Trajectory]:
    """Read rows of either published form as trajectories, one per conversation.

    A task's id is its `conv_id`, or the number of its row. A response's `sessions` and `rewards`, if present, become
    its futures and scores. The rows of a flat conversation need not be adjacent.

    Args:
        rows: The rows, all of one form.
        source: The dataset's name in errors.

    Raises:
        ConfigError: For a malformed row, naming the row (from 0) and the column.
    """
    by_number = isinstance(rows, Sequence | Dataset)
    kept: dict[int, Mapping[str, Any]] = {}
    flat: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        where = f"{source}, row {number}"
        missing = [name for name in (_CONVERSATION if "turns" in row else _FLAT) if name not in row]
        if missing:
            raise ConfigError(f"{where}: there is no column {missing[0]!r}, which the published form has")
        if "turns" in row:
            yield _trajectory(row, str(number if row.get("conv_id") is None else row["conv_id"]), where)
        else:
            flat.setdefault(row["conv_id"], []).append(number)
            if not by_number:
                kept[number] = row
    there: Any = rows if by_number else kept
    for conversation, numbers in flat.items():
        responses = _nested([there[number] for number in numbers])
        yield _trajectory(responses, str(conversation), f"{source}, row {numbers[0]}")


def to_nested(trajectories: Iterable[Trajectory]) -> Iterator[Row]:
    """Write trajectories as rows of the nested form, without candidates that have no reward.

    Raises:
        ConfigError: For a reply with tool messages, since the form holds one text per reply.
    """
    for trajectory in trajectories:
        yield {
            "conv_id": trajectory.task.id,
            "single_turn_prompt": trajectory.task.goal,
            "single_turn_completion": trajectory.task.reference,
            "single_turn_metadata": trajectory.task.metadata,
            "turns": [
                {
                    "prompt": turn.prompt,
                    "responses": [
                        _response(one, turn, trajectory) for one in turn.candidates if one.reward is not None
                    ],
                }
                for turn in map(unbiased, trajectory.turns)
            ],
        }


def to_flat(trajectories: Iterable[Trajectory]) -> Iterator[Row]:
    """Write trajectories as rows of the flat form, otherwise like `to_nested`."""
    for conversation in to_nested(trajectories):
        shared = {name: conversation[name] for name in ("conv_id", *_CONVERSATION)}
        for turn in conversation["turns"]:
            for response in turn["responses"]:
                yield {"prompt": turn["prompt"], "turn_id": len(turn["prompt"]), **response, **shared}


def _nested(responses: Sequence[Row]) -> Row:
    turns: dict[str, Row] = {}
    for row in responses:
        turn = turns.setdefault(json.dumps(row["prompt"]), {"prompt": row["prompt"], "responses": []})
        turn["responses"].append(row)
    ordered = sorted(turns.values(), key=lambda turn: len(turn["prompt"]))
    return {**{name: responses[0][name] for name in _CONVERSATION}, "turns": ordered}


def _trajectory(row: Mapping[str, Any], conversation: str, where: str) -> Trajectory:
    metadata = row["single_turn_metadata"]
    try:
        task = Task(
            id=conversation,
            goal=row["single_turn_prompt"],
            reference=row["single_turn_completion"],
            metadata=json.loads(metadata) if isinstance(metadata, str) else metadata or {},
        )
        turns = [_turn(turn) for turn in row["turns"] if turn["responses"]]
        if not turns:
            raise ConfigError(f"{where}: the conversation has no turn with a response")
        best = turns[-1].candidates[turns[-1].chosen]
        return Trajectory(
            task=task,
            messages=[*turns[-1].prompt, *best.messages],
            stopped="max_turns",
            turns=turns,
            reward=best.reward,
            scores=best.scores,
        )
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{where}: not a conversation of the published form ({type(error).__name__}: {error})"
        ) from error


def _turn(turn: Row) -> Turn:
    prompt = [_message(message) for message in turn["prompt"]]
    candidates = [_candidate(response, len(prompt)) for response in turn["responses"]]
    rewards = [-float("inf") if one.reward is None else one.reward for one in candidates]
    return Turn(prompt=prompt, chosen=rewards.index(max(rewards)), candidates=candidates)


def _message(message: Message) -> Message:
    return {key: value for key, value in message.items() if value is not None}


def _candidate(response: Row, length: int) -> Candidate:
    # Arrow fills missing values with None.
    sessions = response.get("sessions") or []
    rewards = {name: values for name, values in (response.get("rewards") or {}).items() if values}
    futures = [
        Future(
            messages=[_message(message) for message in session[length + 1 :]],
            reward=rewards["MR"][i] if "MR" in rewards else None,
            scores={name: values[i] for name, values in rewards.items() if name != "MR"},
        )
        for i, session in enumerate(sessions)
    ]
    return Candidate(
        messages=[{"role": "assistant", "content": response["completion"]}],
        reward=response["score"],
        scores={name: mean(values) for name, values in rewards.items() if name != "MR"},
        futures=futures,
    )


def _response(candidate: Candidate, turn: Turn, trajectory: Trajectory) -> Row:
    if len(candidate.messages) != 1 or candidate.messages[0].get("tool_calls"):
        raise ConfigError(
            f"task {trajectory.task.id!r} has a reply with tool messages, and the published form holds one text per "
            "reply: export it as a preference dataset instead"
        )
    response: Row = {"completion": candidate.messages[0]["content"], "score": candidate.reward}
    scored = [future for future in candidate.futures if future.counts]
    if scored:
        names = scored[0].scores
        response["sessions"] = [[*turn.prompt, *candidate.messages, *future.messages] for future in scored]
        response["rewards"] = {name: [future.scores.get(name) for future in scored] for name in names}
        response["rewards"]["MR"] = [future.reward for future in scored]
    return response
