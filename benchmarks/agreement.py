"""Agreement with ONNX Runtime at every layer of every model of the zoo, and what a wrong preprocessing does.

    python -m benchmarks.agreement

For each file, and for what ONNX Runtime's own quantiser makes of two of them: the largest difference of any layer
relative to that layer's largest value, against the file as given and against the normalised float32 graph, on real
images with the model's own preprocessing, one image alone and four together. Where layers differ by more than the
tolerance, who is off by a third computation; for quantised models how far layers are apart from the image on: largest,
median, last. Files that cannot be opened or converted are listed with the message. Then SqueezeNet's accuracy on
labelled photographs with four presets, of which one is its own.
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime import quantization

from benchmarks.measure import arguments, markdown, prepare
from onnxviz.core.errors import DataError, OnnxvizError, shorten
from onnxviz.core.values import Agreement, Layer, Preprocessing
from onnxviz.data.images import ImageFolder, fit_image, load_batch
from onnxviz.model.model import Model, load
from onnxviz.model.parity import check_parity, check_tensors
from onnxviz.model.to_torch import to_torch

PHOTOGRAPHS = ("imagenet_sample/*.JPEG",)
CIFAR = ("cifar10_test/*/*.jpg",)
FACES = ("fer2013_filtered_copy/*/*",)
STREET = ("camvid/images/*.jpg",)
CROWDS = ("faces_ultralight/*",)
DIGITS = ("mnist/t10k-images-idx3-ubyte.gz",)

MODELS: dict[str, tuple[str | Mapping[str, Any], Sequence[str]]] = {
    "caffe_lenet.onnx": ({"channel_order": "GRAY", "scale": 256}, DIGITS),
    "candy.onnx": ("raw", PHOTOGRAPHS),
    "cifar.onnx": ("tf", CIFAR),
    "cifar10_resnet20_dynamo20.onnx": ("imagenet", CIFAR),
    "cifar10_resnet20_ts17.onnx": ("imagenet", CIFAR),
    "coral_mobilenet_v1_0.25_128_float.onnx": ({"mean": 128, "scale": 128}, PHOTOGRAPHS),
    "coral_mobilenet_v1_0.25_128_qdq.onnx": ("raw", PHOTOGRAPHS),
    "coral_mobilenet_v2_1.0_224_qdq.onnx": ("raw", PHOTOGRAPHS),
    "csinva_mnist_lenet32.onnx": ({"channel_order": "GRAY", "fit": "stretch"}, DIGITS),
    "csinva_mnist_vae_encoder.onnx": ("gray_unit", DIGITS),
    "deeplabv3_mnv2_ade20k_uint8.onnx": ("raw", PHOTOGRAPHS),
    "efficientnet_lite0_imagenet.onnx": ({"mean": 127, "scale": 128}, PHOTOGRAPHS),
    "espnet_p_2_q_8_camvid.onnx": (
        {"channel_order": "BGR", "mean": [110.331, 108.409, 105.033],
         "scale": [255 * 72.126, 255 * 72.691, 255 * 69.904], "fit": "stretch"},
        STREET,
    ),
    "fastestdet_coco.onnx": ({"channel_order": "BGR", "scale": 255, "fit": "stretch"}, PHOTOGRAPHS),
    "fer2013_mini_XCEPTION.102-0.66.onnx": ("gray_tf", FACES),
    "mlperf_tiny_resnet8_cifar10.onnx": ("raw", CIFAR),
    "mlperf_tiny_resnet8_cifar10_int8_qdq.onnx": ({"mean": 128, "scale": 1}, CIFAR),
    "mnist.onnx": ("gray_raw", DIGITS),
    "squeezenet_fp16.onnx": ("caffe", PHOTOGRAPHS),
    "stm_mobilenet_v1_0.25_224_imagenet.onnx": ("tf", PHOTOGRAPHS),
    "ultraface_rfb_320.onnx": ({"mean": 127, "scale": 128, "fit": "stretch"}, CROWDS),
    "vnn_cifar10_resnet_4b.onnx": (
        {"mean": [125.307, 122.961, 113.858], "scale": [63.0105, 62.0925, 66.708]}, CIFAR
    ),
    "vnn_gtsrb_bnn_48.onnx": ("raw", STREET),
    "vnn_vit_cifar10_pgd_2_3_16.onnx": (
        {"mean": [125.307, 122.961, 113.858], "scale": [51.5865, 50.847, 51.255]}, CIFAR
    ),
    "yunet_n_dynamic.onnx": ({"channel_order": "BGR", "scale": 1, "size": [320, 320]}, CROWDS),
}  # fmt: skip
"""File -> its preprocessing and images for it; files that are not here take no image."""


def iris(count: int, _folder: Path, _data: Path) -> list[np.ndarray]:
    """Return measured flowers."""
    from sklearn.datasets import load_iris

    return [load_iris().data[:: 150 // count][:count].astype(np.float32)]


def digits_of_64(count: int, _folder: Path, data: Path) -> list[np.ndarray]:
    """Return handwritten digits of 8 x 8 pixels, 0..16, as scikit-learn's data set has them."""
    from PIL import Image

    with gzip.open(data / DIGITS[0]) as stream:
        digits = np.frombuffer(stream.read(16 + count * 784)[16:], np.uint8).reshape(count, 28, 28)
    small = [np.asarray(Image.fromarray(digit).resize((8, 8), Image.Resampling.BOX)) for digit in digits]
    return [(np.stack(small).reshape(count, 64) / 16).astype(np.float32)]


