"""Looks at images: their evidence, and what they are taken for as they are and with parts of them replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnxviz.analyses import explained_score
from onnxviz.analyses.attribution.coarse_maps import coarse
from onnxviz.analyses.spurious_evidence import replacement
from onnxviz.analyses.spurious_evidence.looked import BACKGROUND, CENTRE, EDGE, FILLS, OBJECT, REPLACED, Looked
from onnxviz.analyses.stream import measured
from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.data.images import load_batch
from onnxviz.model.batches import filled

if TYPE_CHECKING:
    from onnxviz.analyses.attribution.method import Method
    from onnxviz.analyses.attribution.objects import Objects
    from onnxviz.analyses.base import JobContext
    from onnxviz.core.values import Layer
    from onnxviz.data.images import ImageSource
    from onnxviz.graph.model_output import Head

Images = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """An image to look at.

    Attributes:
        image: its number in the data set.
        own: the class that it is known to show, or None.
        donor: the image that parts are taken from; -1 for none.
        donor_own: the class that this one is known to show, or None.
    """

    image: int
    own: int | None
    donor: int = -1
    donor_own: int | None = None


@dataclass(frozen=True, eq=False)
class Look:
    """How images of one analysis are looked at.

    Attributes:
        context: model, data and seed.
        source: the images.
        head: whose classes are meant.
        method: says where the evidence lies.
        layers: where, for methods that show layers.
        objects: pixel labels, or None.
    """

    context: JobContext
    source: ImageSource
    head: Head
    method: Method
    layers: tuple[Layer, ...]
    objects: Objects | None

    def load(self, images: Sequence[int]) -> Images:
        """Return images as the network sees them, [N, channels, h, w] in 0..1."""
        model = self.context.model
        return load_batch(self.source, images, model.preprocessing, model.input_size)

    def title(self, number: int) -> str:
        """Return the name of a class."""
        return self.head.title(number, self.context.subject.labels)

    def at(self, asked: Sequence[Asked], batch: Images) -> Looked:
        """Look at some images, which the batch has as the network sees them."""
        predicted, sure = self.predict(batch)
        images = [one.image for one in asked]
        classes = [int(guess) if one.own is None else one.own for one, guess in zip(asked, predicted, strict=True)]
        maps = self.evidence(images, batch, classes)
        rows = [self._labelled(image, number, one) for image, number, one in zip(images, classes, maps, strict=True)]
        on_object, of_area, on_concepts, of_concepts, inside = zip(*rows, strict=True)
        return Looked(
            np.array(images),
            np.array(classes),
            np.array([int(one.own is not None) for one in asked]),
            predicted,
            sure,
            np.stack([coarse(one) for one in maps]),
            np.array(on_object),
            np.array(of_area),
            np.stack(on_concepts),
            np.stack(of_concepts),
            np.stack(inside),
            np.array([one.donor for one in asked]),
            self._replaced(asked, batch, classes),
        )

    # --- what an image is taken for ---------------------------------------------------------------------------------

    def predict(self, batch: Images) -> tuple[npt.NDArray[np.int64], Maps]:
        """Return the classes of highest score and their probabilities, NaN where nothing makes any; ONNX Runtime."""
        import torch

        model, layer = self.context.model, explained_score.layer_of(self.head)
        values = torch.from_numpy(np.array(measured(model, batch, [layer.name])[layer.name]))
        scores = explained_score.score_at_positions(values, self.head).amax(dim=2)
        if not bool(scores.isfinite().all()):
            raise AnalysisError("the scores are not finite", where=shorten(layer.name))
        made = explained_score.probabilities(model, batch, self.head, scores.shape[1])
        sure = [np.nan if one is None else float(one.max()) for one in made]
        return scores.argmax(dim=1).numpy(), np.array(sure)

    # --- where the evidence lies ------------------------------------------------------------------------------------

    def evidence(self, images: Sequence[int], batch: Images, classes: Sequence[int]) -> Maps:
        """Return the positive evidence for a class of each image, [N, h, w], adding up to 1; zeros where there is none.

        Maps are enlarged as in pictures; of several layers it is the mean of their maps.
        """
        import torch

        from onnxviz.analyses.attribution.fusion import upsample
        from onnxviz.analyses.attribution.question import ForwardPass
        from onnxviz.analyses.attribution.targets import ClassTarget

        model, layer = self.context.model, explained_score.layer_of(self.head)
        whole = filled(batch, model.view.batch)
        more = len(whole) - len(batch)
        forward = ForwardPass(model, torch.from_numpy(whole), self.layers, [layer], to_input=self.method.to_input)
        targets = [ClassTarget(self.head, number) for number in (*classes, *[classes[-1]] * more)]
        indices = (*images, *[images[-1]] * more)
        question = forward.ask(targets, indices=indices, seed=self.context.subject.seed)
        total = np.zeros((len(batch), *batch.shape[2:]))
        for found in self.method.attribute(question).maps:
            values = upsample(found.detach().relu(), batch.shape[2:])[: len(batch)].double().cpu().numpy()
            if not np.isfinite(values).all():
                raise AnalysisError("the evidence is not finite", where=shorten(self.source.names[images[0]]))
            total += _shares(values)
        return _shares(total)

    def _labelled(self, image: int, number: int, evidence: Maps) -> tuple[float, float, Maps, Maps, Maps]:
        """Return the object's share of the evidence and of the area, both of each concept, and its part on the object.

        What is unknown is NaN.
        """
        count = 0 if self.objects is None else len(self.objects.concepts)
        unknown = np.full(count, np.nan)
        labels = None if self.objects is None else self._labels(image)
        if labels is None:
            return np.nan, np.nan, unknown, unknown, unknown
        weights, areas, inside = np.zeros(count), np.zeros(count), unknown.copy()
        body, shown = self._object(labels, number), bool(evidence.any())
        for concept in np.unique(labels[labels > 0]):
            where: replacement.Region = np.any(labels == concept, axis=0)
            weights[concept - 1], areas[concept - 1] = evidence[where].sum(), where.mean()
            inside[concept - 1] = body[where].mean() if body.any() else np.nan
        on_object = float(evidence[body].sum()) if shown and body.any() else np.nan
        area = float(body.mean()) if body.any() else np.nan
        return on_object, area, weights if shown else unknown, areas, inside

    def _labels(self, image: int) -> npt.NDArray[np.int32] | None:
        model = self.context.model
        return None if self.objects is None else self.objects.read(image, model.preprocessing, model.input_size)

    def _object(self, labels: npt.NDArray[np.int32], number: int) -> replacement.Region:
        """Return where the object of a class is; nowhere where it is not known."""
        assert self.objects is not None
        return self.objects.mask(labels, self.title(number))

    # --- what becomes of it with a part replaced --------------------------------------------------------------------

    def _replaced(self, asked: Sequence[Asked], batch: Images, classes: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return what each image is taken for after each change, [N, changes]; -1 where it cannot be done."""
        found = np.full((len(asked), len(REPLACED)), -1)
        for place, (one, pixels, number) in enumerate(zip(asked, batch, classes, strict=True)):
            made = dict(self.changes(one, pixels, number))
            if made:
                numbers, _ = self.predict(np.stack(list(made.values())))
                found[place, [REPLACED.index(name) for name in made]] = numbers
        return found

    def changes(self, asked: Asked, pixels: Images, number: int) -> Iterator[tuple[str, Images]]:
        """Yield an image, [channels, h, w], with parts of it replaced, each with the name of the change.

        `number` is the class whose object is meant.
        """
        rng = np.random.default_rng([self.context.subject.seed, asked.image])
        other = None if asked.donor < 0 else self.load([asked.donor])[0]
        edge = replacement.edge(pixels.shape[1:])
        yield CENTRE, replacement.mirrored(pixels)
        if other is not None:
            yield EDGE, replacement.replaced(pixels, edge, other)
        labels = self._labels(asked.image)
        mask = None if labels is None else self._object(labels, number)
        if mask is None or not mask.any():
            return
        around = replacement.boxes(mask)
        fills = {"blur": replacement.smoothed(pixels, ~around), "noise": replacement.noise(pixels, ~around, rng)}
        if other is not None:
            fills["image"] = self._without_object(asked, other)
        for part, region in ((OBJECT, around), (BACKGROUND, ~mask)):
            for fill in FILLS:
                if fill in fills:
                    yield f"{part} by {fill}", replacement.replaced(pixels, region, fills[fill])
            if other is not None:
                spread = replacement.tiles(mask.shape, float(region.mean()), rng)
                yield f"as much as the {part}", replacement.replaced(pixels, spread, fills["image"])

    def _without_object(self, asked: Asked, other: Images) -> Images:
        """Return the other image with its own object smoothed away, where that is known."""
        labels = self._labels(asked.donor)
        if labels is None:
            return other
        number = int(self.predict(other[None])[0][0]) if asked.donor_own is None else asked.donor_own
        around = replacement.boxes(self._object(labels, number))
        return replacement.replaced(other, around, replacement.smoothed(other, ~around))


def _shares(maps: Maps) -> Maps:
    """Return maps [N, h, w] divided by their sums; one that is zero everywhere stays so."""
    sums = maps.sum(axis=(1, 2), keepdims=True)
    divided: Maps = np.divide(maps, sums, out=np.zeros_like(maps), where=sums > 0)
    return divided
