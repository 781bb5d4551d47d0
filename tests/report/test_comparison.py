"""Finished runs put side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import make_run, save_picture

from onnxviz.core import results
from onnxviz.core.errors import OutputError
from onnxviz.core.findings import TileGrid, pictures
from onnxviz.core.results import ModelCard, RunResult
from onnxviz.report import compare, write_report


@pytest.fixture
def runs(tmp_path: Path) -> list[tuple[str, RunResult, Path]]:
    """Two runs of one recipe on two models; the runs' pictures have the same names and different content."""
    made = []
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        result = make_run(folder, ("model",))
        save_picture(folder, "images/a.png", 10 + number)
        made.append((name, result, folder))
    return made


def changed(runs: list[tuple[str, RunResult, Path]], **changes: object) -> list[tuple[str, RunResult, Path]]:
    name, result, folder = runs[1]
    return [runs[0], (name, replace(result, **changes), folder)]  # type: ignore[arg-type]


def test_like_runs_are_comparable_and_named_after_their_folders(
    runs: list[tuple[str, RunResult, Path]], tmp_path: Path
) -> None:
    merged = compare(runs, tmp_path / "out")
    assert merged.not_comparable == ()
    assert [model.alias for model in merged.models] == ["first", "second"]
    (analysis,) = merged.analyses
    assert [part.model for part in analysis.parts] == ["first", "second"]
    assert {item.model for item in merged.expectations} <= {"first", "second"}
    assert len(merged.data) == 1
    assert merged.provenance.jobs == 6
    written = json.dumps(results.write(merged))
    assert json.dumps(results.write(results.read(json.loads(written)))) == written
    assert write_report(merged, tmp_path / "out").is_file()


def test_pictures_of_the_same_name_stay_apart(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    out = tmp_path / "out"
    merged = compare(runs, out)
    shown = []
    for (_, result, folder), part in zip(runs, merged.analyses[0].parts, strict=True):
        before, after = list(pictures(result.analyses[0].parts[0].findings)), list(pictures(part.findings))
        assert len(before) == len(after) > 0
        for old, new in zip(before, after, strict=True):
            assert (folder / old.path).read_bytes() == (out / new.path).read_bytes()
        grid = next(finding for finding in part.findings if isinstance(finding, TileGrid))
        shown.append((out / grid.tiles[0].pictures[0].path).read_bytes())
    assert shown[0] != shown[1]
    for _, _, folder in runs:
        assert (folder / "images/a.png").is_file()


def test_names_that_meet_are_numbered(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    same = [("run", result, folder) for _, result, folder in runs]
    assert [model.alias for model in compare(same, tmp_path / "out").models] == ["run", "run (2)"]


def test_runs_of_several_models_keep_their_names(tmp_path: Path) -> None:
    pair = [(name, make_run(tmp_path / name, ("a", "b")), tmp_path / name) for name in ("x", "y")]
    merged = compare(pair, tmp_path / "out")
    assert [model.alias for model in merged.models] == ["x: a", "x: b", "y: a", "y: b"]
    assert [part.model for part in merged.analyses[0].parts] == ["x: a", "x: b", "y: a", "y: b"]
    assert [item.model for item in merged.expectations] == ["x: a", "y: a"]


def other_models(result: RunResult, **changes: object) -> tuple[ModelCard, ...]:
    return tuple(replace(model, **changes) for model in result.models)  # type: ignore[arg-type]


def test_every_difference_of_the_task_is_named(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    result = runs[1][1]
    (analysis,) = result.analyses
    (data,) = result.data
    cases = {
        "different seeds: 0 in first, 7 in second": {"provenance": replace(result.provenance, seed=7)},
        "the data set layer1 differs": {"data": (replace(data, digest="cd" * 32),)},
        "the data set layer1 was used in first only": {"data": ()},
        "look.layer1 differs: ['layer1'] in first, 3 in second": {
            "analyses": (replace(analysis, settings={**analysis.settings, "layer1": 3}),)
        },
        "look.extra differs: not set in first, None in second": {
            "analyses": (replace(analysis, settings={**analysis.settings, "extra": None}),)
        },
        "fit images differently: crop 0.875 to 64 x 64 and stretch to 64 x 64": {
            "models": other_models(result, geometry="stretch to 64 x 64")
        },
        "have 10 and 1000 class names": {"models": other_models(result, labels=1000)},
        "second: wrong data": {"not_comparable": ("wrong data",)},
    }
    for reason, change in cases.items():
        merged = compare(changed(runs, **change), tmp_path / "out")
        assert len(merged.not_comparable) == 1, merged.not_comparable
        assert reason in merged.not_comparable[0]


def test_commands_of_differing_runs_are_told_apart(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    assert compare(runs, tmp_path / "out").provenance.command == "layer1"
    other = replace(runs[1][1].provenance, seed=7, command="onnxviz run b.yaml")
    merged = compare(changed(runs, provenance=other), tmp_path / "out")
    assert merged.provenance.command == "# first, seed 0\nlayer1\n# second, seed 7\nonnxviz run b.yaml"


def test_colour_order_and_headings_hinder_no_comparison(
    runs: list[tuple[str, RunResult, Path]], tmp_path: Path
) -> None:
    result = runs[1][1]
    (analysis,) = result.analyses
    change = {
        "models": other_models(result, preprocessing="caffe: BGR"),
        "analyses": (replace(analysis, settings={**analysis.settings, "title": "another"}),),
    }
    assert compare(changed(runs, **change), tmp_path / "out").not_comparable == ()


def test_other_analyses_are_refused(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    (analysis,) = runs[1][1].analyses
    for other in ((), (replace(analysis, kind="other"),), (analysis, replace(analysis, id="more"))):
        with pytest.raises(OutputError, match="do not have the same analyses"):
            compare(changed(runs, analyses=other), tmp_path / "out")
    with pytest.raises(OutputError, match="at least two"):
        compare(runs[:1], tmp_path / "out")


def test_files_outside_a_run_are_refused(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    (tmp_path / "second" / "images" / "a.png").unlink()
    (tmp_path / "second" / "images" / "a.png").symlink_to(tmp_path / "first" / "images" / "b.png")
    with pytest.raises(OutputError, match="outside its folder"):
        compare(runs, tmp_path / "out")


def test_a_missing_picture_stays_missing(runs: list[tuple[str, RunResult, Path]], tmp_path: Path) -> None:
    (tmp_path / "second" / "images" / "a.png").unlink()
    out = tmp_path / "out"
    merged = compare(runs, out)
    gone = [picture for picture in pictures(merged.analyses[0].parts[1].findings) if not (out / picture.path).exists()]
    assert {picture.path for picture in gone} == {"images/1/missing"}
    assert "images/1/missing" in write_report(merged, out).read_text()
