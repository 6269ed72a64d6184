"""Models in OpenVINO's form: as they are given, or converted once and kept in the user's cache."""

import hashlib
import json
import logging
from pathlib import Path

from psutil import virtual_memory

from collab_agents._internal.reasons import words_of
from collab_agents.errors import ConfigError
from collab_agents.models.cache import made_once
from collab_agents.models.engines.base import CannotRun, one_line
from collab_agents.models.engines.exact import MODEL, exact_folder
from collab_agents.models.sources import files_of, folder_of, loading

_VERSION = 1
"""Raised whenever models are converted in another way, so that those of the cache are made anew."""

_REFUSED = "why-not.txt"
_log = logging.getLogger(__name__)


def openvino_folder(source: str, label: str, *, reproducible: bool) -> Path:
    """Return a folder with the model in OpenVINO's form and its tokenizer, converted on first use.

    A converted model takes four bytes a parameter on disk, and about three times as much memory while it is converted.

    Args:
        source: A folder in OpenVINO's form, or what `load_weights` takes.
        label: The model in errors.
        reproducible: Whether the model's logits must not depend on the rest of the batch.

    Raises:
        ConfigError: If the model cannot be loaded.
        CannotRun: If it can, but OpenVINO cannot run it.
    """
    folder = folder_of(source, label)
    if (folder / MODEL).exists():
        try:
            return exact_folder(folder) if reproducible else folder
        except (OSError, RuntimeError) as error:
            raise CannotRun(one_line(error)) from error
    files = files_of(folder, label)
    weights = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    if not weights:
        raise CannotRun("it has no weights in safetensors")
    with loading(label):
        needed = 12 * weights / _bytes_per_weight(files)
    there = virtual_memory().total
    if needed > there:
        raise CannotRun(
            f"converting it takes about {needed / 1e9:.0f} GB of memory, and there are {there / 1e9:.0f}; "
            "a folder exported by optimum-cli export openvino is taken as it is"
        )
    key = "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    name = f"openvino-{hashlib.sha256(f'{_VERSION} {key}'.encode()).hexdigest()[:16]}"
    try:
        converted = made_once(name, lambda draft: _convert_or_say_why(folder, label, draft))
    except (OSError, MemoryError) as error:
        raise ConfigError(f"{label} cannot be converted for OpenVINO: {words_of(error)}") from error
    except ImportError as error:
        raise CannotRun(f"it cannot be exported: {error}") from error
    if (converted / _REFUSED).exists():
        why = (converted / _REFUSED).read_text(encoding="utf-8")
        raise CannotRun(f"it cannot be exported (delete {converted} to try again): {why}")
    return converted


def _bytes_per_weight(files: list[Path]) -> int:
    configs = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.name == "config.json"]
    config: dict[str, object] = configs[0] if configs else {}
    return 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2


def _convert_or_say_why(folder: Path, label: str, target: Path) -> None:
    from collab_agents.models.engines.conversion import convert

    _log.warning("%s is converted for OpenVINO, once: this takes a minute or more", label)
    try:
        convert(str(folder), label, target)
    except (ConfigError, OSError, MemoryError, ImportError):
        raise
    except Exception as error:  # torch and OpenVINO raise errors of any kind for models that they do not know.
        _log.debug("%s", label, exc_info=True)
        for file in target.iterdir():
            file.unlink()
        (target / _REFUSED).write_text(one_line(error)[:300], encoding="utf-8")
