"""From a loaded model to a view of it.

Nodes must have the inputs, outputs and attributes that the standard gives their operator: everything behind this reads
`node.input[1]` of a Reshape without asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields

import onnx
from onnx import AttributeProto, ModelProto, NodeProto

from onnxviz.core.errors import ModelFileError, beginning, shorten
from onnxviz.core.memory import show_bytes, total_memory
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import image_input, input_layout
from onnxviz.graph.layers import foreign_operators, make_layers
from onnxviz.graph.model_file import LoadedModel, ModelFile
from onnxviz.graph.passes import normalise
from onnxviz.graph.shapes import infer
from onnxviz.graph.structure import copy_of
from onnxviz.graph.tensors import nodes_within
from onnxviz.graph.view import GraphView


def make_view(loaded: LoadedModel, sizes: Mapping[str, int] | None = None) -> GraphView:
    """Normalise a loaded model and look at it; `sizes` are those of its free dimensions, by name or place.

    Raises:
        ModelFileError: if the model has no tensor input, or cannot be what it says it is.
    """
    with _contradictions_refused(loaded):
        check_nodes(loaded)
        draft, passes = normalise(loaded, sizes)
        fixed = (f"fixed the input {shorten(name)} to {value}" for name, value in loaded.fixed.items())
        return _look(loaded, draft, (*fixed, *passes))


def normal_form(loaded: LoadedModel) -> Draft:
    """Check and normalise a loaded model, which need not be a vision model.

    Raises:
        ModelFileError: if the model cannot be what it says it is.
    """
    with _contradictions_refused(loaded):
        check_nodes(loaded)
        return normalise(loaded)[0]


@contextmanager
def _contradictions_refused(loaded: LoadedModel) -> Iterator[None]:
    try:
        yield
    except ModelFileError as fault:
        fault.where = fault.where or shorten(loaded.file)
        raise
    except MemoryError as fault:
        raise ModelFileError(
            f"reading it needed more than the memory limit of {show_bytes(total_memory())}",
            where=shorten(loaded.file),
            remedy="give it more with --memory (and in `limits:`, where the recipe sets it), or use a smaller model",
        ) from fault
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
        # What passes the checks and still cannot be computed with: an axis that does not exist, a stride of 0.
        raise ModelFileError(
            f"its graph contradicts itself ({type(fault).__name__}: {beginning(str(fault))})",
            where=shorten(loaded.file),
            remedy="check that it runs in ONNX Runtime; if it does, this is a fault of onnxviz: please report it",
        ) from fault


def _look(loaded: LoadedModel, draft: Draft, passes: tuple[str, ...]) -> GraphView:
    image = image_input(draft.graph)
    if image is None:
        what = "the model has no image input (none of its inputs is a tensor of numbers)"
        raise ModelFileError(what, remedy="give a vision model")
    types = infer(draft.model)
    layout, channels, size = input_layout(draft.graph, types[image.name], image.name)
    layers, naming = make_layers(draft, types, image.name, layout)
    shape = types[image.name].shape or ()
    of_file = {entry.name: getattr(loaded, entry.name) for entry in fields(ModelFile)}
    view = GraphView(
        **{**of_file, "names": draft.names},
        proto=draft.model,
        original=_readable(loaded.proto, draft.readable),
        layers=layers,
        naming=naming,
        input_name=image.name,
        input_layout=layout,
        input_channels=channels,
        input_size=size,
        batch=shape[0] if shape and isinstance(shape[0], int) else None,
        passes=passes,
        refused_operators=(*draft.refused, *foreign_operators(draft.model)),
        types=types,
        mixed_batches=frozenset(draft.mixed_batches),
        exact=draft.exact,
    )
    return view.with_roles_settled()


def _readable(model: ModelProto, nodes: Sequence[NodeProto]) -> ModelProto:
    """Return a model with nodes more that make real numbers of its quantised values."""
    if not nodes:
        return model
    made = {name for node in model.graph.node for name in node.output}
    result = copy_of(model)
    result.graph.node.extend(node for node in nodes if node.input[0] in made)
    return result


def check_nodes(loaded: LoadedModel) -> None:
    """Compare every node of the standard's operators with its schema.

    Raises:
        ModelFileError: for the first node that does not conform; names it.
    """
    model = loaded.proto
    versions = {entry.domain: entry.version for entry in model.opset_import}
    bodies = [(versions, model.graph.node)]
    bodies += [({e.domain: e.version for e in f.opset_import}, f.node) for f in model.functions]
    for opsets, nodes in bodies:
        for node in nodes_within(nodes):
            try:
                schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
            except onnx.defs.SchemaError:
                continue  # not the standard's: listed later, refused where it is needed
            fault = _fault(node, schema)
            if fault:
                name = loaded.node_names.get(node.name) or loaded.names.get("".join(node.output[:1]), "")
                raise ModelFileError(
                    f"{node.op_type} {shorten(name)!r} {fault}",
                    remedy="the file is damaged or its opset is not the declared one: export it again",
                )


def _fault(node: NodeProto, schema: onnx.defs.OpSchema) -> str:
    if not schema.min_input <= len(node.input) <= schema.max_input:
        return f"has {len(node.input)} inputs, which its operator does not take"
    if not schema.min_output <= len(node.output) <= schema.max_output:
        return f"has {len(node.output)} outputs, which its operator does not make"
    for index, entry in enumerate(schema.inputs):
        if entry.option == onnx.defs.OpSchema.FormalParameterOption.Single and not node.input[index]:
            return f"lacks its input {entry.name!r}"
    if not any(node.output):
        return "makes nothing"
    seen: set[str] = set()
    for given in node.attribute:
        if given.name in seen:
            return f"has its attribute {shorten(given.name)!r} twice"
        seen.add(given.name)
        declared = schema.attributes.get(given.name)
        known = given.type in AttributeProto.AttributeType.values()
        kind = AttributeProto.AttributeType.Name(given.type) if known else str(given.type)
        if declared is not None and not given.ref_attr_name and str(declared.type).rpartition(".")[2] != kind:
            return f"has an attribute {shorten(given.name)!r} of type {kind}"
    for name, declared in schema.attributes.items():
        if declared.required and name not in seen:
            return f"lacks its attribute {name!r}"
    return ""
