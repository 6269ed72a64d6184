"""Custom personas: from a YAML or JSONL file, or from a dataset with a column of descriptions."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import yaml
from pydantic import ValidationError

from collab_agents._internal.reasons import first_problem
from collab_agents._internal.rows import BUILDERS, DataFiles, parsed_lines, read_rows, short_hash
from collab_agents.errors import ConfigError
from collab_agents.personas.persona import Persona
from collab_agents.personas.sampling import Mix, fields_of, with_fields

_WRITTEN_OUT = (".yaml", ".yml", ".jsonl")


def load_personas(
    source: str | Path,
    *,
    split: str = "train",
    limit: int | None = None,
    name: str | None = None,
    column: str | None = None,
    data_files: DataFiles | None = None,
    revision: str | None = None,
    mix: Mix | None = None,
    seed: int = 0,
) -> Iterator[Persona]:
    """Load personas one by one.

    Files and rows are read as they are needed; a dataset on the Hub is downloaded first.

    Args:
        source: A YAML file with a list of personas, or a JSONL file with one per line, each with the fields of
            `Persona`. If `column` or `data_files` is given, or the source is neither, a dataset in PersonaHub's form:
            on the Hub ("proj-persona/PersonaHub"), in a folder, or JSON, JSONL, CSV or Parquet files.
        split: A dataset's split.
        limit: The most personas to load.
        column: The dataset's column that describes somebody in a sentence or so; by default "persona". It becomes the
            background. The name is a hash of it, so it is the same in another file; duplicates are dropped.
        name: The configuration of a dataset on the Hub ("elite_persona").
        revision: The version of a dataset on the Hub.
        data_files: Local files instead of the dataset.
        mix: A field of `Persona` -> {value: weight}. That field of each persona is drawn by these weights.
        seed: Draws the fields in `mix`, together with the persona's name.

    Raises:
        ConfigError: For a malformed persona, with the file and line or the dataset, row and column, and for two
            personas of one name in a file.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"personas {str(source)!r}: limit must be at least 0, got {limit}")
    options = {"name": name, "revision": revision}
    if column is None and data_files is None and Path(source).suffix.lower() in _WRITTEN_OUT:
        for option, given in options.items():
            if given is not None:
                raise ConfigError(f"personas {str(source)!r}: a file of personas has no {option}, got {given!r}")
        personas = _of_file(Path(source))
    else:
        personas = _of_dataset(str(source), split, column or "persona", data_files, options)
    fields = fields_of(mix or {})
    return islice((with_fields(persona, fields, seed) for persona in personas), limit)


def _of_dataset(
    source: str, split: str, column: str, data_files: DataFiles | None, options: dict[str, str | None]
) -> Iterator[Persona]:
    if Path(source).suffix.lower() in BUILDERS and data_files is None:
        data_files = source
    given = {option: value for option, value in options.items() if value is not None}
    rows = read_rows(source, columns=[column], split=split, data_files=data_files, **given)
    seen: set[str] = set()
    for row in rows:
        text = row.text(column).strip()
        name = f"{Path(source).stem}-{short_hash(text)}"
        if name not in seen:
            seen.add(name)
            yield Persona(name=name, background=text)


def _of_file(path: Path) -> Iterator[Persona]:
    seen: dict[str, str] = {}
    try:
        with open(path, "rb") as file:
            for place, persona in _of_jsonl(path, file) if path.suffix.lower() == ".jsonl" else _of_yaml(path, file):
                if persona.name in seen:
                    raise ConfigError(f"{place}: the name {persona.name!r} is taken: {seen[persona.name]} has it")
                seen[persona.name] = place
                yield persona
    except OSError as error:
        raise ConfigError(f"personas {str(path)!r}: {error.strerror or error}") from error
    if not seen:
        raise ConfigError(f"{path}: the file has no personas")


def _of_jsonl(path: Path, file: BinaryIO) -> Iterator[tuple[str, Persona]]:
    return ((f"{path}:{number}", persona) for number, persona in parsed_lines(path, file, Persona))


def _of_yaml(path: Path, file: BinaryIO) -> Iterator[tuple[str, Persona]]:
    try:
        listed = yaml.safe_load(file)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(listed, list):
        raise ConfigError(f"{path}: expected a list of personas, such as [{{name: anna, patience: 3}}]")
    for number, one in enumerate(listed, 1):
        place = f"{path}: persona {number}"
        try:
            yield place, Persona.model_validate(one)
        except ValidationError as error:
            raise ConfigError(f"{place}: {first_problem(error)}") from error
