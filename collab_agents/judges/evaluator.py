import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, PositiveFloat, validate_call

from collab_agents._internal.importing import callable_at, called, check_takes
from collab_agents.errors import ConfigError
from collab_agents.judges.base import OWN_TIMEOUT, Conversation, Judge, Score, checked, in_time
from collab_agents.judges.registry import register
from collab_agents.messages import to_dicts
from collab_agents.tasks import Task


@register()
@validate_call(config=ConfigDict(arbitrary_types_allowed=True))
def evaluator(
    function: Callable[..., Any] | str,
    *,
    key: str | None = None,
    outputs: Literal["conversation", "reply"] = "conversation",
    timeout: PositiveFloat | None = OWN_TIMEOUT,
) -> Judge:
    """An openevals-style evaluator as a judge.

    The evaluator returns a dict with `score` (a number, true or false, or None for no score) and optionally `comment`
    and `key`, a list of such dicts, or a plain number.

    Args:
        function: The evaluator, or where to import it from ("my_module:evaluator"). It is called with those of these
            arguments that it takes: `inputs` (the task's goal), `outputs`, `reference_outputs` (the task's reference),
            `metadata` (the task's) and `state` (the assistant's; see `Conversation`). A sync function runs on a thread.
        outputs: The whole conversation as role/content dicts, or the text of the assistant's last message, for
            evaluators that compare it with the reference.
        key: Which result counts if there are several; by default their mean.
        timeout: Seconds for one conversation, after which there is no score.
    """
    function = callable_at(function, "judge 'evaluator': function")
    check_takes(
        function, ("inputs", "outputs", "reference_outputs", "metadata", "state"), "judge 'evaluator': function"
    )
    # Only to a function that names them: one that takes any argument may not expect these.
    takes = inspect.signature(function).parameters

    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        offered: dict[str, object] = {
            "inputs": task.goal,
            "outputs": to_dicts(conversation.messages)
            if outputs == "conversation"
            else next(reversed(conversation.assistant_texts()), ""),
            "reference_outputs": task.reference,
        }
        more = {"metadata": task.metadata, "state": conversation.state}
        offered |= {name: value for name, value in more.items() if name in takes}
        result = await in_time(called(function, offered), timeout)
        results = [_score(one, key) for one in (result if isinstance(result, list) else [result])]
        scores = [score for score in results if score is not None]
        if not scores:
            raise ConfigError(f"judge 'evaluator': no result has the key {key!r}")
        values = [score.value for score in scores if score.value is not None]
        reason = "; ".join(score.reason for score in scores if score.reason)
        return Score(sum(values) / len(values) if values else None, reason)

    return judge


def _score(result: Any, key: str | None) -> Score | None:
    if not isinstance(result, Mapping):
        return Score(None if result is None else float(result))
    if key is not None and result.get("key") != key:
        return None
    value = result.get("score")
    return Score(None if value is None else float(value), str(result.get("comment") or ""))
