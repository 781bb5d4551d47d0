"""Imports go down only, and what does not need torch does not load it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import onnxviz

PACKAGE = Path(onnxviz.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "memory", "devices", "confinement", "values", "limits", "shares", "findings", "results"),
    ("tensors", "source", "model_file", "labels", "colormap"),
    ("graph", "importing"),
    (
        "preprocessing",
        "probabilities",
        "decode",
        "patterns",
        "ground_truth",
        "images",
        "visible_part",
        "given_images",
        "convert",
        "runtime_versions",
        "runtime",
        "batches",
        "maps",
        "layer_values",
        "reference",
        "model",
        "conversion",
        "differences",
        "judge",
        "agreement",
        "output_error",
    ),
    ("concepts", "targets", "image_choice", "candidates", "generator_file", "probe", "loading", "builtin"),
    ("optimize", "attribution", "evidence_places", "kernels", "dissection"),
    ("analyses",),
    ("recipe_schema", "recipe_faults", "recipe_layers", "recipe", "recipe_parts"),
    # The report sees only floor 0, so it may stand left of what calls it.
    (
        "report",
        "cache",
        "plan",
        "schedule",
        "choice",
        "proof",
        "workers",
        "expectations",
        "run_folder",
        "finished_run",
        "partial_run",
        "inspection",
        "dispatch",
        "logged",
        "execute",
        "pace",
        "estimate",
    ),
    ("progress",),
    ("cli", "__main__", "__init__"),
)
"""A module may import from lower floors, and from what stands left of it on its own."""

TORCH = {"torch", "onnx2torch"}
WITH_TORCH = {
    "convert",
    "model",
    "conversion",
    "judge",
    "agreement",
    "output_error",
    "runtime",
    "probe",
    "optimize",
    "attribution",
}
"""Parts that may load torch when they are imported; who imports them is seen by starting Python, below."""


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank(part: str) -> tuple[int, int]:
    for floor, parts in enumerate(FLOORS):
        if part in parts:
            return floor, parts.index(part)
    raise AssertionError(f"the module onnxviz.{part} stands on no floor: add it to FLOORS in {__file__}")


def imports(tree: ast.Module, *, at_import: bool) -> list[str]:
    """Names of imported modules; with `at_import` only those loaded when the module is, types left out."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.append(node.module or "")
            found.extend(f"{node.module}.{alias.name}" for alias in node.names if node.module == "onnxviz")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    own = part_of(path)
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), at_import=False):
        pieces = name.split(".")
        if pieces[0] != "onnxviz" or len(pieces) < 2 or not is_module(pieces[1]) or pieces[1] == own:
            continue
        if own == "__init__":
            continue
        assert rank(pieces[1]) < rank(own), f"{own} imports {name} from above"


def is_module(name: str) -> bool:
    return (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name).is_dir()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_torch_is_loaded_only_where_it_is_needed(path: Path) -> None:
    if part_of(path) in WITH_TORCH or path == PACKAGE / "builtin" / "train.py":
        return
    for name in imports(ast.parse(path.read_text(encoding="utf-8")), at_import=True):
        assert name.split(".")[0] not in TORCH


def test_the_report_sees_only_the_ground_floor() -> None:
    for path in (PACKAGE / "report").glob("*.py"):
        for name in imports(ast.parse(path.read_text(encoding="utf-8")), at_import=False):
            pieces = name.split(".")
            if pieces[0] == "onnxviz" and len(pieces) > 1:
                assert pieces[1] in (*FLOORS[0], "report"), f"{path.name} imports {name}"


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
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
        "import sys, onnxviz, onnxviz.execute, onnxviz.analyses as a; a.registry(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
