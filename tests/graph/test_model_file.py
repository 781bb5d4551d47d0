"""An untrusted model file: every way in which it can be wrong gets one clear message; names become identifiers."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError
from onnxviz.graph.model_file import LoadedModel, read_model

IDENTIFIER = re.compile(r"[vnfd]\d+")
HOSTILE = [
    "__import__('os').system('x')",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "a\nb",
    "‮gnp",
    "C:\\con",
    "",
]


def small_model(**changes: object) -> ModelProto:
    """x -> Conv -> Relu -> y with weights inside."""
    weight = numpy_helper.from_array(np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **changes)


def save(model: ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path, *words: str) -> ModelFileError:
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "Traceback" not in message
    return caught.value


# --- files that are no models ---------------------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "absent.onnx", "absent.onnx", "no such file", "check the path")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    refused(tmp_path, "folder", ".onnx")


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "e.onnx").write_bytes(b"")
    refused(tmp_path / "e.onnx", "e.onnx", "empty")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    path = save(small_model(), tmp_path)
    path.chmod(0)
    refused(path, "permission")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_device_is_not_read() -> None:
    refused(Path("/dev/null"), "not a regular file")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"PK\x03\x04" + b"x" * 50, "zip"),
        (b"\x89HDF\r\n" + b"x" * 50, "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x80\x02}q\x00." * 10, "pickle"),
        (b"\x1c\x00\x00\x00TFL3" + b"x" * 30, "TensorFlow Lite"),
        (b"hello world, this is text", "export or copy"),
    ],
)
def test_what_is_often_mistaken_for_a_model_is_recognised(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    refused(tmp_path / "x.onnx", "not an ONNX model", hint)


def test_a_model_cut_off_anywhere_is_refused_or_complete(tmp_path: Path) -> None:
    whole = small_model().SerializeToString()
    for length in range(1, len(whole)):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:length])
        with contextlib.suppress(ModelFileError):
            read_model(path)
            assert length > len(whole) - 20  # only what follows the graph may be missing without anybody knowing


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_model_never_shows_a_traceback(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(small_model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(content))
    with contextlib.suppress(ModelFileError):
        assert_safe(read_model(path))


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MODEL_BYTES", 100)
    refused(save(small_model(), tmp_path), "limit of 100")


def test_too_many_nodes_are_refused_also_in_sub_graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODES", 3)
    inner = helper.make_graph([helper.make_node("Neg", ["y"], ["z"])] * 3, "i", [], [onnx.ValueInfoProto(name="z")])
    model = small_model()
    model.graph.node.append(helper.make_node("If", ["y"], ["q"], then_branch=inner, else_branch=inner))
    refused(save(model, tmp_path), "more than 3 nodes")


# --- graphs that are none -------------------------------------------------------------------------------------------


def test_a_value_made_twice_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[1].output[0] = "c"
    model.graph.output[0].name = "c"
    refused(save(model, tmp_path), "'c' is made twice")


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[0].input[0] = "y"
    refused(save(model, tmp_path), "cycle", "'conv'")


def test_a_node_that_reads_its_own_output_is_a_cycle(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[1].input[0] = "y"
    refused(save(model, tmp_path), "cycle", "'relu'")


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[0].input[0] = "gone"
    refused(save(model, tmp_path), "'gone'", "nothing makes")


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    model = small_model()
    model.graph.output[0].name = "gone"
    refused(save(model, tmp_path), "'gone'")


def test_nodes_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    model = small_model()
    nodes = [helper.make_node("Relu", ["c"], ["y"], "relu"), helper.make_node("Conv", ["x", "w"], ["c"], "conv")]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    loaded = read_model(save(model, tmp_path))
    assert [node.op_type for node in loaded.proto.graph.node] == ["Conv", "Relu"]
    assert [loaded.node_names[node.name] for node in loaded.proto.graph.node] == ["conv", "relu"]


# --- tensors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [[2, 1, 3, 4], [2, 1, 3], [1 << 39], [-1, 18], [1 << 62, 4]])
def test_a_tensor_must_hold_what_it_declares(tmp_path: Path, dims: list[int]) -> None:
    model = small_model()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    refused(save(model, tmp_path), "tensor 'w'")


def test_a_tensor_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    model = small_model()
    model.graph.initializer[0].data_type = 99
    refused(save(model, tmp_path), "element type 99")


def test_typed_fields_are_counted_as_well(tmp_path: Path) -> None:
    model = small_model()
    model.graph.initializer[0].CopyFrom(TensorProto(name="w", dims=[2, 1, 3, 3], data_type=1, float_data=[1.0] * 17))
    refused(save(model, tmp_path), "holds 17 elements")


def test_a_sparse_initializer_becomes_an_ordinary_one(tmp_path: Path) -> None:
    model = small_model()
    values = numpy_helper.from_array(np.asarray([5.0, 7.0], np.float32), "w")
    indices = numpy_helper.from_array(np.asarray([0, 17], np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2, 1, 3, 3]))
    del model.graph.initializer[:]
    loaded = read_model(save(model, tmp_path))
    array = numpy_helper.to_array(loaded.proto.graph.initializer[0])
    assert array.shape == (2, 1, 3, 3)
    assert array.reshape(-1)[[0, 17]].tolist() == [5.0, 7.0]
    assert array.sum() == 12


def test_a_sparse_bomb_is_refused(tmp_path: Path) -> None:
    model = small_model()
    values, indices = (
        numpy_helper.from_array(np.ones(1, np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.int64)),
    )
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1 << 14, 1 << 14]))
    del model.graph.initializer[:]
    refused(save(model, tmp_path), "too large")


# --- external data --------------------------------------------------------------------------------------------------


def external(folder: Path, location: str = "w.bin", offset: object = 8, length: object = 72) -> Path:
    model = small_model()
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(b"\0" * 8 + data)
    return save(model, folder)


def test_external_data_is_brought_in_and_part_of_the_digest(tmp_path: Path) -> None:
    path = external(tmp_path)
    loaded = read_model(path)
    tensor = loaded.proto.graph.initializer[0]
    assert numpy_helper.to_array(tensor).reshape(-1).tolist() == list(range(18))
    assert tensor.data_location == TensorProto.DEFAULT
    assert loaded.bytes == path.stat().st_size + 72
    (tmp_path / "w.bin").write_bytes(b"\0" * 80)
    assert read_model(path).digest != loaded.digest


def test_a_missing_external_file_is_named(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "w.bin").unlink()
    refused(path, "'w.bin' is missing", str(tmp_path))


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../w.bin", "a/../../w.bin", "C:\\w.bin", "\\\\host\\w.bin", "..\\w.bin", "", "w\0.bin"],
)
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "w.bin").write_bytes(b"\0" * 100)
    error = refused(external(inner, location))
    assert "outside" in str(error) or "names no external data file" in str(error)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "secret").write_bytes(b"\0" * 100)
    path = external(inner)
    (inner / "w.bin").unlink()
    (inner / "w.bin").symlink_to(tmp_path / "secret")
    refused(path, "link out of the model's folder")


def test_a_link_to_the_model_looks_beside_the_model_itself(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = external(inner)
    (tmp_path / "link.onnx").symlink_to(path)
    assert read_model(tmp_path / "link.onnx").file == "link.onnx"


@pytest.mark.parametrize(("offset", "length"), [(9, 72), (8, 71), (8, 73), (-1, 72), (1 << 60, 72), ("x", 72)])
def test_a_wrong_offset_or_length_is_refused(tmp_path: Path, offset: object, length: object) -> None:
    refused(external(tmp_path, offset=offset, length=length), "'w.bin'")


# --- names ----------------------------------------------------------------------------------------------------------


def every_name(loaded: LoadedModel) -> Iterator[str]:
    def walk(graph: onnx.GraphProto) -> Iterator[str]:
        yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
        yield from (tensor.name for tensor in graph.initializer)
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield from (d.dim_param for d in value.type.tensor_type.shape.dim if d.dim_param)
        for node in graph.node:
            yield from (name for name in (node.name, *node.input, *node.output) if name)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield from walk(attribute.g)

    yield from walk(loaded.proto.graph)
    for function in loaded.proto.functions:
        yield from (function.name, *function.input, *function.output)
        for node in function.node:
            yield from (name for name in (node.name, *node.input, *node.output) if name)


def assert_safe(loaded: LoadedModel) -> None:
    for name in every_name(loaded):
        assert IDENTIFIER.fullmatch(name), name
    text = onnx.printer.to_text(loaded.proto)
    assert "doc_string" not in text


@pytest.mark.parametrize("name", [entry for entry in HOSTILE if entry])
def test_hostile_names_are_data_only(tmp_path: Path, name: str) -> None:
    inner = helper.make_graph(
        [helper.make_node("Neg", [name + "c"], [name + "z"], name)], name, [], [onnx.ValueInfoProto(name=name + "z")]
    )
    model = small_model(doc_string=name, producer_name="p")
    graph = model.graph
    graph.name = graph.doc_string = name
    graph.node[0].name = graph.node[0].doc_string = name
    graph.node[0].input[0] = graph.input[0].name = name
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    graph.node[0].output[0] = graph.node[1].input[0] = name + "c"
    graph.node[0].input[1] = graph.initializer[0].name = name + "w"
    graph.node.append(helper.make_node("If", [name + "c"], [name + "q"], name, then_branch=inner, else_branch=inner))
    model.metadata_props.add(key=name, value=name)
    loaded = read_model(save(model, tmp_path))
    assert_safe(loaded)
    assert name in loaded.names.values()
    assert name in loaded.node_names.values()
    assert loaded.metadata == {name: name}
    assert name.encode() not in loaded.proto.SerializeToString()


@pytest.mark.parametrize("field", ["op_type", "domain", "attribute"])
def test_an_operator_or_attribute_that_is_no_name_is_refused(tmp_path: Path, field: str) -> None:
    model = small_model()
    if field == "attribute":
        model.graph.node[0].attribute.append(helper.make_attribute("a b\n", 1))
    else:
        setattr(model.graph.node[0], field, "x'); import os")
    refused(save(model, tmp_path), "not a plain name")


def test_functions_and_their_values_are_renamed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "evil.domain": 1]>
        g (float[N, 3] x) => (float[N, 3] y) { y = evil.domain.twice (x) }
        <domain: "evil.domain", opset_import: ["": 17]> twice (a) => (c) { b = Add (a, a) c = Identity (b) }"""
    )
    loaded = read_model(save(model, tmp_path))
    assert_safe(loaded)
    assert loaded.proto.graph.node[0].op_type == loaded.proto.functions[0].name
    assert b"twice" not in loaded.proto.SerializeToString()


