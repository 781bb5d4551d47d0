"""Layers that combine inputs number by number, or reduce one: Eltwise, Axpy, Reduction, ArgMax.

Source: Caffe's eltwise_layer.cpp, reduction_layer.cpp, argmax_layer.cpp; SENet's axpy_layer.cpp.
"""

from __future__ import annotations

import math
from typing import Any

from onnxviz.importing.caffe.writer import Step, Value


def eltwise(step: Step) -> None:
    """Convert Eltwise: product, weighted sum or maximum of inputs of one shape."""
    parameters = step.parameters("eltwise_param")
    step.expect_bottoms(1, 64)
    first = step.bottoms[0]
    for other in step.bottoms[1:]:
        if other.shape != first.shape:
            raise step.refuse(f"combines inputs of different shapes, {first.shape} and {other.shape}")
    _same_batch(step, step.bottoms)
    if parameters.coeff and (parameters.operation != 1 or len(parameters.coeff) != len(step.bottoms)):
        raise step.refuse(f"has {len(parameters.coeff)} coefficients for {len(step.bottoms)} inputs")
    if parameters.operation == 2:
        step.top("Max", step.bottoms, first.shape)
    elif len(step.bottoms) == 1:
        _sum(step, [float(coefficient) for coefficient in parameters.coeff] or [1.0])
    elif parameters.operation == 0:
        product = first
        for index, other in enumerate(step.bottoms[1:-1]):
            product = step.inner("Mul", [product, other], first.shape, f"product{index}")
        step.top("Mul", [product, step.bottoms[-1]], first.shape)
    else:
        _sum(step, [float(coefficient) for coefficient in parameters.coeff] or [1.0] * len(step.bottoms))


def _sum(step: Step, coefficients: list[float]) -> None:
    if not all(math.isfinite(coefficient) for coefficient in coefficients):
        raise step.refuse("has a coefficient that is not finite", "give finite numbers")
    shape = step.bottoms[0].shape
    if coefficients == [1.0, -1.0]:
        step.top("Sub", step.bottoms, shape)
        return
    terms: list[Value] = []
    for index, (value, coefficient) in enumerate(zip(step.bottoms, coefficients, strict=True)):
        factor = [] if coefficient == 1 else [step.constant(f"coefficient{index}", coefficient)]
        terms.append(step.inner("Mul", [value, *factor], shape, f"term{index}") if factor else value)
    step.top("Add" if len(terms) == 2 else "Sum", terms, shape)


def axpy(step: Step) -> None:
    """Convert SENet's Axpy: a factor for each channel of each image, times the second input, plus the third."""
    step.expect_bottoms(3)
    factor, times, plus = step.bottoms
    if times.shape != plus.shape or times.rank != 4 or factor.shape not in (times.shape[:2], (*times.shape[:2], 1, 1)):
        raise step.refuse("needs a factor for each channel and two images of one shape")
    _same_batch(step, step.bottoms)
    if factor.rank == 2:
        factor = step.reshaped(factor, (*factor.shape, 1, 1), "aligned")
    product = step.inner("Mul", [factor, times], times.shape, "product")
    step.top("Add", [product, plus], times.shape)


def reduction(step: Step) -> None:
    """Convert Reduction over all axes from one on: sum, sum of magnitudes, sum of squares or mean."""
    parameters = step.parameters("reduction_param")
    source = step.bottom
    axis = step.axis(parameters.axis, "reduces all images at once")
    axes = list(range(axis, source.rank))
    shape = source.shape[:axis]
    operator = {1: "ReduceSum", 2: "ReduceL1", 3: "ReduceSumSquare", 4: "ReduceMean"}[parameters.operation]
    inputs: list[Value | str] = [source]
    attributes: dict[str, Any] = {"keepdims": 0}
    if operator == "ReduceSum":
        inputs.append(step.indices("axes", axes))
    else:
        attributes["axes"] = axes
    coefficient = step.number(parameters, "coeff")
    if coefficient == 1:
        step.top(operator, inputs, shape, **attributes)
        return
    reduced = step.inner(operator, inputs, shape, "reduced", **attributes)
    step.top("Mul", [reduced, step.constant("coefficient", coefficient)], shape)


def argmax(step: Step) -> None:
    """Convert ArgMax: places of the largest values, the values, or both, as floating point numbers."""
    parameters = step.parameters("argmax_param")
    source = step.bottom
    count = int(parameters.top_k)
    if parameters.HasField("axis"):
        axis = step.axis(parameters.axis, "compares images with each other")
    else:
        axis = 1
        size = math.prod(source.shape[1:])
        if source.rank != 2:
            source = step.reshaped(source, (source.shape[0], size), "flatten")
    if not 1 <= count <= source.shape[axis]:
        raise step.refuse(f"asks for the {count} largest of {source.shape[axis]}")
    inner = (*source.shape[:axis], count, *source.shape[axis + 1 :])
    largest, places = _top_k(step, source, inner, axis)
    if parameters.HasField("axis"):
        if parameters.out_max_val:
            step.top("Identity", [largest], inner)
        else:
            step.top("Cast", [places], inner, to=1)
        return
    numbers = step.inner("Cast", [places], inner, "numbers", to=1)
    if parameters.out_max_val:
        numbers = step.inner("Concat", [numbers, largest], (inner[0], 2 * count), "both", axis=1)
    ones = (1,) * (max(3, step.bottom.rank) - 3)
    step.reshape_top(numbers, (inner[0], 2 if parameters.out_max_val else 1, count, *ones))


def _top_k(step: Step, source: Value, shape: tuple[int, ...], axis: int) -> tuple[Value, Value]:
    """Add a TopK; of equal values ONNX takes the first, Caffe the last."""
    values = step.writer.add_value(f"{step.layer.name}/values", shape, source.free, step.layer)
    places = step.writer.add_value(f"{step.layer.name}/places", shape, source.free, step.layer)
    count = step.indices("k", [shape[axis]])
    step.add_node("TopK", [source, count], [values.name, places.name], f"{step.layer.name}/topk", {"axis": axis})
    return values, places


def _same_batch(step: Step, values: tuple[Value, ...]) -> None:
    if len({value.free for value in values}) > 1:
        step.fix_batch("combines images with something that is not one for each image")
