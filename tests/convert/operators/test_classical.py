"""ai.onnx.ml and TfIdfVectorizer against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from one_node import check, one_node, oracle
from onnx import TensorProto, helper

import onnxviz

ML = "ai.onnx.ml"
TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO")


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_gaps() -> np.ndarray:
    values = numbers(4, 5)
    values[0, 0], values[2, 3] = np.nan, 0.0
    return values


INTEGERS = np.array([[0, 1], [2, 5], [1, 3]], np.int64)
FEATURES: list[tuple[str, list[np.ndarray], dict[str, Any]]] = [
    ("ArrayFeatureExtractor", [numbers(7, 5), np.array([[3, 1]], np.int64)], {}),
    ("ArrayFeatureExtractor", [numbers(5), np.array([3, 1], np.int64)], {}),
    ("Binarizer", [numbers(7, 5)], {"threshold": 0.2}),
    ("FeatureVectorizer", [numbers(7, 5), numbers(7, 2)], {"inputdimensions": [3, 4]}),
    ("FeatureVectorizer", [numbers(3), numbers(2)], {"inputdimensions": [3, 2]}),
    ("Imputer", [with_gaps()], {"imputed_value_floats": [9.0], "replaced_value_float": float("nan")}),
    ("Imputer", [with_gaps()], {"imputed_value_floats": [1.0, 2.0, 3.0, 4.0, 5.0], "replaced_value_float": 0.0}),
    ("Imputer", [INTEGERS], {"imputed_value_int64s": [9, 8], "replaced_value_int64": 1}),
    *[("Normalizer", [values], {"norm": norm}) for norm in ("MAX", "L1", "L2")
      for values in (numbers(4, 5), numbers(5), np.zeros((2, 3), np.float32), INTEGERS)],
    ("OneHotEncoder", [INTEGERS], {"cats_int64s": [0, 2, 5]}),
    ("OneHotEncoder", [numbers(4) * 3], {"cats_int64s": [0, 2, -1]}),
    ("Scaler", [numbers(7, 3)], {"offset": [0.1, 0.2, 0.3], "scale": [1.0, 2.0, 3.0]}),
    ("Scaler", [INTEGERS], {"offset": [0.1], "scale": [2.0]}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "inputs", "attributes"), FEATURES)
def test_features(operator: str, inputs: list[np.ndarray], attributes: dict[str, Any]) -> None:
    check(operator, inputs, opset=1, domain=ML, reference="ort", compiled=True, **attributes)


def test_gradients_pass_through_features() -> None:
    for operator, attributes in (
        ("Scaler", {"offset": [0.1], "scale": [2.0]}),
        ("Normalizer", {"norm": "L2"}),
        ("LinearRegressor", {"coefficients": [0.1, 0.2, 0.3], "intercepts": [1.0]}),
    ):
        check(operator, [numbers(4, 3)], opset=1, domain=ML, gradient=True, **attributes)


@pytest.mark.parametrize(
    ("version", "values", "attributes"),
    [
        (2, INTEGERS, {"keys_int64s": [1, 3], "values_floats": [0.5, 0.7]}),
        (2, np.array([1, 2, np.nan], np.float32), {"keys_floats": [1.0], "values_int64s": [4], "default_int64": 7}),
        (4, INTEGERS, {"keys_int64s": [1, 3], "values_int64s": [5, 7]}),
        (4, np.array([1, 2, np.nan], np.float32), {"keys_floats": [1.0, float("nan")], "values_int64s": [4, 5]}),
    ],
)
def test_label_encoder(version: int, values: np.ndarray, attributes: dict[str, Any]) -> None:
    check("LabelEncoder", [values], opset=version, domain=ML, reference="ort", **attributes)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 2), (2, 2), (2, 3), (3, 3)])
def test_linear_models(transform: str, rows: int, classes: int) -> None:
    weights = {
        "coefficients": numbers(rows * 5, seed=1).tolist(),
        "intercepts": numbers(rows, seed=2).tolist(),
        "post_transform": transform,
    }
    check("LinearRegressor", [numbers(7, 5)], opset=1, domain=ML, reference="ort", targets=rows, **weights)
    labels = list(range(10, 10 + classes))
    check(
        "LinearClassifier", [numbers(7, 5)], 2, opset=1, domain=ML, reference="ort", classlabels_ints=labels, **weights
    )


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_support_vector_regression(kernel: str) -> None:
    attributes = {
        "kernel_type": kernel, "kernel_params": [0.3, 0.2, 3.0], "n_supports": 4, "rho": [0.2],
        "support_vectors": numbers(20, seed=1).tolist(), "coefficients": numbers(4, seed=2).tolist(),
    }  # fmt: skip
    check("SVMRegressor", [numbers(7, 5)], opset=1, domain=ML, reference="ort", gradient=True, **attributes)
    check("SVMRegressor", [numbers(7, 5)], opset=1, domain=ML, reference="ort", one_class=1, **attributes)


@pytest.mark.parametrize("kernel", ["LINEAR", "RBF"])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("probabilities", [False, True])
def test_support_vector_classification(kernel: str, classes: int, transform: str, probabilities: bool) -> None:
    counts = [2, 3, 4, 2][:classes]
    pairs, total = classes * (classes - 1) // 2, sum(counts)
    attributes: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": [0.3, 0.2, 3.0], "vectors_per_class": counts,
        "support_vectors": numbers(total * 5, seed=1).tolist(), "rho": numbers(pairs, seed=3).tolist(),
        "coefficients": numbers((classes - 1) * total, seed=2).tolist(), "post_transform": transform,
        "classlabels_ints": list(range(5, 5 + classes)),
    }  # fmt: skip
    if probabilities:
        attributes["prob_a"] = (-np.abs(numbers(pairs, seed=4)) - 0.5).tolist()
        attributes["prob_b"] = numbers(pairs, seed=5).tolist()
    check("SVMClassifier", [numbers(7, 5)], 2, opset=1, domain=ML, reference="ort", **attributes)


MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def forest(
    kind: str, vote: Callable[[np.random.Generator], list[tuple[int, float]]], modes: list[str], missing: bool = False
) -> dict[str, Any]:
    """Return the attributes of four random trees, four nodes deep."""
    generator = np.random.default_rng(7)
    nodes: dict[str, list[Any]] = {
        name: [] for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
                              "missing_value_tracks_true")
    }  # fmt: skip
    votes: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def grow(tree: int, number: int, depth: int) -> int:
        place, leaf = len(nodes["treeids"]), depth == 0 or (depth < 4 and generator.random() < 0.2)
        row = (tree, number, int(generator.integers(5)), float(np.float32(generator.normal())),
               "LEAF" if leaf else modes[generator.integers(len(modes))], 0, 0, int(generator.integers(2)))  # fmt: skip
        for column, value in zip(nodes.values(), row, strict=True):
            column.append(value)
        onward = number + 1
        if leaf:
            for target, weight in vote(generator):
                for column, value in zip(votes.values(), (tree, number, target, weight), strict=True):
                    column.append(value)
            return onward
        for side in ("truenodeids", "falsenodeids"):
            nodes[side][place] = onward
            onward = grow(tree, onward, depth - 1)
        return onward

    for tree in range(4):
        grow(tree, 0, 4)
    if not missing:
        del nodes["missing_value_tracks_true"]
    return {f"nodes_{key}": value for key, value in nodes.items()} | {f"{kind}_{key}": v for key, v in votes.items()}


def images() -> np.ndarray:
    values = numbers(40, 5)
    values[3, 2] = values[5] = np.nan
    return values


@pytest.mark.parametrize("version", [1, 3])
@pytest.mark.parametrize("modes", [*([mode] for mode in MODES[:4]), MODES], ids=str)
@pytest.mark.parametrize("targets", [1, 3])
def test_tree_regression(version: int, modes: list[str], targets: int) -> None:
    for aggregate in ("SUM", "AVERAGE", "MIN", "MAX"):
        for missing in (False, True):
            trees = forest("target", lambda g: [(int(g.integers(targets)), float(g.normal()))], modes, missing)
            trees["base_values"] = numbers(targets).tolist()
            check(
                "TreeEnsembleRegressor", [images()], opset=version, domain=ML, reference="ort", n_targets=targets,
                aggregate_function=aggregate, **trees,
            )  # fmt: skip


def one_class(target: int, sign: float) -> Callable[[np.random.Generator], list[tuple[int, float]]]:
    return lambda g: [(target, float(abs(g.normal()) / 4 if sign else g.normal()))]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("classes", "vote"),
    [
        (1, one_class(0, 0)),
        (2, one_class(0, 0)),
        (2, one_class(0, 1)),
        (2, one_class(1, 0)),
        (2, one_class(1, 1)),
        (3, lambda g: [(int(g.integers(3)), float(g.normal()))]),
        (5, lambda g: [(place, float(g.normal())) for place in range(5)]),
    ],
)
def test_tree_classification(transform: str, classes: int, vote: Any) -> None:
    trees = forest("class", vote, ["BRANCH_LEQ"])
    labels = list(range(10, 10 + classes))
    found = check(
        "TreeEnsembleClassifier", [images()], 2, opset=3, domain=ML, reference="ort", post_transform=transform,
        classlabels_int64s=labels, **trees,
    )  # fmt: skip
    assert found[0].dtype == torch.int64


def test_trees_that_are_none_are_refused() -> None:
    tree = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_treeids": [0, 0],
        "target_nodeids": [1, 2], "target_ids": [0, 0], "target_weights": [1.0, 2.0],
    }  # fmt: skip
    wrong: list[dict[str, Any]] = [
        {"nodes_modes": ["BRANCH_LEQ", "BRANCH_LT", "LEAF"], "nodes_falsenodeids": [2, 2, 0]},  # back to the root
        {"nodes_truenodeids": [9, 0, 0]},
        {"nodes_values": [1.0]},
        {"nodes_featureids": [-1, 0, 0]},
        {"target_ids": [0, 4]},
        {"nodes_modes": ["BRANCH_EVIL", "LEAF", "LEAF"]},
        {"aggregate_function": "MEDIAN"},
    ]
    for change in wrong:
        model = one_node("TreeEnsembleRegressor", [numbers(2, 4)], opset=3, domain=ML, result=1, **{**tree, **change})
        with pytest.raises(onnxviz.UnsupportedOperatorError):
            onnxviz.to_torch(model)
    bomb = one_node("TreeEnsembleRegressor", [numbers(2, 4)], opset=3, domain=ML, result=1, n_targets=1 << 60, **tree)
    with pytest.raises(onnxviz.ModelError, match="bound"):
        onnxviz.to_torch(bomb)(torch.zeros(2, 4))


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 2])
@pytest.mark.parametrize("values", [INTEGERS.reshape(-1), np.array([[1, 2, 3, 1, 2], [3, 3, 1, 3, 2]], np.int64)])
def test_counts_of_runs_of_numbers(mode: str, skips: int, values: np.ndarray) -> None:
    check(
        "TfIdfVectorizer", [values], opset=9, reference="ort", mode=mode, min_gram_length=1, max_gram_length=2,
        max_skip_count=skips, ngram_counts=[0, 3], ngram_indexes=[2, 0, 1, 5, 4], pool_int64s=[1, 2, 3, 1, 2, 3, 1],
        weights=[0.5, 1.0, 1.5, 2.0, 3.0],
    )  # fmt: skip


def test_of_labels_that_are_strings_the_scores_are_still_there() -> None:
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], domain=ML, coefficients=[0.1, 0.2, 0.3, 0.4],
        intercepts=[0.5, 0.6], classlabels_strings=["cat", "dog"],
    )  # fmt: skip
    flat = helper.make_node("Neg", ["scores"], ["y"])
    graph = helper.make_graph(
        [node, flat], "g", [helper.make_tensor_value_info("x", 1, ["n", 2])], [onnx.ValueInfoProto(name="y")]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = numbers(3, 2)
    np.testing.assert_allclose(
        onnxviz.to_torch(model)(torch.from_numpy(x))[0].numpy(), oracle(model, [x])[0], rtol=1e-5
    )
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]))
    with pytest.raises(onnxviz.UnsupportedOperatorError, match="labels are strings"):
        onnxviz.to_torch(model)


@pytest.mark.zoo
def test_the_probabilities_before_a_map_of_names_agree(zoo: Path) -> None:
    path = zoo / "onnx" / "skl_digits_mlp_zipmap.onnx"
    with pytest.raises(onnxviz.UnsupportedOperatorError, match="ZipMap"):
        onnxviz.to_torch(path)
    model = onnx.load(path)
    zipmap = next(node for node in model.graph.node if node.op_type == "ZipMap")
    model.graph.node.remove(zipmap)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=zipmap.input[0]))
    x = (np.abs(numbers(4, 64)) * 8).astype(np.float32)
    wanted = oracle(model, [x], "ort")[0]
    given = torch.from_numpy(x).requires_grad_(True)
    (found,) = onnxviz.to_torch(model)(given)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-6)
    (gradient,) = torch.autograd.grad(found[:, 3].sum(), given)
    assert gradient.abs().sum() > 0
