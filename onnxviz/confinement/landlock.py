"""Which files a process may open: Landlock, an access control that any Linux process can put on itself.

Numbers and structures are those of linux/landlock.h; which version knows what is listed in the kernel's
documentation, "Landlock: unprivileged access control", section "Previous limitations".
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Sequence
from enum import IntFlag
from pathlib import Path

from onnxviz.confinement.kernel import architecture, forbid_new_privileges, system_call
from onnxviz.confinement.values import Defence

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_BIND_TCP, _CONNECT_TCP = 1, 2
_TRUNCATE_VERSION = 3
TCP_VERSION = 4
"""First version that can refuse TCP."""
SIGNAL_VERSION = 6
"""First version that can keep signals, and sockets with abstract names, inside."""
Right = IntFlag(
    "Right",
    "EXECUTE WRITE_FILE READ_FILE READ_DIR REMOVE_DIR REMOVE_FILE MAKE_CHAR MAKE_DIR MAKE_REG MAKE_SOCK MAKE_FIFO "
    "MAKE_BLOCK MAKE_SYM REFER TRUNCATE IOCTL_DEV",
)
"""LANDLOCK_ACCESS_FS_..., from the lowest bit on."""

_READ = Right.READ_FILE | Right.READ_DIR
_RUN = _READ | Right.EXECUTE
_FILE = Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE
# No links, pipes or sockets: whoever reads the folder later is not to be led elsewhere, or to wait for ever.
_WRITE = _READ | _FILE | Right.REMOVE_DIR | Right.REMOVE_FILE | Right.MAKE_DIR | Right.MAKE_REG | Right.REFER
_DEVICE = _FILE | Right.READ_DIR | Right.IOCTL_DEV
_ON_FILES = Right.EXECUTE | _FILE | Right.IOCTL_DEV
"""Rights that a rule for a single file may hold."""
_KNOWN = ((1, Right(2**13 - 1)), (2, Right.REFER), (3, Right.TRUNCATE), (5, Right.IOCTL_DEV))
"""Version -> rights that it brought."""


def version() -> int:
    """Return the version of the kernel's Landlock, 0 where there is none."""
    if not architecture():
        return 0
    try:
        return system_call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    except OSError:
        return 0


def restrict(*, write: Sequence[Path], read: Sequence[Path], network: bool, cuda: bool) -> Defence:
    """Let this thread, and all that it starts later, open only what is named.

    Args:
        write: folders to read and write in.
        read: files and folders to read, and to start programs from.
        network: TCP stays allowed.
        cuda: the devices of NVIDIA and shared memory stay allowed.

    Returns:
        The defence named "files".
    """
    if not architecture():
        return Defence("files", active=False, reason="there is no Landlock for this system")
    supported = version()
    if not supported:
        return Defence("files", active=False, reason="the kernel has no Landlock, or it is switched off")
    threads = sum(1 for _ in Path("/proc/self/task").iterdir())
    try:
        forbid_new_privileges()
        ruleset = _create(supported, network)
        try:
            known = rights_of(supported)
            _allow(ruleset, read, _RUN & known)
            _allow(ruleset, write, _WRITE & known)
            _allow_devices(ruleset, known, cuda)
            system_call(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError as error:
        return Defence("files", active=False, reason=f"Landlock {supported} refused: {error.strerror}")
    if threads > 1:
        return Defence("files", active=False, reason=f"{threads - 1} threads ran before, and are not bound by Landlock")
    old = "; before version 3 it does not keep files from being emptied" if supported < _TRUNCATE_VERSION else ""
    return Defence("files", active=True, how=f"Landlock {supported}{old}")


def rights_of(supported: int) -> Right:
    """Return the rights that a version of Landlock knows."""
    known = Right(0)
    for first, rights in _KNOWN:
        if supported >= first:
            known |= rights
    return known


def ruleset_attributes(supported: int, network: bool) -> bytes:
    """Return `struct landlock_ruleset_attr` as long as a version knows it: files, TCP, scopes."""
    words = [int(rights_of(supported))]
    if supported >= TCP_VERSION:
        words.append(0 if network else _BIND_TCP | _CONNECT_TCP)
    if supported >= SIGNAL_VERSION:
        words.append(_SCOPE_SIGNALS | (0 if network else _SCOPE_ABSTRACT_SOCKETS))
    return struct.pack(f"={len(words)}Q", *words)


def _create(supported: int, network: bool) -> int:
    attributes = ruleset_attributes(supported, network)
    return system_call(_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)


def _allow(ruleset: int, paths: Iterable[Path], rights: Right) -> None:
    """Add a rule for each path; what cannot be opened now is left out, and so stays closed."""
    for path in paths:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            rule = struct.pack("=Qi", int(rights if folder else rights & _ON_FILES), handle)
            system_call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
        except OSError as error:
            # Some file systems of the kernel itself cannot carry rules: closed as well.
            if error.errno not in (errno.EBADFD, errno.EBADF):
                raise
        finally:
            os.close(handle)


def _allow_devices(ruleset: int, known: Right, cuda: bool) -> None:
    devices = Path("/dev")
    _allow(ruleset, [devices / "null"], _FILE & known)
    _allow(ruleset, [devices / name for name in ("zero", "full", "random", "urandom")], Right.READ_FILE & known)
    if cuda:
        _allow(ruleset, [devices / "shm"], _WRITE & known)
        # /dev/dxg is the GPU where Linux runs below Windows.
        _allow(ruleset, [*sorted(devices.glob("nvidia*")), devices / "dxg"], _DEVICE & known)
