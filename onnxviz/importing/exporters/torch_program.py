"""Turn a PyTorch program into ONNX.

The program was written anew by `program_archive` before it comes here; unpickling is switched off all the same.
"""

from __future__ import annotations

from typing import Any

from onnxviz.importing.exporters.process import RefusedError, differ, first_line, require, save_reference

PACKAGES = ("torch", "onnxscript")
"""Whose versions the importer writes down."""
OPSET = 20


def switch_pickle_off(torch: Any) -> None:
    """Make every way by which torch unpickles raise instead, in this process."""
    import pickle

    def refuse(*_: Any, **__: Any) -> Any:
        raise RefusedError("it holds a Python pickle", "export it again with its tensors only")

    torch.load = refuse
    torch.serialization.load = refuse
    torch._C._pickle_load_obj = refuse
    for name in ("load", "loads"):
        setattr(pickle, name, refuse)


def export(request: dict[str, Any]) -> dict[str, Any]:
    """Load a program and export it."""
    torch = require("torch")
    require("onnxscript")
    for name in ("torch.export.pt2_archive._package", "torch.onnx"):
        require(name)  # now: what they import may unpickle tables of its own

    switch_pickle_off(torch)
    try:
        program = torch.export.load(request["source"])
    except RefusedError:
        raise
    except Exception as fault:
        raise RefusedError(
            f"torch {torch.__version__} cannot load it: {first_line(fault)}",
            "use the torch that wrote it (onnxviz import --python PATH), or export it again with this one",
        ) from None
    told = write_onnx(torch, program, request["output"], request["reference"])
    return {"written_by": f"torch {request.get('written_by') or '(version not said)'}", "reference": told}


def write_onnx(torch: Any, program: Any, output: str, reference: str, **options: Any) -> dict[str, Any]:
    """Write a program as ONNX, and what it computes on random inputs; returns what `comparison.compare` is told.

    Options are those of `torch.onnx.export`.
    """
    what = "torch.onnx cannot convert it"
    try:
        made = torch.onnx.export(program, **{"dynamo": True, "verbose": False, "opset_version": OPSET, **options})
        what = "the exported model cannot be saved"
        made.save(output, external_data=False)
    except Exception as fault:
        cause = fault.__cause__ or fault
        raise RefusedError(f"{what}: {first_line(cause)}", "export it to ONNX yourself") from fault
    names = [value.name for value in made.model.graph.inputs]
    return {"inputs": names, **_write_reference(torch, program, reference)}


def _write_reference(torch: Any, program: Any, path: str) -> dict[str, Any]:
    """Run a program twice on random inputs and write down inputs and outputs; returns why not, and whether it draws."""
    import numpy

    generator = numpy.random.default_rng(0)
    try:
        given = [_made_up(torch, node, generator) for node in _inputs(program)]
        module = program.module()
        with torch.no_grad():
            runs = [torch.utils._pytree.tree_leaves(module(*given)) for _ in range(2)]
        outputs = [[value.numpy() for value in run if isinstance(value, torch.Tensor)] for run in runs]
    except Exception as fault:
        return {"refused": f"the source does not run on random inputs: {first_line(fault)}"}
    save_reference(path, [value.numpy() for value in given], outputs[0])
    return {"refused": "", "random": differ(*outputs)}


def _inputs(program: Any) -> list[Any]:
    wanted = set(program.graph_signature.user_inputs)
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]


def _made_up(torch: Any, node: Any, generator: Any) -> Any:
    """Return a random tensor for an input: noise, or zeros and ones for whole numbers; free sizes as in the example."""
    like = node.meta["val"]
    shape = [size if isinstance(size, int) else int(size.node.hint or 2) for size in like.shape]
    if like.dtype.is_floating_point:
        return torch.from_numpy(generator.standard_normal(shape)).to(like.dtype)
    return torch.from_numpy(generator.integers(0, 2, shape)).to(like.dtype)
