"""The model to train: load it, give it an adapter, select rows that fit its context, and merge the adapter."""

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.models.chat_template import chat_tokens
from collab_agents.models.smollm2 import smollm2
from collab_agents.models.sources import ADAPTER, check_folder, loading
from collab_agents.models.weights import load_weights, placement
from collab_agents.training.config import LoraSection, PolicyConfig
from collab_agents.training.records import copy_records
from collab_agents.trajectories import Message

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

logger = logging.getLogger(__name__)


@dataclass
class Policy:
    """A causal language model ready for a TRL trainer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    peft: LoraConfig | None
    """The adapter to train; None for full fine-tuning."""

    @property
    def context(self) -> int:
        """The model's context in tokens."""
        return int(getattr(self.model.config, "max_position_embeddings", 0) or 1 << 30)


def load_policy(config: PolicyConfig) -> Policy:
    """Load the model to train.

    Raises:
        ConfigError: For a model that cannot be loaded, an adapter, or a tokenizer without a chat template.
    """
    if Path(config.name.removeprefix("local:"), ADAPTER).is_file():
        raise ConfigError(
            f"model.name {config.name!r} is an adapter: merge it first (collab-agents merge --adapter {config.name} "
            "--out FOLDER) and train the merged model"
        )
    source = source_of(config.name)
    options: dict[str, Any] = {}
    if config.quantize:
        options["quantization_config"] = _four_bits()
    dtype, _ = placement(config.dtype or ("float32" if config.lora is None else None), None)
    with loading(f"model.name {config.name!r}"):
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, dtype), trust_remote_code=False, weights_only=True, **options
        )
    if config.chat_template is not None:
        tokenizer.chat_template = _template(config.chat_template)
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model.name {config.name!r} has no chat template: choose an instruction-tuned model, or give "
            "model.chat_template, a file with one"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(model, tokenizer, config.lora and lora_config(config.lora, "CAUSAL_LM"))


def source_of(name: str) -> str:
    """Return the folder or repository that transformers loads for a model's name."""
    bare = name.removeprefix("local:")
    return smollm2() if bare == "smollm2" else check_folder(bare, f"model.name {name!r}")


def merge_adapter(adapter: str | Path, out: str | Path) -> Path:
    """Merge an adapter into its model, save the result as a plain model, and return its folder.

    Args:
        adapter: The adapter's folder.
        out: The folder for the merged model and its tokenizer.

    Raises:
        ConfigError: If the folder has no adapter, or the adapter's model cannot be loaded.
        RunDirectoryError: If `out` is not empty.
    """
    folder, target = Path(adapter), Path(out)
    if not (folder / ADAPTER).is_file():
        raise ConfigError(f"{folder}: there is no {ADAPTER}; choose a folder that a training wrote")
    if target.exists() and any(target.iterdir()):
        raise RunDirectoryError(f"{target} is not empty: choose another directory")
    merged, tokenizer = load_weights(str(folder), str(folder), "auto")
    draft = target.with_name(f"{target.name}.new")  # So that a kill leaves no half of a model in `out`.
    shutil.rmtree(draft, ignore_errors=True)
    merged.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    copy_records(folder, draft)
    draft.replace(target)
    return target


def fitting(rows: Dataset, length: Callable[[dict[str, Any]], int], limit: int, *, what: str, remedy: str) -> Dataset:
    """Return the rows of at most `limit` tokens, and log how many are longer. Raises ConfigError if all are."""
    kept = [i for i, row in enumerate(rows) if length(row) <= limit]
    if len(kept) < len(rows):
        logger.warning(
            "%d of %d %s are longer than %d tokens and are left out", len(rows) - len(kept), len(rows), what, limit
        )
    if not kept:
        shortest = min(length(row) for row in rows)
        raise ConfigError(
            f"every one of the {len(rows)} {what} is longer than {limit} tokens (the shortest has {shortest}): {remedy}"
        )
    return rows.select(kept)


def tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, prompt: bool = False) -> list[int]:
    """Return a conversation's tokens; as a prompt, they end with the beginning of the assistant's reply."""
    return chat_tokens(tokenizer, clean(messages), add_generation_prompt=prompt)


def clean(messages: Iterable[Message]) -> list[Message]:
    """Drop the keys that Arrow filled with None because another message has them."""
    return [
        {key: value for key, value in message.items() if value is not None or key == "content"} for message in messages
    ]


def without_nulls(rows: Dataset, *columns: str) -> Dataset:
    """Drop the keys that Arrow filled with None from the conversations in these columns.

    Chat templates check whether a message has such a key, for example for tool calls.
    """
    if all(clean(row[column]) == row[column] for row in rows for column in columns):
        return rows
    cleaned = [{**row, **{column: clean(row[column]) for column in columns}} for row in rows]
    return Dataset.from_list(cleaned, on_mixed_types="use_json")


def lora_config(lora: LoraSection, task_type: str) -> LoraConfig:
    """Return PEFT's configuration of an adapter for one of its task types."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type=task_type,
    )


def _four_bits() -> "BitsAndBytesConfig":
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise ConfigError("model.quantize: 4bit needs pip install bitsandbytes") from error
    if not torch.cuda.is_available():
        raise ConfigError("model.quantize: 4bit needs a CUDA device, and there is none")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _template(file: str) -> str:
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"model.chat_template: {file}: {error.strerror or error}") from error
    return json.loads(text)["chat_template"] if file.endswith(".json") else text
