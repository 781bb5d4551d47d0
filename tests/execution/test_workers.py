"""Worker processes: what goes wrong in one job costs that job only, and results do not depend on who made them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_runs import wait_for
from worker_runs import BASE, HELD, PATIENCE, command, install, part, provenance, results_of, run, write_recipe

from onnxviz.execution.workers.process import environment_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

LIMITED = BASE.replace("analyses:", "limits: {memory: 1GiB, job_seconds: 20, file_size: 40MiB}\nanalyses:")
CAUSES = {
    "error": "nothing to see; look elsewhere",
    "mistake": "ZeroDivisionError: by zero",
    "killed": "killed (signal 9)",
    "crash": "SIGSEGV",
    "leave": "exit code 3",
    "memory": "16.0 TiB more were asked for when the process had",
    "grow": "1.0 GiB",
    "hang": "time limit of 20 s",
    "network": "PermissionError",
    "write": "PermissionError",
    "program": "PermissionError",
    "huge_file": "File too large",
    "lie": "sent a message that makes no sense",
}


def test_trouble_costs_only_its_job(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, *(f"count: 2, trouble: {name}" for name in CAUSES), base=LIMITED)
    elsewhere = tmp_path / "elsewhere.txt"
    done = run(tmp_path, recipe, ONNXVIZ_TRIAL_FILE=str(elsewhere))
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for number, (name, cause) in enumerate(CAUSES.items()):
        found = part(tmp_path, number)
        assert [job["job"] for job in found["failed"]] == ["1"], name
        assert cause in found["failed"][0]["error"], name
        assert set(found["metrics"]) == {"value_0"}, name
    assert not elsewhere.exists()
    told = provenance(tmp_path)
    assert told["engine"] == "1 worker process"
    assert dict(told["limits"])["memory"] == "1.0 GiB"
    assert {item["name"] for item in told["defences"]} >= {"files", "network", "processes", "memory", "file size"}
    assert any("done once more" in event for event in told["events"])
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_what_is_set_of_the_allocator_holds_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    made = environment_of("cpu", tmp_path)
    assert made["MALLOC_TRIM_THRESHOLD_"] == "131072"
    assert made["MALLOC_MMAP_THRESHOLD_"] == str(32 << 20)


def test_a_result_beyond_the_file_size_fails_its_job_only(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 2, size: 400", "count: 2, size: 8")
    done = run(tmp_path, recipe, "--file-size", "100kB")
    assert done.returncode == 3, done.stderr
    failed = part(tmp_path)["failed"]
    assert [job["job"] for job in failed] == ["0", "1"]
    assert all("File too large; raise --file-size" in job["error"] for job in failed)
    assert not part(tmp_path, 1)["failed"]


def test_who_does_the_jobs_makes_no_difference(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 6, size: 8, chain: true", "count: 3, size: 20")
    for workers in ("0", "1", "2"):
        done = run(tmp_path, recipe, out=workers, ONNXVIZ_WORKERS=workers)
        assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "0") == results_of(tmp_path / "1") == results_of(tmp_path / "2")
    assert provenance(tmp_path, "2")["engine"] == "2 worker processes"


def test_a_worker_that_dies_once_loses_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 5, size: 8, trouble: killed, times: 1, chain: true")
    done = run(tmp_path, recipe)
    assert done.returncode == 0, done.stdout + done.stderr
    (event,) = provenance(tmp_path)["events"]
    assert "killed (signal 9)" in event
    calm = run(tmp_path, write_recipe(tmp_path, "count: 5, size: 8, chain: true"), out="calm", ONNXVIZ_WORKERS="0")
    assert calm.returncode == 0
    tables = [(tmp_path / out / "tables/t0-values.csv").read_bytes() for out in ("run", "calm")]
    assert tables[0] == tables[1]
    assert part(tmp_path)["metrics"] == part(tmp_path, out="calm")["metrics"]


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_a_run_that_ends_early_leaves_no_worker_and_goes_on(tmp_path: Path, sign: signal.Signals) -> None:
    """It does not wait for the jobs that are at work either: these would go on for ever."""
    recipe = write_recipe(tmp_path, "count: 8, size: 8")
    parent = subprocess.Popen(
        command(recipe, tmp_path / "run"),
        env={**install(tmp_path), HELD: "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_for(lambda: len(list((tmp_path / "run/jobs").glob("[0-9a-f]*"))) >= 2)
    (child,) = _children(parent.pid)
    parent.send_signal(sign)
    _, complaint = parent.communicate(timeout=PATIENCE)
    if sign == signal.SIGINT:
        assert parent.returncode == 130
        assert "goes on where it was" in complaint
        assert "Traceback" not in complaint
        assert not list((tmp_path / "run").glob(".tmp-*"))
    kept = len(list((tmp_path / "run/jobs").glob("[0-9a-f]*")))
    done = run(tmp_path, recipe)
    assert done.returncode == 0, done.stderr
    assert wait_for(lambda: not _alive(child))
    assert provenance(tmp_path)["cached"] >= min(kept, 2)
    run(tmp_path, recipe, out="whole", ONNXVIZ_WORKERS="0")
    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_worker_that_dies_while_it_plans_is_replaced(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 2")
    running = subprocess.Popen(
        command(recipe, tmp_path / "run", "-q"), env=install(tmp_path), stdout=subprocess.DEVNULL
    )
    assert wait_for(lambda: _children(running.pid))
    os.kill(_children(running.pid)[0], signal.SIGKILL)
    assert running.wait(PATIENCE) == 0
    (event,) = provenance(tmp_path)["events"]
    assert event.startswith("planning: was killed (signal 9)")
    assert part(tmp_path)["metrics"]


def test_two_runs_exclude_each_other(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 1")
    held = {**install(tmp_path), HELD: "0"}
    first = subprocess.Popen(command(recipe, tmp_path / "run", "-q"), env=held, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: "begins" in _text(tmp_path / "run/log.txt"))
        done = run(tmp_path, recipe)
        assert done.returncode == 2
        assert f"another run (process {first.pid}) is writing to this folder" in done.stderr
    finally:
        first.send_signal(signal.SIGINT)
        assert first.wait(PATIENCE) == 130


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_folder_that_is_removed_ends_cleanly(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 200, size: 8, seconds: 0.3")
    running = subprocess.Popen(
        command(recipe, tmp_path / "run"),
        env=install(tmp_path),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert wait_for(lambda: len(list((tmp_path / "run/jobs").glob("[0-9a-f]*"))) >= 2)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    _, complaint = running.communicate(timeout=PATIENCE)
    assert running.returncode == 2, complaint
    assert "Traceback" not in complaint
    assert str(tmp_path / "run") in complaint


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk_ends_cleanly_and_the_run_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        recipe = write_recipe(tmp_path, "count: 6, size: 300")
        full = run(tmp_path, recipe, out="disk/run")
        assert full.returncode == 2
        assert "No space left on device" in full.stderr
        assert "Traceback" not in full.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        done = run(tmp_path, recipe, out="disk/run")
        assert done.returncode == 0, done.stderr
        assert provenance(tmp_path, "disk/run")["cached"] >= 1
        run(tmp_path, recipe, out="whole", ONNXVIZ_WORKERS="0")
        assert results_of(disk / "run") == results_of(tmp_path / "whole")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_model_that_breaks_the_limit_while_it_is_read_is_refused(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((64 << 20,), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64 << 20])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "large.onnx")
    base = BASE.replace("{builtin: scenes}", "{path: large.onnx}").replace(
        "analyses:", "limits: {memory: 300MiB}\nanalyses:"
    )
    done = run(tmp_path, write_recipe(tmp_path, "count: 1", base=base))
    assert done.returncode == 2
    assert "300.0 MiB" in done.stderr
    assert "memory limit" in done.stderr or "more memory than the limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_secrets_are_not_passed_on(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 2, trouble: secret")
    assert run(tmp_path, recipe, SECRET_TOKEN="xyzzy").returncode == 0
    # The same without workers shows that there was something to hide.
    assert run(tmp_path, recipe, out="bare", SECRET_TOKEN="xyzzy", ONNXVIZ_WORKERS="0").returncode == 3
    assert "xyzzy" in json.dumps(part(tmp_path, out="bare")["failed"])


def test_what_is_done_is_not_done_again_and_force_does_it(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 3, size: 8", "count: 2")
    assert run(tmp_path, recipe).returncode == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run/jobs").rglob("*")}
    assert run(tmp_path, recipe).returncode == 0
    assert provenance(tmp_path)["cached"] == 5
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run/jobs").rglob("*")} == stamps
    before = results_of(tmp_path / "run")
    assert run(tmp_path, recipe, "--force", "t1").returncode == 0
    assert provenance(tmp_path)["cached"] == 3
    assert results_of(tmp_path / "run") == before
    done = run(tmp_path, recipe, "--force", "t7")
    assert done.returncode == 2
    assert "no analysis is called 't7'" in done.stderr
    assert run(tmp_path, recipe, "--only", "t0").returncode == 0
    assert [item["id"] for item in json.loads((tmp_path / "run/run.json").read_text())["analyses"]] == ["t0", "t1"]
    assert results_of(tmp_path / "run") == before, "the report of a part keeps the rest"


def test_stop_on_failure(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, "count: 40, trouble: error, seconds: 0.1")
    assert run(tmp_path, recipe, "--stop-on-failure").returncode == 3
    found = part(tmp_path)
    assert len(found["failed"]) > 30
    assert "not begun, because another job failed" in found["failed"][-1]["error"]
    assert set(found["metrics"]) == {"value_0"}
