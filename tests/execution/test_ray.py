"""Runs on a Ray cluster of two nodes, both of this machine: same bytes, nothing lost, and clear refusals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import worker_runs

from onnxviz import analyses
from onnxviz.core.errors import OnnxvizError
from onnxviz.execution.execute import Run, run_file
from onnxviz.execution.observer import Observer
from onnxviz.execution.store import RECORD, locked
from onnxviz.execution.workers import cluster as cluster_module
from onnxviz.execution.workers.cluster import RESULTS, RayPool

ray = pytest.importorskip("ray")
psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.ray

RECIPE = ("count: 5, seconds: 0.3, size: 8", "count: 3, chain: true")
WEIGHTS = "  w: {kind: weights, layers: first_conv}\n"


class Cluster:
    """Two nodes with one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        options = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
        self.nodes = Nodes(initialize_head=True, head_node_args=options)
        self.second = self.nodes.add_node(num_cpus=1, object_store_memory=100 << 20)
        ray.init(address=self.nodes.address, log_to_driver=False, logging_level="ERROR")

    def close(self) -> None:
        ray.shutdown()
        self.nodes.shutdown()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The trial analysis is installed for this process and for all that it starts."""
    made = worker_runs.install(tmp_path_factory.mktemp("installed"))
    made["RAY_USAGE_STATS_ENABLED"] = "0"
    added = [path for path in made["PYTHONPATH"].split(os.pathsep) if path not in sys.path]
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_USAGE_STATS_ENABLED")}
    os.environ.update({name: made[name] for name in before})
    sys.path[:0] = added
    analyses.registry.cache_clear()
    yield made
    for path in added:
        sys.path.remove(path)
    analyses.registry.cache_clear()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="module")
def cluster(environment: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the built-in workers make of the recipe."""
    folder = tmp_path_factory.mktemp("reference")
    run_file(recipe(folder), folder / "run", device="cpu", workers=1)
    made = worker_runs.results_of(folder / "run")
    assert {name.split("/")[0] for name in made} == {"jobs", "tables", "arrays"}
    assert sum(name.endswith(RECORD) for name in made) >= 9
    return made


def recipe(folder: Path) -> Path:
    return worker_runs.write_recipe(folder, *RECIPE, base=worker_runs.BASE + WEIGHTS)


def on_ray(folder: Path, path: Path, observer: Observer | None = None) -> Run:
    return run_file(path, folder / "run", device="cpu", engine="ray", observer=observer)


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".tmp-")]


class Watcher(Observer):
    """Does something when a job is first seen at work, and keeps what is told."""

    def __init__(self, does: Callable[[str], None] = lambda name: None) -> None:
        self.does = does
        self.seen: list[str] = []
        self.messages: list[str] = []

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self.seen:
            self.seen.append(name)
            self.does(name)

    def message(self, text: str) -> None:
        self.messages.append(text)


