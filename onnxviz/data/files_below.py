"""Many files below one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload


@dataclass(frozen=True)
class FilesBelow(Sequence[Path]):
    """Files by their names below a folder; a path, five times as large as its name, is made when it is asked for."""

    folder: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> FilesBelow: ...

    def __getitem__(self, index: int | slice) -> Path | FilesBelow:
        if isinstance(index, slice):
            return FilesBelow(self.folder, self.names[index])
        return self.folder / self.names[index]
