"""Serve one request of the importer: `python exporters request.json`.

What was made, or why it was refused, is written as JSON to the file that the request names.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any


def main(request_file: str) -> None:
    """Serve one request."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path[1:] if entry]  # the files here are none for a framework to find
    # The packages around this one are left empty: this Python may lack what they import.
    for name, folder in (("onnxviz", here.parents[1]), ("onnxviz.importing", here.parent)):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder)]
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    kind = "torch_program" if request["kind"] == "program" else "keras_model"
    exporter = importlib.import_module(f"onnxviz.importing.exporters.{kind}")
    process = importlib.import_module("onnxviz.importing.exporters.process")
    answer: dict[str, Any]
    try:
        answer = {"done": exporter.export(request), "versions": process.versions(exporter.PACKAGES)}
    except process.RefusedError as refusal:
        answer = {"refused": refusal.what, "remedy": refusal.remedy, "missing": refusal.missing}
    except MemoryError:
        answer = {"refused": "there is not enough memory", "remedy": "use a larger machine"}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
