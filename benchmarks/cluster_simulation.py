"""1,000 models x 5,000 units on 64 GPUs, simulated: where the time goes, and what breaks first.

A discrete-event simulation: workers are generators that say when they go on; what they share (the parent's loop, the
file system's metadata) serves one at a time, first come, first served. What things cost was measured by
`benchmarks.cluster_costs`, and `--costs` reads its file; `--validate` sets the simulation against real runs.

The speed of the GPU is not measured but assumed: `--unit-seconds` is what one picture of one unit takes on it.

    python -m benchmarks.cluster_simulation
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import statistics
import time
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measure import machine, markdown

Steps = Generator[float, float, None]
"""Yields the time at which it goes on; is sent the time that it is then."""
CHANGES = 4
"""Operations that change a folder, for each result: make a folder, make two files, rename the folder."""
LINE_BYTES = 256 << 20
"""Longest message of a worker: `onnxviz.execution.workers.processes`."""
RECIPE_MODELS = 100
"""Most models of a recipe: `onnxviz.core.limits`."""


@dataclass(frozen=True)
class Costs:
    """Seconds, unless the name says something else; measured by `benchmarks.cluster_costs` on a CPU machine.

    Attributes:
        start: a worker process until it can do something, with PyTorch.
        plan: planning a model, beside the next.
        plan_mb: the same for each MB of its file.
        plan_job: the same for each job.
        plan_memory_mb: memory that the planner keeps of each MB of a model's file.
        prove: converting a model and comparing all its layers with ONNX Runtime, beside the next.
        prove_mb: the same for each MB.
        encode: putting a job into the schedule.
        decode: taking it out, in the parent.
        job_bytes: size of a job in the schedule, without its units.
        unit_bytes: what each of its units adds.
        job_memory: bytes that the parent keeps for a job, without its units.
        unit_memory: what each of its units adds.
        dispatch: the parent's work for each job.
        job: what each job takes in a worker beyond its work: message, storing, answer.
        combine: reading back a result and putting it into one, for each unit.
        report: run.json and the page, for each unit.
        run_bytes: size of a unit in run.json.
        page_bytes: size of a unit in the page.
        report_memory: bytes of memory for each unit, while the report is written.
        result_bytes: size of a result with one picture.
        metadata: operations that change a folder, which the file system does each second.
    """

    start: float = 5.0
    plan: float = 0.1
    plan_mb: float = 0.004
    plan_job: float = 5e-5
    plan_memory_mb: float = 2.0
    check_parity: float = 1.5
    prove_mb: float = 0.05
    encode: float = 1.5e-5
    decode: float = 5e-5
    job_bytes: float = 255.0
    unit_bytes: float = 56.0
    job_memory: float = 1570.0
    unit_memory: float = 190.0
    dispatch: float = 1.6e-4
    job: float = 1.8e-3
    combine: float = 2.2e-4
    report: float = 4.1e-4
    run_bytes: float = 2350.0
    page_bytes: float = 1250.0
    report_memory: float = 15_000.0
    result_bytes: float = 17_000.0
    metadata: float = 5000.0


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        models: how many.
        units: of each model.
        together: units that are one job.
        unit_seconds: computing for each, on one GPU.
        model_mb: size of a model's file.
        gpus: how many.
    """

    models: int = 1000
    units: int = 5000
    together: int = 1
    unit_seconds: float = 0.35
    model_mb: float = 100.0
    gpus: int = 64

    @property
    def jobs(self) -> int:
        """Number of jobs of a model."""
        return -(-self.units // self.together)


@dataclass
class Server:
    """Something that serves one at a time, first come, first served."""

    free: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when somebody who asks now has been served."""
        self.free = max(now, self.free) + seconds
        self.busy += seconds
        return self.free


def play(processes: Iterable[Steps]) -> float:
    """Let processes run, always the one whose time is next; returns when the last has ended."""
    order = itertools.count()
    events = [(0.0, next(order), process) for process in processes]
    now = 0.0
    for _, _, process in events:
        next(process)
    heapq.heapify(events)
    while events:
        now, _, process = heapq.heappop(events)
        try:
            heapq.heappush(events, (process.send(now), next(order), process))
        except StopIteration:
            continue
    return now


@dataclass
class Account:
    """Seconds of all GPUs together, by what they were spent on; waiting is what is left."""

    spent: dict[str, float] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> float:
        """Note seconds, and return them."""
        self.spent[what] = self.spent.get(what, 0.0) + seconds
        return seconds


@dataclass(frozen=True)
class Played:
    """What a simulation gave.

    Attributes:
        seconds: from the beginning to the end.
        serial: of these, with one process at work and all GPUs waiting: before the first and after the last job.
        account: where the GPUs' time went.
        parent: share of the time with jobs during which the parent's loop was busy.
        metadata: the same for the file system.
    """

    seconds: float
    serial: dict[str, float]
    account: dict[str, float]
    parent: float
    metadata: float


def one_run(work: Work, costs: Costs) -> Played:
    """All models in one recipe, one parent: plan one model after the other, share the jobs, write one report."""
    parent, disk, account = Server(), Server(), Account()
    fresh, begun = deque(range(work.models)), dict[int, int]()
    check_parity = costs.check_parity + costs.prove_mb * work.model_mb

    def take(last: int | None) -> int | None:
        """Return a model with work: the own, then one that nobody is at, then any."""
        if last is not None and begun.get(last):
            return last
        if fresh:
            return fresh.popleft()
        return next((model for model, left in begun.items() if left), None)

    def worker() -> Steps:
        now = yield 0.0
        now = yield now + account.add("starting workers", costs.start)
        last: int | None = None
        while (model := take(last)) is not None:
            if model not in begun:
                now = yield parent.serve(now, costs.dispatch)
                now = yield now + account.add("converting and comparing models", check_parity)
                begun[model] = work.jobs
            elif model != last:
                now = yield now + account.add("converting and comparing models", check_parity / 2)
            last = model
            if not begun[model]:
                continue
            begun[model] -= 1
            now = yield parent.serve(now, costs.dispatch)
            now = yield now + account.add("computing", work.unit_seconds * work.together)
            now = yield now + account.add("overhead of jobs", costs.job)
            now = yield disk.serve(now, CHANGES / costs.metadata)

    during = play(worker() for _ in range(work.gpus))
    units = work.models * work.units
    serial = {
        "planning": work.models * (costs.plan + costs.plan_mb * work.model_mb + costs.plan_job * work.jobs),
        "schedule": work.models * work.jobs * (costs.encode + costs.decode),
        "putting together": units * costs.combine,
        "report": units * costs.report,
    }
    return Played(during + sum(serial.values()), serial, account.spent, parent.busy / during, disk.busy / during)


def run_each(work: Work, costs: Costs) -> Played:
    """One run for each model, each with a GPU and a parent of its own, as an array of jobs does it."""
    disk, account = Server(), Account()
    left = deque(range(work.models))

    def task() -> Steps:
        now = yield 0.0
        while left:
            left.popleft()
            now = yield now + account.add("starting workers", costs.start)
            each = costs.plan_job + costs.encode + costs.decode
            plan = costs.plan + costs.plan_mb * work.model_mb + work.jobs * each
            now = yield now + account.add("planning", plan)
            check_parity = costs.check_parity + costs.prove_mb * work.model_mb
            now = yield now + account.add("converting and comparing models", check_parity)
            for _ in range(work.jobs):
                now = yield now + account.add("computing", work.unit_seconds * work.together)
                now = yield now + account.add("overhead of jobs", max(costs.job, costs.dispatch))
                now = yield disk.serve(now, CHANGES / costs.metadata)
            now = yield now + account.add("putting together", work.units * costs.combine)
            now = yield now + account.add("report", work.units * costs.report)

    during = play(task() for _ in range(work.gpus))
    return Played(during, {}, account.spent, 0.0, disk.busy / during)


# --- what is too large, by arithmetic ---------------------------------------------------------------------------------


def sizes(work: Work, costs: Costs) -> list[list[str]]:
    """Return what one run of everything would make, and one run for each model."""
    rows = []
    for what, each, limit in (
        ("models in a recipe", lambda models: models, f"{RECIPE_MODELS} at most"),
        (
            "planner's memory, GB",
            lambda models: models * work.model_mb * costs.plan_memory_mb / 1e3,
            "80 % of a machine",
        ),
        ("jobs", lambda models: models * work.jobs, ""),
        (
            "schedule, one line of JSON, MB",
            lambda models: models * (work.jobs * costs.job_bytes + work.units * costs.unit_bytes) / 1e6,
            f"{LINE_BYTES >> 20} MiB",
        ),
        (
            "parent's memory for jobs, GB",
            lambda models: models * (work.jobs * costs.job_memory + work.units * costs.unit_memory) / 1e9,
            "",
        ),
        ("files and folders, millions", lambda models: 3 * models * work.jobs / 1e6, "quota of the file system"),
        ("results, GB", lambda models: models * work.units * costs.result_bytes / 1e9, ""),
        ("run.json, MB", lambda models: models * work.units * costs.run_bytes / 1e6, ""),
        ("report page, MB", lambda models: models * work.units * costs.page_bytes / 1e6, "what a browser opens"),
        ("parent's memory for the report, GB", lambda models: models * work.units * costs.report_memory / 1e9, ""),
    ):
        rows.append([what, f"{each(work.models):,.4g}", f"{each(1):,.4g}", limit])
    return rows


def show(work: Work, costs: Costs, unit_seconds: Iterable[float], together: Iterable[int]) -> None:
    print(f"{work.models:,} models of {work.model_mb:g} MB, {work.units:,} units each, {work.gpus} GPUs; ", end="")
    print(f"{costs.metadata:,.0f} metadata operations a second\n")
    rows = []
    for count in together:
        for seconds in unit_seconds:
            asked = replace(work, unit_seconds=seconds, together=count)
            ideal = asked.models * asked.units * seconds / asked.gpus
            for name, layout in (("one run", one_run), ("one for each model", run_each)):
                clock = time.monotonic()
                played = layout(asked, costs)
                total = played.seconds * asked.gpus
                shares = {what: spent / total for what, spent in played.account.items()}
                serial = sum(played.serial.values()) / played.seconds
                compute = shares.pop("computing")
                rest = 1 - compute - sum(shares.values()) - serial
                most = ", ".join(
                    f"{what} {100 * share:.1f} %" for what, share in sorted(shares.items(), key=lambda i: -i[1])[:4]
                )
                rows.append(
                    [
                        count, f"{seconds:g}", name, f"{ideal / 3600:.1f}", f"{played.seconds / 3600:.1f}",
                        f"{100 * compute:.1f} %", most, f"{100 * serial:.1f} %", f"{100 * rest:.1f} %",
                        f"{100 * played.parent:.1f} %", f"{100 * played.metadata:.1f} %",
                        f"{time.monotonic() - clock:.0f}",
                    ]
                )  # fmt: skip
    head = [
        "units a job", "s a unit", "layout", "computing alone, h", "all, h", "GPUs compute", "GPUs do otherwise",
        "GPUs wait for planning and report", "GPUs wait for each other, the parent, the disk", "parent busy",
        "metadata busy", "s to simulate",
    ]  # fmt: skip
    print(markdown(head, rows), "\n")
    for count in together:
        asked = replace(work, together=count)
        print(f"With {count} unit(s) a job:\n")
        print(markdown(["", "one run of everything", "one run for each model", "limit"], sizes(asked, costs)), "\n")


# --- against real runs ------------------------------------------------------------------------------------------------


def small_run(jobs: int, workers: int, dispatch: float, job: float, lag: float) -> float:
    """Simulate the part of a run between its first and its last job.

    Args:
        jobs: how many.
        workers: how many; the first has planned the run, the others begin by loading what it has loaded already.
        dispatch: the parent's work for each job.
        job: what a job takes in a worker.
        lag: how much later the others are ready; each has got its first job by then.
    """
    parent = Server()
    left = [jobs]

    def worker(number: int) -> Steps:
        now = yield 0.0
        late = lag if number else 0.0
        while left[0]:
            left[0] -= 1
            now = yield parent.serve(now, dispatch)
            now = yield now + job + late
            late = 0.0

    return play(worker(number) for number in range(workers))


def validate(counts: Iterable[int], workers: Iterable[int], seconds: Iterable[float]) -> None:
    """Set simulated runs against real ones of the same machine; constants come from other runs, before and after."""
    from benchmarks.cluster_costs import trial_run

    rows = []
    lag = statistics.median(trial_run(2, 2, 0.0)["job_wall_s"] for _ in range(3))
    for each in seconds:
        cases = list(itertools.product(counts, workers))
        bases, measured = [trial_run(300, 1, each)], []
        for count, size in cases:
            measured.append(trial_run(count, size, each)["job_wall_s"] * (count - 1))
            bases.append(trial_run(300, 1, each))
        dispatch = statistics.median(base["parent_s"] for base in bases)
        # A worker has the next job before it has ended one, so that the parent's work is not added to its own.
        times = sorted(base["job_wall_s"] - dispatch for base in bases)
        for (count, size), real in zip(cases, measured, strict=True):
            expected = small_run(count, size, dispatch, statistics.median(times), lag)
            bounds = [small_run(count, size, dispatch, time, lag) for time in (times[0], times[-1])]
            off = f"{100 * (expected / real - 1):+.0f} %"
            between = f"{bounds[0]:.2f} to {bounds[1]:.2f}"
            rows.append([f"{1000 * each:g}", count, size, f"{real:.2f}", f"{expected:.2f}", between, off])
    head = [
        "a job sleeps, ms",
        "jobs",
        "workers",
        "measured, s",
        "simulated, s",
        "with other constants, s",
        "deviation",
    ]
    print(f"{machine()}; load of the machine: {os.getloadavg()[0]:.1f}; second worker later by {lag:.2f} s\n")
    print(markdown(head, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--units", type=int, default=5000)
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--model-mb", type=float, default=100.0, help="size of a model's file")
    parser.add_argument("--unit-seconds", type=float, nargs="*", default=[0.05, 0.35, 2.0])
    parser.add_argument("--together", type=int, nargs="*", default=[1, 16], help="units that are one job")
    parser.add_argument("--costs", type=Path, help="JSON with values of `Costs` that differ from those written here")
    parser.add_argument("--validate", action="store_true", help="against real runs of 100 and 1,000 jobs")
    given = parser.parse_args()
    if given.validate:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        validate((100, 1000), (1, 2), (0.0, 0.02))
        return
    costs = Costs(**json.loads(given.costs.read_text())) if given.costs else Costs()
    work = Work(models=given.models, units=given.units, gpus=given.gpus, model_mb=given.model_mb)
    show(work, costs, given.unit_seconds, given.together)


if __name__ == "__main__":
    main()
