"""What is asked of the confinement, and what became of it, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a process that opens a stranger's model may do and take.

    Attributes:
        memory: bytes of private writable memory of one process, libraries and the stacks of threads included; None: no
            bound. Holds on the CPU only: CUDA reserves far more than it uses.
        seconds: for one job, by the clock; None: no bound. Enforced by whoever waits for the process, carried here.
        file_bytes: largest file that it may write, in bytes; None: no bound. Writing beyond raises `OSError` (EFBIG).
        processes: 0: it may start none. Any other number: it may start others, confined like itself. Their number is
            not bounded, because the kernel counts the processes of a user, not those of a tree.
        network: it may open sockets.
        confine: False: no limits on files, network, privileges and processes at all; memory, file size and time stay.
    """

    memory: int | None = None
    seconds: float | None = None
    file_bytes: int | None = None
    processes: int = 0
    network: bool = False
    confine: bool = True


@dataclass(frozen=True)
class Defence:
    """One thing that a process is kept from.

    Attributes:
        name: what is defended, in plain words: "files", "network", "processes", "memory", ...
        active: it is, wholly.
        how: what does it, for example "Landlock 7", with what it leaves open.
        reason: why it does not, where it is not active.
    """

    name: str
    active: bool
    how: str = ""
    reason: str = ""
