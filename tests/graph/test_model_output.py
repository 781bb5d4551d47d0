"""What outputs are: read from the graph, declared, or unknown; and what analyses may say of each kind."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from PIL import Image

from onnxviz import cli
from onnxviz.analyses.adversarial.analysis import Adversarial
from onnxviz.analyses.base import Analysis, JobContext, Subject
from onnxviz.analyses.explained_score import too_sure
from onnxviz.analyses.grad_cam.analysis import GradCam
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, DataError, SelectionError
from onnxviz.core.results import ModelCard, decode, encode
from onnxviz.core.shares import Share, wilson
from onnxviz.core.values import Layer, Preprocessing
from onnxviz.data.images import ImageFolder
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.labels import with_labels
from onnxviz.graph.model_output import Head
from onnxviz.graph.targets import TargetSelector, class_of, resolve, resolve_head
from onnxviz.model.model import Model, load

SIDE = 16
RNG = np.random.default_rng(0)


def write(path: Path, nodes: Sequence[NodeProto], outputs: Mapping[str, Any], **weights: Any) -> Path:
    """Write a network for images of 16 pixels: outputs are names with their shapes, int64 if called int_..."""
    made = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name.startswith("int_") else TensorProto.FLOAT, shape)
        for name, shape in outputs.items()
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "g", [image], made, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), outputs.split(), outputs.split()[0], **attributes)


BODY = [
    node("Conv", "image w", "conv", pads=[1, 1, 1, 1]),
    node("Relu", "conv", "maps"),
    node("GlobalAveragePool", "maps", "pool"),
    node("Flatten", "pool", "flat"),
    node("Gemm", "flat d", "scores"),
]


def weights(units: int) -> dict[str, np.ndarray]:
    return {
        "w": RNG.standard_normal((6, 3, 3, 3)).astype(np.float32),
        "d": RNG.standard_normal((6, units)).astype(np.float32),
    }


def view_of(
    tmp_path: Path, tail: Sequence[NodeProto], outputs: Mapping[str, Any], units: int, **more: Any
) -> GraphView:
    return open_model(write(tmp_path / "m.onnx", [*BODY, *tail], outputs, **weights(units), **more))


ONE = np.array([1], np.int64)
VECTORS: dict[str, tuple[list[NodeProto], dict[str, Any], int, tuple[str, str, str, str]]] = {
    "softmax": ([node("Softmax", "scores", "y")], {"y": ["n", 5]}, 5, ("classes", "scores", "softmax", "y")),
    "logarithms": ([node("LogSoftmax", "scores", "y")], {"y": ["n", 5]}, 5, ("classes", "scores", "softmax", "y")),
    "softmax written out": (
        [node("ReduceMax", "scores", "most", axes=[1], keepdims=1), node("Sub", "scores most", "shifted"),
         node("Exp", "shifted", "raised"), node("ReduceSum", "raised one", "sum", keepdims=1),
         node("Div", "raised sum", "y")], {"y": ["n", 5]}, 5, ("classes", "scores", "softmax", "y"),
    ),
    "one sigmoid": ([node("Sigmoid", "scores", "y")], {"y": ["n", 1]}, 1, ("binary", "scores", "sigmoid", "y")),
    "one sigmoid, squeezed": (
        [node("Squeeze", "scores one", "s"), node("Sigmoid", "s", "y")], {"y": ["n"]}, 1,
        ("binary", "scores", "sigmoid", "y"),
    ),
    "sigmoids": ([node("Sigmoid", "scores", "y")], {"y": ["n", 5]}, 5, ("multilabel", "scores", "sigmoid", "y")),
    "argmax": ([node("ArgMax", "scores", "int_y", axis=1)], {"int_y": ["n", 1]}, 5, ("classes", "scores", "", "")),
    "argmax of a softmax": (
        [node("Softmax", "scores", "p"), node("ArgMax", "p", "int_y", axis=-1, keepdims=0)], {"int_y": ["n"]}, 5,
        ("classes", "scores", "softmax", "p"),
    ),
    "argmax and a table": (
        [node("ArgMax", "scores", "k", axis=1, keepdims=0), node("Gather", "table k", "int_y")], {"int_y": ["n"]}, 5,
        ("unknown", "scores", "", ""),  # 100 is no class of the scores
    ),
    "argmax and a table in order": (
        [node("ArgMax", "scores", "k", axis=1, keepdims=0), node("Gather", "order k", "int_y")], {"int_y": ["n"]}, 5,
        ("classes", "scores", "", ""),
    ),
    "sigmoid written out": (
        [node("Neg", "scores", "turned"), node("Exp", "turned", "raised"), node("Add", "raised unit", "sum"),
         node("Div", "unit sum", "y")], {"y": ["n", 1]}, 1, ("binary", "scores", "sigmoid", "y"),
    ),
    "sigmoids kept off the ends": (
        [node("Sigmoid", "scores", "p"), node("Clip", "p low high", "y")], {"y": ["n", 5]}, 5,
        ("multilabel", "scores", "sigmoid", "p"),
    ),
    "top three": (
        [node("TopK", "scores three", "v int_k", axis=1)], {"v": ["n", 3], "int_k": ["n", 3]}, 5,
        ("classes", "scores", "", ""),
    ),
    "hardmax": ([node("Hardmax", "scores", "y", axis=1)], {"y": ["n", 5]}, 5, ("classes", "scores", "", "")),
    "numbers": ([], {"scores": ["n", 5]}, 5, ("unknown", "scores", "", "")),
    "a number": ([], {"scores": ["n", 1]}, 1, ("unknown", "scores", "", "")),
    "of length one": ([node("LpNormalization", "scores", "y", axis=1)], {"y": ["n", 5]}, 5, ("embedding", "y", "", "")),
    "softmax of one": ([node("Softmax", "scores", "y")], {"y": ["n", 1]}, 1, ("unknown", "scores", "", "")),
}  # fmt: skip


@pytest.mark.parametrize("case", VECTORS)
def test_what_the_graph_says_of_a_vector(case: str, tmp_path: Path) -> None:
    tail, outputs, units, expected = VECTORS[case]
    more = {"one": ONE, "three": np.array([3], np.int64), "table": np.arange(5, dtype=np.int64) + 100}
    more |= {"order": np.arange(5, dtype=np.int64), "unit": np.float32(1)}
    more |= {"low": np.float32(1e-7), "high": np.float32(1 - 1e-7)}
    used = {name for item in tail for name in item.input}
    view = view_of(tmp_path, tail, outputs, units, **{name: more[name] for name in used & set(more)})
    (head,) = view.heads
    assert (head.kind, head.scores and head.scores.name, head.probability) == expected[:3]
    assert (head.final.name if head.final else "") == expected[3]
    assert head.outputs == tuple(outputs)
    assert view.logits == head.scores
    assert head.choices == (2 if head.kind == "binary" else units)
    assert head.source == ("graph" if head.kind != "unknown" else "nothing")


MAPS = [*BODY[:2], node("Conv", "maps k", "scores")]


@pytest.mark.parametrize(
    ("tail", "outputs", "kind"),
    [
        ([node("Softmax", "scores", "y", axis=1)], {"y": ["n", 4, SIDE, SIDE]}, "map_of_classes"),
        ([node("ArgMax", "scores", "int_y", axis=1, keepdims=0)], {"int_y": ["n", SIDE, SIDE]}, "map_of_classes"),
        (
            [node("Transpose", "scores", "t", perm=[0, 2, 3, 1]), node("Softmax", "t", "y")],
            {"y": ["n", SIDE, SIDE, 4]},
            "map_of_classes",
        ),
        ([node("Softmax", "scores", "y", axis=3)], {"y": ["n", 4, SIDE, SIDE]}, "unknown"),  # over the columns
        ([node("ArgMax", "scores", "int_y", axis=3)], {"int_y": ["n", 4, SIDE, 1]}, "unknown"),  # where, not what
        ([node("Sigmoid", "scores", "y")], {"y": ["n", 4, SIDE, SIDE]}, "unknown"),  # masks, boxes, an image
        ([], {"scores": ["n", 4, SIDE, SIDE]}, "unknown"),
        (  # the best of all positions, as a detector keeps them
            [node("Flatten", "scores", "row"), node("TopK", "row three", "best int_k")],
            {"best": ["n", 3], "int_k": ["n", 3]},
            "unknown",
        ),
    ],
)
def test_what_the_graph_says_of_a_map(
    tail: list[NodeProto], outputs: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    more = {"k": RNG.standard_normal((4, 6, 1, 1)).astype(np.float32), "w": weights(1)["w"]}
    if any("three" in item.input for item in tail):
        more["three"] = np.array([3], np.int64)
    view = open_model(write(tmp_path / "m.onnx", [*MAPS, *tail], outputs, **more))
    assert {head.kind for head in view.heads} == {kind}
    if kind == "unknown":
        with pytest.raises(SelectionError, match="`score:`"):
            resolve_head(view, None, None)
    else:
        assert resolve_head(view, None, None).classes == 4


def test_classes_of_a_map_that_is_resized_to_the_image_are_counted_and_named(tmp_path: Path) -> None:
    tail = [
        node("Shape", "scores", "own"), node("Slice", "own zero two", "kept"),
        node("Shape", "image", "whole"), node("Slice", "whole two four", "wanted"),
        node("Concat", "kept wanted", "size", axis=0),
        helper.make_node("Resize", ["scores", "", "", "size"], ["large"], "large"),
        node("ArgMax", "large", "int_y", axis=1),
    ]  # fmt: skip
    places = {"zero": [0], "two": [2], "four": [4]}
    k = RNG.standard_normal((4, 6, 1, 1)).astype(np.float32)
    path = write(
        tmp_path / "m.onnx", [*MAPS, *tail], {"int_y": ["n", 1, "h", "w"]}, k=k, w=weights(1)["w"],
        **{name: np.array(value, np.int64) for name, value in places.items()},
    )  # fmt: skip
    view, names = with_labels(open_model(path), list("abcd"))
    (head,) = view.heads
    assert (head.kind, head.classes, head.named, head.title(2, names)) == ("map_of_classes", 4, True, "c")
    with pytest.raises(SelectionError, match="5 class names for a model of 4 classes"):
        with_labels(open_model(path), list("abcde"))


def test_what_a_suppression_chooses_is_boxes(tmp_path: Path) -> None:
    tail = [
        node("Reshape", "flat boxes_shape", "boxes"),
        node("Reshape", "flat scores_shape", "each"),
        node("NonMaxSuppression", "boxes each", "int_y"),
    ]
    shapes = {"boxes_shape": np.array([1, -1, 4], np.int64), "scores_shape": np.array([1, 1, -1], np.int64)}
    (head,) = view_of(tmp_path, tail, {"int_y": ["k", 3]}, 4, **shapes).heads
    assert head.kind == "boxes"


# --- declared and counted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "kind", "words"),
    [
        (1, "classes", "one number"), (5, "binary", "5 numbers"), (5, "map_of_classes", "no positions"),
        (1, "multilabel", "one number"),
    ],
)  # fmt: skip
def test_what_an_output_cannot_be(units: int, kind: Any, words: str, tmp_path: Path) -> None:
    view = view_of(tmp_path, [], {"scores": ["n", units]}, units)
    with pytest.raises(SelectionError, match=words):
        view.with_output(kind)
    with pytest.raises(SelectionError, match="scores"):
        view.with_output({"score": "regression"})


@pytest.mark.parametrize(
    ("units", "kind", "made"),
    [(1, "binary", "sigmoid"), (5, "classes", "softmax"), (5, "multilabel", "sigmoid"), (5, "embedding", "")],
)
def test_declared_kinds_make_probabilities_of_classes_only(units: int, kind: Any, made: str, tmp_path: Path) -> None:
    (head,) = view_of(tmp_path, [], {"scores": ["n", units]}, units).with_output(kind).heads
    assert (head.kind, head.probability, head.final, head.source) == (kind, made, None, "declared")


def test_class_names_say_that_numbers_are_scores_and_a_wrong_count_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", BODY, {"scores": ["n", 3]}, **weights(3))
    plain, named = load(path, "unit", device="cpu"), load(path, "unit", ["a", "b", "c"], device="cpu")
    images = RNG.random((2, 3, SIDE, SIDE)).astype(np.float32)
    with pytest.raises(SelectionError, match="output: classes"):
        plain.probabilities(images)
    scores = plain.scores(images)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(named.probabilities(images), expected, rtol=1e-5)
    head = named.view.main_head
    assert head is not None
    assert (head.source, head.title(1, named.labels)) == ("labels", "b")
    assert plain.view.main_head is not None
    assert plain.view.main_head.title(1, None) == "output 1"
    with pytest.raises(SelectionError, match="4 class names, and the output 'scores' has 3 numbers"):
        load(path, "unit", list("abcd"), device="cpu")
    assert load(path, "unit", list("abcd"), device="cpu", output="embedding").labels == tuple("abcd")


def test_names_of_measured_numbers_are_as_many_as_these_and_name_them(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", BODY, {"scores": ["n", 3]}, **weights(3))
    with pytest.raises(SelectionError, match="4 names, and the output 'scores' is 3 measured numbers"):
        load(path, "unit", list("abcd"), device="cpu", output="regression")
    model = load(path, "unit", ["age", "width", "height"], device="cpu", output="regression")
    (head,) = model.view.heads
    assert (head.title(1, model.labels), head.unit, head.has_classes) == ("width", "output", False)


@pytest.mark.parametrize(
    ("kind", "count", "words"),
    [
        ("unknown", 0, "unknown"), ("unknown", 1, "unknown: 1 number"), ("unknown", 1234, "unknown: 1,234 numbers"),
        ("regression", 0, "measured numbers"), ("regression", 1, "1 measured number"),
        ("embedding", 0, "an embedding"), ("embedding", 8, "an embedding of 8 numbers"),
    ],
)  # fmt: skip
def test_a_number_of_numbers_that_is_unknown_is_left_out(kind: Any, count: int, words: str) -> None:
    layer = Layer("y", "y", "Gemm", 0, (None, count or None), 1)
    assert Head(("y",), kind, layer).in_words == words


def test_the_size_that_the_search_does_not_make_small_is_known_to_be_missing(binary: Model) -> None:
    subject = Subject("m", binary.view, binary.preprocessing, None, {}, 0)
    for norm, missing in (("l2", "median_linf"), ("linf", "median_l2")):
        unproduced = Adversarial(data="d", norm=norm).unproduced([], subject)
        assert {name for name in unproduced if name.startswith("median")} == {missing}


def test_of_measured_numbers_nothing_is_called_a_class(squares: ImageFolder, tmp_path: Path) -> None:
    path = colours(tmp_path / "r.onnx", [], {"scores": ["n", 2]}, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu", output="regression")
    found = found_by(GradCam(data="d", layers=["maps"], classes="top:1"), model, squares)
    words = said(found) + "".join(metric.description for metric in numbers(found).values())
    assert "class" not in words


def test_class_numbers_of_the_images_count_as_names_do(tmp_path: Path) -> None:
    view = view_of(tmp_path, [], {"scores": ["n", 3]}, 3)
    assert [head.source for head in view.with_output(None, None, 3).heads] == ["images"]
    assert [head.probability for head in view.with_output(None, None, 3).heads] == [""]
    assert [head.kind for head in view.with_output(None, None, 4).heads] == ["unknown"]


# --- what analyses say ----------------------------------------------------------------------------------------------


@pytest.fixture
def squares(tmp_path: Path) -> ImageFolder:
    """Red and blue squares on dark grey, with their classes: blue is 0."""
    folder = tmp_path / "squares"
    folder.mkdir()
    rows = ["file,class_index,name"]
    for index in range(6):
        pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
        pixels[2:8, 2:8, 0 if index % 2 else 2] = 200 + index
        Image.fromarray(pixels).save(folder / f"{index}.png")
        rows.append(f"{index}.png,{index % 2},{'red' if index % 2 else 'blue'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return ImageFolder.find("squares", [str(folder)], tmp_path)


def colours(path: Path, tail: Sequence[NodeProto], outputs: Mapping[str, Any], rows: Sequence[Sequence[float]]) -> Path:
    """A network whose maps are red, green and blue, and whose scores weigh their means."""
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    dense = np.asarray(rows, np.float32).T.copy()
    body = [node("Conv", "image w", "conv"), *BODY[1:]]
    return write(path, [*body, *tail], outputs, w=eye, d=dense)


def found_by(analysis: Analysis, model: Model, data: ImageFolder) -> list[f.Finding]:
    subject = Subject("m", model.view, model.preprocessing, model.labels, {"d": data}, 0)
    parts = [analysis.run(job, JobContext(subject, model, lambda *_: None)) for job in analysis.jobs(subject)]
    return analysis.combine(parts, subject)


def numbers(found: Sequence[f.Finding]) -> dict[str, f.Metric]:
    return {item.name: item for item in found if isinstance(item, f.Metric)}


def said(found: Sequence[f.Finding]) -> str:
    """Return everything that a reader would read, but for the images' names."""
    words: list[str] = []
    for item in found:
        if isinstance(item, f.Note | f.Caveat):
            words.append(item.text)
        elif isinstance(item, f.PictureMatrix):
            words += [f"{row.title} {[name for name, _ in row.facts]}" for row in item.rows]
        elif isinstance(item, f.Coverage):
            words.append(item.what)
        elif isinstance(item, f.Table):
            words += [column.name for column in item.columns] + [str(row[0]) for row in item.rows]
        elif isinstance(item, f.TileGrid):
            words += [" ".join(tile.captions) for tile in item.tiles]
    return "\n".join(words)


