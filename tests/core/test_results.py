"""A run survives its file, and its verdict follows from failures and expectations."""

from __future__ import annotations

import dataclasses
import io
import json
import math

import pytest
from rich.console import Console

from onnxviz.cli.show import failed_jobs
from onnxviz.core import results
from onnxviz.core.findings import Note, Picture, Tile, TileGrid
from onnxviz.core.values import Agreement, Unit

LAYER = results.LayerRow("conv1", "Conv", (None, 8, 32, 32), 224, 221_184, (3, 3), 8)
CARD = results.ModelCard(
    "a", "m.onnx", "0" * 64, 12, "pytorch 2.1", "ai.onnx 17", ("input",), ("logits",), "caffe", True, "crop", (LAYER,),
    224, None,
    (Agreement("conv1", 1e-6, 1e-5, 1e-3),), ("removed 1 Dropout",),
)  # fmt: skip
GRID = TileGrid("g", "G", (Tile("t", Unit("conv1", 2), (Picture(path="x.png", width=1, height=1),), (("n", 1.5),)),))
PART = results.Part("a", (Note("seen"), GRID), {"m": 1.0, "undefined": math.nan}, 1)
ANALYSIS = results.AnalysisResult("filters", "weights", "W", "s", "d", ("x",), {"layers": ["conv1"]}, (PART,))
RUN = results.RunResult(
    "title", "version: 1\n", (CARD,),
    (results.DataCard("photos", "images", "3 photos", "d", 3, (("x.jpg", "empty"),), (("y.gif", "first picture"),)),),
    (ANALYSIS,), (), results.Provenance(0, "cpu", {"torch": "2"}, "2026-01-01T00:00:00Z", 1.5, 1, 0),
)  # fmt: skip


def test_round_trip() -> None:
    data = json.loads(json.dumps(results.write(RUN), allow_nan=False))
    back = results.read(data)
    assert results.write(back) == results.write(RUN)
    assert back.models == RUN.models
    assert math.isnan(back.analyses[0].parts[0].metrics["undefined"])
    assert back.analyses[0].parts[0].findings[0] == Note("seen")


@pytest.mark.parametrize("data", [None, [], {}, {"format": 99}, {"format": 1}, {"format": 1, "title": "x", "evil": 2}])
def test_damaged_runs_are_refused(data: object) -> None:
    with pytest.raises(ValueError, match="run"):
        results.read(data)


def expectation(level: str, holds: bool) -> results.ExpectationResult:
    return results.ExpectationResult("a.m", "max 1", level, "", 0.0, holds)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expectations", "verdict"),
    [
        ([], "finished"),
        ([("off", True), ("off", False)], "finished"),
        ([("error", True)], "passed"),
        ([("error", False)], "failed"),
        ([("warn", False)], "passed"),
        ([("off", False), ("warn", True)], "passed"),
    ],
)
def test_verdict_follows_expectations(expectations: list[tuple[str, bool]], verdict: str) -> None:
    run = dataclasses.replace(RUN, expectations=tuple(expectation(*item) for item in expectations))
    assert run.verdict == verdict


def test_failed_jobs_make_a_run_incomplete_whatever_is_expected() -> None:
    part = dataclasses.replace(PART, failed=(results.FailedJob("j", "broke"),))
    run = dataclasses.replace(RUN, analyses=(dataclasses.replace(ANALYSIS, parts=(part,)),))
    assert run.verdict == "incomplete"


def test_agreement_that_is_not_a_number_does_not_hold() -> None:
    assert not Agreement("x", math.nan, 0.0, 1e-3).holds


def test_an_error_of_many_jobs_is_shown_once() -> None:
    stream = io.StringIO()
    failed = tuple(results.FailedJob(f"job {n}", "broken" if n == 1 else "too large") for n in range(5))
    part = dataclasses.replace(PART, failed=failed)
    run = dataclasses.replace(RUN, analyses=(dataclasses.replace(ANALYSIS, parts=(part,)),))
    failed_jobs(Console(file=stream, width=200), run)
    assert stream.getvalue().splitlines() == [
        "failed filters/job 0 and 3 more: too large",
        "failed filters/job 1: broken",
    ]
