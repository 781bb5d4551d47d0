"""The operators of ai.onnx.ml that compute with tensors, and TfIdfVectorizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from onnxviz.convert.element_types import CARRIERS
from onnxviz.convert.operators.class_scores import (
    Labels,
    classifier,
    floating,
    floats,
    integers,
    of_two,
    transform_name,
    transform_targets,
    transformed,
)
from onnxviz.convert.operators.operation import (
    Conversion,
    Converter,
    Function,
    NotConvertible,
    Operation,
    bounded,
    by_function,
)
from onnxviz.convert.operators.support_vectors import svm_classifier, svm_regressor
from onnxviz.convert.operators.trees import tree_classifier, tree_ensemble, tree_regressor


def _refuse_strings(operation: Operation) -> None:
    if operation.element(0) == TensorProto.STRING:
        raise NotConvertible("its input are strings")


# --- features ---------------------------------------------------------------------------------------------------------


def extract_columns(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return chosen columns of the last axis; of a vector, as a matrix of one row. ONNX ArrayFeatureExtractor."""
    values = values if values.dim() > 1 else values[None]
    return values.index_select(-1, columns.reshape(-1).long())


def _array_feature_extractor(operation: Operation) -> Conversion:
    _refuse_strings(operation)
    return Conversion(Function(extract_columns), (0, 1))


