"""What a detector must exceed, and what stands beside its name: chance level, rare concepts, precision, ceilings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz.model.model
from onnxviz.analyses.base import JobContext, Subject
from onnxviz.analyses.dissection.analysis import Dissection
from onnxviz.analyses.dissection.chance import Chance, Exchange, Likeness, likeness
from onnxviz.analyses.dissection.counting import Grid, Overlap, PixelLabels, ShuffledOverlap, count_image, count_overlap
from onnxviz.analyses.dissection.results import ChanceRow, UnitResult
from onnxviz.analyses.dissection.summary import ByChance, Summary, detected, span_in_words
from onnxviz.core.findings import Bars, Caveat, Coverage, Finding, Metric, Note, Table, TileGrid
from onnxviz.core.values import Unit
from onnxviz.data.concepts import Concept


class TestShuffles:
    @pytest.mark.parametrize("count", [1, 2, 3, 10, 57])
    def test_every_image_gets_anothers_labels_and_every_label_is_used_once(self, count: int) -> None:
        images = [3 * number + 1 for number in range(count)]
        exchange = Exchange.of(images, count - 1, 0)
        assert sorted(exchange.order) == images
        given = np.array([exchange.owners(place) for place in range(count)])
        assert given[:, 0].tolist() == list(exchange.order)
        for shuffle in range(count):
            assert sorted(given[:, shuffle]) == images
            assert shuffle == 0 or (given[:, shuffle] != given[:, 0]).all()
        assert all(len(set(row)) == count for row in given.tolist()), "no two shuffles give an image the same labels"

    def test_the_order_is_the_seeds(self) -> None:
        assert Exchange.of(range(50), 5, 3) == Exchange.of(range(50), 5, 3)
        assert Exchange.of(range(50), 5, 3) != Exchange.of(range(50), 5, 4)

    @pytest.mark.parametrize("count", [2, 3, 8, 21, 22, 40, 117, 1000])
    @pytest.mark.parametrize("distance", [1, 2, 15, 30])
    def test_in_a_film_labels_come_from_far_enough(self, count: int, distance: int) -> None:
        shuffles = min(20, count - 1)
        exchange = Exchange.of(range(count), shuffles, 0, Likeness(0.8, 0.5, distance))
        assert exchange.order == tuple(range(count))
        assert len(set(exchange.steps)) == shuffles
        near = min(min(step, count - step) for step in exchange.steps)
        assert near >= min(distance, count // 4, (count - shuffles + 1) // 2)
        given = np.array([exchange.owners(place) for place in range(count)])
        assert all(sorted(column) == list(range(count)) for column in given.T.tolist())
        assert exchange.reach == (max(exchange.steps) + 1 if shuffles else 1)
        if count == 1000:
            assert exchange.steps == tuple(distance * number for number in range(1, 21))

    @pytest.mark.parametrize(("count", "least", "most"), [(120, 0.05, 0.1), (400, 0.03, 0.07)])
    def test_what_stays_the_same_for_a_while_seldom_exceeds_chance(self, count: int, least: float, most: float) -> None:
        rng, pairs = np.random.default_rng(0), 1000
        unit, label = rng.normal(size=(2, pairs, count))
        for series in (unit, label):
            for place in range(1, count):
                series[:, place] = 0.9 * series[:, place - 1] + 0.19**0.5 * series[:, place]
        # 0.9 to the 14th is less than a quarter.
        shares = []
        for alike in (None, Likeness(0.9, 0.5, 14)):
            exchange = Exchange.of(range(count), 20, 0, alike)
            owners = np.array([exchange.owners(place) for place in range(count)])
            fits = np.stack([(unit[:, owners[:, 0]] * label[:, given]).sum(1) for given in owners.T])
            shares.append(float((fits[0] > fits[1:].max(0)).mean()))
        assert shares[0] > 0.2, shares
        assert least < shares[1] < most, shares  # 1 in 21 is 0.048

    def test_a_film_is_known_by_its_labels(self) -> None:
        independent, film = Discs(), Film()
        assert likeness(independent, range(30)) is None
        found = likeness(film, range(film.count))
        assert found is not None
        assert found.near > found.far + 0.1
        assert 4 <= found.distance <= 16  # of frames of one place, of which there are 8, half are so 4 places on
        mixed = np.random.default_rng(0).permutation(film.count).tolist()
        assert likeness(film, mixed) is None
        assert likeness(film, range(7)) is None
        assert likeness(film, range(0, film.count, 16)) is None

    def test_counts_are_those_of_labels_that_are_really_shuffled(self) -> None:
        rng = np.random.default_rng(0)
        activations = rng.normal(size=(9, 4, 5, 5)).astype(np.float32)
        labels = np.asarray(rng.integers(0, 4, (9, 2, 10, 10)) * (rng.random((9, 1, 1, 1)) < 0.7), np.int32)
        thresholds, categories, grid = rng.normal(size=4), np.array([0, 1, 0], np.intp), Grid.between((5, 5), (10, 10))
        shuffles = 4
        exchange = Exchange.of(range(9), shuffles, 7)
        own, shuffled = Overlap.empty(4, categories), ShuffledOverlap.empty(shuffles, 4, categories)
        prepared = [PixelLabels.of(image, categories) for image in labels]
        for place, image in enumerate(exchange.order):
            given = [prepared[owner] for owner in exchange.owners(place)]
            count_image(own, shuffled, activations[image], thresholds, given, grid)
        for shuffle, ious in enumerate(shuffled.ious(categories), start=1):
            moved = labels.copy()
            for place, image in enumerate(exchange.order):
                moved[image] = labels[exchange.owners(place)[shuffle]]
            expected = Overlap.empty(4, categories)
            count_overlap(expected, activations, thresholds, moved, grid)
            assert (ious == expected.iou()).all()
            assert (ious != own.iou()).any()

    def test_the_level_is_the_best_of_all_shuffles_and_counted_concepts(self) -> None:
        categories = np.array([0, 0, 0], np.intp)
        shuffled = ShuffledOverlap.empty(3, 2, categories)
        shuffled.unit[:] = shuffled.concept[:] = 10
        shuffled.both[:, 0] = [[1, 2, 9], [3, 0, 9], [0, 4, 9]]
        chance = Chance.of(shuffled, categories, np.array([True, True, False]))
        assert chance.iou[:, 0].tolist() == [2 / 18, 3 / 17, 4 / 16]
        assert chance.concept[:, 0].tolist() == [1, 0, 1]
        assert chance.level.tolist() == [4 / 16, 0.0]
        assert chance.exceeding().tolist() == [[False, False], [False, False], [True, False]]

    def test_without_another_image_nothing_is_above_chance(self) -> None:
        categories = np.array([0], np.intp)
        chance = Chance.of(ShuffledOverlap.empty(0, 2, categories), categories, np.array([True]))
        assert chance.level.tolist() == [np.inf, np.inf]


@dataclass
class Discs:
    """Bright squares anywhere, labelled "lamp"; "corner" is the same corner of every image; "rare" is in two."""

    labelled: str = "right"
    count: int = 30
    concepts: tuple[Concept, ...] = (
        Concept(1, "lamp", "object"), Concept(2, "corner", "object"), Concept(3, "rare", "object"),
        Concept(4, "absent", "object"), Concept(5, "room", "object"), Concept(6, "other", "object"),
    )  # fmt: skip
    categories: tuple[str, ...] = ("object",)
    name: str = "discs"
    digest: str = field(init=False)
    names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.names = tuple(f"{index}.png" for index in range(self.count))
        self.digest = self.labelled

    def __len__(self) -> int:
        return self.count

    def place(self, index: int) -> tuple[int, int]:
        row, column = np.random.default_rng(index).integers(2, 7, 2)
        return 4 * int(row), 4 * int(column)

    def read(self, index: int) -> np.ndarray:
        pixels = np.zeros((32, 32, 3), np.uint8)
        row, column = self.place(index)
        pixels[row : row + 4, column : column + 4, 0] = 200 + index % 40
        pixels[:4, :4, 1] = 200 + index % 40
        if index < 2:
            pixels[28:, :4, 2] = 200
        return pixels

    def read_labels(self, index: int) -> np.ndarray:
        labels = np.full((1, 32, 32), 5, np.int32)
        labels[0, :4, :4] = 2
        labels[0, 28:, 28:] = 6
        if index < 2:
            labels[0, 28:, :4] = 3
        row, column = self.place((index + 1) % self.count if self.labelled == "wrong" else index)
        if self.labelled == "beside":  # one pixel of the square in 16 is a lamp
            labels[0, row, column] = 1
        else:
            labels[0, row : row + 4, column : column + 4] = 1
        return labels


@dataclass
class Film(Discs):
    """The same with a lamp that stays in its place for eight images."""

    count: int = 160

    def place(self, index: int) -> tuple[int, int]:
        return super().place(1000 + index // 8)

    def read_labels(self, index: int) -> np.ndarray:
        labels = np.zeros((1, 32, 32), np.int32)
        row, column = self.place(index)
        labels[0, row : row + 4, column : column + 4] = 1
        labels[0, :4, :4] = 2
        return labels


def channels(path: Path, *, ceiling: float | None = None) -> Path:
    """A unit for each colour channel, enlarged by ten, perhaps with a ceiling."""
    weight = 10 * np.eye(3, dtype=np.float32)[:, :, None, None]
    nodes = [helper.make_node("Conv", ["image", "weight"], ["colours"], name="colours")]
    constants = [numpy_helper.from_array(weight, "weight")]
    if ceiling is None:
        nodes.append(helper.make_node("Relu", ["colours"], ["active"], name="active"))
    else:
        constants += [numpy_helper.from_array(np.float32(value), name) for value, name in ((0, "low"), (ceiling, "up"))]
        nodes.append(helper.make_node("Clip", ["colours", "low", "up"], ["active"], name="active"))
    nodes.append(helper.make_node("MaxPool", ["active"], ["larger"], name="larger", kernel_shape=[1, 1]))
    nodes.append(helper.make_node("GlobalAveragePool", ["larger"], ["pooled"], name="pooled"))
    graph = helper.make_graph(
        nodes,
        "channels",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [1, 3, 1, 1])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class TestDetectors:
    SETTINGS: ClassVar = {"layers": "active", "quantile": 0.0155, "iou": 0.1, "shuffles": 12}

    def dissect(self, folder: Path, data: Discs, *, ceiling: float | None = None, **settings: object) -> list[Finding]:
        model = onnxviz.model.model.load(channels(folder / "channels.onnx", ceiling=ceiling), preprocess="unit")
        subject = Subject("m", model.view, model.preprocessing, None, {"discs": data}, 0)
        analysis = Dissection(**{**self.SETTINGS, **settings})
        context = JobContext(subject, model, lambda done, total, note="": None)
        return analysis.combine([analysis.run(job, context) for job in analysis.jobs(subject)], subject)

    def unit(self, findings: list[Finding], index: int) -> dict[str, object]:
        table = next(item for item in findings if isinstance(item, Table) and item.id == "units")
        return dict(zip((column.name for column in table.columns), table.rows[index], strict=True))

    def metric(self, findings: list[Finding], name: str) -> Metric:
        return next(item for item in findings if isinstance(item, Metric) and item.name == name)

    def said(self, findings: list[Finding], identity: str) -> str:
        return next((item.text for item in findings if isinstance(item, Caveat) and item.id == identity), "")

    def test_what_follows_the_labels_is_a_detector_and_what_is_everywhere_alike_is_not(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs())
        lamp, corner = self.unit(findings, 0), self.unit(findings, 1)
        assert (lamp["concept"], lamp["IoU"], lamp["detector"]) == ("lamp", pytest.approx(1, abs=0.1), "yes")
        assert lamp["chance level"] < 0.3
        assert (corner["concept"], corner["detector"]) == ("corner", "by chance")
        assert corner["chance level"] == corner["IoU"] > 0.9
        for name, value in {"detectors": 1, "unique_detectors": 1, "detectors_by_iou": 2, "best_iou": 1}.items():
            assert self.metric(findings, name).value == pytest.approx(value, abs=0.1), name
        assert self.metric(findings, "detectors").chance == (0, 0)
        low, high = self.metric(findings, "detectors_by_iou").chance
        assert 1 <= low <= high <= 2
        (grid,) = [item for item in findings if isinstance(item, TileGrid)]
        assert {tile.title for tile in grid.tiles} == {"lamp (active:0)", "corner by chance (active:1)"}
        (note,) = [item.text for item in findings if isinstance(item, Note)]
        assert "1 of 3 units detects 1 of the 4 concepts that are in at least 10 images, by chance 0: lamp 1" in note
        assert "2 of 3 units reach an IoU of 0.1 with their best concept" in note
        bars = next(item for item in findings if isinstance(item, Bars))
        assert (bars.categories, bars.values, bars.chance) == (("lamp",), (1,), ((0, 0),))

    def test_of_a_film_it_is_said_that_the_order_is_kept(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Film(), quantile=0.01)
        lamp = self.unit(findings, 0)
        assert (lamp["concept"], lamp["detector"]) == ("lamp", "yes")
        assert self.metric(findings, "detectors").chance == (0, 0)
        said = self.said(findings, "alike")
        assert said.startswith(
            "Images that follow each other are alike, as frames of a film are: their labels agree on "
        )
        assert re.search(r"of one that is (\d+) to (\d+) places behind it", said)
        assert not self.said(self.dissect(tmp_path, Discs()), "alike")

    def test_with_the_labels_of_other_images_there_is_no_detector(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs("wrong"))
        assert self.unit(findings, 0)["detector"] != "yes"
        assert self.metric(findings, "detectors").value == 0
        assert self.metric(findings, "unique_detectors").value == 0
        (note,) = [item.text for item in findings if isinstance(item, Note)]
        assert "no unit detects a concept" in note
        assert "none is above its chance level" in note

    def test_concepts_of_few_images_name_no_unit_and_are_told(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs())
        assert self.unit(findings, 2)["concept"] != "rare"
        coverage = next(item for item in findings if isinstance(item, Coverage) and item.id == "concepts")
        assert (coverage.done, coverage.total) == (4, 6)
        assert coverage.reason.startswith("5 occur in the images used")
        assert "rare (2). 1 are in none." in self.said(findings, "rare")
        assert self.said(findings, "doubtful").startswith("other counts as a concept")
        table = next(item for item in findings if isinstance(item, Table) and item.id == "concepts")
        assert [row[0] for row in table.rows] == ["lamp", "corner", "room", "other"]
        both = self.dissect(tmp_path, Discs(), least_images=2, quantile=0.0012, iou=0.02)
        assert self.unit(both, 2)["concept"] == "rare"
        assert not self.said(both, "rare").startswith("1 of")

    def test_no_concept_in_enough_images_is_said(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs(count=5))
        assert self.metric(findings, "detectors").value == 0
        (note,) = [item.text for item in findings if isinstance(item, Note)]
        assert note == "active: no unit could be named, because no concept is in at least 10 images."

    def test_a_single_image_has_no_chance_level(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs(count=1), least_images=1)
        assert self.unit(findings, 0)["chance level"] is None
        assert self.unit(findings, 0)["detector"] == "unknown"
        assert self.metric(findings, "detectors").chance == ()
        assert "chance level is unknown" in self.said(findings, "no_chance")

    def test_where_more_of_the_mask_lies_is_said(self, tmp_path: Path) -> None:
        findings = self.dissect(tmp_path, Discs("beside"), iou=0.03)
        lamp = self.unit(findings, 0)
        assert (lamp["concept"], lamp["detector"]) == ("lamp", "yes")
        assert lamp["precision"] == pytest.approx(1 / 16, abs=0.01)
        assert (lamp["more of it on"], lamp["share there"]) == ("room", pytest.approx(15 / 16, abs=0.02))
        assert "lamp, 1 of 1: 6% of the mask on it, 94% on room" in self.said(findings, "rivals")
        corner = self.unit(findings, 1)
        assert (corner["more of it on"], corner["share there"]) == ("", None)

    def test_a_layer_at_its_ceiling_sends_to_the_one_before(self, tmp_path: Path) -> None:
        for layer in ("active", "larger"):
            findings = self.dissect(tmp_path, Discs(), ceiling=6, layers=layer, quantile=0.005)
            assert self.unit(findings, 0)["remark"] == "saturated"
            assert self.metric(findings, "saturated_units").value == 2
            assert "2 units lie nowhere above their threshold" in self.said(findings, "saturated")
            assert f"{layer} 2 of 3" in self.said(findings, "saturated")
            assert f"In `layers`, name 'colours' in place of '{layer}'" in self.said(findings, "ceiling")
        findings = self.dissect(tmp_path, Discs(), ceiling=6, layers="colours", quantile=0.005)
        assert self.metric(findings, "saturated_units").value == 0
        assert self.said(findings, "ceiling") == ""


def chance_row(shuffle: int, concept: str, exceeding: int, reaching: int | None = None, layer: str = "a") -> ChanceRow:
    return ChanceRow(layer, shuffle, concept, "object", exceeding if reaching is None else reaching, exceeding, 0, 0.1)


def unit_result(name: str, place: int = 0, iou: float = 0.1, *, confirmed: bool = True) -> UnitResult:
    return UnitResult(
        Unit("a", place), name, "object", iou, (0.08, 0.12), "yes", confirmed, 0.05, None, (), 0.5, "", None, 1, 2
    )


class TestByChance:
    def test_a_concept_needs_more_detectors_than_in_any_shuffle(self) -> None:
        chance = ByChance([chance_row(0, "star", 3), chance_row(2, "star", 1, 9), chance_row(2, "hole", 2)], 4)
        assert chance.reaching == (0, 11)
        assert chance.detectors == (0, 3)
        assert chance.best == (0, 0.1)
        assert chance.unique_reached == (0, 2)
        assert chance.unique_detectors == (0, 1)

        def units(**counts: int) -> list[UnitResult]:
            return [unit_result(name) for name, count in counts.items() for _ in range(count)]

        assert detected(units(star=3, hole=3, moon=1), chance) == {("object", "hole"), ("object", "moon")}
        assert detected(units(star=4, hole=2), chance) == {("object", "star")}

    def test_one_unit_that_fits_better_than_any_by_chance_is_enough(self) -> None:
        chance = ByChance([chance_row(0, "star", 3), chance_row(1, "star", 1)], 2)
        for above, expected in ((-0.01, set()), (0.01, {("object", "star")})):
            iou = chance.highest(("object", "star")) + above
            unit = unit_result("star", iou=iou)
            assert detected([unit], chance) == expected

    def test_as_many_as_chance_gives_is_said(self) -> None:
        units = [unit_result("star", place) for place in range(3)]
        for most, expected in ((3, "which is no more than chance gives (0 to 3): none; not told from chance: star 3"),
                               (2, "by chance 0 to 2: star 3.")):  # fmt: skip
            chance = ByChance([chance_row(0, "star", most)], 2)
            summary = Summary({"a": units}, chance, {("object", "star"): 20}, ("object",), 0.04, 10)
            (note,) = [item.text for item in summary.findings() if isinstance(item, Note)]
            assert expected in note

    def test_a_shuffle_may_stand_out_by_its_best_unit(self) -> None:
        def rows(*best: float) -> list[ChanceRow]:
            return [ChanceRow("a", shuffle, "star", "object", 1, 1, 0, iou) for shuffle, iou in enumerate(best)]

        assert ByChance(rows(0.1, 0.2, 0.1), 3).unique_detectors == (0, 1)
        assert ByChance(rows(0.2, 0.2, 0.1), 3).unique_detectors == (0, 0)

    def test_layers_are_judged_apart(self) -> None:
        chance = ByChance([chance_row(0, "star", 3), chance_row(0, "star", 1, layer="b")], 2).grouped(
            lambda row: row.layer
        )
        assert (chance["a"].detectors, chance["b"].detectors, chance["none"].detectors) == ((0, 3), (0, 1), (0, 0))

    def test_without_shuffles_nothing_is_known(self) -> None:
        assert ByChance([], 0).detectors == ByChance([], 0).unique_detectors == ()
        assert span_in_words(()) == "unknown"
        assert span_in_words((2.0, 2.0)) == "2"
        assert span_in_words((0.0, 36.0)) == "0 to 36"
