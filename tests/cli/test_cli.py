"""The command line: exit codes, one message for a mistake, nothing that a name in a model could do to a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import onnx
import pytest
from rich.console import Console
from tiny_models import fill, save_model

from onnxviz import cli
from onnxviz.cli import browser, commands, show
from onnxviz.cli.ending import INTERNAL
from onnxviz.cli.show import show_rows
from onnxviz.core.errors import OnnxvizError
from onnxviz.execution.plan import make_plan
from onnxviz.progress import duration
from onnxviz.recipe.recipe import parse_recipe, read_recipe

ROOT = Path(__file__).resolve().parents[2]

TEXT = """\
version: 1
title: Tiny
model: {path: m.onnx, preprocess: unit, labels: labels.txt}
data: {photos: {images: photos}}
analyses:
  filters: {kind: weights, layers: first}
  evidence: {kind: grad_cam, layers: second, data: photos, classes: cat}
expect:
  - {metric: filters.dead_fraction, max: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    (tmp_path / "r.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["onnxviz", *arguments])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_run_plan_report_compare(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "validate", "r.yaml") == 0
    assert "r.yaml: valid; 4 jobs" in capsys.readouterr().out
    assert call(monkeypatch, "run", "r.yaml", "--dry-run") == 0
    assert not Path("runs").exists()
    assert "4 jobs, 0 done before" in capsys.readouterr().out
    assert call(monkeypatch, "run", "r.yaml", "--device", "cpu", "--no-open") == 0
    said = capsys.readouterr().out
    assert said.rstrip().endswith(str(Path("runs/r/report/index.html")))
    assert "[5/5] done" in said
    assert "all expectations hold" in said
    assert call(monkeypatch, "plan", "r.yaml", "--device", "cpu") == 0
    assert "4 jobs, 4 done before" in capsys.readouterr().out
    Path("runs/r/report/index.html").unlink()
    assert call(monkeypatch, "report", "runs/r", "--no-open") == 0
    assert Path("runs/r/report/index.html").is_file()
    save_model(folder / "n.onnx", seed=1)
    assert call(monkeypatch, "run", "r.yaml", "--set", "model.path=n.onnx", "-o", "runs/n", "--quiet", "--no-open") == 0
    assert capsys.readouterr().out.rstrip().count("\n") == 1
    assert call(monkeypatch, "compare", "runs/r", "runs/n", "--out", "both", "--no-open") == 0
    assert [part["model"] for part in json.loads(Path("both/run.json").read_text())["analyses"][0]["parts"]] == [
        "r",
        "n",
    ]
    assert Path("both/report/index.html").is_file()
    assert call(monkeypatch, "report", "both", "--no-open") == 0


def test_exit_codes_of_expectations_and_failures(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ("run", "r.yaml", "--device", "cpu", "--no-open", "--set")
    assert call(monkeypatch, *run, "expect=[{metric: filters.dead_fraction, min: 2, because: reasons}]") == 1
    said = capsys.readouterr().out
    assert "BROKEN" in said
    assert "reasons" in said
    assert Path("runs/r/report/index.html").is_file()
    assert call(monkeypatch, *run, "expect=[{metric: filters.dead_fractoin, min: 0, level: warn}]") == 2
    assert "did you mean 'dead_fraction'" in capsys.readouterr().err

    from onnxviz.analyses.weights.analysis import Weights

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError("by [bold]zero[/bold]\x1b[2J")

    monkeypatch.setattr(Weights, "run", broken)
    assert call(monkeypatch, *run, "filters.limit=3") == 3
    said = capsys.readouterr().out
    assert "[bold]zero[/bold]" in said
    assert "\x1b[2J" not in said
    assert "Traceback" not in said


def test_interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxviz.analyses.weights.analysis import Weights

    def interrupted(*_: object) -> list[object]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Weights, "run", interrupted)
        assert call(monkeypatch, "run", "r.yaml", "--device", "cpu", "--no-open") == 130
    assert "goes on where it was" in capsys.readouterr().err
    assert call(monkeypatch, "run", "r.yaml", "--device", "cpu", "--no-open") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "none.yaml"), "there is no such file"),
        (("validate", "/dev/null"), "/dev/null: is not a regular file"),
        (("run", "rr.yaml"), "did you mean 'r.yaml'?"),
        (("run", "photos/r.yaml"), "`onnxviz init MODEL.onnx` writes one"),
        (("run", "m.onnx"), "is a model, not a recipe; `onnxviz init` writes a recipe for it"),
        (("inspect", "m.onnx", "--labels", "labels.txt"), "or --classes to list the classes"),
        (("run", "r.yaml", "--set", "filters.layrs=x"), "did you mean 'layers'?"),
        (("run", "r.yaml", "--set", "evidence.classes=catt"), "did you mean 'cat'?"),
        (("run", "r.yaml", "--out", "photos"), "no run folder"),
        (("run", "r.yaml", "--out", "r.yaml/x"), "cannot be written"),
        (("validate", "r.yaml", "labels.txt"), "a recipe is a mapping"),
        (("inspect", "r.yaml"), "r.yaml: a recipe, not a model"),
        (("inspect", "m.onnx", "--layers", "frist"), "did you mean 'first'?"),
        (("inspect", "m.onnx", "--preprocess", "cafe"), "did you mean 'caffe'"),
        (("explain", "weigths"), "did you mean 'weights'?"),
        (("report", "photos"), "name the folder of a run"),
        (("report", "r.yaml"), "name the folder of a run"),
        (("compare", "photos"), "two runs or more"),
        (("compare", "photos", "photos"), "no finished run"),
        (("init", "labels.txt"), "labels.txt"),
        (("rnu", "r.yaml"), "Did you mean 'run'"),
        (("run", "r.yaml", "--ste", "x=1"), "--set"),
        (("run", "r.yaml", "--device", "tpu"), "cuda"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert call(monkeypatch, *arguments) == 2
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_fault_in_onnxviz_is_one_line_and_a_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr("onnxviz.execution.estimate.make_plan", broken)
    assert call(monkeypatch, "plan", "r.yaml") == INTERNAL
    text = capsys.readouterr().err
    assert "RuntimeError: oops" in text
    log = Path(text.split("details are in ")[1].split(";")[0].strip())
    assert "Traceback" in log.read_text()
    log.unlink()


def test_inspect(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal folds the table's heads
    assert call(monkeypatch, "inspect", "m.onnx", "--agreement", "--device", "cpu", "--preprocess", "unit") == 0
    said = capsys.readouterr().out
    for word in ("first", "second", "dense", "NCHW", "m.onnx", "made-up images", "to the file"):
        assert word in said
    assert call(monkeypatch, "inspect", "m.onnx", "--layers", "second") == 0
    said = capsys.readouterr().out
    assert "second" in said
    assert "relu" not in said


def test_names_in_a_model_cannot_drive_the_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    model = onnx.load(folder / "m.onnx")
    model.graph.node[0].name = "\x1b]0;owned\x07[red]conv[/red]\u202e"
    model.producer_name = "\x1b[2Jevil"
    onnx.save(model, folder / "m.onnx")
    for arguments in (("inspect", "m.onnx"), ("plan", "r.yaml", "--set", "filters.layers=Conv[0]"), ("init", "m.onnx")):
        assert call(monkeypatch, *arguments) == 0
        said = capsys.readouterr()
        assert not {"\x1b", "\x07", "\u202e"} & set(said.out + said.err)
    assert not {"\x1b", "\x07", "\u202e"} & set(Path("m.yaml").read_text())


def test_init_writes_a_recipe_that_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "init", "m.onnx", "--out", "made/start.yaml") == 0
    assert {job.analysis for job in make_plan(read_recipe("made/start.yaml")).jobs} == {"filters", "classes"}
    before = Path("made/start.yaml").read_text()
    assert call(monkeypatch, "init", "m.onnx", "--out", "made/start.yaml") == 2
    assert Path("made/start.yaml").read_text() == before


def test_init_writes_where_the_class_names_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "init", "m.onnx", "--labels", "labels.txt", "--out", "made/start.yaml") == 0
    assert "  labels: ../labels.txt\n" in Path("made/start.yaml").read_text()
    assert make_plan(read_recipe("made/start.yaml")).subjects["model"].labels == ("cat", "dog", "lion", "zebra")
    Path("three.txt").write_text("cat\ndog\nlion\n")
    for name, said in (("three.txt", "three.txt: 3 class names, and the output"), ("gone.txt", "gone.txt")):
        assert call(monkeypatch, "init", "m.onnx", "--labels", name, "--out", "start.yaml") == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("start.yaml").exists()


