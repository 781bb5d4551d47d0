"""The parity check as a job: odd layers cost little, nothing is kept, and what is stored is what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hostile_models
import numpy as np
import pytest
import torch
from hostile_models import floats
from onnx import helper
from tiny_models import save_model

from onnxviz.analyses.base import Subject
from onnxviz.core.errors import BatchMixedError, ModelError
from onnxviz.core.findings import Note
from onnxviz.core.values import Agreement
from onnxviz.execution.parity_job import MIXES_BATCH, Comparison, measure_agreement
from onnxviz.execution.plan import ParityCheck
from onnxviz.execution.store import DamagedError, Store
from onnxviz.execution.workers.torch_setup import make_model
from onnxviz.graph import open_model
from onnxviz.model import parity as agreement
from onnxviz.model.model import Model
from onnxviz.model.parity import check_comparable_layers, check_parity
from onnxviz.model.preprocessing import preprocessing_for

node = helper.make_node
Parts = list[tuple[str, ...]]


def opened(path: Path) -> tuple[Subject, Model]:
    view = open_model(path)
    subject = Subject("model", view, preprocessing_for(view, "unit"), None, {}, 0)
    return subject, Model(view, subject.preprocessing, None, "cpu")


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Subject, Model]:
    """Sixty-four layers, of which the last forty are in two branches."""
    nodes = [node("Relu", ["x" if i == 0 else f"a{i - 1}"], [f"a{i}"], f"a{i}") for i in range(24)]
    for branch in "bc":
        nodes += [node("Relu", ["a23" if i == 0 else f"{branch}{i - 1}"], [f"{branch}{i}"], f"{branch}{i}")
                  for i in range(20)]  # fmt: skip
    nodes.append(node("Add", ["b19", "c19"], ["y"], "y"))
    (tmp_path / "m.onnx").write_bytes(hostile_models.content(nodes))
    return opened(tmp_path / "m.onnx")


def fail_at(monkeypatch: pytest.MonkeyPatch, *layers: str) -> Parts:
    """Let the computation of some layers fail; returns the parts that are tried from now on."""
    tried: Parts = []
    whole = agreement.check_comparable_layers

    def broken(model: Model, part: Sequence[str], images: object) -> object:
        tried.append(tuple(part))
        for name in layers:
            value = model.view.layer(name).value
            if any(value in agreement.ancestors(model.view.proto.graph, [model.view.layer(x).value]) for x in part):
                raise RuntimeError(f"{name} is broken")
        return whole(model, part, images)

    monkeypatch.setattr(agreement, "check_comparable_layers", broken)
    return tried


def names(found: Sequence[Agreement]) -> set[str]:
    return {item.layer for item in found}


def test_sound_layers_take_one_pass(chain: tuple[Subject, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, model = chain
    tried = fail_at(monkeypatch)
    layers = tuple(layer.name for layer in model.layers)
    found, errors = measure_agreement(model, subject, ParityCheck("", "model", layers, None))
    assert (len(tried), errors) == (1, {})
    assert names(found) == set(layers)
    assert all(item.holds and "made-up images" in item.note for item in found)


def test_a_layer_that_fails_takes_what_reads_it_along(
    chain: tuple[Subject, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, model = chain
    tried = fail_at(monkeypatch, "b4")
    layers = tuple(layer.name for layer in model.layers)
    found, errors = measure_agreement(model, subject, ParityCheck("", "model", layers, None))
    lost = {f"b{i}" for i in range(4, 20)} | {"y"}
    assert errors == dict.fromkeys(lost, "RuntimeError: b4 is broken")
    assert names(found) == set(layers) - lost
    assert len(tried) <= 14  # twice the logarithm of 65; one by one it would be 66, and halves alone about 40


def test_two_independent_faults_are_both_told(chain: tuple[Subject, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, model = chain
    fail_at(monkeypatch, "b4", "c17")
    layers = tuple(layer.name for layer in model.layers)
    found, errors = measure_agreement(model, subject, ParityCheck("", "model", layers, None))
    assert errors["b5"] == "RuntimeError: b4 is broken"
    assert errors["c18"] == "RuntimeError: c17 is broken"
    assert {"b3", "c16"} <= names(found)
    assert names(found) | set(errors) == set(layers)
    assert not names(found) & set(errors)


@pytest.fixture
def mixing(tmp_path: Path) -> tuple[Subject, Model]:
    """A layer whose first axis is not the images, which is known only once it is computed."""
    nodes = [
        node("Relu", ["x"], ["before"], "before"),
        node("Reshape", ["before", "shape"], ["mixed"], "mixed"),
        node("ReduceMax", ["mixed"], ["top"], "top", keepdims=0),
        node("Add", ["before", "top"], ["y"], "y"),
    ]
    (tmp_path / "m.onnx").write_bytes(hostile_models.content(nodes, [hostile_models.numbers("shape", -1, 8)]))
    return opened(tmp_path / "m.onnx")


def test_layers_that_mix_the_batch_cost_nothing(mixing: tuple[Subject, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    subject, model = mixing
    tried = fail_at(monkeypatch)
    layers = tuple(layer.name for layer in model.layers)
    assert "mixed" in layers
    found, errors = measure_agreement(model, subject, ParityCheck("", "model", layers, None))
    assert len(tried) == 1
    assert errors["mixed"] == MIXES_BATCH
    assert {"before", "y"} <= names(found)
    assert names(found) | set(errors) == set(layers)


def test_checking_a_layer_that_mixes_the_batch_is_refused(mixing: tuple[Subject, Model]) -> None:
    _, model = mixing
    images = torch.rand(2, 3, *model.input_size)
    with pytest.raises(BatchMixedError, match="mixed mixes the images"):
        check_parity(model, ["before", "mixed"], images)
    found, odd = check_comparable_layers(model, ["before", "mixed"], images)
    assert (names(found), odd) == ({"before"}, ("mixed",))


def test_nothing_is_kept(chain: tuple[Subject, Model]) -> None:
    """Each session and network may hold all weights: checks of many parts would fill the memory with them."""
    _, model = chain
    check_parity(model, [layer.name for layer in model.layers], torch.rand(2, 3, *model.input_size))
    assert not model._sessions
    assert not model._forwards


def test_a_wrong_network_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "m.onnx")
    subject, model = opened(tmp_path / "m.onnx")
    check = ParityCheck("", "model", ("first", "relu", "dense"), None)
    found, _ = measure_agreement(make_model(subject, "cpu"), subject, check)
    assert all(item.holds for item in found)
    encode = Model._encode
    calls: list[int] = []

    def shifted(self: Model, images: torch.Tensor) -> torch.Tensor:
        calls.append(1)  # every second call is the network's own
        return encode(self, images) + (0.5 if len(calls) % 3 == 2 else 0.0)

    monkeypatch.setattr(Model, "_encode", shifted)
    found, _ = measure_agreement(model, subject, check)
    assert not any(item.holds for item in found)


def test_constants_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What depends on no image, and is made from what is too large to fold, is not computed for each image."""
    nodes = [
        node("ConstantOfShape", ["s"], ["k"]),
        node("Relu", ["k"], ["r"]),
        node("ReduceMax", ["r"], ["m"], keepdims=0),
        node("Add", ["x", "m"], ["added"], "added"),
        node("Conv", ["added", "w"], ["y"], "conv"),
    ]
    tensors = [hostile_models.numbers("s", 20 << 20), floats("w", 2, 3, 3, 3)]
    (tmp_path / "m.onnx").write_bytes(hostile_models.content(nodes, tensors))
    _, model = opened(tmp_path / "m.onnx")
    layers = [layer.name for layer in model.layers]
    assert list(agreement._constants(model, model.layers))
    relu = torch.nn.functional.relu
    seen: list[int] = []

    def counted(values: torch.Tensor, *arguments: object, **named: object) -> torch.Tensor:
        seen.append(values.numel())
        return relu(values, *arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "relu", counted)
    found = check_parity(model, layers, torch.rand(3, 3, *model.input_size))
    assert all(item.holds for item in found)
    assert {item.reference for item in found} == {"file", "float32"}
    assert seen.count(20 << 20) == 1


