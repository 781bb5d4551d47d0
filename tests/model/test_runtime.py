"""ONNX Runtime with the layers as extra outputs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxviz.core.errors import ModelError
from onnxviz.model import ort_session as runtime
from onnxviz.model.ort_session import Session, providers


def model(kind: int = TensorProto.FLOAT, domain: str = "") -> ModelProto:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], "n0"),
        helper.make_node("Relu", ["conv"], ["relu"], "n1", domain=domain),
    ]
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        nodes,
        "g",
        # The old way: the weight is listed among the inputs.
        [
            helper.make_tensor_value_info("image", kind, (1, 3, 8, 8)),
            helper.make_tensor_value_info("w", kind, (4, 3, 3, 3)),
        ],
        [helper.make_tensor_value_info("relu", kind, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 13)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


IMAGE = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def test_intermediate_values_come_in_order_and_repeated() -> None:
    relu, conv, again = Session(model(), ["relu", "conv", "relu"]).run({"image": IMAGE})
    assert (conv < 0).any()
    np.testing.assert_array_equal(relu, np.maximum(conv, 0))
    np.testing.assert_array_equal(relu, again)


def test_images_are_brought_to_the_type_of_the_file() -> None:
    (conv,) = Session(model(TensorProto.FLOAT16), ["conv"]).run({"image": IMAGE})
    assert conv.dtype == np.float16
    np.testing.assert_array_equal(runtime._as_type(np.array([-3.0, 1.6, 300.0]), np.dtype(np.uint8)), [0, 2, 255])


def test_any_size_is_accepted_only_where_asked_for() -> None:
    large = np.zeros((1, 3, 12, 20), np.float32)
    assert Session(model(), ["conv"], any_size=True).run({"image": large})[0].shape == (1, 4, 10, 18)
    with pytest.raises(ModelError, match="ONNX Runtime fails"):
        Session(model(), ["conv"]).run({"image": large})


def test_what_onnx_runtime_does_not_know_is_refused_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="ONNX Runtime refuses"):
        Session(model(domain="custom"), ["relu"])
    Session(model(domain="custom"), ["conv"]).run({"image": IMAGE})  # what is not needed does not matter
    with pytest.raises(ModelError, match="image"):
        Session(model(), ["conv"]).run({})
    assert capfd.readouterr() == ("", "")


def test_a_model_too_large_for_one_message_goes_through_a_folder_that_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[str] = []
    make = runtime.tempfile.mkdtemp

    def remembered(**options: str) -> str:
        made.append(make(**options))
        return made[-1]

    monkeypatch.setattr(runtime, "_ONE_MESSAGE", 10)
    monkeypatch.setattr(runtime.tempfile, "mkdtemp", remembered)
    (conv,) = Session(model(), ["conv"]).run({"image": IMAGE})
    monkeypatch.undo()
    np.testing.assert_array_equal(conv, Session(model(), ["conv"]).run({"image": IMAGE})[0])
    assert len(made) == 1
    assert not runtime.Path(made[0]).exists()


def test_cuda_is_asked_for_only_where_pytorch_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert providers("cuda") == providers("cpu") == ["CPUExecutionProvider"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert providers("cpu") == ["CPUExecutionProvider"]
    first, last = providers("cuda:1")
    assert last == "CPUExecutionProvider"
    assert first[0] == "CUDAExecutionProvider"
    assert isinstance(first[1], dict)
    assert first[1]["device_id"] == "1"


def test_the_same_input_gives_the_same_bits() -> None:
    first, second = (Session(model(), ["relu"]).run({"image": IMAGE})[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_importing_the_module_does_not_start_onnx_runtime() -> None:
    code = "import onnxviz.model.ort_session, sys; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
