"""Learning from whole trees: the gradient is that of the expected reward, on the tokens that were sampled."""

import math
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from transformers import AutoTokenizer

from collab_agents import Lookahead
from collab_agents.errors import ConfigError
from collab_agents.tasks import Task
from collab_agents.training import TreeGRPOConfig, train_grpo, train_ppo
from collab_agents.training.calls import Call
from collab_agents.training.correction import importance_ratio
from collab_agents.training.rewards import Scored
from collab_agents.training.tree import leave_one_out, turns_of
from tests.support.trees import GAMMA, LAM, PROMPTS, REPLIES, VF, Watched, compare_models, directly, train

# A conversation as a game. The policy replies, and in every state it may end the conversation. A state is a tuple of
# the actions so far and of the user's answers between them.

State = tuple[int, ...]


class Game:
    """A table of policies, and rewards of conversations that have ended."""

    def __init__(self, actions: int, ends: Callable[[State], bool], reward: Callable[[State], dict[float, float]]):
        self.actions = actions
        self.ends = ends
        self.reward = reward
        """The rewards of a conversation that has ended, with their probabilities."""
        self.index: dict[State, int] = {}
        self._find(())
        self.logits = numpy.random.default_rng(7).normal(size=(len(self.index), actions)) * 0.7

    def _find(self, state: State) -> None:
        self.index[state] = len(self.index)
        for action in range(self.actions):
            if not self.ends((*state, action)):
                for answer in range(2):
                    self._find((*state, action, answer))

    def policy(self, state: State) -> Any:
        chances = numpy.exp(self.logits[self.index[state]])
        return chances / chances.sum()

    def value(self, state: State = ()) -> float:
        chances = self.policy(state)
        return sum(chances[action] * self.worth((*state, action)) for action in range(self.actions))

    def worth(self, state: State) -> float:
        if self.ends(state):
            return sum(reward * chance for reward, chance in self.reward(state).items())
        return sum(self.value((*state, answer)) for answer in range(2)) / 2

    def gradient(self, state: State = (), reached: float = 1.0) -> Any:
        """The gradient of the expected reward, from all conversations there are."""
        total = numpy.zeros_like(self.logits)
        chances, value = self.policy(state), self.value(state)
        for action in range(self.actions):
            after = (*state, action)
            total[self.index[state], action] += reached * chances[action] * (self.worth(after) - value)
            if not self.ends(after):
                for answer in range(2):
                    total += self.gradient((*after, answer), reached * chances[action] / 2)
        return total

    def surrogate(self, engine: "Game", state: State = (), reached: float = 1.0) -> Any:
        """The gradient of PPO's surrogate around another policy, which chooses where one gets and what it is worth."""
        total = numpy.zeros_like(self.logits)
        chances = self.policy(state)
        worths = numpy.array([engine.worth((*state, action)) for action in range(self.actions)])
        total[self.index[state]] = reached * chances * (worths - chances @ worths)
        for action in range(self.actions):
            if not self.ends((*state, action)):
                for answer in range(2):
                    further = reached * engine.policy(state)[action] / 2
                    total += self.surrogate(engine, (*state, action, answer), further)
        return total

    def score(self, state: State, action: int) -> Any:
        """The gradient of the action's log-probability."""
        result = numpy.zeros_like(self.logits)
        result[self.index[state]] = -self.policy(state)
        result[self.index[state], action] += 1
        return result

    def act(self, state: State, chance: random.Random) -> int:
        return chance.choices(range(self.actions), self.policy(state))[0]

    def tree(self, chance: random.Random, replies: int = 3, futures: int = 2) -> list[Scored]:
        return [self._scored((self.act((), chance),), futures, chance) for _ in range(replies)]

    def _scored(self, reply: State, futures: int, chance: random.Random) -> Scored:
        played, calls = [], []
        for _ in range(futures):
            state, turns = reply, []
            while not self.ends(state):
                state = (*state, chance.randrange(2))
                action = self.act(state, chance)
                turns.append(Call(list(state), [action]))
                state = (*state, action)
            rewards = self.reward(state)
            played.append({"reward": chance.choices(list(rewards), list(rewards.values()))[0]})
            calls.append(turns)
        mean = sum(one["reward"] for one in played) / futures
        result = {"reward": mean, "futures": played, "action": reply[0]}
        return Scored(Task(id="game", goal="win"), None, [], [], result, calls, sum(map(len, calls)))


