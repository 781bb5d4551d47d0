"""What stands for the last map and for blocks, in small networks of each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from onnxviz.core.errors import SelectionError
from onnxviz.graph import open_model
from onnxviz.graph.view import GraphView

HEAD = "g = GlobalAveragePool (last) v = Flatten (g) y = MatMul (v, f)"


def opened(body: str, tmp_path: Path, constants: dict[str, np.ndarray] | None = None) -> GraphView:
    """A network on images of 4 channels, 8 x 8; every weight that it reads is random."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 20]> g (float[N, 4, 8, 8] x) => (float y) {{ {body} }}'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "w": rng.normal(size=(4, 4, 3, 3)), "p": rng.normal(size=(4, 4, 1, 1)), "b": rng.normal(size=4),
        "m": rng.normal(size=(4, 4)), "f": rng.normal(size=(4, 3)), "qkv": rng.normal(size=(4, 12)),
        **(constants or {}),
    }  # fmt: skip
    read = {name for node in model.graph.node for name in node.input}
    for name, array in arrays.items():
        if name in read:
            kind = np.float32 if array.dtype.kind == "f" else np.int64
            model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(kind), name))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return open_model(path)


def conv(made: str, read: str, weights: str = "w") -> str:
    pads = "<pads = [1, 1, 1, 1]>" if weights[0] in "wc" else ""
    return f"{made} = Conv {pads} ({read}, {weights})"


WIDE = {
    f"c{wide}": np.random.default_rng(wide).normal(size=(4, wide, 3, 3)) for wide in (8, 12, 16)
} | {"h8": np.ones((8, 3)), "h12": np.ones((12, 3)), "k8": np.ones((4, 8, 2, 2))}  # fmt: skip


def layer(made: str, read: str, width: int) -> str:
    """A convolution from so many channels to 4, with its activation."""
    return f"{made}c = Conv <pads = [1, 1, 1, 1]> ({read}, c{width}) {made} = Relu ({made}c)"


def names(view: GraphView) -> list[str]:
    return [layer.name for layer in view.select("block_outputs")]


RESIDUAL = f"""{conv("a", "x")} stem = Relu (a)
 {conv("b1", "stem")} b2 = Relu (b1) {conv("b3", "b2")} s1 = Add (b3, stem) r1 = Relu (s1)
 {conv("c1", "r1")} c2 = Relu (c1) {conv("c3", "c2")} s2 = Add (c3, r1) last = Relu (s2) {HEAD}"""


def test_a_residual_network_ends_behind_the_addition_and_its_activation(tmp_path: Path) -> None:
    view = opened(RESIDUAL, tmp_path)
    assert names(view) == ["r1", "last"]
    assert view.layer("last_map").name == "last"
    assert view.layer("last_conv").name == "c3"
    said = view.remark_on("last_conv")
    assert "c3, is a branch inside of a block" in said
    assert "last: `last_map`" in said
    assert view.remark_on(["all_convs:act"]) == said
    assert view.remark_on("last_map") == ""


def test_blocks_whose_sum_is_read_before_the_activation_are_the_sums(tmp_path: Path) -> None:
    """Pre-activation: the skip goes on from the sum."""
    view = opened(
        f"""{conv("a", "x")}
        b0 = Relu (a) {conv("b1", "b0")} s1 = Add (b1, a)
        c0 = Relu (s1) {conv("c1", "c0")} s2 = Add (c1, s1) last = Relu (s2) {HEAD}""",
        tmp_path,
    )
    assert names(view) == ["s1", "last"]


def test_a_network_without_blocks_is_its_activations(tmp_path: Path) -> None:
    view = opened(f"""{conv("a", "x")} a2 = Relu (a) {conv("c", "a2")} c2 = Relu (c)
        last = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c2) {HEAD}""", tmp_path)  # fmt: skip
    assert names(view) == ["a2", "c2"], "pooling comes after the last map"
    assert view.remark_on("last_conv") == ""


def test_a_plain_network_is_its_last_activation_of_each_size(tmp_path: Path) -> None:
    view = opened(
        f"""{conv("a", "x")} a2 = Relu (a) {conv("c", "a2")} c2 = Relu (c)
        d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c2)
        {conv("e", "d")} e2 = Relu (e) {conv("i", "e2")} last = Relu (i) {HEAD}""",
        tmp_path,
    )
    assert names(view) == ["c2", "last"]
    assert len(view.select("all_convs")) == 4


