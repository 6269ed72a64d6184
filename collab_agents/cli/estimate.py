from collections.abc import Sequence

from rich.console import Console

from collab_agents.cli.costs import usage_table
from collab_agents.cli.progress import LOADING
from collab_agents.config import AgendaUserConfig, JudgeConfig, LLMUserConfig, RunConfig, ScriptedUserConfig
from collab_agents.config.build import Composition, Models, compose, personas_of, tasks_of
from collab_agents.config.sections import ModelConfig
from collab_agents.costs import given_prices
from collab_agents.errors import ConfigError, RolloutError
from collab_agents.judges import Conversation, Judge, Score
from collab_agents.lookahead import Lookahead
from collab_agents.models import LimitedChatModel, check_chat_model
from collab_agents.models.load import label_of
from collab_agents.models.stand_in import REPLY_TOKENS, TEXT_TOKENS, StandIn
from collab_agents.rewards import MultiturnReward
from collab_agents.runs import check_tasks, estimate_cost
from collab_agents.tasks import Task
from collab_agents.usage import dollars
from collab_agents.value import value_of


async def estimate(config: RunConfig, *, calls: bool) -> None:
    """Play the first task, and print what the whole run will cost. Without `calls`, stand-ins take the models' place.

    Raises:
        ConfigError: Without `calls`, if the configuration has code that may call models of its own.
    """
    console = Console()
    with console.status(LOADING):
        parts, value = compose(config) if calls else _without_calls(config), value_of(config.lookahead)
        total = check_tasks(config.tasks.source, tasks_of(config.tasks), parts.user, parts.reward, value)
        first = next(tasks_of(config.tasks))
        if calls:
            for model in parts.models:
                await check_chat_model(model)
    how = f"playing {first.id} once" if calls else "the configuration alone, without a call"
    console.print(f"Estimating {total} tasks from {how} ...", highlight=False)
    with console.status("playing"), given_prices(config.prices):
        try:
            estimated = await estimate_cost(
                first,
                tasks=total,
                user=parts.user,
                assistant=parts.assistant,
                reward=parts.reward,
                lookahead=config.lookahead if calls else _most(config.lookahead),
                personas=personas_of(config.user),
                seed=config.seed,
                max_concurrency=config.limits.max_concurrency,
                models=parts.models,
            )
        except RolloutError as error:
            raise RolloutError(f"{first.id} could not be played, so there is no estimate: {error}") from error
    usage = estimated.usage
    console.print(usage_table(usage, f"{total} tasks, estimated"))
    hours = f"{estimated.seconds / 3600:.2g} hours" if calls else "hours unknown without a call"
    cost = dollars(usage)
    console.print(
        f"{usage.calls:,} calls, {usage.input_tokens + usage.output_tokens:,} tokens, "
        f"{'dollars unknown' if cost == 'unknown' else f'{cost} dollars'}, {hours}",
        highlight=False,
    )
    if not calls:
        console.print(
            f"Assumed: replies of {REPLY_TOKENS} tokens, {TEXT_TOKENS} for each text in a JSON object, 4 characters a "
            "token, nothing cached, and a user played by a model never ends a conversation.",
            highlight=False,
        )


class _StandIns(Models):
    """Stand-ins for the models of a run."""

    def _load(self, config: ModelConfig) -> LimitedChatModel:
        return StandIn(label=label_of(config.name, config.base_url), max_tokens=config.max_tokens)


def _without_calls(config: RunConfig) -> Composition:
    if config.assistant.app is not None:
        raise ConfigError("--no-calls: assistant.app may call models of its own; leave --no-calls out")
    if not isinstance(config.user, LLMUserConfig | AgendaUserConfig | ScriptedUserConfig):
        raise ConfigError("--no-calls: a user of your own may call models of its own; leave --no-calls out")
    if isinstance(config.user, LLMUserConfig) and config.user.tools:
        raise ConfigError("--no-calls: a stand-in cannot use user.tools; leave --no-calls out")
    parts = compose(config, _StandIns.within(config.limits))
    parts.reward = _always_scored(parts.reward, config.judges)
    return parts


def _most(lookahead: Lookahead) -> Lookahead:
    """Return a lookahead that plays every future that this one may. Filler decides no choice, and no user is faulty."""
    given = lookahead.model_dump(include={"candidates", "window", "max_exchanges", "proactive_ratio"})
    return Lookahead(**given, futures=lookahead.most_futures)


def _always_scored(reward: MultiturnReward, configs: Sequence[JudgeConfig]) -> MultiturnReward:
    """Return a reward whose judges with a model ask it, and then score 0 for the filler. Others are not called."""

    def stand_in(judge: Judge | None) -> Judge:
        async def score(conversation: Conversation, task: Task) -> Score:
            if judge is not None:
                await judge(conversation, task)
            return Score(0.0)

        return score

    return MultiturnReward({one.name: stand_in(reward.judges[one.name] if one.model else None) for one in configs})
