"""Exemplars of all units of a network, beside the bare forward passes.

    python -m benchmarks.exemplars --model squeezenet --images 987

In turns, over the same images and one shard:

- bare: images are read and brought to size, and ONNX Runtime gives the network's output, as fast as we can;
- all layers: the same with the values of all convolutions with their activations, which nothing is done with;
- peaks: `exemplars`' pass: highest and lowest peaks of every unit, without pictures;
- with pictures: the same, and pictures of some units of each layer.

Ratios are of processor time; images are read ahead in a thread, so that time on the clock is given too. Then what is
resident in the process after so many images, which are the same ones again and again.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import IMAGENET, arguments, in_turns, markdown, medians, prepare, spread
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.exemplars.analysis import Exemplars
from onnxviz.analyses.stream import rounds
from onnxviz.core.memory import resident_memory
from onnxviz.data import builtin
from onnxviz.data.images import ImageFolder, ImageSource
from onnxviz.model.model import Model, load

IMAGES = [IMAGENET, "camvid/images/*", "dtd10/*/*", "faces_ultralight/*", "cifar10_test/*/*.jpg"]
_FILES = {"squeezenet": ("squeezenet_fp16.onnx", "caffe")}
"""Short name -> file and preprocessing."""


def opened(name: str, zoo: Path, images: int) -> tuple[Model, Any]:
    """Return a network and images."""
    if name == "builtin":
        known = builtin.model("scenes")
        return load(known.path, known.preprocessing, device="cpu"), builtin.scenes(count=images)
    file, preset = _FILES[name]
    model = load(zoo / "zoo" / "onnx" / file, preset, device="cpu", output="classes")
    return model, ImageFolder.find("images", IMAGES, zoo / "data", limit=images)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="squeezenet", choices=["builtin", *_FILES])
    parser.add_argument("--images", type=int, default=987)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shown", type=int, default=12, help="units of each layer in pictures")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="over so many images, to measure memory")
    given = parser.parse_args()
    prepare(given)
    model, source = opened(given.model, given.zoo, given.images)
    subject = Subject("model", model.view, model.preprocessing, None, {"images": source}, 0)
    context = JobContext(subject, model, lambda *_: None)

    def exemplars(shown: int) -> Callable[[], None]:
        analysis = Exemplars(data="images", layers="all_convs", shown=shown, shard=1_000_000)
        (job,) = analysis.jobs(subject)

        def work() -> None:
            analysis.combine([analysis.run(job, context)], subject)

        return work

    layers = [layer.name for layer in Exemplars(data="images", layers="all_convs").layers_of(subject)]

    def passes(names: list[str]) -> None:
        order = range(len(source))
        with rounds(context, source, order, names) as batches:
            for _ in batches:
                pass

    works = {
        "bare": lambda: passes([model.view.logits.name]),
        "all layers": lambda: passes(layers),
        "peaks": exemplars(0),
        "with pictures": exemplars(given.shown),
    }
    clock: dict[str, list[float]] = {name: [] for name in works}

    def clocked(name: str) -> Callable[[], None]:
        def work() -> None:
            started = time.perf_counter()
            works[name]()
            clock[name].append(time.perf_counter() - started)

        return work

    seconds = in_turns({name: clocked(name) for name in works}, given.rounds)
    middle, walls = medians(seconds), medians(clock)
    units = sum(model.view.layer(name).unit_count for name in layers)
    print(f"{given.model}: {len(source)} images, {units} units of {len(layers)} layers\n")
    rows = [
        [name, f"{value:.3g}", spread(seconds[name]), f"{value / middle['bare']:.2f}", f"{walls[name]:.3g}",
         f"{walls[name] / walls['bare']:.2f}"]
        for name, value in middle.items()
    ]  # fmt: skip
    print(markdown(["work", "s of the processor", "smallest-largest", "/ bare", "s on the clock", "/ bare"], rows))
    _print_memory(model, source, layers, given.memory)


def _print_memory(model: Model, source: Any, layers: list[str], counts: list[int]) -> None:
    """Print what is resident after a pass over so many images."""
    if not counts:
        return
    again = [Repeated(source, count) for count in counts]
    rows = []
    for repeated in again:
        data: Any = {"images": repeated}
        subject = Subject("model", model.view, model.preprocessing, None, data, 0)
        analysis = Exemplars(data="images", layers=layers, shown=0, shard=10_000_000)
        (job,) = analysis.jobs(subject)
        analysis.run(job, JobContext(subject, model, lambda *_: None))
        rows.append([f"{len(repeated):,}", f"{(resident_memory() or 0) >> 20}"])
    print("\n" + markdown(["images", "MiB resident after the pass"], rows))


@dataclasses.dataclass(frozen=True)
class Repeated:
    """The images of a data set again and again, so many in all."""

    source: ImageSource
    count: int

    @property
    def name(self) -> str:
        """The data set's."""
        return self.source.name

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, with numbers."""
        return tuple(f"{place}-{self.source.names[place % len(self.source)]}" for place in range(self.count))

    @property
    def digest(self) -> str:
        """Of the images and their number."""
        return f"{self.source.digest}-{self.count}"

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> object:
        """Return an image."""
        return self.source.read(index % len(self.source))


if __name__ == "__main__":
    main()
