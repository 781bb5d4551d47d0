"""Write docs/operators.md: every operator of the installed onnx package, how it converts, and what is refused and why.

python -m benchmarks.operator_table           # run all node tests and write the page
python -m benchmarks.operator_table --check   # only say whether the page still lists what the code knows
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from benchmarks.backend_tests import Outcome, node_tests, run
from onnxviz.convert.operators import CONVERTERS
from onnxviz.convert.operators.exact_products import EXACT
from onnxviz.convert.refusals import REFUSALS
from onnxviz.graph.passes import to_qdq, unfuse

REPLACED = [key for key in (*to_qdq.REWRITES, *unfuse.REWRITES) if key[0] and key[1] != "ConvIntegerToFloat"]
"""Operators of other domains that passes replace; `ConvIntegerToFloat` is one that a pass makes itself."""
SUCCEEDED = {"Scatter": "ScatterElements", "Upsample": "Resize"}
"""Deprecated operators that `graph.passes.lift_opset` gives their new names."""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "operators.md"
DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

HEAD = """# Operators

Written by `python -m benchmarks.operator_table` for onnx {version} (opset {opset}); edit the last section only.

*own*: a converter in `onnxviz/convert/operators/`. *definition*: by the function body that the standard gives the
operator. All versions of an operator are meant unless the text says
otherwise; models older than opset 17 are lifted to it first. The last column counts the node tests of the onnx package
in which the operator appears: passed / all; in the others it is refused, or stands beside something that is.

Half precision and double are computed in float32; float 8, float 4 and integers of odd widths are rounded as the type
does and carried by types that PyTorch computes with. Operators of other domains convert if somebody registers a
converter [as below](#an-operator-of-your-own) or with onnx2torch's `add_converter` ([onnx2torch.md](onnx2torch.md)),
and are refused by name else.
"""


def schemas() -> dict[str, list[int]]:
    """Return the versions of each operator, by "Operator" or "domain:Operator"."""
    found: dict[str, set[int]] = defaultdict(set)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain in DOMAINS:
            found[f"{schema.domain}:{schema.name}" if schema.domain else schema.name].add(schema.since_version)
    return {key: sorted(versions) for key, versions in sorted(found.items())}


def way(key: str) -> str:
    """Return how an operator converts."""
    if key in REFUSALS:
        return f"refused: {REFUSALS[key]}"
    if key in CONVERTERS:
        return "own"
    domain, _, operator = key.rpartition(":")
    schema = onnx.defs.get_schema(operator, domain=domain)
    if key in SUCCEEDED:
        return f"becomes `{SUCCEEDED[key]}` when the file is read"
    if schema.deprecated:
        return "refused: deprecated, and no converter knows it"
    if schema.has_function or schema.has_context_dependent_function:
        return "definition"
    return "refused: no converter"


def rows(outcomes: Iterable[Outcome]) -> list[Sequence[str]]:
    """Return a row for each operator."""
    passed: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for outcome in outcomes:
        for operator in outcome.operators:
            seen[operator] += 1
            passed[operator] += outcome.result == "pass"
    listed = []
    for key, versions in schemas().items():
        operator = key.rpartition(":")[2]
        tests = f"{passed[operator]} / {seen[operator]}" if seen[operator] else ""
        listed.append((f"`{key}`", ", ".join(map(str, versions)), way(key), tests))
    extra = {key: "own (not in the installed standard)" for key in CONVERTERS if key not in schemas()}
    extra |= {
        f"{domain}:{operator}": "becomes standard operators when the file is read" for domain, operator in REPLACED
    }
    hidden = [key for key in extra if key.startswith(f"{EXACT}:")]
    listed += [(f"`{key}`", "", text, "") for key, text in sorted(extra.items()) if key not in hidden]
    return listed


def page(outcomes: Sequence[Outcome]) -> str:
    """Return the page."""
    counts = Counter(outcome.result for outcome in outcomes)
    text = [HEAD.format(version=onnx.__version__, opset=onnx.defs.onnx_opset_version())]
    text.append(
        f"Node tests: {len(outcomes)} in all, {counts['pass']} pass, {counts['wrong']} wrong, {counts['crash']} crash, "
        f"{counts['refused']} refused.\n"
    )
    text += ["| operator | versions | converts by | node tests |", "|---|---|---|---|"]
    text += [f"| {' | '.join(row)} |" for row in rows(outcomes)]
    text.append("\n## Node tests that do not pass\n")
    reasons: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.result != "pass":
            reasons[f"{outcome.result}: {in_short(outcome.reason)}"].append(outcome.name)
    text += ["| why | tests |", "|---|---|"]
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        shown = ", ".join(f"`{name.removeprefix('test_')}`" for name in names)
        text.append(f"| {reason.replace('|', '/')} | {len(names)}: {shown} |")
    _, mark, own = PAGE.read_text(encoding="utf-8").partition("\n## An operator of your own")
    return "\n".join(text) + "\n" + mark + own  # the rest of the page is written by hand


def in_short(reason: str) -> str:
    """Return the operators of a refusal, without the nodes that need them, and why."""
    listed, _, rest = reason.removeprefix("operators that do not convert: ").partition("ask for layers")
    operators = ", ".join(part.partition(" (")[0].strip() for part in listed.split(";"))
    because = rest.partition("because: ")[2].strip()
    return f"{operators}: {because}" if because else operators if rest else " ".join(reason.split())


def differs(text: str) -> list[str]:
    """Return what a page says otherwise than the code, without running the tests."""
    faults = []
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| `")}
    for key, versions in schemas().items():
        wanted = f"| `{key}` | {', '.join(map(str, versions))} | {way(key)} |"
        if not lines.get(f"`{key}`", "").startswith(wanted):
            faults.append(wanted)
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the page with the code and write nothing")
    given = parser.parse_args()
    if given.check:
        faults = differs(PAGE.read_text(encoding="utf-8"))
        print("\n".join(faults) or "the page lists what the code knows")
        sys.exit(1 if faults else 0)
    warnings.simplefilter("ignore")
    PAGE.write_text(page([run(test) for test in node_tests()]), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
