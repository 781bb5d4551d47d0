"""Model files of an attacker: refused with one message, or harmless, in bounded memory and time, by every way in.

Files are opened in processes of their own (`hostile_child`), so that what fills the memory, hangs or kills the
interpreter is seen. ONNXVIZ_FUZZ=1 tries more damaged files.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostile_child
import hostile_models
import numpy as np
import onnx
import pytest
import torch
from hostile_child import ALL, Outcome, bring
from hostile_models import NAMES, TERA, Build, expected, floats, named
from onnx import ModelProto, TensorProto, helper
from tiny_models import fill
from worker_runs import PATIENCE

import onnxviz
from onnxviz.core import limits
from onnxviz.core.errors import ModelFileError, OnnxvizError, SelectionError
from onnxviz.execution.execute import run
from onnxviz.model.preprocessing import preprocessing_for
from onnxviz.recipe.recipe import parse_recipe

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
MORE = bool(os.environ.get("ONNXVIZ_FUZZ"))


def write(folder: Path, builds: dict[str, Build]) -> list[tuple[str, Path]]:
    files = []
    for index, (name, build) in enumerate(builds.items()):
        path = folder / f"{index}.onnx"
        path.write_bytes(build())
        files.append((name, path))
    return files


def without_faults(outcomes: list[Outcome]) -> None:
    found = [f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults]
    assert not found, "\n".join(found)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain_code() -> str:
    return onnxviz.to_torch(named("plain")).code


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_is_text_and_nothing_else(tmp_path: Path, name: str, plain_code: str) -> None:
    model = named(name)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    network = onnxviz.to_torch(path)
    assert network.code == plain_code  # not a character of the generated source comes from the file
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    np.testing.assert_allclose(network(torch.from_numpy(images))[0].numpy(), expected(model, images), atol=1e-5)

    view = onnxviz.open_model(path)
    names = [layer.name for layer in view.layers]
    assert len(set(names)) == len(names) == 4
    shown = name[: limits.NAME_LENGTH - 10]  # longer ones are cut for display
    assert all(layer.startswith(shown) and len(layer) <= limits.NAME_LENGTH + 10 for layer in names)
    assert all(re.fullmatch(r"[vnfd]\d+\w*", value) for value in view.names)
    card = view.card("m", preprocessing_for(view))
    assert [row.name for row in card.layers] == names

    with pytest.raises(SelectionError) as caught:
        view.layer(f"{name}.absent")
    message = str(caught.value)
    assert len(message) < 2000
    assert all(c.isprintable() or c == "\n" for c in message)


def test_the_command_line_escapes_every_name(tmp_path: Path) -> None:
    builds = {str(index): named(name).SerializeToString for index, name in enumerate(NAMES)}
    without_faults(bring(write(tmp_path, builds), ["inspect"], together=len(NAMES)))


@pytest.mark.parametrize("name", ["a b", "import os", "<script>", "__class__\n", "é", "L" * 200, "\x1b[31m", "a;b"])
@pytest.mark.parametrize("place", ["operator", "domain", "attribute", "reference", "opset", "function opset"])
def test_what_other_libraries_read_by_name_must_be_a_plain_name(place: str, name: str) -> None:
    model = named("plain")
    node = model.graph.node[0]
    if place == "operator":
        node.op_type = name
    elif place == "domain":
        node.domain = name
    elif place == "attribute":
        node.attribute.append(helper.make_attribute(name, 1))
    elif place == "reference":
        node.attribute.append(onnx.AttributeProto(name="group", type=onnx.AttributeProto.INT, ref_attr_name=name))
    elif place == "opset":
        model.opset_import.add(domain=name, version=1)
    else:
        model.functions[0].opset_import.add(domain=name, version=1)
    with pytest.raises(ModelFileError, match="not a plain name") as caught:
        onnxviz.to_torch(model)
    assert str(caught.value).isprintable() or "\n" in str(caught.value)
    assert len(str(caught.value)) < 400


RECIPE = """\
version: 1
models: {m: {path: m.onnx, preprocess: unit, labels: labels.txt}}
data: {some: {images: photos}}
analyses:
  a: {kind: grad_cam, data: some}
