"""Normalisation changes no result: the ONNX project's own test of every operator, before and after."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, defs, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.reference import ReferenceEvaluator

from onnxviz.graph.draft import Draft
from onnxviz.graph.make_view import check_nodes
from onnxviz.graph.model_file import from_proto
from onnxviz.graph.passes import normalise
from onnxviz.graph.passes.lift_opset import LIFT, TARGET, RewriteContext, _unchanged, as_its_schemas_say, schema

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
HALF = ("float16", "bfloat16")
DRAWING = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


@cache
def cases(kind: str) -> tuple[Any, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases overflow on purpose when they are made
        return tuple(load_model_tests(kind=kind))


def arrays(values: Any) -> list[Any]:
    return [numpy_helper.to_array(value) if isinstance(value, TensorProto) else value for value in values]


def data_of(case: Any) -> tuple[ModelProto, list[Any], list[Any]]:
    if case.model is not None:
        inputs, outputs = case.data_sets[0]
        return case.model, arrays(inputs), arrays(outputs)
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    read = []
    for kind in ("input", "output"):
        files = sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        read.append([numpy_helper.to_array(TensorProto.FromString(path.read_bytes())) for path in files])
    return model, read[0], read[1]


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def gives(model: ModelProto, feeds: dict[str, Any], wanted: list[Any], rtol: float, atol: float) -> bool:
    """Whether the reference implementation, or ONNX Runtime, computes what is wanted."""
    for run in (lambda: ReferenceEvaluator(model).run(None, feeds), lambda: session(model).run(None, feeds)):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                results = run()
        except Exception:  # neither can do everything, and they raise anything
            continue
        if len(results) == len(wanted) and all(
            same(mine, theirs, rtol, atol) for mine, theirs in zip(results, wanted, strict=True)
        ):
            return True
    return False


def same(mine: Any, theirs: Any, rtol: float, atol: float) -> bool:
    if isinstance(mine, list) or isinstance(theirs, list):
        pairs = zip(mine, theirs, strict=False)
        return len(mine) == len(theirs) and all(same(a, b, rtol, atol) for a, b in pairs)
    if mine is None or theirs is None:
        return mine is theirs
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    if mine.shape != theirs.shape:
        return False
    if mine.dtype.kind in "OUST" or theirs.dtype.kind in "OUST":
        return bool((mine.astype(str) == theirs.astype(str)).all())
    if mine.dtype.kind == "c" or theirs.dtype.kind == "c":
        return bool(np.allclose(mine, theirs, rtol, atol, equal_nan=True))
    if theirs.dtype.kind in "biu":  # integers are exact, also where a test allows more
        return bool((mine == theirs).all())
    return bool(np.allclose(mine.astype(np.float64), theirs.astype(np.float64), rtol, atol, equal_nan=True))


def widened(value: Any) -> Any:
    """What the normalised graph is given: half, bfloat16 and double precision as float32."""
    if isinstance(value, list):
        return [widened(item) for item in value]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.name in (*HALF, "float64"):
        with np.errstate(over="ignore"):
            return np.asarray(value).astype(np.float32)
    return value


def readable(draft: Draft) -> ModelProto:
    """Bring a node that was kept in a domain of its own back to where evaluators know it."""
    kept = {int(found[1]) for node in draft.graph.node if (found := re.fullmatch(r"opset(\d+)", node.domain))}
    if not kept:
        return draft.model
    assert len(draft.graph.node) == 1, "only alone is it sure that nothing else means another thing there"
    model = ModelProto()
    model.CopyFrom(draft.model)
    model.graph.node[0].domain = ""
    del model.opset_import[:]
    model.opset_import.add(domain="", version=kept.pop())
    return model


def draws(model: ModelProto) -> bool:
    """Whether each run gives other numbers, which may be the wanted ones by chance."""
    drawing = [node for node in model.graph.node if node.op_type in DRAWING]
    return not all(any(entry.name == "seed" for entry in node.attribute) for node in drawing)


def outcome(case: Any) -> str:
    model, inputs, wanted = data_of(case)
    if draws(model):
        return "not evaluated"
    loaded = from_proto(model)
    check_nodes(loaded)
    draft, _ = normalise(loaded)
    feeds = dict(zip([value.name for value in model.graph.input], inputs, strict=False))
    if not gives(model, feeds, wanted, case.rtol, case.atol):
        return "not evaluated"
    given = {
        value.name: widened(feeds[loaded.names[value.name]])
        if value.type.tensor_type.elem_type in (0, TensorProto.FLOAT)
        else feeds[loaded.names[value.name]]
        for value in draft.graph.input
        if loaded.names[value.name] in feeds
    }
    # What was computed with 8 or 11 bits is now computed with 24.
    narrow = {array.dtype.name for array in (*inputs, *wanted) if isinstance(array, np.ndarray)}.intersection(HALF)
    slack = {"bfloat16": 2e-2, "float16": 3e-3}
    rtol = max([case.rtol, 1e-3, *(slack[name] for name in narrow)])
    atol = max([case.atol, 1e-6, *(slack[name] for name in narrow)])
    return "same" if gives(readable(draft), given, widened(wanted), rtol, atol) else "changed"


@pytest.mark.xdist_group("onnx_node_cases")
@pytest.mark.parametrize("part", range(6))
def test_no_operator_changes_its_result(part: int) -> None:
    found = {case.name: outcome(case) for case in cases("node")[part::6]}
    counts = Counter(found.values())
    assert [name for name, what in found.items() if what == "changed"] == []
    missing = [name for name, what in found.items() if what == "not evaluated"]
    # Random numbers have no right result; of the rest an evaluator lacks a few.
    assert counts["same"] >= 0.97 * len(found), missing


@pytest.mark.parametrize("kind", ["simple", "pytorch-operator", "pytorch-converted"])
def test_no_old_model_changes_its_result(kind: str) -> None:
    """Opset 6 and older, as PyTorch exported it in 2017."""
    found = {case.name: outcome(case) for case in cases(kind)}
    assert [name for name, what in found.items() if what == "changed"] == []
    assert Counter(found.values())["same"] >= 0.9 * len(found)


LIGHT = {
    "bvlc_alexnet": 2, "densenet121": 0, "inception_v1": 0, "inception_v2": 0, "resnet50": 0, "shufflenet": 0,
    "squeezenet": 0, "vgg19": 2, "zfnet512": 1,
}  # fmt: skip
"""The model-zoo graphs in the onnx package, and how many of their weights are too large to be written out."""


@pytest.mark.parametrize("name", LIGHT)
def test_computed_weights_of_the_model_zoo_become_constants(name: str) -> None:
    """All weights are computed by ConstantOfShape; the package holds what its reference implementation gives."""
    model = onnx.load(DATA / "light" / f"light_{name}.onnx")
    loaded = from_proto(model)
    draft, said = normalise(loaded)
    operators = Counter(node.op_type for node in draft.graph.node)
    assert operators["ConstantOfShape"] == LIGHT[name]
    assert not operators["Unsqueeze"]
    assert "freed the batch dimension (was 1)" in said
    assert sum(tensor.ByteSize() for tensor in draft.graph.initializer) < 128 << 20
    if LIGHT[name]:
        return  # running them takes the half gigabyte that the graph does without
    image = next(value for value in draft.graph.input if len(value.type.tensor_type.shape.dim) == 4)
    shape = (1, *(dimension.dim_value for dimension in image.type.tensor_type.shape.dim[1:]))
    count = int(np.prod(shape))
    images = (np.arange(count).reshape(shape) / count).astype(np.float32)  # as the package's own test does
    wanted = TensorProto.FromString((DATA / "light" / f"light_{name}_output_0.pb").read_bytes())
    result = np.asarray(session(draft.model).run(None, {image.name: np.repeat(images, 2, axis=0)})[0])
    for mine in result:
        np.testing.assert_allclose(mine[None], numpy_helper.to_array(wanted), rtol=1e-3, atol=1e-7)


def test_every_version_of_every_operator_before_the_target_is_thought_of() -> None:
    """Each either means the same in the target opset, is written out, or is brought over by its schemas."""
    missing = []
    for entry in defs.get_all_schemas_with_history():
        if entry.domain or entry.since_version >= TARGET or _unchanged(entry.name, entry.since_version):
            continue
        if entry.name in LIFT:
            continue
        node = onnx.helper.make_node(entry.name, ["x"] * entry.min_input, ["y"] * max(1, entry.min_output))
        assert schema(entry.name, entry.since_version) is not None
        if as_its_schemas_say(RewriteContext(None, node, source=entry.since_version), node) is None:  # type: ignore[arg-type]
            missing.append((entry.name, entry.since_version))
    assert missing == []
