"""A forward pass whose backward pass carries relevance: rules in the place of derivatives, and nothing on the model.

Relevance is carried by its ratio to the value, R / z. In these terms the rule of whatever is linear without a bias is
the derivative: pooling, sums of computed values (their relevance is divided in proportion to what they add), and
whatever only moves values. What else has a rule is replaced while the mode is entered:

* products with constant weights by the rules of `Rules`, together with the batch normalisation, scale or bias behind;
* functions of one value pass their relevance whole, R_x = R_f(x), so that their slope is f(x) / x; what they give at 0
  is owed to no value, as a bias is: of a sigmoid the slope is (f(x) - f(0)) / x, and keeps the sign of the evidence;
* a product of two computed values divides its relevance equally (propositions 3.2 and 3.3 of Achtibat et al. 2024);
  where one of them is a gate (what a sigmoid gives, or the inverse of a norm), all goes to the other (Arras et al.
  2017);
* a quotient gives all to its numerator, and with that normalisation of layers and groups divides by a constant
  (proposition 3.4 of Achtibat et al. 2024);
* the softmax of attention has R_i = x_i (R_i' - s_i sum_j R_j') (proposition 3.1), which is its derivative times x.

Before the first layer with weights relevance itself is carried, and arithmetic with constants passes it whole.

Sources: `relevance.rules`; Achtibat et al. 2024, "AttnLRP", arXiv:2402.05602; Arras et al. 2017, arXiv:1706.07206.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from onnxviz.analyses.attribution.relevance import steps
from onnxviz.analyses.attribution.relevance.functions import REPLACED, is_gate
from onnxviz.analyses.attribution.relevance.kinds import (
    ARITHMETIC,
    CONSERVING,
    ELEMENTWISE,
    INSPECTING,
    LIFTED,
    MOVING,
    SUMMING,
)
from onnxviz.analyses.attribution.relevance.rules import FirstRule, Rule
from onnxviz.analyses.attribution.relevance.weighted import PRODUCTS, Weighted, read


@dataclass(frozen=True)
class Rules:
    """Which rule products with constant weights have.

    Attributes:
        convolution: of convolutions.
        dense: of dense layers.
        first: of the layers that the image reaches first, if they have one of their own.
    """

    convolution: Rule
    dense: Rule
    first: FirstRule | None = None


@dataclass(frozen=True, eq=False)
class _Made:
    """What a result was made by: a layer, and if it is a first one, the how many-th."""

    layer: Weighted
    first: int | None


class Propagation(TorchFunctionMode):
    """While it is entered, what depends on tensors that require gradients has a backward pass of relevance.

    The gradient of a score with respect to an image is then the relevance of its pixels.

    Args:
        rules: of layers with weights.

    Attributes:
        first_values: what the layers were given that the image reaches first.
        unruled: names of functions through which relevance passed by their derivative, though nothing says it may.
        merged: results of layers -> those behind what was merged with them, to which relevance comes instead.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.first_values: list[torch.Tensor] = []
        self.unruled: set[str] = set()
        self.merged: MutableMapping[torch.Tensor, torch.Tensor] = WeakTensorKeyDictionary()
        self.gates: MutableMapping[torch.Tensor, bool] = WeakTensorKeyDictionary()
        self._made: MutableMapping[torch.Tensor, _Made] = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch's, or what computes the same with another backward pass."""
        given = dict(kwargs or {})
        name = getattr(function, "__name__", "").strip("_")
        live = [value for value in _tensors((args, given)) if value.requires_grad]
        if name in INSPECTING or not live or not torch.is_grad_enabled():
            return function(*args, **given)
        before = [steps.is_before(value) for value in live]
        if all(before):
            if name in PRODUCTS and len(live) == 1:
                return self._weigh(name, function, args, given, first=True)
            if name in MOVING:
                return function(*args, **given)
            if name in ARITHMETIC and len(live) == 1:
                with torch.no_grad():
                    result = function(*args, **given)
                return steps.passed(live[0], result)
            if name == "sum":  # such as brightness, made of colours
                return steps.shared(args[0], lambda values: function(values, *args[1:], **given))
        if any(before):
            args, given = _entered((args, given))
        return self._replace(name, function, args, given)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function by the rules."""
        return self.__torch_function__(function, (), args, kwargs)

    def _replace(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        live = [value for value in _tensors((args, kwargs)) if value.requires_grad]
        if name in PRODUCTS and len(live) == 1:
            return self._weigh(name, function, args, kwargs, first=False)
        if name in PRODUCTS or name == "einsum":
            return steps.divided(function(*args, **kwargs), len(live))
        if name in ELEMENTWISE:
            with torch.no_grad():
                result = function(*args, **kwargs)
                start = function(*_at_zero(args), **_at_zero(kwargs)) if name in LIFTED and len(live) == 1 else 0.0
            made = (
                steps.scaled(live[0], result, start) if len(live) == 1 else self.note(name, function(*args, **kwargs))
            )
            if is_gate(name, args, kwargs):
                self.gates[made] = True
            return made
        if name in REPLACED:
            return REPLACED[name](self, function, *args, **kwargs)
        result = function(*args, **kwargs)
        if name in MOVING and isinstance(result, torch.Tensor) and live[0] in self.gates:
            self.gates[result] = True
        if name in SUMMING and result.numel() < live[0].numel():
            return steps.summed(result)
        return result if name in MOVING | CONSERVING | SUMMING else self.note(name, result)

    def note(self, name: str, result: Any) -> Any:
        """Return a result on whose way back it is remembered that its function has no rule."""
        if not isinstance(result, torch.Tensor) or not result.requires_grad:
            return result

        def back(ratio: torch.Tensor) -> torch.Tensor:
            if bool((ratio != 0).any()):
                self.unruled.add(name)
            return ratio

        return steps.step(result, result.detach(), back)

    def behind(self, values: torch.Tensor) -> torch.Tensor:
        """Return what relevance comes to instead of values: what was merged with the layer that made them."""
        while values in self.merged:
            values = self.merged[values]
        return values

    def relevance(self, values: torch.Tensor, carried: torch.Tensor) -> torch.Tensor:
        """Return the relevance of values of which something was carried back, off the tape."""
        return carried if steps.is_before(values) else carried * values.detach()

    # --- layers with weights ----------------------------------------------------------------------------------------

    def _weigh(
        self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, first: bool
    ) -> torch.Tensor:
        with torch.no_grad():
            result = function(*args, **kwargs)
        layer = read(name, function, args, kwargs)
        if first:
            self.first_values.append(layer.values.detach())
        return self._by_rule(_Made(layer, len(self.first_values) - 1 if first else None), result)

    def _by_rule(self, made: _Made, result: torch.Tensor) -> torch.Tensor:
        layer, first, place = made.layer, self.rules.first, made.first
        rule = self.rules.convolution if layer.convolves else self.rules.dense
        kept = result.detach()  # not the result, which would hold itself

        def back(ratio: torch.Tensor) -> torch.Tensor:
            if place is None:
                return rule(layer, kept, ratio)
            return first(layer, ratio * kept, place) if first else layer.values.detach() * rule(layer, kept, ratio)

        shown = steps.step(layer.values, result, back)
        self._made[shown] = made
        return shown

    def merge(
        self, values: torch.Tensor, result: torch.Tensor, factor: Any = 1.0, shift: Any = 0.0
    ) -> torch.Tensor | None:
        """Return the result of arithmetic with constants behind a layer as the layer's own, if it is by channel."""
        made = self._made.get(values)
        if made is None or made.layer.axis is None or result.shape != values.shape:
            return None
        factors, shifts = (_by_channel(each, values, made.layer.axis) for each in (factor, shift))
        if factors is None or shifts is None:
            return None
        merged = self._by_rule(_Made(made.layer.followed_by(factors, shifts), made.first), result.detach())
        self.merged[values] = merged
        return merged