def test_concatenations_inside_of_a_single_residual_block_make_no_two_blocks(tmp_path: Path) -> None:
    view = opened(
        f"""{conv("a", "x")} a2 = Relu (a) d = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a2)
        {conv("e", "d")} {conv("h", "d")} j = Concat <axis = 1> (e, h) {layer("i", "j", 8)}
        s = Add (i, d) r = Relu (s) {conv("k", "r")} last = Relu (k) {HEAD}""",
        tmp_path,
        WIDE,
    )
    assert names(view) == ["a2", "last"]


@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("projected", [True, False])
def test_a_single_residual_block_is_its_sum_and_not_the_branch_before_it(
    tmp_path: Path, activation: bool, projected: bool
) -> None:
    """A projection on the skip feeds the sum alone too: the sum stands once for both."""
    skip = f"{conv('skip', 'stem', 'p')}" if projected else "skip = Identity (stem)"
    behind = "r1 = Relu (s1)" if activation else "r1 = Identity (s1)"
    view = opened(
        f"""{conv("a", "x")} stem = Relu (a)
        {conv("b1", "stem")} b2 = Relu (b1) {conv("b3", "b2")} {skip} s1 = Add (b3, skip) {behind}
        {conv("c", "r1")} last = Relu (c) {HEAD}""",
        tmp_path,
    )
    assert names(view) == ["stem", "b2", "r1" if activation else "s1", "last"]
    assert view.layer("last_map").name == "last"


def test_a_single_residual_block_at_the_end_is_the_last_map_once(tmp_path: Path) -> None:
    view = opened(
        f"""{conv("a", "x")} stem = Relu (a)
        {conv("b1", "stem")} b2 = Relu (b1) {conv("b3", "b2")} s1 = Add (b3, stem) last = Relu (s1) {HEAD}""",
        tmp_path,
    )
    assert names(view) == ["stem", "b2", "last"]
    assert view.layer("last_map").name == "last"


@pytest.mark.parametrize("gelu", [False, True])
def test_concatenations_are_blocks_and_the_sum_inside_of_an_activation_is_none(tmp_path: Path, gelu: bool) -> None:
    """GELU by tanh adds x and its cube."""
    smooth = """q = Mul (j2, j2) k = Mul (q, j2) n = Add (j2, k) t = Tanh (n) last8 = Mul (j2, t)"""
    view = opened(
        f"""{conv("a", "x", "p")} {conv("b1", "x")} j1 = Concat <axis = 1> (a, b1)
        {conv("c", "j1", "wide")} {conv("d", "j1", "wide")} j2 = Concat <axis = 1> (c, d)
        {smooth if gelu else "last8 = Relu (j2)"}
        g = GlobalAveragePool (last8) v = Flatten (g) y = MatMul (v, h)""",
        tmp_path,
        {"wide": np.random.default_rng(1).normal(size=(4, 8, 1, 1)), "h": np.ones((8, 3))},
    )
    assert names(view) == ["j1", "last8"]


def test_a_convolution_that_is_the_classifier_belongs_to_the_head(tmp_path: Path) -> None:
    view = opened(
        f"""{conv("a", "x")} a2 = Relu (a) {conv("c", "a2")} c2 = Relu (c)
        {conv("scores", "c2", "p")} s = Relu (scores) g = GlobalAveragePool (s) y = Flatten (g)""",
        tmp_path,
    )
    assert view.layer("last_map").name == "c2"
    assert view.remark_on("last_conv") == "", "it is behind the last map"


ATTENTION = """n{0} = LayerNormalization (t{0}, one) h{0} = MatMul (n{0}, qkv)
 q{0}, k{0}, v{0} = Split <axis = 2, num_outputs = 3> (h{0}) kt{0} = Transpose <perm = [0, 2, 1]> (k{0})
 w{0} = MatMul (q{0}, kt{0}) a{0} = Softmax (w{0}) o{0} = MatMul (a{0}, v{0}) u{0} = MatMul (o{0}, m)
 s{0} = Add (t{0}, u{0}) e{0} = LayerNormalization (s{0}, one) i{0} = MatMul (e{0}, m) j{0} = Relu (i{0})
 l{0} = MatMul (j{0}, m) t{1} = Add (s{0}, l{0})"""
