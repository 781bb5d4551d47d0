"""What memory there is, and which errors say that it did not suffice: real ones, provoked under a real limit."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.core import memory
from onnxviz.core.errors import DataError, MemoryLimitError, ModelError

LIMITED = pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on a process' data")

PROVOKE = """\
import resource, sys
import numpy as np, onnxruntime, torch
from onnx import TensorProto, helper
from onnxviz.core.memory import available_memory, is_device_failure, is_out_of_memory

torch.set_num_threads(1)
weights = helper.make_tensor("w", TensorProto.FLOAT, [64, 3, 3, 3], np.zeros(1728, np.float32).tobytes(), raw=True)
shape = [None] * 4
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(model.SerializeToString(), options)
images = np.zeros((4, 3, 600, 600), np.float32)
filters = torch.zeros(64, 3, 3, 3)
def used():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (used() + (100 << 20), resource.RLIM_INFINITY))
assert 90 << 20 < available_memory() <= 100 << 20, available_memory()
for name, provoke in {
    "python": lambda: bytearray(200 << 20),
    "numpy": lambda: np.ones(200 << 20, np.uint8),
    "torch": lambda: torch.ones(200 << 20, dtype=torch.uint8),
    "torch convolution": lambda: torch.nn.functional.conv2d(torch.from_numpy(images), filters),
    "onnxruntime": lambda: session.run(None, {"x": images}),
}.items():
    try:
        provoke()
    except Exception as error:
        print(name, is_out_of_memory(error), is_device_failure(error), type(error).__name__)
    else:
        print(name, "no error")
