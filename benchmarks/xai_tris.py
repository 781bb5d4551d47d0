"""XAI-TRIS: which methods point at the pixels that tell the classes better than an edge filter does.

    OMP_NUM_THREADS=1 python -m benchmarks.xai_tris
    OMP_NUM_THREADS=1 python -m benchmarks.xai_tris --side 64 --networks 1 --samples 50

Tetrominoes in noise (`benchmarks.xai_tris_scenarios`), networks trained on them (`benchmarks.xai_tris_networks`), and
the measures of Clark, Wilming and Haufe 2023, arXiv:2306.12816 (`benchmarks.xai_tris_metrics`). Networks that name less
than 80 % of the test samples right are not explained. The others are asked for the score of the class, of test samples
that all of them name right, by every method with the settings that it has where nothing is said. Methods that make
maps of layers make them of the first and of the last block, enlarged to the image.

A method beats the edge filter if it does better on average in each network, and the mean difference over the samples is
more than chance, corrected for the number of methods in the scenario.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.measure import IMAGENET, arguments, markdown, prepare
from benchmarks.xai_tris_metrics import METRICS, Floats, Standing, measured, standings
from benchmarks.xai_tris_networks import KINDS, Kind, as_images, export, file_of, opened, train
from benchmarks.xai_tris_scenarios import BACKGROUNDS, SCENARIOS, SIDES, Samples, Setting, draw, settings
from onnxviz.analyses.attribution.fusion import upsample
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.simple_maps import EDGES, PATCHES, simple_maps
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.errors import AnalysisError
from onnxviz.core.values import Layer
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model

LEAST_ACCURACY = 0.8
DRAWN = 10_000
EPOCHS = {8: 200, 64: 15}
TOGETHER = 25
ATTENTION = ("attention_rollout", "legrad")
"""Methods for transformers only."""
SOBEL, LAPLACE, INPUT = "Sobel, one direction", "Laplace", "input"


# --- maps -------------------------------------------------------------------------------------------------------------


def filters(images: npt.NDArray[np.float32]) -> dict[str, Floats]:
    """Return the paper's maps that know nothing of the network, of samples [N, side, side].

    As in its repository (xai/methods.py): SciPy's Sobel filter along the rows only, its Laplace filter, the sample.
    """
    from scipy.ndimage import laplace, sobel

    values = images.astype(np.float64)
    by_name = {SOBEL: sobel, LAPLACE: laplace}
    return {**{name: np.stack([of(each) for each in values]) for name, of in by_name.items()}, INPUT: values}


def all_maps(question: Question, samples: Samples) -> tuple[dict[str, Floats], dict[str, str]]:
    """Return the maps of every method and every simple one by name, [N, side, side], and why some methods make none."""
    found: dict[str, Floats] = {}
    refused: dict[str, str] = {}
    blocks = ("first block", "last block")
    for name, method in ((name, cls()) for name, cls in methods().items() if name not in ATTENTION):
        if method.reads_layers and not question.layers:
            continue
        try:
            maps = method.attribute(question).maps
        except AnalysisError as error:
            refused[method.heading] = str(error)
            continue
        for place, each in zip(blocks if method.shows == "layers" else ("",), maps, strict=True):
            heading = f"{method.heading}, {place}" if place else method.heading
            assert heading not in found, name
            found[heading] = _enlarged(each.detach(), samples)
    for name, simple in {**simple_maps(question), **filters(samples.images)}.items():
        if name != PATCHES:  # of eight pixels seven patches are as good as pixels
            found[name] = _enlarged(torch.from_numpy(simple), samples)
    return found, refused


def _enlarged(maps: torch.Tensor, samples: Samples) -> Floats:
    height, width = samples.images.shape[1:]
    return upsample(maps.double().cpu(), (height, width)).numpy()


@dataclass(frozen=True, eq=False)
class Explained:
    """What one network's maps are worth.

    Attributes:
        values: by the maps' names the measures of each sample, [N, measures].
        blank: of how many samples a map is the same everywhere.
        refused: methods that make no maps, and why.
    """

    values: Mapping[str, Floats]
    blank: Mapping[str, int]
    refused: Mapping[str, str]

    def keep(self, file: Path, places: npt.NDArray[np.intp]) -> None:
        """Write it, with the samples that it is of."""
        written = {"places": places.tolist(), "blank": self.blank, "refused": self.refused}
        written["values"] = {name: each.tolist() for name, each in self.values.items()}
        file.write_text(json.dumps(written), "utf-8")

    @classmethod
    def kept(cls, file: Path, places: npt.NDArray[np.intp]) -> Explained | None:
        """Return what was written, if it is of the same samples."""
        if not file.exists() or (read := json.loads(file.read_text("utf-8")))["places"] != places.tolist():
            return None
        return cls({name: np.array(each) for name, each in read["values"].items()}, read["blank"], read["refused"])


def explain(model: Model, samples: Samples, references: Samples) -> Explained:
    """Measure every method's maps of samples that the network names right."""
    head = resolve_head(model.view, None, model.labels)
    assert head.scores is not None
    layers = _blocks(model)
    values: dict[str, list[Floats]] = {}
    blank: Counter[str] = Counter()
    refused: dict[str, str] = {}
    others = torch.from_numpy(as_images(references))
    for start in range(0, len(samples.classes), TOGETHER):
        places = np.arange(start, min(start + TOGETHER, len(samples.classes)))
        part = samples.of(places)
        forward = ForwardPass(model, torch.from_numpy(as_images(part)), layers, [head.scores], to_input=True)
        targets = [ClassTarget(head, int(number)) for number in part.classes]
        question = forward.ask(targets, indices=places.tolist(), references=others)
        maps, missing = all_maps(question, part)
        refused |= missing
        for name, each in maps.items():
            values.setdefault(name, []).append(measured(each, part.truth))
            blank[name] += int((np.ptp(np.abs(each.reshape(len(each), -1)), axis=1) == 0).sum())
    kept = {name: np.concatenate(each) for name, each in values.items() if name not in refused}
    return Explained(kept, dict(blank), refused)


