"""The weights of a model in training, written into the file of its converted form."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from collab_agents.errors import ConfigError
from collab_agents.models.engines.exact import MODEL
from collab_agents.training.answering import base_of


@dataclass(frozen=True)
class _Weight:
    """A weight matrix or vector that the model generates with."""

    name: str
    parameter: nn.Parameter
    adapted: LoraLayer | None
    """The layer, if an adapter adds to the parameter."""

    @property
    def trained(self) -> bool:
        return self.parameter.requires_grad or self.adapted is not None

    def now(self) -> numpy.ndarray:
        """Return its value, the adapter included, as rows of 32-bit floats."""
        value = torch.atleast_1d(self.parameter.detach().float())
        if self.adapted is not None:
            for adapter in self.adapted.active_adapters:
                value = value + self.adapted.get_delta_weight(adapter).detach().float()
        return value.reshape(-1, value.shape[-1]).cpu().numpy()


@dataclass(frozen=True)
class _Place:
    """Where a weight is."""

    weight: _Weight
    offset: int
    """The first byte."""


class WeightsFile:
    """The weights that a training changes, in their places in the file of the converted model.

    A model in OpenVINO's form has no names of weights, so they are found by their values, from before the training.

    Args:
        folder: The converted model, whose file is written to.
        model: The model in training, with the weights that were converted.

    Raises:
        ConfigError: If a weight is not found, or could be one of two.
    """

    def __init__(self, folder: Path, model: nn.Module) -> None:
        self._path = (folder / MODEL).with_suffix(".bin")
        self._places = list(_places(folder, list(_weights(model))))

    def write(self) -> None:
        """Write the weights as they are now."""
        with self._path.open("r+b") as file:
            for place in self._places:
                file.seek(place.offset)
                file.write(place.weight.now().tobytes())


def _weights(model: nn.Module) -> Iterator[_Weight]:
    base = base_of(model)
    layers = [one for one in base.modules() if isinstance(one, LoraLayer)]
    if any(one.lora_variant for one in layers):
        raise ConfigError("trainer.use_openvino takes plain LoRA: leave it out, or the adapter's other options")
    adapted = {id(one.get_base_layer().weight): one for one in layers}
    inside = {id(one) for layer in adapted.values() for one in layer.parameters()} - adapted.keys()
    for name, parameter in base.named_parameters():
        if id(parameter) not in inside:
            yield _Weight(name.replace(".base_layer", ""), parameter, adapted.get(id(parameter)))


def _places(folder: Path, weights: list[_Weight]) -> Iterator[_Place]:
    by_first_row: dict[bytes, list[_Weight]] = defaultdict(list)
    for weight in weights:
        by_first_row[weight.now()[0].tobytes()].append(weight)
    missing = {weight.name for weight in weights if weight.trained}
    data = numpy.memmap((folder / MODEL).with_suffix(".bin"), mode="r")
    for offset, rows in _constants(folder / MODEL, data):
        row = 0
        while row < len(rows):  # Products that were joined have the weights of several, one after the other.
            found = [one for one in by_first_row.get(rows[row].tobytes(), []) if _is_at(one, rows, row)]
            if not found:
                break
            trained = [one.name for one in found if one.trained]
            if trained and len(found) > 1:
                raise _unknown(f"{' and '.join(trained[:2])} have the same values")
            missing.difference_update(trained)
            if trained:
                yield _Place(found[0], offset + row * rows[row].nbytes)
            row += len(found[0].now())
    if missing:
        raise _unknown(f"{min(missing)} is not there as it is in the model")


def _constants(file: Path, data: numpy.memmap) -> Iterator[tuple[int, numpy.ndarray]]:
    """Yield each constant of 32-bit floats as rows, with its first byte."""
    seen = set()
    for layer in ElementTree.parse(file).iterfind("./layers/layer[@type='Const']/data[@element_type='f32']"):
        offset, size = int(layer.attrib["offset"]), int(layer.attrib["size"])
        shape = [int(one) for one in layer.attrib["shape"].split(",") if one.strip()]
        if shape and size and offset not in seen:
            seen.add(offset)
            yield offset, data[offset : offset + size].view(numpy.float32).reshape(-1, shape[-1])


def _is_at(weight: _Weight, rows: numpy.ndarray, row: int) -> bool:
    values = weight.now()
    return numpy.array_equal(rows[row : row + len(values)], values)


def _unknown(why: str) -> ConfigError:
    return ConfigError(
        f"trainer.use_openvino: the trained weights cannot be found in the converted model: {why}; leave it out"
    )
