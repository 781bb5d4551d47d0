"""What commands refuse and list before anything runs, and that asking for help waits for nothing."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_models import fill, save_model, save_unknown
from worker_runs import PATIENCE

import onnxviz
from onnxviz.analyses import registry
from onnxviz.cli import explain
from onnxviz.core import devices
from onnxviz.core.errors import OnnxvizError, RecipeError
from onnxviz.execution.execute import run_file
from onnxviz.execution.observer import Observer
from onnxviz.execution.plan import make_plan
from onnxviz.recipe.recipe import parse_recipe
from onnxviz.recipe.schema import RecipeSettings
from tests.cli.test_cli import TEXT, call
from tests.report.test_report import Page

ROOT = Path(__file__).parents[2]
RUN = ("run", "r.yaml", "--device", "cpu", "--no-open")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    (tmp_path / "r.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_a_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "onnxviz", *arguments],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip


# --- help -----------------------------------------------------------------------------------------------------------


SLOW = {"torch", "onnxruntime", "onnx", "numpy", "PIL", "jinja2", "yaml"}


@pytest.mark.parametrize(
    ("arguments", "slow"),
    [
        (["--version"], SLOW | {"pydantic", "rich"}),
        (["--help"], SLOW | {"pydantic", "rich"}),
        (["-h"], SLOW | {"pydantic", "rich"}),
        ([], SLOW | {"pydantic"}),
        # Typer reads the options of a command with pydantic.
        (["help"], SLOW),
        (["help", "run"], SLOW),
        (["run", "--help"], SLOW),
        (["import", "--help"], SLOW),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_asking_for_help_loads_nothing_that_computes(arguments: list[str], slow: set[str]) -> None:
    script = (
        "import sys\nfrom onnxviz.cli import main\nslow = set(sys.argv.pop(1).split(','))\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('loaded:', *sorted(slow & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(slow), *arguments],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1].split() == ["loaded:"], done.stdout
    assert "Usage:" in done.stdout + done.stderr or done.stdout.startswith("onnxviz ")


def test_importing_the_package_loads_nothing_that_computes() -> None:
    script = "import sys, onnxviz; dir(onnxviz); print(*sorted(set(sys.argv[1].split(',')) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script, ",".join(SLOW | {"pydantic", "rich", "typer"})],
        capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout.strip() == ""


def test_help_names_every_command_and_explains_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "help") == 0
    said = capsys.readouterr().out
    names = re.findall(r"^  (\w+)  ", said.split("Commands:")[1], re.MULTILINE)
    assert {"run", "plan", "validate", "inspect", "help", "import", "init", "explain"} <= set(names)
    for name in names:
        assert call(monkeypatch, "help", name) == 0
        explained = capsys.readouterr().out
        assert re.match(rf"Usage: .*\b{name} ", explained)
        assert call(monkeypatch, name, "--help") == 0
        assert capsys.readouterr().out == explained
    assert call(monkeypatch, "help", "rnu") == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


def test_every_part_of_a_recipe_is_explained_with_an_example_that_is_valid(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(explain.parts()) >= {*RecipeSettings.model_fields, "preprocess", "recipe"} - {"version", "title", "seed"}
    whole: dict[str, Any] = {
        "version": "version: 1\n", "model": "model: {path: m.onnx}\n",
        "analyses": "analyses:\n  classes: {kind: weights}\n",
    }  # fmt: skip
    for part in explain.parts():
        assert call(monkeypatch, "explain", part) == 0
        said = capsys.readouterr().out
        assert len(said.splitlines()) > 3
        example = explain._EXAMPLES.get(part, "")
        assert example.strip().splitlines()[0] in said if example else "field" in said
        tops = set(re.findall(r"^(\w+):", example, re.MULTILINE))
        if part in ("extends", "expect"):  # of another recipe, and of analyses that a whole one has
            continue
        rest = [text for name, text in whole.items() if name not in tops and not (name == "model" and "models" in tops)]
        recipe = parse_recipe("".join(rest) + example, "r.yaml", Path())
        assert recipe.analyses
    assert call(monkeypatch, "explain", "modle") == 2
    assert "did you mean 'model'" in capsys.readouterr().err


def test_explain_is_short_and_every_field_can_be_reached(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # as in a pipe, whatever runs this test
    assert call(monkeypatch, "explain") == 0
    assert len(capsys.readouterr().out.splitlines()) <= 40
    for kind, cls in registry().items():
        assert call(monkeypatch, "explain", kind) == 0
        assert len(capsys.readouterr().out.splitlines()) <= 110
        for name in cls.model_fields:
            if name not in ("kind", "title"):
                assert call(monkeypatch, "explain", f"{kind}.{name}") == 0
                assert name in capsys.readouterr().out
    assert call(monkeypatch, "explain", "activation_maximization.transforms") == 0
    assert "transforms[](rotate).degrees" in capsys.readouterr().out
    assert call(monkeypatch, "explain", "activation_maximization.objectives.terms") == 0
    assert "objectives[](sum).terms[](channel).layer" in capsys.readouterr().out
    assert call(monkeypatch, "explain", "grad_cam.layrs") == 2
    assert "did you mean 'layers'" in capsys.readouterr().err


# --- metrics --------------------------------------------------------------------------------------------------------

EXPECTING = """\
version: 1
model: {builtin: scenes}
data: {scenes: {builtin: scenes, count: 3}, photos: {images: photos}}
analyses:
  filters: {kind: weights}
  units: {kind: activation_maximization, targets: [{layer: last_conv, units: 0}]}
  classes: {kind: activation_maximization, targets: [{layer: logits, units: 0}], data: scenes}
  evidence: {kind: grad_cam, data: photos}
  known: {kind: grad_cam, data: scenes}
  concepts: {kind: dissection, data: scenes}
  attacks: {kind: adversarial, data: photos}
