"""Whether the modules of PyTorch networks are found in exported files under their own names, and rightly.

`python -m benchmarks.layer_names` exports every network of `benchmarks.architectures` with both of PyTorch's exporters
(extra `sweep`), runs the network itself with a hook on every submodule, and selects each submodule by its name in the
exported file. A name is *right* if the selected layer's values are the submodule's output, units axis included, or the
output of the batch normalisation that the exporter has folded into the convolution. It is *wrong* if they are anything
else: that must never happen. A name that is refused is counted apart, by whether the file holds the value at all.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks import architectures
from onnxviz.core.errors import SelectionError
from onnxviz.core.values import Layer
from onnxviz.graph import GraphView, open_model
from onnxviz.model.model import units_first
from onnxviz.model.ort_session import Session

TOLERANCE = 2e-3
"""Largest difference in units of the output's largest magnitude."""
KINDS = ("convolution", "linear", "activation", "normalisation", "other leaf", "block", ":act")


@dataclass
class Call:
    """One call of a submodule.

    Attributes:
        name: the submodule's name, with _1, _2, ... for its second, third call.
        kind: one of KINDS.
        output: what it returned, without a gradient.
        units: the axis of its units where its type says so.
        folded: output of the batch normalisation right behind a convolution.
        expected_act: output of the activation that follows a convolution or linear layer.
        inner: the convolution that a block ends in.
    """

    name: str
    kind: str
    output: np.ndarray
    units: int | None
    folded: np.ndarray | None = None
    expected_act: np.ndarray | None = None
    inner: Call | None = None


@dataclass(frozen=True)
class Finding:
    """What became of one name.

    Attributes:
        name: the submodule's.
        kind: one of KINDS.
        verdict: "right"; "mixed" if right, but with a first axis that is not the image; "reshaped" if the numbers are
            right in another form; "axis" if the units are elsewhere; "wrong"; "unnamed" if the name is refused and
            the file has the value; "absent" if it has not.
        note: details.
    """

    name: str
    kind: str
    verdict: str
    note: str = ""


def kind_of(module: nn.Module) -> str:
    """Return which of KINDS a submodule is."""
    place = type(module).__module__
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if isinstance(module, nn.Linear):
        return "linear"
    if place.startswith(("torch.nn.modules.activation", "timm.layers.activations")) and not list(module.children()):
        return "activation"
    if isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm):
        return "normalisation"
    return "block" if list(module.children()) else "other leaf"


def units_axis(module: nn.Module, output: torch.Tensor) -> int | None:
    """Return the axis of the units where the type of the submodule says so."""
    if isinstance(module, nn.modules.conv._ConvNd) or (isinstance(module, _BatchNorm) and output.dim() > 2):
        return 1
    if isinstance(module, nn.Linear) or type(module) is nn.LayerNorm:
        return output.dim() - 1
    return None


def observe(model: nn.Module, image: torch.Tensor) -> list[Call]:
    """Run a network on one image and record what each submodule returns."""
    calls: list[Call] = []
    counts: Counter[str] = Counter()
    made: dict[tuple[int, int], Call] = {}
    kept: list[torch.Tensor] = []

    def record(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[object, ...], output: object) -> None:
            counts[name] += 1
            if not isinstance(output, torch.Tensor) or output.dim() == 0 or not output.is_floating_point():
                return
            kind = kind_of(module)
            called = name if counts[name] == 1 else f"{name}_{counts[name] - 1}"
            inner = made.get((id(output), output._version))  # a block that ends in a convolution
            call = Call(called, kind, output.detach().clone().numpy(), units_axis(module, output))
            source = given[0] if given and isinstance(given[0], torch.Tensor) else None
            before = made.get((id(source), source._version)) if source is not None else None
            if before is not None:
                assert source is not None
                _link(before, call, module, source)
            if kind in ("convolution", "linear"):
                made[id(output), output._version] = call
            elif inner is not None and kind == "block":
                call.inner = inner
            elif before is not None and isinstance(module, _BatchNorm):
                made[id(output), output._version] = before
            kept.extend([output, *([source] if source is not None else [])])
            calls.append(call)

        module.register_forward_hook(hook)

    for name, module in model.named_modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if name:
            record(name, module)
    with torch.no_grad():
        model(image)
    return calls


def _link(before: Call, call: Call, module: nn.Module, source: torch.Tensor) -> None:
    """Note the normalisation and the activation that follow a convolution or linear layer."""
    if isinstance(module, _BatchNorm) and before.kind == "convolution" and before.folded is None:
        before.folded = nn.functional.batch_norm(
            source, module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps
        ).numpy()  # without the activation that timm's BatchNormAct2d has inside
        if not np.array_equal(before.folded, call.output):
            before.expected_act = call.output
    elif (call.kind == "activation" and before.expected_act is None) or _only_activates(module):
        before.expected_act = call.output


