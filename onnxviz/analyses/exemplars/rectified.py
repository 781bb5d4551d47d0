"""What of an image excites a unit at one place, carried back to its pixels as Zeiler and Fergus did it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from onnxviz.analyses.attribution.pictures import CLIPPED
from onnxviz.analyses.exemplars.patches import NOTHING, Pixels
from onnxviz.core.values import Layer
from onnxviz.data.images import ImageSource, load_batch

if TYPE_CHECKING:
    from onnxviz.model.model import Model

Rule = Literal["deconvnet", "guided_backpropagation"]


def rectified(
    rule: Rule, model: Model, source: ImageSource, layer: Layer, unit: int, best: Sequence[tuple[int, int]]
) -> list[npt.NDArray[np.float32]]:
    """Return for each image what excites a unit at a place, float32 [h, w, channels].

    Sources: Zeiler and Fergus 2013, section 2.1; Springenberg et al. 2014, section 3.4.

    Args:
        rule: what happens at ReLUs.
        model: the network.
        source: the images.
        layer: the unit's.
        unit: its number.
        best: images and the places of their peaks, counted row by row.

    Raises:
        AnalysisError: if the network has no ReLU before the unit, or does not convert.
    """
    import torch

    from onnxviz.analyses.attribution.methods.rectifiers import rectified_gradient
    from onnxviz.analyses.attribution.question import ForwardPass
    from onnxviz.analyses.attribution.targets import AtPositions

    batch = load_batch(source, [image for image, _ in best], model.preprocessing, model.input_size)
    forward = ForwardPass(model, torch.from_numpy(batch), [], [layer], to_input=True)
    question = forward.ask([AtPositions(layer, unit, (place,), f"{layer.name}:{unit}") for _, place in best])
    gradient, _ = rectified_gradient(question, masked=rule == "guided_backpropagation")
    if model.preprocessing.channel_order == "GRAY":  # red, green and blue have the parts of one brightness
        gradient = gradient.sum(dim=1, keepdim=True)
    return [np.ascontiguousarray(each.transpose(1, 2, 0)) for each in gradient.float().cpu().numpy()]


def coloured(values: npt.NDArray[np.float32]) -> Pixels:
    """Return values [h, w, channels] as colours around grey, as published; of other than three channels their mean.

    Colours reach to the 99.5th percentile of the absolute values, so that single pixels do not hide the rest.
    """
    shown = values if values.shape[2] == 3 else np.repeat(values.mean(axis=2, keepdims=True), 3, axis=2)
    sizes = np.abs(shown)
    bound = float(np.percentile(sizes, CLIPPED)) or float(sizes.max()) or 1.0
    return (NOTHING + (shown / bound).clip(-1, 1) * (NOTHING - 1)).round().astype(np.uint8)
