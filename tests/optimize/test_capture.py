"""Steps that are captured are the same steps, and as many; what waits for the device is not captured.

There is no GPU here: PyTorch's part is played by stand-ins, and `benchmarks.gpu_feature_visualization` does it on one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from onnxviz.optimize import capture

CUDA = torch.device("cuda", 1)


class Gpu:
    """What PyTorch is asked for; a graph that is replayed does the steps that were done while it was captured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
        self.recorded: list[str] | None = None
        self.done: list[str] = []
        self.mode = 0
        outer = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                assert device == CUDA

            def wait_stream(self, other: object) -> None:
                assert outer.recorded is None

        class Graph:
            def __init__(self) -> None:
                self.steps: list[str] = []

            def replay(self) -> None:
                outer.done += self.steps

        @contextlib.contextmanager
        def within(graph: Graph, stream: Stream) -> Iterator[None]:
            outer.recorded = []
            yield
            graph.steps, outer.recorded = outer.recorded, None
            if fails:
                raise RuntimeError("operation not permitted when stream is capturing")

        stream = Stream(CUDA)
        parts = {
            "Stream": Stream, "CUDAGraph": Graph, "graph": within, "current_stream": lambda device: stream,
            "stream": contextlib.nullcontext, "device": contextlib.nullcontext,
            "get_sync_debug_mode": lambda: self.mode, "set_sync_debug_mode": self.set_mode,
        }  # fmt: skip
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        capture._side.cache_clear()

    def set_mode(self, mode: int | str) -> None:
        self.mode = 1 if mode == "warn" else int(mode)

    def launch(self, name: str) -> None:
        (self.done if self.recorded is None else self.recorded).append(name)

    def wait(self) -> None:
        if self.mode == 1:
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)


@pytest.fixture(autouse=True)
def _no_stream_is_kept() -> Iterator[None]:
    yield
    capture._side.cache_clear()


@pytest.mark.parametrize("count", [1, 18, 19, 40])
def test_as_many_steps_as_calls(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, python = Gpu(monkeypatch), []

    def step() -> None:
        python.append(len(gpu.done))
        gpu.launch("kernel")

    advance = capture.captured(step, count, CUDA)
    for number in range(count):
        advance()
        assert len(gpu.done) == number + 1
    # From 19 steps on: three to warm up, and one that is recorded.
    assert len(python) == (count if count < 19 else 4)


def test_a_step_that_waits_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, python = Gpu(monkeypatch), []

    def step() -> None:
        python.append(1)
        gpu.launch("kernel")
        gpu.wait()

    advance = capture.captured(step, 30, CUDA)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what was only asked for is shown to nobody
        for _ in range(30):
            advance()
    assert len(gpu.done) == len(python) == 30
    assert gpu.mode == 0


def test_a_capture_that_fails_costs_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch, fails=True)
    advance = capture.captured(lambda: gpu.launch("kernel"), 30, CUDA)
    for _ in range(30):
        advance()
    assert len(gpu.done) == 30


def test_the_host_stays_near_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[int] = []

    class Event:
        made = 0

        def record(self, stream: object) -> None:
            Event.made += 1
            self.number = Event.made

        def synchronize(self) -> None:
            waited.append(self.number)

    Gpu(monkeypatch)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    wait = capture.paced(CUDA)
    for _ in range(4):
        wait()
    assert waited == [1, 2, 3]
    capture.paced(torch.device("cpu"))()
