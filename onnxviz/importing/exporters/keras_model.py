"""Turn a Keras file or a SavedModel folder into ONNX.

The file is examined before a framework sees it: Keras configurations can name Python code to run, and HDF5 files can
point at other files.
"""

from __future__ import annotations

import builtins
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from onnxviz.importing.exporters import keras_source as source
from onnxviz.importing.exporters.process import RefusedError, require

PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "tf_keras", "tf2onnx")
"""Whose versions the importer writes down."""
OPSET = 18
"""Newest opset that tf2onnx writes."""
CONFIG_BYTES = 64 << 20
"""Longest configuration of a model."""

OWN = re.compile(
    r"(keras|tf_keras|tensorflow\.keras|tensorflow\.python\.keras)(\.(src\.)?(layers|models|initializers|regularizers"
    r"|constraints|activations|dtype_policies|ops|random|engine|mixed_precision|quantizers|optimizers|losses|metrics)"
    r"(\..*)?)?",
    re.DOTALL,
)
"""Modules whose own classes a configuration may name: the parts of Keras that hold what a network is made of."""
FORBIDDEN = {
    "Lambda": "holds Python code",
    "__lambda__": "holds Python code",
    "TFSMLayer": "loads another model from a path",
    "TorchModuleWrapper": "holds a PyTorch pickle",
    "FlaxLayer": "holds Python code",
    "JaxLayer": "holds Python code",
    "StringLookup": "reads a vocabulary file",
    "IntegerLookup": "reads a vocabulary file",
    "TextVectorization": "reads a vocabulary file",
}
"""Classes that are never built, with the reason."""
FUNCTION = re.compile(
    r"(math|nn|image|linalg|signal|compat\.v1\.nn|__operators__|_operator)\.[a-z0-9_]+"
    r"|abs|add|argmax|argmin|cast|clip_by_value|concat|divide|exp|expand_dims|gather|identity|linspace|matmul|maximum"
    r"|minimum|multiply|negative|norm|one_hot|ones_like|pad|pow|reduce_(max|mean|min|sum|prod)|repeat|reshape|reverse"
    r"|round|scalar_mul|shape|sigmoid|sign|slice|split|sqrt|square|squeeze|stack|strided_slice|subtract|tanh|tile"
    r"|transpose|unstack|where|zeros_like"
)
"""TensorFlow functions that a Keras 2 model may call as layers; none reads, writes or loads anything."""
GRAPH_FORBIDDEN = re.compile(
    r"ReadFile|WriteFile|MatchingFiles|.*PyFunc.*|.*(Reader|ReaderV2)|.*Dataset(V\d+)?|.*RpcCall.*|DebugIdentity.*"
    r"|Write\w*Summary|\w*SummaryWriter\w*|PrintV2|Print|SaveSlices|LoadAndRemapMatrix|GenerateVocabRemapping"
)
"""Operators of a SavedModel that reach files or Python; saving and restoring its own variables is part of every one."""


# --- what a configuration may name ----------------------------------------------------------------------------------


def check_config(config: Any) -> None:
    """Refuse a model's configuration (parsed JSON) that names anything but the framework's own layers.

    Raises:
        RefusedError: names the layer, its class, and the remedy.
    """
    stack: list[tuple[Any, str]] = [(config, "")]
    while stack:
        entry, layer = stack.pop()
        if isinstance(entry, list):
            stack.extend((item, layer) for item in entry)
        elif isinstance(entry, dict):
            inner = entry.get("config")
            if isinstance(entry.get("class_name"), str):
                own = entry.get("name") or (inner.get("name") if isinstance(inner, dict) else "")
                layer = own if isinstance(own, str) and own else layer
                _check_object(entry, layer)
            stack.extend((item, layer) for item in entry.values())


