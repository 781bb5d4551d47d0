"""Caffe files from anywhere: each ends in a model, or in one message that names file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from caffe_models import layer, network, run, save, save_weights, statistics, weights
from caffe_networks import NETWORKS, Blobs

import onnxviz
from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError
from onnxviz.importing.caffe import convert
from onnxviz.importing.caffe.schema import binary_message

GOOD = network(layer("c", "Convolution", "data", "c", "convolution_param { num_output: 6 kernel_size: 3 }"))
GOOD_BLOBS = weights(c=[(6, 4, 3, 3), (6,)])


def refusal(folder: Path, text: str | bytes, blobs: Blobs | None = None) -> str:
    files = save(folder, "", blobs)
    files[0].write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ModelFileError) as caught:
        convert(*files)
    message = str(caught.value)
    assert len(message) < 1500
    assert "Traceback" not in message
    return message


def one(kind: str, body: str = "", bottoms: str = "data", tops: str = "x") -> str:
    return network(layer("culprit", kind, bottoms, tops, body))


REFUSED: dict[str, tuple[str, str]] = {
    "unknown types": (
        network(layer("a", "Python", "data", "a"), layer("b", "Sigmoid", "data", "b"),
                layer("c", "PSROIPooling", "b", "c")),
        "PSROIPooling (c, line 19); Python (a, line 7)"),
    "training data": (layer("d", "Data", "", "data label"), "net.prototxt:1: layer 'd' (Data) reads a training set"),
    "random pooling": (one("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }"), "STOCHASTIC"),
    "undefined bottom": (one("Sigmoid", bottoms="nothing"), "'nothing', which nothing before it makes"),
    "cycle": (network(layer("a", "Sigmoid", "y", "x"), layer("b", "Sigmoid", "x", "y")), "layer 'b' makes it later"),
    "own top": (one("Eltwise", bottoms="data x"), "which nothing before it makes"),
    "top twice": (network(layer("a", "Sigmoid", "data", "x"), layer("b", "Sigmoid", "data", "x")), "there already"),
    "tops twice": (one("Slice", tops="x x"), "there already"),
    "input twice": (GOOD.replace("layer {", layer("data", "Input", "", "data", "input_param { shape { dim: 1 } }")
                                 + "layer {", 1), "made twice"),
    "no weights": (GOOD, "needs its weight, which the weights do not hold"),
    "no layers": ('name: "empty"', "no inputs"),
    "only an input": (network(), "computes nothing"),
    "no shape": (layer("data", "Input", "", "data") + layer("x", "Sigmoid", "data", "x"),
                 "declares 0 shapes for 1 tops"),
    "input_dim short": ('input: "data" input_dim: 1 input_dim: 3\n' + layer("x", "Sigmoid", "data", "x"),
                        "1 inputs are named, and 2 input_dim given"),
    "input without shape": ('input: "data"' + layer("x", "Sigmoid", "data", "x"), "1 inputs are named, and 0 shapes"),
    "huge input": (network(layer("x", "Sigmoid", "data", "x"), data=(1, 2**40, 2**40, 1)), "would make a blob"),
    "negative input": (network(layer("x", "Sigmoid", "data", "x"), data=(1, -3, 4, 4)), "would make a blob"),
    "zero batch": (network(layer("x", "Sigmoid", "data", "x"), data=(0, 3, 4, 4)), "would make a blob"),
    "many axes": (network(layer("x", "Sigmoid", "data", "x"), data=(1,) * 100), "would make a blob"),
    "huge kernel": (one("Pooling", "pooling_param { kernel_size: 4000000000 }"), "window of 4000000000"),
    "huge pad": (one("Pooling", "pooling_param { kernel_size: 3 pad: 4000000000 }"), "padded by 4000000000"),
    "huge deconvolution": (one("Deconvolution", 'convolution_param { num_output: 4 kernel_size: 4000000000 group: 4 '
                               'weight_filler { type: "bilinear" } }'), "more than"),
    "zero stride": (one("Pooling", "pooling_param { kernel_size: 3 stride: 0 }"), "stride of 0"),
    "zero group": (one("Convolution", "convolution_param { num_output: 4 kernel_size: 1 group: 0 }"), "0 groups"),
    "zero kernel": (one("Convolution", "convolution_param { num_output: 4 kernel_size: 0 }"), "of 0"),
    "tile bomb": (one("Tile", "tile_param { tiles: 2147483647 }"), "would make a blob"),
    "prior box bomb": (one("PriorBox", "prior_box_param { " + "min_size: 1 " * 1001 + "}", "data data"), "very many"),
    "reshape": (one("Reshape", "reshape_param { shape { dim: 5 dim: -1 } }"), "cannot give 504 numbers"),
    "reshape zero": (one("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }"), "at most one -1"),
    "reshape overflow": (one("Reshape", f"reshape_param {{ shape {{ dim: {2**63 - 1} dim: {2**63 - 1} }} }}"),
                         "cannot give"),
    "lrn": (one("LRN", "lrn_param { alpha: 0 }"), "above 0"),
    "axis": (one("Softmax", "softmax_param { axis: 9 }"), "has axis 9, but its input has 4 axes"),
    "not finite": (one("Power", "power_param { scale: nan }"), "scale = nan"),
    "permute": (one("Permute", "permute_param { order: 0 order: 0 }"), "orders axes"),
    "slice": (one("Slice", "slice_param { slice_point: 3 slice_point: 2 }", tops="x y z"), "cuts 4 into 3 parts"),
    "crop beyond": (one("Crop", "crop_param { axis: 2 offset: 1 }", "data data"), "reaches beyond"),
    "more tops": (one("Sigmoid", tops="x y"), "has 2 tops; it makes 1"),
    "more bottoms": (one("Sigmoid", bottoms="data data"), "has 2 bottoms; it needs 1"),
    "batch statistics": (one("BatchNorm", "batch_norm_param { use_global_stats: false }"), "use_global_stats"),
    "include and exclude": (one("Sigmoid", "include { phase: TEST } exclude { phase: TRAIN }"), "include and exclude"),
    "unknown parameter": (one("Pooling", "pooling_param { kernel_size: 2 fancy: 3 }"), "pooling_param.fancy (line 11)"),
    "misspelt value": (one("Pooling", "pooling_param { pool: MIN }"),
                       "net.prototxt:11:25: not a Caffe network description"),
    "not the format": ("hello world", "not a Caffe network description"),
    "unclosed": (GOOD.rstrip().rstrip("}"), "not a Caffe network description"),
    "unclosed string": ('name: "abc', "not a Caffe network description"),
    "both forms": (GOOD + 'layers { name: "x" type: RELU }', "old form"),
    "oldest form": ('layers { layer { name: "conv" type: "conv" } bottom: "a" top: "b" }', "name is empty"),
    "empty name": (network(layer("", "Sigmoid", "data", "x")), "empty"),
    "long name": (network(layer("n" * 100_000, "Sigmoid", "data", "x")), "100,000 characters"),
    "deep": ("layer { a { " * 50_000, "nest more than"),
    "deep lists": ("layer: [ { a: [ { " * 50_000, "nest more than"),
    "many layers": ("layer{}" * 20_001, "20,001 layers"),
    "escaped bytes": (r'layer { name: "\377\376" type: "Sigmoid" }', ""),
    "python dropped by phase only": (one("Python", "include { phase: TRAIN }") + "", "computes nothing"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    text, part = REFUSED[name]
    message = refusal(tmp_path, text)
    assert part in message
    assert message.startswith("net.prototxt")


def test_not_text(tmp_path: Path) -> None:
    assert "net.prototxt:3: not UTF-8" in refusal(tmp_path, b'name: "a"\n\n\xff\xfe')
    assert "empty" in refusal(tmp_path, b"")
    save_weights(tmp_path / "w", GOOD_BLOBS)
    assert ".prototxt first" in refusal(tmp_path, (tmp_path / "w").read_bytes())
    assert "more than the limit" in refusal(tmp_path, b"#" * (limits.CAFFE_PROTOTXT_BYTES + 1))
    with pytest.raises(ModelFileError, match="no such file"):
        convert(tmp_path / "absent", None)
    with pytest.raises(ModelFileError, match="a folder"):
        convert(tmp_path, None)


def weights_refusal(folder: Path, content: bytes) -> str:
    description, _ = save(folder, GOOD)
    stored = folder / "bad.caffemodel"
    stored.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        convert(description, stored)
    return str(caught.value)


def test_damaged_weights(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", GOOD_BLOBS)
    content = (tmp_path / "w").read_bytes()
    for length in range(0, len(content), 37):
        assert weights_refusal(tmp_path, content[:length])
    assert "HDF5" in weights_refusal(tmp_path, b"\x89HDF\r\n\x1a\n" + bytes(100))
    assert "pickle" in weights_refusal(tmp_path, b"\x80\x02}q\x00.")
    assert ".prototxt" in weights_refusal(tmp_path, GOOD.encode())
    deep = b""
    for _ in range(300):  # a message in a message in a message
        deep = b"\xa2\x06" + _varint(len(deep)) + deep
    assert weights_refusal(tmp_path, deep)


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


@pytest.mark.parametrize(
    "dims", [(2**40, 2**40), (6, 4, 3, 4), (-6, -36), (0,), (1,) * 40, (2**63 - 1, 2**63 - 1), (6, 4, 9, 2**32)]
)
def test_declared_sizes_that_the_numbers_do_not_fill(dims: tuple[int, ...], tmp_path: Path) -> None:
    message = binary_message("Net")()
    blob = message.layer.add(name=b"c").blobs.add(data=[np.zeros(216, "<f4").tobytes()])
    blob.shape.dim.extend(dims)
    said = weights_refusal(tmp_path, message.SerializeToString())
    assert "layer 'c': blob 0 declares the shape" in said
    assert said.startswith("bad.caffemodel")
    blob.data[:] = [b"abc"]
    assert "odd number of bytes" in weights_refusal(tmp_path, message.SerializeToString())


def test_weights_of_another_network(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD, weights(c=[(6, 3, 3, 3), (6,)]))
    assert said.startswith("net.prototxt:7: layer 'c' needs a weight of the shape 6×4×3×3; the weights hold 6×3×3×3")
    assert "bias" in refusal(tmp_path, GOOD, weights(c=[(6, 4, 3, 3), (5,)]))
    assert "its bias" in refusal(tmp_path, GOOD, weights(c=[(6, 4, 3, 3)]))
    twice = GOOD + layer("c", "Convolution", "data", "y", "convolution_param { num_output: 6 kernel_size: 3 }")
    assert "two layers are called 'c'" in refusal(tmp_path, twice, GOOD_BLOBS)


def test_a_shared_blob_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many layers may share one blob and each derive another tensor from it: the sum is bounded."""
    monkeypatch.setattr(limits, "MODEL_BYTES", 1 << 16)
    layers = [
        layer(f"b{index}", "BatchNorm", "data" if not index else f"b{index - 1}", f"b{index}",
              'param { name: "m" } param { name: "v" } param { name: "f" }')
        for index in range(20)
    ]  # fmt: skip
    said = refusal(tmp_path, network(*layers, data=(1, 500, 1, 1)), {"b0": statistics(500)})
    assert "weights and constants exceed" in said


