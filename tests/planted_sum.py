"""A network whose score is a sum of weighted pixels: what the curves of its maps are can be written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.graph.targets import resolve_head

SIZE = 8


def save_sum(path: Path, weights: npt.NDArray[np.floating], *, softmax: bool = False) -> Path:
    """Write a network for images of 8 pixels: scores[c] = sum of weights[c] times pixels (+ 0.25)."""
    classes = len(weights)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], "dense", transB=1),
    ]
    nodes += [helper.make_node("Softmax", ["scores"], ["shares"], "softmax", axis=1)] if softmax else []
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("shares" if softmax else "scores", TensorProto.FLOAT, ["n", classes])],
        [
            numpy_helper.from_array(weights.reshape(classes, -1).astype(np.float32), "w"),
            numpy_helper.from_array(np.full(classes, 0.25, np.float32), "b"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def ask(model: onnxviz.Model, images: torch.Tensor, classes: list[int], indices: list[int] | None = None) -> Question:
    """The question of where the evidence for these classes lies."""
    head = resolve_head(model.view, None, model.labels)
    assert head.scores is not None
    forward = ForwardPass(model, images, [], [head.scores], to_input=True)
    return forward.ask([ClassTarget(head, number) for number in classes], indices=indices or range(len(images)))
