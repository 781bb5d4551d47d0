"""System calls of Linux that Python has no functions for, and giving up what root can do beyond an ordinary user."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from onnxviz.confinement.values import Defence

_SET_NO_NEW_PRIVS = 38
"""PR_SET_NO_NEW_PRIVS in `man 2 prctl`."""
_VERSION_3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 in linux/capability.h: two words for each set."""
_DAC_OVERRIDE = 1 << 1
"""CAP_DAC_OVERRIDE: kept, because root in a container writes to run folders that belong to a user outside."""
AUDIT_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""Architecture -> AUDIT_ARCH_... in linux/audit.h, by which a filter tells whose call numbers it sees."""


def architecture() -> str:
    """Return "x86_64" or "aarch64", or "" where calls and structures are not known here."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return ""
    machine = os.uname().machine
    return machine if machine in AUDIT_ARCHITECTURES else ""


def system_call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call and return its result.

    Raises:
        OSError: as the kernel answers.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    passed = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    return checked(int(library.syscall(ctypes.c_long(number), *passed)))


def forbid_new_privileges() -> None:
    """Let no program that this process starts have more rights; Landlock and seccomp ask for it.

    Raises:
        OSError: if the kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    checked(library.prctl(_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero))


def checked(result: int) -> int:
    """Return what a call of the C library answered.

    Raises:
        OSError: if it failed.
    """
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def give_up() -> Defence:
    """Drop all capabilities but that of passing over a file's permissions, and let no program regain them.

    Among others this takes raising one's own limits, mounting, raw devices, and looking into the kernel's memory.
    """
    if sys.platform != "linux":
        return Defence("privileges", active=False, reason="only Linux has capabilities")
    try:
        forbid_new_privileges()
        _drop_capabilities()
    except OSError as error:
        return Defence("privileges", active=False, reason=f"the kernel refuses to drop capabilities: {error.strerror}")
    return Defence("privileges", active=True, how="no_new_privs, capabilities dropped")


def _drop_capabilities() -> None:
    library = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION_3, 0), 8)
    data = ctypes.create_string_buffer(24)
    checked(library.capget(header, data))
    effective, permitted, _, _, _, _ = struct.unpack("=6I", data.raw)
    kept = struct.pack("=6I", effective & _DAC_OVERRIDE, permitted & _DAC_OVERRIDE, 0, 0, 0, 0)
    checked(library.capset(header, ctypes.create_string_buffer(kept, 24)))
