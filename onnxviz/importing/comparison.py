"""What an exporter has written, against what it was made from: inputs, outputs, and values on random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxviz.core.errors import AgreementError, shorten
from onnxviz.core.wording import listed

TOLERANCE = 1e-3
"""Largest difference between two float32 computations of one output, relative to its largest value."""
_SHOWN = 4


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        agrees: whether the file is the source, as far as was compared; None if that could not be found out.
        said: a sentence for the user and the file's metadata.
    """

    agrees: bool | None
    said: str


def require_the_same(compared: Comparison, place: str, *, keep: bool) -> None:
    """Refuse a file that differs from its source, unless it is wanted all the same.

    Raises:
        AgreementError: if it differs and `keep` is not set.
    """
    if compared.agrees is False and not keep:
        raise AgreementError(
            f"what was exported {compared.said}; nothing was written",
            where=place,
            remedy="try another version of the framework or its exporter, or look at the file: --keep-different "
            "(in Python keep_different=True) writes it",
        )


def not_compared(why: str) -> Comparison:
    """Return that nothing was compared, and why."""
    return Comparison(None, f"not compared with the source: {why}")


def _differs(how: str) -> Comparison:
    return Comparison(False, f"differs from the source: {how}")


def read_reference(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays that an exporter wrote, none if it wrote none; Python objects are never loaded."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def compare(file: Path, told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Comparison:
    """Run an exported file on what its source was run on.

    Args:
        file: the ONNX file.
        told: from the exporter: `inputs`, the names that the source's inputs have in the file, in order; `refused`, why
            it could not be run; `random`, whether it gives something else each time.
        arrays: `input_0`, `input_1`, ... and the source's `output_0`, `output_1`, ... in the order of the file.

    Returns:
        Whether both have the same inputs and outputs, with the largest difference between these.
    """
    names = [str(name) for name in told.get("inputs", ())]
    faults = _interface(file, names)
    if faults:
        return _differs(f"{'; '.join(faults)}")
    if told.get("refused") or not arrays:
        return not_compared(shorten(str(told.get("refused") or "the exporter gave no values"), 300))
    outputs = [arrays[f"output_{index}"] for index in range(sum(name.startswith("output_") for name in arrays))]
    given = {name: arrays[f"input_{index}"] for index, name in enumerate(names)}
    try:
        made = _run(file, given)
    except Exception as fault:  # ONNX Runtime's refusals have no class of their own
        lines = [line for line in str(fault).splitlines() if line.strip()] or [type(fault).__name__]
        return _differs(f"ONNX Runtime does not run it: {shorten(lines[0], 300)}")
    if told.get("random"):
        return not_compared("the source draws random numbers, and gives something else each time")
    return _values(made, outputs, len(next(iter(given.values()), ())))


def _interface(file: Path, names: Sequence[str]) -> list[str]:
    """Compare the inputs that the file asks for with those of the source."""
    graph = onnx.load(str(file), load_external_data=False).graph
    constant = {tensor.name for tensor in graph.initializer}
    asked = [value.name for value in graph.input if value.name not in constant]
    faults = []
    if more := [name for name in asked if name not in names]:
        faults.append(f"the file asks for inputs that the source has not: {listed(more, _SHOWN, length=80)}")
    if fewer := [name for name in names if name not in asked]:
        faults.append(f"the file has lost the inputs {listed(fewer, _SHOWN, length=80)}")
    return faults


def _run(file: Path, given: Mapping[str, np.ndarray]) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # From memory, so that no message holds a path of this machine.
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(given)))


def _values(made: Sequence[Any], outputs: Sequence[np.ndarray], batch: int) -> Comparison:
    if len(made) != len(outputs):
        return _differs(f"{len(made)} outputs for {len(outputs)}")
    worst = 0.0
    for index, (own, source) in enumerate(zip(made, outputs, strict=True)):
        ours, theirs = np.asarray(own), np.asarray(source)
        if ours.shape != theirs.shape:
            shapes = f"{list(ours.shape)} for {list(theirs.shape)}"
            return _differs(f"output {index} has the shape {shapes}")
        worst = float(np.maximum(worst, _relative(ours, theirs)))  # which keeps a NaN, as max may not
    inputs = f"{batch} random input{'s' * (batch != 1)}"
    if not worst <= TOLERANCE:  # NaN is no agreement
        return Comparison(False, f"differs from the source by {worst:.2g} of an output's largest value, on {inputs}")
    said = f"agrees with the source to {worst:.1e} of an output's largest value, on {inputs}"
    if batch > 1 and all(np.shape(source)[:1] == (batch,) and (source == source[:1]).all() for source in outputs):
        said += ", which says little: all of them give the same"
    return Comparison(True, said)


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference relative to the source's largest value; NaN where only one side has one."""
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        difference = np.where(same, 0.0, np.abs(left - right))
    largest = float(np.abs(right[np.isfinite(right)]).max(initial=0.0))
    absolute = float(np.max(difference, initial=0.0))
    return absolute / largest if largest > 0 else absolute