def whole_tree(game: Game, tree: list[Scored], weight: Callable[[State, int], float] = lambda state, action: 1) -> Any:
    """What `learn: tree` adds up: the gradient of one tree. `weight` is the correction of a turn."""
    rewards = leave_one_out([one.result["reward"] for one in tree])
    replies = [one.result["action"] for one in tree]
    total = sum(a * weight((), one) * game.score((), one) for a, one in zip(rewards, replies, strict=True))
    for turn in turns_of(tree):
        state, (action,) = tuple(turn.call.prompt), turn.call.completion
        share = weight(state, action) / len(tree[turn.reply].calls)
        total = total + (turn.advantage or 0.0) * share * game.score(state, action)
    return total / len(tree)


def turn_by_turn(game: Game, tree: list[Scored]) -> Any:
    """Every turn a row, its return normalised over the tree's rows with the same number of turns before them."""
    rows: list[tuple[State, int, float]] = [((), one.result["action"], one.result["reward"]) for one in tree]
    for one in tree:
        for calls, future in zip(one.calls, one.result["futures"], strict=True):
            rows += [(tuple(call.prompt), call.completion[0], future["reward"]) for call in calls]
    total = numpy.zeros_like(game.logits)
    for length in {len(state) for state, _, _ in rows}:
        level = [row for row in rows if len(row[0]) == length]
        returns = numpy.array([row[2] for row in level])
        advantages = (returns - returns.mean()) / (returns.std() + 1e-4)
        total += sum(a * game.score(state, action) for a, (state, action, _) in zip(advantages, level, strict=True))
    return total / len(rows)


def estimates(game: Game, gradient: Callable[[Game, list[Scored]], Any], trees: int = 4000) -> tuple[Any, Any]:
    """The mean over many trees, and its standard error."""
    chance = random.Random(1)
    found = numpy.array([gradient(game, game.tree(chance)) for _ in range(trees)])
    return found.mean(axis=0), found.std(axis=0) / trees**0.5 + 1e-12


def rare(state: State) -> dict[float, float]:
    """Something for sure at the first turn, more but seldom later."""
    draw = random.Random(str(state)).random()
    return {draw: 1.0} if len(state) == 1 else {5 * draw: 0.2, 0.0: 0.8}


def varied(state: State) -> dict[float, float]:
    """More or less, at any turn."""
    draw = random.Random(str(state)).random()
    return {draw: 0.5, draw + 0.5: 0.5}


def cosine(one: Any, other: Any) -> float:
    return float((one * other).sum() / numpy.linalg.norm(one) / numpy.linalg.norm(other))


@pytest.mark.parametrize(("reward", "naive"), [(rare, (-1.0, -0.8)), (varied, (0.9, 1.0))])
def test_the_mean_over_trees_is_the_gradient_of_the_expected_reward(
    reward: Callable[[State], dict[float, float]], naive: tuple[float, float]
) -> None:
    game = Game(2, lambda state: state[-1] == 0 or len(state) >= 5, reward)
    exact = game.gradient()
    mean, error = estimates(game, whole_tree)
    assert numpy.abs((mean - exact) / error).max() < 4.5
    assert cosine(mean, exact) > 0.99
    mean, error = estimates(game, turn_by_turn)
    assert naive[0] < cosine(mean, exact) < naive[1]  # With rare rewards, it lowers the reward.
    scale = (mean * exact).sum() / (exact**2).sum()
    assert reward is varied or numpy.abs((mean - scale * exact) / error).max() > 10