def test_what_is_stored_is_read_again(tmp_path: Path) -> None:
    agreements = (
        Agreement("a", 1e-6, 2e-6, 1e-3, "file", "note"),
        Agreement("a", float("nan"), 2e-6, 1e-3, "float32", ""),
    )
    store = Store(tmp_path)
    store.save_value("0" * 32, Comparison(agreements, {"b": "it broke"}), {})
    found, errors = store.load_value("0" * 32, Comparison) or ((), {})
    assert errors == {"b": "it broke"}
    assert found[0] == agreements[0]
    assert np.isnan(found[1].relative)
    assert not found[1].holds


@pytest.mark.parametrize("said", ['{"relative": "much"}', '[[{"layer": 1}], {}]', "[", "[[], {}, 1]"])
def test_what_is_no_agreement_is_refused(tmp_path: Path, said: str) -> None:
    store = Store(tmp_path)
    store.save("0" * 32, [Note(said)], {})
    with pytest.raises(DamagedError):
        store.load_value("0" * 32, Comparison)


def test_an_impossible_request_is_told_for_each_layer(
    chain: tuple[Subject, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, model = chain

    def refused(*_: object) -> object:
        raise ModelError("no", where="m.onnx", remedy="mend it")

    monkeypatch.setattr(agreement, "check_comparable_layers", refused)
    found, errors = measure_agreement(model, subject, ParityCheck("", "model", ("a0", "a1"), None))
    assert found == ()
    assert errors == dict.fromkeys(("a0", "a1"), "m.onnx: no; mend it")
    assert measure_agreement(model, subject, ParityCheck("", "model", (), None)) == ((), {})
