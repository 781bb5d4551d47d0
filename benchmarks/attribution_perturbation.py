"""Attribution by changed images, through ONNX Runtime, beside Captum's occlusion and DIANNA's RISE.

    python -m benchmarks.attribution_perturbation --model squeezenet1_1 stm_mobilenet efficientnet_lite0

Each row is CPU time for one changed image, all in turns in one process:

- bare: ONNX Runtime alone on encoded images, 16 at a time; the floor;
- occlusion: `Occlusion` with windows of 15 % that move by 10 %; Captum's with the same windows on the PyTorch module,
  one window in a pass (its default) and 16;
- occlusion, three classes: the same for three targets of one image;
- RISE: `Rise` with 7 x 7 cells; DIANNA's `RISEImage` on the same ONNX file with its defaults (100 in a pass), where it
  is installed.

The PyTorch module is, of SqueezeNet 1.1, that which the ONNX file is exported from, with random weights (times do not
depend on them); of files, what `onnxviz.to_torch` makes, in which batch normalisation is folded already. Captum's maps
must be ours within 1e-4, or there is no table.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from captum.attr import Occlusion as CaptumOcclusion
from torch import nn

import onnxviz
from benchmarks.measure import arguments, in_turns, markdown, medians, prepare, spread
from onnxviz.analyses.attribution.methods.occlusion import Occlusion
from onnxviz.analyses.attribution.methods.rise import Rise
from onnxviz.analyses.attribution.question import TOGETHER, ForwardPass
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.values import PRESETS
from onnxviz.data import builtin
from onnxviz.graph.targets import resolve_head

ZOO: dict[str, tuple[str, str]] = {
    "stm_mobilenet": ("stm_mobilenet_v1_0.25_224_imagenet.onnx", "tf"),
    "efficientnet_lite0": ("efficientnet_lite0_imagenet.onnx", "tf"),
}
"""Files that take any number of images, as DIANNA must give them, and their preprocessing."""
CLASSES = 3
WINDOWS = Occlusion(window=0.15, stride=0.1)


class Fire(nn.Module):
    """A module of SqueezeNet (Iandola et al. 2016)."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.small, self.large = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return both expansions."""
        x = self.squeeze(x).relu()
        return torch.cat([self.small(x).relu(), self.large(x).relu()], dim=1)


def squeezenet() -> nn.Module:
    """Return SqueezeNet 1.1 with random weights."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    module = nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64), pool(), Fire(128, 32, 128),
        Fire(256, 32, 128), pool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        nn.Conv2d(512, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)  # with PyTorch's own, nothing of the image reaches the scores
    return module.eval()


def subject(name: str, zoo: Path, folder: Path) -> tuple[Path, onnxviz.Model, nn.Module]:
    """Return an ONNX file, the model, and a PyTorch module that gives the same scores [N, classes] of its input."""
    if name == "squeezenet1_1":
        module, path = squeezenet(), folder / "squeezenet.onnx"
        example, axes = torch.zeros(1, 3, 224, 224), {"x": {0: "n"}}
        torch.onnx.export(module, (example,), path, dynamo=False, input_names=["x"], dynamic_axes=axes)
        return path, onnxviz.load(path, "imagenet", device="cpu"), module
    if name == "builtin":
        own = builtin.model("scenes")
        path, preprocessing = own.path, own.preprocessing
    else:
        file, preset = ZOO[name]
        preprocessing = PRESETS[preset]
        path = zoo / "zoo" / "onnx" / file
    model = onnxviz.load(path, preprocessing, device="cpu")
    return path, model, _Scores(onnxviz.to_torch(model, model.view.logits))


class _Scores(nn.Module):
    """The first output of a module, [N, classes]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        return self.module(x)[0].flatten(1)


