"""Resize, which Upsample becomes when a file is read.

Every mode of ONNX is a weighted sum of samples along one axis after the other; which samples and which weights is
computed on the device, in single precision as ONNX Runtime does, and kept for the sizes that were seen last. Where
PyTorch's own interpolation is the same, it is used.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.element_types import integer_range
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation, as_numbers, bounded
from onnxviz.convert.operators.rounding import straight_through
from onnxviz.convert.shape_arithmetic import single

_KEPT = 16
"""For how many axes of different sizes samples and weights are kept."""
_DENSE = 64
"""A matrix of weights may have so many times as many entries as there are weights: multiplying by it is quick."""

_LARGEST = (1 << 63) - 1
"""The largest number of int64, which carries uint64."""

_TRANSFORMATIONS = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Method:
    """How a Resize interpolates; the names are those of ONNX's attributes.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        transformation: how a place in the result is turned into one in the image.
        nearest: how that is rounded.
        cubic: coefficient a of the cubic.
        exclude: whether samples outside the image have no weight, instead of those of its edge.
        antialias: whether the filter is stretched when the image shrinks.
        extrapolation: value outside the image, for "tf_crop_and_resize".
    """

    mode: str = "nearest"
    transformation: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude: bool = False
    antialias: bool = False
    extrapolation: float = 0.0


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        axis: which.
        before: its size.
        after: its new size.
        scale: the factor between them, which need not be their exact ratio.
        exact: whether it is.
        start: where the region of interest begins, as a fraction of the image.
        end: where it ends.
    """

    axis: int
    before: int
    after: int
    scale: float
    exact: bool
    start: float = 0.0
    end: float = 1.0

    @property
    def same(self) -> bool:
        """Whether nothing changes."""
        return self.after == self.before and self.scale == 1 and (self.start, self.end) == (0.0, 1.0)

    @property
    def factor(self) -> int:
        """By what whole number the axis grows; 0 if by none."""
        return self.after // self.before if self.exact and self.before and self.after % self.before == 0 else 0


def positions(axis: Axis, transformation: str, device: torch.device) -> torch.Tensor:
    """Return the place in the image of each sample of the result [after], as ONNX Resize defines it."""
    place = torch.arange(axis.after, dtype=torch.float32, device=device)
    last = axis.before - 1
    width = axis.after if axis.exact else single(axis.scale * axis.before)
    if transformation == "align_corners":
        return torch.zeros_like(place) if width == 1 else _divide(place * last, width - 1)
    if transformation == "asymmetric":
        return _divide(place, axis.scale)
    if transformation == "tf_half_pixel_for_nn":
        return _divide(place + 0.5, axis.scale)
    if transformation == "tf_crop_and_resize":
        if axis.after == 1:
            return torch.full_like(place, 0.5 * (axis.start + axis.end) * last)
        # In ONNX Runtime's order: whether the last place is still inside depends on its last bit.
        length = _divide(place * single(axis.end - axis.start) * last, axis.after - 1)
        return length + float(single(axis.start * last))
    if transformation == "pytorch_half_pixel" and axis.after == 1:
        return torch.zeros_like(place)
    if transformation == "half_pixel_symmetric":
        adjustment = single(axis.after / single(axis.scale * axis.before))
        offset = single(axis.before / 2 * single(1 - adjustment))
        # This one ONNX Runtime computes in double precision.
        place = (_divide(place.double() + 0.5, axis.scale) + offset - 0.5).float()
    else:
        place = _divide(place + 0.5, axis.scale) - 0.5
    return place


def _divide(place: torch.Tensor, number: float) -> torch.Tensor:
    """Divide; by a number, and not by a tensor, a GPU would multiply by its rounded reciprocal."""
    quotient: torch.Tensor = place / torch.full((), number, dtype=place.dtype, device=place.device)
    return quotient


def round_positions(place: torch.Tensor, axis: Axis, nearest: str) -> torch.Tensor:
    """Return the sample nearest to each position, as `nearest` says, within the image."""
    down = place.floor()
    if nearest == "round_prefer_floor":
        rounded = torch.where(place - down > 0.5, down + 1, down)
    elif nearest == "round_prefer_ceil":
        rounded = torch.where(place - down >= 0.5, down + 1, down)
    elif nearest == "ceil":
        rounded = place.ceil()
    else:
        rounded = down
    return rounded.long().clamp(0, axis.before - 1)


