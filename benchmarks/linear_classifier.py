"""A classifier of several labels an image: a linear layer on the averaged last map of a network that stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from onnxviz.core.values import Preprocessing
from onnxviz.model.model import load

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]

FEATURES, LOGITS = "features", "logits"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the penalty that cross-validation chooses from, on standardised features."""
_FOLDS = 4
_SHUFFLES = 1000


@dataclass(frozen=True)
class Backbone:
    """A network of the zoo that was trained on ImageNet.

    Attributes:
        file: its name.
        preprocessing: of whole images, stretched.
        last_map: the tensor before its classifier, [N, units, rows, columns].
    """

    file: str
    preprocessing: Preprocessing
    last_map: str


BACKBONES = {
    "efficientnet": Backbone(
        "efficientnet_lite0_imagenet.onnx",
        Preprocessing("RGB", (127.0,), (128.0,), fit="stretch"),
        "/_swish_1/Clip_output_0",
    ),
    "squeezenet": Backbone(
        "squeezenet_fp16.onnx",
        Preprocessing("BGR", (103.939, 116.779, 123.68), (1.0,), fit="stretch"),
        "fire9/concat_1",
    ),
}


def features(backbone: Backbone, zoo: Path, folder: Path, images: Iterable[Floats]) -> Floats:
    """Return the averaged last map of each of some images [3, h, w], RGB in 0..1: [N, units]."""
    path = folder / f"{Path(backbone.file).stem}_features.onnx"
    write(path, zoo / "zoo" / "onnx" / backbone.file, backbone.last_map, ())
    model = load(path, backbone.preprocessing, device="cpu", output="embedding")
    (layer,) = (layer for layer in model.view.layers if layer.name == FEATURES)
    return np.stack([model.measure(image[None], layer)[layer.name].ravel() for image in images])


def fit(given: Floats, present: Labels, strength: float) -> tuple[Floats, Floats]:
    """Fit a logistic regression for each class, by itself.

    Args:
        given: features [N, units].
        present: which classes each image has, [N, classes]; each is there in some and not in others.
        strength: inverse strength of the penalty on weights of standardised features.

    Returns:
        Weights [classes, units] and biases [classes] of the features as they are.
    """
    scaler = StandardScaler().fit(given)
    scaled = scaler.transform(given)
    fitted = [LogisticRegression(C=strength, max_iter=1000).fit(scaled, each) for each in present.T]
    weights = np.concatenate([each.coef_ for each in fitted]) / scaler.scale_
    biases = np.concatenate([each.intercept_ for each in fitted]) - weights @ scaler.mean_
    return weights.astype(np.float32), biases.astype(np.float32)


def choose_strength(given: Floats, present: Labels, groups: Sequence[int]) -> float:
    """Return the strength whose classifiers have the highest average precision on groups that they have not seen.

    Args:
        given: features [N, units].
        present: [N, classes].
        groups: images of a group are all learned from, or all kept for the test.
    """
    found = {strength: _validated(given, present, groups, strength) for strength in STRENGTHS}
    return max(found, key=lambda strength: found[strength])


def _validated(given: Floats, present: Labels, groups: Sequence[int], strength: float) -> float:
    """Return the mean over folds and classes that a fold can tell something of."""
    precisions = []
    for learned, kept in GroupKFold(_FOLDS).split(given, groups=groups):
        mixed = np.flatnonzero(_mixed(present[learned]) & _mixed(present[kept]))
        weights, biases = fit(given[learned], present[learned][:, mixed], strength)
        scores = given[kept] @ weights.T + biases
        precisions += [
            average_precision_score(present[kept][:, place], each) for place, each in zip(mixed, scores.T, strict=True)
        ]
    return float(np.mean(precisions))


def _mixed(present: Labels) -> Labels:
    return np.asarray(present.any(axis=0) & ~present.all(axis=0))


def write(path: Path, source: Path, last_map: str, head: tuple[Floats, Floats] | tuple[()]) -> None:
    """Write a network that ends with the average of a map, or with a linear layer on that.

    Args:
        path: the file to write.
        source: the file of the network that the map is taken from.
        last_map: the name of the map's tensor in it.
        head: weights [classes, units] and biases [classes]; none for the average itself.
    """
    proto = onnx.load(source)
    nodes, needed = [], {last_map}
    for node in reversed(proto.graph.node):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(node.input)
    nodes.reverse()
    nodes.append(helper.make_node("GlobalAveragePool", [last_map], ["average"]))
    nodes.append(helper.make_node("Cast", ["average"], ["average_float"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Flatten", ["average_float"], [FEATURES]))
    initializers = [each for each in proto.graph.initializer if each.name in needed]
    if head:
        nodes.append(helper.make_node("Gemm", [FEATURES, "head_weights", "head_biases"], [LOGITS], transB=1))
        names = ("head_weights", "head_biases")
        initializers += [numpy_helper.from_array(each, name) for each, name in zip(head, names, strict=True)]
    output = helper.make_tensor_value_info(LOGITS if head else FEATURES, TensorProto.FLOAT, None)
    inputs = [each for each in proto.graph.input if each.name in needed]
    graph = helper.make_graph(nodes, "classifier", inputs, [output], initializers)
    made = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    onnx.save(made, path)


@dataclass(frozen=True)
class Precision:
    """How well a class is found in held-out images.

    Attributes:
        name: the class.
        learned: how many images to learn from have it.
        present: how many held-out images have it, of `count`.
        average: the average precision.
        p: how many shuffles of the labels, of all, give as much.
    """

    name: str
    learned: int
    present: int
    count: int
    average: float
    p: float

    @property
    def counts(self) -> bool:
        """Whether eight images have it and eight do not, and one shuffle of a hundred at most is as good."""
        return min(self.present, self.count - self.present) >= 8 and self.p <= 0.01


def precision(name: str, learned: int, present: Labels, scores: npt.NDArray[np.floating]) -> Precision:
    """Return the average precision of scores [N] for images with the class or without, beside that of shuffled ones."""
    given = float(average_precision_score(present, scores)) if present.any() else math.nan
    rng = np.random.default_rng(0)
    shuffled = [
        average_precision_score(rng.permutation(present), scores) for _ in range(_SHUFFLES if present.any() else 0)
    ]
    p = (1 + sum(each >= given for each in shuffled)) / (1 + len(shuffled))
    return Precision(name, learned, int(present.sum()), len(present), given, p)
