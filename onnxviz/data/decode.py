"""Image files to pixels, on the assumption that whoever wrote the file means harm.

Only the formats in `FORMATS` are opened, a file is bounded in bytes and pixels before it is decoded, and whatever a
decoder raises becomes a `DataError` that names the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from onnxviz.core import limits
from onnxviz.core.arrays import array_kind, read_array
from onnxviz.core.errors import DataError, beginning, shorten

Pixels: TypeAlias = npt.NDArray[np.uint8]

ARRAY_SUFFIX = ".npy"
"""What names of arrays [height, width, channels] end in."""
_SAMPLES_PER_PIXEL = 277
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The only formats that are decoded, whatever the file's name ends in."""
_TAIL_BYTES = 1 << 16
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, digest: bytes | None = None) -> Pixels:
    """Decode an image file to uint8 [height, width, 3], RGB.

    The first frame of an animation; EXIF orientation applied; transparency laid over white; 16-bit grey divided by
    257; CMYK and palettes converted; colour profiles ignored, as the networks' own training pipelines ignore them.

    `digest` is the SHA-256 that the file must have.

    Raises:
        DataError: if the file is too large, not an image of a known format, damaged, or another than it must be.
    """
    if is_array(path):
        return _as_rgb(read_stored(path, digest), path)
    with _opened(path, digest) as image:
        return _decoded(image, path)


def read_stored(path: Path, digest: bytes | None = None) -> npt.NDArray[Any]:
    """Decode an image to the numbers that the file holds, nothing converted: an alpha channel is a channel.

    An array (.npy) as it is; an image as Pillow reads it, EXIF orientation applied, palettes as the colours that they
    stand for; the pages of a TIFF of several grey pages of one size are its channels.

    Returns:
        [height, width, channels] or [height, width], whole or floating numbers.

    Raises:
        DataError: as for `read_image`, or if Pillow would leave channels out.
    """
    if is_array(path):
        _require_regular(path)
        content = None if digest is None else io.BytesIO(_bytes_of(path, digest))
        array = read_array(path, limits.IMAGE_BYTES, content)
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            raise DataError("holds values that are no numbers", where=_shown(path))
        return array
    try:
        with _opened(path, digest) as image:
            return _stored(image, path)
    except DataError as fault:
        if isinstance(fault.__cause__, UnidentifiedImageError):
            fault.remedy = "save channels of more than 8 bits as an array: numpy.save, [height, width, channels]"
        raise


def _stored(image: Image.Image, path: Path) -> npt.NDArray[Any]:
    pages = int(getattr(image, "n_frames", 1)) if image.format == "TIFF" else 1
    if image.width * image.height * pages > limits.IMAGE_PIXELS:
        raise _too_many_pixels(path, f"{pages} pages of {image.width} x {image.height} pixels")
    orientation = _orientation(image)
    found = []
    for page in range(pages):
        if pages > 1:
            image.seek(page)
        turned = _turned(image, orientation)
        if turned.mode in ("P", "PA"):
            turned = turned.convert("RGBA" if turned.mode == "PA" or "transparency" in turned.info else "RGB")
        array = np.asarray(turned.convert("L") if turned.mode == "1" else turned)
        tags = getattr(image, "tag_v2", {})
        promised = int(tags.get(_SAMPLES_PER_PIXEL, 1)) if image.format == "TIFF" and image.mode != "P" else 0
        if promised > len(turned.getbands()):
            raise DataError(
                f"holds {promised} channels, of which Pillow reads {len(turned.getbands())}",
                where=_shown(path),
                remedy="save it as an array: numpy.save, [height, width, channels]",
            )
        found.append(array)
    if pages > 1 and all(array.ndim == 2 and array.shape == found[0].shape for array in found):
        return np.stack(found, axis=2)
    return found[0]


def is_array(path: Path) -> bool:
    """Whether a file's name is that of an array."""
    return path.suffix.lower() == ARRAY_SUFFIX


def _as_rgb(array: npt.NDArray[Any], path: Path) -> Pixels:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)) or not array.size:
        raise DataError(
            f"is no RGB image of 8 bits, but {array.dtype} {list(array.shape)}",
            where=_shown(path),
            remedy="write `preprocess: {channel_order: STORED, ...}` for a model that takes what the files hold",
        )
    grey = array.ndim == 2 or array.shape[2] == 1
    return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if grey else array


