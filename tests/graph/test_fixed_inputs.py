"""Inputs beside the image, fixed to a value: the same numbers as ONNX Runtime gives when it is fed that value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import onnxviz
from onnxviz.cli.commands import app
from onnxviz.cli.start import starting_recipe
from onnxviz.core.errors import DataError, ModelError, OnnxvizError, RecipeError, SelectionError
from onnxviz.execution.execute import run
from onnxviz.execution.plan import make_plan
from onnxviz.graph import open_model
from onnxviz.model.parity import check_parity
from onnxviz.recipe.recipe import parse_recipe

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 3, 8, 8)).astype(np.float32)
META = [0.5, -1.0, 2.0]
IDS = [3, 1]


def save(path: Path, *, batch: int | str = "n", opset: int = 17, ir_version: int = 8) -> Path:
    """Write a network of an image, a mask, a scale, numbers that are joined, whole numbers, and a switch."""

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["c1"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c1", "mask"], ["masked"], "masked"),
        helper.make_node("Mul", ["masked", "scale"], ["scaled"], "scaled"),
        helper.make_node("GlobalAveragePool", ["scaled"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["flat"], "flat"),
        helper.make_node("Gather", ["table", "ids"], ["rows"], "embedding"),
        helper.make_node("Flatten", ["rows"], ["tokens"], "tokens"),
        helper.make_node("Concat", ["flat", "meta", "tokens"], ["joined"], "joined", axis=1),
        helper.make_node("Gemm", ["joined", "w2"], ["dense"], "dense"),
        helper.make_node("Where", ["switch", "dense", "zero"], ["scores"], "scores"),
    ]
    floats, inputs = TensorProto.FLOAT, [("mask", TensorProto.FLOAT, [batch, 1, 8, 8])]
    inputs += [("image", floats, [batch, 3, 8, 8]), ("scale", floats, []), ("meta", floats, [batch, 3])]
    inputs += [("ids", TensorProto.INT64, [batch, 2]), ("switch", TensorProto.BOOL, [batch, 4])]
    graph = helper.make_graph(
        nodes,
        "inputs",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("scores", floats, [batch, 4])],
        [weight("w1", 5, 3, 3, 3), weight("table", 6, 2), weight("w2", 12, 4), weight("zero", 1)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    if ir_version < 4:
        graph_inputs = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer]
        model.graph.input.extend(graph_inputs)
    onnx.save(model, path)
    return path


def fixed(folder: Path) -> dict[str, Any]:
    """Return values for all inputs but the image, in every form; the image is not the first tensor of rank 4."""
    mask = (np.arange(64).reshape(1, 1, 8, 8) % 3).astype(np.float32)
    np.save(folder / "mask.npy", mask)
    return {
        "mask": folder / "mask.npy",
        "scale": 0.5,
        "meta": META,
        "ids": np.array([IDS], np.int16),
        "switch": "ones",
    }


def expected(path: Path, folder: Path, images: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime makes of the file itself, image by image, when it is fed the values."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rest = {
        "mask": np.load(folder / "mask.npy"),
        "scale": np.array(0.5, np.float32),
        "meta": np.array([META], np.float32),
        "ids": np.array([IDS], np.int64),
        "switch": np.ones((1, 4), bool),
    }
    return np.concatenate([session.run(None, {"image": image[None], **rest})[0] for image in images])


@pytest.mark.parametrize(
    ("batch", "opset", "ir_version"), [("n", 17, 8), (1, 17, 8), ("n", 11, 3), ("", 13, 8), (1, 11, 6)]
)
def test_values_are_those_of_the_file_fed_with_them(
    tmp_path: Path, batch: int | str, opset: int, ir_version: int
) -> None:
    path = save(tmp_path / "model.onnx", batch=batch or None, opset=opset, ir_version=ir_version)  # type: ignore[arg-type]
    values = fixed(tmp_path)
    model = onnxviz.load(path, "unit", device="cpu", inputs=values)
    wanted = expected(path, tmp_path, IMAGES)
    images = torch.from_numpy(IMAGES)
    assert model.view.names[model.view.input_name] == "image"
    assert model.view.batch is None
    np.testing.assert_allclose(model.activations(images, ["scores"])["scores"].numpy(), wanted, atol=1e-6)
    np.testing.assert_allclose(model.measure(images, ["scores"])["scores"], wanted, atol=1e-6)
    assert all(item.holds for item in check_parity(model, ["masked", "joined", "scores"], images))
    network = onnxviz.to_torch(path, inputs=values)
    np.testing.assert_allclose(network(images[:1])[0].numpy(), wanted[:1], atol=1e-6)
    leaf = images.clone().requires_grad_()
    model.differentiable(["scores"])(leaf)[0].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


def test_a_fixed_value_is_no_parameter_and_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx")
    view = open_model(path, inputs=fixed(tmp_path))
    with_mask = open_model(path, inputs={"mask": "ones"})
    plain = open_model(path)
    counts = {v.card("m", onnxviz.Preprocessing()).parameters for v in (view, with_mask, plain)}
    assert counts == {5 * 27 + 12 + 48 + 1}
    assert "fixed the input mask to 1 × 1 × 8 × 8 values from mask.npy" in view.passes
    assert "fixed the input scale to 0.5" in view.passes
    assert "fixed the input switch to ones" in view.passes
    assert plain.digest == view.digest, "the file is the same"
    assert plain.fixed_digest == ""


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"mosk": "ones"}, r"no input 'mosk'.*did you mean 'mask'"),
        ({"mask": "one"}, r"mask: float \[n, 1, 8, 8\] cannot be 'one'"),
        ({"mask": [1.0, 2.0]}, r"cannot have the shape \[2\].*all its numbers"),
        ({"mask": [[1.0], [2.0, 3.0]]}, "rows of different lengths|different lengths"),
        ({"ids": [0.5, 1.0]}, r"ids: int64 \[n, 2\] cannot hold these numbers"),
        ({"ids": -1.5}, "cannot hold these numbers"),
        ({"switch": 2}, "cannot hold these numbers"),
        ({"meta": ["a", "b", "c"]}, "cannot be text"),
        (dict.fromkeys(["image", "mask", "scale", "meta", "ids", "switch"], "ones"), "all inputs are fixed"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, inputs: dict[str, Any], text: str) -> None:
    with pytest.raises(SelectionError) as fault:
        open_model(save(tmp_path / "model.onnx"), inputs=inputs)
    assert re.search(text, str(fault.value).replace("\n", " "))


def test_a_number_does_not_fill_free_dimensions(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["image", "shift"], ["y"], "y")],
        "free",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["n", "c", 1, 1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8, 8])],
    )
    path = tmp_path / "free.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(SelectionError, match="free dimensions"):
        open_model(path, inputs={"shift": 1})
    model = onnxviz.load(path, "unit", inputs={"shift": [[[1.0]], [[2.0]], [[3.0]]]})
    made = model.activations(torch.from_numpy(IMAGES), ["y"])["y"].numpy()
    np.testing.assert_allclose(made, IMAGES + np.float32([1, 2, 3]).reshape(1, 3, 1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "not a readable .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", "not a readable .npy file"),
        (b"objects", "Python objects"),
        (b"short", "damaged"),
        (b"huge", "more than the limit"),
        (None, "no such file"),
    ],
)
def test_hostile_arrays_are_refused_before_they_are_read(tmp_path: Path, content: bytes | None, text: str) -> None:
    file = tmp_path / "mask.npy"
    if content == b"objects":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif content in (b"short", b"huge"):
        with file.open("wb") as stream:
            shape = (1 << 40, 8) if content == b"huge" else (100, 8)
            np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError, match=text):
        open_model(save(tmp_path / "model.onnx"), inputs={"mask": file})


RECIPE = """\
version: 1
model:
  path: model.onnx
  preprocess: unit
  inputs: {mask: mask.npy, scale: 0.5, meta: [0.5, -1.0, 2.0], ids: [3, 1], switch: ones}
