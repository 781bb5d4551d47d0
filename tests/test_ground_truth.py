"""What images show is taken from a table, folders or file names, and from nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from tiny_models import fill

from onnxviz.cli.show_model import show_probe
from onnxviz.core.errors import DataError, RecipeError, SelectionError
from onnxviz.core.results import DataCard
from onnxviz.data.ground_truth import class_in
from onnxviz.data.image_choice import own_class, unknown_classes
from onnxviz.data.images import ImageFolder
from onnxviz.execution.inspection import inspect_model
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import left_out, schedule_of
from onnxviz.recipe.recipe import parse_recipe

LABELS = ("tench", "great white shark", "goldfish")
WORDNET = ("n01440764", "n01484850", "n01443537")


def images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / name)


def classes(folder: Path, labels: tuple[str, ...] | None, pattern: str | None = None) -> list[int | None]:
    source = ImageFolder.find("x", ["."], folder, classes=pattern)
    return [own_class(source, index, labels) for index in range(len(source))]


@pytest.mark.parametrize(
    ("pattern", "name", "found"),
    [
        ("{class}_*.jpg", "n01484850_12.jpg", "n01484850"),
        ("{class}_*.jpg", "great_white_shark_12.jpg", "great"),
        ("{class}_[0-9]*.jpg", "great_white_shark_12.jpg", "great_white_shark"),
        ("*-{class}.png", "7-tench.png", "tench"),
        ("{class}_*.jpg", "deep/er/tench_1.jpg", "tench"),
        ("{class}/*/*.jpg", "tench/er/1.jpg", "tench"),
        ("{class}_*.jpg", "tench.jpg", None),
        ("{class}.(jpg)", "tench.(jpg)", "tench"),
        ("{class}.(jpg)", "tench.jpg", None),
    ],
)
def test_a_pattern_finds_the_class(pattern: str, name: str, found: str | None) -> None:
    assert class_in(name, pattern) == found


@pytest.mark.parametrize("pattern", ["*.jpg", "{class}{class}", "{class}" + "*a" * 5, "{class}" + "a" * 200])
def test_a_pattern_that_cannot_be_used_is_refused_in_the_recipe(pattern: str, tmp_path: Path) -> None:
    text = (
        "version: 1\nmodel: {builtin: scenes}\nanalyses: {a: {kind: weights}}\n"
        f"data: {{d: {{images: photos, classes: '{pattern}'}}}}\n"
    )
    with pytest.raises(RecipeError, match="pattern of classes"):
        parse_recipe(text, "r.yaml", tmp_path)


def test_stars_do_not_take_forever() -> None:
    assert class_in("a" * 250, "*a*a*a*{class}b") is None


def test_file_names(tmp_path: Path) -> None:
    images(tmp_path, "great_white_shark_1.png", "tench_2.png", "unknown.png")
    assert classes(tmp_path, LABELS, "{class}_[0-9].png") == [1, 0, None]
    assert classes(tmp_path, LABELS) == [None, None, None]
    with pytest.raises(SelectionError, match="none of the 3 classes is called 'white_shark'"):
        classes(tmp_path, LABELS, "great_{class}_1.png")


def test_numbers_in_file_names(tmp_path: Path) -> None:
    images(tmp_path, "7_0.png", "2_1.png")
    assert classes(tmp_path, None, "{class}_*") == [2, 7]
    assert classes(tmp_path, LABELS, "{class}_*") == [2, 7]


def test_wordnet_ids(tmp_path: Path) -> None:
    images(tmp_path, "n01484850_1.png", "n01443537_77.png")
    both = tuple(f"{number} {label}" for number, label in zip(WORDNET, LABELS, strict=True))
    assert classes(tmp_path, WORDNET) == classes(tmp_path, both) == [2, 1]
    assert classes(tmp_path, WORDNET, "{class}_*") == [2, 1]
    assert classes(tmp_path, LABELS) == [None, None]


def test_a_table_may_hold_names_and_wordnet_ids(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png")
    table = "file,class_index,wnid,name\na.png,55,n01484850,great white shark\nb.png,56,n01440764,tench\n"
    (tmp_path / "labels.csv").write_text(table)
    assert classes(tmp_path, LABELS) == classes(tmp_path, WORDNET) == [1, 0]
    assert classes(tmp_path, None) == [55, 56]


def test_one_folder_for_each_class(tmp_path: Path) -> None:
    images(tmp_path, "tench/1.png", "great_white_shark/1.png", "rubbish/1.png")
    assert classes(tmp_path, LABELS) == [1, None, 0]  # sorted: great, rubbish, tench


def test_a_misspelt_folder_is_told_and_the_others_count(tmp_path: Path) -> None:
    images(tmp_path, "bleu/1.png", "bleu/2.png", "red/1.png")
    assert classes(tmp_path, ("blue", "red")) == [None, None, 1]
    source = ImageFolder.find("x", ["."], tmp_path)
    (said,) = unknown_classes(source, ("blue", "red"))
    assert said == "folder 'bleu' is no class of the model: the class of 2 images is not known; did you mean 'blue'?"
    assert not unknown_classes(source, ("lion", "tiger")), "folders may be called anything"
    assert not unknown_classes(source, None)
    assert not unknown_classes(source, ("bleu", "red"))


def test_images_beside_class_folders_leave_the_others_their_classes(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "blue/1.png", "red/1.png", "red/deep/1.png")
    assert classes(tmp_path, ("blue", "red")) == [None, None, 0, 1, None]
    assert unknown_classes(ImageFolder.find("x", ["."], tmp_path), ("blue", "red")) == (
        "the class of 2 images is not known: they lie in no folder that is a class, and their names say none; the "
        "first of them is '1.png'",
        "folder 'deep' is no class of the model: the class of 1 image is not known",
    )


@pytest.mark.parametrize("labels", [None, LABELS])
def test_a_folder_among_class_numbers_leaves_them_what_they_are(tmp_path: Path, labels: tuple[str, ...] | None) -> None:
    images(tmp_path, "00/1.png", "02/1.png", "misc/1.png", "misc/2.png", "stray.png")
    assert classes(tmp_path, labels) == [0, 2, None, None, None]
    said = unknown_classes(ImageFolder.find("x", ["."], tmp_path), labels)
    assert [sentence[:13] for sentence in said] == ["folder 'misc'", "the class of "]
    assert "the class of 2 images is not known" in said[0]
    assert ("is no class of the model" in said[0]) == (labels is not None)


def test_numbers_beyond_the_labels_are_told(tmp_path: Path) -> None:
    images(tmp_path, "0/1.png", "7/1.png")
    (said,) = unknown_classes(ImageFolder.find("x", ["."], tmp_path), LABELS)
    assert said == "folder '7' is no class of the model: the class of 1 image is not known"


def test_names_that_a_pattern_finds_and_the_model_lacks_are_told(tmp_path: Path) -> None:
    images(tmp_path, "tench_1.png", "goldfisch_1.png", "goldfisch_2.png", *(f"x{place}_1.png" for place in range(7)))
    source = ImageFolder.find("x", ["."], tmp_path, classes="{class}_*.png")
    said = unknown_classes(source, LABELS)
    assert said[0] == (
        "the pattern of classes finds 'goldfisch', which is no class of the model: the class of 2 images is not known; "
        "did you mean 'goldfish'?"
    )
    assert len(said) == 6
    assert said[5] == "so it is with 3 names more: the class of 3 images is not known"
    assert "finds 'goldfisch', which is no number, and the model has no class names" in unknown_classes(source, None)[0]


def test_what_a_table_lacks_is_told(tmp_path: Path) -> None:
    images(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    (tmp_path / "labels.csv").write_text("file,class_index,name\na.png,0,tench\nb.png,,tensch\nc.png,,\ne.png,9,\n")
    said = unknown_classes(ImageFolder.find("x", ["."], tmp_path), LABELS)
    assert [sentence.partition(":")[0] for sentence in said] == [
        "labels.csv says 'tensch', which is no class of the model",
        "the class of 1 image is not known",
        "the class of 1 image is not known",
        "labels.csv says '9', which is no class of the model",
    ]
    assert "their lines in labels.csv say none; the first of them is 'c.png'" in said[1]
    assert "labels.csv has no line for them; the first of them is 'd.png'" in said[2]


@pytest.mark.parametrize("second", ["a.png,1,tench", "a.png,0,shark", "a.png,,shark"])
def test_a_table_that_contradicts_itself_is_refused_once_at_its_place(tmp_path: Path, second: str) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", "a.png", "b.png", "c.png")
    (tmp_path / "shots/labels.csv").write_text(f"file,class_index,name\na.png,0,tench\n{second}\n")
    with pytest.raises(RecipeError) as refused:
        data_of(tmp_path, "")
    (fault,) = refused.value.faults
    assert "labels.csv: gives 'a.png' two classes: " in fault.message
    assert "'0' and '1'" in fault.message or "'tench' and 'shark'" in fault.message
    with pytest.raises(DataError, match=r"gives 'a\.png' two classes") as stopped:
        inspect_model(tmp_path / "m.onnx", images=tmp_path / "shots", convert=False)
    assert "labels.csv" in stopped.value.where


def test_lines_of_a_table_that_agree_are_one(tmp_path: Path) -> None:
    images(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text("file,class_index,name\na.png,02,\na.png,2,gold_fish\na.png,,Gold fish\n")
    source = ImageFolder.find("x", ["."], tmp_path)
    assert (source.class_index_of(0), source.class_names_of(0)) == (2, ("Gold fish",))


def data_of(folder: Path, options: str) -> DataCard:
    """Return what a run of a tiny model says of the images in `shots`."""
    text = (
        "version: 1\nmodel: {path: m.onnx, labels: labels.txt, preprocess: unit}\n"
        f"data: {{d: {{images: shots{options}}}}}\n"
        "analyses: {evidence: {kind: grad_cam, data: d, layers: second}}\n"
    )
    schedule = schedule_of(make_plan(parse_recipe(text, "r.yaml", folder)))
    (card,) = schedule.data
    assert [job.job.parameters["own_class"] for job in schedule.jobs] == [None, 1, 1]
    return card


def test_the_data_set_says_which_folder_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", "cta/1.png", "dog/1.png", "dog/2.png")
    card = data_of(tmp_path, "")
    (said,) = left_out([card])
    assert "data 'd': folder 'cta' is no class of the model: the class of 1 image is not known" in said
    assert "did you mean 'cat'?" in said


def test_a_pattern_that_fits_some_images_says_how_many(tmp_path: Path) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", "cat.png", "dog_1.png", "dog_2.png")
    (said,) = data_of(tmp_path, ", classes: '{class}_*.png'").remarks
    assert "fits 2 of 3 images" in said
    assert "'cat.png'" in said


def test_a_pattern_that_fits_no_image_is_a_fault_at_its_place(tmp_path: Path) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", "cat.png", "dog-1.png", "dog-2.png")
    with pytest.raises(RecipeError) as refused:
        data_of(tmp_path, ", classes: '{class}_*.png'")
    (fault,) = refused.value.faults
    assert "the pattern '{class}_*.png' fits none of the 3 images; the first is 'cat.png'" in fault.message
    assert (fault.line, fault.column) == (3, len("data: {d: {images: shots, classes: ") + 1)
    with pytest.raises(DataError, match="fits none of the 3 images") as stopped:
        inspect_model(
            tmp_path / "m.onnx", images=tmp_path / "shots", labels=tmp_path / "labels.txt",
            classes_from="{class}_*.png", convert=False,
        )  # fmt: skip
    assert stopped.value.where == "--classes-from"


@pytest.mark.parametrize(
    ("names", "pattern", "said"),
    [
        (("cta/1.png", "dog/1.png", "dog/2.png"), None, "folder 'cta' is no class of the model"),
        (("cat.png", "dog_1.png", "dog_2.png"), "{class}_*.png", "the pattern of classes fits 2 of 3 images"),
        (("cat/1.png", "dog/1.png", "dog/2.png"), None, ""),
    ],
)
def test_inspect_says_whose_class_is_not_known(
    tmp_path: Path, names: tuple[str, ...], pattern: str | None, said: str
) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", *names)
    found = inspect_model(
        tmp_path / "m.onnx", images=tmp_path / "shots", labels=tmp_path / "labels.txt", classes_from=pattern,
        convert=False,
    )  # fmt: skip
    console = Console(record=True, width=200, file=io.StringIO())
    show_probe(console, found)
    assert [sentence.startswith(said) for sentence in found.on_images] == [True] * bool(said)
    assert all(sentence in console.export_text() for sentence in found.on_images)


def test_folders_that_are_numbers(tmp_path: Path) -> None:
    images(tmp_path, "0/1.png", "2/1.png")
    assert classes(tmp_path, LABELS) == classes(tmp_path, None) == [0, 2]
    images(tmp_path / "years", "2020/1.png", "2021/1.png")
    assert classes(tmp_path / "years", None) == [None, None]


@pytest.mark.parametrize(
    "names", [("photos/1.png", "photos/2.png"), ("photos/1.png", "2.png"), ("a/b/1.png", "c/2.png")]
)
def test_any_folder_is_no_class(tmp_path: Path, names: tuple[str, ...]) -> None:
    images(tmp_path, *names)
    assert classes(tmp_path, LABELS) == classes(tmp_path, None) == [None, None]
    assert not unknown_classes(ImageFolder.find("x", ["."], tmp_path), LABELS)