def _only_activates(module: nn.Module) -> bool:
    """Whether a module is an activation made of others, as StarReLU is: its own result counts."""
    leaves = [inner for inner in module.modules() if not list(inner.children())]
    return kind_of(module) == "block" and all(kind_of(leaf) == "activation" for leaf in leaves)


def values_of(view: GraphView, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return every layer of an exported file by its identifier, for one image."""
    wanted = [layer.value for layer in view.layers]
    session = Session(view.proto, wanted, device="cpu")
    return dict(zip(wanted, session.run({view.input_name: image.numpy()}), strict=True))


def compare(view: GraphView, calls: Iterable[Call], values: dict[str, np.ndarray]) -> Iterator[Finding]:
    """Select every submodule by its name and look at what was selected."""
    for call in calls:
        try:
            layer = view.layer(call.name)
        except SelectionError as refusal:
            exists = any(_same(array, call.output) for array in values.values())
            yield Finding(call.name, call.kind, "unnamed" if exists else "absent", str(refusal).partition("\n")[0])
            continue
        yield Finding(call.name, call.kind, *_judge(layer, call, values[layer.value]))
        if call.expected_act is not None:
            act = view.layer(f"{call.name}:act")
            right = _same(values[act.value], call.expected_act) or _same(
                units_first(values[act.value], act.channel_axis), call.expected_act
            )
            yield Finding(f"{call.name}:act", ":act", "right" if right else "wrong", act.name)


def _judge(layer: Layer, call: Call, found: np.ndarray) -> tuple[str, str]:
    folded = call.inner.folded if call.inner is not None else call.folded
    for truth in (call.output,) if folded is None else (call.output, folded):
        if _same(found, truth):
            if call.units is not None and layer.channel_axis is None and found.shape[0] != 1:
                return "mixed", f"{list(found.shape)} for one image"
            if call.units is not None and layer.channel_axis != call.units:
                return "axis", f"units along {layer.channel_axis} of {list(found.shape)}, not along {call.units}"
            return "right", ""
        if call.units is not None and _same(units_first(found, layer.channel_axis), units_first(truth, call.units)):
            return "right", ""
    if found.size == call.output.size and _same(found.reshape(-1), call.output.reshape(-1)):
        return "reshaped", f"{list(found.shape)} for {list(call.output.shape)}"
    return "wrong", f"{layer.name} {list(found.shape)} for {list(call.output.shape)}"


def _same(found: np.ndarray, truth: np.ndarray) -> bool:
    if found.shape != truth.shape:
        return False
    return bool(np.abs(found - truth).max(initial=0) <= TOLERANCE * max(np.abs(truth).max(initial=0), 1e-6))


def examine(architecture: architectures.Architecture, exporter: str, folder: Path) -> list[Finding]:
    """Export a network where it is not exported yet, and try all its names."""
    model, images = architectures.make(architecture)
    path = folder / exporter / f"{architecture.name}.onnx"
    if not path.exists():
        architectures.export(model, images, exporter, path)
    view = open_model(path)
    image = images[:1]
    return list(compare(view, observe(model, image), values_of(view, image)))


def main() -> None:
    """Print a line for each architecture and exporter, every wrong name, and the sums."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the exported files are or come to lie")
    parser.add_argument("--only", default="", help="regular expression that architectures must match")
    parser.add_argument("--exporter", choices=tuple(architectures.EXPORTERS), action="append")
    parser.add_argument("--exported", action="store_true", help="leave out what is not exported yet")
    parser.add_argument("--details", action="store_true", help="list refused names too")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    totals: Counter[tuple[str, str]] = Counter()
    for architecture in architectures.ARCHITECTURES:
        for exporter in options.exporter or architectures.EXPORTERS:
            there = (folder / exporter / f"{architecture.name}.onnx").exists()
            if not re.search(options.only, architecture.name) or (options.exported and not there):
                continue
            try:
                findings = examine(architecture, exporter, folder)
            except Exception as fault:  # one network that cannot be made or exported does not end the others
                print(f"{architecture.name} {exporter}: {type(fault).__name__}: {str(fault)[:120]}", flush=True)
                continue
            counts = Counter((finding.kind, finding.verdict) for finding in findings)
            totals += counts
            print(f"{architecture.name} {exporter}: {_row(counts)}", flush=True)
            for finding in findings:
                if finding.verdict in ("wrong", "axis") or (options.details and finding.verdict != "right"):
                    print(f"    {finding.verdict}: {finding.kind} {finding.name}: {finding.note}")
    print(f"all: {_row(totals)}")


def _row(counts: Counter[tuple[str, str]]) -> str:
    parts = []
    for kind in KINDS:
        named = {verdict: number for (of, verdict), number in counts.items() if of == kind}
        if total := sum(named.values()):
            rest = ", ".join(f"{number} {verdict}" for verdict, number in sorted(named.items()) if verdict != "right")
            parts.append(f"{kind} {named.get('right', 0)}/{total}" + (f" ({rest})" if rest else ""))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
