"""Attention, linear attention and rotary position embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from onnxviz.convert.operators.operation import (
    Body,
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    by_function,
)


@dataclass(frozen=True)
class AttentionForm:
    """What the attributes of an Attention node say.

    Attributes:
        query_heads: heads of the queries, for inputs [N, length, heads x size]; 0 if inputs have an axis of heads.
        heads: heads of keys and values, likewise.
        scale: factor of the scores; None for 1 / sqrt(size of a head).
        causal: whether a query sees only keys up to its own place.
        cap: scores are bent to stay within this magnitude; 0 for not at all.
        left: how many places before its own a query sees; -1 for all.
        right: how many places after its own a query sees; -1 for all.
        shown: which stage the fourth output shows: 0 scores, 1 capped, 2 with bias, 3 probabilities.
    """

    query_heads: int
    heads: int
    scale: float | None
    causal: bool
    cap: float
    left: int
    right: int
    shown: int


class Attention(nn.Module):
    """Scaled dot product attention. Source: ONNX Attention, opsets 23 to 25.

    Args:
        form: what the attributes say.
        shows_scores: whether the scores are wanted, besides result, present keys and present values.
    """

    def __init__(self, form: AttentionForm, shows_scores: bool) -> None:
        super().__init__()
        self.form = form
        self.shows_scores = shows_scores

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None = None,
        past_key: torch.Tensor | None = None,
        past_value: torch.Tensor | None = None,
        lengths: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Attend.

        Args:
            query: [N, heads, length, size] or [N, length, heads x size].
            key: as the queries, of another length and fewer heads perhaps.
            value: as the keys, of another size perhaps.
            mask: broadcasts to [N, heads, query length, key length]; True or a number that is added.
            past_key: keys that come before, [N, heads, length, size].
            past_value: values that come before.
            lengths: how many keys of each of the N are there, [N].
        """
        form, packed = self.form, query.dim() == 3
        if packed:
            query = _unpack(query, form.query_heads)
            key, value = _unpack(key, form.heads), _unpack(value, form.heads)
        before = 0
        if past_key is not None and past_value is not None:
            before = past_key.shape[2]
            key, value = torch.cat((past_key, key), 2), torch.cat((past_value, value), 2)
        present = key, value
        # PyTorch's causal kernel counts from the first key, as ONNX does without a past.
        plain = form.causal and mask is None and lengths is None and not before and max(form.left, form.right) < 0
        scores = None
        if plain and not (self.shows_scores or form.cap):
            made = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=form.scale, enable_gqa=query.shape[1] != key.shape[1]
            )
        else:
            allowed, bias = self._bias(query, key, mask, before, lengths)
            if self.shows_scores or form.cap:
                made, scores = self._explicit(query, key, value, allowed, bias)
            else:
                made = self._fused(query, key, value, allowed, bias)
        return made.transpose(1, 2).flatten(2) if packed else made, *present, scores

    def _bias(
        self, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, before: int, lengths: Any
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return which keys a query may see (None for all), and what is added to its scores (None for nothing)."""
        form = self.form
        allowed: torch.Tensor | None = None
        bias: torch.Tensor | None = None
        if mask is not None:
            missing = key.shape[2] - mask.shape[-1]
            if mask.dtype == torch.bool:
                allowed = functional.pad(mask, (0, missing)) if missing > 0 else mask
            else:
                bias = functional.pad(mask, (0, missing), value=-math.inf) if missing > 0 else mask
        places = torch.arange(key.shape[2], device=key.device)
        if form.causal or form.left >= 0 or form.right >= 0:
            own = torch.arange(query.shape[2], device=key.device).unsqueeze(1)
            if lengths is not None and before == 0:
                own = own + (lengths.reshape(-1, 1, 1, 1) - query.shape[2])
            ahead = places - (own + before)  # how far a key lies ahead of the query
            if form.causal:
                allowed = _both(allowed, ahead <= 0)
            if form.left >= 0:
                allowed = _both(allowed, ahead >= -form.left)
            if form.right >= 0:
                allowed = _both(allowed, ahead <= form.right)
        if lengths is not None:
            allowed = _both(allowed, places < lengths.reshape(-1, 1, 1, 1))
        return allowed, bias

    def _fused(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        allowed: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        grouped = query.shape[1] != key.shape[1]
        mask = _additive(allowed, bias)
        if mask is not None and mask.dim() < 2:
            mask = mask.expand(query.shape[2], key.shape[2])
        made = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=self.form.scale, enable_gqa=grouped
        )
        return made if mask is None else _hide(made, mask)

    def _explicit(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        allowed: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        form = self.form
        key, value = _repeat(key, query.shape[1]), _repeat(value, query.shape[1])
        scores = _scores(query, key, form.scale)
        stages = [scores]
        if form.cap:
            scores = form.cap * torch.tanh(scores / form.cap)
        stages.append(scores)
        mask = _additive(allowed, bias)
        if mask is not None:
            scores = scores + (torch.where(mask, 0.0, -math.inf) if mask.dtype == torch.bool else mask)
        stages.append(scores)
        if mask is not None:  # before too: softmax has no gradient where everything is hidden
            scores = _hide(scores, mask)
        chances = scores.softmax(-1)
        if mask is not None:
            chances = _hide(chances, mask)
        stages.append(chances)
        return chances @ value, stages[form.shown]


def _scores(query: torch.Tensor, key: torch.Tensor, scale: float | None) -> torch.Tensor:
    root = math.sqrt(query.shape[3] ** -0.5 if scale is None else scale)
    return (query * root) @ (key * root).transpose(2, 3)


def _both(first: torch.Tensor | None, second: torch.Tensor) -> torch.Tensor:
    return second if first is None else first & second


def _additive(allowed: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor | None:
    """Return one mask of both: of truth values if there is only that."""
    if bias is None or allowed is None:
        return allowed if bias is None else bias
    return (
        bias.masked_fill(~allowed, -math.inf) if bias.shape == allowed.shape else torch.where(allowed, bias, -math.inf)
    )


def _hide(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zero the rows of queries that see no key at all; softmax knows no answer for them."""
    seen = mask if mask.dtype == torch.bool else mask > -math.inf
    return torch.where(seen.any(-1, keepdim=True), values, 0.0)


def _unpack(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Turn [N, length, heads x size] into [N, heads, length, size]."""
    return values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)


def _repeat(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Give each of several heads of queries its copy of the head of keys that they share."""
    return values if values.shape[1] == heads else values.repeat_interleave(heads // values.shape[1], 1)


def convert_attention(operation: Operation) -> Conversion:
    get = operation.setting
    form = AttentionForm(
        query_heads=get("q_num_heads", 0),
        heads=get("kv_num_heads", 0),
        scale=get("scale", None),
        causal=get("is_causal", False),
        cap=get("softcap", 0.0),
        left=get("left_window_size", -1),
        right=get("right_window_size", -1),
        shown=get("qk_matmul_output_mode", 0),
    )
    if form.shown not in range(4) or form.cap < 0 or (form.scale is not None and form.scale <= 0):
        raise NotConvertible("Attention with attributes that ONNX does not define")
    if operation.rank(0) == 3 and min(form.query_heads, form.heads) < 1:
        raise NotConvertible("Attention of packed heads that does not say how many")
    if operation.has(4) != operation.has(5):
        raise NotConvertible("Attention with past keys or past values alone")
    return Conversion(Attention(form, operation.wants(3)), range(7), several=True)


# --- flexible ---------------------------------------------------------------------------------------------------------


class FlexibleAttention(nn.Module):
    """Attention whose scores and probabilities graphs of the file change. Source: ONNX FlexAttention.

    Args:
        scale: factor of the scores; None for 1 / sqrt(size of a head).
        score: changes the scores [N, heads, query length, key length].
        probability: changes the probabilities.
    """

    def __init__(self, scale: float | None, score: Body | None, probability: Body | None) -> None:
        super().__init__()
        self.scale = scale
        self.score = None if score is None else score.module
        self.probability = None if probability is None else probability.module
        self.captured = 0 if score is None else len(score.captures)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *captured: torch.Tensor
    ) -> torch.Tensor:
        """Attend with [N, heads, length, size]."""
        key, value = _repeat(key, query.shape[1]), _repeat(value, query.shape[1])
        scores = _scores(query, key, self.scale)
        if self.score is not None:
            scores = self.score(scores, *captured[: self.captured])[0]
        chances = scores.softmax(-1)
        if self.probability is not None:
            chances = self.probability(chances, *captured[self.captured :])[0]
        return chances @ value


def convert_flexible_attention(operation: Operation) -> Conversion:
    score, probability = (
        operation.bodies[name]() if name in operation.bodies else None for name in ("score_mod", "prob_mod")
    )
    module = FlexibleAttention(operation.setting("scale", None), score, probability)
    captures = [name for body in (score, probability) if body is not None for name in body.captures]
    return Conversion(module, range(3), captures=captures)


# --- linear -----------------------------------------------------------------------------------------------------------


def attend_linearly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    state: torch.Tensor | None = None,
    decay: torch.Tensor | None = None,
    rate: torch.Tensor | None = None,
    *,
    query_heads: int,
    heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend with a state instead of past keys, one step after the other. Source: ONNX LinearAttention.

    Args:
        query: [N, length, heads x size].
        key: [N, length, heads x size].
        value: [N, length, heads x another size].
        state: [N, heads, size of a key, size of a value]; zeros if None.
        decay: logarithm of what stays of the state, [N, length, heads or heads x size of a key].
        rate: how much of the difference is written, [N, length, heads or 1].
        query_heads: heads of the queries.
        heads: heads of keys, values and the state.
        scale: factor of the results; 0 for 1 / sqrt(size of a key).
    """
    query, key, value = _unpack(query, query_heads), _unpack(key, heads), _unpack(value, heads)
    if state is None:
        state = value.new_zeros((value.shape[0], heads, key.shape[3], value.shape[3]))
    stays = None if decay is None else _unpack(decay, heads).exp().unsqueeze(-1)
    written = None if rate is None else rate.transpose(1, 2).unsqueeze(-1)
    made = []
    for step in range(query.shape[2]):
        if stays is not None:
            state = state * stays[:, :, step]
        now, token = key[:, :, step], value[:, :, step]
        if written is not None:
            token = written[:, :, step] * (token - (now.unsqueeze(2) @ state).squeeze(2))
        state = state + now.unsqueeze(3) * token.unsqueeze(2)
        made.append((query[:, :, step].unsqueeze(2) @ _repeat(state, query_heads)).squeeze(2))
    return (torch.stack(made, 1) * (scale or key.shape[3] ** -0.5)).flatten(2), state


def convert_linear_attention(operation: Operation) -> Conversion:
    """Convert `LinearAttention`, whose rule is to be read off its inputs."""
    rule = operation.setting("update_rule", ("gated_delta", "linear", "gated", "delta"))
    query_heads, heads = operation.setting("q_num_heads", 0), operation.setting("kv_num_heads", 0)
    if heads < 1 or query_heads < 1 or query_heads % heads:
        raise NotConvertible("LinearAttention with attributes that ONNX does not define")
    if operation.has(4) != ("gated" in rule) or operation.has(5) != ("delta" in rule):
        raise NotConvertible(f"LinearAttention whose inputs do not fit the rule {rule}")
    scale = operation.setting("scale", 0.0)
    function = Function(attend_linearly, query_heads=query_heads, heads=heads, scale=scale)
    return Conversion(function, range(6), several=True)


# --- position ---------------------------------------------------------------------------------------------------------


def embed_rotary(
    values: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    places: torch.Tensor | None = None,
    *,
    interleaved: bool,
    num_heads: int,
    rotary_embedding_dim: int,
) -> torch.Tensor:
    """Rotate pairs of features by an angle that grows with the place. Source: ONNX RotaryEmbedding.

    Args:
        values: [N, heads, length, size] or [N, length, heads x size].
        cosine: of the angles, [N, length, pairs], or [places, pairs] if there are `places`.
        sine: likewise.
        places: [N, length].
        interleaved: whether pairs are neighbours, and not each other's counterpart in two halves.
        num_heads: heads of inputs [N, length, heads x size]; 0 if inputs have an axis of heads.
        rotary_embedding_dim: how many features of a head are rotated; 0 for all.
    """
    heads = values.transpose(1, 2) if values.dim() == 4 else values.reshape(*values.shape[:2], num_heads, -1)
    if places is not None:
        cosine, sine = functional.embedding(places.long(), cosine), functional.embedding(places.long(), sine)
    cosine, sine = cosine.unsqueeze(2), sine.unsqueeze(2)
    size = rotary_embedding_dim or heads.shape[3]
    turned, rest = heads[..., :size], heads[..., size:]
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = first * cosine - second * sine, first * sine + second * cosine
    made = torch.stack(pair, -1).flatten(3) if interleaved else torch.cat(pair, -1)
    if size < heads.shape[3]:
        made = torch.cat((made, rest), -1)
    return made.transpose(1, 2) if values.dim() == 4 else made.flatten(2)


def convert_rotary_embedding(operation: Operation) -> Conversion:
    if operation.rank(0) == 3 and operation.setting("num_heads", 0) < 1:
        raise NotConvertible("RotaryEmbedding of packed heads that does not say how many")
    return by_function(embed_rotary, 4, interleaved=False, num_heads=0, rotary_embedding_dim=0)(operation)


CONVERTERS: Mapping[str, Converter] = {
    "Attention": convert_attention,
    "LinearAttention": convert_linear_attention,
    "RotaryEmbedding": convert_rotary_embedding,
    "ai.onnx.preview:FlexAttention": convert_flexible_attention,
}
