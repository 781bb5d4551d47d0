"""Which maps are to be believed: deletion, insertion, shuffled weights, noise; and the pointing game on CamVid.

    OMP_NUM_THREADS=1 python -m benchmarks.attribution_faithfulness --models squeezenet mobilenet --images 24
    OMP_NUM_THREADS=1 python -m benchmarks.attribution_faithfulness --camvid 58

Of photographs the predicted class is explained. Of CamVid each class of `OBJECTS` that covers at least a thousandth of
an image, by the mean of its score over the positions, or the highest (`--positions`); accuracy is averaged over the
images of a class, then over classes, as TorchRay does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.measure import IMAGENET, arguments, markdown, open_subject, prepare
from onnxviz.analyses.attribution.belief import choose
from onnxviz.analyses.attribution.belief_findings import findings
from onnxviz.analyses.attribution.faithfulness import enlarged
from onnxviz.analyses.attribution.judgement import Faithfulness, ImageJudgement, judge
from onnxviz.analyses.attribution.localisation import TOLERANCE, chance, localise
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.randomisation import ShuffledWeights
from onnxviz.analyses.attribution.simple_maps import simple_maps
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.explained_score import Positions
from onnxviz.core.findings import Caveat, Note, Table
from onnxviz.core.values import Preprocessing
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model, load

MODELS = {
    "squeezenet": ("squeezenet_fp16.onnx", "caffe"),
    "mobilenet": ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf"),
}
TOGETHER = 8
OBJECTS = ("pole", "sign_symbol", "fence", "car", "pedestrian", "bicyclist")
_DEVIATIONS = (72.126, 72.691, 69.904)
CAMVID = Preprocessing("BGR", (110.331, 108.409, 105.033), tuple(255 * value for value in _DEVIATIONS), fit="none")
"""How the authors of ESPNet prepare CamVid's images; the second division by 255 is theirs."""


def of_methods(names: Sequence[str]) -> dict[str, Method]:
    """Return methods by their headings."""
    return {methods()[name].heading: methods()[name]() for name in names}


def make(chosen: Mapping[str, Method], question: Question) -> dict[str, torch.Tensor]:
    """Return each method's map, of the last layer if there are several."""
    return {name: method.attribute(question).maps[-1] for name, method in chosen.items()}


def opened(name: str, zoo: Path, count: int) -> tuple[Model, npt.NDArray[np.float32]]:
    """Return a classifier and images for it."""
    if name == "builtin":
        return open_subject(name, zoo, count)
    file, preset = MODELS[name]
    model = load(zoo / "zoo" / "onnx" / file, preset, device="cpu", output="classes")
    source = ImageFolder.find("photographs", [IMAGENET], zoo / "data", limit=count)
    return model, load_batch(source, range(count), model.preprocessing, model.input_size)


def photographs(name: str, zoo: Path, count: int, chosen: Mapping[str, Method], settings: Faithfulness) -> None:
    """Print the table of one classifier."""
    model, images = opened(name, zoo, count)
    head = resolve_head(model.view, None, model.labels)
    assert head.scores is not None
    best = model.scores(images, head).argmax(axis=1)
    layers, shuffled = model.view.select("last_map"), ShuffledWeights(model, [head.scores], settings.stages, 0)
    judged: list[ImageJudgement] = []
    started = time.perf_counter()
    for start in range(0, count, TOGETHER):
        part = torch.from_numpy(images[start : start + TOGETHER])
        forward = ForwardPass(model, part, layers, [head.scores], to_input=True)
        places = range(start, start + len(part))
        question = forward.ask([ClassTarget(head, int(best[place])) for place in places], indices=places)
        maps = make(chosen, question)
        judged += judge(question, maps, settings, make=lambda other: make(chosen, other), shuffled=shuffled)
    seconds = time.perf_counter() - started
    cost = settings.cost({key: method.cost(1) for key, method in chosen.items()})
    print(f"\n### {name}: {count} images, {seconds / count:.1f} s each, {cost:.0f} passes each by the estimate\n")
    for found in findings(judged, settings):
        if isinstance(found, Table):
            print(
                markdown(
                    [column.name for column in found.columns], [[_shown(cell) for cell in row] for row in found.rows]
                )
            )
        elif isinstance(found, Note | Caveat):
            print(f"\n{type(found).__name__}: {found.text}")
    picked = choose(judged)
    print(f"\nauto: {picked.words if picked else 'none'}")


