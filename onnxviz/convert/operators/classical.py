"""The operators of ai.onnx.ml that compute with tensors, and TfIdfVectorizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.bounds import bounded
from onnxviz.convert.operators.class_scores import (
    Classifier,
    Labels,
    classifier,
    floats,
    integers,
    transform_name,
    transformed,
)
from onnxviz.convert.operators.operation import Conversion, Converter, NotConvertible, Operation
from onnxviz.convert.operators.support_vectors import svm_classifier, svm_regressor
from onnxviz.convert.operators.trees import of_two, tree_classifier, tree_ensemble, tree_regressor


def _refuse_strings(operation: Operation) -> None:
    if operation.element(0) == TensorProto.STRING:
        raise NotConvertible("its input are strings")


def _floating(values: torch.Tensor) -> torch.Tensor:
    return values if values.is_floating_point() else values.float()


# --- features ---------------------------------------------------------------------------------------------------------


def _array_feature_extractor(operation: Operation) -> Conversion:
    _refuse_strings(operation)
    return Conversion(_ArrayFeatureExtractor(), (0, 1))


class _ArrayFeatureExtractor(nn.Module):
    """Chosen columns of the last axis."""

    def forward(self, values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Take columns; of a vector, as a matrix of one row."""
        values = values if values.dim() > 1 else values[None]
        return values.index_select(-1, columns.reshape(-1).long())


def _binarizer(operation: Operation) -> Conversion:
    return Conversion(_Binarizer(float(operation.attributes.get("threshold", 0.0))))


class _Binarizer(nn.Module):
    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return 1 above the threshold, else 0."""
        return (values > self.threshold).to(values.dtype)


def _feature_vectorizer(operation: Operation) -> Conversion:
    sizes = integers(operation, "inputdimensions")
    if len(sizes) != len(operation.given) or (sizes < 0).any():
        raise NotConvertible(f"it has {len(sizes)} sizes for {len(operation.given)} inputs")
    return Conversion(_FeatureVectorizer(sizes.tolist()), tuple(range(len(sizes))))


class _FeatureVectorizer(nn.Module):
    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Put features [N, F] side by side, each cut or filled up with zeros to its size."""
        parts = []
        for value, size in zip(values, self.sizes, strict=True):
            rows = _floating(value.reshape(1, -1) if value.dim() < 2 else value.flatten(1))
            bounded((rows.shape[0], size), "FeatureVectorizer")
            parts.append(nn.functional.pad(rows, (0, size - rows.shape[1])) if rows.shape[1] != size else rows)
        return torch.cat(parts, 1)


def _imputer(operation: Operation) -> Conversion:
    values = operation.attributes.get("imputed_value_floats") or operation.attributes.get("imputed_value_int64s")
    if not values:
        raise NotConvertible("it has no values to put in")
    kind = "float" if operation.attributes.get("imputed_value_floats") else "int64"
    replaced = operation.attributes.get(f"replaced_value_{kind}", 0)
    array = np.asarray(values, np.float32 if kind == "float" else np.int64)
    return Conversion(_Imputer(array, replaced))


class _Imputer(nn.Module):
    imputed: torch.Tensor

    def __init__(self, imputed: np.ndarray, replaced: float) -> None:
        super().__init__()
        self.register_buffer("imputed", torch.from_numpy(imputed))
        self.replaced = replaced

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Put other numbers where one number (or NaN) is."""
        missing = values.isnan() if self.replaced != self.replaced else values == self.replaced
        return torch.where(missing, self.imputed.to(values.dtype), values)


def _normalizer(operation: Operation) -> Conversion:
    norm = str(operation.attributes.get("norm", "MAX")).upper()
    if norm not in ("MAX", "L1", "L2"):
        raise NotConvertible(f"norm {norm[:40]!r} is unknown")
    return Conversion(_Normalizer(norm))


class _Normalizer(nn.Module):
    def __init__(self, norm: str) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Divide each row by its norm, unless that is zero."""
        values = _floating(values)
        axis = 1 if values.dim() > 1 else 0
        if self.norm == "MAX":
            divisor = values.amax(axis, keepdim=True)
        elif self.norm == "L1":
            divisor = values.abs().sum(axis, keepdim=True)
        else:
            squares = values.square().sum(axis, keepdim=True)
            # The root of zero has no gradient.
            divisor = torch.where(squares == 0, torch.ones_like(squares), squares).sqrt()
        return values / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def _one_hot_encoder(operation: Operation) -> Conversion:
    _refuse_strings(operation)
    categories = integers(operation, "cats_int64s")
    if not len(categories):
        raise NotConvertible("its categories are strings")
    return Conversion(_OneHotEncoder(categories))


