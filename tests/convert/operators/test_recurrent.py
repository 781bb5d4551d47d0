"""RNN, GRU and LSTM against ONNX Runtime; where that has no kernel, against the reference evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from one_node import check, one_node, oracle

import onnxviz
from onnxviz.core import limits

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, CHANNELS, HIDDEN = 5, 3, 4, 6


def case(
    operator: str,
    *,
    direction: str = "forward",
    bias: bool = True,
    lengths: list[int] | None = None,
    states: bool = False,
    peepholes: bool = False,
    constant: bool = True,
    **arguments: Any,
) -> tuple[list[np.ndarray | None], dict[str, Any]]:
    """Return inputs of a node and the arguments of `check`."""
    generator = np.random.default_rng(len(operator) + len(direction))

    def numbers(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32) * np.float32(0.7)

    directions, gates, last = 1 + (direction == "bidirectional"), GATES[operator], bool(arguments.get("layout"))
    start = (BATCH, directions, HIDDEN) if last else (directions, BATCH, HIDDEN)
    inputs: list[np.ndarray | None] = [
        numbers(*((BATCH, STEPS) if last else (STEPS, BATCH)), CHANNELS),
        numbers(directions, gates * HIDDEN, CHANNELS),
        numbers(directions, gates * HIDDEN, HIDDEN),
        numbers(directions, 2 * gates * HIDDEN) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        numbers(*start) if states else None,
    ]
    if operator == "LSTM":
        inputs += [numbers(*start) if states else None, numbers(directions, 3 * HIDDEN) if peepholes else None]
    while inputs[-1] is None:
        inputs.pop()
    weights = [index for index in (1, 2, 3, 7) if index < len(inputs) and inputs[index] is not None]
    settings = {
        "outputs": ["y", "h", "c"][: 3 if operator == "LSTM" else 2],
        "constants": weights if constant else (),
        "opset": 14,
        "hidden_size": HIDDEN,
        "direction": direction,
        "reference": "onnx" if last else "ort",
        **arguments,
    }
    return inputs, settings


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"states": True},
        {"opset": 7},
        {"opset": 22},
        {"lengths": [5, 2, 3]},
        {"lengths": [5, 2, 0], "states": True},
        {"constant": False, "states": True},
        {"clip": 0.3, "states": True},
    ],
    ids=str,
)
def test_every_form_agrees(operator: str, direction: str, options: dict[str, Any]) -> None:
    for more in ({"linear_before_reset": 0}, {"linear_before_reset": 1}) if operator == "GRU" else ({},):
        inputs, settings = case(operator, direction=direction, **options, **more)
        check(operator, inputs, **settings)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("options", [{"peepholes": True}, {"input_forget": 1}, {"peepholes": True, "input_forget": 1}])
def test_peepholes_and_coupled_gates(direction: str, options: dict[str, Any]) -> None:
    inputs, settings = case("LSTM", direction=direction, states=True, **options)
    check("LSTM", inputs, **settings)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (["Relu", "LeakyRelu", "Elu"], [0.3, 0.7], []),
        (["HardSigmoid", "ScaledTanh", "Affine"], [0.3, 0.7, 0.9], [0.1, 0.2, 0.3]),
        (["Sigmoid", "Softsign", "ThresholdedRelu"], [0.1], []),
    ],
)
def test_activations_take_their_parameters_in_order(
    operator: str, names: list[str], alpha: list[float], beta: list[float]
) -> None:
    count = {"RNN": 1, "GRU": 2, "LSTM": 3}[operator]
    used = [sum(name in group for name in names[:count]) for group in (
        ("LeakyRelu", "Elu", "HardSigmoid", "ScaledTanh", "Affine", "ThresholdedRelu"),
        ("HardSigmoid", "ScaledTanh", "Affine"),
    )]  # fmt: skip
    lists = {"activation_alpha": alpha[: used[0]] * 2, "activation_beta": beta[: used[1]] * 2}
    inputs, settings = case(
        operator, direction="bidirectional", activations=names[:count] * 2, **{k: v for k, v in lists.items() if v}
    )
    check(operator, inputs, **settings)


def test_parameters_that_are_not_given_have_the_defaults_of_the_operators() -> None:
    # ONNX Runtime takes 0 instead of the standard's defaults: it is asked with the defaults written out.
    inputs, settings = case("GRU", activations=["HardSigmoid", "Tanh"])
    explicit = one_node(
        "GRU", inputs, ["y", "h"], opset=14, hidden_size=HIDDEN, activations=["HardSigmoid", "Tanh"],
        activation_alpha=[0.2], activation_beta=[0.5],
    )  # fmt: skip
    given = [value for value in inputs if value is not None]
    check("GRU", inputs, **settings, expected=oracle(explicit, given, "ort"))


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("states", [False, True])
def test_the_batch_may_come_first(operator: str, states: bool) -> None:
    inputs, settings = case(operator, layout=1, states=states)
    if not states:
        check(operator, inputs, **settings)
    # The reference evaluator reads initial states wrongly here: the other layout says what is right.
    first, _ = case(operator, states=states)
    model = one_node(operator, first, settings["outputs"], opset=14, hidden_size=HIDDEN)
    swapped = [first[0].swapaxes(0, 1), *first[1:5], *(s.swapaxes(0, 1) for s in first[5:])]
    wanted = oracle(model, [value for value in first if value is not None], "ort")
    expected = [wanted[0].transpose(2, 0, 1, 3), *(value.swapaxes(0, 1) for value in wanted[1:])]
    check(operator, swapped, **{**settings, "reference": ""}, expected=expected)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("options", [{"linear_before_reset": 1}, {"clip": 2.0}, {"lengths": [5, 2, 3]}])
def test_gradients_reach_the_input_and_the_network_compiles(operator: str, options: dict[str, Any]) -> None:
    if operator != "GRU" and options.get("linear_before_reset"):
        options = {}
    inputs, settings = case(operator, direction="bidirectional", states=True, **options)
    check(operator, inputs, **settings, gradient=True, compiled=True)


@pytest.mark.parametrize("operator", GATES)
def test_any_number_of_steps_and_sequences(operator: str) -> None:
    inputs, settings = case(operator, linear_before_reset=1) if operator == "GRU" else case(operator)
    settings.pop("reference")
    model = one_node(operator, inputs, settings.pop("outputs"), shapes=False, **settings)
    network = onnxviz.to_torch(model)
    whole = network(torch.from_numpy(inputs[0]))
    for image in range(BATCH):  # images do not mix
        alone = network(torch.from_numpy(inputs[0][:, image : image + 1]))
        torch.testing.assert_close(alone[0], whole[0][:, :, image : image + 1])
    for steps, batch in ((0, 2), (3, 0)):
        made = network(torch.zeros(steps, batch, CHANNELS))
        assert tuple(made[0].shape) == (steps, 1, batch, HIDDEN)
        assert not made[1].any()


def test_too_many_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, settings = case("LSTM")
    settings.pop("reference")
    network = onnxviz.to_torch(one_node("LSTM", inputs, settings.pop("outputs"), shapes=False, **settings))
    monkeypatch.setattr(limits, "LOOP_TRIPS", 100)
    with pytest.raises(onnxviz.ModelError, match="refused"):
        network(torch.zeros(101, 1, CHANNELS))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"direction": "sideways"}, "sideways"),
        ({"activations": ["Evil", "Tanh", "Tanh"]}, "evil"),
        ({"activations": ["Tanh"]}, "3 needed"),
    ],
)
def test_what_makes_no_sense_is_refused(attributes: dict[str, Any], reason: str) -> None:
    inputs, settings = case("LSTM")
    for name in ("reference", "direction"):
        settings.pop(name)
    model = one_node("LSTM", inputs, settings.pop("outputs"), result=1, **settings, **attributes)
    with pytest.raises(onnxviz.UnsupportedOperatorError, match=reason):
        onnxviz.to_torch(model)
