"""How a run is shown while it goes on: bars in a terminal, plain lines elsewhere, JSON lines for other programs."""

from __future__ import annotations

from onnxviz.progress.counting import Progression, duration, span
from onnxviz.progress.events import EventStream
from onnxviz.progress.plain import PlainProgress
from onnxviz.progress.terminal import TerminalProgress

__all__ = ["EventStream", "PlainProgress", "Progression", "TerminalProgress", "duration", "span"]
