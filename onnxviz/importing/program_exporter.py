"""Turn a PyTorch program into ONNX: a script of its own, run in a Python that has torch and onnxscript.

    python program_exporter.py request.json

It uses nothing of this package, because that Python may be another one. The program was written anew by
`program_archive` before it comes here; unpickling is switched off all the same.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


class RefusedError(Exception):
    """The program is refused: what is wrong, and what to do."""

    def __init__(self, what: str, remedy: str = "", missing: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy
        self.missing = missing


def switch_pickle_off(torch: Any) -> None:
    """Make every way by which torch unpickles raise instead, in this process."""
    import pickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise RefusedError("it holds a Python pickle", "export it again with its tensors only")

    torch.load = refuse
    torch.serialization.load = refuse
    torch._C._pickle_load_obj = refuse
    for name in ("load", "loads"):
        setattr(pickle, name, refuse)


def export_program(request: dict[str, Any]) -> dict[str, Any]:
    """Load a program and export it."""
    torch = _require("torch")
    _require("onnxscript")
    for name in ("torch.export.pt2_archive._package", "torch.onnx"):
        _require(name)  # now: what they import may unpickle tables of its own

    switch_pickle_off(torch)
    try:
        program = torch.export.load(request["source"])
    except RefusedError:
        raise
    except Exception as fault:
        raise RefusedError(
            f"torch {torch.__version__} cannot load it: {_first(fault)}",
            "use the torch that wrote it (onnxviz import --python PATH), or export it again with this one",
        ) from None
    try:
        made = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=request.get("opset") or 20)
    except Exception as fault:
        cause = fault.__cause__ or fault
        raise RefusedError(f"torch.onnx cannot convert it: {_first(cause)}", "export it to ONNX yourself") from None
    made.save(request["output"], external_data=False)
    names = [value.name for value in made.model.graph.inputs]
    return {
        "written_by": f"torch {request.get('written_by') or '(version not said)'}",
        "reference": {"inputs": names, **write_reference(torch, program, request["reference"])},
    }


def write_reference(torch: Any, program: Any, path: str) -> dict[str, Any]:
    """Run a program twice on random inputs and write down inputs and outputs; returns why not, and whether it draws."""
    import numpy

    generator = numpy.random.default_rng(0)
    try:
        given = [_made_up(torch, node, generator) for node in _inputs(program)]
        module = program.module()
        with torch.no_grad():
            runs = [torch.utils._pytree.tree_leaves(module(*given)) for _ in range(2)]
        outputs = [[value.numpy() for value in run if isinstance(value, torch.Tensor)] for run in runs]
    except Exception as fault:
        return {"refused": f"the source does not run on random inputs: {_first(fault)}"}
    arrays = {f"input_{index}": value.numpy() for index, value in enumerate(given)}
    arrays.update({f"output_{index}": value for index, value in enumerate(outputs[0])})
    numpy.savez(path, **arrays)
    same = all(numpy.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(*outputs))  # noqa: B905
    return {"refused": "", "random": not same}


def _inputs(program: Any) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _made_up(torch: Any, node: Any, generator: Any) -> Any:
    """Return a random tensor for an input: noise, or zeros and ones for whole numbers; free sizes as in the example."""
    like = node.meta["val"]
    shape = [size if isinstance(size, int) else int(size.node.hint or 2) for size in like.shape]
    if like.dtype.is_floating_point:
        return torch.from_numpy(generator.standard_normal(shape)).to(like.dtype)
    return torch.from_numpy(generator.integers(0, 2, shape)).to(like.dtype)


def _first(fault: BaseException) -> str:
    lines = [line for line in str(fault).strip().splitlines() if line.strip()]
    return f"{type(fault).__name__}: {(lines or [''])[0].strip()}"[:400]


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as fault:
        raise RefusedError(f"{name} is not installed ({fault})", missing=name) from None


def _versions() -> dict[str, str]:
    import importlib.metadata

    found = {}
    for name in ("torch", "onnxscript"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(request_file: str) -> None:
    """Serve one request."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != here]
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    answer: dict[str, Any]
    try:
        answer = {"done": export_program(request), "versions": _versions()}
    except RefusedError as refusal:
        answer = {"refused": refusal.what, "remedy": refusal.remedy, "missing": refusal.missing}
    except MemoryError:
        answer = {"refused": "there is not enough memory", "remedy": "use a larger machine"}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
