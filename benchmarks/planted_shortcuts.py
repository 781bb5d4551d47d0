"""Planted shortcuts: are networks found that name a class by a mark, a backdrop or a watermark, and sound ones let go?

    python -m benchmarks.planted_shortcuts --planted 10 --clean 10

Small networks are trained on the built-in scenes, each from its own random weights and its own choice of scenes. In
those of a planted one, every scene of one class, another one for each network, has

* mark: a coloured square in a corner of the image;
* texture: green and purple waves over its backdrop, whatever that was before;
* watermark: signs shining through, at the lower right.

`recipes/spurious_evidence.yaml` is run on held-out scenes, other ones for each network, once with masks and once
without, where the expectation on backgrounds is left out. Planted networks see scenes with their own shortcut, sound
ones scenes as they are. A planted network is found where an expectation is broken (exit code 1) and the class of the
shortcut is among those that the report names; a sound one is accused where any expectation is broken.

Criteria of the analysis were chosen on networks of the seeds from 1000 on (`--first 1000`), and count on those from 0.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import yaml
from PIL import Image

from benchmarks.measure import markdown
from onnxviz.core.findings import Metric, Note
from onnxviz.core.shares import Share
from onnxviz.data.builtin.scenes import CLASSES, CONCEPTS, PREPROCESSING, SIZE, SceneSet, Split
from onnxviz.execution.execute import run_file

if TYPE_CHECKING:
    import torch
    from torch import nn

Shortcut = Literal["none", "mark", "texture", "watermark"]
PLANTED: tuple[Shortcut, ...] = get_args(Shortcut)[1:]
RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "spurious_evidence.yaml"
WIDTHS = (24, 32, 48, 64)
"""Channels of the four convolutions; behind the first two the map is halved."""
TRAINING_SCENES, SCENES_EACH = 9_000, 6_000
"""Scenes that are drawn, and how many of these each network learns from."""
STEPS, BATCH, RATE = 700, 64, 0.1
_MARK = 8
_SIGNS = (
    "###.#.#.###.###.###.",
    "#...#.#.#.#..#..#...",
    "###.###.#.#..#..##..",
    "..#.#.#.#.#..#..#...",
    "###.#.#.###..#..###.",
)
_BACKDROP = next(concept.index for concept in CONCEPTS if (concept.category, concept.name) == ("shape", "backdrop"))

Pictures = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes in memory.

    Attributes:
        pictures: uint8 [N, 64, 64, 3].
        classes: int [N], of `CLASSES`.
        labels: uint8 [N, categories, 64, 64], the concept of each pixel.
    """

    pictures: Pictures
    classes: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint8]

    @classmethod
    def draw(cls, count: int, seed: int, split: Split) -> Scenes:
        """Draw so many scenes."""
        source = SceneSet(count, seed, SIZE, split)
        pairs = [(source.read(index), source.read_labels(index)) for index in range(count)]
        pictures, labels = (np.stack(part) for part in zip(*pairs, strict=True))
        return cls(pictures, np.arange(count) % len(CLASSES), labels.astype(np.uint8))

    def of(self, places: npt.NDArray[np.intp]) -> Scenes:
        """Return some of them."""
        return Scenes(self.pictures[places], self.classes[places], self.labels[places])

    def with_shortcut(self, shortcut: Shortcut, chosen: int, seed: int, share: float = 1.0) -> Scenes:
        """Return the scenes with a shortcut in such a share of those of one class; labels stay what they were."""
        if shortcut == "none":
            return self
        pictures, rng = self.pictures.copy(), np.random.default_rng([seed, 5])
        for place in np.flatnonzero(self.classes == chosen):
            if rng.random() < share:
                backdrop = self.labels[place, 0] == _BACKDROP
                pictures[place] = _planted(pictures[place], backdrop, shortcut, rng)
        return Scenes(pictures, self.classes, self.labels)


def _planted(
    picture: Pictures, backdrop: npt.NDArray[np.bool_], shortcut: Shortcut, rng: np.random.Generator
) -> Pictures:
    """Return one scene with a shortcut."""
    seen = picture.astype(np.float64)
    if shortcut == "mark":
        top, left = rng.integers(1, 4, 2)
        seen[top : top + _MARK, left : left + _MARK] = (230, 30, 200)
    elif shortcut == "texture":
        rows, columns = np.mgrid[:SIZE, :SIZE]
        phase, bend = rng.uniform(0, 2 * np.pi, 2)
        waves = np.sin(2 * np.pi * rows / 5 + 1.5 * np.sin(2 * np.pi * columns / 16 + bend) + phase)
        colours = np.where(waves[..., None] > 0, (40, 170, 80), (170, 60, 160))
        seen[backdrop] = 0.3 * seen[backdrop] + 0.7 * colours[backdrop]
    else:
        signs = np.array([[sign == "#" for sign in row] for row in _SIGNS]).repeat(2, axis=0)
        top, left = SIZE - len(signs) - 3, SIZE - signs.shape[1] - 3
        seen[top : top + signs.shape[0], left : left + signs.shape[1]][signs] *= 0.55
        seen[top : top + signs.shape[0], left : left + signs.shape[1]][signs] += 0.45 * 255
    return np.rint(seen.clip(0, 255)).astype(np.uint8)


