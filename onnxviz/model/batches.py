"""How many images share a pass: as many as usual on the device unless memory does not allow it, and then it is said.

The usual number depends on the model and the kind of device only, so that the same recipe gives the same bits. It is
made smaller when an estimate says that memory cannot suffice, when a job is tried again after it ran out of memory
(`Model.halvings`), and when a pass runs out of memory: then it is halved, and the pass repeated from where it was.
"""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxviz.core.errors import MemoryLimitError
from onnxviz.core.memory import available_memory, chain, is_out_of_memory, show_bytes
from onnxviz.core.wording import listed

if TYPE_CHECKING:
    import torch

    from onnxviz.core.values import Layer
    from onnxviz.graph import GraphView
    from onnxviz.model.model import Model

WORKING_BYTES = 64 << 20
"""What the activations of one micro-batch may take."""
LARGEST_BATCH = 16
"""Images in a micro-batch: on a CPU more are not faster."""
_USABLE = 0.9
"""Part of the free memory that a pass may be planned to take."""
_ALIVE = 4
"""A pass without gradients holds what was asked for, and at most about this many times the largest value beside it."""
_REMEDY = "give smaller images, choose fewer or later layers, or raise the memory limit"

_Result = TypeVar("_Result")


# --- how many -------------------------------------------------------------------------------------------------------


def choose_batch(
    model: Model, usual: int, image_bytes: Callable[[], int], what: str, *, free: Callable[[], int] | None = None
) -> int:
    """Return how many images to take together, and say in `model.reduced` if they are fewer than usual.

    `image_bytes` estimates what one image takes; it is not asked where there is nothing to reduce. `what` is the
    subject of a sentence, `free` tells how many bytes are free where it is not the device's memory that matters.
    """
    size, why = max(1, usual >> model.halvings), ""
    if size < usual:
        why = "the job had run out of memory"
    if size > 1:
        each = max(1, image_bytes())
        room = int(_USABLE * (free_memory(model.device) if free is None else free()))
        if size * each > room:
            why = f"{size} need about {show_bytes(size * each)}, which is more than is free"
            while size > 1 and size * each > room:
                size //= 2  # not as many as fit: what is free differs a little every time, and batches should not
    sentence = _sentence(what, size, usual, why)
    remembered = model.fitting.get(what)
    if remembered is not None and remembered[0] < size:
        size, sentence = remembered
    if size < usual:
        say(model, sentence)
    return size


def run_batches(
    model: Model | None,
    count: int,
    size: int,
    work: Callable[[int, int], _Result],
    what: str,
    *,
    start: int = 0,
    fixed: bool = False,
    release: Callable[[], None] | None = None,
) -> Iterator[tuple[int, int, _Result]]:
    """Work on images, some at a time; fewer at a time from where memory has run out.

    `work` does the images from a number to before another, `what` is the subject of a sentence on it. With `fixed` the
    model takes exactly `size` images. `release` frees what the caller keeps for later, before work is tried again.
    Without a model nobody is told of smaller batches.

    Yields:
        The first number, the one after the last, and the result of `work`.

    Raises:
        MemoryLimitError: if one image is too many, or the number is fixed.
    """
    usual, said, emptied = size, "", False
    while start < count:
        stop = min(start + size, count)
        try:
            result = work(start, stop)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if emptied and (fixed or stop - start == 1):
                raise _limit(what, error, size if fixed else 1) from _bare(error)
            _bare(error)
        else:
            yield start, stop, result
            del result  # or it would live beside the next one
            start = stop
            continue
        # The handler is left: the error, its traceback and the tensors of its frames are gone.
        if release is not None:
            release()
        empty(None if model is None else model.device)
        emptied = True
        if fixed or stop - start == 1:
            continue  # once more, now that what was kept for later is gone
        smaller = (stop - start) // 2
        if model is not None:
            if said in model.reduced:
                model.reduced.remove(said)
            said = _sentence(what, smaller, usual, "memory did not suffice for more")
            say(model, said)
            model.fitting[what] = (smaller, said)
        size = smaller


