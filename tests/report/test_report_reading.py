"""What a reader meets first: the order of a section, cards, counts, wide matrices, models that share few tiles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import worker_runs
from headless import NAMES, Browser, find_browser
from report_runs import make_run, save_picture

from onnxviz.core.findings import Caveat, Finding, MatrixRow, Note, PictureMatrix, Table, Tile, TileGrid
from onnxviz.core.results import RunResult, Tried, TriedPreprocessing
from onnxviz.core.shares import wilson
from onnxviz.core.values import Agreement, Unit
from onnxviz.report import write_report

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_browser() is None, reason=f"no browser found (looked for {', '.join(NAMES)})"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = find_browser()
    assert program
    opened = Browser(program)
    yield opened
    opened.close()


def with_findings(run: RunResult, *parts: tuple[Finding, ...], reading: str = "") -> RunResult:
    """Return the run with other findings, one tuple for each model."""
    analysis = run.analyses[0]
    filled = tuple(replace(part, findings=found) for part, found in zip(analysis.parts, parts, strict=True))
    return replace(run, analyses=(replace(analysis, reading=reading, parts=filled),))


def shown(browser: Browser, run: RunResult, folder: Path) -> Browser:
    browser.open(write_report(run, folder), width=1400)
    assert browser.events == []
    return browser


def grid(folder: Path, titles: tuple[str, ...], side: int = 64) -> TileGrid:
    tiles = (
        Tile(title, Unit("layer1", i), (save_picture(folder, f"images/{title}.png", 9 * i, side=side),))
        for i, title in enumerate(titles)
    )
    return TileGrid("tiles", "Tiles", tuple(tiles))


def test_pictures_come_before_charts_and_charts_before_tables(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    findings = run.analyses[0].parts[0].findings
    shown(browser, with_findings(run, tuple(reversed(findings)), reading="Look at the bright part."), tmp_path)
    order = browser.evaluate(
        "[...document.querySelector('.analysis').children].map((node) => node.className.split(' ').pop())"
    )
    wanted = [
        "notes", "metrics", "caveats", "reading", "picturematrix", "tilegrid", "curve", "bars", "histogram", "table",
        "finding", "method",
    ]  # fmt: skip
    assert [name for name in order if name in wanted] == [*wanted, "method"]
    assert browser.evaluate("document.querySelector('.analysis > .finding:last-of-type .coverage') === null") is False


def test_how_pictures_are_read_and_what_is_beside_them_comes_from_the_analysis(
    browser: Browser, tmp_path: Path
) -> None:
    """One of another package, of which the report knows nothing but what it says itself."""
    recipe = worker_runs.write_recipe(tmp_path, "count: 2, size: 16", "count: 2, size: 16, title: Again", "count: 2")
    assert worker_runs.run(tmp_path, recipe).returncode == 0
    browser.open(tmp_path / "run" / "report" / "index.html", width=1400)
    assert browser.events == []
    told = "[...document.querySelectorAll('.analysis > .reading')].map((node) => node.textContent)"
    beside, *readings = browser.evaluate(told)
    assert beside.startswith("The same units, a column for each way in which their pictures were made")
    assert (
        readings == ["How to read the pictures. Each picture is what the seed drew."] * 2
    )  # the third has no pictures
    columns = "[...document.querySelectorAll('.analysis .picturematrix thead th')].map((node) => node.textContent)"
    assert len(browser.evaluate(columns)) == 3
    assert browser.evaluate(columns)[-1] == "Again"


def test_a_card_speaks_of_all_images_or_of_each_of_them(browser: Browser, tmp_path: Path) -> None:
    def told(run: RunResult, *parts: tuple[Finding, ...]) -> list[str]:
        page = shown(browser, with_findings(run, *parts), tmp_path)
        return page.evaluate("[...document.querySelectorAll('.highlight-text > p')].map((node) => node.textContent)")

    one, two = make_run(tmp_path), make_run(tmp_path, ("one", "two"))
    each = tuple(Note(f"image {index}", about="each image") for index in range(5))
    whole = Note("all of them", "summary")
    assert told(one, (*each, whole)) == ["all of them", "More on each image."]
    assert told(one, (*each[:2], whole)) == ["image 0", "image 1", "all of them"]
    assert told(one, each[:1]) == ["image 0"]
    assert told(one, each)[-1] == "More on each image."
    assert not any("image 0" in text for text in told(one, each))
    assert len(told(two, each[:1], each[1:2])) == 2, "the only one of each model"


def test_words_between_backticks_are_code_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    text = "Raise `quantile`, not `<b>iou</b>`, a single ` stays"
    shown(browser, with_findings(make_run(tmp_path), (Caveat(text),)), tmp_path)
    codes = "[...document.querySelectorAll('.analysis .caveats code')].map((node) => node.textContent)"
    assert browser.evaluate(codes) == ["quantile", "<b>iou</b>"]
    sentence = browser.evaluate("document.querySelector('.analysis .caveats li').textContent")
    assert sentence == "Raise quantile, not <b>iou</b>, a single ` stays"


def test_what_to_know_is_a_line_each_the_worst_first_and_the_rest_folds_out(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = replace(run.analyses[0], id="first", title="First", parts=(
        replace(run.analyses[0].parts[0], findings=(
            Caveat("4% of the maps hold no positive evidence: nowhere above zero. Drawn black.", "blank", "limit"),
            *(Caveat(f"There is a doubt of number {index} about this", "", "doubt") for index in range(5)),
            Caveat("Nobody said how images become this model's input. The first is wrong then.", "p", "wrong"),
        )),
    ))  # fmt: skip
    second = replace(first, id="second", title="Second", parts=(
        replace(first.parts[0], findings=(
            Caveat("Nobody said how images become this model's input. So is the second.", "p", "wrong"),)),
    ))  # fmt: skip
    model = replace(run.models[0], preprocessing_origin="guess")
    shown(browser, replace(run, analyses=(first, second), models=(model,)), tmp_path)
    list_ = "document.querySelector('.overview .caveats')"
    lines = browser.evaluate(f"[...{list_}.querySelectorAll(':scope > ul > li')].map((node) => node.textContent)")
    assert lines[0] == "Nobody said how images become this model's input. (First, Second)"
    assert lines[1] == "There is a doubt of number 0 about this (First)"
    assert len(lines) == 6
    assert browser.evaluate(f"{list_}.querySelector('.more-caveats > summary').textContent") == "2 more"
    browser.evaluate(f"{list_}.querySelectorAll('details').forEach((node) => {{ node.open = true; }})")
    browser.evaluate(f"{list_}.querySelectorAll('details').forEach((node) => node.dispatchEvent(new Event('toggle')))")
    browser.evaluate(f"{list_}.querySelectorAll('.more-caveats details').forEach((node) => {{ node.open = true; "
                     "node.dispatchEvent(new Event('toggle')); })")  # fmt: skip
    text = browser.evaluate(f"{list_}.textContent")
    parts = ("If the guess is wrong, so is everything here.", "The first is wrong then. (First)",
             "So is the second. (Second)", "4% of the maps hold no positive evidence", "Drawn black.")  # fmt: skip
    for part in parts:
        assert text.count(part) == 1, part
    inside = "[...document.querySelectorAll('.analysis .caveats li')].map((node) => node.textContent)"
    assert browser.evaluate(inside)[0] == "Nobody said how images become this model's input."


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("2 of 11 concepts are left out (`least_images`; their images in brackets)", "sky (1), car (2)."),
        ("The best is right on so few of all (3 of 200; 1 to 4 %. No more).", "So it is."),
        ("A name with a bracket ) that nobody opened is no end", "the rest."),
        ("A name with a bracket ( that nobody closed: it stays whole.", ""),
    ],
)
def test_the_line_of_a_caveat_does_not_end_inside_a_bracket(
    browser: Browser, tmp_path: Path, head: str, rest: str
) -> None:
    text = f"{head}{'' if head.endswith('.') else ':'} {rest}".strip()
    shown(browser, with_findings(make_run(tmp_path), (Caveat(text),)), tmp_path)
    line = browser.evaluate("document.querySelector('.analysis .caveats li').textContent")
    assert line == head.replace("`", "")


@pytest.mark.parametrize("chosen", [True, False])
def test_what_is_said_of_a_choice_is_what_came_of_it(browser: Browser, tmp_path: Path, *, chosen: bool) -> None:
    run = make_run(tmp_path)
    best = TriedPreprocessing("RGB", "0..1", "stretched", 0.0, 0.0, 0.9, 1.0, 0.9, 1.0, 1.0)
    doubts = ("No preprocessing that was tried beats chance. The best is right on none.",)
    tried = Tried("photos", 40, 60, 40, False, True, "the first is clearly ahead", "", (best,), (0.0, 0.09), doubts)
    changes = {"tried": tried if chosen else None, "preprocessing_origin": "trial" if chosen else "undecided"}
    shown(browser, replace(run, models=(replace(run.models[0], **changes),)), tmp_path)
    lines = browser.evaluate("[...document.querySelectorAll('.overview .caveats li')].map((node) => node.textContent)")
    facts = browser.evaluate("document.querySelector('.model-facts').textContent")
    if chosen:
        assert lines[0] == "No preprocessing that was tried beats chance."
        assert lines[1].startswith("How images become this model's input was chosen by trial, not declared.")
    else:
        assert lines[0] == "Nothing was chosen for how images become this model's input."
        assert not any("by trial" in line for line in lines)
    assert ("chosen by trial" in facts) is chosen
    assert ("not declared, and nothing was chosen" in facts) is not chosen


def test_a_layer_with_two_references_is_counted_once(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    rows = tuple(
        row
        for name in ("layer1", "layer2")
        for row in (Agreement(name, 5e-4, 0.1, 3e-2, "file"), Agreement(name, 4e-6, 0.1, 1e-3, "float32"))
    )

    def told(agreement: tuple[Agreement, ...]) -> tuple[str, str]:
        changed = replace(run, models=(replace(run.models[0], agreement=agreement),))
        shown(browser, changed, tmp_path)
        return (
            browser.evaluate("document.querySelector('.subject .tag').textContent"),
            browser.evaluate("document.querySelector('.model-detail .prose').textContent"),
        )

    tag, text = told(rows)
    assert tag == "all 2 layers compared of 4 agree with ONNX Runtime to 5.0e−4, to 4.0e−6 in float32"
    assert "2 of 4 layers were compared" in text
    assert "5.0e−4" in text
    assert "4.0e−6" in text
    broken = tuple(replace(row, relative=1.0) if row.layer == "layer2" else row for row in rows)
    assert told(broken)[0] == "1 layer differs from ONNX Runtime"
    same = tuple(replace(row, tolerance=1e-3) for row in rows)
    assert told(same)[0] == "all 2 layers compared of 4 agree with ONNX Runtime to 5.0e−4"
    (only,) = [row for row in same if row.layer == "layer1" and row.reference == "file"]
    assert told((only,))[0] == "the 1 layer compared of 4 agrees with ONNX Runtime to 5.0e−4"


@pytest.mark.parametrize(("by_accuracy", "labelled"), [(True, 20), (False, 20), (False, 0)])
def test_accuracy_in_the_trial_stands_with_its_number_and_what_it_is(
    browser: Browser, tmp_path: Path, labelled: int, *, by_accuracy: bool
) -> None:
    run = make_run(tmp_path)
    top1 = 0.7 if labelled else None
    best = TriedPreprocessing("RGB", "0..1", "stretched", top1, top1, 0.9, 1.0, 0.9, 1.0, 1.0)
    interval = wilson(14, 20) if labelled else ()
    tried = Tried("photos", 40, 60, labelled, by_accuracy, True, "the first is clearly ahead", "", (best,), interval)
    shown(browser, replace(run, models=(replace(run.models[0], tried=tried, preprocessing_origin="trial"),)), tmp_path)
    facts = browser.evaluate("document.querySelector('.model-facts').textContent")
    prose = browser.evaluate("document.querySelector('.model-detail').textContent")
    said = "70\u202f% (n = 20; 95\u202f% within 48.1\u202f% to 85.5\u202f%) of the images with a known class that were "
    for text in (facts, prose):
        assert (said in text) == (labelled > 0), text
        assert ("it was chosen for that, so other images may give less" in text) == by_accuracy
    assert ("photos: 70" in facts) == (labelled > 0), "the data stands in front, as with the part of each image seen"


def test_a_fault_of_onnx_runtime_is_a_finding_and_ours_is_a_failure(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    wrong = Agreement(
        "layer2", 0.2, 3.0, 1e-3, off="runtime", ours=1e-7, theirs=0.21, origin="<b>sums", judged="by exact integers",
        effect="the output fc differs by up to 0.3 of its largest value",
    )  # fmt: skip
    fine = Agreement("layer1", 1e-6, 0.1, 1e-3)

    def told(*rows: Agreement) -> tuple[str, str, str]:
        changed = replace(run, models=(replace(run.models[0], agreement=rows),))
        shown(browser, changed, tmp_path)
        return (
            browser.evaluate("document.querySelector('.subject .tag').textContent"),
            browser.evaluate("document.querySelector('.overview .caveats')?.textContent ?? ''"),
            browser.evaluate("document.querySelector('.model-detail .alert.bad')?.textContent ?? ''"),
        )

    tag, caveats, alert = told(fine, wrong)
    assert tag == "ONNX Runtime computes 1 layer wrongly here; 2 of 4 layers compared"
    assert "ONNX Runtime computes layer2 wrongly: ONNX Runtime is off by 2.1e−1" in caveats
    assert "it arises at <b>sums (by exact integers). Deployed with it, the output fc differs by up to 0.3" in caveats
    assert alert == ""
    tag, caveats, alert = told(fine, replace(wrong, off="ours", ours=0.2, theirs=1e-7))
    assert tag == "1 layer differs from ONNX Runtime"
    assert "computes layer2 wrongly" not in caveats
    assert "the converted network is off by 2.0e−1" in alert
    assert told(fine, replace(wrong, off="unknown", ours=float("nan"), theirs=float("nan")))[0].startswith(
        "1 layer diff"
    )


def test_a_quantised_model_has_both_figures(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    rows = tuple(
        Agreement(name, 5e-7, 0.1, 1e-3, reference, end_to_end=share)
        for name, share in (("layer1", None), ("layer2", 0.24), ("fc", 0.02))
        for reference in ("file", "float32")
    )
    changed = replace(run, models=(replace(run.models[0], agreement=rows),))
    shown(browser, changed, tmp_path)
    tag = browser.evaluate("document.querySelector('.subject .tag').textContent")
    assert tag.endswith("all 3 layers compared of 4 agree with ONNX Runtime to 5.0e−7, each from its own inputs")
    texts = browser.evaluate("[...document.querySelectorAll('.model-detail .prose')].map((node) => node.textContent)")
    (text,) = [text for text in texts if "other side of a half" in text]
    assert "2 layers behind a rounding" in text
    assert "up to 24 %" in text
    assert "13 % in the median" in text


def test_a_wide_matrix_begins_with_columns_from_the_first_to_the_last(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    picture = save_picture(tmp_path, "images/a.png")
    columns = tuple(f"layer{number}" for number in range(26))
    matrix = PictureMatrix("m", "Maps", columns, (MatrixRow("row", ((picture,),) * 26, picture),))
    shown(browser, with_findings(run, (matrix,)), tmp_path)
    heads = "[...document.querySelectorAll('.matrix thead th:not(.lead)')].map((node) => node.textContent)"
    found = browser.evaluate(heads)
    assert len(found) == 7
    assert (found[0], found[-1]) == ("1 of 26layer0", "26 of 26layer25")
    overflow = (
        "(() => { const box = document.querySelector('.matrix .scroll'); return box.scrollWidth - box.clientWidth; })()"
    )
    assert browser.evaluate(overflow) <= 0
    browser.evaluate("document.querySelectorAll('.picturematrix .controls button')[1].click()")
    assert len(browser.evaluate(heads)) == 26


@pytest.mark.parametrize(("pictures", "side", "drawn"), [(1, 64, 1), (2, 64, 2), (5, 64, 4), (9, 64, 6), (30, 8, 24)])
def test_the_pictures_of_a_card_fill_it(browser: Browser, tmp_path: Path, pictures: int, side: int, drawn: int) -> None:
    titles = tuple(f"t{number}" for number in range(pictures))
    shown(browser, with_findings(make_run(tmp_path), (grid(tmp_path, titles, side),)), tmp_path)
    areas = browser.evaluate(
        "(() => { const area = (node) => { const box = node.getBoundingClientRect(); return box.width * box.height; };"
        " const strip = document.querySelector('.strip'); return [strip.children.length, area(strip),"
        " [...strip.children].reduce((sum, node) => sum + area(node), 0)]; })()"
    )
    assert areas[0] == drawn
    assert areas[2] > 0.9 * areas[1]


def test_models_with_different_tiles_stand_in_their_own_order(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path, ("before", "after"))
    parts = (grid(tmp_path, ("a", "b", "c")),), (grid(tmp_path, ("d", "e", "c")),)
    shown(browser, with_findings(run, *parts), tmp_path)
    titles = (
        "[...document.querySelectorAll('.tile.wide')].map((card) =>"
        " [...card.querySelectorAll('.tile-title')].map((node) => node.textContent))"
    )
    assert browser.evaluate(titles) == [["a", "d"], ["b", "e"], ["c", "c"]]
    parts = (grid(tmp_path, ("a", "b", "c")),), (grid(tmp_path, ("b", "a", "d")),)
    shown(browser, with_findings(run, *parts), tmp_path)
    assert browser.evaluate(titles) == [["a"], ["b"], ["c"], ["d"]]


def test_a_single_picture_of_all_is_large(browser: Browser, tmp_path: Path) -> None:
    sheet = Tile("all kernels", None, (save_picture(tmp_path, "images/sheet.png", side=16),))
    shown(browser, with_findings(make_run(tmp_path), (TileGrid("sheet", "All kernels", (sheet,)),)), tmp_path)
    assert browser.evaluate("document.querySelector('.tile img').getBoundingClientRect().width") > 600


def test_a_long_table_is_folded(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (table,) = (found for found in run.analyses[0].parts[0].findings if isinstance(found, Table))
    shown(browser, with_findings(run, (replace(table, rows=table.rows[:1] * 31),)), tmp_path)
    assert browser.evaluate("document.querySelectorAll('.finding.table tbody tr').length") == 0
    browser.evaluate("document.querySelector('.finding.table summary').click()")
    browser.settle()
    assert browser.evaluate("document.querySelectorAll('.finding.table tbody tr').length") == 31


def test_words_stay_whole_in_facts_and_tables(browser: Browser, tmp_path: Path) -> None:
    facts = (("optimized", "activation driven up"), ("high-frequency share", "69%"), ("looks", "oriented"))
    tile = Tile("fire4/expand1x1_1:0", None, (save_picture(tmp_path, "images/a.png", side=96),), facts)
    tiles = TileGrid("tiles", "Tiles", (tile,) * 8, tile_size=96)
    shown(browser, with_findings(make_run(tmp_path), (tiles,)), tmp_path)
    # A word that is broken has a box on each of two lines.
    broken = browser.evaluate(
        """(() => {
          const found = [];
          const walker = document.createTreeWalker(document.querySelector(".tiles"), NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            const node = walker.currentNode;
            for (const match of node.data.matchAll(/[\\w%]+/g)) {
              const range = document.createRange();
              range.setStart(node, match.index);
              range.setEnd(node, match.index + match[0].length);
              if (new Set([...range.getClientRects()].map((box) => box.top)).size > 1) found.push(match[0]);
            }
          }
          return found;
        })()"""
    )
    assert broken == []
