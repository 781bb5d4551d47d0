"""The report without a browser: what is written, what is refused, what the page's source may hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE, make_run, save_picture

import onnxviz.report
from onnxviz.core import results
from onnxviz.core.errors import OutputError
from onnxviz.core.findings import Picture, Tile, TileGrid
from onnxviz.core.results import RunResult
from onnxviz.report import write_report
from onnxviz.report.page import STYLES, island_text, joined_script, read_assets, script_names

ASSETS = Path(onnxviz.report.__file__).parent / "assets"


class Page(HTMLParser):
    """Collects the elements of a page, and the text of its scripts and styles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[dict[str, str | None], str]] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if data.strip() and tag in ("script", "style"):
            self.texts.append(({"tag": tag, **attributes}, data))

    def texts_of(self, tag: str, kind: str | None = None) -> list[str]:
        return [text for about, text in self.texts if about["tag"] == tag and about.get("type") == kind]

    @property
    def island(self) -> Any:
        (text,) = self.texts_of("script", "application/json")
        return json.loads(text)

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = (a["content"] for t, a in self.elements if t == "meta" and "http-equiv" in a)
        assert content
        return {words[0]: words[1:] for words in (part.split() for part in content.split(";"))}


def with_picture(run: RunResult, name: str) -> RunResult:
    tile = Tile("tile", pictures=(Picture(None, name, "", "png", False, 4, 4),))
    part = replace(run.analyses[0].parts[0], findings=(TileGrid("tiles", "", (tile,)),))
    return replace(run, analyses=(replace(run.analyses[0], parts=(part,)),))


@pytest.mark.parametrize("single_file", [False, True])
def test_the_policy_names_the_script_and_the_style_that_are_there(tmp_path: Path, single_file: bool) -> None:
    page = Page(write_report(make_run(tmp_path), tmp_path, single_file=single_file))
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        (text,) = page.texts_of(tag)
        assert page.policy[directive] == [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]
    assert page.policy["default-src"] == page.policy["base-uri"] == page.policy["form-action"] == ["'none'"]
    assert page.policy["img-src"] == (["data:"] if single_file else ["'self'", "file:", "data:"])


def test_the_page_is_the_same_for_all_data_but_for_the_island(tmp_path: Path) -> None:
    plain = write_report(make_run(tmp_path / "a"), tmp_path / "a").read_text("utf-8")
    hostile = write_report(make_run(tmp_path / "b", HOSTILE[:3], HOSTILE, True), tmp_path / "b").read_text("utf-8")
    island = re.compile(r'(?<=id="island">)[^<]*(?=</script>)')
    assert island.sub("", plain) == island.sub("", hostile)
    assert hostile.isascii() == plain.isascii()


def test_the_island_returns_what_was_put_in(tmp_path: Path) -> None:
    run = make_run(tmp_path, HOSTILE[:3], HOSTILE, True)
    shown = Page(write_report(run, tmp_path)).island["run"]
    written = json.loads(json.dumps(results.write(run)))
    assert shown.pop("verdict") == "incomplete"
    assert shown.pop("repeat") == ""  # there is no recipe.lock.yaml here

    def without_files(data: Any) -> Any:
        if isinstance(data, list):
            return [without_files(item) for item in data]
        if isinstance(data, dict):
            dropped = {"source", "path", "format", "address"} if data.get("type") in ("Picture", "Array") else set()
            if data.get("type") == "Picture":
                dropped.discard("type")
            if data.get("type") == "Metric":
                dropped = {"count"}  # worked out from what is there
            return {key: without_files(item) for key, item in data.items() if key not in dropped}
        return data

    # The format of the run itself is kept; only pictures and arrays lose their paths.
    assert without_files(shown) == without_files(written)


@pytest.mark.parametrize("name", HOSTILE)
def test_an_island_holds_no_character_of_markup(name: str) -> None:
    text = island_text({name: [name]})
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == {name: [name]}


def test_the_script_makes_no_markup_and_no_code_from_text() -> None:
    script = joined_script()
    forbidden = (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment", "DOMParser",
        "srcdoc =", "eval(", "new Function", "import(", "setTimeout(\"", "setTimeout(`", "cssText", "insertRule",
        'setAttribute("on', 'setAttribute("style', "fetch(", "XMLHttpRequest", "WebSocket", "sendBeacon", "</script",
        "<!--", "localStorage", "http:", "https:",
    )  # fmt: skip
    found = [word for word in forbidden if word in script.replace('"http://www.w3.org/2000/svg"', "")]
    assert not found
    assert "url(" not in read_assets(STYLES)
    # Every style that a script sets is a number that the script made.
    for value in re.findall(r"setProperty\(\"[\w-]+\", (.*)\);", script):
        assert re.fullmatch(r"`\$\{[^`]*\}(%|px)`|String\((columns|Math\..*)\)", value), value
    assert not re.search(r"\.style\.(?!setProperty)|\.style\s*=", script)


