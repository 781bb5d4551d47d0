"""How good is the choice of a preprocessing by trial? Every classifier of the zoo whose preprocessing is known.

    python -m benchmarks.preprocessing

For each model: accuracy on all images with the preprocessing that its authors say, computed here with Pillow and ONNX
Runtime alone; then what the probe chooses from a part of the images, with and without class names, whether it calls
that clear, and the accuracy on all images of what it chose, as a run computes it.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from PIL import Image

from benchmarks.measure import arguments, markdown, prepare
from onnxviz.core.errors import SelectionError
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import Preprocessing
from onnxviz.data.image_choice import own_class
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.graph import open_model
from onnxviz.graph.labels import read_labels
from onnxviz.model.model import load
from onnxviz.model.preprocessing_candidates import pictures_for
from onnxviz.model.preprocessing_search import probe
from onnxviz.model.preprocessing_trials import Probe

DIGITS = "mnist"


@dataclass(frozen=True)
class Known:
    """A model, and what its authors say of its input.

    Attributes:
        file: in the zoo.
        images: folder of images with known classes.
        labels: file of class names, "" if they are numbers.
        order: of the channels.
        mean: subtracted from 0..255, in this order.
        scale: divided by.
        crop: part of the resized short side that is kept; None for images that have the input's size or are stretched.
    """

    file: str
    images: str
    labels: str
    order: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    crop: float | None = None


CIFAR = ("cifar10_test", "cifar10.txt")
PHOTOGRAPHS, CORAL = ("imagenet_sample", "imagenet_1000.txt"), ("imagenet_sample", "coral_imagenet_labels.txt")
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_CIFAR = (125.307, 122.961, 113.8575)
MODELS = (
    Known("cifar10_resnet20_ts17.onnx", *CIFAR, "RGB", *_IMAGENET),
    Known("mlperf_tiny_resnet8_cifar10.onnx", *CIFAR, "RGB", (0.0,), (1.0,)),
    Known("mlperf_tiny_resnet8_cifar10_int8_qdq.onnx", *CIFAR, "RGB", (128.0,), (1.0,)),
    Known("vnn_cifar10_resnet_4b.onnx", *CIFAR, "RGB", _CIFAR, (63.0105, 62.0925, 66.708)),
    Known("vnn_vit_cifar10_pgd_2_3_16.onnx", *CIFAR, "RGB", _CIFAR, (51.5865, 50.847, 51.255)),
    Known("cifar.onnx", *CIFAR, "RGB", (127.5,), (127.5,)),
    Known("fer2013_mini_XCEPTION.102-0.66.onnx", "fer2013_filtered_copy", "fer2013.txt", "GRAY", (127.5,), (127.5,)),
    Known("mnist.onnx", DIGITS, "", "GRAY", (0.0,), (1.0,)),
    Known("csinva_mnist_lenet32.onnx", DIGITS, "", "GRAY", (0.0,), (255.0,)),
    Known("caffe_lenet.onnx", DIGITS, "", "GRAY", (0.0,), (256.0,)),
    Known("coral_mobilenet_v1_0.25_128_float.onnx", *CORAL, "RGB", (128.0,), (128.0,), 0.875),
    Known("coral_mobilenet_v1_0.25_128_qdq.onnx", *CORAL, "RGB", (0.0,), (1.0,), 0.875),
    Known("stm_mobilenet_v1_0.25_224_imagenet.onnx", *PHOTOGRAPHS, "RGB", (127.5,), (127.5,), 0.875),
    Known("squeezenet_fp16.onnx", *PHOTOGRAPHS, "BGR", (104.0, 117.0, 123.0), (1.0,), 0.875),
    Known("efficientnet_lite0_imagenet.onnx", *PHOTOGRAPHS, "RGB", (127.0,), (128.0,), 0.875),
    Known("coral_mobilenet_v2_1.0_224_qdq.onnx", *CORAL, "RGB", (0.0,), (1.0,), 0.875),
)


def digits(folder: Path, source: Path, count: int = 400) -> ImageFolder:
    """Write test digits of MNIST as files, one folder for each class."""
    pixels, classes = (
        np.frombuffer(gzip.decompress((source / f"t10k-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    for place, digit in enumerate(pixels.reshape(-1, 28, 28)[:count]):
        (folder / str(classes[place])).mkdir(exist_ok=True)
        Image.fromarray(digit).save(folder / str(classes[place]) / f"{place:05}.png")
    return ImageFolder.find(DIGITS, [str(folder)], folder)


def by_hand(known: Known, path: Path, images: ImageFolder, truth: Sequence[int | None]) -> float:
    """Return the accuracy with the authors' preprocessing, without this package's code."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    last = given.shape[-1] in (1, 3)
    height, width = [int(side) for side in (given.shape[1:3] if last else given.shape[2:4])]
    right = 0
    for place, file in enumerate(images.paths):
        if truth[place] is None:
            continue
        image = Image.open(file).convert("L" if known.order == "GRAY" else "RGB")
        if known.crop is not None:
            short = round(width / known.crop)
            scale = short / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
            left, top = (image.width - width) // 2, (image.height - height) // 2
            image = image.crop((left, top, left + width, top + height))
        elif image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32).reshape(height, width, -1)
        if known.order == "BGR":
            pixels = pixels[:, :, ::-1]
        values = (pixels - np.array(known.mean, np.float32)) / np.array(known.scale, np.float32)
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
        tensor = (values if last else values.transpose(2, 0, 1))[None].astype(kinds.get(given.type, np.int8))
        right += int(np.asarray(session.run(None, {given.name: tensor})[0]).reshape(-1).argmax()) == truth[place]
    return right / sum(own is not None for own in truth)


