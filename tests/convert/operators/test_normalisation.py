"""Normalisation against ONNX Runtime and the reference evaluator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


def statistics(*shape: int) -> list[np.ndarray]:
    """Return scale, bias, mean and variance."""
    return [normal(*shape), normal(*shape), normal(*shape), np.abs(normal(*shape)) + 0.1]


@pytest.mark.parametrize("constants", [(), (1, 2, 3, 4)])
@pytest.mark.parametrize("opset", [7, 8, 9, 14, 15])
def test_batch_normalisation(opset: int, constants: tuple[int, ...]) -> None:
    for shape in ((2, 3), (2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 3, 4)):
        given = [normal(*shape), *statistics(3)]
        check("BatchNormalization", given, opset=opset, constants=constants, epsilon=1e-3, reference="ort")


@pytest.mark.parametrize("opset", [1, 6])
def test_batch_normalisation_of_old_opsets(opset: int) -> None:
    images, (scale, bias, mean, variance) = normal(2, 3, 4, 5), statistics(3)
    (wanted,) = check("BatchNormalization", [images, scale, bias, mean, variance], opset=9, reference="ort")
    attributes: dict[str, Any] = {"is_test": 1} | ({"consumed_inputs": [0, 0, 0, 1, 1]} if opset == 1 else {})
    given = [images, scale, bias, mean, variance]
    check("BatchNormalization", given, opset=opset, expected=[wanted.numpy()], **attributes)


def test_batch_normalisation_of_each_place() -> None:
    given = [normal(2, 3, 4, 5), *statistics(3, 4, 5)]
    check("BatchNormalization", given, opset=7, spatial=0, reference="ort", gradient=True)


def test_batch_normalisation_of_one_axis() -> None:
    given = [normal(5), *statistics(1)]
    wanted = (given[0] - given[3]) / np.sqrt(given[4] + 1e-5) * given[1] + given[2]
    check("BatchNormalization", given, opset=15, expected=[wanted])


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
def test_batch_normalisation_in_training(shape: tuple[int, ...]) -> None:
    given = [normal(*shape), *statistics(3)]
    check("BatchNormalization", given, 3, opset=15, training_mode=1, momentum=0.8, reference="onnx", compiled=True)
    check("BatchNormalization", given, 1, opset=15, training_mode=1, expected=[_training(*given)], gradient=True)


def test_batch_normalisation_that_trains_because_of_its_outputs() -> None:
    given = [normal(4, 3, 2, 5), *statistics(3)]
    mean, variance = given[0].mean((0, 2, 3)), given[0].var((0, 2, 3))
    moved = [0.9 * given[3] + 0.1 * mean, 0.9 * given[4] + 0.1 * variance]
    check("BatchNormalization", given, 5, opset=9, expected=[_training(*given), *moved, mean, variance])


def _training(images: np.ndarray, scale: np.ndarray, bias: np.ndarray, *_: np.ndarray) -> np.ndarray:
    axes = (0, *range(2, images.ndim))
    mean, variance = images.mean(axes, keepdims=True), images.var(axes, keepdims=True)
    shape = (-1, *(1,) * (images.ndim - 2))
    wanted: np.ndarray = (images - mean) / np.sqrt(variance + 1e-5) * scale.reshape(shape) + bias.reshape(shape)
    return wanted


@pytest.mark.parametrize("constants", [(), (1, 2)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (1, 3, 1, 1), (2, 3, 2, 3, 4)])
def test_instance_normalisation(shape: tuple[int, ...], constants: tuple[int, ...]) -> None:
    given = [normal(*shape), normal(3), normal(3)]
    if math.prod(shape[2:]) == 1:  # ONNX Runtime's mean of one number is off by a rounding
        wanted = [np.broadcast_to(given[2].reshape(1, 3, 1, 1), shape)]
        check("InstanceNormalization", given, opset=6, constants=constants, expected=wanted)
        return
    check("InstanceNormalization", given, opset=6, constants=constants, reference="ort", compiled=True)


def test_instance_normalisation_of_opset_1() -> None:
    given = [normal(2, 3, 4, 5), normal(3), normal(3)]
    (wanted,) = check("InstanceNormalization", given, opset=6, reference="ort", gradient=True)
    check("InstanceNormalization", given, opset=1, consumed_inputs=[0, 0, 0], expected=[wanted.numpy()])


@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_group_normalisation_scales_groups_first_and_channels_later(constants: tuple[int, ...]) -> None:
    images = normal(2, 6, 4, 5)
    options: dict[str, Any] = {"num_groups": 3, "constants": constants, "compiled": True, "gradient": True}
    check("GroupNormalization", [images, normal(3), normal(3)], opset=18, **options)
    check("GroupNormalization", [images, normal(6), normal(6)], opset=21, reference="ort", **options)
    check("GroupNormalization", [normal(2, 6, 4), normal(6), normal(6)], opset=21, reference="ort", **options)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_layer_normalisation(axis: int, constants: tuple[int, ...]) -> None:
    shape = (2, 3, 4)[axis:]
    given = [normal(2, 3, 4), normal(*shape), normal(*shape)]
    options: dict[str, Any] = {"axis": axis, "constants": constants, "reference": "ort"}
    check("LayerNormalization", given, 1, compiled=True, gradient=True, **options)
    check("LayerNormalization", given, 3, **options)
    check("LayerNormalization", given[:2], 1, axis=axis, reference="ort")


def test_layer_normalisation_broadcasts_its_scale() -> None:
    check("LayerNormalization", [normal(2, 3, 4), normal(1), normal(4)], axis=-1, reference="onnx", gradient=True)
    check("LayerNormalization", [normal(2, 3, 4), normal(4), normal(1)], axis=1, reference="onnx")
    check("RMSNormalization", [normal(2, 3, 4), normal(4)], opset=23, axis=1, reference="onnx", gradient=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_root_mean_square_normalisation(axis: int) -> None:
    given = [normal(2, 3, 4), normal(*(2, 3, 4)[axis:])]
    check("RMSNormalization", given, opset=23, axis=axis, reference="onnx", compiled=True, gradient=True)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_norm_normalisation(order: int, axis: int) -> None:
    values = normal(2, 3, 4)
    check("LpNormalization", [values], opset=1, p=order, axis=axis, reference="ort", compiled=True, gradient=True)
    check("LpNormalization", [0 * values], opset=22, p=order, axis=axis, expected=[0 * values])


def test_mean_variance_normalisation() -> None:
    images = normal(2, 3, 4, 5)
    check("MeanVarianceNormalization", [images], opset=9, reference="ort", compiled=True, gradient=True)
    for axes in ([1, 2, 3], [2, 3]):
        check("MeanVarianceNormalization", [images], opset=13, axes=axes)


def test_an_even_image_has_a_gradient() -> None:
    network = onnxviz.to_torch(one_node("MeanVarianceNormalization", [normal(1, 3, 4, 4)], opset=13))
    images = torch.ones(1, 3, 4, 4, requires_grad=True)
    network(images)[0].square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_local_response_normalisation(size: int) -> None:
    images = normal(2, 7, 3, 4)
    padded = np.pad(images**2, ((0, 0), ((size - 1) // 2, size // 2), (0, 0), (0, 0)))
    sums = sum(padded[:, offset : offset + 7] for offset in range(size))
    wanted = images / (2 + 0.3 / size * sums) ** 0.75
    check("LRN", [images], opset=13, size=size, alpha=0.3, bias=2.0, expected=[wanted], compiled=True, gradient=True)
    if size % 2:
        check("LRN", [images], opset=1, size=size, alpha=0.3, bias=2.0, expected=[wanted])
        check("LRN", [images], opset=13, size=size, alpha=0.3, bias=2.0, reference="ort")


def test_large_images_that_lie_channels_last_lose_no_digits() -> None:
    given = [normal(1, 4, 512, 512) + 3, normal(4), normal(4)]
    network = onnxviz.to_torch(one_node("InstanceNormalization", given, opset=6, constants=(1, 2)))
    images = torch.from_numpy(given[0])
    wanted = network.double()(images.double())[0]
    found = network.float()(images.to(memory_format=torch.channels_last))[0]
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)


def test_the_gradient_of_one_image_is_right_also_from_tokens() -> None:
    """PyTorch's own batch_norm gives a wrong one here on a CPU."""
    stored, image = statistics(16), normal(1, 16, 7, 7)
    network = onnxviz.to_torch(one_node("BatchNormalization", [image, *stored], constants=(1, 2, 3, 4), opset=15))
    given = torch.from_numpy(image).requires_grad_()
    (made,) = network(given)
    upstream = torch.from_numpy(normal(1, 49, 16)).transpose(1, 2).reshape(made.shape)
    (gradient,) = torch.autograd.grad(made, given, upstream)
    scale, variance = torch.from_numpy(stored[0]), torch.from_numpy(stored[3])
    torch.testing.assert_close(gradient, upstream * (scale / (variance + 1e-5).sqrt()).reshape(1, -1, 1, 1))
