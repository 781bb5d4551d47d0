"""How much memory there is, what a process takes of it, and whether an error means that it did not suffice."""

from __future__ import annotations

import contextlib
import errno
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from onnxviz.core.errors import MemoryLimitError

_UNLIMITED = 1 << 60
"""A control group without a limit says a number above this."""
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_UNITS |= {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
"""What `ulimit`, Docker and SLURM write as a bare letter is a power of two."""
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")
_LARGEST = 1 << 62

_OUT_OF_MEMORY = (
    "out of memory",  # CUDA, HIP and MPS, in PyTorch's words and in ONNX Runtime's; cudaErrorMemoryAllocation
    "cudaerrormemoryallocation",
    "error_out_of_memory",
    "defaultcpuallocator",  # PyTorch on a CPU
    "not enough memory",  # the same on Windows
    "failed to allocate memory",  # ONNX Runtime's arena
    "bad allocation",  # C++ on Windows
    "bad_alloc",  # C++ elsewhere
    "failed to serialize proto",  # protobuf, of messages below its bound of 2 GiB
    "cannot allocate memory",  # the system
    "unable to allocate",  # NumPy, where only its text has come through
    "alloc_failed",  # CUDNN_STATUS_ALLOC_FAILED, CUBLAS_STATUS_ALLOC_FAILED
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED of cuDNN 9
    "could not create a memory",  # oneDNN, which does not say why
    "cublas_status_not_initialized when calling `cublascreate",  # no room for cuBLAS' own workspace
)
"""Parts of messages, in lower case."""
_ASKED = re.compile(
    r"(?:allocate|requested buffer of size|requested bytes of|requested bytes)\s*:?\s*"
    r"(\d+(?:\.\d+)?)\s*([KMGT]iB|bytes|)",
    re.IGNORECASE,
)
"""How NumPy ("Unable to allocate 16.0 TiB"), PyTorch and ONNX Runtime name what they asked for."""
_ARENA_FULL = ("available memory of", "is smaller than requested bytes")
"""ONNX Runtime's arena at its own limit says both."""
_NO_PRIMITIVE = re.compile(r"could not create a primitive(?! descriptor)")
"""What PyTorch says where oneDNN has no memory for a convolution; without a descriptor it is another fault."""

_DEVICE_FAILURES = (
    "illegal memory access", "device-side assert", "unspecified launch failure", "ecc error", "misaligned address",
    "illegal instruction", "invalid program counter", "hardware stack error", "on global/shared address space",
    "launch timed out", "unknown error", "driver shutting down", "context is destroyed", "device lost",
    # "Invalid access of peer GPU memory over nvlink or a hardware error"
    "contained or stopped", "invalid access of peer gpu memory",
    # cudaErrorIllegalAddress or CUDA_ERROR_ILLEGAL_ADDRESS, and so on
    "errorillegaladdress", "errorassert", "errorlaunchfail", "errorlaunchtimeout", "erroreccuncorrectable",
    "errormisalignedaddress", "errorillegalinstruction", "errorinvalidpc", "errorinvalidaddressspace",
    "errorhardwarestackerror",
    # CUBLAS_STATUS_EXECUTION_FAILED or CUDNN_STATUS_EXECUTION_FAILED
    "statusexecutionfailed",
)  # fmt: skip
"""Parts of messages, in lower case and without underscores."""
_DEVICES = ("cuda", "cudnn", "cublas", "hip", "gpu")


# --- how much there is ----------------------------------------------------------------------------------------------


def total_memory() -> int:
    """Return how many bytes this process could have if nothing else took any.

    The least of the machine's memory, the limits of the control groups that this process is in, and its own limits on
    data and address space.
    """
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits())])


def available_memory() -> int:
    """Return how many bytes this process can still take without swapping, being killed or being refused.

    The least of what the machine, each control group (file pages that are not in use count as free) and the process'
    limits on data and address space leave.
    """
    return max(0, min([int(psutil.virtual_memory().available), *(room for _, room in _limits())]))


def resident_memory(pid: int | None = None) -> int | None:
    """Return how many bytes of a process are in memory, this one's if `pid` is None; None if that is not known."""
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss) or None  # 0: it has ended
    return None


def data_memory() -> int | None:
    """Return how many bytes of this process a limit on its data counts, with its stack; None if that is not known."""
    return getattr(psutil.Process().memory_info(), "data", None)