"""


def test_a_page_shows_names_as_text(tmp_path: Path) -> None:
    """Node, value, input and output names of a model that is analysed never stand in the page as markup."""
    folder = fill(tmp_path)
    evil = "</script><img src=x onerror=alert(1)>\u202e\x1b[31m"
    model = onnx.load(folder / "m.onnx")
    for node in model.graph.node:
        node.name = f"{evil}{node.name}"
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = f"{evil}{name}"
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = f"{evil}{value.name}"
    model.producer_name = evil
    onnx.save(model, folder / "m.onnx")
    made = run(parse_recipe(RECIPE, "r.yaml", folder), folder / "run", device="cpu")
    assert made.result.models[0].layers[0].name.startswith(evil)
    pages = list((folder / "run").rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text("utf-8")
        assert "onerror" in text  # the name is there
        assert "<img src=x" not in text
        assert not {"\u202e", "\x1b"} & set(text)
    paths = [path.relative_to(folder).as_posix() for path in (folder / "run").rglob("*")]
    assert not [path for path in paths if "script" in path or "onerror" in path]


# --- external data ----------------------------------------------------------------------------------------------------


def external(folder: Path, location: str, offset: object = 0, length: object = 324, tensors: int = 1) -> Path:
    """Write a model whose weights, 324 bytes each, lie where somebody says."""
    names = [f"w{index}" for index in range(tensors)]
    model = hostile_models.model(
        [
            *(helper.make_node("Conv", ["x", name], [f"c.{name}"]) for name in names),
            helper.make_node("Sum", [f"c.{name}" for name in names], ["y"]),
        ]
    )
    for name in names:
        tensor = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=[3, 3, 3, 3], data_location=TensorProto.EXTERNAL
        )
        for key, value in {"location": location, "offset": offset, "length": length}.items():
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def beside(folder: Path) -> tuple[Path, Path]:
    """Return a folder for the model, and a readable file outside of it."""
    (folder / "model").mkdir()
    (folder / "secret").write_bytes(bytes(4096))
    return folder / "model", folder / "secret"


@pytest.mark.parametrize(
    "location",
    [
        "../secret", "a/../../secret", "..\\secret", "/etc/passwd", "C:\\secret", "C:secret", "\\\\host\\share\\secret",
        "//host/share", "\\secret", "file:///etc/passwd/../../x", "", "nul\0inside", "a/" * 3000 + "x", "x" * 5000, ".",
        "./", "m.onnx/x", "missing", "\u202e", "CON", "~/.ssh/id_rsa/..", "%2e%2e/secret/..",
    ],
)  # fmt: skip
def test_external_data_is_read_in_the_models_folder_only(tmp_path: Path, location: str) -> None:
    folder, _ = beside(tmp_path)
    with pytest.raises(ModelFileError) as caught:
        onnxviz.open_model(external(folder, location))
    message = str(caught.value)
    assert len(message) < 1000
    assert all(c.isprintable() or c == "\n" for c in message)


@pytest.mark.parametrize("kind", ["file", "folder", "chain", "loop", "absolute"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, kind: str) -> None:
    folder, secret = beside(tmp_path)
    location = "w.bin"
    if kind in ("file", "absolute"):
        (folder / "w.bin").symlink_to("../secret" if kind == "file" else secret)
    elif kind == "folder":
        (folder / "inner").symlink_to(tmp_path, target_is_directory=True)
        location = "inner/secret"
    elif kind == "chain":
        (folder / "w.bin").symlink_to("second")
        (folder / "second").symlink_to("../secret")
    else:
        (folder / "w.bin").symlink_to("second")
        (folder / "second").symlink_to("w.bin")
    with pytest.raises(ModelFileError):
        onnxviz.to_torch(external(folder, location))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-1, 324), (-324, 324), (0, -324), (4096, 324), (1 << 62, 324), (0, 1 << 62), (1 << 63, 1 << 63), (0, 0), (0, 323),
     (0, 325), ("9" * 5000, 324), ("nan", 324), ("1e3", 324), ("", 324), (0, "0x144")],
)  # fmt: skip
def test_external_offsets_and_lengths_are_checked(tmp_path: Path, offset: object, length: object) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4096))
    with pytest.raises(ModelFileError, match=r"w\.bin"):
        onnxviz.open_model(external(tmp_path, "w.bin", offset, length))


def test_tensors_may_overlap(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4096))
    assert len(onnxviz.open_model(external(tmp_path, "w.bin", tensors=3)).layers) == 4


def test_a_model_in_memory_names_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4096))
    path = external(tmp_path, "w.bin")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="another file"):
        onnxviz.to_torch(ModelProto.FromString(path.read_bytes()))


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    files = []
    for name, make in {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "folder": Path.mkdir,
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        make(folder / "w.bin")  # type: ignore[operator]
        files.append((name, external(folder, "w.bin")))
    os.mkfifo(tmp_path / "model.onnx")
    files.append(("model", tmp_path / "model.onnx"))
    outcomes = bring(files, ["open", "torch"], together=4, seconds=60)
    without_faults(outcomes)
    assert all(outcome.said["open"] for outcome in outcomes)


# --- sizes, bombs, graphs ---------------------------------------------------------------------------------------------

REFUSED_AT_ONCE = (
    "dimension 2^40", "dimension 2^62", "no data at all", "product overflows", "product overflows to 0",
    "product overflows to 4", "thousands of dimensions", "dimension negative", "raw data short", "raw data long",
    "floats missing", "strings as numbers", "complex halves", "int4 short", "int4 long", "int4 typed",
    "element type unknown", "sparse outside", "sparse huge", "many sparse", "attribute of 2^40", "attribute short",
    "input of 2^40", "input of 2^62", "input of rank 3000", "cycle", "own output", "made twice", "makes its input",
    "missing input", "missing output", "no opset", "opset -1", "opset 0", "opset -2^62", "opset 9999", "opset 2^31",
    "opset 2^62", "opsets twice", "opsets twice by both names",
    "empty graph", "no graph", "no outputs", "input twice",
    "weight twice", "attribute twice", "attribute of another type", "attribute missing", "If without branches",
    "functions 60 deep", "functions in a ring", "function of itself", "If 1000 deep", "100,001 nodes",
    "DepthToSpace-blocksize", "DepthToSpace-blocksize 0", "Attention-heads 0",
)  # fmt: skip
"""These no entry point may accept; of the others it is enough that nothing bad happens."""
LONG = tuple(name for name in hostile_models.BOMBS if re.search(
    r"20,000|5,000|thousands|folded often|share a weight|nested|RNN of|Scan of|Loop|2000 deep", name))  # fmt: skip


def refuses(outcomes: list[Outcome]) -> None:
    without_faults(outcomes)
    accepted = [
        f"{outcome.name} by {entry}"
        for outcome in outcomes
        if outcome.name in REFUSED_AT_ONCE
        for entry, message in outcome.said.items()
        if not message and entry in ALL
    ]
    assert not accepted


@pytest.mark.parametrize("table", ["SIZES", "GRAPHS", "ATTRIBUTES"])
def test_no_file_does_harm(tmp_path: Path, table: str) -> None:
    files = write(tmp_path, getattr(hostile_models, table))
    refuses(bring(files, ["open", "torch", "proto", "activations"], together=len(files)))


def test_no_bomb_goes_off(tmp_path: Path) -> None:
    builds = {name: build for name, build in hostile_models.BOMBS.items() if name not in LONG}
    files = write(tmp_path, builds)
    refuses(bring(files, ["open", "torch", "activations"], together=len(files)))


def test_the_command_line_survives(tmp_path: Path) -> None:
    """The command as a user gives it, on some of the worst, with an address space that a bomb would fill."""
    builds = {name: hostile_models.BOMBS[name] for name in ("If 1000 deep", "Pad-constant")}
    builds["Attention-heads 0"] = hostile_models.ATTRIBUTES["Attention-heads 0"]
    for name, path in write(tmp_path, builds):
        script = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30));"
            "from onnxviz.cli import main; sys.argv[0] = 'onnxviz'; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "inspect", str(path)], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode in (0, 2, 3), (name, done.stderr)  # 3: some layers are not compared
        assert "Traceback" not in done.stdout + done.stderr
        assert (done.returncode == 2) == (name in REFUSED_AT_ONCE), (name, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["SIZES", "GRAPHS", "ATTRIBUTES", "BOMBS"])
def test_no_file_does_harm_by_any_entry(tmp_path: Path, table: str) -> None:
    files = write(tmp_path, getattr(hostile_models, table))
    long = [file for file in files if file[0] == "20,000 nodes in a chain"]  # to show so many layers takes a minute
    refuses(bring([file for file in files if file not in long], together=25, seconds=300))
    refuses(bring(long, ["open", "torch", "activations"], seconds=300))


# --- damage -----------------------------------------------------------------------------------------------------------


def _small_models() -> list[bytes]:
    """Three models of different kinds: a convolution network, shape arithmetic, and control flow with a function."""
    convolutions = named("name").SerializeToString()
    shapes = hostile_models.content(
        [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Slice", ["s", "zero", "one"], ["n"]),
            helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
            helper.make_node("Reshape", ["x", "target"], ["flat"]),
            helper.make_node("Gemm", ["flat", "w"], ["g"], transB=1),
            helper.make_node("Softmax", ["g"], ["y"], axis=-1),
        ],
        [hostile_models.numbers("zero", 0), hostile_models.numbers("one", 1), hostile_models.numbers("rest", -1),
         floats("w", 3, 192)],
    )  # fmt: skip
    control = hostile_models.BOMBS["Loop negative"]()
    return [convolutions, shapes, control]


def _mutants(seed: int, count: int) -> dict[str, Build]:
    generator = np.random.default_rng(seed)
    models = _small_models()
    found: dict[str, Build] = {}
    for index in range(count):
        content = bytearray(models[index % len(models)])
        kind = generator.integers(4)
        for _ in range(generator.integers(1, 5)):
            place = int(generator.integers(len(content)))
            if kind == 0:
                content[place] ^= 1 << int(generator.integers(8))
            elif kind == 1:
                content[place] = int(generator.choice([0, 1, 0x7F, 0x80, 0xFF, 8, 16, 32]))
            elif kind == 2:
                del content[place : place + int(generator.integers(1, 4))]
            else:
                content[place:place] = bytes(generator.integers(0, 256, int(generator.integers(1, 12)), np.uint8))
        found[f"{seed}.{index}"] = lambda data=bytes(content): data
    return found


def test_damaged_files_are_refused_or_harmless(tmp_path: Path) -> None:
    """What still opens runs: a result, an error of ours or, from a plain torch network, torch's own."""
    files = write(tmp_path, _mutants(20_261_121, 30_000 if MORE else 1_500))
    outcomes = bring(files, ["torch", "activations"], together=500)
    without_faults(outcomes)
    assert len(outcomes) == len(files)
    worked = sum(outcome.said.get("run") == "" for outcome in outcomes)
    assert worked > len(files) // 20  # the damage is not such that nothing is ever tried
    assert worked < len(files) * 19 // 20


