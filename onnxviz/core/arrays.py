"""NumPy's own files (.npy), on the assumption that whoever wrote them means harm: bounded, and never unpickled."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from onnxviz.core.errors import DataError, beginning, shorten

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_array(path: Path, most_bytes: int, content: BinaryIO | None = None) -> np.ndarray:
    """Read an array of numbers or text from a .npy file, or from its `content` where that has been read already.

    Raises:
        DataError: if it cannot be read, is no such file, holds Python objects, or more than it may.
    """
    with _opened(path, content) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        shape, by_columns, kind = _header(stream, path)
        wanted = math.prod(shape) * kind.itemsize
        if wanted > most_bytes:
            raise DataError(f"{wanted:,} bytes are more than the limit of {most_bytes:,}", where=_shown(path))
        if wanted != size - stream.tell():  # before anything of the size that the header claims is allocated
            raise DataError(
                f"damaged: {size - stream.tell():,} bytes where its shape {list(shape)} takes {wanted:,}",
                where=_shown(path),
                remedy="copy or save it again",
            )
        flat = np.frombuffer(stream.read(wanted), kind) if kind.itemsize else np.zeros(math.prod(shape), kind)
        return flat.reshape(shape, order="F" if by_columns else "C")


def array_kind(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of a .npy file's array from its header alone.

    Raises:
        DataError: as `read_array`.
    """
    with _opened(path) as stream:
        shape, _, kind = _header(stream, path)
        return shape, kind


@contextmanager
def _opened(path: Path, content: BinaryIO | None = None) -> Iterator[BinaryIO]:
    try:
        if content is not None:
            yield content
            return
        with path.open("rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise DataError("not a regular file", where=_shown(path))
            yield stream
    except FileNotFoundError:
        raise DataError("no such file", where=_shown(path), remedy="check the path of the array") from None
    except (OSError, ValueError, EOFError) as fault:
        raise DataError(
            f"not a readable .npy file ({beginning(str(fault)) or type(fault).__name__})",
            where=_shown(path),
            remedy="write it with numpy.save",
        ) from fault


def _header(stream: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise DataError(f"a .npy file of version {version[0]}.{version[1]}", where=_shown(path))
    shape, by_columns, kind = _READERS[version](stream)
    if kind.hasobject or kind.names is not None:
        raise DataError(
            f"holds {'Python objects' if kind.hasobject else 'records'}, not numbers",
            where=_shown(path),
            remedy="save a plain array of numbers",
        )
    return shape, by_columns, kind


def _shown(path: Path) -> str:
    return shorten(str(path), 200)
