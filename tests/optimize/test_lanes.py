"""Images that share a CPU: split so that each is made once, and the same bits whatever is made beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import onnxviz
from onnxviz.core.values import Target
from onnxviz.optimize.ascent import AscentSettings, maximize
from onnxviz.optimize.lanes import agreeing, shares
from onnxviz.optimize.parameterizations import Fourier
from onnxviz.optimize.settings import CLASS_FOCUS, usual


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([(1,), (4, 2), (4, 2, 1), (4,)]))
def test_every_image_is_made_once_in_a_pass_of_a_size_that_agrees(
    count: int, lanes: int, sizes: tuple[int, ...]
) -> None:
    found = shares(count, lanes, sizes)
    assert [place for part, _ in found for place in part] == list(range(count))
    assert all(filled in sizes and filled >= len(part) for part, filled in found)
    if count <= lanes * max(sizes):
        assert len(found) <= lanes


def test_few_images_are_spread_over_the_threads() -> None:
    assert shares(8, 2, (4, 2)) == [(range(4), 4), (range(4, 8), 4)]
    assert shares(4, 2, (4, 2)) == [(range(2), 2), (range(2, 4), 2)]
    assert shares(1, 2, (4, 2)) == [(range(1), 2)]
    assert shares(3, 4, (4, 2, 1)) == [(range(1), 1), (range(1, 2), 1), (range(2, 3), 1)]
    assert shares(7, 2, (4, 2)) == [(range(4), 4), (range(4, 7), 4)]


def test_sizes_agree_where_an_image_has_the_same_bits_at_every_place() -> None:
    def tried(four: list[float], two: list[float], one: list[float]) -> tuple[int, ...]:
        made = {4: four, 2: two, 1: one}
        return agreeing(lambda size: [np.array(made[size]), np.ones((size, 3))], (4, 2, 1))

    assert tried([1, 1, 1, 1], [1, 1], [1]) == (4, 2, 1)
    assert tried([1, 1, 1, 1], [1, 1], [2]) == (4, 2)
    assert tried([1, 1, 1, 1], [2, 2], [1]) == (4, 1)
    assert tried([1, 1, 2, 2], [1, 1], [1]) == (2, 1)
    assert tried([1, 1, 2, 2], [1, 1], [2]) == (2,)
    assert tried([1, 1, 1, 1], [2, 2], [3]) == (1,)
    assert tried([1, 1, 2, 2], [1, 2], [3]) == (1,)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("file", "preset", "layer", "size"),
    [
        ("mlperf_tiny_resnet8_cifar10.onnx", "raw", "Conv[5]", 32),
        ("squeezenet_fp16.onnx", "caffe", "Conv[12]", 64),
        ("mlperf_tiny_resnet8_cifar10.onnx", "raw", "logits", 32),
        ("squeezenet_fp16.onnx", "caffe", "logits", 64),
        ("vnn_vit_cifar10_pgd_2_3_16.onnx", "unit", "logits", 32),
        ("coral_mobilenet_v1_0.25_128_float.onnx", "tf", "logits", 128),
    ],
)
def test_a_unit_of_a_real_model_gets_the_same_bits_among_32_in_any_number_of_threads(
    zoo: Path, file: str, preset: str, layer: str, size: int
) -> None:
    model = onnxviz.load(zoo / "onnx" / file, preprocess=preset, device="cpu")
    name = model.view.layer(layer).name
    count = min(32, model.view.layer(layer).unit_count)
    classes, steps = layer == "logits", 18  # two steps behind the redirected ones
    suits = usual((size, size), steps, classes=classes)
    settings = AscentSettings(
        steps=steps,
        size=(size, size),
        parameterization=suits.written(Fourier()),
        transforms=suits.transforms,
        regularizers=suits.regularizers,
        optimizer=suits.optimizer,
    )
    focus = CLASS_FOCUS if classes else 0.0
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        units = list(range(count))
        many = maximize(model, [Target(name, unit, focus=focus) for unit in units], units, settings)
        torch.set_num_threads(1)
        for unit in (0, count - 1):
            alone = maximize(model, [Target(name, unit, focus=focus)], [unit], settings)
            for field in ("images", "curves", "before", "after"):
                assert np.array_equal(getattr(alone, field)[0], getattr(many, field)[unit]), (unit, field)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
