"""Export a model of transformers in OpenVINO's form, and compare the two."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import openvino
import torch
from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig
from openvino_tokenizers import convert_tokenizer
from torch.export import Dim
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from collab_agents.models.engines.exact import MODEL, join_gates
from collab_agents.models.weights import load_weights

_TOLERANCE = 0.02
"""Of a log probability: a hundred times what rounding makes of it."""


def convert(source: str, label: str, target: Path) -> None:
    """Write a model and its tokenizer in OpenVINO's form.

    Raises:
        ConfigError: If the model cannot be loaded.
        Exception: If it cannot be exported, or its log probabilities are others then.
    """
    model, tokenizer = load_weights(source, label, "float32")
    write_tokenizer(tokenizer, target)
    if not (target / "tokenizer.json").exists():
        raise ValueError("its tokenizer is not one of the tokenizers package")
    with _quiet():
        _export(model, target)
        difference = largest_difference(model, target)
    if not difference < _TOLERANCE:
        raise ValueError(f"its log probabilities would differ from those of transformers by {difference:.2g}")


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Write a tokenizer as it is and in OpenVINO's form, which constrained decoding needs."""
    tokenizer.save_pretrained(str(target))
    converted = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, one in zip(("tokenizer", "detokenizer"), converted, strict=True):
        openvino.save_model(one, str(target / f"openvino_{name}.xml"))


def _export(model: PreTrainedModel, target: Path) -> None:
    from transformers.exporters.configs import OpenVINOConfig
    from transformers.exporters.exporter_dynamo import get_auto_dynamic_shapes, register_cache_pytrees_for_model
    from transformers.exporters.exporter_openvino import OpenVINOExporter

    inputs = _sample(model)
    register_cache_pytrees_for_model(model)
    shapes = get_auto_dynamic_shapes(inputs)
    for axes in shapes["past_key_values"]:
        if len(axes) == 4:
            axes[1] = axes[3] = Dim.STATIC  # Heads and their size, which tracing would take long to find out.
    config = OpenVINOConfig(dynamic=True, dynamic_shapes=shapes)
    program = OpenVINOExporter().export(model, inputs, config=config).program
    del program.rt_info["runtime_options"]  # Which precision suits the processor is decided where the model is loaded.
    join_gates(program)
    openvino.save_model(program, str(target / MODEL), compress_to_fp16=False)
    for part in (model.config, model.generation_config):
        part.save_pretrained(str(target))


def _sample(model: PreTrainedModel) -> dict[str, Any]:
    """Return inputs of two texts: four tokens that were read before, and two new ones."""
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        past = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    return {
        "input_ids": ids[:, 4:],
        "attention_mask": torch.ones(2, 6, dtype=torch.long),
        "position_ids": torch.arange(4, 6).expand(2, 2),
        "past_key_values": past,
    }


def largest_difference(model: PreTrainedModel, folder: Path) -> float:
    """Compare the log probabilities of a text's greedy continuation with those of transformers.

    The text is longer than a window of attention, where the model has one of at most 1,024 tokens.
    """
    config = model.config.get_text_config()
    window = min(getattr(config, "sliding_window", None) or 0, 1024)
    length = min(window + 64, int(getattr(config, "max_position_embeddings", 0) or 4096) - 16)
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(config.vocab_size, (1, length), generator=generator)
    new, found = _continued(folder, prompt.numpy())
    if not new:
        raise ValueError("its keys and values take too much memory")
    with torch.no_grad():
        logits = model(torch.cat([prompt, torch.tensor([new])], dim=1)).logits[0, length - 1 : -1]
    expected = torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(new)[:, None])[:, 0]
    return float((torch.tensor(found) - expected).abs().max())


def _continued(folder: Path, prompt: numpy.ndarray) -> tuple[list[int], list[float]]:
    """Return tokens and their log probabilities."""
    exact = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    scheduler = SchedulerConfig()
    scheduler.cache_size = 1
    pipeline = ContinuousBatchingPipeline(str(folder), scheduler, "CPU", exact)
    config = GenerationConfig()
    config.max_new_tokens = 8
    config.ignore_eos = True
    config.logprobs = 1
    handle = pipeline.add_request(0, openvino.Tensor(prompt), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    ids: list[int] = []
    found: list[float] = []
    while handle.can_read():
        for output in handle.read().values():
            ids += output.generated_ids
            found += output.generated_log_probs
    return ids, found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about versions and tracing from the user, who did not choose it."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)