BINARY = [[10.0, 0.0, -10.0]]


@pytest.fixture
def binary(tmp_path: Path) -> Model:
    path = colours(tmp_path / "b.onnx", [node("Sigmoid", "scores", "y")], {"y": ["n", 1]}, BINARY)
    return load(path, {"preset": "unit", "fit": "stretch"}, device="cpu")


@pytest.mark.parametrize("classes", ["top:1", "label"])
def test_a_perfect_binary_classifier_is_right_and_blue_is_seen_in_blue(
    classes: str, binary: Model, squares: ImageFolder
) -> None:
    found = found_by(GradCam(data="d", layers=["maps"], classes=classes), binary, squares)
    accuracy = numbers(found)["top1_accuracy"]
    assert (accuracy.value, accuracy.total, accuracy.interval) == (1.0, 6, wilson(6, 6))
    (table,) = (item for item in found if isinstance(item, f.Table))
    assert [row[1] for row in table.rows] == [0, 1, 0, 1, 0, 1]
    for index, row in enumerate(table.rows):
        (array,) = (item for item in found if isinstance(item, f.Array) and item.id == f"arrays.{index}")
        heat = array.arrays[f"class{index % 2}_layer000"]
        assert heat[2:8, 2:8].min() > 0  # the square, whatever its colour
        assert heat.sum() == pytest.approx(heat[2:8, 2:8].sum(), rel=1e-5)
        mean = (180 + index) / 255 * 36 / SIDE**2
        assert row[2] == pytest.approx(10 * mean, rel=1e-4)  # the score of its own class, positive for both
        assert row[3] == pytest.approx(1 / (1 + np.exp(-10 * mean)), rel=1e-4)


