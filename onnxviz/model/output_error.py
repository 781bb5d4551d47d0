"""What ONNX Runtime's errors do to a model's output, measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from onnxviz.core.errors import OnnxvizError, shorten
from onnxviz.core.values import Agreement
from onnxviz.graph.structure import producers
from onnxviz.model.differences import relative_difference
from onnxviz.model.layer_values import units_first
from onnxviz.model.model import Model
from onnxviz.model.ort_session import Session
from onnxviz.model.parity import check_comparable_layers


def output_error(model: Model, images: torch.Tensor, known: Sequence[Agreement] = ()) -> str:
    """Say how far ONNX Runtime's output is from the converted network's, which is right by a third computation.

    Args:
        model: a model of which ONNX Runtime computes a layer wrongly.
        images: RGB, [N, 3, height, width], 0..1, in the model's size.
        known: layers that were compared already.

    Returns:
        A sentence without its full stop; "" if the model has no output that depends on the image, or if nothing says
        that the converted network is right there.
    """
    try:
        layer = model.view.logits
        agreements = tuple(item for item in known if item.layer == layer.name)
        agreements = agreements or check_comparable_layers(model, [layer], images)[0]
        if not agreements or not all(item.holds for item in agreements):
            return ""
        in_file = layer.value in producers(model.view.original.graph)
        session = Session(model.view.original if in_file else model.view.proto, [layer.value], exact=True)
        theirs, ours = [], []
        for start in range(0, len(images), model.view.batch or 1):
            part = images[start : start + (model.view.batch or 1)]
            with torch.no_grad():
                encoded = model.encode(part).cpu().numpy()
            (found,) = session.run({model.view.input_name: encoded})
            theirs.append(units_first(found, layer.channel_axis))
            ours.append(model.continued(part, [layer], {})[0].cpu().numpy())
    except OnnxvizError:
        return ""
    error = relative_difference(np.concatenate(theirs), np.concatenate(ours))
    rows = [np.concatenate(side).reshape(len(images), -1) for side in (theirs, ours)]
    text = f"the output {shorten(layer.name)} differs by up to {error:.2g} of its largest value"
    if rows[0].shape[1] == layer.unit_count and layer.unit_count > 1:
        changed = int((rows[0].argmax(axis=1) != rows[1].argmax(axis=1)).sum())
        text += f", and on {changed} of {len(images)} images another of its {layer.unit_count} numbers is the largest"
    if any(item.end_to_end is not None for item in agreements):
        text += "; roundings to integers that fell to other sides lie in that too"
    return text
