"""The one extension point: an analysis declares its settings, its jobs, and what it finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from onnxviz.core.devices import Device
from onnxviz.core.findings import FINDING_TYPES, Coverage, Finding, Metric, merge
from onnxviz.core.values import Preprocessing
from onnxviz.data.image_choice import ImageChoice, choose_images, find_source

if TYPE_CHECKING:
    from onnxviz.data.concepts import ConceptSet
    from onnxviz.data.images import ImageFolder, ImageSource
    from onnxviz.graph.view import GraphView
    from onnxviz.model.model import Model

LayerSelector = Annotated[
    str | list[str],
    Field(
        description="A layer name, glob, `Conv[3]`, role (first_conv, last_conv, all_convs, last_map, block_outputs, "
        "logits), or a list."
    ),
]


@dataclass(frozen=True)
class Job:
    """The unit of resume and of distribution. Its parameters are JSON data and become part of its key.

    Attributes:
        name: short and unique within the analysis; shown in progress and errors.
        parameters: everything that `run` needs beyond the analysis' own settings.
        layers: names of the layers whose activations or gradients the job uses; each must agree with ONNX Runtime.
        data: names of the data sets that the job reads.
        cost: estimated forward-pass equivalents (a forward and backward pass counts 3), for the plan and progress.
        images: number of pictures that the job makes or reads, for the plan.
        needs: names of jobs of the same analysis that must be done before; `run` is given what they found. So an
            analysis reduces over shards of a data set: a job for each shard, one that merges what they counted, jobs
            that go on with the merged numbers. Each is stored, resumed and distributed like any other.
        intermediate: what the job finds is only for the jobs that need it, and is not handed to `combine`.
        bytes: estimated size of what it stores, for the plan.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    cost: float = 1.0
    images: int = 0
    needs: tuple[str, ...] = ()
    intermediate: bool = False
    bytes: int = 0


@dataclass(frozen=True)
class Subject:
    """What a plan knows of a model and its data; nothing here needs torch.

    Attributes:
        alias: the model's name in the recipe.
        view: the network.
        preprocessing: how images become its input.
        labels: class names in logit order, or None.
        data: the recipe's data sets by name.
        seed: the run's seed.
        device: what the jobs will run on; results of different devices have different keys anyway.
        choice: key of the choice by trial that its preprocessing waits for, "" where there is nothing to choose.
    """

    alias: str
    view: GraphView
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None
    data: Mapping[str, ImageFolder | ConceptSet]
    seed: int
    device: Device = "cpu"
    choice: str = ""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels of the input."""
        return self.preprocessing.input_size(self.view.input_size)


class Progress(Protocol):
    """Told by a job how far it is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` steps are finished; `note` names the current one."""


@dataclass(frozen=True)
class JobContext:
    """What a job is run with.

    Attributes:
        subject: the model's network, data, labels and seed.
        model: its differentiable form.
        progress: where to report how far the job is.
        found: what the jobs that this one needs have found, by their names; arrays with their numbers.
    """

    subject: Subject
    model: Model
    progress: Progress
    found: Mapping[str, list[Any]] = field(default_factory=dict)


class Analysis(BaseModel):
    """Base of all analyses; the first line of a subclass' docstring is its help and heading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: ClassVar[int] = 1
    """Part of the cache key: raise it when results change."""
    heading: ClassVar[str] = ""
    """Heading in the report where the recipe gives none."""
    reading: ClassVar[str] = ""
    """How its pictures are read, in a sentence or two; the report says it above them."""
    side_by_side: ClassVar[bool] = False
    """Whether its pictures stand beside those that other such analyses made under the same titles, as of one unit."""
    cites: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = ""
    """A YAML mapping that validates, shown by `onnxviz explain`."""
    metric_names: ClassVar[Mapping[str, str]] = {}
    """Every metric that `expect:` can test -> what it is; `*` stands for what depends on the model or the data. Where
    it is empty, recipes may expect anything, and what was not produced is said at the end."""
    without_effect: ClassVar[frozenset[str]] = frozenset({"title"})
    """Fields that change no result of a job, so that another value is no reason to do it again."""
    results: ClassVar[tuple[type, ...]] = ()
    """Dataclasses in which jobs return what they found, if not as findings, and those inside them. They hold numbers,
    text, tuples, pictures and arrays, and are stored as JSON and files, never as Python objects."""

    title: str | None = Field(None, description="Heading in the report; the analysis' own if not given.")

    def jobs(self, subject: Subject) -> Iterable[Job]:
        """Split the work into jobs, without torch.

        Raises:
            SelectionError: if a layer, unit or class does not exist.
            AnalysisError: if the analysis cannot be done on this model or data.
        """
        raise NotImplementedError(type(self).__name__)

    def remarks(self, subject: Subject) -> tuple[str, ...]:  # noqa: ARG002 - for subclasses
        """Return what should be known of the settings on a model before anything is computed, a sentence each."""
        return ()

    def run(self, job: Job, context: JobContext) -> list[Any]:
        """Do one job; deterministic for the same job, model, data, seed and device.

        Returns:
            What it found: dataclasses of `results`, or findings.
        """
        raise NotImplementedError(type(self).__name__)

    def merge(self, parts: Sequence[list[Any]]) -> list[Any]:
        """Join what all jobs found, in their order. No torch."""
        return merge(parts)

    def present(self, found: Sequence[Any], subject: Subject) -> list[Finding]:  # noqa: ARG002 - for subclasses
        """Say for readers what `merge` gave; pictures are stored by now. No torch."""
        return list(found)

    def combine(self, parts: Sequence[list[Any]], subject: Subject) -> list[Finding]:
        """Make one list of findings from what all jobs found."""
        return self.present(self.merge(parts), subject)

    @classmethod
    def result_types(cls) -> Mapping[str, type]:
        """Return the dataclasses that its jobs may return, by name: those of findings, its own, its bases'."""
        own = [made for base in reversed(cls.__mro__) for made in vars(base).get("results", ())]
        return {**FINDING_TYPES, **{made.__name__: made for made in own}}

    def unproduced(self, jobs: Sequence[Job], subject: Subject) -> Mapping[str, str]:  # noqa: ARG002 - for subclasses
        """Return which of `metric_names` these jobs will certainly not produce -> why not. No torch."""
        return {}

    def metrics(self, findings: Sequence[Finding]) -> dict[str, float]:
        """Return the numbers that `expect:` can test."""
        return {finding.name: finding.value for finding in findings if isinstance(finding, Metric)}


class ImageAnalysis(Analysis):
    """Base of analyses of chosen images of a data set."""

    data: str = Field(description="The data set with the images.")
    images: ImageChoice = None
    limit: int | None = Field(
        None, ge=1, description="Most images to use, spread evenly over those chosen; all if not given."
    )

    def chosen_images(self, subject: Subject) -> tuple[ImageSource, list[int]]:
        """Return the data set, and which of its images are used."""
        source = find_source(self.data, subject.data)
        return source, choose_images(source, self.images, self.limit or len(source))

    def image_coverage(self, done: int, failed: str, subject: Subject) -> Coverage:
        """Say how many of the data set's images were used; `failed` is why those are not that were chosen."""
        source, chosen = self.chosen_images(subject)
        wanted = len(choose_images(source, self.images, len(source)))
        why = [f"`limit: {self.limit}`, spread evenly"] if len(chosen) < wanted else []
        why += ["chosen by `images`"] if wanted < len(source) else []
        why += [f"{len(chosen) - done} {failed}"] if done < len(chosen) else []
        return Coverage("images", done, len(source), "; ".join(why), "coverage.images")
