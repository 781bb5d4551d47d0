"""The parts of Caffe's file formats that conversion reads, declared as protobuf messages.

Two schemas, because the two files are read for different things. The `.prototxt` gives the network: text knows fields
by name, so the numbers here are arbitrary. The `.caffemodel` gives the weights: binary knows fields by number, so only
what carries names and blobs is declared; forks disagree about the numbers of everything else.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]

_ENUMS: dict[str, dict[str, int]] = {
    "Phase": {"TRAIN": 0, "TEST": 1},
    "Pool": {"MAX": 0, "AVE": 1, "STOCHASTIC": 2},
    "Rounding": {"CEIL": 0, "FLOOR": 1},
    "Region": {"ACROSS_CHANNELS": 0, "WITHIN_CHANNEL": 1},
    "Combination": {"PROD": 0, "SUM": 1, "MAX": 2},
    "Reducing": {"SUM": 1, "ASUM": 2, "SUMSQ": 3, "MEAN": 4},
    "Engine": {"DEFAULT": 0, "CAFFE": 1, "CUDNN": 2},
    "Mode": {"LEARN": 0, "INFERENCE": 1},
    "LegacyType": {
        "NONE": 0,
        "ACCURACY": 1,
        "BNLL": 2,
        "CONCAT": 3,
        "CONVOLUTION": 4,
        "DATA": 5,
        "DROPOUT": 6,
        "EUCLIDEAN_LOSS": 7,
        "FLATTEN": 8,
        "HDF5_DATA": 9,
        "HDF5_OUTPUT": 10,
        "IM2COL": 11,
        "IMAGE_DATA": 12,
        "INFOGAIN_LOSS": 13,
        "INNER_PRODUCT": 14,
        "LRN": 15,
        "MULTINOMIAL_LOGISTIC_LOSS": 16,
        "POOLING": 17,
        "RELU": 18,
        "SIGMOID": 19,
        "SOFTMAX": 20,
        "SOFTMAX_LOSS": 21,
        "SPLIT": 22,
        "TANH": 23,
        "WINDOW_DATA": 24,
        "ELTWISE": 25,
        "POWER": 26,
        "SIGMOID_CROSS_ENTROPY_LOSS": 27,
        "HINGE_LOSS": 28,
        "MEMORY_DATA": 29,
        "ARGMAX": 30,
        "THRESHOLD": 31,
        "DUMMY_DATA": 32,
        "SLICE": 33,
        "MVN": 34,
        "ABSVAL": 35,
        "SILENCE": 36,
        "CONTRASTIVE_LOSS": 37,
        "EXP": 38,
        "DECONVOLUTION": 39,
    },
}

_LEGACY_NAMES = {
    "RELU": "ReLU",
    "LRN": "LRN",
    "MVN": "MVN",
    "BNLL": "BNLL",
    "TANH": "TanH",
    "ARGMAX": "ArgMax",
    "ABSVAL": "AbsVal",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
}


def modern_type(legacy: int) -> str:
    """Return today's name of a layer type that an old file gives as an enumeration value."""
    name = next((name for name, number in _ENUMS["LegacyType"].items() if number == legacy), "NONE")
    return _LEGACY_NAMES.get(name, "".join(part.capitalize() for part in name.split("_")))


# Fields are written "name:type", "*" for repeated ones, "=default" where it is not the type's zero.
_PARAMETERS = {
    "argmax_param": "out_max_val:bool top_k:uint32=1 axis:int32",
    "batch_norm_param": "use_global_stats:bool moving_average_fraction:float eps:float=1e-5 engine:Engine",
    "bias_param": "axis:int32=1 num_axes:int32=1 filler:Filler",
    "bn_param": (
        "bn_mode:Mode scale_filler:Filler shift_filler:Filler slope_filler:Filler bias_filler:Filler engine:Engine "
        "momentum:float eps:float frozen:bool"
    ),
    "clip_param": "min:float max:float",
    "concat_param": "axis:int32=1 concat_dim:uint32=1",
    "convolution_param": (
        "num_output:uint32 bias_term:bool=true pad:uint32* kernel_size:uint32* stride:uint32* dilation:uint32* "
        "pad_h:uint32 pad_w:uint32 kernel_h:uint32 kernel_w:uint32 stride_h:uint32 stride_w:uint32 group:uint32=1 "
        "weight_filler:Filler bias_filler:Filler engine:Engine axis:int32=1 force_nd_im2col:bool"
    ),
    "crop_param": "axis:int32=2 offset:uint32*",
    "dropout_param": "dropout_ratio:float scale_train:bool=true",
    "dummy_data_param": ("data_filler:Filler* shape:Shape* num:uint32* channels:uint32* height:uint32* width:uint32*"),
    "eltwise_param": "operation:Combination=SUM coeff:float* stable_prod_grad:bool",
    "elu_param": "alpha:float=1",
    "exp_param": "base:float=-1 scale:float=1 shift:float",
    "flatten_param": "axis:int32=1 end_axis:int32=-1",
    "inner_product_param": (
        "num_output:uint32 bias_term:bool=true weight_filler:Filler bias_filler:Filler axis:int32=1 transpose:bool "
        "engine:Engine"
    ),
    "input_param": "shape:Shape*",
    "interp_param": ("height:int32 width:int32 zoom_factor:int32=1 shrink_factor:int32=1 pad_beg:int32 pad_end:int32"),
    "log_param": "base:float=-1 scale:float=1 shift:float",
    "lrn_param": (
        "local_size:uint32=5 alpha:float=1 beta:float=0.75 norm_region:Region=ACROSS_CHANNELS k:float=1 engine:Engine"
    ),
    "memory_data_param": "batch_size:uint32 channels:uint32 height:uint32 width:uint32",
    "mvn_param": "normalize_variance:bool=true across_channels:bool eps:float=1e-9",
    "norm_param": "across_spatial:bool=true scale_filler:Filler channel_shared:bool=true eps:float=1e-10",
    "permute_param": "order:uint32*",
    "pooling_param": (
        "pool:Pool=MAX pad:uint32 pad_h:uint32 pad_w:uint32 kernel_size:uint32 kernel_h:uint32 kernel_w:uint32 "
        "stride:uint32=1 stride_h:uint32 stride_w:uint32 engine:Engine global_pooling:bool round_mode:Rounding=CEIL "
        "ceil_mode:bool=true"
    ),
    "power_param": "power:float=1 scale:float=1 shift:float",
    "prelu_param": "filler:Filler channel_shared:bool",
    "prior_box_param": (
        "min_size:float* max_size:float* aspect_ratio:float* flip:bool=true clip:bool variance:float* "
        "img_size:uint32 img_h:uint32 img_w:uint32 step:float step_h:float step_w:float offset:float=0.5"
    ),
    "reduction_param": "operation:Reducing=SUM axis:int32 coeff:float=1",
    "relu_param": "negative_slope:float engine:Engine",
    "relu6_param": "threshold:float=6",
    "reorg_param": "stride:uint32=2 reverse:bool",
    "reshape_param": "shape:Shape axis:int32 num_axes:int32=-1",
    "roi_pooling_param": "pooled_h:uint32 pooled_w:uint32 spatial_scale:float=1",
    "scale_param": "axis:int32=1 num_axes:int32=1 filler:Filler bias_term:bool bias_filler:Filler",
    "shuffle_channel_param": "group:uint32=1",
    "sigmoid_param": "engine:Engine",
    "slice_param": "axis:int32=1 slice_point:uint32* slice_dim:uint32=1",
    "softmax_param": "engine:Engine axis:int32=1",
    "swish_param": "beta:float=1",
    "tanh_param": "engine:Engine",
    "threshold_param": "threshold:float",
    "tile_param": "axis:int32=1 tiles:int32",
    "upsample_param": "scale:uint32 scale_h:uint32 scale_w:uint32 upsample_h:uint32 upsample_w:uint32 "
    "pad_out_h:bool pad_out_w:bool",
}

