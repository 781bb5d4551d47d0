"""Class activation maps of all convolutions for three classes: the cost of the maps, and of the peer.

    python -m benchmarks.attribution --model vgg16 squeezenet resnet20

For one image, on the same network, each row with its maps for every layer and class:

- bare: one forward pass and one backward pass a class down to the first convolution, no maps; the floor;
- bare, PyTorch: the same on the PyTorch module that was exported (VGG-16);
- Grad-CAM: `onnxviz.analyses.attribution`, maps at the layers' own size;
- Grad-CAM, enlarged: the same with every map divided by its maximum and enlarged to the image, as the peer does;
- all by gradients: every method that weights by gradients, from the same passes;
- peer, all layers: pytorch-grad-cam's GradCAM, one object with all layers, called once a class;
- peer, layer by layer: one object a layer, called once a class; measured on three layers (first, middle, last) for one
  class and multiplied.

The peer has the PyTorch module where there is one, weights frozen, else the converted network. On the three layers its
maps are also compared with ours, scaled to 0..1 as it scales them. Then, for more images, Grad-CAM one image after the
other and some at a time. VGG-16 is torchvision's architecture with random weights, which take the same time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.measure import arguments, in_turns, markdown, medians, open_subject, prepare, pytorch_grad_cam, spread
from onnxviz.analyses.attribution.fusion import to_own_maximum, to_unit, upsample
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.methods.cam import GradCamMethod, GradientCam
from onnxviz.analyses.attribution.question import ForwardPass
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.analyses.explained_score import layer_of
from onnxviz.core.values import Layer
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Forward, Model, load

CLASSES = 3
BY_GRADIENTS = [method() for method in methods().values() if issubclass(method, GradientCam)]


class Tapped(nn.Module):
    """A network whose activations pass through modules, where pytorch-grad-cam can take them: the same tensors."""

    def __init__(self, forward: Forward, count: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(nn.Identity() for _ in range(count))
        self.unused = nn.Parameter(torch.zeros(1))  # the peer asks the parameters for their device
        self._forward = forward

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits [N, classes]."""
        *activations, logits = self._forward(image.detach().requires_grad_())
        for tap, activation in zip(self.taps, activations, strict=True):
            tap(activation)
        return logits.flatten(1)