def test_corrected_for_another_engines_probabilities_the_mean_is_the_gradient_of_the_surrogate_around_it() -> None:
    game, engine = (Game(2, lambda state: state[-1] == 0 or len(state) >= 5, varied) for _ in range(2))
    engine.logits = engine.logits + numpy.random.default_rng(3).normal(size=engine.logits.shape) * 0.5
    unbounded: Any = SimpleNamespace(
        vllm_importance_sampling_mode="sequence_mask",
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=None,
    )

    def weight(state: State, action: int) -> float:
        old, sampled = (torch.tensor([math.log(one.policy(state)[action])]) for one in (game, engine))
        return float(importance_ratio(old, sampled, unbounded))

    exact = game.surrogate(engine)
    assert game.surrogate(game) == pytest.approx(game.gradient())
    mean, error = estimates(engine, lambda _, tree: whole_tree(game, tree, weight), trees=1000)
    assert numpy.abs((mean - exact) / error).max() < 4.5
    assert cosine(mean, exact) > 0.99
    plain, error = estimates(engine, lambda _, tree: whole_tree(game, tree), trees=1000)
    assert numpy.abs((plain - exact) / error).max() > 10


def test_no_length_of_a_conversation_is_preferred_where_all_are_worth_the_same() -> None:
    # Ending at once gives 0.2, and going on 1 with probability 0.2.
    game = Game(2, lambda state: state[-1] == 0 or len(state) >= 3, lambda state: {0.2: 1.0} if len(state) == 1 else
                {1.0: 0.2, 0.0: 0.8})  # fmt: skip
    assert game.gradient() == pytest.approx(0.0)
    mean, error = estimates(game, whole_tree)
    assert numpy.abs(mean / error).max() < 4.5
    naive, error = estimates(game, turn_by_turn)
    ends, _ = naive[game.index[()]] / error[game.index[()]]
    assert ends > 10


def test_a_turn_is_compared_with_the_other_futures_of_its_reply_that_count() -> None:
    rewards = [1.0, None, 0.0, 0.5]
    call = Call([1], [2])
    futures: list[dict[str, Any]] = [{"reward": reward, "dropped": []} for reward in rewards]
    futures[0]["dropped"] = ["left_role"]
    task = Task(id="t", goal="g")
    replies = [
        Scored(task, None, [], [], {"reward": 0.25, "futures": futures}, [[call], [call], [call], [call, call]], 5),
        Scored(task, None, [], [], {"reward": 1.0, "futures": futures[:3]}, [[call]] * 3, 3),
        Scored(task, None, [], [], {"reward": None, "error": "it failed"}, [], 0),
    ]
    # Two of four futures count, so each weighs as two. The second reply has one of one, so it has no sibling.
    found = [(one.reply, one.future, one.advantage) for one in turns_of(replies)]
    assert found == [(0, 2, -1.0), (0, 3, 1.0), (0, 3, 1.0), (1, 2, None)]
    assert leave_one_out([1.0, None, 0.0, 0.5]) == pytest.approx([0.75, 0.0, -0.75, 0.0])


@pytest.mark.parametrize(
    ("ppo", "beta", "iterations"), [(False, 0.0, 1), (False, 0.2, 2), (True, 0.0, 1), (True, 0.2, 2)]
)
def test_training_on_trees_is_that_of_a_direct_implementation(
    tiny: str, tmp_path: Path, ppo: bool, beta: float, iterations: int
) -> None:
    reward = Watched()
    options: dict[str, Any] = {"max_steps": 2 * iterations, "beta": beta, "num_iterations": iterations}
    if ppo:
        options |= {"gamma": GAMMA, "lam": LAM, "vf_coef": VF}
    logs = train(tiny, tmp_path / "out", reward, train_ppo if ppo else train_grpo, learning_rate=0.5, **options)
    assert len(reward.seen) == 2
    direct = directly(tiny, reward, rate=0.5, beta=beta, iterations=iterations, ppo=ppo)
    moved, apart = compare_models(tiny, direct, tmp_path / "out")
    assert moved > 1e-2
    assert apart < 1e-5
    turns = [sum(len(calls) for one in scored for calls in one.calls) for _, _, scored in reward.seen]
    assert min(turns) > 8
    assert logs["tree/turns"] == logs["tree/calls"] == REPLIES * PROMPTS + turns[-1]


