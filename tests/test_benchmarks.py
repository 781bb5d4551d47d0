"""The benchmarks run, and their checks can fail; their figures are nobody's business here."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "agreement", "attribution", "attribution_faithfulness", "attribution_perturbation", "attribution_pixels",
    "attribution_pointing", "class_images", "cluster_costs", "cluster_simulation", "dissection", "execution",
    "exemplars", "faults", "feature_visualization", "fuzz", "gpu", "gpu_execution", "gpu_feature_visualization",
    "import_coverage", "import_speed", "layer_names", "operator_table", "planted_shortcuts", "preprocessing",
    "quantised_forms", "ray_overhead", "simple_pictures", "stock_onnx2torch", "streams", "xai_tris",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks are no part of the package: they are found beside it; a script's threads end with it."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("ONNXVIZ_ZOO", raising=False)


def run(name: str, *arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a script as `python -m` does and return what it prints."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    threads, code = torch.get_num_threads(), None
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    assert not code, out
    return out


def rows(text: str) -> list[list[str]]:
    """The cells of the markdown tables in a text, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    rules = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    return [line for index, line in enumerate(cells) if index not in rules and index + 1 not in rules]


def test_every_script_is_tested() -> None:
    helpers = {
        "__init__", "architectures", "backend_tests", "gpu_choices", "linear_classifier", "lucent_peer", "measure",
        "pointing_images", "stock_faults", "xai_tris_metrics", "xai_tris_networks", "xai_tris_scenarios",
    }  # fmt: skip
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - helpers == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"python -m benchmarks.{name}" in run(name, "--help", capsys=capsys, monkeypatch=monkeypatch)


def test_help_from_the_shell() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "--quick" in done.stdout


def test_no_machine_paths() -> None:
    for path in (ROOT / "benchmarks").iterdir():
        if path.is_file():
            assert not any(word in path.read_text("utf-8") for word in ("/work/", "/home/", "/tmp/")), path.name