expect:
"""


@pytest.fixture
def expecting(folder: Path) -> Callable[..., list[str]]:
    return lambda *items: faults_of(folder, items)


def faults_of(folder: Path, items: Sequence[str]) -> list[str]:
    """Return what the plan says against expectations on photographs whose classes nobody knows."""
    recipe = parse_recipe(EXPECTING + "".join(f"  - {{{item}}}\n" for item in items), "r.yaml", folder)
    try:
        make_plan(recipe)
    except RecipeError as refused:
        return [str(fault) for fault in refused.faults]
    return []


def test_all_declared_metrics_of_all_kinds_may_be_expected(expecting: Callable[..., list[str]]) -> None:
    kinds = {
        "filters": "weights", "classes": "activation_maximization", "concepts": "dissection", "known": "grad_cam",
    }  # fmt: skip
    named = [f"{name}.{metric}" for name, kind in kinds.items() for metric in registry()[kind].metric_names]
    assert len(named) > 10
    assert not expecting(*(f"metric: {name}, min: 0" for name in named))


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("filters.dead_fractoin", "'weights' has no metric 'dead_fractoin'; did you mean 'dead_fraction'"),
        ("concepts.zzz", "'dissection' has no metric 'zzz'; known are detectors"),
        ("attacks.sucess_rate", "did you mean 'success_rate'"),
        ("filtres.dead_fraction", "no analysis is called 'filtres'; did you mean 'filters'"),
    ],
)
def test_a_metric_that_no_analysis_has_is_refused_at_once(
    expecting: Callable[..., list[str]], metric: str, said: str
) -> None:
    for level in ("error", "warn"):
        with pytest.raises(RecipeError) as refused:
            expecting(f"metric: {metric}, min: 0, level: {level}")
        assert said in str(refused.value)
        assert "r.yaml:13:" in str(refused.value)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("units.top1_rate", "will not be produced: no target is a class"),
        ("units.median_quantile", "will not be produced: no real images are measured"),
        ("evidence.top1_accuracy", "the class of no image of 'photos' is known"),
        ("attacks.accuracy", "the class of no photograph of 'photos' is known"),
    ],
)
def test_a_metric_that_will_not_be_produced_is_said_by_the_plan(
    expecting: Callable[..., list[str]], metric: str, said: str
) -> None:
    (fault,) = expecting(f"metric: {metric}, min: 0")
    assert said in fault
    assert "r.yaml:13:" in fault
    assert not expecting(f"metric: {metric}, min: 0, level: off")
    assert not expecting("metric: classes.top1_rate, min: 0", "metric: classes.median_quantile, min: 0")


@pytest.mark.parametrize(
    ("output", "metric", "said"),
    [
        ("regression", "top1_confidence", "'scores' gives no class to an image: 4 measured numbers"),
        ("regression", "top1_accuracy", "'scores' gives no class to an image: 4 measured numbers"),
        ("multilabel", "top1_accuracy", "'scores' gives no class to an image: 4 labels"),
        ("", "top1_confidence", "'scores' gives no class to an image: unknown: 4 numbers"),
        ("", "top1_accuracy", "the class of no image of 'photos' is known"),
        ("classes", "top1_confidence", ""),
    ],
)
def test_the_choice_of_an_output_that_chooses_nothing_is_not_expected(
    folder: Path, output: str, metric: str, said: str
) -> None:
    told = f", output: {output}" if output else ""
    text = (
        f"version: 1\nmodel: {{path: m.onnx, preprocess: unit{told}}}\ndata: {{photos: {{images: photos}}}}\n"
        "analyses: {evidence: {kind: grad_cam, data: photos}}\n"
        f"expect: [{{metric: evidence.{metric}, min: 0}}]\n"
    )
    recipe = parse_recipe(text, "r.yaml", folder)
    if not said:
        assert make_plan(recipe).jobs
        return
    with pytest.raises(RecipeError) as refused:
        make_plan(recipe)
    (fault,) = refused.value.faults
    assert f"will not be produced: {said}" in fault.message
    assert fault.line == 5


# --- what is not there ----------------------------------------------------------------------------------------------


def test_a_gpu_that_is_not_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "gpu_names", tuple)
    for command in (("run", "r.yaml"), ("plan", "r.yaml"), ("inspect", "m.onnx")):
        assert call(monkeypatch, *command, "--device", "cuda") == 2
        said = capsys.readouterr().err
        assert "--device cuda: there is no CUDA device here" in said
        assert "--device cpu" in said
    assert not Path("runs").exists()
    monkeypatch.setattr(devices, "gpu_names", lambda: ("some card",))
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: False)
    with pytest.raises(OnnxvizError, match="PyTorch is built without CUDA"):
        devices.require_device("cuda")
    monkeypatch.setattr(devices, "_torch_has_cuda", lambda: True)
    assert devices.require_device("cuda") == devices.require_device("auto") == "cuda"
    assert devices.require_device("cpu") == "cpu"


FULL = """\
import errno, sys, tempfile
from onnxviz.cli import main
def full(*_, **__): raise OSError({number}, "{words}", "/somewhere/else")
{patch}
sys.argv = ["onnxviz", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("patch", "arguments"),
    [
        ("tempfile.mkdtemp = full", ["inspect", "m.onnx"]),
        ("tempfile.mkdtemp = full", [*RUN, "--workers", "1"]),
        ("import onnxviz.execution.execute; onnxviz.execution.execute.Log = full", list(RUN)),
    ],
)
def test_a_disk_without_room_is_a_message(folder: Path, patch: str, arguments: list[str]) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        script = FULL.format(number=number, words=os.strerror(number), patch=patch)
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert done.returncode == 2, done.stderr
        assert f"cannot be written: {os.strerror(number)}" in done.stderr
        assert "fault" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("room", ["size=4k,nr_inodes=3", "size=4k", "size=16k", "size=64k"])
