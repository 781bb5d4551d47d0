"""Pooling of regions of interest; its converters stand in the table of `sampling`."""

from __future__ import annotations

import math

import torch
from torch import nn

from onnxviz.convert.operators.operation import Conversion, Function, NotConvertible, Operation, bounded

_ELEMENTS = 1 << 24
"""How many numbers are worked on at once; more regions go one part after the other."""


class AlignedRegions(nn.Module):
    """Mean or maximum of bilinear samples in each bin of each region. Source: ONNX RoiAlign (He et al. 2017).

    Args:
        maximum: take the largest corner's share in a bin, as ONNX Runtime does, and not the mean of the samples.
        size: bins (vertical, horizontal) of a region.
        samples: samples along each axis of a bin; 0 for as many as the region's size asks for.
        scale: samples of the feature map per unit of a region's coordinates.
        half_pixel: whether coordinates are of the outer edges of samples.
    """

    def __init__(self, maximum: bool, size: tuple[int, int], samples: int, scale: float, half_pixel: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.size = size
        self.samples = samples
        self.scale = scale
        self.half_pixel = half_pixel

    def forward(self, images: torch.Tensor, regions: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
        """Pool [N, C, H, W] in regions [R, 4] (x1, y1, x2, y2) of images [R] to [R, C, *size]."""
        bounded((regions.shape[0], images.shape[1], *self.size), "RoiAlign")
        start, extent = self._extents(regions)
        counts = self._counts(extent)
        most = self.samples
        if not most:
            # How many samples there are is known to the regions alone.
            most = int(counts.max()) if regions.shape[0] else 1
        if most < 1:
            return images.new_zeros((regions.shape[0], images.shape[1], *self.size))
        bounded((images.shape[1], *self.size, most, most), "RoiAlign")
        places = math.prod(self.size) * most * most
        step = max(1, _ELEMENTS // max(images.shape[1] * places, 1))
        parts = [
            self._pool(images, batch[first : first + step].long(), start[first : first + step],
                       extent[first : first + step], counts[first : first + step], most)
            for first in range(0, regions.shape[0], step)
        ]  # fmt: skip
        return torch.cat(parts) if parts else images.new_zeros((0, images.shape[1], *self.size))

    def _extents(self, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the first corner and the size of each region, (vertical, horizontal), [R, 2] each."""
        corners = (regions * self.scale - (0.5 if self.half_pixel else 0.0)).reshape(-1, 2, 2).flip(2)
        start, end = corners.unbind(1)
        extent = end - start
        return start, extent if self.half_pixel else extent.clamp_min(1.0)

    def _counts(self, extent: torch.Tensor) -> torch.Tensor:
        """Return how many samples a bin of each region has along each axis, [R, 2]."""
        if self.samples:
            return torch.full_like(extent, self.samples)
        return (extent.detach() / extent.new_tensor(self.size)).ceil()

    def _pool(
        self,
        images: torch.Tensor,
        batch: torch.Tensor,
        start: torch.Tensor,
        extent: torch.Tensor,
        counts: torch.Tensor,
        most: int,
    ) -> torch.Tensor:
        axes = [self._axis(axis, images.shape[2 + axis], start, extent, counts, most) for axis in range(2)]
        (rows, row_weights, row_there), (columns, column_weights, column_there) = axes
        width, channels = images.shape[3], images.shape[1]
        flat = images.transpose(0, 1).flatten(1)  # [C, N x H x W]
        made: torch.Tensor | None = None
        for row, row_weight in zip(rows, row_weights, strict=True):
            for column, column_weight in zip(columns, column_weights, strict=True):
                index = batch.reshape(-1, 1, 1, 1, 1) * (images.shape[2] * width)
                index = index + row[:, :, :, None, None] * width + column[:, None, None]
                weight = row_weight[:, :, :, None, None] * column_weight[:, None, None]
                taken = flat.index_select(1, index.flatten()).reshape(channels, *index.shape) * weight
                made = taken if made is None else torch.maximum(made, taken) if self.maximum else made + taken
        assert made is not None
        if self.maximum:
            there = row_there[:, None, :, None, None] & column_there[:, None, None, None]
            made = made.masked_fill(~there, -math.inf).amax((3, 5))
            made = torch.where(there.any((2, 4))[None], made, 0.0)
        else:
            made = made.sum((3, 5)) / counts.clamp_min(0).prod(1).clamp_min(1).reshape(1, -1, 1, 1)
        return made.transpose(0, 1)

    def _axis(
        self, axis: int, length: int, start: torch.Tensor, extent: torch.Tensor, counts: torch.Tensor, most: int
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        """Return the two neighbours of each sample along one axis and their weights, [R, bins, samples] each.

        The third result tells which samples there are at all, [R, samples].
        """
        bins = torch.arange(self.size[axis], device=start.device, dtype=start.dtype).reshape(1, -1, 1)
        sample = torch.arange(most, device=start.device, dtype=start.dtype).reshape(1, 1, -1)
        first, bin_size = start[:, axis, None, None], extent[:, axis, None, None] / self.size[axis]
        count = counts[:, axis, None, None]
        place = first + bins * bin_size + (sample + 0.5) * bin_size / count.clamp_min(1)
        inside = (place >= -1.0) & (place <= length) & (sample < count)
        place = place.clamp_min(0.0).clamp_max(length - 1.0)
        low = place.detach().floor()
        rest = place - low
        near = torch.where(inside, 1.0 - rest, 0.0), torch.where(inside, rest, 0.0)
        index = low.nan_to_num(0.0).long()
        return (index, (index + 1).clamp_max(length - 1)), near, (sample < count)[:, 0]


def pool_regions(images: torch.Tensor, regions: torch.Tensor, size: tuple[int, int], scale: float) -> torch.Tensor:
    """Return the maximum in each bin of each region, whose borders are rounded. ONNX MaxRoiPool (Girshick 2015).

    Args:
        images: [N, C, H, W].
        regions: [R, 5] (image, x1, y1, x2, y2).
        size: bins (vertical, horizontal) of a region.
        scale: samples of the feature map per unit of a region's coordinates.

    Returns:
        [R, C, *size].
    """
    bounded((regions.shape[0], images.shape[1], *size), "MaxRoiPool")
    batch = regions[:, 0].long()
    corners = regions[:, 1:].detach() * scale
    corners = (corners.abs() + 0.5).floor() * corners.sign()  # half away from zero
    rows = _inside(corners[:, 1], corners[:, 3], images.shape[2], size[0])
    columns = _inside(corners[:, 0], corners[:, 2], images.shape[3], size[1])
    step = max(1, _ELEMENTS // max(images[0].numel(), 1))
    parts = [
        _largest(images[batch[first : first + step]], rows[first : first + step], columns[first : first + step])
        for first in range(0, regions.shape[0], step)
    ]
    return torch.cat(parts) if parts else images.new_zeros((0, images.shape[1], *size))


def _inside(start: torch.Tensor, end: torch.Tensor, length: int, bins: int) -> torch.Tensor:
    """Return which samples of an axis lie in which bin, [R, bins, length]."""
    size = (end - start + 1).clamp_min(1.0).reshape(-1, 1) / bins
    number = torch.arange(bins, device=start.device, dtype=start.dtype)
    low = ((number * size).floor() + start.reshape(-1, 1)).clamp(0, length)
    high = (((number + 1) * size).ceil() + start.reshape(-1, 1)).clamp(0, length)
    place = torch.arange(length, device=start.device, dtype=start.dtype)
    return (place >= low.unsqueeze(2)) & (place < high.unsqueeze(2))


def _largest(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    tall = torch.stack([images.masked_fill(~row[:, None, :, None], -math.inf).amax(2) for row in rows.unbind(1)], 2)
    made = torch.stack([tall.masked_fill(~column[:, None, None], -math.inf).amax(3) for column in columns.unbind(1)], 3)
    there = rows.any(2)[:, None, :, None] & columns.any(2)[:, None, None]
    return torch.where(there, made, 0.0)


def convert_aligned_regions(operation: Operation) -> Conversion:
    get = operation.setting
    mode, shift = str(get("mode", "avg")).lower(), str(get("coordinate_transformation_mode", "half_pixel")).lower()
    size, samples = (get("output_height", 1), get("output_width", 1)), get("sampling_ratio", 0)
    if mode not in ("avg", "max") or shift not in ("half_pixel", "output_half_pixel") or min(*size) < 1 or samples < 0:
        raise NotConvertible("RoiAlign with attributes that ONNX does not define")
    module = AlignedRegions(mode == "max", size, samples, get("spatial_scale", 1.0), shift == "half_pixel")
    return Conversion(module, range(3))


def convert_maximum_regions(operation: Operation) -> Conversion:
    size = operation.setting("pooled_shape", None) or ()
    if len(size) != 2 or min(size) < 1:
        raise NotConvertible("MaxRoiPool without a pooled_shape of two sizes")
    return Conversion(Function(pool_regions, size=size, scale=operation.setting("spatial_scale", 1.0)), (0, 1))