def _array_size(path: Path) -> tuple[int, int]:
    _require_regular(path)
    shape, kind = array_kind(path)
    if len(shape) not in (2, 3) or kind.kind not in "biuf" or 0 in shape:
        raise DataError(
            f"is no image, but {kind} {list(shape)}", where=_shown(path), remedy="save [height, width, channels]"
        )
    if shape[0] * shape[1] > limits.IMAGE_PIXELS:
        raise _too_many_pixels(path, f"{shape[1]} x {shape[0]} pixels")
    return shape[0], shape[1]


def image_pixels(image: Image.Image) -> Pixels:
    """Return an image that Pillow has opened or made as `read_image` returns its file; raises as it does."""
    place = Path(str(getattr(image, "filename", "")) or "a PIL image")
    with _damage_named(place):
        return _decoded(image, place)


def _decoded(image: Image.Image, path: Path) -> Pixels:
    return np.array(_to_rgb(_turned(image, _orientation(image)), path), dtype=np.uint8)


def check_image(path: Path) -> str:
    """Check an image file by its header and checksums or end mark, decode it only where there are none.

    Returns a remark for the reader, or ""; raises DataError if the file cannot be used.
    """
    if is_array(path):
        _array_size(path)
        return ""
    with _opened(path) as image:
        complete = image.format == "PNG" or _has_end_mark(path, str(image.format))
        animated = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
        frames = int(getattr(image, "n_frames", 1)) if animated else 1
        if image.format == "PNG":
            with _open(path) as again:  # verify() needs a file of which nothing has been read
                again.verify()
    if not complete:
        read_image(path)
    return f"animation: the first of {frames} frames is used" if frames > 1 else ""


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels, as `read_image` will give them, from the header alone; raises as it does."""
    if is_array(path):
        return _array_size(path)
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def read_indices(path: Path, digest: bytes | None = None) -> npt.NDArray[np.int32]:
    """Decode an image of indices: the raw values of a grey picture or the palette indices of a coloured one.

    Returns:
        int32 [height, width].

    Raises:
        DataError: as for `read_image`, or if the file is no such image or stored with loss.
    """
    with _opened(path, digest) as image:
        _require_indices(image, path)
        return np.asarray(image).astype(np.int32)


def indices_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels, as `read_indices` will give them, from the header alone; raises as it does."""
    with _opened(path) as image:
        _require_indices(image, path)
        return image.size[1], image.size[0]


def read_coded(path: Path, digest: bytes | None = None) -> npt.NDArray[np.int32]:
    """Decode a picture whose pixels are numbers: red + 256 * green, as Broden's are (NetDissect, `joinseg.py`).

    Returns:
        int32 [height, width].

    Raises:
        DataError: as for `read_image`, or if the file is no such picture or stored with loss.
    """
    with _opened(path, digest) as image:
        _require_coded(image, path)
        pixels = np.asarray(image)
    if pixels[:, :, 2].any():
        raise DataError("a picture with blue in it, not red + 256 * green", where=_shown(path))
    numbers: npt.NDArray[np.int32] = pixels[:, :, 0] + np.int32(256) * pixels[:, :, 1]
    return numbers


def coded_size(path: Path) -> tuple[int, int]:
    """Return height and width in pixels, as `read_coded` will give them, from the header alone; raises as it does."""
    with _opened(path) as image:
        _require_coded(image, path)
        return image.size[1], image.size[0]


def _require_coded(image: Image.Image, path: Path) -> None:
    _require_lossless(image, path)
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"a picture ({image.mode}) without red and green, which code numbers", where=_shown(path))


def _require_lossless(image: Image.Image, path: Path) -> None:
    if image.format in ("JPEG", "MPO", "WEBP"):
        raise DataError("a mask in a format that may change values", where=_shown(path), remedy="use PNG")


def _require_indices(image: Image.Image, path: Path) -> None:
    _require_lossless(image, path)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        raise DataError(
            f"a colour picture ({image.mode}), not a mask of indices",
            where=_shown(path),
            remedy="store one number for each pixel: a grey or palette PNG",
        )


def _bytes_of(path: Path, digest: bytes) -> bytes:
    """Read a file once, so that what is decoded is what was compared."""
    with path.open("rb") as stream:
        content = stream.read(limits.IMAGE_BYTES + 1)
    if hashlib.sha256(content).digest() != digest:
        raise DataError(
            "was changed since the run was planned",
            where=_shown(path),
            remedy="run the same command again: what is done is kept",
        )
    return content


