"""Every numeric bound in one place: what the tool refuses, and from which size on."""

from __future__ import annotations

MODEL_BYTES = 2 << 30
"""Largest model file, external data not counted; protobuf itself ends at 2 GiB."""
EXTERNAL_BYTES = 16 << 30
"""Largest sum of a model's external data."""
NODES = 100_000
"""Largest number of nodes, those of functions and sub-graphs counted."""
NAME_LENGTH = 4_096
"""Longest name of a node or value that is shown in full; longer ones are cut for display."""
TENSOR_BYTES = 4 << 30
"""Largest single tensor of a model."""
FOLDED_BYTES = 64 << 20
"""Largest tensor that constant folding may make."""
RECIPE_BYTES = 1 << 20
"""Largest recipe."""
RECIPE_DEPTH = 32
"""Deepest nesting of a recipe."""
IMAGE_BYTES = 100 << 20
"""Largest image file."""
IMAGE_PIXELS = 64_000_000
"""Largest image in pixels; checked before decoding."""
LABELS_BYTES = 4 << 20
"""Largest file of class names."""
FOLDED_TOTAL_BYTES = 1 << 30
"""Most that constant folding may make of one model, all tensors together."""
KEPT_ACTIVATION_BYTES = 1 << 30
"""Most activations that dissection keeps in memory between its two passes; beyond, they are computed again."""
BATCH_ACTIVATION_BYTES = 256 << 20
"""Most activations of one batch of images; beyond, the batch gets smaller."""
