"""Who does the jobs: a worker takes jobs and leaves results in the store, so that it can live in any process."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import random
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from onnxviz.analyses.base import Analysis, Bench, Progress, Subject
from onnxviz.cache import Store
from onnxviz.errors import BatchMixedError, OnnxvizError, OutputError, shorten
from onnxviz.findings import Column, Finding, Table
from onnxviz.images import load_batch
from onnxviz.plan import PROOF_IMAGES, Device, PlannedJob, Proof, analysis_kind
from onnxviz.values import Agreement

if TYPE_CHECKING:
    from onnxviz.model import Model

MIXES_BATCH = "its tensor mixes the images of a batch with something else, so that no image has values of its own"
"""Why a layer cannot be compared, which says nothing against the model."""
_AGREEMENT_COLUMNS = ("layer", "relative", "absolute", "tolerance", "reference", "note", "error")


@dataclass(frozen=True)
class Outcome:
    """How a job ended; its findings are in the store.

    Attributes:
        error: what went wrong in a few words, or "".
        details: the traceback, for the log.
    """

    error: str = ""
    details: str = ""


class Worker(Protocol):
    """Does one thing at a time. Everything that passes is plain data, so a worker may be another process."""

    def prove(self, proof: Proof) -> Outcome:
        """Compare a model's layers with ONNX Runtime and store the agreement under the proof's key."""

    def run(self, planned: PlannedJob, analysis: Analysis, progress: Progress) -> Outcome:
        """Do a job and store its findings under its key; whatever the analysis raises is told, not raised."""

    def release(self, alias: str) -> None:
        """Forget a model whose jobs are done."""


class InProcessWorker:
    """Works in this process, on its first GPU or on the CPU.

    Args:
        subjects: the opened models by alias.
        store: where results go.
        device: what to compute on.
    """

    def __init__(self, subjects: Mapping[str, Subject], store: Store, device: Device) -> None:
        self._subjects = subjects
        self._store = store
        self._device = device
        self._models: dict[str, Model] = {}
        prepare_torch(device)

    def prove(self, proof: Proof) -> Outcome:
        """Compare a model's layers with ONNX Runtime and store the agreement under the proof's key."""
        try:
            proved, errors = measure_agreement_of(self._model(proof.alias), self._subjects[proof.alias], proof)
            rows = [(*dataclasses.astuple(item), "") for item in proved]
            rows += [(layer, 0.0, 0.0, 0.0, "file", "", error) for layer, error in errors.items()]
            table = Table("agreement", "Agreement with ONNX Runtime", _agreement_columns(), tuple(rows))
            self._store.save(proof.key, [table], {"proof": proof.alias, "images": proof.data or "synthetic"})
        except (OutputError, KeyboardInterrupt):
            raise
        except Exception as error:  # any exporter's oddity: the model's jobs fail, the others go on
            return _outcome(error)
        return Outcome()

    def run(self, planned: PlannedJob, analysis: Analysis, progress: Progress) -> Outcome:
        """Do a job and store its findings under its key; whatever the analysis raises is told, not raised."""
        subject = self._subjects[planned.alias]
        about = {"model": planned.alias, "analysis": planned.analysis, "job": planned.job.name}
        try:
            model = self._model(planned.alias)
            seed_everything(subject.seed, analysis_kind(analysis), planned.job.name)
            findings = analysis.run(planned.job, Bench(subject, model, progress))
            self._store.save(planned.key, findings, about)
        except (OutputError, KeyboardInterrupt):
            raise
        except Exception as error:  # one failing job never takes the others down
            return _outcome(error)
        return Outcome()

    def release(self, alias: str) -> None:
        """Forget a model whose jobs are done."""
        self._models.pop(alias, None)

    def _model(self, alias: str) -> Model:
        if alias not in self._models:
            self._models[alias] = make_model(self._subjects[alias], self._device)
        return self._models[alias]


def make_model(subject: Subject, device: Device) -> Model:
    """Return the differentiable model of a subject."""
    from onnxviz.model import Model

    return Model(subject.view, subject.preprocessing, subject.labels, device)


def measure_agreement(subject: Subject, proof: Proof, device: Device) -> tuple[tuple[Agreement, ...], dict[str, str]]:
    """Compare a model's layers with ONNX Runtime.

    Returns:
        The agreement of each layer, and by layer why others could not be compared.
    """
    return measure_agreement_of(make_model(subject, device), subject, proof)


def measure_agreement_of(model: Model, subject: Subject, proof: Proof) -> tuple[tuple[Agreement, ...], dict[str, str]]:
    """Prove layers at once, those apart that mix the batch; where that is impossible one by one.

    An odd layer then costs only itself.
    """
    import torch

    from onnxviz.agreement import prove

    pixels, note = proof_images(subject, proof, model.input_size)
    images = torch.from_numpy(np.ascontiguousarray(pixels)).to(model.device)
    found: list[Agreement] = []
    errors: dict[str, str] = {}
    mixing = [name for name in proof.layers if subject.view.layer(name).value in subject.view.mixed_batches]
    apart = [name for name in proof.layers if name not in mixing]
    for part in (apart, mixing):
        try:
            if part:
                found += prove(model, part, images)
        except Exception:
            for layer in part:
                try:
                    found += prove(model, (layer,), images)
                except BatchMixedError:
                    errors[layer] = MIXES_BATCH
                except Exception as error:  # an operator may fail in any library: said for this layer, not for all
                    errors[layer] = _one_line(error)
    return tuple(replace(item, note="; ".join(part for part in (item.note, note) if part)) for item in found), errors


def read_agreement(findings: list[Finding]) -> tuple[tuple[Agreement, ...], dict[str, str]]:
    """Return what `Worker.prove` stored: the agreement of each layer, and why others could not be compared."""
    (table,) = findings
    assert isinstance(table, Table)
    found, errors = [], {}
    for layer, relative, absolute, tolerance, reference, note, error in table.rows:
        if error:
            errors[str(layer)] = str(error)
            continue
        kind: Literal["file", "float32"] = "float32" if reference == "float32" else "file"
        found.append(Agreement(str(layer), _float(relative), _float(absolute), _float(tolerance), kind, str(note)))
    return tuple(found), errors


def proof_images(subject: Subject, proof: Proof, size: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Return the images of a proof as float32 [n, 3, h, w] in 0..1, and what to say about them."""
    if proof.data is not None:
        source = subject.data[proof.data]
        indices = range(min(PROOF_IMAGES, len(source)))
        return load_batch(source, indices, subject.preprocessing, size), ""
    return synthetic_photographs(PROOF_IMAGES, size), "on made-up images, because the recipe has no data"


