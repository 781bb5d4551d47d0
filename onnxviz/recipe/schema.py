"""What a recipe may say: one pydantic model for each of its parts, and the JSON schema that editors use."""

from __future__ import annotations

import dataclasses
import re
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from onnxviz.analyses import registry
from onnxviz.core.errors import SelectionError, shorten
from onnxviz.core.memory import parse_bytes
from onnxviz.core.values import AUTO, PRESETS, ChannelOrder, Fit, Interpolation, Preprocessing
from onnxviz.data.kinds import data_kinds
from onnxviz.graph.fixed_inputs import FILLINGS
from onnxviz.graph.model_output import OutputKind
from onnxviz.model.preprocessing import LARGEST_SIDE, read_preprocessing

ID_PATTERN = r"[a-z0-9][a-z0-9_-]{0,63}"
"""Ids become file names and addresses, so they are kept plain; no dot, which separates them from metrics."""

_METRIC = re.compile(r"(?:([^:.]*):)?([^:.]*)\.(.+)")

SCHEMA_URL = "https://json-schema.org/draft/2020-12/schema"

ColorNumbers = float | list[float]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Size = Side | tuple[Side, Side]


class Settings(BaseModel):
    """Base of the recipe's parts: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessSettings(Settings):
    """How an RGB image becomes the model's input: (255 * image - mean) / scale, in the model's channel order."""

    preset: str | None = Field(
        None, description=f"Start from one of: {', '.join(PRESETS)}; auto tries them and others on the recipe's images."
    )
    channel_order: ChannelOrder | None = Field(
        None, description="Order of the model's channels; GRAY is luma; STORED is what the files hold, of any number."
    )
    mean: ColorNumbers | None = Field(
        None, description="Subtracted, in 0..255 or `range`, in the model's channel order; one number stands for all."
    )
    scale: ColorNumbers | None = Field(
        None, description="Divided by, in 0..255 or `range`, in the model's channel order; one number stands for all."
    )
    range: tuple[float, float] | None = Field(
        None, description="Of STORED channels: between what the files' numbers lie; [0, 255] if not given."
    )
    show: list[int] | None = Field(
        None,
        description="Of STORED channels: the three that pictures show as red, green and blue, counted from 0, or one "
        "for grey; the first three if not given.",
    )
    fit: Fit | None = Field(
        None,
        description="How an image is brought to size: crop (resize until the short side is size / crop_fraction, cut "
        "out the centre), stretch (all of it, its aspect ratio changed), or none (only images of the right size).",
    )
    crop_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Part of the resized short side that the crop keeps. Not given: 0.875 of photographs that are "
        "large enough to need no enlarging for it, and all of smaller images, such as those of the input's own size.",
    )
    interpolation: Interpolation | None = Field(
        None,
        description="How pixels are made where an image is resized: bilinear or bicubic (both average over all pixels "
        "that become one, as Pillow does), or bilinear_aliased (looks at four only, as OpenCV and TensorFlow do).",
    )
    confirmed: bool = Field(
        True, description="Write false for a guess: the report warns of it until somebody says that it is right."
    )

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            _read(name)  # here, so that a fault stands beside the name
        return name

    @field_validator("scale")
    @classmethod
    def _not_zero(cls, value: ColorNumbers | None) -> ColorNumbers | None:
        if value is not None and 0 in (value if isinstance(value, list) else [value]):
            raise ValueError("a scale of 0 would divide by zero")
        return value

    @model_validator(mode="after")
    def _lengths(self) -> PreprocessSettings:
        if self.preset == AUTO and (self.channel_order or self.mean is not None or self.scale is not None):
            raise ValueError("`auto` finds channel_order, mean and scale itself: leave them out or name another preset")
        if self.preset == AUTO and not self.confirmed:
            raise ValueError("`auto` is no guess to be confirmed: leave `confirmed` out")
        self.resolve()
        return self

    def resolve(self) -> Preprocessing:
        """Return the preprocessing that these settings mean."""
        given = self.model_dump(exclude_none=True, exclude={"confirmed"})
        if self.preset and not {"channel_order", "mean", "scale"} & given.keys():
            given["name"] = self.preset
        made = _read(given)
        return made if self.confirmed else dataclasses.replace(made, origin="guess")


class ModelSettings(Settings):
    """A model: an ONNX file or a built-in one, and how images become its input."""

    path: str | None = Field(None, description="ONNX file, relative to the recipe.")
    builtin: str | None = Field(None, description="Name of a built-in model instead of a file: scenes, scenes_second.")
    preprocess: str | PreprocessSettings | None = Field(
        None,
        description=f"A preset ({', '.join(PRESETS)}), auto, or a mapping. A wrong one makes every picture wrong; auto "
        "tries all on the recipe's images and takes the best, which the report marks as chosen by trial.",
    )
    labels: str | list[str] | None = Field(
        None, description="Class names in logit order: a text file with one a line, relative to the recipe, or a list."
    )
    output: OutputKind | dict[str, OutputKind] | None = Field(
        None,
        description="What the model gives, where its file does not say it: classes (scores, one for each), binary (one "
        "score for two classes), multilabel (a score for each label), map_of_classes (scores at each position), "
        "regression, embedding, boxes, image, unknown; or a mapping from the names of outputs to these.",
    )
    inputs: dict[str, str | bool | int | float | list[Any]] = Field(
        {},
        description="Values for inputs beside the image, by their names: ones, zeros, a number for all entries, all "
        "numbers as a list, or a .npy file of them, relative to the recipe.",
    )
    size: Size | None = Field(
        None, description="Input size in pixels, one number or [height, width], where the model leaves it free."
    )

    @field_validator("preprocess")
    @classmethod
    def _known(cls, value: str | PreprocessSettings | None) -> str | PreprocessSettings | None:
        if isinstance(value, str):
            _read(value)
        return value

    @field_validator("inputs")
    @classmethod
    def _values(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, value in values.items():
            if isinstance(value, str) and value not in FILLINGS and not value.lower().endswith(".npy"):
                raise ValueError(
                    f"{shorten(name)!r} is fixed to ones, zeros, a number, a list or a .npy file, "
                    f"not {shorten(value)!r}"
                )
        return values

    @model_validator(mode="after")
    def _one_source(self) -> ModelSettings:
        if (self.path is None) == (self.builtin is None):
            raise ValueError("a model has either 'path' (an ONNX file) or 'builtin' (scenes, scenes_second)")
        return self


class ExpectationSettings(Settings):
    """A metric that must hold."""

    metric: str = Field(description="analysis_id.metric; with several models alias:analysis_id.metric for one of them.")
    min: float | None = Field(None, description="The metric is at least this.")
    max: float | None = Field(None, description="The metric is at most this.")
    equals: float | None = Field(None, description="The metric is this.")
    level: Literal["error", "warn", "off"] = Field("error", description="error: exit code 1; warn: said; off: ignored.")
    because: str = Field("", description="Why this matters, for the report.")

    @model_validator(mode="after")
    def _bounded(self) -> ExpectationSettings:
        if self.min is None and self.max is None and self.equals is None:
            raise ValueError("an expectation needs 'min', 'max' or 'equals'")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"no number is at least {self.min:g} and at most {self.max:g}")
        return self


class LimitsSettings(Settings):
    """What each process that opens the models is limited to; a recipe can only tighten what the user allows."""

    memory: int | str | None = Field(None, description="Memory of one process: 4GiB, 500 MB, or bytes.")
    job_seconds: float | None = Field(None, gt=0, description="Time for one job in seconds.")
    file_size: int | str | None = Field(None, description="Largest file that may be written: 1GiB, or bytes.")

    @field_validator("memory", "file_size")
    @classmethod
    def _size(cls, value: int | str | None) -> int | str | None:
        if value is not None and parse_bytes(value) < 1:
            raise ValueError("a size is at least one byte")
        return value

    @property
    def memory_bytes(self) -> int | None:
        """The memory of one process in bytes."""
        return None if self.memory is None else parse_bytes(self.memory)

    @property
    def file_bytes(self) -> int | None:
        """The largest file in bytes."""
        return None if self.file_size is None else parse_bytes(self.file_size)


class RecipeSettings(Settings):
    """A recipe for onnxviz."""

    version: Literal[1] = Field(description="Version of the recipe format.")
    title: str = Field("", description="Heading of the report; the file's name if not given.")
    seed: int = Field(0, ge=0, lt=2**63, description="Same seed, same results.")
    extends: str | list[str] | None = Field(
        None, description="Another recipe that this one changes, relative to this file; or several, later over earlier."
    )
    model: ModelSettings | None = Field(None, description="The model.")
    models: dict[str, ModelSettings] | None = Field(None, description="Several models, compared, by a short name.")
    data: dict[str, Any] = Field({}, description="Images and labelled data sets, by a short name.")
    defaults: dict[str, dict[str, Any]] = Field({}, description="Settings for all analyses of a kind, by kind.")
    matrix: dict[str, dict[str, list[Any] | dict[str, Any]]] = Field(
        {}, description="For an analysis id, fields with several values each: one analysis per combination."
    )
    analyses: dict[str, Any] = Field(description="What to find out, by a short id.")
    expect: list[ExpectationSettings] = Field([], description="Metrics that must hold, for the exit code.")
    limits: LimitsSettings | None = Field(None, description="Limits for the processes that open the models.")


def metric_parts(text: str) -> tuple[str | None, str, str] | None:
    """Return alias, analysis and metric of `analysis_id.metric`, with `alias:` in front or not; else None."""
    match = _METRIC.fullmatch(text)
    return None if match is None else (match[1], match[2], match[3])


def _read(given: str | dict[str, Any]) -> Preprocessing:
    """Read a preprocessing, what is wrong with it told as pydantic takes it."""
    try:
        return read_preprocessing(given)
    except SelectionError as fault:
        raise ValueError("; ".join(part for part in (fault.what, fault.remedy) if part)) from None


def pair(size: Size) -> tuple[int, int]:
    """Return a size as height and width."""
    return (size, size) if isinstance(size, int) else size


class _EditorSchema(GenerateJsonSchema):
    """Editors offer an analysis' fields once its kind is written, so the kind is required although it has a default."""

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().model_schema(schema)
        if "const" in made.get("properties", {}).get("kind", {}):
            made["required"] = ["kind", *(name for name in made.get("required", []) if name != "kind")]
        return made


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe with every registered analysis, for completion in editors."""
    kinds = registry()
    every: Any = Any
    if kinds:
        every = Annotated[Union[tuple(kinds.values())], Field(discriminator="kind")]  # noqa: UP007
    source: Any = Union[tuple(data_kinds().values())]  # noqa: UP007
    recipe = create_model(
        "Recipe",
        __base__=RecipeSettings,
        __doc__=RecipeSettings.__doc__,
        data=(dict[str, source], RecipeSettings.model_fields["data"]),
        analyses=(dict[str, every], Field(description="What to find out, by a short id.")),
    )
    schema = recipe.model_json_schema(schema_generator=_EditorSchema)
    for name in ("models", "data", "analyses", "matrix"):
        part = schema["properties"][name]
        for variant in part.get("anyOf", [part]):
            if variant.get("type") == "object" and name != "matrix":
                variant["propertyNames"] = {"pattern": f"^{ID_PATTERN}$"}
    # A recipe that extends another takes what is missing from there.
    schema["required"] = ["version"]
    return {"$schema": SCHEMA_URL, **schema, "title": "onnxviz recipe"}
