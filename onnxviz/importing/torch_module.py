"""PyTorch modules from Python: `torch.onnx.export` with a free batch, the module's own names, a validated result."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxviz.core.errors import DataError, ModelError
from onnxviz.importing.comparison import compare, read_reference, require_the_same
from onnxviz.importing.exporters.process import RefusedError, first_line
from onnxviz.importing.exporters.torch_program import OPSET, write_onnx
from onnxviz.importing.importer import check_target, write_checked

if TYPE_CHECKING:
    import torch

    from onnxviz.graph import GraphView


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
    options = {"opset_version": opset, "input_names": input_names, "output_names": output_names}
    place = type(module).__name__
    if importlib.util.find_spec("onnxscript") is None:
        raise ModelError("onnxscript is not installed", where=place, remedy='pip install "onnxscript>=0.5"')
    if isinstance(module, torch.export.ExportedProgram):
        program = module
    elif isinstance(module, torch.nn.Module):
        program = _trace(module, _examples(example_inputs), place)
    else:
        raise DataError(f"{place} is no torch.nn.Module and no exported program", remedy="give the module itself")
    with tempfile.TemporaryDirectory(prefix="onnxviz-import-") as folder:
        exported, reference = Path(folder) / "model.onnx", Path(folder) / "reference.npz"
        try:
            told = write_onnx(torch, program, str(exported), str(reference), **options)
        except RefusedError as refusal:
            remedy = "try another opset, or export it with torch.onnx.export yourself"
            raise ModelError(refusal.what, where=place, remedy=remedy) from refusal
        compared = compare(exported, told, read_reference(reference))
        require_the_same(compared, place, keep=keep_different)
        if compared.agrees is False:
            warnings.warn(f"{place}: the ONNX file {compared.said}", stacklevel=2)
        about = {"kind": "PyTorch module", "file": place, "frameworks": f"torch {torch.__version__}"}
        about["compared"] = compared.said
        return write_checked(exported, target, about, place)


def _trace(module: torch.nn.Module, examples: tuple[torch.Tensor, ...], place: str) -> torch.export.ExportedProgram:
    """Trace with a free batch, or with a fixed one and a warning; the module's modes are put back."""
    import torch

    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        # A batch of one is a constant to torch.export: the examples are made two.
        several = tuple(tensor if len(tensor) > 1 else torch.cat([tensor, tensor]) for tensor in examples)
        batch = torch.export.Dim("batch")
        free = tuple({0: batch} for _ in several)
        try:
            return torch.export.export(module, several, dynamic_shapes=free)
        except Exception as first:
            try:
                program = torch.export.export(module, examples)
            except Exception as fault:
                raise ModelError(
                    f"torch.export cannot trace it: {first_line(fault)}",
                    where=place,
                    remedy="export it with torch.onnx.export yourself, and give the ONNX file",
                ) from fault
            warnings.warn(
                f"{place} was exported with the fixed batch of {len(examples[0])}: {first_line(first)}", stacklevel=3
            )
            return program
    finally:
        for part, training in modes.items():
            part.training = training


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
