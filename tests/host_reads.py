"""What PyTorch is asked for, operator by operator: what a GPU has to be waited for, or lies elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS = frozenset(
    ["_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount"]
)
"""Operators whose result, or its size, the host has to know."""
MADE_ON_THE_HOST = "lift_fresh"
"""What tensors of Python's numbers go through on a CPU, also those of lists as indices; a GPU gets them by a copy."""
MAKERS = (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
"""What makes them; on the meta device they go through nothing."""

ONLY_ON_A_CPU = frozenset(["require_no_bytes", "_Clip.backward"])
"""Functions that look at numbers where these lie in the computer's own memory, and do not elsewhere."""


class HostReads(TorchDispatchMode):
    """Notes what waits for the device, and tensors that lie on another one, while `watching`.

    A tensor of no dimensions may lie on the CPU: kernels take it as a number.

    Args:
        device: where everything is to lie.

    Attributes:
        found: what was found, each once.
        watching: whether to look.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []
        self.watching = True

    def __enter__(self) -> HostReads:
        self._calls = _Calls(self)
        self._calls.__enter__()
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *fault: Any) -> None:
        super().__exit__(*fault)
        self._calls.__exit__(*fault)

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.watching:
            name = func.overloadpacket.__name__
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            here = any(tensor.device == self.device for tensor in tensors)
            by_mask = name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])
            if here and (name in WAITS or by_mask) and not (self.device.type == "cpu" and _is_only_on_a_cpu()):
                self.note(f"{name} waits")
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            elsewhere = any(tensor.device != self.device and tensor.dim() for tensor in tensors + made)
            if elsewhere or name == MADE_ON_THE_HOST:
                self.note(f"{name} reads the host's memory")
        return result

    def note(self, text: str) -> None:
        """Keep what was found."""
        if text not in self.found:
            self.found.append(text)


class _Calls(TorchFunctionMode):
    def __init__(self, watch: HostReads) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self.watch.watching and func in MAKERS:
            self.watch.note(f"{func.__name__} reads the host's memory")
        return func(*args, **(kwargs or {}))


def _is_only_on_a_cpu() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_qualname in ONLY_ON_A_CPU:
            return True
    return False
