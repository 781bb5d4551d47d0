"""A step as a CUDA graph: its kernels are started together, without Python between them."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator

from onnxviz.core.lazy_torch import torch

Step = Callable[[], None]

WARM_UP = 3
"""Steps before a capture: libraries choose their algorithms, make their plans and allocate in the first ones."""
_WORTH = 16
"""Fewer steps are not worth a capture."""
_WAITS = "synchronizing CUDA operation"
"""What PyTorch says of an operation that waits for the device."""


def captured(step: Step, count: int, device: torch.device) -> Step:
    """Return a function that does what a step does `count` times, captured as a CUDA graph after its first steps.

    A step changes tensors in place, always by the same kernels on the same memory. One that waits for the device, as
    networks do that look at their own values, cannot be captured and is not. Every call is one step, the ones before
    the capture too. What the step leaves in attributes is refreshed by each call.
    Source: PyTorch's notes on CUDA semantics, section "CUDA Graphs": warm-up on a side stream, capture, replay.
    """
    if count < WARM_UP + _WORTH:
        return step
    done = 0
    later: Step | None = None

    def advance() -> None:
        nonlocal done, later
        if later is None and done == WARM_UP:
            later = _recorded(step, device)  # a capture records the step and does not do it
        if later is not None:
            later()
            return
        done += 1
        if done < WARM_UP:
            with _beside(device):
                step()
        elif _waits(step, device):
            later = step

    return advance


def paced(device: torch.device) -> Step:
    """Return what keeps the host from running far ahead of the device, so that progress is what has been done.

    Each call waits until the device has come to where the call before was made; in between it never lacks work.
    """
    if device.type != "cuda":
        return lambda: None
    before: torch.cuda.Event | None = None

    def wait() -> None:
        nonlocal before
        now = torch.cuda.Event()  # type: ignore[no-untyped-call]
        now.record(torch.cuda.current_stream(device))
        if before is not None:
            before.synchronize()
        before = now

    return wait


@functools.lru_cache(maxsize=64)
def _side(device: torch.device) -> torch.cuda.Stream:
    """Keep one stream for all captures on a device: memory and workspaces of one stream are of no use to another."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _beside(device: torch.device) -> Iterator[None]:
    """Work on the device's side stream, after what was begun before and before what is begun later."""
    side = _side(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        yield
    torch.cuda.current_stream(device).wait_stream(side)


def _waits(step: Step, device: torch.device) -> bool:
    """Do one step and return whether it waits for the device."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said, _beside(device):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return any(_WAITS in str(warning.message) for warning in said)


def _recorded(step: Step, device: torch.device) -> Step:
    """Return the step as a graph; as it is if it cannot be captured, which has worked so far."""
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its stream current: the outer block puts the right one back.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        try:
            with torch.cuda.graph(graph, stream=_side(device)):
                step()
        except RuntimeError:
            return step
    return graph.replay
