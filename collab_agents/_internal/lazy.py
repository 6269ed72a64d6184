"""Import a package's names when they are first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def names_from(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return a `__getattr__` for the package; `homes` maps each of its modules to the names in it."""
    home_of = {name: home for home, names in homes.items() for name in names}

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home_of[name]}"), name)

    return get
