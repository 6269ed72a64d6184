from pydantic import PositiveInt, validate_call

from collab_agents.errors import ConfigError
from collab_agents.judges.base import Conversation, Judge, Score, checked
from collab_agents.judges.registry import register
from collab_agents.messages import to_dicts
from collab_agents.tasks import Task


@register()
@validate_call
def reward_model(
    repo: str,
    *,
    label: str | int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_batch_size: PositiveInt = 16,
) -> Judge:
    """The logit that a reward model gives the conversation, unbounded (extra `local`).

    A conversation that is longer than the model's context gets no score.

    Args:
        repo: A sequence-classification model with a chat template, from the Hub or a folder. It is loaded once per
            process.
        label: Which logit counts, by number or name, if the model has several.
        dtype: As for local chat models.
        device: As for local chat models.
        max_batch_size: The most conversations that are scored in one batch.

    Raises:
        ConfigError: If the model cannot be loaded, or does not have the label.
    """
    try:
        from collab_agents.models.reward import load_reward_model
    except ImportError as error:
        raise ConfigError(f"judge 'reward_model' needs {error.name}: pip install 'collab-agents[local]'") from error
    engine = load_reward_model(repo, dtype=dtype, device=device, max_batch_size=max_batch_size)
    column = engine.column(label)

    @checked()
    async def judge(conversation: Conversation, task: Task) -> Score:
        return Score((await engine.logits(to_dicts(conversation.messages)))[column])

    return judge
