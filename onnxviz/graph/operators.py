"""What is true of an operator wherever it stands: one record, read by everything that asks."""

from __future__ import annotations

import importlib.metadata
import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from onnx import NodeProto

from onnxviz.core.errors import AnalysisError

Form = Literal[
    "", "along_axis", "attention", "axis_normalisation", "channel_normalisation", "columns_to_image", "concat",
    "convolution", "cumulative", "deformed_convolution", "depth_to_space", "einsum", "expand", "gather",
    "gather_elements", "gather_nd", "gemm", "generation", "global_pool", "grid_sample", "last_normalisation",
    "map_normalisation", "nonzero", "normalisation", "one_hot", "pad", "pointwise", "pool", "product", "quantize",
    "recurrent", "reduction", "reshape", "resize", "rotary", "scatter_elements", "scatter_nd", "shape", "slice",
    "space_to_depth", "split", "tile", "top_k", "transpose", "transposed_convolution", "trilu", "unpool",
]  # fmt: skip
"""How positions of the result depend on positions of the inputs; "" if no rule says."""

CHANNELS_FIRST: frozenset[Form] = frozenset([
    "channel_normalisation", "convolution", "deformed_convolution", "depth_to_space", "global_pool",
    "map_normalisation", "pool", "space_to_depth", "transposed_convolution", "unpool",
])  # fmt: skip
"""Forms that are defined on [images, channels, *positions]: images are apart, and axis 1 holds the channels."""


@dataclass(frozen=True)
class OperatorTraits:
    """What is true of an operator.

    Attributes:
        form: which rule the batch, the axes, the receptive field and folding have for it.
        keeps: what the result holds of the first input's numbers: all of them in their "order", with their "axes" in
            another one, "all" arranged anew, "some", perhaps repeated, their "mean" over some, or "" for others.
        work: what its multiply-adds are: one for each weight of a unit and position of the result ("convolution") or
            of the input ("transposed"), those of a matrix "product", "none" that count, or "unknown".
        weight: index of the input that holds its weights, where that is constant; 0 if it has none.
        bounds: between which values its results lie, whatever its inputs and attributes are.
        activation: whether it is written behind a layer as its activation.
        algebraic: whether a pointwise operator only adds, multiplies or takes powers: no activation is of these alone.
        flat: whether its derivative is zero wherever it exists.
        sloped: the inputs through which gradients flow, where that is not all that can hold other than whole numbers.
        sloped_outputs: how many of its outputs hold such values, the first ones, where that is not all.
        operands: the inputs that a pointwise operator broadcasts with each other, where that is not all.
        rounds: whether it rounds its result to a quantised type.
        random: whether it draws random numbers.
    """

    form: Form = ""
    keeps: Literal["", "mean", "some", "all", "axes", "order"] = ""
    work: Literal["none", "convolution", "transposed", "product", "unknown"] = "none"
    weight: int = 0
    bounds: tuple[float, float] = (-math.inf, math.inf)
    activation: bool = False
    algebraic: bool = False
    flat: bool = False
    sloped: tuple[int, ...] | None = None
    sloped_outputs: int | None = None
    operands: tuple[int, ...] | None = None
    rounds: bool = False
    random: bool = False

    @property
    def arranges(self) -> bool:
        """Whether the result is the first input but for its shape and the order of its axes."""
        return self.keeps in ("order", "axes")

    @property
    def moves(self) -> bool:
        """Whether every number of the result is one of the first input's."""
        return self.arranges or self.keeps in ("all", "some")

    @property
    def normalises(self) -> bool:
        """Whether it brings values to a common mean or size by statistics of the image or of the training."""
        return self.form.endswith("normalisation")


UNKNOWN = OperatorTraits(work="unknown")
"""Of an operator that nothing is known of."""


def _family(names: str, form: Form = "", **facts: Any) -> dict[str, OperatorTraits]:
    """Return one record for several operators, with "domain:" in front where that is not the standard's."""
    return dict.fromkeys(names.split(), OperatorTraits(form, **facts))


