"""What `onnxviz inspect` prints: a model's facts and layers, and how to preprocess images for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.text import Text

from onnxviz.cli.show import make_table, number, show_fact, show_lines, show_rows
from onnxviz.core.errors import beginning, shorten
from onnxviz.core.shares import percent
from onnxviz.core.values import PRESETS
from onnxviz.core.wording import listed
from onnxviz.data.ground_truth import HOW as GROUND_TRUTH
from onnxviz.execution.inspection import Inspection
from onnxviz.execution.parity_job import MIXES_BATCH
from onnxviz.model.preprocessing_trials import Probe, Trial

_LISTED = 20
"""Lines of a kind that are printed in full; the rest are counted."""


def show_inspection(console: Console, found: Inspection) -> None:
    """Show a model's facts, what does not convert, and its layers."""
    _show_facts(console, found)
    _show_unsupported(console, found)
    _show_gradient(console, found)
    _show_layers(console, found)
    _show_agreement(console, found)


def show_classes(console: Console, found: Inspection) -> None:
    """List a model's classes: number and, where it is known, name."""
    if found.no_classes:
        show_lines(console, [f"no classes: {found.no_classes}; declare `output:` in a recipe"])
        return
    if not found.class_count:
        _line(console, "classes", "none to list: their number is not known")
        return
    if not found.classes:
        how = "numbered from 0; the file has no names: give them with --labels FILE, one a line"
        _line(console, "classes", f"{found.class_count:,}, {how}")
        return
    table = make_table(">class", "name")
    for number_, name in enumerate(found.classes):
        table.add_row(str(number_), Text(shorten(name, 120)))
    console.print(table)


def _show_facts(console: Console, found: Inspection) -> None:
    card = found.card
    facts = (
        ("file", f"{card.file}, {card.bytes:,} bytes, sha256 {card.digest[:16]}..."),
        ("producer", card.producer or "not said"),
        ("opset", card.opset),
        ("inputs", "; ".join(card.inputs) + f" ({found.layout})"),
        ("outputs", "; ".join(card.outputs)),
        *_heads(found),
        ("parameters", f"{card.parameters:,}"),
        ("multiply-adds", "unknown" if card.multiply_adds is None else f"{card.multiply_adds:,} for one image"),
        ("preprocessing", _preprocessing(found)),
    )
    for name, value in facts:
        _line(console, name, value)
    for sentence in found.roles:
        _line(console, "layers", sentence)
    for sentence in card.passes:
        _line(console, "importer", sentence)


def _heads(found: Inspection) -> Iterator[tuple[str, str]]:
    """Say of each output what it gives, how that is known, and which one analyses explain."""
    for place, head in enumerate(found.card.heads[:_LISTED]):
        name = f"{', '.join(shorten(name, 40) for name in head.outputs)}: " if len(found.card.heads) > 1 else ""
        guess = {"nothing": ": not declared", "labels": ": a guess", "images": ": a guess"}.get(head.source, "")
        scores = f"; scores: {shorten(head.scores, 60)}" if head.scores else ""
        main = "; explained where no other is named" if head.main and len(found.card.heads) > 1 else ""
        yield "" if place else "gives", f"{name}{head.words} ({head.reason}{guess}){scores}{main}"
    if len(found.card.heads) > _LISTED:
        yield "", f"and {len(found.card.heads) - _LISTED} outputs more"


def _preprocessing(found: Inspection) -> str:
    if found.layout == "other":
        return "none: the input is no image; call it from Python with onnxviz.to_torch(path)"
    return found.card.preprocessing + (
        "" if found.card.preprocessing_origin == "declared" else " (a guess: not declared)"
    )


def _line(console: Console, name: str, value: str, style: str = "bold") -> None:
    show_fact(console, name, shorten(value, 400), style)


def _lines(console: Console, name: str, values: Sequence[str], what: str, style: str) -> None:
    """Show the first of many lines of a kind, and how many more there are."""
    for value in values[:_LISTED]:
        _line(console, name, value, style)
    if len(values) > _LISTED:
        _line(console, name, f"and {len(values) - _LISTED} {what} more", style)


