"""Which map to believe: what single judgements come to, and the words for it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from onnxviz.analyses.attribution.belief import choose, holm, least_images, weigh
from onnxviz.analyses.attribution.belief_findings import METRICS, findings, metric_name
from onnxviz.analyses.attribution.faithfulness import Curves
from onnxviz.analyses.attribution.judgement import Faithfulness, ImageJudgement, MapJudgement
from onnxviz.analyses.attribution.randomisation import Similarity, Stage
from onnxviz.analyses.attribution.stability import Stability
from onnxviz.core.findings import Caveat, Curve, Metric, Note, Table

STAGES = (Stage(1, 2), Stage(2, 2))
SETTINGS = Faithfulness(steps=2)
SIMPLE = ("centre", "edges")


def curves_of(margin: float, scale: str = "probability") -> Curves:
    """Curves of two steps with this area of insertion less deletion."""
    return Curves((0.5, 0.5 - margin, 0.5), (0.5, 0.5 + margin, 0.5), scale)  # type: ignore[arg-type]


def judged(
    name: str,
    margin: float | None,
    rank: float = 0.1,
    *,
    simple: bool = False,
    first: float = 0.6,
    change: float = 0.2,
) -> MapJudgement:
    return MapJudgement(
        name,
        simple,
        blank=False,
        curves=None if margin is None else curves_of(margin),
        randomised=() if simple else (Similarity(first, 0.9), Similarity(rank, math.nan)),
        stable=None if simple else Stability(change, 0.8, 3),
    )


def images(margins: dict[str, float], count: int = 12, spread: float = 0.05, **ranks: float) -> list[ImageJudgement]:
    """Judgements whose margins vary around a mean from image to image, apart for each method."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        maps = [
            judged(name, margin + spread * random.normal(), ranks.get(name, 0.1), simple=name in ("centre", "edges"))
            for name, margin in margins.items()
        ]
        found.append(ImageJudgement("cat", tuple(maps), STAGES))
    return found


def text_of(found: list[object], kind: type) -> str:
    return "\n".join(one.text for one in found if isinstance(one, kind))  # type: ignore[attr-defined]


def test_what_is_better_is_believed_and_what_is_not_is_not() -> None:
    given = images({"good": 0.5, "fair": 0.4, "none": 0.201, "bad": 0.0, "centre": 0.2, "edges": 0.1})
    belief = weigh(given)
    assert [one.method for one in belief.verdicts] == ["good", "fair", "none", "bad", "centre", "edges"]
    assert (belief.rival, belief.images, belief.counted, belief.scale) == ("centre", 12, 12, "probability")
    verdicts = {one.method: one for one in belief.verdicts}
    assert [name for name, one in verdicts.items() if one.is_better] == ["good", "fair"]
    assert [name for name, one in verdicts.items() if one.is_worse] == ["bad"]
    gaps = [image.maps[0].curves.margin - image.maps[4].curves.margin for image in given]  # type: ignore[union-attr]
    assert verdicts["good"].ahead.value == pytest.approx(np.mean(gaps))
    said = findings(given, SETTINGS)
    words = text_of(said, Note)
    assert "believe good first: over 12 images" in words
    assert "Above it beyond chance are also: fair" in words
    assert "Worse than the best map that knows nothing of the network (centre), beyond chance: bad" in words
    unclear = (
        "Not shown to be better than the best map that knows nothing of the network (centre), allowing for 4 methods"
    )
    assert f"{unclear}, as these intervals do not: none" in words
    metrics = {one.name: one for one in said if isinstance(one, Metric)}
    assert metrics["maps_better_than_simple"].value == 2
    assert metrics["maps_ignoring_weights"].value == 0
    assert metrics["ahead_of_simple.good"].value == pytest.approx(np.mean(gaps))
    table = next(one for one in said if isinstance(one, Table) and one.id == "belief")
    assert [row[0] for row in table.rows] == [one.method for one in belief.verdicts]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.leading
    details = next(one for one in said if isinstance(one, Table) and one.id == "belief_details")
    assert [row[0] for row in details.rows] == [row[0] for row in table.rows]
    assert [column.name for column in details.columns][:3] == ["map", "deletion", "insertion"]
    assert all(len(row) == len(details.columns) for row in details.rows)
    assert {one.id for one in said if isinstance(one, Curve)} == {
        "curves.deletion",
        "curves.insertion",
        "randomisation",
    }


