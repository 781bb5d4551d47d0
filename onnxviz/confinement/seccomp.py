"""Which system calls a process may make: a filter that the kernel asks before each call.

The filter is a program of the kernel's packet filter (`man 2 seccomp`, linux/filter.h) that reads the number of the
call and its arguments, but nothing that an argument points to. Numbers are those of the kernel's tables
(arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h for aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from onnxviz.confinement.kernel import AUDIT_ARCHITECTURES, architecture, forbid_new_privileges, system_call

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_JUMP_BITS = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`; arguments have 8 bytes, of which the lower 4 come first."""
_ALLOW, _ERROR, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_SET_FILTER, _ALL_THREADS = 1, 1
_X32 = 0x40000000
"""Bit of the calls of x32, a second table of numbers on x86_64 that nothing here uses."""

_CLONE_THREAD, _CLONE_NEWUSER = 0x00010000, 0x10000000
_AF_UNIX = 1
_TERMINAL_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: typing into the terminal that started this process."""

_NUMBERS = {
    # name: (x86_64, aarch64), None where there is no such call
    "seccomp": (317, 277),
    # starting programs
    "fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435),
    "execve": (59, 221), "execveat": (322, 281),
    # sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242),
    # other processes
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "prlimit64": (302, 261), "ioctl": (16, 29),
    # permissions, owners and times of files, which Landlock does not guard
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setxattrat": (463, 463), "removexattrat": (466, 466), "file_setattr": (469, 469),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    # calls made on behalf of the process that no filter sees
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # memory, queues and semaphores shared with whoever knows their number; their bytes count for nobody
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193),
    "semctl": (66, 191), "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188),
    "msgctl": (71, 187), "mq_open": (240, 180), "mq_unlink": (241, 181),
    # keys of the user that the kernel keeps
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    # the system itself, and the parts of the kernel in which most faults were found
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "mount": (165, 40),
    "umount2": (166, 39), "unshare": (272, 97), "setns": (308, 268), "pivot_root": (155, 41), "chroot": (161, 51),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "fanotify_init": (300, 262), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None),
}  # fmt: skip
_STARTING = ("fork", "vfork", "execve", "execveat")
_SOCKETS = ("socketpair", "connect", "bind", "listen", "accept", "accept4")
_TO_ITSELF = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
"""Calls whose first argument is the process that they are for."""
_SPECIAL = {"seccomp", "clone", "clone3", "socket", "prlimit64", "ioctl", *_STARTING, *_SOCKETS, *_TO_ITSELF}
_NEVER = tuple(name for name in _NUMBERS if name not in _SPECIAL)
"""Refused whatever the limits are."""

Instruction = tuple[int, int, int, int]
"""Code, jump where true, jump where false, constant."""


def install(*, network: bool, processes: bool, local_sockets: bool) -> str:
    """Filter the system calls of all threads of this process from now on.

    Args:
        network: sockets may be opened.
        processes: other programs may be started.
        local_sockets: sockets of this machine (AF_UNIX) may be opened.

    Returns:
        "", or the reason why there is no filter.
    """
    machine = architecture()
    if not machine:
        return "there is no filter of system calls for this system"
    instructions = program(machine, os.getpid(), network=network, processes=processes, local_sockets=local_sockets)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in instructions))
    # struct sock_fprog: a count, padding up to the pointer, the pointer
    filters = struct.pack("=H6xQ", len(instructions), ctypes.addressof(code))
    try:
        forbid_new_privileges()
        number = _number("seccomp", machine)
        assert number is not None
        thread = system_call(number, _SET_FILTER, _ALL_THREADS, ctypes.create_string_buffer(filters, len(filters)))
    except OSError as error:
        return f"the kernel refuses a filter of system calls: {error.strerror}"
    return f"thread {thread} cannot be given the filter" if thread else ""


def program(
    machine: str, process: int, *, network: bool, processes: bool, local_sockets: bool
) -> tuple[Instruction, ...]:
    """Return the filter's program for a machine ("x86_64" or "aarch64") and a process, which may signal itself.

    With `processes`, other programs may be started and may send signals among themselves.
    """
    code: list[Instruction] = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, AUDIT_ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]

    def refuse(*names: str, error: int = errno.EPERM) -> None:
        for name in names:
            number = _number(name, machine)
            if number is not None:
                code.extend([(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | error)])

    def refuse_by(name: str, argument: int, jump: int, values: tuple[int, ...], *, where: bool) -> None:
        """Refuse a call where `jump` is, or is not, true of its argument and one of the values."""
        number = _number(name, machine)
        if number is None:
            return
        last = len(values) - 1
        # After the tests comes the refusal, and after that what goes on.
        tests = [
            (jump, last - i if where else last - i + 1, int(where and i == last), value)
            for i, value in enumerate(values)
        ]
        body = [
            (_LOAD_WORD, 0, 0, _ARGUMENTS + 8 * argument),
            *tests,
            (_RETURN, 0, 0, _ERROR | errno.EPERM),
            (_LOAD_WORD, 0, 0, _NUMBER),
        ]
        code.extend([(_JUMP_EQUAL, 0, len(body), number), *body])

    refuse(*_NEVER)
    refuse_by("ioctl", 1, _JUMP_EQUAL, _TERMINAL_INPUT, where=True)
    # Its flags lie in memory, where a filter cannot look: without it the C library uses clone.
    refuse("clone3", error=errno.ENOSYS)
    if processes:
        refuse_by("clone", 0, _JUMP_BITS, (_CLONE_NEWUSER,), where=True)
    else:
        refuse(*_STARTING)
        refuse_by("clone", 0, _JUMP_BITS, (_CLONE_THREAD,), where=False)
        for name in _TO_ITSELF:
            refuse_by(name, 0, _JUMP_EQUAL, (process,), where=False)
        refuse_by("prlimit64", 0, _JUMP_EQUAL, (0, process), where=False)
    if not network:
        if local_sockets:
            refuse_by("socket", 0, _JUMP_EQUAL, (_AF_UNIX,), where=False)
            refuse_by("socketpair", 0, _JUMP_EQUAL, (_AF_UNIX,), where=False)
        else:
            refuse("socket", *_SOCKETS)
    code.append((_RETURN, 0, 0, _ALLOW))
    return tuple(code)


def _number(name: str, machine: str) -> int | None:
    return _NUMBERS[name][0 if machine == "x86_64" else 1]
