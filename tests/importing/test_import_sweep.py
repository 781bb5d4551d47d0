"""What PyTorch exports of torchvision's and timm's architectures is imported as what PyTorch computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

if TYPE_CHECKING:
    from benchmarks.architectures import Architecture

ROOT = Path(__file__).resolve().parents[2]
EXPORTERS = ("torchscript", "dynamo")
QUICK = (
    ("torchvision", "mobilenet_v3_small", 64),
    ("torchvision", "shufflenet_v2_x0_5", 64),
    ("timm", "test_resnet", 32),
    ("timm", "test_efficientnet", 32),
    ("timm", "test_convnext", 32),
    ("timm", "test_nfnet", 32),
    ("timm", "test_vit", 160),
    ("timm", "pvt_v2_b0", 64),
)


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of architectures is no part of the package: it is found beside it."""
    monkeypatch.syspath_prepend(str(ROOT))


def architecture(library: str, model: str, side: int) -> Architecture:
    """One network, or the reason why it cannot be tried here."""
    from benchmarks import architectures

    if library not in architectures.libraries():
        pytest.skip(f"{library} cannot be imported: install the extra sweep")
    return architectures.Architecture(library, model, side)


def need(exporter: str) -> None:
    if exporter == "dynamo":
        pytest.importorskip("onnxscript", reason="PyTorch's default exporter needs onnxscript: install the extra sweep")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("library", "model", "side"), QUICK, ids=[row[1] for row in QUICK])
def test_export_is_imported_as_it_was(library: str, model: str, side: int, exporter: str, tmp_path: Path) -> None:
    """Outputs for one image and for four, and the gradient to the image."""
    from benchmarks import architectures
    from benchmarks.import_coverage import check_export, input_gradients

    need(exporter)
    network, images = architectures.make(architecture(library, model, side))
    path = tmp_path / "network.onnx"
    architectures.export(network, images, exporter, path)
    outputs = architectures.reference(network, images)
    found = check_export("here", path, images, outputs, input_gradients(network, images))
    assert (found.verdict, found.reason) == ("pass", ""), found
    assert max(found.error, found.batch_error) < 1e-4, found


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_free_batch(exporter: str, tmp_path: Path) -> None:
    from benchmarks import architectures
    from benchmarks.import_coverage import check_export

    need(exporter)
    network, images = architectures.make(architecture("timm", "test_vit", 160))
    path = tmp_path / "network.onnx"
    architectures.export(network, images, exporter, path, dynamic=True)
    found = check_export("here", path, images, architectures.reference(network, images))
    assert (found.verdict, found.reason) == ("pass", ""), found
    assert not np.isnan(found.batch_error)


def test_every_batch_normalisation_counts() -> None:
    """An importer that forgot one statistic of one layer would be noticed."""
    from benchmarks import architectures
    from benchmarks.import_coverage import TOLERANCE, relative_error

    network, images = architectures.make(architecture("timm", "test_resnet", 32))
    (before,) = architectures.reference(network, images)
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    assert len(layers) > 5
    for layer in layers:
        for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
            kept = values.clone()
            values.fill_(1.0 if float(kept.mean()) > 0.5 else 0.0)
            (after,) = architectures.reference(network, images)
            assert relative_error(after, before) > 10 * TOLERANCE
            values.copy_(kept)


def test_another_network_is_found_wrong(tmp_path: Path) -> None:
    from benchmarks import architectures
    from benchmarks.import_coverage import check_export, input_gradients

    network, images = architectures.make(architecture("timm", "test_resnet", 32))
    path = tmp_path / "network.onnx"
    architectures.export(network, images, "torchscript", path)
    with torch.no_grad():
        next(module for module in network.modules() if isinstance(module, _BatchNorm)).weight[0].mul_(1.5)
    outputs = architectures.reference(network, images)
    found = check_export("here", path, images, outputs, input_gradients(network, images))
    assert found.verdict == "wrong"
    assert all(part in found.reason for part in ("batch 1", "batch 4", "gradient"))


def test_what_does_not_import_is_refused_or_a_crash(tmp_path: Path) -> None:
    from benchmarks.import_coverage import Finding, attempt, check_export, summary

    path = tmp_path / "network.onnx"
    path.write_bytes(b"no model")
    refused = check_export("here", path, torch.zeros(1, 3, 8, 8), [])

    def broken() -> Finding:
        raise IndexError("an oversight")

    crash = attempt("here", "other", broken)
    assert (refused.verdict, crash.verdict) == ("refused", "crash")
    ((_, files, passed, wrong, crashes, refusals, *_),) = summary([refused, crash])
    assert (files, passed, wrong, crashes, refusals) == (2, 0, 0, 1, 1)


class _Reads(torch.nn.Module):
    """A network that looks at a value on the host."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images * (2 if images.sum() > 0 else 3),)


def test_forward_and_backward_leave_the_host_alone(tmp_path: Path) -> None:
    """Also as one graph of torch.compile; a network that does wait for a value is found by both checks."""
    import onnxviz
    from benchmarks import architectures
    from benchmarks.import_speed import compile_fault, host_reads

    network, images = architectures.make(architecture("timm", "test_resnet", 32))
    path = tmp_path / "network.onnx"
    architectures.export(network, images, "torchscript", path)
    converted = onnxviz.to_torch(path)
    assert host_reads(converted, images) == []
    assert host_reads(_Reads(), images)
    assert compile_fault(converted, images, "aot_eager") == ""
    assert compile_fault(_Reads(), images, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_whole_sweep(exporter: str, tmp_path: Path) -> None:
    from benchmarks.architectures import libraries
    from benchmarks.import_coverage import exporter_findings

    need(exporter)
    if missing := {"torchvision", "timm"} - set(libraries()):
        pytest.skip(f"{', '.join(missing)} cannot be imported: install the extra sweep")
    found = list(exporter_findings(tmp_path, (), [exporter], keep=False))
    exported = [finding for finding in found if finding.verdict != "not exported"]
    assert len(exported) >= 85
    failed = [
        f"{finding.verdict}: {finding.name}: {finding.reason}" for finding in exported if finding.verdict != "pass"
    ]
    assert not failed, "\n".join(failed)