def test_a_disk_that_is_full_from_the_start(folder: Path, room: str) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        done = in_a_process(folder, *RUN, "--out", "disk/run", ONNXVIZ_WORKERS="1")
        assert done.returncode == 2, done.stdout + done.stderr
        assert "No space left on device" in done.stderr
        assert "has a fault" not in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_an_unknown_operator_is_named_in_what_it_prevents(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_unknown(folder / "u.onnx")
    text = """\
version: 1
model: {path: u.onnx, preprocess: unit}
data: {photos: {images: photos}}
analyses:
  filters: {kind: weights, layers: conv2}
  units: {kind: activation_maximization, targets: [{layer: "conv2:act", units: 0}]}
  attacks: {kind: adversarial, data: photos}
"""
    Path("u.yaml").write_text(text)
    assert call(monkeypatch, "validate", "u.yaml") == 2
    said = capsys.readouterr().err
    assert said.count("com.acme:Frobnicate ('strange')") == 3
    assert "'conv2' cannot be analysed" in said
    assert call(monkeypatch, "inspect", "u.onnx", "--layers", "conv2") == 2
    assert "com.acme:Frobnicate ('strange')" in capsys.readouterr().err
    sound = "version: 1\nmodel: {path: u.onnx, preprocess: unit}\nanalyses: {filters: {kind: weights, layers: conv1}}\n"
    assert run_file(Path("u.yaml").write_text(sound) and "u.yaml", workers=0).result.verdict == "finished"


def test_files_that_are_no_images_are_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "photos/broken.png").write_bytes(next((folder / "photos").iterdir()).read_bytes()[:60])
    (folder / "photos/\x1b[2Jempty.png").write_bytes(b"")
    for command in (("validate", "r.yaml"), ("plan", "r.yaml", "--device", "cpu"), RUN):
        assert call(monkeypatch, *command) == 0
        said = capsys.readouterr().out
        assert "data 'photos': 2 of 5 files cannot be used and are left out" in said, command
        assert "an empty file" in said
        assert "\x1b[2J" not in said