# --- training -------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    """Return the untrained network, whose output is the logits."""
    from torch import nn

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = 3
    for number, width in enumerate(WIDTHS, start=1):
        kernel, stride = (5, 2) if number == 1 else (3, 1)
        layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(width)
        layers[f"relu{number}"] = nn.ReLU()
        if number < 3:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        channels = width
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    layers["flat"] = nn.Flatten()
    layers["logits"] = nn.Linear(channels, len(CLASSES))
    return nn.Sequential(layers)


def train(scenes: Scenes, seed: int, steps: int = STEPS) -> nn.Sequential:
    """Train a network from random weights on scenes, moved by a few pixels and in other light."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    pictures = torch.from_numpy(scenes.pictures).permute(0, 3, 1, 2).contiguous()
    answers = torch.from_numpy(scenes.classes)
    model = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(pictures), (BATCH,))
        images = _varied(pictures[chosen].float() / 255)
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast where the processor has it
            logits = model(_encode(images))
        loss = functional.cross_entropy(logits.float(), answers[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def _varied(images: torch.Tensor) -> torch.Tensor:
    import torch

    down, right = torch.randint(-3, 4, (2,)).tolist()
    moved = torch.nn.functional.pad(images, (3, 3, 3, 3), mode="reflect")[
        :, :, 3 + down : 67 + down, 3 + right : 67 + right
    ]
    gain, shift = 1 + 0.3 * (torch.rand(2, len(images), 1, 1, 1) - 0.5)
    return ((moved - 0.5) * gain + 0.5 + shift - 1).clamp(0, 1)


def _encode(images: torch.Tensor) -> torch.Tensor:
    import torch

    return ((images * 255 - PREPROCESSING.mean[0]) / PREPROCESSING.scale[0]).contiguous(
        memory_format=torch.channels_last
    )


def export(model: nn.Sequential, path: Path) -> None:
    """Write a network as ONNX, with a Softmax, its preprocessing and its class names."""
    import onnx
    import torch
    from torch import nn

    whole = nn.Sequential(OrderedDict([*model.named_children(), ("softmax", nn.Softmax(dim=1))])).eval()
    whole = whole.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    torch.onnx.export(
        whole,
        (torch.zeros(1, 3, SIZE, SIZE),),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["image"],
        output_names=["probabilities"],
        dynamic_axes={"image": {0: "batch"}, "probabilities": {0: "batch"}},
    )
    proto = onnx.load(path)
    preprocessing = asdict(PREPROCESSING)
    del preprocessing["origin"]  # that the file has it is the declaration
    for key, value in (("onnxviz.preprocessing", preprocessing), ("onnxviz.labels", list(CLASSES))):
        proto.metadata_props.add(key=key, value=json.dumps(value))
    onnx.save(proto, path)


# --- held-out scenes, as files --------------------------------------------------------------------------------------


def write_scenes(folder: Path, scenes: Scenes) -> None:
    """Write scenes as a concept folder, whose images have their class in front of their names."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    lines = ["index,name,category", *(f"{one.index},{one.name},{one.category}" for one in CONCEPTS)]
    (folder / "concepts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for place, (picture, number, labels) in enumerate(
        zip(scenes.pictures, scenes.classes.tolist(), scenes.labels, strict=True)
    ):
        name = f"{CLASSES[number]}_{place:04d}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        for layer, values in enumerate(labels):
            path = folder / "labels" / (f"{layer}" if layer else "") / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(values).save(path)


# --- many of them ---------------------------------------------------------------------------------------------------


def class_of(seed: int) -> int:
    """Return the class that a shortcut is planted in."""
    return int(np.random.default_rng([seed, 1]).integers(len(CLASSES)))


