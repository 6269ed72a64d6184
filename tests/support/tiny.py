"""A tiny causal model and a tokenizer of one token a character, made from a config: nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?!:'\n"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'][0] + ' ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>a ' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tiny_model(
    folder: Path,
    *,
    template: str | None = TEMPLATE,
    context: int = 512,
    seed: int = 0,
    layers: int = 2,
    uneven: bool = False,
) -> str:
    """A folder with a Llama. Those of its weights that are 1 at first are random if it is `uneven`."""
    special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: i for i, token in enumerate([*special, *CHARACTERS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    if template is not None:
        tokenizer.chat_template = template
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=context,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
            tie_word_embeddings=False,
            initializer_range=0.2,  # An adapter cannot turn a flat head.
        )
    )
    if uneven:
        for name, weights in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(weights, mean=1.0, std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def adapter_of(model: str, folder: Path, *, scale: float = 1.0) -> str:
    """A folder with an adapter for a model's folder. Its weights are random, so that it changes what the model says."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM"),
    )
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=scale)
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return str(folder)


def chance_of(folder: str | Path, letter: str, prompt: str = "say") -> float:
    """The probability of the letter as the first of a reply, in [0, 1]. An adapter's folder will do."""
    if Path(folder, "adapter_config.json").exists():
        from peft import AutoPeftModelForCausalLM

        model: Any = AutoPeftModelForCausalLM.from_pretrained(str(folder))
    else:
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        chances = torch.softmax(model(ids).logits[0, -1].float(), -1)
    return float(chances[tokenizer.convert_tokens_to_ids(letter)])


def tiny_chat_model(folder: Path, kind: str = "llama", **changes: Any) -> str:
    """A folder with a Llama, Qwen2 or Qwen3 and a tokenizer of byte-level BPE that splits text as its family's does."""
    llama = kind == "llama"
    digits = "{1,3}" if llama else ""
    split = Regex(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    core = Tokenizer(models.BPE(ignore_merges=llama))
    core.normalizer = None if llama else normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["the user wants the assistant to ask what they want, and then to write it"] * 4, trainer)
    if llama:  # As Llama 3, it begins a text with a token.
        core.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[(special[0], 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=special[0], bos_token=special[0], eos_token=special[2]
    )
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = ("{{ bos_token }}" if llama else "") + CHATML
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{
            "vocab_size": len(tokenizer) + 5,  # Rows without a token, as Qwen has.
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": kind == "qwen2",
            "initializer_range": 0.2,
            **({"head_dim": 128} if kind == "qwen3" else {}),
            **changes,
        },
    )
    model: Any = AutoModelForCausalLM.from_config(config)
    for name, weights in model.named_parameters():
        if name.endswith(("norm.weight", ".bias")):  # They are ones and zeros, in which nothing can be mistaken.
            torch.nn.init.normal_(weights, mean=float(name.endswith("weight")), std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
