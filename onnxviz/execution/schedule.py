"""What a run will do, as plain data: all that is known of it where no model is ever opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from onnxviz.analyses.base import Job
from onnxviz.core.devices import Device
from onnxviz.core.errors import shorten
from onnxviz.core.results import DataCard, ModelCard
from onnxviz.execution.store import KEY, Store
from onnxviz.recipe.recipe import Recipe

CHOICE = "preprocessing by trial"
"""How the choice of a preprocessing is called in progress and errors."""
PARITY_IMAGES = 2
"""Images on which every layer that is used must agree with ONNX Runtime."""
PARITY_COST = 2.0 * PARITY_IMAGES
"""Forward passes of a parity check: one by each of the two engines for each image."""


@dataclass(frozen=True)
class PlannedJob:
    """One job of one analysis on one model; its result is stored under the key.

    Attributes:
        job: what to do; its parameters are as JSON gives them back.
        needs: the keys of the jobs that it needs, in the order of `job.needs`.
    """

    key: str
    alias: str
    analysis: str
    job: Job
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How the job is called in progress and errors."""
        return f"{self.analysis}/{self.job.name}"

    @property
    def cost(self) -> float:
        """Estimated forward passes."""
        return self.job.cost


@dataclass(frozen=True)
class ParityCheck:
    """The comparison with ONNX Runtime that a model's jobs wait for.

    Attributes:
        layers: all that jobs use, in topological order.
        data: the data set whose first images are used; None for made-up images.
    """

    cost: ClassVar[float] = PARITY_COST

    key: str
    alias: str
    layers: tuple[str, ...]
    data: str | None


@dataclass(frozen=True)
class Choice:
    """The choice of a preprocessing that all jobs of a model wait for: some of a data set's images are tried."""

    key: str
    alias: str
    data: str
    images: int
    cost: float


Work: TypeAlias = PlannedJob | ParityCheck | Choice


@dataclass(frozen=True)
class Schedule:
    """Everything that a run will do.

    Attributes:
        models: what is known of each model before anything is analysed, in the order of the recipe.
        jobs: in the order of the recipe, model by model; a job stands behind those it needs.
        parity_checks: by alias, as choices are.
        not_comparable: why the models must not be set side by side.
        remarks: what should be known of the settings on the models, before anything is computed.
    """

    models: tuple[ModelCard, ...]
    data: tuple[DataCard, ...]
    jobs: tuple[PlannedJob, ...]
    parity_checks: Mapping[str, ParityCheck]
    device: Device
    versions: Mapping[str, str]
    not_comparable: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Names of the models, in the order of the recipe."""
        return tuple(card.alias for card in self.models)

    @property
    def works(self) -> tuple[Work, ...]:
        """All jobs, parity checks and choices."""
        return (*self.jobs, *self.parity_checks.values(), *self.choices.values())

    def cost(self, cached: Set[str]) -> float:
        """Return the forward passes of all whose keys are not cached."""
        return sum(work.cost for work in self.works if work.key not in cached)

    def cached(self, store: Store) -> set[str]:
        """Return the keys of what is done already."""
        return store.stored_keys().intersection(work.key for work in self.works)

    def wanted(self, cached: Set[str]) -> set[str]:
        """Return the keys of the jobs to do: those whose findings are not cached, and what they need that is not."""
        wanted: set[str] = set()
        for job in reversed(self.jobs):
            missing = job.key not in cached
            if missing and (not job.job.intermediate or job.key in wanted):
                wanted.add(job.key)
                wanted.update(job.needs)
        return wanted

    def require(self, recipe: Recipe) -> None:
        """Refuse what is no schedule of a recipe: who sent it may have been taken over by a stranger's file.

        Raises:
            ValueError: with what is wrong.
        """
        aliases = [*self.parity_checks, *self.choices]
        if self.aliases != tuple(recipe.models) or not set(aliases) <= set(recipe.models):
            raise ValueError("the models are not those of the recipe")
        if aliases != [work.alias for work in self.works[len(self.jobs) :]]:
            raise ValueError("a parity check or a choice of another model")
        if {card.name for card in self.data} != set(recipe.data):
            raise ValueError("the data sets are not those of the recipe")
        known: set[str] = set()
        for job in self.jobs:
            if job.alias not in recipe.models or job.analysis not in recipe.analyses:
                raise ValueError("a job of something that the recipe does not have")
            if not known.issuperset(job.needs) or len(job.needs) != len(job.job.needs):
                raise ValueError("a job needs one that is not before it")
            known.add(job.key)
        if not all(KEY.fullmatch(work.key) for work in self.works):  # keys become the names of folders
            raise ValueError("a key that is none")


def left_out(data: Sequence[DataCard], most: int = 3) -> Iterator[str]:
    """Yield a sentence on each data set of which files cannot be used, or classes are not known."""
    for card in data:
        yield from (f"data {card.name!r}: {remark}" for remark in card.remarks)
        count = len(card.skipped)
        if not count:
            continue
        listed = "; ".join(f"{shorten(name, 60)}: {shorten(why, 160)}" for name, why in card.skipped[:most])
        more = f"; and {count - most:,} more" if count > most else ""
        total = f" of {count + card.used:,}" if card.used else ""
        yield (
            f"data {card.name!r}: {count:,}{total} file{'s' * (count + card.used != 1)} cannot be used and "
            f"{'is' if count == 1 else 'are'} left out: {listed}{more}"
        )