def _blocks(model: Model) -> list[Layer]:
    if not any(layer.operator == "Conv" for layer in model.view.layers):
        return []
    found = model.view.select("block_outputs")
    return [found[0], found[-1]]


# --- one scenario -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What is drawn, trained and explained; where networks are kept; files of photographs."""

    kinds: tuple[Kind, ...]
    seeds: tuple[int, ...]
    samples: int
    drawn: int
    epochs: int
    folder: Path
    photographs: list[Path]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a scenario and a kind of network: accuracies of all, and those that were explained."""

    setting: Setting
    kind: Kind
    accuracies: tuple[float, ...]
    explained: tuple[Explained, ...]

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return f"{self.setting}, {self.kind}"

    @property
    def names(self) -> list[str]:
        """The maps that every network has."""
        return [name for name in self.explained[0].values if all(name in each.values for each in self.explained)]

    def by_map(self, metric: str) -> dict[str, Floats]:
        """Return a measure of each network and sample, [networks, N], by the maps' names."""
        place = METRICS.index(metric)
        return {name: np.stack([each.values[name][:, place] for each in self.explained]) for name in self.names}

    def against(self, metric: str, rival: str = EDGES) -> dict[str, Standing]:
        """Compare all maps with a simple one."""
        return standings(self.by_map(metric), self.simple, rival)

    @property
    def simple(self) -> tuple[str, ...]:
        """The maps that know nothing of the network."""
        return tuple(name for name in self.names if name in SIMPLE)


SIMPLE = ("random pixels", "centre", EDGES, SOBEL, LAPLACE, INPUT)