def test_the_tokens_that_learn_are_those_that_were_sampled(tiny: str, tmp_path: Path) -> None:
    reward = Watched()
    train(tiny, tmp_path / "out", reward, max_steps=3, learning_rate=1e-3)
    tokenizer: Any = AutoTokenizer.from_pretrained(tiny)
    replies = [one for _, _, scored in reward.seen for one in scored]
    calls = [call for one in replies for turns in one.calls for call in turns]
    sampled = ["".join(f"{token}," for token in row) for row in reward.generated]
    for call in calls:
        row = "".join(f"{token}," for token in [*call.prompt, *call.completion])
        assert any(row in one for one in sampled)
        assert call.completion[-1] == tokenizer.eos_token_id or len(call.completion) == 8
    assert {call.completion[-1] == tokenizer.eos_token_id for call in calls} == {True, False}
    rows = sorted([*call.prompt, *call.completion] for call in calls)
    assert sorted(row for row in reward.learnt if row in rows) == rows
    assert len(reward.learnt) == len(calls) + len(replies)
    spoken = [tokenizer.decode(call.completion, skip_special_tokens=True) for call in calls]
    again = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in spoken]
    ended = [
        call.completion[:-1] if call.completion[-1] == tokenizer.eos_token_id else call.completion for call in calls
    ]
    assert again != ended  # The text alone would not do.
    for one in replies:
        for future, turns in zip(one.result["futures"], one.calls, strict=True):
            said = [message["content"] for message in future["messages"] if message["role"] == "assistant"]
            assert said == [tokenizer.decode(call.completion, skip_special_tokens=True).strip() for call in turns]


def test_replies_alone_learn_by_default_and_the_calls_are_counted(tiny: str, tmp_path: Path) -> None:
    reward = Watched()
    logs = train(tiny, tmp_path / "out", reward, max_steps=1, learning_rate=1e-3, learn="reply")
    ((completions, _, scored),) = reward.seen
    assert len(reward.learnt) == len(completions) == logs["tree/turns"]
    assert logs["tree/calls"] == len(completions) + sum(one.made for one in scored)
    plain = TreeGRPOConfig(str(tmp_path / "plain"), use_cpu=True, bf16=False)
    assert (plain.learn, plain.loss_type, plain.scale_rewards) == ("reply", "dapo", "group")


@pytest.mark.parametrize(
    ("reward", "trainer", "said_so"),
    [
        (Watched, {"loss_type": "dapo"}, "loss_type must be 'dr_grpo' with learn: tree, got 'dapo'"),
        (Watched, {"scale_rewards": "group"}, "scale_rewards must be 'none' with learn: tree, got 'group'"),
        (lambda: Watched(lookahead=Lookahead(futures=1, window=1)), {}, "reward.futures must be at least 2, got 1"),
        (Watched, {"optim": "lomo"}, "does not run with trainer.optim: lomo: choose another, such as adamw_torch"),
        (lambda: Watched(temperature=0.5), {}, r"must be trainer.temperature \(1.0\), got 0.5"),
        (
            lambda: Watched(assistant=GenericFakeChatModel(messages=iter([]))),
            {},
            "futures the model in training plays, got 0: leave reward.policy out",
        ),
    ],
)
def test_trees_that_cannot_be_learnt_from_are_refused(
    tiny: str, tmp_path: Path, reward: Callable[[], Any], trainer: dict[str, Any], said_so: str
) -> None:
    with pytest.raises(ConfigError, match=said_so):
        train(tiny, tmp_path / "out", reward(), max_steps=1, **trainer)
