"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers
from onnxviz.core.errors import ModelError


def _number(values: Any) -> int:
    (number,) = as_numbers(values.reshape(-1).tolist() if isinstance(values, torch.Tensor | np.ndarray) else values)
    return int(number)


def _signal(values: torch.Tensor) -> torch.Tensor:
    """Turn [..., 1] into real numbers [...] and [..., 2] into complex ones."""
    return values.squeeze(-1) if values.shape[-1] == 1 else torch.complex(values[..., 0], values[..., 1])


class FourierTransform(nn.Module):
    """Discrete Fourier transform along one axis. Source: ONNX DFT.

    Args:
        inverse: from frequencies to samples, divided by their number.
        onesided: the frequencies are those of a real signal, and only one of each pair is there.
        axis: the axis, of the tensor with real and imaginary parts as its last; None if it is an argument.
        length: number of samples; None if it is an argument or that of the axis.
    """

    def __init__(self, inverse: bool, onesided: bool, axis: int | None, length: int | None) -> None:
        super().__init__()
        self.inverse = inverse
        self.onesided = onesided
        self.axis = axis
        self.length = length

    def forward(self, values: torch.Tensor, length: Any = None, axis: Any = None) -> torch.Tensor:
        """Transform [..., 1] or [..., 2] to [..., 2], or to [..., 1] for the inverse of one-sided frequencies."""
        along = (_number(axis) if self.axis is None else self.axis) % max(values.dim(), 1)
        size = values.shape[along]
        count = self.length if length is None else _number(length)
        if count is None:
            count = 2 * (size - 1) if self.inverse and self.onesided else size
        bounded((*values.shape[:along], count, *values.shape[along + 1 : -1], 2), "DFT")
        signal = _signal(values)
        if self.inverse and self.onesided:
            made: torch.Tensor = torch.fft.irfft(signal, count, along).unsqueeze(-1)
            return made
        if self.inverse:
            return torch.view_as_real(torch.fft.ifft(signal, count, along).resolve_conj())
        if self.onesided and not signal.is_complex():
            return torch.view_as_real(torch.fft.rfft(signal, count, along))
        made = torch.view_as_real(torch.fft.fft(signal, count, along).resolve_conj())
        return made.narrow(along, 0, count // 2 + 1) if self.onesided else made


def convert_fourier_transform(operation: Operation) -> Conversion:
    """Convert `DFT`."""
    get = operation.attributes.get
    inverse, onesided = bool(get("inverse", 0)), bool(get("onesided", 0))
    length = operation.known(1)
    if operation.version < 20:
        axis: int | None = int(get("axis", 1))
    else:
        known = operation.known(2)
        axis = None if operation.computed(2) else -2 if known is None else _number(known)
    module = FourierTransform(inverse, onesided, axis, None if length is None else _number(length))
    inputs = [0, 1] if operation.computed(1) or axis is None else [0]
    if length is not None and len(inputs) > 1:
        # An argument follows that is computed: the constant length goes the same way.
        module.length = None
    return Conversion(module, [*inputs, 2] if axis is None else inputs, numbers=(1, 2))


class ShortTimeFourierTransform(nn.Module):
    """Fourier transforms of a signal's frames. Source: ONNX STFT.

    Args:
        onesided: only one frequency of each pair of a real signal.
        step: samples from one frame to the next; None if it is an argument.
        length: samples of a frame; None if it is an argument, or the window's.
    """

    def __init__(self, onesided: bool, step: int | None, length: int | None) -> None:
        super().__init__()
        self.onesided = onesided
        self.step = step
        self.length = length

    def forward(
        self, values: torch.Tensor, step: Any = None, window: torch.Tensor | None = None, length: Any = None
    ) -> torch.Tensor:
        """Transform [N, samples, 1 or 2] to [N, frames, frequencies, 2]; window [frame]."""
        signal = _signal(values)
        hop = _number(step) if self.step is None else self.step
        count = self.length if length is None else _number(length)
        if count is None:
            count = signal.shape[1] if window is None else window.shape[0]
        taken = count if window is None else window.shape[0]
        if hop < 1 or count < 1:
            raise ModelError(f"STFT takes frames of {count} samples every {hop}")
        frames = (signal.shape[1] - count) // hop + 1
        bounded((signal.shape[0], frames, max(count, taken), 2), "STFT")
        # A window longer than a frame looks beyond it, and sees nothing behind the end.
        missing = max((frames - 1) * hop + taken - signal.shape[1], 0)
        parts = (nn.functional.pad(signal, (0, missing)) if missing else signal).unfold(1, taken, hop)[:, :frames]
        if window is not None:
            parts = parts * window
        if self.onesided and not parts.is_complex():
            return torch.view_as_real(torch.fft.rfft(parts, count))
        made = torch.view_as_real(torch.fft.fft(parts, count).resolve_conj())
        return made[:, :, : count // 2 + 1] if self.onesided else made


def convert_short_time_fourier_transform(operation: Operation) -> Conversion:
    """Convert `STFT`."""
    step, length = operation.known(1), operation.known(3)
    if step is not None and _number(step) < 1:
        raise NotConvertible("STFT whose frames do not advance")
    module = ShortTimeFourierTransform(
        bool(operation.attributes.get("onesided", 1)),
        None if step is None else _number(step),
        None if length is None else _number(length),
    )
    return Conversion(_Frames(module, step is None, length is None), range(len(operation.given)), numbers=(1, 3))


class _Frames(nn.Module):
    """Passes on what is not constant."""

    def __init__(self, transform: ShortTimeFourierTransform, step: bool, length: bool) -> None:
        super().__init__()
        self.transform = transform
        self.step = step
        self.length = length

    def forward(
        self, values: torch.Tensor, step: Any = None, window: torch.Tensor | None = None, length: Any = None
    ) -> torch.Tensor:
        """Transform."""
        made: torch.Tensor = self.transform(
            values, step if self.step else None, window, length if self.length else None
        )
        return made


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


class CosineWindow(nn.Module):
    """A window whose size is computed. Source: ONNX HannWindow, HammingWindow, BlackmanWindow."""

    place: torch.Tensor

    def __init__(self, operator: str, periodic: bool, kind: torch.dtype) -> None:
        super().__init__()
        self.operator = operator
        self.periodic = periodic
        self.kind = kind
        self.register_buffer("place", torch.zeros(()), persistent=False)  # knows the device

    def forward(self, size: Any) -> torch.Tensor:
        """Make [size]."""
        return window_values(self.operator, _number(size), self.periodic).to(self.kind).to(self.place.device)


class Stored(nn.Module):
    """What is the same for every input."""

    values: torch.Tensor

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)

    def forward(self) -> torch.Tensor:
        """Return it."""
        return self.values


def _kind(operation: Operation) -> torch.dtype:
    kind = CARRIERS.get(int(operation.attributes.get("output_datatype", TensorProto.FLOAT)))
    if kind is None:
        raise NotConvertible(f"{operation.operator} of a type that is no number")
    return kind


def convert_window(operation: Operation) -> Conversion:
    """Convert `HannWindow`, `HammingWindow` and `BlackmanWindow`."""
    size, periodic = operation.known(0), bool(operation.attributes.get("periodic", 1))
    if size is None:
        return Conversion(CosineWindow(operation.operator, periodic, _kind(operation)), (0,), numbers=(0,))
    return Conversion(Stored(window_values(operation.operator, _number(size), periodic).to(_kind(operation))), ())


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


class MelFilters(nn.Module):
    """Mel filters whose form is computed. Source: ONNX MelWeightMatrix."""

    place: torch.Tensor

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("place", torch.zeros(()), persistent=False)  # knows the device

    def forward(self, bins: Any, length: Any, rate: Any, lowest: Any, highest: Any) -> torch.Tensor:
        """Make [length // 2 + 1, bins]."""
        edges = [float(np.asarray(as_numbers(edge)).reshape(-1)[0]) for edge in (lowest, highest)]
        made = mel_filters(_number(bins), _number(length), _number(rate), *edges)
        return torch.from_numpy(made).to(self.kind).to(self.place.device)


def convert_mel_filters(operation: Operation) -> Conversion:
    """Convert `MelWeightMatrix`."""
    given = [operation.known(index) for index in range(5)]
    if any(value is None for value in given):
        return Conversion(MelFilters(_kind(operation)), range(5), numbers=range(5))
    bins, length, rate, lowest, highest = (np.asarray(value).reshape(-1)[0] for value in given)
    made = mel_filters(int(bins), int(length), int(rate), float(lowest), float(highest))
    return Conversion(Stored(torch.from_numpy(made).to(_kind(operation))), ())


CONVERTERS: Mapping[str, Converter] = {
    "BlackmanWindow": convert_window,
    "DFT": convert_fourier_transform,
    "HammingWindow": convert_window,
    "HannWindow": convert_window,
    "MelWeightMatrix": convert_mel_filters,
    "STFT": convert_short_time_fourier_transform,
}
