"""How pictures were made, in words: transforms, regularizers and all other choices of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from onnxviz.core.errors import AnalysisError, shorten
from onnxviz.core.shares import percent
from onnxviz.core.values import Preprocessing
from onnxviz.data.domains import domain_of
from onnxviz.optimize.parameterizations.base import Parameterization
from onnxviz.optimize.regularizers import FeatureStatistics, Regularizer
from onnxviz.optimize.settings import Usual
from onnxviz.optimize.transforms import Transform

if TYPE_CHECKING:
    from onnxviz.analyses.activation_maximization.analysis import ActivationMaximization
    from onnxviz.analyses.base import Subject


def how_made(
    analysis: ActivationMaximization,
    size: tuple[int, int] | None,
    suits: Mapping[str, Usual],
    preprocessing: Preprocessing,
) -> str:
    """Return the sentences that say how pictures were made; `size` of the pictures in pixels, if it is known."""
    pixels = f" of {size[0]} x {size[1]} pixels" if size else ""
    further = "".join(f"; {part}" for part in _further(analysis))
    optimize_batch = _of_each(suits, lambda usual: usual.optimizer.words())
    form = _form(analysis, suits, colored=preprocessing.channel_order in ("RGB", "BGR"))
    if preprocessing.channel_order == "STORED":
        further += (
            f"; of {preprocessing.channels} channels, pictures show {', '.join(map(str, preprocessing.shown_channels))}"
        )
    looks = _of_each(suits, lambda usual: ", ".join(map(_transform, usual.transforms)) or "no random views")
    return (
        f"{analysis.steps} steps of {optimize_batch} on images{pixels}, {form}; views: {looks}; regularizers: "
        f"{held_by(suits)}{further}. A channel's activation is its mean over all positions, "
        "a whole layer's the mean of squares; a tile's figures are means over its pictures."
    )


def held_by(suits: Mapping[str, Usual]) -> str:
    """Return what holds the pictures of each kind of targets back."""
    return _of_each(suits, lambda usual: ", ".join(map(_regularizer, usual.regularizers)) or "none")


def _of_each(suits: Mapping[str, Usual], words: Callable[[Usual], str]) -> str:
    """Return what holds for all kinds of targets, or for each: "±25° for classes, ±10° for other units"."""
    found = {kind: words(usual) for kind, usual in suits.items()}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    return ", ".join(f"{text} for {kind}" for kind, text in found.items())


def _form(analysis: ActivationMaximization, suits: Mapping[str, Usual], *, colored: bool) -> str:
    form = analysis.parameterization
    text = f"{form.kind.replace('_', ' ')} parameterization"
    if getattr(form, "decorrelate", False) and colored:
        text += ", decorrelated colours"
    if form.kind == "fourier":
        text += (
            f", {_of_each(suits, lambda usual: f'blurred by {usual.blur:.2g} pixels' if usual.blur else 'not blurred')}"
        )
        if any(usual.mean_color for usual in suits.values()):
            far, like = "mean colour moved {:g} times as far", "mean colour moved like all else"
            text += f", {_of_each(suits, lambda usual: far.format(usual.mean_color) if usual.mean_color else like)}"
            text += " where a plain colour excites the unit more than any grating" if form.mean_color is None else ""
    if analysis.colors is not None:
        text += f", colours as in {shorten(analysis.colors.data)}"
    if analysis.magnitude is not None:
        text += f", magnitudes as in {shorten(analysis.magnitude.data)}"
    begin = analysis.begin
    return f"{text}, begun with {begin if isinstance(begin, str) else shorten(begin.name)}"


def _further(analysis: ActivationMaximization) -> Iterator[str]:
    """Yield what is not always chosen."""
    if analysis.edits:
        yield "edits: " + ", ".join(words_of(edit) for edit in analysis.edits)
    if analysis.diversity is not None:
        yield f"groups of {analysis.together} kept different with weight {analysis.diversity.weight:g}"
    if analysis.octaves is not None:
        yield f"{analysis.octaves.count} octaves, each {analysis.octaves.scale:g} times the size before"
    if analysis.stopping is not None:
        rise = f"{percent(analysis.stopping.rise, 2)} within {analysis.stopping.patience} steps"
        yield f"stopped where the activation no longer rose by {rise}"
    if analysis.opacity is not None:
        yield f"faded where the target cared less than at the {analysis.opacity:g}th percentile of pixels"
    if analysis.precision != "float32":
        yield f"computed in {analysis.precision}"


def kinds_in(settings: BaseModel) -> set[str]:
    """Return the kinds of settings and of all settings within them."""
    return {str(item.kind) for item in _within(settings) if hasattr(item, "kind")}


def _within(settings: BaseModel) -> Iterator[BaseModel]:
    """Yield settings and all settings within them."""
    yield settings
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, BaseModel):
                yield from _within(item)


def words_of(entry: BaseModel) -> str:
    """Return a setting by its kind and what differs from the default: "blur (every 4, deviation 0.8)"."""
    fields = type(entry).model_fields
    chosen = {
        name: getattr(entry, name)
        for name, field in fields.items()
        if name != "kind" and getattr(entry, name) != field.get_default(call_default_factory=True)
    }
    kind = str(getattr(entry, "kind", type(entry).__name__)).replace("_", " ")
    shown = ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in chosen.items())
    return f"{kind} ({shown})" if shown else kind


def _transform(transform: Transform) -> str:
    match transform.kind:
        case "pad" if transform.pixels is None:
            return f"margin {percent(transform.share)}"
        case "pad":
            return f"margin {transform.pixels} pixels"
        case "jitter" if transform.pixels is None:
            return f"shifted ±{percent(transform.share)}"
        case "jitter":
            return f"shifted ±{transform.pixels} pixels"
        case "scale" if transform.values is None:
            return f"scaled {transform.minimum:g} to {transform.maximum:g}"
        case "rotate" if transform.values is None:
            return f"turned ±{transform.degrees:g}°"
        case "admix":
            return f"scenes mixed in, {percent(transform.minimum)} to {percent(transform.maximum)}"
    return words_of(transform)


def _regularizer(entry: Regularizer) -> str:
    if entry.kind == "lp_norm":
        return f"L{entry.p:g} norm{' of colours' if entry.of == 'colors' else ''} x {entry.weight:g}"
    if entry.kind == "total_variation":
        form = "" if entry.form == "isotropic" else f" ({entry.form})"
        return f"total variation^{entry.exponent:g}{form} x {entry.weight:g}"
    plain = entry.model_copy(update={"weight": type(entry).model_fields["weight"].default})
    return f"{words_of(plain)} x {entry.weight:g}"


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return words_of(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_suitable(analysis: ActivationMaximization, subject: Subject) -> None:
    """Refuse choices that are for photographs only where the model takes other images.

    Raises:
        AnalysisError: names them.
    """
    if domain_of(subject.preprocessing).photographic:
        return
    asked: list[str] = [entry.kind for entry in analysis.transforms or () if entry.photographic]
    asked += [entry.kind for entry in analysis.regularizers or () if isinstance(entry, FeatureStatistics)]
    forms = (form for form in _within(analysis.parameterization) if isinstance(form, Parameterization))
    asked += [str(getattr(form, "kind", "")) for form in forms if form.photographic]
    asked += [name for name in ("colors", "magnitude") if getattr(analysis, name) is not None]
    if asked:
        raise AnalysisError(
            f"{', '.join(asked)}: for photographs only, and the model takes {subject.preprocessing.channels} channels "
            "as stored",
            remedy="leave that out",
        )
