"""Fit a value model to the trees of finished runs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import GroupKFold

from collab_agents._internal.seeds import derive_seed
from collab_agents._internal.sync import run_sync
from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.lookahead import Components
from collab_agents.models.features import FeatureEngine, load_features
from collab_agents.rewards import unbiased
from collab_agents.training.datasets import read_all
from collab_agents.training.reward_model import train_reward_model
from collab_agents.trajectories import Message, Trajectory
from collab_agents.value import ABOUT, MODEL, WEIGHTS, ValueRecord, predicted
from collab_agents.variance import components_of, explained_share

Array = NDArray[np.float64]
_FOLDS = 5
_FEWEST = 2 * _FOLDS
_LEAST_LEFT = 0.1
"""The least share of the variance between candidates that is taken as unexplained: few tasks cannot show less."""


@dataclass
class Choice:
    """One turn to learn from: its candidates that have a reward."""

    task: str
    prompt: list[Message]
    replies: list[list[Message]]
    rewards: list[list[float]]
    """By candidate and future."""

    @property
    def means(self) -> Array:
        return np.array([sum(each) / len(each) for each in self.rewards])

    @property
    def counts(self) -> Array:
        return np.array([len(each) for each in self.rewards], dtype=float)


def train_value(
    runs: Iterable[str | Path],
    out: str | Path,
    *,
    model: str = "smollm2",
    layers: int | None = None,
    fine_tune: bool = False,
    trainer: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ValueRecord:
    """Fit a value model to the rewards of the candidates of runs, and save it in `out`.

    It learns from the first futures of every candidate (`rewards.unbiased`), weighted by the precision of their mean.
    How good it is, is measured on tasks that it did not see, by cross-validation in 5 folds of whole tasks.

    Args:
        runs: Run directories with at least two candidates a turn, and two futures a candidate.
        out: The folder for the value model.
        model: The language model whose hidden states are the features: "smollm2", a folder or a Hub repository.
        layers: How many of its layers are read, from the first; by default two thirds.
        fine_tune: Whether the language model is first fine-tuned as a reward model (`train_reward_model`) on half of
            the tasks. The regression then learns from the other half. This wants a GPU and many tasks.
        trainer: For fine-tuning, keys of TRL's RewardConfig.
        progress: Called with the numbers of candidates that were read and of all.

    Returns:
        What `value.json` says.

    Raises:
        ConfigError: For a model that cannot be loaded, or runs from which nothing can be learned.
        RunDirectoryError: If `out` is not empty, or a run has no trajectory.

    Example:
        about = train_value(["runs/first"], "runs/value")
        print(about.explained, about.worth)
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise RunDirectoryError(f"{folder} is not empty: choose another directory")
    trajectories = list(read_all(runs))
    tasks = sorted({one.task.id for one in trajectories})
    taught = {task for task in tasks if fine_tune and derive_seed(0, "reward model", task) % 2}
    choices = list(_choices(one for one in trajectories if one.task.id not in taught))
    components = _checked(choices)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        draft = Path(scratch) / "value"
        draft.mkdir()
        name = str(draft / MODEL) if fine_tune else _absolute(model)
        if fine_tune:
            pairs_of = (one for one in trajectories if one.task.id in taught)
            train_reward_model(pairs_of, name, model=model, trainer=trainer)
        engine = load_features(name, layers)
        features = run_sync(_read(engine, choices, progress))
        unexplained, (explained, low, high) = _cross_validate(choices, features, components)
        weights = _fit(choices, features, components)
        about = ValueRecord(
            model=MODEL if fine_tune else name,
            layers=engine.layers,
            fine_tuned=fine_tune,
            components=components,
            unexplained=unexplained,
            explained=explained,
            explained_low=low,
            explained_high=high,
            tasks=tasks,
            turns=len(choices),
            candidates=sum(len(choice.replies) for choice in choices),
        )
        save_file({key: one.astype(np.float32) for key, one in weights.items()}, draft / WEIGHTS)
        (draft / ABOUT).write_text(about.model_dump_json(indent=2) + "\n", encoding="utf-8")
        draft.rename(folder)
    return about


