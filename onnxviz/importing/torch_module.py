"""PyTorch modules from Python: `torch.onnx.export` with a free batch, the module's own names, a validated result."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.core.errors import DataError, ModelError
from onnxviz.importing.comparison import compare, read_reference, require_the_same
from onnxviz.importing.importer import check_target, write_checked
from onnxviz.importing.program_exporter import write_reference

if TYPE_CHECKING:
    import torch

    from onnxviz.graph import GraphView

OPSET = 20


def from_torch(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor = (),
    path: Path | str = "model.onnx",
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSET,
    force: bool = False,
    keep_different: bool = False,
) -> GraphView:
    """Export a PyTorch module to an ONNX file by `torch.onnx.export(dynamo=True)`.

    The module is exported in evaluation mode and left as it was. The batch, axis 0 of all inputs, is free; a module
    that cannot have a free batch is exported with the batch of the examples, and a warning says so. Layers are found
    by the names of the module's parts, such as `layer4.1.conv2`.

    Args:
        module: the module, or a program of `torch.export.export`, which is taken as it is.
        example_inputs: one tensor for each input, the batch first: [N, 3, height, width] for an image model.
        path: the ONNX file.
        input_names: names of the inputs; the names of `forward`'s parameters if None.
        output_names: names of the outputs.
        opset: ONNX opset.
        force: overwrite the file.
        keep_different: write the file, with a warning, also where it differs from the module.

    Returns:
        The network, read from the file.

    Raises:
        DataError: if the examples are no tensors with a common batch.
        ModelError: if onnxscript is missing, or the module cannot be exported; says why.
        AgreementError: if what was exported differs from the module.
        OutputError: if the file exists already or cannot be written.
    """
    import torch

    target = Path(path)
    check_target(target, force)
    options: dict[str, Any] = {"dynamo": True, "verbose": False, "opset_version": opset}
    options |= {"input_names": input_names, "output_names": output_names}
    place = type(module).__name__
    _need_onnxscript(place)
    if isinstance(module, torch.export.ExportedProgram):
        made, program = _export(place, module, None, **options), module
    elif isinstance(module, torch.nn.Module):
        made, program = _export_module(module, _examples(example_inputs), place, options)
    else:
        raise DataError(f"{place} is no torch.nn.Module and no exported program", remedy="give the module itself")
    with tempfile.TemporaryDirectory(prefix="onnxviz-import-") as folder:
        exported = Path(folder) / "model.onnx"
        try:
            made.save(str(exported), external_data=False)
        except Exception as fault:
            raise ModelError(f"the exported model cannot be saved: {_first(fault)}", where=place) from fault
        reference = Path(folder) / "reference.npz"
        told = {"inputs": [value.name for value in made.model.graph.inputs]}
        told |= write_reference(torch, program, str(reference))
        compared = compare(exported, told, read_reference(reference))
        require_the_same(compared, place, keep=keep_different)
        if compared.agrees is False:
            warnings.warn(f"{place}: the ONNX file {compared.said}", stacklevel=2)
        about = {"kind": "PyTorch module", "file": place, "frameworks": f"torch {torch.__version__}"}
        about["compared"] = compared.said
        return write_checked(exported, target, about, place)


def _export_module(
    module: torch.nn.Module, examples: tuple[torch.Tensor, ...], place: str, options: dict[str, Any]
) -> tuple[Any, torch.export.ExportedProgram]:
    """Export with a free batch, or with a fixed one and a warning; the module's modes are put back.

    Returns:
        What was exported, and the program that it was exported from.
    """
    import torch

    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        # A batch of one is a constant to torch.export: the examples are made two.
        several = tuple(tensor if len(tensor) > 1 else torch.cat([tensor, tensor]) for tensor in examples)
        batch = torch.export.Dim("batch")
        free = tuple({0: batch} for _ in several)
        try:
            program = torch.export.export(module, several, dynamic_shapes=free)
        except Exception as first:
            try:
                program = torch.export.export(module, examples)
            except Exception as fault:
                raise ModelError(
                    f"torch.export cannot trace it: {_first(fault)}",
                    where=place,
                    remedy="export it with torch.onnx.export yourself, and give the ONNX file",
                ) from fault
            warnings.warn(
                f"{place} was exported with the fixed batch of {len(examples[0])}: {_first(first)}", stacklevel=4
            )
        return _export(place, program, None, **options), program
    finally:
        for part, training in modes.items():
            part.training = training


def _export(place: str, *arguments: Any, **options: Any) -> Any:
    import torch

    try:
        return torch.onnx.export(*arguments, **options)
    except Exception as fault:
        raise ModelError(
            f"torch.onnx cannot convert it: {_first(fault.__cause__ or fault)}",
            where=place,
            remedy="try another opset, or export it with torch.onnx.export yourself",
        ) from fault


def _examples(given: Sequence[torch.Tensor] | torch.Tensor) -> tuple[torch.Tensor, ...]:
    import torch

    examples = (given,) if isinstance(given, torch.Tensor) else tuple(given)
    if not examples or not all(isinstance(tensor, torch.Tensor) and tensor.dim() for tensor in examples):
        raise DataError(
            "the examples must be tensors, the batch first", remedy="for example (torch.zeros(1, 3, 224, 224),)"
        )
    if len({len(tensor) for tensor in examples}) != 1 or not len(examples[0]):
        raise DataError("the examples have different batches, or none", remedy="give the same number of each")
    return examples


def _need_onnxscript(place: str) -> None:
    import importlib.util

    if importlib.util.find_spec("onnxscript") is None:
        raise ModelError("onnxscript is not installed", where=place, remedy='pip install "onnxscript>=0.5"')


def _first(fault: BaseException) -> str:
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    return f"{type(fault).__name__}: {(lines or [''])[0]}"[:400]