def actors() -> list[Any]:
    """Processes of this test's actors that have a worker process, with that."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = process.parent()
            if parent is not None and parent.name().startswith("ray::") and "begin.py" in " ".join(process.cmdline()):
                found.append((parent, process))
    return found


def test_the_same_bytes_as_of_built_in_workers(cluster: Cluster, reference: dict[str, bytes], tmp_path: Path) -> None:
    made = on_ray(tmp_path, recipe(tmp_path))
    assert worker_runs.results_of(made.folder) == reference
    assert made.result.verdict == "finished"
    provenance = made.result.provenance
    assert provenance.engine == "Ray, 2 workers on 2 nodes"
    assert {name for name, _ in provenance.limits} >= {"memory", "time for a job"}
    assert {item.name for item in provenance.defences} >= {"files", "network", "memory"}
    assert not leftovers(made.folder)
    assert not actors()


def test_results_through_the_object_store(
    cluster: Cluster, reference: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(RESULTS, "store")
    monkeypatch.setattr(cluster_module, "_write_token", elsewhere(tmp_path))  # no folder is shared
    made = on_ray(tmp_path, recipe(tmp_path))
    assert worker_runs.results_of(made.folder) == reference


def elsewhere(folder: Path) -> Callable[[Path], tuple[Path, str]]:
    """Write the token where nodes do not see it, as if their folder were another."""

    def write(_: Path) -> tuple[Path, str]:
        return folder / ".tmp-token-unseen", "written into another folder"

    return write


def test_a_folder_that_is_not_shared(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_write_token", elsewhere(tmp_path))
    with pytest.raises(OnnxvizError, match=r"the node .*\d+\.\d+\.\d+\.\d+\) does not see the run folder") as caught:
        on_ray(tmp_path, worker_runs.write_recipe(tmp_path, "count: 1"))
    assert RESULTS in caught.value.remedy
    assert not actors()


class Killer(Watcher):
    """Kills a worker process, then the other actor, while jobs are at work.

    Between the two it waits until what was lost is done again, as a job that is hit twice would fail, as it should.
    """

    def __init__(self) -> None:
        super().__init__()
        self.killed: list[int] = []
        self.ended: list[str] = []

    def finished(self, name: str, cost: float, seconds: float, status: str, error: str = "") -> None:
        self.ended.append(name)

    def progressed(self, name: str, done: int, total: int, note: str = "") -> None:
        if not self.killed:
            actor, process = actors()[0]
            process.send_signal(signal.SIGKILL)
            self.killed.append(actor.pid)
            self.ended.clear()
        elif len(self.killed) == 1 and len(self.ended) > 3:
            actor = next(actor for actor, _ in actors() if actor.pid != self.killed[0])
            actor.send_signal(signal.SIGKILL)
            self.killed.append(actor.pid)


def test_a_worker_process_and_an_actor_are_killed(cluster: Cluster, tmp_path: Path) -> None:
    """Neither of their jobs is lost."""
    watcher = Killer()
    made = on_ray(tmp_path, worker_runs.write_recipe(tmp_path, "count: 16, seconds: 1.0, size: 8"), watcher)
    assert len(watcher.killed) == 2, "no progress was told"
    (whole,) = (analysis.parts[0] for analysis in made.result.analyses)
    assert not whole.failed
    assert len(whole.metrics) == 16
    told = " ".join(watcher.messages)
    assert "was killed (signal 9)" in told
    assert "was lost with the actor" in told
    alone = run_file(tmp_path / "trial.yaml", tmp_path / "built-in", device="cpu", workers=0)
    expected = {name: data for name, data in worker_runs.results_of(alone.folder).items() if "/." not in name}
    assert expected.items() <= worker_runs.results_of(made.folder).items()
    assert not leftovers(made.folder)


def test_a_job_that_crashes_by_itself_fails_alone(cluster: Cluster, tmp_path: Path) -> None:
    """Though it is tried twice, by two workers, and both are replaced."""
    trials = ("count: 3, trouble: crash, at: 1", "count: 4, size: 8")
    made = on_ray(tmp_path, worker_runs.write_recipe(tmp_path, *trials))
    crashing, whole = (analysis.parts[0] for analysis in made.result.analyses)
    (failed,) = crashing.failed
    assert "SIGSEGV" in failed.error
    assert set(crashing.metrics) == {"value_0", "value_2"}
    assert not whole.failed
    assert len(whole.metrics) == 4
    assert not leftovers(made.folder)


def test_the_command_line(cluster: Cluster, environment: dict[str, str], tmp_path: Path) -> None:
    path = worker_runs.write_recipe(tmp_path, "count: 2")
    environment = {**environment, "RAY_ADDRESS": cluster.nodes.address}
    told = worker_runs.command(path, tmp_path / "run", "--engine", "ray", "--workers", "1", "--device", "cpu")
    done = subprocess.run(
        told, env=environment, capture_output=True, text=True, check=False, timeout=worker_runs.PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert worker_runs.provenance(tmp_path)["engine"] == "Ray, 1 worker on 1 node"
    assert "Traceback" not in done.stderr


def test_a_node_is_lost(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last test of the cluster, because it loses a node: the other one does the rest."""
    monkeypatch.setattr(cluster_module, "_REPLACE_SECONDS", 3.0)
    lost: list[str] = []

    def lose(name: str) -> None:
        if not lost:
            cluster.nodes.remove_node(cluster.second, allow_graceful=False)
            lost.append(name)

    made = on_ray(tmp_path, worker_runs.write_recipe(tmp_path, "count: 4, seconds: 1.5"), Watcher(lose))
    assert lost
    assert made.result.provenance.engine.endswith("1 got lost and could not be replaced (no room in 3 s)")
    (trials,) = [item for item in made.result.analyses if item.kind == "trial"]
    assert not trials.parts[0].failed
    assert len(trials.parts[0].metrics) == 4


def test_an_interruption_leaves_nothing_running(environment: dict[str, str], tmp_path: Path) -> None:
    """With a Ray of its own, as on a laptop; the job that is at work would go on for ever."""
    path = worker_runs.write_recipe(tmp_path, "count: 40")
    script = (
        "import sys\nfrom onnxviz.execution.execute import run_file\n"
        "run_file(sys.argv[1], sys.argv[2], device='cpu', engine='ray', workers=1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path), str(tmp_path / "run")],
        env={**environment, "RAY_ADDRESS": "local", worker_runs.HELD: "2"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + worker_runs.PATIENCE
    jobs = tmp_path / "run" / "jobs"
    while len(list(jobs.glob(f"*/{RECORD}"))) < 2:
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    (worker,) = [item for item in family if "begin.py" in " ".join(item.cmdline()) and "ray" in item.parent().name()]
    os.killpg(process.pid, signal.SIGINT)
    psutil.wait_procs([worker], timeout=worker_runs.PATIENCE)
    assert not worker.is_running()
    said = process.communicate(timeout=worker_runs.PATIENCE)[1]
    assert "KeyboardInterrupt" in said
    _, running = psutil.wait_procs(family, timeout=worker_runs.PATIENCE)
    assert not running
    assert not leftovers(tmp_path / "run")
    done = len(list(jobs.glob(f"*/{RECORD}")))
    assert done == 2
    with locked(tmp_path / "run"):  # nobody holds it any more, so that the run can go on
        pass


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    local: Any = None
    with pytest.raises(OnnxvizError, match="needs Ray") as caught:
        RayPool(None, tmp_path, "cpu", None, None, local)  # type: ignore[arg-type]
    assert caught.value.remedy == 'pip install "ray>=2.40"'
    monkeypatch.undo()
    monkeypatch.setenv(RESULTS, "pigeon")
    with pytest.raises(OnnxvizError, match="ONNXVIZ_RAY_RESULTS is 'pigeon'"):
        RayPool(None, tmp_path, "cpu", None, None, local)  # type: ignore[arg-type]
    monkeypatch.delenv(RESULTS)
    with pytest.raises(OnnxvizError, match="a worker at least"):
        RayPool(None, tmp_path, "cpu", None, 0, local)  # type: ignore[arg-type]
    if not ray.is_initialized():
        monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
        with pytest.raises(OnnxvizError, match="Ray client"):
            RayPool(None, tmp_path, "cpu", None, 1, local)  # type: ignore[arg-type]