def _check_object(entry: dict[str, Any], layer: str) -> None:
    name, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    inner = entry.get("config")
    if name in FORBIDDEN:
        raise RefusedError(
            f"the layer {layer!r} is a {name}, which {FORBIDDEN[name]}",
            "replace it by Keras' own layers, or call model.export(folder) where you trust the file, and import that",
        )
    if name in ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod"):
        function = inner.get("function") if isinstance(inner, dict) else None
        if name not in ("TFOpLambda", "SlicingOpLambda") or not FUNCTION.fullmatch(str(function)):
            raise RefusedError(
                f"the layer {layer!r} calls {function or name!r}, which is not on the list of harmless functions",
                "replace it by Keras' own layers, or call model.export(folder) where you trust the file",
            )
    if module == "builtins" or name == "function":
        if name == "function" and (module not in (None, "builtins") and not _is_own(module)):
            raise _custom(layer, f"{module}.{inner}", registered)
        if name == "function" and (not isinstance(inner, str) or (hasattr(builtins, inner) and inner not in _ALSO)):
            raise _custom(layer, str(inner), registered)
        return
    if module is not None and not _is_own(module):
        raise _custom(layer, f"{module}.{name}", registered)
    if (">" in name and not name.startswith("Keras>")) or (isinstance(registered, str) and _is_foreign(registered)):
        raise _custom(layer, name, registered)


_ALSO = ("abs", "max", "min", "pow", "round", "sum")
"""Built-in names that are activations or operations of Keras too."""


def _is_own(module: object) -> bool:
    """Tell whether a module belongs to the part of a framework that networks are made of."""
    return isinstance(module, str) and OWN.fullmatch(module) is not None


def _is_foreign(registered: str) -> bool:
    return ">" in registered and registered.split(">", 1)[0].lower() not in ("keras", "keras_core", "tf_keras")


def _custom(layer: str, name: str, registered: object) -> RefusedError:
    shown = registered if isinstance(registered, str) and registered else name
    place = f"the layer {layer!r}" if layer else "the model"
    return RefusedError(
        f"{place} is of the custom class or function {shown!r}, whose code is not in the file",
        "where its code is, call model.export('folder') and import that folder, or model.export(..., format='onnx')",
    )


# --- files ----------------------------------------------------------------------------------------------------------


def read_config(path: Path, kind: str, limit: int) -> tuple[dict[str, Any], str]:
    """Read a model's configuration and the version of the Keras that wrote it; the rest of the file is checked.

    Args:
        path: the file.
        kind: "keras" or "hdf5".
        limit: most bytes that its tensors may take.

    Raises:
        RefusedError: if the file is damaged, unsafe, or holds weights only.
    """
    if kind == "keras":
        return _read_archive(path, limit)
    h5py = require("h5py")
    try:
        with h5py.File(path, "r") as file:
            check_hdf5(h5py, file, limit)
            text, version = file.attrs.get("model_config"), file.attrs.get("keras_version", "")
    except OSError as fault:
        raise RefusedError(f"a damaged HDF5 file: {fault}", "save or copy the model again; it may be cut off") from None
    if text is None:
        raise RefusedError(
            "an HDF5 file that holds weights only, no architecture",
            "build the model in Python, load the weights into it, and save it with model.save('model.keras')",
        )
    return _parse(text), _text(version)


def _read_archive(path: Path, limit: int) -> tuple[dict[str, Any], str]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > limit or len(members) > 10_000:
            raise RefusedError(f"its unpacked content is larger than {limit:,} bytes", "use a smaller model")
        if archive.getinfo("config.json").file_size > CONFIG_BYTES:
            raise RefusedError("its configuration is larger than any network needs", "save the model again")
        config = _parse(archive.read("config.json"))
        version = ""
        if "metadata.json" in archive.namelist() and archive.getinfo("metadata.json").file_size < CONFIG_BYTES:
            version = _text(_parse(archive.read("metadata.json")).get("keras_version", ""))
        h5py = require("h5py")
        for member in members:
            if member.filename.endswith(".h5"):
                with archive.open(member) as stream:
                    try:
                        with h5py.File(stream, "r") as file:
                            check_hdf5(h5py, file, limit)
                    except OSError as fault:
                        raise RefusedError(f"its weights are damaged: {fault}", "save or copy it again") from None
    return config, version


def _parse(text: Any) -> dict[str, Any]:
    try:
        parsed = json.loads(_text(text))
    except (ValueError, RecursionError) as fault:
        raise RefusedError(f"its configuration is no JSON: {fault}", "save or copy the model again") from None
    if not isinstance(parsed, dict):
        raise RefusedError("its configuration describes no model", "save the model again")
    return parsed


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def check_hdf5(h5py: Any, file: Any, limit: int) -> None:
    """Refuse links out of the file, data that lies elsewhere, and more data than `limit` bytes.

    Raises:
        RefusedError: names the entry.
    """
    total = 0
    seen: set[Any] = set()
    stack: list[tuple[Any, str]] = [(file, "")]
    while stack:
        group, place = stack.pop()
        for name in group:
            path = f"{place}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RefusedError(f"the entry {path!r} points elsewhere, which is refused", "save the model again")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                stack.append((item, path))
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise RefusedError(f"the data of {path!r} lie in another file", "save the model again")
                total += int(item.size or 0) * int(item.dtype.itemsize)
            if total > limit or len(seen) > 1_000_000:
                raise RefusedError(f"its tensors take more than {limit:,} bytes", "use a smaller model")


