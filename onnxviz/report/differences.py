"""Whether the numbers of two models differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from onnxviz.core.findings import Metric, Outcomes
from onnxviz.core.results import Part, RunResult
from onnxviz.core.shares import LEVEL, difference, mcnemar, wilson

Verdict = Literal["better", "worse", "differs", "none", "unknown"]


@dataclass(frozen=True)
class Difference:
    """How the second model's number differs from the first's.

    Attributes:
        analysis: the analysis' id.
        metric: the metric's id or name.
        verdict: "better", "worse" or "differs" if chance hardly explains it, "none" if it may, "unknown" if nothing
            tells, because the numbers have no intervals or the models had different tasks.
        reason: what that rests on, in words.
        interval: where the true difference lies with a confidence of 95 %, or empty.
    """

    analysis: str
    metric: str
    verdict: Verdict
    reason: str = ""
    interval: tuple[float, float] | tuple[()] = ()


def count_of(metric: Metric) -> int | None:
    """Return how many of `total` a metric counts, if it is the share of so many with its score interval."""
    if metric.format != "percent" or not metric.total or len(metric.interval) != 2 or not math.isfinite(metric.value):
        return None
    count = round(metric.value * metric.total)
    if not 0 <= count <= metric.total or abs(count - metric.value * metric.total) > 1e-6:
        return None
    expected = wilson(count, metric.total)
    return count if all(abs(a - b) < 1e-9 for a, b in zip(expected, metric.interval, strict=True)) else None


def differences(result: RunResult) -> Iterator[Difference]:
    """Yield the difference of each number that both of two models have."""
    if len(result.models) != 2:
        return
    for analysis in result.analyses:
        first, second = (
            next((part for part in analysis.parts if part.model == model.alias), None) for model in result.models
        )
        if first is None or second is None:
            continue
        metrics = _metrics(first), _metrics(second)
        outcomes = _outcomes(first), _outcomes(second)
        for name in (name for name in metrics[0] if name in metrics[1]):
            pair = metrics[0][name], metrics[1][name]
            if result.not_comparable:
                yield Difference(analysis.id, name, "unknown", "the models were not given the same task")
            else:
                yield _judged(analysis.id, name, pair, tuple(found.get(pair[0].name) for found in outcomes))


def _judged(analysis: str, name: str, pair: tuple[Metric, Metric], outcomes: tuple[Outcomes | None, ...]) -> Difference:
    first, second = pair
    interval: tuple[float, float] | tuple[()] = ()
    if len(first.interval) == 2 and len(second.interval) == 2:
        interval = difference(first.value, first.interval, second.value, second.interval)
    paired = _paired(*outcomes) if all(outcomes) else None
    if paired is not None:
        only_first, only_second, total = paired
        chance = mcnemar(only_first, only_second)
        reason = (
            f"of {total} images {only_first} only with the first model and {only_second} only with the second, "
            f"p = {chance:.2g} (McNemar's exact test)"
        )
        return Difference(analysis, name, _verdict(pair, chance < 1 - LEVEL), reason, interval)
    if len(interval) == 2:
        apart = not interval[0] <= 0 <= interval[1]
        basis = f"from {first.total} and {second.total}" if first.total and second.total else "from the intervals"
        return Difference(analysis, name, _verdict(pair, apart), basis, interval)
    return Difference(analysis, name, "unknown")


def _verdict(pair: tuple[Metric, Metric], apart: bool) -> Verdict:
    first, second = pair
    if not apart:
        return "none"
    if first.better == "neither":
        return "differs"
    return "better" if (second.value > first.value) == (first.better == "higher") else "worse"


def _paired(first: Outcomes | None, second: Outcomes | None) -> tuple[int, int, int] | None:
    """Return how many images have it with the first alone, with the second alone, and how many there are."""
    if first is None or second is None:
        return None
    ours, theirs = (dict(zip(found.images, found.holds, strict=True)) for found in (first, second))
    if ours.keys() != theirs.keys() or len(ours) != len(first.images) or len(theirs) != len(second.images):
        return None
    only_first = sum(ours[image] and not theirs[image] for image in ours)
    only_second = sum(theirs[image] and not ours[image] for image in ours)
    return only_first, only_second, len(ours)


def _metrics(part: Part) -> Mapping[str, Metric]:
    return {finding.id or finding.name: finding for finding in part.findings if isinstance(finding, Metric)}


def _outcomes(part: Part) -> Mapping[str, Outcomes]:
    return {finding.id: finding for finding in part.findings if isinstance(finding, Outcomes)}
