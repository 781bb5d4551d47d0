"""The life of a worker process: it confines itself, does what is asked of it, and says so in lines of JSON.

Run as a script, by its path. Nothing that starts threads is imported before the confinement, because some limits bind
only the threads that come after them; and nothing of the package before it is known where that lies.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import pkgutil
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from onnxviz.execution.workers.messages import Message

NO_MEMORY = 86
"""Exit code by which a worker says that its memory did not suffice: to say it in words may take more than is left."""
_EVERY = 0.1
"""Seconds between two reports of how far a task is."""


class Parent:
    """The process that started this one, as what it orders and is told."""

    def __init__(self, reading: BinaryIO, writing: int) -> None:
        self.orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.said = 0.0
        self._reading, self._writing = reading, writing

    def listen(self) -> None:
        """Take orders; when the parent is gone, so is this process, whatever it is at."""
        for line in self._reading:
            self.orders.put(line)
        os._exit(0)

    def say(self, message: Message) -> None:
        """Tell the parent."""
        from onnxviz.execution.workers.messages import to_line

        view = memoryview(to_line(message))
        while view:
            view = view[os.write(self._writing, view) :]

    def progress(self, done: int, total: int, note: str = "") -> None:
        """Tell the parent how far this is, not too often, but of the last step."""
        from onnxviz.execution.workers.messages import Message

        now = time.monotonic()
        if now - self.said >= _EVERY or done + 1 == total:
            self.said = now
            self.say(Message(progress=(int(done), int(total), str(note))))


def main() -> None:
    """Take the pipes to the parent, read what it asks (`process.Request`), do it, and end."""
    # Nothing that a library prints may get between the messages.
    reading, writing = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    request = json.loads(reading.readline())
    sys.path[:] = request["path"]
    code = 1
    try:
        code = _do(request, Parent(reading, writing))
    except BaseException as error:
        traceback.print_exception(error)
    finally:
        sys.stderr.flush()
        os._exit(code)  # not `sys.exit`: the thread that listens would be in the way


def _do(request: dict[str, Any], parent: Parent) -> int:
    """Do what is asked, and return the exit code."""
    from onnxviz.core.errors import OnnxvizError, RecipeError, without_room
    from onnxviz.core.memory import is_out_of_memory

    defences: list[Any] = []
    try:
        _answer(request, parent, defences)
    except Exception as error:
        # A fault of a recipe that is a want of memory names the limit itself.
        if defences and not isinstance(error, RecipeError) and is_out_of_memory(error):
            return NO_MEMORY
        refusal = error if isinstance(error, OnnxvizError) else without_room(error)
        if refusal is None:
            raise
        from onnxviz.execution.workers.messages import Message, Refusal

        parent.say(Message(refused=Refusal.of(refusal)))
    return 0


def _answer(request: dict[str, Any], parent: Parent, defences: list[Any]) -> None:
    from onnxviz.confinement import Limits, confine_calls, confine_start

    limits, device = Limits(**request["limits"]), request["device"]
    write, read = ([Path(item) for item in request[name]] for name in ("write", "read"))
    arguments: dict[str, Any] = {}
    if request["first"] is not None:
        name, given = request["first"]
        limits, more, arguments = pkgutil.resolve_name(name)(limits, **given)
        read += more
    defences += confine_start(limits, write=write, read=read, device=device)
    threading.Thread(target=parent.listen, daemon=True).start()
    if device == "cuda":
        from onnxviz.execution.workers.torch_setup import load_torch

        load_torch()  # the driver starts helpers of its own
    defences += confine_calls(limits, device=device)

    from onnxviz.execution.workers.messages import Message, plain

    parent.say(Message(ready=tuple(defences), memory=limits.memory))
    # The parent wrote this; what comes from a stranger is in files that only this process opens.
    arguments |= pickle.loads(base64.b64decode(request["arguments"]))  # noqa: S301
    if name := request["given"]:
        arguments[name] = {"parent": parent, "progress": parent.progress}[name]
    parent.say(Message(answer=plain(pkgutil.resolve_name(request["do"])(**arguments))))


if __name__ == "__main__":
    main()
