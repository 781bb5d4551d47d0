"""Caffe networks made for tests: text, weights as Caffe stores them, and slow references from Caffe's definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnxviz.importing.caffe import convert
from onnxviz.importing.caffe.schema import binary_message


def layer(name: str, kind: str, bottoms: str, tops: str, body: str = "") -> str:
    """Return a layer's text; bottoms and tops are given as names with spaces between them."""
    lines = [f'name: "{name}" type: "{kind}"']
    lines += [f'bottom: "{bottom}"' for bottom in bottoms.split()]
    lines += [f'top: "{top}"' for top in tops.split()]
    return "layer {\n  " + "\n  ".join([*lines, body]) + "\n}\n"


def network(*layers: str, data: Sequence[int] = (2, 4, 7, 9)) -> str:
    """Return a network's text with one input called data."""
    sizes = " ".join(f"dim: {size}" for size in data)
    return (
        'name: "made"\n'
        + layer("data", "Input", "", "data", f"input_param {{ shape {{ {sizes} }} }}")
        + "".join(layers)
    )


def save_weights(path: Path, weights: Mapping[str, Sequence[np.ndarray]], form: str = "new") -> None:
    """Write a .caffemodel.

    Args:
        path: where to.
        weights: layer name -> blobs.
        form: "new", "old" (V1 layers, four sizes for each blob), "double" or "unpacked" (floats one by one).
    """
    message = binary_message("Net")()
    for name, blobs in weights.items():
        entry = (message.layers if form == "old" else message.layer).add(name=name.encode())
        for array in blobs:
            blob = entry.blobs.add()
            if form == "old":
                sizes = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = sizes
            else:
                blob.shape.dim.extend(array.shape)
            if form == "double":
                blob.double_data.append(array.astype("<f8").tobytes())
            elif form == "unpacked":
                unpacked = binary_message("UnpackedBlob")(data=array.ravel().tolist())
                blob.MergeFromString(unpacked.SerializeToString())
            else:
                blob.data.append(array.astype("<f4").tobytes())
    path.write_bytes(message.SerializeToString())


def save(
    folder: Path, text: str, weights: Mapping[str, Sequence[np.ndarray]] | None = None, form: str = "new"
) -> tuple[Path, Path | None]:
    """Write a network and its weights."""
    description = folder / "net.prototxt"
    description.write_text(text, encoding="utf-8")
    if not weights:
        return description, None
    save_weights(folder / "net.caffemodel", weights, form)
    return description, folder / "net.caffemodel"


