"""Files newer than ONNX Runtime: read where they hold nothing new, refused by name where they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from tiny_models import save_model

import onnxviz
from onnxviz.core.errors import ModelError
from onnxviz.model import runtime_versions
from onnxviz.model.ort_session import Session
from onnxviz.model.runtime_versions import make_readable, newest_ir_version, newest_opset

IMAGES = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)


def tiny(path: Path, ir_version: int, opset: int) -> Path:
    save_model(path)
    model = onnx.load(path)
    model.ir_version = ir_version
    model.opset_import[0].version = opset
    onnx.save(model, path)
    return path


def casting(element: int, opset: int, ir_version: int) -> ModelProto:
    """A cast to a type and back."""
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=element),
        helper.make_node("Cast", ["narrow"], ["y"], to=TensorProto.FLOAT),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])
    graph = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.mark.parametrize(
    ("ir_version", "opset"),
    [
        (onnx.IR_VERSION, 17),
        (onnx.IR_VERSION + 1, 17),
        (onnx.IR_VERSION + 40, 17),
        (8, onnx.defs.onnx_opset_version()),
        (onnx.IR_VERSION, onnx.defs.onnx_opset_version()),
    ],
)
def test_what_is_new_by_its_number_only_is_computed_as_ever(tmp_path: Path, ir_version: int, opset: int) -> None:
    plain = onnxviz.load(tiny(tmp_path / "old.onnx", 8, 17), "unit")
    newest = onnxviz.load(tiny(tmp_path / "new.onnx", ir_version, opset), "unit")
    before = newest.view.original.SerializeToString(deterministic=True)
    for name in ("relu", "dense"):
        expected, found = (model.measure(IMAGES, name)[name] for model in (plain, newest))
        np.testing.assert_array_equal(found, expected)
    assert newest.view.original.SerializeToString(deterministic=True) == before, "only the session's copy is lowered"
    assert newest.view.original.ir_version == ir_version


def test_versions_are_those_that_onnx_runtime_reads() -> None:
    """One more is refused, unless the onnx package itself knows no newer one."""
    assert runtime_versions._reads(newest_ir_version(), 17)
    assert runtime_versions._reads(8, newest_opset())
    if newest_ir_version() < onnx.IR_VERSION:
        assert not runtime_versions._reads(newest_ir_version() + 1, 17)
    if newest_opset() < onnx.defs.onnx_opset_version():
        assert not runtime_versions._reads(8, newest_opset() + 1)


def test_an_element_type_of_a_newer_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_versions, "newest_ir_version", lambda: 9)
    with pytest.raises(ModelError, match=r"holds INT4, which came with IR version 10; .* reads IR version 9 at most"):
        make_readable(casting(TensorProto.INT4, 21, 10))
    model = casting(TensorProto.FLOAT16, 17, 10)
    make_readable(model)
    assert model.ir_version == 9
    unheard = casting(TensorProto.FLOAT16, 17, 10)
    unheard.graph.input[0].type.tensor_type.elem_type = 99
    with pytest.raises(ModelError, match="IR version 10"):
        make_readable(unheard)


def test_an_operator_of_a_newer_opset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cast changed in opset 19; Relu did not change since 14."""
    monkeypatch.setattr(runtime_versions, "newest_opset", lambda: 18)
    with pytest.raises(ModelError, match=r"Cast is that of opset 19; .* knows opset 18 at most"):
        Session(casting(TensorProto.FLOAT16, 20, 9), ["y"])
    model = casting(TensorProto.FLOAT16, 20, 9)
    for node in model.graph.node:
        node.op_type = "Relu"
        del node.attribute[:]
    make_readable(model)
    assert model.opset_import[0].version == 18
