"""Runs made by hand for the report's tests: every kind of finding, several models, hostile names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from onnxviz.core.findings import (
    Array,
    Bars,
    Caveat,
    Column,
    Coverage,
    Curve,
    CustomFinding,
    Finding,
    Histogram,
    MatrixRow,
    Metric,
    Note,
    Picture,
    PictureMatrix,
    Series,
    Table,
    Tile,
    TileGrid,
)
from onnxviz.core.results import (
    AnalysisResult,
    DataCard,
    ExpectationResult,
    FailedJob,
    LayerRow,
    ModelCard,
    Part,
    Provenance,
    RunResult,
)
from onnxviz.core.values import Agreement, Unit

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>document.title='owned'</script>",
    "<!--<script>",
    "javascript:alert(1)",
    "evil\u202egnp.exe",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "line\u2028separator\u2029",
    "&lt;b&gt;",
    "a/../b%2F",
    "\x00\x1b[31m",
    "\ud800",
    "x" * 10_000,
    "",
)


@dataclass(frozen=True)
class Strange(CustomFinding):
    """A finding that the report does not know."""

    id: str
    title: str
    words: tuple[str, ...]
    unit: Unit
    pictures: tuple[Picture, ...]
    pairs: tuple[tuple[str, float], ...]
    table: Table
    description: int = 7
    nothing: None = None


PLAIN = ("layer1", "layer2", "layer3", "layer4")


def save_picture(folder: Path, name: str, shade: int = 90, alt: str = "", side: int = 16) -> Picture:
    """Write a small picture below `folder` and return its finding."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), shade % 256, np.uint8)
    pixels[: side // 2, : side // 2, 0] = (shade // 256) % 256
    Image.fromarray(pixels).save(path)
    return Picture(None, name, alt, "png", False, side, side)


def all_findings(folder: Path, names: tuple[str, ...], shift: float = 0.0) -> tuple[Finding, ...]:
    """Return one finding of every kind, `names` in every place that takes text."""
    first = names[0]
    picture = save_picture(folder, "images/a.png", 90, first)
    other = save_picture(folder, "images/b.png", 180, first)
    array = folder / "arrays" / "kernels.npz"
    array.parent.mkdir(parents=True, exist_ok=True)
    np.savez(array, kernels=np.zeros(3))
    tiles = tuple(
        Tile(
            name, Unit(name, i), (picture, other), ((name, name), ("value", i + shift)), (1.0, float("nan"), 3.0), name,
            (name, name),
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    rows = tuple((Unit(name, i), name, i + shift, 0.5, None, True) for i, name in enumerate(names))
    columns = (
        Column("unit", "unit"),
        Column(first, "text", first),
        Column("number", "number"),
        Column("share", "percent"),
        Column("none", "scientific"),
        Column("flag"),
    )
    return (
        *(Note(name) for name in names),
        Caveat(first),
        Metric("rate", 0.25 + shift, first, first, "percent", "lower"),
        Metric(first, float("nan"), first),
        TileGrid("tiles", first, tiles, first),
        Table("table", first, columns, rows, first),
        PictureMatrix(
            "matrix",
            first,
            names,
            tuple(MatrixRow(n, ((picture, other), None) * (len(names) // 2), picture) for n in names),
        ),
        Histogram("histogram", first, (0.0, 1.0, 2.0), (1.0, 2.0 + shift), first, first),
        Bars("bars", first, names, tuple(float(i) - 1 for i in range(len(names))), first),
        Curve("curve", first, tuple(Series(n, (0.0, 1.0, 2.0), (1.0, float("nan"), 2.0)) for n in names), first, first),
        Array("array", first, {}, "arrays/kernels.npz"),
        Strange(
            "strange",
            first,
            names,
            Unit(first, 1),
            (picture, other),
            tuple((name, float("nan")) for name in names),
            Table("inner", first, columns, rows),
        ),
        Coverage(first, 3, 4, first, id="coverage"),
    )


def model_card(alias: str, names: tuple[str, ...] = PLAIN) -> ModelCard:
    """Return a model card with a layer for each name, the first of which agrees and the second does not."""
    layers = tuple(LayerRow(name, "Conv", (None, 8, 4, 4), 10, 100, (3, 3), 8) for name in names)
    agreement = (Agreement(names[0], 1e-6, 1e-6, 1e-3), Agreement(names[1], float("nan"), 1.0, 1e-3, note=names[0]))
    return ModelCard(
        alias=alias, file=f"{alias[:40]}.onnx", digest="0" * 64, bytes=1000, producer=names[0], opset="17",
        inputs=(names[0],), outputs=(names[0],), preprocessing="unit", geometry="crop 0.875 to 64 x 64",
        preprocessing_origin="declared", layers=layers, parameters=40, multiply_adds=400, agreement=agreement,
        passes=(names[0],), refused_operators=((names[0], names[0]),), labels=10,
    )  # fmt: skip


def make_run(
    folder: Path, aliases: tuple[str, ...] = ("one",), names: tuple[str, ...] = PLAIN, failed: bool = False
) -> RunResult:
    """Return a run with one analysis, its pictures stored in `folder`."""
    first = names[0]
    parts = tuple(
        Part(
            alias, all_findings(folder, names, float(i)), {"rate": 0.25}, 3, 1, (FailedJob(first, first),) * failed, 1.5
        )
        for i, alias in enumerate(aliases)
    )
    analysis = AnalysisResult(
        names[-3] if names is HOSTILE else "look",
        first,
        first,
        first,
        first,
        names,
        {name: [name] for name in names},
        parts,
    )
    return RunResult(
        title=first,
        recipe="\n".join(names),
        models=tuple(model_card(alias, names) for alias in aliases),
        data=(DataCard(first, "images", first, "ab" * 32, 3, ((first, first),), ((first, first),)),),
        analyses=(analysis,),
        expectations=(ExpectationResult("look.rate", "at most 0.5", "error", first, 0.25, True, aliases[0]),),
        provenance=Provenance(0, first, {name: name for name in names}, "2026-01-02T03:04:05+00:00", 12.0, 3, 1, first),
    )


def many_tiles(folder: Path, count: int) -> RunResult:
    """Return a run with one grid of `count` tiles, which share a hundred pictures."""
    run = make_run(folder)
    shown = [save_picture(folder, f"images/{i}.png", 7 * i, "unit") for i in range(100)]
    tiles = tuple(Tile(f"layer1:{i}", Unit("layer1", i), (shown[i % 100],), (("value", i),)) for i in range(count))
    part = replace(run.analyses[0].parts[0], findings=(TileGrid("tiles", "Units", tiles),))
    return replace(run, analyses=(replace(run.analyses[0], parts=(part,)),))
