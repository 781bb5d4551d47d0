"""Which images tell most of what was found, and their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses import presentation
from onnxviz.analyses.attribution.coarse_maps import enlarged_cells
from onnxviz.analyses.spurious_evidence.conclusions import ClassConclusions, Conclusions
from onnxviz.analyses.spurious_evidence.looked import BACKGROUND, CENTRE, EDGE, OBJECT, DrawnMap, Looked, Shown
from onnxviz.core import colormap
from onnxviz.core.errors import shorten
from onnxviz.core.findings import Picture

if TYPE_CHECKING:
    from onnxviz.analyses.spurious_evidence.looking import Asked, Look

CHANGES = (f"{OBJECT} by image", f"{BACKGROUND} by image", EDGE, CENTRE)
"""Changes whose pictures are shown, where they were made."""
MOST_MAPS = 24
"""Classes whose mean maps are shown."""
_OF_CLASS, _OF_GROUP = 4, 6


def chosen(looked: Looked, told: Conclusions, most: int) -> list[int]:
    """Return the places of the images to show, those of classes that anything was found of first, the worst of each.

    Behind them stand the images with most evidence outside of their objects beyond its share of the area.
    """
    places: dict[int, None] = {}
    for one in told.striking():
        of_class = np.flatnonzero(looked.classes == one.number)
        order = sorted(of_class.tolist(), key=lambda place: _badness(looked, place), reverse=True)
        places.update(dict.fromkeys(order[:_OF_CLASS]))
        if one in told.by_group() and one.group is not None:
            places.update(dict.fromkeys(members_of(looked, one)[:_OF_GROUP]))
    excess = np.nan_to_num(looked.object_area - looked.object_evidence, nan=-1.0)
    places.update(dict.fromkeys(np.argsort(-excess, kind="stable").tolist()))
    return list(places)[:most]


def members_of(looked: Looked, one: ClassConclusions) -> list[int]:
    """Return the places of the images in the group of a class."""
    assert one.group is not None
    return np.flatnonzero(np.isin(looked.images, one.group.members)).tolist()


def _badness(looked: Looked, place: int) -> tuple[bool, bool, float, float]:
    """Return what makes an image telling: it stays without its object, goes with its background, lies outside."""
    number = looked.classes[place]
    stays = any(looked.after(change)[place] == number for change in (CHANGES[0], CENTRE))
    goes = any(looked.after(change)[place] not in (-1, number) for change in (CHANGES[1], EDGE))
    outside = 0.0 if np.isnan(looked.object_evidence[place]) else 1 - float(looked.object_evidence[place])
    rim = looked.coarse[place]
    return stays, goes, outside, float(rim.sum() - rim[1:-1, 1:-1].sum())


def show(look: Look, looked: Looked, places: Sequence[int], asked: Mapping[int, Asked]) -> list[Shown]:
    """Make the pictures of some images."""
    found = []
    for done, place in enumerate(places):
        image, number = int(looked.images[place]), int(looked.classes[place])
        pixels = look.load([image])
        heat = look.evidence([image], pixels, [number])[0]
        name = shorten(look.source.names[image], 60)
        photograph = _pixels(look, pixels[0])
        over = colormap.overlay(photograph, heat / heat.max() if heat.any() else heat)
        changed = dict(look.changes(asked[image], pixels[0], number))
        found.append(
            Shown(
                image,
                presentation.picture(photograph, f"{name} as the network sees it"),
                presentation.picture(over, f"{name}: evidence for {shorten(look.title(number), 40)}"),
                tuple(
                    (change, presentation.picture(_pixels(look, changed[change]), f"{name}: {change}"))
                    for change in CHANGES
                    if change in changed
                ),
            )
        )
        look.context.progress(done + 1, len(places), name)
    return found


def _pixels(look: Look, image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return an image [channels, h, w] as it is shown, uint8 [h, w, 3]."""
    seen = look.context.model.domain.show(image[None])[0]
    return np.ascontiguousarray((seen.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def draw_maps(looked: Looked, told: Conclusions, title: Callable[[int], str]) -> list[DrawnMap]:
    """Draw the mean maps of classes, those of which anything was found first."""
    first = {one.number for one in told.striking()}
    shown = sorted((one for one in told.classes if one.mean_map.any()), key=lambda one: one.number not in first)
    shown = shown[:MOST_MAPS]
    if not shown:
        return []
    beyond = {one.number: one.mean_map - _mean_of_others(looked, one.number) for one in shown}
    highest = max(float(one.mean_map.max()) for one in shown)
    bound = max(float(np.abs(values).max()) for values in beyond.values())
    found = []
    for one in shown:
        name = shorten(title(one.number), 40)
        mean = colormap.colour(enlarged_cells(one.mean_map / highest))
        signed = colormap.colour_signed(enlarged_cells(beyond[one.number]), bound)
        pictures = (Picture(mean, alt=f"mean map of {name}"), Picture(signed, alt=f"{name} beyond other classes"))
        found.append(DrawnMap(one.number, *pictures, highest, bound))
    return found


def _mean_of_others(looked: Looked, number: int) -> npt.NDArray[np.float64]:
    others = looked.coarse[(looked.classes != number) & (looked.coarse.sum(axis=(1, 2)) > 0)]
    return others.mean(axis=0) if len(others) else np.zeros(looked.coarse.shape[1:])
