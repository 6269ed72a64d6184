"""Prompt texts, one a file, with `$names` to fill in."""

from functools import cache
from importlib.resources import files
from string import Template


def render(name: str, /, **values: str) -> str:
    """The prompt `name` with its `$names` filled in. Raises KeyError for a name left out."""
    return template_of(name).substitute(values)


@cache
def template_of(name: str) -> Template:
    return Template(files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8").strip())