def test_both_classes_of_one_score_can_be_named_drawn_and_reached(binary: Model, squares: ImageFolder) -> None:
    view, names = binary.view, ("blue", "red")
    layer = view.logits
    (blue,) = resolve([TargetSelector(layer="logits", units=["blue"])], view, names)
    assert (blue.unit, blue.sign, blue.label) == (0, -1, "blue")
    both = resolve([TargetSelector(layer="logits", units=0, sign="both")], view, names)
    assert [(target.sign, target.label) for target in both] == [(1, "red"), (-1, "blue")]
    assert (class_of(layer, 0, 1, view), class_of(layer, 0, -1, view)) == (1, 0)
    images = RNG.random((3, 3, SIDE, SIDE)).astype(np.float32)
    shares = binary.probabilities(images)
    np.testing.assert_allclose(shares[:, 1], 1 / (1 + np.exp(-binary.scores(images)[:, 0])), rtol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)
    found = found_by(Adversarial(data="d", radius=255, restarts=0), binary, squares)
    assert numbers(found)["success_rate"].value == 1
    assert numbers(found)["accuracy"].value == 1
    assert numbers(found)["accuracy_under_attack"].value == 0
    (grid,) = (item for item in found if isinstance(item, f.TileGrid))
    for index, tile in enumerate(grid.tiles):
        mean = (180 + index) / 255 * 36 / SIDE**2
        assert tile.curve[0] == pytest.approx(10 * mean, rel=1e-4)  # the lead is the score itself


