"""Reshape, slice, split, pad and their kin against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.convert.operators.arrangement import CONVERTERS
from onnxviz.convert.operators.operation import Operation
from onnxviz.core.errors import ModelError

RANDOM = np.random.default_rng(0).normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
WHOLE = np.random.default_rng(1).integers(-9, 9, (2, 3, 4, 5))


def whole(*numbers: int) -> np.ndarray:
    """An int64 vector."""
    return np.asarray(numbers, np.int64)


def run(
    operator: str, version: int, attributes: Mapping[str, Any], *arguments: Any, inputs: int = 1, outputs: int = 1
) -> Any:
    """Convert a form of an operator that newer opsets do not have, and call it."""
    operation = Operation(
        operator=operator,
        version=version,
        attributes=attributes,
        constants=(None,) * inputs,
        given=(True,) * inputs,
        outputs=(True,) * outputs,
        shapes=(tuple(arguments[0].shape),) * inputs,
        elements=(1,) * inputs,
    )
    return CONVERTERS[operator](operation).module(*arguments)


CASES: list[tuple[str, list[np.ndarray | None], int, dict[str, Any]]] = [
    ("Reshape", [RANDOM, whole(0, -1, 10)], 13, {}),
    ("Reshape", [RANDOM[:, :0], whole(0, 5, 2)], 14, {"allowzero": 1}),
    ("Flatten", [RANDOM], 13, {"axis": 4}),
    ("Flatten", [RANDOM], 13, {"axis": 0}),
    ("Flatten", [RANDOM], 13, {"axis": -2}),
    ("Flatten", [RANDOM[0, 0, 0]], 13, {}),
    ("Squeeze", [RANDOM[:, :1, :, :1], whole(1, -1)], 13, {}),
    ("Squeeze", [RANDOM[:, :1, :, :1]], 13, {}),
    ("Unsqueeze", [RANDOM, whole(-1, 0)], 13, {}),
    ("Transpose", [RANDOM], 13, {}),
    ("Transpose", [RANDOM], 13, {"perm": [2, 0, 3, 1]}),
    ("Concat", [RANDOM, RANDOM, RANDOM[:, :1]], 13, {"axis": -3}),
    ("Slice", [RANDOM, whole(-1, 3), whole(-1000, -100), whole(1, -1), whole(-1, -2)], 13, {}),
    ("Slice", [RANDOM, whole(1, 2), whole(1000, 2), whole(-2, 1)], 13, {}),
    ("Slice", [RANDOM, whole(0, -2), whole(-1, 2**62)], 13, {}),
    ("Slice", [RANDOM, whole(1), whole(3), whole(2), whole(-1)], 13, {}),
    ("Slice", [RANDOM, whole(1), whole(3), None, whole(1)], 13, {}),
    ("Expand", [RANDOM, whole(2, 1, 1, 1)], 13, {}),
    ("Expand", [RANDOM[0, :, :1], whole(2, 1, 4, 1)], 13, {}),
    ("Tile", [RANDOM, whole(1, 2, 1, 3)], 13, {}),
    ("Pad", [RANDOM, whole(0, 1, 2, -1, 1, 0, -3, 2), np.float32(3)], 13, {}),
    ("Pad", [RANDOM, whole(0, 0, -7, 0, 0, 0, 9, 0), np.float32(3)], 13, {}),
    ("Pad", [RANDOM, whole(0, 0, 2, 1, 0, 0, 3, 4)], 13, {"mode": "reflect"}),
    ("Pad", [RANDOM, whole(1, 1, 2, -1, 1, 2, 3, 2)], 13, {"mode": "reflect"}),
    ("Pad", [RANDOM, whole(0, 0, 7, 1, 0, 0, -1, 9)], 13, {"mode": "edge"}),
    ("Pad", [RANDOM, whole(0, 0, 7, 1, 0, 0, -1, 9)], 19, {"mode": "wrap"}),
    ("Pad", [RANDOM[0, 0], whole(3, 2, 1, 4)], 13, {"mode": "edge"}),
    ("Pad", [RANDOM, whole(2, 1, 3, 1), np.float32(-1), whole(-1, 1)], 18, {}),
    ("DepthToSpace", [RANDOM.reshape(1, 12, 2, 5)], 13, {"blocksize": 2}),
    ("DepthToSpace", [RANDOM.reshape(1, 12, 2, 5)], 13, {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [RANDOM.reshape(1, 3, 4, 10)], 13, {"blocksize": 2}),
    ("ReverseSequence", [RANDOM, whole(2, 3)], 10, {"batch_axis": 0, "time_axis": 1}),
    ("ReverseSequence", [RANDOM[:, 0, 0], whole(2, 1, 0, 2, 1)], 10, {}),
    ("CenterCropPad", [RANDOM, whole(5, 3, 7)], 18, {"axes": [1, 3, -2]}),
    ("Col2Im", [RANDOM.reshape(2, 12, 5)[:, :, :2], whole(5, 5), whole(2, 3)], 18,
     {"strides": [2, 2], "pads": [0, 1, 0, 0], "dilations": [3, 1]}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "inputs", "opset", "attributes"), CASES)
def test_arrangement(operator: str, inputs: list[np.ndarray | None], opset: int, attributes: dict[str, Any]) -> None:
    constants = range(1, len(inputs)) if operator != "Concat" else ()
    double = RANDOM.size and inputs[0] is not None and inputs[0].size
    found = check(
        operator, inputs, opset=opset, constants=constants, compiled=True, gradient=bool(double), **attributes
    )
    # ONNX Runtime does not take all of these amounts where they are computed; the result is the same.
    check(operator, inputs, opset=opset, expected=[value.numpy() for value in found], **attributes)
    if operator not in ("Squeeze", "Col2Im"):
        check(operator, inputs, opset=opset, constants=constants, shapes=False, **attributes)


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint8, np.bool_])
def test_integers_and_truth_values_are_moved_as_well(kind: Any) -> None:
    data = (WHOLE > 0) if kind is np.bool_ else WHOLE.astype(kind)
    for mode in ("constant", "reflect", "edge"):
        check("Pad", [data, whole(0, 0, 1, 2, 0, 0, 3, 1)], opset=13, constants=[1], mode=mode, reference="onnx")
    check("Pad", [data, whole(0, 0, 1, 2, 0, 0, 3, 1), data[0, 0, 0, 0]], opset=13, constants=[1, 2], reference="onnx")
    check("DepthToSpace", [data.reshape(1, 12, 2, 5)], opset=13, blocksize=2, mode="CRD", reference="onnx")
    check("Slice", [data, whole(3), whole(-9), whole(3), whole(-2)], constants=[1, 2, 3, 4])
    check("Tile", [data, whole(1, 2, 1, 1)], constants=[1], reference="onnx")


def test_a_number_of_64_bits_is_not_rounded() -> None:
    check("Pad", [np.asarray([2**62 + 1]), whole(1, 1), np.asarray(2**60 + 1)], opset=13, constants=[1, 2])


def test_a_pad_takes_what_numpy_takes() -> None:
    for mode in ("reflect", "wrap", "edge"):
        for amounts in ((11, 13), (4, 0), (0, 5)):
            wanted = np.pad(RANDOM[0, 0, 0], amounts, mode=mode)  # type: ignore[call-overload]
            check("Pad", [RANDOM[0, 0, 0], whole(*amounts)], opset=19, mode=mode, expected=[wanted])


@pytest.mark.parametrize("axis", [0, 2, -1])
def test_splits(axis: int) -> None:
    sizes = {0: whole(1, 1), 2: whole(1, 0, 3), -1: whole(2, 2, 1)}[axis]
    count = len(sizes)
    check("Split", [RANDOM, sizes], count, opset=13, constants=[1], axis=axis, compiled=True, gradient=True)
    check("Split", [RANDOM, sizes], count, opset=13, axis=axis)
    # ONNX Runtime crashes where an output of a Split has no name.
    wanted = np.split(RANDOM, np.cumsum(sizes)[:-1], axis)
    named = ["", *[f"y{index}" for index in range(1, count)]]
    check("Split", [RANDOM, sizes], named, opset=13, axis=axis, expected=wanted[1:])


def test_the_last_part_of_a_split_may_be_smaller() -> None:
    check("Split", [RANDOM], 2, opset=18, axis=-1, num_outputs=2)
    check("Split", [RANDOM], 3, opset=18, axis=3, num_outputs=3)
    check("Split", [RANDOM], 1, opset=18, axis=3, num_outputs=1)


def test_squeeze_keeps_a_free_batch() -> None:
    model = one_node("Squeeze", [RANDOM[:1, :, :1]], shapes=False)
    network = onnxviz.to_torch(model)
    assert network(torch.zeros(1, 3, 1, 5))[0].shape == (1, 3, 5)
    assert network(torch.zeros(2, 1, 4, 5))[0].shape == (2, 4, 5)


def test_forms_of_old_opsets() -> None:
    data = torch.from_numpy(RANDOM)
    assert run("Squeeze", 1, {"axes": [0]}, data[:1]).shape == (3, 4, 5)
    assert run("Split", 2, {"axis": 3, "split": [2, 3]}, data, outputs=2)[0].shape == (2, 3, 4, 2)
    tiled = run("Tile", 1, {}, data, torch.tensor([3]), torch.tensor([1]), inputs=3)
    assert torch.equal(tiled, data.repeat(1, 3, 1, 1))
    assert torch.equal(run("Concat", 1, {}, data, data, inputs=2), torch.cat([data, data], 1))
    moved = run("SpaceToDepth", 28, {"blocksize": 2, "mode": "CRD"}, data[..., :4])
    assert torch.equal(moved, torch.nn.functional.pixel_unshuffle(data[..., :4], 2))


def test_col2im_of_one_and_of_three_axes() -> None:
    columns = np.random.default_rng(2).normal(0, 1, (2, 2 * 8, 2 * 3 * 2)).astype(np.float32)
    attributes = {"strides": [1, 2, 1], "pads": [0, 1, 0, 1, 0, 0], "dilations": [1, 1, 2]}
    check("Col2Im", [columns, whole(2, 6, 4), whole(2, 2, 2)], opset=18, reference="onnx", constants=[1, 2],
          compiled=True, gradient=True, **attributes)  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "inputs"),
    [
        ("Expand", [RANDOM, whole(2**30, 1, 1, 1, 1)]),
        ("Tile", [RANDOM, whole(2**20, 2**20, 1, 1)]),
        ("Pad", [RANDOM, whole(0, 0, 2**40, 0, 0, 0, 0, 0)]),
        ("CenterCropPad", [RANDOM, whole(2, 3, 2**30, 2**30)]),
        ("Col2Im", [RANDOM.reshape(2, 12, 5), whole(2**20, 2**20), whole(2, 2)]),
    ],
)
@pytest.mark.parametrize("constant", [True, False])
def test_what_would_fill_the_memory_is_refused(operator: str, inputs: list[np.ndarray], constant: bool) -> None:
    model = one_node(operator, inputs, opset=18, constants=[1, 2][: len(inputs) - 1] if constant else ())
    given = [torch.from_numpy(value) for value in (inputs[:1] if constant else inputs)]
    with pytest.raises(ModelError, match=operator):  # at conversion where the size is known by then
        onnxviz.to_torch(model)(*given)
