"""What runs on a node of a cluster for each worker: it starts a confined process there and passes tasks on to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnxviz.confinement import Limits
from onnxviz.core import results
from onnxviz.core.devices import Device
from onnxviz.core.errors import OnnxvizError, OutputError
from onnxviz.execution.store import Store
from onnxviz.execution.workers.limits import default_limits
from onnxviz.execution.workers.pool import Died, Finished, Message, Progressed
from onnxviz.execution.workers.processes import ProcessPool
from onnxviz.execution.workers.tasks import ChoiceTask, JobTask, ParityTask, Task, outcome_data, task_from
from onnxviz.recipe.recipe import Recipe

_PATIENCE = 0.5
SUGGESTED = 0
"""In the place of a limit of memory: as much as the machine suggests on which it is."""
Files = dict[str, dict[str, bytes]]
"""Key of a result -> name of a file -> what is in it."""


class Node:
    """Lives in an actor of the cluster; never opens a model, as little as the process that the user started.

    All answers are plain data.

    Args:
        folder: the user's working folder, which paths in the recipe may be relative to.
        environment: variables that the worker process gets, beside those of this machine.
    """

    def __init__(self, folder: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._pool: ProcessPool | None = None
        self._own: Path | None = None
        self._store = Store(Path())
        self._progress: tuple[int, int, str] | None = None
        self._told: list[dict[str, Any]] = []
        self._over = -1
        self._closing = threading.Lock()

    def hello(self, paths: Sequence[str], token: str) -> dict[str, Any]:
        """Say where this is, and what of that which a run needs is there.

        Args:
            paths: models and images.
            token: a file that the user's process has written into the run folder.
        """
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
        planned: dict[str, str] | None = None,
    ) -> list[list[str]]:
        """Make ready for tasks; the process starts with the first.

        Args:
            recipe: what it works on.
            folder: the run folder; None for one of its own, whose results are sent back.
            device: what it computes on.
            limits: what it is limited to; as this machine suggests if None, or its memory if that is `SUGGESTED`.
            neighbours: how many workers this machine has.
            planned: digests of the files that the run was planned for.

        Returns:
            The limits in words.
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
        return [list(pair) for pair in self._pool.limits]

    def work(self, turn: int, order: Mapping[str, Any], needed: Files) -> dict[str, Any]:
        """Do a task, however long it takes.

        Args:
            turn: which process it is meant for, counted from 0: what was sent to one that died is not begun.
            order: the task as JSON data.
            needed: results that it needs and that do not lie in a shared folder.

        Returns:
            How it ended, under "finished", "died", "stopped" or "late", with the files of its result where the folder
            is not shared, and with the process' defences where they are new.
        """
        if turn <= self._over:
            return {"late": True}
        try:
            return self._work(turn, task_from(order), needed)
        except OutputError as error:
            return {"stopped": {"what": error.what, "where": error.where, "remedy": error.remedy}}
        except OnnxvizError as error:
            return {"refused": {"what": error.what, "where": error.where, "remedy": error.remedy}}
        finally:
            self._progress = None

    def _work(self, turn: int, task: Task, needed: Files) -> dict[str, Any]:
        assert self._pool is not None
        for key, files in needed.items():
            self._store.move_in(key, files)
        self._pool.send(0, task)
        ended: dict[str, Any] = {}

        def hear(message: Message) -> None:
            if isinstance(message, Progressed):
                self._progress = (message.done, message.total, message.note)
            elif isinstance(message, Finished):
                ended["finished"] = outcome_data(message.outcome)
            elif isinstance(message, Died):
                ended["died"] = [message.kind, message.cause, message.details]

        while not ended:
            self._pool.wait(_PATIENCE, hear)
        if "died" in ended:
            self._over = turn
            self._pool.replace(0)
        elif not ended["finished"]["error"]:
            ended["files"] = self._result(task)
        if self._own is not None:  # the disk of a node is not ours to fill
            for key in self._store.stored_keys():
                shutil.rmtree(self._store.jobs / key, ignore_errors=True)
        defences = [results.encode(item) for item in self._pool.defences]
        if defences != self._told:
            self._told = ended["defences"] = defences
        return ended

    def _result(self, task: Task) -> dict[str, bytes] | None:
        return None if self._own is None else files_of(self._store, key_of_task(task))

    def progress(self) -> tuple[int, int, str] | None:
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


def key_of_task(task: Task) -> str:
    """Return the key under which a task's result is stored."""
    if isinstance(task, JobTask):
        return task.planned.key
    if isinstance(task, ChoiceTask):
        return task.choice.key
    return task.parity_check.key if isinstance(task, ParityTask) else task.key


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
