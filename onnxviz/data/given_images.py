"""Images as people have them in Python (files, PIL images, arrays, tensors) to what a model's calls compute with.

Pixels of 8 bits take the same way as a recipe's data: `fit_image` brings each to the model's input as its preprocessing
says. Floating images [N, 3, height, width] are taken as prepared already, and refused where they are not in 0..1: a
network that is given 0..255 answers too, and nobody sees that it is nonsense.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.core.errors import DataError, shorten
from onnxviz.core.values import Preprocessing
from onnxviz.data.decode import Pixels, image_pixels, read_image, read_stored
from onnxviz.data.domains import ImageDomain
from onnxviz.data.images import ImageFolder, ImageSource, fit_image

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-3
"""How far outside 0..1 rounding may bring a prepared image."""
_FAR = 8.0
"""Farther outside 0..1 than an optimisation strays that is not held in; images in 0..255 are farther."""
_GIVE = "give paths of files, PIL images or uint8 arrays [height, width, 3] or [height, width], of any size"
PREPARE = "let `model.prepare(images)` make them of paths of files, PIL images or uint8 arrays, of any size"
"""What to do where prepared images alone are taken, as an advice."""


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images given in Python as a data set."""

    name: str
    names: tuple[str, ...]
    pixels: tuple[Pixels, ...]

    @classmethod
    def of(cls, name: str, images: Any) -> GivenImages:
        """Make a data set of PIL images, uint8 arrays and files, one or several.

        Raises:
            DataError: if one is no image, or floating: those are prepared for a model already.
        """
        if getattr(getattr(images, "dtype", None), "kind", "") == "f" or getattr(images, "is_floating_point", bool)():
            raise DataError("floating images are prepared already, and what is shown beside them would not be them",
                            remedy="give the files, PIL images or uint8 arrays")  # fmt: skip
        names: dict[str, None] = {}
        items = _listed(images)
        for place, item in enumerate(items):
            file = item if isinstance(item, str | os.PathLike) else getattr(item, "filename", "")
            found = Path(os.fspath(file)).name or f"image {place}"
            while found in names:
                found += f" ({place})"
            names[found] = None
        if not items:
            raise DataError("there are no images")
        return cls(name, tuple(names), tuple(_pixels(item) for item in items))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names, sizes and pixels."""
        total = hashlib.sha256(repr((self.names, self.sizes)).encode("utf-8", "surrogateescape"))
        for pixels in self.pixels:
            total.update(np.ascontiguousarray(pixels).data)
        return total.hexdigest()

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each image in pixels."""
        return tuple((pixels.shape[0], pixels.shape[1]) for pixels in self.pixels)

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Pixels:
        """Return an image."""
        return self.pixels[index]


def source_of(images: Any, name: str = "images") -> ImageSource:
    """Return a data set of files, folders and globs, or of PIL images and uint8 arrays; a data set as it is.

    Raises:
        DataError: if they are none of these, or none is left.
    """
    if hasattr(images, "names") and hasattr(images, "read"):
        return images  # type: ignore[no-any-return]
    items = [images] if isinstance(images, str | os.PathLike) else images
    if isinstance(items, list | tuple) and items and all(isinstance(item, str | os.PathLike) for item in items):
        return ImageFolder.find(name, [os.fspath(item) for item in items], Path())
    return GivenImages.of(name, items)


def as_images(images: Any, preprocessing: Preprocessing, size: tuple[int, int]) -> torch.Tensor:
    """Turn images of any common kind into float32 [N, channels, height, width] in 0..1, RGB unless STORED.

    Args:
        images: paths of files, PIL images, or uint8 [height, width, 3] (grey: [height, width]) as arrays or tensors;
            one or several, of any sizes: all are brought to `size`. Or prepared images: a floating tensor or array
            [N, channels, height, width] in 0..1 of any one size, returned as it is. Where channels are STORED, paths,
            or arrays [height, width, channels] of whole numbers in the preprocessing's `range`.
        preprocessing: says how to crop, to stretch, or to require the right size.
        size: height and width of the model's input in pixels.

    Raises:
        DataError: if they are no images, cannot be read, or are floating and not in 0..1.
    """
    import torch

    domain = ImageDomain(preprocessing)
    channels = domain.channels
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        array = np.ascontiguousarray(images, dtype=np.float32)
        images = torch.from_numpy(array if array.flags.writeable else array.copy())
    if isinstance(images, torch.Tensor) and images.is_floating_point():
        _require_form(images.shape, channels)
        require_range(images)
        return images
    items = _listed(images)
    if not items:
        raise DataError("there are no images")
    batch = np.empty((len(items), channels, *size), np.float32)
    for place, item in enumerate(items):
        try:
            pixels = _pixels(item) if domain.photographic else domain.in_range(_stored(item))
            batch[place] = fit_image(pixels, preprocessing, size).transpose(2, 0, 1)
        except DataError as fault:
            if fault.where:
                raise
            raise DataError(fault.what, where=f"image {place}", remedy=fault.remedy) from fault
    return torch.from_numpy(batch)


