"""Matrix products against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from one_node import check, one_node

import onnxviz
from onnxviz.core.errors import UnsupportedOperatorError

RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    """Begin each test with the same random numbers, whichever tests ran before."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), np.float32)


@pytest.mark.parametrize("added", [None, (5,), (1, 5), (3, 1), (3, 5), (), (1,)])
@pytest.mark.parametrize("constants", [(), (1,), (1, 2)])
def test_general_product(added: tuple[int, ...] | None, constants: tuple[int, ...]) -> None:
    for left, right, (alpha, beta) in itertools.product((0, 1), (0, 1), ((1.0, 1.0), (0.5, 2.0))):
        given = [normal(*((4, 3) if left else (3, 4))), normal(*((5, 4) if right else (4, 5)))]
        if added is not None:
            given.append(normal(*added))
        check(
            "Gemm", given, opset=13, constants=constants, transA=left, transB=right, alpha=alpha, beta=beta,
            reference="ort",
        )  # fmt: skip


@pytest.mark.parametrize("opset", [1, 6, 7, 9])
def test_general_product_of_old_opsets(opset: int) -> None:
    attributes = {"broadcast": 1} if opset < 7 else {}
    first, second, third = normal(3, 4), normal(5, 4), normal(5)
    check("Gemm", [first, second, third], opset=opset, expected=[first @ second.T + third], transB=1, **attributes)


def test_general_product_of_whole_numbers() -> None:
    first, second, third = (RANDOM.integers(-9, 9, shape).astype(np.int32) for shape in ((3, 4), (4, 5), (5,)))
    (made,) = check("Gemm", [first, second, third], opset=13, expected=[first @ second + third])
    assert made.dtype == torch.int32


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((3, 4), (4, 5)), ((4,), (4,)), ((4,), (4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (6, 4, 5)), ((4,), (2, 4, 5)), ((2, 3, 4), (4,)),
    ],
)  # fmt: skip
def test_matrix_product_of_any_ranks(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    for constants in ((), (0,), (1,)):
        given = [normal(*first), normal(*second)]
        check("MatMul", given, opset=13, constants=constants, reference="ort", compiled=True, gradient=True)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint32, np.uint64])
def test_matrix_product_of_whole_numbers(kind: type) -> None:
    given = [RANDOM.integers(0, 50, shape).astype(kind) for shape in ((3, 4), (4, 5))]
    for constants in ((), (1,)):
        (made,) = check("MatMul", given, opset=13, constants=constants, reference="ort")
        assert not made.is_floating_point()


def test_constant_weights_are_multiplied_by_one_kernel() -> None:
    for operator, given in (
        ("MatMul", [normal(2, 3, 4), normal(4, 5)]),
        ("Gemm", [normal(3, 4), normal(4, 5), normal(5)]),
    ):
        network = onnxviz.to_torch(one_node(operator, given, constants=(1, 2)))
        with torch.no_grad(), torch.profiler.profile() as profile:
            network(torch.from_numpy(given[0]))
        names = {event.name for event in profile.events()}
        assert names & {"aten::mm", "aten::addmm"}
        assert not names & {"aten::clone", "aten::add", "aten::mul"}


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]), ("ij,jk", [(2, 3), (3, 4)]), ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 4)]),
        ("ii->i", [(3, 3)]), ("ii", [(3, 3)]), ("...ii->...i", [(2, 3, 3)]), ("bca->abc", [(2, 3, 4)]),
        ("i,i", [(3,), (3,)]), ("...", [(2, 3)]), ("ij->", [(2, 3)]), ("a , b -> a b", [(2,), (3,)]),
        ("bij,bjk,bk->bi", [(2, 3, 4), (2, 4, 5), (2, 5)]),
    ],
)  # fmt: skip
def test_einstein_sum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    given = [normal(*shape) for shape in shapes]
    check("Einsum", given, opset=12, equation=equation, reference="ort", compiled=True, gradient=True)
    if len(shapes) > 1:
        check("Einsum", given, opset=12, equation=equation, constants=(1,), reference="ort")


def test_capital_letters_of_einstein_sums_come_first() -> None:
    first, second = normal(2, 3), normal(3, 4)
    check("Einsum", [first, second], opset=12, equation="Ba,aC", expected=[first @ second])
    check("Einsum", [first, second], opset=12, equation="ba,aC", expected=[(first @ second).T])


def test_an_equation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UnsupportedOperatorError, match="Einsum"):
        onnxviz.to_torch(one_node("Einsum", [normal(2, 3)], opset=12, equation="ij,jk->ik", result=1))


def test_determinant() -> None:
    check("Det", [normal(2, 3, 4, 4)], opset=11, reference="ort", tolerance=1e-4, gradient=True, compiled=True)
