"""RNN, GRU and LSTM.

Constant weights with the standard's default activations run in PyTorch's own kernels; everything else (computed
weights, peepholes, clipping, other activations, sequence lengths) runs step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.activations import hard_sigmoid
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.core import limits
from onnxviz.core.errors import ModelError

Activation = Callable[[torch.Tensor], torch.Tensor]
States = tuple[torch.Tensor, ...]
"""h, or h and c: [directions, batch, hidden], or [batch, hidden] of one direction."""

_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_TORCH_ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Which of ONNX's gates comes where in PyTorch's weights: GRU z r h -> r z n, LSTM i o f c -> i f g o."""
_DEFAULTS = {"RNN": ("tanh",), "GRU": ("sigmoid", "tanh"), "LSTM": ("sigmoid", "tanh", "tanh")}
_BIAS, _LENGTHS, _STATE, _CELL, _PEEPHOLES = 3, 4, 5, 6, 7
"""Positions among the inputs X, W, R, B, sequence_lens, initial_h, initial_c, P."""


def _affine(values: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return alpha * values + beta


def _scaled_tanh(values: torch.Tensor, alpha: float, beta: float) -> torch.Tensor:
    return alpha * torch.tanh(beta * values)


def _thresholded(values: torch.Tensor, alpha: float) -> torch.Tensor:
    return torch.where(values >= alpha, values, torch.zeros_like(values))


_ACTIVATIONS: Mapping[str, tuple[Callable[..., torch.Tensor], tuple[float, ...]]] = {
    "affine": (_affine, (1.0, 0.0)),
    "elu": (functional.elu, (1.0,)),
    "hardsigmoid": (hard_sigmoid, (0.2, 0.5)),
    "leakyrelu": (functional.leaky_relu, (0.01,)),
    "relu": (torch.relu, ()),
    "scaledtanh": (_scaled_tanh, (1.0, 1.0)),
    "sigmoid": (torch.sigmoid, ()),
    "softplus": (functional.softplus, ()),
    "softsign": (functional.softsign, ()),
    "tanh": (torch.tanh, ()),
    "thresholdedrelu": (_thresholded, (1.0,)),
}
"""Function and the defaults of alpha and beta, by ONNX name in small letters."""


@dataclass(frozen=True)
class _Form:
    """What the attributes of a recurrent node say.

    Attributes:
        operator: "RNN", "GRU" or "LSTM".
        reverse: for each direction, whether it runs from the end.
        activations: for each direction, its activation functions.
        names: their names in small letters.
        clip: bound of what enters the activations; 0 for none.
        batch_first: ONNX layout 1.
        linear_before_reset: GRU: whether the reset gate multiplies behind the recurrent weights.
        input_forget: LSTM: whether the forget gate is one minus the input gate.
    """

    operator: str
    reverse: tuple[bool, ...]
    activations: tuple[tuple[Activation, ...], ...]
    names: tuple[tuple[str, ...], ...]
    clip: float
    batch_first: bool
    linear_before_reset: bool
    input_forget: bool


def _form(operation: Operation) -> _Form:
    attributes = operation.attributes
    direction = str(attributes.get("direction", "forward")).lower()
    directions = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}.get(direction)
    if directions is None:
        raise NotConvertible(f"direction {direction[:40]!r} is none of forward, reverse, bidirectional")
    default = _DEFAULTS[operation.operator]
    given = [name.lower() for name in attributes.get("activations", ())] or [*default] * len(directions)
    if len(given) != len(default) * len(directions):
        raise NotConvertible(f"{len(given)} activations, {len(default) * len(directions)} needed")
    alphas, betas = ([float(v) for v in attributes.get(f"activation_{name}", ())] for name in ("alpha", "beta"))
    functions = [_activation(name, alphas, betas) for name in given]
    step = len(default)
    return _Form(
        operator=operation.operator,
        reverse=directions,
        activations=tuple(tuple(functions[i * step : (i + 1) * step]) for i in range(len(directions))),
        names=tuple(tuple(given[i * step : (i + 1) * step]) for i in range(len(directions))),
        clip=operation.setting("clip", 0.0),
        batch_first=operation.setting("layout", False),
        linear_before_reset=operation.setting("linear_before_reset", False),
        input_forget=operation.setting("input_forget", False),
    )