def outcomes(setting: Setting, options: Options) -> Iterator[Outcome]:
    """Train the networks of a setting, or open those that are there, and explain the good ones."""
    options.folder.mkdir(parents=True, exist_ok=True)
    learned, held_out, tried = draw(setting, options.drawn, options.seeds[0], options.photographs)
    # Only where the classes differ linearly can a linear network tell them.
    kinds = [kind for kind in options.kinds if kind != "LLR" or setting.scenario == "LIN"]
    named: dict[tuple[Kind, int], npt.NDArray[np.bool_]] = {}
    for kind, seed in ((kind, seed) for kind in kinds for seed in options.seeds):
        if not (file := file_of(options.folder, setting, kind, seed)).exists():
            export(train(kind, learned, held_out, seed, options.epochs), file, setting.side)
        model = opened(file)
        head = resolve_head(model.view, None, model.labels)
        named[kind, seed] = model.scores(as_images(tried), head).argmax(axis=1) == tried.classes
    good = {key: right for key, right in named.items() if right.mean() >= LEAST_ACCURACY}
    everyone = np.logical_and.reduce([np.ones(len(tried.classes), np.bool_), *good.values()])
    chosen = np.flatnonzero(everyone)[: options.samples]
    for kind in kinds:
        files = [file_of(options.folder, setting, kind, seed) for seed in options.seeds if (kind, seed) in good]
        found = [_explained(file, tried, chosen, held_out) for file in files]
        accuracies = tuple(float(named[kind, seed].mean()) for seed in options.seeds)
        yield Outcome(setting, kind, accuracies, tuple(found))


def _explained(file: Path, tried: Samples, chosen: npt.NDArray[np.intp], references: Samples) -> Explained:
    kept = file.with_suffix(".json")
    if (found := Explained.kept(kept, chosen)) is None:
        found = explain(opened(file), tried.of(chosen), references)
        found.keep(kept, chosen)
    return found


# --- tables -----------------------------------------------------------------------------------------------------------


def print_networks(found: Sequence[Outcome]) -> None:
    """Print which networks there are, which simple map is best for each, and how many methods beat which."""
    rows: list[list[object]] = []
    for one in found:
        right = ", ".join(f"{each:.1%}" + ("" if each >= LEAST_ACCURACY else " (left out)") for each in one.accuracies)
        cells: list[object] = []
        for metric in METRICS if one.explained else ():
            values = one.by_map(metric)
            if np.isnan(values[EDGES]).any():
                continue
            best = max(one.simple, key=lambda name: values[name].mean())
            beaten, more = (_beating(one, metric, rival) for rival in (EDGES, best))
            count = len(one.names) - len(one.simple)
            cells.append(f"{beaten}, {more} of {count} ({best} {values[best].mean():.2f})")
        samples = len(one.explained[0].values[EDGES]) if one.explained else 0
        rows.append([one.setting, one.kind, right, samples, *(cells + ["-"] * len(METRICS))[: len(METRICS)]])
    print("\nMethods that beat the edge filter, and that beat the best simple map (which that is):\n")
    print(markdown(["scenario", "network", "test samples right", "explained", *METRICS], rows))


def _beating(outcome: Outcome, metric: str, rival: str) -> int:
    found = outcome.against(metric, rival)
    return sum(found[name].verdict == "beats" for name in found if name not in outcome.simple)


def print_differences(found: Sequence[Outcome], metric: str) -> None:
    """Print how far each kind of map is above the edge filter, by scenario."""
    shown = [one for one in found if one.explained and not np.isnan(one.by_map(metric)[EDGES]).any()]
    if not shown:
        return
    compared = [one.against(metric) for one in shown]
    names = dict.fromkeys(name for one in shown for name in one.names if name != EDGES)
    ordered = sorted(names, key=lambda name: (name in SIMPLE, -_mean_ahead(compared, name)))
    rows = [[name, *(_cell(one.get(name)) for one in compared)] for name in ordered]
    edges = [f"{each[EDGES].value.value:.2f}" for each in compared]
    print(f"\n{metric[0].upper()}{metric[1:]}, above that of the edge filter:\n")
    print(markdown(["map", *(one.setting.name for one in shown)], [[f"{EDGES} itself", *edges], *rows]))


