"""Chains of small operators as the one kernel that PyTorch has for them, so that a network costs what it cost before.

Exporters write a linear layer as MatMul and Add, attention as MatMul, Softmax, MatMul, and GELU as five operators. Only
what nobody else reads is merged: a network that returns the scores of an attention computes them one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from onnxviz.convert.operators.linear import Linear, MatrixProduct
from onnxviz.convert.operators.operation import Function
from onnxviz.convert.operators.pointwise import Binary, Division


def fuse(root: nn.Module, graph: fx.Graph) -> None:
    """Merge what one kernel computes, in place.

    Args:
        root: holds the modules and constants that the graph names.
        graph: what a network computes; its results are its output node's.
    """
    fusion = _Fusion(root, graph)
    for node in list(graph.nodes):
        for attempt in (fusion.linear, fusion.attention, fusion.gelu):
            if attempt(node):
                break


def attend(
    query: torch.Tensor,
    transposed: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float = 1.0,
) -> torch.Tensor:
    """Compute softmax(scale · query · keys + mask) · value (Vaswani et al. 2017), by one kernel where that fits.

    Args:
        query: [N, heads, length, size], or of any other rank that a matrix product takes.
        transposed: keys, [N, heads, size, other length].
        value: [N, heads, other length, another size].
        mask: broadcasts to the scores [N, heads, length, other length].
        scale: factor of the scores.
    """
    fits = (
        query.dim() == transposed.dim() == value.dim() == 4
        and query.shape[:2] == transposed.shape[:2] == value.shape[:2]
        and (mask is None or _broadcasts(mask, (*query.shape[:3], transposed.shape[3])))
    )
    if fits:
        return functional.scaled_dot_product_attention(
            query, transposed.transpose(2, 3), value, attn_mask=mask, scale=scale
        )
    scores = query @ transposed
    if scale != 1:
        scores = scores * scale
    return (scores if mask is None else scores + mask).softmax(-1) @ value


def _broadcasts(mask: torch.Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a mask leaves scores their shape, and is one that the kernel takes."""
    if not 2 <= mask.dim() <= len(shape) or not mask.is_floating_point():
        return False
    return all(own in (1, size) for own, size in zip(reversed(mask.shape), reversed(shape), strict=False))


