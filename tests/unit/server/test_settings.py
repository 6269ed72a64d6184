"""The settings of the served graphs, as the configuration of a run."""

from typing import Any, cast

import pytest

from collab_agents import offline_tasks
from collab_agents.config.build import compose
from collab_agents.errors import ConfigError
from collab_agents.judges.base import CheckedJudge
from collab_agents.lookahead import Components
from collab_agents.server.scene import Cast
from collab_agents.server.settings import Settings, run_config, settings_of
from collab_agents.value import LearnedValue, ValueRecord


@pytest.mark.parametrize(
    ("settings", "reviewers"),
    [
        ({}, []),
        ({"drop_faulty": True}, [("user_faults", None)]),
        ({"drop_faulty": True, "user": "llm"}, [("user_faults", "openai:any")]),
        (
            {"drop_faulty": True, "user": "llm", "judges": ["token_cost", "user_faults"]},
            [("user_faults", "openai:any")],
        ),
    ],
)
def test_dropping_faulty_futures_adds_a_judge_that_does_not_count(
    settings: dict[str, object], reviewers: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody")
    config = run_config(Settings.model_validate({"model": "openai:any", "judges": ["token_cost"], **settings}))
    assert config.lookahead.drop_faulty == bool(reviewers)
    reward = compose(config).reward
    found = [name for name, judge in reward.judges.items() if isinstance(judge, CheckedJudge) and judge.reviews_user]
    models = {judge.name: judge.model.name if judge.model else None for judge in config.judges}
    assert [(name, models.get(name)) for name in found] == reviewers
    named = settings.get("judges", ["token_cost"])
    assert {name for name, weight in reward.weights.items() if weight} == set(named if isinstance(named, list) else [])


def test_a_client_cannot_name_a_value_model() -> None:
    with pytest.raises(ConfigError, match="value"):
        settings_of({"value": "/srv/value"})


def test_a_value_model_of_the_owner_refuses_the_tasks_that_it_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nobody")
    config = run_config(Settings.model_validate({"model": "openai:any"}))
    seen, unseen = offline_tasks("train")[:2]
    about = ValueRecord(
        model="any",
        layers=1,
        components=Components(between=1, within=1),
        unexplained=1,
        explained=0.5,
        explained_low=0.4,
        explained_high=0.6,
        tasks=[seen.id],
        turns=1,
        candidates=2,
    )
    parts = Cast(Settings(), config, compose(config), [], value=LearnedValue(about, {}, cast(Any, None)))
    assert parts.problem_with(seen) == "the value model learned from it"
    assert parts.problem_with(unseen) is None