def _activation(name: str, alphas: list[float], betas: list[float]) -> Activation:
    """Make an activation function; it takes its alpha and beta from the front of the lists, as far as it has them."""
    if name not in _ACTIVATIONS:
        raise NotConvertible(f"activation {name[:40]!r} is unknown")
    function, defaults = _ACTIVATIONS[name]
    if not defaults:
        return function
    values = [given.pop(0) if given else default for given, default in zip((alphas, betas), defaults, strict=False)]
    return lambda before: function(before, *values)


def _recurrent(operation: Operation) -> Conversion:
    form = _form(operation)
    weights = [operation.known(index) for index in range(1, 4)]
    for index, rank in ((1, 3), (2, 3), (3, 2)):
        if operation.rank(index) not in (None, rank):
            raise NotConvertible(f"input {index} has {operation.rank(index)} dimensions, not {rank}")
    _check_sizes(form, *(None if weight is None else weight.shape for weight in weights))
    constant = not any(operation.computed(index) for index in (1, 2, 3))
    if constant and _is_plain(operation, form):
        return Conversion(_Fused(form, weights), (0, _STATE, _CELL), several=True)
    return Conversion(_Stepwise(form), range(_PEEPHOLES + 1), several=True)


def _check_sizes(form: _Form, *shapes: tuple[int, ...] | None) -> None:
    """Compare the shapes of constant weights with each other.

    Raises:
        NotConvertible: if they do not fit.
    """
    directions, gates = len(form.reverse), _GATES[form.operator]
    given, recurrent, bias = shapes
    hidden = recurrent[2] if recurrent is not None else None
    if recurrent is not None and recurrent[:2] != (directions, gates * recurrent[2]):
        raise NotConvertible(f"its recurrent weights have shape {list(recurrent)}")
    if given is not None and (given[0] != directions or (hidden is not None and given[1] != gates * hidden)):
        raise NotConvertible(f"its weights have shape {list(given)}")
    if bias is not None and (bias[0] != directions or (hidden is not None and bias[1] != 2 * gates * hidden)):
        raise NotConvertible(f"its bias has shape {list(bias)}")


def _is_plain(operation: Operation, form: _Form) -> bool:
    """Whether PyTorch's own kernels compute the same."""
    if form.clip or form.input_forget or (operation.has(_LENGTHS) and not _is_full(operation)):
        return False
    peepholes = operation.known(_PEEPHOLES)
    if operation.has(_PEEPHOLES) and (peepholes is None or peepholes.any()):
        return False
    if form.operator == "RNN":
        return set(form.names) in ({("tanh",)}, {("relu",)})
    if form.operator == "GRU" and not form.linear_before_reset:
        return False
    return set(form.names) == {_DEFAULTS[form.operator]}


def _is_full(operation: Operation) -> bool:
    """Whether every sequence is as long as the input."""
    lengths, shape = operation.known(_LENGTHS), operation.shapes[0]
    if lengths is None or shape is None or len(shape) != 3:
        return False
    steps = shape[1 if operation.attributes.get("layout", 0) else 0]
    return steps is not None and bool((lengths == steps).all())


class _Layout(nn.Module):
    """What both implementations share: the layout of inputs and outputs, initial states, and bounds."""

    def __init__(self, form: _Form) -> None:
        super().__init__()
        self.form = form
        self.state_count = 2 if form.operator == "LSTM" else 1

    def sequence(self, values: torch.Tensor) -> torch.Tensor:
        """Return the input as [steps, batch, channels]."""
        return values.transpose(0, 1) if self.form.batch_first else values

    def initial(self, values: torch.Tensor, hidden: int, given: Sequence[torch.Tensor | None]) -> States:
        """Return the states before the first step, [directions, batch, hidden]."""
        steps, batch = values.shape[:2]
        directions = len(self.form.reverse)
        if steps * batch * directions * hidden * 4 > limits.TENSOR_BYTES or steps > limits.LOOP_TRIPS:
            raise ModelError(f"{self.form.operator} over {steps} steps of {batch} sequences is refused as too large")
        states = []
        for state in given[: self.state_count]:
            if state is None:
                state = values.new_zeros(directions, batch, hidden)
            elif self.form.batch_first:
                state = state.transpose(0, 1)
            states.append(state.to(values.dtype))
        return tuple(states)

    def result(self, hidden: torch.Tensor, states: States) -> tuple[torch.Tensor, ...]:
        """Return the node's outputs.

        Args:
            hidden: [steps, directions, batch, hidden].
            states: after the last step, [directions, batch, hidden].
        """
        if self.form.batch_first:
            hidden = hidden.permute(2, 0, 1, 3)
            states = tuple(state.transpose(0, 1) for state in states)
        return (hidden, *states)


