"""A small model that samples as vLLM does: each call by its seed, with the log-probabilities of its tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class Sampled:
    ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str
    stop_reason: str | None


class Model:
    def __init__(self, folder: str) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.context: int = self._model.config.max_position_embeddings

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def load(self, name: str, weights: torch.Tensor) -> None:
        self._model.get_parameter(name).data.copy_(weights)

    def forget(self) -> None:
        for weights in self._model.parameters():
            weights.data.fill_(torch.nan)

    def sample(self, prompt: list[int], length: int, temperature: float, seed: int, stop: Sequence[str]) -> Sampled:
        chance = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        logprobs: list[float] = []
        while len(ids) < length:
            with torch.inference_mode():
                logits = self._model(torch.tensor([prompt + ids])).logits[0, -1].float()
            logps = torch.log_softmax(logits / temperature, -1)
            ids.append(int(torch.multinomial(logps.exp(), 1, generator=chance)))
            logprobs.append(float(logps[ids[-1]]))
            if ids[-1] == self._tokenizer.eos_token_id:
                break
            text = self._text(ids)
            if found := next((one for one in stop if one in text), None):
                return Sampled(ids, logprobs, text.partition(found)[0], "stop", found)
        ended = ids[-1] == self._tokenizer.eos_token_id
        return Sampled(ids, logprobs, self._text(ids), "stop" if ended else "length", None)

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
