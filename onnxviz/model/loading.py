"""`onnxviz.load`: a model from a file, its preprocessing found on images where nobody knows it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.values import AUTO, Preprocessing
from onnxviz.data.images import ImageFolder, ImageSource
from onnxviz.model import model as models
from onnxviz.model.model import Model
from onnxviz.model.preprocessing_candidates import pictures_for, require_classifier, spread
from onnxviz.model.preprocessing_search import probe

if TYPE_CHECKING:
    import torch

    from onnxviz.graph.model_output import OutputKind


def load(
    path: Path | str,
    preprocess: str | Preprocessing | Mapping[str, Any] | None = None,
    labels: Path | str | Sequence[str] | None = None,
    device: torch.device | str | None = None,
    output: OutputKind | Mapping[str, OutputKind] | None = None,
    *,
    images: ImageSource | Path | str | Sequence[Path | str] | None = None,
) -> Model:
    """Open an ONNX model from any exporter.

    Args:
        path: the file.
        preprocess: a preset ("caffe", "imagenet", "tf", "unit", "raw", "gray_unit", ...), a `Preprocessing`, or its
            fields as a mapping; "auto" for the best of those tried on `images`; what the file says, else a guess with a
            warning, if None. `model.preprocessing.origin` tells which of these it is.
        labels: class names in logit order, or a text file of them, one a line; those in the file's metadata if None.
        device: "cpu", "cuda", ...; a GPU where there is one if None.
        output: what the model gives, where its file does not say it: "classes", "binary", "multilabel",
            "map_of_classes", "regression", "embedding", "boxes", "image" or "unknown"; or a mapping from the names of
            its outputs to these.
        images: for "auto": files, folders or globs of images that the model is made for, or a data set. Where their
            classes are known (`ground_truth.HOW`) accuracy decides.

    Returns:
        The model; it is converted when gradients or activations are first asked for.

    Raises:
        ModelFileError: if the file cannot be read or is refused as unsafe.
        ModelError: if a preprocessing is to be found for a model that gives no class to an image.
        SelectionError: if the preset does not exist, "auto" has no images, there are not as many labels as logits,
            or an output cannot be what `output` says.
        DataError: if the labels or images cannot be read.
    """
    if preprocess != AUTO:
        if images is not None:
            raise SelectionError("images are for preprocess='auto' only", remedy="leave them out, or write 'auto'")
        model = models.load(path, preprocess, labels, device, output)
        if preprocess is None and model.preprocessing.origin == "guess" and model.view.input_layout != "other":
            warnings.warn(_guessed(model), stacklevel=2)
        return model
    if images is None:
        raise SelectionError("preprocess='auto' tries preprocessings on images", remedy="give them: images='photos/'")
    opened = models.load(path, None, labels, device, output)
    source = _source(images)
    indices = spread(pictures_for(opened.view), len(source))
    found = probe(opened.view, source, labels=opened.labels, device=str(opened.device), indices=indices)
    chosen = replace(found.trials[0].preprocessing, origin="trial")
    return Model(opened.view, chosen, opened.labels, opened.device)


def _guessed(model: Model) -> str:
    """Return what to do about a preprocessing that nobody has said."""
    text = (
        f"{shorten(model.view.file)}: nothing says how images become its input, so that "
        f"{model.preprocessing.name!r} is a guess, and results may be of images that it was not made for; say what its "
        "authors say, for example preprocess='imagenet'"
    )
    try:
        require_classifier(model.view)
    except SelectionError:
        return text
    return f"{text}, or have it found on images: preprocess='auto', images='photos/'"


def _source(images: ImageSource | Path | str | Sequence[Path | str]) -> ImageSource:
    if isinstance(images, str | Path):
        images = [images]
    return (
        ImageFolder.find("images", [str(item) for item in images], Path()) if isinstance(images, Sequence) else images
    )
