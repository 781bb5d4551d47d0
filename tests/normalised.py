"""Models written as text, and what ONNX Runtime makes of them before and after normalisation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from onnx import ModelProto, parser

from onnxviz.graph import GraphView


def save(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def parse(text: str, folder: Path) -> Path:
    return save(parser.parse_model(text), folder)


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: ModelProto, value: str, images: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(array) for array in session(model).run(None, {value: images})]


def input_of(view: GraphView) -> str:
    constant = {tensor.name for tensor in view.original.graph.initializer}
    return next(value.name for value in view.original.graph.input if value.name not in constant)


def agree(view: GraphView, shape: tuple[int, ...], tolerance: float = 1e-5, dtype: type = np.float32) -> None:
    """The normalised graph on four images gives what the file gives on each of them."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, *shape)).astype(dtype)
    theirs = [run(view.original, input_of(view), images[i : i + 1]) for i in range(4)]
    ours = run(view.proto, view.input_name, images.astype(np.float32) if dtype is np.float16 else images)
    for index, mine in enumerate(ours):
        expected = np.concatenate([parts[index] for parts in theirs]).astype(np.float64)
        assert mine.shape == expected.shape
        assert np.abs(mine - expected).max() <= tolerance * np.abs(expected).max()


def operators(view: GraphView) -> list[str]:
    return [node.op_type for node in view.proto.graph.node]


def said(view: GraphView, words: str) -> bool:
    return any(words in sentence for sentence in view.passes)