# --- arguments ------------------------------------------------------------------------------------------------------


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors among arguments."""
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, tuple | list):
        for each in given:
            yield from _tensors(each)
    elif isinstance(given, dict):
        yield from _tensors(list(given.values()))


def _at_zero(given: Any) -> Any:
    """Return arguments with a single zero for a tensor that requires gradients."""
    if isinstance(given, torch.Tensor):
        return given.new_zeros((1,) * given.dim()) if given.requires_grad else given
    if isinstance(given, dict):
        return {key: _at_zero(each) for key, each in given.items()}
    return type(given)(map(_at_zero, given)) if type(given) in (tuple, list) else given


def _entered(given: Any) -> Any:
    """Return arguments with relevance carried by ratios from there on, where it was not."""
    if isinstance(given, torch.Tensor):
        return steps.enter(given) if given.requires_grad and steps.is_before(given) else given
    if isinstance(given, dict):
        return {key: _entered(each) for key, each in given.items()}
    return type(given)(map(_entered, given)) if type(given) in (tuple, list) else given


def _by_channel(constant: Any, values: torch.Tensor, axis: int) -> torch.Tensor | None:
    """Return a constant as numbers of each channel of values; None if it differs within one."""
    count = values.shape[axis]
    numbers = torch.as_tensor(constant, dtype=values.dtype, device=values.device)
    if numbers.numel() == 1:
        return numbers.reshape(1).expand(count)
    behind = values.dim() - 1 - axis % values.dim()
    fits = numbers.dim() > behind and numbers.shape[numbers.dim() - 1 - behind] == count == numbers.numel()
    return numbers.reshape(-1) if fits else None
