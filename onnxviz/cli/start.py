"""`onnxviz init`: a recipe to start from, fitted to a model."""

from __future__ import annotations

from pathlib import Path

from onnxviz.errors import ModelError, shorten
from onnxviz.graph import open_model
from onnxviz.preprocessing import preprocessing_for
from onnxviz.recipe import relative
from onnxviz.source import dump
from onnxviz.values import PRESETS

_TEMPLATE = """\
# yaml-language-server: $schema=./onnxviz.schema.json
# The schema for your editor: onnxviz schema --out onnxviz.schema.json
# Check: onnxviz validate {recipe}    Plan: onnxviz plan {recipe}    Run: onnxviz run {recipe}
version: 1
title: {title}
model:
  path: {path}
  # {facts}
  preprocess: {preprocess}  # {advice}{sizing}
  # labels: labels.txt      # class names, one a line in the order of the scores
{output}

# data:
#   photos: {{images: "photos/*.jpg"}}    # what the model is used on
#   scenes: {{concepts: scenes/}}         # images/, labels/ with one mask each, classes.txt

analyses:
  filters: {{kind: weights, layers: first_conv}}
  classes:
    kind: activation_maximization
    targets: [{{layer: logits, units: {units}}}]
  # evidence: {{kind: grad_cam, layers: all_convs, data: photos, classes: "top:3"}}
  # concepts: {{kind: dissection, layers: last_conv, data: scenes}}

# What must hold, for the exit code; `onnxviz run` shows the metrics that there are in its report.
# expect:
#   - {{metric: filters.dead_fraction, max: 0.05, because: dead filters point to broken training}}
"""


def starting_recipe(model: Path, target: Path) -> str:
    """Return a recipe for a model.

    Args:
        model: ONNX file.
        target: where the recipe will lie, which its paths are relative to.

    Raises:
        ModelError: if the file is refused, or takes no images.
    """
    view = open_model(model)
    if view.input_layout == "other":
        raise ModelError(
            "the model's input is no image, and recipes are about images",
            where=shorten(view.file),
            remedy="look at it with `onnxviz inspect`, or call it from Python with onnxviz.to_torch(path)",
        )
    found = preprocessing_for(view)
    if found.declared:
        preprocess, advice = _plain(found.name), "as the model file says"
        if found.name not in PRESETS:
            preprocess, advice = "unit", "the model file declares its own; leave this line out to use it"
    elif found.name != "unit":
        fields = f"channel_order: {found.channel_order}, mean: {found.mean[0]:g}, scale: {found.scale[0]:g}"
        preprocess = found.name if found.name in PRESETS else f"{{{fields}}}"
        advice = "a guess from the whole numbers that the model takes"
    elif view.input_channels == 1:
        preprocess, advice = "gray_unit", "a guess; gray_raw: 0..255, gray_tf: -1..1. A wrong one makes wrong pictures"
    elif "caffe" in view.producer.lower():
        preprocess, advice = "caffe", "a guess from the producer: BGR minus the ImageNet means. Ask who trained it"
    else:
        preprocess, advice = "imagenet", "a guess; caffe, tf (-1..1), unit (0..1), raw (0..255). Ask who trained it"
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
        preprocess=preprocess,
        advice=advice,
        sizing=sizing,
        output=output,
        units=f"0-{min(classes, 4) - 1}" if classes > 1 else "0",
    )


def _comment(text: str) -> str:
    """Return text that stays within one line of a comment."""
    return shorten(" ".join(text.split()), 120)


def _plain(text: str) -> str:
    """Return text as one YAML scalar, quoted if need be."""
    return dump([text]).strip().removeprefix("- ").removeprefix("[").removesuffix("]")
