"""A sharded analysis over a large folder of small images, beside a bare loop: images a second, and memory.

    python -m benchmarks.streams --folder runs/stream_images

Makes a folder of 50,000 small JPEGs from photographs where it is not there yet. Both sides compute the same layers of
the same network in the same batch size, by the converted network and by ONNX Runtime:

- bare: PIL opens each image, converts and resizes it, numpy stacks them, the network runs, a mean is taken;
- stream: a shard of `ShardedAnalysis` with the same mean, with checked files, exact sums and images read ahead.

Slices of the folder are done in turns. Times are on the clock, which an otherwise busy machine disturbs, and of the
processor, in which reading ahead is no gain. Memory is what is resident in a fresh process that goes over so many
images in shards of a thousand, after each batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image

from benchmarks.measure import ZOO, arguments, in_turns, markdown, medians, prepare, spread
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.sharding import ExactSum, ShardedAnalysis
from onnxviz.analyses.stream import Batch
from onnxviz.core.findings import Finding, Metric
from onnxviz.core.memory import resident_memory
from onnxviz.core.values import PRESETS, Layer
from onnxviz.data.images import ImageFolder
from onnxviz.model.model import Model, load

LAYERS = ("block_outputs",)
BATCH = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The sums of the means of all units of all layers."""

    sums: ExactSum


class MeanActivation(ShardedAnalysis[Kept]):
    """The mean activation of each unit."""

    kind: Literal["mean_activation"] = "mean_activation"
    results: ClassVar[tuple[type, ...]] = (Kept,)

    def layers_of(self, subject: Subject) -> Sequence[Layer]:
        """Return the outputs of all blocks."""
        return subject.view.select(list(LAYERS))

    def map(self, batch: Batch, subject: Subject) -> Kept:  # noqa: ARG002 - one interface
        """Keep the sum over images of the mean over positions."""
        return Kept(ExactSum.over_first_axis(np.concatenate([means(v) for v in batch.activations.values()], axis=1)))

    def join(self, one: Kept, other: Kept) -> Kept:
        """Add."""
        return Kept(one.sums + other.sums)

    def finish(self, whole: Kept, images: int, subject: Subject) -> list[Finding]:  # noqa: ARG002 - one interface
        """Return the mean of all."""
        return [Metric("mean", float(whole.sums.values().mean() / images))]


class ByTheConvertedNetwork(MeanActivation):
    """The same by the converted network."""

    converted: ClassVar[bool] = True


def means(values: np.ndarray) -> np.ndarray:
    """Return the mean over positions, float64 [N, units]."""
    found: np.ndarray = values.reshape(*values.shape[:2], -1).mean(axis=2, dtype=np.float64)
    return found


def make_images(folder: Path, photographs: Path, count: int, side: int) -> None:
    """Cut small JPEGs out of photographs: a thousand in each sub-folder."""
    sources = [Image.open(path).convert("RGB") for path in sorted(photographs.glob("*.JPEG"))]
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index // 1000:02d}" / f"{index:05d}.jpg"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        source = sources[index % len(sources)]
        length = int(rng.integers(side, min(source.size)))
        left, top = (int(rng.integers(0, extent - length + 1)) for extent in source.size)
        source.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + length, top + length)).save(path)


def bare(model: Model, paths: Sequence[Path], layers: Sequence[str], *, converted: bool) -> float:
    """Do what the stream does with as little as possible around it."""
    size = model.input_size[::-1]
    forward = model.differentiable(list(layers))
    session = model.session([model.view.layer(name).value for name in layers])
    total: float | np.ndarray = 0.0
    for start in range(0, len(paths), BATCH):
        pixels = []
        for path in paths[start : start + BATCH]:
            image = Image.open(path).convert("RGB")
            pixels.append(np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)))
        images = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255)
        with torch.no_grad():
            if converted:
                values = [value.numpy() for value in forward(images)]
            else:
                values = session.run({model.view.input_name: model.encode(images).numpy()})
        total = total + np.concatenate([means(value) for value in values], axis=1).sum(axis=0)
    return float(np.mean(total) / len(paths))