def synthetic_photographs(count: int, size: tuple[int, int]) -> np.ndarray:
    """Return colour noise with the 1/f spectrum of photographs, as float32 [count, 3, h, w] in 0..1; always the same.

    The amplitude spectrum of natural images falls as 1/f (Field 1987, J. Opt. Soc. Am. A 4, 2379); their colour
    channels are strongly correlated.
    """
    rng = np.random.default_rng(20_260_101)
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    amplitude = 1.0 / np.maximum(frequency, 1.0 / max(height, width))
    amplitude[0, 0] = 0.0
    made = np.empty((count, 3, height, width), np.float32)
    for index in range(count):
        noise = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) * amplitude, s=size) for _ in range(4)]
        channels = np.stack([0.85 * noise[0] + 0.5 * own for own in noise[1:]])
        spread = max(float(channels.std()), 1e-6)
        made[index] = np.clip(0.5 + 0.22 * channels / spread, 0.0, 1.0)
    return made


def load_torch() -> Any:
    """Import torch so that its idle threads sleep.

    By default they spin while they wait for each other; on a machine that does other things too, a step that should
    take 20 ms then takes 80 to 400 ms, because the thread that all wait for is not the one that runs.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    return torch


def prepare_torch(device: Device) -> None:
    """Make torch deterministic and let it use every core that this process may use."""
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch = load_torch()
    torch.set_num_threads(thread_count())
    torch.use_deterministic_algorithms(True, warn_only=True)
    # TensorFloat-32 keeps ten bits: too few for an agreement of 1e-3 and for maps that equal the CPU's.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def thread_count() -> int:
    """Return how many threads to compute with: what OMP_NUM_THREADS says, else the cores of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_device(wanted: Literal["auto", "cpu", "cuda"]) -> Device:
    """Return the device to compute on.

    Raises:
        OutputError: if CUDA was asked for and torch has none.
    """
    if wanted == "cpu":
        return "cpu"
    torch = load_torch()
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise OnnxvizError("torch finds no CUDA device", remedy="leave --device out, or install a CUDA build of torch")
    return "cpu"


def describe_device(device: Device) -> str:
    """Return the device and, on a CPU, the number of threads, on which the last digits of results may depend."""
    if device == "cuda":
        torch = load_torch()
        return f"cuda ({torch.cuda.get_device_name(0)})"
    return f"cpu ({platform.machine()}, {thread_count()} thread{'s' * (thread_count() > 1)})"


def seed_everything(seed: int, kind: str, job: str) -> None:
    """Seed all generators from the run's seed and the job: what ran before makes no difference."""
    torch = load_torch()
    text = f"{seed}:{kind}:{job}".encode()
    number = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
    random.seed(number)
    np.random.seed(number % (1 << 32))  # for analyses of other packages that use the global generator
    torch.manual_seed(number)


def _agreement_columns() -> tuple[Column, ...]:
    return tuple(
        Column(name, "scientific" if name in _AGREEMENT_COLUMNS[1:4] else "text") for name in _AGREEMENT_COLUMNS
    )


def _float(cell: object) -> float:
    return float(cell) if isinstance(cell, int | float) else float("nan")


def _one_line(error: Exception) -> str:
    if isinstance(error, OnnxvizError):
        return "; ".join(" ".join(line.split()) for line in str(error).splitlines())
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {shorten(first, 200)}"


def _outcome(error: Exception) -> Outcome:
    text = _one_line(error)
    if not isinstance(error, OnnxvizError):
        text += "; the full traceback is in log.txt"
    return Outcome(text, "".join(traceback.format_exception(error)))