def _show_unsupported(console: Console, found: Inspection) -> None:
    if found.unsupported is None:
        for operator, why in found.card.refused_operators:
            _line(console, "refused", f"{operator}: {why}", "bold red")
        return
    refused = [
        f"{item.operator}{': ' if item.reason else ''}{item.reason} (needed for {listed(item.nodes, 3, length=60)})"
        for item in found.unsupported
    ]
    _lines(console, "refused", refused, "operators", "bold red")
    total = len(found.card.layers)
    if found.unreachable:
        left = total - len(found.unreachable)
        _line(console, "converts", f"{left} of {total} layers can be analysed; the others need what is refused")
    elif not found.waiting:
        _line(console, "converts", f"all {total} layers can be analysed")
    if found.waiting:
        _line(console, "not given", found.waiting, "bold yellow")


def _show_gradient(console: Console, found: Inspection) -> None:
    if not found.logits or found.logits in found.unreachable:
        return
    if not found.gradient_stops:
        _line(console, "gradient", "reaches the input from the scores")
        return
    stops = listed(found.gradient_stops, 3)
    text = f"is zero at the input: every path ends in an operator without a slope ({stops})"
    _line(console, "gradient", text, "bold yellow")


def _show_layers(console: Console, found: Inspection) -> None:
    errors = dict(found.errors)
    named = any(row.name_in_file for row in found.layers)
    columns = ["layer", *(["in the file"] if named else []), "operator", "shape"]
    columns += [">units", ">parameters", ">multiply-adds", ">field"]
    if found.said:
        columns += [">to the file", ">to float32"]
    differences = {(item.layer, item.reference): item for item in found.card.agreement}
    rows = []
    for row in found.layers:
        shape = "×".join("?" if size is None else str(size) for size in row.shape)
        field = "×".join(str(size) for size in row.receptive_field) if row.receptive_field else ""
        cells = [
            shorten(row.name, 60),
            *([shorten(row.name_in_file, 60)] if named else []),
            shorten(row.operator, 30),
            shape,
            str(row.units or ""),
            number(row.parameters),
            number(row.multiply_adds or 0),
            field,
        ]
        for reference in ("file", "float32"):
            item = differences.get((row.name, reference))
            if item is not None:
                outside = not item.relative <= item.tolerance
                said = " TOO LARGE" if not item.holds else " ONNX Runtime" if outside else ""
                cells.append(f"{item.relative:.1e}{said}")
            elif row.name in found.unreachable:
                cells.append("refused")
            else:
                cells.append("not compared" if row.name in errors else "")
        style = "dim" if row.name in found.unreachable else ""
        rows.append((cells[: len(columns)], style))
    show_rows(console, columns, rows, names=1 + named, spare=("multiply-adds", "parameters", "field"))


def _show_agreement(console: Console, found: Inspection) -> None:
    if not found.said:
        return
    show_lines(console, [f"differences to ONNX Runtime, relative to the layer's largest value, {found.said}"])
    judged = [item for item in found.card.agreement if item.off and item.reference == "file"]
    judged = judged or [item for item in found.card.agreement if item.off]
    for item in judged[:_LISTED]:
        effect = f"; {item.effect}" if item.effect else ""
        text = f"{shorten(item.layer, 60)}: {item.verdict}{effect}"
        console.print(Text(beginning(text, 2000), style="yellow" if item.holds else "red"), soft_wrap=True)
    if len(judged) > _LISTED:
        console.print(Text(f"and {len(judged) - _LISTED} layers more"), soft_wrap=True)
    reasons: dict[str, list[str]] = {}
    for layer, why in found.errors:
        reasons.setdefault(why, []).append(layer)
    for why, layers in list(reasons.items())[:_LISTED]:
        text = f"not compared: {listed(layers, 1, length=60)}: {why}"
        console.print(Text(beginning(text, 2000), style="" if why == MIXES_BATCH else "red"), soft_wrap=True)


def trial_counter(console: Console) -> Callable[[int, int, str], None] | None:
    """Return what shows how many preprocessings were tried, where somebody watches."""
    if not console.is_terminal:
        return None

    def count(done: int, total: int, _note: str = "") -> None:
        console.print(f"trying preprocessing {done + 1} of {total}", end="\r" if done + 1 < total else "\n")

    return count


