"""Convolution and pooling against ONNX Runtime, where the node tests of the standard do not look."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.core.errors import ModelError, UnsupportedOperatorError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


AUTOMATIC = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
POOLS = [
    (padding, ceil, size)
    for padding, ceil, size in itertools.product(
        [{"pads": pads} for pads in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 0, 1])]
        + [{"auto_pad": name} for name in AUTOMATIC[1:]],
        (0, 1),
        (9, 10),
    )
]


@pytest.mark.parametrize(("padding", "ceil", "size"), POOLS)
def test_pooling_rounds_and_pads_as_onnx_runtime(padding: dict[str, Any], ceil: int, size: int) -> None:
    images = normal(2, 3, size, size + 1)
    shape: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 2], **padding}
    check("MaxPool", [images], opset=12, ceil_mode=ceil, reference="ort", **shape)
    for counted in (0, 1):
        check("AveragePool", [images], opset=11, ceil_mode=ceil, count_include_pad=counted, reference="ort", **shape)
    check("LpPool", [images], opset=18, ceil_mode=ceil, p=3, reference="ort", **shape)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 2, 1, 2], [0, 1, 1, 0]])
def test_dilated_pooling(pads: list[int], ceil: int) -> None:
    images = normal(2, 3, 11, 12)
    shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 1], "dilations": [2, 2], "pads": pads}
    check("MaxPool", [images], opset=12, ceil_mode=ceil, reference="ort", **shape)
    check("LpPool", [images], opset=18, ceil_mode=ceil, reference="ort", **shape)
    for counted in (0, 1):
        check("AveragePool", [images], opset=19, ceil_mode=ceil, count_include_pad=counted, reference="ort", **shape)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
@pytest.mark.parametrize("ceil", [0, 1])
def test_indices_of_maxima_count_from_the_first_image(order: int, pads: list[int], ceil: int) -> None:
    attributes = {"kernel_shape": [3, 2], "strides": [2, 2], "dilations": [1, 2], "pads": pads, "ceil_mode": ceil}
    check("MaxPool", [normal(2, 3, 9, 11)], 2, opset=12, storage_order=order, reference="ort", **attributes)


def test_indices_of_maxima_along_one_and_three_axes() -> None:
    check("MaxPool", [normal(2, 3, 9)], 2, opset=12, kernel_shape=[3], strides=[2], pads=[1, 1], reference="ort")
    for order in (0, 1):
        attributes = {"kernel_shape": [3, 2, 2], "strides": [2, 1, 2], "storage_order": order}
        check("MaxPool", [normal(2, 3, 5, 6, 7)], 2, opset=12, reference="ort", **attributes)


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_whole_numbers_are_pooled_as_such(kind: type) -> None:
    images = RANDOM.integers(np.iinfo(kind).min, np.iinfo(kind).max, (2, 3, 7, 7)).astype(kind)
    (pooled,) = check("MaxPool", [images], opset=12, kernel_shape=[3, 3], pads=[1, 1, 1, 1], reference="ort")
    assert not pooled.is_floating_point()


def test_pooling_has_gradients_and_compiles() -> None:
    shape: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "compiled": True, "gradient": True}
    images = normal(1, 2, 6, 7)
    check("MaxPool", [images], auto_pad="SAME_UPPER", **shape)
    check("AveragePool", [images], auto_pad="SAME_LOWER", **shape)
    check("AveragePool", [images], opset=19, pads=[1, 1, 1, 1], dilations=[2, 2], **shape)
    check("LpPool", [images], opset=18, pads=[1, 0, 1, 0], **shape)
    for operator in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
        check(operator, [images], opset=13, compiled=True, gradient=True)


def test_the_norm_of_nothing_has_a_gradient() -> None:
    network = onnxviz.to_torch(one_node("LpPool", [normal(1, 1, 4, 4)], opset=18, kernel_shape=[2, 2]))
    images = torch.zeros(1, 1, 4, 4, requires_grad=True)
    network(images)[0].sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_global_pooling_over_any_number_of_axes(axes: int) -> None:
    images = normal(2, 3, *(4, 5, 3)[:axes])
    check("GlobalAveragePool", [images], opset=1)
    check("GlobalMaxPool", [images], opset=1)
    for order in (1, 2, 3):
        check("GlobalLpPool", [images], opset=2, p=order, reference="ort")


def test_pooling_of_opset_1() -> None:
    images = normal(2, 3, 7, 7)
    check("MaxPool", [images], opset=1, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    attributes: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    (later,) = check("AveragePool", [images], opset=7, reference="ort", **attributes)
    check("AveragePool", [images], opset=1, expected=[later.numpy()], **attributes)
    wanted = np.sqrt((images[:, :, :6, :6].reshape(2, 3, 3, 2, 3, 2) ** 2).sum((3, 5)))
    check("LpPool", [images], opset=1, kernel_shape=[2, 2], strides=[2, 2], p=2.0, expected=[wanted])


def test_unpooling_undoes_pooling() -> None:
    images = torch.from_numpy(normal(2, 3, 8, 8))
    values, indices = torch.nn.functional.max_pool2d(images, 2, return_indices=True)
    indices += 64 * torch.arange(6).reshape(2, 3, 1, 1)
    given = [values.numpy(), indices.numpy()]
    shape = {"kernel_shape": [2, 2], "strides": [2, 2]}
    (undone,) = check("MaxUnpool", given, opset=11, reference="ort", compiled=True, **shape)
    # ONNX Runtime reads the indices in the larger shape; the standard's own test does not.
    sizes = np.array([2, 3, 9, 10])
    larger = np.pad(undone.numpy(), ((0, 0), (0, 0), (0, 1), (0, 2)))
    check("MaxUnpool", [*given, sizes], opset=11, constants=(2,), expected=[larger], compiled=True, **shape)
    check("MaxUnpool", [*given, sizes], opset=11, expected=[larger], **shape)


@pytest.mark.parametrize("constants", [(), (1, 2)])
@pytest.mark.parametrize("automatic", AUTOMATIC)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolution(automatic: str, stride: int, constants: tuple[int, ...]) -> None:
    for kernel, groups in itertools.product((2, 3), (1, 2)):
        images, weight, bias = normal(2, 4, 11, 12), normal(6, 4 // groups, kernel, kernel), normal(6)
        attributes: dict[str, Any] = {"strides": [stride, stride], "group": groups, "auto_pad": automatic}
        check("Conv", [images, weight, bias], opset=11, constants=constants, reference="ort", **attributes)
        check("Conv", [images, weight], opset=11, shapes=False, reference="ort", **attributes)


def test_convolution_of_one_and_three_axes_with_asymmetric_padding() -> None:
    for constants in ((), (1,)):
        check("Conv", [normal(2, 4, 9), normal(3, 4, 3)], constants=constants, pads=[2, 0], strides=[2])
        check("Conv", [normal(1, 2, 5, 6, 7), normal(3, 2, 3, 2, 2)], constants=constants, pads=[1, 0, 1, 0, 1, 1])
        check("Conv", [normal(2, 4, 9), normal(3, 4, 3)], constants=constants, dilations=[2], pads=[2, 2])


def test_same_padding_without_strides_needs_no_copy() -> None:
    given = [normal(1, 4, 9, 9), normal(4, 4, 3, 3)]
    network = onnxviz.to_torch(one_node("Conv", given, constants=(1,), auto_pad="SAME_UPPER"))
    assert any(isinstance(module, torch.nn.Conv2d) for module in network.modules())


def test_convolution_has_gradients_and_compiles() -> None:
    given = [normal(1, 2, 6, 7), normal(3, 2, 3, 3), normal(3)]
    for constants in ((), (1, 2)):
        options: dict[str, Any] = {"constants": constants, "compiled": True, "gradient": True}
        check("Conv", given, auto_pad="SAME_UPPER", strides=[2, 2], **options)
        transposed = [given[0], normal(2, 3, 3, 3), given[2]]
        check("ConvTranspose", transposed, strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0], **options)


@pytest.mark.parametrize("automatic", AUTOMATIC)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(automatic: str, stride: int, groups: int) -> None:
    for kernel, appended, constants in itertools.product((2, 3), range(min(stride, 2)), ((), (1, 2))):
        given = [normal(2, 4, 8, 9), normal(4, 6 // groups, kernel, kernel), normal(6)]
        attributes: dict[str, Any] = {
            "strides": [stride, stride],
            "group": groups,
            "auto_pad": automatic,
            "output_padding": [appended, appended],
        }
        check("ConvTranspose", given, opset=11, constants=constants, reference="ort", **attributes)


@pytest.mark.parametrize("automatic", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("shape", [[15, 18], [16, 18], [17, 19], [16, 17]])
def test_transposed_convolution_to_a_shape(automatic: str, shape: list[int]) -> None:
    given = [normal(2, 4, 8, 9), normal(4, 6, 3, 3), normal(6)]
    attributes: dict[str, Any] = {"strides": [2, 2], "output_shape": shape, "auto_pad": automatic}
    check("ConvTranspose", given, opset=11, reference="ort", **attributes)


def test_transposed_convolution_cuts_and_appends() -> None:
    given = [normal(2, 4, 8, 9), normal(4, 6, 3, 4), normal(6)]
    for pads, appended in itertools.product([[0, 1, 2, 1], [1, 0, 0, 0], [2, 2, 2, 2], [2, 1, 0, 0]], (0, 1)):
        check(
            "ConvTranspose", given, opset=11, pads=pads, output_padding=[appended, appended], strides=[2, 2],
            reference="ort",
        )  # fmt: skip
    check("ConvTranspose", [normal(2, 4, 5), normal(4, 3, 3)], opset=11, pads=[1, 0], strides=[2])
    deep = [normal(2, 4, 5, 6, 4), normal(4, 3, 3, 3, 2)]
    check("ConvTranspose", deep, opset=11, pads=[1, 0, 1, 0, 1, 0], strides=[2, 1, 2])
    # Without strides the last rows of an asymmetric padding must not be lost.
    check("ConvTranspose", given, opset=11, pads=[1, 1, 0, 0])


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Conv", {"pads": [1 << 20] * 3 + [1 << 20 | 1]}),
        ("ConvTranspose", {"strides": [1 << 20, 1 << 20]}),
        ("ConvTranspose", {"output_shape": [1 << 20, 1 << 20]}),
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1 << 20] * 4}),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1 << 20] * 4}),
        ("LpPool", {"kernel_shape": [3, 3], "pads": [1 << 20] * 4}),
    ],
)
def test_a_file_cannot_ask_for_terabytes(operator: str, attributes: dict[str, Any]) -> None:
    given = [normal(1, 2, 4, 4)] + ([normal(2, 2, 3, 3)] if "Conv" in operator else [])
    model = one_node(operator, given, constants=(1,), opset=18, result=1, **attributes)
    with pytest.raises(ModelError, match=operator):
        onnxviz.to_torch(model)(torch.from_numpy(given[0]))


def test_impossible_attributes_are_refused_before_anything_runs() -> None:
    images = normal(1, 2, 4, 4)
    for attributes in (
        {"kernel_shape": [0, 2]},
        {"kernel_shape": [2, 2], "strides": [0, 1]},
        {"kernel_shape": [2] * 4},
    ):
        model = one_node("MaxPool", [images], result=onnx.TensorProto.FLOAT, **attributes)
        with pytest.raises(UnsupportedOperatorError, match="MaxPool"):
            onnxviz.to_torch(model)
