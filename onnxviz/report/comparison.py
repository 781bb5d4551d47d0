"""Finished runs put side by side: one run with the models of all, and the reasons why that may not be fair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxviz.core.errors import OutputError, shorten
from onnxviz.core.findings import Array, Picture, replace_leaves
from onnxviz.core.results import AnalysisResult, DataCard, Part, Provenance, RunResult
from onnxviz.report.files import ARRAYS, PICTURES, content_name, find_kind, place


@dataclass(frozen=True)
class _Source:
    """One of the runs: `aliases` maps its models' names to those in the comparison."""

    name: str
    result: RunResult
    folder: Path
    number: int
    aliases: dict[str, str]

    @property
    def without_model(self) -> str:
        """The name in the comparison of what names no model: that of the run's only one, else the run's."""
        return next(iter(self.aliases.values())) if len(self.aliases) == 1 else self.name


def compare(runs: Sequence[tuple[str, RunResult, Path]], out: Path) -> RunResult:
    """Merge finished runs into one, ready for `write_report(result, out)`.

    Analyses are matched by id. A run's only model takes the run's name; names that meet are numbered. Whatever makes
    the models' tasks differ (seed, data, settings, how images are fitted) is listed in `not_comparable`.

    Args:
        runs: name, result and folder of each run.
        out: folder that receives the pictures and arrays of all runs.

    Raises:
        OutputError: if there are fewer than two runs, if the runs do not have the same analyses, or if a file cannot
            be read or written.
    """
    if len(runs) < 2:
        raise OutputError("a comparison needs at least two finished runs", remedy="name two run folders")
    sources = _sources(runs)
    _require_same_analyses(sources)
    results = [source.result for source in sources]
    try:
        analyses = tuple(_merged_analysis(analysis.id, sources, out) for analysis in results[0].analyses)
    except OSError as fault:
        raise OutputError(
            f"the runs' files cannot be put together: {fault.strerror or fault}",
            where=str(out),
            remedy="name another output folder, or make room there",
        ) from fault
    return RunResult(
        title=" and ".join(shorten(source.name, 60) for source in sources),
        recipe=_joined_text([(source.name, source.result.recipe) for source in sources]),
        models=tuple(
            replace(model, alias=source.aliases[model.alias]) for source in sources for model in source.result.models
        ),
        data=tuple(_merged_data(sources)),
        analyses=analyses,
        expectations=tuple(
            replace(item, model=source.aliases.get(item.model, source.without_model))
            for source in sources
            for item in source.result.expectations
        ),
        provenance=_merged_provenance(sources),
        not_comparable=tuple(dict.fromkeys(_differences(sources))),
    )


def _sources(runs: Sequence[tuple[str, RunResult, Path]]) -> list[_Source]:
    taken: set[str] = set()
    sources = []
    for number, (name, result, folder) in enumerate(runs):
        aliases = {}
        for model in result.models:
            wanted = name if len(result.models) == 1 else f"{name}: {model.alias}"
            aliases[model.alias] = _unused(wanted, taken)
        sources.append(_Source(name, result, folder, number, aliases))
    return sources


def _unused(wanted: str, taken: set[str]) -> str:
    count, alias = 1, wanted
    while alias in taken:
        count += 1
        alias = f"{wanted} ({count})"
    taken.add(alias)
    return alias


def _require_same_analyses(sources: Sequence[_Source]) -> None:
    kinds = [{analysis.id: analysis.kind for analysis in source.result.analyses} for source in sources]
    for source, other in zip(sources[1:], kinds[1:], strict=True):
        if other == kinds[0]:
            continue
        differing = sorted(set(kinds[0].items()) ^ set(other.items()))
        listed = ", ".join(dict.fromkeys(f"{shorten(name)} ({shorten(kind)})" for name, kind in differing))
        raise OutputError(
            f"{shorten(sources[0].name)!r} and {shorten(source.name)!r} do not have the same analyses: {listed}",
            remedy="run both models with one recipe, or with recipes whose analyses have the same names and kinds",
        )


def _analysis(source: _Source, name: str) -> AnalysisResult:
    return next(analysis for analysis in source.result.analyses if analysis.id == name)


def _merged_analysis(name: str, sources: Sequence[_Source], out: Path) -> AnalysisResult:
    parts = tuple(_moved_part(part, source, out) for source in sources for part in _analysis(source, name).parts)
    return replace(_analysis(sources[0], name), parts=parts)


def _moved_part(part: Part, source: _Source, out: Path) -> Part:
    """Give a part its model's new name and bring its files along."""

    def moved(leaf: Picture | Array) -> Picture | Array:
        subfolder, kinds = ("images", PICTURES) if isinstance(leaf, Picture) else ("arrays", ARRAYS)
        found = find_kind(source.folder, leaf.path, kinds)
        if found is None:
            # The report says that the picture is missing; a plain name keeps it from meaning another run's file.
            return replace(leaf, path=f"{subfolder}/{source.number}/missing")
        path, extension, _ = found
        name = f"{subfolder}/{source.number}/{content_name(path)}.{extension}"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        place(path, out / name)
        return replace(leaf, path=name)

    findings = tuple(replace_leaves(finding, moved) for finding in part.findings)
    return replace(part, model=source.aliases.get(part.model, source.name), findings=findings)


