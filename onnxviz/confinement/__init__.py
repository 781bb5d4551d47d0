"""Limits for processes that open strangers' models: what such a process may read, write, reach and take.

A process confines itself in two steps, and cannot undo them:

1. `confine_start`, before any other library is imported: libraries start threads, and Landlock binds only the thread
   that asks for it and what that thread starts later. Libraries can still be loaded afterwards.
2. `confine_calls`, once the libraries are loaded and before the model is opened: a filter of system calls for all
   threads.

Both return what they did as plain data, and what the system did not let them do, with the reason; they never raise.
Whether a missing defence is acceptable is for the caller to decide. For that reason this package needs nothing but the
standard library, and can be imported on every system.

Example:
    >>> limits = Limits(memory=4 << 30, file_bytes=1 << 30)
    >>> defences = confine_start(limits, write=[run_folder], read=[model_file], device="cpu")
    >>> import torch
    >>> defences += confine_calls(limits, device="cpu")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxviz.confinement import kernel, landlock, resources, seccomp
from onnxviz.confinement.environment import clean_environment
from onnxviz.confinement.folders import exposed_homes, home_folders, readable_paths
from onnxviz.confinement.values import Defence, Limits

__all__ = ["Defence", "Limits", "clean_environment", "confine_calls", "confine_start"]

_OFF = "confinement is switched off"


def confine_start(limits: Limits, *, write: Sequence[Path], read: Sequence[Path], device: str) -> tuple[Defence, ...]:
    """Confine this process in what it may read, write and take; first thing in a new process.

    Reading is allowed everywhere but in home folders, the runtime folders of users and services, and devices. The
    folders of Python, `read` and `write` are allowed wherever they are. Writing is allowed below `write` only; neither
    links nor pipes can be made there, so that whoever reads the results later is not led elsewhere.

    Args:
        limits: what the process may do.
        write: folders that it may write in, its folder for temporary files among them; what does not exist is skipped.
        read: files and folders that it needs and that may lie in a home folder; what does not exist is skipped.
        device: "cpu" or "cuda..."; CUDA needs its devices and shared memory, and more address space than it uses.

    Returns:
        One `Defence` each for files, secrets in the home folder, privileges, memory and file size.
    """
    cuda = device.startswith("cuda")
    taken = (resources.limit_memory(limits.memory, cuda=cuda), resources.limit_file_size(limits.file_bytes))
    resources.forbid_core_dumps()
    if not limits.confine:
        names = ("files", "secrets in the home folder", "privileges")
        return (*(Defence(name, active=False, reason=_OFF) for name in names), *taken)
    # Where the home folders are may be answered by a network service: ask before anything is closed.
    homes = home_folders()
    allowed = readable_paths(read, homes) if landlock.version() else ()
    exposed = exposed_homes((*allowed, *write), homes)
    kept = kernel.give_up()
    files = landlock.restrict(write=write, read=allowed, network=limits.network, cuda=cuda)
    secrets = Defence("secrets in the home folder", active=files.active, how=files.how, reason=files.reason)
    if files.active and exposed:
        secrets = Defence(secrets.name, active=False, reason=f"{exposed[0]} was given to the process, and holds it")
    return (files, secrets, kept, *taken)


def confine_calls(limits: Limits, *, device: str) -> tuple[Defence, ...]:
    """Take from all threads of this process the system calls that no analysis needs; after `confine_start`.

    A refused call fails with "operation not permitted", as it does for a user without the right, so that libraries
    fall back and Python raises `PermissionError`.

    Args:
        limits: what the process may do.
        device: "cpu" or "cuda..."; CUDA talks to its own services through sockets of this machine, which stay open.

    Returns:
        One `Defence` each for network, processes and other processes.
    """
    names = ("network", "processes", "other processes")
    if not limits.confine:
        return tuple(Defence(name, active=False, reason=_OFF) for name in names)
    local = device.startswith("cuda")
    fault = seccomp.install(network=limits.network, processes=limits.processes > 0, local_sockets=local)
    return (_network(limits, fault, local), _processes(limits, fault), _others(fault))


def _network(limits: Limits, fault: str, local: bool) -> Defence:
    if limits.network:
        return Defence("network", active=False, reason="allowed by the limits")
    if fault:
        if landlock.version() >= landlock.TCP_VERSION:
            fault += "; Landlock refuses TCP, but not UDP and the sockets of this machine"
        return Defence("network", active=False, reason=fault)
    kept = "; sockets of this machine (AF_UNIX) stay open for CUDA" if local else ""
    return Defence("network", active=True, how=f"seccomp{kept}")


def _processes(limits: Limits, fault: str) -> Defence:
    if limits.processes > 0:
        reason = "allowed by the limits; what it starts is confined as well, but not counted"
        return Defence("processes", active=False, reason=reason)
    return Defence("processes", active=not fault, how="" if fault else "seccomp", reason=fault)


def _others(fault: str) -> Defence:
    """Signals to other processes, and looking into them."""
    scoped = landlock.version() >= landlock.SIGNAL_VERSION
    if fault:
        if scoped:
            fault += "; Landlock refuses signals"
        return Defence("other processes", active=False, reason=fault)
    return Defence("other processes", active=True, how="seccomp, Landlock" if scoped else "seccomp")
