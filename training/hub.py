"""What uploads to the Hub share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collab_agents.errors import ConfigError


@contextmanager
def pushing(what: str, folder: str | Path) -> Iterator[None]:
    """Turn the errors of an upload into a ConfigError of one sentence, which says where the files are."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{what} cannot be pushed: {reason}; it is saved in {folder}") from error
