"""What runs on a node of a cluster for each worker: it starts a confined process there and passes tasks on to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxviz.confinement import Defence, Limits
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, OutputError
from onnxviz.execution.store import Store
from onnxviz.execution.workers.limits import default_limits
from onnxviz.execution.workers.messages import Refusal
from onnxviz.execution.workers.pool import Died, Finished, Message, Progressed
from onnxviz.execution.workers.processes import ProcessPool
from onnxviz.execution.workers.tasks import Task
from onnxviz.recipe.recipe import Recipe

_PATIENCE = 0.5
SUGGESTED = 0
"""In the place of a limit of memory: as much as the machine suggests on which it is."""
Files = dict[str, dict[str, bytes]]
"""Key of a result -> name of a file -> what is in it."""


@dataclass(frozen=True)
class Answer:
    """How a task ended on a node, with the files of its result where the folder is not shared.

    All is None where it was not begun, because its process had died before.
    """

    ended: Died | Finished | None = None
    refused: Refusal | None = None
    files: dict[str, bytes] | None = None
    defences: tuple[Defence, ...] = ()


class Node:
    """Lives in an actor of the cluster; never opens a model, as little as the process that the user started.

    It is given the user's working folder, which paths in the recipe may be relative to, and variables for the worker
    process beside those of this machine.
    """

    def __init__(self, folder: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._pool: ProcessPool | None = None
        self._own: Path | None = None
        self._store = Store(Path())
        self._progress: Progressed | None = None
        self._over = -1
        self._closing = threading.Lock()

    def hello(self, paths: Sequence[str], token: str) -> dict[str, Any]:
        """Say where this is, which paths are missing, and what the token in the run folder says."""
        import ray

        try:
            said = Path(token).read_text(encoding="ascii")
        except (OSError, ValueError):
            said = ""
        return {
            "node": ray.get_runtime_context().get_node_id(),
            "name": f"{socket.gethostname()} ({_address()})",
            "pid": os.getpid(),
            "version": version("onnxviz"),
            "missing": [path for path in paths if not os.access(path, os.R_OK)],
            "token": said,
        }

    def digests(self, paths: Sequence[str]) -> list[str]:
        """Return the SHA-256 of files, as bytes: nothing is parsed."""
        return file_digests(paths)

    def begin(
        self,
        recipe: Recipe,
        folder: str | None,
        device: Device,
        limits: Limits | None,
        neighbours: int,
        planned: Mapping[str, str] | None = None,
    ) -> tuple[tuple[str, str], ...]:
        """Make ready for tasks, and return the limits in words; the process starts with the first task.

        Args:
            recipe: what it works on.
            folder: the run folder; None for one of its own, whose results are sent back.
            device: what it computes on.
            limits: what it is limited to; as this machine suggests if None, or its memory if that is `SUGGESTED`.
            neighbours: how many workers this machine has.
            planned: digests of the files that the run was planned for.
        """
        if folder is None:
            self._own = Path(tempfile.mkdtemp(prefix="onnxviz-"))
        run_folder = Path(folder) if folder is not None else self._own
        assert run_folder is not None
        self._store = Store(run_folder)
        suggested = default_limits(neighbours)
        limits = limits or suggested
        if limits.memory == SUGGESTED:
            limits = replace(limits, memory=suggested.memory)
        self._pool = ProcessPool(recipe, run_folder, device, limits, 1)
        self._pool.planned = planned
        return self._pool.limits

    def work(self, turn: int, task: Task, needed: Files) -> Answer:
        """Do a task, however long it takes, with results that it needs and that do not lie in a shared folder.

        The turn says which process it is meant for, counted from 0: what was sent to one that died is not begun.
        """
        if turn <= self._over:
            return Answer()
        try:
            return self._work(turn, task, needed)
        except OnnxvizError as error:
            return Answer(refused=Refusal.of(error))
        finally:
            self._progress = None

    def _work(self, turn: int, task: Task, needed: Files) -> Answer:
        assert self._pool is not None
        assert task.work is not None
        for key, stored in needed.items():
            self._store.move_in(key, stored)
        self._pool.send(0, task)
        ended: list[Died | Finished] = []

        def hear(message: Message) -> None:
            if isinstance(message, Progressed):
                self._progress = message
            elif isinstance(message, Finished | Died):
                ended.append(message)

        while not ended:
            self._pool.wait(_PATIENCE, hear)
        message = ended[0]
        files: dict[str, bytes] | None = None
        if isinstance(message, Died):
            self._over = turn
            self._pool.replace(0)
        elif self._own is not None and not message.outcome.error:
            files = files_of(self._store, task.work.key)
        if self._own is not None:  # the disk of a node is not ours to fill
            for key in self._store.stored_keys():
                shutil.rmtree(self._store.jobs / key, ignore_errors=True)
        return Answer(message, None, files, self._pool.defences)

    def progress(self) -> Progressed | None:
        """Return how far the task is; None without one."""
        return self._progress

    def close(self) -> None:
        """End the process and remove what it left."""
        with self._closing:
            if self._pool is not None:
                self._pool.close()
            if self._own is not None:
                shutil.rmtree(self._own, ignore_errors=True)


def _address() -> str:
    """Return this machine's address as Ray's nodes see it."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def files_of(store: Store, key: str) -> dict[str, bytes]:
    """Return the files of a result, as they are.

    Raises:
        OutputError: if they cannot be read.
    """
    folder = store.jobs / key
    try:
        # Who wrote them has opened a stranger's model: links are not followed.
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise OutputError(f"the result cannot be read: {error.strerror}", where=str(folder)) from error


def file_digests(paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of files; "" for what cannot be read."""
    found = []
    for path in paths:
        try:
            with Path(path).open("rb") as stream:
                found.append(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError:
            found.append("")
    return found