def _mean_ahead(compared: Sequence[Mapping[str, Standing]], name: str) -> float:
    return float(np.mean([one[name].ahead.value for one in compared if name in one]))


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return "-"
    low, high = standing.ahead.interval or (float("nan"), float("nan"))
    return f"{standing.ahead.value:+.2f} ({low:+.2f} to {high:+.2f}) {standing.verdict}"


def print_counts(found: Sequence[Outcome]) -> None:
    """Print in how many scenarios each kind of map beats the edge filter, and in how many it is worse."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for one in found:
        for metric in METRICS if one.explained else ():
            if np.isnan(one.by_map(metric)[EDGES]).any():
                continue
            for name, standing in one.against(metric).items():
                counts.setdefault(name, {}).setdefault(metric, Counter())[standing.verdict] += 1
    blank: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for explained in (each for one in found for each in one.explained):
        for name, values in explained.values.items():
            blank[name] += explained.blank[name]
            total[name] += len(values)
    if counts.pop(EDGES, None) is None:
        return
    verdicts = ("beats", "not shown", "worse")
    total_of = {name: sum(found.values(), Counter()) for name, found in counts.items()}
    ordered = sorted(counts, key=lambda name: (name in SIMPLE, *(-total_of[name][word] for word in verdicts)))
    measures = [metric for metric in METRICS if any(metric in each for each in counts.values())]
    rows = [
        [name, *(" / ".join(str(counts[name][metric][word]) for word in verdicts) for metric in measures),
         f"{blank[name] / total[name]:.0%}"]
        for name in ordered
    ]  # fmt: skip
    print("\nScenarios in which a map beats the edge filter / it is not shown / it is worse:\n")
    print(markdown(["map", *measures, "the same everywhere"], rows))


def print_refused(found: Sequence[Outcome]) -> None:
    """Print which methods make no maps, of what, and why."""
    told: dict[tuple[str, str], str] = {}
    for one in found:
        for name, why in (pair for each in one.explained for pair in each.refused.items()):
            told.setdefault((name, one.kind), why)
    for (name, kind), why in told.items():
        print(f"\n{name}, {kind}: {why}")


def main() -> None:
    """Draw, train, explain and print."""
    parser = arguments(__doc__)
    parser.prog = "python -m benchmarks.xai_tris"
    parser.add_argument("--side", type=int, choices=SIDES, default=8, help="rows and columns of the samples")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--backgrounds", nargs="+", choices=BACKGROUNDS, default=BACKGROUNDS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, help="of networks (default: all; of 64 pixels CNN)")
    parser.add_argument("--networks", type=int, default=2, help="of each kind for each scenario")
    parser.add_argument("--first", type=int, default=0, help="seed of the first, and of the samples")
    parser.add_argument("--samples", type=int, default=30, help="test samples that are explained")
    parser.add_argument("--drawn", type=int, default=DRAWN, help="samples in all, of which a tenth is for tests")
    parser.add_argument("--epochs", type=int, help=f"passes over what is learned from (default {EPOCHS} by the side)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/xai_tris"), help="networks and measures there are kept"
    )
    given = parser.parse_args()
    prepare(given)
    kinds = tuple(given.kinds or (KINDS if given.side == 8 else ("CNN",)))
    seeds = tuple(range(given.first, given.first + given.networks))
    epochs = given.epochs or EPOCHS[given.side]
    photographs = sorted((given.zoo / "data").glob(IMAGENET))
    options = Options(kinds, seeds, given.samples, given.drawn, epochs, given.folder, photographs)
    found: list[Outcome] = []
    for setting in settings(given.side, tuple(given.scenarios), tuple(given.backgrounds)):
        started = time.process_time()
        found += outcomes(setting, options)
        print(f"{setting}: {time.process_time() - started:.0f} s", flush=True)
    print_networks(found)
    for kind in kinds:
        print(f"\n## {kind}")
        of_kind = [one for one in found if one.kind == kind]
        for metric in METRICS:
            print_differences(of_kind, metric)
    print_counts(found)
    print_refused(found)


if __name__ == "__main__":
    main()
