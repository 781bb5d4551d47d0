"""Caffe networks converted to ONNX: against OpenCV's reader of Caffe, and against Caffe's own definitions."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from caffe_models import (
    images,
    interpolated,
    layer,
    local_response,
    network,
    opencv,
    pooled,
    prior_boxes,
    reorganised,
    run,
    save,
    statistics,
    values,
    weights,
)
from caffe_networks import NETWORKS, Blobs, dense, pool
from PIL import Image

import onnxviz
from onnxviz.core.errors import ModelFileError
from onnxviz.importing.caffe import convert
from onnxviz.importing.caffe.layers import CONVERTERS


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4, name: str = "") -> None:
    assert found.shape == wanted.shape, name
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=tolerance * max(1, np.abs(wanted).max()), err_msg=name)


def against_opencv(folder: Path, text: str, blobs: Blobs | None = None, form: str = "new", least: int = 1) -> int:
    """Compare every layer with OpenCV, and return how many were."""
    _, data, found = run(folder, text, blobs, form=form)
    other = opencv(folder, text, blobs, data, form)
    compared = [name for name in other if name in found]
    assert len(compared) >= least, sorted(other)
    for name in compared:
        close(found[name], other[name], name=name)
    return len(compared)


# --- one layer each, against OpenCV ---------------------------------------------------------------------------------

CONV = "num_output: 6 kernel_size: 3"
OPENCV: dict[str, tuple[str, Blobs | None]] = {
    "conv": (layer("x", "Convolution", "data", "x", f"convolution_param {{ {CONV} pad: 1 stride: 2 }}"),
             weights(x=[(6, 4, 3, 3), (6,)])),
    "conv group dilation": (
        layer("x", "Convolution", "data", "x", f"convolution_param {{ {CONV} group: 2 dilation: 2 bias_term: false }}"),
        weights(x=[(6, 2, 3, 3)])),
    "conv oblong": (
        layer("x", "Convolution", "data", "x",
              "convolution_param { num_output: 6 kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2 stride_h: 2 stride_w: 1 }"),
        weights(x=[(6, 4, 1, 5), (6,)])),
    "depthwise": (layer("x", "Convolution", "data", "x", "convolution_param { num_output: 4 kernel_size: 3 group: 4 }"),
                  weights(x=[(4, 1, 3, 3), (4,)])),
    "deconv": (layer("x", "Deconvolution", "data", "x",
                     "convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 }"),
               weights(x=[(4, 6, 4, 4), (6,)])),
    "deconv group": (layer("x", "Deconvolution", "data", "x",
                           "convolution_param { num_output: 4 kernel_size: 4 stride: 2 group: 4 bias_term: false }"),
                     weights(x=[(4, 1, 4, 4)])),
    "inner product": (layer("x", "InnerProduct", "data", "x", "inner_product_param { num_output: 5 }"),
                      weights(x=[(5, 252), (5,)])),
    "lrn": (layer("x", "LRN", "data", "x", "lrn_param { local_size: 3 alpha: 0.3 beta: 0.6 }"), None),
    "batch norm": (layer("x", "BatchNorm", "data", "x", "batch_norm_param { eps: 0.001 use_global_stats: true }"),
                   {"x": statistics(4)}),
    "scale": (layer("x", "Scale", "data", "x", "scale_param { bias_term: true }"), weights(x=[(4,), (4,)])),
    "scale without bias": (layer("x", "Scale", "data", "x"), weights(x=[(4,)])),
    "relu slope": (layer("x", "ReLU", "data", "x", "relu_param { negative_slope: 0.2 }"), None),
    "relu6": (layer("x", "ReLU6", "data", "x"), None),
    "prelu": (layer("x", "PReLU", "data", "x"), weights(x=[(4,)])),
    "elu": (layer("x", "ELU", "data", "x", "elu_param { alpha: 0.7 }"), None),
    "sigmoid": (layer("x", "Sigmoid", "data", "x"), None),
    "tanh": (layer("x", "TanH", "data", "x"), None),
    "absval": (layer("x", "AbsVal", "data", "x"), None),
    "bnll": (layer("x", "BNLL", "data", "x"), None),
    "power": (layer("x", "Power", "data", "x", "power_param { power: 2 scale: 0.5 shift: 3 }"), None),
    "eltwise sum": (layer("a", "Sigmoid", "data", "a")
                    + layer("x", "Eltwise", "data a", "x", "eltwise_param { coeff: 0.5 coeff: -2 }"), None),
    "eltwise prod": (layer("a", "Sigmoid", "data", "a")
                     + layer("x", "Eltwise", "data a a", "x", "eltwise_param { operation: PROD }"), None),
    "eltwise max": (layer("a", "Sigmoid", "data", "a")
                    + layer("x", "Eltwise", "data a", "x", "eltwise_param { operation: MAX }"), None),
    "concat": (layer("a", "Sigmoid", "data", "a")
               + layer("x", "Concat", "data a", "x", "concat_param { axis: 2 }"), None),
    "slice": (layer("x", "Slice", "data", "x y z", "slice_param { axis: 1 slice_point: 1 slice_point: 2 }"), None),
    "split": (layer("x", "Split", "data", "x y") + layer("z", "Eltwise", "x y", "z"), None),
    "flatten": (layer("x", "Flatten", "data", "x", "flatten_param { axis: 1 end_axis: 2 }"), None),
    "reshape": (layer("x", "Reshape", "data", "x", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }"), None),
    "reshape axis": (layer("x", "Reshape", "data", "x",
                           "reshape_param { axis: 1 num_axes: 2 shape { dim: 2 dim: 14 } }"), None),
    "permute": (layer("x", "Permute", "data", "x", "permute_param { order: 0 order: 2 order: 3 order: 1 }"), None),
    "softmax": (layer("x", "Softmax", "data", "x"), None),
    "softmax axis": (layer("x", "Softmax", "data", "x", "softmax_param { axis: 3 }"), None),
    "crop": (layer("a", "Pooling", "data", "a", "pooling_param { kernel_size: 2 stride: 2 }")
             + layer("x", "Crop", "data a", "x", "crop_param { axis: 2 offset: 1 offset: 3 }"), None),
    "dropout": (layer("x", "Dropout", "data", "x") + layer("y", "ReLU", "x", "y"), None),
    "normalize": (layer("x", "Normalize", "data", "x", "norm_param { across_spatial: false channel_shared: false }"),
                  {"x": [np.array([1, 2, 3, 4], np.float32)]}),
    "shuffle": (layer("x", "ShuffleChannel", "data", "x", "shuffle_channel_param { group: 2 }"), None),
    "interp": (layer("x", "Interp", "data", "x", "interp_param { height: 13 width: 5 }"), None),
    "global average": (layer("x", "Pooling", "data", "x", "pooling_param { pool: AVE global_pooling: true }"), None),
    "global max": (layer("x", "Pooling", "data", "x", "pooling_param { pool: MAX global_pooling: true }"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", OPENCV)
def test_layer_as_in_opencv(name: str, tmp_path: Path) -> None:
    text, blobs = OPENCV[name]
    against_opencv(tmp_path, network(text), blobs)


# --- one layer each, against its definition -------------------------------------------------------------------------


def mvn(x: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    centred = x - x.mean(axes, keepdims=True)
    return centred / (np.sqrt((centred**2).mean(axes, keepdims=True)) + eps)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


B = weights(7, b=[(4,), (4, 7)], s=[(1,)], ip=[(252, 5), (5,)], last=[(5, 9), (5,)])
DEFINITIONS: dict[str, tuple[str, Blobs | None, Callable[[np.ndarray], np.ndarray]]] = {
    "exp": (layer("x", "Exp", "data", "x", "exp_param { base: 2 scale: 0.5 shift: 1 }"), None,
            lambda x: 2 ** (1 + 0.5 * x)),
    "exp e": (layer("x", "Exp", "data", "x"), None, np.exp),
    "log": (layer("a", "AbsVal", "data", "a") + layer("x", "Log", "a", "x", "log_param { base: 10 scale: 2 shift: 1 }"),
            None, lambda x: np.log10(1 + 2 * np.abs(x))),
    "power 1": (layer("x", "Power", "data", "x", "power_param { shift: -3 }"), None, lambda x: x - 3),
    "power none": (layer("x", "Power", "data", "x"), None, lambda x: x),
    "threshold": (layer("x", "Threshold", "data", "x", "threshold_param { threshold: 0.3 }"), None,
                  lambda x: (x > 0.3).astype(np.float32)),
    "swish": (layer("x", "Swish", "data", "x", "swish_param { beta: 1.5 }"), None, lambda x: x * sigmoid(1.5 * x)),
    "clip": (layer("x", "Clip", "data", "x", "clip_param { min: -0.5 max: 0.25 }"), None, lambda x: x.clip(-0.5, 0.25)),
    "bnll": (layer("x", "BNLL", "data", "x"), None, softplus),
    "prelu shared": (layer("x", "PReLU", "data", "x", "prelu_param { channel_shared: true }"), {"x": [B["s"][0]]},
                     lambda x: np.where(x > 0, x, x * B["s"][0])),
    "bias": (layer("x", "Bias", "data", "x"), {"x": [B["b"][0]]}, lambda x: x + B["b"][0][:, None, None]),
    "scale two axes": (layer("x", "Scale", "data", "x", "scale_param { num_axes: 2 }"), {"x": [B["b"][1]]},
                       lambda x: x * B["b"][1][:, :, None]),
    "scale one number": (layer("x", "Scale", "data", "x", "scale_param { num_axes: 0 bias_term: true }"),
                         {"x": [np.float32(3).reshape(()), np.float32(2).reshape(())]}, lambda x: 3 * x + 2),
    "scale by input": (
        layer("p", "Pooling", "data", "p", "pooling_param { pool: AVE global_pooling: true }")
        + layer("f", "Flatten", "p", "f") + layer("x", "Scale", "data f", "x", "scale_param { axis: 0 }"),
        None, lambda x: x * x.mean((2, 3), keepdims=True)),
    "axpy": (
        layer("p", "Pooling", "data", "p", "pooling_param { pool: AVE global_pooling: true }")
        + layer("r", "ReLU", "data", "r") + layer("x", "Axpy", "p data r", "x"),
        None, lambda x: x * x.mean((2, 3), keepdims=True) + np.maximum(x, 0)),
    "bias from input": (layer("r", "ReLU", "data", "r") + layer("x", "Bias", "data r", "x", "bias_param { axis: 0 }"),
                        None, lambda x: x + np.maximum(x, 0)),
    "within channel": (layer("x", "LRN", "data", "x",
                             "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 alpha: 2 }"),
                       None, lambda x: local_response(x, 3, 2, 0.75)),
    "mvn": (layer("x", "MVN", "data", "x"), None, lambda x: mvn(x, (2, 3), 1e-9)),
    "mvn image": (layer("x", "MVN", "data", "x", "mvn_param { across_channels: true eps: 0.1 }"), None,
                  lambda x: mvn(x, (1, 2, 3), 0.1)),
    "mvn mean": (layer("x", "MVN", "data", "x", "mvn_param { normalize_variance: false }"), None,
                 lambda x: x - x.mean((2, 3), keepdims=True)),
    "normalize image": (layer("x", "Normalize", "data", "x"), {"x": [np.array([3], np.float32)]},
                        lambda x: 3 * x / np.sqrt((x**2).sum((1, 2, 3), keepdims=True) + 1e-10)),
    "reduction": (layer("x", "Reduction", "data", "x", "reduction_param { axis: 1 }"), None,
                  lambda x: x.sum((1, 2, 3))),
    "reduction mean": (layer("x", "Reduction", "data", "x", "reduction_param { axis: -1 operation: MEAN coeff: 2 }"),
                       None, lambda x: 2 * x.mean(3)),
    "reduction asum": (layer("x", "Reduction", "data", "x", "reduction_param { axis: 2 operation: ASUM }"), None,
                       lambda x: np.abs(x).sum((2, 3))),
    "reduction sumsq": (layer("x", "Reduction", "data", "x", "reduction_param { axis: 2 operation: SUMSQ }"), None,
                        lambda x: (x**2).sum((2, 3))),
    "reduction batch": (layer("x", "Reduction", "data", "x"), None, lambda x: x.sum()),
    "reduction batch mean": (
        layer("x", "Reduction", "data", "x", "reduction_param { axis: 0 operation: MEAN coeff: 2 }"), None,
        lambda x: 2 * x.mean()),
    "tile": (layer("x", "Tile", "data", "x", "tile_param { axis: 2 tiles: 3 }"), None,
             lambda x: np.tile(x, (1, 1, 3, 1))),
    "argmax axis": (layer("x", "ArgMax", "data", "x", "argmax_param { axis: 1 }"), None,
                    lambda x: x.argmax(1, keepdims=True).astype(np.float32)),
    "argmax values": (layer("x", "ArgMax", "data", "x", "argmax_param { axis: 2 top_k: 2 out_max_val: true }"), None,
                      lambda x: -np.sort(-x, 2)[:, :, :2]),
    "argmax flat": (layer("x", "ArgMax", "data", "x", "argmax_param { top_k: 3 }"), None,
                    lambda x: np.argsort(-x.reshape(len(x), -1), 1)[:, None, :3, None].astype(np.float32)),
    "argmax both": (layer("x", "ArgMax", "data", "x", "argmax_param { out_max_val: true }"), None,
                    lambda x: np.stack([x.reshape(len(x), -1).argmax(1), x.max((1, 2, 3))], 1)[:, :, None, None]),
    "inner product transposed": (
        layer("x", "InnerProduct", "data", "x", "inner_product_param { num_output: 5 transpose: true }"),
        {"x": B["ip"]}, lambda x: x.reshape(len(x), -1) @ B["ip"][0] + B["ip"][1]),
    "inner product last axis": (
        layer("x", "InnerProduct", "data", "x", "inner_product_param { num_output: 5 axis: -1 }"),
        {"x": B["last"]}, lambda x: x @ B["last"][0].T + B["last"][1]),
    "eltwise sub": (layer("r", "ReLU", "data", "r")
                    + layer("x", "Eltwise", "data r", "x", "eltwise_param { coeff: 1 coeff: -1 }"),
                    None, lambda x: np.minimum(x, 0)),
    "eltwise three": (layer("r", "ReLU", "data", "r")
                      + layer("x", "Eltwise", "data r r", "x", "eltwise_param { coeff: 1 coeff: 2 coeff: 3 }"),
                      None, lambda x: x + 5 * np.maximum(x, 0)),
    "upsample": (layer("x", "Upsample", "data", "x", "upsample_param { scale: 2 }"), None,
                 lambda x: x.repeat(2, 2).repeat(2, 3)),
    "interp zoom": (layer("x", "Interp", "data", "x", "interp_param { zoom_factor: 3 }"), None,
                    lambda x: interpolated(x, 19, 25)),
    "interp shrink": (layer("x", "Interp", "data", "x", "interp_param { shrink_factor: 2 }"), None,
                      lambda x: interpolated(x, 4, 5)),
    "interp cut": (layer("x", "Interp", "data", "x", "interp_param { height: 11 width: 3 pad_beg: -1 pad_end: -2 }"),
                   None, lambda x: interpolated(x[:, :, 1:-2, 1:-2], 11, 3)),
    "interp like": (
        layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 2 stride: 2 }")
        + layer("x", "Interp", "p data", "x"), None,
        lambda x: interpolated(pooled(x, (2, 2), (2, 2), (0, 0), maximum=True), 7, 9)),
    "depthwise fork": (
        layer("x", "DepthwiseConvolution", "data", "x",
              "convolution_param { num_output: 4 kernel_size: 1 bias_term: false }"),
        {"x": [B["b"][0].reshape(4, 1, 1, 1)]}, lambda x: x * B["b"][0][:, None, None]),
    "segnet bn": (layer("x", "BN", "data", "x", "bn_param { bn_mode: INFERENCE }"),
                  {"x": [B["b"][0].reshape(1, 4, 1, 1), 2 * B["b"][0].reshape(1, 4, 1, 1)]},
                  lambda x: (x + 2) * B["b"][0][:, None, None]),
    "dropout in place": (layer("r", "ReLU", "data", "r") + layer("d", "Dropout", "r", "r")
                         + layer("x", "Power", "r", "x", "power_param { scale: 2 }"), None,
                         lambda x: 2 * np.maximum(x, 0)),
    "permute few": (layer("x", "Permute", "data", "x", "permute_param { order: 0 order: 3 }"), None,
                    lambda x: x.transpose(0, 3, 1, 2)),
    "concat old": (layer("x", "Concat", "data data", "x", "concat_param { concat_dim: 3 }"), None,
                   lambda x: np.concatenate([x, x], 3)),
    "concat batch": (layer("x", "Concat", "data data", "x", "concat_param { axis: 0 }"), None,
                     lambda x: np.concatenate([x, x])),
    "reshape batch": (layer("x", "Reshape", "data", "x", "reshape_param { shape { dim: -1 dim: 9 } }"), None,
                      lambda x: x.reshape(-1, 9)),
    "flatten batch": (layer("x", "Flatten", "data", "x", "flatten_param { axis: 0 }"), None, lambda x: x.reshape(-1)),
    "inner product batch": (
        layer("f", "Flatten", "data", "f", "flatten_param { axis: 0 }")
        + layer("x", "InnerProduct", "f", "x", "inner_product_param { num_output: 2 axis: 0 bias_term: false }"),
        {"x": [np.ones((2, 504), np.float32)]}, lambda x: np.full(2, x.sum())),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFINITIONS)
def test_layer_as_defined(name: str, tmp_path: Path) -> None:
    text, blobs, definition = DEFINITIONS[name]
    _, data, found = run(tmp_path, network(text), blobs)
    close(found["x"], np.asarray(definition(data)), name=name)


def test_every_converter_is_tested() -> None:
    text = " ".join(text for text, *_ in (*OPENCV.values(), *DEFINITIONS.values()))
    apart = {"ROIPooling", "Reorg", "PriorBox", "ConvolutionDepthwise"}  # below
    assert {kind for kind in CONVERTERS if f'"{kind}"' not in text} == apart


POOLS = [
    (size, kernel, stride, pad)
    for size in ((5, 6), (7, 8), (12, 9))
    for kernel, stride, pad in (
        ((2, 2), (2, 2), (0, 0)),
        ((3, 3), (2, 2), (0, 0)),
        ((3, 3), (2, 2), (1, 1)),
        ((2, 3), (2, 2), (1, 0)),
        ((3, 2), (3, 3), (0, 1)),
        ((3, 3), (1, 1), (1, 1)),
        ((4, 5), (3, 2), (1, 2)),
        ((5, 5), (4, 4), (2, 2)),
        ((5, 4), (3, 4), (1, 1)),
        ((1, 1), (2, 2), (0, 0)),
    )
]


@pytest.mark.parametrize("pool", ["MAX", "AVE"])
@pytest.mark.parametrize("rounding", ["CEIL", "FLOOR"])
def test_pooling_rounds_and_divides_as_caffe(pool: str, rounding: str, tmp_path: Path) -> None:
    """All at once: ceil, windows beyond the image, pads of unequal kind, and where they meet."""
    mixed = 0
    for size, kernel, stride, pad in POOLS:
        body = (
            f"pooling_param {{ pool: {pool} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} "
            f"stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {rounding} }}"
        )
        text = network(layer("x", "Pooling", "data", "x", body), data=(1, 2, *size))
        if not any(pad) and any(
            (-(-(n - k) // s) if rounding == "CEIL" else (n - k) // s) * s >= n
            for n, k, s in zip(size, kernel, stride, strict=True)
        ):
            with pytest.raises(ModelFileError, match="begins behind the image"):
                convert(*save(tmp_path, text))
            continue
        model, data, found = run(tmp_path, text)
        wanted = pooled(data, kernel, stride, pad, pool == "MAX", rounding == "CEIL")
        close(found["x"], wanted, 1e-6, f"{size} {kernel} {stride} {pad}")
        mixed += len(model.graph.node) > 1
    assert mixed >= (3 if (pool, rounding) == ("AVE", "CEIL") else 0)


def test_pooling_as_in_opencv(tmp_path: Path) -> None:
    for kind in ("MAX", "AVE"):
        for size in (7, 8, 12):
            layers = [
                pool(f"p{i}", "data", f"pool: {kind} kernel_size: {k} stride: {s} pad: {p}")
                for i, (k, s, p) in enumerate([(3, 2, 0), (3, 2, 1), (2, 2, 0), (3, 1, 1), (5, 4, 2)])
            ]
            against_opencv(tmp_path, network(*layers, data=(2, 3, size, size + 1)), least=5)


def test_reorg_as_darknet(tmp_path: Path) -> None:
    text = network(layer("x", "Reorg", "data", "x", "reorg_param { stride: 2 }"), data=(2, 8, 4, 6))
    _, data, found = run(tmp_path, text)
    close(found["x"], reorganised(data, 2))


def test_prior_boxes(tmp_path: Path) -> None:
    text = network(
        layer("p", "Pooling", "data", "p", "pooling_param { kernel_size: 8 stride: 8 }"),
        layer("a", "PriorBox", "p data", "a",
              "prior_box_param { min_size: 10 max_size: 20 aspect_ratio: 2 aspect_ratio: 3 aspect_ratio: 2 clip: true "
              "variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }"),
        layer("b", "PriorBox", "p data", "b",
              "prior_box_param { min_size: 6 min_size: 9 step: 7 clip: false variance: 0.1 }"),
        layer("x", "Concat", "a b", "x", "concat_param { axis: 2 }"),
        data=(1, 3, 24, 40),
    )  # fmt: skip
    model, data, found = run(tmp_path, text)
    close(found["a"], prior_boxes((3, 5), (24, 40), [(10, 20)], [2, 3], [0.1, 0.1, 0.2, 0.2], clip=True), 1e-6)
    close(found["b"], prior_boxes((3, 5), (24, 40), [(6, None), (9, None)], [], [0.1] * 4, step=7), 1e-6)
    for name, result in opencv(tmp_path, text, None, data).items():
        close(found[name], result, 1e-5, name)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_regions(tmp_path: Path) -> None:
    text = network(
        layer("rois", "Input", "", "rois", "input_param { shape { dim: 3 dim: 5 } }"),
        layer("x", "ROIPooling", "data rois", "x", "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.5 }"),
        data=(1, 2, 12, 16),
    )
    model = convert(*save(tmp_path, text))
    data = images((1, 2, 12, 16))
    regions = np.array([[0, 0, 0, 30, 22], [0, 4, 2, 15, 17], [0, 8, 8, 9, 9]], np.float32)
    found = values(model, {"data": data, "rois": regions})["x"]
    for region, result in zip(regions, found, strict=True):
        left, top, right, bottom = (math.floor(v * 0.5 + 0.5) for v in region[1:])
        high, wide = max(bottom - top + 1, 1), max(right - left + 1, 1)
        for i in range(2):
            for j in range(3):
                rows = slice(max(top + math.floor(i * high / 2), 0), min(top + math.ceil((i + 1) * high / 2), 12))
                columns = slice(max(left + math.floor(j * wide / 3), 0), min(left + math.ceil((j + 1) * wide / 3), 16))
                close(result[:, i, j], data[0, :, rows, columns].max((1, 2)))


def test_bilinear_weights_are_made(tmp_path: Path) -> None:
    body = (
        "convolution_param { num_output: 4 kernel_size: 4 stride: 2 pad: 1 group: 4 bias_term: false "
        'weight_filler { type: "bilinear" } }'
    )
    model, data, found = run(tmp_path, network(layer("x", "Deconvolution", "data", "x", body)))
    line = np.array([0.25, 0.75, 0.75, 0.25], np.float32)
    kernel = np.broadcast_to(np.outer(line, line), (4, 1, 4, 4)).astype(np.float32)
    stored = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(stored, kernel)
    assert "bilinear" in notes(model)
    assert found["x"].shape == (3, 4, 14, 18)
    close(
        opencv(tmp_path, network(layer("x", "Deconvolution", "data", "x", body)), {"x": [kernel]}, data)["x"],
        found["x"],
    )


def notes(model: onnx.ModelProto) -> str:
    return {entry.key: entry.value for entry in model.metadata_props}["conversion_notes"]


# --- networks in the style of the classics --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_network_as_in_opencv(name: str, tmp_path: Path) -> None:
    text, blobs, least = NETWORKS[name]
    against_opencv(tmp_path, text, blobs, least=least)
    model = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert (model.ir_version, model.opset_import[0].version, model.producer_name) == (8, 17, "onnxviz")


@pytest.mark.parametrize("form", ["old", "double", "unpacked"])
def test_forms_of_weights_files(form: str, tmp_path: Path) -> None:
    text, blobs, _ = NETWORKS["caffenet"]
    _, data, found = run(tmp_path, text, blobs)
    _, _, again = run(tmp_path, text, blobs, data, form)
    for name, result in found.items():
        np.testing.assert_array_equal(again[name], result)


def test_old_network_descriptions(tmp_path: Path) -> None:
    """V1: `layers` with enumerated types, `input_dim`, blobs of four sizes, learning rates beside them."""
    text = """
    name: "old" input: "data" input_dim: 10 input_dim: 3 input_dim: 8 input_dim: 9
    layers { layers: "skipped" bottom: "data" top: "conv1" name: "conv1" type: CONVOLUTION blobs_lr: 1 blobs_lr: 2
      weight_decay: 1 convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.01 } } }
    layers { bottom: "conv1" top: "conv1" name: "relu1" type: RELU }
    layers { bottom: "conv1" top: "pool1" name: "pool1" type: POOLING
      pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
    layers { bottom: "pool1" top: "fc" name: "fc" type: INNER_PRODUCT inner_product_param { num_output: 3 } }
    layers { bottom: "fc" top: "prob" name: "prob" type: SOFTMAX }
    """.replace('layers: "skipped"', "")
    blobs = weights(conv1=[(4, 3, 3, 3), (4,)], fc=[(3, 48), (3,)])
    assert against_opencv(tmp_path, text, blobs, form="old") >= 5


@pytest.mark.parametrize("rounding", ["CEIL", "FLOOR"])
def test_segnet_unpools_where_it_pooled(rounding: str, tmp_path: Path) -> None:
    text = network(
        layer(
            "pool",
            "Pooling",
            "data",
            "pool mask",
            f"pooling_param {{ pool: MAX kernel_size: 2 stride: 2 round_mode: {rounding} }}",
        ),
        layer("double", "Power", "pool", "double", "power_param { scale: 2 }"),
        layer("up", "Upsample", "double mask", "up", "upsample_param { scale: 2 upsample_h: 7 upsample_w: 9 }"),
        data=(1, 3, 7, 9),
    )
    _, data, found = run(tmp_path, text)
    wanted = np.zeros_like(data)
    rows, columns = (range(0, 7, 2), range(0, 9, 2)) if rounding == "CEIL" else (range(0, 6, 2), range(0, 8, 2))
    for image, channel, row, column in np.ndindex(*data.shape[:2], len(rows), len(columns)):
        window = data[image, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        place = np.unravel_index(window.argmax(), window.shape)
        wanted[image, channel, 2 * row + place[0], 2 * column + place[1]] = 2 * window.max()
    close(found["up"], wanted)


def test_shared_weights_are_stored_once(tmp_path: Path) -> None:
    share = 'param { name: "w" } param { name: "b" }'
    body = f"convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 }} {share}"
    text = network(layer("a", "Convolution", "data", "a", body), layer("b", "Convolution", "a", "b", body))
    blobs = weights(a=[(4, 4, 3, 3), (4,)])
    model, data, found = run(tmp_path, text, blobs)
    assert len(model.graph.initializer) == 2
    _, _, twice = run(tmp_path, text, {"a": blobs["a"], "b": blobs["a"]}, data)
    np.testing.assert_array_equal(found["b"], twice["b"])


def test_phases_and_stages(tmp_path: Path) -> None:
    """Only what is there at test time counts; losses and measures go, and what they read becomes the output."""
    train = layer("data", "Data", "", "data label", 'include { phase: TRAIN } data_param { source: "x" }')
    given = layer(
        "data", "Input", "", "data", "input_param { shape { dim: 5 dim: 2 dim: 4 dim: 4 } } include { phase: TEST }"
    )
    label = layer("label", "Input", "", "label", "input_param { shape { dim: 5 } }")
    text = "".join([
        train, given, label, dense("fc", "data", 3),
        layer("never", "Sigmoid", "fc", "fc", 'include { phase: TEST stage: "other" }'),
        layer("double", "Power", "fc", "fc", 'power_param { scale: 2 } exclude { phase: TRAIN }'),
        layer("level", "Power", "fc", "fc", "power_param { scale: 9 } include { min_level: 1 }"),
        layer("gone", "Power", "fc", "fc", "power_param { scale: 9 } exclude { not_stage: \"other\" }"),
        layer("loss", "SoftmaxWithLoss", "fc label", "loss"), layer("accuracy", "Accuracy", "fc label", "accuracy"),
    ])  # fmt: skip
    model, _, found = run(tmp_path, text, weights(fc=[(3, 32), (3,)]))
    assert [node.name for node in model.graph.node] == ["fc/flatten", "fc", "double"]
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["fc/double"]
    np.testing.assert_allclose(found["double"], 2 * found["fc"])
    assert "SoftmaxWithLoss" in notes(model)
    assert "label" in notes(model)


def test_digits_stage(tmp_path: Path) -> None:
    text = network(
        layer("a", "Power", "data", "x", 'power_param { scale: 3 } include { stage: "deploy" }'),
        layer("b", "Power", "data", "x", 'power_param { scale: 5 } exclude { stage: "deploy" }'),
    )
    model, _, found = run(tmp_path, text)
    assert list(found) == ["a"]
    assert "deploy" in notes(model)


def test_detection_output_is_left_out(tmp_path: Path) -> None:
    text = network(
        layer("loc", "Flatten", "data", "loc"),
        layer("conf", "Sigmoid", "loc", "conf"),
        layer("prior", "PriorBox", "data data", "prior", "prior_box_param { min_size: 3 }"),
        layer("out", "DetectionOutput", "loc conf prior", "out", "detection_output_param { num_classes: 2 }"),
    )
    model, _, _ = run(tmp_path, text)
    assert [value.name for value in model.graph.output] == ["conf", "prior"]
    assert "DetectionOutput" in notes(model)


def test_names(tmp_path: Path) -> None:
    """Nodes have the layers' names, values the blobs'; a value made in place adds the layer that made it."""
    text = network(
        layer("c", "Power", "data", "blob", "power_param { scale: 2 shift: 1 }"),
        layer("r", "ReLU", "blob", "blob"),
        layer("s", "Silence", "blob", ""),
        layer("out", "Sigmoid", "blob", "blob"),
    )
    model = convert(*save(tmp_path, text))
    assert [(node.name, node.output[0]) for node in model.graph.node] == [
        ("c/mul", "c/mul"), ("c", "blob"), ("r", "blob/r"), ("out", "blob/out")]  # fmt: skip
    assert [value.name for value in model.graph.output] == ["blob/out"]


def test_layers_that_mix_images_fix_the_batch(tmp_path: Path) -> None:
    text = network(layer("x", "Permute", "data", "x", "permute_param { order: 1 order: 0 }"))
    model, data, found = run(tmp_path, text)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 2
    assert "'x'" in notes(model)
    close(found["x"], data.transpose(1, 0, 2, 3))


def test_dummy_data(tmp_path: Path) -> None:
    dummy = layer("one", "DummyData", "", "one", 'dummy_data_param { shape { dim: 1 dim: 2 dim: 3 dim: 4 } '
                  'data_filler { type: "constant" value: 3 } }')  # fmt: skip
    both = network(dummy, layer("x", "Eltwise", "data one", "x"), data=(1, 2, 3, 4))
    _, data, found = run(tmp_path, both)
    close(found["x"], data + 3)
    alone = dummy + layer("x", "Power", "one", "x", "power_param { scale: 2 }")
    model = convert(*save(tmp_path, alone))
    assert [value.name for value in model.graph.input] == ["one"]


def test_volumes(tmp_path: Path) -> None:
    """Convolutions along three axes."""
    body = "convolution_param { num_output: 3 kernel_size: 3 kernel_size: 1 kernel_size: 2 stride: 2 pad: 1 }"
    text = network(layer("x", "Convolution", "data", "x", body), data=(1, 2, 5, 6, 7))
    learned = weights(x=[(3, 2, 3, 1, 2), (3,)])
    _, data, found = run(tmp_path, text, learned)
    padded = np.pad(data, [(0, 0), (0, 0), (1, 1), (1, 1), (1, 1)])
    wanted = np.zeros((3, 3, 3, 4, 4))
    for i, j, k in np.ndindex(3, 4, 4):
        window = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 1, 2 * k : 2 * k + 2]
        wanted[:, :, i, j, k] = np.einsum("nabcd,oabcd->no", window, learned["x"][0]) + learned["x"][1]
    close(found["x"], wanted)


# --- real models ----------------------------------------------------------------------------------------------------


def session(model: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def faces(shared_data: Path) -> np.ndarray:
    paths = sorted((shared_data / "faces_ultralight").rglob("*.jpg"))[:2]
    assert paths
    pixels = [np.asarray(Image.open(path).convert("RGB").resize((320, 240)), np.float32) for path in paths]
    return ((np.stack(pixels) - 127) / 128).transpose(0, 3, 1, 2).copy()


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["ultraface_rfb_320", "caffe_lenet"])
def test_real_model_at_every_layer_as_in_opencv(name: str, zoo: Path, shared_data: Path, tmp_path: Path) -> None:
    import cv2

    stored = zoo / "original" / ("caffe_lenet_iter_10000" if "lenet" in name else name)
    files = (zoo / "original" / f"{name}.prototxt", stored.with_name(stored.name + ".caffemodel"))
    data = faces(shared_data)[:1] if "face" in name else np.abs(images((1, 1, 28, 28)))
    model = convert(*files)
    found = values(model, {model.graph.input[0].name: data})
    net = cv2.dnn.readNetFromCaffe(*map(str, files))
    net.enableFusion(False)
    net.setInput(data)
    names = list(net.getLayerNames())
    results = dict(zip(names, net.forwardAndRetrieve(names), strict=True))
    assert len(names) == (110 if "face" in name else 8)
    for each in names:
        close(found[each], results[each][0], 1e-4, each)


@pytest.mark.zoo
def test_ultraface_as_exported_by_its_authors(zoo: Path, shared_data: Path) -> None:
    files = (zoo / "original" / "ultraface_rfb_320.prototxt", zoo / "original" / "ultraface_rfb_320.caffemodel")
    data = faces(shared_data)
    ours = session(convert(*files).SerializeToString()).run(["scores"], {"input": data})[0]
    theirs = session(str(zoo / "onnx" / "ultraface_rfb_320.onnx"))
    wanted = np.concatenate([theirs.run(["scores"], {"input": image[None]})[0] for image in data])
    assert wanted[:, :, 1].max() > 0.9  # there are faces
    close(ours, wanted, 1e-5)


@pytest.mark.zoo
def test_lenet_reads_digits_as_when_converted_by_others(zoo: Path, shared_data: Path) -> None:
    files = (zoo / "original" / "caffe_lenet.prototxt", zoo / "original" / "caffe_lenet_iter_10000.caffemodel")
    digits, labels = (
        np.frombuffer(gzip.decompress((shared_data / "mnist" / name).read_bytes())[start:], np.uint8)
        for name, start in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8))
    )
    data = (digits.reshape(-1, 1, 28, 28)[:500] / 256).astype(np.float32)
    ours = session(convert(*files).SerializeToString()).run(None, {"data": data})[0]
    assert (ours.argmax(1) == labels[:500]).mean() > 0.97
    theirs = session(str(zoo / "onnx" / "caffe_lenet.onnx"))
    wanted = np.concatenate([theirs.run(None, {"data_input": image[None]})[0] for image in data[:20]])
    close(ours[:20], wanted, 1e-5)


@pytest.mark.parametrize("name", ["caffenet", "resnet", "fcn"])
def test_converted_models_load_and_agree(name: str, tmp_path: Path) -> None:
    text, blobs, _ = NETWORKS[name]
    model = convert(*save(tmp_path, text, blobs))
    onnx.save(model, tmp_path / "model.onnx")
    view = onnxviz.open_model(tmp_path / "model.onnx")
    assert "conv1" in [entry.name for entry in view.layers]
    import torch

    sizes = [size.dim_value or 2 for size in model.graph.input[0].type.tensor_type.shape.dim]
    data = images(sizes)
    wanted = values(model, {"data": data})[model.graph.node[-1].name]
    found = onnxviz.to_torch(tmp_path / "model.onnx")(torch.from_numpy(data))[0]
    close(found.detach().numpy(), wanted)
