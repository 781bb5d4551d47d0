"""What a run will do, as plain data: all that is known of it where no model is ever opened."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, cast

from onnxviz.analyses.base import Job, Subject
from onnxviz.core import results
from onnxviz.core.devices import Device
from onnxviz.core.errors import shorten
from onnxviz.core.results import DataCard, ModelCard
from onnxviz.core.values import Preprocessing
from onnxviz.data.class_conflicts import contradictions
from onnxviz.data.image_choice import unknown_classes, unlike_concepts
from onnxviz.data.images import ImageSource
from onnxviz.data.visible_part import part_seen
from onnxviz.execution.plan import Choice, ParityCheck, Plan, PlannedJob
from onnxviz.execution.store import KEY, Store
from onnxviz.recipe.recipe import Recipe

CHOICE = "preprocessing by trial"
"""How the choice of a preprocessing is called in progress and errors."""
_JOB = tuple(entry.name for entry in dataclasses.fields(Job))
_LISTS = ("layers", "data", "needs")


@dataclass(frozen=True)
class Schedule:
    """Everything that a run will do.

    Attributes:
        models: what is known of each model before anything is analysed, in the order of the recipe.
        data: the data sets.
        jobs: in the order of the recipe, model by model; a job stands behind those it needs.
        parity_checks: one for each model that needs one, by alias.
        choices: one for each model whose preprocessing is chosen by trial, by alias.
        device: what it is planned for.
        versions: of the libraries that results depend on.
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
    def all_keys(self) -> list[str]:
        """Return the keys of all jobs, parity checks and choices."""
        keys = [job.key for job in self.jobs] + [check.key for check in self.parity_checks.values()]
        return keys + [choice.key for choice in self.choices.values()]

    def choice_key(self, alias: str) -> str:
        """Return the key of the choice of a model's preprocessing, "" where nothing is to be chosen."""
        choice = self.choices.get(alias)
        return "" if choice is None else choice.key

    def cached(self, store: Store) -> set[str]:
        """Return the keys of what is done already."""
        there = store.stored_keys()
        return {key for key in self.all_keys if key in there}

    def wanted(self, cached: Set[str]) -> set[str]:
        """Return the keys of the jobs to do: those whose findings are missing, and what they need that is missing.

        Args:
            cached: keys of what is done.
        """
        wanted: set[str] = set()
        for job in reversed(self.jobs):
            missing = job.key not in cached
            if missing and (not job.job.intermediate or job.key in wanted):
                wanted.add(job.key)
                wanted.update(job.needs)
        return wanted


def schedule_of(plan: Plan) -> Schedule:
    """Return a plan as plain data."""
    cards = tuple(
        replace(
            subject.view.card(alias, subject.preprocessing, ()),
            labels=len(subject.labels or ()),
            seen=seen_of(subject, subject.preprocessing),
        )
        for alias, subject in plan.subjects.items()
    )
    return Schedule(
        models=cards,
        data=tuple(data_card(plan, name, source) for name, source in plan.data.items()),
        jobs=plan.jobs,
        parity_checks=plan.parity_checks,
        device=plan.device,
        versions=plan.versions,
        not_comparable=tuple(reasons_against_comparing(list(plan.subjects.values()))),
        remarks=plan.remarks,
        choices=plan.choices,
    )


def seen_of(subject: Subject, preprocessing: Preprocessing) -> tuple[tuple[str, str], ...]:
    """Return for each data set with images, by name, which part of them the model sees."""
    size = preprocessing.input_size(subject.view.input_size)
    if preprocessing.undecided:
        return ()
    found = []
    for name, source in subject.data.items():
        sentence = part_seen(getattr(source, "sizes", ()), preprocessing, size)
        masks = preprocessing.fit == "crop" and hasattr(source, "read_labels")
        if sentence:
            found.append((name, sentence + ("; dissection stretches all of each image instead" if masks else "")))
    return tuple(found)


def data_card(plan: Plan, name: str, source: ImageSource) -> DataCard:
    """Return what the report says of a data set."""
    settings = plan.recipe.data[name]
    skipped = tuple((str(item), str(why)) for item, why in getattr(source, "skipped", ()))
    notes = tuple((str(item), str(what)) for item, what in getattr(source, "notes", ()))
    remarks = (*getattr(source, "remarks", ()), *_on_classes(plan, source))
    return DataCard(name, settings.kind, settings.in_words, source.digest, len(source), skipped, notes, remarks)


def _on_classes(plan: Plan, source: ImageSource) -> Iterator[str]:
    """Yield of which images the class is not known although it should be, or is said in two ways."""
    yield from getattr(source, "remarks_on_classes", ())
    for alias, subject in plan.subjects.items():
        model = f"model {alias!r}: " if len(plan.subjects) > 1 else ""
        said = (*contradictions(source, subject.labels), *unknown_classes(source, subject.labels))
        yield from (f"{model}{sentence}" for sentence in said)
        head = subject.view.main_head
        if head is not None and head.kind == "map_of_classes" and subject.labels:
            yield from (f"{model}{sentence}" for sentence in unlike_concepts(source, subject.labels))


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