def codes_of_digits(count: int, folder: Path, data: Path) -> list[np.ndarray]:
    """Return what the encoder of the same autoencoder makes of handwritten digits."""
    encoder = load(folder / "csinva_mnist_vae_encoder.onnx", "gray_unit", device="cpu")
    images = images_for(encoder, DIGITS, data, count)
    return [next(iter(encoder.measure(images, encoder.view.logits).values()))]


def conditions(count: int, _folder: Path, _data: Path) -> list[np.ndarray]:
    """Return a distance and four numbers of noise, all in 0..1, for each picture."""
    return [np.random.default_rng(0).random((count, 5), dtype=np.float32)]


def codes(count: int, _folder: Path, _data: Path) -> list[np.ndarray]:
    """Return the normal noise that a generator makes pictures of."""
    return [np.random.default_rng(0).standard_normal((count, 100, 1, 1)).astype(np.float32)]


def sound(count: int, _folder: Path, _data: Path) -> list[np.ndarray]:
    """Return rising tones in noise of 32 ms, an empty state, and the sampling rate."""
    generator = np.random.default_rng(0)
    time = np.arange(512) / 16000
    tones = [np.sin(2 * np.pi * (150 + 80 * row + 2000 * time) * time) for row in range(count)]
    noisy = np.stack(tones) * 0.3 + 0.02 * generator.standard_normal((count, 512))
    return [noisy.astype(np.float32), np.zeros((2, count, 128), np.float32), np.array(16000, np.int64)]


TENSORS: dict[str, Callable[[int, Path, Path], list[np.ndarray]]] = {
    "iris_mlp_winml.onnx": iris,
    "skl_digits_mlp_zipmap.onnx": digits_of_64,
    "csinva_mnist_vae_decoder.onnx": codes_of_digits,
    "vnn_cgan_32_3ch_upsample.onnx": conditions,
    "vnn_cgan_32_3ch_upsample_generator.onnx": conditions,
    "dcgan_digiface64_generator.onnx": codes,
    "silero_vad.onnx": sound,
}
"""File that takes no image -> inputs for it."""


def images_for(model: Model, patterns: Sequence[str], data: Path, count: int) -> np.ndarray:
    """Return real images in the model's size, float32 [count, 3, h, w] in 0..1."""
    size = model.input_size
    if patterns is DIGITS:
        with gzip.open(data / DIGITS[0]) as stream:
            digits = np.frombuffer(stream.read(16 + count * 784)[16:], np.uint8).reshape(count, 28, 28)
        pictures = [
            fit_image(np.repeat(digit[:, :, None], 3, axis=2), Preprocessing(fit="stretch"), size) for digit in digits
        ]
        return np.stack(pictures).transpose(0, 3, 1, 2)
    folder = ImageFolder.find("images", patterns, data, limit=count)
    return load_batch(folder, range(count), model.preprocessing, size)


def largest(found: Sequence[Agreement], reference: str) -> str:
    """Return the largest difference against a reference, its layer's name, and how many layers are outside."""
    against = [item for item in found if item.reference == reference]
    if not against:
        return "-"
    # A NaN is no agreement: it counts as the largest.
    worst = max(against, key=lambda item: np.inf if np.isnan(item.relative) else item.relative)
    broken = sum(not item.holds for item in against)
    return f"{worst.relative:.1e}" + (f" ({broken} of {len(against)} WRONG; {worst.layer})" if broken else "")