def _checked(choices: Sequence[Choice]) -> Components:
    """Return the variances of rewards. Raises ConfigError if there is too little to learn from."""
    there = len({choice.task for choice in choices})
    if there < _FEWEST:
        raise ConfigError(
            f"a value model needs at least {_FEWEST} tasks with two candidates a turn that have rewards, got {there}"
        )
    components = components_of(choice.rewards for choice in choices)
    if components is None or not components.within:
        raise ConfigError(
            "a value model needs two futures a candidate or more, with rewards that differ, to know how noisy they are"
        )
    if not components.between:
        raise ConfigError(
            "a value model has nothing to learn here: the candidates of a turn differ by no more than chance would "
            "make them; play more futures, or other candidates"
        )
    return components


def _absolute(model: str) -> str:
    """Return a folder's absolute path, so that the value model can be used from anywhere."""
    path = Path(model.removeprefix("local:")).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _choices(trajectories: Iterable[Trajectory]) -> Iterator[Choice]:
    for trajectory in trajectories:
        for turn in map(unbiased, trajectory.turns):
            there = [one for one in turn.candidates if one.reward is not None]
            rewards = [one.rewards() for one in there]
            if len(there) > 1 and all(rewards):
                yield Choice(trajectory.task.id, turn.prompt, [one.messages for one in there], rewards)


async def _read(engine: FeatureEngine, choices: Sequence[Choice], progress: Callable[[int, int], None]) -> list[Array]:
    """Return the features of each turn's candidates, of shape (candidates, size)."""
    total, done, found = sum(len(choice.replies) for choice in choices), 0, []
    for choice in choices:
        found.append(np.array([await engine.of(choice.prompt, reply) for reply in choice.replies], dtype=float))
        done += len(choice.replies)
        progress(done, total)
    return found


def _fit(choices: Sequence[Choice], features: Sequence[Array], components: Components) -> dict[str, Array]:
    """Regress rewards on features, both less their turn's means: turns differ in what no reply can change."""
    every = np.concatenate(features)
    centre, scale = every.mean(axis=0), every.std(axis=0)
    scale[scale == 0] = 1
    precision = [1 / (components.between + components.within / choice.counts) for choice in choices]
    inputs = [_centred((one - centre) / scale, each) for one, each in zip(features, precision, strict=True)]
    targets = [_centred(one.means, each) for one, each in zip(choices, precision, strict=True)]
    weights = np.concatenate(precision)
    # The noise is at most this. With more features than candidates it would be taken for 0, and all of it be learned.
    noise = {"alpha_1": len(weights), "alpha_2": len(weights) / weights.mean()}
    ridge = BayesianRidge(fit_intercept=False, **noise)
    ridge.fit(np.concatenate(inputs), np.concatenate(targets), weights / weights.mean())
    return {"centre": centre, "scale": scale, "coefficients": ridge.coef_, "covariance": ridge.sigma_}


def _centred(values: Array, weights: Array) -> Array:
    return values - (weights @ values) / weights.sum()


def _cross_validate(
    choices: Sequence[Choice], features: Sequence[Array], components: Components
) -> tuple[float, tuple[float, float, float]]:
    """Return the unexplained variance, and the explained share with its interval, see `ValueRecord`."""
    raw: dict[str, list[list[list[float]]]] = {}
    left: dict[str, list[list[list[float]]]] = {}
    uncertainty: list[Array] = []
    folds = GroupKFold(_FOLDS).split(choices, groups=[choice.task for choice in choices])
    for seen, unseen in folds:
        weights = _fit([choices[one] for one in seen], [features[one] for one in seen], components)
        for one in unseen:
            choice = choices[one]
            expected, spread = predicted(weights, features[one])
            rewards = zip(choice.rewards, expected, strict=True)
            raw.setdefault(choice.task, []).append(choice.rewards)
            left.setdefault(choice.task, []).append([[reward - mean for reward in each] for each, mean in rewards])
            uncertainty.append(spread)
    residual = components_of(turn for turns in left.values() for turn in turns)
    between = residual.between if residual else 0.0
    of_weights = float(np.concatenate(uncertainty).mean())
    return max(_LEAST_LEFT * components.between, between - of_weights), explained_share(raw, left)