def _limits() -> Iterator[tuple[int, int]]:
    """Yield each limit on this process' memory, and what is left of it."""
    yield from _groups(Path("/"))
    if sys.platform == "win32":
        return
    import resource

    used = psutil.Process().memory_info()
    for kind, taken in ((resource.RLIMIT_DATA, data_memory() or 0), (resource.RLIMIT_AS, used.vms)):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit, limit - taken


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit of each control group (version 1 or 2) that this process is in, and what is left of it.

    See "Memory Interface Files" in the kernel's admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/memory.rst.
    """
    own = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or "memory" in controllers.split(","):
            own["cgroup2" if number == "0" else "cgroup"] = path
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if len(fields) < 5 or len(kinds) < 3 or kinds[0] not in own:
            continue
        if kinds[0] == "cgroup" and "memory" not in kinds[2].split(","):
            continue
        base = fields[3].rstrip("/")  # what of the tree is mounted there: all, or the container's own part
        path = own[kinds[0]]
        inside = path.removeprefix(base) if path == base or path.startswith(f"{base}/") else ""
        mount = root / fields[4].lstrip("/")
        folder = mount / inside.strip("/") if ".." not in Path(inside).parts else mount
        for place in (folder, *folder.parents):
            yield from _group(place, second=kinds[0] == "cgroup2")
            if place == mount:
                break


def _group(folder: Path, *, second: bool) -> Iterator[tuple[int, int]]:
    limit = _number(folder / ("memory.max" if second else "memory.limit_in_bytes"))
    used = _number(folder / ("memory.current" if second else "memory.usage_in_bytes"))
    if limit is None or used is None or limit >= _UNLIMITED:
        return
    name = "inactive_file" if second else "total_inactive_file"
    found = re.search(rf"^{name} (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
    yield limit, limit - used + (int(found[1]) if found else 0)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8")
    return ""


# --- what an error means --------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that memory did not suffice, on a CPU or a GPU."""
    for fault in chain(error):
        if isinstance(fault, MemoryError | MemoryLimitError) or type(fault).__name__ == "OutOfMemoryError":
            return True
        if isinstance(fault, OSError) and fault.errno == errno.ENOMEM:
            return True
        said = str(fault).lower()
        if any(part in said for part in _OUT_OF_MEMORY) or all(part in said for part in _ARENA_FULL):
            return True
        if _NO_PRIMITIVE.search(said):
            return True
    return False


def describe_shortage(error: BaseException) -> str:
    """Return in a sentence how much memory was asked for, and how much the process had, as far as that is known.

    What libraries say of it is often nothing ("MemoryError: "), and never what would have sufficed.
    """
    asked = max((size for fault in chain(error) for size in _asked_for(str(fault))), default=0)
    if any(name in str(fault).lower() for fault in chain(error) for name in _DEVICES):
        return "the GPU's memory ran out" + (f": {show_bytes(asked)} more were asked for" if asked else "")
    used = resident_memory()
    had = f" when the process had {show_bytes(used)}" if used else ""
    if not asked:
        return f"memory ran out{had}"
    needed = f", so that it needs at least {show_bytes(asked + used)}" if used else ""
    return f"memory ran out: {show_bytes(asked)} more were asked for{had}{needed}"


def _asked_for(text: str) -> Iterator[int]:
    """Yield the sizes that a message says could not be allocated."""
    for number, unit in _ASKED.findall(text):
        with contextlib.suppress(ValueError):
            yield parse_bytes(f"{number} {'' if unit.lower().startswith('byte') else unit}")


def more_memory(limit: int, error: str = "", needed: int = 0) -> str:
    """Return what to do about a limit that did not suffice, with a size that is worth a try.

    It is at least what `describe_shortage` said in `error`, and at least `needed` bytes.
    """
    said_needed = re.search(r"needs at least ([\d.]+ [KMGT]?i?B)", error)
    wanted = max(2 * limit, needed, int(1.1 * parse_bytes(said_needed[1])) if said_needed else 0)
    size = 1 << 28
    while size < wanted:
        size *= 2
    if size > total_memory():
        return f"it may take more than this machine's {show_bytes(total_memory())}, so make the work smaller"
    said = f"{size >> 30}GiB" if size >= 1 << 30 else f"{size >> 20}MiB"
    return f"give it more, for example --memory {said} (and more in `limits:`, where the recipe sets it)"


def is_device_failure(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that a GPU failed so that this process can no longer use it.

    CUDA calls such an error sticky: every later call fails with it until the process is started anew (CUDA Runtime
    API, "Data types used by CUDA Runtime", cudaError).
    """
    for fault in chain(error):
        said = f"{type(fault).__name__}: {fault}".lower().replace("_", "")
        if any(name in said for name in _DEVICES) and any(part in said for part in _DEVICE_FAILURES):
            return True
    return False


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it, each once."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        fault = waiting.pop(0)
        if fault is not None and id(fault) not in seen:
            seen.add(id(fault))
            yield fault
            waiting += [fault.__cause__, fault.__context__]


# --- sizes in words -------------------------------------------------------------------------------------------------


def parse_bytes(text: str | float) -> int:
    """Read a size: a number of bytes, or a number with a unit such as "8GiB", "500 MB" or "4G".

    Args:
        text: kB, MB, GB and TB are powers of 1000; KiB, MiB, GiB, TiB and the letters K, M, G, T powers of 1024; the
            letters' case does not matter.

    Raises:
        ValueError: if it is no size.
    """
    advice = f"{text!r} is no size; write bytes, or a number with a unit such as 8GiB or 500MB"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(advice)
    if isinstance(text, str):
        found = _SIZE.fullmatch(text)
        if found is None or found[2].lower() not in _UNITS:
            raise ValueError(advice)
        whole = found[1].isdigit()
        value = (int(found[1]) if whole and len(found[1]) < 20 else float(found[1])) * _UNITS[found[2].lower()]
    else:
        value = text
    if not math.isfinite(value) or not 0 <= value <= _LARGEST:
        raise ValueError(advice)
    return int(value)


def show_bytes(size: float) -> str:
    """Return a size in words, such as "8.0 GiB"."""
    value, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.95:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
