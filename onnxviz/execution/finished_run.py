"""A finished run as its caller in Python sees it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz.core.errors import OutputError, shorten
from onnxviz.core.findings import Finding, Metric, Note, pictures
from onnxviz.core.results import AnalysisResult, Part, RunResult
from onnxviz.execution.findings_view import finding_html, metrics_html, picture_html, sample

if TYPE_CHECKING:
    from PIL.Image import Image

_VERDICTS = {
    "passed": "passed",
    "failed": "failed",
    "incomplete": "incomplete",
    "finished": "finished; nothing was tested",
}
_PICTURES, _SENTENCES = 6, 3
"""Most pictures, sentences and numbers of a card."""


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
        for part in self._parts(analysis):
            for picture in pictures(part.findings):
                path = self.folder / picture.path
                try:
                    with Images.open(path) as image:
                        found.append(image.convert("RGB"))
                except OSError as error:
                    raise OutputError("the picture cannot be read", where=str(path)) from error
        return found

    def findings(self, analysis: str) -> dict[str, tuple[Finding, ...]]:
        """Return everything that one analysis found, for each model."""
        return {part.model: part.findings for part in self._parts(analysis)}

    def metrics(self, analysis: str) -> dict[str, dict[str, float]]:
        """Return the metrics of one analysis for each model."""
        return {part.model: dict(part.metrics) for part in self._parts(analysis)}

    def _parts(self, name: str) -> tuple[Part, ...]:
        for analysis in self.result.analyses:
            if analysis.id == name:
                return analysis.parts
        known = ", ".join(analysis.id for analysis in self.result.analyses)
        raise OutputError(f"the run has no analysis {shorten(name)!r}", remedy=f"it has {known}")

    def __repr__(self) -> str:
        return f"<onnxviz run {self.result.title!r}: {_VERDICTS[self.result.verdict]}; {self.report}>"

    def _repr_html_(self) -> str:
        """Show the verdict, the expectations, a card with pictures for each analysis, and where the report is."""
        result, where = self.result, self.report.resolve()
        lines = [f"<b>{html.escape(shorten(result.title, 200))}</b>: {_VERDICTS[result.verdict]}"]
        for item in result.expectations:
            sign = "✓" if item.holds else "✗"
            value = "not produced" if item.value is None else f"{item.value:.4g}"
            lines.append(html.escape(f"{sign} {item.metric} {item.condition}: {value}"))
        lines.append(
            f'report: <a href="{html.escape(where.as_uri())}"><code>{html.escape(str(self.report))}</code></a>'
        )
        cards = "".join(self._card(analysis) for analysis in result.analyses)
        return f'{"<br>".join(lines)}<div style="display:flex;flex-wrap:wrap;gap:16px">{cards}</div>'

    def _card(self, analysis: AnalysisResult) -> str:
        body = [f"<h4>{html.escape(shorten(analysis.title, 120))}</h4>"]
        for part in analysis.parts:
            if len(analysis.parts) > 1:
                body.append(f"<p><b>{html.escape(shorten(part.model))}</b></p>")
            body += [picture_html(item, self.folder, 96) for item in sample(part.findings, _PICTURES)]
            body += [finding_html(item) for item in part.findings if isinstance(item, Note)][:_SENTENCES]
            body.append(metrics_html([item for item in part.findings if isinstance(item, Metric)][:_SENTENCES]))
            body += [f"<p>{len(part.failed)} of {part.jobs} jobs failed</p>"] if part.failed else []
        return f'<div style="max-width:24em">{"".join(body)}</div>'
