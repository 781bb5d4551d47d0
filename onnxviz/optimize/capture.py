"""A step as a CUDA graph: its kernels are started together, without Python between them."""

from __future__ import annotations

from collections.abc import Callable

WARM_UP = 3
"""Steps before a capture: libraries choose their algorithms and allocate in the first ones."""
_WORTH = 16
"""Fewer steps are not worth a capture."""


def captured(step: Callable[[], None], count: int) -> Callable[[], None]:
    """Return a function that does what a step does, captured as a CUDA graph after its first steps.

    Args:
        step: changes tensors in place, always by the same kernels on the same memory, and never waits for the device.
        count: how often it will be done.

    Returns:
        The function. Every call is one step, the ones before the capture too.
    """
    if count < WARM_UP + _WORTH:
        return step
    import torch

    graph: torch.cuda.CUDAGraph | None = None
    done = 0

    def advance() -> None:
        nonlocal graph, done
        if graph is not None:
            graph.replay()
            return
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
        done += 1
        if done == WARM_UP:
            made = torch.cuda.CUDAGraph()
            with torch.cuda.graph(made):  # a capture records the step and does not do it
                step()
            graph = made

    return advance
