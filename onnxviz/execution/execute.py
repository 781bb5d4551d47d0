"""A run from beginning to end: plan, do what is not done yet, put the results together, write the report."""

from __future__ import annotations

import inspect
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from onnxviz import report
from onnxviz.analyses.base import Analysis
from onnxviz.core.devices import describe_device
from onnxviz.core.errors import Fault, OnnxvizError, OutputError, RecipeError, shorten
from onnxviz.core.findings import Finding
from onnxviz.core.results import AnalysisResult, FailedJob, ModelCard, Part, Provenance, RunResult
from onnxviz.core.values import Agreement
from onnxviz.execution.choice import Chosen, read_chosen, with_choice, without_choice
from onnxviz.execution.dispatch import Dispatcher, Item
from onnxviz.execution.finished_run import Run
from onnxviz.execution.folder import RUN, Log, write_run
from onnxviz.execution.observer import Logged, Observer, Several
from onnxviz.execution.parity_job import Comparison, disagreeing, distrusted, why_not
from onnxviz.execution.partial_run import Kept, kept, with_reported
from onnxviz.execution.plan import analysis_kind, heading_of
from onnxviz.execution.schedule import CHOICE, Choice, ParityCheck, PlannedJob, left_out
from onnxviz.execution.store import Checked, DamagedError, Store, key_of, locked, remove_empty
from onnxviz.execution.workers.engine import Options, started
from onnxviz.execution.workers.pool import Pool
from onnxviz.execution.workers.tasks import Combination, Outcome, Task
from onnxviz.recipe.expectations import decide
from onnxviz.recipe.from_python import recipe_from
from onnxviz.recipe.recipe import Recipe, read_recipe
from onnxviz.recipe.selection import chosen, restricted

_NO_RECIPE = "a recipe is the path of a YAML file, or a mapping of its parts; this is a"
RUNS = Path("runs")
"""Where run folders are made unless another place is named."""


def run_file(
    recipe: Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    *,
    observer: Observer | None = None,
    command: str = "",
    **options: Unpack[Options],
) -> Run:
    """Run a recipe and write its report.

    Args:
        recipe: a YAML file, or a recipe's parts as a mapping of plain values, such as
            `{"version": 1, "model": {"path": "m.onnx"}, "analyses": {...}}`, whose paths start in the working folder.
        out: the run folder; `runs/<name of the recipe>` if None, `runs/recipe` for a mapping.
        overrides: as for `--set`, for example ("classes.steps=64",).
        observer: told how the run goes on.
        command: how the run was started, for the report.
        options: how it is run: see `Options`.

    Raises:
        RecipeError: if it is no recipe, or the recipe, the model or the data are refused; nothing ran.
        OutputError: if the folder cannot be written.
    """
    if isinstance(recipe, Mapping):
        read = recipe_from(recipe, overrides)
    elif isinstance(recipe, str | os.PathLike):
        read = read_recipe(recipe, overrides, partly=True)
    else:
        raise RecipeError([Fault(f"{_NO_RECIPE} {type(recipe).__name__}")])
    folder = Path(out) if out is not None else default_folder(read)
    return run(read, folder, observer=observer, command=command, **options)


def default_folder(recipe: Recipe) -> Path:
    """Return the run folder of a recipe for which none is named."""
    return RUNS / (re.sub(r"[^\w.-]+", "-", Path(recipe.name).stem).strip(".-") or "run")