# --- what is listed and taken -----------------------------------------------------------------------------------------


def test_the_classes_of_a_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "inspect", "m.onnx", "--classes") == 0
    said = capsys.readouterr().out
    assert "no classes: scores: unknown: 4 numbers; declare `output:` in a recipe" in said
    assert "numbered" not in said
    known = onnx.load("m.onnx")
    known.graph.node.add(op_type="Softmax", input=["scores"], output=["sure"])
    known.graph.output[0].name = "sure"
    onnx.save(known, "known.onnx")
    assert call(monkeypatch, "inspect", "known.onnx", "--classes") == 0
    assert "4, numbered from 0" in capsys.readouterr().out
    save_model(Path("two.onnx"), classes=2)
    assert call(monkeypatch, "inspect", "two.onnx", "--classes") == 0
    assert "no classes: scores: unknown: 2 numbers;" in capsys.readouterr().out
    assert call(monkeypatch, "inspect", "m.onnx", "--classes", "--labels", "labels.txt") == 0
    names = Path("labels.txt").read_text().split()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = [row for row in rows if row and row[0].isdigit()]
    assert listed == [[str(number), name] for number, name in enumerate(names)]
    assert call(monkeypatch, "inspect", "m.onnx", "--classes", "--layers", "first") == 2
    assert "--classes and --layers ask for different things" in capsys.readouterr().err
    # What a message promises.
    assert call(monkeypatch, "run", "r.yaml", "--set", "evidence.classes=zzz") == 2
    assert "`onnxviz inspect MODEL --classes`" in capsys.readouterr().err


@pytest.mark.parametrize("thing", [[1], None, 3, b"r.yaml"])
def test_what_is_no_recipe_is_refused(thing: Any, folder: Path) -> None:
    with pytest.raises(RecipeError, match=f"the path of a YAML file, or a mapping .* a {type(thing).__name__}"):
        onnxviz.run(thing)


def test_a_mapping_is_a_recipe(folder: Path) -> None:
    parts = {
        "version": 1,
        "model": {"path": Path("m.onnx"), "preprocess": "unit"},
        "analyses": {"filters": {"kind": "weights", "layers": ("first", "second")}},
    }
    made = onnxviz.run(parts, overrides=("filters.limit=2",), workers=0, device="cpu")
    assert made.folder == Path("runs/recipe")
    assert made.result.verdict == "finished"
    assert "nothing was tested" in made._repr_html_()
    changes = ("filters.limit=2", "filters.layers=[first, second]")
    same = onnxviz.run("r.yaml", "other", changes, only=["filters"], workers=0)
    assert same.metrics("filters") == made.metrics("filters")
    with pytest.raises(RecipeError, match="did you mean 'path'"):
        onnxviz.run({**parts, "model": {"pth": "m.onnx"}})
    with pytest.raises(RecipeError, match="is object, not text, a number, a list or a mapping"):
        onnxviz.run({**parts, "model": object()})
    endless: dict[str, Any] = {"version": 1}
    endless["model"] = endless
    with pytest.raises(RecipeError, match="contains itself"):
        onnxviz.run(endless)


