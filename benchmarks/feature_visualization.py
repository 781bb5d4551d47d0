"""Feature visualization: what a step of our loop costs beyond the network's own forward and backward pass.

    python -m benchmarks.feature_visualization --layers fire5/concat_1 fire9/concat_1 logits

Bare is the truncated network forward and backward to the image, and nothing else. Then the loop's parts are added one
after the other: the loop on pixels with plain gradient ascent, the Fourier parameterization with decorrelated colours,
the random views with their margin, and Adam, which is the default. Times are those of single steps inside
`optimize.maximize`, between two of its progress calls, so its start and end do not count.
"""

from __future__ import annotations

import itertools
import time

import torch

from benchmarks.measure import arguments, markdown, medians, open_subject, prepare, spread
from onnxviz.model import Model
from onnxviz.optimize.ascent import DEFAULT_TRANSFORMS, Settings, maximize
from onnxviz.optimize.objectives import objective
from onnxviz.optimize.optimizers import Adam, GradientAscent
from onnxviz.optimize.parameterization import Fourier, Pixel
from onnxviz.values import Target

PIXELS = Pixel(decorrelate=False)


def ladder(steps: int, size: tuple[int, int]) -> dict[str, Settings]:
    """Return the settings that add one part after the other."""
    ascent = GradientAscent()
    return {
        "loop": Settings(steps, size, parameterization=PIXELS, transforms=(), optimizer=ascent),
        "parameterization": Settings(steps, size, parameterization=Fourier(), transforms=(), optimizer=ascent),
        "transforms": Settings(steps, size, transforms=DEFAULT_TRANSFORMS, optimizer=ascent),
        "optimizer": Settings(steps, size, optimizer=Adam()),
    }


def steps_of(model: Model, target: Target, settings: Settings) -> list[float]:
    """Return the CPU time of every step of one image but the first."""
    times: list[float] = []
    maximize(model, [target], [0], settings, batch=1, told=lambda *_: times.append(time.process_time()))
    return [after - before for before, after in itertools.pairwise(times)]


def bare(model: Model, target: Target, size: tuple[int, int], steps: int) -> list[float]:
    """Return the CPU time of forward and backward passes without anything else."""
    forward = model.differentiable(target.layer)
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    times = []
    for _ in range(steps):
        before = time.process_time()
        torch.autograd.grad(objective(forward(image)[0], [target]).sum(), image)
        times.append(time.process_time() - before)
    return times[1:]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="squeezenet", help="squeezenet, resnet20 or builtin")
    parser.add_argument("--layers", nargs="+", default=["fire5/concat_1", "fire9/concat_1", "logits"])
    parser.add_argument("--steps", type=int, default=9, help="steps in a row")
    parser.add_argument("--rounds", type=int, default=4, help="turns of that many steps")
    given = parser.parse_args()
    prepare(given)
    model, _ = open_subject(given.model, given.zoo)
    size = model.input_size
    rows = []
    for name in given.layers:
        target = Target(model.view.layer(name).name, unit=0)
        works = ladder(given.steps, size)
        seconds: dict[str, list[float]] = {key: [] for key in ("bare", *works)}
        for _ in range(given.rounds):
            seconds["bare"] += bare(model, target, size, given.steps)
            for key, settings in works.items():
                seconds[key] += steps_of(model, target, settings)
        middle = medians(seconds)
        before = middle["bare"]
        shares = []
        for key in works:
            shares.append(f"{1000 * (middle[key] - before):+.2f}")
            before = middle[key]
        full = middle["optimizer"]
        rows.append(
            [name, f"{1000 * middle['bare']:.3g}", f"{1000 * full:.3g}", f"{full / middle['bare']:.2f}", *shares,
             spread(seconds["bare"]), spread(seconds["optimizer"])]
        )  # fmt: skip
    print(f"{given.model}, {size[0]}x{size[1]} pixels, batch 1, ms of CPU time an image-step (median)\n")
    head = ["layer", "bare", "ours", "ours / bare", "loop", "parameterization", "transforms", "optimizer"]
    print(markdown([*head, "bare, smallest-largest", "ours, smallest-largest"], rows))


if __name__ == "__main__":
    main()
