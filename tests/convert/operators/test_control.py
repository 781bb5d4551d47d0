"""If, Loop and Scan against ONNX Runtime, and the bodies that the standard gives to operators."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from one_node import oracle
from onnx import TensorProto, helper, parser

import onnxviz
from onnxviz.core import limits


def check(
    text: str,
    *inputs: np.ndarray,
    opset: int = 17,
    compiled: bool = False,
    wanted: list[np.ndarray] | None = None,
) -> torch.nn.Module:
    """Convert the graph that a text describes and compare with ONNX Runtime."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    network = onnxviz.to_torch(model)
    tensors = [torch.from_numpy(np.array(value)) for value in inputs]
    targets = wanted if wanted is not None else oracle(model, inputs, "ort")
    runs = [network]
    if compiled:
        torch._dynamo.reset()
        runs.append(torch.compile(network, backend="eager", fullgraph=True))
    for run in runs:
        for found, target in zip(run(*tensors), targets, strict=True):
            assert tuple(found.shape) == np.shape(target)
            np.testing.assert_allclose(found.numpy(), target, rtol=1e-5, atol=1e-6)
    return network


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


BRANCHES = """agraph (float[n, 3] x, bool c) => (float[m, k] y) <float[3] w = {1.0, 2.0, 3.0}> {
    z = Mul(x, w)
    y = If (c) <
        then_branch = yes () => (float[m, k] a) { two = Constant <value_float = 2.0>() s = Mul(z, two) a = Neg(s) },
        else_branch = no () => (float[m, k] b) { t = Transpose(z) b = Mul(t, t) }>
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_a_computed_condition_chooses_a_branch_that_reads_values_from_outside(condition: bool) -> None:
    network = check(BRANCHES, numbers(4, 3), np.array(condition))
    x = torch.from_numpy(numbers(4, 3)).requires_grad_(True)
    (made,) = network(x, torch.tensor(condition))
    (gradient,) = torch.autograd.grad(made.sum(), x)
    weights = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(gradient, (-2 * weights).expand(4, 3) if condition else 2 * x.detach() * weights**2)


def test_of_a_constant_condition_only_its_branch_is_converted() -> None:
    text = """agraph (float[n, 3] x) => (float[n, 3] y) <bool c = {1}> {
        y = If (c) <then_branch = yes () => (float[n, 3] a) { a = Neg(x) },
                    else_branch = no () => (float[n, 3] b) { b = RandomNormalLike(x) }>
    }"""
    check(text, numbers(4, 3), compiled=True, wanted=[-numbers(4, 3)])


def test_a_condition_on_the_shape_costs_no_reading_of_a_tensor() -> None:
    text = """agraph (float[n, k, 3] x) => (float[p, q] y) <int64[1] axis = {1}, int64 one = {1}, int64 two = {2}> {
        s = Shape(x)
        d = Gather(s, one)
        c = Equal(d, one)
        y = If (c) <
            then_branch = yes () => (float[p, q] a) { a = Squeeze(x, axis) },
            else_branch = no () => (float[p, q] b) { j = Mul(d, two) b = Reduced(j) }>
    }""".replace("b = Reduced(j)", "f = Cast <to = 1> (j) m = ReduceMax <axes = [1], keepdims = 0> (x) b = Mul(m, f)")
    # With compiled=True reading a tensor would break the graph.
    check(text, numbers(4, 1, 3), compiled=True)
    check(text, numbers(4, 5, 3), compiled=True)


LOOP = """agraph (float[2] x, int64 m) => (float[2] last, float[p, 2] all) <float half = {0.5}, bool yes = {1}> {
    last, all = Loop (m, yes, x) <body = step (int64 i, bool go, float[2] v) => (bool on, float[2] w, float[2] out) {
        on = Identity(go)
        f = Cast <to = 1> (i)
        h = Mul(v, half)
        w = Add(h, f)
        out = Mul(w, x)
    }>
}"""


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_a_loop_runs_as_often_as_it_is_told(trips: int) -> None:
    check(LOOP, numbers(2), np.array(trips, np.int64))


def test_a_loop_of_a_constant_number_of_trips_compiles_and_passes_gradients() -> None:
    text = LOOP.replace(", int64 m)", ")").replace("<float half", "<int64 m = {3}, float half")
    network = check(text, numbers(2), compiled=True)
    x = torch.from_numpy(numbers(2)).double().requires_grad_(True)
    assert torch.autograd.gradcheck(network.double(), x)


def test_a_loop_ends_when_its_body_says_so() -> None:
    text = """agraph (float x, float bound) => (float y, float[p] all) <bool yes = {1}, float two = {2.0}> {
        y, all = Loop ( , yes, x) <body = step (int64 i, bool go, float v) => (bool on, float w, float out) {
            w = Mul(v, two)
            on = Less(w, bound)
            out = Identity(v)
        }>
    }"""
    check(text, np.array(1.0, np.float32), np.array(37.0, np.float32))
    check(text, np.array(100.0, np.float32), np.array(37.0, np.float32))


def test_a_body_may_declare_the_trip_as_a_vector_of_one() -> None:
    text = LOOP.replace("int64 i, bool go", "int64[1] i, bool[1] go").replace("bool on", "bool[1] on")
    network = onnxviz.to_torch(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    plain = onnxviz.to_torch(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {LOOP}'))
    inputs = torch.from_numpy(numbers(2)), torch.tensor(3)
    for found, wanted in zip(network(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("most", [2**62, limits.LOOP_TRIPS + 1])
def test_an_endless_loop_is_refused(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOP_TRIPS", 100)
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {LOOP}')
    with pytest.raises(onnxviz.ModelError, match="more than 100"):
        onnxviz.to_torch(model)(torch.zeros(2), torch.tensor(most))


def test_loops_in_loops_share_one_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """agraph (float x, int64 m) => (float y) <bool yes = {1}, float one = {1.0}> {
        y = Loop (m, yes, x) <body = outer (int64 i, bool go, float v) => (bool on, float w) {
            on = Identity(go)
            w = Loop (m, go, v) <body = inner (int64 j, bool go2, float a) => (bool on2, float b) {
                on2 = Identity(go2)
                b = Add(a, one)
            }>
        }>
    }"""
    network = check(text, np.array(0.5, np.float32), np.array(7, np.int64))
    monkeypatch.setattr(limits, "LOOP_TRIPS", 55)  # 7 + 49 are needed
    with pytest.raises(onnxviz.ModelError, match="more than 55"):
        network(torch.tensor(0.5), torch.tensor(7))
    network(torch.tensor(0.5), torch.tensor(6))  # the count starts again after a refusal


def test_a_loop_that_doubles_what_it_carries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOP_BYTES", 1 << 20)
    text = """agraph (float[n] x, int64 m) => (float[k] y) <bool yes = {1}> {
        y = Loop (m, yes, x) <body = step (int64 i, bool go, float[a] v) => (bool on, float[b] w) {
            on = Identity(go)
            w = Concat <axis = 0> (v, v)
        }>
    }"""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    with pytest.raises(onnxviz.ModelError, match=r"too large|bound"):
        onnxviz.to_torch(model)(torch.zeros(2), torch.tensor(60))


SCAN = """agraph (float[2] s, float[n, 2] x, float[2, n] z) => (float[2] t, float[p, q] a, float[r, u] b) {
    t, a, b = Scan (s, x, z) <num_scan_inputs = 2, ATTRIBUTES, body = step
        (float[2] v, float[2] i, float[2] j) => (float[2] w, float[2] c, float[2] d) {
        p1 = Mul(i, j)
        w = Add(v, p1)
        c = Mul(w, s)
        d = Sub(i, v)
    }>
}"""


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    "attributes",
    [
        "scan_input_axes = [0, 1]",
        "scan_input_axes = [0, -1], scan_input_directions = [1, 0]",
        "scan_input_axes = [0, 1], scan_output_axes = [1, 0], scan_output_directions = [0, 1]",
        "scan_input_axes = [0, 1], scan_output_axes = [-1, 0], scan_output_directions = [1, 0]",
    ],
)
def test_scan_runs_along_its_axes(steps: int, attributes: str) -> None:
    text = SCAN.replace("ATTRIBUTES", attributes)
    network = check(text, numbers(2), numbers(steps, 2, seed=1), numbers(2, steps, seed=2), compiled=True)
    inputs = [torch.from_numpy(array).double() for array in (numbers(2), numbers(3, 2, seed=1), numbers(2, 3, seed=2))]
    assert torch.autograd.gradcheck(network.double(), [value.requires_grad_(True) for value in inputs])


def test_scan_over_nothing_makes_nothing() -> None:
    text = SCAN.replace("ATTRIBUTES", "scan_input_axes = [0, 1]")
    network = onnxviz.to_torch(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    state, first, second = network(torch.ones(2), torch.zeros(0, 2), torch.zeros(2, 0))
    assert state.tolist() == [1.0, 1.0]
    assert tuple(first.shape) == tuple(second.shape) == (0, 2)


def test_scan_over_an_endless_axis_of_nothing_is_refused() -> None:
    text = """agraph (float[n, 0] x) => (float[p, 0] y) {
        y = Scan (x) <num_scan_inputs = 1, body = step (float[0] i) => (float[0] o) { o = Neg(i) }>
    }"""
    network = onnxviz.to_torch(parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'))
    with pytest.raises(onnxviz.ModelError, match="loop over"):
        network(torch.zeros(1 << 40, 0))


@pytest.mark.parametrize("lengths", [None, [3, 1]])
@pytest.mark.parametrize("backward", [0, 1])
def test_scan_8_goes_over_every_image_of_a_batch(lengths: list[int] | None, backward: int) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "i"], ["w"]), helper.make_node("Identity", ["w"], ["o"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "vi"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "wo"],
    )
    node = helper.make_node(
        "Scan", ["" if lengths is None else "l", "s", "x"], ["t", "y"], num_scan_inputs=1, directions=[backward],
        body=body,
    )  # fmt: skip
    inputs = [helper.make_tensor_value_info("s", 1, ["n", 2]), helper.make_tensor_value_info("x", 1, ["n", 3, 2])]
    given = [numbers(2, 2), numbers(2, 3, 2, seed=1)]
    if lengths is not None:
        inputs.insert(0, helper.make_tensor_value_info("l", TensorProto.INT64, ["n"]))
        given.insert(0, np.array(lengths, np.int64))
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=name) for name in "ty"])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=5)
    state, steps = numbers(2, 2), numbers(2, 3, 2, seed=1)
    ends, sums = state.copy(), np.zeros((2, 3, 2), np.float32)
    for image, count in enumerate(lengths or [3, 3]):
        order = range(count)[:: -1 if backward else 1]
        for place, step in enumerate(order):
            ends[image] += steps[image, step]
            sums[image, place] = ends[image]
    found = onnxviz.to_torch(model)(*map(torch.from_numpy, given))
    np.testing.assert_allclose(found[0].numpy(), ends, rtol=1e-5)
    np.testing.assert_allclose(found[1].numpy(), sums, rtol=1e-5)


def nested(depth: int) -> onnx.ModelProto:
    """Return a model of If within If, so deep."""
    inner = parser.parse_graph("g () => (float[2] y0) { y0 = Neg(x) }")
    for level in range(1, depth + 1):
        other = parser.parse_graph(f"g () => (float[2] z{level}) {{ z{level} = Abs(x) }}")
        node = helper.make_node("If", ["c"], [f"y{level}"], then_branch=inner, else_branch=other)
        inner = helper.make_graph([node], "g", [], [helper.make_tensor_value_info(f"y{level}", 1, [2])])
    inner.input.extend([helper.make_tensor_value_info("x", 1, [2]), helper.make_tensor_value_info("c", 9, [])])
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_bodies_may_lie_in_bodies_but_not_without_end() -> None:
    found = onnxviz.to_torch(nested(4))(torch.tensor([1.0, -2.0]), torch.tensor(True))
    assert found[0].tolist() == [-1.0, 2.0]
    with pytest.raises(onnxviz.ModelError):
        onnxviz.to_torch(nested(20))


def test_many_bodies_cannot_copy_a_large_weight_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_BYTES", 10_000)
    steps = [
        f"y{i} = If (c) <then_branch = yes{i} () => (float[1000] p{i}) {{ p{i} = Mul(x, w) }}, "
        f"else_branch = no{i} () => (float[1000] q{i}) {{ q{i} = Abs(x) }}>"
        for i in range(3)
    ]
    outputs = ", ".join(f"float[1000] y{i}" for i in range(3))
    text = f"agraph (float[1000] x, bool c, float[1000] w) => ({outputs}) {{ {' '.join(steps)} }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    del model.graph.input[2:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(numbers(1000), "w"))
    with pytest.raises(onnxviz.UnsupportedOperatorError, match="bytes of outer weights"):
        onnxviz.to_torch(model)


def test_a_body_of_the_standard_has_the_defaults_of_its_attributes_and_lacks_what_is_left_out() -> None:
    from onnxviz.convert.definitions import definition

    elu = onnx.defs.get_schema("Elu", 18, "")
    written = definition(helper.make_node("Elu", ["x"], ["y"]), elu, 18, {}, 8).model
    values = [entry.f for node in written.graph.node for entry in node.attribute if entry.name == "value_float"]
    assert 1.0 in values
    clip = onnx.defs.get_schema("Clip", 17, "")
    types = {"x": onnxviz.graph.shapes.TensorType(TensorProto.FLOAT, (3,)),
             "m": onnxviz.graph.shapes.TensorType(TensorProto.FLOAT, ())}  # fmt: skip
    written = definition(helper.make_node("Clip", ["x", "", "m"], ["y"]), clip, 17, types, 8).model
    assert [value.name for value in written.graph.input] == ["input", "max"]


@pytest.mark.zoo
def test_the_voice_detector_agrees_in_both_branches(zoo: object) -> None:
    path = str(zoo) + "/onnx/silero_vad.onnx"
    network = onnxviz.to_torch(path)
    model = onnx.load(path)
    for rate, length in ((16000, 576), (8000, 288)):
        time = np.arange(length) / rate
        sound = np.stack([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in (150, 400)]).astype(np.float32)
        sound += 0.02 * numbers(2, length)
        inputs = [sound, numbers(2, 2, 128) * np.float32(0.1), np.array(rate, np.int64)]
        wanted = oracle(model, inputs, "ort")
        tensors = [torch.from_numpy(value) for value in inputs]
        tensors[0].requires_grad_(True)
        found = network(*tensors)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours.detach().numpy(), theirs, atol=1e-4)
        (gradient,) = torch.autograd.grad(found[0].sum(), tensors[0])
        assert gradient.abs().sum() > 0
