"""The page: a constant shell, one script, one style sheet, and the run as an escaped JSON island.

Python writes no markup from data. Everything that a model, an image's name or a recipe says reaches the page inside
the island, where it cannot end the element that holds it, and the script turns it into text nodes. The content
security policy names the script and the style sheet by their hashes, so nothing else runs even if that failed.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from onnxviz.core import results
from onnxviz.core.errors import OutputError
from onnxviz.core.findings import Metric
from onnxviz.core.results import RunResult
from onnxviz.report.differences import count_of, differences
from onnxviz.report.files import ARRAYS, PICTURES, content_name, find_kind, place, write_text

ENTRY = "navigation.js"
"""The script that starts the page; what it imports, and what that imports, is the rest."""
STYLES = ("page.css", "chapters.css", "findings.css", "tables.css", "pictures.css", "charts.css", "narrow.css")
"""In the order in which they are joined: a later one overrides."""
_LOCKED = "recipe.lock.yaml"
"""The recipe with all defaults filled in, in the folder of every run but a comparison of several."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|let) )", re.MULTILINE)
_ASSET = re.compile(r"[0-9a-f]{20}\.(png|jpg|npz)\Z")
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_report(result: RunResult, folder: Path, *, single_file: bool = False) -> Path:
    """Write `folder/report/index.html` and, beside it, the pictures that it shows.

    The folder `report` can be moved or sent alone. What an earlier report left there is replaced; other files stay.

    Args:
        result: the run, with pictures and arrays stored.
        folder: the run folder; pictures' and arrays' paths are relative to it.
        single_file: put the pictures into the page itself. Arrays are then named, not linked.

    Returns:
        Path of the page.

    Raises:
        OutputError: if the folder cannot be written, or the run refers to files outside its folder.
    """
    report = folder / "report"
    try:
        report.mkdir(parents=True, exist_ok=True)
        files = _Files(folder, None if single_file else report / "assets")
        page = build_page(_island(result, files), single_file=single_file)
        index = report / "index.html"
        write_text(index, page)
        _remove_stale(report / "assets", files.used)
    except OSError as fault:
        raise OutputError(
            f"the report cannot be written: {fault.strerror or fault}",
            where=str(report),
            remedy="name another output folder, or make room there",
        ) from fault
    return index


def build_page(island: dict[str, Any], *, single_file: bool = False) -> str:
    """Return the page's text for an island.

    Args:
        island: `{"run": results.write(...), "sources": [...]}`, pictures given as numbers of `sources`.
        single_file: allow no picture but those inside the page.
    """
    script, style = joined_script(), read_assets(STYLES)
    # A page opened by double click has an opaque origin, so 'self' alone does not cover the pictures beside it.
    pictures = "data:" if single_file else "'self' file: data:"
    policy = (
        f"default-src 'none'; img-src {pictures}; script-src {source_hash(script)}; style-src {source_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return _shell().render(
        policy=policy,
        style=Markup(style),  # noqa: S704  # a constant of the package
        script=Markup(script),  # noqa: S704  # a constant of the package
        island=Markup(island_text(island)),  # noqa: S704  # holds no markup character
    )


def island_text(data: Any) -> str:
    """Return JSON in ASCII that holds no character with a meaning in HTML."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def source_hash(text: str) -> str:
    """Return the content security policy's name of an inline script or style sheet."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def read_assets(names: Iterable[str]) -> str:
    """Return the named files of the package, joined."""
    folder = importlib.resources.files("onnxviz.report") / "assets"
    return "\n".join((folder / name).read_text("utf-8") for name in names)


def script_names(entry: str = ENTRY) -> tuple[str, ...]:
    """Return a module of the page and all that it needs, each behind what it imports."""
    names: dict[str, None] = {}

    def add(name: str) -> None:
        for needed in _IMPORT.findall(read_assets([name])):
            if needed not in names:
                add(needed)
        names[name] = None

    add(entry)
    return tuple(names)


