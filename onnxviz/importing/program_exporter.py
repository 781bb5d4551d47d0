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
    return {"written_by": f"torch {request.get('written_by') or '(version not said)'}"}


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
