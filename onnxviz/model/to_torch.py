"""Any ONNX model, of vision or not, as a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto
from torch import fx

from onnxviz.convert import Network, declared_elements
from onnxviz.core.errors import SelectionError
from onnxviz.core.values import Layer
from onnxviz.graph import GraphView, make_view, normal_form
from onnxviz.graph.fixed_inputs import InputValue, fix_inputs
from onnxviz.graph.model_file import from_proto, read_model
from onnxviz.model.model import Model
from onnxviz.model.preprocessing import preprocessing_for


def to_torch(
    model_or_path: Model | ModelProto | Path | str,
    outputs: Sequence[Layer | str] | Layer | str | None = None,
    inputs: Mapping[str, InputValue] | None = None,
) -> fx.GraphModule:
    """Return a model as an `fx.GraphModule`, in the file's own layout and without preprocessing.

    Args:
        model_or_path: a loaded model, the file, or a model in memory; it need not be a vision model.
        outputs: layers, or names of any values of the graph, to return; the model's own outputs if None.
        inputs: values for some of the inputs, see `open_model`; the others are the module's arguments.

    Returns:
        A frozen module in eval mode: positional arguments in graph order, a tuple in the order of the outputs. Of a
        loaded model it shares the weights. Floating types are float32; integers that torch computes little with are
        carried by wider ones (`convert.element_types`).

    Raises:
        ModelFileError: if the file cannot be read or is refused as unsafe.
        SelectionError: if a layer or input does not exist, an input cannot take its value, or the model is loaded
            already and inputs are given.
        UnsupportedOperatorError: if an output needs operators that do not convert; names all of them.
    """
    if isinstance(model_or_path, Model):
        model = model_or_path
        if inputs:
            raise SelectionError("a loaded model keeps its inputs", remedy="fix them in load(path, inputs=...)")
        if outputs is None:
            return model.network.cut([output.name for output in model.view.proto.graph.output])
        return model.network.cut(_values(model.view, outputs))
    loaded = from_proto(model_or_path) if isinstance(model_or_path, ModelProto) else read_model(Path(model_or_path))
    fix_inputs(loaded, inputs or {})
    if outputs is not None:
        view = make_view(loaded)
        return to_torch(Model(view, preprocessing_for(view), device="cpu"), outputs)
    draft = normal_form(loaded)
    network = Network(draft.model, draft.names, declared=declared_elements(loaded.proto), exact=draft.exact)
    return network.cut([output.name for output in draft.graph.output])


def _values(view: GraphView, outputs: Sequence[Layer | str] | Layer | str) -> list[str]:
    """Return identifiers of what is asked for: layers, or values of the graph that are no layers (whole numbers)."""
    named = [outputs] if isinstance(outputs, Layer | str) else list(outputs)
    made = {name for node in view.proto.graph.node for name in node.output}
    found: list[str] = []
    for item in named:
        if isinstance(item, Layer):
            found.append(item.value)
            continue
        try:
            found.append(view.layer(item).value)
        except SelectionError:
            values = [safe for safe, name in view.names.items() if name == item and safe in made]
            if len(values) != 1:
                raise
            found.append(values[0])
    return found
