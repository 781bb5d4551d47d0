"""One record for each operator: complete, of operators that exist, and in agreement with the standard."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema

from onnxviz.convert.operators import CONVERTERS
from onnxviz.graph import GraphView, open_model
from onnxviz.graph.features import features_before
from onnxviz.graph.operators import CHANNELS_FIRST, FAMILIES, TRAITS, UNKNOWN, Form, traits_of
from onnxviz.graph.passes import to_qdq, unfuse
from onnxviz.graph.shapes import TensorType
from onnxviz.graph.value_range import range_of
from onnxviz.graph.view import multiply_adds

SCHEMAS = {
    f"{schema.domain}:{schema.name}" if schema.domain else schema.name: schema for schema in onnx.defs.get_all_schemas()
}
EVER = {(schema.domain, schema.name) for schema in onnx.defs.get_all_schemas_with_history()}
STRAIGHT_THROUGH = {"MatMulInteger", "QLinearMatMul", "Unique"}
"""Not differentiable by the standard; here gradients pass roundings, and go to the first of what is alike."""
TRANSFORMS = {"DFT", "STFT"}
"""Linear, though the standard says nothing of their derivative but that it has none."""


def test_every_converter_has_a_record() -> None:
    assert not {name for name in CONVERTERS if not name.startswith("function:")} - TRAITS.keys()
    # What is computed exactly in whole numbers is the plain operator by its traits.
    assert {name.removeprefix("function:") for name in CONVERTERS} <= TRAITS.keys()


def test_every_record_is_of_an_operator_that_exists() -> None:
    known = {f"{domain}:{name}" if domain else name for domain, name in EVER} | CONVERTERS.keys()
    known |= {f"{domain}:{name}" for rewrites in (to_qdq.REWRITES, unfuse.REWRITES) for domain, name in rewrites}
    assert not TRAITS.keys() - known


def test_no_operator_has_two_records() -> None:
    assert sum(map(len, FAMILIES)) == len(TRAITS)


def test_every_form_is_that_of_some_operator() -> None:
    assert {traits.form for traits in TRAITS.values()} == set(get_args(Form))
    assert set(get_args(Form)) > CHANNELS_FIRST


@pytest.mark.parametrize("operator", sorted(TRAITS.keys() & SCHEMAS.keys()))
def test_records_agree_with_the_standard(operator: str) -> None:
    traits, schema = TRAITS[operator], SCHEMAS[operator]
    refused = OpSchema.DifferentiationCategory.NonDifferentiable
    if schema.inputs and schema.outputs[0].differentiation_category == refused:
        assert traits.flat or operator in STRAIGHT_THROUGH | TRANSFORMS
    weight = schema.inputs[traits.weight].name if traits.weight else ""
    assert weight in ("", "W", "w", "B", "b", "weight"), weight
    assert traits.random == ("seed" in schema.attributes)
    assert traits.bounds[0] <= traits.bounds[1]
    if traits.form == "pointwise" and len(schema.inputs) == 1:
        assert schema.outputs[0].type_str == schema.inputs[0].type_str or traits.flat or operator == "Cast"


def test_an_operator_of_another_domain_is_unknown() -> None:
    assert traits_of(helper.make_node("Round", ["x"], ["y"], domain="com.acme")) is UNKNOWN


@pytest.mark.parametrize("operator", sorted(name for name, traits in TRAITS.items() if math.isfinite(traits.bounds[0])))
def test_bounds_hold(operator: str) -> None:
    from onnx.reference import ReferenceEvaluator

    value = np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 3, 4, 4)
    value = value if operator in ("Acos", "Asin") else np.abs(value) if operator == "Sqrt" else value * 30
    result = ReferenceEvaluator(helper.make_node(operator, ["x"], ["y"])).run(None, {"x": value})[0]
    low, high = TRAITS[operator].bounds
    assert np.clip(result, low, high) == pytest.approx(result, abs=1e-6)


# --- where several tables once said different things ----------------------------------------------------------------


def seen(tmp_path: Path, *lines: str, image: str = "float", **constants: np.ndarray) -> GraphView:
    """Return the view of a graph that reads an image `x` and makes `y`."""
    text = f'<ir_version: 8, opset_import: ["" : 20]> g ({image}[N, 3, 12, 12] x) => (float y) {{ {" ".join(lines)} }}'
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    onnx.save(model, tmp_path / "m.onnx")
    return open_model(tmp_path / "m.onnx")


def kind(*shape: int, element: int = TensorProto.UINT8) -> TensorType:
    return TensorType(element, shape)


@pytest.mark.parametrize(
    ("node", "types", "count"),
    [
        (("QLinearConv", "x s z w s z s z"), {"x": kind(1, 3, 8, 8), "w": kind(4, 3, 3, 3), "y": kind(1, 4, 6, 6)},
         4 * 6 * 6 * 3 * 3 * 3),
        (("ConvInteger", "x w"), {"x": kind(1, 3, 8, 8), "w": kind(4, 3, 3, 3), "y": kind(1, 4, 6, 6)},
         4 * 6 * 6 * 3 * 3 * 3),
        (("DeformConv", "x w o"), {"x": kind(1, 3, 8, 8), "w": kind(4, 3, 3, 3), "y": kind(1, 4, 6, 6)},
         4 * 6 * 6 * 3 * 3 * 3),
        (("QLinearMatMul", "x s z w s z s z"), {"x": kind(1, 5, 7), "w": kind(7, 2), "y": kind(1, 5, 2)}, 5 * 7 * 2),
        (("MatMulInteger", "x w"), {"x": kind(1, 5, 7), "w": kind(7, 2), "y": kind(1, 5, 2)}, 5 * 7 * 2),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)  # fmt: skip
def test_integer_products_are_counted_like_others(
    node: tuple[str, str], types: dict[str, TensorType], count: int
) -> None:
    assert multiply_adds(helper.make_node(node[0], node[1].split(), ["y"]), types) == count


QUANTISED = (
    "q = QuantizeLinear (x, s, z)",
    "p = {} y = DequantizeLinear (p, s, z)",
)


def test_a_quantised_convolution_sees_a_window(tmp_path: Path) -> None:
    view = seen(
        tmp_path,
        QUANTISED[0],
        QUANTISED[1].format("QLinearConv (q, s, z, w, s, z, s, z)"),
        w=np.ones((4, 3, 3, 3), np.uint8),
        s=np.float32(0.1),
        z=np.uint8(0),
    )
    field = view.receptive_field(view.layer("y"))
    assert field is not None
    assert field.size == (3, 3)


def test_the_weights_of_a_deformable_convolution_read_features(tmp_path: Path) -> None:
    view = seen(
        tmp_path,
        "f = Relu (x)",
        "a = DeformConv (f, w, o)",
        "y = GlobalAveragePool (a)",
        w=np.ones((4, 3, 1, 1), np.float32),
        o=np.zeros((1, 2, 12, 12), np.float32),
    )
    found = features_before(view, view.layer("y"))
    assert found is not None
    assert found.operator == "Relu"


@pytest.mark.parametrize(
    "made",
    ["PRelu (c, d)", "Softsign (c)", "Shrink (c)", "ThresholdedRelu (c)", "Hardmax (c)",
     "DepthToSpace <blocksize = 2> (c)"],
)  # fmt: skip
def test_what_is_like_something_that_is_folded_is_folded(tmp_path: Path, made: str) -> None:
    view = seen(
        tmp_path,
        f"a = {made}",
        "b = ReduceSum <keepdims = 0> (a)",
        "y = Mul (x, b)",
        c=np.linspace(-2, 2, 48, dtype=np.float32).reshape(1, 12, 2, 2),
        d=np.float32([0.5]),
    )
    assert [node.op_type for node in view.proto.graph.node] == ["Mul"]


def test_bits_and_types_keep_positions_and_images_apart(tmp_path: Path) -> None:
    view = seen(
        tmp_path,
        "a = Cast <to = 6> (x)",
        "b = BitwiseAnd (a, m)",
        "c = CastLike (b, l)",
        "y = AveragePool <kernel_shape = [2, 2]> (c)",
        m=np.int32(7),
        l=np.float32([[1], [2]]),
    )
    layer = view.layer("y")
    field = view.receptive_field(layer)
    assert field is not None
    assert (field.size, layer.channel_axis, layer.has_map, view.batch) == ((2, 2), 1, True, None)


@pytest.mark.parametrize(
    ("lines", "bounds"),
    [
        (["a = Clip (x, l, h)", "y = AveragePool <kernel_shape = [2, 2]> (a)"], (2, 6)),
        (["a = Clip (x, l, h)", "y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1>"
          " (a)"], (0, 6)),
        (["a = Erf (x)", "y = DepthToSpace <blocksize = 1> (a)"], (-1, 1)),
        (["a = Softplus (x)", "y = Neg (a)"], (-math.inf, 0)),
    ],
)  # fmt: skip
def test_all_bounds_are_found_in_one_way(tmp_path: Path, lines: list[str], bounds: tuple[float, float]) -> None:
    view = seen(tmp_path, *lines, l=np.float32(2), h=np.float32(6))
    found = range_of(view.layer("y").value, view.proto.graph)
    assert (found.low, found.high) == bounds


def test_an_activation_may_be_written_with_a_comparison(tmp_path: Path) -> None:
    view = seen(
        tmp_path,
        "c = Conv (x, w)",
        "p = Greater (c, z)",
        "n = Mul (c, s)",
        "r = Where (p, c, n)",
        "y = GlobalAveragePool (r)",
        w=np.ones((4, 3, 1, 1), np.float32),
        z=np.float32(0),
        s=np.float32(0.1),
    )
    assert view.layer("c:act").operator == "Where"


def test_no_gradient_comes_from_positions(tmp_path: Path) -> None:
    view = seen(
        tmp_path,
        "m, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
        "y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (o, i)",
        o=np.ones((1, 3, 6, 6), np.float32),
    )
    assert view.gradient_stops(view.layer("y")) == ("MaxPool m",)


def test_every_quantised_operator_rounds() -> None:
    rounding = {name for name, traits in TRAITS.items() if traits.rounds}
    assert {name for name in CONVERTERS if name.startswith(("QLinear", "QuantizeLinear"))} <= rounding
    assert not rounding & {"ConvInteger", "MatMulInteger"}  # they sum whole numbers
