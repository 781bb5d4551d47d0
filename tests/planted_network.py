"""A network whose every weight is set by hand, with scenes: what its units look for and classes rest on is known.

Units of `detectors` and of `detected`, its ReLU, at every position of images of 32 x 32 pixels in 0..1:

0. red: red - (green + blue) / 2
1. upright edge: how much brighter it is one pixel to the right than one to the left, over three rows
2. disc: how much brighter it is within 3 pixels than in a ring around them, less 0.25
3. blue: blue - (red + green) / 2
4. dead: nothing; always 0
5. lamp: brightness, held at most 0.25 by the layer `held`, a Clip

Classes: `red`, `edges` and `disc` are means of the units 0 to 2 over the whole image; `corner` is unit 3 in the 8 x 8
pixels at the top right, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE = 32
CELL = 8
CLASSES = ("red", "edges", "disc", "corner")
UNITS = ("red", "upright edge", "disc", "blue", "dead", "lamp")
CEILING = 0.25
THRESHOLD = 0.25
RED, BLUE, WHITE = (0.95, 0.05, 0.05), (0.05, 0.05, 0.95), (0.9, 0.9, 0.9)
GREY = 0.35
NOISE = 0.04
"""Of brightness, at every pixel: no two pixels excite a unit alike."""
_RADIUS, _RING = 3.2, 4.5
_WEIGHTS = {"red": 60.0, "edges": 30.0, "disc": 1500.0, "corner": 6.0}

Picture = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]


def kernels() -> npt.NDArray[np.float32]:
    """Return the weights of `detectors`, [6, 3, 9, 9]."""
    made = np.zeros((len(UNITS), 3, 9, 9), np.float32)
    made[0, :, 4, 4] = (1, -0.5, -0.5)
    made[1, :, 3:6, 3], made[1, :, 3:6, 5] = -1 / 9, 1 / 9
    distance = np.hypot(*np.mgrid[-4:5, -4:5])
    inner, ring = distance <= _RADIUS, (distance > _RADIUS) & (distance <= _RING)
    made[2] = (inner / inner.sum() - ring / ring.sum()) / 3
    made[3, :, 4, 4] = (-0.5, -0.5, 1)
    made[5, :, 4, 4] = 1 / 3
    return made


def save(path: Path) -> Path:
    """Write the network."""
    cells = SIDE // CELL
    dense = np.zeros((len(UNITS), cells, cells, len(CLASSES)), np.float32)
    for place, name in enumerate(CLASSES[:3]):
        dense[place, :, :, place] = _WEIGHTS[name] / cells**2
    dense[3, 0, cells - 1, 3] = _WEIGHTS["corner"]
    bias = np.array([0, 0, -THRESHOLD, 0, 0, 0], np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "kernels", "bias"], ["maps"], "detectors", pads=[4, 4, 4, 4]),
        helper.make_node("Relu", ["maps"], ["active"], "detected"),
        helper.make_node("Clip", ["active", "low", "high"], ["limited"], "held"),
        helper.make_node(
            "AveragePool", ["active"], ["pooled"], "cells", kernel_shape=[CELL, CELL], strides=[CELL, CELL]
        ),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flat"),
        helper.make_node("Gemm", ["flat", "dense"], ["scores"], "classes"),
    ]
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(CLASSES)]),
            helper.make_tensor_value_info("limited", TensorProto.FLOAT, ["n", len(UNITS), SIDE, SIDE]),
        ],
        [
            numpy_helper.from_array(kernels(), "kernels"),
            numpy_helper.from_array(bias, "bias"),
            numpy_helper.from_array(dense.reshape(-1, len(CLASSES)), "dense"),
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(CEILING), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def values(image: Picture) -> npt.NDArray[np.float64]:
    """Return the units' maps on one image [3, h, w] before the ReLU, by the definition: [6, h, w]."""
    height, width = image.shape[1:]
    padded = np.pad(image.astype(np.float64), ((0, 0), (4, 4), (4, 4)))
    made = np.zeros((len(UNITS), height, width))
    for down in range(9):
        for right in range(9):
            seen = padded[:, down : down + height, right : right + width]
            made += np.einsum("uc,chw->uhw", kernels()[:, :, down, right].astype(np.float64), seen)
    made[2] -= THRESHOLD
    return made


