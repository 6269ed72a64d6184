"""Drawing personas by a seed: which of them, and with which fields."""

import math
import random
from collections.abc import Iterable, Mapping, Sequence

from pydantic import ValidationError

from collab_agents._internal.reasons import first_problem, nearest
from collab_agents._internal.seeds import derive_seed
from collab_agents.errors import ConfigError
from collab_agents.personas.library import PERSONAS
from collab_agents.personas.persona import Persona

Mix = Mapping[str, object]
"""What personas are drawn by: a persona's name -> its weight, a field of `Persona` -> {value: weight}, or both."""

Fields = dict[str, tuple[list[object], list[float]]]
"""Of each field that is drawn: its values and their weights."""


def sample_personas(
    n: int, seed: int = 0, *, mix: Mix | None = None, personas: Iterable[Persona] | None = None
) -> list[Persona]:
    """Draw personas with replacement.

    The same seed gives the same personas, and a longer draw begins with a shorter one.

    Args:
        n: How many to draw.
        seed: Of the draw.
        mix: Weights of names: only these personas are drawn, in proportion to their weights; by default all are equally
            likely. Weights of a field's values: that field of each drawn persona is drawn anew, and the persona is
            named after the original and its place in the draw ("busy-manager-3").
        personas: What to draw from; by default `PERSONAS`.

    Raises:
        ConfigError: For a negative `n`, nothing to draw from, an unknown name or field, a value that the field does not
            take, or weights that are negative, not numbers, or all zero.

    Example:
        personas = sample_personas(8, seed=1, mix={"patience": {2: 1, 8: 3}, "typos": {"often": 1}})
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 0:
        raise ConfigError(f"sample_personas: n must be a whole number of at least 0, got {n!r}")
    pool = list(PERSONAS.values() if personas is None else personas)
    if not pool:
        raise ConfigError("sample_personas: there are no personas to draw from")
    weights, fields = _parts(mix or {}, [persona.name for persona in pool])
    chances = [weights.get(persona.name, 0) if weights else 1 for persona in pool]
    return [_draw(pool, chances, fields, derive_seed(seed, "sample", i), i) for i in range(n)]


def fields_of(mix: Mix) -> Fields:
    """The fields in a mix that is of fields alone. Raises ConfigError as `sample_personas`."""
    for key, value in mix.items():
        if not isinstance(value, Mapping) and key not in Persona.model_fields:
            raise ConfigError(f"mix: {key!r} has a weight, but names are weighted only in a sample of a given size")
    return _parts(mix, ())[1]


def with_fields(persona: Persona, fields: Fields, seed: int) -> Persona:
    """The persona, under its name, with these fields drawn by the seed and that name."""
    if not fields:
        return persona
    return persona.model_copy(update=_values(fields, random.Random(derive_seed(seed, "fields", persona.name))))


def pick_persona(personas: Sequence[Persona], *, seed: int, task_id: str) -> Persona | None:
    """The persona that plays a task: any of them with equal chance, the same for the same seed and task."""
    return random.Random(derive_seed(seed, task_id, "persona")).choice(personas) if personas else None


def _draw(pool: Sequence[Persona], chances: Sequence[float], fields: Fields, seed: int, place: int) -> Persona:
    chance = random.Random(seed)
    (persona,) = chance.choices(pool, chances)
    if not fields:
        return persona
    return persona.model_copy(update={"name": f"{persona.name}-{place + 1}", **_values(fields, chance)})


def _values(fields: Fields, chance: random.Random) -> dict[str, object]:
    return {name: chance.choices(values, weights)[0] for name, (values, weights) in fields.items()}


def _parts(mix: Mix, names: Sequence[str]) -> tuple[dict[str, float], Fields]:
    """The weights of names, and of each field its values and their weights."""
    weights: dict[str, float] = {}
    fields: Fields = {}
    drawn = [field for field in Persona.model_fields if field != "name"]
    for key, value in sorted(mix.items()):
        if isinstance(value, Mapping):
            if key not in drawn:
                raise ConfigError(
                    f"mix: a persona has no field {key!r} to draw: use {', '.join(drawn)}{nearest(key, drawn)}"
                )
            # In one order however they are written: two mixes that are equal draw the same.
            ordered = sorted(value.items(), key=lambda pair: str(pair[0]))
            chances = [_weight(f"mix: {key}: {one}", weight) for one, weight in ordered]
            _some(f"mix: {key}", chances)
            fields[key] = ([_value(key, one) for one, _ in ordered], chances)
        elif key not in names:
            wanted = f"; of the field {key!r}, give the weight of each value" if key in drawn else nearest(key, names)
            raise ConfigError(f"mix: there is no persona {key!r} to draw{wanted}")
        else:
            weights[key] = _weight(f"mix: {key}", value)
    if weights:
        _some("mix", list(weights.values()))
    return weights, fields


def _value(field: str, value: object) -> object:
    try:
        return getattr(Persona.model_validate({"name": "any", field: value}), field)
    except ValidationError as error:
        raise ConfigError(f"mix: {first_problem(error)}") from error


def _weight(where: str, weight: object) -> float:
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
        raise ConfigError(f"{where}: a weight must be a number of at least 0, got {weight!r}")
    return weight


def _some(where: str, weights: Sequence[float]) -> None:
    if not any(weights):
        raise ConfigError(f"{where}: at least one weight must be above 0")