class _Fused(_Layout):
    """PyTorch's own kernels."""

    flat: torch.Tensor

    def __init__(self, form: _Form, weights: Sequence[np.ndarray | None]) -> None:
        super().__init__(form)
        given, recurrent, bias = weights
        assert given is not None
        assert recurrent is not None
        order = _TORCH_ORDER[form.operator]
        self.hidden = recurrent.shape[2]
        self.biased = bias is not None
        matrices, vectors = [], []
        for direction in range(len(form.reverse)):
            matrices += [_reordered(given[direction], order), _reordered(recurrent[direction], order)]
            if bias is not None:
                vectors += [_reordered(half, order) for half in np.split(bias[direction], 2)]
        # All weights lie in one piece of memory, matrices first: so cuDNN wants them.
        self.register_buffer("flat", torch.from_numpy(np.concatenate([w.ravel() for w in (*matrices, *vectors)])))
        self.sizes = [weight.size for weight in (*matrices, *vectors)]
        self.shapes = [weight.shape for weight in (*matrices, *vectors)]
        count = len(form.reverse)
        places = [(2 * i, 2 * i + 1, 2 * (count + i), 2 * (count + i) + 1) for i in range(count)]
        self.places = [place for group in places for place in (group if self.biased else group[:2])]
        kind = form.operator if form.operator != "RNN" else f"RNN_{form.names[0][0]}"
        self.kernel = kind.lower()

    def forward(self, values: torch.Tensor, *given: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        values = self.sequence(values)
        states = self.initial(values, self.hidden, given)
        steps, batch = values.shape[:2]
        directions = len(self.form.reverse)
        if steps == 0 or batch == 0:  # PyTorch refuses both
            return self.result(values.new_zeros(steps, directions, batch, self.hidden), states)
        if self.form.reverse == (True,):
            values = values.flip(0)
        parts = torch.split_with_sizes(self.flat, self.sizes)
        pieces = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        # torch.compile takes these functions, but not the modules nn.LSTM and its kin.
        hidden, *after = getattr(torch._VF, self.kernel)(
            values,
            states if len(states) == 2 else states[0],
            [pieces[place] for place in self.places],
            self.biased,
            1,
            0.0,
            torch.is_grad_enabled(),  # "training": cuDNN gives no gradients otherwise
            directions == 2,
            False,
        )
        if self.form.reverse == (True,):
            hidden = hidden.flip(0)
        return self.result(hidden.unflatten(2, (directions, self.hidden)).transpose(1, 2), tuple(after))


def _reordered(weight: np.ndarray, order: Sequence[int]) -> np.ndarray:
    gates = np.split(weight, len(order))
    return np.ascontiguousarray(np.concatenate([gates[gate] for gate in order]), dtype=np.float32)


class _Stepwise(_Layout):
    """One step after the other, as the standard writes it."""

    def __init__(self, form: _Form) -> None:
        super().__init__(form)
        self.step = {"RNN": self._rnn, "GRU": self._gru, "LSTM": self._lstm}[form.operator]

    def forward(
        self,
        values: torch.Tensor,
        given: torch.Tensor,
        recurrent: torch.Tensor,
        bias: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
        state: torch.Tensor | None = None,
        cell: torch.Tensor | None = None,
        peepholes: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        values = self.sequence(values)
        hidden = recurrent.shape[2]
        before = self.initial(values, hidden, (state, cell))
        mask = None
        if lengths is not None:
            steps = torch.arange(values.shape[0], device=values.device)
            mask = (steps[:, None] < lengths.long()[None, :]).unsqueeze(2)
        outputs, after = [], []
        for index in range(len(self.form.reverse)):
            made, last = self._direction(
                index,
                values,
                given[index],
                recurrent[index],
                None if bias is None else bias[index],
                tuple(state[index] for state in before),
                None if peepholes is None else peepholes[index],
                mask,
            )
            outputs.append(made)
            after.append(last)
        joined = tuple(torch.stack(parts) for parts in zip(*after, strict=True))
        return self.result(torch.stack(outputs, 1), joined)

    def _direction(
        self,
        index: int,
        values: torch.Tensor,
        given: torch.Tensor,
        recurrent: torch.Tensor,
        bias: torch.Tensor | None,
        states: States,
        peepholes: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, States]:
        first, second = bias.chunk(2) if bias is not None else (None, None)
        projected = functional.linear(values, given, first)
        step = partial(self.step, self.form.activations[index], recurrent=recurrent, bias=second, peepholes=peepholes)
        count = values.shape[0]
        outputs: list[torch.Tensor] = [values] * count
        for time in reversed(range(count)) if self.form.reverse[index] else range(count):
            after = step(projected[time], states)
            if mask is None:
                outputs[time] = after[0]
            else:  # a sequence that has ended keeps its state and gives zeros
                outputs[time] = torch.where(mask[time], after[0], torch.zeros_like(after[0]))
                after = tuple(torch.where(mask[time], new, old) for new, old in zip(after, states, strict=True))
            states = after
        if mask is not None and count:  # ONNX Runtime gives zeros, not the initial state, for a sequence of length 0
            states = tuple(torch.where(mask[0], state, torch.zeros_like(state)) for state in states)
        stacked = torch.stack(outputs) if outputs else values.new_zeros(0, values.shape[1], recurrent.shape[1])
        return stacked, states

    def _clipped(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(-self.form.clip, self.form.clip) if self.form.clip else values

    def _rnn(
        self,
        activations: Sequence[Activation],
        projected: torch.Tensor,
        states: States,
        recurrent: torch.Tensor,
        bias: torch.Tensor | None,
        peepholes: torch.Tensor | None,  # noqa: ARG002 - one signature for all three
    ) -> States:
        return (activations[0](self._clipped(projected + functional.linear(states[0], recurrent, bias))),)

    def _gru(
        self,
        activations: Sequence[Activation],
        projected: torch.Tensor,
        states: States,
        recurrent: torch.Tensor,
        bias: torch.Tensor | None,
        peepholes: torch.Tensor | None,  # noqa: ARG002
    ) -> States:
        (before,) = states
        size = before.shape[1]
        if self.form.linear_before_reset:
            recurring = functional.linear(before, recurrent, bias)
            gates = projected[:, : 2 * size] + recurring[:, : 2 * size]
        else:
            gates = projected[:, : 2 * size] + functional.linear(
                before, recurrent[: 2 * size], None if bias is None else bias[: 2 * size]
            )
        update, reset = activations[0](self._clipped(gates)).chunk(2, 1)
        if self.form.linear_before_reset:
            candidate = projected[:, 2 * size :] + reset * recurring[:, 2 * size :]
        else:
            candidate = projected[:, 2 * size :] + functional.linear(
                reset * before, recurrent[2 * size :], None if bias is None else bias[2 * size :]
            )
        return ((1 - update) * activations[1](self._clipped(candidate)) + update * before,)

    def _lstm(
        self,
        activations: Sequence[Activation],
        projected: torch.Tensor,
        states: States,
        recurrent: torch.Tensor,
        bias: torch.Tensor | None,
        peepholes: torch.Tensor | None,
    ) -> States:
        before, cell = states
        gates = projected + functional.linear(before, recurrent, bias)
        put, out, forget, candidate = gates.chunk(4, 1)
        if peepholes is not None:
            of_input, of_output, of_forget = peepholes.chunk(3)
            put, forget = put + of_input * cell, forget + of_forget * cell
        put = activations[0](self._clipped(put))
        forget = 1 - put if self.form.input_forget else activations[0](self._clipped(forget))
        cell = forget * cell + put * activations[1](self._clipped(candidate))
        if peepholes is not None:
            out = out + of_output * cell
        return activations[0](self._clipped(out)) * activations[2](cell), cell


CONVERTERS: Mapping[str, Converter] = dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent)