# --- export ---------------------------------------------------------------------------------------------------------


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model and export it; returns what the importer writes down."""
    return _export_saved_model(request) if request["kind"] == "saved_model" else _export_keras(request)


def _export_keras(request: dict[str, Any]) -> dict[str, Any]:
    config, version = read_config(Path(request["source"]), request["kind"], request["limit"])
    check_config(config)
    old = not re.match(r"[3-9]|\d\d", version)  # the oldest files do not say
    tensorflow = require("tensorflow")
    keras = require("tf_keras" if old else "keras")
    require("tf2onnx")
    if not old and keras.backend.backend() != "tensorflow":
        raise RefusedError(f"Keras runs on {keras.backend.backend()} here", "set KERAS_BACKEND=tensorflow")
    try:
        model = (keras.models if old else keras.saving).load_model(request["source"], compile=False, safe_mode=True)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, ImportError) as fault:
        raise RefusedError(f"Keras cannot load it: {first_sentence(fault)}", _advice(fault)) from None
    if not getattr(model, "inputs", None):
        raise RefusedError(
            "the model's inputs are not known before it is called",
            "call it once on an image and use model.export('folder'), then import that folder",
        )
    signature = [
        tensorflow.TensorSpec(_shape(item, request, index), item.dtype, name=_plain(item.name.split(":")[0]))
        for index, item in enumerate(model.inputs)
    ]
    layers = list(_leaves(model))
    nested = tensorflow.nest if hasattr(tensorflow, "nest") else None
    structure = model._nested_inputs if old and hasattr(model, "_nested_inputs") else getattr(model, "input", None)

    def forward(*tensors: Any) -> Any:
        given = nested.pack_sequence_as(structure, tensors) if nested and len(tensors) > 1 else tensors[0]
        return model(given, training=False)

    reference = source.reference(tensorflow, forward, signature)
    names = {} if old else _name_scopes(tensorflow, layers)
    proto = _convert(tensorflow, forward, signature)
    compared = source.write_reference(reference, proto, signature, request["reference"])
    _clean_names(proto, names, model.name if old else "")
    found = _scopes(proto)
    _add_folded(found, layers)
    _write_scopes(proto, found)
    source.name_outputs(proto, [str(name) for name in getattr(model, "output_names", [])])
    _save(proto, request)
    return {"written_by": f"keras {version}" if version else "Keras", "reference": compared}


def _shape(item: Any, request: dict[str, Any], index: int) -> list[int | None]:
    """Return an input's shape: the model's own, with a free batch, or what the user gave."""
    shape = [None if size is None else int(size) for size in item.shape]
    given = request.get("input_shape")
    if given and index == 0:
        if len(given) != len(shape) or any(a not in (None, b) for a, b in zip(shape[1:], given[1:])):  # noqa: B905
            raise RefusedError(f"the input is {shape}, which {given} does not fit", "leave --input-shape out")
        shape = [shape[0], *given[1:]]
    shape[0] = None
    return shape


def _plain(name: str) -> str:
    """Return a name that TensorFlow accepts."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name) if re.match(r"[A-Za-z]", name) else f"input_{len(name)}"


def _leaves(model: Any, path: str = "") -> Any:
    """Yield every layer that holds no others, with its path of names, in the order of the model."""
    for layer in model.layers:
        own = f"{path}/{layer.name}" if path else layer.name
        if getattr(layer, "layers", None):
            yield from _leaves(layer, own)
        else:
            yield own, layer


def _name_scopes(tensorflow: Any, layers: list[tuple[str, Any]]) -> dict[str, str]:
    """Let each layer's operators carry its own path, which Keras 3 numbers anew; returns scope -> path."""
    names: dict[str, str] = {}
    for index, (path, layer) in enumerate(layers):
        scope = f"layer{index}"
        names[scope] = path
        layer.call = _scoped(tensorflow, layer.call, scope)
    return names