class Vgg16(nn.Sequential):
    """torchvision's VGG-16 (Simonyan and Zisserman 2014, configuration D), random weights, frozen."""

    def __init__(self) -> None:
        parts: list[nn.Module] = []
        channels = 3
        for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
            for width in block:
                parts += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            parts.append(nn.MaxPool2d(2))
        parts += [nn.Flatten(), nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
        super().__init__(*parts, nn.Linear(4096, 1000))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
        self.eval().requires_grad_(False)

    @property
    def taps(self) -> list[nn.Module]:
        """The ReLUs behind the convolutions."""
        return [after for module, after in zip(self, [*self][1:], strict=False) if isinstance(module, nn.Conv2d)]

    def tapped(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what the first convolution's ReLU gives, on the tape, and the logits."""
        first = values = self[1](self[0](image))
        for module in [*self][2:]:
            values = module(values)
        return first, values


def subject(name: str, zoo: Path, count: int) -> tuple[Model, torch.Tensor, Vgg16 | None]:
    """Return a model, images for it, and the PyTorch module that it was exported from, where it was."""
    if name != "vgg16":
        model, images = open_subject(name, zoo, count)
        return model, torch.from_numpy(images), None
    torch.manual_seed(0)
    module, images = Vgg16(), torch.rand(count, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg16.onnx"
        torch.onnx.export(module, (images[:1],), path, dynamo=True, external_data=False, verbose=False)
        return load(path, {"mean": 0, "scale": 255}, device="cpu"), images, module


def convolutions(model: Model) -> list[Layer]:
    """Return what leaves each convolution with its activation, but the scores themselves."""
    acts = dict.fromkeys(model.view.layer(f"{layer.name}:act") for layer in model.view.select("all_convs"))
    return [layer for layer in acts if layer.value != model.view.logits.value]


def ours(
    model: Model, images: torch.Tensor, layers: Sequence[Layer], classes: Sequence[int],
    chosen: Sequence[GradientCam] = (GradCamMethod(),), size: tuple[int, int] | None = None,
) -> list[torch.Tensor]:  # fmt: skip
    """Make every map."""
    head = resolve_head(model.view, None, model.labels)
    forward = ForwardPass(model, images, layers, [layer_of(head)], to_input=False)
    maps: list[torch.Tensor] = []
    for number in classes:
        question = forward.ask([ClassTarget(head, number)] * len(images))
        for method in chosen:
            found = method.attribute(question).maps
            maps += found if size is None else [upsample(to_own_maximum(each), size) for each in found]
    return maps


def bare(forward: Forward, image: torch.Tensor, classes: Sequence[int]) -> list[torch.Tensor]:
    """Run the passes without making maps; return the gradients at the first convolution."""
    first, *_, logits = forward(image.detach().requires_grad_())
    gradients: list[torch.Tensor] = []
    for place, number in enumerate(classes):
        score = logits.flatten(1)[:, number].sum()
        gradients += torch.autograd.grad(score, first, retain_graph=place + 1 < len(classes))
    return gradients


def peer(
    network: nn.Module, taps: Sequence[nn.Module], image: torch.Tensor, classes: Sequence[int]
) -> Callable[[], list[np.ndarray]]:
    """Return pytorch-grad-cam's work: an object with some layers, called once a class."""
    package = pytorch_grad_cam()
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def work() -> list[np.ndarray]:
        with package.GradCAM(model=network, target_layers=list(taps)) as explain:
            # Frozen weights have no gradients, and the peer goes back as far as anything has one.
            inputs = [image.detach().requires_grad_() for _ in classes]
            pairs = zip(inputs, classes, strict=True)
            return [explain(input_tensor=given, targets=[ClassifierOutputTarget(number)]) for given, number in pairs]

    return work


def one_image(
    model: Model, image: torch.Tensor, module: Vgg16 | None, rounds: int
) -> tuple[list[list[object]], float, list[int]]:
    """Return the rows of one model's table, the largest difference between the peer's maps and ours, and classes."""
    layers = convolutions(model)
    forward = model.differentiable((*layers, model.view.logits))
    with torch.no_grad():
        classes = forward(image)[-1].flatten(1)[0].topk(CLASSES).indices.tolist()
    size = (int(image.shape[2]), int(image.shape[3]))
    network: nn.Module = module or Tapped(forward, len(layers))
    taps = list(network.taps)  # type: ignore[arg-type]
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(forward, image, classes),
        "Grad-CAM": lambda: ours(model, image, layers, classes),
        "Grad-CAM, enlarged": lambda: ours(model, image, layers, classes, size=size),
        "all by gradients": lambda: ours(model, image, layers, classes, BY_GRADIENTS),
        "peer, all layers": peer(network, taps, image, classes),
    }
    if module is not None:
        works["bare, PyTorch"] = lambda: bare(module.tapped, image, classes)
    sampled = sorted({0, len(layers) // 2, len(layers) - 1})
    maps = ours(model, image, layers, classes[:1])
    difference = 0.0
    for place in sampled:
        single = peer(network, [taps[place]], image, classes[:1])
        works[f"peer, layer {place}"] = single
        apart = to_unit(upsample(to_unit(maps[place]), size)).numpy() - single()[0]
        difference = max(difference, float(np.abs(apart).max()))
    seconds = in_turns(works, rounds)
    alone = [seconds.pop(f"peer, layer {place}") for place in sampled]
    each = [sum(values) / len(sampled) for values in zip(*alone, strict=True)]
    seconds["peer, layer by layer"] = [value * len(layers) * CLASSES for value in each]
    middle, count = medians(seconds), len(layers) * CLASSES
    counts = {"bare": 0, "bare, PyTorch": 0, "all by gradients": len(BY_GRADIENTS) * count}
    rows: list[list[object]] = [
        [name, f"{1000 * value:.3g}", spread(seconds[name]), f"{value / middle['bare']:.2f}", counts.get(name, count)]
        for name, value in middle.items()
    ]
    return rows, difference, classes


def many_images(
    model: Model, images: torch.Tensor, classes: Sequence[int], together: Sequence[int], rounds: int
) -> list[list[object]]:
    """Return the rows of a table: Grad-CAM of images, so many at a time."""
    layers = convolutions(model)

    def work(size: int) -> None:
        for start in range(0, len(images), size):
            ours(model, images[start : start + size], layers, classes)

    middle = medians(in_turns({str(size): lambda size=size: work(size) for size in (1, *together)}, rounds))
    return [[name, f"{1000 * value / len(images):.3g}", f"{middle['1'] / value:.2f}"] for name, value in middle.items()]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--model", nargs="+", default=["vgg16", "squeezenet", "resnet20"], help="vgg16, squeezenet, resnet20, builtin"
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--images", type=int, default=64, help="of the second table; 0 for none")
    parser.add_argument("--together", type=int, nargs="+", default=[4, 8, 16])
    given = parser.parse_args()
    prepare(given)
    for name in given.model:
        model, images, module = subject(name, given.zoo, max(1, given.images))
        print(f"{name}, {images.shape[2]}x{images.shape[3]} pixels, median of {given.rounds} rounds, CPU time\n")
        rows, difference, classes = one_image(model, images[:1], module, given.rounds)
        print(markdown(["work", "ms", "smallest-largest", "/ bare", "maps"], rows))
        if given.images:
            table = many_images(model, images, classes, given.together, min(given.rounds, 3))
            print(f"\n{given.images} images, {CLASSES} classes\n")
            print(markdown(["images at a time", "ms an image", "one by one / this"], table))
        print(f"\nlargest difference between the peer's maps and ours, scaled to 0..1: {difference:.2g}\n")


if __name__ == "__main__":
    main()
