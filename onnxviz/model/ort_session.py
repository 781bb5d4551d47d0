"""ONNX Runtime: fast passes without gradients, and the reference that conversion is compared with."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto

from onnxviz.convert import extract
from onnxviz.core import limits
from onnxviz.core.errors import ModelError, beginning, shorten
from onnxviz.graph.shapes import UNKNOWN, TensorType, infer, skeleton
from onnxviz.graph.structure import attribute, reads
from onnxviz.graph.tensors import subgraphs
from onnxviz.model.runtime_versions import make_readable

_ONE_MESSAGE = 2_000_000_000
"""A serialised model above this many bytes does not fit into one protobuf message."""


class Session:
    """ONNX Runtime with chosen values of a model as outputs.

    Args:
        model: a model with plain identifiers as names.
        values: identifiers of the values to compute, in order.
        device: "cuda" to run on a GPU where PyTorch sees one; everything else runs on the CPU.
        exact: no graph optimizations, so that every value is what the file says it is.
        any_size: accept images of any height and width, whatever the file declares.
        types: type of each value, where somebody has inferred them already; not used for images of any size.
        names: identifier of a value -> what messages call it.

    Raises:
        ModelError: if ONNX Runtime refuses the model.
    """

    def __init__(
        self,
        model: ModelProto,
        values: Sequence[str],
        *,
        device: str = "cpu",
        exact: bool = False,
        any_size: bool = False,
        types: Mapping[str, TensorType] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        import onnxruntime

        self.values = tuple(values)
        types = _types_at_any_size(model) if any_size else infer(model) if types is None else types
        self._names = names or {}
        wanted = extract(model, list(dict.fromkeys(self.values)))
        self._expected = {value: _trusted(types.get(value, UNKNOWN), wanted.graph) for value in self.values}
        make_readable(wanted)
        if any_size:
            _free_sizes(wanted.graph.input)
        self.inputs = {
            value.name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            for value in wanted.graph.input
        }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, and need not be printed too
        options.use_deterministic_compute = True
        # Idle threads that spin would take the cores from PyTorch, which works in turns with this.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if exact:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = _open(wanted, options, providers(device))
        except Exception as fault:  # every kind of refusal has a class of its own, and none is public
            raise ModelError(
                f"ONNX Runtime refuses the model: {_first_line(fault)}",
                remedy="run `onnxviz inspect` to see which operators it uses",
            ) from fault

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Compute the values for one batch.

        Raises:
            ModelError: if ONNX Runtime fails, for example because the images have the wrong size, or if what it
                computes has not the shape that the graph gives the value.
        """
        given = {name: _as_type(array, self.inputs[name]) for name, array in inputs.items() if name in self.inputs}
        missing = sorted(set(self.inputs) - set(given))
        if missing:
            raise ModelError(f"the values asked for also need the model's inputs {', '.join(map(shorten, missing))}")
        try:
            results = self._session.run(None, given)
        except Exception as fault:
            raise ModelError(f"ONNX Runtime fails: {_first_line(fault)}") from fault
        by_value = dict(zip(dict.fromkeys(self.values), results, strict=True))
        for value, result in by_value.items():
            self._check_shape(value, np.shape(result))
        return [np.asarray(by_value[value]) for value in self.values]

    def _check_shape(self, value: str, shape: tuple[int, ...]) -> None:
        """Never hand out another tensor than the one asked for."""
        expected = self._expected[value].shape
        if expected is None:
            return
        sizes = [size if isinstance(size, int) else None for size in expected]
        if len(sizes) != len(shape) or any(size not in (None, found) for size, found in zip(sizes, shape, strict=True)):
            shown = " × ".join("?" if size is None else str(size) for size in sizes)
            raise ModelError(
                f"ONNX Runtime gives {shorten(self._names.get(value, value))} the shape "
                f"{' × '.join(map(str, shape))}, where the graph says {shown}",
                remedy="name another layer; if the file is valid, this is a fault of onnxviz: please report it",
            )


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Whether ONNX Runtime's sums of uint8 times int8 saturate on this processor: x86 without VNNI.

    Pairs of products are added in 16 bits there (the instruction VPMADDUBSW); see "session.x64quantprecision" in ONNX
    Runtime's session options.
    """
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 64])
    weight = onnx.numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")
    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, [1, 16])
    graph = onnx.helper.make_graph([node], "graph", [value], [result], [weight])
    opsets = [onnx.helper.make_opsetid("", 17)]
    session = Session(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), ["y"], exact=True)
    (found,) = session.run({"x": np.full((1, 64), 255, np.uint8)})
    return bool((found != 255 * 127 * 64).any())


def folds_too_much(graph: GraphProto, types: Mapping[str, TensorType]) -> bool:
    """Whether ONNX Runtime's optimizer would compute constants of more than `limits.FOLDED_BYTES`, or of unknown size.

    It computes what depends on constants only when a session is made, whatever it takes. Importing has folded what is
    small already, so what is left of such nodes is the suspicious rest.
    """
    return _folded_bytes(graph, types, set()) > limits.FOLDED_BYTES


def _folded_bytes(graph: GraphProto, types: Mapping[str, TensorType], constant: set[str]) -> float:
    """Return the bytes of what the optimizer would compute; adds the graph's constants to `constant`."""
    constant.update(tensor.name for tensor in graph.initializer)
    total = 0.0
    for node in graph.node:
        total += sum(_folded_bytes(body, {}, constant) for body in subgraphs(node))
        shape = _known_shape(node, types)
        if not shape and (not node.input or any(name not in constant for name in reads(node))):
            if node.op_type == "Constant":
                constant.update(node.output)
            continue
        names = [name for name in node.output if name]
        constant.update(names)
        total += 0 if shape else sum(most_bytes(types.get(name)) for name in names)
    return total


