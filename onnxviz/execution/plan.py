"""From a recipe to jobs with keys: what will be done, what it costs and what is there already. Nothing loads torch."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from onnxviz.analyses.base import Analysis, Job, Subject
from onnxviz.core import limits
from onnxviz.core.devices import Device
from onnxviz.core.errors import (
    AnalysisError,
    DataError,
    Fault,
    OnnxvizError,
    RecipeError,
    SelectionError,
    shorten,
)
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.yaml_source import Address, MappingNode, SourcePosition, find, plain, words
from onnxviz.data import builtin
from onnxviz.data.base import no_data_set
from onnxviz.data.decode import is_array
from onnxviz.data.domains import domain_of
from onnxviz.data.image_choice import class_count
from onnxviz.data.images import ImageSource
from onnxviz.data.kinds import data_kinds
from onnxviz.execution.cards import data_card, model_card, reasons_against_comparing
from onnxviz.execution.schedule import PARITY_IMAGES, Choice, ParityCheck, PlannedJob, Schedule
from onnxviz.execution.store import key_of
from onnxviz.graph import open_model
from onnxviz.graph.labels import read_labels, with_labels
from onnxviz.graph.operators import custom_distributions
from onnxviz.graph.tensors import all_nodes
from onnxviz.graph.view import GraphView
from onnxviz.model import preprocessing_candidates as trials
from onnxviz.model.preprocessing import preprocessing_for
from onnxviz.recipe.faults import ordered
from onnxviz.recipe.recipe import Recipe, declared_as
from onnxviz.recipe.schema import PreprocessSettings, pair

PARITY_VERSION = 2
"""Raised when the same comparison gives another table."""
_DISTRIBUTIONS = ("onnxviz", "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy", "pillow")


@dataclass(frozen=True)
class Plan(Schedule):
    """A schedule with the models that were opened for it, by alias."""

    subjects: Mapping[str, Subject] = field(default_factory=dict)


def make_plan(recipe: Recipe, device: Device = "cpu") -> Plan:
    """Open the models and the data, and split the analyses into jobs; results of different devices are not mixed.

    Raises:
        RecipeError: with the recipe's own faults and everything that it asks for and that is not there, at its place.
    """
    planner = _Planner(recipe, device)
    plan = planner.plan()
    if plan is None:
        raise RecipeError(ordered([*recipe.faults, *planner.faults]))
    return plan


def open_subject(
    recipe: Recipe, alias: str, device: Device, planned: Mapping[str, str] | None, data: Mapping[str, Any] | None
) -> Subject:
    """Open one model of a recipe with the recipe's data, for whoever is given jobs that were planned elsewhere.

    What was planned is known by what `digests_of` said then; data of a model that was opened before is not read again.

    Raises:
        RecipeError: if the model or the data are refused.
        DataError: if they are not those that the jobs were planned for.
    """
    planner = _Planner(recipe, device)
    known = data if isinstance(data, _Known) else planner.open_data()
    subject = planner.noted_subject(alias, known)
    if subject is None or planner.faults:
        raise RecipeError(ordered(planner.faults))
    if planned is not None:
        # The results would be stored under the keys of what it was.
        for name, digest in digests_of([subject]).items():
            if planned.get(name) != digest:
                raise DataError(
                    "was changed since the run was planned",
                    where=name,
                    remedy="run the same command again: what is done is kept",
                )
    return subject


def _versions_used(view: GraphView) -> dict[str, str]:
    """Return the versions that a model's results depend on; of who adds operators only if it has such."""
    foreign = any(node.domain not in ("", "ai.onnx") for node in all_nodes(view.proto))
    return {name: version for name, version in versions().items() if foreign or name not in custom_distributions()}


def digests_of(subjects: Iterable[Subject]) -> dict[str, str]:
    """Return digests of all files that results depend on, by what they are called in an error."""
    found = {}
    for subject in subjects:
        found[f"model {subject.alias!r}"] = subject.view.digest
        found[f"inputs of model {subject.alias!r}"] = subject.view.fixed_digest
        found[f"labels of model {subject.alias!r}"] = _labels_digest(subject) or ""
        found |= {f"data {name!r}": source.digest for name, source in subject.data.items()}
    return found


