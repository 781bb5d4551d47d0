"""The package as a house: its rooms, the floors they stand on, the imports between them, and circles.

    python -m tools.structure [PACKAGE_FOLDER]

A room is a folder right in the package, or a module that stands loose beside them. An arrow is "some module of one room
imports from another room"; a circle is a set of modules that import each other, wherever they are.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "onnxviz"


def modules(package: Path) -> dict[str, Path]:
    """Return dotted name -> file of every module of a package."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.Module, known: Iterable[str], *, at_import: bool = False) -> set[str]:
    """Return the modules that a file imports, those for type checkers left out.

    Args:
        tree: the file.
        known: names of all modules of the package.
        at_import: whether only those count that are loaded when the file is.
    """
    names = set(known)
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return
        if at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in names else node.module or "")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found & names


def imports_of(package: Path) -> dict[str, set[str]]:
    """Return module -> modules of the same package that it imports."""
    known = modules(package)
    return {name: imported(ast.parse(path.read_text(encoding="utf-8")), known) - {name} for name, path in known.items()}


def room_of(module: str) -> str:
    """Return the room that a module lies in; "" for the package's own `__init__`."""
    return module.split(".")[1] if "." in module else ""


def arrows(graph: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return room -> room that it imports from; what the package's face hands on is no arrow."""
    pairs = {(room_of(module), room_of(other)) for module, others in graph.items() for other in others}
    return {(one, other) for one, other in pairs if one and other and one != other}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the sets of modules that import each other (Tarjan's strongly connected components), largest first."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    waiting: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        waiting.append(module)
        for other in sorted(graph.get(module, ())):
            if other not in order:
                visit(other)
                lowest[module] = min(lowest[module], lowest[other])
            elif other in waiting:
                lowest[module] = min(lowest[module], order[other])
        if lowest[module] == order[module]:
            place = waiting.index(module)
            if len(waiting) - place > 1:
                found.append(sorted(waiting[place:]))
            del waiting[place:]

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(found, key=len, reverse=True)


def floors(pairs: set[tuple[str, str]], rooms: Iterable[str]) -> dict[str, int]:
    """Return room -> floor: one above the highest room that it imports from; rooms in a circle share the next one."""
    found: dict[str, int] = {}
    left = set(rooms)
    while left:
        ready = {room for room in left if all(other in found for one, other in pairs if one == room)} or set(left)
        found |= {
            room: 1 + max((found[other] for one, other in pairs if one == room and other in found), default=0)
            for room in ready
        }
        left -= ready
    return found


def main(package: Path = PACKAGE) -> None:
    """Print the figures of a package."""
    graph, files = imports_of(package), modules(package)
    rooms = sorted({room_of(name) for name in files} - {""})
    loose = [name for name, path in files.items() if path.parent == package and path.name[:2] != "__"]
    pairs = arrows(graph)
    placed = floors(pairs, rooms)
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in files.items()}
    print(f"{len(files)} modules, {sum(lines.values())} lines; {len(loose)} modules loose at the root")
    print(f"{len(rooms)} rooms on {max(placed.values())} floors, {len(pairs)} arrows between rooms")
    for room in sorted(rooms, key=lambda room: (-placed[room], room)):
        own = sum(count for name, count in lines.items() if room_of(name) == room)
        below = ", ".join(sorted(other for one, other in pairs if one == room))
        print(f"  {placed[room]:3}  {room:14} {own:6} lines  <- {below}")
    found = circles(graph)
    print(f"{len(found)} circles of modules")
    for circle in found:
        print(f"  {', '.join(circle)}")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:2]))