_LOCK = threading.Lock()
_filters = contextlib.ExitStack()
_inside: list[None] = []


@contextlib.contextmanager
def warnings_ignored() -> Iterator[None]:
    """Ignore what Pillow warns of: metadata that is damaged, and sizes, which are bounded here.

    The filters are those of the whole process, so threads that decode share them: the first one in sets them, and the
    last one out restores what was before.
    """
    with _LOCK:
        if not _inside:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _inside.append(None)
    try:
        yield
    finally:
        with _LOCK:
            _inside.pop()
            if not _inside:
                _filters.close()


@contextlib.contextmanager
def _opened(path: Path, digest: bytes | None = None) -> Iterator[Image.Image]:
    """Open an image file within bounds; what is done to it in the block fails with a `DataError` that names it."""
    _require_regular(path)
    with _damage_named(path), _open(path if digest is None else io.BytesIO(_bytes_of(path, digest))) as image:
        _require_bounded(image, path)
        yield image


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataError, MemoryError):  # too little memory is no fault of the file
        raise
    except Exception as fault:  # a decoder on hostile bytes may raise anything
        raise _damaged(path, fault) from fault


def _open(path: Path | BinaryIO) -> Image.Image:
    with warnings_ignored():
        return Image.open(path, formats=FORMATS)


def _require_regular(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as fault:
        raise DataError(f"cannot be read: {fault.strerror or 'no such file'}", where=_shown(path)) from fault
    except ValueError as fault:
        raise DataError(f"not a file name: {fault}", where=_shown(path)) from fault
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file", where=_shown(path))
    if status.st_size == 0:
        raise DataError("an empty file", where=_shown(path))
    if status.st_size > limits.IMAGE_BYTES:
        raise DataError(
            f"larger than {limits.IMAGE_BYTES >> 20} MiB", where=_shown(path), remedy="reduce the image first"
        )


def _require_bounded(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > limits.IMAGE_PIXELS:
        raise _too_many_pixels(path, f"{width} x {height} pixels")
    if width < 1 or height < 1:
        raise DataError("an image without pixels", where=_shown(path))


def _too_many_pixels(path: Path, size: str) -> DataError:
    return DataError(
        f"too large: {size}, the limit is {limits.IMAGE_PIXELS // 1_000_000} million",
        where=_shown(path),
        remedy="reduce the image first",
    )


def _damaged(path: Path, fault: Exception) -> DataError:
    if isinstance(fault, Image.DecompressionBombError):
        return _too_many_pixels(path, "more pixels than Pillow decodes")
    if isinstance(fault, UnidentifiedImageError):
        return DataError(f"not an image in one of the formats {', '.join(FORMATS)}", where=_shown(path))
    if isinstance(fault, PermissionError):
        return DataError("cannot be read: no permission", where=_shown(path))
    return DataError(
        f"damaged or truncated image ({beginning(str(fault)) or type(fault).__name__})",
        where=_shown(path),
        remedy="open it in an image viewer, or remove it from the data",
    )


def _has_end_mark(path: Path, format_name: str) -> bool:
    """Whether the file ends as its format says; False where the format has no mark, so that it gets decoded."""
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
        stream.seek(0)
        head = stream.read(12)
    if format_name in ("JPEG", "MPO"):
        return tail.rfind(b"\xff\xd9") > tail.rfind(b"\xff\xda")
    if format_name == "GIF":
        return tail.rstrip(b"\0").endswith(b";")
    if format_name == "WEBP":
        return size >= int.from_bytes(head[4:8], "little") + 8
    return False


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) if there is none or the metadata is damaged."""
    with warnings_ignored():
        try:
            value = image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # metadata is not worth an image
            return 1
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    image.load()
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bits(image, path)
    if image.mode == "F":
        raise DataError("holds floating pixels, whose range is unknown", where=_shown(path), remedy="convert to 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _from_16_bits(image: Image.Image, path: Path) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DataError("holds 32-bit pixels, whose range is unknown", where=_shown(path), remedy="convert to 8 bits")
    grey = ((values + 128) // 257).astype(np.uint8)
    return Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))


def _shown(path: Path) -> str:
    return shorten(str(path), 200)
