"""What is found in networks that ONNX Runtime has quantised or optimised, beside the same networks in float32.

    OMP_NUM_THREADS=1 python -m benchmarks.quantised_forms --zoo ../shared

Each network is quantised by onnxruntime.quantization in all its forms, and optimised by a session that saves what it
runs. The table counts what differs: convolutions and products by their shapes, work and receptive fields, weights that
are off by more than a step of the quantisation, the layers that Grad-CAM explains by default, and those whose kernels
are described, in all networks together. A column for each network has the correlation of Grad-CAM's maps with those in
float32; the last one how far outputs are from those of ONNX Runtime without optimisation, at most.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization

from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import gradients_of
from onnxviz.core.values import Layer
from onnxviz.graph import GraphView
from onnxviz.model.maps import to_map
from onnxviz.model.model import Model, load

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Network:
    """A network of the zoo and photographs for it.

    Attributes:
        file: in the zoo.
        images: folder of photographs.
        preprocess: how they become its input.
    """

    file: str
    images: str
    preprocess: str

    def load(self, path: Path) -> Model:
        """Load it, or one of its forms."""
        return load(path, preprocess=self.preprocess, device="cpu")


NETWORKS = (
    Network("mlperf_tiny_resnet8_cifar10.onnx", "cifar10_test", "raw"),
    Network("cifar10_resnet20_ts17.onnx", "cifar10_test", "imagenet"),
    Network("stm_mobilenet_v1_0.25_224_imagenet.onnx", "imagenet_sample", "tf"),
    Network("fer2013_mini_XCEPTION.102-0.66.onnx", "fer2013_filtered_copy", "gray_tf"),
    Network("csinva_mnist_lenet32.onnx", "fer2013_filtered_copy", "gray_unit"),
)
"""The last one reads digits; what is compared needs pictures only."""


class _Calibration(quantization.CalibrationDataReader):
    """What scales are chosen by."""

    def __init__(self, name: str, batches: Sequence[np.ndarray]) -> None:
        self.batches = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def forms(source: Path, folder: Path, inputs: np.ndarray, kept: Sequence[str] = ("",)) -> Iterator[tuple[str, Path]]:
    """Yield the forms of a network, with what they are called; the file itself is not among them.

    Args:
        source: the network in float32.
        folder: where the forms go, and a copy of the network: ONNX Runtime writes beside what it quantises.
        inputs: what its scales are chosen by.
        kept: make those only whose name holds one of these; what is optimised is made too.
    """
    plain = Path(shutil.copy(source, folder))
    name = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"]).get_inputs()[0].name
    batches = [inputs[place : place + 1] for place in range(len(inputs))]
    made: dict[str, Path] = {}
    for form in ("QDQ", "QOperator"):
        for kind in ("QUInt8", "QInt8"):
            for each in (False, True):
                called = f"{form}, {kind[1:].lower()}, per {'channel' if each else 'tensor'}"
                if not any(part in called for part in kept):
                    continue
                made[called] = folder / f"{len(made)}.onnx"
                quantization.quantize_static(
                    plain, made[called], _Calibration(name, batches), quant_format=quantization.QuantFormat[form],
                    activation_type=quantization.QuantType[kind], weight_type=quantization.QuantType.QInt8,
                    per_channel=each,
                )  # fmt: skip
                yield called, made[called]
    for kind in ("QUInt8", "QInt8"):
        for each in (False, True):
            called = f"dynamic, {kind[1:].lower()}, per {'channel' if each else 'tensor'}"
            if not any(part in called for part in kept):
                continue
            made[called] = folder / f"{len(made)}.onnx"
            quantization.quantize_dynamic(
                plain, made[called], weight_type=quantization.QuantType[kind], per_channel=each
            )
            yield called, made[called]
    sources = {"float32": plain, **{called: path for called, path in made.items() if ", int8, per channel" in called}}
    for level in ("basic", "extended"):
        for called, path in sources.items():
            target = folder / f"{level}{path.name}"
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.optimized_model_filepath = str(target)
            options.graph_optimization_level = getattr(
                onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}"
            )
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            yield f"{called}, {level}", target


def weighted(view: GraphView) -> list[Layer]:
    """Return the convolutions and products of a network."""
    return [layer for layer in view.layers if layer.operator in WEIGHTED]


def describe(view: GraphView) -> dict[str, object]:
    """Return what is known of a network, in words and numbers that all its forms share."""
    layers = weighted(view)
    shapes = {layer.value: _shape(layer) for layer in layers}
    return {
        "layers": Counter(shapes.values()),
        "kernels": Counter((view.kernel(layer), view.groups(layer), view.strides(layer)) for layer in layers),
        "multiply-adds": Counter((shapes[layer.value], view.multiply_adds(layer)) for layer in layers),
        "receptive fields": Counter((shapes[layer.value], _field(view, layer)) for layer in layers),
        "Grad-CAM": [(layer.shape[1:], _field(view, layer)) for layer in view.select("block_outputs")],
        "last map": [layer.shape[1:] for layer in view.select("last_map")],
        "kernel tables": Counter(
            (shapes[layer.value], array.shape)
            for layer in view.select("all_convs")
            if (array := view.weight(layer)) is not None
        ),
    }


def _shape(layer: Layer) -> tuple[object, ...]:
    """A product with a bias may be written as MatMul and Add or as Gemm."""
    return ("Conv" if layer.operator.startswith("Conv") else "product", *layer.shape[1:])


def _field(view: GraphView, layer: Layer) -> object:
    found = view.receptive_field(layer)
    return None if found is None else (found.size, found.stride)


def weights_off(plain: GraphView, other: GraphView, folded: bool = False) -> int:
    """Count the weights of a network that no layer of the same shape in another form has within one step.

    A step is a 127th of the largest magnitude of the tensor; scales for each channel are no larger.

    Args:
        plain: the network.
        other: the form.
        folded: whether normalisation may have been folded into it, which gives each kernel a factor.
    """
    theirs = [array for layer in weighted(other) if (array := other.weight(layer)) is not None]
    ours = [array for layer in weighted(plain) if (array := plain.weight(layer)) is not None]
    return sum(not any(_within_a_step(array, same, folded) for same in theirs) for array in ours)


def _within_a_step(array: np.ndarray, same: np.ndarray, folded: bool) -> bool:
    if same.shape != array.shape:
        return False
    if folded:
        kernels, other = array.reshape(len(array), -1), same.reshape(len(array), -1)
        factors = (kernels * other).sum(1) / np.maximum((other**2).sum(1), 1e-30)
        same = (other * factors[:, None]).reshape(array.shape)
    return bool(np.abs(same - array).max() <= 1.01 * np.abs(array).max() / 127)


def maps(model: Model, images: torch.Tensor, classes: torch.Tensor) -> np.ndarray:
    """Return Grad-CAM of the last map for one class for each image."""
    layer, logits = model.view.select("last_map")[0], model.view.logits
    values, scores = model.differentiable([layer, logits])(images)
    score = scores.flatten(1).gather(1, classes[:, None])[:, 0]
    (slopes,) = gradients_of(score, [values])
    return GradCamMethod().weighted(to_map(layer, values.detach()), to_map(layer, slopes)).relu().numpy()


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean correlation of maps, of those that are no constants."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(first, second, strict=True) if a.std() > 0 and b.std() > 0]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])) if pairs else float("nan")


def outputs_apart(path: Path, model: Model, images: torch.Tensor) -> float:
    """Return how far the outputs are from those of ONNX Runtime without optimisation, by the largest."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    encoded = model.encode(images)
    theirs = session.run(None, {session.get_inputs()[0].name: encoded.numpy()})[0]
    with torch.no_grad():
        ours = model.network.cut([model.view.proto.graph.output[0].name])(encoded)[0].numpy()
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def photographs(model: Model, folder: Path, count: int) -> torch.Tensor:
    """Return some photographs in a model's size, spread evenly over a folder's."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"))
    return model.prepare(found[:: max(len(found) // count, 1)][:count])


@dataclass(frozen=True)
class Row:
    """What was found in one form of one network.

    Attributes:
        differs: what is not as in float32.
        off: how many weights are off.
        correlation: of Grad-CAM's maps of the last map.
        apart: how far its outputs are from ONNX Runtime's, by the largest.
    """

    differs: tuple[str, ...]
    off: int
    correlation: float
    apart: float


def rows(network: Network, shared: Path, folder: Path) -> Iterator[tuple[str, Row]]:
    """Yield what the forms of a network are called, and what was found in them."""
    source = shared / "zoo" / "onnx" / network.file
    plain = network.load(source)
    images = photographs(plain, shared / "data" / network.images, 8)
    expected, scores = describe(plain.view), plain.activations(images, plain.view.logits)
    best = next(iter(scores.values())).flatten(1).argmax(1)
    reference = maps(plain, images, best)
    for called, path in forms(source, folder, plain.encode(images).numpy()):
        model = network.load(path)
        found = describe(model.view)
        yield (
            called,
            Row(
                tuple(name for name, wanted in expected.items() if found[name] != wanted),
                weights_off(plain.view, model.view, called.startswith("float32")),
                correlation(reference, maps(model, images, best)),
                outputs_apart(path, model, images),
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, required=True, help="folder with zoo/ and data/")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, list[Row]] = {}
    for network in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            for called, row in rows(network, given.zoo, Path(folder)):
                found.setdefault(called, []).append(row)
                print(network.file, called, row, file=sys.stderr, flush=True)
    names = [network.file.removesuffix(".onnx").split(".")[0] for network in NETWORKS]
    print(f"| form | differs | weights off | {' | '.join(names)} | outputs apart |")
    print("| --- " * (4 + len(names)) + "|")
    for called, each in found.items():
        differs = ", ".join(dict.fromkeys(name for row in each for name in row.differs)) or "nothing"
        maps_alike = " | ".join(f"{row.correlation:.3f}" for row in each)
        apart = max(row.apart for row in each)
        print(f"| {called} | {differs} | {sum(row.off for row in each)} | {maps_alike} | {apart:.1g} |")


if __name__ == "__main__":
    main()
