"""The settings of the served graphs, as the configuration of a run."""

import pytest

from collab_agents import offline_tasks
from collab_agents.config.build import compose
from collab_agents.errors import ConfigError
from collab_agents.judges.base import CheckedJudge
from collab_agents.server.scene import Cast
from collab_agents.server.settings import Settings, run_config, settings_of
from tests.support.values import learned_from


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
    parts = Cast(Settings(), config, compose(config), [], value=learned_from([seen.id]))
    assert parts.problem_with(seen) == "the value model learned from it"
    assert parts.problem_with(unseen) is None
