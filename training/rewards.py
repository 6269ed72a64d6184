"""The multiturn-aware reward as a TRL reward function: futures of every sampled reply are simulated and judged.

All it knows about trainers is how they call a reward function (TRL 1.16: keyword arguments `prompts`, `completions`,
`completion_ids`, the dataset's columns, `trainer_state`, `log_metric` and `log_extra`), from an event loop on one of
TRL's threads. With an app, each completion is the first call of a turn, which is in the column `turn`.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata
from transformers import PreTrainedTokenizerBase

from collab_agents._internal.reasons import reason_of
from collab_agents._internal.seeds import derive_seed
from collab_agents.assistants import Assistant, ChatAssistant
from collab_agents.errors import ConfigError, WorkersError
from collab_agents.graphs import create_lookahead_graph
from collab_agents.graphs.conversation import Graph
from collab_agents.humans import check_simulated
from collab_agents.lookahead import SERVING, Lookahead
from collab_agents.messages import from_dicts, text_of, to_dicts
from collab_agents.models.engines.base import Engine
from collab_agents.models.engines.transformers import TransformersEngine
from collab_agents.models.limits import Limits
from collab_agents.models.local import LocalChatModel
from collab_agents.models.policy import Served, serving
from collab_agents.personas import Persona
from collab_agents.rewards import MultiturnReward, mean
from collab_agents.runs.workers import RayOptions
from collab_agents.tasks import Task
from collab_agents.training.answering import answering, base_of
from collab_agents.training.calls import Call, Heard, PolicyEngine, calls_in, recording
from collab_agents.training.datasets import persona_of_row, task_of_row
from collab_agents.training.loggers import cell_of
from collab_agents.training.policy import clean
from collab_agents.training.turns import TURN, PlayedTurn, TrainedApp
from collab_agents.training.workers import RemoteScorer
from collab_agents.trajectories import Message
from collab_agents.users import AnyUser

logger = logging.getLogger(__name__)

_PATIENCE = 5
"""Calls in a row with equal rewards before a warning is logged."""
_LIMITS = Limits(max_concurrent_calls=1024, timeout=600)
"""Of the calls of the model in training. Its engine makes batches of them, and a call may wait for a large one."""


@dataclass(frozen=True)
class Scored:
    """A sampled reply, with what was found by scoring it."""

    task: Task
    persona: Persona | None
    prompt: list[Message]
    completion: list[Message]
    result: dict[str, Any]
    """`reward`, `scores`, and `futures` as records; or an `error`."""
    calls: list[list[Call]]
    """What the model in training sampled in each future, in order. Empty if another assistant played them."""
    made: int
    """All calls of the model in training in futures, those of futures that failed included."""
    policy_step: int | None = None
    """The optimizer steps behind the weights that played the futures; None if another assistant played them."""


class MultiturnRewardFunction:
    """The multiturn-aware reward, as an async reward function for GRPO, PPO and online DPO.

    All replies of a batch are scored concurrently by lookahead. The dataset's columns are those of `prompt_row`; `goal`
    is required. Replies to the same prompt share the seeds of their futures, so that their rewards differ more by what
    they say and less by chance. A reply that could not be scored gets None. `log_metric` receives each judge's mean
    (`judges/<name>`) and the share of replies without a reward (`unscored`). `log_extra` receives each reply's scores
    and its first future.

    Args:
        user: Plays the user in the futures of each reply.
        reward: Scores each future.
        lookahead: How many `futures`, and their `window`.
        assistant: Plays the assistant in the futures. None is the model in training with its current weights, adapter
            active, without gradients. This package's trainers bind it. With `use_vllm`, the vLLM that they sample with
            plays it. Otherwise replies are generated in batches in this process (`bind`), which a model that is sharded
            over processes (FSDP, DeepSpeed ZeRO-3) cannot do.
        temperature: The temperature of the model in training in the futures.
        max_tokens: The most tokens of a reply by the model in training in the futures.
        batch_size: Replies of the model in training that are generated together.
        max_concurrency: Replies scored at once.
        max_staleness: The most optimizer steps by which an engine's weights may be behind those in training when
            futures begin. This package's trainers sync older ones first; with other trainers, they are an error.
        seed: The seed of the futures.
        ray: Plays the futures in worker processes instead of this one, with the same rewards. It needs an `assistant`:
            the model in training cannot be sent to them. Each training process has workers of its own.

    Attributes:
        on_scored: Called with the replies of each batch once they are scored, if it is set; see `record_samples`.
        last: The replies of the last batch.
        lookahead: How many futures, and their window.
        temperature: The temperature of the model in training in the futures.
        max_staleness: The most steps by which an engine's weights may be behind.
        needs_policy: Whether the model in training plays the assistant.
        max_tokens: The most tokens of a reply by the model in training in the futures.
        batch_size: Replies of the model in training that are generated together.
        max_concurrency: Replies scored at once.
        app: The app that plays the futures, with the model in training as its chat model, if it is set before `bind`.

    Raises:
        ConfigError: If `ray` is given without an assistant, or a person would have to play futures.

    Example:
        reward = MultiturnReward({"token_cost": token_cost(), "fact_coverage": fact_coverage()})
        train_grpo(PolicyConfig(name="smollm2"), data, MultiturnRewardFunction(AgendaUser(), reward), "tuned")
    """

    def __init__(
        self,
        user: AnyUser,
        reward: MultiturnReward,
        lookahead: Lookahead = SERVING,
        *,
        assistant: Assistant | BaseChatModel | None = None,
        temperature: float = 1.0,
        max_tokens: int = 256,
        batch_size: int = 32,
        max_concurrency: int = 256,
        max_staleness: int = 0,
        seed: int = 0,
        ray: RayOptions | None = None,
    ) -> None:
        check_simulated(user, assistant, instead="pass a simulated one, which plays the futures")
        self.__name__ = "multiturn_reward"  # TRL logs the reward under this name.
        self._user = user
        self._reward = reward
        self.lookahead = lookahead
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.batch_size = batch_size
        self.max_concurrency = max_concurrency
        self.max_staleness = max_staleness
        self._seed = seed
        self._equal = 0
        self._model: torch.nn.Module | None = None
        self._version: Callable[[], int] | None = None
        self._graph: Graph | None = None
        self._begun: tuple[object, object, Future[list[Scored]]] | None = None
        self.needs_policy = assistant is None
        self.on_scored: Callable[[list[Scored]], None] | None = None
        self.last: list[Scored] = []
        self.app: TrainedApp | None = None
        self._policy: Served | None = None
        self._scorer: RemoteScorer | None = None
        if assistant is not None:
            chosen = ChatAssistant(assistant) if isinstance(assistant, BaseChatModel) else assistant
            make = partial(create_lookahead_graph, user=user, assistant=chosen, reward=reward, lookahead=lookahead)
            self._graph = make()
            self._scorer = RemoteScorer(make, ray, max_concurrency) if ray is not None else None
        elif ray is not None:
            raise ConfigError("ray needs an assistant: the model in training cannot be sent to workers; serve it")

    def close(self) -> None:
        """End the workers, if there are any. They also end with the process."""
        if self._scorer is not None:
            self._scorer.close()

    def bind(self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        """Let this model play the assistant in the futures, in this process, unless another assistant was given."""
        if not self.needs_policy:
            return
        self._model = model
        engine = TransformersEngine(base_of(model), tokenizer, max_batch_size=self.batch_size)
        self._play_by(engine)

    def bind_engine(self, engine: Engine, version: Callable[[], int]) -> None:
        """Let an engine with a copy of the model in training play the assistant, unless another assistant was given.

        Args:
            engine: The engine.
            version: Returns the optimizer steps behind the weights that it has.
        """
        if not self.needs_policy:
            return
        self._version = version
        self._play_by(engine)

    def _play_by(self, engine: Engine) -> None:
        policy = PolicyEngine(engine)
        assistant: Assistant | None = self.app
        if assistant is None:
            sampling = {"temperature": self.temperature, "max_tokens": self.max_tokens}
            label = "the model in training"
            chat = LocalChatModel.over(policy, name="policy", label=label, limits=_LIMITS, **sampling)
            assistant = ChatAssistant(chat)
        else:
            self._policy = Served(policy, self.temperature, self.max_tokens)
        self._graph = create_lookahead_graph(self._user, assistant, self._reward, self.lookahead)

    def begin(
        self,
        loop: asyncio.AbstractEventLoop,
        prompts: Sequence[object],
        completions: Sequence[object],
        completion_ids: Sequence[Sequence[int]] | None = None,
        **columns: object,
    ) -> None:
        """Begin to score replies on a running loop. The next call with these replies waits for them.

        The trainer can compute meanwhile. The model in training must not be needed in this process.
        """
        scoring = self._score(prompts, completions, completion_ids, columns)
        self._begun = prompts, completions, asyncio.run_coroutine_threadsafe(scoring, loop)

    async def __call__(
        self,
        prompts: Sequence[object],
        completions: Sequence[object],
        completion_ids: Sequence[Sequence[int]] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        **columns: object,
    ) -> list[float | None]:
        """Return a reward for each completion, or None if it could not be scored.

        Args:
            prompts: Conversations of role/content dicts.
            completions: The replies, as lists of role/content dicts. A column `turn` with `PlayedTurn`s replaces them.
            completion_ids: The replies' tokens, which are counted for judges of length.
            log_metric: Called with the name and value of each metric.
            log_extra: Called with the name and values of each column of TRL's table of completions.
            **columns: The dataset's columns, and whatever else TRL passes.

        Raises:
            ConfigError: For a prompt that is not a conversation, a row without `goal`, a model in training that was not
                bound, or an engine with weights that are too old.
        """
        begun, self._begun = self._begun, None
        if begun is not None and begun[:2] == (prompts, completions):
            scored = await asyncio.wrap_future(begun[2])
        else:
            if begun is not None:
                begun[2].cancel()
            scored = await self._score(prompts, completions, completion_ids, columns)
        ends = [one.result for one in scored]
        rewards = [end["reward"] for end in ends]
        if log_metric is not None:
            self._log(ends, log_metric)
            if self._version is not None:
                log_metric("policy/staleness", _step(columns) - (scored[0].policy_step or 0))
        if log_extra is not None:
            self._log_columns(ends, log_extra)
            if isinstance(turns := columns.get(TURN), list):
                log_extra(TURN, [cell_of(to_dicts(turn.messages)) for turn in turns])
        self.last = scored
        if self.on_scored is not None:
            self.on_scored(self.last)
        self._watch(rewards)
        return rewards

    async def _score(
        self,
        prompts: Sequence[object],
        completions: Sequence[object],
        completion_ids: Sequence[Sequence[int]] | None,
        columns: Mapping[str, object],
    ) -> list[Scored]:
        graph = self._graph
        if graph is None:
            raise ConfigError(
                "the reward's assistant is the model in training, and none is bound: call bind(model, tokenizer)"
            )
        step = _step(columns)
        version = self._current_version(step)
        ids: Sequence[Sequence[int] | None] = completion_ids or [None] * len(prompts)
        rows = [
            {name: column[i] for name, column in columns.items() if isinstance(column, list | tuple)}
            for i in range(len(prompts))
        ]
        states = [
            self._state(prompt, completion, tokens, row, step)
            for prompt, completion, tokens, row in zip(prompts, completions, ids, rows, strict=True)
        ]
        free = asyncio.Semaphore(self.max_concurrency)

        async def score(state: dict[str, Any], turn: PlayedTurn | None) -> tuple[dict[str, Any], Heard]:
            if turn and turn.error:
                return {"reward": None, "scores": {}, "error": turn.error}, {}
            async with free:
                with recording() as heard:
                    try:
                        if self._scorer is not None:
                            return await self._scorer.score(state, f"reply to {state['task'].id}"), heard
                        return await graph.ainvoke(state), heard
                    except WorkersError:
                        raise
                    except Exception as error:
                        reason = reason_of(error)
                        logger.warning("task %s: a reply could not be scored: %s", state["task"].id, reason)
                        return {"reward": None, "scores": {}, "error": reason}, heard

        with answering(self._model), serving(self._policy):
            scored = await asyncio.gather(*map(score, states, (row.get(TURN) for row in rows)))
        return [
            Scored(
                state["task"],
                state["persona"],
                prompt,  # type: ignore[arg-type]
                to_dicts(row[TURN].messages) if TURN in row else completion,  # type: ignore[arg-type]
                end,
                calls_in(heard, state["seed"], len(state["messages"]), end.get("futures", [])),
                sum(map(len, heard.values())),
                version,
            )
            for prompt, completion, row, state, (end, heard) in zip(
                prompts, completions, rows, states, scored, strict=True
            )
        ]

    def _current_version(self, step: int) -> int | None:
        """Return the step of the weights that play the futures, if the model in training plays them."""
        if self._version is None:
            return step if self._model is not None else None
        version = self._version()
        if step - version > self.max_staleness:
            raise ConfigError(
                f"reward.max_staleness is {self.max_staleness}, and at step {step} the engine has the weights of step "
                f"{version}: sync them before the futures are played, or raise it"
            )
        return version

    def _state(
        self, prompt: object, completion: object, tokens: Sequence[int] | None, row: dict[str, Any], step: int
    ) -> dict[str, Any]:
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise ConfigError("the multiturn-aware reward needs conversational prompts: lists of role/content messages")
        if "goal" not in row:
            raise ConfigError(
                "the prompt dataset has no column 'goal': make it with `collab-agents dataset --kind prompts`"
            )
        task = task_of_row(row)
        said = from_dicts(clean(prompt))
        system = [text_of(message) for message in said if message.type == "system"]
        messages = [message for message in said if message.type != "system"]
        turn: PlayedTurn | None = row.get(TURN)
        reply = turn.messages if turn else from_dicts(clean(completion))
        if turn is None and tokens is not None and len(reply) == 1 and isinstance(reply[0], AIMessage):
            usage = UsageMetadata(input_tokens=0, output_tokens=len(tokens), total_tokens=len(tokens))
            reply = [reply[0].model_copy(update={"usage_metadata": usage})]
        return {
            "messages": [*messages, *reply],
            "task": task,
            "persona": persona_of_row(row),
            "seed": derive_seed(self._seed, task.id, len(messages), step),
            "system_prompt": "\n\n".join(system) or None,
            **({"assistant_memory": turn.memory} if turn else {}),
        }

    def _log(self, ends: Sequence[dict[str, Any]], log_metric: Callable[[str, float], None]) -> None:
        scores: dict[str, list[float | None]] = defaultdict(list)
        for end in ends:
            for name, value in end["scores"].items():
                scores[name].append(value)
        for name, values in scores.items():
            if (average := mean(values)) is not None:
                log_metric(f"judges/{name}", average)
        log_metric("unscored", sum(end["reward"] is None for end in ends) / len(ends))

    def _log_columns(self, ends: Sequence[dict[str, Any]], log_extra: Callable[[str, list[Any]], None]) -> None:
        for name in self._reward.judges:  # Always the same ones, in which no batch leaves a gap.
            log_extra(f"judges/{name}", [end["scores"].get(name) for end in ends])
        firsts = [end["futures"][0] if end.get("futures") else None for end in ends]
        log_extra("future", [cell_of(one["messages"]) if one else "" for one in firsts])

    def _watch(self, rewards: Sequence[float | None]) -> None:
        values = {reward for reward in rewards if reward is not None}
        self._equal = self._equal + 1 if len(values) < 2 and len(rewards) > 1 else 0
        if self._equal == _PATIENCE:
            what = f"every reply got the reward {values.pop():.4g}" if values else "no reply could be scored"
            logger.warning(
                "in %d batches in a row %s, so nothing can be learnt: check the judges and the tasks, or raise "
                "trainer.temperature",
                _PATIENCE,
                what,
            )


def _step(columns: Mapping[str, object]) -> int:
    return getattr(columns.get("trainer_state"), "global_step", 0)
