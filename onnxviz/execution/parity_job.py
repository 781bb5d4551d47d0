"""The parity check of a model's layers as a job: what to compare on, and with whom."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from onnxviz.analyses.base import Subject
from onnxviz.core.errors import one_line, shorten
from onnxviz.core.values import Agreement
from onnxviz.data.domains import domain_of
from onnxviz.data.images import load_batch
from onnxviz.execution.schedule import PARITY_IMAGES, ParityCheck
from onnxviz.graph.structure import consumers

if TYPE_CHECKING:
    import torch

    from onnxviz.model.model import Model

MIXES_BATCH = "its tensor mixes the images of a batch with something else, so that no image has values of its own"
"""Why a layer cannot be compared, which says nothing against the model."""
_MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's malloc.h."""


class Comparison(NamedTuple):
    """The agreement of each layer, and by layer why others could not be compared."""

    agreements: tuple[Agreement, ...]
    errors: dict[str, str]


def measure_agreement(model: Model, subject: Subject, check: ParityCheck) -> Comparison:
    """Check layers at once; where that is impossible in halves, so that an odd layer does not cost a pass for each.

    What is computed from a layer that fails fails with it, and is not tried.
    """
    import torch

    from onnxviz.model.parity import check_comparable_layers

    pixels, note = parity_images(subject, check, model.input_size)
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(model.device)
    found: list[Agreement] = []
    errors: dict[str, str] = {}
    failed = _Failed(subject)
    waiting = [check.layers]
    while waiting:
        part = tuple(layer for layer in waiting.pop() if not failed.explains(layer))
        if not part:
            continue
        try:
            with _large_tensors_returned():
                agreements, mixing = check_comparable_layers(model, part, images)
        except Exception as error:  # an operator may fail in any library: said for this layer, not for all
            if len(part) == 1:
                failed.add(part[0], one_line(error))
            else:
                # Graph order: what a layer is computed from is tried before it.
                waiting += [part[len(part) // 2 :], part[: len(part) // 2]]
            continue
        found += agreements
        errors.update(dict.fromkeys(mixing, MIXES_BATCH))
    found = _with_effect(model, found, images)
    done = {item.layer for item in found}
    errors.update({layer: why for layer in check.layers if layer not in done and (why := failed.explains(layer))})
    noted = (replace(item, note="; ".join(part for part in (item.note, note) if part)) for item in found)
    return Comparison(tuple(noted), errors)


def _with_effect(model: Model, found: list[Agreement], images: torch.Tensor) -> list[Agreement]:
    """Add to the first layer that ONNX Runtime computes wrongly what that does to the model's output."""
    from onnxviz.model.parity import output_error

    wrong = next((index for index, item in enumerate(found) if item.off == "runtime"), None)
    if wrong is None:
        return found
    try:
        effect = output_error(model, images, found)
    except Exception as error:  # an operator may fail in any library: the layers are compared all the same
        effect = f"what that does to the output could not be measured: {one_line(error)}"
    return [replace(item, effect=effect) if index == wrong else item for index, item in enumerate(found)]


@contextmanager
def _large_tensors_returned() -> Iterator[None]:
    """Let what large tensors took go back to the system as soon as they are gone.

    Once a large tensor was freed, glibc takes the next ones of its size from the heap, where one that is aligned does
    not fit into the gap of the last: 283 constants of 28 MB, one at a time, then take 8 GB. See "M_MMAP_THRESHOLD" in
    mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt if sys.platform == "linux" else None
    except (OSError, AttributeError):  # another C library, which does not do so
        mallopt = None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 4 << 20)
    try:
        yield
    finally:
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 32 << 20)  # where glibc ends by itself in a process of large tensors


class _Failed:
    """Layers that could not be computed, and with them all that is computed from them."""

    def __init__(self, subject: Subject) -> None:
        self._view = subject.view
        self._readers = consumers(subject.view.proto.graph)
        self._reasons: dict[str, str] = {}

    def add(self, layer: str, reason: str) -> None:
        waiting = [self._view.layer(layer).value]
        while waiting:
            value = waiting.pop()
            if value in self._reasons:
                continue
            self._reasons[value] = reason
            waiting += [name for node in self._readers.get(value, ()) for name in node.output if name]

    def explains(self, layer: str) -> str:
        """Return why a layer cannot be computed, or "" if nothing is known against it."""
        return self._reasons.get(self._view.layer(layer).value, "")


def disagreeing(found: Iterable[Agreement], errors: Mapping[str, str]) -> dict[str, str]:
    """Return by layer why what is computed from it must not be shown: it differs, or could not be compared."""
    reasons = dict(errors)
    for item in found:
        if not item.holds:
            reference = "the model file" if item.reference == "file" else "the float32 graph"
            reasons[item.layer] = (
                f"the converted network differs from {reference} in ONNX Runtime by {item.relative:.2g} of the "
                f"layer's largest value, more than the {item.tolerance:.2g} that is accepted"
                + (f": {item.verdict}" if item.verdict else "")
            )
    return reasons


def why_not(layers: Iterable[str], reasons: Mapping[str, str]) -> str:
    """Return why a job on some layers must not be done, or "": `reasons` are those of `disagreeing`."""
    wrong = [layer for layer in layers if layer in reasons]
    error = "; ".join(f"layer {shorten(layer)!r}: {reasons[layer]}" for layer in wrong[:3])
    return error + (f"; and {len(wrong) - 3} more layers" if len(wrong) > 3 else "")


def distrusted(found: Iterable[Agreement]) -> tuple[str, ...]:
    """Return the names of layers and nodes that ONNX Runtime computes wrongly."""
    wrong = [item for item in found if item.off == "runtime"]
    return tuple(dict.fromkeys(name for item in wrong for name in (item.layer, item.origin) if name))


def parity_images(subject: Subject, check: ParityCheck, size: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Return the images of a parity check as float32 [n, 3, h, w] in 0..1, and what to say about them."""
    if check.data is not None:
        source = subject.data[check.data]
        indices = range(min(PARITY_IMAGES, len(source)))
        return load_batch(source, indices, subject.preprocessing, size), ""
    channels = domain_of(subject.preprocessing).channels
    return synthetic_photographs(PARITY_IMAGES, size, channels), "on made-up images, because the recipe has no data"


def synthetic_photographs(count: int, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Return noise with the 1/f spectrum of photographs, as float32 [count, channels, h, w] in 0..1; always the same.

    The amplitude spectrum of natural images falls as 1/f (Field 1987, J. Opt. Soc. Am. A 4, 2379); their colour
    channels are strongly correlated.
    """
    rng = np.random.default_rng(20_260_101)
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = 1.0 / np.maximum(frequency, 1.0 / max(height, width))
    amplitude[0, 0] = 0.0
    made = np.empty((count, channels, height, width), np.float32)
    for index in range(count):
        drawn = [rng.standard_normal(size) for _ in range(1 + channels)]
        noise = [np.fft.irfft2(np.fft.rfft2(own) * amplitude, s=size) for own in drawn]
        planes = np.stack([0.85 * noise[0] + 0.5 * own for own in noise[1:]])
        spread = max(float(planes.std()), 1e-6)
        made[index] = np.clip(0.5 + 0.22 * planes / spread, 0.0, 1.0)
    return made
