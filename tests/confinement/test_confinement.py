"""What a confined process cannot do, each attack in a process of its own, and that nothing else stops it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from worker_runs import PATIENCE

from onnxviz.confinement import Limits, confine_calls, landlock, seccomp
from onnxviz.confinement.kernel import architecture

PACKAGE = Path(landlock.__file__).parent.parent
ROOT = hasattr(os, "getuid") and os.getuid() == 0
LANDLOCK = landlock.version()

needs_linux = pytest.mark.skipif(not architecture(), reason="confinement is written for Linux on x86_64 and aarch64")
needs_landlock = pytest.mark.skipif(not LANDLOCK, reason="the kernel has no Landlock, or it is switched off")

PRELUDE = """
import errno, json, os, socket, sys, threading
from pathlib import Path
from onnxviz.confinement import Limits, confine_calls, confine_start
told = json.loads(sys.argv[1])
run, outside, home = Path(told["run"]), Path(told["outside"]), Path(told["home"])
limits = Limits(**told["limits"])
confined = told["confined"]
defences = []
def start(write=(run,), read=(), device="cpu"):
    if confined:
        defences.extend(confine_start(limits, write=list(write), read=list(read), device=device))
def calls(device="cpu"):
    if confined:
        defences.extend(confine_calls(limits, device=device))
def confine():
    start()
    calls()
def told_by(action):
    try:
        action()
        return "done"
    except OSError as error:
        return f"{type(error).__name__} {errno.errorcode.get(error.errno, error.errno)}"
    except MemoryError:
        return "MemoryError"
