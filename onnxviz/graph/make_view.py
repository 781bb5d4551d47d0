"""From a loaded model to a view of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields

from onnx import ModelProto, NodeProto

from onnxviz.core.errors import ModelFileError, beginning, shorten
from onnxviz.core.memory import show_bytes, total_memory
from onnxviz.graph.conformance import check_nodes
from onnxviz.graph.draft import Draft
from onnxviz.graph.inputs import image_input, input_layout
from onnxviz.graph.layers import foreign_operators, make_layers
from onnxviz.graph.model_file import LoadedModel, ModelFile
from onnxviz.graph.passes import normalise
from onnxviz.graph.shapes import infer
from onnxviz.graph.structure import copy_of
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
