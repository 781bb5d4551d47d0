"""docs/attribution.md names the methods and targets that there are."""

from __future__ import annotations

import re
from pathlib import Path

from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.target_settings import (
    ClassSettings,
    DetectionSettings,
    RegionSettings,
    SimilaritySettings,
)

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "attribution.md").read_text(encoding="utf-8")


def test_the_table_has_every_method_once() -> None:
    table = PAGE.split("## Methods")[1].split("## Targets")[0].split("`onnxviz explain")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(methods())


def test_the_table_says_what_maps_are_of_and_whether_they_are_signed() -> None:
    for row in PAGE.splitlines():
        cells = row.split("|")
        if not row.startswith("| `") or cells[2].split(",")[0].strip() not in ("layers", "pixels"):
            continue
        for name in re.findall(r"`(\w+)`", cells[1]):
            assert methods()[name].shows == cells[2].split(",")[0].strip(), name
            if ";" not in cells[3]:
                assert methods()[name].signed == ("against" in cells[3]), name


def test_every_target_is_described() -> None:
    for cls in (ClassSettings, RegionSettings, DetectionSettings, SimilaritySettings):
        assert f"{{kind: {cls.model_fields['kind'].default}" in PAGE
