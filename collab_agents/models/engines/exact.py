"""Rewrite a model in OpenVINO's form so that a token's logits do not depend on the rest of its batch.

OpenVINO multiplies compressed weights, and weights whose product goes straight into an activation, by kernels that add
up in another order when the batch is larger. Its product with plain 32-bit weights adds up in one order.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy
import openvino
from openvino import opset13

from collab_agents.models.cache import made_once

MODEL = "openvino_model.xml"


def exact_folder(folder: Path) -> Path:
    """Return a folder with the model rewritten, made on first use. It takes four bytes a parameter."""
    file = folder / MODEL
    weights = file.with_suffix(".bin").stat()
    key = f"{folder.resolve()} {weights.st_size} {weights.st_mtime_ns}".encode() + file.read_bytes()
    return made_once(f"openvino-exact-{hashlib.sha256(key).hexdigest()[:16]}", lambda draft: _rewrite(folder, draft))


def _rewrite(source: Path, target: Path) -> None:
    for file in source.iterdir():
        if file.is_file() and file.stem != Path(MODEL).stem:
            shutil.copy(file, target)
    model = openvino.Core().read_model(str(source / MODEL))
    _decompress(model)
    join_gates(model)
    openvino.save_model(model, str(target / MODEL), compress_to_fp16=False)


def _decompress(model: Any) -> None:
    """Replace the weights' decompression by its result."""
    places = [
        node.input(0 if node.get_type_name() == "Gather" else 1)
        for node in model.get_ordered_ops()
        if node.get_type_name() in ("MatMul", "Gather")
    ]
    weights = [place for place in places if _is_decompression(place.get_source_output().get_node())]
    results = [opset13.result(opset13.convert(place.get_source_output(), "f32")) for place in weights]
    compute = openvino.Core().compile_model(openvino.Model(results, []), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    values = compute([])
    for place, result in zip(weights, compute.outputs, strict=True):
        place.replace_source_output(opset13.constant(values[result].copy()).output(0))


def _is_decompression(node: Any) -> bool:
    """Whether a node computes something from constants alone."""
    if node.get_type_name() == "Constant":
        return False
    waiting, constants = [node], 0
    while waiting:
        one = waiting.pop()
        if not one.inputs() and one.get_type_name() != "Constant":
            return False
        constants += one.get_type_name() == "Constant"
        waiting += [place.get_source_output().get_node() for place in one.inputs()]
        if constants > 16:  # It is far from the weights.
            return False
    return True


def join_gates(model: Any) -> None:
    """Compute a gate and what it lets through in one product, which no activation is part of."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Swish":
            continue
        gate = node.input(0).get_source_output().get_node()
        users = [place.get_node() for place in node.output(0).get_target_inputs()]
        through = [
            place.get_source_output().get_node()
            for user in users
            for place in user.inputs()
            if place.get_source_output().get_node().get_type_name() == "MatMul"
        ]
        if gate.get_type_name() != "MatMul" or len(users) != 1 or len(through) != 1:
            continue
        pair = (gate, through[0])
        if not all(_is_linear(one) for one in pair) or gate.input_value(0) != through[0].input_value(0):
            continue
        weights = [one.input(1).get_source_output().get_node() for one in pair]
        joined = opset13.matmul(
            gate.input(0).get_source_output(),
            opset13.constant(numpy.concatenate([one.data for one in weights])),
            False,
            True,
        )
        sizes = [one.data.shape[0] for one in weights]
        parts = opset13.variadic_split(joined, opset13.constant(-1), opset13.constant(sizes))
        for one, part in zip(pair, parts.outputs(), strict=True):
            one.output(0).replace(part)


def _is_linear(product: Any) -> bool:
    weights = product.input_value(1).get_node().get_type_name()
    return weights == "Constant" and product.get_attributes() == {"transpose_a": False, "transpose_b": True}