def weigh(place: torch.Tensor, axis: Axis, method: Method) -> tuple[torch.Tensor, torch.Tensor]:
    """Return samples [after, count] and their weights for each position.

    Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4; with antialias the filter
    is stretched by 1 / scale as in Pillow.
    """
    stretch = min(axis.scale, 1.0) if method.antialias else 1.0
    reach = (1 if method.mode == "linear" else 2) / stretch
    below = math.floor(-reach) + 1
    offsets = torch.arange(below, 2 - below, device=place.device)
    down = place.floor()
    distance = ((down - place)[:, None] + offsets) * stretch
    if method.mode == "linear":
        weights = (1 - distance.abs()).clamp(min=0)
    else:
        far, a = distance.abs(), method.cubic
        inner = ((a + 2) * far - (a + 3)) * far * far + 1
        outer = ((a * far - 5 * a) * far + 8 * a) * far - 4 * a
        weights = torch.where(far <= 1, inner, torch.where(far < 2, outer, torch.zeros_like(far)))
    samples = down.long()[:, None] + offsets
    if method.exclude:
        weights = torch.where((samples < 0) | (samples >= axis.before), torch.zeros_like(weights), weights)
    if method.exclude or method.antialias:
        total = weights.sum(1, keepdim=True)
        weights = weights / torch.where(total == 0, torch.ones_like(total), total)
    return samples.clamp(0, axis.before - 1), weights


