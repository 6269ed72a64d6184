"""Where a model is: a folder, an adapter's folder, or a repository of the Hub. This needs no torch."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

from huggingface_hub import snapshot_download

from collab_agents.errors import ConfigError

ADAPTER = "adapter_config.json"
_NEEDED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.safetensors", "openvino_*")
_TWICE = "consolidated*"
"""The same weights once more, for another library."""


def check_folder(source: str, label: str) -> str:
    """Return the source with "~" expanded. Raises ConfigError for a path that is not a model's."""
    if source.startswith((".", "/", "~")):
        path = Path(source).expanduser()
        if not any((path / config).is_file() for config in ("config.json", ADAPTER)):
            raise ConfigError(f"{label}: the folder has no config.json of a transformers model")
        source = str(path)
    return source


def base_of(source: str, label: str) -> str | None:
    """Return the model that an adapter's folder is for, or None if the source is not such a folder.

    Raises:
        ConfigError: If the adapter's configuration does not say.
    """
    config = Path(source, ADAPTER)
    if not config.is_file():
        return None
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str):
        raise ConfigError(f"{label}: {config} has no base_model_name_or_path of an adapter")
    return base


def tokenizer_of(source: str, base: str | None) -> str:
    """Return where a model's tokenizer is: an adapter's folder may have none, and then it is its model's."""
    return base if base is not None and not Path(source, "tokenizer_config.json").exists() else source


def label_of_base(label: str, base: str) -> str:
    return f"{label}: its model {base!r}"


def folder_of(source: str, label: str) -> Path:
    """Return the folder of a model, downloaded if it is a repository of the Hub.

    Raises:
        ConfigError: If there is none.
    """
    source = check_folder(source, label)
    if Path(source).is_file():
        raise ConfigError(f"{label} is a file: give a model's folder")
    if Path(source).exists():
        return Path(source)
    with loading(label):
        return Path(snapshot_download(source, allow_patterns=[*_NEEDED], ignore_patterns=["*/*", _TWICE]))


def files_of(folder: Path, label: str) -> list[Path]:
    """Return the files that a model is made of, in its folder and, for an adapter, in its model's."""
    files = sorted(
        file
        for file in folder.iterdir()
        if any(file.match(one) for one in _NEEDED) and not file.match(_TWICE) and file.is_file()
    )
    base = base_of(str(folder), label)
    if base is None:
        return files
    label = label_of_base(label, base)
    return files + files_of(folder_of(base, label), label)


@contextmanager
def loading(label: str) -> Iterator[None]:
    """Turn the errors of loading a model into a ConfigError of one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except UnpicklingError as error:
        raise ConfigError(
            f"{label} cannot be loaded from a folder or the Hub: its weights are a pickle with code in it; "
            "use safetensors"
        ) from error
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{label} cannot be loaded from a folder or the Hub: {reason}") from error