_ALGEBRAIC: dict[str, Any] = {"form": "pointwise", "algebraic": True}
_ACTIVATION: dict[str, Any] = {"form": "pointwise", "activation": True}
_FLAT: dict[str, Any] = {"form": "pointwise", "flat": True}
FAMILIES = (
    # --- each position of the result depends on the same position of the inputs, after broadcasting
    _family("Add Div Mean Mul Neg Pow Reciprocal Sub Sum", **_ALGEBRAIC),
    _family("Cast Identity", keeps="order", **_ALGEBRAIC),
    _family("CastLike", keeps="order", operands=(0,), sloped=(0,), **_ALGEBRAIC),
    _family("Dropout", keeps="order", operands=(0,), sloped=(0,), sloped_outputs=1, random=True, **_ALGEBRAIC),
    _family("Acosh Asinh Atanh Cosh Log Max Min Mod Sinh Tan", "pointwise"),
    _family("Abs Exp", "pointwise", bounds=(0.0, math.inf)),
    _family("Sqrt", bounds=(0.0, math.inf), **_ALGEBRAIC),
    _family("Cos Erf Sin", "pointwise", bounds=(-1.0, 1.0)),
    _family("Acos", "pointwise", bounds=(0.0, math.pi)),
    _family("Asin Atan", "pointwise", bounds=(-math.pi / 2, math.pi / 2)),
    _family("Where", "pointwise"),
    _family("Celu Elu Gelu HardSwish LeakyRelu Mish PRelu Selu Shrink Swish ThresholdedRelu", **_ACTIVATION),
    _family("Clip", operands=(0,), **_ACTIVATION),
    _family("Relu Softplus", bounds=(0.0, math.inf), **_ACTIVATION),
    _family("HardSigmoid Sigmoid", bounds=(0.0, 1.0), **_ACTIVATION),
    _family("Softsign Tanh", bounds=(-1.0, 1.0), **_ACTIVATION),
    _family("Sign", bounds=(-1.0, 1.0), flat=True, **_ACTIVATION),
    _family("Ceil Floor Round", **_FLAT),
    _family("And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Xor", **_FLAT),
    _family("BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor", **_FLAT),
    _family("Bernoulli", random=True, **_FLAT),
    _family("BitCast", flat=True),  # a number of twice the bits becomes two
    # --- weights, and other sums of products
    _family("Conv ConvInteger", "convolution", work="convolution", weight=1),
    _family("QLinearConv", "convolution", work="convolution", weight=3, rounds=True),
    _family("DeformConv", "deformed_convolution", work="convolution", weight=1),
    _family("ConvTranspose", "transposed_convolution", work="transposed", weight=1),
    _family("MatMul MatMulInteger", "product", work="product", weight=1),
    _family("QLinearMatMul", "product", work="product", weight=3, rounds=True),
    _family("Gemm", "gemm", work="product", weight=1),
    _family("Einsum", "einsum", work="unknown"),
    _family("GRU LSTM RNN", "recurrent", work="unknown", weight=1),
    _family("CausalConvWithState", work="unknown", weight=1),
    _family("Attention", "attention", work="unknown"),
    _family("LinearAttention ai.onnx.preview:FlexAttention SwiGLU", work="unknown"),
    _family("RotaryEmbedding", "rotary"),
    _family("DFT Det STFT"),
    # --- pooling, sums and normalisation over positions or units
    _family("AveragePool", "pool", keeps="mean"),
    _family("LpPool", "pool"),
    _family("MaxPool", "pool", keeps="some", sloped_outputs=1),
    _family("GlobalAveragePool", "global_pool", keeps="mean"),
    _family("GlobalLpPool", "global_pool"),
    _family("GlobalMaxPool", "global_pool", keeps="some"),
    _family("MaxUnpool", "unpool"),
    _family("MaxRoiPool RoiAlign"),
    _family("ReduceMax ReduceMin", "reduction", keeps="some"),
    _family("ReduceMean", "reduction", keeps="mean"),
    _family("ReduceL1 ReduceL2 ReduceSumSquare", "reduction", bounds=(0.0, math.inf)),
    _family("ReduceLogSum ReduceLogSumExp ReduceProd ReduceSum", "reduction"),
    _family("ArgMax ArgMin", "reduction", flat=True),
    _family("CumProd CumSum", "cumulative"),
    _family("Softmax", "along_axis", bounds=(0.0, 1.0)),
    _family("LogSoftmax", "along_axis", bounds=(-math.inf, 0.0)),
    _family("Hardmax", "along_axis", flat=True),
    _family("LpNormalization", "axis_normalisation"),
    _family("BatchNormalization LRN", "channel_normalisation"),
    _family("GroupNormalization InstanceNormalization", "map_normalisation"),
    _family("LayerNormalization RMSNormalization", "last_normalisation"),
    _family("MeanVarianceNormalization", "normalisation"),
    _family("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"),
    # --- numbers arranged, selected, repeated or joined, and those that are made of shapes
    _family("Flatten Reshape Squeeze Unsqueeze", "reshape", keeps="order"),
    _family("Transpose", "transpose", keeps="axes"),
    _family("DepthToSpace", "depth_to_space", keeps="all"),
    _family("SpaceToDepth", "space_to_depth", keeps="all"),
    _family("ReverseSequence", keeps="all"),
    _family("Slice", "slice", keeps="some"),
    _family("Split", "split", keeps="some"),
    _family("Gather", "gather", keeps="some"),
    _family("GatherElements", "gather_elements", keeps="some"),
    _family("GatherND", "gather_nd", keeps="some"),
    _family("Tile", "tile", keeps="some"),
    _family("Expand", "expand", keeps="some"),
    _family("Compress ai.onnx.ml:ArrayFeatureExtractor", keeps="some"),
    _family("Concat", "concat"),
    _family("Pad", "pad"),
    _family("Trilu", "trilu"),
    _family("Col2Im", "columns_to_image"),
    _family("Resize Upsample", "resize", sloped=(0,)),
    _family("AffineGrid CenterCropPad Constant ConstantFill GivenTensorFill Scatter TensorScatter"),
    _family("GridSample", "grid_sample"),
    _family("ScatterElements", "scatter_elements"),
    _family("ScatterND", "scatter_nd"),
    _family("OneHot", "one_hot", flat=True),
    _family("NonZero", "nonzero", flat=True),
    _family("Shape Size", "shape", flat=True),
    _family("EyeLike", "generation", flat=True),
    _family("ConstantOfShape", "generation", flat=True),
    _family("Range", "generation"),
    _family("BlackmanWindow HammingWindow HannWindow MelWeightMatrix", flat=True),
    _family("Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike", flat=True, random=True),
    _family("TopK", "top_k", sloped_outputs=1),
    _family("Unique", keeps="some", sloped_outputs=1),
    _family("NonMaxSuppression", flat=True),
    _family("If Loop Scan", work="unknown"),
    _family("OptionalGetElement", keeps="order"),
    _family("OptionalHasElement", flat=True),
    _family("ai.onnx.ml:ZipMap", keeps="axes"),
    # --- quantisation; classical models and ONNX Runtime's own, of which only gradients are known
    _family("QuantizeLinear", "quantize", keeps="order", rounds=True),
    _family("DequantizeLinear", "quantize", keeps="order"),
    _family("DynamicQuantizeLinear", "quantize", keeps="order", rounds=True),
    _family("TfIdfVectorizer", flat=True),
    _family(
        "ai.onnx.ml:Binarizer ai.onnx.ml:LabelEncoder ai.onnx.ml:OneHotEncoder ai.onnx.ml:TreeEnsemble"
        " ai.onnx.ml:TreeEnsembleClassifier ai.onnx.ml:TreeEnsembleRegressor",
        work="unknown",
        flat=True,
    ),
    _family(
        "ai.onnx.ml:FeatureVectorizer ai.onnx.ml:Imputer ai.onnx.ml:LinearClassifier ai.onnx.ml:LinearRegressor"
        " ai.onnx.ml:Normalizer ai.onnx.ml:SVMClassifier ai.onnx.ml:SVMRegressor ai.onnx.ml:Scaler"
        " com.microsoft:BiasGelu com.microsoft:DequantizeLinear com.microsoft:FastGelu com.microsoft:FusedConv"
        " com.microsoft:FusedGemm com.microsoft:FusedMatMul com.microsoft:Gelu com.microsoft:MatMulIntegerToFloat"
        " com.microsoft:QuickGelu com.microsoft:SkipLayerNormalization"
        " com.microsoft:SkipSimplifiedLayerNormalization com.microsoft:TransposeMatMul",
        work="unknown",
    ),
    _family(
        "com.microsoft:DynamicQuantizeMatMul com.microsoft:QGemm com.microsoft:QLinearAdd"
        " com.microsoft:QLinearAveragePool com.microsoft:QLinearConcat com.microsoft:QLinearConv"
        " com.microsoft:QLinearGlobalAveragePool com.microsoft:QLinearLeakyRelu com.microsoft:QLinearMul"
        " com.microsoft:QLinearSigmoid com.microsoft:QLinearSoftmax com.microsoft:QuantizeLinear",
        work="unknown",
        rounds=True,
    ),
)
TRAITS: Mapping[str, OperatorTraits] = dict(ChainMap(*FAMILIES))
"""By operator; "domain:Operator" outside the standard's own domain."""