def _scoped(tensorflow: Any, call: Any, scope: str) -> Any:
    import functools

    @functools.wraps(call)
    def wrapped(*values: Any, **options: Any) -> Any:
        with tensorflow.name_scope(f"{scope}/"):  # the stroke makes it absolute, and never numbered
            return call(*values, **options)

    return wrapped


def _export_saved_model(request: dict[str, Any]) -> dict[str, Any]:
    """Load a SavedModel folder and export one of its signatures."""
    tensorflow = require("tensorflow")
    require("tf2onnx")
    folder = Path(request["source"])
    _check_graph(folder)
    try:
        loaded = tensorflow.saved_model.load(str(folder))
    except Exception as fault:
        raise RefusedError(f"TensorFlow cannot load it: {first_sentence(fault)}", "save the model again") from None
    wanted = request.get("signature") or "serving_default"
    signatures = dict(loaded.signatures)
    if wanted not in signatures:
        known = ", ".join(map(repr, sorted(signatures))) or "none"
        raise RefusedError(f"no signature is called {wanted!r}; there are: {known}", "name one with --signature")
    function = signatures[wanted]
    taken = function.structured_input_signature[1]
    keys = list(taken)
    signature = []
    for index, key in enumerate(keys):
        spec = taken[key]
        if spec.shape.rank is None and not (request.get("input_shape") and not index):
            raise RefusedError(f"the input {key!r} has no shape", "give one: --input-shape 1,224,224,3")
        shape = request["input_shape"] if spec.shape.rank is None else _shape(spec, request, index)
        signature.append(tensorflow.TensorSpec(shape, spec.dtype, name=_plain(key)))

    def forward(*tensors: Any) -> Any:
        return function(**dict(zip(keys, tensors)))  # noqa: B905

    reference = source.reference(tensorflow, forward, signature)
    proto = _convert(tensorflow, forward, signature)
    compared = source.write_reference(reference, proto, signature, request["reference"])
    _clean_names(proto, {}, "")
    _write_scopes(proto, _scopes(proto))
    _save(proto, request)
    return {"written_by": "SavedModel", "reference": compared}


def _check_graph(folder: Path) -> None:
    """Refuse a SavedModel whose graph reaches files or Python: loading it runs parts of the graph."""
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-untyped,import-not-found,unused-ignore]

    saved = saved_model_pb2.SavedModel()
    file = folder / "saved_model.pb"
    if not file.is_file():
        raise RefusedError("a SavedModel in text form", "save it again: tf.saved_model.save(model, 'folder')")
    try:
        saved.ParseFromString(file.read_bytes())
    except Exception:
        raise RefusedError("saved_model.pb is damaged", "save or copy the folder again") from None
    for meta in saved.meta_graphs:
        graph = meta.graph_def
        for node in (*graph.node, *(node for function in graph.library.function for node in function.node_def)):
            if GRAPH_FORBIDDEN.fullmatch(node.op):
                raise RefusedError(
                    f"the graph's node {node.name!r} is a {node.op}, which reaches files or Python code",
                    "save the network without its input pipeline",
                )


def _convert(tensorflow: Any, forward: Any, signature: list[Any]) -> Any:
    import tf2onnx  # type: ignore[import-untyped,import-not-found,unused-ignore]

    function = tensorflow.function(forward, input_signature=signature)
    try:
        proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    except Exception as fault:
        raise RefusedError(f"tf2onnx cannot convert it: {first_sentence(fault)}", _advice(fault)) from None
    traced = function.get_concrete_function(*signature)
    unknown = source.fill_in_constants(proto, traced, {item.name for item in signature})
    if unknown:
        raise RefusedError(f"tf2onnx made inputs that the model has not: {', '.join(unknown[:4])}", _SAVE_OTHERWISE)
    return proto


_SAVE_OTHERWISE = "import the model in another form: .keras, or a folder of model.export"


# --- names ----------------------------------------------------------------------------------------------------------

_MADE = re.compile(r"__\d+(:\d+)?$")
_CALLS = re.compile(r"^((StatefulPartitionedCall|PartitionedCall)(_\d+)?/)+")