def _stored(item: Any) -> np.ndarray:
    return read_stored(Path(item)) if isinstance(item, str | os.PathLike) else np.asarray(item)


def _require_form(shape: Sequence[int], channels: int = 3, remedy: str = _GIVE) -> None:
    if len(shape) != 4 or shape[1] != channels:
        one = ""
        if len(shape) == 3 and shape[0] == channels:
            one = "write images[None] for a single one; or "
        elif len(shape) in (3, 4) and shape[-1] == channels:
            axes = "(2, 0, 1)" if len(shape) == 3 else "(0, 3, 1, 2)"
            one = f"the channels come before height and width: transpose{axes}; or "
        raise DataError(
            f"floating images must be [N, {channels}, height, width] in 0..1, not {list(shape)}",
            remedy=f"{one}{remedy}",
        )


def require_floating(images: Any, channels: int = 3) -> None:
    """Refuse what is no floating tensor [N, channels, height, width]; its values are not looked at."""
    import torch

    if not isinstance(images, torch.Tensor) or not images.is_floating_point():
        given = f"{images.dtype} {list(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise DataError(
            f"images must be a floating tensor [N, {channels}, height, width] in 0..1, not {given}",
            remedy="`model.prepare(images)` makes it",
        )
    _require_form(images.shape, channels, PREPARE)


def require_range(images: torch.Tensor, remedy: str = _GIVE) -> None:
    """Refuse floating images that are not in 0..1, give or take `TOLERANCE`.

    On a GPU this waits for the device, so it belongs where images come in and not into a loop.
    """
    if not images.numel():
        return
    least, most = (float(end) for end in images.detach().aminmax())
    if math.isnan(least) or math.isnan(most):
        raise DataError("floating images must be in 0..1, and these hold values that are no numbers (NaN)")
    if least < -TOLERANCE or most > 1 + TOLERANCE:
        raise _outside(least, most, remedy)


def require_no_bytes(images: torch.Tensor) -> None:
    """Refuse images far outside 0..1, such as 0..255, of a function that an optimisation may call with any images.

    Only in the computer's own memory: to look at a GPU's would stop it at every step, and while PyTorch compiles there
    are no values.
    """
    import torch

    if images.device.type == "cpu" and images.numel() and not torch.compiler.is_compiling():
        least, most = (float(end) for end in images.detach().aminmax())
        if least < -_FAR or most > 1 + _FAR:
            raise _outside(least, most, PREPARE)


def _outside(least: float, most: float, remedy: str) -> DataError:
    about = "divide by 255 what is in 0..255" if least >= -TOLERANCE and most <= 255.5 else "do not normalise them"
    return DataError(
        f"floating images must be RGB in 0..1, and these reach from {least:.4g} to {most:.4g}",
        remedy=f"{about}: the model's preprocessing is applied to them; or {remedy}",
    )


def _listed(images: Any) -> list[Any]:
    single = isinstance(images, str | os.PathLike) or hasattr(images, "convert") or getattr(images, "ndim", 0) in (2, 3)
    if single:
        return [images]
    try:
        return list(images)
    except TypeError:
        raise DataError(
            f"{type(images).__name__} is no image and no list of images",
            remedy=f"{_GIVE}, or floats [N, 3, height, width] in 0..1",
        ) from None


def _pixels(item: Any) -> Pixels:
    """Return one image as uint8 [height, width, 3], RGB."""
    if isinstance(item, str | os.PathLike):
        if Path(item).is_dir():
            raise DataError(
                f"{shorten(str(item), 200)!r} is a folder", remedy="give its files: sorted(Path(folder).glob('*.jpg'))"
            )
        return read_image(Path(item))
    if hasattr(item, "convert"):
        return image_pixels(item)
    array = np.asarray(item)
    if array.dtype == np.uint8 and array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise DataError(
            f"an image must be uint8 [height, width, 3], uint8 [height, width] if it is grey, or all floating "
            f"[N, 3, height, width], not {array.dtype} {list(array.shape)}"
        )
    return array