def test_init_writes_paths_that_hold_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("from", "deep/to", "elsewhere"):
        (folder / name).mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "to")
    monkeypatch.chdir(folder / "from")
    for target in ("../deep/to/r.yaml", "../link/s.yaml"):
        assert call(monkeypatch, "init", "../m.onnx", "--out", target, "--images", "../photos") == 0
    monkeypatch.chdir(folder / "elsewhere")
    for target in ("../deep/to/r.yaml", "../link/r.yaml", "../deep/to/s.yaml", "../link/s.yaml"):
        plan = make_plan(read_recipe(target))
        assert plan.subjects["model"].view.file == "m.onnx"
        assert plan.data[0].used
        assert sum(job.analysis == "evidence" for job in plan.jobs) > 1, "the first report shows photographs"


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("model", "tries"), [("fastestdet_coco", False), ("ultraface_rfb_320", False), ("cifar10_resnet20_ts17", True)]
)
def test_init_advises_what_the_model_takes(
    zoo: Path, model: str, tries: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, "init", str(zoo / "onnx" / f"{model}.onnx"), "--out", "start.yaml") == 0
    text = Path("start.yaml").read_text()
    assert ("preprocess: auto" in text) == tries, "a detector's cannot be tried"
    for comment in ("# data:", "#   photos:", "  # evidence:"):
        assert comment in text
        text = text.replace(comment, comment.replace("# ", "", 1) if comment != "#   photos:" else "  photos:")
    Path("r.yaml").write_text(text.replace("photos/*.jpg", "photos"))
    assert "evidence" in {job.analysis for job in make_plan(read_recipe("r.yaml")).jobs}


