"""What of all ONNX imports: node tests, models in the onnx package, real models, exports of torchvision and timm.

    python -m benchmarks.import_coverage [node] [light] [zoo] [exporters] [--folder FOLDER] [--only NAME ...] [--list]

Prints one table with a row for each material; without a name all four are measured. "Wrong" is what converts, runs and
gives something else: more than 1e-3 of the output's largest magnitude for networks, the test's own tolerance for node
tests. `exporters` needs the extra `sweep`; it makes every network of `benchmarks.architectures` with random weights,
exports it with both of PyTorch's exporters and compares outputs and input gradients with the PyTorch module itself, one
image alone and, where the batch is free, four together. `--folder` keeps the exported files (about 9 GB) and uses those
that are there.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import nn

import onnxviz
from benchmarks import architectures, backend_tests
from benchmarks.measure import arguments, markdown, prepare
from onnxviz.core.errors import OnnxvizError, UnsupportedOperatorError
from onnxviz.graph import GraphView, open_model

TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-3
INPUTS: dict[str, tuple[np.ndarray, ...]] = {
    "silero_vad.onnx": (
        np.sin(np.arange(512, dtype=np.float32) / 5)[None], np.zeros((2, 1, 128), np.float32), np.int64(16000),
    )
}  # fmt: skip
"""Inputs for real models that take no image and whose declaration does not say how much they need."""
Verdict = Literal["pass", "wrong", "refused", "crash", "not exported"]


@dataclass(frozen=True)
class Finding:
    """What became of one file.

    Attributes:
        material: row of the table that it counts for.
        name: the file.
        verdict: what happened.
        reason: why, unless it passed; what is noteworthy, if it did.
        error: largest difference from the reference relative to the largest magnitude; NaN if nothing was compared.
        batch_error: the same for four images together; NaN if the batch is not free.
        gradient_error: the same for the gradient of the output with respect to an image: the least of four images.
        rounding: the same for PyTorch's own single precision against its double precision.
    """

    material: str
    name: str
    verdict: Verdict
    reason: str = ""
    error: float = float("nan")
    batch_error: float = float("nan")
    gradient_error: float = float("nan")
    rounding: float = float("nan")


def relative_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference over the reference's largest magnitude; infinite for NaN or another shape."""
    if ours.shape != reference.shape:
        return float("inf")
    if not reference.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(ours.astype(np.float64) - reference.astype(np.float64)).max())
    largest = float(np.abs(reference.astype(np.float64)).max())
    return float("inf") if np.isnan(difference) else difference / (largest or 1.0)


def attempt(material: str, name: str, compare: Callable[[], Finding]) -> Finding:
    """Run a comparison; what it raises becomes a verdict."""
    try:
        return compare()
    except UnsupportedOperatorError as refusal:
        reasons = refusal.remedy.partition("because: ")[2]
        operators = ", ".join(f"{name} x{len(nodes)}" for name, nodes in sorted(refusal.operators.items()))
        return Finding(material, name, "refused", operators + (f"; {reasons}" if reasons else ""))
    except OnnxvizError as refusal:
        return Finding(material, name, "refused", " ".join(str(refusal).split()))
    except Exception as fault:
        return Finding(material, name, "crash", f"{type(fault).__name__}: {' '.join(str(fault).split())}"[:400])


# Exports of torchvision and timm


def check_export(
    material: str,
    path: Path,
    images: torch.Tensor,
    outputs: Sequence[np.ndarray],
    gradients: np.ndarray | None = None,
    rounding: float = 0.0,
) -> Finding:
    """Compare a converted file with what PyTorch gave.

    Args:
        material: row of the table.
        path: the exported file.
        images: images [count, 3, height, width].
        outputs: for each output the values of each image alone, [count, ...].
        gradients: gradient for each image, as of `input_gradients`.
        rounding: by how much rounding changes them, `gradient_rounding`; so much is allowed.
    """

    def compare() -> Finding:
        model = onnxviz.load(path, device="cpu")
        network = onnxviz.to_torch(model)
        with torch.no_grad():
            error = _largest(network(images[:1]), [output[:1] for output in outputs])
            batch_error = float("nan")
            if model.view.batch is None:
                batch_error = _largest(network(images), outputs)
        apart = float("nan")
        if gradients is not None:
            alone = [images] if model.view.batch is None else images.split(1)
            apart = gradient_error(np.concatenate([input_gradients(network, each) for each in alone]), gradients)
        note = "" if model.view.batch is None else next((text for text in model.view.passes if "batch" in text), "?")
        wrong = [
            f"{what} {value:.1e}"
            for what, value, most in (
                ("batch 1", error, TOLERANCE),
                ("batch 4", batch_error, TOLERANCE),
                ("gradient", apart, max(GRADIENT_TOLERANCE, rounding)),
            )
            if value > most
        ]
        verdict: Verdict = "wrong" if wrong else "pass"
        return Finding(material, path.name, verdict, "; ".join(wrong) or note, error, batch_error, apart)

    return attempt(material, path.name, compare)


