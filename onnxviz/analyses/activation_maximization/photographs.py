"""What pictures take from the user's own photographs: how colours go together, how much there is of each frequency."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from onnxviz.analyses import storage
from onnxviz.analyses.base import Job, JobContext, Subject
from onnxviz.core.findings import Array
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


def photograph_jobs(wanted: Mapping[str, Photographs], size: tuple[int, int], subject: Subject) -> Iterator[Job]:
    """Yield the job that measures `colors`, `magnitude` or both for pictures of a size, if any is wanted."""
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
        bytes=storage.RECORD + storage.dense(9 + 3 * size[0] * (size[1] // 2 + 1)),
    )


def measure_photographs(
    wanted: Mapping[str, Photographs], size: tuple[int, int], job: Job, context: JobContext
) -> Array:
    """Do that job."""
    from onnxviz.optimize.photographs import measure_colors, measure_magnitude

    chosen: Mapping[str, list[int]] = job.parameters["images"]
    done, total = 0, sum(map(len, chosen.values()))

    def images(name: str) -> Iterator[np.ndarray]:
        nonlocal done
        source = find_source(wanted[name].data, context.subject.data)
        for index in chosen[name]:
            yield source.read(index)
            done += 1
            context.progress(done, total, PHOTOGRAPHS)

    arrays: dict[str, np.ndarray] = {}
    if "colors" in wanted:
        arrays["colors"] = measure_colors(images("colors")).matrix
    if "magnitude" in wanted:
        arrays["magnitude"] = measure_magnitude(images("magnitude"), size, arrays.get("colors")).planes
    return Array(PHOTOGRAPHS, "Colours and frequencies of photographs", arrays)


def measured_photographs(context: JobContext) -> Mapping[str, np.ndarray]:
    """Return what the job has measured: `colors`, `magnitude`, both or nothing."""
    measured: dict[str, np.ndarray] = {}
    for findings in context.found.values():
        for finding in findings:
            if isinstance(finding, Array) and finding.id == PHOTOGRAPHS:
                measured |= finding.arrays
    return measured
