"""What people in a notebook have: a model whose analyses run here and now, by the same classes as a recipe's.

The jobs are those of a run, on the same images, seeds and settings of torch, and so are the numbers, bit by bit. As
there, layers are first compared with ONNX Runtime; what differs is refused.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.analyses.base import Analysis, JobContext, Subject
from onnxviz.core.errors import AgreementError, MemoryLimitError, OnnxvizError, SelectionError, shorten
from onnxviz.core.findings import Finding
from onnxviz.core.memory import describe_shortage, is_out_of_memory
from onnxviz.core.sampling import spread_evenly
from onnxviz.core.values import AUTO, Agreement, Layer, Preprocessing, Unit
from onnxviz.data.concepts import ConceptSet
from onnxviz.data.given_images import source_of
from onnxviz.execution.findings_view import Findings
from onnxviz.execution.parity_job import disagreeing, distrusted, measure_agreement, why_not
from onnxviz.execution.plan import analysis_kind, heading_of, jobs_of
from onnxviz.execution.schedule import ParityCheck
from onnxviz.execution.workers.torch_setup import as_in_a_worker, seed_everything
from onnxviz.graph.fixed_inputs import InputValue
from onnxviz.graph.model_output import OutputKind
from onnxviz.model import model as models
from onnxviz.model.opening import opened
from onnxviz.model.preprocessing_candidates import pictures_for, require_classifier
from onnxviz.model.preprocessing_search import probe
from onnxviz.recipe.from_python import analysis_from, concepts_from

if TYPE_CHECKING:
    import torch

_UNITS = re.compile(r"\d+(-\d+)?|all")


class Model(models.Model):
    """A vision model from an ONNX file, with gradients and with the analyses of recipes.

    Settings are those that `onnxviz explain KIND` describes. What an analysis returns shows itself in a notebook.
    """

    def analyze(
        self, analysis: Analysis | str, sources: Mapping[str, Any] | None = None, /, *, seed: int = 0, **settings: Any
    ) -> Findings:
        """Do an analysis on this model in this process.

        Args:
            analysis: its kind, such as "adversarial", or the analysis itself.
            sources: data sets by the names that the settings use: files, folders, globs, PIL images, uint8 arrays, or
                data sets such as `onnxviz.data.builtin.scenes()`.
            seed: as a recipe's; the same seed gives the same findings.
            settings: of the analysis, as a recipe gives them.

        Raises:
            RecipeError: if there is no such kind, or with every fault of the settings.
            SelectionError: if a layer, unit or class does not exist.
            DataError: if the images cannot be used.
            AgreementError: if a layer that is needed does not agree with ONNX Runtime.
            AnalysisError: if the analysis cannot be done on this model or data, or memory does not suffice.
        """
        if isinstance(analysis, str):
            analysis = analysis_from(analysis, settings)
        elif not isinstance(analysis, Analysis):
            raise SelectionError(
                f"{type(analysis).__name__} is no analysis", remedy="give its kind, such as 'grad_cam'"
            )
        elif settings:
            raise SelectionError("an analysis has its settings already", remedy=f"leave {', '.join(settings)} out")
        data = {name: source_of(images, name) for name, images in (sources or {}).items()}
        device = "cuda" if self.device.type == "cuda" else "cpu"
        subject = Subject("model", self.view, self.preprocessing, self.labels, data, seed, device)  # type: ignore[arg-type]
        before = self.reduced, self.distrusted
        self.reduced = []
        try:
            with as_in_a_worker(device):  # type: ignore[arg-type]
                findings = self._do(analysis, subject)
            return Findings(heading_of(analysis), tuple(findings), analysis.metrics(findings), tuple(self.reduced))
        except Exception as error:
            if is_out_of_memory(error) and not isinstance(error, OnnxvizError):
                raise MemoryLimitError(describe_shortage(error), where=analysis_kind(analysis)) from error
            raise
        finally:
            self.reduced, self.distrusted = before

    def grad_cam(
        self,
        images: Any,
        classes: int | str | Sequence[int | str] = "top:3",
        layers: str | Sequence[str] = "block_outputs",
        **settings: Any,
    ) -> Findings:
        """Show where in images the evidence for classes lies, layer by layer.

        Args:
            images: one or several: files, folders, globs, PIL images or uint8 arrays.
            classes: names or indices, "top:3" for those of the highest scores, "label" for each image's own.
            layers: names, globs or roles.
            settings: more of `onnxviz explain grad_cam`.

        Raises:
            OnnxvizError: as `analyze`.
        """
        given = {"data": "images", "classes": classes, "layers": layers, **settings}
        return self.analyze("grad_cam", {"images": images}, **given)

    def attribute(
        self,
        images: Any,
        target: int | str | Sequence[int | str] | Mapping[str, Any] = "top:1",
        method: Any = "grad_cam",
        layers: str | Sequence[str] = "last_map",
        **settings: Any,
    ) -> Findings:
        """Show where in images the evidence for a class lies, by one or several methods.

        Args:
            images: one or several: files, folders, globs, PIL images or uint8 arrays.
            target: classes by name or index, "top:3" for those of the highest scores, "label" for each image's own; or
                the mapping that a recipe has as `target`, such as `{"kind": "region"}`, with `classes` beside.
            method: names that `onnxviz explain attribution.methods` lists, mappings with settings, or a list of these.
            layers: names, globs or roles, for methods that make maps of layers.
            settings: more of `onnxviz explain attribution`, such as `against="goose"`, or `faithfulness=None`: it takes
                several images, and many passes of each, to tell which maps to believe.

        Raises:
            OnnxvizError: as `analyze`.
        """
        chosen = method if isinstance(method, str | Mapping) else list(method)
        said = {"target": target, "classes": "top:1"} if isinstance(target, Mapping) else {"classes": target}
        given = {"data": "images", "methods": chosen, "layers": layers, **said, **settings}
        return self.analyze("attribution", {"images": images}, **given)

    def visualize(self, targets: Any = (), images: Any = None, **settings: Any) -> Findings:
        """Make pictures of what units or classes look for.

        Args:
            targets: one or several: "fire5/concat:12" or "conv1:0-15" for units, a layer's name, a class's name, a
                `Unit`, a `Layer`, or a mapping as in a recipe.
            images: real images to set the pictures beside.
            settings: more of `onnxviz explain activation_maximization`.

        Raises:
            OnnxvizError: as `analyze`.
        """
        listed = targets if isinstance(targets, list | tuple) else [targets]
        given = {"targets": [self._target(item) for item in listed], **settings}
        if images is None:
            return self.analyze("activation_maximization", **given)
        return self.analyze("activation_maximization", {"images": images}, data="images", **given)

    def dissect(
        self,
        concepts: ConceptSet | Path | str | Mapping[str, Any],
        layers: str | Sequence[str] | None = None,
        **settings: Any,
    ) -> Findings:
        """Find out which units detect which labelled concept, and how many by chance.

        Args:
            concepts: a folder of labelled images, what a recipe may say of them (docs/concepts.md), or a data set.
            layers: names, globs or roles; the analysis' own choice if None.
            settings: more of `onnxviz explain dissection`.

        Raises:
            OnnxvizError: as `analyze`.
        """
        if isinstance(concepts, str | os.PathLike):
            concepts = {"concepts": concepts}
        if isinstance(concepts, Mapping):
            concepts = concepts_from(concepts).open("concepts", Path())
        given = {"data": "concepts", **({} if layers is None else {"layers": layers}), **settings}
        return self.analyze("dissection", {"concepts": concepts}, **given)

    def kernels(self, layers: str | Sequence[str] = "first_conv", **settings: Any) -> Findings:
        """Show the kernels of layers, and whether they look trained.

        Args:
            layers: names, globs or roles.
            settings: more of `onnxviz explain weights`.

        Raises:
            OnnxvizError: as `analyze`.
        """
        return self.analyze("weights", layers=layers, **settings)

    # --- as a worker does it ----------------------------------------------------------------------------------------

    def _do(self, analysis: Analysis, subject: Subject) -> list[Finding]:
        jobs = list(jobs_of(analysis, subject))
        self._compare(subject, {layer for job in jobs for layer in job.layers}, analysis_kind(analysis))
        last = {name: job.name for job in jobs for name in job.needs}
        intermediate = {job.name for job in jobs if job.intermediate}
        found: dict[str, list[Finding]] = {}
        for job in jobs:
            seed_everything(subject.seed, analysis_kind(analysis), job.name)
            needed = {name: found[name] for name in job.needs}
            found[job.name] = analysis.run(job, JobContext(subject, self, _unheard, needed))
            for name in intermediate.intersection(job.needs):  # can be gigabytes
                if last[name] == job.name:
                    del found[name]
        return analysis.combine([found[job.name] for job in jobs if not job.intermediate], subject)

    @cached_property
    def _compared(self) -> tuple[set[str], list[Agreement], dict[str, str]]:
        """Names of the layers that were compared with ONNX Runtime, how they agree, and why others could not be."""
        return set(), [], {}

    def _compare(self, subject: Subject, used: set[str], kind: str) -> None:
        names, agreement, errors = self._compared
        layers = [layer.name for layer in self.view.layers if layer.name in used]
        new = tuple(name for name in layers if name not in names)
        if new:
            data = next((name for name, source in subject.data.items() if len(source)), None)
            measured, failed = measure_agreement(self, subject, ParityCheck("", subject.alias, new, data))
            names.update(new)
            agreement += measured
            errors |= failed
        if why := why_not(layers, disagreeing(agreement, errors)):
            raise AgreementError(why, where=kind, remedy="choose other layers")
        self.distrust(distrusted(agreement))

    def _target(self, item: Any) -> Any:
        """Return a target as a recipe has it."""
        if isinstance(item, Unit):
            return {"layer": item.layer, "units": item.index}
        if isinstance(item, Layer):
            return {"layer": item.name}
        if not isinstance(item, str):
            return item
        layer, _, units = item.rpartition(":")
        if layer and _UNITS.fullmatch(units) and not self._is_layer(item):
            return {"layer": layer, "units": int(units) if units.isdecimal() else units}
        return {"layer": item} if self._is_layer(item) else {"layer": "logits", "units": item}

    def _is_layer(self, name: str) -> bool:
        try:
            return bool(self.view.select(name))
        except SelectionError:
            return False


def _unheard(done: int, total: int, note: str = "") -> None:
    """Listen to the progress of a job, which nobody sees."""


def load(
    path: Path | str,
    preprocess: str | Preprocessing | Mapping[str, Any] | None = None,
    labels: Path | str | Sequence[str] | None = None,
    device: torch.device | str | None = None,
    output: OutputKind | Mapping[str, OutputKind] | None = None,
    *,
    images: Any = None,
    inputs: Mapping[str, InputValue] | None = None,
) -> Model:
    """Open an ONNX model from any exporter.

    Args:
        path: the file.
        preprocess: a preset ("caffe", "imagenet", "tf", "unit", "raw", "gray_unit", ...), a `Preprocessing`, or its
            fields as a mapping; "auto" for the best of those tried on `images`; what the file says, else a guess with a
            warning, if None. `model.preprocessing.origin` tells which of these it is.
        labels: class names in logit order, or a text file of them, one a line; those in the file's metadata if None.
        device: "cpu", "cuda", ...; a GPU where there is one if None.
        output: what the model gives, where its file does not say it: "classes", "binary", "multilabel",
            "map_of_classes", "regression", "embedding", "boxes", "image" or "unknown"; or a mapping from the names of
            its outputs to these.
        images: for "auto": files, folders, globs, PIL images or uint8 arrays of what the model is made for, or a data
            set. Where their classes are known (`ground_truth.HOW`) accuracy decides.
        inputs: values for inputs beside the image, by their names: "ones", "zeros", a number for all entries, all
            numbers as a list or an array, or the path of a .npy file of them.

    Returns:
        The model; it is converted when gradients or activations are first asked for.

    Raises:
        ModelFileError: if the file cannot be read or is refused as unsafe.
        ModelError: if a preprocessing is to be found for a model that gives no class to an image.
        SelectionError: if the preset does not exist, "auto" has no images, there are not as many labels as logits,
            or an output cannot be what `output` says.
        DataError: if the labels or images cannot be read.
    """
    if preprocess != AUTO:
        if images is not None:
            raise SelectionError("images are for preprocess='auto' only", remedy="leave them out, or write 'auto'")
        model = Model(*opened(path, preprocess, labels, output, inputs), device)
        if preprocess is None and model.preprocessing.origin == "guess" and model.view.input_layout != "other":
            warnings.warn(_guessed(model), stacklevel=2)
        return model
    if images is None:
        raise SelectionError("preprocess='auto' tries preprocessings on images", remedy="give them: images='photos/'")
    model = Model(*opened(path, None, labels, output, inputs), device)
    source = source_of(images)
    indices = spread_evenly(range(len(source)), pictures_for(model.view))
    found = probe(model.view, source, labels=model.labels, device=str(model.device), indices=indices)
    if found.no_better:
        warnings.warn(f"{shorten(model.view.file)}: {found.no_better}", stacklevel=2)
    chosen = replace(found.trials[0].preprocessing, origin="trial")
    return Model(model.view, chosen, model.labels, model.device)


def _guessed(model: Model) -> str:
    """Return what to do about a preprocessing that nobody has said."""
    example = "'imagenet'" if model.domain.photographic else "{'mean': [...], 'scale': [...], 'range': [0, 10000]}"
    text = (
        f"{shorten(model.view.file)}: nothing says how images become its input, so that "
        f"{model.preprocessing.name!r} is a guess, and results may be of images that it was not made for; say what its "
        f"authors say, for example preprocess={example}"
    )
    try:
        require_classifier(model.view)
    except SelectionError:
        return text
    return f"{text}, or have it found on images: preprocess='auto', images='photos/'"
