"""Tokens, windows and other orders of positions become rows and columns of the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import gradients_of
from onnxviz.core.errors import AnalysisError
from onnxviz.core.values import Grid, Layer
from onnxviz.model.maps import in_words, to_map

PLAIN = Layer("conv", "v", "Conv", 0, (None, 8, 3, 5), 1)
TOKENS = Layer("norm", "v", "LayerNormalization", 0, (None, 18, 4), 2, grid=Grid(((3, 5),), (0, 1), 1, 0, 2, 1))
TURNED = Layer("turned", "v", "Transpose", 0, (None, 4, 5, 3), 1, grid=Grid(((5,), (3,)), (1, 0), 1))
NESTED = Layer("unit", "v", "Add", 0, (None, 16, 4), 2, grid=Grid(((2, 2, 2, 2),), (2, 0, 3, 1), 2))
VALUES = np.random.default_rng(0).normal(size=(2, 4, 15)).astype(np.float32)


def test_a_plain_map_is_left_as_it_is() -> None:
    values = np.zeros((2, 8, 3, 5), np.float32)
    assert to_map(PLAIN, values) is values
    assert PLAIN.map_shape == (3, 5)
    assert in_words([PLAIN]) == ""


def test_tokens_that_are_no_patches_are_left_out() -> None:
    around = np.concatenate([np.full((2, 4, 2), 7, np.float32), VALUES, np.full((2, 4, 1), 9, np.float32)], axis=2)
    np.testing.assert_array_equal(to_map(TOKENS, around), VALUES.reshape(2, 4, 3, 5))
    np.testing.assert_array_equal(to_map(TOKENS, torch.from_numpy(around)).numpy(), VALUES.reshape(2, 4, 3, 5))
    assert TOKENS.map_shape == (3, 5)
    said = in_words([PLAIN, TOKENS, TOKENS])
    assert all(part in said for part in ("tokens", "3 × 5 at 2 layers", "channels", "2 in front", "1 behind")), said


def test_columns_before_rows_and_nested_windows() -> None:
    columns_first = VALUES.reshape(2, 4, 5, 3)
    np.testing.assert_array_equal(to_map(TURNED, columns_first), columns_first.transpose(0, 1, 3, 2))
    rows, columns = np.mgrid[:4, :4]
    image = np.asarray(10 * rows + columns, np.float32)
    # The order of Hiera: first the place inside of 2 x 2 patches, then the patch.
    unrolled = image.reshape(2, 2, 2, 2).transpose(1, 3, 0, 2).reshape(1, 1, 16)
    np.testing.assert_array_equal(to_map(NESTED, unrolled)[0, 0], image)


def test_other_positions_than_the_grid_are_refused() -> None:
    with pytest.raises(AnalysisError, match="positions at this image size"):
        to_map(TOKENS, np.zeros((1, 4, 20), np.float32))
    with pytest.raises(AnalysisError, match="attention"):
        to_map(replace(PLAIN, unplaced="attention"), np.zeros((1, 8, 3, 5), np.float32))


def test_the_evidence_of_tokens_is_that_of_their_map() -> None:
    """Equations 1 and 2 on the patches alone, by hand; the class token has the largest gradient and no part in it."""
    tokens = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 4, 18)).astype(np.float32)).requires_grad_()
    weights = torch.from_numpy(np.random.default_rng(2).normal(size=(4, 18)).astype(np.float32))
    weights[:, 0] = 100.0
    (slopes,) = gradients_of((tokens * weights).sum(dim=(1, 2)), [tokens])
    found = GradCamMethod().weighted(to_map(TOKENS, tokens.detach()), to_map(TOKENS, slopes)).relu()
    patches = tokens.detach()[0, :, 2:17]
    expected = (weights[:, 2:17].mean(dim=1) @ patches).relu().reshape(1, 3, 5)
    torch.testing.assert_close(found, expected)