def values(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model and return the first output of every named node that makes floating point numbers."""
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    known = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    wanted = {node.name: node.output[0] for node in model.graph.node if node.output[0] in known}
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    outputs = {value.name for value in wide.graph.output}
    for name in dict.fromkeys(wanted.values()):
        if name not in outputs:
            wide.graph.output.append(known[name])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(wide.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = list(dict.fromkeys(wanted.values()))
    found = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    return {name: found[value] for name, value in wanted.items()}


def images(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Return numbers around zero."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(seed: int = 1, /, **shapes: Sequence[tuple[int, ...]]) -> dict[str, list[np.ndarray]]:
    """Return random blobs; a name's double underscore stands for a slash."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, sizes in shapes.items():
        scale = [1 / math.sqrt(max(1, math.prod(size[1:]))) for size in sizes]
        found[name.replace("__", "/")] = [
            (rng.standard_normal(size) * each).astype(np.float32) for size, each in zip(sizes, scale, strict=True)
        ]
    return found


def statistics(channels: int, seed: int = 2) -> list[np.ndarray]:
    """Return the blobs of a BatchNorm: sums of mean and variance, and the factor they are to be divided by."""
    rng = np.random.default_rng(seed)
    factor = 3.5
    mean, variance = rng.standard_normal(channels), rng.uniform(0.5, 2, channels)
    return [(mean * factor).astype(np.float32), (variance * factor).astype(np.float32), np.array([factor], np.float32)]


def run(
    folder: Path,
    text: str,
    blobs: Mapping[str, Sequence[np.ndarray]] | None = None,
    data: np.ndarray | None = None,
    form: str = "new",
) -> tuple[onnx.ModelProto, np.ndarray, dict[str, np.ndarray]]:
    """Convert a network with one input and run it; a free batch must give the same for each image alone."""
    model = convert(*save(folder, text, blobs, form))
    first = model.graph.input[0]
    sizes = first.type.tensor_type.shape.dim
    free = sizes[0].dim_param == "N"
    if data is None:
        data = images([3 if size.dim_param else size.dim_value for size in sizes])
    found = values(model, {first.name: data})
    if free:
        single = [values(model, {first.name: image[None]}) for image in data]
        carried = {value.name for value in (*model.graph.value_info, *model.graph.output) if _is_free(value)}
        for node in model.graph.node:
            if node.output[0] in carried:
                joined = np.concatenate([each[node.name] for each in single])
                np.testing.assert_allclose(found[node.name], joined, rtol=1e-4, atol=1e-5, err_msg=node.name)
    check_declared_shapes(model, found, len(data))
    return model, data, found


def _is_free(value: onnx.ValueInfoProto) -> bool:
    sizes = value.type.tensor_type.shape.dim
    return bool(sizes) and sizes[0].dim_param == "N"


def check_declared_shapes(model: onnx.ModelProto, found: Mapping[str, np.ndarray], batch: int) -> None:
    """Compare the shapes that the model declares with those that ONNX Runtime makes."""
    declared = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.output[0] in declared:
            sizes = declared[node.output[0]].type.tensor_type.shape.dim
            shape = tuple(batch if size.dim_param else size.dim_value for size in sizes)
            assert found[node.name].shape == shape, node.name


def opencv(
    folder: Path, text: str, blobs: Mapping[str, Sequence[np.ndarray]] | None, data: np.ndarray, form: str = "new"
) -> dict[str, np.ndarray]:
    """Run a network in OpenCV and return the output of every layer."""
    import cv2

    description, stored = save(folder, text, blobs, form)
    if stored is None:
        # OpenCV wants weights of a network that has none.
        stored = folder / "none.caffemodel"
        save_weights(stored, {"none": []})
    net = cv2.dnn.readNetFromCaffe(str(description), str(stored))
    net.enableFusion(False)
    net.setInput(data)
    names = list(net.getLayerNames())
    # Several tops come as a list; the first is compared.
    return {
        name: np.array(result[0] if isinstance(result, list | tuple) else result)
        for name, result in zip(names, net.forwardAndRetrieve(names), strict=True)
    }


# --- references from Caffe's definitions ----------------------------------------------------------------------------


def pooled(
    data: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    maximum: bool,
    ceil: bool = True,
) -> np.ndarray:
    """Pool as Caffe's pooling_layer.cpp does, window by window."""
    size = data.shape[2:]
    counts = []
    for axis in (0, 1):
        span = (size[axis] + 2 * pad[axis] - kernel[axis]) / stride[axis]
        count = int(math.ceil(span) if ceil else math.floor(span)) + 1
        if any(pad) and (count - 1) * stride[axis] >= size[axis] + pad[axis]:
            count -= 1
        counts.append(count)
    result = np.zeros((*data.shape[:2], *counts), np.float32)
    for place in itertools.product(*map(range, counts)):
        start = [place[axis] * stride[axis] - pad[axis] for axis in (0, 1)]
        end = [min(start[axis] + kernel[axis], size[axis] + pad[axis]) for axis in (0, 1)]
        area = (end[0] - start[0]) * (end[1] - start[1])
        begin = [max(each, 0) for each in start]
        stop = [min(end[axis], size[axis]) for axis in (0, 1)]
        window = data[:, :, begin[0] : stop[0], begin[1] : stop[1]]
        result[:, :, place[0], place[1]] = window.max((2, 3)) if maximum else window.sum((2, 3)) / area
    return result


def local_response(data: np.ndarray, size: int, alpha: float, beta: float) -> np.ndarray:
    """LRN within a channel, as Caffe composes it: square, average, power, product."""
    half = (size - 1) // 2
    average = pooled(data**2, (size, size), (1, 1), (half, half), maximum=False)
    return data * (1 + alpha * average) ** -beta


def reorganised(data: np.ndarray, stride: int) -> np.ndarray:
    """Darknet's reorg_cpu with forward = 0, index by index."""
    images_, channels, height, width = data.shape
    flat = data.reshape(-1)
    result = np.zeros_like(flat)
    fewer = channels // stride**2
    for b, k, j, i in itertools.product(range(images_), range(channels), range(height), range(width)):
        inside = i + width * (j + height * (k + channels * b))
        offset, c2 = divmod(k, fewer)
        w2 = i * stride + offset % stride
        h2 = j * stride + offset // stride
        outside = w2 + width * stride * (h2 + height * stride * (c2 + fewer * b))
        result[inside] = flat[outside]
    return result.reshape(images_, channels * stride**2, height // stride, width // stride)


def interpolated(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation with corners on corners, as DeepLab's Interp."""

    def along(values_: np.ndarray, axis: int, size: int) -> np.ndarray:
        before = values_.shape[axis]
        place = np.arange(size) * ((before - 1) / (size - 1) if size > 1 else 0)
        low = np.minimum(place.astype(int), before - 1)
        high = np.minimum(low + 1, before - 1)
        shape = [1] * values_.ndim
        shape[axis] = size
        part = (place - low).reshape(shape)
        return values_.take(low, axis) * (1 - part) + values_.take(high, axis) * part

    return along(along(data.astype(np.float64), 2, height), 3, width).astype(np.float32)


def prior_boxes(
    feature: tuple[int, int],
    image: tuple[int, int],
    sizes: Sequence[tuple[float, float | None]],
    ratios: Sequence[float],
    variance: Sequence[float],
    step: float = 0,
    clip: bool = False,
) -> np.ndarray:
    """SSD's prior_box_layer.cpp with flip, box by box."""
    numbers = []
    step_h, step_w = (step, step) if step else (image[0] / feature[0], image[1] / feature[1])
    for h, w in itertools.product(range(feature[0]), range(feature[1])):
        x, y = (w + 0.5) * step_w, (h + 0.5) * step_h
        for least, most in sizes:
            boxes = [(least, least)]
            if most:
                boxes.append((math.sqrt(least * most), math.sqrt(least * most)))
            for ratio in ratios:
                boxes += [(least * math.sqrt(each), least / math.sqrt(each)) for each in (ratio, 1 / ratio)]
            for wide, high in boxes:
                numbers += [
                    (x - wide / 2) / image[1],
                    (y - high / 2) / image[0],
                    (x + wide / 2) / image[1],
                    (y + high / 2) / image[0],
                ]
    boxes_ = np.array(numbers, np.float32)
    if clip:
        boxes_ = boxes_.clip(0, 1)
    return np.stack([boxes_, np.tile(np.array(variance, np.float32), len(boxes_) // 4)])[None]
