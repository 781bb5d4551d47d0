"""The rules against slow ones in NumPy that follow the papers, row by row."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from onnxviz.optimize.optimizers import Adam, GradientAscent, LBfgs, RmsProp, step_sizes

Slope = Callable[[np.ndarray], np.ndarray]
STEPS = 9
ALL = (
    Adam(), Adam(damping=0.5, schedule="cosine"), RmsProp(warm_up=3), GradientAscent(),
    GradientAscent(momentum=0.9, nesterov=True, normalize="l2"), GradientAscent(momentum=0.5, normalize=False),
    GradientAscent(normalize="std"), GradientAscent(normalize="mean_abs", schedule="linear"), LBfgs(history=3),
)  # fmt: skip
each = pytest.mark.parametrize("optimizer", ALL, ids=lambda made: made.words())


def curved(rows: int = 3, size: int = 6, seed: int = 0) -> tuple[np.ndarray, Slope]:
    """Return a start [rows, 2, size // 2] and the slopes of a bowl for each row, not all directions equally steep."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((rows, 2, size // 2))
    matrices = []
    for _ in range(rows):
        half = rng.standard_normal((size, size))
        matrices.append(half @ half.T / size + 0.3 * np.eye(size))
    return start, lambda value: np.stack(
        [(matrix @ row.ravel()).reshape(row.shape) for matrix, row in zip(matrices, value, strict=True)]
    )


def follow(optimizer: Any, start: np.ndarray, slope: Slope, steps: int = STEPS) -> np.ndarray:
    parameters = torch.from_numpy(start.copy())
    rule = optimizer.rule(steps, parameters)
    step = torch.zeros((), dtype=torch.int64)
    for _ in range(steps):
        parameters = parameters - rule(torch.from_numpy(slope(parameters.numpy())), parameters, step)
        step += 1
    return parameters.numpy()


def test_adam_with_everything() -> None:
    """Kingma and Ba 2015, algorithm 1, with ε that grows with the row's gradients and steps that rise and fall."""
    start, slope = curved()
    optimizer = Adam(learning_rate=0.1, damping=0.4, schedule="linear", warm_up=2)
    value, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    sizes = [0.05, 0.1, *(0.1 * (1 - step / 7) for step in range(7))]
    for step in range(1, STEPS + 1):
        gradient = slope(value)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        corrected = second / (1 - 0.999**step)
        for row in range(len(value)):
            epsilon = 1e-8 + 0.4 * math.sqrt(corrected[row].mean())
            value[row] -= sizes[step - 1] * first[row] / (1 - 0.9**step) / (np.sqrt(corrected[row]) + epsilon)
    np.testing.assert_allclose(follow(optimizer, start, slope), value, rtol=1e-9)


def test_adam_is_torch_s_adam() -> None:
    start, slope = curved()
    leaf = torch.from_numpy(start.copy()).requires_grad_()
    peer = torch.optim.Adam([leaf], lr=0.03)
    for _ in range(STEPS):
        leaf.grad = torch.from_numpy(slope(leaf.detach().numpy()))
        peer.step()
    np.testing.assert_allclose(follow(Adam(), start, slope), leaf.detach().numpy(), rtol=1e-9)


def test_rmsprop_is_torch_s_rmsprop() -> None:
    start, slope = curved()
    leaf = torch.from_numpy(start.copy()).requires_grad_()
    peer = torch.optim.RMSprop([leaf], lr=0.02, alpha=0.9, eps=1e-8)
    for _ in range(STEPS):
        leaf.grad = torch.from_numpy(slope(leaf.detach().numpy()))
        peer.step()
    np.testing.assert_allclose(follow(RmsProp(), start, slope), leaf.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_torch_s(nesterov: bool) -> None:
    start, slope = curved()
    leaf = torch.from_numpy(start.copy()).requires_grad_()
    peer = torch.optim.SGD([leaf], lr=0.03, momentum=0.8, nesterov=nesterov)
    for _ in range(STEPS):
        leaf.grad = torch.from_numpy(slope(leaf.detach().numpy()))
        peer.step()
    ours = GradientAscent(momentum=0.8, nesterov=nesterov, normalize=False)
    np.testing.assert_allclose(follow(ours, start, slope), leaf.detach().numpy(), rtol=1e-9)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("rms", lambda g: math.sqrt((g**2).mean())),
        ("l2", lambda g: math.sqrt((g**2).sum())),
        ("std", lambda g: math.sqrt(((g - g.mean()) ** 2).mean())),
        ("mean_abs", lambda g: abs(g).mean()),
        (False, lambda g: 1.0),
    ],
)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_normalised_gradients(kind: Any, size: Callable[[np.ndarray], float], momentum: float) -> None:
    start, slope = curved()
    value, moving = start.copy(), np.zeros_like(start)
    for _ in range(STEPS):
        gradient = slope(value)
        for row in range(len(value)):
            moving[row] = momentum * moving[row] + gradient[row] / size(gradient[row])
        value -= 0.03 * moving
    ours = GradientAscent(momentum=momentum, normalize=kind)
    np.testing.assert_allclose(follow(ours, start, slope), value, rtol=1e-7)


