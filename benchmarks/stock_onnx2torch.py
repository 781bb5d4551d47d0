"""The package onnx2torch as it is installed, measured by the same comparisons as this project's own importer.

    python -m benchmarks.stock_onnx2torch [node] [pairs] [zoo] [faults]

`node`: the node tests of the onnx package. `pairs`: the same for each operator and version of which it has a converter,
and whether it could stand in for one of ours: right in all, with two batches in one too, nothing read on the host.
`zoo`: the real models against ONNX Runtime on normal noise, one image. `faults`: the small models of
docs/onnx2torch.md. Without a name all. "Refused" is a NotImplementedError, when it
converts or when it runs; "crash" any other exception; "wrong" another value, shape, element type or number of outputs.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx.reference
import torch
from onnx import ModelProto
from torch import nn

from benchmarks import backend_tests
from benchmarks.backend_tests import Outcome, Result, as_tensor, compare
from benchmarks.measure import arguments, markdown, prepare
from benchmarks.stock_faults import FAULTS, Fault
from onnxviz.graph.passes.lift_opset import _MEANING_CHANGED

TOLERANCE = 1e-3
FREE = 64
"""What a free dimension other than the first is set to."""
GIVEN: Mapping[str, Mapping[str, Any]] = {
    "silero_vad.onnx": {
        "input": np.sin(np.arange(512) / 5)[None], "state": np.zeros((2, 1, 128)), "sr": np.int64(16000),
    },
}  # fmt: skip
"""Inputs of real models whose declaration does not say how much they need."""
_COUNTED: tuple[Result, ...] = ("pass", "wrong", "crash", "refused")


def stock() -> Callable[[Any], nn.Module]:
    """Return onnx2torch's `convert`."""
    load_torchvision()
    import torchvision
    from onnx2torch import convert

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:  # a torchvision whose compiled part does not load, which is no fault of onnx2torch
        torchvision.ops.nms = suppress
    return convert  # type: ignore[no-any-return]


_declared: list[Any] = []


def load_torchvision() -> None:
    """Import torchvision, which onnx2torch needs for two operators, also where its compiled part does not load.

    A torchvision made for CUDA beside a PyTorch made for CPUs fails with "operator torchvision::nms does not exist"
    when it describes operators that it could not load. Declaring them lets everything else of it work.
    """
    for _ in range(50):
        try:
            importlib.import_module("torchvision")
        except RuntimeError as fault:
            missing = re.fullmatch(r"operator torchvision::(\w+) does not exist", str(fault))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor values) -> Tensor")
            _declared.append(library)
        else:
            return