# --- what is not the same for all -----------------------------------------------------------------------------------


def _differences(sources: Sequence[_Source]) -> Iterator[str]:
    first = sources[0]
    for source in sources:
        for reason in source.result.not_comparable:
            yield f"{shorten(source.name)}: {reason}"
    for other in sources[1:]:
        pair = f"{shorten(first.name)} and {shorten(other.name)}"
        seeds = first.result.provenance.seed, other.result.provenance.seed
        if seeds[0] != seeds[1]:
            yield f"different seeds: {seeds[0]} in {shorten(first.name)}, {seeds[1]} in {shorten(other.name)}"
        yield from _data_differences(first, other)
        yield from _setting_differences(first, other)
        yield from _model_differences(first, other, pair)


def _data_differences(first: _Source, other: _Source) -> Iterator[str]:
    cards = [{card.name: card for card in source.result.data} for source in (first, other)]
    for name in dict.fromkeys([*cards[0], *cards[1]]):
        found = [card.get(name) for card in cards]
        if found[0] is None or found[1] is None:
            user = other if found[0] is None else first
            yield f"the data set {shorten(name)} was used in {shorten(user.name)} only"
        elif found[0].digest != found[1].digest:
            yield (
                f"the data set {shorten(name)} differs: {found[0].used} images with digest "
                f"{shorten(found[0].digest, 12)} in {shorten(first.name)}, {found[1].used} with "
                f"{shorten(found[1].digest, 12)} in {shorten(other.name)}"
            )


def _setting_differences(first: _Source, other: _Source) -> Iterator[str]:
    for analysis in first.result.analyses:
        settings = analysis.settings, _analysis(other, analysis.id).settings
        for key in dict.fromkeys([*settings[0], *settings[1]]):
            values = [shorten(str(entry.get(key, "not set")), 60) for entry in settings]
            same = key in settings[0] and key in settings[1] and settings[0][key] == settings[1][key]
            # A heading changes no number.
            if not same and key != "title":
                yield (
                    f"{shorten(analysis.id)}.{shorten(key)} differs: {values[0]} in {shorten(first.name)}, "
                    f"{values[1]} in {shorten(other.name)}"
                )


def _model_differences(first: _Source, other: _Source, pair: str) -> Iterator[str]:
    for ours in first.result.models:
        for theirs in other.result.models:
            if ours.geometry != theirs.geometry:
                yield f"{pair} fit images differently: {ours.geometry} and {theirs.geometry}"
            if ours.labels and theirs.labels and ours.labels != theirs.labels:
                yield f"{pair} have {ours.labels} and {theirs.labels} class names"


# --- what stands once for all ---------------------------------------------------------------------------------------


def _merged_data(sources: Sequence[_Source]) -> Iterator[DataCard]:
    """Yield each data set once where all runs have the same, else once for each run that differs."""
    seen: dict[tuple[str, str], None] = {}
    for source in sources:
        for card in source.result.data:
            if (card.name, card.digest) not in seen:
                again = any(name == card.name for name, _ in seen)
                seen[card.name, card.digest] = None
                yield replace(card, name=f"{card.name} ({source.name})") if again else card


def _joined_text(texts: Sequence[tuple[str, str]]) -> str:
    if len({text for _, text in texts}) == 1:
        return texts[0][1]
    return "\n---\n".join(f"# {shorten(name)}\n{text.rstrip()}\n" for name, text in texts)


def _joined_value(sources: Sequence[_Source], value: Callable[[Provenance], Any]) -> str:
    values = {source.name: str(value(source.result.provenance)) for source in sources}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return "; ".join(f"{name}: {text}" for name, text in values.items())


def _merged_provenance(sources: Sequence[_Source]) -> Provenance:
    all_of = [source.result.provenance for source in sources]
    names = dict.fromkeys(name for provenance in all_of for name in provenance.versions)
    return Provenance(
        seed=all_of[0].seed,
        device=_joined_value(sources, lambda provenance: provenance.device),
        versions={
            name: _joined_value(sources, lambda provenance, name=name: provenance.versions.get(name, "not recorded"))  # type: ignore[misc]
            for name in names
        },
        started=min(provenance.started for provenance in all_of),
        seconds=sum(provenance.seconds for provenance in all_of),
        jobs=sum(provenance.jobs for provenance in all_of),
        cached=sum(provenance.cached for provenance in all_of),
        command=_commands(sources),
        engine=_joined_value(sources, lambda provenance: provenance.engine),
        limits=all_of[0].limits if all(item.limits == all_of[0].limits for item in all_of) else (),
        defences=tuple(dict.fromkeys(defence for item in all_of for defence in item.defences)),
        events=tuple(f"{source.name}: {event}" for source in sources for event in source.result.provenance.events),
    )


def _commands(sources: Sequence[_Source]) -> str:
    """Return how each run was started; a provenance has room for one seed, so differing ones are said here."""
    made = [(source.name, source.result.provenance) for source in sources]
    if len({(provenance.command, provenance.seed) for _, provenance in made}) == 1:
        return made[0][1].command
    return "\n".join(
        f"# {shorten(name)}, seed {provenance.seed}\n{provenance.command}".rstrip() for name, provenance in made
    )
