"""Giving up what root can do beyond an ordinary user."""

from __future__ import annotations

import ctypes
import struct
import sys

from onnxviz.confinement.kernel import checked, forbid_new_privileges
from onnxviz.confinement.values import Defence

_VERSION_3 = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 in linux/capability.h: two words for each set."""
_DAC_OVERRIDE = 1 << 1
"""CAP_DAC_OVERRIDE: kept, because root in a container writes to run folders that belong to a user outside."""


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
