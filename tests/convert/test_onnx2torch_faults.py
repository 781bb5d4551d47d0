"""What onnx2torch gets wrong converts rightly here, and converters that are registered with it are used."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import nn

import onnxviz
from benchmarks import stock_onnx2torch
from benchmarks.backend_tests import as_tensor, compare
from benchmarks.stock_faults import FAULTS, Fault
from onnxviz.convert.element_types import CARRIERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "onnx2torch.md"
HOST = ("reshape_host", "slice_host", "pad_host", "squeeze_host")
BY_NAME = {fault.name: fault for fault in FAULTS}


def parse(text: str, opsets: str = '"" : 13') -> ModelProto:
    """Return a model whose nodes are named `node_0`, `node_1`, ..."""
    model = onnx.parser.parse_model(f"<ir_version: 8, opset_import: [{opsets}]> {text}")
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    return model


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_converts_rightly(fault: Fault) -> None:
    """Values, shapes, number and kind of the outputs are ONNX Runtime's."""
    found = onnxviz.to_torch(fault.model())(*(as_tensor(value) for value in fault.arguments().values()))
    wanted = stock_onnx2torch.expected(fault)
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert not compare(ours, theirs, 1e-5, 1e-6)
        assert ours.dtype == CARRIERS[helper.np_dtype_to_tensor_dtype(theirs.dtype)]


@pytest.mark.parametrize("name", HOST)
def test_no_shape_is_read_from_the_device(name: str) -> None:
    """Tensors of the meta device have no values that could be read."""
    fault = BY_NAME[name]
    network = onnxviz.to_torch(fault.model()).to("meta")
    (found,) = network(*(as_tensor(value).to("meta") for value in fault.arguments().values()))
    assert tuple(found.shape) == stock_onnx2torch.expected(fault)[0].shape


def test_local_response_is_the_formula() -> None:
    """The reference of the onnx package computes only as many channels as there are images, so once by hand."""
    fault = BY_NAME["lrn_even"]
    values = fault.values()["x"].astype(np.float64)
    sums = np.stack([(values[:, max(0, c - 1) : c + 3] ** 2).sum(axis=1) for c in range(6)], axis=1)
    (found,) = onnxviz.to_torch(fault.model())(as_tensor(fault.values()["x"]))
    np.testing.assert_allclose(found.numpy(), values / (1 + sums / 4) ** 0.75, rtol=1e-5)


def test_an_unknown_tail_hides_nothing() -> None:
    model = parse(
        "g (float[n,2,4,4] image) => (float[n,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}> "
        "{ a = Conv(image, w) y = nowhere.Detect(a) }",
        '"" : 17, "nowhere" : 1',
    )
    (found,) = onnxviz.to_torch(model, "node_0")(torch.ones(1, 2, 4, 4))
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([3.0, 7.0]))
    with pytest.raises(onnxviz.UnsupportedOperatorError, match="Detect"):
        onnxviz.to_torch(model)


