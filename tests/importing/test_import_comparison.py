"""After an import the file is compared with its source, and what differs is told."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from onnxviz.core.errors import AgreementError
from onnxviz.graph import open_model
from onnxviz.importing import from_torch, import_model, importer, torch_module
from onnxviz.importing.comparison import Comparison, compare
from tests.caffe_models import layer, network, save
from tests.importing_support import logs_go_away  # noqa: F401

GIVEN = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def file(folder: Path, text: str = "y = Mul (x, two)", inputs: str = "float[n, 3] x") -> Path:
    path = folder / "made.onnx"
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float[n, 3] y)
        {{ two = Constant <value = float {{2}}> () {text} }}"""
    )
    path.write_bytes(proto.SerializeToString())
    return path


def told(*inputs: str, **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs), "refused": "", "random": False, **more}


def test_the_same_function_agrees(tmp_path: Path) -> None:
    found = compare(file(tmp_path), told("x"), {"input_0": GIVEN, "output_0": 2 * GIVEN})
    assert found.agrees
    assert found.said == "agrees with the source to 0.0e+00 of an output's largest value, on 2 random inputs"


def test_outputs_that_do_not_depend_on_the_inputs_say_little(tmp_path: Path) -> None:
    made = file(tmp_path, "z = Sub (x, x) y = Add (z, two)")
    found = compare(made, told("x"), {"input_0": GIVEN, "output_0": np.full_like(GIVEN, 2)})
    assert found.agrees
    assert "says little" in found.said


NAN = np.where(np.arange(6).reshape(2, 3) == 4, np.nan, 2 * GIVEN).astype(np.float32)
DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, np.ndarray], str]] = {
    "other values": (told("x"), {"output_0": 3 * GIVEN}, r"differs from the source by 0\.33 of"),
    "one value": (told("x"), {"output_0": 2 * GIVEN + np.eye(2, 3) * 0.1}, "differs from the source by"),
    "not a number": (told("x"), {"output_0": NAN}, "differs from the source by nan"),
    "another shape": (told("x"), {"output_0": GIVEN[:, :2]}, r"output 0 has the shape \[2, 3\] for \[2, 2\]"),
    "an output more": (told("x"), {"output_0": 2 * GIVEN, "output_1": GIVEN}, "1 outputs for 2"),
    "an input more": (told("x", "mask"), {"output_0": 2 * GIVEN}, "has lost the inputs mask"),
    "another input": (told("image"), {"output_0": 2 * GIVEN}, "asks for inputs that the source has not: x"),
}


@pytest.mark.parametrize(("answer", "outputs", "words"), DIFFERENT.values(), ids=list(DIFFERENT))
def test_what_differs_is_said(
    tmp_path: Path, answer: dict[str, Any], outputs: dict[str, np.ndarray], words: str
) -> None:
    found = compare(file(tmp_path), answer, {"input_0": GIVEN, **outputs})
    assert found.agrees is False
    assert re.search(words, found.said), found.said


def test_a_file_that_does_not_run_differs(tmp_path: Path) -> None:
    made = file(tmp_path, "y = Lost (x)")
    found = compare(made, told("x", random=True), {"input_0": GIVEN, "output_0": GIVEN})
    assert found.agrees is False
    assert "ONNX Runtime does not run it" in found.said
    assert str(tmp_path) not in found.said


def test_what_cannot_be_compared_is_said_to_be_so(tmp_path: Path) -> None:
    draws = compare(file(tmp_path), told("x", random=True), {"input_0": GIVEN, "output_0": 5 * GIVEN})
    fails = compare(file(tmp_path), told("x", refused="it takes text"), {})
    assert draws.agrees is None
    assert "draws random numbers" in draws.said
    assert (fails.agrees, fails.said) == (None, "not compared with the source: it takes text")


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.conv(x)
        return made.relu(), made.mean((2, 3))


def test_a_program_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    program = torch.export.export(Small().eval(), (torch.zeros(2, 3, 8, 8),))
    torch.export.save(program, tmp_path / "small.pt2")
    made = import_model(tmp_path / "small.pt2", tmp_path / "m.onnx")
    assert made.compared.agrees, made.compared.said
    assert "on 2 random inputs" in made.compared.said
    assert open_model(tmp_path / "m.onnx").metadata["onnxviz.source.compared"] == made.compared.said


def test_a_module_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    view = from_torch(Small(), torch.zeros(2, 3, 8, 8), tmp_path / "m.onnx")
    assert view.metadata["onnxviz.source.compared"].startswith("agrees with the source to ")


def test_a_caffe_network_is_not_compared(tmp_path: Path) -> None:
    convolution = layer("conv", "Convolution", "data", "conv", "convolution_param { num_output: 2 kernel_size: 1 }")
    values = [np.ones((2, 3, 1, 1), np.float32), np.zeros(2, np.float32)]
    prototxt, weights = save(tmp_path, network(convolution, data=(1, 3, 8, 8)), {"conv": values})
    made = import_model(prototxt, tmp_path / "m.onnx", weights=weights)
    assert made.compared.agrees is None
    assert made.compared.said.startswith("not compared with the source: ")


def test_a_module_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch_module, "compare", lambda *_: Comparison(False, "differs from the source by 1"))
    with pytest.raises(AgreementError, match="differs from the source by 1; nothing was written"):
        from_torch(Small(), torch.zeros(2, 3, 8, 8), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    with pytest.warns(UserWarning, match="differs from the source by 1"):
        from_torch(Small(), torch.zeros(2, 3, 8, 8), tmp_path / "m.onnx", keep_different=True)
    assert (tmp_path / "m.onnx").exists()


def test_an_import_that_differs_is_written_only_if_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from onnxviz.cli import main

    def exporter(script: Path, request: dict[str, Any], folder: Path, **_: Any) -> dict[str, Any]:
        onnx.save(onnx.load(file(tmp_path)), request["output"])
        np.savez(request["reference"], input_0=GIVEN, output_0=GIVEN)
        return {"versions": {}, "done": {"written_by": "somebody", "reference": told("x")}}

    monkeypatch.setattr(importer, "run_exporter", exporter)
    monkeypatch.setattr(importer, "source_kind", lambda *_: "keras")
    (tmp_path / "m.keras").write_bytes(b"PK")
    target = tmp_path / "m.onnx"
    target.write_bytes(b"what was there")

    def ended(*options: str) -> object:
        command = ["onnxviz", "import", str(tmp_path / "m.keras"), "-o", str(target), "--force", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    said = "differs from the source by 1 of an output's largest value, on 2 random inputs"
    assert ended() == 2
    assert f"{said}; nothing was written" in capsys.readouterr().err
    assert target.read_bytes() == b"what was there"
    assert ended("--keep-different") == 3
    assert said in capsys.readouterr().out
    assert open_model(tmp_path / "m.onnx").metadata["onnxviz.source.compared"] == said
