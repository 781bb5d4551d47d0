"""ONNX Runtime's optimizer computes constants without a bound: files that would make it do so run without it."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import hostile_models
import numpy as np
import pytest
from hostile_child import bring
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxviz.graph import open_model
from onnxviz.model.model import load
from onnxviz.model.ort_session import folds_too_much

node = helper.make_node
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def bomb(size: int, *between: NodeProto, last: str = "k") -> bytes:
    """A constant of `size` floats, of which the largest is added to the image."""
    nodes = [node("ConstantOfShape", ["s"], ["k"]), *between, node("ReduceMax", [last], ["m"], keepdims=0)]
    return hostile_models.content([*nodes, node("Add", ["x", "m"], ["y"])], [hostile_models.numbers("s", size)])


def suspicious(path: Path) -> bool:
    view = open_model(path)
    return folds_too_much(view.proto.graph, view.types)


@pytest.mark.parametrize("size", [1 << 20, 1 << 22, 1 << 25, 1 << 29])
def test_large_constants_are_seen(tmp_path: Path, size: int) -> None:
    (tmp_path / "m.onnx").write_bytes(bomb(size))
    assert suspicious(tmp_path / "m.onnx") == (size > 1 << 22)  # below, importing has folded it


def test_constants_of_unknown_size_are_seen(tmp_path: Path) -> None:
    # How many numbers are not zero is known only once they are computed.
    nodes = (node("NonZero", ["k"], ["z"]), node("Cast", ["z"], ["f"], to=TensorProto.FLOAT))
    (tmp_path / "m.onnx").write_bytes(bomb(1 << 25, *nodes, last="f"))
    assert suspicious(tmp_path / "m.onnx")


def test_constants_within_branches_are_seen(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [node("ConstantOfShape", ["s"], ["k"]), node("ReduceMax", ["k"], ["m"], keepdims=0)], "then", [],
        [helper.make_tensor_value_info("m", TensorProto.FLOAT, [])],
    )  # fmt: skip
    other = helper.make_graph([node("ReduceMax", ["x"], ["o"], keepdims=0)], "else", [],
                              [helper.make_tensor_value_info("o", TensorProto.FLOAT, [])])  # fmt: skip
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "zero"], ["c"]),
        node("If", ["c"], ["i"], then_branch=inner, else_branch=other),
        node("Add", ["x", "i"], ["y"]),
    ]
    tensors = [hostile_models.numbers("s", 1 << 29), numpy_helper.from_array(np.float32(0).reshape(()), "zero")]
    (tmp_path / "m.onnx").write_bytes(hostile_models.content(nodes, tensors))
    assert suspicious(tmp_path / "m.onnx")


def test_the_shape_of_an_image_is_a_constant_too(tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["shape"], start=1),
        node("Concat", ["shape", "s"], ["long"], axis=0),
        node("ConstantOfShape", ["long"], ["k"]),
        node("ReduceMax", ["k"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["y"]),
    ]
    (tmp_path / "m.onnx").write_bytes(hostile_models.content(nodes, [hostile_models.numbers("s", 1 << 22)]))
    assert suspicious(tmp_path / "m.onnx")


def test_ordinary_models_are_optimized(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(hostile_models.named("plain").SerializeToString())
    assert not suspicious(tmp_path / "m.onnx")
    assert not load(tmp_path / "m.onnx", device="cpu")._exact
    (tmp_path / "m.onnx").write_bytes(bomb(1 << 25))
    assert load(tmp_path / "m.onnx", device="cpu")._exact


MEASURE = """\
import sys
from pathlib import Path
from hostile_child import memory
import torch
from onnxviz.model.model import load
from onnxviz.model.ort_session import Session
torch.set_num_threads(1)
model = load(Path(sys.argv[1]), device="cpu")
Session(load(Path(sys.argv[2]), device="cpu").view.proto, [load(Path(sys.argv[2]), device="cpu").layers[-1].value])
before = memory("VmHWM")
session = model.session([model.layers[-1].value]) if sys.argv[3] == "ours" else Session(
    model.view.proto, [model.layers[-1].value])
print(memory("VmHWM") - before)
"""


@LINUX
def test_a_session_costs_no_more_than_the_file(tmp_path: Path) -> None:
    """With the optimizer the same file takes a gigabyte: ONNX Runtime's bomb is real, and is not set off."""
    (tmp_path / "m.onnx").write_bytes(bomb(1 << 27))
    (tmp_path / "small.onnx").write_bytes(bomb(16))
    taken = {}
    for who in ("ours", "optimizer"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path / "m.onnx"), str(tmp_path / "small.onnx"), who],
            cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        taken[who] = int(done.stdout)
    assert taken["ours"] < 50 << 20
    assert taken["optimizer"] > 400 << 20


@LINUX
def test_inspect_of_a_bomb_takes_little(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(bomb(1 << 29))
    assert path.stat().st_size < 200
    (outcome,) = bring([("2 GB in a few bytes", path)], ["inspect"])
    assert not outcome.faults
    assert outcome.growth < 300_000_000


@LINUX
def test_a_bomb_is_opened_within_a_small_limit(tmp_path: Path) -> None:
    """The whole process, libraries included, within 1 GiB of private memory."""
    path = tmp_path / "m.onnx"
    path.write_bytes(bomb(1 << 29))
    script = (
        "import sys; from onnxviz.model.model import load; from pathlib import Path;"
        "model = load(Path(sys.argv[1]), device='cpu'); model.session([model.layers[-1].value])"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))

    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
