"""Small sets in Broden's format, written as NetDissect's `joinseg.py` does, and counted as its `labelprobe.py` does."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLUMNS = ("image", "split", "ih", "iw", "sh", "sw")


def code(numbers: np.ndarray) -> np.ndarray:
    """Return a picture of numbers: red + 256 * green."""
    picture = np.zeros((*numbers.shape, 3), np.uint8)
    picture[..., 0], picture[..., 1] = numbers % 256, numbers // 256
    return picture


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def write_tables(root: Path, labels: Mapping[int, str], categories: Mapping[str, Mapping[int, float]]) -> None:
    """Write label.csv, category.csv and the c_*.csv of some categories, each with the coverage of its labels."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    of = {
        number: ";".join(f"{name}(1)" for name, inside in categories.items() if number in inside) for number in labels
    }
    columns = ("number", "name", "category", "frequency", "coverage", "syns")
    write_table(root / "label.csv", columns, [(n, name, of[n], 1, 0.5, "") for n, name in labels.items()])
    rows = [(name, min(inside), max(inside), len(inside), 1) for name, inside in categories.items()]
    write_table(root / "category.csv", ("name", "first", "last", "count", "frequency"), rows)
    for name, inside in categories.items():
        rows = [(place, n, labels[n], 1, covered) for place, (n, covered) in enumerate(inside.items(), 1)]
        write_table(root / f"c_{name}.csv", ("code", "number", "name", "frequency", "coverage"), rows)


def write_random_set(root: Path, count: int = 12, size: tuple[int, int] = (8, 6), seed: int = 0) -> Path:
    """Write a set with 300 labels in four categories, textures of whole images; images are twice the masks' size."""
    rng = np.random.default_rng(seed)
    labels = {number: f"label {number}" for number in range(1, 301)}
    categories = {
        "color": dict.fromkeys(range(1, 12), 1.0),
        "object": {number: float(rng.random()) for number in range(12, 290)},
        "material": {number: float(rng.random()) for number in range(270, 290)},
        "texture": dict.fromkeys(range(290, 301), 0.5),
    }
    write_tables(root, labels, categories)
    rows = []
    for place in range(count):
        name = f"part{place % 2}/{place:03}"
        (root / "images" / name).parent.mkdir(exist_ok=True)
        whole = (2 * size[0], 2 * size[1])
        Image.fromarray(rng.integers(0, 256, (*whole, 3), dtype=np.uint8)).save(root / "images" / f"{name}.jpg")
        cells = []
        for category, layers in {"color": 1, "object": 2 - place % 3, "material": place % 2}.items():
            known = list(categories[category])
            masks = [f"{name}_{category}_{layer + 1}.png" for layer in range(layers)]
            for mask in masks:
                numbers = rng.choice([0, 0, *known[:5], *known[-5:]], size)
                Image.fromarray(code(numbers)).save(root / "images" / mask)
            cells.append(";".join(masks))
        textures = rng.choice(list(categories["texture"]), place % 3, replace=False)
        cells.append(";".join(map(str, textures)))
        rows.append((f"{name}.jpg", ("train", "val")[place % 4 == 0], *whole, *size, *cells))
    write_table(root / "index.csv", (*COLUMNS, *categories), rows)
    return root


def published_counts(root: Path) -> tuple[dict[str, str], dict[str, int], dict[str, int]]:
    """Count as NetDissect publishes it, pixel by pixel: of each label's name its category, pixels, and images.

    Pixels are those of the masks, sh x sw; a label that a pixel has twice is counted once.
    """
    with (root / "category.csv").open() as stream:
        categories = [row["name"] for row in csv.DictReader(stream)]
    with (root / "label.csv").open() as stream:
        names = {int(row["number"]): row["name"] for row in csv.DictReader(stream)}
    coverage: dict[int, list[tuple[float, int]]] = {number: [] for number in names}
    for place, category in enumerate(categories):
        with (root / f"c_{category}.csv").open() as stream:
            for row in csv.DictReader(stream):
                coverage[int(row["number"])].append((float(row["coverage"]), place))
    category_of = {names[number]: categories[max(found)[1]] for number, found in coverage.items()}
    pixels = dict.fromkeys(names.values(), 0)
    images = dict.fromkeys(names.values(), 0)
    with (root / "index.csv").open() as stream:
        for row in csv.DictReader(stream):
            area = int(row["sh"]) * int(row["sw"])
            of_pixel: list[set[int]] = [set() for _ in range(area)]
            for category in categories:
                for item in filter(None, row[category].split(";")):
                    if item.isdigit():
                        found = [int(item)] * area
                    else:
                        picture = np.asarray(Image.open(root / "images" / item)).reshape(area, 3).tolist()
                        found = [red + 256 * green for red, green, _ in picture]
                    for place, number in enumerate(found):
                        of_pixel[place].add(number)
            for number in set().union(*of_pixel) - {0}:
                images[names[number]] += 1
                pixels[names[number]] += sum(number in labels for labels in of_pixel)
    return category_of, pixels, images