NASTY = [
    'a"b',
    "a'b",
    "a\nb",
    "<img src=x onerror=alert(1)>",
    "__class__",
    "../../etc/passwd",
    "\u202egnp.exe",
    "\x00",
    "{0}",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_data(name: str, tmp_path: Path) -> None:
    escaped = "".join(f"\\{byte:03o}" for byte in name.encode())
    text = network(
        layer(escaped, "Power", "data", escaped, "power_param { scale: 2 shift: 1 }"),
        layer(f"{escaped}2", "ReLU", escaped, escaped),
    )
    # layer() splits blobs at spaces, which are escaped here as everything else.
    model, data, found = run(tmp_path, text)
    np.testing.assert_allclose(found[name + "2"], np.maximum(2 * data + 1, 0), rtol=1e-5)
    onnx.save(model, tmp_path / "model.onnx")
    view = onnxviz.open_model(tmp_path / "model.onnx")
    assert name in [entry.name for entry in view.layers]


def test_mutations_of_a_good_network_end_in_a_model_or_one_message(tmp_path: Path) -> None:
    text, blobs, _ = NETWORKS["mobilenet ssd"]
    files = save(tmp_path, text, blobs)
    rng = np.random.default_rng(0)
    characters = list('{}<>[]":;,#\\ 0-9aE.')
    refused = accepted = 0
    for _ in range(150):
        mutated = list(text)
        for place in rng.integers(0, len(mutated), 3):
            mutated[place] = str(rng.choice(characters))
        files[0].write_text("".join(mutated))
        try:
            onnx.checker.check_model(convert(*files))
        except ModelFileError as fault:
            refused += str(fault).startswith("net.prototxt")
        else:
            accepted += 1
    assert refused > 50
    assert refused + accepted == 150


def test_mutations_of_weights_end_in_a_model_or_one_message(tmp_path: Path) -> None:
    description, stored = save(tmp_path, GOOD, GOOD_BLOBS)
    assert stored is not None
    content = stored.read_bytes()
    rng = np.random.default_rng(0)
    refused = accepted = 0
    for _ in range(200):
        mutated = bytearray(content)
        for place in rng.integers(0, 60, 2):
            mutated[place] = rng.integers(256)
        stored.write_bytes(mutated)
        try:
            onnx.checker.check_model(convert(description, stored))
        except ModelFileError as fault:
            refused += bool(fault.where)
        else:
            accepted += 1
    assert refused > 50
    assert refused + accepted == 200
