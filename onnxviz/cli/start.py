"""`onnxviz init`: a recipe to start from, fitted to a model."""

from __future__ import annotations

from pathlib import Path

from onnxviz.core.errors import ModelError, SelectionError, beginning, shorten
from onnxviz.core.values import PRESETS, Preprocessing
from onnxviz.core.yaml_source import dump
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.inputs import describe_value, graph_inputs
from onnxviz.graph.labels import with_labels_of
from onnxviz.graph.model_output import Head
from onnxviz.graph.targets import resolve_head
from onnxviz.model.preprocessing import preprocessing_for
from onnxviz.model.preprocessing_candidates import require_classifier
from onnxviz.recipe.recipe import relative

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
{output}

{data}
#   scenes: {{concepts: scenes/}}         # images/, labels/ with one mask each, classes.txt

analyses:
  {filters}
  {what}:
    kind: activation_maximization
    targets: [{{layer: logits, units: {units}}}]
  {evidence}
  # concepts: {{kind: dissection, layers: last_map, data: scenes}}

# What must hold, for the exit code; `onnxviz run` shows the metrics that there are in its report.
# expect:
#   - {{metric: filters.dead_fraction, max: 0.05, level: warn, because: dead filters are capacity that is not used}}
"""

_NO_DATA = """\
# data:
#   photos: {images: "photos/*.jpg"}    # what the model is used on"""
_DATA = """\
data:
  photos: {{images: {images}}}    # what the model is used on
  # Where file names hold the class: classes: "{{class}}_*.jpg"; else a labels.csv beside them, or a folder for each."""
_NO_LABELS = "  # labels: labels.txt      # class names, one a line in the order of the scores\n"
_GUESS = "# A guess, of which the report warns. Ask who trained the model, and write what is right without `confirmed`"
_FIRST_IMAGES = 8
"""How many photographs a first run explains."""
_OR_TRY = """; or give
  # `data:` with photographs and write `preprocess: auto`"""


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
    units = 0 if head is None else view.logits.unit_count
    known = head is not None and head.kind != "unknown"
    # Of one vector the largest numbers may be explained unasked; whether it holds classes is for its user to say.
    ranked = head is not None and (head.has_classes or (not known and len(view.heads) == 1 and not head.has_positions))
    return _TEMPLATE.format(
        recipe=shorten(target.name, 100),
        title=_plain(shorten(model.stem, 80)),
        path=_plain(relative(model, target.parent)),
        facts=facts,
        preprocess=_preprocess(view, images is not None),
        data=_NO_DATA if images is None else _DATA.format(images=_plain(relative(images, target.parent))),
        sizing=_inputs(view) + sizing,
        output=_labels(labels, target, ranked) + _output(head),
        filters=_filters(view),
        what="classes" if ranked else "outputs",
        units=f"0-{min(units, 4) - 1}" if units > 1 else "0",
        evidence=_evidence(view, ranked, images is not None),
    )


def _evidence(view: GraphView, ranked: bool, photographs: bool) -> str:
    """Return the entry that shows the evidence in photographs, as a comment where there are none or no maps."""
    explained = 'classes: "top:3"' if ranked else "score: logits, positions: highest, classes: [0]"
    entry = f"evidence: {{kind: grad_cam, layers: block_outputs, data: photos, {explained}"
    try:
        view.select("block_outputs")
        resolve_head(view, None if ranked else "logits", None)
    except SelectionError:
        return f"# {entry}}}"
    # The first run shall not take long; a comment does not say how many.
    return f"{entry}, limit: {_FIRST_IMAGES}}}" if photographs else f"# {entry}}}"


def _inputs(view: GraphView) -> str:
    """Return the lines that give the inputs beside the image a value, which is a guess."""
    graph = view.proto.graph
    others = [value for value in graph_inputs(graph) if value.name != view.input_name]
    if not others:
        return ""
    values = ", ".join(f"{_plain(view.names[value.name])}: zeros" for value in others)
    listed = "; ".join(describe_value(value, view.names, view.dimensions) for value in others)
    return f"\n  inputs: {{{values}}}  # a guess; they are {listed}"


def _labels(labels: Path | None, target: Path, ranked: bool) -> str:
    """Return the line that says where the class names are, a comment where nobody said and there may be some."""
    if labels is not None:
        return f"  labels: {_plain(relative(labels, target.parent))}\n"
    return _NO_LABELS if ranked else ""


def _filters(view: GraphView) -> str:
    """Return the entry that shows the first convolution's kernels, as a comment where there is none."""
    entry = "filters: {kind: weights, layers: first_conv}"
    try:
        view.select("first_conv")
    except SelectionError:
        return f"# {entry}  # the model has no convolution: name a layer"
    return entry


def _output(head: Head | None) -> str:
    """Return the comment on what the model gives."""
    if head is not None and head.kind != "unknown":
        return f"  # It gives {beginning(head.in_words)}; `output:` says otherwise"
    said = "unknown" if head is None else beginning(head.in_words)
    first, others = "classes", "binary,\n  #                           multilabel, map_of_classes, boxes, image, "
    if head is not None and head.has_positions:
        first, others = "boxes", "image,\n  #                           map_of_classes, "
    return f"  # {f'output: {first}':<24}# nothing says what it gives ({said}): {first}, {others}regression, embedding"


def _preprocess(view: GraphView, photographs: bool) -> str:
    """Return the line of the preprocessing: what the file says, a trial where there are photographs, else a guess."""
    found = preprocessing_for(view)
    if found.declared:
        return "# preprocess: the model file says it"
    try:
        require_classifier(view)
    except SelectionError:  # `auto` would be refused
        return f"{_GUESS}.\n  {_guessed(found)}"
    if photographs:
        return "preprocess: auto  # tries all on the images below and takes the best; better: what its authors say"
    return f"{_GUESS}{_OR_TRY}.\n  {_guessed(found)}"


def _guessed(found: Preprocessing) -> str:
    fields = f"channel_order: {found.channel_order}, mean: {found.mean[0]:g}, scale: {found.scale[0]:g}"
    own = f"preset: {found.name}" if found.name in PRESETS else fields
    return f"preprocess: {{{own}, confirmed: false}}"


def _plain(text: str) -> str:
    """Return text as one YAML scalar, quoted if need be."""
    return dump([text]).strip().removeprefix("- ").removeprefix("[").removesuffix("]")
