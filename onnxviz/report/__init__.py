"""From findings to a page: `write_report` makes the report of a run, `compare` makes one run of several."""

from __future__ import annotations

from onnxviz.report.comparison import compare
from onnxviz.report.page import write_report

__all__ = ["compare", "write_report"]