"""


@LIMITED
def test_what_libraries_raise_where_memory_does_not_suffice() -> None:
    done = subprocess.run([sys.executable, "-c", PROVOKE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = [line.rsplit(" ", 3) for line in done.stdout.splitlines()]
    assert [(name, memory_short, broken) for name, memory_short, broken, _ in said] == [
        (name, "True", "False") for name in ("python", "numpy", "torch", "torch convolution", "onnxruntime")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 36.00 MiB (GPU 0; 7.93 GiB total capacity)",
        "CUDA error: out of memory",
        "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; file=cuda_allocator.cc",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bad allocation",
        "bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
        "Failed to allocate memory for requested buffer of size 939524096",
        "Available memory of 1048576 is smaller than requested bytes of 939524096",
        "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate 9",
        "could not create a primitive",
        "could not create a memory object",
    ],
)
def test_messages_that_mean_too_little_memory(text: str) -> None:
    assert memory.is_out_of_memory(RuntimeError(text))
    assert not memory.is_device_failure(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: misaligned address",
        "CUDA error: the launch timed out and was terminated",
        "CUDA error: unknown error",
        "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_messages_that_mean_a_lost_device(text: str) -> None:
    wrapped = ModelError("ONNX Runtime fails")
    wrapped.__cause__ = RuntimeError(text)
    assert memory.is_device_failure(wrapped)
    assert not memory.is_out_of_memory(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the sizes of tensors must match"),
        RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
        RuntimeError("illegal instruction in the model's name"),
        OSError(errno.ENOSPC, "No space left on device"),
        KeyError("memory"),
    ],
)
def test_other_errors_mean_neither(error: Exception) -> None:
    assert not memory.is_out_of_memory(error)
    assert not memory.is_device_failure(error)


def test_what_led_to_an_error_counts() -> None:
    try:
        try:
            raise MemoryError
        except MemoryError as fault:
            raise DataError("images do not fit") from fault
    except DataError as error:
        wrapped = error
    assert memory.is_out_of_memory(wrapped)
    assert memory.is_out_of_memory(MemoryLimitError("too much"))
    assert memory.is_out_of_memory(OSError(errno.ENOMEM, "x"))
    loop = RuntimeError("a")
    loop.__cause__ = RuntimeError("b")
    loop.__cause__.__context__ = loop
    assert not memory.is_out_of_memory(loop)


def test_the_memory_of_processes() -> None:
    own = memory.resident_memory()
    assert own is not None
    assert own > 1 << 20
    total = memory.total_memory()
    assert own < total
    assert 0 < memory.available_memory() <= total
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert (memory.resident_memory(child.pid) or 0) > 0
        child.communicate(b"\n")
    assert memory.resident_memory(child.pid) is None


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def system(root: Path, groups: str, mounts: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text(mounts)


SECOND = "35 24 0:30 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
FIRST = "35 31 0:32 {} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    system(tmp_path, "0::/user/job\n", SECOND)
    top = tmp_path / "sys/fs/cgroup"
    group(top / "user", memory__max=1000, memory__current=700, memory__stat="anon 5\ninactive_file 50")
    group(top / "user/job", memory__max="max", memory__current=600)
    assert list(memory._groups(tmp_path)) == [(1000, 350)]
    group(top / "user/job", memory__max=800, memory__current=790, memory__stat="inactive_file 0")
    assert sorted(memory._groups(tmp_path)) == [(800, 10), (1000, 350)]


def test_control_groups_of_version_1_in_a_container(tmp_path: Path) -> None:
    # The container sees its own part of the tree as the mount; the path is that of the whole machine.
    system(tmp_path, "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n", FIRST.format("/docker/abc"))
    files = {"memory__limit_in_bytes": 500, "memory__usage_in_bytes": 450, "memory__stat": "total_inactive_file 25"}
    group(tmp_path / "sys/fs/cgroup/memory", **files)
    assert list(memory._groups(tmp_path)) == [(500, 75)]
    group(tmp_path / "sys/fs/cgroup/memory", memory__limit_in_bytes=9223372036854771712)
    assert list(memory._groups(tmp_path)) == []


def test_a_control_group_cannot_lead_out_of_its_mount(tmp_path: Path) -> None:
    system(tmp_path, "0::/../../../etc\n", SECOND)
    assert list(memory._groups(tmp_path)) == []
    assert list(memory._groups(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 << 30),
        ("500 MB", 500_000_000),
        ("1e9", 10**9),
        (" 2.5 kb ", 2500),
        ("4g", 4 << 30),
        (".5K", 512),
        (12, 12),
        (1e6, 10**6),
        ("0", 0),
        ("4503599627370497", 4503599627370497),
    ],
)
def test_sizes_are_read(text: str | float, size: int) -> None:
    assert memory.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "1 GiBs", "1e", "nan", "inf", "1e400", "9" * 40, True, -5, float("nan")]
)
def test_what_is_no_size_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="is no size; write bytes"):
        memory.parse_bytes(text)


@given(st.integers(0, 1 << 62))
def test_sizes_in_words_read_back(size: int) -> None:
    assert memory.parse_bytes(size) == memory.parse_bytes(str(size)) == size
    shown = memory.show_bytes(size)
    assert abs(memory.parse_bytes(shown) - size) <= 0.051 / 0.95 * max(size, 1)
    assert shown.partition(" ")[2] in ("B", "KiB", "MiB", "GiB", "TiB")


def test_sizes_in_words() -> None:
    assert [memory.show_bytes(size) for size in (0, 1023, 1024, 8 << 30, (1 << 30) - 1)] == [
        "0 B", "1023 B", "1.0 KiB", "8.0 GiB", "1.0 GiB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 16.0 TiB for an array with shape (17592186044416,)"), "16.0 TiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes."),
            "4.0 GiB",
        ),
        (RuntimeError("Failed to allocate memory for requested buffer of size 1073741824"), "1.0 GiB"),
    ],
)
def test_a_shortage_is_a_sentence_with_what_is_known(error: Exception, asked: str) -> None:
    said = memory.describe_shortage(error)
    assert said.startswith("memory ran out")
    assert "when the process had" in said
    assert not said.endswith((" ", ":"))
    if asked:
        assert f"{asked} more were asked for" in said
        assert "so that it needs at least" in said
    nested = RuntimeError("converting")
    nested.__cause__ = error
    assert (asked in memory.describe_shortage(nested)) or not asked


def test_a_gpu_has_memory_of_its_own() -> None:
    said = memory.describe_shortage(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."))
    assert said == "the GPU's memory ran out: 2.0 GiB more were asked for"


def test_the_size_that_is_worth_a_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_memory", lambda: 32 << 30)
    assert "--memory 2GiB " in memory.more_memory(1 << 30)
    assert "--memory 256MiB " in memory.more_memory(100 << 20)
    needed = (
        "memory ran out: 4.0 GiB more were asked for when the process had 100.0 MiB, so that it needs at least 4.1 GiB"
    )
    assert "--memory 8GiB " in memory.more_memory(1 << 30, needed)
    assert "more than this machine's 32.0 GiB" in memory.more_memory(1 << 30, needed.replace("4.1 GiB", "16.0 TiB"))
    assert "it may take more than this machine's 32.0 GiB" in memory.more_memory(31 << 30)  # the limit itself is less