def _shown(cell: object) -> object:
    return f"{cell:.3f}" if isinstance(cell, float) else "" if cell is None else cell


def camvid(zoo: Path, count: int, chosen: Mapping[str, Method], layer: str, positions: Positions) -> None:
    """Print the pointing game and the energy on the classes of a segmenter's street scenes."""
    folder = zoo / "data" / "camvid"
    names = (folder / "classes.txt").read_text().split()
    model = load(zoo / "zoo" / "onnx" / "espnet_p_2_q_8_camvid.onnx", CAMVID, device="cpu", output="map_of_classes")
    head = resolve_head(model.view, None, model.labels)
    assert head.scores is not None
    files = sorted((folder / "images").iterdir())
    files = files[:: max(1, len(files) // count)][:count]
    hits: dict[str, dict[str, list[float]]] = {}
    energies: dict[str, list[float]] = {}
    right = []
    for number, file in enumerate(files):
        images = torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255).permute(2, 0, 1)[None]
        labels = np.asarray(Image.open(folder / "labels" / f"{file.stem}.png"))
        right.append(_accuracy(model, head.scores.name, images, labels))
        for name in OBJECTS:
            mask = labels == names.index(name)
            if mask.mean() < 0.001:
                continue
            forward = ForwardPass(model, images, [model.view.layer(layer)], [head.scores], to_input=True)
            question = forward.ask([ClassTarget(head, names.index(name), positions)], indices=[number])
            maps = {key: value.detach().numpy() for key, value in make(chosen, question).items()}
            for key, heat in {**maps, **simple_maps(question)}.items():
                found = localise(enlarged(heat[0], mask.shape), mask)
                hits.setdefault(key, {}).setdefault(name, []).append(found.pointing)
                energies.setdefault(key, []).append(found.energy)
            for key, value in zip(("by chance", "area"), chance(mask), strict=True):
                (hits.setdefault(key, {}).setdefault(name, []) if key != "area" else []).append(value)
            energies.setdefault("by chance", []).append(float(mask.mean()))
    _print_pointing(hits, energies, len(files), float(np.mean(right)))


def _accuracy(model: Model, layer: str, images: torch.Tensor, labels: npt.NDArray[np.uint8]) -> float:
    predicted = model.measure(images, layer)[layer].argmax(axis=1)[0]
    return float((predicted == labels)[labels < 11].mean())


def _print_pointing(
    hits: Mapping[str, Mapping[str, list[float]]], energies: Mapping[str, list[float]], count: int, right: float
) -> None:
    classes = [name for name in OBJECTS if name in next(iter(hits.values()))]
    pairs = sum(len(values) for values in next(iter(hits.values())).values())
    print(f"\n### CamVid, ESPNet: {count} images, {pairs} pairs with a class, {TOLERANCE} of 360 x 480 pixels forgiven")
    print(f"\nPixels named right: {right:.1%}\n")
    rows: list[list[object]] = []
    for key, by_class in hits.items():
        means = [math.fsum(by_class[name]) / len(by_class[name]) for name in classes]
        energy = float(np.nanmean(energies[key]))
        rows.append([key, *(f"{value:.1%}" for value in (float(np.mean(means)), *means, energy))])
    counts = [f"{name} ({len(hits['by chance'][name])})" for name in classes]
    print(markdown(["map", "mean of classes", *counts, "energy on the mask"], rows))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=[], choices=["builtin", *MODELS])
    parser.add_argument("--methods", nargs="*", default=["grad_cam", "gradient"])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=Faithfulness().steps)
    parser.add_argument("--camvid", type=int, default=0, metavar="COUNT", help="images of CamVid; none by default")
    parser.add_argument("--positions", default="mean", choices=["mean", "highest"], help="how positions become a score")
    parser.add_argument("--layer", default="b3.act", help="layer of the segmenter whose maps are taken")
    given = parser.parse_args()
    prepare(given)
    chosen = of_methods(given.methods)
    for name in given.models:
        photographs(name, given.zoo, given.images, chosen, Faithfulness(steps=given.steps))
    if given.camvid:
        camvid(given.zoo, given.camvid, chosen, given.layer, given.positions)


if __name__ == "__main__":
    main()
