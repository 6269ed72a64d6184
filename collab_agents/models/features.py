"""What a frozen language model makes of a reply: its hidden states, as numbers to learn from."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from collab_agents.errors import ConfigError
from collab_agents.models.batching import Entry, MicroBatcher
from collab_agents.models.chat_template import chat_tokens
from collab_agents.models.smollm2 import smollm2
from collab_agents.models.sources import ADAPTER, check_folder, loading
from collab_agents.trajectories import Message

Features = NDArray[np.float32]
Job = tuple[list[int], int]
"""A conversation's tokens, and where its reply begins."""

_READ = 2 / 3
LONGEST = 1024
"""The most tokens that are read. Of a longer conversation the end is read."""


class FeatureEngine:
    """A language model without its head, in 32-bit floats. It reads one conversation at a time, in its own thread.

    So the features of a reply do not depend on what else is read.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layers: int) -> None:
        self.name = name
        self.layers = layers
        self.model = model
        self.tokenizer = tokenizer
        context = int(getattr(model.config, "max_position_embeddings", 0) or LONGEST)
        self.longest = min(LONGEST, context)
        self._batcher: MicroBatcher[Job, Features] = MicroBatcher(self._read_all, max_batch=1, max_wait=0)

    def how_to_load(self) -> tuple[Callable[..., "FeatureEngine"], dict[str, Any]]:
        """Return a function that loads it in another process, and the function's arguments."""
        return load_features, {"name": self.name, "layers": self.layers}

    async def of(self, prompt: Sequence[Message], reply: Sequence[Message]) -> Features:
        """Return the features of a reply to a prompt, of shape (2 * hidden size,).

        They are the mean of the hidden states over the reply's tokens, and that of its last token.
        """
        before = chat_tokens(self.tokenizer, list(prompt), add_generation_prompt=True)
        ids = chat_tokens(self.tokenizer, [*prompt, *reply])
        start = min(len(before), len(ids) - 1)
        cut = max(0, len(ids) - self.longest)
        return await self._batcher.submit((ids[cut:], max(0, start - cut))).outcome()

    def _read_all(self, entries: list[Entry[Job, Features]]) -> list[Features]:
        return [self._read(*entry.job) for entry in entries]

    def _read(self, ids: list[int], start: int) -> Features:
        with torch.inference_mode():
            hidden = self.model(input_ids=torch.tensor([ids], device=self.model.device)).last_hidden_state[0, start:]
            found: Features = torch.cat([hidden.mean(0), hidden[-1]]).float().cpu().numpy()
        return found


def load_features(name: str, layers: int | None = None) -> FeatureEngine:
    """Load a language model for its hidden states, once per process.

    Args:
        name: "smollm2", a folder or a Hub repository; "local:" in front is optional.
        layers: How many of its layers are read, from the first; by default two thirds.

    Raises:
        ConfigError: If it cannot be loaded, has no chat template or fewer layers.
    """
    return _load(name.removeprefix("local:"), layers, "cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=4)
def _load(name: str, layers: int | None, device: str) -> FeatureEngine:
    label = f"value model's model {name!r}"
    source = smollm2() if name == "smollm2" else check_folder(name, label)
    if Path(source, ADAPTER).is_file():
        raise ConfigError(f"{label} is an adapter: merge it first (collab-agents merge)")
    with loading(label), _without_load_report():
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, trust_remote_code=False).get_text_config()
        read = layers or max(1, round(_READ * config.num_hidden_layers))
        if read > config.num_hidden_layers:
            raise ConfigError(f"layers must be at most {config.num_hidden_layers}, those of {name!r}, got {read}")
        model = AutoModel.from_pretrained(
            source, num_hidden_layers=read, dtype=torch.float32, trust_remote_code=False, weights_only=True
        )
    if not tokenizer.chat_template:
        raise ConfigError(f"{label} has no chat template: choose a model for conversations")
    return FeatureEngine(name, model.to(device).eval(), tokenizer, read)


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep transformers from listing the weights of the head and of layers that are not read."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