# --- scenes ---------------------------------------------------------------------------------------------------------

CONCEPTS = ("background", "red", "stripes", "disc", "blue")


def scene(rng: np.random.Generator, things: tuple[str, ...]) -> tuple[Picture, Labels]:
    """Return an image [3, 32, 32] on grey and the label of every pixel, an index of `CONCEPTS`.

    Args:
        rng: chooses places.
        things: what it shows, each somewhere in a quarter of its own: "red" and "blue" squares, upright "stripes", a
            white "disc"; "corner" is a blue square that fills the cell at the top right.
    """
    image = np.full((3, SIDE, SIDE), GREY, np.float32)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    quarters = [(1, 1), (1, 15), (15, 1), (15, 15)]
    if "corner" in things:
        _fill(image, labels, np.s_[0:CELL, SIDE - CELL : SIDE], BLUE, "blue")
        quarters.remove((1, 15))
    order = rng.permutation(len(quarters))
    for place, name in zip(order, (name for name in things if name != "corner"), strict=False):
        top, left = np.array(quarters[place]) + rng.integers(0, 6, 2)
        box = np.s_[top : top + 9, left : left + 9]
        if name in ("red", "blue"):
            _fill(image, labels, box, RED if name == "red" else BLUE, name)
        elif name == "stripes":
            for column in range(0, 9, 4):
                _fill(image, labels, np.s_[top : top + 9, left + column : left + column + 2], WHITE, name)
            labels[box] = CONCEPTS.index(name)
        else:
            rows, columns = np.mgrid[:SIDE, :SIDE]
            inside = np.hypot(rows - top - 4, columns - left - 4) <= _RADIUS
            image[:, inside] = WHITE[0]
            labels[inside] = CONCEPTS.index(name)
    noise = rng.uniform(-NOISE, NOISE, (1, SIDE, SIDE)).astype(np.float32)
    return np.clip(image + noise, 0, 1), labels


def _fill(image: Picture, labels: Labels, box: tuple[slice, slice], color: tuple[float, ...], name: str) -> None:
    image[(slice(None), *box)] = np.asarray(color, np.float32)[:, None, None]
    labels[box] = CONCEPTS.index(name)


def write_concepts(folder: Path, count: int = 80) -> None:
    """Write scenes of two random things each, every pixel labelled, as a concept folder."""
    rng = np.random.default_rng(5)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "classes.txt").write_text("\n".join(CONCEPTS) + "\n")
    for number in range(count):
        things = tuple(rng.choice(["red", "stripes", "disc", "blue"], 2, replace=False))
        image, labels = scene(rng, things)
        _save(image, folder / "images" / f"{number}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{number}.png")


def write_mixed(folder: Path, count: int = 6) -> None:
    """Write scenes with a blue square at the top right and a red one elsewhere, with masks of their pixels."""
    rng = np.random.default_rng(7)
    (folder / "masks").mkdir(parents=True)
    for number in range(count):
        image, labels = scene(rng, ("corner", "red"))
        _save(image, folder / f"{number}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{number}.png")


def write_photographs(folder: Path, count: int = 6) -> None:
    """Write scenes of one thing each, in a folder for each class."""
    rng = np.random.default_rng(6)
    for name, thing in zip(CLASSES, ("red", "stripes", "disc", "corner"), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            _save(scene(rng, (thing,))[0], folder / name / f"{name}_{number}.png")


def _save(image: Picture, path: Path) -> None:
    Image.fromarray(np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8)).save(path)