def compare(path: Path, model: onnxviz.Model, module: nn.Module, given: argparse.Namespace) -> list[list[object]]:
    """Return the rows of one model."""
    image = torch.rand(1, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    (down, steps_down), (right, steps_right) = (WINDOWS._spans(side) for side in model.input_size)
    windows, masks = len(down) * len(right), given.masks
    encoded = model.encode(image)
    channels_last = model.view.input_layout == "NHWC"
    sizes = [(down[0].stop, right[0].stop), (steps_down, steps_right)]
    window, step = ((*size, 3) if channels_last else (3, *size) for size in sizes)
    captum = CaptumOcclusion(module)

    def theirs(target: int, together: int) -> torch.Tensor:
        with torch.no_grad():
            return captum.attribute(encoded, window, step, target=target, perturbations_per_eval=together)

    found, wanted = ours(model, image, WINDOWS, 1)[0], theirs(0, 1)
    wanted = wanted[0, :, :, 0] if channels_last else wanted[0, 0]
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference < 1e-4:
        raise SystemExit(f"Captum's map differs by {difference:.1e}")
    session = model.session([model.view.logits.value])
    batch = {name: np.repeat(array, TOGETHER, 0) for name, array in model.input_arrays(image).items()}
    rise = Rise(masks=masks)
    works: dict[str, tuple[int, Callable[[], object]]] = {
        "bare": (4 * TOGETHER, lambda: [session.run(batch) for _ in range(4)]),
        "occlusion": (windows, lambda: ours(model, image, WINDOWS, 1)),
        "Captum, 1 in a pass": (windows, lambda: theirs(0, 1)),
        "Captum, 16 in a pass": (windows, lambda: theirs(0, TOGETHER)),
        "occlusion, three classes": (windows, lambda: ours(model, image, WINDOWS, CLASSES)),
        "Captum, three classes": (windows, lambda: [theirs(target, 1) for target in range(CLASSES)]),
        "RISE": (masks, lambda: ours(model, image, rise, 1)),
    }
    if importlib.util.find_spec("dianna"):
        works["DIANNA"] = (masks, lambda: dianna(path, encoded, channels_last, masks))
    seconds = in_turns({name: work for name, (_, work) in works.items()}, given.rounds)
    each = {name: [value / works[name][0] for value in values] for name, values in seconds.items()}
    middle = medians(each)
    peers = {
        "Captum, 1 in a pass": "occlusion",
        "Captum, 16 in a pass": "occlusion",
        "Captum, three classes": "occlusion, three classes",
        "DIANNA": "RISE",
    }
    rows: list[list[object]] = []
    for name, value in middle.items():
        row = [name, works[name][0], f"{1000 * value:.3g}", spread(each[name]), f"{value / middle['bare']:.2f}"]
        of_ours = f"{value / middle[peers[name]]:.1f}" if name in peers else ""
        rows.append([*row, of_ours, f"{difference:.0e}" if name == "Captum, 1 in a pass" else ""])
    return rows


def ours(model: onnxviz.Model, image: torch.Tensor, method: Occlusion | Rise, classes: int) -> list[torch.Tensor]:
    """Return a map for each of some classes."""
    forward = ForwardPass(model, image, [], [model.view.logits], to_input=False)
    head = resolve_head(model.view, model.view.logits.name, None)
    return [method.attribute(forward.ask([ClassTarget(head, number)])).maps[0][0] for number in range(classes)]


def dianna(path: Path, encoded: torch.Tensor, channels_last: bool, masks: int) -> object:
    """Return DIANNA's map; its bar goes nowhere."""
    from dianna.methods.rise_image import RISEImage

    method = RISEImage(n_masks=masks, feature_res=7, p_keep=0.5, axis_labels={2 if channels_last else 0: "channels"})
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        return method.explain(str(path), np.ascontiguousarray(encoded[0].numpy()), [0])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--model", nargs="+", choices=["squeezenet1_1", "builtin", *ZOO], default=["squeezenet1_1", *ZOO]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--masks", type=int, default=200)
    given = parser.parse_args()
    prepare(given)
    if not importlib.util.find_spec("dianna"):
        print("DIANNA is not installed: its row is missing\n")
    os.environ["TQDM_DISABLE"] = "1"
    head = ["", "changed images", "ms each", "from-to", "of bare", "of ours", "largest difference"]
    with tempfile.TemporaryDirectory() as folder:
        for name in given.model:
            path, model, module = subject(name, given.zoo, Path(folder))
            print(f"## {name}\n\n{markdown(head, compare(path, model, module, given))}\n", flush=True)


if __name__ == "__main__":
    main()
