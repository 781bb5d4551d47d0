"""Read a file of bounded size, or say why not."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnxviz.core.errors import ModelFileError, shorten


def read_bounded(path: Path, bound: int) -> bytes:
    """Read a regular file of at most `bound` bytes.

    Raises:
        ModelFileError: if it is missing, no regular file, empty, too large, or cannot be read.
    """
    place = shorten(str(path))
    try:
        with path.open("rb") as stream:
            regular = stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
            content = stream.read(bound + 1) if regular else b""
    except FileNotFoundError:
        raise ModelFileError("no such file", where=place, remedy="check the path") from None
    except (IsADirectoryError, NotADirectoryError):
        raise ModelFileError("a folder, not a file", where=place, remedy="give the path of a file") from None
    except PermissionError:
        remedy = "give the path of a file that the user who runs this may read"
        raise ModelFileError("no permission to read it", where=place, remedy=remedy) from None
    except (OSError, ValueError) as fault:
        raise ModelFileError(f"cannot be read: {fault}", where=place, remedy="check the path") from fault
    if not regular:
        raise ModelFileError("not a regular file", where=place, remedy="give the path of a file")
    if not content:
        raise ModelFileError("the file is empty", where=place, remedy="copy it again")
    if len(content) > bound:
        raise ModelFileError(
            f"more than the limit of {bound:,} bytes", where=place, remedy="is this the file that you meant?"
        )
    return content
