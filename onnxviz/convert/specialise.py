"""From everything that converted to the network that one question needs: no deeper than its answers, simplified."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import fx, nn

from onnxviz.convert.fuse import fuse
from onnxviz.core import limits


def truncate(
    root: nn.Module,
    graph: fx.Graph,
    values: Sequence[fx.Node],
    *,
    unit_axes: Mapping[fx.Node, int] | None = None,
    tape: bool = False,
    given: Sequence[fx.Node] = (),
) -> fx.GraphModule:
    """Return a network that computes some values of a graph, and nothing that they do not need.

    Args:
        root: holds the modules and constants; they are shared, not copied.
        graph: the graph; its placeholders are the network's arguments, used or not.
        values: what the network returns, as a tuple in this order.
        unit_axes: for values whose units are not on axis 1, where they are. The value is returned with its units on
            axis 1, and what follows is computed from the returned tensor, so that gradients with respect to it exist.
        tape: start recording gradients at each returned value that others depend on, even if no input requires them.
        given: values that are further arguments, in this order: what depends on them is computed from the arguments.
    """
    needed = _ancestors(values, set(given))
    made = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    returned: dict[fx.Node, fx.Node] = {}
    wanted = set(values)
    for node in graph.find_nodes(op="placeholder"):
        copies[node] = returned[node] = made.node_copy(node)
    handed = {node: made.placeholder(f"given_{index}") for index, node in enumerate(given)}
    for node in graph.nodes:
        if node.op == "placeholder":
            continue
        if node not in needed:
            if node in handed:
                copies[node] = handed[node]
            continue
        identity = _is_identity(root, node)
        copy = copies[node.all_input_nodes[0]] if identity else made.node_copy(node, copies.__getitem__)
        shown = copy
        if node in wanted:
            axis = (unit_axes or {}).get(node, 1)
            inner = tape and any(user in needed for user in node.users)
            if axis != 1:
                shown = made.call_function(torch.movedim, (copy, axis, 1))
            if inner:
                shown = made.call_function(on_tape, (shown,))
            copy = made.call_function(torch.movedim, (shown, 1, axis)) if axis != 1 else shown
        copies[node] = handed.get(node, copy)
        returned[node] = shown
    made.output(tuple(returned[value] for value in values))
    fuse(root, made)
    made.lint()
    return fx.GraphModule(root, made, class_name="Network")


def on_tape(values: torch.Tensor) -> torch.Tensor:
    """Start recording gradients here, unless they are recorded already or nobody wants them."""
    if values.requires_grad or not torch.is_grad_enabled() or not values.is_floating_point():
        return values
    return values.detach().requires_grad_(True)


def fold_constants(root: nn.Module, graph: fx.Graph) -> None:
    """Compute once what depends on no input, and store the result beside the weights."""
    constant: dict[fx.Node, Any] = {}
    left = limits.FOLDED_TOTAL_BYTES
    for node in list(graph.nodes):
        if node.op == "get_attr":
            constant[node] = root.get_buffer(str(node.target))
        if node.op not in ("call_module", "call_function") or not all(
            item in constant for item in node.all_input_nodes
        ):
            continue
        shape = node.meta.get("shape")
        if node.op == "call_module" and (shape is None or 8 * math.prod(shape) > min(left, limits.FOLDED_BYTES)):
            continue  # a few bytes may ask for terabytes
        function = root.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        assert callable(function)
        try:
            with torch.no_grad():
                result = function(
                    *fx.node.map_arg(node.args, constant.__getitem__),
                    **fx.node.map_arg(node.kwargs, constant.__getitem__),
                )
        except Exception:  # noqa: S112 - what fails now fails when the network runs, if it is ever needed
            continue
        constant[node] = result
        left -= _size(result)
        if not isinstance(result, torch.Tensor) or result.numel() * result.element_size() > limits.FOLDED_BYTES:
            continue
        name = f"folded_{node.name}"
        root.register_buffer(name, result)
        with graph.inserting_before(node):
            replacement = graph.get_attr(name)
        constant[replacement] = result
        node.replace_all_uses_with(replacement)
        node.meta["folded"] = replacement


def _size(result: Any) -> int:
    """Bytes of a tensor, or of several; numbers count nothing."""
    if isinstance(result, tuple | list):
        return sum(map(_size, result))
    return result.numel() * result.element_size() if isinstance(result, torch.Tensor) else 0


def _ancestors(values: Iterable[fx.Node], given: Set[fx.Node] = frozenset()) -> set[fx.Node]:
    """Return the values and what they are made from, but not what only the given values are made from."""
    found: set[fx.Node] = set()
    stack = list(values)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(source for source in node.all_input_nodes if source not in given)
    return found


def _is_identity(root: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(root.get_submodule(str(node.target)), nn.Identity)