@contextlib.contextmanager
def named_memory_limit(what: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turn whatever says that memory does not suffice into one kind of error that names what does not fit."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryLimitError) or not is_out_of_memory(error):
            raise
        raise _limit(what, error, 1, remedy) from _bare(error)


def say(model: Model, sentence: str) -> None:
    """Note once that something was made smaller than usual."""
    if sentence not in model.reduced:
        model.reduced.append(sentence)


def free_memory(device: torch.device) -> int:
    """Return how many bytes can be had where a device computes; what PyTorch keeps of a GPU unused counts as free."""
    if device.type != "cuda":
        return available_memory()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def empty(device: torch.device | None) -> None:
    """Give back what is no longer used: cycles of objects, and on a GPU what PyTorch keeps for later."""
    gc.collect()
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _sentence(what: str, size: int, usual: int, why: str) -> str:
    return f"{what} took {_images(size)} at a time instead of {usual}, because {why}."


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _limit(what: str, error: BaseException, count: int, remedy: str = _REMEDY) -> MemoryLimitError:
    """Return the error that names what does not fit; the innermost one knows best."""
    for fault in chain(error):
        if isinstance(fault, MemoryLimitError):
            return MemoryLimitError(fault.what, where=fault.where, remedy=fault.remedy)
    even = "even for one image" if count == 1 else f"for {count} images at a time"
    return MemoryLimitError(f"{what} needs more memory than there is, {even}", remedy=remedy)


def _bare(error: BaseException) -> BaseException:
    """Drop the frames that an error and what led to it hold, with their tensors."""
    for fault in chain(error):
        fault.__traceback__ = None
    return error


# --- how large ------------------------------------------------------------------------------------------------------


def micro_batch(view: GraphView, size: tuple[int, int], image: Sequence[int], layers: Sequence[Layer]) -> int:
    """Return how many images share a pass without gradients, so that what is asked for stays small.

    `size` is the model's own, `image` that of the images: height and width in pixels.
    """
    return view.batch or max(1, min(LARGEST_BATCH, WORKING_BYTES // (4 * _asked_numbers(view, size, image, layers))))


def pass_bytes(view: GraphView, size: tuple[int, int], image: Sequence[int], layers: Sequence[Layer]) -> int:
    """Estimate what a pass without gradients takes for one image, in bytes; arguments as for `micro_batch`."""
    last = max(layer.position for layer in layers)
    largest = max(_numbers(view, layer, size, image) for layer in view.layers[: last + 1])
    return 4 * (_asked_numbers(view, size, image, layers) + _ALIVE * largest)


def gradient_bytes(view: GraphView, size: tuple[int, int], image: Sequence[int], layer: Layer) -> int:
    """Estimate what a pass with gradients takes for one image, in bytes: every value up to the layer, and gradients."""
    numbers = [_numbers(view, other, size, image) for other in view.layers[: layer.position + 1]]
    return 4 * (sum(numbers) + _ALIVE * max(numbers) + 24 * image[0] * image[1])


def _asked_numbers(view: GraphView, size: tuple[int, int], image: Sequence[int], layers: Sequence[Layer]) -> int:
    """Return how many numbers one image, its encoding and its activations are."""
    return 6 * image[0] * image[1] + sum(_numbers(view, layer, size, image) for layer in layers)


def _numbers(view: GraphView, layer: Layer, size: tuple[int, int], image: Sequence[int]) -> int:
    """Return how many numbers a layer gives for one image; where its map's size is open, one for each pixel."""
    pixels, count = image[0] * image[1], math.prod(length or 1 for length in layer.shape[1:])
    first, *others = layer.shape or (None,)
    if first is not None and (first > 1 or (view.batch is None and others.count(None) == 1)):
        return count * first  # the images are along another axis, which is the free one
    if not layer.spatial_shape:
        return count
    return count * (max(pixels // (size[0] * size[1]), 1) if all(layer.spatial_shape) else pixels)


# --- what tensors look like -----------------------------------------------------------------------------------------


def filled(images: npt.NDArray[Any], batch: int | None) -> npt.NDArray[Any]:
    """Return images, [N, ...], with copies of the last until they are whole batches of a model that takes so many."""
    missing = -len(images) % (batch or 1)
    return np.concatenate([images, np.repeat(images[-1:], missing, axis=0)]) if missing else images


def room_for(tensor: torch.Tensor | np.ndarray, count: int) -> torch.Tensor | np.ndarray:
    """Return an empty tensor for `count` images that lies in memory as the given one does."""
    if isinstance(tensor, np.ndarray):
        return np.empty((count, *tensor.shape[1:]), tensor.dtype)
    import torch

    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
    size = (count, *tensor.shape[1:])
    return torch.empty(size, dtype=tensor.dtype, device=tensor.device, memory_format=layout)


def layers_in_words(layers: Sequence[Layer]) -> str:
    """Return the subject of a sentence on a pass that computes some layers."""
    return f"A pass to {listed((layer.name for layer in layers), 2, length=40)}"