def run(
    recipe: Recipe, out: Path, *, observer: Observer | None = None, command: str = "", **options: Unpack[Options]
) -> Run:
    """Run a recipe that was read: see `run_file`."""
    whole, part = recipe, restricted(recipe, options.get("only", ()))
    asked, forced = set(part.analyses), chosen(part, options.get("force", ()), "--force")
    recipe = with_reported(whole, asked, out)
    fresh = not out.exists()
    try:
        with locked(out) as lock, started(recipe, out, lock, options) as (schedule, pool):
            does = kept(whole, recipe, schedule, asked, Store(out))
            log = Log(out, options.get("log_file"))
            told = Several((observer or Observer(), Logged(log)))
            dispatcher = Dispatcher(pool, told, stop_on_failure=not options.get("keep_going", True))
            return _Execution(does, pool, out, told, forced, dispatcher, log).run(command)
    except (OnnxvizError, KeyboardInterrupt):
        if fresh and not (out / RUN).exists():
            remove_empty(out)  # nothing ran, so nothing is left
        raise


@dataclass(eq=False)
class _Execution:
    """One run while it goes on; what becomes of it is noted by job, by model, or by model and analysis."""

    does: Kept
    pool: Pool
    folder: Path
    observer: Observer
    forced: set[str]
    dispatcher: Dispatcher
    log: Log
    cached: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, tuple[Agreement, ...]] = field(default_factory=dict)
    disagreeing: dict[str, dict[str, str]] = field(default_factory=dict)
    chosen: dict[str, Chosen] = field(default_factory=dict)
    unchosen: dict[str, str] = field(default_factory=dict)
    combined: dict[tuple[str, str], str] = field(default_factory=dict)
    loaded: dict[str, tuple[list[Finding], dict[str, float]]] = field(default_factory=dict)
    uncombined: dict[tuple[str, str], str] = field(default_factory=dict)
    jobs: dict[tuple[str, str], list[PlannedJob]] = field(default_factory=dict)
    given: dict[object, Item] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.recipe, self.schedule = self.does.recipe, self.does.schedule
        self.store = Store(self.folder)
        self.checked = Checked(self.store, len(self.schedule.works))
        for job in self.schedule.jobs:
            self.jobs.setdefault((job.alias, job.analysis), []).append(job)

    def run(self, command: str) -> Run:
        started_at, clock = time.strftime("%Y-%m-%dT%H:%M:%S%z"), time.monotonic()
        self.log.write(f"run of {shorten(self.recipe.name, 200)} on {self.schedule.device}, {self.pool.description}")
        try:
            self.store.clean()
            self.take_stock()
            self.observer.planned(self.schedule, self.cached)
            for sentence in self.does.remarks:
                self.dispatcher.note(sentence)
            for sentence in left_out(self.schedule.data, most=1):
                self.observer.message(sentence)
            self.add_items()
            self.dispatcher.run()
            self.store.clean()  # what workers left that were killed while they wrote
            self.drop_intermediate()
            result = self.result(started_at, clock, command)
            result = write_run(result, self.folder)
            page = report.write_report(result, self.folder)
        except KeyboardInterrupt:
            self.log.write("interrupted")
            raise
        except OutputError as error:
            self.log.write(str(error))
            self.checked.forget()  # something may be damaged although it looks as it did: the next run reads all
            raise
        except Exception as error:
            self.log.write("".join(traceback.format_exception(error)))
            raise
        finally:
            self.checked.write()
            self.log.close()
        self.log.write(f"finished: {result.verdict}")
        return Run(result, self.folder, page)

    # --- what is there ----------------------------------------------------------------------------------------------

    def take_stock(self) -> None:
        """Find out which results are there and whole; damaged ones and those to be forced are removed."""
        again = {job.key for job in self.schedule.jobs if job.analysis in self.forced}
        there = self.schedule.cached(self.store)
        for key in (work.key for work in self.schedule.works if work.key in there):
            if key in again:
                self.store.discard(key)
            elif self.readable(key, partial(self.checked.require, key)):
                self.cached.add(key)

    def combined_is_there(self, key: str) -> bool:
        """Read what was put together before, for the report; a damaged one is removed, to be made again."""

        def load() -> None:
            if (found := self.store.load_combined(key)) is not None:
                self.loaded[key] = found

        return self.readable(key, load) and key in self.loaded

    def readable(self, key: str, read: Callable[[], object]) -> bool:
        """Whether a result can be read; a damaged one is removed, to be made again."""
        try:
            read()
        except DamagedError as error:
            self.dispatcher.note(f"{error.where} is damaged ({error.what}) and is made again")
            self.store.discard(key)
            return False
        return True

    # --- what is to do ----------------------------------------------------------------------------------------------

    def add_items(self) -> None:
        """Hand everything that is not done to the dispatcher, with what it waits for."""
        wanted = self.schedule.wanted(self.cached)
        for alias in self.schedule.aliases:
            first = self.add_checks(alias)
            for name in self.recipe.analyses:
                items: dict[str, Item] = {}
                for job in self.jobs.get((alias, name), ()):
                    if job.key in self.cached or job.key not in wanted:
                        self.cached.add(job.key)
                        self.observer.finished(self.title(alias, job.name), job.cost, 0.0, "cached")
                        continue
                    items[job.key] = self.add_job(job, [*(items[key] for key in job.needs if key in items), *first])
                self.add_combination(alias, name, list(items.values()) or first)

    def add(self, item: Item, after: list[Item], work: object) -> None:
        """Hand an item to the dispatcher; two names of one model do the same work one after the other.

        What the first made is there for the second then; at once, one could remove what the other is about to read.
        """
        first = self.given.setdefault(work, item)
        self.dispatcher.add(item, after if first is item else [*after, first])

    def title(self, alias: str, name: str) -> str:
        return f"{alias}: {name}" if self.recipe.compares else name

    def add_checks(self, alias: str) -> list[Item]:
        """Hand on what the jobs of a model wait for: the choice of its preprocessing, and the parity check."""
        items: list[Item] = []
        choice, check = self.schedule.choices.get(alias), self.schedule.parity_checks.get(alias)
        if choice is not None:
            items += self.add_check(choice, CHOICE, lambda: self.read_choice(alias), [])
        if check is not None:
            items += self.add_check(check, _PARITY, lambda: self.read_parity(alias), items)
        return items

    def add_check(
        self, work: Choice | ParityCheck, name: str, read: Callable[[], None], after: list[Item]
    ) -> list[Item]:
        """Hand on a choice or a parity check, if it has not been done; `read` takes note of what came out."""
        title = self.title(work.alias, name)
        if work.key in self.cached and self.readable(work.key, read):
            self.observer.finished(title, work.cost, 0.0, "cached")
            return []
        self.cached.discard(work.key)

        def task(item: Item) -> Task | None:
            if error := self.unchosen.get(work.alias):
                self.dispatcher.end(item, _UNCHOSEN + error)
                return None
            if work.key in self.made:
                self.dispatcher.end(item)
                return None
            return Task(work)

        def ended(_: Item, outcome: Outcome) -> None:
            if not outcome.error:
                read()
                if self.store.has(work.key):
                    self.made.add(work.key)
                return
            self.log.write(outcome.details)
            if isinstance(work, ParityCheck):
                self.disagreeing[work.alias] = dict.fromkeys(work.layers, outcome.error)
            else:
                self.unchosen[work.alias] = outcome.error

        item = Item(title, work.alias, work.cost, task, ended)
        self.add(item, after, work.key)
        return [item]

    def read_choice(self, alias: str) -> None:
        key = self.schedule.choices[alias].key
        found = read_chosen(self.store, key)
        assert found is not None
        self.chosen[alias] = found
        self.checked.note(key)

    def read_parity(self, alias: str) -> None:
        key = self.schedule.parity_checks[alias].key
        found = self.store.load_value(key, Comparison)
        assert found is not None
        if found.errors:  # not a result but a failure: tried again next time
            self.store.discard(key)
        else:
            self.checked.note(key)
        self.agreement[alias] = found.agreements
        self.disagreeing[alias] = disagreeing(*found)
        self.tell_of_runtime(alias)

    def tell_of_runtime(self, alias: str) -> None:
        """Say once for a model where ONNX Runtime is wrong; the layers are measured by the converted network then."""
        wrong = [item for item in self.agreement[alias] if item.off == "runtime" and item.holds]
        if not wrong:
            return
        count = len({item.layer for item in wrong})
        first = f"{shorten(wrong[0].layer)}: {wrong[0].verdict}"
        layers = first if count == 1 else f"{count} layers wrongly, first of all {first}"
        text = f"{alias}: on this processor ONNX Runtime computes {'wrongly ' if count == 1 else ''}{layers}"
        effect = next((item.effect for item in wrong if item.effect), "")
        self.dispatcher.note(text + (f"; {effect}" if effect else ""))

    def add_job(self, job: PlannedJob, after: list[Item]) -> Item:
        def task(item: Item) -> Task | None:
            if error := self.why_not(job):
                self.dispatcher.end(item, error)
                return None
            if job.key in self.made:
                self.dispatcher.end(item)
                return None
            return Task(job, item.halvings, distrusted(self.agreement.get(job.alias, ())))

        def ended(_: Item, outcome: Outcome) -> None:
            if job.key in self.made and not outcome.error:
                return
            identity = _identity(job)
            self.seconds[identity] = outcome.seconds
            if outcome.error:
                self.failed[identity] = outcome.error
                self.log.write(f"{self.title(job.alias, job.name)} failed\n{outcome.details}")
            else:
                self.made.add(job.key)
                self.checked.note(job.key)

        item = Item(self.title(job.alias, job.name), job.alias, job.cost, task, ended)
        self.add(item, after, job.key)
        return item

    def why_not(self, job: PlannedJob) -> str:
        """Return why a job cannot be done, or "": a layer that does not agree, or a job that failed before it."""
        if error := self.unchosen.get(job.alias):
            return _UNCHOSEN + error
        if error := why_not(job.job.layers, self.disagreeing.get(job.alias, {})):
            return error
        for name in job.job.needs:
            if f"{job.alias}:{job.analysis}/{name}" in self.failed:
                return f"the job {shorten(name)!r} failed, which it needs"
        return ""

    def add_combination(self, alias: str, name: str, after: list[Item]) -> None:
        def task(item: Item) -> Task | None:
            # Those that failed included; what is for other jobs only is not handed on.
            jobs = [job for job in self.jobs.get((alias, name), ()) if not job.job.intermediate]
            failed = [job.job.name for job in jobs if _identity(job) in self.failed]
            done = tuple(job.key for job in jobs if _identity(job) not in self.failed)
            if failed and not done:
                self.dispatcher.end(item)
                return None
            key = self.combined[alias, name] = self.combined_key(alias, name, done, failed)
            if name in self.forced and key not in self.made:
                self.store.discard(key)
            elif self.combined_is_there(key):
                self.dispatcher.end(item)
                return None
            return Task(Combination(key, alias, name, done))

        def ended(_: Item, outcome: Outcome) -> None:
            if outcome.error:  # as for jobs: the other analyses are still worth a report
                self.uncombined[alias, name] = outcome.error
                self.log.write(f"{name} failed\n{outcome.details}")
            elif key := self.combined.get((alias, name)):
                self.made.add(key)

        title = f"{name}: putting the results together"
        work = tuple(job.key for job in self.jobs.get((alias, name), ()))
        self.add(Item(title, alias, 0.0, task, ended, shown=False), after, work)

    def combined_key(self, alias: str, name: str, done: tuple[str, ...], failed: list[str]) -> str:
        analysis = self.recipe.analyses[name]
        card = next(card for card in self.schedule.models if card.alias == alias)
        return key_of(
            {
                "combined": list(done),
                # What is said of the preprocessing differs although what was computed does not.
                "origin": card.preprocessing_origin,
                "model": card.digest,
                "analysis": [analysis_kind(analysis), type(analysis).version, analysis.model_dump(mode="json")],
                "failed": failed,
                "versions": dict(self.schedule.versions),
            }
        )

    def drop_intermediate(self) -> None:
        """Remove what jobs found for other jobs only, once all of those are done: it can be gigabytes."""
        open_keys = {
            key for job in self.schedule.jobs if _identity(job) in self.failed for key in (job.key, *job.needs)
        }
        there = self.store.stored_keys()
        for job in self.schedule.jobs:
            if job.job.intermediate and job.key in there and job.key not in open_keys:
                self.store.discard(job.key)

    # --- what came out ----------------------------------------------------------------------------------------------

    def result(self, started_at: str, clock: float, command: str) -> RunResult:
        recipe, schedule = self.recipe, self.schedule
        analyses = tuple(self.analysis(name, analysis) for name, analysis in recipe.analyses.items())
        return RunResult(
            title=recipe.title,
            recipe=recipe.lock(self.folder),
            models=tuple(self.card(card) for card in schedule.models),
            data=schedule.data,
            analyses=analyses,
            expectations=tuple(decide(recipe.expect, analyses)),
            provenance=Provenance(
                seed=recipe.seed,
                device=describe_device(schedule.device),
                versions=dict(schedule.versions),
                started=started_at,
                seconds=round(time.monotonic() - clock, 3),
                jobs=len(schedule.jobs),
                cached=sum(job.key in self.cached for job in schedule.jobs),
                command=command,
                engine=self.pool.description,
                limits=self.pool.limits,
                defences=self.pool.defences,
                events=tuple(dict.fromkeys((*self.pool.events, *self.dispatcher.events))),
            ),
            not_comparable=schedule.not_comparable,
        )

    def card(self, card: ModelCard) -> ModelCard:
        chosen = self.chosen.get(card.alias)
        if chosen is not None:
            card = with_choice(card, chosen)
        elif card.alias in self.unchosen:
            card = without_choice(card)
        return replace(card, agreement=self.agreement.get(card.alias, ()))

    def analysis(self, name: str, analysis: Analysis) -> AnalysisResult:
        text = inspect.cleandoc(type(analysis).__doc__ or "")
        summary, _, description = text.partition("\n")
        kind = analysis_kind(analysis)
        return AnalysisResult(
            id=name,
            kind=kind,
            title=heading_of(analysis),
            summary=summary.strip(),
            description=description.strip(),
            cites=tuple(type(analysis).cites),
            settings=analysis.model_dump(mode="json"),
            parts=tuple(self.part(name, alias) for alias in self.schedule.aliases),
            reading=analysis.reading,
            side_by_side=analysis.side_by_side,
        )

    def part(self, name: str, alias: str) -> Part:
        jobs = self.jobs.get((alias, name), [])
        failed = [FailedJob(job.job.name, self.failed[_identity(job)]) for job in jobs if _identity(job) in self.failed]
        done = [job for job in jobs if _identity(job) in self.seconds]
        findings: list[Finding] = []
        metrics: dict[str, float] = {}
        if error := self.uncombined.get((alias, name)):
            failed.append(FailedJob("putting the results together", error))
        elif (alias, name) in self.combined:
            key = self.combined[alias, name]
            loaded = self.loaded.get(key) or self.store.load_combined(key)
            assert loaded is not None
            findings, metrics = loaded
            self.checked.note(key)
        return Part(
            model=alias,
            findings=tuple(findings),
            metrics=metrics,
            jobs=len(jobs),
            cached=sum(job.key in self.cached for job in jobs),
            failed=tuple(failed),
            seconds=round(sum((self.seconds[_identity(job)] for job in done), 0.0), 3),
            cost=sum(job.cost for job in done if _identity(job) not in self.failed),
        )


_PARITY = "agreement with ONNX Runtime"
_UNCHOSEN = "no preprocessing was chosen by trial: "


def _identity(job: PlannedJob) -> str:
    return f"{job.alias}:{job.name}"
