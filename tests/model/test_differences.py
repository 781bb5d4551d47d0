"""Better and worse are said only of what chance hardly explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from headless import NAMES, Browser, find_browser
from report_runs import make_run

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.grad_cam.analysis import GradCam
from onnxviz.core.findings import Finding, Metric, Outcomes, from_data, merge, to_data
from onnxviz.core.results import RunResult
from onnxviz.core.shares import Share, wilson
from onnxviz.data import builtin
from onnxviz.report import write_report
from onnxviz.report.differences import count_of, differences


def share(count: int, total: int, better: str = "higher", name: str = "accuracy") -> Metric:
    made = Share(count, total)
    return Metric(name, made.value, name, "", "percent", better, total=total, interval=made.interval)  # type: ignore[arg-type]


def two_models(folder: Path, first: Sequence[Finding], second: Sequence[Finding]) -> RunResult:
    run = make_run(folder, ("a", "b"))
    analysis = run.analyses[0]
    parts = tuple(
        replace(part, findings=tuple(found)) for part, found in zip(analysis.parts, (first, second), strict=True)
    )
    return replace(run, analyses=(replace(analysis, parts=parts),), not_comparable=())


def outcomes(wrong: Sequence[int], total: int, prefix: str = "") -> Outcomes:
    images = tuple(f"{prefix}{number}.png" for number in range(total))
    return Outcomes("accuracy", images, tuple(number not in wrong for number in range(total)))


def verdict(folder: Path, first: Sequence[Finding], second: Sequence[Finding]) -> str:
    (found,) = differences(two_models(folder, first, second))
    return found.verdict


class TestVerdicts:
    def test_three_of_four_hundred_images_are_no_difference(self, tmp_path: Path) -> None:
        first, second = share(324, 400), share(327, 400)
        (found,) = differences(two_models(tmp_path, [first], [second]))
        assert found.verdict == "none"
        low, high = found.interval
        assert low < -0.04 < 0 < 0.05 < high

    @pytest.mark.parametrize(("better", "expected"), [("higher", "better"), ("lower", "worse"), ("neither", "differs")])
    def test_intervals_that_lie_apart_are_one(self, tmp_path: Path, better: str, expected: str) -> None:
        assert verdict(tmp_path, [share(100, 400, better)], [share(300, 400, better)]) == expected
        assert verdict(tmp_path, [share(300, 400, better)], [share(100, 400, better)]) == {
            "better": "worse", "worse": "better", "differs": "differs",
        }[expected]  # fmt: skip

    def test_the_same_images_are_compared_one_by_one(self, tmp_path: Path) -> None:
        """Seven images that the second alone has right are a difference, though the shares' intervals overlap."""
        first = [share(383, 400), outcomes(range(17), 400)]
        second = [share(390, 400), outcomes(range(10), 400)]
        (found,) = differences(two_models(tmp_path, first, second))
        assert found.interval[0] < 0 < found.interval[1]
        assert found.verdict == "better"
        assert "of 400 images 0 only with the first model and 7 only with the second, p = 0.016" in found.reason

    def test_as_many_others_right_is_no_difference(self, tmp_path: Path) -> None:
        first = [share(380, 400), outcomes(range(20), 400)]
        second = [share(388, 400), outcomes(range(15, 27), 400)]
        (found,) = differences(two_models(tmp_path, first, second))
        assert found.verdict == "none"
        assert "7 only with the first model and 15 only with the second, p = 0.13" in found.reason

    def test_other_images_are_not_paired(self, tmp_path: Path) -> None:
        first = [share(383, 400), outcomes(range(17), 400)]
        second = [share(390, 400), outcomes(range(10), 400, "other/")]
        assert verdict(tmp_path, first, second) == "none"

    @pytest.mark.parametrize(
        "metric", [Metric("iou", 0.2, better="higher"), Metric("count", 9, "", "", "integer", "higher", total=20)]
    )
    def test_what_has_no_interval_is_neither_better_nor_worse(self, tmp_path: Path, metric: Metric) -> None:
        assert verdict(tmp_path, [metric], [replace(metric, value=1000.0)]) == "unknown"

    def test_models_with_different_tasks_are_not_judged(self, tmp_path: Path) -> None:
        run = two_models(tmp_path, [share(100, 400)], [share(300, 400)])
        (found,) = differences(replace(run, not_comparable=("other data",)))
        assert (found.verdict, found.reason) == ("unknown", "the models were not given the same task")

    def test_one_model_has_nothing_to_be_compared_with(self, tmp_path: Path) -> None:
        assert list(differences(make_run(tmp_path, ("one",)))) == []


def test_what_a_share_counts_is_known_from_its_interval() -> None:
    assert count_of(share(324, 400)) == 324
    assert count_of(share(0, 7)) == 0
    assert count_of(Metric("mean", 0.5, format="percent", total=2)) is None
    assert count_of(Metric("mean", 0.5, format="percent", total=2, interval=(0.4, 0.6))) is None
    assert count_of(Metric("nothing", float("nan"), format="percent", total=2, interval=wilson(0, 0))) is None


def test_outcomes_of_jobs_are_joined() -> None:
    parts = [[Outcomes("accuracy", (f"{index}.png",), (index > 0,))] for index in range(3)]
    (joined,) = merge(parts)
    assert joined == Outcomes("accuracy", ("0.png", "1.png", "2.png"), (False, True, True))
    assert from_data(to_data(joined)) == joined


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason=f"no browser found (looked for {', '.join(NAMES)})")
def test_the_report_shows_what_a_number_rests_on(tmp_path: Path) -> None:
    program = find_browser()
    assert program
    counted = Metric("detectors", 52, "detectors", "", "integer", "higher", total=512, chance=(17.0, 36.0))
    run = two_models(tmp_path, [share(324, 400), counted], [share(327, 400), replace(counted, value=60)])
    browser = Browser(program)
    try:
        browser.open(write_report(run, tmp_path), width=1400)
        rows = "[...document.querySelectorAll('.metric-table tbody tr')]"
        accuracy, detectors = browser.evaluate(f"{rows}.map((row) => [...row.cells].map((cell) => cell.innerText))")
        assert accuracy[1].replace("\u202f", " ") == "81 %\n324 of 400; 95 % within 76.9 % to 84.5 %"
        assert accuracy[3].replace("\u202f", " ").startswith("+0.75 pp")
        assert accuracy[4].startswith("no difference can be told")
        assert detectors[1:] == ["52\nof 512; by chance 17 to 36", "60\nof 512; by chance 17 to 36", "+8", ""]
        assert (
            browser.evaluate("document.querySelectorAll('.metric-table .good-text, .metric-table .bad-text').length")
            == 0
        )
        assert "324 of 400" in browser.evaluate("document.querySelector('.overview .mini').innerText")
        assert browser.events == []
    finally:
        browser.close()


def test_grad_cam_tells_which_images_are_named_right(tmp_path: Path) -> None:
    known = builtin.MODELS["scenes"]
    model = onnxviz.model.model.load(known.path, preprocess=known.preprocessing, labels=known.labels)
    subject = Subject("m", model.view, model.preprocessing, model.labels, {"scenes": builtin.scenes(3)}, 0)
    analysis = GradCam(data="scenes", layers="last_conv", classes="top:1")
    context = JobContext(subject, model, lambda done, total, note="": None)
    found = analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)
    (told,) = [item for item in found if isinstance(item, Outcomes)]
    (accuracy,) = [item for item in found if isinstance(item, Metric) and item.name == told.id]
    assert told.images == builtin.scenes(3).names
    assert sum(told.holds) / 3 == pytest.approx(accuracy.value)
