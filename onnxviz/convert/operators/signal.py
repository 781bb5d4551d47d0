"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.generation import anchor, constant
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    bounded,
    by_function,
    single_number,
)
from onnxviz.core.errors import ModelError


def _signal(values: torch.Tensor) -> torch.Tensor:
    """Turn [..., 1] into real numbers [...] and [..., 2] into complex ones."""
    return values.squeeze(-1) if values.shape[-1] == 1 else torch.complex(values[..., 0], values[..., 1])


def _frequencies(signal: torch.Tensor, count: int, along: int, onesided: bool) -> torch.Tensor:
    """Return the frequencies of a signal, [..., 2]; of a real one only one of each pair if `onesided`."""
    if onesided and not signal.is_complex():
        return torch.view_as_real(torch.fft.rfft(signal, count, along))
    made = torch.view_as_real(torch.fft.fft(signal, count, along).resolve_conj())
    return made.narrow(along, 0, count // 2 + 1) if onesided else made


def fourier_transform(
    values: torch.Tensor, length: Any = None, axis: Any = None, *, usual_axis: int, inverse: bool, onesided: bool
) -> torch.Tensor:
    """Transform [..., 1] or [..., 2] to [..., 2], or to [..., 1] for the inverse of one-sided frequencies.

    Args:
        values: samples or frequencies.
        length: number of samples; None for that of the axis.
        axis: the axis, of the tensor with real and imaginary parts as its last.
        usual_axis: the axis if it is no argument.
        inverse: from frequencies to samples, divided by their number.
        onesided: the frequencies are those of a real signal, and only one of each pair is there.

    Returns:
        The transform. Source: ONNX DFT.
    """
    along = int(usual_axis if axis is None else single_number(axis)) % max(values.dim(), 1)
    size = values.shape[along]
    if length is None:
        length = 2 * (size - 1) if inverse and onesided else size
    count = int(single_number(length))
    bounded((*values.shape[:along], count, *values.shape[along + 1 : -1], 2), "DFT")
    signal = _signal(values)
    if not inverse:
        return _frequencies(signal, count, along, onesided)
    if onesided:
        samples: torch.Tensor = torch.fft.irfft(signal, count, along).unsqueeze(-1)
        return samples
    return torch.view_as_real(torch.fft.ifft(signal, count, along).resolve_conj())


def convert_fourier_transform(operation: Operation) -> Conversion:
    early = operation.version < 20
    function = Function(
        fourier_transform,
        usual_axis=operation.setting("axis", 1) if early else -2,
        inverse=operation.setting("inverse", False),
        onesided=operation.setting("onesided", False),
    )
    return Conversion(function, (0, 1) if early else (0, 1, 2), numbers=(1, 2))


def short_time_fourier_transform(
    values: torch.Tensor, step: Any, window: torch.Tensor | None = None, length: Any = None, *, onesided: bool
) -> torch.Tensor:
    """Transform the frames of [N, samples, 1 or 2] to [N, frames, frequencies, 2]; window [frame].

    Args:
        values: the signal.
        step: samples from one frame to the next.
        window: by what each frame is multiplied.
        length: samples of a frame; None for the window's.
        onesided: only one frequency of each pair of a real signal.

    Returns:
        The transforms. Source: ONNX STFT.
    """
    signal = _signal(values)
    hop, samples = int(single_number(step)), signal.shape[1]
    if length is None:
        length = samples if window is None else window.shape[0]
    count = int(single_number(length))
    taken = count if window is None else window.shape[0]
    if hop < 1 or count < 1:
        raise ModelError(f"STFT takes frames of {count} samples every {hop}")
    frames = (samples - count) // hop + 1
    bounded((signal.shape[0], frames, max(count, taken), 2), "STFT")
    # A window longer than a frame looks beyond it, and sees nothing behind the end.
    missing = max((frames - 1) * hop + taken - samples, 0)
    parts = (nn.functional.pad(signal, (0, missing)) if missing else signal).unfold(1, taken, hop)[:, :frames]
    return _frequencies(parts if window is None else parts * window, count, 2, onesided)


def convert_short_time_fourier_transform(operation: Operation) -> Conversion:
    step = operation.known(1)
    if step is not None and single_number(step) < 1:
        raise NotConvertible("STFT whose frames do not advance")
    return by_function(short_time_fourier_transform, 4, numbers=(1, 3), onesided=True)(operation)


# --- windows ----------------------------------------------------------------------------------------------------------

_COSINES: Mapping[str, tuple[float, ...]] = {
    "HannWindow": (0.5, -0.5),
    "HammingWindow": (25.0 / 46.0, -21.0 / 46.0),
    "BlackmanWindow": (0.42, -0.5, 0.08),
}


def window_values(operator: str, size: int, periodic: bool) -> torch.Tensor:
    """Return a window of cosines in double precision.

    Args:
        operator: ONNX HannWindow, HammingWindow or BlackmanWindow, which define the factors.
        size: number of samples.
        periodic: whether the sample behind the last would be the first again.
    """
    bounded((size,), operator, 8)
    angle = torch.arange(size, dtype=torch.float64) * (2 * math.pi) / (size if periodic else size - 1)
    made = torch.zeros_like(angle)
    for order, factor in enumerate(_COSINES[operator]):
        made = made + factor * torch.cos(order * angle)
    return made


def computed_window(
    size: Any, *, operator: str, periodic: bool, kind: torch.dtype, anchor: torch.Tensor
) -> torch.Tensor:
    """Return a window whose size is computed."""
    return window_values(operator, int(single_number(size)), periodic).to(kind).to(anchor.device)


def _kind(operation: Operation) -> torch.dtype:
    kind = CARRIERS.get(operation.setting("output_datatype", int(TensorProto.FLOAT)))
    if kind is None:
        raise NotConvertible(f"{operation.operator} of a type that is no number")
    return kind


def convert_window(operation: Operation) -> Conversion:
    settings = {
        "operator": operation.operator,
        "periodic": operation.setting("periodic", True),
        "kind": _kind(operation),
        "anchor": anchor(),
    }
    return _made(operation, computed_window, 1, settings)


def _made(
    operation: Operation, function: Callable[..., torch.Tensor], inputs: int, settings: dict[str, Any]
) -> Conversion:
    """Return a tensor that is made of numbers: at once where all of them are known."""
    given = [operation.known(index) for index in range(inputs)]
    if any(value is None for value in given):
        return Conversion(Function(function, **settings), range(inputs), numbers=range(inputs))
    return constant(function(*given, **settings))


# --- mel filters ------------------------------------------------------------------------------------------------------


def mel_filters(bins: int, length: int, rate: int, lowest: float, highest: float) -> np.ndarray:
    """Return triangular filters on the mel scale, 2595 log10(1 + f / 700), from frequencies to bins.

    Args:
        bins: number of filters.
        length: samples of the Fourier transform.
        rate: samples per second.
        lowest: lower edge of the first filter in Hertz.
        highest: upper edge of the last in Hertz.

    Returns:
        [length // 2 + 1, bins]. Source: ONNX MelWeightMatrix.
    """
    bounded((length // 2 + 1, bins), "MelWeightMatrix", 8)
    low, high = (2595 * np.log1p(edge / 700) / np.log(10) for edge in (lowest, highest))
    mels = np.arange(bins + 2) * ((high - low) / (bins + 2)) + low
    hertz = 700 * np.expm1(mels / 2595 * np.log(10))
    edges = np.floor((length + 1) * hertz / rate)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    place = np.arange(length // 2 + 1, dtype=np.float64)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        rising = np.where(centre > left, (place - left) / (centre - left), 1.0)
        falling = (right - place) / (right - centre)
    made = np.where((place >= left) & (place <= centre), rising, 0.0)
    return np.where((place >= centre) & (place < right), falling, made)


def computed_mel_filters(
    bins: Any, length: Any, rate: Any, lowest: Any, highest: Any, *, kind: torch.dtype, anchor: torch.Tensor
) -> torch.Tensor:
    """Return mel filters whose form is computed."""
    whole = [int(single_number(number)) for number in (bins, length, rate)]
    edges = [float(single_number(edge)) for edge in (lowest, highest)]
    return torch.from_numpy(mel_filters(*whole, *edges)).to(kind).to(anchor.device)


def convert_mel_filters(operation: Operation) -> Conversion:
    return _made(operation, computed_mel_filters, 5, {"kind": _kind(operation), "anchor": anchor()})


CONVERTERS: Mapping[str, Converter] = {
    "BlackmanWindow": convert_window,
    "DFT": convert_fourier_transform,
    "HammingWindow": convert_window,
    "HannWindow": convert_window,
    "MelWeightMatrix": convert_mel_filters,
    "STFT": convert_short_time_fourier_transform,
}
