"""Grad-CAM of all convolutions for three classes of one image: the cost of the maps, and of the peer.

    python -m benchmarks.grad_cam --model squeezenet resnet20

Compared on the same converted network and the same image, each row with its maps for every layer and class:

- bare: one forward pass and one backward pass a class down to the first convolution, no maps; the floor;
- ours: `onnxviz.analyses.grad_cam.attribution.grad_cam`, maps at the layers' resolution;
- ours, enlarged: the same with every map divided by its maximum and enlarged to the image, as the peer does;
- peer, all layers: pytorch-grad-cam, one object with all layers, called once a class;
- peer, layer by layer: pytorch-grad-cam, one object a layer, called once a class; measured on three layers (first,
  middle, last) for one class and multiplied.

On the three layers the peer's maps are also compared with ours, scaled to 0..1 as the peer scales them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.measure import arguments, in_turns, markdown, medians, open_subject, prepare, pytorch_grad_cam, spread
from onnxviz.analyses.grad_cam.attribution import grad_cam, to_own_maximum, upsample
from onnxviz.model.model import Forward, Model

CLASSES = 3


class Tapped(torch.nn.Module):
    """A network whose activations pass through modules, where pytorch-grad-cam can take them: the same tensors."""

    def __init__(self, forward: Forward, count: int) -> None:
        super().__init__()
        self.taps = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))
        self.unused = torch.nn.Parameter(torch.zeros(1))  # the peer asks the parameters for their device
        self._forward = forward

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, classes]."""
        *activations, logits = self._forward(image.detach().requires_grad_())
        for tap, activation in zip(self.taps, activations, strict=True):
            tap(activation)
        return logits.flatten(1)


def compare(model: Model, image: torch.Tensor, rounds: int) -> tuple[list[list[object]], float]:
    """Return the rows of one model's table, and the largest difference between the peer's maps and ours."""
    view = model.view
    acts = [view.layer(f"{layer.name}:act") for layer in view.select("all_convs")]
    layers = [layer for layer in dict.fromkeys(acts) if layer.value != view.logits.value]
    forward = model.differentiable((*layers, view.logits))
    with torch.no_grad():
        classes = forward(image)[-1].flatten(1)[0].topk(CLASSES).indices.tolist()
    size = (int(image.shape[2]), int(image.shape[3]))
    works: dict[str, Callable[[], Sequence[torch.Tensor] | Sequence[np.ndarray]]] = {
        "bare": lambda: bare(forward, image, classes),
        "ours": lambda: ours(forward, image, classes),
        "ours, enlarged": lambda: ours(forward, image, classes, size),
        "peer, all layers": peer(forward, image, classes, range(len(layers)), len(layers)),
    }
    sampled = sorted({0, len(layers) // 2, len(layers) - 1})
    maps = ours(forward, image, classes[:1])
    difference = 0.0
    for place in sampled:
        works[f"peer, layer {place}"] = peer(forward, image, classes[:1], [place], len(layers))
        theirs = works[f"peer, layer {place}"]()[0]
        difference = max(
            difference, float(np.abs(to_unit(upsample(to_unit(maps[place]), size)).numpy() - theirs).max())
        )
    seconds = in_turns(works, rounds)
    single = [seconds.pop(f"peer, layer {place}") for place in sampled]
    each = [sum(values) / len(sampled) for values in zip(*single, strict=True)]
    seconds["peer, layer by layer"] = [value * len(layers) * CLASSES for value in each]
    middle = medians(seconds)
    rows: list[list[object]] = [
        [name, f"{1000 * value:.3g}", spread(seconds[name]), f"{value / middle['bare']:.2f}",
         f"{value / middle['ours, enlarged']:.2f}", len(layers) * CLASSES if name != "bare" else 0]
        for name, value in middle.items()
    ]  # fmt: skip
    return rows, difference


def to_unit(maps: torch.Tensor) -> torch.Tensor:
    """Scale maps to 0..1 by their smallest and largest value, as pytorch-grad-cam does (`utils/image.py`)."""
    raised = maps - maps.amin(dim=(1, 2), keepdim=True)
    return raised / (1e-7 + raised.amax(dim=(1, 2), keepdim=True))


def bare(forward: Forward, image: torch.Tensor, classes: Sequence[int]) -> list[torch.Tensor]:
    """Run the passes without making maps; return the gradients at the first convolution."""
    first, *_, logits = forward(image.detach().requires_grad_())
    gradients: list[torch.Tensor] = []
    for place, number in enumerate(classes):
        score = logits.flatten(1)[:, number].sum()
        gradients += torch.autograd.grad(score, first, retain_graph=place + 1 < len(classes))
    return gradients


def ours(
    forward: Forward, image: torch.Tensor, classes: Sequence[int], size: tuple[int, int] | None = None
) -> list[torch.Tensor]:
    """Make every map."""
    *activations, logits = forward(image.detach().requires_grad_())
    maps: list[torch.Tensor] = []
    for place, number in enumerate(classes):
        score = logits.flatten(1)[:, number]
        found = grad_cam(score, activations, keep_tape=place + 1 < len(classes))
        maps += [each.values if size is None else upsample(to_own_maximum(each.values), size) for each in found]
    return maps


def peer(
    forward: Forward, image: torch.Tensor, classes: Sequence[int], places: Sequence[int], count: int
) -> Callable[[], list[np.ndarray]]:
    """Return pytorch-grad-cam's work: an object with some layers, called once a class."""
    package = pytorch_grad_cam()
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    network = Tapped(forward, count)

    def work() -> list[np.ndarray]:
        with package.GradCAM(model=network, target_layers=[network.taps[place] for place in places]) as explain:
            return [explain(input_tensor=image, targets=[ClassifierOutputTarget(number)]) for number in classes]

    return work


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", nargs="+", default=["squeezenet", "resnet20"], help="squeezenet, resnet20, builtin")
    parser.add_argument("--rounds", type=int, default=11)
    given = parser.parse_args()
    prepare(given)
    for name in given.model:
        model, images = open_subject(name, given.zoo)
        print(f"{name}, {images.shape[2]}x{images.shape[3]} pixels, median of {given.rounds} rounds, CPU time\n")
        head = ["work", "ms", "smallest-largest", "/ bare", "/ ours, enlarged", "maps"]
        rows, difference = compare(model, torch.from_numpy(images), given.rounds)
        print(markdown(head, rows))
        print(f"\nlargest difference between the peer's maps and ours, scaled to 0..1: {difference:.2g}\n")


if __name__ == "__main__":
    main()