def suppress(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Do what `torchvision.ops.nms` does, in PyTorch.

    Args:
        boxes: corners x1, y1, x2, y2, [count, 4].
        scores: [count].
        iou_threshold: boxes that overlap a better one by more than this are dropped.

    Returns:
        Positions of the boxes that are kept, best first.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = torch.argsort(scores, descending=True, stable=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        left = left[common / (areas[best] + areas[left] - common) <= iou_threshold]
    return torch.tensor(kept, dtype=torch.int64)


def judge(
    make: Callable[[], nn.Module], cases: Sequence[tuple[Sequence[Any], Callable[[Sequence[Any]], str]]]
) -> tuple[Result, str]:
    """Convert, run and compare.

    Args:
        make: converts.
        cases: for each run the inputs, and what says how the outputs differ from the right ones.

    Returns:
        What happened, and why unless it passed.
    """
    try:
        network = make().eval()  # it comes in training mode
        for inputs, differs in cases:
            with torch.no_grad():
                given = network(*(as_tensor(value) for value in inputs))
            difference = differs(given if isinstance(given, (tuple, list)) else (given,))
            if difference:
                return "wrong", difference
    except NotImplementedError as refusal:
        return "refused", _line(refusal)
    except (Exception, SystemExit) as fault:
        return "crash", f"{type(fault).__name__}: {_line(fault)}"
    return "pass", ""


def _line(fault: BaseException) -> str:
    return " ".join(str(fault).split())[:200]


def _differs(expected: Sequence[Any], relative: float, absolute: float) -> Callable[[Sequence[Any]], str]:
    def differs(found: Sequence[Any]) -> str:
        if len(found) != len(expected):
            return f"{len(found)} outputs for {len(expected)}"
        faults = [compare(one, other, relative, absolute) for one, other in zip(found, expected, strict=True)]
        return next((fault for fault in faults if fault), "")

    return differs


# Node tests


def run_node_test(convert: Callable[[Any], nn.Module], test: Any) -> Outcome:
    """Convert and run one node test of the onnx package."""
    operators = tuple(sorted({node.op_type for node in test.model.graph.node}))
    cases = [(inputs, _differs(expected, test.rtol, test.atol)) for inputs, expected in test.data_sets]
    return Outcome(test.name, operators, *judge(lambda: convert(test.model), cases))


# Operators and versions


@dataclass(frozen=True)
class Pair:
    """What a converter of onnx2torch makes of the node tests of one version of an operator.

    Attributes:
        operator: its name.
        version: the version of the standard since which it is as it is.
        last: whether it is the version of the newest opset.
        tests: how many node tests there are, those of other versions included that mean the same in this one.
        faults: for each test that goes wrong what does: "wrong", "crash", "refused", "batch" or "host".
    """

    operator: str
    version: int
    last: bool
    tests: int
    faults: tuple[str, ...]


def pairs(convert: Callable[[Any], nn.Module]) -> Iterator[Pair]:
    """Yield each version of an operator of the standard that onnx2torch has a converter of, and what it makes of it."""
    tests: dict[str, list[Any]] = defaultdict(list)
    for test in backend_tests.node_tests():
        if len(test.model.graph.node) == 1 and test.model.graph.node[0].domain == "":
            tests[test.model.graph.node[0].op_type].append(test)
    history: dict[str, list[int]] = defaultdict(list)
    for schema in sorted(onnx.defs.get_all_schemas_with_history(), key=lambda schema: schema.since_version):
        if schema.domain == "":
            history[schema.name].append(schema.since_version)
    for operator, version in sorted(known_pairs()):
        later = [since for since in history[operator] if since > version]
        # The newest opset in which this version of the operator is the standard's.
        opset = later[0] - 1 if later else max(version, onnx.defs.onnx_opset_version())
        models = [(test, model) for test in tests[operator] if (model := _of_opset(test, operator, opset)) is not None]
        faults = [fault for test, model in models if (fault := _pair_fault(convert, test, model))]
        yield Pair(operator, version, not later, len(models), tuple(faults))


def known_pairs() -> set[tuple[str, int]]:
    """Return the standard's operators and versions of which onnx2torch has a converter."""
    from onnx2torch.node_converters.registry import _CONVERTER_REGISTRY

    return {(entry.operation_type, entry.version) for entry in _CONVERTER_REGISTRY if entry.domain == ""}


def _of_opset(test: Any, operator: str, opset: int) -> ModelProto | None:
    """Return a test's model as one of another opset, None where it is none or means something else there."""
    model = ModelProto.FromString(test.model.SerializeToString())
    own = next(entry for entry in model.opset_import if entry.domain == "")
    now, then = (onnx.defs.get_schema(operator, number).since_version for number in (own.version, opset))
    if now == then:
        return model
    if operator in _MEANING_CHANGED:
        return None
    own.version = opset
    try:
        onnx.checker.check_model(model, full_check=True)
        evaluator = onnx.reference.ReferenceEvaluator(model)
        for inputs, expected in test.data_sets:
            names = [value.name for value in model.graph.input]
            found = evaluator.run(None, dict(zip(names, map(backend_tests.as_array, inputs), strict=True)))
            if any(
                not np.array_equal(one, backend_tests.as_array(other))
                for one, other in zip(found, expected, strict=True)
            ):
                return None
    except Exception:  # whatever the standard or its reference has against it
        return None
    return model


def _pair_fault(convert: Callable[[Any], nn.Module], test: Any, model: ModelProto) -> str:
    cases = [(inputs, _differs(expected, test.rtol, test.atol)) for inputs, expected in test.data_sets]
    result, _ = judge(lambda: convert(model), cases)
    if result != "pass":
        return result
    inputs, _ = test.data_sets[0]
    twice = _two_batches(model, [backend_tests.as_array(value) for value in inputs])
    if twice is not None and judge(lambda: convert(model), [(twice[0], _differs(twice[1], test.rtol, test.atol))])[1]:
        return "batch"
    try:
        with torch.no_grad():
            convert(model).eval().to("meta")(*(as_tensor(value).to("meta") for value in inputs))
    except Exception:
        return "host"
    return ""


def _two_batches(model: ModelProto, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Return inputs of twice the first length and what is right for them; None where nothing is."""
    if not inputs or not inputs[0].ndim:
        return None
    longer = [
        np.concatenate([value, value]) if value.ndim == inputs[0].ndim and len(value) == len(inputs[0]) else value
        for value in inputs
    ]
    free = ModelProto.FromString(model.SerializeToString())
    for value in (*free.graph.input, *free.graph.output):
        value.type.tensor_type.ClearField("shape")
    try:
        names = [value.name for value in free.graph.input]
        return longer, onnx.reference.ReferenceEvaluator(free).run(None, dict(zip(names, longer, strict=True)))
    except Exception:
        return None


# Real models


def run_real_model(convert: Callable[[Any], nn.Module], path: Path) -> tuple[Result, str]:
    """Convert a real model and compare its outputs with ONNX Runtime's, one image of normal noise."""
    model = onnx.load(path)
    try:
        given, expected = _reference(path)
    except Exception as fault:  # a file that not even ONNX Runtime opens
        given, expected, unknown = [], [], _line(fault)
        result, why = judge(lambda: convert(model), [])
        return ("crash", f"ONNX Runtime: {unknown}") if result == "pass" else (result, why)

    def differs(found: Sequence[Any]) -> str:
        if len(found) != len(expected):
            return f"{len(found)} outputs for {len(expected)}"
        worst = max(_relative(one, other) for one, other in zip(found, expected, strict=True))
        errors.append(worst)
        return f"{worst:.1e} of the largest value" if worst > TOLERANCE else ""

    errors: list[float] = []
    result, why = judge(lambda: convert(model), [(given, differs)])
    return result, why or f"{errors[0]:.1e}"


def _relative(found: Any, wanted: np.ndarray) -> float:
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted.shape:
        return float("inf")
    difference = np.abs(found.numpy().astype(np.float64) - wanted.astype(np.float64)).max()
    return float(difference / (np.abs(wanted.astype(np.float64)).max() or 1.0))


def _reference(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return inputs and what ONNX Runtime makes of them, with the file as it is and no optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    given = {}
    for value in session.get_inputs():
        sizes = [size if isinstance(size, int) else FREE for size in value.shape]
        sizes[:1] = [1] if sizes and not isinstance(value.shape[0], int) else sizes[:1]
        name = value.type.removeprefix("tensor(").removesuffix(")")
        kind = np.dtype({"float": "float32", "double": "float64"}.get(name, name))
        given[value.name] = np.asarray(GIVEN.get(path.name, {}).get(value.name, rng.standard_normal(sizes)), kind)
    return list(given.values()), session.run(None, given)


# The small models of docs/onnx2torch.md


def expected(fault: Fault) -> list[np.ndarray]:
    """Return what is right: by ONNX Runtime, or where it refuses by the onnx package's reference."""
    import onnxruntime

    model, values = fault.model(), fault.values()
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # every kind of refusal has a class of its own, and none is public
        found = onnx.reference.ReferenceEvaluator(model).run(None, values)
        return [np.asarray(value) for value in found]
    names = {value.name for value in session.get_inputs()}
    return [np.asarray(value) for value in session.run(None, {k: v for k, v in values.items() if k in names})]


def run_fault(convert: Callable[[Any], nn.Module], fault: Fault) -> tuple[Result, str]:
    """Convert one small model and compare."""
    wanted = expected(fault)
    compared = _differs(wanted, 1e-5, 1e-6)

    def differs(found: Sequence[Any]) -> str:
        difference = compared(found)
        kinds = [torch.from_numpy(np.zeros(1, value.dtype)).dtype for value in wanted]
        changed = [f"{one.dtype} for {kind}" for one, kind in zip(found, kinds, strict=False) if one.dtype != kind]
        return difference or ", ".join(changed)

    return judge(lambda: convert(fault.model()), [(list(fault.arguments().values()), differs)])


def missing_versions() -> dict[str, list[int]]:
    """Return the operators of which onnx2torch has converters, but none for these versions of the standard."""
    stock()
    known: dict[str, set[int]] = defaultdict(set)
    for operator, version in known_pairs():
        known[operator].add(version)
    history: dict[str, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in known:
            history[schema.name].add(schema.since_version)
    return {name: missing for name in sorted(known) if (missing := sorted(history[name] - known[name]))}


Section = Literal["node", "pairs", "zoo", "faults"]


def _node(convert: Callable[[Any], nn.Module]) -> Iterator[str]:
    outcomes = [run_node_test(convert, test) for test in backend_tests.node_tests()]
    counts = Counter(outcome.result for outcome in outcomes)
    for outcome in outcomes:
        if outcome.result in ("wrong", "crash"):
            yield f"{outcome.result:8} {outcome.name}: {outcome.reason}"
    yield ""
    yield markdown(("node tests", *_COUNTED), [(len(outcomes), *(counts[result] for result in _COUNTED))])


def _pairs(convert: Callable[[Any], nn.Module]) -> Iterator[str]:
    found = list(pairs(convert))
    fit = [pair for pair in found if pair.tests and not pair.faults]
    kinds = Counter(Counter(pair.faults).most_common(1)[0][0] for pair in found if pair.faults)
    counts = [kinds[kind] for kind in ("wrong", "crash", "refused", "batch", "host")]
    untested = sum(not pair.tests for pair in found)
    yield markdown(
        ("operators and versions", "fit", "wrong", "crash", "refused", "batch", "host", "no test"),
        [(len(found), len(fit), *counts, untested)],
    )
    yield "\nFit: " + ", ".join(f"{pair.operator} {pair.version}" for pair in fit)
    newest = [pair.operator for pair in fit if pair.last]
    yield f"\nOf the newest opset: {len(newest)}: {', '.join(newest)}\n"
    for pair in found:
        if pair.faults:
            told = ", ".join(f"{count} {kind}" for kind, count in Counter(pair.faults).items())
            yield f"{pair.operator} {pair.version}: {told} of {pair.tests}"


def _zoo(convert: Callable[[Any], nn.Module], folder: Path) -> Iterator[str]:
    rows = [(path.name, *run_real_model(convert, path)) for path in sorted(folder.glob("*.onnx"))]
    counts = Counter(result for _, result, _ in rows)
    yield markdown(("model", "stock onnx2torch", "largest difference, or why"), rows)
    yield f"\n{', '.join(f'{counts[result]} {result}' for result in _COUNTED)} of {len(rows)}"


def _faults(convert: Callable[[Any], nn.Module]) -> Iterator[str]:
    rows = [(fault.name, *run_fault(convert, fault)) for fault in FAULTS]
    yield markdown(("fault", "stock onnx2torch", "what differs"), rows)
    yield "\nVersions without a converter, of operators that have one for other versions:"
    yield ", ".join(f"{name} {'/'.join(map(str, versions))}" for name, versions in missing_versions().items())


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("section", nargs="*", help="node, pairs, zoo, faults; all without a name")
    given = parser.parse_args()
    sections = get_args(Section)
    if unknown := set(given.section) - set(sections):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(sections)}")
    warnings.simplefilter("ignore")
    prepare(given)
    convert = stock()
    folder = given.zoo / "zoo" / "onnx"
    for section in given.section or sections:
        if section == "zoo" and not folder.is_dir():
            print(f"zoo: left out, there are no models in {given.zoo}; give --zoo FOLDER")
            continue
        lines = {
            "node": lambda: _node(convert),
            "pairs": lambda: _pairs(convert),
            "zoo": lambda: _zoo(convert, folder),
            "faults": lambda: _faults(convert),
        }
        for line in lines[section]():
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