def test_the_reports_command_does_the_run_again_where_it_says(folder: Path) -> None:
    """From another folder than the recipe's, with changes by the command line, and with the command as it stands."""
    (folder / "elsewhere").mkdir()
    start = ("run", "../r.yaml", "--set", "filters.limit=3", "--device", "cpu", "--no-open")
    done = in_a_process(folder / "elsewhere", *start, ONNXVIZ_WORKERS="0")
    assert done.returncode == 0, done.stderr
    made = folder / "elsewhere/runs/r"
    run = Page(made / "report/index.html").island["run"]
    program, *arguments = shlex.split(run["repeat"])
    assert program == "onnxviz"
    again = in_a_process(made, *arguments, "--no-open", ONNXVIZ_WORKERS="0")
    assert again.returncode == 0, again.stderr
    first, second = (sorted(path.name for path in (at / "jobs").iterdir()) for at in (made, made.parent / "again"))
    assert first == second  # the same keys: the same models, data, settings and seed
    tables = [(at / "tables/filters-kernels.csv") for at in (made, made.parent / "again")]
    assert [table.exists() for table in tables] in ([True, True], [False, False])


def test_two_files_of_a_caffe_network_in_either_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[Path, Path]] = []

    def imported(source: Path, output: Path | None, *, weights: Path, **_: object) -> None:
        asked.append((source, weights))
        raise OnnxvizError("enough")

    monkeypatch.setattr("onnxviz.importing.import_model", imported)
    for pair in (("net.prototxt", "w.caffemodel"), ("w.CAFFEMODEL", "net.prototxt")):
        assert call(monkeypatch, "import", *pair) == 2
        assert "enough" in capsys.readouterr().err
    assert [(str(source), str(weights).lower()) for source, weights in asked] == [("net.prototxt", "w.caffemodel")] * 2
    assert call(monkeypatch, "import", "a.keras", "b.keras") == 2
    assert "only as a Caffe network's .prototxt and .caffemodel" in capsys.readouterr().err
    assert call(monkeypatch, "import", "net.prototxt", "w.caffemodel", "--weights", "v.caffemodel") == 2
    assert "the weights are given twice" in capsys.readouterr().err


def test_advice_names_packages_that_the_project_knows() -> None:
    """onnxviz itself is on no package index, so its extras cannot be installed by name."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = declared["optional-dependencies"].values()
    known = [*declared["dependencies"], *(item for extra in extras for item in extra)]
    names = {re.split(r"[<>=;\[ ]", item)[0].replace("_", "-").lower() for item in known}
    files = [*(ROOT / "onnxviz").rglob("*.py"), ROOT / "README.md"]
    files += [file for file in (ROOT / "docs").rglob("*") if file.suffix in (".md", ".yml")]
    advised = []
    for file in files:
        for text in re.findall(r"pip install ([^\n`',;#)]+)", file.read_text()):
            words = [word.strip("\"'.").replace("_", "-").lower() for word in text.split(". ")[0].split()]
            plain = [word for word in words if word and not word.startswith(("-", "{", "git+", "constraints"))]
            advised += [(file.name, re.split(r"[<>=]", word)[0]) for word in plain]
    assert ("ray_session.py", "ray") in advised
    assert len(advised) > 8
    assert not [item for item in advised if item[1] not in names]


def test_the_verdict_of_what_was_not_tested(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    observer = Observer()
    assert call(monkeypatch, *RUN, "--set", "expect=[]", "--only", "filters", "--events", "events.jsonl") == 0
    assert "finished; nothing was tested" in capsys.readouterr().out
    told = json.loads(Path("events.jsonl").read_text().splitlines()[-1])
    assert (told["verdict"], told["exit_code"]) == ("finished", 0)
    made = run_file("r.yaml", overrides=("expect=[]",), only=["filters"], workers=0, observer=observer)
    page = Page(made.report)
    assert page.island["run"]["verdict"] == "finished"
    script = "".join((ROOT / "onnxviz/report/assets" / name).read_text() for name in ("overview.js",))
    assert '["finished", ["Finished, not tested"' in script


def test_every_command_is_in_a_module_that_can_be_loaded() -> None:
    """They are loaded when a command is called: a misspelt one would be found by its user."""
    for path in (ROOT / "onnxviz/cli").glob("*.py"):
        for module, names in re.findall(r"^\s+from (onnxviz[\w.]*) import ([\w, ]+)$", path.read_text(), re.MULTILINE):
            loaded = importlib.import_module(module)
            for name in names.split(","):
                attribute = name.split(" as ")[0].strip()
                assert hasattr(loaded, attribute) or importlib.import_module(f"{module}.{attribute}"), (path, name)
