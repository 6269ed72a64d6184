"""Reward models in this process: sequence classifiers of conversations, with concurrent calls in one batch."""

from functools import lru_cache

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from collab_agents._internal.reasons import nearest
from collab_agents.errors import ConfigError, ModelError
from collab_agents.models.batching import Entry, MicroBatcher
from collab_agents.models.chat_template import chat_tokens
from collab_agents.models.sources import check_folder, loading
from collab_agents.models.weights import placement
from collab_agents.trajectories import Message


class RewardEngine:
    """A classifier and its tokenizer."""

    def __init__(
        self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_batch_size: int = 16
    ) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.context = int(getattr(model.config, "max_position_embeddings", 0) or 1 << 30)
        self._own_pad: int | None = model.config.pad_token_id
        self._batcher: MicroBatcher[list[int], list[float]] = MicroBatcher(
            self._read, max_batch=max_batch_size, max_wait=0.02
        )

    async def logits(self, messages: list[Message]) -> list[float]:
        """Return the model's logits for a conversation of role/content dicts. Raises ModelError if it is too long."""
        ids = chat_tokens(self.tokenizer, messages)
        if len(ids) > self.context:
            raise ModelError(
                f"{self.name}: a conversation of {len(ids)} tokens exceeds the context of {self.context} tokens"
            )
        return await self._batcher.submit(ids).outcome()

    def column(self, label: str | int | None) -> int:
        """Return the index of the label's logit. Raises ConfigError if the label is unknown or ambiguous."""
        names: dict[str, int] = {str(name): index for index, name in self.model.config.id2label.items()}
        if label is None and len(names) == 1:
            return 0
        if label in names:
            return names[str(label)]
        if isinstance(label, int) and 0 <= label < len(names):
            return label
        wrong = "needs a label" if label is None else f"has no label {label!r}"
        hint = nearest(label, names) if isinstance(label, str) else ""
        raise ConfigError(f"reward model {self.name!r} {wrong}: choose from {', '.join(names)}{hint}")

    def _read(self, entries: list[Entry[list[int], list[float]]]) -> list[list[float]]:
        rows = [entry.job for entry in entries]
        width = max(map(len, rows))
        pad = self._pad(rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        with torch.inference_mode():
            return self.model(input_ids=ids, attention_mask=mask).logits.float().tolist()

    def _pad(self, rows: list[list[int]]) -> int:
        """Return the token to pad with.

        A decoder's score is read at the last token that is not its configuration's padding token. If the
        configuration has none, a token is chosen that is in no row.
        """
        if self._own_pad is not None:
            return self._own_pad
        used = {token for row in rows for token in row}
        pad = next(token for token in range(len(used) + 1) if token not in used)
        self.model.config.pad_token_id = pad
        return pad


def load_reward_model(
    repo: str, *, dtype: str | None = None, device: str | None = None, max_batch_size: int = 16
) -> RewardEngine:
    """Load a sequence-classification model from a folder or the Hub, once per process.

    Raises:
        ConfigError: If it cannot be loaded or has no chat template.
    """
    return _load(repo, *placement(dtype, device), max_batch_size)


@lru_cache(maxsize=4)
def _load(repo: str, dtype: str, device: str, max_batch_size: int) -> RewardEngine:
    label = f"reward model {repo!r}"
    source = check_folder(repo, label)
    with loading(label):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=getattr(torch, dtype), trust_remote_code=False, weights_only=True
        )
    if not tokenizer.chat_template:
        raise ConfigError(f"{label} has no chat template: choose a model for conversations")
    return RewardEngine(repo, model.to(device).eval(), tokenizer, max_batch_size=max_batch_size)