class Resize(nn.Module):
    """ONNX Resize.

    Args:
        method: how it interpolates.
        axes: the axes that sizes and scales are of; all if None.
        policy: "stretch", "not_larger" or "not_smaller": what sizes mean.
        whole: least and largest value of the data's type if it is an integer; ONNX Runtime cuts results to it.
    """

    def __init__(
        self, method: Method, axes: tuple[int, ...] | None, policy: str, whole: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.method = method
        self.axes = axes
        self.policy = policy
        self.whole = whole
        self.kept: OrderedDict[Any, tuple[torch.Tensor, ...]] = OrderedDict()

    def forward(self, values: torch.Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> torch.Tensor:
        """Resize by scales, or to sizes."""
        given = () if scales is None else as_numbers(scales)
        plan = self._plan(values.shape, () if roi is None else as_numbers(roi), given, sizes)
        made = list(values.shape)
        for axis in plan:
            made[axis.axis] = axis.after
        bounded(made, "Resize")
        changed = [axis for axis in plan if not axis.same]
        if not changed:
            return values
        if self.method.mode == "nearest":
            return self._nearest(values, changed)
        if not values.is_floating_point():
            return self._cut(self._weighted(values.float(), changed)).to(values.dtype)
        result = self._weighted(values, changed)
        return result if self.whole is None else straight_through(result, self._cut(result.detach()))

    def _cut(self, values: torch.Tensor) -> torch.Tensor:
        values = values.round() if self.method.antialias else values.trunc()
        return values if self.whole is None else values.clamp(*self.whole)

    def _plan(self, shape: Sequence[int], roi: Sequence[float], scales: Sequence[float], sizes: Any) -> list[Axis]:
        """Return what happens to each axis."""
        rank = len(shape)
        axes = tuple(range(rank)) if self.axes is None else tuple(axis % rank for axis in self.axes)
        if scales:
            factors = [single(float(scale)) for scale in scales]
            after = [math.floor(single(shape[axis] * scale)) for axis, scale in zip(axes, factors, strict=True)]
            # A ratio that went through single precision is meant to be exact.
            exact = [
                abs(size - shape[axis] * factor) <= 1e-6 * size
                for axis, factor, size in zip(axes, factors, after, strict=True)
            ]
        else:
            after = [int(size) for size in as_numbers(sizes)]
            if min((*after, *(shape[axis] for axis in axes)), default=1) < 1:
                raise ValueError(f"Resize cannot bring {list(shape)} to sizes of {after}")
            factors = [size / shape[axis] for axis, size in zip(axes, after, strict=True)]
            exact = [True] * len(axes)
            if self.policy != "stretch":
                factor = min(factors) if self.policy == "not_larger" else max(factors)
                after = [math.floor(factor * shape[axis] + 0.5) for axis in axes]
                factors = [factor] * len(axes)
                exact = [size == shape[axis] * factor for axis, size in zip(axes, after, strict=True)]
            factors = [single(factor) for factor in factors]
        regions = [(0.0, 1.0)] * len(axes)
        if roi and self.method.transformation == "tf_crop_and_resize":
            if len(roi) == 2 * rank:  # of all axes, whichever are resized
                roi = [roi[axis] for axis in axes] + [roi[rank + axis] for axis in axes]
            regions = [(float(roi[index]), float(roi[index + len(axes)])) for index in range(len(axes))]
        return [
            Axis(axis, shape[axis], after[index], factors[index], exact[index], *regions[index])
            for index, axis in enumerate(axes)
        ]

    # --- nearest ------------------------------------------------------------------------------------------------------

    def _nearest(self, values: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
        spatial = values.dim() - 2
        if (
            1 <= spatial <= 3
            and all(axis.axis >= 2 and self._repeats(axis) for axis in axes)
            and (values.is_floating_point() or values.dtype == torch.uint8)
        ):
            return functional.interpolate(values, size=_spatial(values, axes), mode="nearest")
        outside = None
        for axis in axes:
            samples, beyond = self._remembered(axis, values.device)
            values = values.index_select(axis.axis, samples)
            outside = _either(outside, beyond, axis.axis, values.dim())
        return self._extrapolated(values, outside)

    def _repeats(self, axis: Axis) -> bool:
        """Whether each sample is repeated the same number of times, as often as PyTorch does.

        PyTorch multiplies by 1 / factor in single precision, and rounds down.
        """
        factor = axis.factor
        if factor == 0 or single(1 / factor) * factor < 1 or axis.after >= 1 << 20:
            return False
        kind, nearest = self.method.transformation, self.method.nearest
        if kind in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
            return nearest.startswith("round") and (kind != "pytorch_half_pixel" or axis.after > 1)
        if kind in ("asymmetric", "tf_half_pixel_for_nn"):
            return nearest == "floor"
        return False

    # --- linear and cubic ---------------------------------------------------------------------------------------------

    def _weighted(self, values: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor:
        native = self._native(values, axes)
        if native is not None:
            return native
        outside = None
        for axis in axes:
            samples, weights, beyond = self._remembered(axis, values.device)
            weights = weights.to(values.dtype)
            count = samples.shape[1]
            if count > 2 and axis.before <= _DENSE * count:
                matrix = weights.new_zeros(axis.after, axis.before).scatter_add(1, samples, weights)
                values = (values.movedim(axis.axis, -1) @ matrix.T).movedim(-1, axis.axis)
            else:
                shape = [1] * values.dim()
                shape[axis.axis] = axis.after
                terms = (
                    values.index_select(axis.axis, samples[:, index]) * weights[:, index].reshape(shape)
                    for index in range(count)
                )
                values = sum(terms, start=next(terms))
            outside = _either(outside, beyond, axis.axis, values.dim())
        return self._extrapolated(values, outside)

    def _native(self, values: torch.Tensor, axes: Sequence[Axis]) -> torch.Tensor | None:
        """Use PyTorch's interpolation where it is the same."""
        method, spatial = self.method, values.dim() - 2
        linear = method.mode == "linear"
        if method.antialias or (method.exclude and not linear) or any(axis.axis < 2 for axis in axes):
            return None
        if not (1 <= spatial <= 3 if linear else spatial == 2 and method.cubic == -0.75):
            return None
        size = _spatial(values, axes)
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[spatial] if linear else "bicubic"
        if all(axis.exact for axis in axes):
            if method.transformation == "align_corners":
                return functional.interpolate(values, size=size, mode=mode, align_corners=True)
            if method.transformation in ("half_pixel", "half_pixel_symmetric") or (
                method.transformation == "pytorch_half_pixel" and all(axis.after > 1 for axis in axes)
            ):
                return functional.interpolate(values, size=size, mode=mode, align_corners=False)
        if linear and method.transformation == "asymmetric" and all(axis.factor for axis in axes):
            return self._asymmetric(values, axes, mode)
        return None

    def _asymmetric(self, values: torch.Tensor, axes: Sequence[Axis], mode: str) -> torch.Tensor:
        """Grow by whole factors: with a sample more at the end, aligned corners are at the same places."""
        size = list(values.shape[2:])
        amounts = [0] * (2 * len(size))
        index = [slice(None)] * values.dim()
        for axis in axes:
            size[axis.axis - 2] = axis.after + 1
            amounts[2 * (values.dim() - 1 - axis.axis) + 1] = 1
            index[axis.axis] = slice(0, axis.after)
        more = functional.pad(values, amounts, mode="replicate")
        return functional.interpolate(more, size=size, mode=mode, align_corners=True)[tuple(index)]

    # --- samples and weights ------------------------------------------------------------------------------------------

    def _extrapolated(self, values: torch.Tensor, outside: torch.Tensor | None) -> torch.Tensor:
        if outside is None:
            return values
        return torch.where(outside, values.new_full((), self.method.extrapolation), values)

    def _remembered(self, axis: Axis, device: torch.device) -> tuple[Any, ...]:
        """Return samples (and weights, unless nearest) of an axis, and which are outside; kept for the next call."""
        if torch.compiler.is_compiling():
            return self._samples(axis, device)
        key = (axis, device)
        if key not in self.kept:
            with torch.inference_mode(False), torch.no_grad():
                self.kept[key] = self._samples(axis, device)
            while len(self.kept) > _KEPT:
                self.kept.popitem(last=False)
        else:
            self.kept.move_to_end(key)
        return self.kept[key]

    def _samples(self, axis: Axis, device: torch.device) -> tuple[Any, ...]:
        method = self.method
        place = positions(axis, method.transformation, device)
        crop = method.transformation == "tf_crop_and_resize"
        outside = (place < 0) | (place > axis.before - 1) if crop else None
        if method.mode == "nearest":
            return round_positions(place, axis, method.nearest), outside
        return (*weigh(place, axis, method), outside)


def _spatial(values: torch.Tensor, axes: Sequence[Axis]) -> list[int]:
    """Return the sizes of the spatial axes of [N, C, *spatial] afterwards."""
    size = list(values.shape[2:])
    for axis in axes:
        size[axis.axis - 2] = axis.after
    return size


def _either(outside: torch.Tensor | None, beyond: torch.Tensor | None, axis: int, rank: int) -> torch.Tensor | None:
    if beyond is None:
        return outside
    spread = beyond.reshape([-1 if index == axis else 1 for index in range(rank)])
    return spread if outside is None else outside | spread


def convert_resize(operation: Operation) -> Conversion:
    """Convert `Resize` from opset 11 on."""
    word = operation.setting("mode", "nearest")
    mode = {"bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}.get(word, word)
    if mode not in ("nearest", "linear", "cubic"):
        raise NotConvertible(f"interpolation {word!r}")
    method = Method(
        mode=mode,
        transformation=operation.setting("coordinate_transformation_mode", _TRANSFORMATIONS),
        nearest=operation.setting("nearest_mode", _NEAREST),
        cubic=operation.setting("cubic_coeff_a", -0.75),
        exclude=operation.setting("exclude_outside", False),
        antialias=operation.setting("antialias", False) and mode != "nearest",
        extrapolation=operation.setting("extrapolation_value", 0.0),
    )
    policy = operation.setting("keep_aspect_ratio_policy", ("stretch", "not_larger", "not_smaller"))
    limits = integer_range(operation.element(0))
    if limits is not None:
        limits = limits[0], min(limits[1], _LARGEST)
    module = Resize(method, operation.setting("axes", None), policy, limits)
    return Conversion(module, range(4), numbers=(1, 2, 3))


CONVERTERS: Mapping[str, Converter] = {"Resize": convert_resize}
