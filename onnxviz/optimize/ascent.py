"""Gradient ascent on the activations of targets, many images at once and none influencing another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from onnxviz.core.errors import AnalysisError, DataError, shorten
from onnxviz.core.lazy_torch import torch
from onnxviz.core.memory import is_out_of_memory
from onnxviz.core.values import Target
from onnxviz.model.batches import choose_batch, empty, gradient_bytes, run_batches
from onnxviz.optimize.ascent_batch import AscentBatch, AscentResult, optimize_batch
from onnxviz.optimize.feature_statistics import layers_read
from onnxviz.optimize.lanes import PROBE_STEPS, agreeing, one_thread, shares, tried_sizes
from onnxviz.optimize.objectives import Objective, objective_of
from onnxviz.optimize.settings import DEFAULT_TRANSFORMS, AscentSettings, Octaves

if TYPE_CHECKING:
    from onnxviz.model.model import Model

__all__ = ["DEFAULT_TRANSFORMS", "AscentSettings", "Maximized", "Octaves", "Told", "maximize"]

_SHARE_A_PASS = 32
"""How many targets do on a GPU, where memory allows it."""
Told = Callable[[int, int], None]
"""Called with the steps done and the steps in all, over all images."""
References = Mapping[tuple[str, str | None], "torch.Tensor"]


class Maximized(AscentResult[np.ndarray]):
    """What the loop made, for each image; N is targets times group, and the images of a group follow each other.

    Activations are the objective's value, without the target's sign.
    """


def maximize(
    model: Model,
    targets: Sequence[Target | Objective],
    seeds: Sequence[int],
    settings: AscentSettings,
    *,
    batch: int | None = None,
    told: Told | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
    starts: Sequence[np.ndarray] | None = None,
) -> Maximized:
    """Make images for each target: maximise sign · a - |a| Σ weight · term over random views of the image.

    The same target, seed, settings and device give the same picture, whatever else is made with it: on a CPU bit for
    bit, however many threads there are (see `lanes`); elsewhere pictures share passes, and it holds exactly with the
    same `batch`, else as exactly as the network's own arithmetic.

    Args:
        model: the network; its preprocessing is part of the way from the image to the activation.
        targets: what to maximise, all of the same layers.
        seeds: one for each target.
        settings: the choices.
        batch: how many targets share a pass, fewer if memory does not allow it; chosen for the device if None.
        told: told how many of all steps are done.
        pictures: name -> RGB [3, h, w] in 0..1, for objectives that compare with a picture.
        starts: RGB [3, h, w] in 0..1 to start from, one for each target; from noise or grey if None.

    Raises:
        AnalysisError: if the network gives no finite activation, or the choices do not go together.
        DataError: if the network cannot be run at this size, or a picture is missing.
        MemoryLimitError: if memory does not suffice, even for one image at a time.
        SelectionError: if a unit or position does not exist.
    """
    wanted = [_Wanted.of(target) for target in targets]
    if len({item.objective.layers() for item in wanted}) != 1 or len(targets) != len(seeds):
        raise ValueError("the same layers and one seed for each target")
    if starts is not None and len(starts) != len(targets):
        raise ValueError("one picture to start from for each target")
    _require_sound(wanted, settings)
    maker = _Maker(model, wanted, seeds, settings, _Pictures(model, pictures or {}), starts)
    return maker.make(batch, told)


@dataclass(frozen=True)
class _Wanted:
    objective: Objective
    sign: float
    what: str

    @classmethod
    def of(cls, target: Target | Objective) -> _Wanted:
        if isinstance(target, Objective):
            return cls(target, 1.0, target.words())
        unit = "the layer" if target.unit is None else f"unit {target.unit}"
        return cls(objective_of(target), float(target.sign), unit)


@dataclass(eq=False)
class _Maker:
    """Makes the images of a call, so many at a time."""

    model: Model
    wanted: Sequence[_Wanted]
    seeds: Sequence[int]
    settings: AscentSettings
    pictures: _Pictures
    starts: Sequence[np.ndarray] | None

    def __post_init__(self) -> None:
        self.layers = self.wanted[0].objective.layers()
        self.read = layers_read(self.model.view, self.layers, self.settings.regularizers)
        self.stopped = threading.Event()

    def make(self, batch: int | None, told: Told | None) -> Maximized:
        model, count = self.model, len(self.wanted)
        fixed = model.view.batch
        if fixed and fixed % self.settings.group:
            raise AnalysisError(
                f"the model takes exactly {fixed} images at a time, which groups of {self.settings.group} do not fill",
                where=shorten(self.layers[0]),
                remedy=f"give a group that divides {fixed}",
            )
        # On a CPU threads make images of their own; elsewhere images share passes.
        lanes = torch.get_num_threads() if batch is None and not fixed and model.device.type == "cpu" else 0
        what = f"The ascent at {shorten(self.layers[0], 60)}"
        steps = _Steps(count, self.settings.steps, told)
        parts: list[list[np.ndarray]] = []
        for start, end in self._alike() if lanes else [(0, count)]:
            sizes = self._sizes(start) if lanes else ()
            usual = lanes * sizes[0] if lanes else batch or (1 if model.device.type == "cpu" else _SHARE_A_PASS)
            filled = fixed // self.settings.group if fixed else 0
            usual = max(1, min(usual, end - start))
            together = filled or choose_batch(model, usual, self._bytes, what)
            # Where memory is so short that images go one by one, there is none to fill a pass with either.
            work = self._work(lanes, (1,) if together == 1 < usual else sizes, filled, end, steps)
            made = run_batches(model, end, together, work, what, start=start, fixed=bool(fixed))
            parts += [arrays for _, _, arrays in made]
        result = Maximized(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        self._require_finite(result)
        return result

    def _work(
        self, lanes: int, sizes: Sequence[int], filled: int, end: int, steps: _Steps
    ) -> Callable[[int, int], list[np.ndarray]]:
        def work(first: int, stop: int) -> list[np.ndarray]:
            if lanes:
                return self._side_by_side(first, stop - first, lanes, sizes, steps)
            # A network that takes exactly so many images gets the last one again and again; the copies are dropped.
            chosen = [min(first + index, end - 1) for index in range(filled or stop - first)]
            made = self._optimize(chosen, steps.of(first, stop - first))
            return [array[: (stop - first) * self.settings.group] for array in made]

        return work

    def _alike(self) -> list[tuple[int, int]]:
        """Return where targets that are alike follow each other; others in a pass would change the last bits."""
        kinds = [item.objective.alike() for item in self.wanted]
        starts = [place for place in range(len(kinds)) if place == 0 or kinds[place] != kinds[place - 1]]
        return list(zip(starts, [*starts[1:], len(kinds)], strict=True))

    def _bytes(self) -> int:
        view, last = self.model.view, max(self.read, key=lambda name: self.model.view.layer(name).position)
        one = gradient_bytes(view, self.model.input_size, self.settings.size, view.layer(last))
        return one * self.settings.group

    def _sizes(self, place: int) -> tuple[int, ...]:
        """Return how many targets like one may share a pass on a CPU; tried once for a model and its settings.

        Only one where memory does not suffice to try.
        """
        known = _AGREEING.setdefault(self.model, {})
        quick = replace(
            self.settings,
            steps=PROBE_STEPS,
            redirect=min(1, self.settings.redirect),
            octaves=None,
            parameterization=self.settings.parameterization.showing_last_bits(),
        )
        key = (self.layers, repr(quick), self.wanted[place].objective.alike())
        if key not in known:
            starts = None if self.starts is None else [self.starts[place]]
            dense = replace(self.wanted[place], objective=self.wanted[place].objective.densest())
            probe = _Maker(self.model, [dense], [0], quick, self.pictures, starts)

            def make(size: int) -> list[np.ndarray]:
                with one_thread():
                    made = probe._optimize([0] * size, lambda _step: None)
                return [array.reshape(size, self.settings.group, *array.shape[1:]) for array in made]

            try:
                known[key] = agreeing(make, tried_sizes(self.settings.size[0] * self.settings.size[1]))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                known[key] = (1,)
            empty(self.model.device)
        return known[key]

    def _side_by_side(
        self, first: int, count: int, lanes: int, sizes: Sequence[int], steps: _Steps
    ) -> list[np.ndarray]:
        """Make some targets in threads of their own; PyTorch lets go of Python's lock while it computes."""
        group = self.settings.group

        def one(part: range, filled: int) -> list[np.ndarray]:
            with one_thread():
                try:
                    chosen = [first + min(part.start + index, part[-1]) for index in range(filled)]
                    made = self._optimize(chosen, steps.of(chosen[0], len(part)))
                except BaseException:
                    self.stopped.set()
                    raise
            return [array[: len(part) * group] for array in made]

        self.stopped.clear()
        parts = shares(count, lanes, sizes)
        if len(parts) == 1:
            return one(*parts[0])
        self.model.differentiable(self.read)  # made once, not by each thread
        with one_thread(), ThreadPoolExecutor(lanes) as pool:
            futures = [pool.submit(one, *part) for part in parts]
        faults = [fault for future in futures if (fault := future.exception()) is not None]
        if faults:
            raise next((fault for fault in faults if not isinstance(fault, _StoppedError)), faults[0])
        made = [future.result() for future in futures]
        return [np.concatenate(arrays) for arrays in zip(*made, strict=True)]

    def _optimize(self, chosen: Sequence[int], tell: Callable[[int], None]) -> list[np.ndarray]:
        group, device = self.settings.group, self.model.device
        images = [place for place in chosen for _ in range(group)]
        starts = None
        if self.starts is not None:
            starts = torch.stack([torch.from_numpy(np.ascontiguousarray(self.starts[i])).float() for i in images])
            starts = starts.to(device)

        def told(step: int) -> None:
            if self.stopped.is_set():
                raise _StoppedError
            tell(step)

        made = optimize_batch(
            AscentBatch(
                self.model,
                [self.wanted[place].objective for place in images],
                torch.tensor([self.wanted[place].sign for place in images], device=device),
                [_generator(self.seeds[place], member) for place in chosen for member in range(group)],
                self.settings,
                starts,
                lambda size: self.pictures.references(self.wanted, size),
            ),
            told,
        )
        return [getattr(made, entry.name).cpu().numpy() for entry in fields(made)]

    def _require_finite(self, made: Maximized) -> None:
        sound = np.isfinite(made.before) & np.isfinite(made.after) & np.isfinite(made.images).all(axis=(1, 2, 3))
        for index in np.flatnonzero(~sound).tolist():
            raise AnalysisError(
                f"the activation of {self.wanted[index // self.settings.group].what} is not a number, so it cannot be "
                "maximised",
                where=shorten(self.layers[0]),
                remedy="look at the preprocessing, or lower the learning rate",
            )