def test_the_size_of_a_change_is_the_smallest_that_there_is(binary: Model, squares: ImageFolder) -> None:
    """Each level on every pixel moves the score by 20 / 255, so the least change is known; one level less is tried."""
    found = found_by(Adversarial(data="d", radius=64, restarts=0), binary, squares)
    (table,) = (item for item in found if isinstance(item, f.Table))
    columns = [column.name for column in table.columns]
    least = [int((180 + index) * 36 / SIDE**2 / 2) + 1 for index in range(6)]
    assert least == [13] * 5 + [14]
    assert [row[columns.index("Linf")] for row in table.rows] == least
    assert [row[columns.index("none within")] for row in table.rows] == [level - 1 for level in least]
    assert numbers(found)["median_linf"].value == 13
    assert "median_l2" not in numbers(found)
    coarse = found_by(Adversarial(data="d", radius=64, restarts=0, bisect=0), binary, squares)
    assert numbers(coarse)["median_linf"].value > 13
    (length,) = (
        item for item in found_by(Adversarial(data="d", norm="l2", radius=600, restarts=0), binary, squares)
        if isinstance(item, f.Metric) and item.name == "median_l2"
    )  # fmt: skip
    # All changes of one size in red and blue are the shortest way: (180 + i) 36 / (2 * 16²) on 2 * 16² numbers.
    assert length.value == pytest.approx(182.5 * 36 / 512 * 512**0.5, rel=0.1)


