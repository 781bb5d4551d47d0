"""Detections of networks with the ends of public detectors, against a decoding by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import onnxviz
from onnxviz.analyses.attribution.pictures import outlined
from onnxviz.core import findings as f
from onnxviz.core.errors import AnalysisError, SelectionError
from onnxviz.graph.detection_positions import last_common_map, pieces, resolved

SIDE, CLASSES, STRIDES = 64, 3, (8, 16, 32)
POSITIONS = sum((SIDE // stride) ** 2 for stride in STRIDES)


class Pyramid(nn.Module):
    """Maps of three scales, each with an end of its own; the finest is made first, and the others of it too."""

    def __init__(self, outputs: int, *, end: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.end = end
        self.stem, self.finest = nn.Conv2d(3, 8, 3, 4, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1)
        self.coarser = nn.ModuleList(nn.Conv2d(8, 8, 3, 2, padding=1) for _ in STRIDES[1:])
        self.ends = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in STRIDES)
        self.heads = nn.ModuleList(nn.Conv2d(8, outputs, 1) for _ in STRIDES)
        for head in self.heads:
            nn.init.normal_(head.weight, std=2.0)  # type: ignore[arg-type]
        self.eval().requires_grad_(False)

    def raw(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return what the heads give, finest first."""
        values = self.finest(self.stem(image).relu()).relu()
        maps = [values]
        for coarser in self.coarser:
            maps.append(coarser(maps[-1]).relu())
        return [head(end(each).relu()) for head, end, each in zip(self.heads, self.ends, maps, strict=True)]

    def forward(self, image: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return them in the layout of a public detector."""
        raw = self.raw(image)
        if self.end == "nanodet":  # for each scale classes, and distributions of distances
            flat = [each.flatten(2).transpose(1, 2) for each in raw]
            return (*(each[..., :CLASSES].sigmoid() for each in flat), *(each[..., CLASSES:] for each in flat))
        flat = [torch.cat((each[:, :4], each[:, 4:].sigmoid()), 1).flatten(2) for each in raw]
        joined = torch.cat(flat, 2).transpose(1, 2)
        if self.end == "decoded":  # boxes in pixels
            return torch.cat((joined[..., :2] * 8, joined[..., 2:4].exp() * 8, joined[..., 4:]), -1)
        return joined


def exported(network: nn.Module, path: Path, *, dynamo: bool = False) -> onnxviz.Model:
    settings: dict[str, Any] = {"input_names": ["image"]}
    if network.end == "nanodet":
        settings["output_names"] = [f"{kind}_{stride}" for kind in ("classes", "boxes") for stride in STRIDES]
    else:
        settings["output_names"] = ["output"]
    opset = {"opset_version": 18} if dynamo else {}
    torch.onnx.export(network, (torch.rand(1, 3, SIDE, SIDE),), path, dynamo=dynamo, **settings, **opset)
    return onnxviz.load(path, {"preset": "unit", "fit": "none"}, device="cpu")


def target_of(end: str) -> dict[str, Any]:
    if end == "nanodet":
        return {"kind": "detection", "classes": [f"classes_{stride}" for stride in STRIDES], "units": "0-2"}
    units = {"units": "5-7", "objectness": "output", "object_unit": 4}
    return {"kind": "detection", "classes": "output", **units}


def decoded_by_hand(network: Pyramid, image: torch.Tensor) -> list[tuple[float, int, int, int]]:
    """Of each class the best detection: its score, its scale, its row and its column; every position in turn."""
    best = [(-1.0, 0, 0, 0)] * CLASSES
    for scale, values in enumerate(network.raw(image)):
        for row in range(values.shape[2]):
            for column in range(values.shape[3]):
                numbers = values[0, :, row, column].sigmoid().tolist()
                for number in range(CLASSES):
                    score = numbers[number] if network.end == "nanodet" else numbers[4] * numbers[5 + number]
                    best[number] = max(best[number], (score, scale, row, column))
    return best


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(5).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("end", ["yolox", "decoded", "nanodet"])
def test_the_detection_is_the_best_by_hand_and_its_cell_is_outlined(
    end: str, dynamo: bool, tmp_path: Path, photograph: Path
) -> None:
    network = Pyramid(CLASSES + 32 if end == "nanodet" else 5 + CLASSES, end=end)
    model = exported(network, tmp_path / "network.onnx", dynamo=dynamo)
    found = model.attribute(photograph, target_of(end), "layer_cam", faithfulness=None, classes="top:3")
    table = next(item for item in found.findings if isinstance(item, f.Table) and item.id == "evidence")
    wanted = decoded_by_hand(network, model.prepare([photograph]))
    assert len(table.rows) == CLASSES
    for cells in table.rows:
        score, scale, line, column = wanted[int(str(cells[1]))]
        side = SIDE // STRIDES[scale]
        place = f"row {line + 1}, column {column + 1} of {side} × {side} of grid {scale + 1}"
        assert str(cells[0]).endswith(f" at {place}")
        assert cells[2] == pytest.approx(score, rel=1e-5)
    (matrix,) = (item for item in found.findings if isinstance(item, f.PictureMatrix))
    for row in matrix.rows:
        _, scale, line, column = wanted[int(str(row.facts[0][1]))]
        assert "not its box" in str(dict(row.facts)["outlined"])
        assert row.lead is not None
        cell = row.lead.pixels.shape[0] * STRIDES[scale] // SIDE
        top, left = line * cell, column * cell
        seen = row.lead.pixels[max(top - 1, 0), left : left + cell]
        assert int(seen.min()) == 255


@pytest.mark.parametrize("end", ["yolox", "nanodet"])
def test_the_last_map_is_one_that_every_scale_is_computed_from(end: str, tmp_path: Path, photograph: Path) -> None:
    """The last one of the network belongs to one scale: of detections at another its map says nothing."""
    network = Pyramid(CLASSES + 32 if end == "nanodet" else 5 + CLASSES, end=end)
    model = exported(network, tmp_path / "network.onnx")
    found = model.attribute(photograph, target_of(end), "layer_cam", faithfulness=None, classes="top:3")
    (note,) = (item.text for item in found.findings if isinstance(item, f.Note) and "`last_map` is" in item.text)
    (matrix,) = (item for item in found.findings if isinstance(item, f.PictureMatrix))
    (column,) = matrix.columns
    layer = model.view.layer(column.removeprefix("LayerCAM, "))
    assert layer.shape[2:] == (8, 8)
    assert f"`last_map` is {layer.name}:" in note
    arrays = next(iter(found.values.values()))
    for number in range(CLASSES):
        assert arrays[f"target{number}_method0_layer000"].max() > 0


def test_scores_without_their_sigmoid_are_refused(tmp_path: Path, photograph: Path) -> None:
    network = Pyramid(CLASSES + 32, end="nanodet")
    model = exported(network, tmp_path / "network.onnx")
    logits = [layer.name for layer in model.view.layers if layer.operator == "Conv"][-1]
    with pytest.raises(AnalysisError, match=r"(?s)numbers from 0 to 1, and these are from .*behind its sigmoid"):
        model.attribute(photograph, {"kind": "detection", "classes": logits}, "gradient", faithfulness=None)
    with pytest.raises(SelectionError, match="different numbers of units"):
        model.attribute(photograph, {"kind": "detection", "classes": ["classes_8", "boxes_8"]}, faithfulness=None)


def test_an_output_without_an_axis_of_images_is_refused_with_the_layer_to_name(
    tmp_path: Path, photograph: Path
) -> None:
    """As some exports of NanoDet give it."""

    class Flat(Pyramid):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.raw(image)[0].sigmoid().reshape(CLASSES, 64).transpose(0, 1)

    network = Flat(CLASSES, end="flat")
    model = exported(network, tmp_path / "network.onnx")
    with pytest.raises(SelectionError, match=r"(?s)its first axis runs over more.*name '(.+)', of which") as raised:
        model.attribute(photograph, {"kind": "detection", "classes": "output"}, "gradient", faithfulness=None)
    named = str(raised.value).split("name '")[1].split("'")[0]
    assert model.view.layer(named).operator == "Sigmoid"
    model.attribute(photograph, {"kind": "detection", "classes": named}, "gradient", faithfulness=None)


def test_positions_of_several_anchors_are_no_cells(tmp_path: Path) -> None:
    """Anchors of a cell stand one behind the other: nothing says that positions are rows and columns."""

    class Anchors(nn.Module):
        end = "anchors"

        def __init__(self) -> None:
            super().__init__()
            self.convolve = nn.Conv2d(3, 3 * 5, 8, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            values = self.convolve(image).sigmoid()
            return values.reshape(-1, 3, 5, 8, 8).permute(0, 1, 3, 4, 2).reshape(-1, 3 * 64, 5)

    view = exported(Anchors().eval(), tmp_path / "network.onnx").view
    (piece,) = pieces(view, view.layer("output"), (1,))
    assert piece.grid is None
    assert resolved([piece], 192, (64, 64)) is None


def test_an_outline_is_around_its_box() -> None:
    drawn = outlined(np.full((40, 60, 3), 99, np.uint8), (0.25, 0.5, 0.5, 0.75))
    assert (drawn[10:20, 30:45] == 99).all()
    assert (drawn[9, 29:46] == 255).all()
    assert (drawn[20, 29:46] == 255).all()
    assert (drawn[9:21, [29, 45]] == 255).all()
    assert (drawn[8, 28:47] == 0).all()
    assert int((drawn != 99).any(axis=2).sum()) == 14 * 19 - 10 * 15
    assert outlined(drawn, (0.0, 0.0, 1.0, 1.0)).shape == drawn.shape


@pytest.mark.zoo
def test_cells_of_real_detectors(zoo: Path) -> None:
    view = onnxviz.open_model(zoo / "onnx" / "yunet_n_dynamic.onnx")
    for stride, side in ((8, 28), (16, 14), (32, 7)):
        found = pieces(view, view.layer(f"cls_{stride}"), (0,))
        assert resolved(found, side * side, (224, 224)) == ((side, side),)
        assert resolved(found, 256 * 320 // stride**2, (256, 320)) == ((256 // stride, 320 // stride),)
    view = onnxviz.open_model(zoo / "onnx" / "fastestdet_coco.onnx")
    found = [*pieces(view, view.layer("758"), range(5, 85)), *pieces(view, view.layer("758"), (0,))]
    assert [piece.grid for piece in found] == [(22, 22)] * 2
    shared = last_common_map(view, found)
    assert shared is not None
    assert shared.map_shape == (22, 22)
    assert shared not in view.select("last_map"), "which belongs to the scores of classes alone"