TOKENS = {"to_tokens": np.array([0, 4, 16]), "one": np.ones(4), "cls": np.ones((1, 1, 4)), "shape": np.array([1, 1, 4]),
          "first": np.array(0), "k2": np.ones((4, 4, 2, 2)), "mean": np.array([1])}  # fmt: skip


@pytest.mark.parametrize("pooled", ["class token", "mean"])
def test_a_transformer_ends_where_its_patches_still_have_a_say(tmp_path: Path, pooled: str) -> None:
    """With a class token the last block's patches are computed for nothing; a mean reads all of them."""
    embed = "grid = Conv <strides = [2, 2]> (x, k2) r = Reshape (grid, to_tokens) t = Transpose <perm = [0, 2, 1]> (r)"
    if pooled == "mean":
        body = f"{embed} t0 = Identity (t) {ATTENTION.format(0, 1)} {ATTENTION.format(1, 2)}"
        end = "last = LayerNormalization (t2, one) v = ReduceMean <keepdims = 0> (last, mean) y = MatMul (v, f)"
    else:
        joined = "c = Reshape (cls, shape) z = Mul (t, t) zz = ReduceMean (z, mean) cc = Mul (zz, c)"
        body = f"{embed} {joined} t0 = Concat <axis = 1> (cc, t) {ATTENTION.format(0, 1)} {ATTENTION.format(1, 2)}"
        end = "last = LayerNormalization (t2, one) v = Gather <axis = 1> (last, first) y = MatMul (v, f)"
    view = opened(f"{body} {end}", tmp_path, TOKENS)
    assert view.layer("t1").map_shape == (4, 4)
    expected = ["t1", "t2", "last"] if pooled == "mean" else ["t1", "n1"]
    assert names(view) == expected
    assert "the first layer of all, before every block" in view.remark_on("all_convs")
    softmax = view.layer("Softmax[0]")
    assert not softmax.has_map
    assert "attention" in softmax.unplaced


@pytest.mark.parametrize("nested", [False, True])
def test_a_dense_block_ends_with_its_last_concatenation(tmp_path: Path, nested: bool) -> None:
    """Each layer reads all before it, which some exporters join anew and others by adding to what is joined."""
    second, fourth = ("(j1, a2)", "(j3, e)") if nested else ("(s, a, a2)", "(d, i, e)")
    body = f"""{conv("s", "x")} {conv("a", "s")} j1 = Concat <axis = 1> (s, a) {layer("a2", "j1", 8)}
        j2 = Concat <axis = 1> {second} r2 = Relu (j2) {conv("t", "r2", "c12")}
        d = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (t)
        {conv("i", "d")} j3 = Concat <axis = 1> (d, i) {layer("e", "j3", 8)} j4 = Concat <axis = 1> {fourth}
        last = Relu (j4) g = GlobalAveragePool (last) v = Flatten (g) y = MatMul (v, h12)"""
    view = opened(body, tmp_path, WIDE)
    assert names(view) == ["r2", "last"]


def test_concatenations_and_partial_sums_inside_of_a_residual_branch_end_no_block(tmp_path: Path) -> None:
    """Groups of channels that add to each other (Res2Net), and a sum made in two steps (RepVGG)."""
    view = opened(
        f"""{conv("a", "x")} stem = Relu (a)
        p0, q0 = Split <axis = 1, num_outputs = 2> (stem) p1 = Conv <pads = [1, 1, 1, 1]> (p0, half)
        pq = Add (p1, q0) q1 = Conv <pads = [1, 1, 1, 1]> (pq, half) j = Concat <axis = 1> (p1, q1)
        {conv("a2", "j")} s1 = Add (a2, stem) r1 = Relu (s1)
        {conv("c", "r1")} {conv("d", "r1", "p")} s2 = Add (c, d) s3 = Add (s2, r1) last = Relu (s3) {HEAD}""",
        tmp_path,
        {"half": np.random.default_rng(2).normal(size=(2, 2, 3, 3))},
    )
    assert names(view) == ["r1", "last"]


