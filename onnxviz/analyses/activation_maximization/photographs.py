"""What pictures take from the user's own photographs: how colours go together, how much there is of each frequency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.analyses import storage
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.core.findings import Array, Finding
from onnxviz.data.image_choice import choose_images, find_source

PHOTOGRAPHS = "photographs"
"""The stage of the job that measures."""
_COST = 0.2
"""Forward passes that a photograph takes to be read and transformed, about."""


class Photographs(BaseModel):
    """Photographs to measure something from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="The data set with the photographs.")
    limit: int | None = Field(None, ge=1, description="Most photographs, spread evenly; all if not given.")


@dataclass(frozen=True)
class MeasuredPhotographs:
    """The job that measures photographs.

    Attributes:
        colors: what the colours' matrix is measured from; the published one is used if None.
        magnitude: what the magnitudes of the spectrum are measured from; a power law is used if None.
        size: height and width of the pictures in pixels.
    """

    colors: Photographs | None
    magnitude: Photographs | None
    size: tuple[int, int]

    def jobs(self, subject: Subject) -> Iterator[Job]:
        """Yield the job, if there is anything to measure."""
        wanted = {name: value for name, value in (("colors", self.colors), ("magnitude", self.magnitude)) if value}
        if not wanted:
            return
        chosen = {}
        for name, value in wanted.items():
            source = find_source(value.data, subject.data)
            chosen[name] = choose_images(source, None, value.limit or len(source))
        count = sum(map(len, chosen.values()))
        yield Job(
            name="colours and frequencies of photographs",
            parameters={"stage": PHOTOGRAPHS, "images": chosen},
            data=tuple(dict.fromkeys(value.data for value in wanted.values())),
            cost=_COST * count,
            images=count,
            intermediate=True,
            bytes=storage.RECORD + storage.dense(9 + 3 * self.size[0] * (self.size[1] // 2 + 1)),
        )

    def run(self, job: Job, context: JobContext) -> list[Finding]:
        """Measure."""
        from onnxviz.optimize.photographs import measure_colors, measure_magnitude

        chosen: Mapping[str, list[int]] = job.parameters["images"]
        done, total = 0, sum(map(len, chosen.values()))

        def images(name: str, settings: Photographs) -> Iterator[np.ndarray]:
            nonlocal done
            source = find_source(settings.data, context.subject.data)
            for index in chosen[name]:
                yield source.read(index)
                done += 1
                context.progress(done, total, PHOTOGRAPHS)

        arrays: dict[str, np.ndarray] = {}
        if self.colors is not None:
            arrays["colors"] = measure_colors(images("colors", self.colors)).matrix
        if self.magnitude is not None:
            found = measure_magnitude(images("magnitude", self.magnitude), self.size, arrays.get("colors"))
            arrays["magnitude"] = found.planes
        return [Array(PHOTOGRAPHS, "Colours and frequencies of photographs", arrays)]


def measured_photographs(context: JobContext) -> Mapping[str, np.ndarray]:
    """Return what the job has measured: `colors`, `magnitude`, both or nothing."""
    measured: dict[str, np.ndarray] = {}
    for findings in context.found.values():
        for finding in findings:
            if isinstance(finding, Array) and finding.id == PHOTOGRAPHS:
                measured |= finding.arrays
    return measured