def reasons_against_comparing(subjects: Sequence[Subject]) -> Iterator[str]:
    """Yield why models must not be set side by side; same images and seeds are given, being of one recipe."""
    if len(subjects) < 2:
        return
    first = subjects[0]
    for other in subjects[1:]:
        pair = f"{first.alias} and {other.alias}"
        heads = [subject.view.main_head for subject in (first, other)]
        classes = [head.choices if head is not None else 0 for head in heads]
        kinds = [head.kind if head is not None else "unknown" for head in heads]
        if classes[0] != classes[1]:
            what = "classes" if all(head is not None and head.has_classes for head in heads) else "outputs"
            yield f"{pair} have {classes[0]} and {classes[1]} {what}"
        elif kinds[0] != kinds[1] and "unknown" not in kinds:
            yield f"{pair} give different things: {kinds[0]} and {kinds[1]}"
        elif first.labels is not None and other.labels is not None and first.labels != other.labels:
            yield f"{pair} have different class names, so the same class number means something else"


def to_data(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as JSON data."""
    return {
        "models": results.encode(schedule.models),
        "data": results.encode(schedule.data),
        "jobs": [job_data(job) for job in schedule.jobs],
        "parity_checks": [parity_check_data(check) for check in schedule.parity_checks.values()],
        "choices": [choice_data(choice) for choice in schedule.choices.values()],
        "device": schedule.device,
        "versions": dict(schedule.versions),
        "not_comparable": list(schedule.not_comparable),
        "remarks": list(schedule.remarks),
    }


def from_data(data: Any, recipe: Recipe) -> Schedule:
    """Undo `to_data`, for a recipe; what the data claims is checked, because who sent it has read a stranger's file.

    Raises:
        ValueError: if it is no schedule of this recipe.
    """
    try:
        jobs = tuple(job_from(item) for item in data["jobs"])
        parity_checks = [parity_check_from(item) for item in data["parity_checks"]]
        choices = [choice_from(item) for item in data["choices"]]
        models = results.decode(data["models"], tuple[ModelCard, ...])
        schedule = Schedule(
            models=models,
            data=results.decode(data["data"], tuple[DataCard, ...]),
            jobs=jobs,
            parity_checks={check.alias: check for check in parity_checks},
            device="cuda" if data["device"] == "cuda" else "cpu",
            versions={str(name): str(version) for name, version in data["versions"].items()},
            not_comparable=tuple(str(item) for item in data["not_comparable"]),
            remarks=tuple(str(item) for item in data["remarks"]),
            choices={choice.alias: choice for choice in choices},
        )
    except (KeyError, TypeError, AttributeError) as fault:
        raise ValueError(f"no schedule: {fault}") from fault
    _check(schedule, recipe)
    return schedule


def _check(schedule: Schedule, recipe: Recipe) -> None:
    if schedule.aliases != tuple(recipe.models) or not {*schedule.parity_checks, *schedule.choices} <= set(
        recipe.models
    ):
        raise ValueError("the models are not those of the recipe")
    if {card.name for card in schedule.data} != set(recipe.data):
        raise ValueError("the data sets are not those of the recipe")
    known: set[str] = set()
    for job in schedule.jobs:
        if job.alias not in recipe.models or job.analysis not in recipe.analyses:
            raise ValueError("a job of something that the recipe does not have")
        if not known.issuperset(job.needs) or len(job.needs) != len(job.job.needs):
            raise ValueError("a job needs one that is not before it")
        known.add(job.key)
    for key in schedule.all_keys:
        if not KEY.fullmatch(key):  # keys become the names of folders
            raise ValueError("a key that is none")


def job_data(planned: PlannedJob) -> dict[str, Any]:
    """Return a planned job as JSON data."""
    job = {name: getattr(planned.job, name) for name in _JOB}
    for name in _LISTS:
        job[name] = list(job[name])
    job["parameters"] = dict(job["parameters"])
    return {
        "key": planned.key,
        "alias": planned.alias,
        "analysis": planned.analysis,
        "needs": list(planned.needs),
        "job": job,
    }


def job_from(data: Mapping[str, Any]) -> PlannedJob:
    """Undo `job_data`.

    Raises:
        KeyError, TypeError, ValueError: if it is no job.
    """
    given = data["job"]
    lists = {name: tuple(str(item) for item in given[name]) for name in _LISTS}
    job = Job(
        name=str(given["name"]),
        parameters=dict(given["parameters"]),
        cost=float(given["cost"]),
        images=int(given["images"]),
        intermediate=bool(given["intermediate"]),
        bytes=int(given["bytes"]),
        **cast("dict[str, Any]", lists),
    )
    needs = tuple(str(key) for key in data["needs"])
    return PlannedJob(str(data["key"]), str(data["alias"]), str(data["analysis"]), job, needs)


def parity_check_data(check: ParityCheck) -> dict[str, Any]:
    """Return a parity check as JSON data."""
    return {
        "key": check.key,
        "alias": check.alias,
        "layers": list(check.layers),
        "data": check.data,
    }


def parity_check_from(data: Mapping[str, Any]) -> ParityCheck:
    """Undo `proof_data`.

    Raises:
        KeyError, TypeError: if it is no parity check.
    """
    name = data["data"]
    layers = tuple(str(layer) for layer in data["layers"])
    return ParityCheck(str(data["key"]), str(data["alias"]), layers, None if name is None else str(name))


def choice_data(choice: Choice) -> dict[str, Any]:
    """Return the choice of a preprocessing as JSON data."""
    return dataclasses.asdict(choice)


def choice_from(data: Mapping[str, Any]) -> Choice:
    """Undo `choice_data`.

    Raises:
        KeyError, TypeError, ValueError: if it is no choice.
    """
    return Choice(str(data["key"]), str(data["alias"]), str(data["data"]), int(data["images"]), float(data["cost"]))