_COMMON = "name:string bottom:string* top:string* include:Rule* exclude:Rule* " + " ".join(
    f"{name}:{name}" for name in _PARAMETERS
)

_TEXT = {
    "Net": (
        "name:string input:string* input_shape:Shape* input_dim:int64* state:State layer:Layer* layers:LegacyLayer*"
    ),
    "State": "phase:Phase=TEST level:int32 stage:string*",
    "Rule": "phase:Phase min_level:int32 max_level:int32 stage:string* not_stage:string*",
    "Shape": "dim:int64*",
    "Filler": "type:string=constant value:float",
    "Sharing": "name:string",
    "Layer": f"type:string phase:Phase param:Sharing* {_COMMON}",
    "LegacyLayer": f"type:LegacyType param:string* {_COMMON}",
    **_PARAMETERS,
}

# name:type@number. Packed floats are read as bytes, which numpy takes over at once; names may be no UTF-8.
_BINARY = {
    "Net": "layer:Layer*@100 layers:LegacyLayer*@2",
    "Layer": "name:bytes@1 blobs:Blob*@7",
    "LegacyLayer": "layer:OldestLayer@1 name:bytes@4 blobs:Blob*@6",
    "OldestLayer": "name:bytes@1 blobs:Blob*@50",
    "Shape": "dim:int64*@1",
    "Blob": (
        "shape:Shape@7 data:bytes*@5 double_data:bytes*@8 num:int32@1 channels:int32@2 height:int32@3 width:int32@4"
    ),
    # The same bytes, for writers that do not pack floats.
    "UnpackedBlob": "data:float*@5 double_data:double*@8",
}


def text_message(name: str) -> Any:
    """Return the class of a message of the `.prototxt`."""
    return _classes("caffe_text")[name]


def binary_message(name: str) -> Any:
    """Return the class of a message of the `.caffemodel`."""
    return _classes("caffe_binary")[name]


def parameter_messages() -> frozenset[str]:
    """Return the names of the messages that hold a layer's own parameters."""
    return frozenset(_PARAMETERS)


@functools.cache
def _classes(package: str) -> dict[str, Any]:
    """Build message classes in a pool of their own, so that an installed Caffe is not disturbed."""
    messages = _TEXT if package == "caffe_text" else _BINARY
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, values in _ENUMS.items():
        # Names of enumeration values share their parent's scope: each enumeration gets a message of its own.
        scope = file.message_type.add(name=f"{name}_")
        enum = scope.enum_type.add(name=name)
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, field in enumerate(fields.split(), start=1):
            _add_field(message, package, field, number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in messages}


def _add_field(message: Any, package: str, text: str, number: int) -> None:
    text, _, explicit = text.partition("@")
    text, _, default = text.partition("=")
    name, _, kind = text.partition(":")
    repeated = kind.endswith("*")
    kind = kind.removesuffix("*")
    field = message.field.add(name=name, number=int(explicit or number))
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    scalar = f"TYPE_{kind.upper()}"
    if kind in _ENUMS:
        field.type, field.type_name = field.TYPE_ENUM, f".{package}.{kind}_.{kind}"
    elif hasattr(field, scalar):
        field.type = getattr(field, scalar)
    else:
        field.type, field.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
    if default:
        field.default_value = default