def test_init_leaves_out_the_kernels_of_a_model_without_a_convolution(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, 8, 8])
    y = onnx.helper.make_tensor_value_info("y", 1, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "relu.onnx")
    assert call(monkeypatch, "init", "relu.onnx") == 0
    assert (
        "# filters: {kind: weights, layers: first_conv}  # the model has no convolution"
        in Path("relu.yaml").read_text()
    )
    assert {job.analysis for job in make_plan(read_recipe("relu.yaml")).jobs} == {"outputs"}


def test_inspect_names_a_folder_without_images_as_such(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert call(monkeypatch, "inspect", "m.onnx", "--images", "empty") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: empty: the folder holds no image\n  images are files that end in .bmp,")
    assert "recipe" not in said


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_table_that_is_too_wide_folds_no_cell(width: int) -> None:
    columns = ["layer", "operator", ">adds", ">difference"]
    name = "blocks.11/attention/" * 3
    rows = [((name, "DequantizeLinear", "1,234,567,890,123", "1.2e-07"), ""), (("b", "Conv", "1", "0.0e+00"), "")]

    def shown(wide: int) -> list[str]:
        console = Console(file=io.StringIO(), width=wide, markup=False)
        show_rows(console, columns, rows, names=1, spare=("adds",))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().splitlines()

    lines = shown(width)
    assert name in lines
    assert any(line.split()[0] == "DequantizeLinear" and line.endswith("1.2e-07") for line in lines if line)
    assert all(len(line) <= width for line in lines if line != name)
    assert shown(30)[-1] == "left out for want of width: adds"
    assert any(name in line and "1.2e-07" in line for line in shown(160)), "one line where there is room"


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ("nowhere", "nowhere: no image matches 'nowhere'"),
        ("photoss", "did you mean 'photos'?"),
        ("photos/*.jpg", "no image matches 'photos/*.jpg'"),
        ("empty", "the folder holds no image"),
    ],
)
def test_init_refuses_images_that_are_not_there(
    images: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert call(monkeypatch, "init", "m.onnx", "--images", images, "--out", "start.yaml") == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("start.yaml").exists()
    assert call(monkeypatch, "init", "m.onnx", "--images", "photos/*.png", "--out", "start.yaml") == 0


def test_schema_explain_version_help(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "schema") == 0
    printed = json.loads(capsys.readouterr().out)
    kinds = printed["properties"]["analyses"]["additionalProperties"]["discriminator"]["mapping"]
    assert set(kinds) == {
        "activation_maximization",
        "adversarial",
        "attribution",
        "dissection",
        "exemplars",
        "grad_cam",
        "spurious_evidence",
        "weights",
    }
    assert call(monkeypatch, "schema", "--out", "s.json") == 0
    assert json.loads(Path("s.json").read_text()) == printed
    assert printed["title"] == "onnxviz recipe"
    capsys.readouterr()
    assert call(monkeypatch, "explain") == 0
    listed = capsys.readouterr().out
    for kind in ("weights", "grad_cam", "dissection", "activation_maximization"):
        assert kind in listed
        assert call(monkeypatch, "explain", kind.upper().replace("_", "-")) == 0
        as_typed = capsys.readouterr().out
        assert call(monkeypatch, "explain", kind) == 0
        said = capsys.readouterr().out
        assert said == as_typed
        assert "arXiv" in said or "After" in said
        assert "what `expect:` can test" in said
        assert "field" in said
        assert "Example" in said
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"onnxviz {version('onnxviz')}\n"
    assert call(monkeypatch, "run", "--help") == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("Run a recipe and write its report", "--set NAME=VALUE", "--workers N"))


