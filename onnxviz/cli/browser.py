"""Opens reports for people who sit in front of a desktop."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path


def open_page(page: Path, wanted: bool | None) -> None:
    """Open a page, if it is wanted, or, where the user does not say, if somebody sits in front of a desktop."""
    desktop = sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if wanted is None:
        wanted = desktop and sys.stdout.isatty() and "CI" not in os.environ
    if wanted:
        webbrowser.open(page.resolve().as_uri())
