"""The picture of a loop's rounds."""

from pathlib import Path

from collab_agents.runs.scorecard import Estimate
from collab_agents.training.curves import plot_rounds
from collab_agents.training.rounds import HeldOut, Round, Rounds


def held(*names: str) -> HeldOut:
    return HeldOut(
        measures={name: Estimate(value=0.5, low=0.4, high=0.6, tasks=2) for name in names}, finished=2, failed=0
    )


def test_sets_of_tasks_with_different_judges_are_in_one_picture(tmp_path: Path) -> None:
    sets = {"letters": held("reward", "bleu"), "sums": held("reward", "accuracy")}
    record = Rounds(config={}, rounds=[Round(number=0, sets=sets), Round(number=1, sets=sets), Round(number=2)])
    plot_rounds(record, tmp_path / "rounds.svg")
    picture = (tmp_path / "rounds.svg").read_text()
    for title in ("reward", "bleu", "accuracy", "letters", "sums"):
        assert f"<!-- {title} -->" in picture
