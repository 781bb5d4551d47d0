"""Every numeric bound in one place: what the tool refuses, and from which size on."""

from __future__ import annotations

MODEL_BYTES = 2 << 30
"""Largest model file, external data not counted; protobuf itself ends at 2 GiB."""
EXTERNAL_BYTES = 16 << 30
"""Largest sum of a model's external data."""
NODES = 50_000
"""Largest number of nodes, those of functions and sub-graphs counted."""
NAME_LENGTH = 4_096
"""Longest name of a node or value that is shown in full; longer ones are cut for display."""
TENSOR_BYTES = 4 << 30
"""Largest single tensor of a model."""
INPUT_BYTES = 1 << 30
"""Largest input that a model may declare, a free dimension counted as 1."""
RANK = 64
"""Most dimensions of a tensor; neither NumPy nor PyTorch has more."""
SPARSE_TOTAL_BYTES = 256 << 20
"""Most that the sparse tensors of a model may take as ordinary ones, all together."""
COMPARED_BYTES = 128 << 20
"""Largest value that is computed, for one image, to compare layers with ONNX Runtime unasked."""
FOLDED_BYTES = 64 << 20
"""Largest tensor that constant folding may make."""
RECIPE_BYTES = 1 << 20
"""Largest recipe."""
RECIPE_DEPTH = 32
"""Deepest nesting of a recipe."""
RECIPE_ENTRIES = {"models": 100, "data": 100, "analyses": 1_000}
"""Most entries of a recipe's parts, those that a matrix makes counted: each costs an opened file, or jobs."""
RECIPE_COPIES = 200_000
"""Most values that a recipe's defaults and matrices may copy into its analyses."""
IMAGE_BYTES = 100 << 20
"""Largest image file."""
IMAGE_PIXELS = 64_000_000
"""Largest image in pixels; checked before decoding."""
LABELS_BYTES = 4 << 20
"""Largest file of class names."""
LABEL_INDEX_BYTES = 512 << 20
"""Largest file that lists the images of a labelled data set with their labels; Broden's has some 20 MB."""
LABEL_LAYERS = 256
"""Most labels that a pixel of an image may carry at once."""
FOLDED_TOTAL_BYTES = 512 << 20
"""Most that constant folding may make of one model, all tensors together."""
KEPT_ACTIVATION_BYTES = 1 << 30
"""Most activations that an analysis keeps in memory from one pass to the next; beyond, they are computed again."""
SHARDED_BYTES = 1 << 30
"""Most that an analysis' shards of one group of layers keep for the job that joins them, unless a recipe says how large
shards are; beyond, there are fewer and larger ones."""
BATCH_ACTIVATION_BYTES = 256 << 20
"""Most activations of one batch of images; beyond, the batch gets smaller."""
CAFFE_PROTOTXT_BYTES = 2 << 20
"""Largest Caffe network description; those of the deepest published networks have some 200 kB."""
CAFFE_DEPTH = 12
"""Deepest nesting of a Caffe network description; Caffe's own messages nest four deep."""
CAFFE_LAYERS = 20_000
"""Most layers of a Caffe network."""
CAFFE_VALUE_ELEMENTS = 1 << 31
"""Most numbers that one blob of a Caffe network may hold at the batch size that its file declares."""
LOOP_TRIPS = 100_000
"""Most steps of all loops and recurrent layers of one call of a network."""
LOOP_BYTES = 256 << 20
"""Largest value that a loop carries from step to step, or collects over all of them."""
BODY_BYTES = 512 << 20
"""Most that graphs within nodes may copy of the weights around them, all together."""
ENTRIES_LOOKED_AT = 2_000_000
"""Most files and folders that a pattern for images may lead through."""
JOBS = 200_000
"""Most jobs of a run; beyond, it should be several runs."""
EXPORTER_SECONDS = 600.0
"""What another framework may take to write an ONNX file, unless the user says otherwise."""
