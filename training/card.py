"""The model card of a trained model: what it is, how to use it, how good it is, and how it was made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from collab_agents.models.smollm2 import HUB_ID
from collab_agents.runs.scorecard import Scorecard
from collab_agents.runs.scorecard_text import scorecard_markdown
from collab_agents.training.held_out import REWARD, best_of
from collab_agents.training.made_from import MadeFrom, Spread
from collab_agents.training.records import last_values

_EMBEDDED = "smollm2"
_TRAINER_SEED = 42
"""The seed of transformers' trainer where none is given."""


@dataclass(frozen=True)
class HeldOutResult:
    """A scorecard of a model."""

    scorecard: Scorecard
    remark: str = ""
    """A sentence on how these tasks were used."""


@dataclass(frozen=True)
class ModelCard:
    """What a card says. What is not known is left out."""

    name: str
    """The model's, by which it is loaded: a folder or a Hub repository."""
    adapter: bool
    trainings: Sequence[Mapping[str, Any]] = ()
    """The contents of `training.json` of each training that made it, the last first."""
    base: str | None = None
    """The model that the first of them began with."""
    made_from: MadeFrom | None = None
    """What the data of the last training was made from."""
    log: Sequence[Mapping[str, Any]] = ()
    """What it logged."""
    best_step: str | None = None
    """A sentence on the step with the best held-out reward, if held-out conversations were played while it trained."""
    held_out: HeldOutResult | None = None
    loop: Mapping[str, Any] | None = None
    """`loop.yaml`, if it is a round's of a loop."""
    hub: Mapping[str, Any] = field(default_factory=dict)
    """Further metadata for the Hub: `base_model`, `license`."""

    def text(self) -> str:
        """Return Markdown with the Hub's metadata."""
        lines = [
            *self._about(),
            *self._scores(),
            *self._data(),
            *self._how(),
            *self._evaluated(),
            *self._logged(),
            *self._licence(),
        ]
        return "---\n" + yaml.safe_dump(self._head(), sort_keys=False) + "---\n\n" + "\n".join(lines)

    def _head(self) -> dict[str, Any]:
        method = [str(self.trainings[0]["method"]), "trl"] if self.trainings else []
        head: dict[str, Any] = {
            "library_name": "peft" if self.adapter else "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["collab-agents", *method, *(["lora"] if self.adapter else [])],
        }
        if self.base and self.base.count("/") == 1 and not Path(self.base).exists():
            head["base_model"] = self.base
        return {**head, **self.hub}

    def _about(self) -> list[str]:
        loader = "AutoPeftModelForCausalLM" if self.adapter else "AutoModelForCausalLM"
        by = " and ".join(str(one["method"]) for one in reversed(self.trainings))
        base = HUB_ID if self.base == _EMBEDDED else self.base and _place(self.base)
        if len(self.trainings) < 2:
            base = self.hub.get("base_model", base)
        what = (
            f"`{base}` trained by {by} with collab-agents to be a better collaborator over several turns (CollabLLM, "
            "[arXiv 2502.00640](https://arxiv.org/abs/2502.00640))."
        )
        if self.base == _EMBEDDED:
            what += " It was trained on the embedded form of that model, whose weights are rounded to 4 bits."
        imports = [f"from transformers import {loader}, AutoTokenizer"]
        if self.adapter:
            imports = [f"from peft import {loader}", "from transformers import AutoTokenizer"]
        merge = " This is an adapter; `collab-agents merge` turns it into a plain model." if self.adapter else ""
        return [
            f"# {self.name}",
            "",
            f"{what if by else 'How it was trained is not recorded.'}{merge}",
            "",
            "```python",
            *imports,
            "",
            f'model = {loader}.from_pretrained("{self.name}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{self.name}")',
            "```",
            "",
        ]

    def _scores(self) -> list[str]:
        if self.held_out is None:
            return []
        scorecard = self.held_out.scorecard
        sides = list(dict.fromkeys(side.name for one in scorecard.sets for side in one.sides))
        compared = f", compared with `{sides[1]}`" if sides[1:] else ""
        seeds = sorted({seed for one in scorecard.sets for seed in one.seeds})
        who = f"`{sides[0]}` is this model{compared}. " if sides else ""
        remark = f" {self.held_out.remark}" if self.held_out.remark else ""
        return [
            scorecard_markdown(scorecard, level=2, title="Held-out scorecard").rstrip(),
            "",
            f"{who}Seeds of the conversations: {', '.join(map(str, seeds))}.{remark}",
            "",
        ]

    def _data(self) -> list[str]:
        made = self.made_from
        if made is None:
            dataset = self.trainings[0].get("data", {}).get("dataset") if self.trainings else None
            return ["## Data", "", f"The dataset `{_place(dataset)}`.", ""] if dataset else []
        left = "; ".join(f"{count} {reason}" for reason, count in made.dropped.items())
        spreads = {"reward": made.rewards, "gap": made.gaps, "probability": made.probabilities}
        return [
            "## Data",
            "",
            f"{made.rows} {made.kind} rows of {made.made_from} {made.source}{f'; left out: {left}' if left else ''}.",
            "",
            *_spread_table({name: one for name, one in spreads.items() if one is not None}),
        ]

    def _how(self) -> list[str]:
        if not self.trainings:
            return []
        lines = ["## How it was made", ""]
        if self.loop is not None:
            lines += ["A round of this loop, which generates the data, trains and evaluates:", ""]
            lines += [*_block("bash", "collab-agents improve --config loop.yaml --out loop")]
            lines += [*_block("yaml loop.yaml", _yaml(self.loop))]
        stages = list(reversed(self.trainings))
        methods = [str(one["method"]) for one in stages]
        for number, config in enumerate(stages):
            method = methods[number]
            name = method if methods.count(method) == 1 else f"{method}-{number + 1}"
            lines += [f"{'Then' if number else 'Trained'} by {method}. Seeds: {', '.join(_seeds(config))}.", ""]
            if "data" in config:
                commands = [f"collab-agents train {method} --config {name}.yaml --out {name}"]
                if config["model"].get("lora") and stages[number + 1 :]:
                    merged = _place(stages[number + 1]["model"]["name"])
                    commands.append(f"collab-agents merge --adapter {name} --out {merged}")
                lines += _block("bash", "\n".join(commands))
            file = {key: value for key, value in config.items() if key not in ("method", "versions")}
            lines += _block(f"yaml {name}.yaml", _yaml(file))
        if found := self.trainings[0].get("versions"):
            lines += ["Versions: " + ", ".join(f"{library} {number}" for library, number in found.items()) + ".", ""]
        return lines

    def _evaluated(self) -> list[str]:
        best = best_of([entry for entry in self.log if REWARD in entry])
        if not best:
            return []
        rows = [
            f"| {name.removeprefix('heldout/')} | {best[name]:.5g} | {best[low]:.5g} to {best[f'{name}/high']:.5g} |"
            for name, low in ((name, f"{name}/low") for name in best)
            if low in best
        ]
        told = self.best_step or f"The best held-out reward was that of step {best['step']}."
        head = ["| measure | best step | 95% interval |", "| --- | ---: | ---: |"]
        return ["## Held-out conversations while it trained", "", told, "", *head, *rows, ""]

    def _logged(self) -> list[str]:
        rows = [
            f"| {measure} | {value:.5g} |"
            for measure, value in last_values(self.log).items()
            if not measure.startswith("heldout/")
        ]
        head = ["## Last logged values", "", "| measure | value |", "| --- | ---: |"]
        return [*head, *rows, ""] if rows else []

    def _licence(self) -> list[str]:
        name = self.hub.get("license_name") or self.hub.get("license")
        if name is None:
            return []
        link = self.hub.get("license_link")
        return ["## Licence", "", f"[{name}]({link})" if link else str(name), ""]


