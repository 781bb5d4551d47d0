"""The connection to a Ray cluster, or a Ray of our own where there is none, and how many workers it has room for."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from onnxviz.core.devices import Device, thread_count
from onnxviz.core.errors import OnnxvizError, beginning, one_line, shorten

_STORE_BYTES = 256 << 20
"""Object store of a Ray that is started here: a result passes through it, none stays."""
_SKIPPED = "RAY_DEDUP_LOGS_SKIP_REGEX"
"""Environment variable, read when Ray is imported: what Ray does not print here of what its nodes say."""


def import_ray() -> Any:
    """Import Ray.

    Raises:
        OnnxvizError: if it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is run here
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = "ray" not in sys.modules and _SKIPPED not in os.environ
    if quiet:  # else the deaths of workers, which are told of anyway, come to standard output between other things
        os.environ[_SKIPPED] = ".*"
    try:
        import ray
    except ImportError as error:
        raise OnnxvizError("--engine ray needs Ray", remedy='pip install "ray>=2.40"') from error
    finally:
        if quiet:
            del os.environ[_SKIPPED]
    return ray


def connect(ray: Any, workers: int | None) -> bool:
    """Connect to the cluster that this machine belongs to, or start a Ray of our own for so many workers.

    Returns:
        False if the user's program is connected already, so that it is not for us to end that.

    Raises:
        OnnxvizError: if the cluster that the user has named does not answer.
    """
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS", "auto")
    if address.startswith("ray://"):
        raise OnnxvizError("RAY_ADDRESS is that of a Ray client", remedy="start the run on a node of the cluster")
    try:
        if address != "local":
            ray.init(address=address, **quiet)
            return True
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address != "auto":
            raise OnnxvizError(
                f"no Ray cluster answers at {shorten(address)}: {beginning(one_line(error))}",
                remedy="unset RAY_ADDRESS to use this machine only",
            ) from error
    count = workers or 1
    cores = max(os.cpu_count() or 1, count * max(1, thread_count() // count))
    try:
        ray.init(address="local", num_cpus=cores, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except BaseException:
        ray.shutdown()
        raise
    return True


def room_for_workers(ray: Any, device: Device, memory: int | None, wanted: int | None) -> tuple[dict[str, Any], int]:
    """Return what each actor asks the cluster for, and how many there are to be: all that have room if None.

    Raises:
        OnnxvizError: if there is room for none.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need: dict[str, float] = {"GPU": 1.0}
    if device == "cpu":
        most = max(int(node.get("CPU", 0)) for node in nodes)
        total = sum(int(node.get("CPU", 0)) for node in nodes)
        need = {"CPU": float(max(1, min(thread_count(), most, total // (wanted or 1))))}
    if memory is not None and (memory := min(memory, int(max(node.get("memory", 0) for node in nodes)))):
        need["memory"] = float(memory)
    room = sum(int(min(node.get(name, 0) // amount for name, amount in need.items())) for node in nodes)
    if not room:
        what = "GPU" if device == "cuda" else "CPU"
        raise OnnxvizError(
            f"no node of the Ray cluster has a {what} for a worker",
            remedy="`ray status` shows what there is; choose another --device, or run without --engine ray",
        )
    options: dict[str, Any] = {"num_cpus": int(need.get("CPU", 1)), "num_gpus": int(need.get("GPU", 0))}
    if memory:
        options["memory"] = memory
    return options, min(wanted or room, room)
