"""What `onnxviz inspect` tells of a model, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onnxviz.analyses.base import Subject
from onnxviz.graph import open_model
from onnxviz.plan import PROOF_IMAGES, Proof
from onnxviz.preprocessing import preprocessing_for
from onnxviz.results import LayerRow, ModelCard


@dataclass(frozen=True)
class Inspection:
    """A model, read and proved.

    Attributes:
        card: what the report's model section shows.
        layers: the rows of the layers that were asked for.
        logits: name of the layer that holds the class scores.
        layout: of the input.
        errors: layers that could not be compared with ONNX Runtime, with the reason.
        said: what the agreement was measured on.
    """

    card: ModelCard
    layers: tuple[LayerRow, ...]
    logits: str
    layout: str
    errors: tuple[tuple[str, str], ...] = ()
    said: str = ""


def inspect_model(
    path: Path,
    *,
    layers: str | None = None,
    preprocess: str | None = None,
    agreement: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> Inspection:
    """Read a model and describe it.

    Args:
        path: ONNX file.
        layers: a selector: only these; all if None.
        preprocess: a preset's name, for the agreement.
        agreement: compare the layers with ONNX Runtime, which loads torch.
        device: where to compute that.

    Raises:
        ModelError: if the file is refused.
        SelectionError: if no layer is selected, or no preset is called so.
    """
    view = open_model(path)
    chosen = view.select(layers) if layers is not None else view.layers
    names = {layer.name for layer in chosen}
    preprocessing = preprocessing_for(view, preprocess)
    logits = view.logits.name
    if not agreement:
        card = view.card("model", preprocessing)
        return Inspection(card, tuple(row for row in card.layers if row.name in names), logits, view.input_layout)
    from onnxviz.workers import find_device, measure_agreement, prepare_torch

    found = find_device(device)
    prepare_torch(found)
    subject = Subject("model", view, preprocessing, None, {}, 0)
    proof = Proof("", "model", tuple(layer.name for layer in chosen), None)
    proved, errors = measure_agreement(subject, proof, found)
    card = view.card("model", preprocessing, proved)
    rows = tuple(row for row in card.layers if row.name in names)
    said = f"on {PROOF_IMAGES} made-up images, preprocessed as {preprocessing.name}"
    return Inspection(card, rows, logits, view.input_layout, tuple(errors.items()), said)