def test_the_demo_is_the_quickstart() -> None:
    shipped = resources.files("onnxviz").joinpath(commands.QUICKSTART).read_text(encoding="utf-8")
    assert shipped == (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    found = parse_recipe(shipped, "quickstart.yaml", Path())
    assert {"weights", "activation_maximization", "grad_cam", "dissection"} == {
        analysis.model_dump()["kind"] for analysis in found.analyses.values()
    }


def test_the_recipes_that_need_no_files_are_valid() -> None:
    for name, more in (("quickstart.yaml", {"channels"}), ("compare.yaml", set[str]())):
        found = {job.analysis for job in make_plan(read_recipe(ROOT / "recipes" / name)).jobs}
        assert found == {"filters", "classes", "evidence", "concepts"} | more


@pytest.mark.zoo
def test_the_audit_fits_the_real_squeezenet(zoo: Path, shared_data: Path) -> None:
    photos = [str(shared_data / "imagenet_sample" / f"*{name}*") for name in ("ostrich", "king_penguin", "_lion.")]
    overrides = [
        f"model.path={zoo / 'onnx/squeezenet_fp16.onnx'}",
        f"model.labels={zoo / 'labels/imagenet_1000.txt'}",
        f"data.photos.images={json.dumps(photos)}",
        f"data.scenes.concepts={shared_data / 'camvid'}",
    ]
    found = make_plan(read_recipe(ROOT / "recipes" / "squeezenet_audit.yaml", overrides))
    assert {job.analysis for job in found.jobs} == {"filters", "classes", "channels", "evidence", "concepts"}


def test_reports_open_in_desktop_sessions_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[str] = []
    monkeypatch.setattr(browser.webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "CI"):
        monkeypatch.delenv(name, raising=False)
    browser.open_page(tmp_path, None)
    assert not opened
    monkeypatch.setenv("DISPLAY", ":0")
    browser.open_page(tmp_path, None)
    browser.open_page(tmp_path, False)
    assert len(opened) == 1
    monkeypatch.setenv("CI", "1")
    browser.open_page(tmp_path, None)
    assert len(opened) == 1
    browser.open_page(tmp_path, True)
    assert opened == [tmp_path.as_uri()] * 2


def test_output_that_cannot_say_everything(folder: Path) -> None:
    """A console without Unicode gets other signs, not an exception."""
    done = subprocess.run(
        [sys.executable, "-m", "onnxviz", "inspect", "m.onnx"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"5?16?16" in done.stdout, "signs that ASCII lacks"


def test_small_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert [duration(seconds) for seconds in (0.04, 9.97, 61, 3725)] == ["0.0 s", "10 s", "1 min 01 s", "1 h 02 min"]
    assert show.safe("a\x1b[1m\nb\u202e") == "a\\x1b[1m\nb\\u202e"
    output, _ = show.consoles()
    show.show_error(output, OnnxvizError("[b]x[/b]", where="w", remedy="r"))
    assert "w: [b]x[/b]" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "value"), [("--device", "gpu"), ("--engine", "gpu")])
def test_a_wrong_value_of_an_option_is_said_plainly(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "r.yaml", option, value) == 2
    said = capsys.readouterr().err
    assert f"'{value}'" in said
    assert "Value error" not in said
