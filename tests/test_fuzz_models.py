"""Models whose structure is changed at random: refused, or harmless, in bounded time and memory.

`test_hostile_files` changes bytes. ONNXVIZ_FUZZ=1 tries more; `benchmarks/fuzz.py models` lets coverage guide it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import fuzz_models
import hostile_models
import onnx
import pytest
import torch
from fuzz_models import ModelMutator, mutants, seeds
from google.protobuf.message import DecodeError
from hostile_child import bring
from onnx import helper, numpy_helper

import onnxviz
from tests.test_hostile_files import without_faults, write

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
MORE = bool(os.environ.get("ONNXVIZ_FUZZ"))


def test_changed_structures_are_refused_or_harmless(tmp_path: Path) -> None:
    """What still opens is converted and runs: a result, an error of ours or, of a plain torch network, torch's own."""
    files = write(tmp_path, mutants(20_000 if MORE else 600, 20_261_121, seeds(quick=not MORE)))
    outcomes = bring(files, ["torch"], together=600)
    without_faults(outcomes)
    assert len(outcomes) == len(files)
    worked = sum(outcome.said.get("run") == "" for outcome in outcomes)
    assert worked > len(files) // 20  # the changes are not such that nothing is ever tried
    assert worked < len(files) * 19 // 20


def test_mutants_are_well_formed_and_differ() -> None:
    """Structural mutants that do not parse, or say the same, would try nothing."""
    mutator, generator = ModelMutator(), random.Random(1)
    start = seeds(quick=True)["named 0"]
    made = {mutator.mutate(start, generator) for _ in range(300)}
    assert len(made) > 150
    parsed = 0
    changed: set[str] = set()
    original = onnx.ModelProto.FromString(start)
    for content in made:
        try:
            proto = onnx.ModelProto.FromString(content)
        except DecodeError:
            continue
        parsed += 1
        for part in ("node", "initializer", "input", "output"):
            if list(getattr(proto.graph, part)) != list(getattr(original.graph, part)):
                changed.add(part)
    assert parsed > len(made) * 0.8
    assert changed == {"node", "initializer", "input", "output"}
    assert all(len(content) <= fuzz_models.MOST_BYTES for content in made)


def test_mutants_repeat() -> None:
    models = seeds(quick=True)
    first, second = (mutants(40, 5, models) for _ in range(2))
    assert [build() for build in first.values()] == [build() for build in second.values()]


def test_images_may_be_the_weights_of_a_convolution() -> None:
    """Found by fuzzing: an assertion failed while the batch was followed to where it may not come."""
    made = hostile_models.model(
        [helper.make_node("Conv", ["w", "x"], ["c"], pads=[4, 4, 4, 4]), helper.make_node("Relu", ["c"], ["y"])],
        [hostile_models.floats("w", 2, 3, 3, 3)],
    )
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        found = onnxviz.to_torch(made)(images)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(numpy_helper.to_array(made.graph.initializer[0]).copy()), images, padding=4
    )
    torch.testing.assert_close(found[0], torch.relu(expected))