def test_a_long_skip_hides_no_blocks(tmp_path: Path) -> None:
    """What begins a chain of blocks ends one, although another join has the same fork."""
    view = opened(
        f"""{conv("a", "x")} stem = Relu (a)
        {conv("a2", "stem")} s1 = Add (a2, stem) r1 = Relu (s1) {conv("c", "r1")} s2 = Add (c, r1) r2 = Relu (s2)
        j = Concat <axis = 1> (stem, r2) last = Relu (j)
        g = GlobalAveragePool (last) v = Flatten (g) y = MatMul (v, h8)""",
        tmp_path,
        WIDE,
    )
    assert names(view) == ["r1", "r2", "last"]


@pytest.mark.parametrize("sum_of_levels", [False, True])
def test_concatenations_below_a_skip_of_a_pyramid_end_blocks(tmp_path: Path, sum_of_levels: bool) -> None:
    """What is enlarged on the way shows that levels meet there and no block ends."""
    small = "<strides = [2, 2]>"
    merged = "merged = Add (up, t)" if sum_of_levels else "m0 = Concat <axis = 1> (up, j1) merged = Conv (m0, p12)"
    view = opened(
        f"""{conv("s", "x")} {conv("a", "s")} j1 = Concat <axis = 1> (s, a) {layer("t", "j1", 8)}
        d = Conv {small} (j1, k8) {conv("e", "d")} j2 = Concat <axis = 1> (d, e) {layer("low", "j2", 8)}
        up = Resize <mode = "nearest"> (low, , twice) {merged} last = Relu (merged) {HEAD}""",
        tmp_path,
        WIDE | {"twice": np.array([1.0, 1, 2, 2]), "p12": np.ones((4, 12, 1, 1))},
    )
    assert {"j1", "j2"} <= set(names(view))


def test_patches_whose_class_tokens_place_is_padded_have_no_say_in_it(tmp_path: Path) -> None:
    """CoaT adds positions made by convolution to its attention, with zeros for the class token that alone is read."""
    body = f"""grid = Conv <strides = [2, 2]> (x, k2) r = Reshape (grid, to_tokens) t = Transpose <perm = [0, 2, 1]> (r)
        c = Reshape (cls, shape) z = Mul (t, t) zz = ReduceMean (z, mean) cc = Mul (zz, c)
        t0 = Concat <axis = 1> (cc, t) {ATTENTION.format(0, 1)} {ATTENTION.format(1, 2)}
        w2 = Slice (t1, one_i, end, one_i) w3 = Transpose <perm = [0, 2, 1]> (w2) image = Reshape (w3, to_image)
        {conv("positions", "image")} b0 = Reshape (positions, to_tokens) b1 = Transpose <perm = [0, 2, 1]> (b0)
        padded = Pad (b1, around) end0 = Add (t2, padded)
        last = LayerNormalization (end0, one) v = Gather <axis = 1> (last, first) y = MatMul (v, f)"""
    arrays = {"one_i": np.array([1]), "end": np.array([1000]), "to_image": np.array([0, 4, 4, 4]),
              "around": np.array([0, 1, 0, 0, 0, 0])}  # fmt: skip
    view = opened(body, tmp_path, TOKENS | arrays)
    assert view.layer("Pad[0]").tokens[0].before == 1
    assert names(view) == ["t1", "n1"]


def test_the_only_convolution_is_the_last_map(tmp_path: Path) -> None:
    view = opened(f"{conv('a', 'x')} g = GlobalAveragePool (a) y = Flatten (g)", tmp_path)
    assert names(view) == ["a"]


def test_what_has_no_positions_has_no_last_map(tmp_path: Path) -> None:
    model = opened("v = GlobalAveragePool (x) u = Flatten (v) y = MatMul (u, f)", tmp_path)
    with pytest.raises(SelectionError, match="last_map: no layer before the model's output has rows and columns"):
        model.layer("last_map")


def test_where_the_scores_are_unknown_that_is_why_there_is_no_last_map(tmp_path: Path) -> None:
    body = "last = Conv <pads = [1, 1, 1, 1]> (x, w) v = Flatten (last) a = ArgMax <axis = 1> (v) y = Cast <to = 1> (a)"
    model = opened(body, tmp_path)
    assert model.layer("last").has_map
    for role in ("last_map", "block_outputs"):
        with pytest.raises(SelectionError, match=f"{role}: no layer is known to hold the model's scores"):
            model.select(role)