def test_modules_are_joined_behind_what_they_import() -> None:
    names = script_names()
    imports = {name: re.findall(r'from "\./(\w+\.js)"', read_assets([name])) for name in names}
    for place, name in enumerate(names):
        assert set(imports[name]) <= set(names[:place]), f"{name} is in a circle of imports"
    # In one script they share their names.
    declared = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", joined_script(), re.MULTILINE)
    assert len(declared) == len(set(declared)) > 150
    assert not re.search(r"^(import|export)\b", joined_script(), re.MULTILINE)


def test_the_scripts_know_no_analysis_by_name() -> None:
    kinds = [folder.name for folder in (ASSETS.parents[1] / "analyses").iterdir() if (folder / "analysis.py").is_file()]
    assert len(kinds) >= 5
    assert [kind for kind in kinds if f'"{kind}"' in joined_script()] == []


def test_every_asset_is_used_and_small() -> None:
    names = {path.name for path in ASSETS.iterdir() if path.is_file()}
    assert names == {*script_names(), *STYLES, "report.html"}
    assert all(len((ASSETS / name).read_text("utf-8").splitlines()) <= 600 for name in names)


def test_pictures_lie_beside_the_page_and_survive_moving_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = Page(write_report(run, tmp_path / "run"))
    moved = tmp_path / "elsewhere"
    (tmp_path / "run" / "report").rename(moved)
    for source in page.island["sources"]:
        assert re.fullmatch(r"assets/[0-9a-f]{20}\.png", source)
        assert (moved / source).is_file()
    (array,) = (f for f in page.island["run"]["analyses"][0]["parts"][0]["findings"] if f["type"] == "Array")
    assert (moved / array["address"]).read_bytes()[:2] == b"PK"


def test_a_single_file_holds_its_pictures(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path), tmp_path, single_file=True))
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in page.island["sources"])
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["index.html"]


def test_a_second_report_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    write_report(make_run(tmp_path), tmp_path)
    assets = tmp_path / "report" / "assets"
    (assets / "notes.txt").write_text("mine")
    before = {path.name for path in assets.iterdir()}
    save_picture(tmp_path, "images/new.png", 7)
    write_report(with_picture(make_run(tmp_path), "images/new.png"), tmp_path)
    after = {path.name for path in assets.iterdir()}
    assert "notes.txt" in after
    assert len(after) == 2
    assert after - before
    assert (tmp_path / "images/a.png").is_file()
    assert not [path for path in (tmp_path / "report").iterdir() if path.name.startswith(".")]


def test_names_that_leave_the_run_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make_run(folder)
    save_picture(tmp_path, "secret.png")
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    names = (
        "../secret.png", "images/../../secret.png", str(tmp_path / "secret.png"), "images\\a.png", "images//a.png", ".",
        "images/a.png?x", "file:///etc/passwd", "images/a b.png", "images/%2e%2e", "images/link.png", "x" * 2000,
        "images/a.png\n", "data:image/png;base64,AAAA", "-rf",
    )  # fmt: skip
    for name in names:
        with pytest.raises(OutputError, match="the run refers to"):
            write_report(with_picture(run, name), folder)
    assert not (folder / "report" / "index.html").exists()


def test_a_missing_or_false_picture_is_said_and_not_linked(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "images" / "page.png").write_text("<script>alert(1)</script>")
    for name in ("images/gone.png", "images/page.png"):
        island = Page(write_report(with_picture(run, name), tmp_path)).island
        assert island["sources"] == [None]
        assert island["missing"] == [name]


def test_a_folder_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "report").write_text("a file in the way")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_report(run, tmp_path)
    assert caught.value.remedy


def test_a_report_is_made_from_the_run_folder_alone_without_torch(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(results.write(run)))
    code = (
        "import json, pathlib, sys\n"
        "from onnxviz.core import results\n"
        "from onnxviz.report import write_report\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "write_report(results.read(json.loads((folder / 'run.json').read_text())), folder)\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'PIL', 'pydantic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    again = (tmp_path / "report" / "index.html").read_bytes()
    assert write_report(run, tmp_path).read_bytes() == again


def test_hard_links_do_not_cross_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    page = Page(write_report(make_run(tmp_path), tmp_path))
    assert all((tmp_path / "report" / source).is_file() for source in page.island["sources"])