def chosen_accuracy(path: Path, chosen: Preprocessing, images: ImageFolder, truth: Sequence[int | None]) -> float:
    """Return the accuracy of a preprocessing as a run computes it."""
    model = load(path, chosen, device="cpu")
    right = 0
    known = [index for index in range(len(images)) if truth[index] is not None]
    for index in known:
        batch = load_batch(images, [index], chosen, model.input_size)
        right += int(model.scores(batch)[0].argmax()) == truth[index]
    return right / len(known)


def class_of(images: ImageFolder, index: int, labels: Sequence[str]) -> int | None:
    """Return the class of an image; None where two classes have its name, as ImageNet's cranes."""
    try:
        return own_class(images, index, labels)
    except SelectionError:
        return None


def row(known: Known, zoo: Path, images: ImageFolder) -> list[str]:
    """Measure one model."""
    path = zoo / "onnx" / known.file
    view = open_model(path)
    labels = read_labels(zoo / "labels" / known.labels) if known.labels else [str(digit) for digit in range(10)]
    truth = [class_of(images, index, labels) for index in range(len(images))]
    count = min(pictures_for(view), len(images))
    chosen = spread_evenly(range(len(images)), count)
    best = by_hand(known, path, images, truth)
    cells = [known.file, f"{len(images)}", f"{best:.1%}", f"{count}"]
    for found in (
        probe(view, images, labels=labels, indices=chosen),
        probe(view, Unlabelled(images), indices=chosen),  # type: ignore[arg-type]
    ):
        accuracy = chosen_accuracy(path, found.trials[0].preprocessing, images, truth)
        cells += [described(found), "yes" if found.clear else "no", f"{accuracy:.1%}"]
    return cells


class Unlabelled:
    """Images of which nobody knows what they show."""

    def __init__(self, images: ImageFolder) -> None:
        self._images = images
        self.name, self.names, self.digest, self.sizes = images.name, images.names, images.digest, images.sizes
        self.read = images.read

    def __len__(self) -> int:
        return len(self._images)


def described(found: Probe) -> str:
    """Return what was chosen in a few words."""
    first = found.trials[0]
    own = f", {first.geometry}" if first.preprocessing.keeps_geometry else ""
    return f"{first.preprocessing.channel_order} {first.range}{own}"


def main() -> None:
    """Measure every model and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", metavar="FILE", help="only these models of the zoo")
    options = parser.parse_args()
    prepare(options)
    zoo, data = options.zoo / "zoo", options.zoo / "data"
    head = ["model", "images", "by hand", "tried on", "with class names", "clear", "accuracy"]
    head += ["without", "clear", "accuracy"]
    rows = []
    with TemporaryDirectory() as folder:
        written = digits(Path(folder), data / DIGITS)
        for known in MODELS:
            if options.only and known.file not in options.only:
                continue
            images = written if known.images == DIGITS else ImageFolder.find("x", [str(data / known.images)], data)
            rows.append(row(known, zoo, images))
            print(" | ".join(rows[-1]), flush=True)
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
