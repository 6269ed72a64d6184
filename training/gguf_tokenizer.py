"""A tokenizer's vocabulary, merges, special tokens and chat template as GGUF metadata."""

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from collab_agents.errors import ConfigError

_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_2 = _LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}")

_PROBE = "I'VE said: it's 3 o'clock,\n\n  (12345 x 6.78)\t\r\n élève 你好!!\n'tis 9th   \n "
"""Text that the rules below split differently."""


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, size: int, label: str) -> None:
    """Write a tokenizer's metadata.

    Args:
        writer: The file's writer.
        tokenizer: A tokenizer of byte-level BPE.
        size: The rows of the model's embedding, which may be more than the tokenizer's tokens.
        label: The model in errors.

    Raises:
        ConfigError: For a tokenizer of another kind, or with more tokens than the model.
    """
    core = _byte_level_bpe(tokenizer, label)
    if len(tokenizer) > size:
        raise ConfigError(f"{label}: its tokenizer has {len(tokenizer)} tokens, and the model {size}")
    tokens, kinds = _tokens(tokenizer, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_rule(tokenizer, core, label))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in core["merges"]])
    for name in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(adds_bos(tokenizer))
    writer.add_add_eos_token(tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id])
    if tokenizer.chat_template:
        writer.add_chat_template(_templates(tokenizer.chat_template))


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text's tokens begin with the token for the beginning of a sequence."""
    return tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]


def _byte_level_bpe(tokenizer: PreTrainedTokenizerBase, label: str) -> dict[str, Any]:
    """Return the BPE model of the tokenizer's JSON."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {}}
    model, normalizer = parts["model"], parts.get("normalizer")
    if model.get("type") != "BPE" or model.get("byte_fallback") or (normalizer or {"type": "NFC"})["type"] != "NFC":
        raise ConfigError(
            f"{label}: only tokenizers of byte-level BPE can be exported (as those of SmolLM2, Llama 3 and Qwen), and "
            f"this is another kind: use llama.cpp's convert_hf_to_gguf.py"
        )
    return model


def _tokens(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[list[str], list[int]]:
    """Return the tokens in the order of their ids, with their kinds. Rows of the embedding without one are unused."""
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, kinds = [], []
    for token in range(size):
        kind = TokenType.NORMAL if token in names else TokenType.UNUSED
        if token in added:
            kind = TokenType.CONTROL if added[token].special else TokenType.USER_DEFINED
        tokens.append(names.get(token, f"[PAD{token}]"))
        kinds.append(int(kind))
    return tokens, kinds


def _rule(tokenizer: Any, core: Mapping[str, Any], label: str) -> str:
    """Return llama.cpp's name of the rule by which text is split into words before it is tokenized."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    llama = "llama-bpe" if core.get("ignore_merges") else "smaug-bpe"
    rules: dict[str, Any] = {
        llama: [pre_tokenizers.Split(Regex(_LLAMA_3), "isolated"), byte_level],
        "qwen2": [pre_tokenizers.Split(Regex(_QWEN_2), "isolated"), byte_level],
        "smollm": [pre_tokenizers.Digits(individual_digits=True), words],
        "gpt-2": [words],
    }
    own = tokenizer.backend_tokenizer.pre_tokenizer
    split = own.pre_tokenize_str(_PROBE) if own is not None else None
    for name, steps in rules.items():
        if pre_tokenizers.Sequence(steps).pre_tokenize_str(_PROBE) == split:
            return "smollm" if name == "gpt-2" and not _joins_digits(tokenizer, core) else name
    raise ConfigError(
        f"{label}: its tokenizer splits text by a rule of its own, and not as SmolLM2's, Llama 3's, Qwen's or GPT-2's: "
        "use llama.cpp's convert_hf_to_gguf.py"
    )


def _joins_digits(tokenizer: Any, core: Mapping[str, Any]) -> bool:
    """Whether there are tokens of several characters with a digit. Where there are none, each digit is split off.

    What transformers loads for SmolLM2 does not split them off before, and more programs know SmolLM2's rule.
    """
    added = {one.content for one in tokenizer.added_tokens_decoder.values()}
    texts = (tokenizer.backend_tokenizer.decoder.decode([token]) for token in core["vocab"] if token not in added)
    return any(len(text) > 1 and any(unicodedata.category(one)[0] == "N" for one in text) for text in texts)


def _templates(template: str | dict[str, str]) -> str | list[dict[str, str]]:
    if isinstance(template, str):
        return template
    return [{"name": name, "template": one} for name, one in template.items()]
