"""`onnxviz init`: a recipe to start from, fitted to a model."""

from __future__ import annotations

from pathlib import Path

from onnxviz.candidates import require_classifier
from onnxviz.errors import ModelError, SelectionError, beginning, shorten
from onnxviz.graph import GraphView, open_model
from onnxviz.labels import with_labels_of
from onnxviz.preprocessing import preprocessing_for
from onnxviz.recipe import relative
from onnxviz.source import dump
from onnxviz.values import PRESETS, Preprocessing

_TEMPLATE = """\
# yaml-language-server: $schema=./onnxviz.schema.json
# The schema for your editor: onnxviz schema --out onnxviz.schema.json
# Check: onnxviz validate {recipe}    Plan: onnxviz plan {recipe}    Run: onnxviz run {recipe}
version: 1
title: {title}
model:
  path: {path}
  # {facts}
  {preprocess}{sizing}
  {labels}
{output}

{data}
#   scenes: {{concepts: scenes/}}         # images/, labels/ with one mask each, classes.txt

analyses:
  filters: {{kind: weights, layers: first_conv}}
  classes:
    kind: activation_maximization
    targets: [{{layer: logits, units: {units}}}]
  # evidence: {{kind: grad_cam, layers: block_outputs, data: photos, classes: "top:3"}}
  # concepts: {{kind: dissection, layers: last_map, data: scenes}}

# What must hold, for the exit code; `onnxviz run` shows the metrics that there are in its report.
# expect:
#   - {{metric: filters.dead_fraction, max: 0.05, level: warn, because: dead filters are capacity that is not used}}
"""

_NO_LABELS = "# labels: labels.txt      # class names, one a line in the order of the scores"
_NO_DATA = """\
# data:
#   photos: {images: "photos/*.jpg"}    # what the model is used on"""
_DATA = """\
data:
  photos: {{images: {images}}}    # what the model is used on
  # Where file names hold the class: classes: "{{class}}_*.jpg"; else a labels.csv beside them, or a folder for each."""
_CONFIRM = """\
# A guess, of which the report warns. Ask who trained the model, and write what is right without `confirmed`; or give
  # `data:` with photographs and write `preprocess: auto`.
  {line}"""


def starting_recipe(model: Path, target: Path, images: Path | None = None, labels: Path | None = None) -> str:
    """Return a recipe for a model.

    Args:
        model: ONNX file.
        target: where the recipe will lie, which its paths are relative to.
        images: folder or glob of photographs that the model is used on; its preprocessing is chosen by trial on them.
        labels: file of class names, one a line in the order of the scores.

    Raises:
        ModelError: if the file is refused, or takes no images.
        DataError: if the class names cannot be read.
        SelectionError: if there are more or fewer of them than classes.
    """
    view = open_model(model)
    if view.input_layout == "other":
        raise ModelError(
            "the model's input is no image, and recipes are about images",
            where=shorten(view.file),
            remedy="look at it with `onnxviz inspect`, or call it from Python with onnxviz.to_torch(path)",
        )
    if labels is not None:
        view, _ = with_labels_of(view, labels)
    size = f"{view.input_size[0]}×{view.input_size[1]}" if view.input_size else "any size"
    sizing = "" if view.input_size else "\n  size: [224, 224]  # height, width: a guess, the model leaves it free"
    facts = f"{shorten(view.producer or 'producer not said', 60)}, opset {view.opset}, {view.input_layout}, {size}"
    head = view.main_head
    classes = 0 if head is None else view.logits.unit_count
    if head is None or head.kind == "unknown":
        said = "unknown" if head is None else _comment(head.in_words)
        output = (
            f"  # output: classes         # nothing says what it gives ({said}): classes, binary,\n"
            "  #                           multilabel, map_of_classes, regression, embedding, boxes, image"
        )
    else:
        output = f"  # It gives {_comment(head.in_words)}; `output:` says otherwise"
    return _TEMPLATE.format(
        recipe=shorten(target.name, 100),
        title=_plain(shorten(model.stem, 80)),
        path=_plain(relative(model, target.parent)),
        facts=facts,
        preprocess=_preprocess(view, images is not None),
        data=_NO_DATA if images is None else _DATA.format(images=_plain(relative(images, target.parent))),
        sizing=sizing,
        labels=_NO_LABELS if labels is None else f"labels: {_plain(relative(labels, target.parent))}",
        output=output,
        units=f"0-{min(classes, 4) - 1}" if classes > 1 else "0",
    )


def _comment(text: str) -> str:
    """Return text that stays within one line of a comment."""
    return beginning(text)


def _preprocess(view: GraphView, photographs: bool) -> str:
    """Return the line of the preprocessing: what the file says, a trial where there are photographs, else a guess."""
    found = preprocessing_for(view)
    if found.declared:
        return "# preprocess: the model file says it"
    if photographs:
        try:
            require_classifier(view)
        except SelectionError as fault:
            return f"# {beginning(fault.what)}.\n  {_CONFIRM.format(line=_guessed(found))}"
        return "preprocess: auto  # tries all on the images below and takes the best; better: what its authors say"
    return _CONFIRM.format(line=_guessed(found))


def _guessed(found: Preprocessing) -> str:
    fields = f"channel_order: {found.channel_order}, mean: {found.mean[0]:g}, scale: {found.scale[0]:g}"
    own = f"preset: {found.name}" if found.name in PRESETS else fields
    return f"preprocess: {{{own}, confirmed: false}}"


def _plain(text: str) -> str:
    """Return text as one YAML scalar, quoted if need be."""
    return dump([text]).strip().removeprefix("- ").removeprefix("[").removesuffix("]")