def slow_lbfgs(
    start: np.ndarray, slope: Slope, history: int, steps: int, largest: float = 0.05, skipped: list[int] | None = None
) -> np.ndarray:
    """Nocedal and Wright 2006: the matrix of equation 7.19 written out, for one row; notes at which steps it skips."""
    value, pairs, before = start.ravel().copy(), [], None
    for step in range(steps):
        gradient = slope(value)
        if before is not None:
            moved, turned = value - before[0], gradient - before[1]
            if moved @ turned > 1e-8 * np.linalg.norm(moved) * np.linalg.norm(turned):
                pairs = [*pairs, (moved, turned)][-history:]
            elif skipped is not None:
                skipped.append(step)
        before = (value, gradient)
        longest = largest * math.sqrt(value.size)
        if pairs:
            newest = pairs[-1]
            inverse = np.eye(value.size) * (newest[0] @ newest[1]) / (newest[1] @ newest[1])
            for moved, turned in pairs:
                rho = 1 / (moved @ turned)
                left = np.eye(value.size) - rho * np.outer(turned, moved)
                inverse = left.T @ inverse @ left + rho * np.outer(moved, moved)
            change = inverse @ gradient
            change *= min(1.0, longest / np.linalg.norm(change))
        else:
            change = gradient * longest / np.linalg.norm(gradient)
        value = value - change
    return value


def test_lbfgs_is_the_matrix_of_the_book_for_each_row() -> None:
    start, slope = curved(rows=3, size=8)
    found = follow(LBfgs(history=4), start, slope, 14)
    for row in range(3):
        expected = slow_lbfgs(start[row], lambda v, r=row: slope(_only(start, r, v))[r].ravel(), 4, 14)
        np.testing.assert_allclose(found[row].ravel(), expected, rtol=1e-6, atol=1e-9)


def _only(start: np.ndarray, row: int, value: np.ndarray) -> np.ndarray:
    full = np.zeros_like(start)
    full[row] = value.reshape(start[row].shape)
    return full


def test_lbfgs_keeps_older_pairs_where_the_curvature_is_not_positive() -> None:
    """Waves, on whose tops the pairs have s·y < 0; rows skip at different steps, and the book's loop agrees."""
    rng = np.random.default_rng(3)
    start = np.array([[0.3, 1.2, 2.6, 2.9], [1.6, 2.9, 3.0, 3.1]])[:, None, :]
    wave = rng.uniform(0.5, 2.0, (2, 1, 4))
    wind = np.array([[1.2], [1.6]])[:, None, :] * wave  # carries the rows over the tops, again and again

    def slope(value: np.ndarray) -> np.ndarray:
        return wave * np.sin(value) + wind

    found = follow(LBfgs(history=2, largest_step=0.5), start, slope, 40)
    skips = []
    for row in range(2):
        skipped: list[int] = []
        one = functools.partial(lambda row, value: slope(_only(start, row, value))[row].ravel(), row)
        expected = slow_lbfgs(start[row], one, 2, 40, 0.5, skipped)
        np.testing.assert_allclose(found[row].ravel(), expected, rtol=1e-6)
        skips.append(skipped)
    assert skips[0] != skips[1]
    assert all(2 < max(skipped) < 39 for skipped in skips)  # with pairs before and behind