def _largest(ours: Sequence[torch.Tensor], reference: Sequence[np.ndarray]) -> float:
    if len(ours) != len(reference):
        return float("inf")
    return max(relative_error(own.numpy(), wanted) for own, wanted in zip(ours, reference, strict=True))


def input_gradients(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    """Return for each image the gradient of a fixed random combination of its first output with respect to it.

    In double precision, where the network works in it: in single precision the processor's kernels decide on which side
    of a ReLU a value next to 0 falls, and one that changes sides changes a gradient by up to some percent.

    Give PyTorch's own modules several images: for one, `torch.nn.functional.batch_norm` of PyTorch 2.13 on a CPU gives
    a wrong gradient where it comes from tokens ([1, H * W, C] turned into [1, C, H, W] without a copy).
    """
    try:
        return _input_gradients(copy.deepcopy(network).double(), images.double())
    except RuntimeError:  # the file casts to single precision, or has constants that are in it
        return _input_gradients(network, images)


def _input_gradients(network: nn.Module, images: torch.Tensor) -> np.ndarray:
    given = images.clone().requires_grad_()
    output = network(given)
    first = output if isinstance(output, torch.Tensor) else output[0]
    weights = torch.randn(first[:1].shape, generator=torch.Generator().manual_seed(1)).to(first.dtype)
    (gradients,) = torch.autograd.grad((first * weights).sum(), given)
    return gradients.numpy()


def gradient_error(ours: np.ndarray, reference: np.ndarray) -> float:
    """Return the relative error of the gradients of some images: the least of their own.

    Weights that an exporter has folded and rounded bring values next to 0 to the other side of a ReLU on some images,
    which changes their gradients by up to some percent; a fault of the conversion is one on all.
    """
    return min(relative_error(own, wanted) for own, wanted in zip(ours, reference, strict=True))


def gradient_rounding(network: nn.Module, images: torch.Tensor, gradients: np.ndarray) -> float:
    """Return by how much gradients change at most where weights are rounded as single precision rounds them.

    Very deep networks have values next to 0 on every image, so that no image is free of that.
    """
    rounded, random = copy.deepcopy(network).double(), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in rounded.parameters():
            weight.mul_(1 + 2.0**-24 * torch.randn(weight.shape, generator=random, dtype=torch.float64))
    again = input_gradients(rounded, images)
    return max(relative_error(own, wanted) for own, wanted in zip(again, gradients, strict=True))


def exporter_findings(
    folder: Path, only: Sequence[str], exporters: Sequence[str], *, keep: bool = True
) -> Iterator[Finding]:
    """Make, export and check every architecture.

    Args:
        folder: where the files go; those that are there are not made again.
        only: names of architectures; all if empty.
        exporters: of `architectures.EXPORTERS`.
        keep: whether files stay when they are checked.
    """
    missing = {"torchvision", "timm"} - set(architectures.libraries())
    if missing:
        raise SystemExit(f"{', '.join(sorted(missing))} cannot be imported: install the extra sweep")
    for architecture in architectures.ARCHITECTURES:
        if only and not {architecture.name, architecture.model} & set(only):
            continue
        model, images = architectures.make(architecture)
        outputs = architectures.reference(model, images)
        gradients = input_gradients(model, images)
        changed = gradient_rounding(model, images, gradients)
        rounding = architectures.rounding(model, images[:1])
        for exporter in exporters:
            for dynamic in (False, True) if architecture.dynamic else (False,):
                path = folder / exporter / f"{architecture.name}{'.dynamic' if dynamic else ''}.onnx"
                material = f"{exporter} exporter, opset {architectures.EXPORTERS[exporter]}"
                material += ", free batch" if dynamic else ""
                try:
                    if not path.is_file():
                        architectures.export(model, images, exporter, path, dynamic=dynamic)
                except Exception as fault:
                    path.unlink(missing_ok=True)
                    reason = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
                    yield Finding(material, path.name, "not exported", reason)
                    continue
                yield replace(check_export(material, path, images, outputs, gradients, changed), rounding=rounding)
                if not keep:
                    for file in path.parent.glob(f"{path.name}*"):  # with the weights, which may lie beside it
                        file.unlink()


# Models whose reference is ONNX Runtime or the file itself


def light_findings() -> Iterator[Finding]:
    """Compare the onnx package's model-zoo graphs, whose weights are computed, with the outputs beside them."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(folder.glob("*.onnx")):

        def compare(path: Path = path) -> Finding:
            view = open_model(path)
            shape = [
                size.dim_value or 1 for size in _only_input(view.original).type.tensor_type.shape.dim
            ]  # as the package's own test makes them
            count = int(np.prod(shape))
            given = (np.arange(count).reshape(shape) / count).astype(np.float32)
            with torch.no_grad():
                found = onnxviz.to_torch(path)(torch.from_numpy(given))
            wanted = onnx.load_tensor(str(path.with_name(f"{path.stem}_output_0.pb")))
            error = relative_error(found[0].numpy(), onnx.numpy_helper.to_array(wanted))
            return Finding("light", path.name, "pass" if error <= TOLERANCE else "wrong", f"{error:.1e}", error)

        yield attempt("light", path.name, compare)


def _only_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    constant = {tensor.name for tensor in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in constant)
    return value


def zoo_findings(folder: Path, data: Path) -> Iterator[Finding]:
    """Compare the outputs of real models with ONNX Runtime on the file as given, on real images where it takes any."""
    for path in sorted(folder.glob("*.onnx")):
        yield attempt("zoo", path.name, lambda path=path: _check_real(path, data))  # type: ignore[misc]


def _check_real(path: Path, data: Path) -> Finding:
    from benchmarks.agreement import MODELS, images_for
    from onnxviz.model.ort_session import Session
    from onnxviz.model.parity import made_up_inputs

    preprocess, patterns = MODELS.get(path.name, (None, ()))
    model = onnxviz.load(path, preprocess, device="cpu")
    view: GraphView = model.view
    if patterns:
        given = [model.encode(torch.from_numpy(images_for(model, patterns, data, 1))).numpy()]
    else:
        given = [np.array(array) for array in INPUTS.get(path.name, ())] or made_up_inputs(view)
    values = [output.name for output in view.original.graph.output]
    with torch.no_grad():
        ours = onnxviz.to_torch(path)(*(torch.from_numpy(array) for array in given))
    session = Session(view.original, values, exact=True)
    theirs = session.run(dict(zip(model.inputs, given, strict=True)))
    error = max(relative_error(own.numpy(), wanted) for own, wanted in zip(ours, theirs, strict=True))
    return Finding("zoo", path.name, "pass" if error <= TOLERANCE else "wrong", f"{error:.1e}", error)


def node_findings() -> Iterator[Finding]:
    """Run the node tests of the onnx package."""
    for test in backend_tests.node_tests():
        outcome = backend_tests.run(test)
        yield Finding("node tests", outcome.name, outcome.result, outcome.reason)


# The table


def summary(findings: Sequence[Finding]) -> list[list[object]]:
    """Return a row for each material: how many passed, and how far off they were at most."""
    rows: list[list[object]] = []
    for material in dict.fromkeys(finding.material for finding in findings):
        own = [finding for finding in findings if finding.material == material]
        counts = Counter(finding.verdict for finding in own)
        passed = [finding for finding in own if finding.verdict == "pass"]
        rows.append(
            [material, len(own)]
            + [counts[verdict] for verdict in ("pass", "wrong", "crash", "refused", "not exported")]
            + [
                _most(getattr(finding, kind) for finding in passed)
                for kind in ("error", "batch_error", "gradient_error", "rounding")
            ]
            + [sum(not np.isnan(finding.batch_error) for finding in passed) or "-"]
        )
    return rows


def _most(values: Any) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{max(known):.1e}" if known else "-"


HEAD = (
    "material", "files", "pass", "wrong", "crash", "refused", "not exported", "largest error", "four images",
    "gradient", "PyTorch's rounding", "ran with four images",
)  # fmt: skip


def main() -> int:
    parser = arguments(__doc__)
    sections = ("node", "light", "zoo", "exporters")
    parser.add_argument("section", nargs="*", help="node, light, zoo, exporters; all without a name")
    parser.add_argument("--folder", type=Path, help="where exported files are kept; nowhere if not given")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="only these architectures")
    parser.add_argument("--exporter", choices=list(architectures.EXPORTERS), help="only this exporter")
    parser.add_argument("--list", action="store_true", help="also print every file that passed")
    given = parser.parse_args()
    if unknown := set(given.section) - set(sections):
        parser.error(f"unknown section {', '.join(sorted(unknown))}: choose from {', '.join(sections)}")
    prepare(given)
    warnings.simplefilter("ignore")
    chosen = given.section or sections
    found: list[Finding] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        sources: dict[str, Callable[[], Iterator[Finding]]] = {
            "node": node_findings,
            "light": light_findings,
            "zoo": lambda: zoo_findings(given.zoo / "zoo" / "onnx", given.zoo / "data"),
            "exporters": lambda: exporter_findings(
                given.folder or Path(temporary), given.only,
                [given.exporter] if given.exporter else list(architectures.EXPORTERS),
                keep=given.folder is not None,
            ),
        }  # fmt: skip
        for section in chosen:
            if section == "zoo" and not (given.zoo / "zoo" / "onnx").is_dir():
                print(f"zoo: left out, there are no models in {given.zoo}; give --zoo FOLDER")
                continue
            for finding in sources[section]():
                found.append(finding)
                # The node tests that are refused by name are many: they are in the table only.
                hidden = ("pass", "refused") if finding.material == "node tests" else ("pass",)
                if given.list or finding.verdict not in hidden:
                    print(f"{finding.verdict:12} {finding.material}: {finding.name}: {finding.reason}", flush=True)
    print(f"\n{markdown(HEAD, summary(found))}\n\n{time.monotonic() - started:.0f} s")
    return int(any(finding.verdict in ("wrong", "crash") for finding in found))


if __name__ == "__main__":
    sys.exit(main())
