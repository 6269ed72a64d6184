"""Where a model's weights are and how they are placed, for every model in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch

from collab_agents.errors import ConfigError


def placement(dtype: str | None, device: str | None) -> tuple[str, str]:
    """Return the torch type and the device, chosen or the best available. Raises ConfigError for a wrong type."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        fast = device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        dtype = "bfloat16" if fast else "float32"
    if not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"dtype {dtype!r} is not a torch type: use bfloat16, float16 or float32")
    return dtype, device


def check_folder(source: str, label: str) -> str:
    """Return the source with "~" expanded. Raises ConfigError for a path that is not a model's folder."""
    if source.startswith((".", "/", "~")):
        source = str(Path(source).expanduser())
        if not Path(source, "config.json").is_file():
            raise ConfigError(f"{label}: the folder has no config.json of a transformers model")
    return source


@contextmanager
def loading(label: str) -> Iterator[None]:
    """Turn the errors of loading a model into a ConfigError of one sentence."""
    try:
        yield
    except UnpicklingError as error:
        raise ConfigError(
            f"{label} cannot be loaded from a folder or the Hub: its weights are a pickle with code in it; "
            "use safetensors"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"{label} cannot be loaded from a folder or the Hub: {reason}") from error