@pytest.mark.parametrize(
    ("output", "rows", "title"),
    [(None, [[1.0, 2.0, 3.0]], "output 'scores'"), ("regression", [[1.0, 2.0, 3.0]], "output 'scores'"),
     (None, [[1.0, 2.0, 3.0]] * 7, "output "), ("embedding", [[1.0, 2.0, 3.0]] * 7, "output ")],
)  # fmt: skip
def test_numbers_are_no_classes_and_have_no_probabilities(
    output: Any, rows: list[list[float]], title: str, squares: ImageFolder, tmp_path: Path
) -> None:
    path = colours(tmp_path / "n.onnx", [], {"scores": ["n", len(rows)]}, rows)
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu", output=output)
    found = found_by(GradCam(data="d", layers=["maps"], classes="top:2"), model, squares)
    assert title in said(found)
    assert "class 0" not in said(found)
    assert "(probability" not in said(found)
    assert "top1_confidence" not in numbers(found)
    (table,) = (item for item in found if isinstance(item, f.Table))
    assert all(row[3] is None for row in table.rows)
    assert ("top1_accuracy" in numbers(found)) == (output is None and len(rows) > 1)
    with pytest.raises(AnalysisError) if len(rows) == 1 or output else nullcontext():
        list(Adversarial(data="d").jobs(Subject("m", model.view, model.preprocessing, None, {"d": squares}, 0)))


