"""A finished run as its caller in Python sees it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz.core.errors import OutputError
from onnxviz.core.findings import pictures
from onnxviz.core.results import RunResult
from onnxviz.execution.folder import analysis_of

if TYPE_CHECKING:
    from PIL.Image import Image

_VERDICTS = {
    "passed": "passed",
    "failed": "failed",
    "incomplete": "incomplete",
    "finished": "finished; nothing was tested",
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        result: everything that was found, as plain data.
        folder: where it is stored.
        report: the page to open.
    """

    result: RunResult
    folder: Path
    report: Path

    def pictures(self, analysis: str) -> list[Image]:
        """Return the pictures of one analysis, in the order of the report.

        Raises:
            OutputError: if there is no such analysis, or a picture is gone.
        """
        from PIL import Image as Images

        found = []
        for part in analysis_of(self.result, analysis).parts:
            for picture in pictures(part.findings):
                path = self.folder / picture.path
                try:
                    with Images.open(path) as image:
                        found.append(image.convert("RGB"))
                except OSError as error:
                    raise OutputError("the picture cannot be read", where=str(path)) from error
        return found

    def metrics(self, analysis: str) -> dict[str, dict[str, float]]:
        """Return the metrics of one analysis for each model."""
        return {part.model: dict(part.metrics) for part in analysis_of(self.result, analysis).parts}

    def __repr__(self) -> str:
        return f"<onnxviz run {self.result.title!r}: {_VERDICTS[self.result.verdict]}; {self.report}>"

    def _repr_html_(self) -> str:
        """Show the verdict, the expectations and where the report is, in a notebook."""
        result = self.result
        lines = [f"<b>{html.escape(result.title)}</b>: {_VERDICTS[result.verdict]}"]
        for item in result.expectations:
            sign = "✓" if item.holds else "✗"
            value = "not produced" if item.value is None else f"{item.value:.4g}"
            lines.append(html.escape(f"{sign} {item.metric} {item.condition}: {value}"))
        lines.append(f"report: <code>{html.escape(str(self.report))}</code>")
        return "<br>".join(lines)
