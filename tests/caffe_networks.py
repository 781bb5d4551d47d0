"""Small Caffe networks in the style of the classics, with the number of layers that OpenCV knows of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from caffe_models import layer, network, statistics, weights

Blobs = Mapping[str, Sequence[np.ndarray]]


def conv(name: str, bottom: str, outputs: int, body: str, top: str = "") -> str:
    return layer(name, "Convolution", bottom, top or name, f"convolution_param {{ num_output: {outputs} {body} }}")


def relu(blob: str) -> str:
    return layer(f"relu_{blob}", "ReLU", blob, blob)


def pool(name: str, bottom: str, body: str) -> str:
    return layer(name, "Pooling", bottom, name, f"pooling_param {{ {body} }}")


def dense(name: str, bottom: str, outputs: int) -> str:
    return layer(name, "InnerProduct", bottom, name, f"inner_product_param {{ num_output: {outputs} }}")


def norm_and_scale(blob: str) -> str:
    return layer(f"bn_{blob}", "BatchNorm", blob, blob) + layer(
        f"scale_{blob}", "Scale", blob, blob, "scale_param { bias_term: true }"
    )


def fire(name: str, bottom: str, squeeze: int, expand: int) -> str:
    return (
        conv(f"{name}/squeeze", bottom, squeeze, "kernel_size: 1")
        + relu(f"{name}/squeeze")
        + conv(f"{name}/one", f"{name}/squeeze", expand, "kernel_size: 1")
        + relu(f"{name}/one")
        + conv(f"{name}/three", f"{name}/squeeze", expand, "kernel_size: 3 pad: 1")
        + relu(f"{name}/three")
        + layer(f"{name}/concat", "Concat", f"{name}/one {name}/three", f"{name}/concat")
    )


def norm_blobs(name: str, channels: int) -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(channels)
    factors = [rng.uniform(0.5, 1.5, channels).astype(np.float32), rng.standard_normal(channels).astype(np.float32)]
    return {f"bn_{name}": statistics(channels), f"scale_{name}": factors}


NETWORKS: dict[str, tuple[str, Blobs, int]] = {
    "caffenet": (
        network(
            conv("conv1", "data", 8, "kernel_size: 5 stride: 2"), relu("conv1"),
            pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"),
            layer("norm1", "LRN", "pool1", "norm1", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }"),
            conv("conv2", "norm1", 12, "kernel_size: 3 pad: 1 group: 2"), relu("conv2"),
            dense("fc6", "conv2", 10), relu("fc6"), layer("drop6", "Dropout", "fc6", "fc6"),
            dense("fc8", "fc6", 5), layer("prob", "Softmax", "fc8", "prob"), data=(10, 3, 27, 27)),
        weights(conv1=[(8, 3, 5, 5), (8,)], conv2=[(12, 4, 3, 3), (12,)], fc6=[(10, 432), (10,)], fc8=[(5, 10), (5,)]),
        10),
    "vgg": (
        network(
            conv("conv1_1", "data", 6, "kernel_size: 3 pad: 1"), relu("conv1_1"),
            conv("conv1_2", "conv1_1", 6, "kernel_size: 3 pad: 1"), relu("conv1_2"),
            pool("pool1", "conv1_2", "pool: MAX kernel_size: 2 stride: 2"),
            conv("conv2_1", "pool1", 8, "kernel_size: 3 pad: 1"), relu("conv2_1"),
            pool("pool2", "conv2_1", "pool: MAX kernel_size: 2 stride: 2"),
            dense("fc6", "pool2", 7), relu("fc6"), layer("prob", "Softmax", "fc6", "prob"), data=(1, 3, 17, 18)),
        weights(conv1_1=[(6, 3, 3, 3), (6,)], conv1_2=[(6, 6, 3, 3), (6,)], conv2_1=[(8, 6, 3, 3), (8,)],
                fc6=[(7, 200), (7,)]),
        10),
    "googlenet": (
        network(
            conv("conv1/7x7_s2", "data", 6, "kernel_size: 7 stride: 2 pad: 3"), relu("conv1/7x7_s2"),
            pool("pool1", "conv1/7x7_s2", "pool: MAX kernel_size: 3 stride: 2"),
            conv("i/1x1", "pool1", 4, "kernel_size: 1"), relu("i/1x1"),
            conv("i/5x5", "pool1", 3, "kernel_size: 5 pad: 2"), relu("i/5x5"),
            pool("i/pool", "pool1", "pool: MAX kernel_size: 3 stride: 1 pad: 1"),
            conv("i/proj", "i/pool", 2, "kernel_size: 1"),
            layer("i/output", "Concat", "i/1x1 i/5x5 i/proj", "i/output"),
            pool("pool5", "i/output", "pool: AVE kernel_size: 7 stride: 1"),
            dense("classifier", "pool5", 4), layer("prob", "Softmax", "classifier", "prob"), data=(2, 3, 30, 30)),
        weights(conv1__7x7_s2=[(6, 3, 7, 7), (6,)], i__1x1=[(4, 6, 1, 1), (4,)], i__5x5=[(3, 6, 5, 5), (3,)],
                i__proj=[(2, 6, 1, 1), (2,)], classifier=[(4, 9), (4,)]),
        10),
    "resnet": (
        network(
            conv("conv1", "data", 6, "kernel_size: 3 stride: 2 pad: 1"), norm_and_scale("conv1"), relu("conv1"),
            pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"),
            conv("res2a", "pool1", 6, "kernel_size: 3 pad: 1 bias_term: false"), norm_and_scale("res2a"), relu("res2a"),
            conv("res2b", "res2a", 6, "kernel_size: 3 pad: 1 bias_term: false"), norm_and_scale("res2b"),
            layer("sum", "Eltwise", "pool1 res2b", "sum"), relu("sum"),
            pool("pool5", "sum", "pool: AVE global_pooling: true"), dense("fc", "pool5", 5), data=(1, 3, 21, 21)),
        weights(conv1=[(6, 3, 3, 3), (6,)], res2a=[(6, 6, 3, 3)], res2b=[(6, 6, 3, 3)], fc=[(5, 6), (5,)])
        | norm_blobs("conv1", 6) | norm_blobs("res2a", 6) | norm_blobs("res2b", 6),
        14),
    "squeezenet": (
        network(
            conv("conv1", "data", 6, "kernel_size: 3 stride: 2"), relu("conv1"),
            pool("pool1", "conv1", "pool: MAX kernel_size: 3 stride: 2"),
            fire("fire2", "pool1", 3, 5), layer("drop", "Dropout", "fire2/concat", "fire2/concat"),
            conv("conv10", "fire2/concat", 4, "kernel_size: 1 pad: 1"), relu("conv10"),
            pool("pool10", "conv10", "pool: AVE global_pooling: true"),
            layer("prob", "Softmax", "pool10", "prob"), data=(1, 3, 24, 24)),
        weights(conv1=[(6, 3, 3, 3), (6,)], fire2__squeeze=[(3, 6, 1, 1), (3,)], fire2__one=[(5, 3, 1, 1), (5,)],
                fire2__three=[(5, 3, 3, 3), (5,)], conv10=[(4, 10, 1, 1), (4,)]),
        12),
    "mobilenet ssd": (
        network(
            conv("conv0", "data", 8, "kernel_size: 3 stride: 2 pad: 1 bias_term: false"),
            norm_and_scale("conv0"), relu("conv0"),
            conv("conv1/dw", "conv0", 8, "kernel_size: 3 pad: 1 group: 8 bias_term: false"),
            norm_and_scale("conv1/dw"), relu("conv1/dw"),
            conv("conv1", "conv1/dw", 8, "kernel_size: 1 stride: 2"), relu("conv1"),
            *(text for source in ("conv0", "conv1") for text in (
                conv(f"{source}_loc", source, 12, "kernel_size: 1"),
                layer(f"{source}_loc_perm", "Permute", f"{source}_loc", f"{source}_loc_perm",
                      "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
                layer(f"{source}_loc_flat", "Flatten", f"{source}_loc_perm", f"{source}_loc_flat",
                      "flatten_param { axis: 1 }"),
                conv(f"{source}_conf", source, 6, "kernel_size: 1"),
                layer(f"{source}_conf_perm", "Permute", f"{source}_conf", f"{source}_conf_perm",
                      "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
                layer(f"{source}_conf_flat", "Flatten", f"{source}_conf_perm", f"{source}_conf_flat"),
                layer(f"{source}_prior", "PriorBox", f"{source} data", f"{source}_prior",
                      "prior_box_param { min_size: 9 aspect_ratio: 2 clip: false variance: 0.1 variance: 0.1 "
                      "variance: 0.2 variance: 0.2 }"))),
            layer("mbox_loc", "Concat", "conv0_loc_flat conv1_loc_flat", "mbox_loc", "concat_param { axis: 1 }"),
            layer("mbox_conf", "Concat", "conv0_conf_flat conv1_conf_flat", "mbox_conf", "concat_param { axis: 1 }"),
            layer("mbox_priorbox", "Concat", "conv0_prior conv1_prior", "mbox_priorbox", "concat_param { axis: 2 }"),
            layer("mbox_conf_reshape", "Reshape", "mbox_conf", "mbox_conf_reshape",
                  "reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"),
            layer("mbox_conf_softmax", "Softmax", "mbox_conf_reshape", "mbox_conf_softmax",
                  "softmax_param { axis: 2 }"),
            layer("mbox_conf_flatten", "Flatten", "mbox_conf_softmax", "mbox_conf_flatten"),
            data=(1, 3, 16, 20)),
        weights(conv0=[(8, 3, 3, 3)], conv1__dw=[(8, 1, 3, 3)], conv1=[(8, 8, 1, 1), (8,)],
                conv0_loc=[(12, 8, 1, 1), (12,)], conv1_loc=[(12, 8, 1, 1), (12,)],
                conv0_conf=[(6, 8, 1, 1), (6,)], conv1_conf=[(6, 8, 1, 1), (6,)])
        | norm_blobs("conv0", 8) | norm_blobs("conv1/dw", 8),
        25),
    "fcn": (
        network(
            conv("conv1", "data", 6, "kernel_size: 3 pad: 10"), relu("conv1"),
            pool("pool1", "conv1", "pool: MAX kernel_size: 2 stride: 2"),
            conv("score", "pool1", 4, "kernel_size: 3"),
            layer("upscore", "Deconvolution", "score", "upscore",
                  "convolution_param { num_output: 4 kernel_size: 4 stride: 2 bias_term: false }"),
            layer("crop", "Crop", "upscore data", "crop", "crop_param { axis: 2 offset: 5 }"), data=(1, 3, 13, 15)),
        weights(conv1=[(6, 3, 3, 3), (6,)], score=[(4, 6, 3, 3), (4,)], upscore=[(4, 4, 4, 4)]),
        6),
}  # fmt: skip
