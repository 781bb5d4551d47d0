"""Judging the maps of images, whole: from methods on a network to findings that are stored and read."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
import torch

import onnxviz
from onnxviz.analyses.attribution.belief_findings import findings
from onnxviz.analyses.attribution.judgement import RESULTS, Faithfulness, ImageJudgement, judge
from onnxviz.analyses.attribution.methods import methods
from onnxviz.analyses.attribution.question import ForwardPass, Question
from onnxviz.analyses.attribution.simple_maps import SIMPLE
from onnxviz.analyses.attribution.targets import ClassTarget
from onnxviz.core.findings import FINDING_TYPES, Metric, Table, from_data, to_data
from onnxviz.data import builtin
from onnxviz.data.images import load_batch
from onnxviz.graph.targets import resolve_head

SETTINGS = Faithfulness(steps=4, stages=2, samples=2)


@functools.cache
def model() -> onnxviz.Model:
    known = builtin.model("scenes")
    return onnxviz.Model(onnxviz.open_model(known.path), known.preprocessing, known.labels, "cpu")


def ask(places: range) -> Question:
    scenes = builtin.scenes(count=8)
    images = load_batch(scenes, places, model().preprocessing, model().input_size)
    head = resolve_head(model().view, None, model().labels)
    best = model().scores(images, head).argmax(axis=1)
    layers = model().view.select("last_map")
    forward = ForwardPass(model(), torch.from_numpy(images), layers, [model().view.logits], to_input=True)
    return forward.ask([ClassTarget(head, int(number)) for number in best], indices=places)


def make(question: Question) -> Mapping[str, torch.Tensor]:
    return {name: methods()[name]().attribute(question).maps[-1] for name in ("grad_cam", "gradient")}


@functools.cache
def judged() -> tuple[ImageJudgement, ...]:
    question = ask(range(3))
    facts = {"gradient": {"completeness error": torch.tensor([0.25, 0.5, 0.75])}}
    return judge(question, make(question), SETTINGS, make=make, facts=facts)


def test_everything_is_judged_that_is_asked_for() -> None:
    for place, image in enumerate(judged()):
        assert [one.method for one in image.maps] == ["grad_cam", "gradient", *SIMPLE]
        assert [one.simple for one in image.maps] == [False, False, *[True] * len(SIMPLE)]
        assert [stage.layers for stage in image.stages] == [1, image.stages[0].of]
        for one in image.maps:
            assert one.curves is not None
            assert len(one.curves.deletion) == len(one.curves.insertion) == 5
            assert one.curves.scale == "probability"
            assert len(one.randomised) == (0 if one.simple else 2)
            assert (one.stable is None) == one.simple
            wanted = (("completeness error", 0.25 * (place + 1)),) if one.method == "gradient" else ()
            assert one.facts == wanted
        # All start at the whole image and end at the baseline, whatever the map.
        assert len({one.curves.deletion[0] for one in image.maps if one.curves}) == 1
        assert len({one.curves.insertion[0] for one in image.maps if one.curves}) == 1


def test_an_image_is_judged_the_same_alone() -> None:
    question = ask(range(1, 2))
    (alone,) = judge(question, make(question), SETTINGS, make=make)
    for one, other in zip(alone.maps, judged()[1].maps, strict=True):
        assert one.curves is not None
        assert other.curves is not None
        tolerance = 0 if one.simple else 0.02  # a map's own rounding may change the order of near ties
        assert one.curves.deletion == pytest.approx(other.curves.deletion, abs=tolerance)
        for mine, theirs in zip(one.randomised, other.randomised, strict=True):
            assert mine.rank == pytest.approx(theirs.rank, abs=1e-3)


def test_judgements_and_findings_survive_being_stored() -> None:
    types = {**FINDING_TYPES, **{made.__name__: made for made in RESULTS}}
    read = from_data(to_data(judged(), types), types)
    assert to_data(read, types) == to_data(judged(), types)
    said = findings(read, SETTINGS)
    assert to_data(from_data(to_data(said))) == to_data(said)
    assert any(isinstance(one, Metric) and one.name == "randomised_rank.gradient" for one in said)
    table = next(one for one in said if isinstance(one, Table) and one.id == "belief_details")
    column = [one.name for one in table.columns].index("completeness error")
    assert {row[0]: row[column] for row in table.rows if row[column] is not None} == {"gradient": 0.5}


def test_what_is_not_asked_for_is_not_measured() -> None:
    question = ask(range(1))
    settings = Faithfulness(curves=False, randomisation=False, stability=False)
    (image,) = judge(question, make(question), settings, make=make)
    assert all(one.curves is None and one.stable is None and one.randomised == () for one in image.maps)
    (image,) = judge(question, make(question), SETTINGS)  # nothing can be made again
    assert all(one.curves is not None and one.stable is None and one.randomised == () for one in image.maps)


def test_the_cost_is_counted_in_passes() -> None:
    methods_cost = {"one": 0.0, "dear": 50.0}
    assert Faithfulness(curves=False, randomisation=False, stability=False).cost(methods_cost) == 0
    only = {"randomisation": False, "stability": False}
    assert Faithfulness(steps=10, **only).cost(methods_cost, simple=4) == 3 + 2 * 9 * 6  # type: ignore[arg-type]
    assert Faithfulness(stages=3, curves=False, stability=False).cost(methods_cost) == 3 * 53