def joined_script() -> str:
    """Return the page's modules as one classic script: pages that are opened from a disk load no modules."""
    text = _IMPORT.sub("", read_assets(script_names()))
    return f'"use strict";\n(() => {{\n{_EXPORT.sub("", text)}}})();\n'


@functools.cache
def _shell() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("onnxviz.report", "assets"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")


@dataclass
class _Files:
    """Where the page finds its pictures: `sources` is what the island lists, `used` the names in `assets`."""

    folder: Path
    assets: Path | None
    """The folder that receives them; None if they are to be in the page itself."""
    sources: list[str | None] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    places: dict[str, int] = field(default_factory=dict)

    def picture(self, name: str) -> int:
        """Return the number of a picture in `sources`; None stands there for one that is missing."""
        if name not in self.places:
            self.places[name] = len(self.sources)
            found = find_kind(self.folder, name, PICTURES)
            self.sources.append(self._address(*found) if found else None)
        return self.places[name]

    def array(self, name: str) -> str | None:
        """Return the address of an array file, or None if the page cannot link to it."""
        found = find_kind(self.folder, name, ARRAYS)
        return self._address(*found) if found and self.assets else None

    def _address(self, path: Path, extension: str, media_type: str) -> str:
        if self.assets is None:
            return f"data:{media_type};base64,{base64.b64encode(path.read_bytes()).decode()}"
        name = f"{content_name(path)}.{extension}"
        if name not in self.used:
            self.assets.mkdir(exist_ok=True)
            place(path, self.assets / name)
            self.used.add(name)
        return f"assets/{name}"


def _island(result: RunResult, files: _Files) -> dict[str, Any]:
    run = results.write(result)
    for analysis in run["analyses"]:
        for part in analysis["parts"]:
            part["findings"] = [
                _with_files(finding, files) for finding in part["findings"] if finding["type"] != "Outcomes"
            ]
    _add_counts(run, result)
    run["verdict"] = result.verdict
    run["repeat"] = _command_to_repeat(result) if (files.folder / _LOCKED).is_file() else ""
    missing = sorted(name for name, place_ in files.places.items() if files.sources[place_] is None)
    judged = [results.encode(difference) for difference in differences(result)]
    return {"run": run, "sources": files.sources, "missing": missing, "differences": judged}


def _add_counts(run: Any, result: RunResult) -> None:
    """Say of each number that is the share of so many how many they are."""
    for analysis, found in zip(run["analyses"], result.analyses, strict=True):
        for part, made in zip(analysis["parts"], found.parts, strict=True):
            metrics = [finding for finding in made.findings if isinstance(finding, Metric)]
            written = [finding for finding in part["findings"] if finding["type"] == "Metric"]
            for data, metric in zip(written, metrics, strict=True):
                data["count"] = count_of(metric)


def _command_to_repeat(result: RunResult) -> str:
    """Return the command that does a run again from inside its folder, where the paths of the locked recipe start."""
    device = "cuda" if result.provenance.device.startswith("cuda") else "cpu"
    return f"onnxviz run {_LOCKED} --device {device} --out ../again"


def _with_files(data: Any, files: _Files) -> Any:
    """Replace pictures' paths by numbers of `sources`, arrays' paths by addresses."""
    if isinstance(data, list):
        return [_with_files(item, files) for item in data]
    if not isinstance(data, dict):
        return data
    if data.get("type") == "Picture":
        kept = {key: data[key] for key in ("alt", "pixelated", "width", "height")}
        return {"type": "Picture", "source": files.picture(data["path"]), **kept}
    if data.get("type") == "Array":
        return {**data, "address": files.array(data["path"])}
    return {key: _with_files(item, files) for key, item in data.items()}


def _remove_stale(assets: Path, used: set[str]) -> None:
    """Remove what an earlier report placed and this one does not show; files of other names are not ours."""
    if not assets.is_dir():
        return
    for path in assets.iterdir():
        if _ASSET.match(path.name) and path.name not in used:
            path.unlink()
