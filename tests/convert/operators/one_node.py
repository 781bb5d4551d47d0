"""Models of a single node: made, run by an oracle, converted, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.model.ort_session import saturates


def one_node(
    operator: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int | Sequence[str] = 1,
    *,
    opset: int = 17,
    domain: str = "",
    constants: Sequence[int] = (),
    result: int = TensorProto.UNDEFINED,
    shapes: bool = True,
    **attributes: Any,
) -> onnx.ModelProto:
    """Return a model of one node.

    Args:
        operator: ONNX operator type.
        inputs: its inputs; None leaves one out.
        outputs: how many outputs it has, or their names ("" leaves one out).
        opset: version of the domain.
        domain: domain of the operator.
        constants: which of the inputs are initializers; all others are inputs of the graph.
        result: element type of the outputs where shape inference does not tell.
        shapes: whether the graph's inputs have fixed shapes; if not, only their rank is known.
        attributes: the node's attributes.
    """
    names = ["" if value is None else f"x{index}" for index, value in enumerate(inputs)]
    made = [f"y{index}" for index in range(outputs)] if isinstance(outputs, int) else list(outputs)
    node = helper.make_node(operator, names, made, name="node", domain=domain, **attributes)
    given, initializers = [], []
    for index, value in enumerate(inputs):
        if value is None:
            continue
        if index in constants:
            initializers.append(numpy_helper.from_array(value, names[index]))
        else:
            element = helper.np_dtype_to_tensor_dtype(value.dtype)
            shape: list[Any] = list(value.shape) if shapes else [f"d{index}_{axis}" for axis in range(value.ndim)]
            given.append(helper.make_tensor_value_info(names[index], element, shape))
    results = [onnx.ValueInfoProto(name=name) for name in made if name]
    if result:
        for info in results:
            info.type.tensor_type.elem_type = result
    graph = helper.make_graph([node], "graph", given, results, initializers)
    opsets = [helper.make_opsetid("", opset if not domain else 21)]
    if domain:
        opsets.append(helper.make_opsetid(domain, opset))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)
    return onnx.shape_inference.infer_shapes(model) if not result else model


def oracle(model: onnx.ModelProto, inputs: Sequence[np.ndarray], reference: str = "") -> list[np.ndarray]:
    """Run a model by ONNX Runtime, or by the reference evaluator where that has no kernel.

    Args:
        model: the model.
        inputs: values of its inputs.
        reference: "ort" or "onnx" to have that one only.
    """
    feeds = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
    if reference != "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            results: list[np.ndarray] = session.run(None, feeds)
            return results
        except Exception:
            if reference == "ort":
                raise
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, feeds)]


def witness(
    operator: str, inputs: Sequence[np.ndarray | None], constants: Sequence[int], wanted: np.ndarray, **named: Any
) -> None:
    """Let ONNX Runtime confirm what a test says is right, unless its products of integers saturate here.

    Args:
        operator: ONNX operator type.
        inputs: its inputs; None leaves one out.
        constants: which of the inputs are initializers.
        wanted: what is right.
        named: the other arguments of `one_node`.
    """
    model = one_node(operator, inputs, constants=constants, **named)
    given = [value for index, value in enumerate(inputs) if value is not None and index not in constants]
    (found,) = oracle(model, given, "ort")
    scale = max(1.0, float(np.abs(wanted).max()))
    if not saturates():
        np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=1e-5, atol=1e-5 * scale)


def check(
    operator: str,
    inputs: Sequence[np.ndarray | None],
    outputs: int | Sequence[str] = 1,
    *,
    opset: int = 17,
    domain: str = "",
    constants: Sequence[int] = (),
    result: int = TensorProto.UNDEFINED,
    shapes: bool = True,
    reference: str = "",
    expected: Sequence[np.ndarray] | None = None,
    tolerance: float = 1e-5,
    compiled: bool = False,
    gradient: bool = False,
    **attributes: Any,
) -> tuple[torch.Tensor, ...]:
    """Convert a model of one node and compare values and shapes with an oracle; the other arguments are `one_node`'s.

    Args:
        reference: "ort" or "onnx" to have that oracle only.
        expected: results to compare with instead of an oracle's.
        tolerance: largest difference, relative to the largest magnitude of an output.
        compiled: compile the network as one graph and compare that too.
        gradient: check the gradient of the first output with respect to all floating inputs by finite differences.

    Returns:
        What the network returns.
    """
    model = one_node(
        operator, inputs, outputs, opset=opset, domain=domain, constants=constants, result=result, shapes=shapes,
        **attributes,
    )  # fmt: skip
    given = [value for index, value in enumerate(inputs) if value is not None and index not in constants]
    wanted = list(expected) if expected is not None else oracle(model, given, reference)
    network = onnxviz.to_torch(model)
    tensors = [torch.from_numpy(np.array(value)) for value in given]
    found = network(*tensors)
    _compare(found, wanted, tolerance)
    if compiled:
        torch._dynamo.reset()
        _compare(torch.compile(network, backend="eager", fullgraph=True)(*tensors), wanted, tolerance)
    if gradient:
        check_gradient(network, tensors)
    return tuple(found)


def check_gradient(network: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    """Compare the gradients of the first output with finite differences, in double precision."""
    double = [value.double().requires_grad_(True) if value.is_floating_point() else value for value in inputs]
    precise = network.double()
    assert torch.autograd.gradcheck(lambda *values: precise(*values)[0], double, atol=1e-5, nondet_tol=0.0)
    network.float()


def _compare(found: Sequence[torch.Tensor], wanted: Sequence[np.ndarray], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        theirs = np.asarray(theirs)
        assert tuple(ours.shape) == theirs.shape, f"output {index}: {tuple(ours.shape)} instead of {theirs.shape}"
        array = ours.detach().numpy().astype(np.float64)
        target = theirs.astype(np.float64)
        finite = target[np.isfinite(target)]
        scale = max(1.0, float(np.abs(finite).max())) if finite.size else 1.0
        np.testing.assert_allclose(array, target, rtol=tolerance, atol=tolerance * scale, err_msg=f"output {index}")
