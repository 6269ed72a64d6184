"""`dataset`: make a dataset from scored trajectories."""

import json
from pathlib import Path

from rich.console import Console

from collab_agents.training.config import DataConfig
from collab_agents.training.dataset_folder import push_dataset, save_dataset
from collab_agents.training.datasets import Made, preference_rows, prompt_rows, read_all, sft_rows, split_by_task
from collab_agents.training.published import to_flat, to_nested


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
    push_to_hub: str | None,
) -> None:
    console = Console()
    if kind in ("nested", "flat"):
        made = Made(kind)
        trajectories = list(read_all(sources))
        made.made_from = len(trajectories)
        made.rows = list((to_nested if kind == "nested" else to_flat)(trajectories))
        made.rewards = [one.reward for one in trajectories if one.reward is not None]
        for row in made.rows:  # Arrow cannot hold objects with different keys.
            row["single_turn_metadata"] = json.dumps(row["single_turn_metadata"])
            row["task_id"] = row["conv_id"]
    else:
        options = DataConfig(
            runs=sources,
            minimum_gap=minimum_gap,
            minimum_probability=minimum_probability,
            pairs=pairs,
            lower_bounds=lower_bounds,
        )
        made = rows_of(kind, options)
    data = split_by_task(made.dataset(), eval_share=eval_share, seed=seed)
    how: dict[str, object] = {"kind": kind, "from": sources, "eval_share": eval_share, "seed": seed}
    if kind == "preference":
        how |= {"minimum_gap": minimum_gap, "minimum_probability": minimum_probability, "pairs": pairs}
    if lower_bounds:
        how["lower_bounds"] = lower_bounds
    save_dataset(data, made, out, how=how)
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in data.items())
    console.print(f"{made.report()}. In {out}: {counts}.", soft_wrap=True, highlight=False)
    if push_to_hub is not None:
        console.print(f"Pushed to {push_dataset(out, push_to_hub)}", soft_wrap=True)


def rows_of(kind: str, config: DataConfig) -> Made:
    trajectories = read_all(config.runs)
    if kind == "sft":
        return sft_rows(trajectories, lower_bounds=config.lower_bounds, system_prompt=config.system_prompt)
    if kind == "preference":
        return preference_rows(
            trajectories,
            minimum_gap=config.minimum_gap,
            minimum_probability=config.minimum_probability,
            pairs=config.pairs,
            system_prompt=config.system_prompt,
        )
    return prompt_rows(trajectories, system_prompt=config.system_prompt)
