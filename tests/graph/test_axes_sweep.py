"""What axes run over in exported transformers: units behind normalisations, grids of tokens, no maps of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxviz.core.values import Layer
from onnxviz.graph import open_model
from onnxviz.graph.view import GraphView
from onnxviz.model.maps import to_map
from onnxviz.model.model import Model, load

ROOT = Path(__file__).resolve().parents[2]

SMALL_SWIN = {"window_size": 7, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
QUICK: tuple[tuple[str, int, dict[str, object]], ...] = (
    ("test_vit", 160, {}),
    ("swin_tiny_patch4_window7_224", 56, SMALL_SWIN),
    ("xcit_nano_12_p16_224", 64, {"depth": 2}),
)
SLOW: dict[str, int | None] = {
    "vit_tiny_patch16_224": 64, "deit_tiny_distilled_patch16_224": 64, "beit_base_patch16_224": 64,
    "cait_xxs24_224": 64, "mixer_s32_224": 64, "vit_small_patch16_dinov3": 64, "deit3_small_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 128, "swinv2_tiny_window8_256": 128, "hiera_tiny_224": None, "davit_tiny": None,
    "pit_ti_224": None, "tnt_s_legacy_patch16_224": None, "edgenext_xx_small": None, "mobilevit_xxs": None,
    "levit_128s": None, "twins_svt_small": None, "coat_tiny": None, "pvt_v2_b0": None,
}  # fmt: skip
"""Model -> the side of the images, None where it is that of the list of architectures."""


def exported(name: str, side: int | None, options: dict[str, object], tmp_path: Path, dynamic: bool) -> Path:
    from benchmarks import architectures

    if "timm" not in architectures.libraries():
        pytest.skip("timm cannot be imported: install the extra sweep")
    known = {entry.model: entry.side for entry in architectures.ARCHITECTURES}
    given = {**options, **({} if side is None or name == "test_vit" else {"img_size": side})}
    chosen = architectures.Architecture("timm", name, side or known[name], given)
    network, images = architectures.make(chosen)
    path = tmp_path / "network.onnx"
    architectures.export(network, images, "torchscript", path, dynamic=dynamic)
    return path


def is_windowed(layer: Layer) -> bool:
    return "first axis" in layer.unplaced


def check_units(view: GraphView) -> None:
    """What a layer normalisation over the last axis, or a product with weights, gives has its units there."""
    norms = [layer for layer in view.layers if layer.operator == "LayerNormalization" and not is_windowed(layer)]
    for layer in norms:
        assert layer.channel_axis == len(layer.shape) - 1, (layer.name, layer.shape, layer.unplaced)
    for layer in view.layers:
        if layer.operator == "Softmax" and len(layer.shape) > 2:
            assert not layer.has_map, (layer.name, layer.shape)
        if layer.channel_axis is None and len(layer.shape) > 1:
            assert layer.unplaced, layer.name
        if layer.operator == "Conv" and not is_windowed(layer):
            assert layer.channel_axis == 1, layer.name


def check_grids(model: Model) -> None:
    """What is changed in a corner of the image changes the first block's map most in this corner, or next to it."""
    first = model.view.select("block_outputs")[0]
    assert first.map_shape is not None
    rows, columns = (size or 0 for size in first.map_shape)
    assert rows * columns > 1
    (height, width), rng = model.input_size, np.random.default_rng(0)
    images = np.repeat(rng.random((1, 3, height, width), dtype=np.float32), 4, axis=0)
    corners = [(0, columns - 1), (rows - 1, 0), (0, 0)]
    for place, (row, column) in enumerate(corners):
        top, left = row * height // rows, column * width // columns
        images[place, :, top : top + height // rows, left : left + width // columns] = rng.random((3, 1, 1))
    maps = to_map(first, model.measure(images, [first])[first.name])
    most = np.abs(maps[:3] - maps[3:]).mean(axis=1).reshape(3, -1).argmax(axis=1)
    nearby = min(rows, columns) // 4  # the convolutions of a stem reach over the edges of patches
    for found, (row, column) in zip(most, corners, strict=True):
        away = abs(int(found) // columns - row), abs(int(found) % columns - column)
        assert max(away) <= nearby, (first.name, first.map_shape, (row, column), int(found))


@pytest.mark.parametrize(("name", "side", "options"), QUICK, ids=[row[0] for row in QUICK])
@pytest.mark.parametrize("dynamic", [False, True])
def test_axes_of_small_transformers(
    name: str, side: int, options: dict[str, object], dynamic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    model = load(exported(name, side, options, tmp_path, dynamic), device="cpu")
    check_units(model.view)
    check_grids(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_axes_of_transformers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    model = load(exported(name, SLOW[name], {}, tmp_path, dynamic=True), device="cpu")
    check_units(model.view)
    check_grids(model)
    blocks = model.view.select("block_outputs")
    assert len(blocks) > 3
    assert blocks[-1] == model.view.layer("last_map")


def test_swin_has_seven_by_seven_units_and_not_its_height(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    view = open_model(exported(*QUICK[1], tmp_path, True))
    found = {name: view.layer(name) for name in ("layers.1.blocks.1.norm1", "norm", "layers.1.downsample.norm")}
    assert {layer.map_shape for layer in found.values()} == {(7, 7)}
    assert [layer.unit_count for layer in found.values()] == [64, 64, 128]
    softmax = view.layer("layers.1.blocks.1.attn.softmax")
    assert not softmax.has_map
    assert "attention" in softmax.unplaced or "cannot be followed" in softmax.unplaced
