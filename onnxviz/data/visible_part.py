"""Which part of each image a network sees, in words: what a crop leaves out, no analysis can find."""

from __future__ import annotations

from collections.abc import Sequence

from onnxviz.core.findings import Note
from onnxviz.core.shares import percent
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import fit_box

_WHOLE = 0.995
"""From this part of its area on, an image counts as seen whole: rounding cuts less than a pixel off."""


def part_seen(sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing, size: tuple[int, int]) -> str:
    """Say which part of images becomes the model's input; all sizes are height and width in pixels."""
    if not sizes:
        return ""
    height, width = size
    if preprocessing.fit == "none":
        return f"images must be {width} × {height} pixels and are seen whole"
    areas = [_area(image, preprocessing, size) for image in sizes]
    cropped = [area for area in areas if area < _WHOLE]
    exact = sum(image == size and area >= _WHOLE for image, area in zip(sizes, areas, strict=True))
    whole = len(sizes) - len(cropped)
    parts = []
    if cropped:
        mean = sum(cropped) / len(cropped)
        parts.append(f"of {_images(len(cropped))} only the centre is seen, on average {percent(mean)} of the area")
    if whole:
        how = (
            ("as they are" if whole > 1 else "as it is") if exact == whole else f"resized to {width} × {height} pixels"
        )
        if exact != whole and preprocessing.fit == "stretch":
            how = f"stretched to {width} × {height} pixels"
        also = f", {exact} of them as they are" if 0 < exact < whole else ""
        parts.append(f"{_images(whole)} are seen whole, {how}{also}" if whole > 1 else f"1 image is seen whole, {how}")
    smaller = sum(image[0] < height or image[1] < width for image in sizes)
    if smaller:
        parts.append(f"{smaller} of the {len(sizes)} are smaller than the input and enlarged" if smaller > 1
                     else f"1 of the {len(sizes)} is smaller than the input and enlarged")  # fmt: skip
    return "; ".join(parts)


def cropped_note(
    source: object, indices: Sequence[int], preprocessing: Preprocessing, size: tuple[int, int]
) -> tuple[Note, ...]:
    """Return what a reader of pictures "as the network sees them" must know, if any of the images was cropped."""
    sizes = getattr(source, "sizes", None)
    chosen = [] if sizes is None else [sizes[index] for index in indices]
    if not any(_area(image, preprocessing, size) < _WHOLE for image in chosen):
        return ()
    return (Note(f"Pictures show what the network sees: {part_seen(chosen, preprocessing, size)}.", "seen"),)


def _area(image: tuple[int, int], preprocessing: Preprocessing, size: tuple[int, int]) -> float:
    if preprocessing.fit != "crop":
        return 1.0
    top, left, bottom, right = fit_box(image, preprocessing, size)
    return (bottom - top) * (right - left) / (image[0] * image[1])


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