def _block(language: str, text: str) -> list[str]:
    return [f"```{language}", text, "```", ""]


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(_without_places(value), sort_keys=False, allow_unicode=True).rstrip()


def _without_places(value: Any) -> Any:
    """Return a configuration without the folders of this machine that lead to its files."""
    if isinstance(value, Mapping):
        return {key: _without_places(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(one) for one in value]
    return _place(value) if isinstance(value, str) else value


def _place(text: str) -> str:
    path = Path(text)
    if not path.is_absolute() or "\n" in text:
        return text
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def _seeds(config: Mapping[str, Any]) -> Iterable[str]:
    yield f"trainer {config.get('trainer', {}).get('seed', _TRAINER_SEED)}"
    for section in ("data", "reward"):
        if "seed" in config.get(section, {}):
            yield f"{section} {config[section]['seed']}"


def _spread_table(spreads: Mapping[str, Spread]) -> list[str]:
    if not spreads:
        return []
    rows = [
        f"| {name} | {' | '.join(f'{value:.3g}' for value in (one.low, *one.quartiles, one.high))} |"
        for name, one in spreads.items()
    ]
    header = "| | lowest | lower quartile | median | upper quartile | highest |"
    return [header, "| --- | ---: | ---: | ---: | ---: | ---: |", *rows, ""]
