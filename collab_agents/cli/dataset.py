"""`dataset`: make a dataset from scored trajectories."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

from collab_agents.training.config import DataConfig
from collab_agents.training.dataset_folder import check_empty, push_dataset, save_rows
from collab_agents.training.datasets import preference_rows, prompt_rows, read_all, sft_rows
from collab_agents.training.made import Made
from collab_agents.training.published import to_flat, to_nested
from collab_agents.trajectories import Trajectory


def make_dataset(
    kind: str,
    sources: list[str],
    out: Path,
    *,
    eval_share: float,
    seed: int,
    minimum_gap: float,
    minimum_probability: float,
    pairs: str,
    lower_bounds: dict[str, float],
    best_share: float,
    push_to_hub: str | None,
) -> None:
    console = Console()
    check_empty(out)
    if kind in ("nested", "flat"):
        made = _published(kind, sources)
    else:
        options = DataConfig(
            runs=sources,
            minimum_gap=minimum_gap,
            minimum_probability=minimum_probability,
            pairs=pairs,
            lower_bounds=lower_bounds,
            best_share=best_share,
        )
        made = rows_of(kind, options)
    how: dict[str, object] = {"kind": kind, "from": sources, "eval_share": eval_share, "seed": seed}
    if kind == "preference":
        how |= {"minimum_gap": minimum_gap, "minimum_probability": minimum_probability, "pairs": pairs}
    if lower_bounds:
        how["lower_bounds"] = lower_bounds
    if best_share < 1:
        how["best_share"] = best_share
    splits = save_rows(made, out, eval_share=eval_share, seed=seed, how=how)
    counts = ", ".join(f"{rows} {split}" for split, rows in splits.items())
    console.print(f"{made.report()}. In {out}: {counts}.", soft_wrap=True, highlight=False)
    if push_to_hub is not None:
        console.print(f"Pushed to {push_dataset(out, push_to_hub)}", soft_wrap=True)


def _published(kind: str, sources: Iterable[str]) -> Made:
    made = Made(kind)
    for row in (to_nested if kind == "nested" else to_flat)(_counted(read_all(sources), made)):
        # Arrow cannot hold objects with different keys.
        made.add({**row, "single_turn_metadata": json.dumps(row["single_turn_metadata"]), "task_id": row["conv_id"]})
    return made


def _counted(trajectories: Iterable[Trajectory], made: Made) -> Iterator[Trajectory]:
    for trajectory in trajectories:
        made.made_from += 1
        if trajectory.reward is not None:
            made.rewards.add(trajectory.reward)
        yield trajectory


def rows_of(kind: str, config: DataConfig) -> Made:
    trajectories = read_all(config.runs)
    if kind == "sft":
        return sft_rows(
            trajectories,
            lower_bounds=config.lower_bounds,
            best_share=config.best_share,
            system_prompt=config.system_prompt,
        )
    if kind == "preference":
        return preference_rows(
            trajectories,
            minimum_gap=config.minimum_gap,
            minimum_probability=config.minimum_probability,
            pairs=config.pairs,
            system_prompt=config.system_prompt,
        )
    return prompt_rows(trajectories, system_prompt=config.system_prompt)
