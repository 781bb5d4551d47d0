"""What a Keras model or SavedModel computes, holds and calls its outputs."""

from __future__ import annotations

import re
from typing import Any

import numpy

from onnxviz.importing.exporters.process import differ, save_reference


def fill_in_constants(proto: Any, traced: Any, inputs: set[str]) -> list[str]:
    """Make initializers of constants that TensorFlow lists among a function's inputs: a Normalization's mean.

    Returns the names of inputs that are neither among the model's own `inputs` nor constants.
    """
    from onnx import numpy_helper

    held = {inner.name: outer for outer, inner in traced.graph.captures}
    graph = proto.graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    unknown = []
    for value in list(graph.input):
        if value.name.split(":")[0] in inputs:
            continue
        if value.name in read:
            if value.name not in held or not hasattr(held[value.name], "numpy"):
                unknown.append(value.name)
                continue
            graph.initializer.append(numpy_helper.from_array(held[value.name].numpy(), value.name))
        graph.input.remove(value)
    return unknown


def reference(tensorflow: Any, forward: Any, signature: list[Any]) -> dict[str, Any]:
    """Run the source on two random inputs, small numbers and pixels; twice, to see whether it draws numbers."""
    generator = numpy.random.default_rng(0)
    given = []
    for spec in signature:
        shape = [2, *(64 if size is None else size for size in spec.shape[1:])]
        if spec.dtype.is_floating:
            values = generator.random(shape) * numpy.array([1.0, 255.0]).reshape(2, *[1] * (len(shape) - 1))
        elif spec.dtype.is_integer:
            values = generator.integers(0, 256 if spec.dtype.size == 1 else 2, shape)
        else:
            return {"refused": f"inputs of the type {spec.dtype.name} cannot be made up"}
        given.append(values.astype(spec.dtype.as_numpy_dtype))
    try:
        runs = []
        for _ in range(2):
            results = forward(*map(tensorflow.constant, given))
            runs.append([numpy.asarray(item) for item in tensorflow.nest.flatten(results)])
    except Exception as fault:
        lines = str(fault).strip().splitlines() or [type(fault).__name__]
        return {"refused": f"the source does not run on random inputs: {lines[0][:400]}"}
    return {"given": given, "outputs": runs[0], "random": differ(*runs)}


def write_reference(found: dict[str, Any], proto: Any, signature: list[Any], path: str) -> dict[str, Any]:
    """Write down what the source computed, in the order of the file's outputs, and how its inputs are called there."""
    called = {value.name.split(":")[0]: value.name for value in proto.graph.input}
    names = [called.get(spec.name, spec.name) for spec in signature]
    told = {"inputs": names, "refused": found.get("refused", ""), "random": found.get("random", False)}
    if not told["refused"]:
        outputs = found["outputs"]
        order = [_number(value.name) for value in proto.graph.output]
        if len(order) != len(outputs) or sorted(order) != list(range(len(outputs))):
            order = list(range(len(outputs)))
        save_reference(path, found["given"], [outputs[index] for index in order])
    return told


def name_outputs(proto: Any, names: list[str]) -> None:
    """Call the outputs as Keras does, not Identity:0, Identity_1:0."""
    graph = proto.graph
    taken = {value for node in graph.node for value in node.output} | {value.name for value in graph.input}
    if len(names) != len(graph.output) or taken & set(names) or len(set(names)) != len(names):
        return
    order = sorted(range(len(graph.output)), key=lambda index: _number(graph.output[index].name))
    renamed = {graph.output[index].name: name for index, name in zip(order, names)}  # noqa: B905
    rename_values(graph, renamed)


def rename_values(graph: Any, names: dict[str, str]) -> None:
    """Give values other names wherever they are named; inputs keep theirs."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def _number(name: str) -> int:
    found = re.fullmatch(r"Identity(?:_(\d+))?:0", name)
    return int(found[1] or 0) if found else 0
