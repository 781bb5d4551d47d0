"""The node tests of the onnx package: each a small graph with inputs and the outputs that the standard prescribes."""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
import onnx
import torch

import onnxviz

Result = Literal["pass", "wrong", "refused", "crash"]


@dataclass(frozen=True)
class Outcome:
    """What became of one test.

    Attributes:
        name: the test's name.
        operators: the operators of its graph.
        result: what happened.
        reason: why, unless it passed.
    """

    name: str
    operators: tuple[str, ...]
    result: Result
    reason: str = ""


def node_tests(pattern: str = "") -> Iterator[Any]:
    """Yield the node tests whose names match a regular expression."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    return (test for test in tests if re.search(pattern, test.name))


def run(test: Any) -> Outcome:
    """Convert one test's graph and compare its values and shapes with what the standard prescribes."""
    operators = tuple(sorted({node.op_type for node in test.model.graph.node}))
    try:
        network = onnxviz.to_torch(test.model)
    except onnxviz.OnnxvizError as refusal:
        return Outcome(test.name, operators, "refused", str(refusal).replace("\n", " ")[:800])
    except Exception as fault:
        return Outcome(test.name, operators, "crash", f"to_torch: {type(fault).__name__}: {fault}"[:800])
    for inputs, expected in test.data_sets:
        try:
            with torch.no_grad():
                given = network(*(as_tensor(value) for value in inputs))
        except onnxviz.OnnxvizError as refusal:
            return Outcome(test.name, operators, "refused", str(refusal).replace("\n", " ")[:800])
        except Exception as fault:
            return Outcome(test.name, operators, "crash", f"{type(fault).__name__}: {fault}"[:800])
        for index, (ours, wanted) in enumerate(zip(given, expected, strict=True)):
            difference = compare(ours, wanted, test.rtol, test.atol)
            if difference:
                return Outcome(test.name, operators, "wrong", f"output {index}: {difference}")
    return Outcome(test.name, operators, "pass")


def as_array(value: Any) -> np.ndarray:
    """Turn a test's value into an array; the tests of casts hold theirs as they lie in a file."""
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def as_tensor(value: Any) -> torch.Tensor:
    """Turn a test's input into a tensor; types that torch does not have become float32 or a wider integer."""
    array = as_array(value)
    if array.dtype.isbuiltin != 1:  # of ml_dtypes
        array = array.astype(np.int64 if "int" in array.dtype.name else np.float32)
    return torch.from_numpy(np.array(array))


HALF = {"float16": 2.0**-9, "bfloat16": 2.0**-6}
"""Two units in the last place of results that were rounded to half precision, as the onnx package's runner allows."""
NOISE = 1e-6
"""What float32 leaves of a zero, relative to the largest value: sums in another order do not cancel exactly."""


def compare(ours: Any, wanted: Any, relative: float, absolute: float) -> str:
    """Return what differs, "" if nothing does."""
    if not isinstance(ours, torch.Tensor):
        return f"no tensor but {type(ours).__name__}"
    wanted = as_array(wanted)
    if tuple(ours.shape) != wanted.shape:
        return f"shape {tuple(ours.shape)} instead of {wanted.shape}"
    if wanted.dtype.kind == "O":
        return "strings"
    if wanted.dtype == ml_dtypes.bfloat16:
        relative = max(relative, 2.0**-8)  # carried as float32, it differs by up to the rounding it never had
    complex_values = wanted.dtype.kind == "c" or ours.is_complex()
    kind = np.complex128 if complex_values else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        found = ours.detach().cpu().numpy().astype(kind)
        should = (wanted.view(np.int64) if wanted.dtype == np.uint64 and wanted.ndim else wanted).astype(kind)
        relative = max(relative, HALF.get(wanted.dtype.name, 0.0))
        finite = np.abs(should[np.isfinite(should)])
        absolute = max(absolute, NOISE * float(finite.max(initial=0.0)) if wanted.dtype.kind not in "biu" else 0.0)
        close = np.isclose(found, should, rtol=relative, atol=absolute, equal_nan=True)
    if close.all():
        return ""
    worst = int(np.argmax(~close))
    return f"{found.flat[worst]} instead of {should.flat[worst]} ({int((~close).sum())} of {close.size})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="", help="regular expression over the tests' names")
    parser.add_argument("--show", default="wrong,crash", help="results to list, with reasons; 'all' for all but passes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    outcomes = [run(test) for test in node_tests(arguments.pattern)]
    shown = ("wrong", "crash", "refused") if arguments.show == "all" else arguments.show.split(",")
    for outcome in outcomes:
        if outcome.result in shown:
            print(f"{outcome.result:8} {outcome.name}: {outcome.reason}")
    refused: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        if outcome.result == "refused":
            refused[outcome.reason.split(":")[0][:60]] += 1
    counts = Counter(outcome.result for outcome in outcomes)
    print(
        ", ".join(f"{counts[result]} {result}" for result in ("pass", "wrong", "crash", "refused")), "of", len(outcomes)
    )


if __name__ == "__main__":
    main()
