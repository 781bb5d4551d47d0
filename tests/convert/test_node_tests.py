"""The node tests of the onnx package: none is wrong, none crashes, and docs/operators.md tells which are refused."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from benchmarks.backend_tests import node_tests, run
from benchmarks.operator_table import PAGE, differs

PARTS = 32
WANTED = 1650


@functools.cache
def all_tests() -> list[Any]:
    return list(node_tests())


@functools.cache
def refused() -> frozenset[str]:
    section = PAGE.read_text(encoding="utf-8").partition("## Node tests that do not pass")[2]
    return frozenset(f"test_{name}" for name in re.findall(r"`(\w+)`", section))


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.filterwarnings("ignore")
def test_node_tests(part: int) -> None:
    """Every result is the documented one: a refusal names its operator, everything else is right."""
    for test in all_tests()[part::PARTS]:
        outcome = run(test)
        assert outcome.result == ("refused" if test.name in refused() else "pass"), (test.name, outcome.reason)
        if outcome.result == "refused":
            assert any(operator in outcome.reason for operator in outcome.operators), (test.name, outcome.reason)


def test_most_pass() -> None:
    assert len(all_tests()) - len(refused()) >= WANTED


def test_the_page_lists_what_the_code_knows() -> None:
    assert not differs(PAGE.read_text(encoding="utf-8")), "run python -m benchmarks.operator_table"
