"""The model card of a trained model: what it is, how to use it, and how it was made."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

_LIBRARIES = ("collab-agents", "trl", "peft", "transformers", "torch", "datasets")


def model_card(name: str, config: Mapping[str, Any], last: Mapping[str, float]) -> str:
    """Return Markdown with the Hub's metadata, from `training.json` and the last value of everything logged."""
    base, method, adapter = config["model"]["name"], config["method"], config["model"]["lora"] is not None
    head: dict[str, object] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["collab-agents", "trl", method, *(["lora"] if adapter else [])],
    }
    if base.count("/") == 1 and not Path(base).exists():
        head["base_model"] = base
    loader = "AutoPeftModelForCausalLM" if adapter else "AutoModelForCausalLM"
    lines = [
        f"# {name}",
        "",
        f"`{base}` trained by {method} with collab-agents to be a better collaborator over several turns (CollabLLM, "
        "[arXiv 2502.00640](https://arxiv.org/abs/2502.00640))."
        + (" This is an adapter; `collab-agents merge` turns it into a plain model." if adapter else ""),
        "",
        "```python",
        f"from {'peft' if adapter else 'transformers'} import {loader}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {loader}.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```",
        "",
        "## How it was made",
        "",
        "```yaml",
        yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).rstrip(),
        "```",
        "",
        "## Last logged values",
        "",
        "| measure | value |",
        "| --- | ---: |",
        *(f"| {measure} | {value:.5g} |" for measure, value in last.items()),
        "",
        "Versions: " + ", ".join(f"{library} {version(library)}" for library in _LIBRARIES) + ".",
        "",
    ]
    return "---\n" + yaml.safe_dump(head, sort_keys=False) + "---\n\n" + "\n".join(lines)