def binarise(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return 1 above the threshold, else 0. ONNX Binarizer."""
    return (values > threshold).to(values.dtype)


def put_side_by_side(*values: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """Put features [N, F] side by side, each cut or filled up with zeros to its size. ONNX FeatureVectorizer."""
    parts = []
    for value, size in zip(values, sizes, strict=True):
        rows = floating(value.reshape(1, -1) if value.dim() < 2 else value.flatten(1))
        bounded((rows.shape[0], size), "FeatureVectorizer")
        parts.append(nn.functional.pad(rows, (0, size - rows.shape[1])) if rows.shape[1] != size else rows)
    return torch.cat(parts, 1)


def _feature_vectorizer(operation: Operation) -> Conversion:
    sizes = integers(operation, "inputdimensions")
    if len(sizes) != len(operation.given) or (sizes < 0).any():
        raise NotConvertible(f"it has {len(sizes)} sizes for {len(operation.given)} inputs")
    return Conversion(Function(put_side_by_side, sizes=sizes.tolist()), range(len(sizes)))


def impute(values: torch.Tensor, imputed: torch.Tensor, replaced: float) -> torch.Tensor:
    """Put other numbers where one number (or NaN) is. ONNX Imputer."""
    missing = values.isnan() if replaced != replaced else values == replaced
    return torch.where(missing, imputed.to(values.dtype), values)


def _imputer(operation: Operation) -> Conversion:
    values = operation.attributes.get("imputed_value_floats") or operation.attributes.get("imputed_value_int64s")
    if not values:
        raise NotConvertible("it has no values to put in")
    kind = "float" if operation.attributes.get("imputed_value_floats") else "int64"
    replaced = operation.attributes.get(f"replaced_value_{kind}", 0)
    array = np.asarray(values, np.float32 if kind == "float" else np.int64)
    return Conversion(Function(impute, imputed=torch.from_numpy(array), replaced=replaced))


def normalise_rows(values: torch.Tensor, norm: str) -> torch.Tensor:
    """Divide each row by its norm, unless that is zero. ONNX Normalizer."""
    values = floating(values)
    axis = 1 if values.dim() > 1 else 0
    if norm == "MAX":
        divisor = values.amax(axis, keepdim=True)
    elif norm == "L1":
        divisor = values.abs().sum(axis, keepdim=True)
    else:
        squares = values.square().sum(axis, keepdim=True)
        # The root of zero has no gradient.
        divisor = torch.where(squares == 0, torch.ones_like(squares), squares).sqrt()
    return values / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def _normalizer(operation: Operation) -> Conversion:
    norm = str(operation.attributes.get("norm", "MAX")).upper()
    if norm not in ("MAX", "L1", "L2"):
        raise NotConvertible(f"norm {norm[:40]!r} is unknown")
    return Conversion(Function(normalise_rows, norm=norm))


def encode_one_hot(values: torch.Tensor, categories: torch.Tensor) -> torch.Tensor:
    """Return [*shape, categories]; what is in none of them gives zeros. ONNX OneHotEncoder."""
    bounded((*values.shape, len(categories)), "OneHotEncoder")
    return (values.long().unsqueeze(-1) == categories).float()


def _one_hot_encoder(operation: Operation) -> Conversion:
    _refuse_strings(operation)
    categories = integers(operation, "cats_int64s")
    if not len(categories):
        raise NotConvertible("its categories are strings")
    return Conversion(Function(encode_one_hot, categories=torch.from_numpy(categories)))


def scale(values: torch.Tensor, offset: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return (x - offset) * scale. ONNX Scaler."""
    return (floating(values) - offset) * scale


def _scaler(operation: Operation) -> Conversion:
    offset, factor = floats(operation, "offset"), floats(operation, "scale")
    if not len(offset) or len(offset) != len(factor):
        raise NotConvertible(f"it has {len(offset)} offsets and {len(factor)} scales")
    return Conversion(Function(scale, offset=torch.from_numpy(offset), scale=torch.from_numpy(factor)))


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
    # Of a repeated key ONNX Runtime takes the first; the standard says the last, from version 4 on.
    table = dict(zip(keys[::-1].tolist(), values[::-1].tolist(), strict=True))
    missing = [value for key, value in zip(keys.tolist(), values.tolist(), strict=True) if key != key]
    ordered = sorted(key for key in table if key == key)
    default = np.asarray(fallback).reshape(-1)[:1].item()
    function = Function(
        look_up,
        keys=torch.tensor(ordered, dtype=torch.from_numpy(keys).dtype),
        results=torch.tensor([table[key] for key in ordered], dtype=carrier),
        fallback=torch.tensor(default, dtype=carrier),
        of_missing=torch.tensor(missing[0] if missing else default, dtype=carrier),
    )
    return Conversion(function)


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


def look_up(
    values: torch.Tensor,
    keys: torch.Tensor,
    results: torch.Tensor,
    fallback: torch.Tensor,
    of_missing: torch.Tensor,
) -> torch.Tensor:
    """Look numbers up in a table with sorted keys; `of_missing` stands for NaN. ONNX LabelEncoder."""
    values = values.to(keys.dtype).contiguous()
    found = fallback.expand(values.shape)
    if len(keys):
        place = torch.searchsorted(keys, values).clamp(max=len(keys) - 1)
        found = torch.where(keys[place] == values, results[place], fallback)
    return torch.where(values.isnan(), of_missing, found) if values.is_floating_point() else found


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
        values = floating(values)
        return nn.functional.linear(values if values.dim() > 1 else values[None], self.weight, self.bias)


def _linear_regressor(operation: Operation) -> Conversion:
    linear = _Linear(operation, operation.setting("targets", 1))
    return Conversion(nn.Sequential(linear, Function(transform_targets, name=transform_name(operation))))


def _linear_classifier(operation: Operation) -> Conversion:
    labels = Labels(operation)
    return classifier(_LinearClassifier(operation, labels), operation, labels)


class _LinearClassifier(nn.Module):
    def __init__(self, operation: Operation, labels: Labels) -> None:
        super().__init__()
        rows = len(floats(operation, "intercepts")) or labels.count
        self.linear = _Linear(operation, rows)
        self.rows = rows
        self.labels = labels
        self.transform = transform_name(operation)
        if rows == 1 and labels.count == 2 and self.transform == "PROBIT":
            raise NotConvertible("the standard does not say what PROBIT of a single score for two classes is")

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Return labels [N] and scores [N, classes]."""
        scores = self.linear(values)
        if self.rows > 1:
            return (self.labels(scores.argmax(1)), transformed(scores, self.transform))
        labels = self.labels.binary(scores[:, 0] > 0)
        if self.labels.count == 2:
            return (labels, of_two(scores[:, 0], self.transform, complement=True))
        return (labels, transformed(scores, self.transform))


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
            "Binarizer": by_function(binarise, threshold=0.0),
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
