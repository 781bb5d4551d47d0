"""An analysis of another package, as entry points register it, whose jobs go wrong on purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from onnxviz.analysis import (
    Analysis,
    AnalysisError,
    Array,
    Column,
    Finding,
    Job,
    JobContext,
    Metric,
    Picture,
    Subject,
    Table,
    Tile,
    TileGrid,
)

Trouble = Literal[
    "none", "error", "mistake", "killed", "crash", "memory", "grow", "abort", "hang", "leave", "network", "write",
    "program", "huge_file", "flood", "secret", "lie",
]  # fmt: skip


class Trial(Analysis):
    """Draws numbers from its seed; one of its jobs goes wrong."""

    kind: Literal["trial"] = "trial"
    reading: ClassVar[str] = "Each picture is what the seed `drew`."
    side_by_side: ClassVar[bool] = True
    metric_names: ClassVar[Mapping[str, str]] = {"value_*": "What the job of this number has drawn."}
    count: int = Field(4, description="Number of jobs.")
    seconds: float = Field(0.0, description="What each takes.")
    size: int = Field(0, description="Side of the picture that each makes; none if 0.")
    trouble: Trouble = Field("none", description="What goes wrong.")
    at: int = Field(1, description="In which job.")
    times: int = Field(99, description="How often it goes wrong before it goes well.")
    chain: bool = Field(False, description="Whether each job needs the one before it.")

    def jobs(self, subject: Subject) -> Iterable[Job]:
        for number in range(self.count):
            needs = (f"{number - 1}",) if self.chain and number else ()
            yield Job(f"{number}", {"number": number}, images=int(self.size > 0), needs=needs)

    def run(self, job: Job, context: JobContext) -> list[Finding]:
        number = int(job.parameters["number"])
        if number == self.at and self.trouble != "none" and self._still():
            _go_wrong(self.trouble)
        held = os.environ.get("ONNXVIZ_TRIAL_HELD")
        while held is not None and number >= int(held):
            time.sleep(0.02)
            context.progress(0, 1)
        end = time.monotonic() + self.seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.02))
            context.progress(int(1000 * (self.seconds - left)), int(1000 * self.seconds))
        rng = np.random.default_rng((context.subject.seed, number))
        value = float(rng.random()) + sum(_value(found) for found in context.found.values())
        found: list[Finding] = [
            Metric(f"value_{number}", value),
            Table("values", "Values", (Column("job", "integer"), Column("value", "number")), ((number, value),)),
        ]
        if self.size:
            picture = Picture(rng.integers(0, 256, (self.size, self.size, 3), dtype=np.uint8))
            found += [
                TileGrid("grid", "Grid", (Tile(str(number), pictures=(picture,)),)),
                Array(f"numbers-{number}", "Numbers", {"values": rng.random(64)}),
            ]
        return found

    def _still(self) -> bool:
        """Whether it shall go wrong this time: what happened before is noted in the run's own temporary folder."""
        note = Path(tempfile.gettempdir()) / f"trouble-{self.trouble}-{self.at}"
        happened = len(note.read_text()) if note.exists() else 0
        note.write_text("x" * (happened + 1))
        return happened < self.times


def _value(found: list[Finding]) -> float:
    return next(item.value for item in found if isinstance(item, Metric))


def _go_wrong(trouble: Trouble) -> None:
    if trouble == "error":
        raise AnalysisError("nothing to see", remedy="look elsewhere")
    if trouble == "mistake":
        raise ZeroDivisionError("by zero")
    if trouble in ("killed", "crash", "abort"):
        os.kill(os.getpid(), {"killed": signal.SIGKILL, "crash": signal.SIGSEGV, "abort": signal.SIGABRT}[trouble])
    if trouble == "memory":
        np.ones(1 << 44, np.uint8)
    if trouble == "grow":
        parts = []
        while True:
            parts.append(np.ones(16 << 20, np.uint8))
    if trouble == "hang":
        time.sleep(3600)
    if trouble == "leave":
        os._exit(3)
    if trouble == "network":
        socket.create_connection(("127.0.0.1", 9), timeout=2)
    if trouble == "write":
        Path(os.environ["ONNXVIZ_TRIAL_FILE"]).write_text("x")
    if trouble == "program":
        os.execv("/bin/true", ["true"])
    if trouble == "huge_file":
        with (Path(tempfile.gettempdir()) / "huge").open("wb") as stream:
            for _ in range(1 << 20):
                stream.write(bytes(1 << 20))
    if trouble == "flood":
        for _ in range(200_000):
            print("x" * 200)
    if trouble == "lie":
        for descriptor in range(3, 40):  # one of them is the pipe to the parent
            with contextlib.suppress(OSError):
                os.write(descriptor, b'{"finished": {"kind": "fine"}}\n')
    if trouble == "secret" and "ONNXVIZ_TRIAL_TOKEN" not in os.environ and "SECRET_TOKEN" in os.environ:
        raise AnalysisError(f"the secret is {os.environ['SECRET_TOKEN']}")
