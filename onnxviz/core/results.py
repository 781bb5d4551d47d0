"""The result of a run as plain data: what `run.json` holds, what the executor writes and the report reads."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxviz.confinement import Defence
from onnxviz.core.findings import Finding, from_data, to_data
from onnxviz.core.values import Agreement, Origin

FORMAT = 2
"""Version of `run.json`; raise it when a reader of the old form would be wrong."""


@dataclass(frozen=True)
class LayerRow:
    """One line of the model table."""

    name: str
    operator: str
    shape: tuple[int | None, ...]
    parameters: int
    multiply_adds: int | None
    receptive_field: tuple[int, ...] | None
    """Height and width in input pixels; None where it is the whole image or unknown."""
    units: int
    name_in_file: str = ""
    """The node's name in the file, where the layer is shown by its framework's, such as `blocks.11.norm1`."""


@dataclass(frozen=True)
class HeadRow:
    """What one of the model's outputs is, and who says so."""

    outputs: tuple[str, ...]
    kind: str
    words: str
    reason: str
    source: str
    """graph, declared, labels, images or nothing."""
    scores: str
    """Name of the layer of its scores; "" if there is none."""
    main: bool
    """Whether it is what analyses explain where nothing else is named."""


@dataclass(frozen=True)
class TriedPreprocessing:
    """One preprocessing that was tried on images: `probe.Trial` as the report shows it."""

    channel_order: str
    pixels: str
    size_by: str
    top1: float | None
    top5: float | None
    steady: float
    variety: float
    score: float
    chance: float
    alike: float


