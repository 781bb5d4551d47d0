"""Operators of domains that a file does not import, or imports in odd ways: only what hangs on them is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

import onnxviz
from onnxviz.core.errors import ModelFileError, SelectionError, UnsupportedOperatorError
from onnxviz.execution.inspection import inspect_model
from onnxviz.graph import open_model
from onnxviz.graph.targets import TargetSelector, resolve
from onnxviz.model.parity import check_parity

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
OWN = "qonnx.custom_op.general"
WITH = helper.make_opsetid(OWN, 1)
STANDARD = helper.make_opsetid("", 13)


def model(*opsets: onnx.OperatorSetIdProto, domain: str = OWN) -> ModelProto:
    """A convolution, a Relu and, beside each other, an operator of one's own with a pooling and a standard pooling."""
    weight = np.random.default_rng(1).normal(size=(6, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Quant", ["r"], ["q"], "quant", domain=domain),
        helper.make_node("GlobalAveragePool", ["q"], ["y"], "behind"),
        helper.make_node("GlobalAveragePool", ["r"], ["z"], "beside"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 6, 1, 1]) for name in "yz"],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=list(opsets), ir_version=8)


def saved(proto: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(proto, path)
    return path


ODD = {
    "imported": [STANDARD, WITH],
    "not imported": [STANDARD],
    "imported twice": [STANDARD, WITH, helper.make_opsetid(OWN, 3)],
    "version 0": [STANDARD, helper.make_opsetid(OWN, 0)],
    "version -1": [helper.make_opsetid(OWN, -1), STANDARD],
    "version 2^40": [STANDARD, helper.make_opsetid(OWN, 1 << 40)],
    "the standard by both its names": [STANDARD, helper.make_opsetid("ai.onnx", 13)],
    "another domain": [STANDARD, helper.make_opsetid("com.example", 7)],
}


@pytest.mark.parametrize("opsets", ODD.values(), ids=list(ODD))
def test_what_does_not_hang_on_the_operator_works(tmp_path: Path, opsets: list[onnx.OperatorSetIdProto]) -> None:
    loaded = onnxviz.load(saved(model(*opsets), tmp_path), preprocess="unit", device="cpu")
    assert [(layer.name, layer.shape) for layer in loaded.layers] == [
        ("conv", (None, 6, 14, 14)),
        ("relu", (None, 6, 14, 14)),
        ("behind", ()),
        ("beside", (None, 6, 1, 1)),
    ]
    assert all(item.holds for item in check_parity(loaded, ["conv", "relu", "beside"], IMAGES))
    assert loaded.view.refused_operators == (("Quant", f"1 of domain {OWN}"),)
    with pytest.raises(UnsupportedOperatorError, match=r"qonnx\.custom_op\.general:Quant"):
        loaded.activations(IMAGES, "behind")
    with pytest.raises(
        SelectionError, match=r"its units are not known: .* qonnx\.custom_op\.general:Quant \('quant'\) makes"
    ):
        resolve([TargetSelector(layer="behind", units=[0])], loaded.view, None)
    assert resolve([TargetSelector(layer="beside", units=[0])], loaded.view, None)


@pytest.mark.parametrize("opsets", ODD.values(), ids=list(ODD))
def test_inspect_names_the_operator(tmp_path: Path, opsets: list[onnx.OperatorSetIdProto]) -> None:
    found = inspect_model(saved(model(*opsets), tmp_path))
    assert [item.operator for item in found.unsupported or ()] == [f"{OWN}:Quant"]
    assert found.unreachable == frozenset(["behind"])


REFUSED = {
    "an opset of the future": ([helper.make_opsetid("", 9999)], "opset 9999 is newer than all that"),
    "no such opset": ([helper.make_opsetid("", 0)], "opset 0 does not exist"),
    "two opsets": ([STANDARD, helper.make_opsetid("ai.onnx", 11)], "uses opsets 13 and 11 of ai.onnx at once"),
    "only the other domain": ([WITH], "does not say which opset of ai.onnx it uses"),
}


@pytest.mark.parametrize(("opsets", "words"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_understood_is_refused_in_full(
    tmp_path: Path, opsets: list[onnx.OperatorSetIdProto], words: str
) -> None:
    with pytest.raises(ModelFileError, match=words):
        open_model(saved(model(*opsets), tmp_path))


@pytest.mark.parametrize("imports", ["", '"": 17', '"other": 2', '"": 17, "other": 2, "own": 1'])
def test_functions_need_not_import_what_they_use(tmp_path: Path, imports: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
    g (float[n, 3, 16, 16] x) => (float[n, 3, 16, 16] y, float[n, 3, 16, 16] z) {{
        a = own.twice (x) y = own.lost (a) z = Neg (a) }}
    <domain: "own", opset_import: [{imports}]> twice (a) => (b) {{ b = own.sum (a, a) }}
    <domain: "own", opset_import: [{imports}]> sum (a, b) => (c) {{ c = Add (a, b) }}
    <domain: "own", opset_import: [{imports}]> lost (a) => (b) {{ c = other.Quant (a) b = Relu (c) }}"""
    loaded = onnxviz.load(saved(parser.parse_model(text), tmp_path), preprocess={"mean": 0, "scale": 255}, device="cpu")
    np.testing.assert_allclose(loaded.activations(IMAGES, "z")["z"].numpy(), -2 * IMAGES.numpy(), rtol=1e-6)
    with pytest.raises(UnsupportedOperatorError, match="other:Quant"):
        loaded.activations(IMAGES, "y")
