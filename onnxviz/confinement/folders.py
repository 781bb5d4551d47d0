"""Which paths a confined process may read: all that is no home folder, and what Python needs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

HOMES = ("/home", "/root", "/var/home", "/var/root", "/Users", "/export/home")
"""Where systems keep home folders, beside the home folder of this user."""
_HIDDEN = ("/dev", "/run/user", "/run/secrets", "/var/run/secrets")
"""Devices (raw disks hold every home folder), and where services keep sockets and secrets."""


def home_folders() -> tuple[Path, ...]:
    """Return the real folders that hold homes, and this user's own wherever it is."""
    found = {Path(folder) for folder in HOMES}
    if named := os.environ.get("HOME"):
        found.add(Path(named))
    try:
        import pwd

        found.add(Path(pwd.getpwuid(os.getuid()).pw_dir))
    except (ImportError, KeyError):  # Windows, and containers with a user that has no name.
        pass
    return tuple(sorted({Path(os.path.realpath(folder)) for folder in found if _is_there(folder)}))


def readable_paths(read: Sequence[Path], homes: Collection[Path]) -> tuple[Path, ...]:
    """Return the real paths below which a confined process may read: the system's, Python's and what else it needs."""
    hidden = {*homes, *(Path(os.path.realpath(folder)) for folder in _HIDDEN)} - {Path("/")}
    searched = (path for path in _searched_paths() if not any(home.is_relative_to(path) for home in homes))
    named = (*_python_paths(), *searched, *(Path(os.path.realpath(path)) for path in read))
    return tuple(dict.fromkeys([*_around(Path("/"), hidden), *(path for path in named if _is_there(path))]))


def exposed_homes(allowed: Iterable[Path], homes: Collection[Path]) -> tuple[Path, ...]:
    """Return those of the allowed paths that hold a home folder; one that is the root folder cannot be hidden."""
    found = [path for path in allowed if any(home.is_relative_to(os.path.realpath(path)) for home in homes)]
    return (*found, *(home for home in homes if home == Path("/")))


def _is_there(path: Path) -> bool:
    """Like `path.exists()`, but False for what this user may not look at."""
    return os.access(path, os.F_OK)


def _around(folder: Path, hidden: set[Path]) -> list[Path]:
    """Return what is in a folder, whole where nothing below it is hidden."""
    found: list[Path] = []
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:  # Not readable now, so not readable later.
        return found
    for entry in entries:
        path = Path(entry.path)
        with contextlib.suppress(OSError):  # A network folder without its server, for example: stays closed.
            # What a link points to is allowed or hidden where it really is.
            if entry.is_symlink() or path in hidden:
                continue
            if entry.is_dir() and any(inner.is_relative_to(path) for inner in hidden):
                found += _around(path, hidden)
            elif entry.is_dir() or (entry.is_file() and folder != Path("/")):
                found.append(path)
    return found


def _python_paths() -> list[Path]:
    """Return the folders of Python and of this package."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    return [*(Path(os.path.realpath(prefix)) for prefix in sorted(prefixes)), Path(__file__).resolve().parent.parent]


def _searched_paths() -> list[Path]:
    """Return where Python and the loader look for modules and libraries; "" is the current folder, and is no library.

    Packages that were installed for development lie where their author works: setuptools keeps their folders in
    modules named `__editable___...`.
    """
    names = [name for name in sys.path if name]
    for module in [module for name, module in list(sys.modules.items()) if name.startswith("__editable__")]:
        mapping = getattr(module, "MAPPING", None)
        names += list(mapping.values()) if isinstance(mapping, dict) else []
    names += [name for name in os.environ.get("LD_LIBRARY_PATH", "").split(":") if name]
    return [Path(os.path.realpath(name)) for name in dict.fromkeys(names)]
