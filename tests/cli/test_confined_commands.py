"""Commands that read a stranger's model: limits hold, a crash is one message, and nothing else changes."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile_bombs
import hostile_models
import onnx
import pytest
from fault_runs import wait_for
from onnx import helper
from tiny_models import fill
from worker_runs import PATIENCE

from onnxviz.cli.run_options import reading_limits
from onnxviz.confinement import Limits, landlock
from onnxviz.core.errors import MemoryLimitError, SelectionError
from onnxviz.execution.workers import limits, process
from onnxviz.execution.workers.process import Request, ask

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
landlocked = pytest.mark.skipif(
    sys.platform != "linux" or landlock.version() < 1, reason="the kernel does not confine files"
)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")

ASKED = """\
import os, signal, sys, time
from pathlib import Path

def work():
{work}
    return ''
"""
ASK = """\
import sys
from onnxviz.cli.ending import exit_code, interrupted
from onnxviz.confinement import Limits
from onnxviz.execution.workers.process import Request, ask

def command():
    try:
        print("got", repr(ask(Request("asked:work", {}, Limits(memory=1 << 30)), "m.onnx", str)))
    except KeyboardInterrupt:
        raise interrupted() from None

sys.exit(exit_code(command))
"""


def script(work: str, folder: Path) -> dict[str, Any]:
    """The arguments that start a command which asks a worker process to do some work."""
    (folder / "asked.py").write_text(ASKED.format(work=textwrap.indent(textwrap.dedent(work), "    ")))
    (folder / "temporary").mkdir(exist_ok=True)
    places = {"PYTHONPATH": str(folder), "TMPDIR": str(folder / "temporary")}
    return {"args": [sys.executable, "-c", ASK], "cwd": folder, "env": {**os.environ, **places}}


def do(work: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    started = script(work, folder)
    started["env"] |= environment
    return subprocess.run(**started, capture_output=True, text=True, timeout=PATIENCE)


def worker(started: subprocess.Popen[str], folder: Path) -> tuple[int, Path]:
    """Wait until the work has made a file `there`; return the worker process and its folder."""
    assert wait_for(lambda: list(folder.glob("temporary/onnxviz-*/there")))
    (there,) = folder.glob("temporary/onnxviz-*/there")
    (child,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    return int(child), there.parent


THERE = "Path(os.environ['TMPDIR'], 'there').touch()\n"


def onnxviz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxviz", *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = fill(tmp_path_factory.mktemp("models"))
    (folder / "bomb.onnx").write_bytes(hostile_bombs._folded_often(18, 7 << 20))  # makes 500 MB of 2 kB
    (folder / "r.yaml").write_text("version: 1\nmodel: {path: m.onnx}\nanalyses: {f: {kind: weights}}\n")
    return folder


# --- the commands -----------------------------------------------------------------------------------------------------


@LINUX
@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (("inspect", "bomb.onnx", "--memory", "1GiB"), "1.0 GiB"),
        (("init", "bomb.onnx", "--memory", "400MiB"), "400.0 MiB"),
        (("plan", "b.yaml", "--memory", "400MiB"), "400.0 MiB"),
        (("validate", "b.yaml", "--memory", "400MiB"), "400.0 MiB"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_bomb_ends_at_the_memory_limit(models: Path, arguments: tuple[str, ...], limit: str) -> None:
    (models / "b.yaml").write_text("version: 1\nmodel: {path: bomb.onnx}\nanalyses: {f: {kind: weights}}\n")
    done = onnxviz(models, *arguments)
    assert done.returncode == 2, done.stderr
    assert f"needed more than the memory limit of {limit}" in done.stderr
    assert "--memory" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (models / "bomb.yaml").exists()


@LINUX
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "m.onnx", "--memory", "1MB"),
        ("inspect", "m.onnx", "--memory", "150MB"),
        ("init", "m.onnx", "--memory", "30MB"),
        ("plan", "r.yaml", "--memory", "30MB"),
        ("validate", "r.yaml", "--memory", "30MB"),
        ("run", "r.yaml", "--workers", "1", "--memory", "30MB"),
        ("run", "r.yaml", "--workers", "1", "--memory", "150MB"),
        ("run", "little.yaml", "--workers", "1"),
        ("validate", "little.yaml"),
    ],
    ids=" ".join,
)
def test_a_limit_too_small_for_any_model_blames_no_model(models: Path, arguments: tuple[str, ...]) -> None:
    recipe = "version: 1\nmodel: {path: m.onnx}\nanalyses: {f: {kind: weights, layers: first}}\n"
    (models / "r.yaml").write_text(recipe)
    (models / "little.yaml").write_text(f"{recipe}limits: {{memory: 150MB}}\n")
    done = onnxviz(models, *arguments)
    assert done.returncode == 2, done.stderr
    found = re.search(
        r"the memory limit of [\d.]+ [KM]iB is too small for any model: at least about ([\d.]+) MiB are needed, which "
        r"onnxviz takes itself\n  give it more, for example --memory (\d+)MiB \(and more in `limits:`",
        done.stderr,
    )
    assert found is not None, done.stderr
    assert float(found[1]) < int(found[2])
    assert "trust" not in done.stderr
    assert not (models / "runs" / Path(arguments[1]).stem).exists()
    # The size that is named does.
    if arguments[0] in ("init", "inspect"):
        done = onnxviz(models, *arguments[:2], "--memory", f"{found[2]}MiB")
        assert done.returncode == 0, done.stderr


@LINUX
def test_a_plan_loads_no_torch_where_it_might_not_fit(models: Path) -> None:
    (models / "w.yaml").write_text("version: 1\nmodel: {path: m.onnx}\nanalyses: {f: {kind: weights, layers: first}}\n")
    done = onnxviz(models, "plan", "w.yaml", "--memory", "170MB")
    assert done.returncode == 0, done.stderr
    assert "a guess, nothing was measured" in done.stdout


@pytest.mark.parametrize(("status", "said"), [(-signal.SIGSEGV, "crashed"), (127, "needed more than"), (-6, "gave up")])
def test_a_crash_below_a_small_limit_blames_the_limit(status: int, said: str) -> None:
    ended: Any = SimpleNamespace(reap=lambda: (status, ""), ended_for=None)
    found = process._death(ended, "m.onnx", 300 << 20)
    assert isinstance(found, MemoryLimitError)
    assert re.search(rf"{said}.*the memory limit of 300.0 MiB", str(found))


def test_no_limit_and_a_large_one_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(**_: object) -> int:
        raise AssertionError("takes seconds")

    monkeypatch.setattr(process, "own_memory", measured)
    process.require_enough(None, compute=True)
    process.require_enough(1 << 30, compute=True)


@LINUX
def test_the_smaller_limit_of_a_recipe_holds(models: Path) -> None:
    recipe = "version: 1\nmodel: {path: bomb.onnx}\nlimits: {memory: 400MiB}\nanalyses: {f: {kind: weights}}\n"
    (models / "l.yaml").write_text(recipe)
    done = onnxviz(models, "validate", "l.yaml")
    assert done.returncode == 2
    assert "memory limit of 400.0 MiB" in done.stderr


def test_commands_work_as_ever(models: Path, tmp_path: Path) -> None:
    done = onnxviz(models, "inspect", "m.onnx", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "second" in done.stdout
    assert done.stderr == ""  # no library complains about the confinement
    done = onnxviz(models, "plan", "r.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 done before" in done.stdout
    done = onnxviz(models, "validate", "r.yaml", "absent.yaml")
    assert done.returncode == 2
    assert "r.yaml: valid" in done.stdout
    elsewhere = tmp_path / "labels.txt"
    elsewhere.write_text("cat\ndog\nlion\nzebra\n")
    done = onnxviz(models, "init", "m.onnx", "--labels", str(elsewhere), "--out", "named.yaml")
    assert (done.returncode, done.stdout) == (0, "named.yaml\n"), done.stderr
    done = onnxviz(models, "init", "m.onnx", "--out", "new.yaml")
    assert (done.returncode, done.stdout) == (0, "new.yaml\n")
    assert onnxviz(models, "validate", "new.yaml").returncode == 0
    assert onnxviz(models, "init", "m.onnx", "--out", "new.yaml").returncode == 2  # it exists


def test_external_data_is_read(models: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    model = onnx.load(models / "m.onnx")
    onnx.save(model, tmp_path / "real" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "link.onnx").symlink_to("real/m.onnx")
    for name in ("real/m.onnx", "link.onnx"):
        done = onnxviz(tmp_path, "init", name, "--out", f"{Path(name).parent.name}x.yaml")
        assert done.returncode == 0, done.stderr


def test_exit_codes_come_through(models: Path) -> None:
    # The only layer is made from a constant of 2 GB, which is not computed unasked.
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["k"]),
        helper.make_node("ReduceMax", ["k"], ["m"], keepdims=0),
        helper.make_node("Add", ["x", "m"], ["y"]),
    ]
    (models / "large.onnx").write_bytes(hostile_models.content(nodes, [hostile_models.numbers("s", 1 << 29)]))
    assert onnxviz(models, "inspect", "large.onnx", "--memory", "1GiB").returncode == 3
    done = onnxviz(models, "inspect", "absent.onnx")
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1


@pytest.mark.parametrize("size", ["", "much", "-1", "0", "4GiBs", "nan"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(SelectionError, match="--memory"):
        reading_limits(size)


def test_the_limit_is_most_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "total_memory", lambda: 10 << 30)
    assert reading_limits(None).memory == 8 << 30
    assert reading_limits(None, 1 << 30).memory == 1 << 30
    assert reading_limits("2GiB", 4 << 30).memory == 2 << 30


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("SIGSEGV", r"the libraries that read the model crashed on it \(signal 11\)"),
        ("SIGFPE", r"crashed on it \(signal 8\)"),
        ("SIGKILL", r"the system ended it \(signal 9\), most likely .* the memory limit of 1.0 GiB"),
        ("SIGABRT", r"gave up \(signal 6\), most likely .* the memory limit of 1.0 GiB"),
        ("SIGTERM", r"ended from outside \(signal 15\)"),
    ],
)
def test_a_crash_is_one_message(tmp_path: Path, number: str, said: str) -> None:
    # A process may send signals to itself; two threads of it share its number, so it is the whole process.
    done = do(f"signal.signal(signal.{number}, signal.SIG_DFL) if '{number}' != 'SIGKILL' else None\n"
              f"os.kill(os.getpid(), signal.{number})", tmp_path)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert re.search(said, done.stderr)
    assert done.stderr.startswith("error: m.onnx: ")
    assert "Traceback" not in done.stderr


@LINUX
def test_memory_in_any_words_names_the_limit(tmp_path: Path) -> None:
    for work in ("bytearray(2 << 30)", "raise MemoryError", "raise RuntimeError('std::bad_alloc')"):
        done = do(work, tmp_path)
        assert done.returncode == 2
        assert "needed more than the memory limit of 1.0 GiB" in done.stderr


def test_what_is_answered_comes_through(tmp_path: Path) -> None:
    assert do("return 'text é'", tmp_path).stdout == "got 'text é'\n"
    done = do("print('said'); return 'x'", tmp_path)
    assert (done.stdout, done.stderr) == ("got 'x'\n", "")  # what libraries print is between them and nobody
    done = do("return 4", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "sent a message that makes no sense" in done.stderr
    done = do("os._exit(4)", tmp_path)
    assert done.returncode == 2
    assert "ended their process (exit code 4)" in done.stderr
    done = do("raise KeyError('broken')", tmp_path)
    assert done.returncode == 70
    log = Path(done.stderr.split("details are in ")[1].split(";")[0])
    assert "in work" in log.read_text()
    assert "KeyError: 'broken'" in log.read_text()


def test_temporary_files_are_gone(tmp_path: Path) -> None:
    work = "import tempfile; Path(tempfile.mkstemp()[1]).write_text('x'); return tempfile.mkdtemp()"
    done = do(work, tmp_path)
    assert done.stdout.startswith(f"got '{tmp_path / 'temporary'}"), done.stderr
    assert not list((tmp_path / "temporary").iterdir())
    assert do("os.kill(os.getpid(), signal.SIGKILL)", tmp_path).returncode == 2
    assert not list((tmp_path / "temporary").iterdir())


def test_an_interrupt_ends_both(tmp_path: Path) -> None:
    started = subprocess.Popen(
        **script(f"{THERE}time.sleep(3600)", tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child, _ = worker(started, tmp_path)
    started.send_signal(signal.SIGINT)
    _, complained = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130
    assert complained.strip() == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not list((tmp_path / "temporary").iterdir())


@LINUX
def test_the_worker_ends_with_the_command(tmp_path: Path) -> None:
    started = subprocess.Popen(**script(f"{THERE}time.sleep(3600)", tmp_path), text=True)
    child, _ = worker(started, tmp_path)
    started.kill()
    started.wait()
    assert wait_for(lambda: not _lives(child)), "the worker goes on alone"


@LINUX
def test_who_was_told_to_ignore_interrupts_does(tmp_path: Path) -> None:
    """As a shell starts what a script puts into the background: both processes go on to their end."""
    started = subprocess.Popen(
        **script(f"{THERE}while not Path(os.environ['TMPDIR'], 'go').exists(): time.sleep(0.05)", tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    child, folder = worker(started, tmp_path)
    for one in (started.pid, child):
        os.kill(one, signal.SIGINT)
    (folder / "go").touch()
    said, complained = started.communicate(timeout=PATIENCE)
    assert (started.returncode, complained) == (0, "")
    assert "got ''" in said


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_on_a_terminal(models: Path, tmp_path: Path) -> None:
    """It is seen as one, as wide as it is, and Ctrl-C typed there ends the command."""
    text, code = _on_terminal([sys.executable, "-m", "onnxviz", "inspect", str(models / "m.onnx")])
    assert (code, "second" in text) == (0, True)
    assert "\x1b[" in text
    asking = script(f"{THERE}time.sleep(3600)", tmp_path)
    asking["args"][2] = ASK.replace("try:", "try:\n        print('waiting', flush=True)")
    text, code = _on_terminal(asking["args"], type_at="waiting", keys=b"\x03", environment=asking["env"])
    assert code == 130
    assert "interrupted" in text
    assert "Traceback" not in text


def _on_terminal(
    command: list[str], type_at: str = "", keys: bytes = b"", environment: dict[str, str] | None = None
) -> tuple[str, int]:
    process, terminal = pty.fork()
    if process == 0:
        os.execve(command[0], command, environment or os.environ)
    text = ""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the last one has closed it
            break
        if not data:
            break
        text += data.decode("utf-8", "replace")
        if keys and type_at in text:
            os.write(terminal, keys)
            keys = b""
    os.close(terminal)
    return text, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_nobody_reads_on(models: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "onnxviz", "inspect", "m.onnx", "--no-agreement"]
    done = subprocess.run(command, cwd=models, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


# --- confinement ------------------------------------------------------------------------------------------------------


@landlocked
def test_a_worker_cannot_write_or_read_secrets(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("secret")
    for work in (
        f"Path({str(tmp_path / 'made')!r}).write_text('x')",
        f"return Path({str(home / 'secret')!r}).read_text()",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
    ):
        done = do(work, tmp_path, HOME=str(home))
        assert done.returncode == 70, (work, done.stdout)
        assert "PermissionError" in done.stderr
    assert not (tmp_path / "made").exists()


def test_secrets_of_the_environment_are_gone(tmp_path: Path) -> None:
    work = "return f\"{sorted(name for name in os.environ if 'TOKEN' in name)} {'PATH' in os.environ}\""
    assert do(work, tmp_path, MY_TOKEN="x").stdout == "got '[] True'\n"


@landlocked
def test_a_recipe_is_read_before_any_thread_that_would_not_be_confined(models: Path) -> None:
    """NumPy starts one otherwise."""
    text = (
        "import os; from onnxviz.confinement import Limits, confine_start\n"
        "from onnxviz.execution.validation import read_first\n"
        "_, read, found = read_first(Limits(), 'r.yaml', [])\n"
        "import sys; assert {'numpy', 'onnx'} <= set(sys.modules) and 'torch' not in sys.modules\n"
        "from onnxviz.execution.validation import validity\n"
        "defences = confine_start(Limits(), write=[], read=read, device='cpu')\n"
        "print(next(item for item in defences if item.name == 'files').active, validity(found['recipe'], 'cpu').jobs)\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, **dict.fromkeys(process._THREADS, "1")}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=models, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "True 1\n", done.stderr


def test_within_another_program_it_is_done_there() -> None:
    assert ask(Request("os:getpid", {}, Limits()), "m.onnx", int) == os.getpid()
