from importlib.resources import files
from pathlib import Path

from collab_agents.errors import ConfigError


def write_starting_files(folder: Path) -> list[Path]:
    """Write commented files for a first run. Raises ConfigError if one exists already."""
    sources = [one for one in files("collab_agents").joinpath("starting").iterdir() if one.is_file()]
    targets = [folder / one.name for one in sources]
    for target in targets:
        if target.exists():
            raise ConfigError(f"{target} already exists; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for source, target in zip(sources, targets, strict=True):
        target.write_bytes(source.read_bytes())
    return sorted(targets)
