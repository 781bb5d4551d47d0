"""Imports go down only, and what does not need torch does not load it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onnxviz
from tools.structure import arrows, circles, floors, imports_of, modules, room_of

PACKAGE = Path(onnxviz.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("confinement",),
    ("core",),
    ("graph", "report"),
    ("convert", "data", "importing"),
    ("model",),
    ("optimize",),
    ("analyses",),
    ("recipe",),
    ("execution",),
    ("progress",),
    ("cli",),
    ("__main__", "analysis"),
)
"""A room imports from lower floors only."""

TORCH = {"torch", "onnx2torch"}
WITH_TORCH = (
    "analyses.attribution.explain",
    "analyses.attribution.question",
    "analyses.attribution.relevance",
    "convert",
    "model.continuation",
    "model.judge",
    "model.model",
    "model.ort_session",
    "model.parity",
    "model.preprocessing_search",
    "model.to_torch",
    "optimize",
)
"""What may load torch when it is imported; who imports these is seen by starting Python, below."""

FILES = modules(PACKAGE)
GRAPH = imports_of(PACKAGE)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def test_every_room_stands_on_a_floor() -> None:
    assert {room_of(name) for name in FILES} - {""} == set(FLOOR_OF)


def test_imports_go_down() -> None:
    upward = [(one, other) for one, other in arrows(GRAPH) if FLOOR_OF[one] <= FLOOR_OF[other]]
    assert not upward


def test_no_modules_import_each_other() -> None:
    assert not circles(GRAPH)


def test_imports_are_absolute() -> None:
    for path in FILES.values():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), path


@pytest.mark.parametrize("name", FILES)
def test_torch_is_loaded_only_where_it_is_needed(name: str) -> None:
    own = name.removeprefix("onnxviz.")
    if any(own == part or own.startswith(f"{part}.") for part in WITH_TORCH):
        return
    assert not top_level_imports(FILES[name]) & TORCH


def top_level_imports(path: Path) -> set[str]:
    """Packages that a file loads when it is imported."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names


def test_the_report_sees_only_the_ground_floor() -> None:
    assert {room_of(other) for name in FILES if room_of(name) == "report" for other in GRAPH[name]} == {
        "core",
        "report",
    }


def test_circles_and_floors_are_found() -> None:
    graph = {"p.a.x": {"p.b"}, "p.b": {"p.c.y"}, "p.c.y": {"p.a.x", "p.d"}, "p.d": set(), "p": {"p.d"}}
    assert circles(graph) == [["p.a.x", "p.b", "p.c.y"]]
    assert arrows(graph) == {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")}
    assert floors({("c", "b"), ("c", "a"), ("b", "a")}, "abc") == {"a": 1, "b": 2, "c": 3}


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES.values()}
    assert not {path.name: length for path, length in lengths.items() if length > 600}


RECIPE = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 2}}
analyses:
  a: {kind: weights}
  b: {kind: grad_cam, data: scenes}
  c: {kind: activation_maximization, targets: [{layer: logits, units: [0]}]}
  d: {kind: dissection, data: scenes}
"""


@pytest.mark.parametrize(
    "arguments", [["validate", "r.yaml"], ["plan", "r.yaml"], ["schema"], ["explain", "weights"], ["report", "none"]]
)
def test_commands_that_do_not_load_torch(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    script = (
        "import sys\nfrom onnxviz.cli import main\nsys.argv = ['onnxviz', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: code = end.code or 0\nelse: code = 0\n"
        "assert 'torch' not in sys.modules, 'torch was loaded'\nsys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "AssertionError" not in done.stderr
    assert done.returncode == (2 if arguments[0] == "report" else 0), done.stderr


def test_importing_the_package_does_not_load_torch() -> None:
    script = (
        "import sys, onnxviz.execution.execute, onnxviz.analyses as a; a.registry(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