def _clean_names(proto: Any, names: dict[str, str], root: str) -> None:
    """Name nodes and values by the path of their layer: no wrapping calls, no model's own name, no scope numbers."""
    graph = proto.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    texts = {node.name for node in graph.node} | {name for node in graph.node for name in node.output if name}
    texts |= {value.name for value in graph.initializer}
    stripped = {text: _CALLS.sub("", text) for text in sorted(texts - fixed)}
    if not names and not root:
        heads = {text.partition("/")[0] for text in stripped.values() if text.count("/") > 1}
        root = heads.pop() if len(heads) == 1 else ""
    cleaned: dict[str, str] = {}
    for text, short in stripped.items():
        head, stroke, rest = short.partition("/")
        if stroke and head in names:
            short = f"{names[head]}/{rest}"
        elif stroke and root and head == root:
            short = rest
        cleaned[text] = short
    if len(set(cleaned.values()) | fixed) != len(cleaned) + len(fixed):
        return  # two would have one name: they stay as they are
    for node in graph.node:
        node.name = cleaned.get(node.name, node.name)
    source.rename_values(graph, cleaned)


def _scopes(proto: Any) -> list[list[str]]:
    """Return for each node the layers it belongs to, outermost first; none for what tf2onnx put in between."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    taken = {node.name for node in proto.graph.node}
    found: list[list[str]] = []
    for node in proto.graph.node:
        texts = [node.name, node.output[0]]
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):  # a fused one has but its weights' names
            texts += [name for name in node.input[1:] if name in weights]
        folders = [text.rpartition("/")[0] for text in texts if not _MADE.search(text)]
        found.append(list(dict.fromkeys(path for folder in folders for path in _prefixes(folder))))
        spoken = next((folder for folder in folders if folder), "")
        if _MADE.search(node.name) and "/" not in node.name and spoken and f"{spoken}/{node.op_type}" not in taken:
            node.name = f"{spoken}/{node.op_type}"
            taken.add(node.name)
    return found


def _prefixes(path: str) -> list[str]:
    parts = path.split("/") if path else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _add_folded(found: list[list[str]], layers: list[tuple[str, Any]]) -> None:
    """Name the node that a layer's weights went into, where TensorFlow folded it into the one layer behind it.

    A convolution in front of its batch normalization is folded into one convolution that has the latter's name.
    """
    paths = {id(layer): path for path, layer in layers}
    for path, layer in reversed(layers):
        if not layer.weights or any(path in scopes for scopes in found):
            continue
        behind = {
            paths[id(target)]
            for node in getattr(layer, "_outbound_nodes", [])
            for target in [getattr(node, "operation", getattr(node, "layer", None))]
            if id(target) in paths
        }
        if len(behind) == 1:
            position = next((index for index, scopes in enumerate(found) if behind & set(scopes)), None)
            if position is not None:
                found[position].append(path)


def _write_scopes(proto: Any, found: list[list[str]]) -> None:
    """Write the layers into the nodes' metadata, in the form of PyTorch's exporter: outermost first, own name last."""
    tails: dict[str, set[str]] = {}
    for scopes in found:
        for path in scopes:
            tails.setdefault(path.rpartition("/")[2], set()).add(path)
    for node, scopes in zip(proto.graph.node, found):  # noqa: B905
        short = [path.rpartition("/")[2] for path in scopes if "/" in path]
        listed = [*scopes, *(tail for tail in short if len(tails[tail]) == 1)]
        if listed:
            entry = node.metadata_props.add()
            entry.key, entry.value = "pkg.torch.onnx.name_scopes", repr(["", *listed, node.name])
    proto.ir_version = max(proto.ir_version, 10)  # the first that knows metadata of nodes


# --- running --------------------------------------------------------------------------------------------------------


def _save(proto: Any, request: dict[str, Any]) -> None:
    content = proto.SerializeToString()
    if len(content) > request["limit"]:
        raise RefusedError(f"the ONNX file would take {len(content):,} bytes", "use a smaller model")
    Path(request["output"]).write_bytes(content)


def first_sentence(fault: BaseException) -> str:
    """Return what an exception says in one line: its cause where it names one."""
    text = str(fault)
    cause = re.search(r"Exception encountered: (.+)", text)
    line = (cause[1] if cause else text).strip().splitlines()
    return (line[0] if line else type(fault).__name__)[:400]


def _advice(fault: BaseException) -> str:
    if "nknown layer" in str(fault) or "Could not locate" in str(fault):
        return "a custom layer: where its code is, call model.export('folder') and import that folder"
    return "try the Keras version that saved it: onnxviz import --python PATH, or model.export('folder')"
