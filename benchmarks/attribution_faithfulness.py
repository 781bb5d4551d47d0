"""Which maps are to be believed: deletion, insertion, shuffled weights, noise.

    OMP_NUM_THREADS=1 python -m benchmarks.attribution_faithfulness --models squeezenet mobilenet --images 24

The predicted class of photographs is explained.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import IMAGENET, arguments, markdown, open_subject, prepare
from onnxviz.analyses.attribution.belief import choose
from onnxviz.analyses.attribution.belief_findings import findings
from onnxviz.analyses.attribution.judgement import Faithfulness, ImageJudgement, judge
from onnxviz.analyses.attribution.method import Method
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.randomisation import ShuffledWeights
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.findings import Caveat, Note, Table
from onnxviz.data.images import ImageFolder, load_batch
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model, load

MODELS = {
    "squeezenet": ("squeezenet_fp16.onnx", "caffe"),
    "mobilenet": ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf"),
}
TOGETHER = 8


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


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=["builtin", *MODELS])
    parser.add_argument("--methods", nargs="*", default=["grad_cam", "gradient"])
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--steps", type=int, default=Faithfulness().steps)
    given = parser.parse_args()
    prepare(given)
    chosen = of_methods(given.methods)
    for name in given.models:
        photographs(name, given.zoo, given.images, chosen, Faithfulness(steps=given.steps))


if __name__ == "__main__":
    main()