def _known_shape(node: NodeProto, types: Mapping[str, TensorType]) -> bool:
    """Whether a node asks for dimensions that the optimizer may know without computing the tensor."""
    if node.op_type not in ("Shape", "Size"):
        return False
    kind = types.get(node.input[0])
    if kind is None or kind.shape is None:
        return True  # it may know more
    start, end = attribute(node, "start", 0), attribute(node, "end", len(kind.shape))
    return all(isinstance(size, int) for size in kind.shape[start:end])


def most_bytes(kind: TensorType | None) -> float:
    """Return what a tensor of a type may take; infinite if its size is not known."""
    if kind is None or kind.fixed is None or any(size < 0 for size in kind.fixed):
        return math.inf
    return 8.0 * math.prod(kind.fixed)  # the widest element, so that the element type need not be known


def providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return the execution providers to ask for: CUDA's only where PyTorch sees CUDA, or an error would be printed."""
    chosen: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if device.startswith("cuda") and torch.cuda.is_available():
        index = device.partition(":")[2] or str(torch.cuda.current_device())
        options = {
            "device_id": index,
            "arena_extend_strategy": "kSameAsRequested",  # PyTorch needs the rest of the memory
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",
        }
        chosen.insert(0, ("CUDAExecutionProvider", options))
    return chosen


def _open(model: ModelProto, options: object, chosen: list[str | tuple[str, dict[str, str]]]) -> Any:
    import onnxruntime

    if model.ByteSize() < _ONE_MESSAGE:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=chosen)
    folder = tempfile.mkdtemp(prefix="onnxviz-")
    try:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location="weights")
        return onnxruntime.InferenceSession(str(path), options, providers=chosen)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _types_at_any_size(model: ModelProto) -> dict[str, TensorType]:
    constant = {tensor.name for tensor in model.graph.initializer}
    given = {value.name for value in model.graph.input} - constant
    bones = skeleton(model)
    _free_sizes(value for value in bones.graph.input if value.name in given)
    return infer(bones)


def _trusted(kind: TensorType, graph: GraphProto) -> TensorType:
    """Return a type without the sizes that inference may have wrong: those behind a pooling that rounds up.

    The standard drops a last window that begins behind the image, and onnx's inference counts it.
    """
    if kind.shape is None or not any(attribute(node, "ceil_mode", 0) for node in graph.node):
        return kind
    return TensorType(kind.element, (None,) * len(kind.shape))


def _free_sizes(inputs: Iterable[ValueInfoProto]) -> None:
    for value in inputs:
        dimensions = value.type.tensor_type.shape.dim
        if len(dimensions) == 4:
            for axis, dimension in enumerate(dimensions):
                if axis and dimension.dim_value not in (1, 3):
                    dimension.dim_param = f"size_{axis}"


def _as_type(array: np.ndarray, kind: np.dtype) -> np.ndarray:
    if kind.kind in "iu" and array.dtype.kind == "f":
        bounds = np.iinfo(kind)
        array = np.clip(np.rint(array), bounds.min, bounds.max)
    return np.ascontiguousarray(array, dtype=kind)


def _first_line(fault: Exception) -> str:
    lines = [line for line in str(fault).splitlines() if line.strip()]
    return beginning(lines[0] if lines else type(fault).__name__)