def judged(found: Sequence[Agreement]) -> str:
    """Return who is off by the third computation, with the largest figures, where layers differ too much."""
    shown = []
    for off, who in {
        "runtime": "ONNX Runtime",
        "ours": "WE",
        "both": "BOTH",
        "neither": "neither",
        "unknown": "?",
    }.items():
        rows = [item for item in found if item.off == off]
        if rows:
            worst = max(rows, key=lambda item: np.inf if np.isnan(item.theirs) else item.theirs)
            layers = len({item.layer for item in rows})
            arises = f"arises at {shorten(worst.origin, 40)}"
            shown.append(f"{who}: {layers} layer(s), theirs {worst.theirs:.1e}, ours {worst.ours:.1e}, {arises}")
    return "; ".join(shown) or "-"


def end_to_end(found: Sequence[Agreement]) -> str:
    """Return how far layers behind a rounding are apart from the image on: the largest, the median, the last."""
    shares = [item.end_to_end for item in found if item.end_to_end is not None and item.reference == "float32"]
    return f"{max(shares):.1%} / {np.median(shares):.1%} / {shares[-1]:.1%}" if shares else "-"


def provable(model: Model, layers: Sequence[Layer], images: np.ndarray) -> tuple[list[Layer], list[Layer]]:
    """Return the layers that give a row for each image, and the others: a reshape has mixed images there."""
    try:
        model.activations(images, list(layers))
    except DataError:
        pass
    else:
        return list(layers), []
    kept: list[Layer] = []
    mixed: list[Layer] = []
    for layer in layers:
        try:
            model.activations(images, layer)
            kept.append(layer)
        except DataError:
            mixed.append(layer)
    return kept, mixed


def rows(folder: Path, data: Path, counts: Sequence[int], only: Sequence[str]) -> Iterator[list[object]]:
    """Yield the row of each model."""
    for path in sorted(folder.glob("*.onnx")):
        if only and path.name not in only:
            continue
        try:
            yield _row(path, folder, data, counts)
        except OnnxvizError as fault:
            said = shorten(f"{type(fault).__name__}: {' '.join(str(fault).split())}", 200)
            yield [path.name, "", said, *[""] * (4 * len(counts) + 1)]


def _row(path: Path, folder: Path, data: Path, counts: Sequence[int]) -> list[object]:
    preprocess, patterns = MODELS.get(path.name, (None, ()))
    model = load(path, preprocess, device="cpu")
    notes: Counter[str] = Counter()
    for operator, (reason, nodes) in model.unsupported().items():
        notes[f"{operator} refused{': ' if reason else ''}{reason}"] = len(nodes) * len(counts)
    layers = [layer for layer in model.layers if model.converts(layer)]
    mixed: list[Layer] = []
    if path.name not in TENSORS and patterns:
        apart, mixed = provable(model, layers, images_for(model, patterns, data, 1))
        notes["compared as tensors, as they hold several images in one row"] = len(mixed) * len(counts)
        layers = [*apart, *mixed]
    cells: list[object] = []
    for count in counts if layers else ():
        if path.name in TENSORS:
            found = check_tensors(model, layers, TENSORS[path.name](count, folder, data))
        elif patterns:
            images = images_for(model, patterns, data, count)
            found = check_parity(model, layers[: len(layers) - len(mixed)], images)
            if mixed:
                tensors = check_tensors(model, mixed, [model.encode(torch.from_numpy(images)).numpy()])
                # A file that takes one image at a time says nothing of the order of rows that several images share.
                found += tuple(item for item in tensors if item.reference == "float32" or count == 1)
        else:
            found = ()
        cells += [largest(found, "file"), largest(found, "float32"), judged(found), end_to_end(found)]
        notes.update(item.note for item in found if item.note)
    cells += ["-"] * (4 * len(counts) - len(cells))
    shown = "; ".join(f"{max(number // len(counts), 1)}: {note}" for note, number in notes.items() if number)
    return [path.name, f"{len(layers)} of {len(model.layers)}", shown, *cells, gradient(model, path, folder, data)]


def gradient(model: Model, path: Path, folder: Path, data: Path) -> str:
    """Return whether a gradient of the last layer that converts reaches the input, or what stops it."""
    layer = next((layer for layer in reversed(model.layers) if model.converts(layer)), None)
    if layer is None:
        return "-"
    if path.name in TENSORS:
        inputs = [torch.from_numpy(array) for array in TENSORS[path.name](1, folder, data)]
        (values,) = to_torch(model, layer)(inputs[0].requires_grad_(), *inputs[1:])
        values.square().sum().backward()
        found = inputs[0].grad
    else:
        _, patterns = MODELS.get(path.name, (None, ()))
        if not patterns:
            return "-"
        image = torch.from_numpy(images_for(model, patterns, data, 1)).requires_grad_()
        model.differentiable(layer)(image)[0].square().sum().backward()
        found = image.grad
    stopped = model.view.gradient_stops(layer)
    if found is not None and bool(torch.isfinite(found).all()) and float(found.abs().max()) > 0:
        return "reaches the input" + (" although it should not" if stopped else "")
    return f"zero: {stopped[0]} has no slope" if stopped else "ZERO, and nothing explains it"


