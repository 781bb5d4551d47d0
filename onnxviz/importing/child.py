"""Run an exporter in a process of its own: a framework that crashes, hangs or floods takes nothing else with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxviz.core.errors import ModelError, ModelFileError, beginning, shorten

_KEPT_BYTES = 4 << 20
"""Most of a failed exporter's output that is kept."""
_KERAS = 'pip install "tensorflow>=2.16" "keras>=3.5" "tf-keras>=2.16" "tf2onnx>=1.16.1"'
_INSTALL = {
    **dict.fromkeys(("tensorflow", "keras", "tf_keras", "tf2onnx", "h5py"), _KERAS),
    "onnxscript": 'pip install "onnxscript>=0.5"',
}


def run_exporter(
    script: Path, request: Mapping[str, Any], folder: Path, *, python: Path | None, timeout: float, place: str
) -> dict[str, Any]:
    """Run an exporter script on a request.

    Args:
        script: the script, which needs nothing of this package.
        request: what it shall do, as JSON data; the file of its answer is added.
        folder: an empty folder for its files; it also works there.
        python: the interpreter that has the framework; this one if None.
        timeout: seconds after which it is ended.
        place: the model, for messages.

    Returns:
        What it answered.

    Raises:
        ModelError: if it refused, failed, crashed or took too long; the cause is in the message, no traceback.
    """
    answer, order, output = folder / "answer.json", folder / "request.json", folder / "output.txt"
    order.write_text(json.dumps({**request, "answer": str(answer)}), encoding="utf-8")
    interpreter = str(python or sys.executable)
    status = _run([interpreter, str(script), str(order)], folder, output, timeout, place)
    if answer.is_file():
        told = json.loads(answer.read_text(encoding="utf-8"))
        if "done" in told:
            return dict(told)
        raise _refusal(told, interpreter, python, place)
    log = _keep(output)
    if status is None:
        raise ModelError(
            f"the exporter took longer than {timeout:g} seconds and was ended",
            where=place,
            remedy=f"give it more with --timeout SECONDS; what it said is in {log}",
        )
    how = f"was ended by signal {-status}" if status < 0 else f"failed: {_last_line(output)}"
    raise ModelError(f"the exporter {how}", where=place, remedy=f"all that it said is in {log}")


def _run(command: list[str], folder: Path, output: Path, timeout: float, place: str) -> int | None:
    """Return the exit status, or None if the time was up."""
    environment = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(folder / "keras"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    with output.open("wb") as sink:
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own interpreter and a script of this package
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
        except OSError as fault:
            raise ModelError(
                f"{shorten(command[0], 200)} cannot be started: {fault.strerror}",
                where=place,
                remedy="give the Python of the environment with --python, for example venv/bin/python",
            ) from None
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # also when the user interrupts
                with contextlib.suppress(OSError):
                    if os.name == "posix":
                        os.killpg(process.pid, signal.SIGKILL)
                    else:
                        process.kill()
                process.wait()


def _refusal(told: Mapping[str, Any], interpreter: str, python: Path | None, place: str) -> ModelError:
    what, remedy, missing = (str(told.get(key) or "") for key in ("refused", "remedy", "missing"))
    if missing:
        install = _INSTALL.get(missing, f"pip install {missing}")
        here = f"{shorten(interpreter, 200)} -m {install}" if python is None else f"in that environment: {install}"
        elsewhere = "" if python is not None else "\n  or name a Python that has it: onnxviz import --python PATH ..."
        return ModelError(what, where=place, remedy=here + elsewhere)
    return ModelFileError(beginning(what, 2000), where=place, remedy=beginning(remedy, 2000))


def _last_line(output: Path) -> str:
    """Return the last line that an exporter said, which in a traceback is the cause."""
    lines = _end(output, 20_000).decode("utf-8", "replace").splitlines()
    spoken = [line.strip() for line in lines if line.strip()]
    return shorten(spoken[-1], 400) if spoken else "it said nothing"


def _keep(output: Path) -> str:
    """Keep the end of an exporter's output in a file of its own; returns the file."""
    with tempfile.NamedTemporaryFile("wb", prefix="onnxviz-import-", suffix=".log", delete=False) as log:
        log.write(_end(output, _KEPT_BYTES))
        return log.name


def _end(output: Path, most: int) -> bytes:
    with output.open("rb") as stream:
        stream.seek(max(0, output.stat().st_size - most))
        return stream.read(most)
