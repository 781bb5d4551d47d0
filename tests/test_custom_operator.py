"""A new operator in one file, as docs/operators.md shows it, from another package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.core.errors import AnalysisError
from onnxviz.execution import plan
from onnxviz.graph import open_model
from onnxviz.graph.operators import UNKNOWN, custom_distributions, custom_operators, traits_of
from onnxviz.graph.view import multiply_adds

PAGE = (Path(onnxviz.__file__).parents[1] / "docs" / "operators.md").read_text(encoding="utf-8")
WEIGHT = np.random.default_rng(0).normal(0, 1, (4, 3, 3, 3)).astype(np.float32)


def install(folder: Path, code: str, entry: str) -> None:
    about = folder / "mirrored-1.5.dist-info"
    about.mkdir()
    (folder / "mirrored.py").write_text(code)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mirrored\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(entry)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path where a package can be installed."""
    monkeypatch.syspath_prepend(tmp_path)
    for kept in (custom_operators, custom_distributions, plan.versions):
        kept.cache_clear()
    yield tmp_path
    sys.modules.pop("mirrored", None)
    for kept in (custom_operators, custom_distributions, plan.versions):
        kept.cache_clear()


@pytest.fixture
def page(package: Path) -> None:
    """The package of the page."""
    code, entry = (
        re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0] for language in ("python", "toml")
    )
    group, name, place = re.findall(r'^\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"', entry)[0]
    install(package, code, f"[{group}]\n{name} = {place}\n")


def model() -> onnx.ModelProto:
    """A convolution that mirrors its border between a ReLU and a pooling."""
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("MirroredConv", ["a", "w"], ["b"], "mirrored", domain="com.example", **pads),
        helper.make_node("GlobalAveragePool", ["b"], ["y"]),
    ]
    shapes = {"x": (1, 3, 8, 8), "y": (1, 4, 1, 1)}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(WEIGHT, "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.usefixtures("page")
def test_it_converts_and_gradients_flow() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    (made,) = onnxviz.to_torch(model())(images)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    wanted = torch.nn.functional.conv2d(padded, torch.from_numpy(WEIGHT)).mean((2, 3), keepdim=True)
    torch.testing.assert_close(made, wanted)
    made.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().min() > 0


@pytest.mark.usefixtures("page")
def test_its_layer_is_known_by_its_traits(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    view = open_model(tmp_path / "model.onnx")
    (layer,) = (layer for layer in view.layers if layer.operator == "MirroredConv")
    assert layer.unit_count == 4
    node = view.proto.graph.node[layer.position]
    assert view.proto.graph.initializer[0].name == node.input[traits_of(node).weight]
    assert multiply_adds(node, view.types) == 4 * 8 * 8 * 3 * 9
    field = view.receptive_field(layer)
    assert field is not None
    assert field.size == (3, 3)


@pytest.mark.usefixtures("page")
def test_its_version_is_part_of_the_key_where_it_may_convert(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    assert plan._versions_used(open_model(tmp_path / "model.onnx"))["mirrored"] == "1.5"


def test_without_the_package_it_is_refused(package: Path) -> None:
    assert traits_of(model().graph.node[1]) is UNKNOWN
    with pytest.raises(onnxviz.UnsupportedOperatorError, match=r"com\.example:MirroredConv"):
        onnxviz.to_torch(model())


def test_an_entry_point_that_is_no_operator_is_named(package: Path) -> None:
    install(package, "WRONG = 3\n", "[onnxviz.operators]\nwrong = mirrored:WRONG\n")
    with pytest.raises(AnalysisError, match="'wrong' is no CustomOperator"):
        onnxviz.to_torch(model())