def test_a_sub_graph_may_read_values_around_it_and_shadow_nothing(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (bool c, float[N, 3] x) => (float[N, 3] y) {
        k = Relu (x)
        y = If (c) <then_branch = t () => (float[N, 3] a) { a = Neg (k) },
                    else_branch = e () => (float[N, 3] a) { a = Abs (k) }> }"""
    )
    loaded = read_model(save(model, tmp_path))
    relu, branch = loaded.proto.graph.node
    assert all(attribute.g.node[0].input[0] == relu.output[0] for attribute in branch.attribute)
    assert len({attribute.g.node[0].output[0] for attribute in branch.attribute}) == 2


def test_the_same_free_dimension_stays_the_same(tmp_path: Path) -> None:
    loaded = read_model(save(small_model(), tmp_path))
    graph = loaded.proto.graph
    first = [value.type.tensor_type.shape.dim[0].dim_param for value in (graph.input[0], graph.output[0])]
    assert first[0] == first[1] != "N"


def test_exporter_metadata_is_kept_as_data(tmp_path: Path) -> None:
    model = small_model()
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'conv1', 'x']")
    loaded = read_model(save(model, tmp_path))
    assert loaded.node_metadata["n0"] == {"pkg.torch.onnx.name_scopes": "['', 'conv1', 'x']"}
    assert not loaded.proto.graph.node[0].metadata_props


def test_deep_nesting_is_refused_not_fatal(tmp_path: Path) -> None:
    content = b""
    for _ in range(3000):  # graph -> node -> attribute -> graph, each a length-delimited field
        for tag in (0x32, 0x2A, 0x0A):
            content = bytes([tag]) + _varint(len(content)) + content
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + b"\x3a" + _varint(len(content)) + content)
    refused(path, "not an ONNX model")


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += struct.pack("B", number & 127 | 128)
        number >>= 7
    return out + struct.pack("B", number)


@pytest.mark.zoo
def test_every_model_of_the_zoo_is_read_safely(zoo: Path) -> None:
    paths = sorted((zoo / "onnx").glob("*.onnx"))
    assert len(paths) >= 20
    for path in paths:
        loaded = read_model(path)
        assert_safe(loaded)
        assert len(loaded.digest) == 64