analyses:
  am: {kind: activation_maximization, targets: [{layer: scores, units: [0]}], steps: 2}
"""


def test_a_recipe_fixes_inputs(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx")
    fixed(tmp_path)
    recipe = parse_recipe(RECIPE, "r.yaml", tmp_path)
    keys = {job.key for job in make_plan(recipe).jobs}
    other = parse_recipe(RECIPE.replace("scale: 0.5", "scale: 1"), "r.yaml", tmp_path)
    assert not keys & {job.key for job in make_plan(other).jobs}, "another value is another model"
    done = run(recipe, tmp_path / "out")
    assert done.result.verdict == "finished"
    card = done.result.models[0]
    assert "fixed the input ids to 1 × 2 values" in card.passes
    assert card.agreement
    assert all(item.holds for item in card.agreement)
    lock = (tmp_path / "out" / "recipe.lock.yaml").read_text("utf-8")
    again = parse_recipe(lock, "again.yaml", tmp_path / "out")
    assert {job.key for job in make_plan(again).jobs} == keys


def test_what_is_not_given_is_asked_for_where_the_recipe_is_checked(tmp_path: Path) -> None:
    save(tmp_path / "model.onnx")
    fixed(tmp_path)
    recipe = parse_recipe(RECIPE.replace("ids: [3, 1], ", ""), "r.yaml", tmp_path)
    with pytest.raises(
        RecipeError, match=r"r.yaml:3:9.*ids: int64 \[n, 2\]; give them a value: inputs: \{ids: zeros\}"
    ):
        make_plan(recipe)
    model = onnxviz.load(tmp_path / "model.onnx", "unit", inputs={"mask": "ones"})
    for call in (model.activations, model.measure):
        with pytest.raises(ModelError, match=r"scale: float \[\]"):
            call(torch.from_numpy(IMAGES), ["scaled"])
    assert model.measure(torch.from_numpy(IMAGES), ["conv"])["conv"].shape == (3, 5, 8, 8)
    with pytest.raises(SelectionError, match="a loaded model keeps its inputs"):
        onnxviz.to_torch(model, inputs={"mask": "ones"})


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("switch: ones", "switch: on", "'switch' is fixed to ones, zeros, a number"),
        ("mask.npy", "http://x/mask.npy", "is a URL"),
        ("mask.npy", "none.npy", "no such file"),
        ("scale: 0.5", "scale: {a: 1}", "not a mapping"),
        ("ids: [3, 1]", "ids: [3, x]", "cannot be text"),
    ],
)
def test_faults_stand_at_their_place_in_the_recipe(tmp_path: Path, old: str, new: str, text: str) -> None:
    save(tmp_path / "model.onnx")
    fixed(tmp_path)
    with pytest.raises(OnnxvizError, match=text) as fault:
        make_plan(parse_recipe(RECIPE.replace(old, new), "r.yaml", tmp_path))
    assert "r.yaml:5:" in str(fault.value)


def test_inspect_says_what_waits_for_an_input_and_takes_it(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx")
    values = fixed(tmp_path)
    waiting = CliRunner().invoke(app, ["inspect", str(path), "--input", "mask=ones"]).output
    assert "2 of 9 layers can be analysed" not in waiting
    assert "1 of 7 layers can be analysed" in waiting or "layers can be analysed; what is asked for also" in waiting
    assert "scale: float []" in waiting
    assert "converts" not in waiting
    given = ["--input", f"mask={values['mask']}", "--input", "scale=0.5", "--input", "meta=[0.5, -1, 2]"]
    given += ["--input", "ids=[3, 1]", "--input", "switch=ones"]
    told = CliRunner().invoke(app, ["inspect", str(path), *given])
    assert told.exit_code == 0, told.output
    assert "layers can be analysed" in told.output
    assert "not given" not in told.output
    wrong = CliRunner().invoke(app, ["inspect", str(path), "--input", "mask"])
    assert "--input 'mask' is not a name and a value" in str(wrong.output) + str(wrong.exception)


def test_init_writes_a_recipe_that_holds(tmp_path: Path) -> None:
    path = save(tmp_path / "model.onnx")
    text = starting_recipe(path, tmp_path / "r.yaml")
    assert "mask: float [n, 1, 8, 8]" not in text, "taken for the image"
    assert "# a guess; they are" in text
    assert make_plan(parse_recipe(text, "r.yaml", tmp_path)).jobs
