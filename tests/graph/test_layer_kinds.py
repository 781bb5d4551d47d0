"""Activation maximization drives every kind of layer: other layouts, tokens, dense, quantised, of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxviz.core import findings as f
from tests.analyses.test_activation_maximization import analyse, context, images, only

pytestmark = pytest.mark.zoo

STRONG = {"kind": "adam", "learning_rate": 0.1}
CASES: dict[str, tuple[str, str, list[dict[str, Any]], dict[str, Any]]] = {
    "NHWC": (
        "stm_mobilenet_v1_0.25_224_imagenet", "tf",
        [{"layer": "first_conv", "units": 4}, {"layer": "mobilenet_0.25_224/conv_dw_8/depthwise", "units": [0, 5]},
         {"layer": "mobilenet_0.25_224/conv_pw_7_relu/Relu6", "units": 9, "position": "center"},
         {"layer": "logits", "units": 9}], {"size": 128},
    ),
    "NHWC of another size than its own": (
        "coral_mobilenet_v1_0.25_128_float", "tf",
        [{"layer": "first_conv", "units": 1}, {"layer": "Relu6__33", "units": [2, 7]}, {"layer": "Relu6__33"}],
        {"size": 96, "steps": 48, "optimizer": {"kind": "adam", "learning_rate": 0.05}},
    ),
    "tokens": (
        "vnn_vit_cifar10_pgd_2_3_16", "unit",
        [{"layer": "/0/Transpose", "units": 3}, {"layer": "/1/1.0/1.0.1/Add", "units": 5},
         {"layer": "/1/1.0/1.0.1/Add", "units": 5, "position": [2]}, {"layer": "/1/1.0/1.0.1/Add"},
         {"layer": "logits", "units": 4, "sign": "both"}], {},
    ),
    "dense, Caffe": (
        "caffe_lenet", "gray_unit",
        [{"layer": "conv1", "units": 2}, {"layer": "ip1", "units": [0, 7]}, {"layer": "ip2", "units": 3}], {},
    ),
    "dense, PyTorch": (
        "csinva_mnist_lenet32", "gray_unit",
        [{"layer": "/Relu_3", "units": [0, 3]}, {"layer": "/c5/Conv", "units": 6}, {"layer": "logits", "units": 2}],
        {"transforms": []},
    ),
    "one channel": (
        "mnist", "gray_raw",
        [{"layer": "Plus30", "units": 1}, {"layer": "Plus112", "units": 4}, {"layer": "logits", "units": 8}], {},
    ),
    "one channel, NHWC": (
        "fer2013_mini_XCEPTION.102-0.66", "gray_tf",
        [{"layer": "first_conv", "units": 1}, {"layer": "model_1/add_2/add", "units": 3},
         {"layer": "logits", "units": 3}], {},
    ),
    "int8": (
        "mlperf_tiny_resnet8_cifar10_int8_qdq", "raw",
        [{"layer": "first_conv", "units": 2}, {"layer": "Relu__19", "units": [4, 11]}, {"layer": "logits", "units": 1}],
        {"steps": 32},  # whole steps of the logits are coarse
    ),
    "int8, ImageNet": (
        "coral_mobilenet_v1_0.25_128_qdq", "raw",
        [{"layer": "first_conv", "units": 1}, {"layer": "Relu6__33", "units": 7}, {"layer": "logits", "units": 10}], {},
    ),
    "fp16": (
        "squeezenet_fp16", "caffe",
        [{"layer": "first_conv", "units": 3}, {"layer": "fire6/squeeze1x1_2", "units": [0, 9]},
         {"layer": "logits", "units": 9}], {"size": 96},
    ),
    "segmentation": (
        "espnet_p_2_q_8_camvid", "unit",
        [{"layer": "/level3.2/bn/act/PRelu", "units": 7}, {"layer": "logits", "units": 2}], {"size": [96, 128]},
    ),
    "detector": (
        "fastestdet_coco", "unit",
        [{"layer": "Conv_0", "units": 7}, {"layer": "Conv_137", "units": 7}, {"layer": "logits", "units": 12}], {},
    ),
    "detector of any size": (
        "yunet_n_dynamic", "raw",
        [{"layer": "Conv_2", "units": 3}, {"layer": "Relu_59", "units": [1, 12]}], {"size": 96},
    ),
    "style transfer": (
        "candy", "raw", [{"layer": "crop2", "units": 5, "position": "center"}], {"steps": 3, "transforms": []},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_activations_rise(name: str, zoo: Path) -> None:
    file, preprocess, targets, settings = CASES[name]
    place = context(zoo / "onnx" / f"{file}.onnx", preprocess=preprocess)
    found = analyse(place, targets=targets, **{"steps": 8, "optimizer": STRONG, **settings})
    table = only(found, f.Table)
    names = [column.name for column in table.columns]
    rows: list[Mapping[str, Any]] = [dict(zip(names, row, strict=True)) for row in table.rows]
    assert len(rows) >= len(targets)
    assert not [(row["picture"], row["before"], row["after"]) for row in rows if not row["rise"] > 0]
    made = images(found)
    assert np.isfinite(made).all()
    assert made.std() > 0.01
