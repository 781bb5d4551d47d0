"""Kinds of PyTorch's functions by name, as far as relevance is concerned."""

# fmt: off
ELEMENTWISE = frozenset((
    "abs", "arctan", "atan", "celu", "clamp", "clamp_max", "clamp_min", "elu", "erf", "exp", "expm1", "gelu",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "log1p", "logsigmoid", "mish", "prelu", "relu6",
    "selu", "sigmoid", "silu", "sinh", "softplus", "softshrink", "softsign", "sqrt", "square", "tan", "tanh",
    "tanhshrink", "threshold",
))
# fmt: on
"""Functions of each element, which pass the relevance of what they add to their value at zero whole."""

LIFTED = frozenset(("clamp", "clamp_max", "clamp_min", "exp", "hardsigmoid", "hardtanh", "logsigmoid", "sigmoid",
                    "softplus", "threshold"))  # fmt: skip
"""Those of them that may be something else than zero at zero."""

# fmt: off
MOVING = frozenset((
    "broadcast_to", "cat", "chunk", "clone", "concat", "contiguous", "double", "expand", "expand_as",
    "flatten", "flip", "float", "gather", "getitem", "index_select", "interpolate", "masked_fill", "moveaxis",
    "movedim", "narrow", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat",
    "repeat_interleave", "reshape", "roll", "select", "split", "squeeze", "stack", "swapaxes", "t",
    "take_along_dim", "tensor_split", "tile", "to", "transpose", "type", "unbind", "unflatten", "unfold",
    "unsqueeze", "view", "view_as",
))
# fmt: on
"""Functions that move values, or mix those of neighbouring places with weights that add up to one."""

# fmt: off
ARITHMETIC = frozenset((
    "add", "addcmul", "div", "mul", "neg", "radd", "rmul", "rsub", "sub", "true_divide", "truediv",
))
# fmt: on
"""Functions that with constants pass relevance whole before the first layer."""

# fmt: off
SUMMING = frozenset((
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "mean", "sum",
))
# fmt: on
"""Functions that add values up."""

# fmt: off
CONSERVING = frozenset((
    "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d", "amax", "amin", "cumsum", "fold",
    "grid_sample", "index_add", "leaky_relu", "linalg_norm", "linalg_vector_norm", "max", "max_pool1d",
    "max_pool1d_with_indices", "max_pool2d", "max_pool2d_with_indices", "max_pool3d", "max_pool3d_with_indices",
    "maximum", "min", "minimum", "neg", "norm", "relu", "scatter", "scatter_add", "softmax", "sort", "topk",
    "where",
))
# fmt: on
"""Functions whose derivative is their rule: linear ones, maxima, norms, ReLUs, and the softmax."""

# fmt: off
INSPECTING = frozenset((
    "backward", "detach", "dim", "get", "grad", "numel", "requires_grad", "size", "stride",
))
# fmt: on
"""Functions that look at tensors, compute gradients, or leave the tape."""