class _Fusion:
    """The merging of one graph."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        self.root = root
        self.graph = graph

    def linear(self, node: fx.Node) -> bool:
        """Merge a product with constant weights and the constant vector that is added to it."""
        if not self._is_binary(node, torch.add):
            return False
        for product, bias in (_operands(node)[:2], _operands(node)[1::-1]):
            module = self._module(product)
            vector = self._constant(bias)
            if (
                isinstance(module, Linear)
                and module.bias is None
                and vector is not None
                and vector.shape == module.weight.shape[:1]
                and vector.dtype == module.weight.dtype
                and self._alone(product)
            ):
                with self.graph.inserting_before(node):
                    weight = self.graph.get_attr(f"{product.target}.weight")
                    self._replace(node, functional.linear, _operands(product)[0], weight, bias)
                return True
        return False

    def attention(self, node: fx.Node) -> bool:
        """Merge scores, softmax and the mean of values that it weighs."""
        chances, value = _operands(node)[:2] if isinstance(self._module(node), MatrixProduct) else (None, None)
        if not self._is_softmax(chances) or not self._alone(chances):
            return False
        scores, mask, scale = _operands(chances)[0], None, 1.0
        if self._is_binary(scores, torch.add) and self._alone(scores):
            first, second = _operands(scores)[:2]
            scores, mask = (first, second) if self._is_scores(first) else (second, first)
        if self._is_scaled(scores):
            scores, scale = _operands(scores)[0], self._scale(scores)
        if not isinstance(self._module(scores), MatrixProduct) or not self._alone(scores):
            return False
        query, transposed = _operands(scores)[:2]
        with self.graph.inserting_before(node):
            self._replace(node, attend, query, transposed, value, mask, scale)
        return True

    def _is_softmax(self, node: Any) -> bool:
        """Whether a node is a softmax over its last axis."""
        module = self._module(node)
        if not isinstance(module, nn.Softmax):
            return False
        shape = node.meta.get("shape")
        return module.dim == -1 or (shape is not None and module.dim == len(shape) - 1)

    def _is_scores(self, node: Any) -> bool:
        return self._alone(node) and (isinstance(self._module(node), MatrixProduct) or self._is_scaled(node))

    def _is_scaled(self, node: Any) -> bool:
        """Whether a node is a matrix product times a constant number."""
        return (
            isinstance(node, fx.Node)
            and self._alone(node)
            and self._scale(node) > 0
            and isinstance(self._module(_operands(node)[0]), MatrixProduct)
        )

    def _scale(self, node: fx.Node) -> float:
        """Return the constant positive number that a node multiplies its first operand by; 0 if it does not."""
        divides = isinstance(self._module(node), Division)
        if not divides and not self._is_binary(node, torch.mul):
            return 0.0
        number = self._number(_operands(node)[1])
        if number is None or not number > 0 or math.isinf(number):
            return 0.0
        return 1.0 / number if divides else number

    def gelu(self, node: fx.Node) -> bool:
        """Merge x / 2 · (1 + erf(x / √2)) (Hendrycks and Gimpel 2016), however it is bracketed."""
        if not self._is_binary(node, torch.mul):
            return False
        factors: list[Any] = []
        for factor in _operands(node)[:2]:
            if self._is_binary(factor, torch.mul) and self._alone(factor):
                factors.extend(_operands(factor)[:2])
            else:
                factors.append(factor)
        if len(factors) != 3:
            return False
        halves = [factor for factor in factors if self._near(factor, 0.5)]
        sums = [factor for factor in factors if self._is_binary(factor, torch.add) and self._alone(factor)]
        rest = [factor for factor in factors if factor not in halves and factor not in sums]
        if not len(halves) == len(sums) == len(rest) == 1 or not self._is_error(sums[0], rest[0]):
            return False
        with self.graph.inserting_before(node):
            self._replace(node, functional.gelu, rest[0])
        return True

    def _is_error(self, node: Any, values: Any) -> bool:
        """Whether a node is 1 + erf(values / √2)."""
        for error, one in (_operands(node)[:2], _operands(node)[1::-1]):
            module = self._module(error)
            if not (isinstance(module, Function) and module.function is torch.erf and self._alone(error)):
                continue
            scaled = _operands(error)[0]
            if not (self._near(one, 1.0) and self._alone(scaled)):
                continue
            return _operands(scaled)[0] is values and math.isclose(self._scale(scaled), math.sqrt(0.5), rel_tol=1e-4)
        return False

    # --- what nodes are -----------------------------------------------------------------------------------------------

    def _module(self, node: Any) -> nn.Module | None:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.root.get_submodule(str(node.target))

    def _is_binary(self, node: Any, function: Callable[..., torch.Tensor]) -> bool:
        module = self._module(node)
        return isinstance(module, Binary) and module.function is function and module.axis is None

    def _alone(self, node: Any) -> bool:
        """Whether only one other node reads a node, once."""
        return isinstance(node, fx.Node) and len(node.users) == 1

    def _constant(self, node: Any) -> torch.Tensor | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        return self.root.get_buffer(str(node.target))

    def _number(self, node: Any) -> float | None:
        constant = self._constant(node)
        return float(constant) if constant is not None and constant.numel() == 1 and constant.dim() < 2 else None

    def _near(self, node: Any, wanted: float) -> bool:
        number = self._number(node)
        return number is not None and math.isclose(number, wanted, rel_tol=1e-6)

    def _replace(self, node: fx.Node, function: Callable[..., torch.Tensor], *arguments: object) -> None:
        made = self.graph.call_function(function, arguments)  # type: ignore[arg-type]
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        unread = [node]
        while unread:
            gone = unread.pop()
            if gone.op != "placeholder" and not gone.users:
                inputs = gone.all_input_nodes
                self.graph.erase_node(gone)
                unread.extend(inputs)


def _operands(node: Any) -> tuple[Any, ...]:
    return tuple(node.args)