def test_none_is_believed_where_none_is_better() -> None:
    given = images({"one": 0.2, "other": 0.21, "centre": 0.2})
    words = text_of(findings(given, SETTINGS), Note)
    assert "it is not shown, beyond chance, that any of the maps is better than" in words
    assert "first: over" not in words
    few = text_of(findings(given[:3], SETTINGS), Note)
    assert "at least 7 (`faithfulness.images`)" in few
    left_out = ImageJudgement("cat", (judged("one", None), judged("other", None)), STAGES)
    mixed = text_of(findings([*given[:3], left_out], SETTINGS), Note)
    assert "at least 7 whose curves count, as 3 of 4 do here (`faithfulness.images`)" in mixed
    assert "3 images are too few to tell whether any of 2 maps is better" in few
    one = text_of(findings(images({"one": 0.2, "centre": 0.2}, count=1), SETTINGS), Note)
    assert "1 image is too few to tell whether one is better" in one


def test_what_is_better_and_flagged_is_not_called_no_better() -> None:
    given = images({"blind": 0.9, "none": 0.2, "centre": 0.2}, blind=0.97)
    words = text_of(findings(given, SETTINGS), Note)
    assert "not shown, beyond chance, that any of the maps beside those of blind, which are flagged, is better" in words


@pytest.mark.parametrize("methods", [1, 2, 5, 8, 25, 29])
def test_so_many_images_can_tell_a_method_from_chance_and_no_fewer(methods: int) -> None:
    """A method that is better in every image has a probability of 2 / 2^n, corrected for their number."""
    least = least_images(methods)
    assert methods * 2 / 2**least < 0.05 <= methods * 2 / 2 ** (least - 1)
    assert least <= Faithfulness().images or methods > 25


def test_one_image_flags_nothing() -> None:
    given = images({"same": 0.2, "centre": 0.1}, count=3, same=0.99)
    assert not weigh(given).methods[0].ignores_weights
    given = images({"same": 0.2, "centre": 0.1}, count=8, same=0.99)
    assert weigh(given).methods[0].ignores_weights


def test_a_method_that_ignores_the_weights_is_flagged_and_never_taken() -> None:
    given = images({"blind": 0.9, "seeing": 0.4, "centre": 0.2}, blind=0.97)
    said = findings(given, SETTINGS)
    assert "blind hardly depends on what the network has learned" in text_of(said, Caveat)
    assert next(one.level for one in said if isinstance(one, Caveat)) == "wrong"
    assert "believe seeing first" in text_of(said, Note)
    assert weigh(given).methods[0].method == "seeing"
    choice = choose(given)
    assert choice is not None
    assert (choice.method, choice.runner_up, choice.is_better) == ("seeing", "", True)


def test_a_method_that_ignores_what_is_explained_is_flagged_and_never_taken() -> None:
    given = []
    for number in range(10):
        guided, other = judged("guided", 0.9 + number / 100, first=0.95), judged("other", 0.4 + number / 90)
        simple = judged("centre", 0.2 + number / 80, simple=True)
        given.append(ImageJudgement("cat", (guided, other, simple), STAGES))
    said = findings(given, SETTINGS)
    assert "guided hardly depends on what is explained" in text_of(said, Caveat)
    assert "believe other first" in text_of(said, Note)
    assert "guided" not in text_of(said, Note)
    metrics = {one.name: one.value for one in said if isinstance(one, Metric)}
    assert (metrics["maps_ignoring_target"], metrics["maps_ignoring_weights"]) == (1, 0)
    choice = choose(given)
    assert choice is not None
    assert (choice.method, choice.runner_up) == ("other", "")
    table = next(one for one in said if isinstance(one, Table))
    assert [row[1] for row in table.rows][1] == "no: hardly depends on what is explained"


def test_methods_that_make_the_same_maps_are_one_test() -> None:
    given = images({"one": 0.3, "other": 0.25, "centre": 0.2}, count=10)
    twice = [
        ImageJudgement("cat", (*image.maps, *(replace(image.maps[0], method=f"copy {n}") for n in range(5))), STAGES)
        for image in given
    ]
    alone, doubled = ({one.method: one.probability for one in weigh(each).methods} for each in (given, twice))
    assert {name: doubled[name] for name in alone} == alone
    assert {doubled[f"copy {number}"] for number in range(5)} == {alone["one"]}


