from collections.abc import Callable, Mapping
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import ConfigDict, PositiveFloat, validate_call

from collab_agents._internal.importing import callable_at, called, check_takes
from collab_agents.errors import ConfigError
from collab_agents.judges.base import OWN_TIMEOUT, Conversation, Judge, Score, checked, in_time
from collab_agents.judges.registry import register
from collab_agents.messages import is_assistants, to_dicts
from collab_agents.tasks import Task


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def reward_function(
    function: Callable[..., Any] | str,
    *,
    columns: Mapping[str, str] | None = None,
    timeout: PositiveFloat | None = OWN_TIMEOUT,
) -> Judge:
    """A TRL-style reward function as a judge.

    Args:
        function: The reward function, or where to import it from ("trl.rewards:accuracy_reward"). It is called with
            `prompts` and `completions`, lists of one conversation each (role/content dicts), and with the task's
            columns as lists of one value. The completion is the assistant's last reply, tool messages included, and the
            prompt is everything before it. It returns a list of one number, or None for no score. A sync function runs
            on a thread.
        columns: The function's name for a column, such as `{solution: reference}`. The columns are the task's `id`,
            `kind`, `goal` and `reference`, and all of its metadata.
        timeout: Seconds for one conversation, after which there is no score.
    """
    function = callable_at(function, "judge 'reward_function': function")

    def missing(task: Task) -> str | None:
        absent = [column for column in (columns or {}).values() if column not in _columns(task)]
        if absent:
            return f"task {task.id!r} has no {absent[0]!r} to pass to the reward function"
        try:
            check_takes(function, ["prompts", "completions", *_columns(task), *(columns or {})], "the reward function")
        except ConfigError as error:
            return f"task {task.id!r}: {error}"
        return None

    @checked(missing)
    async def judge(conversation: Conversation, task: Task) -> Score:
        prompt, completion = _split(list(conversation.messages))
        if not completion:
            return Score(None, "the assistant said nothing")
        there = _columns(task)
        given = there | {name: there[column] for name, column in (columns or {}).items()}
        arguments: dict[str, object] = {name: [value] for name, value in given.items()}
        both = {"prompts": [to_dicts(prompt)], "completions": [to_dicts(completion)]}
        (value,) = await in_time(called(function, arguments | both), timeout)
        return Score(None if value is None else float(value))

    return judge


def _columns(task: Task) -> dict[str, object]:
    return task.metadata | {"id": task.id, "kind": task.kind, "goal": task.goal, "reference": task.reference}


def _split(messages: list[BaseMessage]) -> tuple[list[BaseMessage], list[BaseMessage]]:
    end = max((index for index, message in enumerate(messages, 1) if message.type == "ai"), default=0)
    start = end
    while start and is_assistants(messages[start - 1]):
        start -= 1
    return messages[:start], messages[start:end]