"""
SAY = """
print(json.dumps({"result": told_by(attack), "defences": [vars(defence) for defence in defences]}))
"""


@dataclass
class Place:
    """Folders of one attack: where the process may write, where not, and a home folder with a secret."""

    folder: Path
    limits: dict[str, Any] = field(default_factory=dict)

    def run(self, script: str, *, confined: bool = True, libraries: bool = False, **environment: str) -> dict[str, Any]:
        """Run a script that ends in a function `attack`, in new folders, and return what it said.

        Without installed libraries Python starts in half the time.
        """
        base = self.folder / ("confined" if confined else "free")
        for name in ("run/inner", "outside", "home/inner"):
            (base / name).mkdir(parents=True)
        for name in ("run", "outside", "home"):
            (base / name / "secret").write_text("a secret\n")
        told = {"limits": self.limits, "confined": confined}
        told |= {name: str(base / name) for name in ("run", "outside", "home")}
        finished = subprocess.run(
            [
                sys.executable,
                "-P" if libraries else "-PS",
                "-c",
                PRELUDE + textwrap.dedent(script) + SAY,
                json.dumps(told),
            ],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=PATIENCE,
            cwd=base,
            env={
                "PATH": os.defpath,
                "HOME": str(base / "home"),
                "PYTHONPATH": str(PACKAGE.parent),
                "TMPDIR": str(base / "run"),
                **environment,
            },
        )
        assert finished.returncode == 0, finished.stderr
        answer: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
        answer["base"] = base
        return answer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(Path(os.path.realpath(tmp_path)))


FILE_ATTACKS = {
    "write a new file": '(outside / "new").write_text("x")',
    "overwrite a file": '(outside / "secret").write_text("x")',
    "append to a file": 'open(outside / "secret", "a").write("x")',
    "empty a file": 'os.truncate(outside / "secret", 0)',
    "delete a file": '(outside / "secret").unlink()',
    "make a folder": '(outside / "folder").mkdir()',
    "move a file out": '(run / "secret").rename(outside / "moved")',
    "move a file in": '(outside / "secret").rename(run / "moved")',
    "reach out by ..": '(run / ".." / "outside" / "new").write_text("x")',
    "make a link in the run folder": '(run / "link").symlink_to(outside / "secret")',
    "make a second name of a file": 'os.link(outside / "secret", run / "name")',
    "make a pipe in the run folder": 'os.mkfifo(run / "pipe")',
    "read a file in the home folder": '(home / "secret").read_text()',
    "list the home folder": "os.listdir(home)",
    "read the home folder through /proc": 'open(f"/proc/self/root{home}/secret").read()',
    "open a device": 'os.open("/dev/ptmx", os.O_RDWR)',
    "read the environment of the parent": 'open(f"/proc/{os.getppid()}/environ").read()',
}


@needs_linux
@needs_landlock
@pytest.mark.parametrize("name", FILE_ATTACKS)
def test_files(place: Place, name: str) -> None:
    if name == "empty a file" and LANDLOCK < 3:
        pytest.skip("Landlock keeps files from being emptied from version 3 on")
    attack = f"start()\ndef attack():\n    {FILE_ATTACKS[name]}"
    assert place.run(attack, confined=False)["result"] == "done"
    answer = place.run(attack)
    # Moving and linking across what may and what may not be written is "another device" to Landlock.
    assert answer["result"] in ("PermissionError EACCES", "OSError EXDEV"), answer
    for folder in ("run", "outside", "home"):
        assert (answer["base"] / folder / "secret").read_text() == "a secret\n"
    assert {path.name for path in (answer["base"] / "outside").iterdir()} == {"secret"}
    assert {path.name for path in (answer["base"] / "run").iterdir()} == {"secret", "inner"}


CALL_ATTACKS = {
    "internet socket": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "datagrams": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
    "local socket": "socket.socket(socket.AF_UNIX)",
    "pair of sockets": "socket.socketpair()",
    "socket of the kernel": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "fork": "os.fork() or os._exit(0)",
    "another program": 'subprocess.run(["true"], check=True)',
    "another program by spawn": 'os.posix_spawn("/bin/true", ["true"], {})',
    "become another program": 'os.execv("/bin/echo", ["echo", json.dumps({"result": "done"})])',
    "signal the parent": "os.kill(os.getppid(), 0)",
    "signal the group": "signal.signal(signal.SIGURG, signal.SIG_IGN), os.kill(0, signal.SIGURG)",
    "limits of the parent": "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)",
    "permissions of a file outside": '(outside / "secret").chmod(0o777)',
    "times of a file outside": 'os.utime(outside / "secret", (0, 0))',
    "permissions by an open file": 'os.fchmod(os.open(outside / "secret", os.O_RDONLY), 0o777)',
}


@needs_linux
@pytest.mark.parametrize("name", CALL_ATTACKS)
def test_calls(place: Place, name: str) -> None:
    attack = f"import resource, signal, subprocess\nconfine()\ndef attack():\n    {CALL_ATTACKS[name]}"
    assert place.run(attack, confined=False)["result"] == "done"
    answer = place.run(attack)
    assert answer["result"] == "PermissionError EPERM", answer
    defences = {each["name"]: each for each in answer["defences"]}
    assert defences["network"] == {"name": "network", "active": True, "how": "seccomp", "reason": ""}
    assert defences["processes"]["active"]
    assert defences["other processes"]["active"]


RAW = """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if library.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
"""


@needs_linux
@pytest.mark.parametrize(
    ("call", "arguments", "free", "expected"),
    [
        ("clone3", "0, 0", "EINVAL", "ENOSYS"),  # its flags cannot be seen: the C library uses clone instead
        ("io_uring_setup", "0, 0", "EFAULT", "EPERM"),  # its requests pass no filter
        ("ioctl", "0, 0x5412, 0", "ENOTTY", "EPERM"),  # typing into the terminal
        ("ioctl", "0, 0x5401, 0", "ENOTTY", "ENOTTY"),  # asking whether it is one
        ("keyctl", "0, 99999999, 0", "ENOKEY", "EPERM"),
        ("unshare", "0x7fffffff", "EINVAL", "EPERM"),
        ("shmget", "0, 0, 0", "EINVAL", "EPERM"),  # memory that is shared with others and counted for nobody
        ("ptrace", "16, 0, 0, 0", "ESRCH", "EPERM"),
    ],
)
def test_calls_that_python_has_no_function_for(
    place: Place, call: str, arguments: str, free: str, expected: str
) -> None:
    number = seccomp._number(call, architecture())
    attack = f"{RAW}\nconfine()\ndef attack():\n    call({number}, {arguments})"
    without = place.run(attack, confined=False)["result"].split()[-1]
    if without != free:
        pytest.skip(f"{call} answers {without} here without confinement")
    assert place.run(attack)["result"].split()[-1] == expected


@needs_linux
@needs_landlock
def test_landlock_alone_refuses_tcp(place: Place) -> None:
    if LANDLOCK < landlock.TCP_VERSION:
        pytest.skip(f"Landlock refuses TCP from version {landlock.TCP_VERSION} on")
    attack = 'start()\ndef attack():\n    socket.socket().bind(("127.0.0.1", 0))'
    assert place.run(attack, confined=False)["result"] == "done"
    assert place.run(attack)["result"] == "PermissionError EACCES"


@needs_linux
@pytest.mark.skipif(not ROOT, reason="only root has rights to give up")
def test_root_gives_up_its_rights(place: Place) -> None:
    for attempt in ("os.setgroups([12345])", "os.nice(-1)", "os.chown(outside / 'secret', 1, 1)"):
        attack = f"start()\ndef attack():\n    {attempt}"
        place.folder /= "next"
        if place.run(attack, confined=False)["result"] != "done":
            pytest.skip(f"this root may not do {attempt}")
        assert place.run(attack)["result"] == "PermissionError EPERM"


@needs_linux
@needs_landlock
@pytest.mark.skipif(not ROOT, reason="only root can open disks")
def test_root_cannot_open_disks(place: Place) -> None:
    disks = [str(path) for path in sorted(Path("/dev").iterdir()) if path.is_block_device()]
    attack = f"""
        start()
        def attack():
            answers = [told_by(lambda: os.close(os.open(disk, os.O_RDONLY))) for disk in {disks}]
            assert confined or "done" in answers, answers
            assert not confined or set(answers) <= {{"PermissionError EACCES", "PermissionError EPERM"}}, answers
    """
    if not disks:
        pytest.skip("there is no disk to open")
    assert place.run(attack, confined=False)["result"] == "done"
    assert place.run(attack)["result"] == "done"


@needs_linux
def test_memory(place: Place) -> None:
    place.limits = {"memory": 300 << 20}
    attack = "confine()\nattack = lambda: bytearray(400 << 20)"
    assert place.run(attack, confined=False)["result"] == "done"
    answer = place.run(attack)
    assert answer["result"] == "MemoryError"
    assert {"name": "memory", "active": True, "how": "RLIMIT_DATA 300.0 MiB", "reason": ""} in answer["defences"]
    place.folder /= "cuda"
    answer = place.run('start(device="cuda:0")\nattack = lambda: bytearray(400 << 20)')
    assert answer["result"] == "done"
    assert [each["active"] for each in answer["defences"] if each["name"] == "memory"] == [False]


@needs_linux
def test_file_size(place: Place) -> None:
    # Files have a bound even where confinement is switched off.
    place.limits = {"file_bytes": 1 << 20, "confine": False}
    attack = 'confine()\nattack = lambda: (run / "large").write_bytes(bytes(2 << 20))'
    assert place.run(attack, confined=False)["result"] == "done"
    answer = place.run(attack)
    assert answer["result"] == "OSError EFBIG"
    assert (answer["base"] / "run/large").stat().st_size <= 1 << 20
    active = {each["name"]: each["active"] for each in answer["defences"]}
    assert active.pop("file size")
    assert not any(active.values())


@needs_linux
@needs_landlock
def test_what_a_confined_process_can_do(place: Place) -> None:
    place.limits = {"memory": 1 << 30, "file_bytes": 1 << 20}
    answer = place.run("""
        import resource, signal, tempfile
        (home / "model.onnx").write_text("a model")
        (home / "inner" / "weights").write_text("weights")
        start(read=[home / "model.onnx", home / "inner", home / "absent"], write=[run, home / "nowhere"])
        def once_more():
            while not told_to_go.wait(0.01):
                pass
            refused.append(told_by(lambda: socket.socket()))
        refused, told_to_go = [], threading.Event()
        before = threading.Thread(target=once_more)
        before.start()
        calls()
        told_to_go.set()
        before.join()
        def attack():
            assert refused == ["PermissionError EPERM"], refused  # threads from before have the filter too
            after = threading.Thread(target=lambda: refused.append(1))
            after.start()
            after.join()
            assert refused[1:] == [1]
            (run / "file").write_text("x" * 100)
            (run / "file").rename(run / "inner" / "file")
            (run / "inner" / "file").write_text("y")
            (run / "inner" / "file").unlink()
            (run / "inner").rmdir()
            with tempfile.TemporaryFile() as file:
                file.write(b"x")
            assert (home / "model.onnx").read_text() == "a model"
            assert (home / "inner" / "weights").read_text() == "weights"
            assert os.listdir("/usr") and os.urandom(1)
            with open("/dev/null", "w") as null:
                null.write("x")
            heard = []
            signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
            signal.raise_signal(signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert len(heard) == 2
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
            assert told_by(lambda: (home / "secret").read_text()) == "PermissionError EACCES"
    """)
    assert answer["result"] == "done"
    assert all(each["active"] and each["how"] and not each["reason"] for each in answer["defences"])
    names = [each["name"] for each in answer["defences"]]
    assert names == [
        "files", "secrets in the home folder", "privileges", "memory", "file size",
        "network", "processes", "other processes",
    ]  # fmt: skip


@needs_linux
@needs_landlock
def test_the_libraries_work(place: Place) -> None:
    model = PACKAGE / "data" / "builtin" / "scenes.onnx"
    assert model.is_file()
    place.limits = {"memory": 4 << 30, "file_bytes": 1 << 20}
    answer = place.run(
        f"""
        start()
        assert "numpy" not in sys.modules and len(os.listdir("/proc/self/task")) == 1
        import numpy, onnxruntime
        calls()
        import torch
        from PIL import Image
        def attack():
            before = len(os.listdir("/proc/self/task"))
            x = torch.randn(600, 600, requires_grad=True)
            (x @ x).sum().backward()
            assert x.grad.isfinite().all() and torch.get_num_threads() == 2
            assert len(os.listdir("/proc/self/task")) > before
            session = onnxruntime.InferenceSession({str(model)!r}, providers=["CPUExecutionProvider"])
            entry = session.get_inputs()[0]
            shape = [size if isinstance(size, int) else 1 for size in entry.shape]
            assert numpy.isfinite(session.run(None, {{entry.name: numpy.zeros(shape, numpy.float32)}})[0]).all()
            Image.new("RGB", (8, 8)).save(run / "picture.png")
            assert Image.open(run / "picture.png").size == (8, 8)
            numpy.savez(run / "arrays.npz", x=x.detach().numpy()[:10])
            for attempt in (lambda: torch.empty(6 << 30, dtype=torch.uint8), lambda: numpy.ones(6 << 30, numpy.uint8)):
                try:
                    attempt()
                except (RuntimeError, MemoryError) as error:
                    assert "memory" in str(error) or "allocate" in str(error), error
                else:
                    raise AssertionError("memory beyond the limit")
            attempts = (lambda: socket.socket(), os.fork, lambda: (outside / "new").write_text("x"))
            assert all(told_by(attempt).startswith("PermissionError") for attempt in attempts)
        """,
        libraries=True,
        OMP_NUM_THREADS="2",
    )
    assert answer["result"] == "done"


@needs_linux
@needs_landlock
def test_processes_and_network_when_allowed(place: Place) -> None:
    place.limits = {"processes": 2, "network": True}
    answer = place.run("""
        import subprocess
        confine()
        def attack():
            server = socket.create_server(("127.0.0.1", 0))
            socket.create_connection(server.getsockname()).close()
            assert subprocess.run(["true"]).returncode == 0
            # What it starts is confined too.
            command = f"echo x > {outside}/new || cat {home}/secret"
            program = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
            assert program.returncode != 0 and program.stderr.count("denied") == 2, program
            assert told_by(lambda: os.kill(os.getppid(), 0)) == "PermissionError EPERM"
    """)
    assert answer["result"] == "done"
    inactive = {each["name"]: each["reason"] for each in answer["defences"] if not each["active"]}
    assert inactive.keys() == {"network", "processes", "memory", "file size"}
    assert inactive["network"] == "allowed by the limits"


@needs_linux
def test_local_sockets_stay_open_for_cuda(place: Place) -> None:
    answer = place.run("""
        start(device="cuda:0")
        calls(device="cuda:0")
        def attack():
            socket.socketpair()
            socket.socket(socket.AF_UNIX)
            assert told_by(lambda: socket.socket(socket.AF_INET)) == "PermissionError EPERM"
            assert told_by(lambda: socket.socket(socket.AF_NETLINK)) == "PermissionError EPERM"
            assert not confined or told_by(lambda: open("/dev/shm/onnxviz-test", "w").close()) == "done"
            os.unlink("/dev/shm/onnxviz-test")
    """)
    assert answer["result"] == "done"
    assert "AF_UNIX" in next(each["how"] for each in answer["defences"] if each["name"] == "network")


@needs_linux
@needs_landlock
def test_a_home_folder_that_is_given_is_said_to_be_open(place: Place) -> None:
    answer = place.run('start(read=[home])\nattack = lambda: (home / "secret").read_text()')
    assert answer["result"] == "done"
    secrets = next(each for each in answer["defences"] if each["name"].startswith("secrets"))
    assert not secrets["active"]
    assert f"{answer['base']}/home was given" in secrets["reason"]


@needs_linux
@needs_landlock
def test_a_searched_folder_does_not_open_the_home_folder(place: Place) -> None:
    attack = 'sys.path.append(str(home))\nstart()\nattack = lambda: (home / "secret").read_text()'
    assert place.run(attack)["result"] == "PermissionError EACCES"
    place.folder /= "inner"
    attack = 'sys.path.append(str(home / "inner"))\nstart()\nattack = lambda: os.listdir(home / "inner")'
    assert place.run(attack)["result"] == "done"


@needs_linux
@needs_landlock
def test_a_home_folder_that_may_be_written_is_said_to_be_open(place: Place) -> None:
    answer = place.run("""
        os.environ["HOME"] = str(run / "inner")
        start()
        attack = lambda: (run / "inner" / "file").write_text("x")
    """)
    assert answer["result"] == "done"
    secrets = next(each for each in answer["defences"] if each["name"].startswith("secrets"))
    assert not secrets["active"]


@needs_linux
@needs_landlock
def test_threads_from_before_are_told(place: Place) -> None:
    answer = place.run("""
        end = threading.Event()
        threading.Thread(target=end.wait).start()
        start()
        end.set()
        def attack():
            pass
    """)
    files = next(each for each in answer["defences"] if each["name"] == "files")
    assert not files["active"]
    assert files["reason"].startswith("1 threads ran before")


@needs_linux
@needs_landlock
@pytest.mark.parametrize("version", range(1, 8))
def test_every_version_of_landlock(place: Place, version: int) -> None:
    if version > LANDLOCK:
        pytest.skip(f"the kernel has Landlock {LANDLOCK}")
    words = {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3}[version]
    assert len(landlock.ruleset_attributes(version, network=False)) == 8 * words
    answer = place.run(f"""
        from onnxviz.confinement import landlock
        landlock.version = lambda: {version}
        start()
        def attack():
            (run / "new").write_text("x")
            assert told_by(lambda: (outside / "new").write_text("x")) == "PermissionError EACCES"
            assert told_by(lambda: (home / "secret").read_text()) == "PermissionError EACCES"
    """)
    assert answer["result"] == "done"
    assert answer["defences"][0]["how"].startswith(f"Landlock {version}")


def test_rights_of_versions_only_grow() -> None:
    rights = [landlock.rights_of(version) for version in range(1, 8)]
    assert rights[0] == 2**13 - 1
    assert rights[-1] == 2**16 - 1
    assert all(older & newer == older for older, newer in itertools.pairwise(rights))


def evaluate(program: tuple[seccomp.Instruction, ...], architecture_number: int, number: int, *arguments: int) -> int:
    """Run a filter as the kernel does, for machines that are not at hand."""
    words = {0: number, 4: architecture_number} | {16 + 8 * i: value for i, value in enumerate(arguments)}
    accumulator = position = 0
    while True:
        code, when_true, when_false, constant = program[position]
        position += 1
        if code == 0x20:
            accumulator = words.get(constant, 0)
        elif code == 0x06:
            return constant
        else:
            holds = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: bool(accumulator & constant),
            }
            position += when_true if holds[code] else when_false


ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, MISSING = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "own", "foreign", "read", "clone", "execve", "socket", "kill", "clone3"),
    [
        ("x86_64", 0xC000003E, 0x40000003, 0, 56, 59, 41, 62, 435),
        ("aarch64", 0xC00000B7, 0x40000028, 63, 220, 221, 198, 129, 435),
    ],
)
def test_the_filter_for_both_architectures(
    machine: str, own: int, foreign: int, read: int, clone: int, execve: int, socket: int, kill: int, clone3: int
) -> None:
    strict = seccomp.program(machine, 77, network=False, processes=False, local_sockets=False)
    local = seccomp.program(machine, 77, network=False, processes=False, local_sockets=True)
    loose = seccomp.program(machine, 77, network=True, processes=True, local_sockets=False)
    assert max(len(program) for program in (strict, local, loose)) < 4096
    for program in (strict, local, loose):
        assert evaluate(program, foreign, read) == KILL
        assert evaluate(program, own, read, 1, 2, 3) == ALLOW
        assert evaluate(program, own, clone3) == MISSING
        assert evaluate(program, own, 425) == REFUSE  # io_uring_setup
        assert evaluate(program, own, clone, 0x003D0F00) == ALLOW  # what pthread_create asks for
        assert evaluate(program, own, 0x40000000 | read) == (MISSING if machine == "x86_64" else ALLOW)
    assert evaluate(strict, own, clone, 0x01200011) == REFUSE  # what fork asks for
    assert evaluate(loose, own, clone, 0x01200011) == ALLOW
    assert evaluate(loose, own, clone, 0x10000000) == REFUSE  # a user namespace
    assert evaluate(strict, own, execve) == REFUSE
    assert evaluate(loose, own, execve) == ALLOW
    assert [evaluate(strict, own, socket, family) for family in (1, 2, 10)] == [REFUSE] * 3
    assert [evaluate(local, own, socket, family) for family in (1, 2, 10)] == [ALLOW, REFUSE, REFUSE]
    assert [evaluate(loose, own, socket, family) for family in (1, 2, 10)] == [ALLOW] * 3
    assert [evaluate(strict, own, kill, process) for process in (77, 78, 0, 0xFFFFFFFF)] == [ALLOW] + [REFUSE] * 3


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_other_systems_say_what_they_lack(place: Place, system: str) -> None:
    place.limits = {"memory": 1 << 30}
    # Python's own modules are those of this system; what is looked at is which of them are asked for.
    answer = place.run(f"""
        import ctypes, importlib, signal
        for name in [name for name in sys.modules if name.startswith("onnxviz.confinement")]:
            del sys.modules[name]
        sys.platform = {system!r}
        if {system!r} == "win32":
            sys.modules["resource"] = sys.modules["pwd"] = None
            del signal.SIGXFSZ, os.getuid
        del ctypes.CDLL
        from onnxviz.confinement import Limits, confine_calls, confine_start
        limits = Limits(memory=1 << 30)
        confine()
        def attack():
            (outside / "new").write_text("x")
    """)
    assert answer["result"] == "done"
    assert len(answer["defences"]) == 8
    assert not any(each["active"] or not each["reason"] for each in answer["defences"])


def test_nothing_but_the_standard_library_is_loaded(place: Place) -> None:
    answer = place.run(
        """
        def attack():
            mine = [name for name in sys.modules if name.split(".")[0] == "onnxviz"]
            others = [name for name in mine if not name.startswith("onnxviz.confinement")]
            assert set(others) <= {"onnxviz", "onnxviz.core", "onnxviz.core.lazy"}, others
            others = {name.split(".")[0] for name in sys.modules} & {"numpy", "torch", "PIL", "yaml", "pydantic"}
            assert not others, others
    """,
        libraries=True,
    )
    assert answer["result"] == "done"


def test_switched_off_says_so() -> None:
    limits = Limits(confine=False)
    defences = confine_calls(limits, device="cpu")
    assert [each.name for each in defences] == ["network", "processes", "other processes"]
    assert {each.reason for each in defences} == {"confinement is switched off"}
    assert not any(each.active for each in defences)