def test_lbfgs_comes_closer_than_ascent_with_the_same_largest_step() -> None:
    start, slope = curved(rows=2, size=20)
    newton = np.abs(slope(follow(LBfgs(largest_step=0.2), start, slope, 40))).max()
    plain = np.abs(slope(follow(GradientAscent(learning_rate=0.2), start, slope, 40))).max()
    assert newton < 1e-3 * plain


@each
def test_rows_do_not_influence_each_other(optimizer: Any) -> None:
    start, slope = curved()
    together = follow(optimizer, start, slope)
    for row in range(len(start)):
        one = follow(optimizer, start[row : row + 1], lambda v, r=row: slope(_only(start, r, v[0]))[r : r + 1])
        np.testing.assert_allclose(together[row : row + 1], one, rtol=1e-9)


@each
def test_a_gradient_of_zero_changes_nothing_and_arguments_are_left_alone(optimizer: Any) -> None:
    parameters = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    rule = optimizer.rule(4, parameters)
    assert not rule(torch.zeros_like(parameters), parameters, torch.tensor(0)).any()
    gradient, kept = torch.ones_like(parameters), parameters.clone()
    change = rule(gradient, parameters, torch.tensor(1))
    assert torch.isfinite(change).all()
    assert (gradient == 1).all()
    assert torch.equal(parameters, kept)


class _NoHost(torch.utils._python_dispatch.TorchDispatchMode):
    """Fails where a tensor's value is asked for, which on a GPU waits for it, and cannot be recorded as a graph."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@each
def test_a_step_asks_for_no_value_and_keeps_its_state_where_it_is(optimizer: Any) -> None:
    """What a CUDA graph needs: replayed, a step reads its number from the tensor and finds its state in place."""
    start, slope = curved()
    parameters = torch.from_numpy(start).float()
    gradient = torch.from_numpy(slope(start)).float()
    rule = optimizer.rule(3, parameters)
    step = torch.zeros((), dtype=torch.int64)
    with _NoHost():
        for _ in range(3):
            rule(gradient, parameters, step)
            step.add_(1)


def test_a_value_that_is_asked_for_is_noticed() -> None:
    with _NoHost(), pytest.raises(AssertionError):
        torch.ones(()).item()


@each
def test_the_schedule_is_that_of_the_step_s_number(optimizer: Any) -> None:
    """A rule that is given the last step's number at once takes that step's size."""
    faded = optimizer.model_copy(update={"schedule": "linear", "warm_up": 0})
    constant = optimizer.model_copy(update={"schedule": "constant", "warm_up": 0})
    parameters = torch.ones(1, 5, dtype=torch.float64)
    gradient = torch.arange(1.0, 6.0, dtype=torch.float64)[None]
    changes = [made.rule(4, parameters)(gradient, parameters, torch.tensor(3)) for made in (faded, constant)]
    torch.testing.assert_close(changes[0], changes[1] / 4)


def test_step_sizes() -> None:
    assert step_sizes(3, 2.0, "constant", 0) == [2.0, 2.0, 2.0]
    assert step_sizes(4, 1.0, "linear", 0) == [1.0, 0.75, 0.5, 0.25]
    assert step_sizes(4, 1.0, "cosine", 0) == pytest.approx([(1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)])
    assert step_sizes(5, 1.0, "linear", 3) == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 0.5])
    assert step_sizes(2, 1.0, "cosine", 9) == [0.5, 1.0]


def test_channels_last_parameters_and_single_numbers() -> None:
    like: Tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    for optimizer in ALL:
        assert optimizer.rule(2, like)(like, like, torch.tensor(0)).shape == like.shape
        single = torch.ones(2, 1)
        assert torch.isfinite(optimizer.rule(2, single)(single, single, torch.tensor(0))).all()


def test_words() -> None:
    assert Adam(schedule="linear", damping=0.3).words() == "Adam at rate 0.03 falling to 0, damping 0.3"
    assert "rising over 5 steps and falling to 0 as a cosine" in RmsProp(schedule="cosine", warm_up=5).words()
    assert GradientAscent(normalize=False).words() == "gradient ascent at rate 0.03, gradients as they are"
