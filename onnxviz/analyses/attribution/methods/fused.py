"""One map of several layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from onnxviz.analyses.attribution.fusion import FUSED, fused
from onnxviz.analyses.attribution.method import Attribution, Method
from onnxviz.analyses.attribution.methods.cam import LayerCam
from onnxviz.core.errors import AnalysisError, nearest

if TYPE_CHECKING:
    from onnxviz.analyses.attribution.question import Question


class FusedMethod(Method):
    """The maps that a method makes of layers as one: scaled to 0..1 each, enlarged, and averaged.

    So every layer counts the same, whatever its size. Source: pytorch-grad-cam (`base_cam.py`,
    `aggregate_multi_layers`); Jiang et al. 2021 fuse LayerCAM's maps of several stages.
    """

    method: Literal["fused"] = "fused"
    of: str = Field("grad_cam", description="The method whose maps of layers are fused, by name; with usual settings.")

    heading: ClassVar[str] = "Fused maps"
    shows: ClassVar[Literal["layers", "pixels"]] = "pixels"
    cites: ClassVar[tuple[str, ...]] = LayerCam.cites

    @field_validator("of")
    @classmethod
    def _require_maps_of_layers(cls, name: str) -> str:
        known = _of_layers()
        if name not in known:
            raise ValueError(
                f"{name!r} makes no maps of layers; " + (nearest(name, known) or f"these do: {', '.join(known)}")
            )
        return name

    @property
    def label(self) -> str:
        """What it is called beside others."""
        return f"{self._inner.heading} fused"

    @property
    def reads_layers(self) -> bool:
        """It does, and gives one map."""
        return True

    @property
    def fine(self) -> bool:
        """Maps of layers have no detail of pixels."""
        return False

    @property
    def _inner(self) -> Method:
        return _of_layers()[self.of]

    def attribute(self, question: Question) -> Attribution:
        """Return the fused map, [N, h, w] at the size of the image.

        Raises:
            AnalysisError: if no layer has a map of several positions.
        """
        maps = [each for each in self._inner.attribute(question).maps if max(each.shape[1:]) > 1]
        if not maps:
            raise AnalysisError(
                "no selected layer has a map of positions at this image size",
                remedy="select layers before the global pooling, for example `layers: block_outputs`",
            )
        height, width = question.images.shape[2:]
        said = f"Of {len(maps)} layers: {FUSED}." if len(maps) > 1 else "Of a single layer, so that nothing is fused."
        return Attribution((fused(maps, (height, width)),), said=said)

    def cost(self, layers: int) -> float:
        """Estimate what it takes: as the method whose maps are fused."""
        return self._inner.cost(layers)


def _of_layers() -> dict[str, Method]:
    from onnxviz.analyses.attribution.methods import methods  # which finds this module, too

    def usual(kind: type[Method]) -> Method | None:
        """Return it with its usual settings, if it needs no others."""
        return None if any(field.is_required() for field in kind.model_fields.values()) else kind()

    made = {name: usual(kind) for name, kind in methods().items() if kind.shows == "layers" and not kind.signed}
    return {name: method for name, method in made.items() if method is not None and not method.fine}