def test_attribution(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")  # what pytorch-grad-cam enlarges its maps with
    options = ("--model", "builtin", "--rounds", "1", "--images", "4", "--together", "4")
    text = run("attribution", *options, capsys=capsys, monkeypatch=monkeypatch)
    assert [row[0] for row in rows(text)] == [
        "bare", "Grad-CAM", "Grad-CAM, enlarged", "all by gradients", "peer, all layers", "peer, layer by layer",
        "1", "4",
    ]  # fmt: skip
    assert float(text.rsplit(":", 1)[1]) < 1e-4  # the peer's maps are ours


def test_attribution_faithfulness(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--models", "builtin", "--images", "8", "--steps", "4")
    text = run("attribution_faithfulness", *options, capsys=capsys, monkeypatch=monkeypatch)
    found: dict[str, list[str]] = {}
    details: dict[str, list[str]] = {}
    for name, *cells in rows(text):  # which to believe, then what else was measured
        (details if name in found else found)[name] = cells
    assert {"Grad-CAM", "Gradient", "centre", "edge filter", "random pixels", "random patches"} == set(found)
    assert "knows nothing of the network" in found["centre"]
    deletion, insertion = (float(cell) for cell in details["Grad-CAM"][:2])
    assert float(found["Grad-CAM"][1]) == pytest.approx(insertion - deletion, abs=2e-3)


def test_exemplars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", "builtin", "--images", "6", "--rounds", "1", "--shown", "1", "--memory", "4", "8")
    found = rows(run("exemplars", *options, capsys=capsys, monkeypatch=monkeypatch))
    assert [row[0] for row in found] == ["bare", "all layers", "peaks", "with pictures", "4", "8"]
    assert found[0][3] == "1.00"
    assert all(int(row[1]) > 0 for row in found[4:])


def test_attribution_pixels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", "builtin", "--rounds", "1", "--steps", "3")
    text = run("attribution_pixels", *options, capsys=capsys, monkeypatch=monkeypatch)
    found = rows(text)
    names = ["bare", "bare, together", "ours", "captum, this network", "captum", "captum, one a pass"]
    assert [row[0] for row in found] == ["integrated_gradients"] * 6 + ["smooth_grad"] * 6
    assert [row[1].split(" (")[0] for row in found] == 2 * names
    assert float(text.rsplit("by", 1)[1]) < 1e-3  # captum's maps are ours


def test_attribution_by_changed_images(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", "builtin", "--rounds", "1", "--masks", "8")
    text = run("attribution_perturbation", *options, capsys=capsys, monkeypatch=monkeypatch)
    found = {row[0]: row for row in rows(text)}
    assert {"bare", "occlusion", "occlusion, three classes", "RISE"} <= set(found)
    assert float(found["Captum, 1 in a pass"][-1]) < 1e-4  # its maps are ours


def test_xai_tris(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A linear network on images of which one place tells the class, and an untrained one, which is left out."""
    pytest.importorskip("scipy")
    options = ["--scenarios", "LIN", "--backgrounds", "WHITE", "--networks", "1", "--samples", "12", "--drawn", "2000"]

    def tables(kind: str, epochs: str) -> list[list[str]]:
        found = [*options, "--kinds", kind, "--epochs", epochs, "--folder", str(tmp_path)]
        return rows(run("xai_tris", *found, capsys=capsys, monkeypatch=monkeypatch))

    (left_out,) = tables("CNN", "1")
    assert left_out[:2] == ["LIN WHITE 8", "CNN"]
    assert "(left out)" in left_out[2]
    network, *found = tables("LLR", "40")
    assert (network[1], network[3]) == ("LLR", "12")
    assert next(row for row in found if row[0] == "Gradient")[1].endswith(" beats")
    assert [row[1:] for row in found if row[0] == "Gradient"][-1] == ["1 / 0 / 0"] * 3 + ["0%"]
    assert [row[1:] for row in found if row[0] == "VarGrad"][-1][3] == "100%"  # the gradient is always the same
    assert tables("LLR", "40") == [network, *found]  # from what was kept


def test_dissection(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--model", "builtin", "--images", "6", "--side", "64", "--rounds", "1")
    found = rows(run("dissection", *options, capsys=capsys, monkeypatch=monkeypatch))
    assert len(found) == 3
    for row in found:
        assert row[-1].startswith("yes; ")  # the thresholds are numpy's
        different, _, counted = row[-1].removeprefix("yes; ").split()
        assert int(different) < 1e-3 * int(counted)


def test_feature_visualization(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--ladder", "--model", "builtin", "--layers", "Conv[1]", "logits", "--steps", "3", "--rounds", "1")
    found = rows(run("feature_visualization", *options, capsys=capsys, monkeypatch=monkeypatch))
    assert [row[0] for row in found] == ["Conv[1]", "logits"]
    for row in found:
        bare, full, parts = float(row[1]), float(row[2]), sum(map(float, row[4:8]))
        assert full - bare == pytest.approx(parts, abs=0.3)  # the parts are the whole


@pytest.mark.zoo
def test_streams(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--zoo", str(zoo.parent), "--folder", str(tmp_path), "--count", "40", "--slice", "20", "--rounds", "1")
    monkeypatch.setattr(sys, "argv", ["streams", *options, "--memory"])
    importlib.import_module("benchmarks.streams").main()  # pydantic looks for its classes in a module that is there
    found = rows(capsys.readouterr().out)
    assert [row[2] for row in found] == ["bare", "stream"] * 4


@pytest.mark.slow
def test_feature_visualization_beside_lucent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lucent")
    options = ("--networks", "resnet18", "--side", "32", "--steps", "2", "--rounds", "1")
    found = rows(run("feature_visualization", *options, capsys=capsys, monkeypatch=monkeypatch))
    timed = {row[0]: float(row[1]) for row in found[:12]}
    wall, processor = found[12:]
    assert float(wall[2]) == min(value for key, value in timed.items() if key.startswith("bare"))
    assert float(wall[6]) == min(timed["Lucent, 8 in one call"], timed["Lucent, one a call"])
    for row in (wall, processor):
        assert float(row[5]) == pytest.approx(float(row[4]) / float(row[2]), rel=0.02)
        assert float(row[8]) == pytest.approx(float(row[6]) / float(row[4]), rel=0.02)


@pytest.mark.parametrize(("texts", "units"), [(["0:100:20", "20", "7"], [0, 20, 40, 60, 80, 7]), (["999"], [999])])
def test_class_numbers(texts: list[str], units: list[int]) -> None:
    from benchmarks.class_images import units_of

    assert units_of(texts) == units
    with pytest.raises(SystemExit, match="0 to 999"):
        units_of([*texts, "1000"])


def test_a_class_that_the_judge_gives_nothing_has_no_rank_among_the_first() -> None:
    from benchmarks.class_images import rank_of

    given = np.array([0.0, 0.5, 0.25, 0.25, 0.0])
    assert [rank_of(given, place) for place in range(5)] == [5, 1, 3, 3, 5]


def test_the_interval_of_a_rate() -> None:
    """Wilson's, by the equation that it solves: (p - rate)² = z² p (1 - p) / n."""
    from benchmarks.class_images import interval

    for hits, count in ((0, 50), (33, 50), (50, 50)):
        for bound in interval(hits, count):
            assert (bound - hits / count) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / count, abs=1e-12)


def test_a_preset_is_what_its_recipe_says(tmp_path: Path) -> None:
    from benchmarks.class_images import analysis_of, digest_of

    recipe = tmp_path / "two.yaml"
    kind = "{kind: activation_maximization, targets: [{layer: conv3, units: 5}], steps: 7, "
    recipe.write_text(
        f"version: 1\nmodel: {{path: x.onnx}}\nanalyses:\n  a: {kind}border: grey}}\n  b: {kind}border: reflect}}\n"
        f"  c: {{kind: weights, layers: all}}\n"
    )
    assert analysis_of(f"{recipe}:a", ()).border == "grey"  # type: ignore[attr-defined]
    assert analysis_of(f"{recipe}:a", ("border=edge",)).border == "edge"  # type: ignore[attr-defined]
    with pytest.raises(SystemExit, match="a, b: say"):
        analysis_of(str(recipe), ())
    with pytest.raises(SystemExit, match="no preset"):
        analysis_of("nothing_of_that_name", ())
    same = digest_of(f"{recipe}:a", ("steps=9", "targets=[{layer: logits}]"))
    assert digest_of(f"{recipe}:a", ()) == same  # targets and steps are the sweep's
    assert len({same, digest_of(f"{recipe}:b", ()), digest_of(f"{recipe}:a", ("border=edge",))}) == 3


@pytest.mark.zoo
def test_class_images_go_on_where_they_were(
    tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import class_images

    def sweep(*classes: str) -> str:
        options = ("--zoo", str(shared_data.parent), "--models", "mobilenet", "--presets", "default", "--steps", "2")
        monkeypatch.setattr(
            sys, "argv", ["class_images", *options, "--jobs", "1", "--out", str(tmp_path), "--classes", *classes]
        )
        threads = torch.get_num_threads()
        class_images.main()
        torch.set_num_threads(threads)
        return capsys.readouterr().out

    assert "1 of 1 images to make" in sweep("20")
    with (tmp_path / "results.jsonl").open("a") as results:
        results.write('{"model": "mobilenet", "pre')  # interrupted while it was written
    text = sweep("20", "40")
    assert "1 of 2 images to make" in text
    assert [row[:2] + row[3:6] for row in rows(text)] == [["mobilenet", "default", "2", "0", "2"]]
    assert "to make" not in sweep("20", "40")
    results = tmp_path / "results.jsonl"
    results.write_text(results.read_text().replace("coral_mobilenet_v2_1.0_224_qdq.onnx", "another.onnx"))
    assert "0 of 2 images to make" in sweep("20", "40")
    assert len(list(tmp_path.glob("*/*.png"))) == 2
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.zoo
def test_agreement(shared_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mnist.onnx", "iris_mlp_winml.onnx", "skl_digits_mlp_zipmap.onnx")
    options = ("--zoo", str(shared_data.parent), "--skip-accuracy", "--only", *names)
    found = {row[0]: row for row in rows(run("agreement", *options, capsys=capsys, monkeypatch=monkeypatch))}
    assert set(found) == set(names)
    for name in names:
        for first in (3, 7):  # one image, four: both references, who is off, and what quantised models have
            assert all(float(cell) < 1e-5 for cell in found[name][first : first + 2])
            assert found[name][first + 2 : first + 4] == ["-", "-"]
        assert found[name][-1] == "reaches the input"
    assert "ZipMap refused" in found["skl_digits_mlp_zipmap.onnx"][2]


@pytest.mark.zoo
def test_preprocessing(shared_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name = "mlperf_tiny_resnet8_cifar10.onnx"
    options = ("--zoo", str(shared_data.parent), "--only", name)
    (found,) = (row for row in rows(run("preprocessing", *options, capsys=capsys, monkeypatch=monkeypatch)))
    assert found[0] == name
    by_hand, labelled, bare = (float(found[place].rstrip("%")) for place in (2, 6, 9))
    assert found[4] == found[7] == "RGB 0..255"
    assert abs(by_hand - labelled) <= 1
    assert labelled == bare


def test_gpu_checks_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--out", str(tmp_path), "--device", "cpu", "--quick")
    run("gpu", *options, capsys=capsys, monkeypatch=monkeypatch)
    outcomes = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["outcomes"]
    skipped = {outcome["check"] for outcome in outcomes if outcome["verdict"] == "skipped"}
    assert skipped == {"no host synchronisation in the network, forward and backward"}
    assert all("needs CUDA" in outcome["remark"] for outcome in outcomes if outcome["check"] in skipped)
    assert all(outcome["figures"] for outcome in outcomes if outcome["check"] not in skipped)
    page = (tmp_path / "gpu.md").read_text("utf-8")
    assert all(f"## {outcome['check']}, " in page for outcome in outcomes)


def test_a_gpu_check_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import gpu

    def breaks(_: gpu.Context) -> gpu.Figures:
        raise RuntimeError("no such kernel")

    def finds_a_fault(on: gpu.Context) -> gpu.Figures:
        on.faults.append("two runs differ")
        return {"difference": 0.5}

    title = "Grad-CAM maps on the CPU and on the device"
    checks: dict[str, Any] = {"first": breaks, "second": finds_a_fault, title: gpu.CHECKS[title]}
    monkeypatch.setattr(gpu, "CHECKS", checks)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(tmp_path), "--device", "cpu", "--quick"])
    assert gpu.main() == 1
    first, second, third = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["outcomes"]
    assert (first["verdict"], second["verdict"], third["verdict"]) == ("failed", "failed", "passed")
    assert "no such kernel" in first["remark"]
    assert second["figures"] == {"difference": 0.5}


def test_gpu_agreement_notices_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that computes something else on the device fails both comparisons."""
    from benchmarks import gpu

    (on,) = gpu.subjects(torch.device("cpu"), None, quick=True)
    for name in ("differentiable", "unchecked"):
        made = getattr(on.model, name)

        def another(layers: Any, made: Any = made) -> Any:
            return lambda images: made(layers)(images * 0.9)

        monkeypatch.setattr(on.model, name, another)
    for title in ("agreement with ONNX Runtime, every layer", "Grad-CAM maps on the CPU and on the device"):
        assert gpu.run_check(title, on).verdict == "failed"


def test_feature_visualization_checks_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
        "--quick",
        "--only",
        "micro",
        "channels",
        "redirected",
        "waits",
    )
    run("gpu_feature_visualization", *options, capsys=capsys, monkeypatch=monkeypatch)
    outcomes = json.loads((tmp_path / "gpu_feature_visualization.json").read_text("utf-8"))["outcomes"]
    assert len(outcomes) == 3
    assert all(outcome["figures"] and outcome["verdict"] == "passed" for outcome in outcomes)
    speed = outcomes[1]["figures"]
    rate, bare = speed["float32, batch 2, ours"], speed["float32, batch 2, bare"]
    assert speed["float32, batch 2, ours / bare in time"] == pytest.approx(bare / rate)
    best = max(speed[f"float32, batch {count}, ours"] for count in (1, 2))
    done, peak = speed["GFLOP an image-step"] * best / 1e3, speed["float32, peak TFLOP/s, matrix product here"]
    assert speed["float32, best, share of matrix product here"] == pytest.approx(done / peak)


@pytest.mark.slow
def test_all_feature_visualization_checks_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lucent")
    options = ("--out", str(tmp_path), "--device", "cpu", "--quick", "--networks", "resnet18")
    run("gpu_feature_visualization", *options, capsys=capsys, monkeypatch=monkeypatch)
    outcomes = json.loads((tmp_path / "gpu_feature_visualization.json").read_text("utf-8"))["outcomes"]
    assert {outcome["verdict"] for outcome in outcomes} == {"passed", "skipped"}
    (beside,) = [each for each in outcomes if "Lucent" in each["check"] and each["verdict"] == "passed"]
    assert any("Lucent, 8 in one call" in name for name in beside["figures"])


def test_gpu_checks_leave_no_choice_out_and_notice_another_picture() -> None:
    from benchmarks import gpu, gpu_choices
    from benchmarks import gpu_feature_visualization as visualization
    from onnxviz.optimize.objectives import ObjectiveChoice
    from onnxviz.optimize.optimizers import Optimizer

    (on,) = gpu.subjects(torch.device("cpu"), None, quick=True)
    layer = on.layers[-1].name
    objectives = gpu_choices.objectives(layer, on.layers[-2].name)
    assert set(objectives) == {kind.model_fields["kind"].default for kind in gpu_choices.kinds(ObjectiveChoice)}
    assert {kind.model_fields["kind"].default for kind in gpu_choices.kinds(Optimizer)} <= set(
        gpu_choices.optimizers(torch.device("cpu"))
    )
    names = gpu_choices.settings_by_name(on.model, steps=1)
    found: gpu.Figures = {}
    pair = names["border grey"], names["border edge"]
    visualization._compare_a_step(on, "another border", pair, None, found)
    assert on.faults
    assert "another border" in on.faults[0]


def test_in_turns_times_each_round_and_leaves_the_first_out() -> None:
    from benchmarks.measure import in_turns, medians

    clock = iter(np.arange(100.0))
    calls: list[str] = []
    found = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3, lambda: next(clock))
    assert calls == ["a", "b"] * 4
    assert medians(found) == {"a": 1.0, "b": 1.0}
    assert len(found["a"]) == 3


def test_a_pipe_in_a_cell_does_not_end_it() -> None:
    from benchmarks.measure import markdown

    assert markdown(["a"], [["x|y"]]).splitlines()[-1] == "| x\\|y |"


def test_planted_shortcuts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained network, by which the tables are made; that the counts are right is seen from the rows."""
    options = ("--planted", "1", "--clean", "0", "--steps", "1", "--training-scenes", "80", "--scenes", "30")
    text = run("planted_shortcuts", "--folder", str(tmp_path), *options, capsys=capsys, monkeypatch=monkeypatch)
    found = rows(text)
    assert [row[0] for row in found] == ["mark", "mark"]
    assert [row[4] for row in found] == ["yes", "no"]
    hits = int(found[0][10] == "yes")
    assert hits <= (found[0][8] != "-")
    assert f"with masks: planted, found: {hits * 100}.0 % ({hits} of 1;" in text
    assert "with masks: clean, accused: unknown (0 of 0)" in text


def test_shortcuts_are_planted_in_one_class_only() -> None:
    from benchmarks.planted_shortcuts import PLANTED, Scenes

    drawn = Scenes.draw(30, 1, "validation")
    for shortcut in PLANTED:
        changed = (drawn.with_shortcut(shortcut, 3, 0).pictures != drawn.pictures).any(axis=3)
        assert np.flatnonzero(changed.any(axis=(1, 2))).tolist() == [3, 18]
    mark, texture, watermark = ((drawn.with_shortcut(one, 3, 0).pictures != drawn.pictures).any(axis=3)[3]
                                for one in PLANTED)  # fmt: skip
    assert not mark[12:].any()
    assert not mark[:, 12:].any()
    assert (texture <= (drawn.labels[3, 0] == 1)).all()  # the backdrop
    assert not watermark[:40].any()
    assert drawn.with_shortcut("none", 3, 0) is drawn
