"""Every choice that the loop has, each by itself, for the checks of `gpu_feature_visualization`."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxviz.convert.redirected_gradients import redirected
from onnxviz.model.model import Model
from onnxviz.optimize import objectives as o
from onnxviz.optimize.edits import Edit
from onnxviz.optimize.generators import GeneratorNetwork, open_generator
from onnxviz.optimize.objectives import Objective
from onnxviz.optimize.optimizers import Adam, GradientAscent, Optimizer
from onnxviz.optimize.parameterizations import Fourier, ParameterizationChoice, Pixel
from onnxviz.optimize.parameterizations.generator import Generator
from onnxviz.optimize.regularizers import Regularizer
from onnxviz.optimize.settings import AscentSettings, Octaves
from onnxviz.optimize.transforms import Pad, Transform

CODE = 8


def kinds(choice: Any) -> tuple[type[Any], ...]:
    """Return the classes that a field of a recipe chooses from."""
    found: tuple[type[Any], ...] = get_args(get_args(choice)[0])
    return found


@cache
def decoder(device: torch.device) -> GeneratorNetwork:
    """Return a generator: a linear decoder of eight numbers with random weights, 16 x 16 pixels."""
    drawn = np.random.default_rng(0).standard_normal((CODE, 3 * 256)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["code", "weight"], ["pixels"]),
        helper.make_node("Tanh", ["pixels"], ["bounded"]),
        helper.make_node("Reshape", ["bounded", "shape"], ["image"]),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("code", TensorProto.FLOAT, ["n", CODE])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [
            numpy_helper.from_array(drawn, "weight"),
            numpy_helper.from_array(np.array([-1, 3, 16, 16], np.int64), "shape"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with tempfile.TemporaryDirectory(prefix="onnxviz-decoder-") as folder:
        path = Path(folder) / "decoder.onnx"
        onnx.save(model, path)
        return open_generator(path, device)


def settings_by_name(model: Model, steps: int) -> dict[str, AscentSettings]:
    """Return settings with each parameterization, transform, regularizer, edit and optimizer, one at a time.

    All but the optimizers' go along the gradient divided by its size: a step of Adam has one size whatever the
    gradient's is, so where that is nearly nothing its sign would be compared.
    """
    free = Pixel(squash="none", decorrelate=False)
    plain = AscentSettings(steps, model.input_size, transforms=(), redirect=0, optimizer=GradientAscent(), group=2)
    found: dict[str, dict[str, Any]] = {}
    for form in kinds(ParameterizationChoice):
        if form is Generator:
            generators = {"decoder": decoder(model.device)}
            found["parameterization generator"] = {
                "parameterization": Generator(model="decoder"), "generators": generators
            }  # fmt: skip
        else:
            found[f"parameterization {_kind(form)}"] = {"parameterization": form()}
    found["blurred spectrum"] = {"parameterization": Fourier(blur=1.0)}
    found["importance"] = {"importance": True}
    for transform in kinds(Transform):
        found[f"transform {_kind(transform)}"] = {"transforms": (Pad(), transform())}
    for fill in ("grey", "edge"):
        found[f"border {fill}"] = {"transforms": (*AscentSettings(1, (1, 1)).transforms,), "fill": fill}
    for regularizer in kinds(Regularizer):
        found[f"regularizer {_kind(regularizer)}"] = {"regularizers": (regularizer(),)}
    for edit in kinds(Edit):
        found[f"edit {_kind(edit)}"] = {"parameterization": free, "edits": (edit(),)}
    if steps > 1:
        found["octaves"] = {"octaves": Octaves(count=2), "parameterization": Fourier()}
        found["usual"] = {"transforms": AscentSettings(1, (1, 1)).transforms, "optimizer": Adam()}
        found |= {f"optimizer {_kind(kind)}": {"optimizer": kind()} for kind in kinds(Optimizer)}
        found["averaged"] = {"optimizer": Adam(average=0.5)}
    return {name: replace(plain, **changes) for name, changes in found.items()}


def _kind(choice: type[Any]) -> str:
    return str(choice.model_fields["kind"].default)


def objectives(layer: str, other: str) -> dict[str, Objective]:
    """Return one of each objective: of a layer, and where it takes two of another one too."""
    one, two = o.Channel(layer=layer, unit=0), o.Channel(layer=layer, unit=1)
    made: list[Objective] = [
        one,
        o.Neuron(layer=layer, unit=0),
        o.WholeLayer(layer=layer),
        o.Direction(layer=layer, random=1, cosine_power=1),
        o.NeuronDirection(layer=layer, random=1, cosine_power=1),
        o.Diversity(layer=layer),
        o.Alignment(layer=layer),
        o.ChannelInterpolation(layer=layer, unit=0, to_layer=other, to_unit=1),
        o.FeatureInversion(layer=layer, picture="picture"),
        o.Caricature(layer=layer, picture="picture", cosine_power=1),
        o.Style(layer=layer, picture="picture"),
        one + 0.5 * two,
        one * two,
    ]
    named = {_kind(type(objective)): objective for objective in made}
    return named | {"input_difference": one - o.InputDifference(picture="picture")}  # alone it reads no layer


def optimizers(device: torch.device) -> dict[str, float]:
    """Return how far optimizers differ between a device and the CPU, relative, over steps with the same gradients."""
    drawn = torch.Generator().manual_seed(0)
    gradients = torch.randn(12, 3, 50, generator=drawn)
    chosen = {_kind(kind): kind() for kind in kinds(Optimizer)}
    chosen |= {"adam, damped": Adam(damping=0.1, schedule="cosine"), "ascent, momentum": GradientAscent(momentum=0.9)}
    for way in ("l2", "std", "mean_abs", False):
        chosen[f"ascent, {way}"] = GradientAscent(normalize=way, nesterov=True, momentum=0.5, warm_up=3)
    found = {}
    for name, optimizer in chosen.items():
        ends = []
        for place in (torch.device("cpu"), device):
            parameters = torch.zeros(3, 50, device=place)
            rule = optimizer.rule(len(gradients), parameters)
            for step, gradient in enumerate(gradients.to(place)):
                parameters -= rule(gradient + parameters, parameters, torch.tensor(step, device=place))
            ends.append(parameters.cpu().double())
        found[name] = float((ends[0] - ends[1]).abs().max() / ends[0].abs().max())
    return found


def gradients_of_a_dead_image(model: Model, layer: str) -> np.ndarray | None:
    """Return the redirected gradients of a grey image for a unit that is silent on it; None if there is none."""
    image = torch.full((1, 3, *model.input_size), 0.5, device=model.device, requires_grad=True)
    values = redirected(model.differentiable(layer))(image)[0]
    silent = (values[0].flatten(1) == 0).all(dim=1).nonzero().flatten().tolist()
    if not silent:
        return None
    (gradient,) = torch.autograd.grad(-values[0, silent[0]].sum(), image)
    result: np.ndarray = gradient.cpu().numpy()
    return result