def test_converting_loads_neither_onnx2torch_nor_torchvision() -> None:
    """Whoever registers a converter has loaded it; what nobody has registered is refused without it."""
    code = """
import sys
import onnxviz
from tests.convert.test_onnx2torch_faults import BY_NAME, GATED, parse
for name in list(sys.modules):
    if name.partition(".")[0] in ("onnx2torch", "torchvision"):
        raise SystemExit(name)
onnxviz.to_torch(BY_NAME["nms_negative_scores"].model())
try:
    onnxviz.to_torch(parse(GATED, '"" : 17, "org.example" : 3'))
except onnxviz.UnsupportedOperatorError:
    print(*({"onnx2torch", "torchvision"} & set(sys.modules)), "refused")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"]


def test_a_weight_that_is_read_twice_is_there_once() -> None:
    model = parse("g (float[3] x) => (float[3] y) <float[3] w = {1,2,3}> { a = Add(x, w) b = Exp(a) y = Mul(b, w) }")
    network = onnxviz.to_torch(model)
    assert [tuple(tensor.shape) for tensor in network.buffers()] == [(3,)]


def test_converting_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    onnxviz.to_torch(parse("g (float[1,1,2,2] x) => (float[1,1,2,2] y) <float[1,1,1,1] w = {2}> { y = Conv(x, w) }"))
    assert torch.equal(before, torch.get_rng_state())


def test_networks_come_in_evaluation_mode() -> None:
    network = onnxviz.to_torch(BY_NAME["training_mode"].model())
    assert not any(module.training for module in network.modules())


def test_a_fixed_batch_is_freed() -> None:
    model = parse("g (float[1,2,2] x) => (float[1,4] y) <int64[2] s = {1,4}> { y = Reshape(x, s) }")
    (found,) = onnxviz.to_torch(model)(torch.arange(12.0).reshape(3, 2, 2))
    torch.testing.assert_close(found, torch.arange(12.0).reshape(3, 4))


def test_weights_of_bfloat16() -> None:
    weight = numpy_helper.from_array(np.array([1.5, 2.5], ml_dtypes.bfloat16), "w")
    model = parse("g (float[2] x) => (float[2] y) { a = Cast <to = 1> (w) y = Add(x, a) }")
    model.graph.initializer.append(weight)
    torch.testing.assert_close(onnxviz.to_torch(model)(torch.zeros(2))[0], torch.tensor([1.5, 2.5]))


def test_nothing_is_written_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(BY_NAME["reshape_host"].model(), path)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda *_, **__: pytest.fail("a file was made"))
    onnxviz.to_torch(path)


def test_names_of_the_file_are_no_names_of_modules() -> None:
    fault = BY_NAME["node_name_is_code"]
    network = onnxviz.to_torch(fault.model())
    assert "SystemExit" not in network.code
    assert not any("exec" in name for name, _ in network.named_modules())


def test_the_limits_of_clip_have_one_gradient() -> None:
    model = parse("g (float[5] x) => (float[5] y) <float low = {-1}, float high = {1}> { y = Clip(x, low, high) }")
    values = torch.tensor([-2.0, -1, 0, 1, 2], requires_grad=True)
    onnxviz.to_torch(model)(values)[0].sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 1, 0, 0]


# Sigmoid of yunet: ONNX Runtime, not onnx2torch


def test_sigmoid_is_nearer_to_the_formula_than_onnx_runtime() -> None:
    """Of yunet's objectness, some 1e-5, ONNX Runtime keeps two digits; what is compared with it must know that."""
    import onnxruntime

    model = parse("g (float[n] x) => (float[n] y) { y = Sigmoid(x) }")
    values = np.linspace(-14, -6, 999, dtype=np.float32)
    exact = 1 / (1 + np.exp(-values.astype(np.float64)))
    ours = onnxviz.to_torch(model)(torch.from_numpy(values))[0].numpy()
    theirs = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": values})[0]
    assert np.abs(ours / exact - 1).max() < 1e-6
    assert np.abs(theirs - exact).max() < 5e-7


# Converters of others


class Gate(nn.Module):
    """Scale channels, and give their means besides."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, values: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale."""
        return values * scale**self.power, values.mean(dim=(2, 3))


@pytest.fixture
def gate() -> Iterator[None]:
    """Register a converter as its author would; forget it afterwards."""
    stock_onnx2torch.load_torchvision()
    from onnx2torch.node_converters import registry
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    before = dict(registry._CONVERTER_REGISTRY)

    @registry.add_converter(operation_type="Gate", version=3, domain="org.example")
    def _(node: Any, graph: Any) -> OperationConverterResult:
        del graph
        return OperationConverterResult(Gate(node.attributes.get("power", 1.0)), onnx_mapping_from_node(node))

    yield
    registry._CONVERTER_REGISTRY.clear()
    registry._CONVERTER_REGISTRY.update(before)


GATED = """g (float[n,3,8,8] image) => (float[n,2] scores, float[n,4] means)
    <float[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[4,1,1] s = {1,2,3,4}, float[2,4,1,1] v = {1,2,3,4,5,6,7,-8}>
    { a = Conv(image, w) b = Relu(a) c, means = org.example.Gate <power = 2.0> (b, s)
      d = Conv(c, v) e = GlobalAveragePool(d) scores = Flatten(e) }"""