def test_labels_that_do_not_exclude_each_other_have_no_first_choice(squares: ImageFolder, tmp_path: Path) -> None:
    rows = [[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]
    path = colours(tmp_path / "l.onnx", [node("Sigmoid", "scores", "y")], {"y": ["n", 3]}, rows)
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu")
    found = found_by(GradCam(data="d", layers=["maps"], classes=[1]), model, squares)
    assert not {"top1_accuracy", "top1_confidence"} & set(numbers(found))
    assert "first choice" not in said(found)
    (table,) = (item for item in found if isinstance(item, f.Table))
    own = 1 / (1 + np.exp(-9 * 20 / 255))  # of its own score: the grey's green
    assert all(row[3] == pytest.approx(own, rel=1e-4) for row in table.rows)
    with pytest.raises(AnalysisError, match="no class for the whole image"):
        found_by(Adversarial(data="d"), model, squares)


@pytest.mark.parametrize(
    ("tail", "outputs"),
    [
        ([node("ArgMax", "scores", "int_y", axis=1)], {"int_y": ["n", 1]}),
        ([node("ArgMax", "scores", "int_y", axis=1, keepdims=0)], {"int_y": ["n"]}),
        ([node("Softmax", "scores", "p"), node("ArgMax", "p", "int_y", axis=1)], {"int_y": ["n", 1]}),
    ],
)
def test_what_ends_in_a_choice_is_explained_by_the_scores_chosen_among(
    tail: list[NodeProto], outputs: dict[str, Any], squares: ImageFolder, tmp_path: Path
) -> None:
    path = colours(tmp_path / "a.onnx", tail, outputs, [[0.0, 0.0, 8.0], [8.0, 0.0, 0.0]])
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu")
    found = found_by(GradCam(data="d", layers=["maps"], classes="top:1"), model, squares)
    assert numbers(found)["top1_accuracy"].value == 1
    assert ("top1_confidence" in numbers(found)) == (len(tail) == 2)


def test_of_several_heads_each_can_be_explained_and_the_report_says_which(squares: ImageFolder, tmp_path: Path) -> None:
    tail = [
        node("Gemm", "flat e", "sort"), node("Softmax", "sort", "kind"), node("Gemm", "flat e", "deep"),
        node("Sigmoid", "deep", "tags"),
    ]  # fmt: skip
    body = [node("Conv", "image w", "conv"), *BODY[1:]]
    eye = np.eye(3, dtype=np.float32)
    path = write(
        tmp_path / "h.onnx", [*body, *tail], {"scores": ["n", 1], "kind": ["n", 3], "tags": ["n", 3]},
        w=eye[:, :, None, None], d=np.ones((3, 1), np.float32), e=eye * 8,
    )  # fmt: skip
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu", output={"scores": "regression"})
    kinds = {head.name: head.kind for head in model.view.heads}
    assert kinds == {"scores": "regression", "kind": "classes", "tags": "multilabel"}
    for score, layer, words in ((None, "sort", "'kind'"), ("scores", "scores", "'scores'"), ("tags", "deep", "'tags'")):
        analysis = GradCam(data="d", layers=["maps"], classes="top:1", score=score)
        (job, *_) = analysis.jobs(Subject("m", model.view, model.preprocessing, None, {"d": squares}, 0))
        assert job.layers[-1] == layer
        found = found_by(analysis, model, squares)
        assert f"The scores are those of {words}" in said(found)
        (heads,) = (item for item in found if isinstance(item, f.Coverage) and item.id == "coverage.outputs")
        assert (heads.done, heads.total) == (1, 3)
        assert words in heads.reason
    with pytest.raises(SelectionError, match="no layer is called"):
        list(
            GradCam(data="d", score="kin_").jobs(Subject("m", model.view, model.preprocessing, None, {"d": squares}, 0))
        )


@pytest.mark.parametrize("tail", ["Softmax", "ArgMax", ""])
def test_of_a_map_of_classes_those_predicted_at_most_positions_are_explained(
    tail: str, squares: ImageFolder, tmp_path: Path
) -> None:
    """The squares are blue or red on grey: grey wins at most positions, and blue or red has the highest mean."""
    nodes = [node("Conv", "image w", "maps"), node("Conv", "maps v b", "scores")]
    more = [node(tail, "scores", "int_y" if tail == "ArgMax" else "y", axis=1)] if tail else []
    output = {"": "scores", "Softmax": "y", "ArgMax": "int_y"}[tail]
    outputs = {output: ["n", 1 if tail == "ArgMax" else 3, SIDE, SIDE]}
    eye = 100 * np.eye(3, dtype=np.float32)[:, :, None, None]
    path = write(
        tmp_path / "m.onnx", [*nodes, *more], outputs, w=eye[[2, 0, 1]], v=eye / 100,
        b=np.array([-9, -9, 0], np.float32),
    )  # fmt: skip
    model = load(path, {"preset": "unit", "fit": "stretch"}, ["blue", "red", "grey"], device="cpu")
    analysis = GradCam(data="d", layers=["maps"], classes="top:2")
    found = found_by(analysis, model, squares)
    (table,) = (item for item in found if isinstance(item, f.Table))
    assert [str(row[0]).split(": ")[1] for row in table.rows] == ["grey", "blue", "grey", "red"] * 3
    assert all(
        blue > grey for (_, _, grey, *_), (_, _, blue, *_) in zip(table.rows[::2], table.rows[1::2], strict=True)
    )
    words = said(found)
    assert "predicted at most positions" in words
    assert "grey (predicted at 86% of positions)" in words
    (matrix, *_) = (item for item in found if isinstance(item, f.PictureMatrix))
    assert [dict(row.facts)["predicted at"] for row in matrix.rows] == ["85.9% of positions", "14.1% of positions"]
    highest = found_by(analysis.model_copy(update={"positions": "highest"}), model, squares)
    assert "predicted at" not in said(highest)
    (table,) = (item for item in highest if isinstance(item, f.Table))
    assert [str(row[0]).split(": ")[1] for row in table.rows][::2] == ["blue", "red"] * 3


def test_a_part_of_a_detector_is_explained_where_it_is_named(squares: ImageFolder, tmp_path: Path) -> None:
    """Box geometry and class scores share a tensor: nothing is explained unasked, and class names go to the score."""
    nodes = [
        node("Conv", "image w", "maps"),
        node("Conv", "maps v", "head"),
        node("Split", "head sizes", "boxes kinds", axis=1),
        node("Sigmoid", "kinds", "sure"),
        node("Concat", "boxes sure", "y", axis=1),
    ]
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    kinds = np.concatenate([np.ones((4, 3, 1, 1), np.float32), eye[[2, 0]]])
    path = write(
        tmp_path / "d.onnx", nodes, {"y": ["n", 6, SIDE, SIDE]}, w=eye, v=kinds, sizes=np.array([4, 2], np.int64)
    )
    preset = {"preset": "unit", "fit": "stretch"}
    with pytest.raises(SelectionError, match="2 class names, and the output 'y' has 6 numbers at each position"):
        load(path, preset, ["blue", "red"], device="cpu")
    model = load(path, preset, ["blue", "red"], device="cpu", output="boxes")
    with pytest.raises(SelectionError, match="'y': boxes of a detector"):
        found_by(GradCam(data="d", layers=["maps"]), model, squares)
    for positions, of in (("highest", "the highest of 256"), ("mean", "their mean over 256")):
        analysis = GradCam(data="d", layers=["maps"], classes="top:1", score="kinds", positions=positions)
        found = found_by(analysis, model, squares)
        (table,) = (item for item in found if isinstance(item, f.Table))
        assert [str(row[0]).split(": ")[1] for row in table.rows] == ["blue", "red"] * 3
        assert of in said(found)
        assert "top1_accuracy" not in numbers(found)


def test_numbers_of_more_classes_than_the_model_has_are_not_the_model_s(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 * index, np.uint8)).save(folder / f"{index}.png")
    (folder / "labels.csv").write_text("file,class_index,name\n0.png,0,\n1.png,1,\n2.png,700,\n")
    images = ImageFolder.find("many", [str(folder)], tmp_path)
    tail = [node("Softmax", "scores", "y")]
    path = colours(tmp_path / "s.onnx", tail, {"y": ["n", 2]}, [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    model = load(path, {"preset": "unit", "fit": "stretch"}, device="cpu")
    assert "top1_accuracy" not in numbers(found_by(GradCam(data="d", layers=["maps"]), model, images))
    with pytest.raises(DataError, match="more classes than the 2"):
        found_by(GradCam(data="d", layers=["maps"], classes="label"), model, images)


# --- the recipe and the commands ------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["onnxviz", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("output", "words"),
    [("binary", "it has 3 numbers"), ("{score: regression}", "no output 'score'"), ("clases", "output")],
)
def test_a_wrong_declaration_is_a_fault_at_its_place(
    output: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "m.onnx", BODY, {"scores": ["n", 3]}, **weights(3))
    text = f"version: 1\nmodel:\n  path: m.onnx\n  output: {output}\nanalyses:\n  w: {{kind: weights}}\n"
    (tmp_path / "r.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "validate", "r.yaml") == 2
    told = capsys.readouterr().err
    assert "r.yaml:4:" in told
    assert words in told


def test_inspect_says_what_outputs_are_and_how_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "m.onnx", [*BODY, node("Sigmoid", "scores", "y")], {"y": ["n", 1]}, **weights(1))
    assert call(monkeypatch, "inspect", "--no-agreement", str(path)) == 0
    told = capsys.readouterr().out
    assert "one of 2 classes from one score" in told
    assert "Sigmoid 'y'" in told


def test_the_card_of_a_report_has_every_head(tmp_path: Path) -> None:
    tail = [node("Softmax", "scores", "kind"), node("Flatten", "pool", "features")]
    view = view_of(tmp_path, tail, {"kind": ["n", 3], "features": ["n", 6]}, 3)
    card = view.card("m", Preprocessing())
    assert [(head.outputs, head.source, head.main) for head in card.heads] == [
        (("kind",), "graph", True),
        (("features",), "nothing", False),
    ]
    assert decode(encode(card), ModelCard) == card


# --- numbers that are probabilities already -------------------------------------------------------------------------


SECOND = np.array([1], np.int64)
GIVEN: dict[str, tuple[list[NodeProto], list[list[float]], dict[str, Any]]] = {
    "1 - p": ([node("Sigmoid", "scores", "p"), node("Sub", "unit p", "y")], [[-10.0, 0.0, 10.0]], {}),
    "one column of a softmax": (
        [node("Softmax", "scores", "p"), node("Gather", "p second", "y", axis=1)],
        [[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]], {"second": SECOND},
    ),
    "a mean of two": (
        [node("Sigmoid", "scores", "p"), node("Add", "p p", "sum"), node("Mul", "sum half", "y")],
        [[10.0, 0.0, -10.0]], {"half": np.float32(0.5)},
    ),
    "by a tanh": (
        [node("Tanh", "scores", "t"), node("Add", "t unit", "sum"), node("Mul", "sum half", "y")],
        [[10.0, 0.0, -10.0]], {"half": np.float32(0.5)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.parametrize("output", [None, "binary"])
def test_one_probability_decides_at_a_half(case: str, output: Any, squares: ImageFolder, tmp_path: Path) -> None:
    tail, rows, more = GIVEN[case]
    eye = np.eye(3, dtype=np.float32)[:, :, None, None]
    if any("unit" in item.input for item in tail):
        more = more | {"unit": np.float32(1)}
    body = [node("Conv", "image w", "conv"), *BODY[1:]]
    dense = np.asarray(rows, np.float32).T.copy()
    path = write(tmp_path / "g.onnx", [*body, *tail], {"y": ["n", 1]}, w=eye, d=dense, **more)
    names = None if output else ["blue", "red"]
    model = load(path, {"preset": "unit", "fit": "stretch"}, names, device="cpu", output=output)
    (head,) = model.view.heads
    assert (head.kind, head.probability, head.threshold) == ("binary", "given", 0.5)
    images = RNG.random((3, 3, SIDE, SIDE)).astype(np.float32)
    values = model.scores(images)
    np.testing.assert_allclose(model.probabilities(images), np.concatenate([1 - values, values], axis=1), rtol=1e-6)
    found = found_by(GradCam(data="d", layers=["maps"], classes="top:1"), model, squares)
    assert numbers(found)["top1_accuracy"].value == 1
    (table,) = (item for item in found if isinstance(item, f.Table))
    assert all(row[2] == pytest.approx(row[3], abs=1e-5) and row[3] > 0.5 for row in table.rows)
    attacked = numbers(found_by(Adversarial(data="d", radius=255, restarts=0), model, squares))
    assert (attacked["accuracy"].value, attacked["success_rate"].value) == (1, 1)


SEVERAL: dict[str, tuple[list[NodeProto], int, int]] = {
    "1 - p beside p": (
        [node("Sigmoid", "scores", "p"), node("Sub", "unit p", "q"), node("Concat", "q p", "y", axis=1)], 1, 2,
    ),
    "mean of two softmaxes": (
        [node("Softmax", "scores", "p"), node("Mul", "scores unit", "s"), node("Softmax", "s", "q"),
         node("Mean", "p q", "y")], 3, 3,
    ),
    "classes selected": ([node("Softmax", "scores", "p"), node("Gather", "p places", "y", axis=1)], 4, 3),
    "classes cut off": ([node("Softmax", "scores", "p"), node("Slice", "p start end axes", "y")], 4, 3),
    "softmax without its pattern": (
        [node("Exp", "scores", "e"), node("ReduceSum", "e axes", "sum", keepdims=1), node("Div", "e sum", "p"),
         node("Gather", "p turned", "y", axis=1)], 3, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
@pytest.mark.parametrize("declared", [True, False])
def test_no_activation_goes_over_probabilities(case: str, declared: bool, tmp_path: Path) -> None:
    tail, units, classes = SEVERAL[case]
    more = {
        "unit": np.float32(1), "places": np.array([2, 0, 1]), "turned": np.array([2, 1, 0]), "start": np.array([1]),
        "end": np.array([4]), "axes": np.array([1]),
    }  # fmt: skip
    used = {name for item in tail for name in item.input}
    more = {name: value for name, value in more.items() if name in used}
    path = write(tmp_path / "s.onnx", [*BODY, *tail], {"y": ["n", classes]}, **weights(units), **more)
    names = None if declared else [f"c{number}" for number in range(classes)]
    model = load(path, "unit", names, device="cpu", output="classes" if declared else None)
    (head,) = model.view.heads
    assert (head.kind, head.probability, head.classes) == ("classes", "given", classes)
    images = RNG.random((2, 3, SIDE, SIDE)).astype(np.float32)
    (given,) = model.measure(images, ["y"]).values()
    np.testing.assert_allclose(model.probabilities(images), given.reshape(2, -1), rtol=1e-6)


@pytest.mark.parametrize(
    "tail",
    [[node("LogSoftmax", "scores", "p"), node("Neg", "p", "y")],
     [node("Softmax", "scores", "p"), node("Log", "p", "y")],
     [node("Sigmoid", "scores", "p"), node("Mul", "p p", "q"), node("Log", "q", "y")], [node("Exp", "scores", "y")]],
)  # fmt: skip
def test_activated_numbers_that_are_no_probabilities_get_none(tail: list[NodeProto], tmp_path: Path) -> None:
    (head,) = view_of(tmp_path, tail, {"y": ["n", 3]}, 3).with_output("classes").heads
    assert (head.kind, head.probability, head.final) == ("classes", "", None)
    single = view_of(tmp_path, tail, {"y": ["n", 1]}, 1)
    with pytest.raises(SelectionError, match="nothing says where it decides"):
        single.with_output("binary")
    assert [head.kind for head in single.with_output(None, 2).heads] == ["unknown"]


def test_scores_weighed_by_a_gate_are_still_scores(tmp_path: Path) -> None:
    tail = [node("Sigmoid", "scores", "gate"), node("Mul", "scores gate", "y")]
    (head,) = view_of(tmp_path, tail, {"y": ["n", 3]}, 3).with_output("classes").heads
    assert (head.holds, head.probability) == ("scores", "softmax")


# --- contradictions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "output"),
    [
        ([node("TopK", "scores three", "v int_k", axis=1, largest=0)], {"v": ["n", 3], "int_k": ["n", 3]}),
        ([node("ArgMin", "scores", "int_y", axis=1)], {"int_y": ["n", 1]}),
    ],
)
def test_what_picks_the_smallest_chooses_no_class(
    tail: list[NodeProto], output: dict[str, Any], tmp_path: Path
) -> None:
    more = {"three": np.array([3], np.int64)} if "three" in tail[0].input else {}
    view = view_of(tmp_path, tail, output, 5, **more)
    for told in (view, view.with_output(None, 3, 3), view.with_output(None, 5, 5)):
        assert {head.kind for head in told.heads} == {"unknown"}
        assert all("picks the smallest" in head.reason for head in told.heads)


def test_names_are_not_given_to_scores_that_a_table_renumbers(tmp_path: Path) -> None:
    tail = [node("ArgMax", "scores", "k", axis=1, keepdims=0), node("Gather", "table k", "int_y")]
    view = view_of(tmp_path, tail, {"int_y": ["n"]}, 3, table=np.array([2, 0, 1]))
    with pytest.raises(SelectionError, match="the table 'table' behind the choice"):
        with_labels(view, list("abc"))
    assert [head.kind for head in view.with_output(None, None, 3).heads] == ["unknown"]
    (head,) = view.with_output("classes").heads
    assert "the table 'table'" in head.reason


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({"keys_int64s": [0, 1, 2], "values_int64s": [0, 1, 2]}, "classes"),
        ({"keys_int64s": [0, 1, 2], "values_strings": ["a", "b", "c"]}, "classes"),
        ({"keys_int64s": [0, 1, 2], "values_int64s": [2, 0, 1]}, "unknown"),
        ({"keys_int64s": [0, 1, 2], "values_floats": [1.0, 2.0, 3.0]}, "unknown"),
    ],
)
def test_an_encoder_behind_a_choice_is_a_table_too(table: dict[str, Any], kind: str, tmp_path: Path) -> None:
    encoder = helper.make_node("LabelEncoder", ["k"], ["y"], "encoder", domain="ai.onnx.ml", **table)
    element = {"values_strings": TensorProto.STRING, "values_floats": TensorProto.FLOAT}
    made = next((element[name] for name in table if name in element), TensorProto.INT64)
    nodes = [*BODY, node("ArgMax", "scores", "k", axis=1, keepdims=0), encoder]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])
    constants = [numpy_helper.from_array(value, name) for name, value in weights(3).items()]
    graph = helper.make_graph(nodes, "g", [image], [helper.make_tensor_value_info("y", made, ["n"])], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    (head,) = open_model(tmp_path / "m.onnx").heads
    assert (head.kind, head.scores and head.scores.name) == (kind, "scores")
    assert ("behind the choice gives classes other numbers" in head.reason) == (kind == "unknown")
    assert ("LabelEncoder" in head.reason) == (kind == "unknown")


def test_names_that_do_not_fit_the_known_classes_are_not_those_of_an_unknown_output(tmp_path: Path) -> None:
    tail = [node("Softmax", "scores", "kind"), node("Gemm", "flat e", "features")]
    outputs = {"kind": ["n", 7], "features": ["n", 10]}
    view = view_of(tmp_path, tail, outputs, 7, e=np.ones((6, 10), np.float32))
    with pytest.raises(SelectionError, match="10 class names for a model of 7 classes"):
        with_labels(view, [f"c{number}" for number in range(10)])
    with_labels(view, [f"c{number}" for number in range(7)])


def test_a_declaration_against_a_softmax_is_refused(tmp_path: Path) -> None:
    view = view_of(tmp_path, [node("Softmax", "scores", "y")], {"y": ["n", 5]}, 5)
    with pytest.raises(SelectionError, match="the file has Softmax 'y', by which one class excludes the others"):
        view.with_output("multilabel")
    with pytest.raises(SelectionError, match="5 numbers"):
        view.with_output("binary")


@pytest.mark.parametrize("output", ["clases", {"scores": "clases"}])
def test_a_kind_that_there_is_not_is_refused_in_python_too(output: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", BODY, {"scores": ["n", 3]}, **weights(3))
    with pytest.raises(SelectionError, match="did you mean 'classes'"):
        load(path, "unit", device="cpu", output=output)


def test_a_model_that_is_sure_and_wrong_is_warned_of() -> None:
    def caveats(right: int, confidence: float) -> list[str]:
        share = Share(right, 24)
        accuracy = f.Metric("top1_accuracy", share.value, total=24, interval=share.interval)
        return [item.text for item in too_sure([accuracy, f.Metric("top1_confidence", confidence, total=24)])]

    (said,) = caveats(8, 0.99)
    assert "sure (99% on average) and seldom right (33% of 24 images, at most 53%" in said
    assert "wrong preprocessing" in said
    assert caveats(22, 0.99) == caveats(8, 0.7) == []
    assert list(too_sure([f.Metric("top1_confidence", 0.99, total=24)])) == []


@pytest.mark.parametrize(("images", "level"), [(1, "doubt"), (3, "doubt"), (6, "wrong")])
def test_a_model_that_is_never_right_is_warned_of_without_probabilities_too(images: int, level: str) -> None:
    none, one = Share(0, images), Share(1, images)
    (said,) = too_sure([f.Metric("top1_accuracy", 0.0, total=images, interval=none.interval)])
    assert said.level == level
    assert said.text.startswith(f"Of {images} image{'s' if images > 1 else ''} whose class is known")
    assert ("too few images" in said.text) == (level == "doubt")
    assert list(too_sure([f.Metric("top1_accuracy", one.value, total=images, interval=one.interval)])) == []
