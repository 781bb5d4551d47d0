"""Steps neither read numbers on the host nor mix devices: all that a recipe can name runs on the meta device.

Its tensors have no values, so that a read fails, and what an accelerator does is done there. Copies from the host,
which it allows, are looked for operator by operator, and so are reads on a CPU. Dissection has no part in it: it
counts in numpy what ONNX Runtime has measured.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_reads import HostReads
from pydantic import BaseModel, TypeAdapter, ValidationError
from tiny_models import save_model

import onnxviz
from onnxviz.analyses.attribution.fusion import to_own_maximum, upsample
from onnxviz.analyses.attribution.methods.cam import GradCamMethod
from onnxviz.analyses.attribution.question import ForwardPass
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.errors import AnalysisError
from onnxviz.graph.targets import resolve_head
from onnxviz.model.model import Model
from onnxviz.optimize.adversarial import Attack, _Ball, _Descent, _Margin, _Wanted
from onnxviz.optimize.ascent_batch import AscentBatch, begun
from onnxviz.optimize.edits import Edit
from onnxviz.optimize.generators import GeneratorNetwork, open_generator
from onnxviz.optimize.objectives import Channel, ObjectiveChoice
from onnxviz.optimize.optimizers import Optimizer
from onnxviz.optimize.parameterizations import Maco, ParameterizationChoice, Pixel
from onnxviz.optimize.regularizers import Regularizer
from onnxviz.optimize.settings import AscentSettings, Precision
from onnxviz.optimize.stopping import EarlyStopping
from onnxviz.optimize.transforms import Fill, Transform
from tests.optimize.test_generator_prior import RANGES, plain

META, CPU = torch.device("meta"), torch.device("cpu")
LAYERS = ("second", "dense")
GROUP, COUNT, STEPS, SIZE = 3, 6, 3, (16, 16)
CHANNEL = {"kind": "channel", "layer": LAYERS[0], "unit": 1}
NEEDED: dict[str, Any] = {
    "layer": LAYERS[0], "unit": 1, "to_unit": 2, "picture": "cat", "model": "prior", "random": 0,
    "terms": [CHANNEL, {**CHANNEL, "kind": "neuron"}], "factors": [CHANNEL, CHANNEL],
}  # fmt: skip
"""What a field gets that has to be given."""
TRIED: dict[str, list[Any]] = {
    "own": [{"kind": kind} for kind in ("pixel", "laplacian_pyramid")],
    "to_layer": [LAYERS[1]],
    "box": [(0.0, 0.5, 0.5, 1.0)],
    "position": [(0, 1)],
    "vector": [(0.5, -1.0, 2.0, 0.0, 0.25, 1.0)],
    "units": [{1: 1.0, 3: -2.0}],
    "values": [(1.0, 2.0)],
    "pixels": [2],
    **{name: [1] for name in ("blur", "mean_color", "contrast", "cosine_power", "focus", "momentum", "warm_up")},
    **{name: [0.5] for name in ("average", "damping")},
    "percentile": [10.0],
}
"""Values beside the usual one that make a field do something else, where they do not follow from its type."""
REGISTRIES = {
    "parameterization": ParameterizationChoice,
    "transforms": Transform,
    "regularizers": Regularizer,
    "edits": Edit,
    "optimizer": Optimizer,
    "objective": ObjectiveChoice,
}


def choices(annotation: Any) -> Iterator[Any]:
    """Yield the values that a type has by itself: those of literals and flags, and None."""
    if annotation is bool:
        yield from (True, False)
    elif annotation is types.NoneType:
        yield None
    elif typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from choices(part)


def instances(kind: type[BaseModel]) -> Iterator[BaseModel]:
    """Yield a setting as it is usually, then with every choice of each of its fields."""
    fields = kind.model_fields
    needed = {name: NEEDED[name] for name, field in fields.items() if field.is_required()}
    if "random" in fields:
        needed["random"] = NEEDED["random"]
    found: list[BaseModel] = [kind(**needed)]
    for name, field in fields.items():
        for value in [*choices(field.annotation), *TRIED.get(name, [])]:
            given = {key: other for key, other in needed.items() if key != "random" or name not in ("vector", "units")}
            try:
                made = kind(**{**given, name: value})
            except ValidationError:  # what does not go together
                continue
            found += [made] if made not in found else []
    yield from found


def registered(field: str) -> Iterator[tuple[type[BaseModel], BaseModel]]:
    for kind in typing.get_args(typing.get_args(REGISTRIES[field])[0]):
        yield from ((kind, made) for made in instances(kind))


def cases() -> Iterator[Any]:
    for field in REGISTRIES:
        for kind, made in registered(field):
            changed = made.model_dump(exclude_defaults=True, exclude={"kind", *NEEDED})
            yield pytest.param(field, made, id=f"{field}-{kind.__name__}-{changed}"[:100])
    for precision in typing.get_args(Precision):
        yield pytest.param("precision", precision, id=f"precision-{precision}")
    for fill in typing.get_args(Fill):
        yield pytest.param("fill", fill, id=f"fill-{fill}")
    yield pytest.param("colors", np.eye(3, dtype=np.float32), id="measured colors")
    yield pytest.param("magnitude", np.ones((3, 8, 5), np.float32), id="measured magnitude")
    yield pytest.param("stopping", EarlyStopping(), id="stopping")
    yield pytest.param("channels", 1, id="grey")
    yield pytest.param("begin", "grey", id="begin-grey")
    yield pytest.param("redirect", 0, id="usual gradients")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("meta")
    save_model(path / "m.onnx")
    plain(path, RANGES["tanh"][0])
    return path


@functools.cache
def model(folder: Path, device: torch.device) -> Model:
    return onnxviz.load(folder / "m.onnx", "unit", device=device)


@functools.cache
def generator(folder: Path, device: torch.device) -> GeneratorNetwork:
    return open_generator(folder / "generator.onnx", device)


def settings_with(field: str, value: Any, folder: Path, device: torch.device) -> AscentSettings:
    given = {field: (value,) if field in ("transforms", "regularizers", "edits") else value}
    if field == "edits":
        given["parameterization"] = Pixel(squash="none")
    if field == "magnitude":
        given["parameterization"] = Maco()
    if field == "objective":
        given = {}
    prior = {"prior": generator(folder, device)}
    usual = {"steps": STEPS, "size": SIZE, "group": GROUP, "generators": prior, "importance": True}
    return AscentSettings(**{**usual, **given})


def batch(folder: Path, device: torch.device, settings: AscentSettings, objective: Any, **more: Any) -> AscentBatch:
    def references(size: tuple[int, int]) -> Mapping[tuple[str, str | None], torch.Tensor]:
        """Return what lies on the CPU: binding looks at it, steps may not."""
        picture = torch.rand((3, *size))
        made = model(folder, CPU).differentiable(LAYERS)(picture[None])
        return {("cat", None): picture, **{("cat", layer): one[0] for layer, one in zip(LAYERS, made, strict=True)}}

    draws = [torch.Generator().manual_seed(seed) for seed in range(COUNT)]
    signs = torch.ones(COUNT, device=device)
    network = model(folder, device)
    return AscentBatch(network, [objective] * COUNT, signs, draws, settings, more.get("starts"), references)


def steps(ascent_batch: AscentBatch, smaller: torch.Tensor | None = None) -> list[str]:
    """Do the steps of the loop; return what all but the first waited for."""
    device = ascent_batch.model.device
    ascent, _ = begun(ascent_batch, smaller)
    watch = HostReads(device)
    watch.watching = False

    def tell(done: int) -> None:
        watch.watching = done < STEPS

    with torch.no_grad():
        ascent.as_it_is()
    with watch:
        taken = ascent.run(tell)
    assert taken.shape == (COUNT,)
    assert ascent.parameters.device == device
    return watch.found


@pytest.mark.parametrize("device", [META, CPU], ids=str)
@pytest.mark.parametrize(("field", "value"), list(cases()))
def test_steps_run_without_the_host(folder: Path, field: str, value: Any, device: torch.device) -> None:
    objective = value if field == "objective" else TypeAdapter(ObjectiveChoice).validate_python(CHANNEL)
    ascent_batch = batch(folder, device, settings_with(field, value, folder, device), objective)
    if device == META and isinstance(value, str) and value == "bfloat16":
        with pytest.raises(RuntimeError, match="unsupported autocast device_type 'meta'"):  # PyTorch's, not ours
            steps(ascent_batch)
        return
    assert steps(ascent_batch) == []


@pytest.mark.parametrize("form", [made for _, made in registered("parameterization")], ids=str)
def test_steps_from_pictures_run_without_the_host(folder: Path, form: Any) -> None:
    settings = settings_with("parameterization", form, folder, META)
    starts = torch.empty((COUNT, 3, 9, 20), device=META)
    ascent_batch = batch(folder, META, settings, Channel(layer=LAYERS[0], unit=1), starts=starts)
    for smaller in (None, torch.empty((COUNT, 4 if form.kind == "alpha" else 3, 11, 11), device=META)):
        if form.kind in ("cppn", "generator"):
            with pytest.raises(AnalysisError, match=r"picture"):
                begun(ascent_batch, smaller)
        else:
            assert steps(ascent_batch, smaller) == []


@pytest.mark.parametrize("device", [META, CPU], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_adversarial_steps_run_without_the_host(
    folder: Path, norm: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Descent, "all_won", lambda self: False)  # once in several steps, and no part of one
    forward = model(folder, device).differentiable("dense")
    pictures = (torch.rand((2, 3, *SIZE)) * 255).round().to(device)
    ball = _Ball(norm, pictures, torch.tensor([8.0, 16.0], device=device))
    change = ball.draw([torch.Generator().manual_seed(seed) for seed in range(2)])
    picture = np.zeros((3, *SIZE), np.uint8)
    margin = _Margin([_Wanted(picture, 0, None, 0, 0.0), _Wanted(picture, 1, 2, 1, 0.0)], device)
    descent = _Descent(lambda levels: forward(levels / 255)[0], ball, margin, Attack(norm, (8.0,), steps=STEPS), change)
    with HostReads(device) as watch:
        descent.run(lambda step: None)
    assert watch.found == []
    assert descent.best.device == device


@pytest.mark.parametrize("device", [META, CPU], ids=str)
def test_grad_cam_runs_without_the_host(folder: Path, device: torch.device) -> None:
    images, network = torch.rand((4, 3, *SIZE)).to(device), model(folder, device)
    layers, head = network.resolve(("first", "second")), resolve_head(network.view, None, None)
    network.differentiable([*layers, network.view.logits])  # converting happens on the host
    with HostReads(device) as watch:
        forward = ForwardPass(network, images, layers, [network.view.logits], to_input=False)
        for number in range(2):
            for found in GradCamMethod().attribute(forward.ask([ClassTarget(head, number)] * 4)).maps:
                shown = upsample(to_own_maximum(found), SIZE)
                assert shown.shape == (4, *SIZE)
                assert shown.device == device
    assert watch.found == []


def test_batches_of_images_on_the_host_are_copied_to_the_device_and_not_read_there(folder: Path) -> None:
    network = model(folder, META)
    with HostReads(META) as watch:
        found = network.activations(np.random.default_rng(0).random((40, 3, *SIZE), np.float32), LAYERS)
    assert {name: tuple(values.shape) for name, values in found.items()} == {"second": (40, 6, 7, 7), "dense": (40, 4)}
    assert all(values.device == META for values in found.values())
    assert not [text for text in watch.found if text.endswith("waits")]


@pytest.mark.parametrize(
    ("device", "look", "text"),
    [
        (CPU, lambda values: values.sum().item(), "_local_scalar_dense waits"),
        (CPU, lambda values: bool((values > 0).all()), "_local_scalar_dense waits"),
        (CPU, lambda values: values[values > 0], "index waits"),
        (CPU, lambda values: values.nonzero(), "nonzero waits"),
        (META, lambda values: values + torch.ones(3).to(META), "_to_copy reads the host's memory"),
        (
            META,
            lambda values: values * torch.tensor([2.0], device=META),
            "tensor reads the host's memory",
        ),
        (CPU, lambda values: values[[0, 2]], "lift_fresh reads the host's memory"),
    ],
)
def test_reads_are_found(device: torch.device, look: Any, text: str) -> None:
    with HostReads(device) as watch:
        look(torch.empty(3, device=device).fill_(1.0))
    assert text in watch.found
