"""Sampling at computed places against ONNX Runtime and the reference evaluator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.core.errors import ModelError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


MODES = ("nearest", "linear", "cubic")
PADDING = ("zeros", "border", "reflection")


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


def places(*shape: int, steps: int = 0) -> np.ndarray:
    """Return places from beyond one border to beyond the other, on halves of samples if there are steps."""
    values = RANDOM.uniform(-1.6, 1.6, shape)
    return np.asarray(np.round(values * steps) / steps if steps else values, np.float32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("align", [0, 1])
def test_grid_sample(mode: str, padding: str, align: int) -> None:
    attributes: dict[str, Any] = {"padding_mode": padding, "align_corners": align, "tolerance": 1e-4}
    old = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    # ONNX Runtime clamps both coordinates in cubic mode where one is outside; the standard's evaluator does not.
    oracle = "onnx" if mode == "cubic" and padding == "border" else "ort"
    if oracle == "ort":
        check("GridSample", [normal(2, 3, 7, 9), places(2, 5, 6, 2)], opset=16, mode=old, reference="ort", **attributes)
    for steps in (0, 8):
        given = [normal(2, 2, 8, 4), places(2, 3, 4, 2, steps=steps)]
        check("GridSample", given, opset=20, mode=mode, reference=oracle, **attributes)
        check("GridSample", given, opset=20, mode=mode, reference="onnx", **attributes)
    given = [normal(1, 2, 4, 5, 3), places(1, 2, 2, 3, 3)]
    check("GridSample", given, opset=20, mode=mode, reference="onnx", **attributes)
    check("GridSample", [normal(2, 2, 5), places(2, 4, 1)], opset=20, mode=mode, reference="onnx", **attributes)


@pytest.mark.parametrize(("mode", "padding"), itertools.product(("linear", "cubic"), PADDING))
def test_grid_sample_has_gradients_and_compiles(mode: str, padding: str) -> None:
    given = [normal(1, 2, 4, 5), places(1, 3, 2, 2)]
    check(
        "GridSample", given, opset=20, mode=mode, padding_mode=padding, reference="onnx", tolerance=1e-4,
        compiled=True, gradient=True,
    )  # fmt: skip


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 3, 4, 5, 6)])
def test_affine_grid(align: int, size: tuple[int, ...]) -> None:
    rank = len(size) - 2
    given = [normal(2, rank, rank + 1), np.array(size)]
    for constants in ((), (1,)):
        check("AffineGrid", given, opset=20, align_corners=align, constants=constants, gradient=True)
    check("AffineGrid", given, opset=20, align_corners=align, constants=(1,), compiled=True)


REGIONS = np.array(
    [[0, 0, 3, 4], [1.3, 2.2, 7.7, 6.1], [5, 5, 30, 30], [-3, -2, 4, 4], [6, 6, 5, 5], [2, 2, 2, 2]], np.float32
)
IMAGES = np.array([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_aligned_regions(mode: str, samples: int, scale: float) -> None:
    given = [normal(2, 3, 9, 11), REGIONS, IMAGES]
    attributes: dict[str, Any] = {
        "mode": mode, "sampling_ratio": samples, "spatial_scale": scale, "output_height": 3, "output_width": 2,
    }  # fmt: skip
    check("RoiAlign", given, opset=10, reference="ort", **attributes)
    for transformation in ("half_pixel", "output_half_pixel"):
        for oracle in ("ort", "onnx"):
            check(
                "RoiAlign", given, opset=16, reference=oracle, coordinate_transformation_mode=transformation,
                **attributes,
            )  # fmt: skip


def test_aligned_regions_have_gradients_and_compile() -> None:
    given = [normal(2, 2, 6, 7), np.array([[0.3, 0.4, 4.6, 5.1], [1.2, 1.13, 3.3, 2.62]], np.float32), np.array([1, 0])]
    attributes: dict[str, Any] = {"output_height": 2, "output_width": 2, "opset": 16}
    check("RoiAlign", given, sampling_ratio=2, gradient=True, compiled=True, **attributes)
    check("RoiAlign", given, sampling_ratio=0, gradient=True, **attributes)


def test_many_regions_are_pooled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxviz.convert.operators.regions._ELEMENTS", 100)
    attributes: dict[str, Any] = {"output_height": 3, "output_width": 2, "sampling_ratio": 2}
    check("RoiAlign", [normal(2, 3, 9, 11), REGIONS, IMAGES], opset=16, reference="ort", **attributes)
    regions = np.concatenate([IMAGES[:, None].astype(np.float32), np.abs(REGIONS)], 1)
    check("MaxRoiPool", [normal(2, 3, 9, 11), regions], opset=11, pooled_shape=[3, 2], reference="ort")


def test_no_regions() -> None:
    nothing = np.zeros((0, 4), np.float32)
    wanted = np.zeros((0, 3, 2, 2), np.float32)
    attributes: dict[str, Any] = {"output_height": 2, "output_width": 2}
    given = [normal(2, 3, 9, 11), nothing, np.zeros(0, np.int64)]
    check("RoiAlign", given, opset=16, expected=[wanted], **attributes)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
def test_maximum_regions(scale: float) -> None:
    regions = np.concatenate([IMAGES[:, None].astype(np.float32), np.abs(REGIONS)], 1)
    given = [normal(2, 3, 9, 11), regions]
    check(
        "MaxRoiPool", given, opset=11, pooled_shape=[3, 2], spatial_scale=scale, reference="ort", compiled=True
    )  # fmt: skip


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(("groups", "offset_groups"), [(1, 1), (2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("masked", [False, True])
def test_deformed_convolution(stride: int, dilation: int, groups: int, offset_groups: int, masked: bool) -> None:
    height, width = ((size + 2 - 2 * dilation - 1) // stride + 1 for size in (9, 10))
    given = [normal(2, 4, 9, 10), normal(6, 4 // groups, 3, 3), 2 * normal(2, offset_groups * 18, height, width)]
    given += [normal(6)] + ([normal(2, offset_groups * 9, height, width)] if masked else [])
    attributes: dict[str, Any] = {
        "strides": [stride] * 2, "dilations": [dilation] * 2, "group": groups, "offset_group": offset_groups,
        "pads": [1, 1, 1, 1],
    }  # fmt: skip
    check("DeformConv", given, opset=19, reference="ort", tolerance=1e-4, **attributes)
    check("DeformConv", given, opset=22, constants=(1, 3), expected=_deformed(given, attributes), **attributes)


def _deformed(given: list[np.ndarray], attributes: dict[str, Any]) -> list[np.ndarray]:
    model = one_node("DeformConv", given, opset=19, **attributes)
    return [value.numpy() for value in onnxviz.to_torch(model)(*map(torch.from_numpy, given))]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_kernel_that_is_not_deformed_is_a_convolution(axes: int) -> None:
    sizes = (6, 5, 4)[:axes]
    weight, bias = normal(3, 2, *(2,) * axes), normal(3)
    images, offset = normal(2, 2, *sizes), np.zeros((2, axes * 2**axes, *(size - 1 for size in sizes)), np.float32)
    (wanted,) = check("Conv", [images, weight, bias], opset=19)
    given = [images, weight, offset, bias]
    check("DeformConv", given, opset=19, expected=[wanted.numpy()], compiled=True)


def test_deformed_convolution_has_gradients() -> None:
    given = [normal(1, 2, 5, 5), normal(2, 2, 2, 2), 0.3 * normal(1, 8, 4, 4), normal(2), normal(1, 4, 4, 4)]
    check("DeformConv", given, opset=19, gradient=True, compiled=True)


def test_a_file_cannot_ask_for_a_grid_of_terabytes() -> None:
    given = [normal(1, 2, 3), np.array([1, 1, 1 << 20, 1 << 20])]
    with pytest.raises(ModelError, match="AffineGrid"):
        onnxviz.to_torch(one_node("AffineGrid", given, opset=20, constants=(1,), result=1))(torch.from_numpy(given[0]))
