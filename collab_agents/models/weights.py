"""Models' weights and how they are placed, for every model in this process."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from collab_agents.errors import ConfigError
from collab_agents.models.sources import base_of, check_folder, loading, tokenizer_of


def placement(dtype: str | None, device: str | None) -> tuple[str, str]:
    """Return the torch type and the device, chosen or the best available. Raises ConfigError for a wrong type."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        dtype = "bfloat16" if device != "cpu" or has_bfloat16() else "float32"
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype {dtype!r} is not a torch type: use bfloat16, float16 or float32")
    return dtype, device


def has_bfloat16() -> bool:
    """Return whether the processor computes in bfloat16. Others imitate it, which takes many times as long."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def load_weights(source: str, label: str, dtype: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from a folder or the Hub. An adapter is merged into its model.

    Args:
        source: The folder or repository.
        label: The model in errors.
        dtype: The name of a torch type, or "auto" for that of the file.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    source = check_folder(source, label)
    base = base_of(source, label)
    options: dict[str, Any] = {"dtype": dtype, "weights_only": True, "trust_remote_code": False}
    with loading(label if base is None else f"{label}: the adapter or its model {base!r}"):
        if base is None:
            model = AutoModelForCausalLM.from_pretrained(source, **options)
        else:
            model = _peft_model()(source, **options).merge_and_unload()
    place = tokenizer_of(source, base)
    with loading(label):
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", trust_remote_code=False)
    return model.eval(), tokenizer


def _peft_model() -> Any:
    try:
        from peft import AutoPeftModelForCausalLM
    except ImportError as error:
        raise ConfigError("an adapter needs pip install peft") from error
    return AutoPeftModelForCausalLM.from_pretrained