GROUP = "onnxviz.operators"
"""Entry points that name a `CustomOperator` each."""


@dataclass(frozen=True)
class CustomOperator:
    """An operator of a domain that is not the standard's.

    Attributes:
        key: its domain and name, "com.example:Operator".
        traits: what is true of it wherever it stands.
        convert: takes a node (`onnxviz.convert.operators.Operation`) and returns its `Conversion`, or raises
            `NotConvertible`.
        shaped_like: the standard's operator whose result has the same shape for such inputs and attributes; "" if there
            is none: then layers behind it are not known.
    """

    key: str
    traits: OperatorTraits
    convert: Callable[[Any], Any]
    shaped_like: str = ""


@cache
def custom_operators() -> Mapping[str, CustomOperator]:
    """Return what other packages register, by domain and name; asked for where a model has such an operator.

    Raises:
        AnalysisError: if an entry point is no such operator, or two are of the same.
    """
    found: dict[str, CustomOperator] = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        operator = entry.load()
        if not isinstance(operator, CustomOperator):
            raise AnalysisError(f"the entry point {entry.name!r} is no CustomOperator", where=GROUP)
        if operator.key in found:
            raise AnalysisError(f"two of {GROUP} are of {operator.key!r}")
        found[operator.key] = operator
    return found


@cache
def custom_distributions() -> Sequence[str]:
    """Return the names of the packages that may convert operators of other domains, installed or not."""
    entries = importlib.metadata.entry_points(group=GROUP)
    return sorted({"onnx2torch", *(entry.dist.name for entry in entries if entry.dist is not None)})


def traits_of(node: NodeProto) -> OperatorTraits:
    """Return what is true of a node's operator; `UNKNOWN` for one that nobody entered or registered."""
    key = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    known = TRAITS.get(key)
    if known is None and node.domain and key in custom_operators():
        return custom_operators()[key].traits
    return known or UNKNOWN
