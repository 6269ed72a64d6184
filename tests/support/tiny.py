"""A tiny causal model and a tokenizer of one token a character, made from a config: nothing is downloaded."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,?!:'\n"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'][0] + ' ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>a ' }}{% endif %}"
)


def tiny_model(
    folder: Path, *, template: str | None = TEMPLATE, context: int = 512, seed: int = 0, layers: int = 2
) -> str:
    """A folder with a Llama."""
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