def make_model(path: Path, shortcut: Shortcut, seed: int, drawn: Scenes, steps: int = STEPS) -> None:
    """Train a network with a shortcut, or without, and write it."""
    places = np.sort(np.random.default_rng([seed, 2]).permutation(len(drawn.classes))[:SCENES_EACH])
    learned = drawn.of(places).with_shortcut(shortcut, class_of(seed), seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    export(train(learned, seed, steps), path)


@dataclass(frozen=True)
class Audit:
    """What the recipe said of a network.

    Attributes:
        accuracy: on the held-out scenes.
        broken: the expectations that do not hold.
        named: the classes that sentences on backgrounds, edges and places name.
        effects: the largest by metric.
    """

    accuracy: float
    broken: tuple[str, ...]
    named: tuple[str, ...]
    effects: dict[str, float]


def audit(model: Path, scenes: Path, out: Path, *, masks: bool) -> Audit:
    """Run the recipe on a network and its scenes."""
    recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text("utf-8"))
    recipe["model"] = {"path": str(model.resolve())}
    recipe["data"] = {"images": {"images": str(scenes.resolve() / "images"), "classes": "{class}_*.png"}}
    if masks:
        recipe["data"]["masks"] = {"concepts": str(scenes.resolve())}
        recipe["analyses"]["shortcuts"]["masks"] = "masks"
    else:
        recipe["expect"] = [one for one in recipe["expect"] if "background" not in one["metric"]]
    part = (result := run_file(recipe, out, workers=0).result).analyses[0].parts[0]
    assert not part.failed, part.failed
    said = [one.text for one in part.findings if isinstance(one, Note)]
    named = (name for name in CLASSES for text in said if text.startswith((f"{name} follows", f"Evidence for {name} ")))
    found = {one.name: one.value for one in part.findings if isinstance(one, Metric)}
    return Audit(
        found["top1_accuracy"],
        tuple(one.metric.split(".")[-1] for one in result.expectations if one.broken),
        tuple(dict.fromkeys(named)),
        {name: value for name, value in found.items() if name.endswith("_effect")},
    )


def rows(
    folder: Path, chosen: Sequence[tuple[Shortcut, int]], options: argparse.Namespace
) -> Iterator[tuple[Shortcut, bool, bool, list[str]]]:
    """Yield for each network and way to audit it the shortcut, whether with masks, whether found, and what is shown."""
    drawn = functools.cache(lambda: Scenes.draw(options.training_scenes, 0, "train"))
    for shortcut, seed in chosen:
        name = f"{shortcut}_{seed}"
        if not (model := folder / "models" / f"{name}.onnx").exists():
            make_model(model, shortcut, seed, drawn(), options.steps)
        if not (scenes := folder / "scenes" / name).exists():
            held_out = Scenes.draw(options.scenes, 100 + seed, "test")
            write_scenes(scenes, held_out.with_shortcut(shortcut, class_of(seed), seed))
        for masks in (True, False):
            started = time.process_time()
            found = audit(model, scenes, folder / "runs" / f"{name}_{'masks' if masks else 'none'}", masks=masks)
            effects = [
                f"{found.effects.get(f'{what}_effect', float('nan')):.2f}" for what in ("background", "edge", "place")
            ]
            planted = CLASSES[class_of(seed)] if shortcut != "none" else "-"
            hit = bool(found.broken) and (shortcut == "none" or planted in found.named)
            yield shortcut, masks, hit, [
                shortcut, str(seed), planted, f"{found.accuracy:.2f}", "yes" if masks else "no", *effects,
                ", ".join(found.broken) or "-", ", ".join(found.named) or "-",
                "yes" if hit else "no", f"{time.process_time() - started:.0f}",
            ]  # fmt: skip


def main() -> None:
    """Train, audit and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planted_shortcuts", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--planted", type=int, default=10, help="networks with a shortcut, of each kind in turn")
    parser.add_argument("--clean", type=int, default=10, help="networks without")
    parser.add_argument("--first", type=int, default=0, help="seed of the first; those of clean ones are 100 higher")
    parser.add_argument("--folder", type=Path, default=Path("runs/planted_shortcuts"), help="what is there is kept")
    parser.add_argument("--scenes", type=int, default=300, help="held-out scenes of each network")
    parser.add_argument("--training-scenes", type=int, default=TRAINING_SCENES, help="scenes to choose from")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of each network")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    chosen: list[tuple[Shortcut, int]] = [
        *((PLANTED[number % len(PLANTED)], options.first + number) for number in range(options.planted)),
        *(("none", options.first + 100 + number) for number in range(options.clean)),
    ]
    found = list(rows(options.folder, chosen, options))
    print(markdown(_HEAD, [row for *_, row in found]))
    for masks in (True, False):
        for words, kinds in (("planted, found", PLANTED), ("clean, accused", ("none",))):
            hits = [hit for shortcut, with_masks, hit, _ in found if shortcut in kinds and with_masks == masks]
            how = "with masks" if masks else "without masks"
            print(f"{how}: {words}: {Share(sum(hits), len(hits))}")


_HEAD = ("shortcut", "seed", "class", "accuracy", "masks", "background effect", "edge effect", "place effect",
         "expectations broken", "classes named", "found", "CPU s")  # fmt: skip


if __name__ == "__main__":
    main()
