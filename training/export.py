"""Write a model as one GGUF file, which llama.cpp and Ollama run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    RopeScalingType,
    TensorNameMap,
    get_tensor_name_map,
    quantize,
)
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from collab_agents.errors import ConfigError, RunDirectoryError
from collab_agents.models.sources import ADAPTER, folder_of, loading
from collab_agents.models.weights import load_weights
from collab_agents.training.gguf_tokenizer import add_tokenizer
from collab_agents.training.modelfile import write_modelfile
from collab_agents.training.policy import source_of

GGUFType = Literal["f16", "bf16", "f32", "q8_0"]
"""How the numbers of matrices are stored. Vectors are always in 32-bit floats."""

_FILE_TYPES = {
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "f32": LlamaFileType.ALL_F32,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
_ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen2": MODEL_ARCH.QWEN2, "qwen3": MODEL_ARCH.QWEN3}
"""By transformers' `model_type`."""
_CONVERTER = "use llama.cpp's convert_hf_to_gguf.py"


@dataclass(frozen=True)
class _Weight:
    """A tensor of the model that is loaded when it is written."""

    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the file."""

    name: str
    kind: GGMLQuantizationType
    weight: _Weight

    @property
    def size(self) -> int:
        """Bytes in the file."""
        block, size = GGML_QUANT_SIZES[self.kind]
        return prod(self.weight.shape) // block * size

    def encoded(self, label: str) -> Any:
        """Return the array to write."""
        values = self.weight.load()
        if self.kind is GGMLQuantizationType.BF16:
            return values.bfloat16().contiguous().view(torch.int16).numpy()  # NumPy has no bfloat16.
        if self.kind is GGMLQuantizationType.F16:
            if not torch.isfinite(halves := values.half()).all():
                raise ConfigError(f"{label}: {self.name} has numbers that are too large for f16: use bf16")
            return halves.contiguous().numpy()
        return quantize(values.float().contiguous().numpy(), self.kind)


def export_gguf(model: str | Path, file: str | Path, *, kind: GGUFType = "f16") -> Path:
    """Write a model or an adapter, merged into its model, as one GGUF file, and return its Ollama Modelfile.

    Tensors are read and written one at a time. An adapter is merged in memory.

    Args:
        model: "smollm2", a folder, an adapter's folder or a Hub repository.
        file: The file to write. The Modelfile is written beside it.
        kind: How matrices are stored. With "q8_0", those whose rows are no multiple of 32 are stored as "f16".

    Raises:
        ConfigError: If the model cannot be loaded, or has an architecture, a tokenizer or options that this cannot
            write.
        RunDirectoryError: If the file exists.
    """
    target, label = Path(file), f"model {str(model)!r}"
    if target.exists():
        raise RunDirectoryError(f"{target} exists already: choose another file")
    folder = folder_of(source_of(str(model)), label)
    config, tokenizer, weights = _loaded(folder, label)
    architecture = _ARCHITECTURES[config.model_type]
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.new")
    writer = GGUFWriter(draft, MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_type("model")
        writer.add_name(Path(model).name)
        writer.add_file_type(_FILE_TYPES[kind])
        if kind == "q8_0":
            writer.add_quantization_version(GGML_QUANT_VERSION)
        _add_sizes(writer, config)
        frequencies = _add_rope(writer, config, label)
        add_tokenizer(writer, tokenizer, config.vocab_size, label)
        names = get_tensor_name_map(architecture, config.num_hidden_layers)
        _write(writer, _tensors(weights, names, config, kind, label) + frequencies, label)
    except BaseException:
        writer.close()
        draft.unlink(missing_ok=True)
        raise
    writer.close()
    draft.replace(target)
    return write_modelfile(target, tokenizer)


def _loaded(folder: Path, label: str) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, dict[str, _Weight]]:
    if (folder / ADAPTER).is_file():
        merged, tokenizer = load_weights(str(folder), label, "auto")
        _check(merged.config, label)
        return merged.config, tokenizer, _held(merged.state_dict())
    with loading(label):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    _check(config, label)
    with loading(label):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return config, tokenizer, _stored(folder, label)


def _stored(folder: Path, label: str) -> dict[str, _Weight]:
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated"))
    if not files:
        raise ConfigError(f"{label} has no weights in safetensors: save it by save_pretrained of transformers")
    weights = {}
    for file in files:
        opened: Any = safe_open(file, "pt")
        for name in opened.keys():  # noqa: SIM118 (it cannot be iterated over)
            shape = tuple(opened.get_slice(name).get_shape())
            weights[name] = _Weight(shape, partial(opened.get_tensor, name))
    return weights


def _held(tensors: Mapping[str, torch.Tensor]) -> dict[str, _Weight]:
    return {name: _Weight(tuple(one.shape), one.cpu) for name, one in tensors.items()}


def _check(config: PreTrainedConfig, label: str) -> None:
    """Raise ConfigError for a model that llama.cpp would play otherwise than transformers, or not at all."""
    if config.model_type not in _ARCHITECTURES:
        raise ConfigError(
            f"{label} is a {config.model_type} model, and {', '.join(_ARCHITECTURES)} can be exported: for others, "
            f"{_CONVERTER}"
        )
    unlike = None
    if getattr(config, "quantization_config", None):
        unlike = "quantized weights"
    elif config.hidden_act != "silu":
        unlike = f"hidden_act {config.hidden_act!r}"
    elif "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        unlike = "attention in a sliding window"
    elif config.model_type == "qwen3" and config.attention_bias:
        unlike = "attention_bias"
    elif getattr(config, "mlp_bias", False):
        unlike = "mlp_bias"
    if unlike:
        raise ConfigError(f"{label} has {unlike}, which this export does not write: {_CONVERTER}")


def _add_sizes(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head(config))
    writer.add_value_length(_head(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(_head(config))


def _head(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_rope(writer: GGUFWriter, config: PreTrainedConfig, label: str) -> list[_Tensor]:
    """Write the rotary embedding's keys, and return the tensor that Llama 3.1's needs."""
    rope = dict(config.rope_parameters)
    kind, theta = rope.pop("rope_type", "default"), rope.pop("rope_theta")
    known = {
        "default": set(),
        "linear": {"factor"},
        "yarn": {"factor", "original_max_position_embeddings"},
        "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    }
    given = {key for key, value in rope.items() if value is not None and (key, value) != ("partial_rotary_factor", 1.0)}
    if kind not in known or given != known[kind]:
        said = f"{label} has rope_parameters {dict(config.rope_parameters)}, which this export does not write"
        raise ConfigError(f"{said}: {_CONVERTER}")
    writer.add_rope_freq_base(theta)
    if kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if kind != "llama3":
        return []
    plain = 1.0 / theta ** (torch.arange(0, _head(config), 2, dtype=torch.float32) / _head(config))
    divisors = plain / ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0]
    return [_Tensor("rope_freqs.weight", GGMLQuantizationType.F32, _Weight(tuple(divisors.shape), lambda: divisors))]


def _tensors(
    weights: Mapping[str, _Weight], names: TensorNameMap, config: PreTrainedConfig, kind: GGUFType, label: str
) -> list[_Tensor]:
    matrices = GGMLQuantizationType[kind.upper()]
    tensors = []
    for own, weight in weights.items():
        if own.endswith("rotary_emb.inv_freq") or (own == "lm_head.weight" and config.tie_word_embeddings):
            continue
        name = names.get_name(own, (".weight", ".bias"))
        if name is None:
            raise ConfigError(f"{label} has a tensor {own!r}, which a {config.model_type} model in GGUF does not have")
        stored = matrices if len(weight.shape) > 1 else GGMLQuantizationType.F32
        if weight.shape[-1] % GGML_QUANT_SIZES[stored][0]:
            stored = GGMLQuantizationType.F16
        tensors.append(_Tensor(name, stored, _permuted(weight, name, config)))
    return tensors


def _permuted(weight: _Weight, name: str, config: PreTrainedConfig) -> _Weight:
    """Order the rows of queries and keys as llama.cpp rotates them for Llama: pairs side by side, not in two halves."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if config.model_type != "llama" or heads is None:
        return weight

    def load() -> torch.Tensor:
        halves = weight.load().reshape(heads, 2, -1, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)

    return _Weight(weight.shape, load)


def _write(writer: GGUFWriter, tensors: list[_Tensor], label: str) -> None:
    for one in tensors:
        # The type says how it is stored; of NumPy's, only uint8 would be taken to be in blocks.
        writer.add_tensor_info(one.name, one.weight.shape, np.dtype(np.float32), one.size, raw_dtype=one.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for one in tensors:
        writer.write_tensor_data(one.encoded(label))