class _OneHotEncoder(nn.Module):
    """One column for each category; what is in none of them gives zeros."""

    categories: torch.Tensor

    def __init__(self, categories: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("categories", torch.from_numpy(categories))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [*shape, categories]."""
        bounded((*values.shape, len(self.categories)), "OneHotEncoder")
        return (values.long().unsqueeze(-1) == self.categories).float()


def _scaler(operation: Operation) -> Conversion:
    offset, scale = floats(operation, "offset"), floats(operation, "scale")
    if not len(offset) or len(offset) != len(scale):
        raise NotConvertible(f"it has {len(offset)} offsets and {len(scale)} scales")
    return Conversion(_Scaler(offset, scale))


class _Scaler(nn.Module):
    offset: torch.Tensor
    scale: torch.Tensor

    def __init__(self, offset: np.ndarray, scale: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("offset", torch.from_numpy(offset))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return (x - offset) * scale."""
        return (_floating(values) - self.offset) * self.scale


# --- labels -----------------------------------------------------------------------------------------------------------


def _label_encoder(operation: Operation) -> Conversion:
    keys, values = (_column(operation, name) for name in ("keys", "values"))
    if len(keys) != len(values) or not len(keys):
        raise NotConvertible(f"it has {len(keys)} keys and {len(values)} values")
    fallback = operation.attributes.get("default_tensor")
    if fallback is None:
        name, default = ("default_float", -0.0) if values.dtype.kind == "f" else ("default_int64", -1)
        fallback = operation.attributes.get(name, default)
    carrier = CARRIERS.get(operation.result(), torch.float32 if values.dtype.kind == "f" else torch.int64)
    if operation.version < 4:
        keys, values = keys[keys == keys], values[keys == keys]
    return Conversion(_LabelEncoder(keys, values, np.asarray(fallback).reshape(-1)[:1], carrier))


def _column(operation: Operation, name: str) -> np.ndarray:
    """Return keys or values.

    Raises:
        NotConvertible: if they are strings.
    """
    attributes = operation.attributes
    if operation.version < 2 or attributes.get(f"{name}_strings"):
        raise NotConvertible(f"its {name} are strings")
    given = attributes.get(f"{name}_tensor")
    if given is None:
        given = attributes.get(f"{name}_int64s")
        if given is not None:
            return np.asarray(given, np.int64)
        return np.asarray(attributes.get(f"{name}_floats", ()), np.float32)
    array = np.asarray(given).reshape(-1)
    if array.dtype.kind not in "iuf":
        raise NotConvertible(f"its {name} are strings")
    return array.astype(np.float32 if array.dtype.kind == "f" else np.int64)


class _LabelEncoder(nn.Module):
    """A table of numbers."""

    keys: torch.Tensor
    values: torch.Tensor
    fallback: torch.Tensor
    of_missing: torch.Tensor

    def __init__(self, keys: np.ndarray, values: np.ndarray, fallback: np.ndarray, carrier: torch.dtype) -> None:
        super().__init__()
        # Of a repeated key ONNX Runtime takes the first; the standard says the last, from version 4 on.
        table = dict(zip(keys[::-1].tolist(), values[::-1].tolist(), strict=True))
        missing = [value for key, value in zip(keys.tolist(), values.tolist(), strict=True) if key != key]
        ordered = sorted(key for key in table if key == key)
        self.register_buffer("keys", torch.tensor(ordered, dtype=torch.from_numpy(keys).dtype))
        self.register_buffer("values", torch.tensor([table[key] for key in ordered], dtype=carrier))
        self.register_buffer("fallback", torch.tensor(fallback.item(), dtype=carrier))
        self.register_buffer("of_missing", torch.tensor(missing[0] if missing else fallback.item(), dtype=carrier))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Look numbers up."""
        values = values.to(self.keys.dtype).contiguous()
        found = self.fallback.expand(values.shape)
        if len(self.keys):
            place = torch.searchsorted(self.keys, values).clamp(max=len(self.keys) - 1)
            found = torch.where(self.keys[place] == values, self.values[place], self.fallback)
        return torch.where(values.isnan(), self.of_missing, found) if values.is_floating_point() else found


# --- linear models ----------------------------------------------------------------------------------------------------


class _Linear(nn.Module):
    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, operation: Operation, rows: int) -> None:
        super().__init__()
        weight, bias = floats(operation, "coefficients"), floats(operation, "intercepts")
        if rows < 1 or not len(weight) or len(weight) % rows or len(bias) not in (0, rows):
            raise NotConvertible(f"it has {len(weight)} coefficients and {len(bias)} intercepts for {rows} results")
        self.register_buffer("weight", torch.from_numpy(weight.reshape(rows, -1)))
        self.register_buffer("bias", torch.from_numpy(bias) if len(bias) else None)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [N, rows]; a vector counts as one row."""
        values = _floating(values)
        return nn.functional.linear(values if values.dim() > 1 else values[None], self.weight, self.bias)


def _linear_regressor(operation: Operation) -> Conversion:
    return Conversion(_LinearRegressor(operation))


class _LinearRegressor(nn.Module):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.linear = _Linear(operation, int(operation.attributes.get("targets", 1)))
        self.transform = transform_name(operation)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [N, targets]."""
        scores: torch.Tensor = self.linear(values)
        if scores.shape[1] == 1 and self.transform != "PROBIT":
            return scores  # as in ONNX Runtime: a single number is transformed by PROBIT only
        return transformed(scores, self.transform)


def _linear_classifier(operation: Operation) -> Conversion:
    labels = Labels(operation)
    return classifier(_LinearClassifier(operation, labels), labels)


class _LinearClassifier(Classifier):
    def __init__(self, operation: Operation, labels: Labels) -> None:
        super().__init__(operation)
        rows = len(floats(operation, "intercepts")) or labels.count
        self.linear = _Linear(operation, rows)
        self.rows = rows
        self.labels = labels
        self.transform = transform_name(operation)
        if rows == 1 and labels.count == 2 and self.transform == "PROBIT":
            raise NotConvertible("the standard does not say what PROBIT of a single score for two classes is")

    def forward(self, values: torch.Tensor) -> Any:
        """Return labels [N] and scores [N, classes]."""
        scores = self.linear(values)
        if self.rows > 1:
            return self.result(self.labels(scores.argmax(1)), transformed(scores, self.transform))
        labels = self.labels.binary(scores[:, 0] > 0)
        if self.labels.count == 2:
            return self.result(labels, of_two(scores[:, 0], self.transform, complement=True))
        return self.result(labels, transformed(scores, self.transform))


# --- text as numbers --------------------------------------------------------------------------------------------------


def _tfidf(operation: Operation) -> Conversion:
    if operation.attributes.get("pool_strings"):
        raise NotConvertible("it works on strings")
    return Conversion(_TfIdf(operation))


class _TfIdf(nn.Module):
    """Counts how often runs of numbers (n-grams) occur in each row.

    Source: ONNX TfIdfVectorizer.
    """

    weights: torch.Tensor

    def __init__(self, operation: Operation) -> None:
        super().__init__()
        attributes = operation.attributes
        pool, starts = integers(operation, "pool_int64s"), integers(operation, "ngram_counts").tolist()
        columns = integers(operation, "ngram_indexes")
        least, most, skips = (
            int(attributes[f"{name}"]) for name in ("min_gram_length", "max_gram_length", "max_skip_count")
        )
        self.mode = str(attributes.get("mode", "TF")).upper()
        if self.mode not in ("TF", "IDF", "TFIDF"):
            raise NotConvertible(f"mode {self.mode[:40]!r} is unknown")
        if (
            not 1 <= least <= most
            or skips < 0
            or sorted(starts) != starts
            or (starts and not 0 <= starts[0] <= starts[-1] <= len(pool))
        ):
            raise NotConvertible("its n-grams are not described as the standard says")
        self.grams: list[tuple[int, int]] = []
        self.skips = skips
        done = 0
        for index, start in enumerate(starts):
            length = index + 1
            end = starts[index + 1] if index + 1 < len(starts) else len(pool)
            if (end - start) % length:
                raise NotConvertible(f"its {length}-grams are cut off")
            count = (end - start) // length
            if least <= length <= most and count:
                self.register_buffer(f"grams_{length}", torch.from_numpy(pool[start:end].reshape(count, length).copy()))
                self.register_buffer(f"columns_{length}", torch.from_numpy(columns[done : done + count].copy()))
                self.grams.append((length, count))
            done += count
        if done != len(columns) or not len(columns) or columns.min() < 0:
            raise NotConvertible(f"it has {len(columns)} columns for {done} n-grams")
        self.width = int(columns.max()) + 1
        bounded((self.width,), "TfIdfVectorizer")
        weights = floats(operation, "weights")
        if len(weights) not in (0, len(columns)):
            raise NotConvertible(f"it has {len(weights)} weights for {len(columns)} n-grams")
        spread = np.ones(self.width, np.float32)
        if len(weights):
            spread[columns] = weights
        self.register_buffer("weights", torch.from_numpy(spread))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [columns] of a vector, [N, columns] of a matrix."""
        rows = values if values.dim() > 1 else values[None]
        rows = rows.long()
        bounded((rows.shape[0], self.width), "TfIdfVectorizer")
        counts = torch.zeros(rows.shape[0], self.width, device=values.device)
        for length, count in self.grams:
            grams, columns = getattr(self, f"grams_{length}"), getattr(self, f"columns_{length}")
            # Single numbers are not skipped between.
            for step in range(1, (self.skips if length > 1 else 0) + 2):
                span = step * (length - 1) + 1
                if span > rows.shape[1]:
                    break
                windows = rows.unfold(1, span, 1)[:, :, ::step]
                bounded((*windows.shape, count), "TfIdfVectorizer", item=1)
                found = (windows[:, :, None] == grams).all(-1).sum(1)
                counts = counts.index_add(1, columns, found.to(counts.dtype))
        if self.mode == "IDF":
            counts = (counts > 0).to(counts.dtype)
        result = counts if self.mode == "TF" else counts * self.weights
        return result if values.dim() > 1 else result[0]


CONVERTERS: Mapping[str, Converter] = {
    "TfIdfVectorizer": _tfidf,
    **{
        f"ai.onnx.ml:{operator}": converter
        for operator, converter in {
            "ArrayFeatureExtractor": _array_feature_extractor,
            "Binarizer": _binarizer,
            "FeatureVectorizer": _feature_vectorizer,
            "Imputer": _imputer,
            "LabelEncoder": _label_encoder,
            "LinearClassifier": _linear_classifier,
            "LinearRegressor": _linear_regressor,
            "Normalizer": _normalizer,
            "OneHotEncoder": _one_hot_encoder,
            "SVMClassifier": svm_classifier,
            "SVMRegressor": svm_regressor,
            "Scaler": _scaler,
            "TreeEnsemble": tree_ensemble,
            "TreeEnsembleClassifier": tree_classifier,
            "TreeEnsembleRegressor": tree_regressor,
        }.items()
    },
}
