"""Batches that do not fit are halved, on real limits and on injected ones, and give what larger ones give."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxviz.analyses.stream import Rounds
from onnxviz.core.errors import DataError, MemoryLimitError
from onnxviz.core.memory import is_out_of_memory
from onnxviz.core.values import Target
from onnxviz.model import batches
from onnxviz.model import model as model_module
from onnxviz.model.model import Model, load
from onnxviz.optimize.ascent import AscentSettings, maximize

FULL = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
)


class Told:
    """What choosing batches needs of a model."""

    def __init__(self, device: str = "cpu", halvings: int = 0) -> None:
        self.device = torch.device(device)
        self.view: Any = None
        self.halvings = halvings
        self.reduced: list[str] = []
        self.fitting: dict[str, tuple[int, str]] = {}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    rng = np.random.default_rng(3)
    weights = {
        "w1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "w2": rng.normal(0, 0.3, (5, 8, 3, 3)),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["conv1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["relu1"], "relu1"),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], "conv2", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["conv2"], ["pool"], "pool"),
        helper.make_node("Flatten", ["pool"], ["logits"], "logits"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return load(path, "unit", device="cpu")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 3, 12, 12), dtype=np.float32)


def fail_above(most: int, tried: list[int]) -> Callable[[int], None]:
    def check(count: int) -> None:
        tried.append(count)
        if count > most:
            raise RuntimeError(FULL)

    return check


def inject(model: Model, monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let the network and ONNX Runtime run out of memory for more than so many images."""
    tried: list[int] = []
    check = fail_above(most, tried)
    encode = model._encode

    def failing(images: torch.Tensor) -> torch.Tensor:
        check(len(images))
        return encode(images)

    monkeypatch.setattr(model, "_encode", failing)
    return tried


