"""The package onnx2torch as it is installed, measured by the same comparisons as this project's own importer.

    python -m benchmarks.stock_onnx2torch [node] [zoo] [faults]

`node`: the node tests of the onnx package. `zoo`: the real models against ONNX Runtime on normal noise, one image.
`faults`: the small models of docs/onnx2torch.md. Without a name all three. "Refused" is a NotImplementedError, when it
converts or when it runs; "crash" any other exception; "wrong" another value, shape, element type or number of outputs.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks import backend_tests
from benchmarks.backend_tests import Outcome, Result, as_tensor, compare
from benchmarks.measure import arguments, markdown, prepare
from benchmarks.stock_faults import FAULTS, Fault
from onnxviz.convert import bridge

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
    bridge._load_torchvision()
    import torchvision
    from onnx2torch import convert

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except RuntimeError:  # a torchvision whose compiled part does not load, which is no fault of onnx2torch
        torchvision.ops.nms = suppress
    return convert  # type: ignore[no-any-return]


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
    from onnx2torch.node_converters.registry import _CONVERTER_REGISTRY

    known: dict[str, set[int]] = defaultdict(set)
    for description in _CONVERTER_REGISTRY:
        if description.domain == "":
            known[description.operation_type].add(description.version)
    history: dict[str, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.name in known:
            history[schema.name].add(schema.since_version)
    return {name: missing for name in sorted(known) if (missing := sorted(history[name] - known[name]))}


Section = Literal["node", "zoo", "faults"]


def _node(convert: Callable[[Any], nn.Module]) -> Iterator[str]:
    outcomes = [run_node_test(convert, test) for test in backend_tests.node_tests()]
    counts = Counter(outcome.result for outcome in outcomes)
    for outcome in outcomes:
        if outcome.result in ("wrong", "crash"):
            yield f"{outcome.result:8} {outcome.name}: {outcome.reason}"
    yield ""
    yield markdown(("node tests", *_COUNTED), [(len(outcomes), *(counts[result] for result in _COUNTED))])


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
    parser.add_argument("section", nargs="*", help="node, zoo, faults; all without a name")
    given = parser.parse_args()
    sections = ("node", "zoo", "faults")
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
            "zoo": lambda: _zoo(convert, folder),
            "faults": lambda: _faults(convert),
        }
        for line in lines[section]():
            print(line, flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