@pytest.mark.usefixtures("gate")
@pytest.mark.parametrize("opset", [11, 13, 17, 22])
def test_a_registered_converter_is_used(opset: int) -> None:
    """In the middle of a graph, with an attribute, a weight and two outputs; gradients go through it."""
    network = onnxviz.to_torch(parse(GATED, f'"" : {opset}, "org.example" : 3'))
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    scores, means = network(images)
    first = torch.conv2d(images, torch.arange(1.0, 13).reshape(4, 3, 1, 1)).relu()
    scale = torch.arange(1.0, 5).reshape(4, 1, 1)
    second = torch.conv2d(first * scale**2, torch.tensor([1.0, 2, 3, 4, 5, 6, 7, -8]).reshape(2, 4, 1, 1))
    wanted = second.mean(dim=(2, 3))
    torch.testing.assert_close(scores, wanted)
    torch.testing.assert_close(means, first.mean(dim=(2, 3)))
    (ours,) = torch.autograd.grad(scores.sum(), images)
    (theirs,) = torch.autograd.grad(wanted.sum(), images)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.usefixtures("gate")
def test_of_a_registered_operator_shapes_need_not_be_known() -> None:
    """Stock asks for the type of what InstanceNormalization reads: KeyError."""
    text = "g (float[1,3,2,2] x, float[3,1,1] s) => (float[1,3,2,2] y) <float[3] w = {1,2,3}> "
    model = parse(
        text + "{ a, m = org.example.Gate(x, s) y = InstanceNormalization(a, w, w) }", '"" : 13, "org.example" : 3'
    )
    values = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 2, 3])
    (found,) = onnxviz.to_torch(model)(values, torch.ones(3, 1, 1))
    torch.testing.assert_close(found, nn.functional.instance_norm(values, weight=weight, bias=weight))


@pytest.mark.usefixtures("gate")
def test_other_versions_are_refused_by_name() -> None:
    with pytest.raises(onnxviz.UnsupportedOperatorError, match="Gate"):
        onnxviz.to_torch(parse(GATED, '"" : 17, "org.example" : 4'))


@pytest.mark.usefixtures("gate")  # which forgets what the example registers
def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = "g (float[2,3] x) => (float[2,3] y) { a = Relu(x) b = com.example.Twice <factor = 3.0> (a) y = Neg(b) }"
    onnx.save(parse(text, '"" : 17, "com.example" : 1'), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    torch.testing.assert_close(names["network"](torch.ones(2, 3))[0], torch.full((2, 3), -3.0))


# The page and the script


def test_the_page_lists_every_fault() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert {fault.name for fault in FAULTS} <= set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE))


def test_the_page_names_code_that_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = re.findall(r"`((?:convert|graph)/[\w/]+\.py)(?:: (\w+))?`", text)
    assert len(named) > 40
    for file, symbol in named:
        source = (ROOT / "onnxviz" / file).read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:class|def) {symbol}\b", source, flags=re.MULTILINE), (file, symbol)


def test_boxes_are_suppressed_as_the_standard_says() -> None:
    """The stand-in for a torchvision that does not load, on boxes whose corners are in order."""
    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 5]]).float()
    kept = stock_onnx2torch.suppress(boxes, torch.tensor([0.8, 0.9, 0.1, 0.7]), 0.5)
    assert kept.tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("values", "result"), [([1.0, 2.0], "pass"), ([1.0, 3.0], "wrong"), (NotImplementedError, "refused"),
                           (KeyError, "crash"), ([1.0], "wrong")],
)  # fmt: skip
def test_the_script_tells_what_happened(values: Any, result: str) -> None:
    """What the stock package does is no concern of the tests; that it is told apart is."""

    class Network(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            return torch.tensor(values)

    def convert(_: Any) -> nn.Module:
        if isinstance(values, type):
            raise values("x")
        return Network()

    case = ([np.zeros(1, np.float32)], [np.array([1, 2], np.float32)])
    test = SimpleNamespace(
        name="t", model=parse("g (float[1] x) => (float[2] y) { y = Relu(x) }"), data_sets=[case], rtol=1e-5, atol=1e-6
    )
    assert stock_onnx2torch.run_node_test(convert, test).result == result