@pytest.mark.parametrize("index", range(3))
def test_truncated_files_are_refused(tmp_path: Path, index: int) -> None:
    whole = _small_models()[index]
    path = tmp_path / "cut.onnx"
    for length in range(0, len(whole), 1 if MORE else 7):
        path.write_bytes(whole[:length])
        with contextlib.suppress(OnnxvizError):
            onnxviz.to_torch(path)
            assert length > len(whole) - 40  # only what follows the graph may be missing


# --- the processes themselves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda: bytearray(1 << 31).count(1), "MiB of memory"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "died"),
        (lambda: {}["key"], "KeyError"),
    ],
)
def test_harm_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[], object], fault: str) -> None:
    """A check that cannot fail is none: harm that is done on purpose is reported."""
    read, write_end = os.pipe()
    process = os.fork()
    if process == 0:  # the child: what it does must not reach the tests
        os.close(read)
        monkeypatch.setitem(
            hostile_child._ENTRIES, "open", lambda outcome, path: hostile_child.judge(outcome, "open", harm)
        )
        outcome = hostile_child.attack("harm", tmp_path, ["open"])
        os.write(write_end, "\n".join(outcome.faults).encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(process, 0)
    assert fault in (said or ("died" if os.WIFSIGNALED(status) else ""))


def test_a_dead_process_is_told_from_its_files(tmp_path: Path) -> None:
    assert TERA == 1 << 40
    outcomes = bring([("absent", tmp_path / "absent.onnx")], ["open"])
    assert outcomes[0].said["open"].endswith("check the path of the model")
    with pytest.raises(AssertionError, match="fault"):
        without_faults([Outcome("x", faults=["fault"])])
