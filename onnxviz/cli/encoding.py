"""Standard output and error in encodings that lack signs."""

from __future__ import annotations

import sys


def replace_unknown_signs() -> None:
    """Let signs that the encoding of standard output lacks be replaced, not fatal."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
