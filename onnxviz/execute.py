"""A run from beginning to end: plan, do what is not done yet, put the results together, write the report."""

from __future__ import annotations

import contextlib
import html
import inspect
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from onnxviz import report
from onnxviz.analyses.base import Analysis, Subject
from onnxviz.cache import DamagedError, Store, check_folder, key_of, locked
from onnxviz.errors import OnnxvizError, OutputError, shorten
from onnxviz.expectations import decide
from onnxviz.findings import Array, Finding, Picture, pictures
from onnxviz.images import ImageSource
from onnxviz.plan import PROOF_COST, Plan, PlannedJob, analysis_kind, likely_device, make_plan
from onnxviz.recipe import Recipe, read_recipe
from onnxviz.recipe_schema import BuiltinSettings
from onnxviz.results import AnalysisResult, DataCard, FailedJob, Part, Provenance, RunResult
from onnxviz.run_folder import Log, analysis_of, write_run
from onnxviz.values import Agreement
from onnxviz.workers import InProcessWorker, Worker, describe_device, find_device, read_agreement

if TYPE_CHECKING:
    from PIL.Image import Image

RUNS = Path("runs")
"""Where run folders are made unless another place is named."""

Status = Literal["done", "cached", "failed"]


class Observer(Protocol):
    """Told how a run goes on."""

    def planned(self, plan: Plan, cached: set[str]) -> None:
        """The work is known; `cached` are the keys of what is done already."""

    def started(self, name: str, cost: float) -> None:
        """A job begins; `cost` is its estimated number of forward passes."""

    def progressed(self, done: int, total: int, note: str = "") -> None:
        """The job has done so many steps."""

    def finished(self, name: str, cost: float, seconds: float, status: Status, error: str = "") -> None:
        """The job has ended."""

    def message(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """An observer that says nothing."""

    def planned(self, plan: Plan, cached: set[str]) -> None:
        """Say nothing."""

    def started(self, name: str, cost: float) -> None:
        """Say nothing."""

    def progressed(self, done: int, total: int, note: str = "") -> None:
        """Say nothing."""

    def finished(self, name: str, cost: float, seconds: float, status: Status, error: str = "") -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        result: everything that was found, as plain data.
        folder: where it is stored.
        report: the page to open.
    """

    result: RunResult
    folder: Path
    report: Path

    def pictures(self, analysis: str) -> list[Image]:
        """Return the pictures of one analysis, in the order of the report.

        Raises:
            OutputError: if there is no such analysis, or a picture is gone.
        """
        from PIL import Image as Images

        found = []
        for part in analysis_of(self.result, analysis).parts:
            for picture in pictures(part.findings):
                path = self.folder / picture.path
                try:
                    with Images.open(path) as image:
                        found.append(image.convert("RGB"))
                except OSError as error:
                    raise OutputError("the picture cannot be read", where=str(path)) from error
        return found

    def metrics(self, analysis: str) -> dict[str, dict[str, float]]:
        """Return the metrics of one analysis for each model."""
        return {part.model: dict(part.metrics) for part in analysis_of(self.result, analysis).parts}

    def _repr_html_(self) -> str:
        """Show the verdict, the expectations and where the report is, in a notebook."""
        result = self.result
        lines = [f"<b>{html.escape(result.title)}</b>: {html.escape(result.verdict)}"]
        for item in result.expectations:
            sign = "✓" if item.holds else "✗"
            value = "not produced" if item.value is None else f"{item.value:.4g}"
            lines.append(html.escape(f"{sign} {item.metric} {item.condition}: {value}"))
        lines.append(f"report: <code>{html.escape(str(self.report))}</code>")
        return "<br>".join(lines)


def run_file(
    path: Path | str,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    observer: Observer | None = None,
    command: str = "",
) -> Run:
    """Run a recipe and write its report.

    Args:
        path: the recipe.
        out: the run folder; `runs/<name of the recipe>` if None.
        overrides: as for `--set`, for example ("classes.steps=64",).
        device: what to compute on.
        observer: told how the run goes on.
        command: how the run was started, for the report.

    Raises:
        RecipeError: if the recipe, the model or the data are refused; nothing ran.
        OutputError: if the folder cannot be written.
    """
    recipe = read_recipe(path, overrides, partly=True)
    folder = Path(out) if out is not None else default_folder(recipe)
    return run(recipe, folder, device=device, observer=observer, command=command)


def default_folder(recipe: Recipe) -> Path:
    """Return the run folder of a recipe for which none is named."""
    return RUNS / (re.sub(r"[^\w.-]+", "-", Path(recipe.name).stem).strip(".-") or "run")


def run(
    recipe: Recipe,
    out: Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    observer: Observer | None = None,
    command: str = "",
) -> Run:
    """Run a recipe that was read: see `run_file`."""
    watcher = observer or Silent()
    check_folder(out)
    plan = make_plan(recipe, likely_device() if device == "auto" else device)
    actual = find_device(device)
    if actual != plan.device:
        plan = make_plan(recipe, actual)
    with locked(out):
        return _Execution(plan, out, watcher, command).run()


class _Execution:
    """One run while it goes on."""

    def __init__(self, plan: Plan, folder: Path, observer: Observer, command: str) -> None:
        self.plan = plan
        self.folder = folder
        self.observer = observer
        self.command = command
        self.store = Store(folder)
        self.log = Log(folder)
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.cached: set[str] = set()
        self.agreement: dict[str, tuple[Agreement, ...]] = {}
        self.disagreeing: dict[str, dict[str, str]] = {}

    def run(self) -> Run:
        started, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
        self.log.write(f"run of {shorten(self.plan.recipe.name, 200)} on {self.plan.device}")
        try:
            self.store.clean()
            self.cached = self.whole(self.plan.cached(self.store))
            self.observer.planned(self.plan, self.cached)
            self.work()
            result = self.result(started, clock)
            result = write_run(result, self.folder)
            page = report.write_report(result, self.folder)
        except KeyboardInterrupt:
            self.log.write("interrupted")
            raise
        except Exception as error:
            self.log.write("".join(traceback.format_exception(error)))
            raise
        self.log.write(f"finished: {result.verdict}")
        return Run(result, self.folder, page)

    def whole(self, keys: set[str]) -> set[str]:
        """Return the keys whose results are whole; damaged ones are removed, to be made again."""
        whole = set()
        for key in sorted(keys):
            if self.load(key) is not None:
                whole.add(key)
        return whole

    def load(self, key: str, *, arrays: bool = False) -> list[Finding] | None:
        try:
            return self.store.load(key, arrays=arrays)
        except DamagedError as error:
            self.observer.message(f"{error.where} is damaged ({error.what}) and is made again")
            self.log.write(str(error))
            self.store.discard(key)
            return None

    def work(self) -> None:
        """Do every job that is not done, model by model."""
        worker: Worker | None = None
        for alias in self.plan.subjects:
            jobs = [job for job in self.plan.jobs if job.alias == alias]
            todo = [job for job in jobs if job.key not in self.cached]
            proof = self.plan.proofs.get(alias)
            needed = bool(todo) or (proof is not None and proof.key not in self.cached)
            if worker is None and needed:
                worker = InProcessWorker(self.plan.subjects, self.store, self.plan.device)
            if proof is not None:
                self.prove(alias, worker)
            for job in jobs:
                self.do(job, worker)
            if worker is not None:
                worker.release(alias)

    def prove(self, alias: str, worker: Worker | None) -> None:
        proof = self.plan.proofs[alias]
        name = f"{alias}: agreement with ONNX Runtime" if self.plan.recipe.compares else "agreement with ONNX Runtime"
        cost = PROOF_COST
        if proof.key in self.cached:
            self.observer.finished(name, cost, 0.0, "cached")
        else:
            assert worker is not None
            with self.timed(proof.key, name, cost) as told:
                outcome = worker.prove(proof)
                told.append(outcome.error)
            if outcome.error:
                self.log.write(outcome.details)
                self.disagreeing[alias] = dict.fromkeys(proof.layers, outcome.error)
                return
        findings = self.load(proof.key)
        assert findings is not None
        self.agreement[alias], errors = read_agreement(findings)
        if errors:  # not a result but a failure: tried again next time
            self.store.discard(proof.key)
        for item in self.agreement[alias]:
            if not item.holds:
                reference = "the model file" if item.reference == "file" else "the float32 graph"
                errors[item.layer] = (
                    f"the converted network differs from {reference} in ONNX Runtime by {item.relative:.2g} of the "
                    f"layer's largest value, more than the {item.tolerance:.2g} that is accepted"
                )
        self.disagreeing[alias] = errors

    def do(self, job: PlannedJob, worker: Worker | None) -> None:
        """Do one job, unless it is done, or uses a layer that does not agree."""
        name = f"{job.alias}: {job.name}" if self.plan.recipe.compares else job.name
        broken = self.disagreeing.get(job.alias, {})
        wrong = [layer for layer in job.job.layers if layer in broken]
        if wrong:
            error = "; ".join(f"layer {shorten(layer)!r}: {broken[layer]}" for layer in wrong[:3])
            error += f"; and {len(wrong) - 3} more layers" if len(wrong) > 3 else ""
            self.failed[self.identity(job)] = error
            self.observer.finished(name, job.job.cost, 0.0, "failed", error)
        elif self.store.has(job.key):
            self.cached.add(job.key)
            self.observer.finished(name, job.job.cost, 0.0, "cached")
        else:
            assert worker is not None
            with self.timed(self.identity(job), name, job.job.cost) as told:
                outcome = worker.run(job, self.plan.analysis(job), self.observer.progressed)
                told.append(outcome.error)
            if outcome.error:
                self.failed[self.identity(job)] = outcome.error
                self.log.write(f"{name} failed\n{outcome.details}")

    @staticmethod
    def identity(job: PlannedJob) -> str:
        return f"{job.alias}:{job.name}"

    @contextlib.contextmanager
    def timed(self, identity: str, name: str, cost: float) -> Iterator[list[str]]:
        """Tell the observer of a job; the caller adds its error, or an empty text, to the list."""
        told: list[str] = []
        self.observer.started(name, cost)
        self.log.write(f"{name} begins")
        clock = time.monotonic()
        yield told
        self.seconds[identity] = time.monotonic() - clock
        error = told[0] if told else ""
        self.observer.finished(name, cost, self.seconds[identity], "failed" if error else "done", error)

    def result(self, started: str, clock: float) -> RunResult:
        plan, recipe = self.plan, self.plan.recipe
        analyses = tuple(self.analysis(name, analysis) for name, analysis in recipe.analyses.items())
        return RunResult(
            title=recipe.title,
            recipe=recipe.lock(self.folder),
            models=tuple(
                replace(
                    subject.view.card(alias, subject.preprocessing, self.agreement.get(alias, ())),
                    labels=len(subject.labels or ()),
                )
                for alias, subject in plan.subjects.items()
            ),
            data=tuple(data_card(recipe, name, source) for name, source in plan.data.items()),
            analyses=analyses,
            expectations=tuple(decide(recipe.expect, analyses)),
            provenance=Provenance(
                seed=recipe.seed,
                device=describe_device(plan.device),
                versions=dict(plan.versions),
                started=started,
                seconds=round(time.monotonic() - clock, 3),
                jobs=len(plan.jobs),
                cached=sum(job.key in self.cached for job in plan.jobs),
                command=self.command,
            ),
            not_comparable=tuple(reasons_against_comparing(list(plan.subjects.values()))),
        )

    def analysis(self, name: str, analysis: Analysis) -> AnalysisResult:
        text = inspect.cleandoc(type(analysis).__doc__ or "")
        summary, _, description = text.partition("\n")
        kind = analysis_kind(analysis)
        return AnalysisResult(
            id=name,
            kind=kind,
            title=analysis.title or type(analysis).heading or kind.replace("_", " ").capitalize(),
            summary=summary.strip(),
            description=description.strip(),
            cites=tuple(type(analysis).cites),
            settings=analysis.model_dump(mode="json"),
            parts=tuple(self.part(name, analysis, subject) for subject in self.plan.subjects.values()),
        )

    def part(self, name: str, analysis: Analysis, subject: Subject) -> Part:
        """Put the findings of an analysis' jobs on one model together."""
        jobs = [job for job in self.plan.jobs if job.analysis == name and job.alias == subject.alias]
        failed = [
            FailedJob(job.job.name, self.failed[self.identity(job)])
            for job in jobs
            if self.identity(job) in self.failed
        ]
        findings: list[Finding] = []
        metrics: dict[str, float] = {}
        # Read back even what was just made, so that a resumed run cannot differ from an uninterrupted one.
        loaded = [self.load(job.key, arrays=True) for job in jobs if self.identity(job) not in self.failed]
        parts = [found for found in loaded if found is not None]
        known = {id(finding) for found in parts for finding in found if isinstance(finding, Array)}
        try:
            if parts or not failed:
                findings = self.stored(analysis.combine(parts, subject), jobs, known)
                metrics = {key: float(value) for key, value in analysis.metrics(findings).items()}
        except OutputError:
            raise
        except Exception as error:  # as for jobs: the other analyses are still worth a report
            findings = []
            said = (
                str(error) if isinstance(error, OnnxvizError) else f"{type(error).__name__}: {shorten(str(error), 200)}"
            )
            failed.append(FailedJob("putting the results together", " ".join(said.split())))
            self.log.write(f"{name} failed\n" + "".join(traceback.format_exception(error)))
        return Part(
            model=subject.alias,
            findings=tuple(findings),
            metrics=metrics,
            jobs=len(jobs),
            cached=sum(job.key in self.cached for job in jobs),
            failed=tuple(failed),
            seconds=round(sum(self.seconds.get(self.identity(job), 0.0) for job in jobs), 3),
        )

    def stored(self, findings: list[Finding], jobs: Sequence[PlannedJob], known: set[int]) -> list[Finding]:
        """Store the pictures and arrays that were made when parts were put together; `known` are the others' ids."""
        new = [
            leaf for leaf in _leaves(findings) if not leaf.path or (isinstance(leaf, Array) and id(leaf) not in known)
        ]
        if not new:
            return findings
        key = key_of({"combined": [job.key for job in jobs], "failed": sorted(set(self.failed))})
        self.store.save(key, findings, {"combined": [job.name for job in jobs]})
        stored = self.load(key)
        assert stored is not None
        return stored


def _leaves(findings: Sequence[Finding]) -> Iterator[Picture | Array]:
    for finding in findings:
        if isinstance(finding, Array):
            yield finding
        yield from pictures(finding)


def data_card(recipe: Recipe, name: str, source: ImageSource) -> DataCard:
    """Return what the report says of a data set."""
    settings = recipe.data[name]
    kind = next(key for key in ("images", "concepts", "builtin") if hasattr(settings, key))
    what = getattr(settings, kind)
    shown = ", ".join(what) if isinstance(what, list) else str(what)
    if isinstance(settings, BuiltinSettings):
        shown = f"{shown}: {settings.count} generated images, {settings.size} pixels, seed {settings.seed}"
    skipped = tuple((str(item), str(why)) for item, why in getattr(source, "skipped", ()))
    notes = tuple((str(item), str(what)) for item, what in getattr(source, "notes", ()))
    return DataCard(name, kind, shown, source.digest, len(source), skipped, notes)


def reasons_against_comparing(subjects: Sequence[Subject]) -> Iterator[str]:
    """Yield why models must not be set side by side; same images and seeds are given, being of one recipe."""
    if len(subjects) < 2:
        return
    first = subjects[0]
    for other in subjects[1:]:
        pair = f"{first.alias} and {other.alias}"
        classes = [subject.view.logits.unit_count for subject in (first, other)]
        if classes[0] != classes[1]:
            yield f"{pair} have {classes[0]} and {classes[1]} classes"
        elif first.labels is not None and other.labels is not None and first.labels != other.labels:
            yield f"{pair} have different class names, so the same class number means something else"
