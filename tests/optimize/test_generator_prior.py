"""Generators as priors: what they are opened from, what their codes may be, and digits that other networks read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

import onnxviz
from onnxviz.core.errors import AnalysisError
from onnxviz.optimize.generators import GeneratorNetwork, open_generator
from onnxviz.optimize.parameterizations.base import Canvas
from onnxviz.optimize.parameterizations.generator import Generator, GeneratorPainter

Node = tuple[str, Sequence[str], str]
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(6, 48)).astype(np.float32)


def constant(*numbers: float) -> np.ndarray:
    return np.array(numbers[0] if len(numbers) == 1 else numbers, np.float32)


def write(
    path: Path,
    nodes: Sequence[Node],
    constants: Mapping[str, np.ndarray],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    shape: Sequence[int | str],
) -> Path:
    """Write a small model; the last node makes the output."""
    graph = helper.make_graph(
        [helper.make_node(operator, list(reads), [name]) for operator, reads, name in nodes],
        "generator",
        [helper.make_tensor_value_info(name, kind, list(size)) for name, (kind, size) in inputs.items()],
        [helper.make_tensor_value_info(nodes[-1][2], TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def plain(
    folder: Path, tail: Sequence[Node] = (), shape: Sequence[int | str] = ("N", 3, 4, 4), **more: np.ndarray
) -> Path:
    """Write a generator of 3 × 4 × 4 pixels from 6 numbers: a product, what `tail` says, and a reshape."""
    last = tail[-1][2] if tail else "made"
    sizes = np.array([-1 if isinstance(size, str) else size for size in shape], np.int64)
    nodes = [("MatMul", ("z", "weight"), "made"), *tail, ("Reshape", (last, "sizes"), "image")]
    constants = {"weight": WEIGHT, "sizes": sizes, **more}
    return write(folder / "generator.onnx", nodes, constants, {"z": (TensorProto.FLOAT, ("N", 6))}, shape)


def draws(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def elements(network: GeneratorNetwork) -> int:
    return sum(entry.elements for entry in network.inputs)


def canvas(network: GeneratorNetwork, size: tuple[int, int] | None = None, channels: int = 3) -> Canvas:
    return Canvas(channels, size or network.size, 1, torch.device("cpu"), generators={"prior": network})


def painter(
    network: GeneratorNetwork, size: tuple[int, int] | None = None, channels: int = 3, **form: object
) -> GeneratorPainter:
    made = Generator.model_validate({"model": "prior", **form}).painter(canvas(network, size, channels))
    assert isinstance(made, GeneratorPainter)
    return made


def runtime(path: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


RANGES: dict[str, tuple[Sequence[Node], dict[str, np.ndarray], tuple[float, float] | None]] = {
    "tanh": ([("Tanh", ("made",), "end")], {}, (-1.0, 1.0)),
    "sigmoid": ([("Sigmoid", ("made",), "end")], {}, (0.0, 1.0)),
    "tanh brought to 0..1": (
        [("Tanh", ("made",), "a"), ("Add", ("one", "a"), "b"), ("Div", ("b", "two"), "end")],
        {"one": constant(1.0), "two": constant(2.0)},
        (0.0, 1.0),
    ),
    "inverted sigmoid times 255": (
        [("Sigmoid", ("made",), "a"), ("Sub", ("one", "a"), "b"), ("Mul", ("b", "most"), "end")],
        {"one": constant(1.0), "most": constant(255.0)},
        (0.0, 255.0),
    ),
    "clip": (
        [("Clip", ("made", "low", "high"), "end")],
        {"low": constant(-0.5), "high": constant(3.0)},
        (-0.5, 3.0),
    ),
    "clip on one side": ([("Clip", ("made", "low"), "end")], {"low": constant(0.0)}, None),
    "nothing": ([], {}, None),
    "several numbers": (
        [("Tanh", ("made",), "a"), ("Mul", ("a", "each"), "end")],
        {"each": RANDOM.normal(size=48).astype(np.float32)},
        None,
    ),
    "relu behind tanh": ([("Tanh", ("made",), "a"), ("Relu", ("a",), "end")], {}, None),
}


@pytest.mark.parametrize("name", RANGES)
def test_bounds_are_those_of_the_last_operators(tmp_path: Path, name: str) -> None:
    tail, constants, expected = RANGES[name]
    network = open_generator(plain(tmp_path, tail, **constants), "cpu")
    assert network.bounds == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("shape", "layout", "channels"),
    [
        (("N", 3, 4, 4), "NCHW", 3),
        (("N", 4, 4, 3), "NHWC", 3),
        (("N", 1, 6, 8), "NCHW", 1),
        (("N", 6, 8), "NHW", 1),
        (("N", 48), "flat", 3),
    ],
)
def test_images_are_the_models(tmp_path: Path, shape: tuple[int | str, ...], layout: str, channels: int) -> None:
    path = plain(tmp_path, RANGES["tanh"][0], shape)
    network = open_generator(path, "cpu")
    assert (network.layout, network.channels, elements(network)) == (layout, channels, 6)
    made = painter(network)
    codes = made.start(draws(1, 2, 3), None)
    expected = runtime(path, z=codes.numpy())
    if layout == "NHWC":
        expected = expected.transpose(0, 3, 1, 2)
    expected = expected.reshape(3, channels, *network.size) * 0.5 + 0.5
    images = made.paint(codes)
    assert images.shape == (3, 3, *network.size)
    np.testing.assert_allclose(images.numpy(), np.broadcast_to(expected, images.shape), atol=1e-6)


def test_grey_canvas_and_other_sizes(tmp_path: Path) -> None:
    network = open_generator(plain(tmp_path, RANGES["sigmoid"][0]), "cpu")
    codes = painter(network).start(draws(0), None)
    own = painter(network).paint(codes)
    grey = painter(network, channels=1).paint(codes)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close(grey, (own * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1))
    for size in [(9, 5), (3, 2), (4, 8)]:
        expected = torch.nn.functional.interpolate(own, size, mode="bilinear", antialias=True)
        torch.testing.assert_close(painter(network, size).paint(codes), expected)


def test_gradients_reach_the_code_and_no_weight(tmp_path: Path) -> None:
    network = open_generator(plain(tmp_path, RANGES["tanh"][0]), "cpu")
    codes = painter(network).start(draws(0, 1), None).requires_grad_(True)
    painter(network).paint(codes)[0].sum().backward()  # type: ignore[no-untyped-call]
    assert codes.grad is not None
    assert codes.grad[0].abs().min() > 0
    assert not codes.grad[1].any()  # rows do not influence each other
    assert not any(parameter.requires_grad for parameter in network._network.parameters())


def test_unbounded_images_are_brought_to_the_range_of_random_ones(tmp_path: Path) -> None:
    path = plain(tmp_path)
    network = open_generator(path, "cpu")
    made = painter(network)
    codes = made.start(draws(*range(64)), None)
    raw = runtime(path, z=codes.numpy())
    low, high = np.quantile(raw, [0.005, 0.995])
    images = made.paint(codes).numpy()
    np.testing.assert_allclose(images, np.clip((raw - low) / (high - low), 0, 1), atol=0.01)
    assert torch.equal(painter(network, range=(-2.0, 6.0)).paint(codes), (network(codes) + 2.0).div(8.0).clamp(0, 1))
    assert torch.equal(painter(network, range="signed").paint(codes), (network(codes) + 1.0).div(2.0).clamp(0, 1))


def conditional(folder: Path, batch: int | str = 1) -> Path:
    """Write a generator of grey 5 × 5 images from a class and a code, for exactly so many images at a time."""
    random = np.random.default_rng(3)
    nodes = [
        ("Gather", ("table", "class"), "row"),
        ("Add", ("row", "z"), "sum"),
        ("MatMul", ("sum", "weight"), "made"),
        ("Sigmoid", ("made",), "bounded"),
        ("Reshape", ("bounded", "sizes"), "image"),
    ]
    constants = {
        "table": random.normal(size=(10, 4)).astype(np.float32),
        "weight": random.normal(size=(4, 25)).astype(np.float32),
        "sizes": np.array([batch if isinstance(batch, int) else -1, 1, 5, 5], np.int64),
    }
    inputs = {"class": (TensorProto.INT64, (batch,)), "z": (TensorProto.FLOAT, (batch, 4))}
    return write(folder / "conditional.onnx", nodes, constants, inputs, (batch, 1, 5, 5))


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_a_condition_stays_and_a_fixed_batch_is_filled(tmp_path: Path, batch: int | str) -> None:
    path = conditional(tmp_path, batch)
    network = open_generator(path, "cpu")
    assert [entry.name for entry in network.inputs] == ["class", "z"]
    assert [entry.whole for entry in network.inputs] == [True, False]
    made = painter(network, fixed={"class": [7]})
    codes = made.start(draws(1, 2, 3), None)
    assert codes.shape == (3, 4)
    images = made.paint(codes)
    several = batch if isinstance(batch, int) else 1
    for code, image in zip(codes, images, strict=True):
        given = {"class": np.full(several, 7), "z": np.repeat(code[None].numpy(), several, axis=0)}
        np.testing.assert_allclose(image[:1].numpy(), runtime(path, **given)[0], atol=1e-6)
    torch.testing.assert_close(made.paint(codes[1:2])[0], images[1])


def test_whole_numbers_have_to_be_fixed(tmp_path: Path) -> None:
    network = open_generator(conditional(tmp_path), "cpu")
    with pytest.raises(AnalysisError, match="'class' takes whole numbers"):
        painter(network)
    with pytest.raises(AnalysisError, match="has no input 'klass'"):
        painter(network, fixed={"klass": [1]})
    with pytest.raises(AnalysisError, match="takes 1 numbers, not 2"):
        painter(network, fixed={"class": [1, 2]})
    with pytest.raises(AnalysisError, match="all inputs"):
        painter(network, fixed={"class": [1], "z": [0, 0, 0, 0]})


def test_uniform_codes_stay_in_their_box(tmp_path: Path) -> None:
    network = open_generator(plain(tmp_path, RANGES["tanh"][0]), "cpu")
    low, high = [0.0, -1.0, 2.0, -0.1, -0.1, 5.0], [1.0, 1.0, 4.0, 0.1, 0.1, 5.0]
    made = painter(network, latent="uniform", minimum=low, maximum=high)
    parameters = made.start(draws(*range(300)), None)
    assert parameters.abs().max() <= 1
    codes = made._codes(parameters)
    torch.testing.assert_close(codes.min(0).values, torch.tensor(low), atol=0.05, rtol=0)
    torch.testing.assert_close(codes.max(0).values, torch.tensor(high), atol=0.05, rtol=0)
    kept = made._codes(made.keep(parameters * 10))
    assert (kept >= torch.tensor(low)).all()
    assert (kept <= torch.tensor(high)).all()
    assert made.penalty(parameters) is None
    with pytest.raises(AnalysisError, match="`minimum` has 2 numbers, the generator's code has 6"):
        painter(network, latent="uniform", minimum=[0, 1])
    with pytest.raises(AnalysisError, match="larger than its `maximum`"):
        painter(network, latent="uniform", minimum=2)


def test_unlikely_normal_codes_cost(tmp_path: Path) -> None:
    network = open_generator(plain(tmp_path, RANGES["tanh"][0]), "cpu")
    codes = torch.randn((5, 6), generator=draws(0)[0]) * 2
    for held, cost in (
        ("length", lambda code: (sum(z * z for z in code) / 6 - 1) ** 2),
        ("density", lambda code: sum(z * z for z in code) / 12),
    ):
        found = painter(network, held=held, weight=0.3).penalty(codes)
        assert found is not None
        np.testing.assert_allclose(found.numpy(), [0.3 * cost(code) for code in codes.tolist()], rtol=1e-5)
    assert painter(network, weight=0).penalty(codes) is None
    assert painter(network, clip=1.5).keep(codes).abs().max() == 1.5
    assert torch.equal(painter(network, clip=None).keep(codes), codes)
    assert torch.equal(painter(network).start(draws(8), None), painter(network).start(draws(7, 8), None)[1:])


REFUSED: dict[str, tuple[Sequence[Node], Mapping[str, tuple[int, Sequence[int | str]]], Sequence[int | str], str]] = {
    "an image input": (
        [("Tanh", ("z",), "image")],
        {"z": (TensorProto.FLOAT, ("N", 3, 8, 8))},
        ("N", 3, 8, 8),
        "is an image itself",
    ),
    "as many numbers": (
        [("Tanh", ("z",), "image")],
        {"z": (TensorProto.FLOAT, ("N", 25))},
        ("N", 25),
        "as many numbers",
    ),
    "no square": ([("MatMul", ("z", "weight"), "image")], {"z": (TensorProto.FLOAT, ("N", 6))}, ("N", 40), "2 × 40"),
    "unknown shape": ([("Tanh", ("z",), "image")], {"z": (TensorProto.FLOAT, ("N", "M"))}, ("N", "M"), "not known"),
    "no numbers": (
        [("Where", ("z", "weight", "weight"), "image")],
        {"z": (TensorProto.BOOL, ("N", 1, 40))},
        ("N", 6, 40),
        "neither floating nor whole",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_generator_is_refused(tmp_path: Path, name: str) -> None:
    nodes, inputs, shape, why = REFUSED[name]
    path = write(tmp_path / "model.onnx", nodes, {"weight": WEIGHT[:, :40]}, inputs, shape)
    with pytest.raises(AnalysisError, match="makes no images from codes") as fault:
        open_generator(path, "cpu")
    assert why in str(fault.value)
    assert fault.value.where == "model.onnx"
    assert fault.value.remedy


def test_a_missing_generator_is_named(tmp_path: Path) -> None:
    network = open_generator(plain(tmp_path), "cpu")
    with pytest.raises(AnalysisError, match="no generator 'priar'") as fault:
        Generator(model="priar").painter(canvas(network))
    assert "'prior'" in fault.value.remedy
    with pytest.raises(AnalysisError, match="cannot start from a picture"):
        painter(network).start(draws(0), torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValidationError, match="smaller"):
        Generator(model="prior", range=(1.0, 0.0))


def test_the_same_grey_for_all_codes_is_refused(tmp_path: Path) -> None:
    path = plain(tmp_path, [("Mul", ("made", "zero"), "end")], zero=constant(0.0))
    with pytest.raises(AnalysisError, match="the same grey"):
        painter(open_generator(path, "cpu"))


@pytest.mark.zoo
def test_digits_are_read_by_a_network_that_took_no_part(zoo: Path) -> None:
    prior = open_generator(zoo / "onnx" / "csinva_mnist_vae_decoder.onnx", "cpu")
    assert (prior.bounds, prior.size, prior.channels, elements(prior)) == ((0.0, 1.0), (28, 28), 1, 20)
    model = onnxviz.load(zoo / "onnx" / "csinva_mnist_lenet32.onnx", "gray_unit", device="cpu", output="classes")
    judge = onnxviz.load(zoo / "onnx" / "mnist.onnx", "gray_unit", device="cpu", output="classes")
    network = model.differentiable(model.view.logits)
    made = painter(prior, (32, 32), channels=1)
    codes = made.start(draws(*range(10)), None)
    digits = torch.arange(10)
    for _ in range(80):
        leaf = codes.detach().requires_grad_(True)
        logits = network(made.paint(leaf))[0][digits, digits]
        penalty = made.penalty(leaf)
        assert penalty is not None
        (slope,) = torch.autograd.grad((logits.detach().abs() * penalty - logits).sum(), leaf)
        codes = made.keep(codes - 0.3 * slope / (slope.norm(dim=1, keepdim=True) + 1e-12))
    images = made.paint(codes)
    assert (model.probabilities(images).argmax(1) == digits.numpy()).all()
    read = judge.probabilities(torch.nn.functional.interpolate(images, (28, 28), mode="bilinear")).argmax(1)
    assert (read == digits.numpy()).sum() >= 9
    assert 0.7 < float(codes.square().mean()) < 1.5


@pytest.mark.zoo
def test_a_generator_without_bounds_makes_pictures(zoo: Path) -> None:
    model = onnxviz.load(zoo / "onnx" / "vnn_cgan_32_3ch_upsample_generator.onnx", device="cpu")
    prior = open_generator(model)
    assert (prior.bounds, prior.size, prior.channels, elements(prior)) == (None, (32, 32), 3, 5)
    made = painter(prior, latent="uniform", minimum=[0, -0.1, -0.1, -0.1, -0.1], maximum=[1, 0.1, 0.1, 0.1, 0.1])
    images = made.paint(made.start(draws(*range(20)), None))
    assert float((images == 0).float().mean()) < 0.02
    assert float((images == 1).float().mean()) < 0.02
    assert float(images.std()) > 0.1
