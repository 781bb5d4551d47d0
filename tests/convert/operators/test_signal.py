"""Fourier transforms, windows and filters against ONNX Runtime and the reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.core.errors import OnnxvizError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


@pytest.mark.parametrize("axis", [1, 2, -2])
@pytest.mark.parametrize("length", [None, 5, 8, 12])
def test_fourier_transform(axis: int, length: int | None) -> None:
    count = None if length is None else np.array(length)
    for inverse, onesided, parts in ((0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 0, 2), (1, 1, 2)):
        attributes = {"inverse": inverse, "onesided": onesided, "reference": "onnx"}
        values = normal(2, 8, 7, parts)
        for constants in ((1, 2), (2,), (1,), ()):
            check("DFT", [values, count, np.array(axis)], opset=20, constants=constants, **attributes)
        check("DFT", [values] if count is None else [values, count], opset=17, axis=axis, **attributes)


def test_fourier_transform_has_a_gradient_and_compiles() -> None:
    for inverse, onesided, parts in ((0, 1, 1), (1, 1, 2), (0, 0, 2)):
        given = [normal(2, 6, parts), None, np.array(1)]
        attributes = {"inverse": inverse, "onesided": onesided, "compiled": True, "gradient": True}
        check("DFT", given, opset=20, constants=(2,), **attributes)


@pytest.mark.parametrize(("onesided", "parts"), [(0, 1), (0, 2), (1, 1)])
def test_short_time_fourier_transform(onesided: int, parts: int) -> None:
    signal, step, window, length = normal(2, 30, parts), np.array(4), normal(8), np.array(8)
    for given in ([signal, step, window], [signal, step, None, length], [signal, step, window, length]):
        for constants in ((), (1, 3), (1, 2, 3)):
            check("STFT", given, opset=17, onesided=onesided, constants=constants, reference="ort")
        check("STFT", given, opset=17, onesided=onesided, constants=(1, 2, 3), compiled=True, gradient=True)


@pytest.mark.parametrize("operator", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
@pytest.mark.parametrize("size", [2, 9, 10])
def test_window(operator: str, periodic: int, size: int) -> None:
    check(operator, [np.array(size)], opset=17, periodic=periodic, reference="ort")


def test_mel_filters() -> None:
    for bins, length, rate, low, high in ((8, 64, 8192, 0.0, 4096.0), (5, 512, 16000, 20.0, 7600.0)):
        edges = [np.array(low, np.float32), np.array(high, np.float32)]
        check("MelWeightMatrix", [np.array(bins), np.array(length), np.array(rate), *edges], opset=17, reference="ort")


def test_a_few_bytes_cannot_ask_for_terabytes() -> None:
    values = normal(1, 4, 1)
    with pytest.raises(OnnxvizError, match="DFT"):
        onnxviz.to_torch(one_node("DFT", [values, np.array(1 << 40)], opset=17, constants=(1,), result=1))(
            torch.from_numpy(values)
        )
    with pytest.raises(OnnxvizError, match="HannWindow"):
        onnxviz.to_torch(one_node("HannWindow", [np.array(1 << 40)], result=1))(torch.tensor(1 << 40))
