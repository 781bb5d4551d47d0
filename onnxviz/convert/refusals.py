"""Operators that are refused on purpose, with the reason: what they work on is no tensor, or is not the same twice."""

from __future__ import annotations

from collections.abc import Mapping

from onnxviz.graph.operators import TRAITS

_STRINGS = "it works on strings"
_SEQUENCES = "it works on sequences of tensors"
_OPTIONALS = "it works on values that may be missing"
_RANDOM = "its result is random: the same image would not give the same activations twice"
_TRAINING = "it belongs to training"
_MAPS = "it works on maps from names to numbers"

REFUSALS: Mapping[str, str] = {
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit"), _STRINGS),
    **dict.fromkeys(
        (
            "ConcatFromSequence",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceEmpty",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SequenceMap",
            "SplitToSequence",
        ),
        _SEQUENCES,
    ),
    "Optional": _OPTIONALS,
    **{name: _RANDOM for name, traits in TRAITS.items() if traits.random and name != "Dropout"},
    **{
        f"ai.onnx.preview.training:{operator}": _TRAINING
        for operator in ("Adagrad", "Adam", "Gradient", "GraphCall", "Momentum")
    },
    **{f"ai.onnx.ml:{operator}": _MAPS for operator in ("CastMap", "DictVectorizer", "ZipMap")},
    "ai.onnx.ml:CategoryMapper": _STRINGS,
    "ImageDecoder": "it decodes image files: decode them before, nothing flows back through it",
}
"""Reason by operator; "domain:Operator" outside the standard's own domain."""
