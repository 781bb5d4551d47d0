"""What one kernel computes is computed by one, and only where nobody reads what lies between."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxviz

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


def model(
    nodes: Sequence[tuple[str, str, str]],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Return a model of nodes (operator, inputs, output)."""
    graph = helper.make_graph(
        [helper.make_node(operator, given.split(), [made]) for operator, given, made in nodes],
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def agrees(made: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> set[str]:
    """Compare values and gradients' existence with the reference evaluator; return the names of functions called."""
    network = onnxviz.to_torch(made)
    tensors = [torch.from_numpy(value).requires_grad_(True) for value in inputs.values()]
    found = network(*tensors)
    for ours, theirs in zip(found, ReferenceEvaluator(made).run(None, inputs), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), theirs, rtol=1e-4, atol=1e-5)
    found[0].sum().backward()
    assert all(tensor.grad is not None for tensor in tensors)
    return {node.target.__name__ for node in network.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("given", ["p b", "b p"])
def test_a_product_and_its_bias_are_one_linear_layer(given: str) -> None:
    inputs, constants = {"x": normal(2, 3, 4)}, {"w": normal(4, 5), "b": normal(5)}
    nodes = [("MatMul", "x w", "p"), ("Add", given, "y")]
    assert "linear" in agrees(model(nodes, inputs, constants, ["y"]), inputs)
    assert "linear" not in agrees(model(nodes, inputs, constants, ["y", "p"]), inputs)


@pytest.mark.parametrize("bias", [(1,), (3, 1), (2, 3, 5)])
def test_what_is_no_bias_is_added(bias: tuple[int, ...]) -> None:
    inputs, constants = {"x": normal(2, 3, 4)}, {"w": normal(4, 5), "b": normal(*bias)}
    assert "linear" not in agrees(
        model([("MatMul", "x w", "p"), ("Add", "p b", "y")], inputs, constants, ["y"]), inputs
    )


@pytest.mark.parametrize("scaled", ["", "Mul", "Div"])
@pytest.mark.parametrize("mask", [None, (5,), (4, 5), (2, 1, 4, 5), (1, 3, 4, 5)])
@pytest.mark.parametrize("batch", [(2, 3), (3,), (2, 2, 3)])
def test_attention_is_one_kernel(scaled: str, mask: tuple[int, ...] | None, batch: tuple[int, ...]) -> None:
    if mask is not None and len(mask) > 2 and len(batch) != 2:
        pytest.skip("the mask belongs to another batch")
    inputs = {"q": normal(*batch, 4, 8), "k": normal(*batch, 8, 5), "v": normal(*batch, 5, 6)}
    constants = {"s": np.float32([0.3])}
    nodes, scores = [("MatMul", "q k", "p")], "p"
    if scaled:
        nodes.append((scaled, f"{scores} s", "scaled"))
        scores = "scaled"
    if mask is not None:
        constants["m"] = normal(*mask)
        nodes.append(("Add", f"m {scores}" if len(mask) == 2 else f"{scores} m", "masked"))
        scores = "masked"
    nodes += [("Softmax", scores, "c"), ("MatMul", "c v", "y")]
    if not scaled:
        del constants["s"]
    assert "attend" in agrees(model(nodes, inputs, constants, ["y"]), inputs)
    assert "attend" not in agrees(model(nodes, inputs, constants, ["y", "c"]), inputs)


def test_a_batch_that_is_broadcast_is_attended_to() -> None:
    inputs = {"q": normal(2, 3, 4, 8), "k": normal(1, 3, 8, 5), "v": normal(1, 1, 5, 6)}
    nodes = [("MatMul", "q k", "p"), ("Softmax", "p", "c"), ("MatMul", "c v", "y")]
    assert "attend" in agrees(model(nodes, inputs, {}, ["y"]), inputs)


def test_a_mask_that_enlarges_the_scores_is_kept() -> None:
    inputs = {"q": normal(1, 3, 4, 8), "k": normal(1, 3, 8, 5), "v": normal(1, 3, 5, 6)}
    nodes = [("MatMul", "q k", "p"), ("Add", "p m", "n"), ("Softmax", "n", "c"), ("MatMul", "c v", "y")]
    agrees(model(nodes, inputs, {"m": normal(2, 3, 4, 5)}, ["y"]), inputs)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Mul", "x g", "h"), ("Mul", "h half", "y")],
        [("Mul", "x half", "h"), ("Mul", "h g", "y")],
        [("Mul", "g half", "h"), ("Mul", "h x", "y")],
    ],
)
@pytest.mark.parametrize("scale", [("Div", math.sqrt(2)), ("Mul", math.sqrt(0.5))])
def test_gelu_is_one_kernel_however_it_is_bracketed(
    nodes: list[tuple[str, str, str]], scale: tuple[str, float]
) -> None:
    operator, number = scale
    inputs = {"x": normal(3, 4)}
    constants = {"s": np.float32(number), "one": np.float32(1), "half": np.float32(0.5)}
    constants = {name: np.asarray(value) for name, value in constants.items()}
    chain = [(operator, "x s", "a"), ("Erf", "a", "e"), ("Add", "e one", "g"), *nodes]
    assert "gelu" in agrees(model(chain, inputs, constants, ["y"]), inputs)
    assert "gelu" not in agrees(model(chain, inputs, constants | {"one": np.asarray(np.float32(1.1))}, ["y"]), inputs)
    assert "gelu" not in agrees(model(chain, inputs, constants, ["y", "g"]), inputs)