def test_few_images_do_not_say_that_no_map_ignores_the_weights() -> None:
    def said(rank: float, first: float, count: int) -> list[object]:
        maps = (judged("one", 0.5, rank, first=first), judged("centre", 0.2, simple=True))
        return list(findings([ImageJudgement("cat", maps, STAGES)] * count, SETTINGS))

    for rank, first, where in ((0.999, 0.6, "all weights"), (0.1, 0.97, "the last layer")):
        doubt = text_of(said(rank, first, 2), Caveat)
        assert f"one may hardly depend on what the network has learned: with {where} shuffled" in doubt
        assert "2 images do not tell for sure" in doubt
        assert "No map ignores" not in text_of(said(rank, first, 2), Note)
    assert "1 image does not tell for sure" in text_of(said(0.999, 0.6, 1), Caveat)
    assert "No map is seen to ignore what the network has learned, on 2 images only:" in text_of(
        said(0.1, 0.6, 2), Note
    )
    assert "No map ignores" in text_of(said(0.1, 0.6, 9), Note)
    assert text_of(said(0.1, 0.6, 2), Note).rstrip().endswith("over 2 images.")
    for count in (3, 9):  # of fewer images than can flag a method its number would be 0 whatever the maps
        names = {one.name for one in said(0.999, 0.6, count) if isinstance(one, Metric)}
        assert ("maps_ignoring_weights" in names) == ("maps_ignoring_target" in names) == (count == 9)
    assert "may hardly depend" not in text_of(said(0.999, 0.6, 9), Caveat)  # then it surely does


def test_a_method_that_ignores_the_image_is_flagged_and_never_taken() -> None:
    given = [
        ImageJudgement(
            "cat",
            (judged("deaf", 0.9, change=1e-7), judged("other", 0.4), judged("centre", 0.2, simple=True)),
            STAGES,
        )
    ] * 10
    said = findings(given, SETTINGS)
    assert "deaf does not depend on the image" in text_of(said, Caveat)
    assert "other does not" not in text_of(said, Caveat)
    choice = choose(given)
    assert choice is not None
    assert choice.method == "other"


def test_auto_takes_the_best_and_names_the_next() -> None:
    choice = choose(images({"good": 0.5, "fair": 0.4, "centre": 0.2}))
    assert choice is not None
    assert (choice.method, choice.runner_up, choice.is_better) == ("good", "fair", True)
    assert "no difference beyond chance" not in choice.words
    alike = choose(images({"one": 0.5, "other": 0.5, "centre": 0.2}))
    assert alike is not None
    assert "which is no difference beyond chance" in alike.words
    twins = choose(images({"one": 0.5, "twin": 0.5, "fair": 0.4, "centre": 0.2}, spread=0.0))
    assert twins is not None
    assert (twins.method, twins.runner_up) == ("one", "fair")
    assert "0.500 (and the same curves as twin); the runner-up is fair" in twins.words
    without = [ImageJudgement("cat", (judged("one", None),), STAGES)] * 8
    assert choose(without) is None
    assert [one for one in findings(without, SETTINGS) if isinstance(one, Curve) and one.id != "randomisation"] == []


def test_curves_of_another_scale_are_not_mixed() -> None:
    given = images({"one": 0.5, "centre": 0.2}, count=9)
    odd = tuple(
        MapJudgement(name, name == "centre", False, curves_of(9.0, "score"), (), None) for name in ("one", "centre")
    )
    given += [ImageJudgement("cat", odd, STAGES)]
    belief = weigh(given)
    assert (belief.images, belief.counted, belief.scale) == (10, 9, "probability")
    assert max(abs(one.margin.value) for one in belief.verdicts) < 1
    assert "Curves count for 9 of 10 images" in text_of(findings(given, SETTINGS), Caveat)


def test_holm_is_holms() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_methods_without_any_difference_are_seldom_called_better() -> None:
    called = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        given = [
            ImageJudgement(
                "cat",
                (
                    *(judged(f"method {number}", random.normal(0.2, 0.1)) for number in range(4)),
                    judged("centre", random.normal(0.2, 0.1), simple=True),
                ),
                STAGES,
            )
            for _ in range(16)
        ]
        called += any(one.is_better for one in weigh(given).methods)
    assert called <= 5  # at most 5 % are expected: 2 of 40


def test_names_of_metrics_are_plain() -> None:
    assert metric_name("noise_rank.*", "Grad-CAM at fire9/concat") == "noise_rank.grad_cam_at_fire9_concat"
    assert all(math.isnan(metric.value) and metric.description for metric in METRICS.values())
    assert findings([], SETTINGS) == []