def _labels_digest(subject: Subject) -> str | None:
    return hashlib.sha256("\n".join(subject.labels).encode()).hexdigest() if subject.labels else None


@cache
def versions() -> Mapping[str, str]:
    """Return the versions of the installed libraries that results may depend on."""
    found = {}
    for name in (*_DISTRIBUTIONS, *custom_distributions()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


class _Known(dict[str, Any]):
    """Data sets by name; asking for an unknown one is the user's mistake, for one that failed to open nobody's."""

    def __init__(self, found: Mapping[str, Any], broken: set[str]) -> None:
        super().__init__(found)
        self.broken = broken

    def __missing__(self, name: str) -> Any:
        if name in self.broken:
            raise _ReportedError("")
        raise no_data_set(name, self)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self.broken

    def get(self, name: str, default: Any = None) -> Any:
        """Return a data set, or the default only where no name is given: a misspelt name is never ignored."""
        return default if name is None else self[name]


class _ReportedError(OnnxvizError):
    """Follows from a fault that is known already."""


class _Planner:
    """Collects the faults of everything that a recipe names."""

    def __init__(self, recipe: Recipe, device: Device) -> None:
        self.recipe = recipe
        self.device = device
        self.faults: list[Fault] = []
        self.choices: dict[str, Choice] = {}

    def plan(self) -> Plan | None:
        """Return the plan; None if there are faults."""
        recipe, data = self.recipe, self.open_data()
        opened = {alias: self.noted_subject(alias, data) for alias in recipe.models}
        subjects = {alias: subject for alias, subject in opened.items() if subject is not None}
        jobs: list[PlannedJob] = []
        for alias, subject in subjects.items():
            for name, analysis in recipe.analyses.items():
                jobs += itertools.islice(self.split(alias, subject, name, analysis), limits.JOBS + 1 - len(jobs))
                if len(jobs) > limits.JOBS:
                    text = f"with this the run has more than {limits.JOBS:,} jobs; make several runs of it"
                    self.fault(text, ("analyses", name))
                    return None
        checks = {}
        for alias, subject in subjects.items():
            own = [job.job for job in jobs if job.alias == alias]
            used = {layer for job in own for layer in job.layers}
            self.check_samples(subject, {name for job in own for name in job.data})
            with contextlib.suppress(_ReportedError), self.noting((*recipe.address(alias), "path")):
                subject.view.require_image_only([layer.value for layer in subject.view.layers if layer.name in used])
                if used:
                    checks[alias] = self.parity_check(subject, used)
        if recipe.faults or self.faults:
            return None
        every = list(subjects.values())
        return Plan(
            models=tuple(map(model_card, every)),
            data=tuple(data_card(name, recipe.data[name], source, every) for name, source in data.items()),
            jobs=tuple(jobs),
            parity_checks=checks,
            device=self.device,
            versions=versions(),
            not_comparable=tuple(reasons_against_comparing(every)),
            remarks=self.remarks(every),
            choices=self.choices,
            subjects=subjects,
        )

    def remarks(self, subjects: Sequence[Subject]) -> tuple[str, ...]:
        found = [
            f"{name}: {remark}"
            for subject in subjects
            for name, analysis in self.recipe.analyses.items()
            for remark in analysis.remarks(subject)
        ]
        found += (note for subject in subjects for note in subject.view.namesake_notes.values())
        return tuple(dict.fromkeys(found))

    def check_samples(self, subject: Subject, names: Iterable[str]) -> None:
        """Refuse data whose first image is none that the model takes; photographs are not decoded for that."""
        domain = domain_of(subject.preprocessing)
        for name in sorted(names):
            source = subject.data[name]
            arrays = any(is_array(path) for path in getattr(source, "paths", ())[:1])
            if len(source) and (arrays or not domain.photographic):
                try:
                    domain.sample(source, 0)
                except DataError as error:
                    error.where = error.where or source.names[0]
                    self.note(error, ("data", name), subject.alias)

    def open_data(self) -> _Known:
        found: dict[str, ImageSource] = {}
        for name, settings in self.recipe.data.items():
            with contextlib.suppress(_ReportedError), self.noting(("data", name, settings.kind)):
                opened = settings.open(name, self.recipe.base(name))
                wrong = list(settings.verify(opened))
                for field_name, why in wrong:
                    self.note(why, ("data", name, field_name))
                if not wrong:  # else it is told once
                    found[name] = opened
        declared = find(self.recipe.tree, ("data",))
        names = set(declared.entries) if isinstance(declared, MappingNode) else set()
        return _Known(found, names - set(found))

    def noted_subject(self, alias: str, data: _Known) -> Subject | None:
        """Open a model; None if something is wrong with it, which is noted."""
        before = len(self.faults)
        with contextlib.suppress(_ReportedError):
            subject = self.open_subject(alias, data)
            return subject if len(self.faults) == before else None
        return None

    def open_subject(self, alias: str, data: _Known) -> Subject:
        settings, address = self.recipe.models[alias], self.recipe.address(alias)
        own = self.builtin_model(alias)
        try:
            view = self.open_view(alias, own)
        except _ReportedError:
            self.labels(alias, own)  # what is wrong with them is said too
            raise
        names = self.labels(alias, own)
        view, labels = self.told(alias, view, names, data)
        with self.noting((*address, "preprocess")):
            given = settings.preprocess
            chosen = given.resolve() if isinstance(given, PreprocessSettings) else given
            preprocessing = preprocessing_for(view, own.preprocessing if chosen is None and own else chosen)
        if settings.size is not None:
            wanted = pair(settings.size)
            if view.input_size not in (None, wanted):
                self.fault(f"the model's input is {_size(view.input_size)} and cannot be changed", (*address, "size"))
                raise _ReportedError("")
            preprocessing = preprocessing.with_size(*wanted)
        subject = Subject(alias, view, preprocessing, labels, data, self.recipe.seed, self.device)
        if not preprocessing.undecided:
            return subject
        with self.noting((*address, "preprocess")):
            self.choices[alias] = self.choice(subject, data)
        return dataclasses.replace(subject, choice=self.choices[alias].key)

    def builtin_model(self, alias: str) -> builtin.BuiltinModel | None:
        name = self.recipe.models[alias].builtin
        with self.noting((*self.recipe.address(alias), "builtin")):
            return None if name is None else builtin.model(name)

    def open_view(self, alias: str, own: builtin.BuiltinModel | None) -> GraphView:
        address = self.recipe.address(alias)
        inputs = self.recipe.inputs(alias)
        with self.noting((*address, "builtin" if own else "path")):
            path = own.path if own else self.recipe.resolve((*address, "path"))
            try:
                return open_model(path, inputs=inputs)
            except (DataError, SelectionError) as error:
                self.note(error, (*address, "inputs"))
                raise _ReportedError("") from error

    def choice(self, subject: Subject, data: _Known) -> Choice:
        """Return what is to be tried to find a model's preprocessing.

        Raises:
            SelectionError: if the recipe has no images, or the model gives no class to an image.
        """
        kinds = [cls for cls in data_kinds().values() if cls.holds_images]
        named = (name for cls in kinds for name, item in self.recipe.data.items() if type(item) is cls)
        name = next((name for name in named if name not in data.broken), None)
        if name is None:
            if data.broken:
                raise _ReportedError("")
            raise SelectionError(
                "`preprocess: auto` tries preprocessings on photographs, and the recipe has none",
                remedy="add `data:` with photographs of what the model is used on, or name a preset",
            )
        view, source = subject.view, data[name]
        head = trials.require_classifier(view)
        indices = spread_evenly(range(len(source)), trials.pictures_for(view))
        known = trials.known_classes(head, source, indices, subject.labels)
        tried = sum(1 for _ in trials.candidates(view, geometry=subject.preprocessing))
        if any(own is not None for own in known) and not subject.preprocessing.keeps_geometry:
            tried += trials.SIZES
        parts = {**self.context(subject), "choice": [trials.VERSION, name, source.digest, known]}
        return Choice(key_of(parts), subject.alias, name, len(indices), float(tried * trials.VARIANTS * len(indices)))

    def labels(self, alias: str, own: builtin.BuiltinModel | None) -> tuple[str, ...] | None:
        given, address = self.recipe.models[alias].labels, (*self.recipe.address(alias), "labels")
        if given is None:
            return tuple(own.labels) if own is not None else None
        if not isinstance(given, str):
            return tuple(given)
        with self.noting(address):
            return read_labels(self.recipe.resolve(address))

    def told(
        self, alias: str, view: GraphView, names: tuple[str, ...] | None, data: _Known
    ) -> tuple[GraphView, tuple[str, ...] | None]:
        """Return the view with what the recipe says of its outputs, and the class names."""
        output, address = self.recipe.models[alias].output, self.recipe.address(alias)
        with self.noting((*address, "output")):
            view.with_output(output)
        try:
            return with_labels(view, names, output, class_count(data.values()))
        except OnnxvizError as error:
            self.fault("; ".join(part for part in (error.what, error.remedy) if part), (*address, "labels"))
            raise _ReportedError("") from error

    def split(self, alias: str, subject: Subject, name: str, analysis: Analysis) -> Iterator[PlannedJob]:
        address: Address = ("analyses", name)
        keys: dict[str, str] = {}
        made: list[Job] = []
        try:
            start = self.start_of_keys(subject, analysis)
            for job in jobs_of(analysis, subject):
                planned = self.planned(start, subject, name, job, keys)
                keys[job.name] = planned.key
                made.append(job)
                yield planned
            self.expectations(alias, subject, name, analysis, made)
        except OnnxvizError as error:
            self.note(_with_unknown(error, subject.view), address, alias if self.recipe.compares else "")

    def expectations(self, alias: str, subject: Subject, name: str, analysis: Analysis, jobs: Sequence[Job]) -> None:
        """Refuse what is expected of metrics that these jobs will not produce, before they have run for hours."""
        unproduced = analysis.unproduced(jobs, subject)
        for place, metric in self.recipe.expected(alias, name):
            declared = declared_as(metric, type(analysis).metric_names)
            if declared is not None and declared in unproduced:
                of = f" for model {alias!r}" if self.recipe.compares else ""
                text = f"the metric {shorten(metric)!r} will not be produced{of}: {unproduced[declared]}"
                self.faults.append(place.fault(text))

    def planned(self, start: str, subject: Subject, name: str, job: Job, keys: Mapping[str, str]) -> PlannedJob:
        needs = tuple(keys[needed] for needed in job.needs)
        parts: dict[str, Any] = {
            "start": start,
            "job": [job.name, job.parameters, list(job.layers)],
            "data": {name: subject.data[name].digest for name in job.data},
        }
        if needs:
            parts["needs"] = list(needs)
        return PlannedJob(key_of(parts), subject.alias, name, job, needs)

    def start_of_keys(self, subject: Subject, analysis: Analysis) -> str:
        """Return what the keys of all jobs of an analysis on a model have in common."""
        settings = analysis.model_dump(mode="json")
        for name in type(analysis).without_effect:
            settings.pop(name, None)
        kind = analysis_kind(analysis)
        return key_of({**self.context(subject), "analysis": [kind, type(analysis).version, settings]})

    def context(self, subject: Subject) -> dict[str, Any]:
        """Return what every result of a model depends on."""
        return {
            "model": subject.view.digest,
            **({"inputs": subject.view.fixed_digest} if subject.view.fixed_digest else {}),
            "preprocessing": [
                dataclasses.asdict(dataclasses.replace(subject.preprocessing, name="", origin="declared")),
                subject.choice,  # stands for what is chosen by trial, which follows from it
            ],
            "labels": _labels_digest(subject),
            "outputs": [
                [list(head.outputs), head.kind, head.scores.name if head.scores else "", head.probability]
                for head in subject.view.heads
            ],
            "seed": subject.seed,
            "versions": _versions_used(subject.view),
            "device": self.device,
        }

    def parity_check(self, subject: Subject, used: set[str]) -> ParityCheck:
        layers = tuple(layer.name for layer in subject.view.layers if layer.name in used)
        data = next((name for name in subject.data if self.recipe.data[name].holds_images), None)
        digest = subject.data[data].digest if data is not None else None
        key = key_of({**self.context(subject), "parity": [list(layers), data, digest, PARITY_IMAGES, PARITY_VERSION]})
        return ParityCheck(key, subject.alias, layers, data)

    def fault(self, message: str, address: Address) -> None:
        self.faults.append(self.recipe.place(address).fault(message))

    @contextlib.contextmanager
    def noting(self, address: Address) -> Iterator[None]:
        """Note an error as a fault at its address; `_ReportedError` keeps the rest from what depends on it."""
        try:
            yield
        except OnnxvizError as error:
            self.note(error, address)
            raise _ReportedError("") from error

    def note(self, error: OnnxvizError, address: Address, subject: str = "") -> None:
        """Turn an error into a fault at the value that it speaks of, or at the nearest entry that is known."""
        if isinstance(error, _ReportedError):
            return
        text = "; ".join(part.replace("\n", " ") for part in (error.what, error.remedy) if part)
        where = error.where or (f"model {subject}" if subject and address[0] == "analyses" else "")
        self.faults.append(self.blamed(error, address).fault(f"{where}: {text}" if where else text))

    def blamed(self, error: OnnxvizError, address: Address) -> SourcePosition:
        """Return the place of the word below an address that the error quotes; the entry's own place if none is."""
        node = find(self.recipe.tree, address)
        best: SourcePosition | None = None
        length = 0
        for _, word in words(node) if node is not None else ():
            value = plain(word)
            if value is None or isinstance(value, bool):
                continue
            quoted = repr(shorten(value)) if isinstance(value, str) else str(value)
            if quoted not in error.what:
                continue
            found = re.search(rf"(?<![\w.]){re.escape(quoted)}(?![\w.])", error.what)
            if found and len(quoted) > length:
                best, length = word.place, len(quoted)
        return best or self.recipe.place(address, key=address[0] == "analyses")


def jobs_of(analysis: Analysis, subject: Subject) -> Iterator[Job]:
    """Yield the jobs of an analysis on a model as they are done, wherever that is.

    Raises:
        AnalysisError: if two have the same name, one needs a job that is not before it, or has parameters that are no
            JSON data; and what `Analysis.jobs` raises.
    """
    names: set[str] = set()
    for job in analysis.jobs(subject):
        fault = f"two of its jobs are called {shorten(job.name)!r}" if job.name in names else ""
        for needed in job.needs:
            if needed not in names:
                fault = f"the job {shorten(job.name)!r} needs {shorten(needed)!r}, which is none before it"
        try:
            # As they are after a way through JSON, so that a job is the same wherever it is done.
            parameters = json.loads(json.dumps(dict(job.parameters), allow_nan=False))
        except (TypeError, ValueError) as error:
            fault = f"the job {shorten(job.name)!r} has parameters that are no JSON data: {error}"
        if fault:
            raise AnalysisError(fault, where=analysis_kind(analysis))
        names.add(job.name)
        yield dataclasses.replace(job, parameters=parameters)


def _with_unknown(error: OnnxvizError, view: GraphView) -> OnnxvizError:
    """Add to an error of a layer that it stands behind an unknown operator, which may well be the cause."""
    named = f"{error.where} {error.what}"
    for name, cause in view.naming.unknown.items():
        if cause not in named and re.search(rf"(?<![\w.]){re.escape(shorten(name))}(?![\w.])", named):
            error.what += f" (its form is not known, because it stands behind {cause})"
            break
    return error


def analysis_kind(analysis: Analysis) -> str:
    """Return the kind of an analysis as recipes name it."""
    return str(analysis.model_dump(mode="json", include={"kind"})["kind"])


def heading_of(analysis: Analysis) -> str:
    """Return what an analysis is called in a report."""
    return analysis.title or type(analysis).heading or analysis_kind(analysis).replace("_", " ").capitalize()


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]}×{size[1]} pixels" if size else "of any size"
