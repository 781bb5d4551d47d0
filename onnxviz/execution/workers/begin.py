"""The first thing that a worker process runs: it confines itself before anything else is loaded.

Run as a script, by its path: nothing of the package may be imported before the confinement, because libraries start
threads, and some limits bind only the threads that come after them.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Take the pipes to the parent, read the setup, confine this process, and serve."""
    # Nothing that a library prints may get between the messages.
    reading, writing = os.fdopen(os.dup(0), "rb"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    setup = json.loads(reading.readline())
    sys.path[:] = setup["path"]

    from pathlib import Path

    from onnxviz.confinement import Limits, confine_start

    limits = Limits(**setup["limits"])
    places = {name: [Path(item) for item in setup[name]] for name in ("write", "read")}
    defences = confine_start(limits, write=places["write"], read=places["read"], device=setup["device"])

    from onnxviz.execution.workers.child import serve

    serve(setup, limits, defences, reading, writing)


if __name__ == "__main__":
    main()