def streamed(model: Model, source: ImageFolder, *, converted: bool, start: int, stop: int) -> float:
    """Do one shard, and say what was found."""
    subject = Subject("model", model.view, model.preprocessing, None, {"images": source}, 0)
    analysis = (ByTheConvertedNetwork if converted else MeanActivation)(data="images", shard=1_000_000)
    (job,) = analysis.jobs(subject)
    job = dataclasses.replace(job, parameters={"pass": 0, "images": [start, stop]})
    found = analysis.combine([analysis.run(job, JobContext(subject, model, lambda *_: None))], subject)
    return next(finding.value for finding in found if isinstance(finding, Metric))


def memory(folder: Path, zoo: Path, images: int) -> list[int]:
    """Return the resident bytes of a fresh process: with a hashed folder, at most in the stream, and at its end."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (folder, zoo, images))


def _memory(folder: Path, zoo: Path, images: int) -> list[int]:
    torch.set_num_threads(1)
    model, source = opened(folder, zoo, images)
    subject = Subject("model", model.view, model.preprocessing, None, {"images": source}, 0)
    analysis = MeanActivation(data="images")
    jobs = list(analysis.jobs(subject))
    assert source.digest
    before, most = resident_memory() or 0, 0

    def progress(*_: object) -> None:
        nonlocal most
        most = max(most, resident_memory() or 0)

    context = JobContext(subject, model, progress)
    analysis.combine([analysis.run(job, context) for job in jobs], subject)
    return [before, most, resident_memory() or 0]


def opened(folder: Path, zoo: Path, images: int) -> tuple[Model, ImageFolder]:
    """Return the network and the folder."""
    file, preset, _ = ZOO["resnet20"]
    preprocessing = dataclasses.replace(PRESETS[preset], fit="stretch")
    return load(zoo / "zoo" / "onnx" / file, preprocessing, device="cpu"), ImageFolder.find("i", ["*"], folder, images)


def speed(folder: Path, zoo: Path, slice_size: int, rounds: int) -> list[list[object]]:
    """Return the rows of the table of times."""
    model, source = opened(folder, zoo, slice_size * (rounds + 1))
    layers = [layer.name for layer in model.view.select(list(LAYERS))]
    rows: list[list[object]] = []
    for converted in (True, False):
        for name, clock in (("wall", time.perf_counter), ("processor", time.process_time)):
            starts = {side: itertools.count(0, slice_size) for side in ("bare", "stream")}
            found: dict[str, list[float]] = {side: [] for side in starts}

            def one_slice(side: str, starts=starts, found=found, converted=converted) -> None:  # type: ignore[no-untyped-def]
                start = next(starts[side])
                stop = start + slice_size
                if side == "bare":
                    found[side].append(bare(model, source.paths[start:stop], layers, converted=converted))
                else:
                    found[side].append(streamed(model, source, converted=converted, start=start, stop=stop))

            seconds = in_turns({side: functools.partial(one_slice, side) for side in starts}, rounds, clock)
            assert np.allclose(found["bare"], found["stream"], rtol=1e-5)
            middle = medians(seconds)
            for side in starts:
                engine = "converted network" if converted else "ONNX Runtime"
                ratio = f"{middle[side] / middle['bare']:.2f}"
                rows.append([engine, name, side, f"{slice_size / middle[side]:.0f}", spread(seconds[side]), ratio])
    return rows


def main() -> None:
    """Print both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the images are, or are made")
    parser.add_argument("--count", type=int, default=50_000, help="images in the folder")
    parser.add_argument("--side", type=int, default=64, help="their height and width in pixels")
    parser.add_argument("--slice", type=int, default=500, help="images in one measurement of speed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, nargs="*", default=[5_000, 50_000], help="images of which memory is told")
    given: argparse.Namespace = parser.parse_args()
    make_images(given.folder, given.zoo / "data" / "imagenet_sample", given.count, given.side)
    prepare(given)
    rows = speed(given.folder, given.zoo, given.slice, given.rounds)
    print(markdown(["computed by", "clock", "", "images/s", "ms a slice", "time / bare"], rows), "\n", flush=True)
    sizes = [[count, *(f"{size / 2**20:.0f}" for size in memory(given.folder, given.zoo, count))]
             for count in given.memory]  # fmt: skip
    print(markdown(["images", "MiB, folder hashed", "MiB, at most", "MiB, at the end"], sizes))


if __name__ == "__main__":
    main()
