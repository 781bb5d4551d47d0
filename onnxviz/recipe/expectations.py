"""Whether the metrics of a run are as the recipe expects."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxviz.core.errors import nearest
from onnxviz.core.results import AnalysisResult, ExpectationResult, Part
from onnxviz.recipe.schema import ExpectationSettings, metric_parts

_RELATIVE_TOLERANCE = 1e-9
"""`equals` compares numbers that were written in decimal."""


def decide(expectations: Sequence[ExpectationSettings], analyses: Sequence[AnalysisResult]) -> list[ExpectationResult]:
    """Return every expectation with its metric's value and whether it holds.

    An expectation without an alias is decided for each model. A metric that was not produced, or is NaN, does not hold.
    """
    decided: list[ExpectationResult] = []
    for item in expectations:
        named = metric_parts(item.metric)
        assert named is not None, "the recipe was checked"
        alias, name, metric = named
        parts = [part for analysis in analyses if analysis.id == name for part in analysis.parts]
        decided += [_decide(item, part, metric) for part in parts if alias in (None, part.model)]
    return decided


def describe(item: ExpectationSettings) -> str:
    """Return the condition in signs, for example "≥ 0.5 and ≤ 1"."""
    signs = (("≥", item.min), ("≤", item.max), ("=", item.equals))
    return " and ".join(f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


def holds(item: ExpectationSettings, value: float | None) -> bool:
    """Whether a value is as expected; None and NaN never are."""
    if value is None or math.isnan(value):
        return False
    if item.min is not None and not value >= item.min:
        return False
    if item.max is not None and not value <= item.max:
        return False
    return item.equals is None or math.isclose(value, item.equals, rel_tol=_RELATIVE_TOLERANCE, abs_tol=0.0)


def _decide(item: ExpectationSettings, part: Part, metric: str) -> ExpectationResult:
    value = part.metrics.get(metric)
    condition = describe(item)
    if value is None:
        hint = nearest(metric, part.metrics) or ("some of its jobs failed" if part.failed else "")
        condition += f" (no such metric was produced{'; ' + hint if hint else ''})"
    return ExpectationResult(
        metric=item.metric,
        condition=condition,
        level=item.level,
        because=item.because,
        value=value,
        holds=holds(item, value),
        model=part.model,
    )