@dataclass(frozen=True)
class Tried:
    """How a preprocessing was chosen by trial: `probe.Probe` as the report shows it.

    Attributes:
        data: the data set whose images were used.
        images: how many.
        found: how many there are.
        labelled: how many of those used have a known class.
        by_accuracy: whether accuracy ranks.
        clear: whether the first is ahead by more than chance.
        verdict: how sure the choice is.
        note: what else has to be said, or "".
        trials: the best first.
        interval: of the first's top1, at 95 %; empty where no class is known.
        doubts: what must be known before the choice is believed, the gravest first.
    """

    data: str
    images: int
    found: int
    labelled: int
    by_accuracy: bool
    clear: bool
    verdict: str
    note: str
    trials: tuple[TriedPreprocessing, ...]
    interval: tuple[float, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What is known of a model before anything is analysed. All names come from the file."""

    alias: str
    file: str
    digest: str
    bytes: int
    producer: str
    opset: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    preprocessing: str
    preprocessing_origin: Origin
    geometry: str
    """How images are cut and resized, colours left out: models are compared on the same pixels only."""
    layers: tuple[LayerRow, ...]
    parameters: int
    multiply_adds: int | None
    agreement: tuple[Agreement, ...] = ()
    passes: tuple[str, ...] = ()
    """What the importer did to the graph, one sentence each."""
    refused_operators: tuple[tuple[str, str], ...] = ()
    labels: int = 0
    seen: tuple[tuple[str, str], ...] = ()
    """For each data set by name, which part of its images becomes the input."""
    heads: tuple[HeadRow, ...] = ()
    tried: Tried | None = None
    """What the preprocessing was chosen from, where it was chosen by trial."""


@dataclass(frozen=True)
class FailedJob:
    """A job that did not finish; the rest of the run went on."""

    job: str
    error: str


@dataclass(frozen=True)
class Part:
    """What one analysis found in one model."""

    model: str
    findings: tuple[Finding, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    jobs: int = 0
    cached: int = 0
    failed: tuple[FailedJob, ...] = ()
    seconds: float = 0.0
    cost: float = 0.0
    """Estimated forward passes of the jobs that were done, so that the next plan knows how long one takes."""


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis of the recipe, over all models."""

    id: str
    kind: str
    title: str
    summary: str
    description: str
    cites: tuple[str, ...]
    settings: dict[str, Any]
    parts: tuple[Part, ...]
    reading: str = ""
    """How its pictures are read."""
    side_by_side: bool = False
    """Whether its pictures are compared with those of other analyses that have the same titles."""


@dataclass(frozen=True)
class ExpectationResult:
    """One line of `expect:`, decided."""

    metric: str
    condition: str
    level: Literal["error", "warn", "off"]
    because: str
    value: float | None
    holds: bool
    model: str = ""

    @property
    def broken(self) -> bool:
        """Whether it makes the run fail."""
        return self.level == "error" and not self.holds


@dataclass(frozen=True)
class DataCard:
    """A data set of the recipe: what was used and what was skipped, with the reason."""

    name: str
    kind: str
    description: str
    digest: str
    used: int
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    """What was used, but not as it is: the first picture of an animation, a mask of another size."""
    remarks: tuple[str, ...] = ()
    """What should be known of the images' classes and masks."""


@dataclass(frozen=True)
class Provenance:
    """What is needed to repeat the run, and what it took."""

    seed: int
    device: str
    versions: dict[str, str]
    started: str
    seconds: float
    jobs: int
    cached: int
    command: str = ""
    engine: str = "in this process"
    """Who did the jobs, for example "2 worker processes"."""
    limits: tuple[tuple[str, str], ...] = ()
    """What the processes that opened the models were limited to, by name."""
    defences: tuple[Defence, ...] = ()
    """What kept the models' processes from the rest of the machine, and what could not."""
    events: tuple[str, ...] = ()
    """What a reader must know of how it went: workers that died, jobs done again, batches made smaller."""


@dataclass(frozen=True)
class RunResult:
    """Everything a report is made from."""

    title: str
    recipe: str
    """The recipe with defaults filled in, as YAML text."""
    models: tuple[ModelCard, ...]
    data: tuple[DataCard, ...]
    analyses: tuple[AnalysisResult, ...]
    expectations: tuple[ExpectationResult, ...]
    provenance: Provenance
    not_comparable: tuple[str, ...] = ()
    """Why the models of a comparison must not be compared; empty if they may."""
    format: int = FORMAT

    @property
    def failed(self) -> int:
        """Number of jobs that failed."""
        return sum(len(part.failed) for analysis in self.analyses for part in analysis.parts)

    @property
    def verdict(self) -> Literal["passed", "failed", "incomplete", "finished"]:
        """Say what came of the run.

        "incomplete" if jobs failed, "failed" if an expectation of level error is broken, "passed" if expectations were
        tested and none is, and "finished" where nothing was tested.
        """
        if self.failed:
            return "incomplete"
        if any(item.broken for item in self.expectations):
            return "failed"
        return "passed" if self.tested else "finished"

    @property
    def tested(self) -> list[ExpectationResult]:
        """The expectations that are not of level off."""
        return [item for item in self.expectations if item.level != "off"]


def write(result: RunResult) -> Any:
    """Return the run as JSON data; pictures and arrays must have been stored."""
    return encode(result)


def read(data: Any) -> RunResult:
    """Undo `write`.

    Raises:
        ValueError: if the data is of another format or damaged.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"not a run of format {FORMAT}")
    try:
        result = decode(data, RunResult)
    except (KeyError, TypeError, AttributeError) as fault:
        raise ValueError(f"damaged run: {fault}") from fault
    assert isinstance(result, RunResult)
    return result


def encode(value: Any) -> Any:
    """Return dataclasses, tuples and mappings of this module as JSON data."""
    if isinstance(value, Finding):
        return to_data(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: encode(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return to_data(value)


def decode(data: Any, expected: Any) -> Any:
    """Rebuild a value of type `expected` from JSON data, following the dataclasses' annotations.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: if the data is of another form.
    """
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        options = [option for option in typing.get_args(expected) if option is not type(None)]
        return decode(data, options[0]) if len(options) == 1 else from_data(data)
    if origin is tuple:
        arguments = typing.get_args(expected)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(decode(item, arguments[0]) for item in data)
        return tuple(decode(item, argument) for item, argument in zip(data, arguments, strict=True))
    if origin is dict:
        value_type = typing.get_args(expected)[1]
        return {key: item if value_type is Any else decode(item, value_type) for key, item in data.items()}
    if dataclasses.is_dataclass(expected):
        hints = typing.get_type_hints(expected)
        return typing.cast("Any", expected)(**{key: decode(item, hints[key]) for key, item in data.items()})
    return from_data(data)