def accuracy(path: Path, data: Path, presets: Sequence[str]) -> list[list[object]]:
    """Return the top-1 and top-5 accuracy of a classifier of photographs with some presets."""
    photographs = ImageFolder.find("photographs", PHOTOGRAPHS, data)
    truth = np.array([photographs.class_index_of(index) for index in range(len(photographs))])
    found: list[list[object]] = []
    for preset in presets:
        model = load(path, preset, device="cpu")
        ranks = []
        for start in range(0, len(photographs), 16):
            batch = range(start, min(start + 16, len(photographs)))
            values = model.scores(load_batch(photographs, batch, model.preprocessing, model.input_size))
            own = values[np.arange(len(values)), truth[list(batch)]]
            ranks.append((values > own[:, None]).sum(axis=1))
        rank = np.concatenate(ranks)
        found.append([preset, f"{(rank < 1).mean():.1%}", f"{(rank < 5).mean():.1%}", len(rank)])
    return found


QUANTISED = ("mlperf_tiny_resnet8_cifar10.onnx", "vnn_vit_cifar10_pgd_2_3_16.onnx")
"""Models of which ONNX Runtime's own quantiser makes others: static with products of integers, and dynamic."""


class _Calibration(quantization.CalibrationDataReader):
    """Real images to choose scales by, one at a time."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._images = iter([{name: images[index : index + 1]} for index in range(len(images))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next image."""
        return next(self._images, None)


def quantised(folder: Path, data: Path, made: Path) -> Path:
    """Let ONNX Runtime's quantiser make models of integer products into another folder."""
    for name in QUANTISED:
        source = Path(shutil.copy(folder / name, made / f"source_{name}"))
        preprocess, patterns = MODELS[name]
        model = load(source, preprocess, device="cpu")
        images = model.encode(torch.from_numpy(images_for(model, patterns, data, 8))).contiguous().numpy()
        entry = onnx.load(source).graph.input[0]
        quantization.quantize_dynamic(source, made / f"dynamic_{name}")
        quantization.quantize_static(
            source, made / f"qoperator_{name}", _Calibration(entry.name, images),
            quant_format=quantization.QuantFormat.QOperator, activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        source.unlink()
        MODELS.update({f"{kind}_{name}": MODELS[name] for kind in ("dynamic", "qoperator")})
    return made


def _told(found: Iterator[list[object]]) -> Iterator[list[object]]:
    """Pass rows on, and show that they come: all of them take long."""
    for row in found:
        print("|", " | ".join(map(str, row)), file=sys.stderr, flush=True)
        yield row


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4], help="images in a batch")
    parser.add_argument("--only", nargs="*", default=[], metavar="FILE", help="only these models")
    parser.add_argument("--skip-quantised", action="store_true", help="make no models of integer products")
    parser.add_argument("--skip-accuracy", action="store_true", help="leave SqueezeNet's accuracy out")
    given = parser.parse_args()
    prepare(given)
    folder, data = given.zoo / "zoo" / "onnx", given.zoo / "data"
    if not folder.is_dir():
        parser.exit(2, f"there are no models in {folder}; give --zoo FOLDER\n")
    kinds = ("file", "float32", "who is off", "end to end")
    columns = [f"{kind}, {count} image(s)" for count in given.counts for kind in kinds]
    head = ["model", "layers", "remark", *columns, "gradient"]
    with tempfile.TemporaryDirectory() as made:
        asked = not given.only or any(name.startswith(("dynamic_", "qoperator_")) for name in given.only)
        folders = [folder, quantised(folder, data, Path(made))] if asked and not given.skip_quantised else [folder]
        found = (row for place in folders for row in rows(place, data, given.counts, given.only))
        print(markdown(head, list(_told(found))))
    if not given.skip_accuracy:
        found = accuracy(folder / "squeezenet_fp16.onnx", data, ("caffe", "imagenet", "unit", "raw"))
        print("\nSqueezeNet on labelled photographs, by ONNX Runtime on the normalised graph\n")
        print(markdown(["preset", "top-1", "top-5", "photographs"], found))


if __name__ == "__main__":
    main()
