"""Attention and losses, where the node tests of the standard do not look."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


def heads(queries: int = 4, keys: int = 2, past: int = 0) -> list[np.ndarray]:
    """Return queries, keys and values of a batch of two."""
    return [normal(2, queries, 3, 8), normal(2, keys, 5, 8), normal(2, keys, 5, 6)]


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("shape", [None, (5,), (3, 5), (1, 3, 5), (2, 1, 3, 5)])
@pytest.mark.parametrize("truth", [False, True])
def test_attention_with_masks(causal: int, shape: tuple[int, ...] | None, truth: bool) -> None:
    if shape == (5,) and causal:
        pytest.skip("the reference evaluator takes no causal mask of one axis")
    mask = None if shape is None else normal(*shape)
    if mask is not None and truth:
        mask = mask > 0
    for attributes in ({}, {"softcap": 2.0}, {"scale": 0.3}):
        given = [*heads(), *([] if mask is None else [mask])]
        check("Attention", given, opset=24, is_causal=causal, reference="onnx", **attributes)


@pytest.mark.parametrize("shown", [0, 1, 2, 3])
def test_attention_shows_its_scores(shown: int) -> None:
    given = [*heads(), normal(3, 5)]
    # The reference evaluator shows capped scores as raw ones.
    attributes: dict[str, Any] = {"qk_matmul_output_mode": shown, "softcap": 1.5 if shown else 0.0}
    check("Attention", given, ["y", "", "", "scores"], opset=24, reference="onnx", **attributes)


def test_attention_with_a_past_and_a_window() -> None:
    query, key, value = heads()
    past = [normal(2, 2, 4, 8), normal(2, 2, 4, 6)]
    check("Attention", [query, key, value, None, *past], 3, opset=24, is_causal=1, reference="onnx")
    for left, right in ((-1, 1), (1, -1), (1, 0)):
        window = {"left_window_size": left, "right_window_size": right}
        check("Attention", [query, key, value], opset=25, reference="onnx", **window)
    lengths = np.array([5, 3])
    check("Attention", [query, key, value, None, None, None, lengths], opset=24, is_causal=1, reference="onnx")


def test_attention_of_packed_heads() -> None:
    given = [normal(2, 3, 32), normal(2, 5, 16), normal(2, 5, 12)]
    for causal in (0, 1):
        attributes = {"q_num_heads": 4, "kv_num_heads": 2, "is_causal": causal}
        check("Attention", given, opset=23, reference="onnx", compiled=True, **attributes)


@pytest.mark.parametrize(("cap", "causal"), itertools.product((0.0, 2.0), (0, 1)))
def test_attention_has_gradients_even_where_nothing_is_seen(cap: float, causal: int) -> None:
    mask = np.ones((3, 5), bool)
    mask[1] = False
    given = [normal(1, 2, 3, 4), normal(1, 2, 5, 4), normal(1, 2, 5, 4), mask]
    attributes: dict[str, Any] = {"softcap": cap, "is_causal": causal, "gradient": True, "compiled": True}
    check("Attention", given, opset=24, constants=(3,), reference="onnx", **attributes)


def test_raw_scores_are_shown_before_they_are_capped() -> None:
    query, key, value = heads(queries=2)
    attributes: dict[str, Any] = {"softcap": 0.5, "scale": 0.25, "opset": 24}
    _, plain = check("Attention", [query, key, value], ["y", "", "", "s"], opset=24, scale=0.25, reference="onnx")
    network = onnxviz.to_torch(one_node("Attention", [query, key, value], ["y", "", "", "s"], **attributes))
    _, shown = network(*map(torch.from_numpy, (query, key, value)))
    torch.testing.assert_close(shown, plain)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention(rule: str) -> None:
    given: list[np.ndarray | None] = [
        normal(2, 3, 16),
        normal(2, 3, 8),
        normal(2, 3, 12),
        normal(2, 2, 4, 6),
        None,
        None,
    ]
    if "gated" in rule:
        given[4] = -np.abs(normal(2, 3, 2))
    if "delta" in rule:
        given[5] = np.abs(normal(2, 3, 2))
    while given[-1] is None:
        given.pop()
    attributes: dict[str, Any] = {"update_rule": rule, "q_num_heads": 4, "kv_num_heads": 2, "opset": 27}
    check("LinearAttention", given, 2, reference="onnx", **attributes)
    check("LinearAttention", given, ["y", ""], reference="onnx", gradient=True, compiled=True, **attributes)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
def test_rotary_embedding(interleaved: int, rotated: int) -> None:
    angles = [normal(10, (rotated or 8) // 2), normal(10, (rotated or 8) // 2)]
    at = RANDOM.integers(0, 10, (2, 3))
    attributes: dict[str, Any] = {"interleaved": interleaved, "rotary_embedding_dim": rotated, "opset": 23}
    for values, number in ((normal(2, 4, 3, 8), 0), (normal(2, 3, 32), 4)):
        given = [values, *angles, at]
        check("RotaryEmbedding", given, num_heads=number, reference="onnx", **attributes)
        check("RotaryEmbedding", given, num_heads=number, gradient=True, compiled=True, constants=(1, 2), **attributes)


def test_causal_convolution() -> None:
    given = [normal(2, 3, 5), normal(3, 1, 4), normal(3), normal(2, 3, 3)]
    for activation in ("none", "silu"):
        attributes: dict[str, Any] = {"activation": activation, "opset": 27}
        check("CausalConvWithState", given, 2, reference="onnx", **attributes)
        check("CausalConvWithState", given[:2], ["y", ""], reference="onnx", compiled=True, gradient=True, **attributes)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("spatial", [(), (4,), (2, 3), (2, 2, 2)])
def test_losses(reduction: str, spatial: tuple[int, ...]) -> None:
    scores, classes, weight = normal(3, 5, *spatial), RANDOM.integers(0, 5, (3, *spatial)), np.abs(normal(5))
    classes.reshape(-1)[0] = 2
    for given, attributes in (
        ([scores, classes], {}),
        ([scores, classes.astype(np.int32), weight], {}),
        ([scores, classes, weight], {"ignore_index": 2}),
    ):
        check("NegativeLogLikelihoodLoss", given, opset=13, reduction=reduction, reference="onnx", **attributes)
        check("SoftmaxCrossEntropyLoss", given, 2, opset=13, reduction=reduction, reference="onnx", **attributes)
    check("SoftmaxCrossEntropyLoss", given, opset=13, reduction=reduction, compiled=True, gradient=reduction != "none")


def test_what_is_ignored_need_be_no_class() -> None:
    scores, classes = normal(3, 5), np.array([1, -7, 4])
    for operator in ("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"):
        check(operator, [scores, classes], opset=13, ignore_index=-7, reference="onnx")
    assert torch.isfinite(onnxviz.to_torch(one_node("SoftmaxCrossEntropyLoss", [scores, classes], ignore_index=-7))(
        torch.from_numpy(scores), torch.from_numpy(classes)
    )[0])  # fmt: skip