@pytest.mark.parametrize("way", ["measure", "activations"])
def test_batches_that_do_not_fit_are_halved_in_place(model: Model, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    call = getattr(model, way)
    whole = {name: np.asarray(values) for name, values in call(images(11), ["relu1", "logits"]).items()}
    tried = inject(model, monkeypatch, 3)
    halved = call(images(11), ["relu1", "logits"])
    assert tried == [11, 5, 2, 2, 2, 2, 2, 1]
    for name, values in whole.items():
        np.testing.assert_allclose(np.asarray(halved[name]), values, atol=1e-6)
    assert model.reduced == [
        "A pass to relu1, logits took 2 images at a time instead of 11, because memory did not suffice for more."
    ]
    tried.clear()
    model.reduced.clear()
    call(images(4), ["relu1", "logits"])
    assert tried == [2, 2], "what does not fit is tried once"
    assert len(model.reduced) == 1, "and said in every job"


@pytest.mark.parametrize("way", ["measure", "activations"])
def test_memory_may_run_out_where_results_are_joined(model: Model, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    call, room_for = getattr(model, way), model_module.room_for
    whole = {name: np.asarray(values) for name, values in call(images(11), ["relu1", "logits"]).items()}
    asked: list[int] = []

    def room(part: torch.Tensor, count: int) -> object:
        asked.append(count)
        if len(asked) == 2:
            raise RuntimeError(FULL)
        return room_for(part, count)

    monkeypatch.setattr(model_module, "room_for", room)
    inject(model, monkeypatch, 8)
    halved = call(images(11), ["relu1", "logits"])
    assert len(asked) == 4
    for name, values in whole.items():
        np.testing.assert_allclose(np.asarray(halved[name]), values, atol=1e-6)


@pytest.mark.parametrize("way", ["measure", "activations"])
def test_an_image_that_does_not_fit_is_an_error_that_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    inject(model, monkeypatch, 0)
    with pytest.raises(
        MemoryLimitError, match="A pass to conv2 needs more memory than there is, even for one image"
    ) as e:
        getattr(model, way)(images(3), ["conv2"])
    assert is_out_of_memory(e.value)
    assert e.value.remedy


def test_halvings_make_every_batch_smaller(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = inject(model, monkeypatch, 99)
    model.halvings = 2
    model.measure(images(12), ["conv1"])
    assert tried == [3, 3, 3, 3]
    assert model.reduced == [
        "A pass to conv1 took 3 images at a time instead of 12, because the job had run out of memory."
    ]
    model.halvings = 9
    model.activations(images(2), ["conv1"])
    assert tried[4:] == [1, 1]


def test_a_model_that_takes_exactly_so_many_images_cannot_take_fewer(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(model, monkeypatch, 1)
    monkeypatch.setattr(model.view, "batch", 4)
    with pytest.raises(MemoryLimitError, match="for 4 images at a time"):
        model.measure(images(4), ["conv1"])


def test_one_image_is_tried_again_once_what_was_kept_is_gone() -> None:
    kept, tried = [0], []

    def work(start: int, _stop: int) -> int:
        tried.append(start)
        if kept:
            raise MemoryError
        return start

    made = [result for *_, result in batches.run_batches(None, 2, 1, work, "x", release=kept.clear)]
    assert made == [0, 1]
    assert tried == [0, 0, 1]


def test_other_errors_are_not_mistaken_for_it(model: Model) -> None:
    with pytest.raises(DataError, match="no images"):
        model.measure(images(0), ["conv1"])
    tried: list[int] = []

    def broken(start: int, _stop: int) -> None:
        tried.append(start)
        raise ValueError("shapes")

    with pytest.raises(ValueError, match="shapes"):
        list(batches.run_batches(None, 8, 4, broken, "x"))
    assert tried == [0]


def test_nothing_of_a_failed_batch_is_alive_when_it_is_tried_again() -> None:
    class Tensor:
        pass

    alive: list[weakref.ref[Tensor]] = []

    def work(start: int, stop: int) -> tuple[int, int]:
        assert all(reference() is None for reference in alive)
        own = Tensor()
        own.itself = own  # type: ignore[attr-defined]  # a cycle, which only the collector frees
        alive.append(weakref.ref(own))
        if stop - start > 1:
            try:
                raise MemoryError
            except MemoryError as fault:
                raise DataError("wrapped") from fault
        del own.itself  # type: ignore[attr-defined]
        return start, stop

    told = Told()
    made = [(start, stop) for start, stop, _ in batches.run_batches(told, 4, 4, work, "x")]
    assert made == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(told.reduced) == 1


def test_free_memory_decides_before_anything_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "available_memory", lambda: 1000)
    told = Told()
    assert batches.choose_batch(told, 16, lambda: 50, "A pass") == 16
    assert told.reduced == []
    assert batches.choose_batch(told, 16, lambda: 100, "A pass") == 8
    assert told.reduced == [
        "A pass took 8 images at a time instead of 16, because 16 need about 1.6 KiB, which is more than is free."
    ]
    assert batches.choose_batch(told, 16, lambda: 10**9, "A pass") == 1
    assert batches.choose_batch(told, 16, lambda: 10**9, "Other", free=lambda: 10**11) == 16

    def unasked() -> int:
        raise AssertionError

    assert batches.choose_batch(told, 1, unasked, "One") == 1


def test_where_images_lie_along_another_axis_each_is_counted_once(model: Model) -> None:
    """As in a channel shuffle, [2, images, 24, 44, 44]: the free axis is no row of pixels of an open size."""
    usual = dataclasses.replace(model.view.layers[0], shape=(None, 2, 24, 44, 44), channel_axis=None)
    moved = dataclasses.replace(usual, shape=(2, None, 24, 44, 44))
    sizes = ((352, 352), (352, 352))
    assert batches.pass_bytes(model.view, *sizes, [moved]) == batches.pass_bytes(model.view, *sizes, [usual])


def test_on_a_gpu_its_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied: list[bool] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (500, 4000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 800)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 300)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    told = Told("cuda")
    assert batches.free_memory(told.device) == 1000
    assert batches.choose_batch(told, 32, lambda: 100, "The ascent") == 8

    def work(start: int, stop: int) -> int:
        if stop - start > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return stop - start

    assert [count for _, _, count in batches.run_batches(told, 8, 8, work, "The ascent")] == [4, 4]
    assert emptied == [True]


def test_whatever_runs_out_of_memory_is_named() -> None:
    wanted = "Grad-CAM needs more memory than there is, even for one image"
    with pytest.raises(MemoryLimitError, match=wanted), batches.named_memory_limit("Grad-CAM"):
        raise RuntimeError(FULL)
    with pytest.raises(MemoryLimitError, match="inner"), batches.named_memory_limit("outer"):
        raise MemoryLimitError("inner")
    with pytest.raises(KeyError), batches.named_memory_limit("outer"):
        raise KeyError("x")


# --- the callers ----------------------------------------------------------------------------------------------------


def test_rounds_forget_what_they_kept_and_take_smaller_batches() -> None:
    told = Told()
    limit = [8]

    def measure(numbers: Any) -> dict[str, np.ndarray]:
        if len(numbers) > limit[0]:
            raise MemoryLimitError("A pass needs more")
        return {"a": np.array(numbers, np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 2, 3, 3), np.float32)}

    rounds = Rounds(np.asarray, measure, range(40), keep=True, model=told)  # type: ignore[arg-type]
    steps = iter(rounds)
    seen = list(next(steps).images)
    limit[0] = 2
    later = list(steps)
    assert seen + [number for batch in later for number in batch.images] == list(range(40))
    assert max(len(batch.images) for batch in later) == 2
    again = list(rounds)
    assert [number for batch in again for number in batch.images] == list(range(40))
    for batch in (*later, *again):
        np.testing.assert_array_equal(batch.activations["a"][:, 0, 0, 0], batch.images)
    np.testing.assert_array_equal(rounds.of(13)["a"], np.full((1, 2, 3, 3), 13))
    assert len(told.reduced) == 2
    assert told.reduced[0].startswith("The activations of a were computed again for each round")
    limit[0] = 0
    with pytest.raises(MemoryLimitError):
        list(rounds)


def test_rounds_keep_no_more_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(numbers: Any) -> dict[str, np.ndarray]:
        measured.extend(numbers)
        return {"a": np.zeros((len(numbers), 2, 3, 3), np.float32)}

    told = Told()
    for free, again in ((1, 0), (-1, 20)):
        monkeypatch.setattr("onnxviz.analyses.stream.available_memory", lambda free=free: 2 * 72 * 20 + free)
        rounds = Rounds(np.asarray, measure, range(20), keep=True, model=told)  # type: ignore[arg-type]
        list(rounds)
        measured.clear()
        list(rounds)
        assert len(measured) == again
    assert len(told.reduced) == 1


def test_the_ascent_takes_fewer_pictures_together(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, seeds = [Target("conv2", unit) for unit in range(5)], [1, 2, 3, 4, 5]
    settings = AscentSettings(steps=3, size=(12, 12))
    told: list[tuple[int, int]] = []
    alone = maximize(model, targets, seeds, settings, batch=1)
    tried = inject(model, monkeypatch, 2)
    halved = maximize(model, targets, seeds, settings, batch=5, told=lambda *at: told.append(at))
    assert max(size for size in tried[1:]) == 2
    np.testing.assert_allclose(halved.images, alone.images, atol=1e-4)
    assert model.reduced == [
        "The ascent at conv2 took 2 images at a time instead of 5, because memory did not suffice for more."
    ]
    assert told == sorted(set(told))
    assert told[-1] == (15, 15)
    monkeypatch.undo()
    inject(model, monkeypatch, 0)
    with pytest.raises(MemoryLimitError, match="The ascent at conv2 needs more memory"):
        maximize(model, targets, seeds, settings, batch=4)


def test_the_ascent_on_a_small_gpu(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = model.view.layer("conv2")
    each = batches.gradient_bytes(model.view, (12, 12), (12, 12), layer)
    # Every value up to the layer, and gradients beside them.
    values = 8 * 144 + 8 * 144 + 5 * 25
    assert each > 4 * (values + 8 * 144)
    monkeypatch.setattr(batches, "free_memory", lambda _device: 5 * each)
    tried = inject(model, monkeypatch, 99)
    maximize(
        model, [Target("conv2", unit) for unit in range(5)], [0] * 5, AscentSettings(steps=1, size=(12, 12)), batch=5
    )
    assert set(tried) == {2, 1}
    assert "which is more than is free" in model.reduced[0]


def test_images_along_another_axis_are_counted_once(tmp_path: Path) -> None:
    """As where queries, keys and values of tokens are taken apart: no axis of open size is one of pixels then."""

    class Apart(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            tokens = image.reshape(image.shape[0], 3, 16, 9).permute(1, 0, 2, 3)
            return (tokens[:1].exp() + tokens[1:2] * tokens[2:]).reshape(-1, 144)

    path = tmp_path / "apart.onnx"
    torch.onnx.export(Apart(), (torch.rand(2, 3, 12, 12),), path, dynamo=False, input_names=["image"],
                      dynamic_axes={"image": {0: "n"}})  # fmt: skip
    view = load(path, "unit", device="cpu").view
    apart = [layer for layer in view.layers if layer.shape == (1, None, 16, 9)]
    assert len(apart) >= 4
    most = len(view.layers) + 3  # and gradients of those that are largest
    assert batches.gradient_bytes(view, (12, 12), (12, 12), view.layers[-1]) <= 4 * (most * 3 * 144 + 24 * 144)


# --- for real -------------------------------------------------------------------------------------------------------

LIMITED_RUN = """\
import resource, sys
import numpy as np, torch
from onnxviz.model import batches
from onnxviz.model import model as model_module
from onnxviz.core.errors import MemoryLimitError
from onnxviz.model.model import load

torch.set_num_threads(1)
path, way, mebibytes, guess = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "guess"
model = load(path, device="cpu")
layers = [model.layers[2], model.view.logits]
images = np.random.default_rng(0).random((16, 3, *model.input_size), dtype=np.float32)
call = getattr(model, way)
batches.LARGEST_BATCH, batches.WORKING_BYTES = 16, 1 << 40
call(images[:1], layers)
measured = batches.free_memory
if not guess:
    batches.free_memory = lambda device: 1 << 50
def used():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (used() + (mebibytes << 20), resource.RLIM_INFINITY))
if mebibytes < 5:
    try:
        call(images, layers)
    except MemoryLimitError as error:
        print(error.what)
        sys.exit(3)
found = call(images, layers)
said = list(model.reduced)
resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
batches.free_memory = measured
fresh = load(path, device="cpu")
for name, values in getattr(fresh, way)(images, layers).items():
    values = np.asarray(values)
    print(float(np.abs(np.asarray(found[name]) - values).max() / np.abs(values).max()))
print(*said)
"""


def limited_run(path: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_RUN, str(path), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr[-3000:]
    return done.returncode, done.stdout.splitlines()


@pytest.mark.zoo
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on a process' data")
@pytest.mark.parametrize(
    ("way", "mebibytes", "guess"),
    [
        ("measure", "70", "guess"),
        ("measure", "90", "try"),
        ("activations", "60", "try"),
    ],
)
def test_a_real_network_finishes_under_a_real_limit(zoo: Path, way: str, mebibytes: str, guess: str) -> None:
    _, lines = limited_run(zoo / "onnx" / "squeezenet_fp16.onnx", way, mebibytes, guess)
    *differences, said = lines
    assert len(differences) == 2
    # ONNX Runtime gives the same bits in every batch; PyTorch sums in another order by batch size.
    assert max(float(difference) for difference in differences) <= (0 if way == "measure" else 1e-5)
    assert "at a time instead of 16" in said
    assert ("memory did not suffice for more" in said) == (guess == "try")


@pytest.mark.zoo
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces a limit on a process' data")
def test_where_not_even_one_image_fits_it_is_said(zoo: Path) -> None:
    code, lines = limited_run(zoo / "onnx" / "squeezenet_fp16.onnx", "activations", "2", "guess")
    assert code == 3
    assert "needs more memory than there is, even for one image" in lines[0]
