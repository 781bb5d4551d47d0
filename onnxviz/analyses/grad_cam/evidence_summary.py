"""What Grad-CAM found on all images in a few sentences: who is named wrong, who is uncertain, how much is covered."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from onnxviz.analyses.grad_cam.evidence import ImageEvidence
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Note
from onnxviz.core.shares import percent
from onnxviz.data.images import ImageSource
from onnxviz.graph.model_output import Head

_LISTED = 3


@dataclasses.dataclass(frozen=True)
class ImageSummary:
    """What is known of one image.

    Attributes:
        name: its name.
        layer: the last layer with a map.
        first: what is explained first.
        right: whether it is named right, None if its class is not known.
        sure: the probability of the class of highest score, None if there is none.
        extents: for each class explained the share of the image that the evidence covers, None of an empty map.
    """

    name: str
    layer: str
    first: str
    right: bool | None
    sure: float | None
    extents: tuple[float | None, ...]

    @classmethod
    def of(
        cls, image: ImageEvidence, source: ImageSource, titles: Sequence[str], head: Head, labels: Sequence[str] | None
    ) -> ImageSummary:
        """Take what is summed up from what was found; `titles` are the headings of the layers asked for."""
        extents = tuple(None if one.places is None else one.places.extent for one in image.classes)
        return cls(
            source.names[image.index],
            titles[image.kept[-1]],
            head.title(image.classes[0].number, labels),
            None if image.own is None else image.own == image.best,
            image.sure if head.has_choice else None,
            extents,
        )


def in_words(images: Sequence[ImageSummary], *, by_score: bool) -> Iterator[Note]:
    """Yield a sentence on all images, where there are several.

    Args:
        images: what was found on each.
        by_score: whether what is explained first is the class of highest score.
    """
    if len(images) < 2:
        return
    known = [image for image in images if image.right is not None]
    wrong = sorted((image for image in known if not image.right), key=lambda image: -(image.sure or 0.0))
    said = []
    if known:
        least = "" if len(known) == len(images) else f"; of {len(images) - len(known)} more the class is not known"
        said.append(f"{len(known) - len(wrong)} of {len(known)} images are named right{least}.")
    else:
        said.append(f"{len(images)} images.")
    if wrong:
        order = "Wrong, the surest first" if any(image.sure is not None for image in wrong) else "Wrong"
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        said.append(f"{order}: {', '.join(_shown(image, by_score) for image in wrong[:_LISTED])}{more}.")
    elif certain := [image for image in images if image.sure is not None]:
        said.append(f"Least certain: {_shown(min(certain, key=lambda image: image.sure or 0.0), by_score)}.")
    said += _covered(images)
    yield Note(" ".join(said), "summary")


def _shown(image: ImageSummary, by_score: bool) -> str:
    taken = [f"taken for {shorten(image.first, 40)}"] if by_score else []
    taken += [percent(image.sure)] if image.sure is not None else []
    return f"{shorten(image.name, 40)} ({', '.join(taken)})" if taken else shorten(image.name, 40)


def _covered(images: Sequence[ImageSummary]) -> Iterator[str]:
    """Say how much of the images the evidence covers at the last layer."""
    every = [extent for image in images for extent in image.extents]
    found = [extent for extent in every if extent is not None]
    layers = {image.layer for image in images}
    where = shorten(layers.pop(), 60) if len(layers) == 1 else "the last layer"
    maps = f"{len(found)} map{'s' if len(found) > 1 else ''}"
    if found:
        ends = dict.fromkeys((percent(min(found)), percent(max(found))))
        mean = percent(sum(found) / len(found))
        yield f"At {where} the evidence covers {' to '.join(ends)} of the image, {mean} on average ({maps})."
    if len(found) < len(every):
        yield f"{len(every) - len(found)} of {len(every)} maps hold no evidence there."
