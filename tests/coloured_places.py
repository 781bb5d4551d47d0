"""A network whose class is the colour of one pixel, and pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from onnxviz.data.images import ImageFolder


def pixel_colour(path: Path, row: int, column: int) -> None:
    """Save a network whose class is the strongest colour of one pixel of 16 × 16."""
    weight = np.zeros((3, 3, 16, 16), np.float32)
    for channel in range(3):
        weight[channel, channel, row, column] = 10.0
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def coloured_places(folder: Path, shape: tuple[int, int], place: tuple[slice, slice], count: int = 30) -> ImageFolder:
    """Save noise with a place in the colour of its class, one folder for each class."""
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(100, 140, (*shape, 3), np.uint8)
        pixels[place] = 0
        pixels[(*place, index % 3)] = 255
        (folder / str(index % 3)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(index % 3) / f"{index:02}.png")
    return ImageFolder.find("images", [str(folder)], folder)