def show_probe(console: Console, found: Inspection) -> None:
    """Show which preprocessing fits a model, and how to use it."""
    result = found.probe
    assert result is not None
    limited = result.found > result.images + len(result.skipped)
    spread = f", spread evenly over the {result.found} found" if limited else ""
    _line(console, "file", f"{found.card.file}, {found.card.producer or 'producer not said'}")
    _line(console, "inputs", "; ".join(found.card.inputs) + f" ({found.layout})")
    ranked = f"accuracy on the {result.labelled} with a known class" if result.by_accuracy else "steadiness × variety"
    _line(console, "tried on", f"{result.images} pictures{spread}; ranked by {ranked}")
    _lines(console, "left out", [f"{name}: {why}" for name, why in result.skipped], "files", "yellow")
    _lines(console, "classes", found.on_images, "folders", "yellow")
    if result.no_better:
        _line(console, "WARNING", result.no_better, "bold red")
    if result.note:
        _line(console, "note", result.note, "bold yellow")
    _show_trials(console, result)
    for name, why in result.failed:
        _line(console, "failed", f"{name}: {why}", "red")
    _show_advice(console, result)


def _show_trials(console: Console, result: Probe) -> None:
    columns = [">", "preset", "channels", "pixels become", "size by"]
    if result.by_accuracy:
        columns += [">top-1", ">top-5"]
    columns += [">steady", ">variety", ">score", ">p-value", ">alike"]
    rows = []
    for place, trial in enumerate(result.trials, start=1):
        preset = trial.preprocessing.name if trial.preprocessing.name in PRESETS else ""
        cells = [str(place), preset, trial.preprocessing.channel_order, trial.range, trial.geometry]
        if result.by_accuracy:
            cells += [percent(trial.top1 or 0.0, 1), percent(trial.top5 or 0.0, 1)]
        cells += [f"{trial.steady:.2f}", f"{trial.variety:.2f}", f"{trial.score:.2f}"]
        cells += ["", ""] if place == 1 else [f"{trial.chance:.2f}", percent(trial.alike)]
        rows.append((cells, "bold" if place == 1 else ""))
    show_rows(console, columns, rows, names=5)
    legend = (
        "steady: part of the pictures whose mirror image and paler variant get the same class; variety: entropy of "
        "the classes given, 0 if all get the same one; p-value: how often chance alone would put it so far behind "
        "the first: where it is small, it is worse; alike: pictures that get the same class as with the first"
    )
    show_lines(console, [legend])


def _show_advice(console: Console, result: Probe) -> None:
    best = result.trials[0]
    if result.contradicted and result.declared is not None:
        text = f"the declared preprocessing {result.declared.name!r} is clearly worse than the first: check it"
        _line(console, "WARNING", text, "bold red")
    good = result.clear and result.by_accuracy
    more = "" if good else f"; {_more_pictures(result) if result.by_accuracy or result.labelled else GROUND_TRUTH}"
    _line(console, "verdict", result.verdict + more, "bold green" if good else "bold yellow")
    if result.right is not None:
        chosen = ", which it was chosen on" if result.by_accuracy else ""
        _line(console, "right", f"{result.right} of the pictures with a known class{chosen}")
    _line(console, "use", _usage(best))


def _more_pictures(result: Probe) -> str:
    """Return how to try them on more pictures."""
    if result.found > result.images + len(result.skipped):
        return "try them on more of the pictures with --count"
    return f"give more pictures: all {result.images} were used"


def _usage(trial: Trial) -> str:
    preprocessing = trial.preprocessing
    preset = preprocessing.name in PRESETS
    if preset and not preprocessing.keeps_geometry:
        return f"preprocess: {preprocessing.name}   (in a recipe; or --preprocess {preprocessing.name})"
    mean, scale = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.scale))
    fields = [f"channel_order: {preprocessing.channel_order}", f"mean: [{mean}]", f"scale: [{scale}]"]
    if preset:
        fields = [f"preset: {preprocessing.name}"]
    if preprocessing.fit != "crop":
        fields.append(f"fit: {preprocessing.fit}")
    if preprocessing.fit == "crop" and preprocessing.crop_fraction is not None:
        fields.append(f"crop_fraction: {preprocessing.crop_fraction:g}")
    if preprocessing.interpolation is not None:
        fields.append(f"interpolation: {preprocessing.interpolation}")
    return f"preprocess: {{{', '.join(fields)}}}   (in a recipe)"
