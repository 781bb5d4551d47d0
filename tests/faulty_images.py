"""A folder of photographs of which some are not what they seem, and the same photographs without any oddity."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

SIDE = 20_000
"""Side of the picture of 400 million pixels, in pixels."""


@dataclass(frozen=True)
class Kind:
    """One way in which a file can be odd.

    Attributes:
        write: photograph -> bytes of the file.
        reason: part of what is said of it if it is skipped; "" if it is used.
        seen: photograph -> the pixels that the file stands for, if it is used.
        remark: part of what is said of it although it is used.
    """

    write: Callable[[Pixels], bytes]
    reason: str = ""
    seen: Callable[[Pixels], Pixels] | None = None
    remark: str = ""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(pixels: Pixels) -> bytes:
    return encoded(Image.fromarray(pixels), "JPEG", quality=95)


def png(pixels: Pixels) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")


def _as_jpeg(pixels: Pixels) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(jpeg(pixels))).convert("RGB"))


def _huge() -> bytes:
    """Return a whole PNG of 400 million pixels of one bit: a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + SIDE // 8)
    body = b"".join([*(packer.compress(row * 1000) for _ in range(SIDE // 1000)), packer.flush()])
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _cmyk(pixels: Pixels) -> bytes:
    """Return a CMYK picture without loss: ink is what light lacks, and no black."""
    ink = np.concatenate([255 - pixels, np.zeros((*pixels.shape[:2], 1), np.uint8)], axis=2)
    return encoded(Image.frombytes("CMYK", (pixels.shape[1], pixels.shape[0]), ink.tobytes()), "TIFF")


def _grey(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[:, :, 1:2], 3, axis=2)


def _sixteen_bits(pixels: Pixels) -> bytes:
    return encoded(Image.fromarray(pixels[:, :, 1].astype(np.uint16) * 257), "PNG")


def _animated(pixels: Pixels) -> bytes:
    frames = [Image.fromarray(np.roll(pixels, 8 * step, axis=1)) for step in range(3)]
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])


def _gif(pixels: Pixels) -> bytes:
    frames = [Image.fromarray(np.roll(pixels, 8 * step, axis=1)).quantize(64) for step in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _first_of_gif(pixels: Pixels) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(_gif(pixels))).convert("RGB"))


def _middle_lost(pixels: Pixels) -> bytes:
    content = png(pixels)
    return content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :]


KINDS: dict[str, Kind] = {
    "zero-byte.jpg": Kind(lambda _: b"", "an empty file"),
    "truncated.jpg": Kind(lambda pixels: jpeg(pixels)[: len(jpeg(pixels)) * 2 // 3], "damaged or truncated image"),
    "truncated.png": Kind(lambda pixels: png(pixels)[: len(png(pixels)) * 2 // 3], "damaged or truncated image"),
    "damaged.png": Kind(_middle_lost, "damaged or truncated image"),
    "400-megapixel.png": Kind(lambda _: _huge(), "pixels"),
    "text.jpg": Kind(lambda _: b"this is no picture\n" * 40, "not an image in one of the formats"),
    "executable.png": Kind(lambda _: b"\x7fELF" + bytes(400), "not an image in one of the formats"),
    "floats.tif": Kind(
        lambda pixels: encoded(Image.fromarray(pixels[:, :, 0].astype(np.float32)), "TIFF"), "whose range is unknown"
    ),
    "cmyk.tif": Kind(_cmyk, seen=lambda pixels: pixels),
    "16-bit.png": Kind(_sixteen_bits, seen=_grey),
    "animated.png": Kind(_animated, seen=lambda pixels: pixels, remark="animation: the first of 3 frames"),
    "animated.gif": Kind(_gif, seen=_first_of_gif, remark="animation: the first of 3 frames"),
    "png-called.jpg": Kind(png, seen=lambda pixels: pixels),
    "jpeg-called.png": Kind(jpeg, seen=_as_jpeg),
}
"""Name of the file -> what is odd about it."""
GOOD = ("a-good.png", "z-good.png")


def write_photographs(folder: Path, plain: Path, pictures: list[Pixels]) -> None:
    """Write one file of each kind between good ones, and what can be used of it as plain PNG under the same name.

    Args:
        folder: for the odd files.
        plain: for the plain ones.
        pictures: photographs, uint8 [height, width, 3], RGB; taken in turns.
    """
    for parent in (folder, plain):
        parent.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate((*GOOD, *KINDS)):
        pixels = pictures[index % len(pictures)]
        kind = KINDS.get(name, Kind(png, seen=lambda pixels: pixels))
        (folder / name).write_bytes(kind.write(pixels))
        if kind.seen is not None:
            (plain / name).write_bytes(png(kind.seen(pixels)))


BAD_MASKS: dict[str, tuple[Callable[[npt.NDArray[np.uint8]], bytes], str]] = {
    "mask-empty": (lambda _: b"", "an empty file"),
    "mask-text": (lambda _: b"no mask\n" * 40, "not an image in one of the formats"),
    "mask-missing": (lambda _: b"", "has no mask"),
    "mask-400-megapixel": (lambda _: _huge(), "pixels"),
    "mask-of-colours": (lambda mask: png(np.stack([mask] * 3, axis=2)), "not a mask of indices"),
    "mask-of-another-ratio": (lambda mask: png(mask[1:-2]), "another aspect ratio"),
}
"""Name of the image -> its mask's bytes, and what is said of it where it is opened."""
LATE_MASKS: dict[str, tuple[Callable[[npt.NDArray[np.uint8]], bytes], str]] = {
    "mask-truncated": (lambda mask: png(mask)[: len(png(mask)) * 2 // 3], "damaged or truncated image"),
    "mask-value-unknown": (lambda mask: png(np.full_like(mask, 250)), "which the class list does not name"),
}
"""The same for what is found only when the mask is read: of many, when its job is done."""


def write_concepts(folder: Path, pictures: list[Pixels], masks: list[npt.NDArray[np.uint8]], names: list[str]) -> None:
    """Write a concept folder of good images and masks, and of the images of `BAD_MASKS`.

    Args:
        folder: where.
        pictures: uint8 [height, width, 3], RGB.
        masks: uint8 [height, width], values that index `names`.
        names: of the mask values.
    """
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(names) + "\n")
    for index, (pixels, mask) in enumerate(zip(pictures, masks, strict=True)):
        (folder / f"images/good-{index}.png").write_bytes(png(pixels))
        (folder / f"labels/good-{index}.png").write_bytes(png(mask))
    for name, (build, _) in BAD_MASKS.items():
        add_mask(folder, name, pictures[0], None if name == "mask-missing" else build(masks[0]))


def add_mask(folder: Path, name: str, pixels: Pixels, mask: bytes | None) -> None:
    """Write an image with its mask into a concept folder; without a mask if that is None."""
    (folder / f"images/{name}.png").write_bytes(png(pixels))
    if mask is not None:
        (folder / f"labels/{name}.png").write_bytes(mask)