_AGREEING: WeakKeyDictionary[Model, dict[Hashable, tuple[int, ...]]] = WeakKeyDictionary()
"""How many targets may share a pass, as tried."""


class _StoppedError(Exception):
    """Another image's thread has failed; what it failed with is what is told."""


class _Steps:
    """Adds up the steps of images that are made side by side; steps that are repeated are not told twice."""

    def __init__(self, count: int, steps: int, told: Told | None) -> None:
        self._done = np.zeros(count, dtype=np.int64)
        self._steps, self._told = steps, told
        self._most = 0
        self._lock = threading.Lock()

    def of(self, first: int, count: int) -> Callable[[int], None]:
        """Return what is told the steps that some images have done."""

        def tell(step: int) -> None:
            if self._told is None:
                return
            with self._lock:
                self._done[first : first + count] = step
                done = int(self._done.sum())
                if done > self._most:
                    self._most = done
                    self._told(done, len(self._done) * self._steps)

        return tell


class _Pictures:
    """Given pictures, and what the network makes of them at the sizes that are optimized."""

    def __init__(self, model: Model, pictures: Mapping[str, np.ndarray]) -> None:
        self._model, self._pictures = model, pictures
        self._known: dict[tuple[str, str | None, tuple[int, int]], torch.Tensor] = {}
        self._lock = threading.Lock()

    def references(self, wanted: Sequence[_Wanted], size: tuple[int, int]) -> References:
        """Return what the objectives need to know of pictures, at one size."""
        pairs = dict.fromkeys(pair for item in wanted for pair in item.objective.references())
        with self._lock:
            return {pair: self._reference(*pair, size) for pair in pairs}

    def _reference(self, name: str, layer: str | None, size: tuple[int, int]) -> torch.Tensor:
        if (name, layer, size) in self._known:
            return self._known[name, layer, size]
        if name not in self._pictures:
            raise DataError(
                f"the objective compares with a picture {shorten(name)!r}, which is not given",
                remedy=f"there are {', '.join(map(shorten, self._pictures)) or 'none'}",
            )
        if layer is None:
            array = torch.from_numpy(np.ascontiguousarray(self._pictures[name])).float()[None].to(self._model.device)
            made = torch.nn.functional.interpolate(array, size, mode="bilinear", align_corners=False, antialias=True)[0]
        else:
            picture = self._reference(name, None, size)[None]
            batch = self._model.view.batch or 1
            with torch.no_grad():
                made = self._model.differentiable((layer,))(picture.expand(batch, -1, -1, -1))[0][0].clone()
        self._known[name, layer, size] = made
        return made


def _generator(seed: int, member: int) -> torch.Generator:
    """Return an image's own source of random numbers; the first of a group draws what it would draw alone."""
    return torch.Generator().manual_seed(seed if member == 0 else (seed + 0x9E3779B97F4A7C15 * member) % 2**63)


def _require_sound(wanted: Sequence[_Wanted], settings: AscentSettings) -> None:
    least = max(item.objective.least_group() for item in wanted)
    if settings.group < least:
        raise AnalysisError(
            f"the objective compares images of a group, which needs {least} of them, not {settings.group}",
            remedy=f"give `group: {least}` or more",
        )
    form = settings.parameterization
    if settings.edits and not (form.kind == "pixel" and form.squash == "none"):
        raise AnalysisError(
            f"edits ({', '.join(edit.kind for edit in settings.edits)}) change pixels, and a {form.kind} "
            "parameterization has none that are free",
            remedy="give `parameterization: {kind: pixel, squash: none}`",
        )
