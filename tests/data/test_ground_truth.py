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
from onnxviz.data.class_conflicts import contradictions
from onnxviz.data.ground_truth import class_in
from onnxviz.data.image_choice import known_class, own_class, unknown_classes, why_unknown
from onnxviz.data.images import ImageFolder
from onnxviz.execution.inspection import inspect_model
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import left_out
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
    found = "great_white_shark_1.png: the pattern of classes finds 'white_shark'; none of the 3 classes is called"
    with pytest.raises(SelectionError, match=f"^{found} 'white_shark'"):
        classes(tmp_path, LABELS, "great_{class}_1.png")


def test_numbers_in_file_names(tmp_path: Path) -> None:
    images(tmp_path, "7_0.png", "2_1.png")
    assert classes(tmp_path, None, "{class}_*") == [2, 7]
    assert classes(tmp_path, tuple("0123456789"), "{class}_*") == [2, 7]


def test_running_numbers_in_file_names_are_no_classes_of_a_model_that_has_names(tmp_path: Path) -> None:
    images(tmp_path, "cat_0000.png", "cat_0001.png")
    with pytest.raises(SelectionError, match="none of the 3 classes is called '0000'"):
        classes(tmp_path, LABELS, "*_{class}.png")
    source = ImageFolder.find("x", ["."], tmp_path, classes="*_{class}.png")
    assert [known_class(source, index, LABELS) for index in range(2)] == [None, None]
    said = unknown_classes(source, LABELS)
    assert said[0] == (
        "the pattern of classes finds '0000', which is no class of the model: the class of 1 image is not known; the "
        "model's classes have names; write their numbers in a labels.csv, as class_index"
    )


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
    schedule = make_plan(parse_recipe(text, "r.yaml", folder))
    (card,) = schedule.data
    assert [own for job in schedule.jobs for own in job.job.parameters["own_classes"]] == [None, 1, 1]
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


ANIMALS = ("bird", "cat", "dog")


def told(folder: Path, labels: tuple[str, ...] | None, pattern: str | None = None) -> list[str]:
    return list(contradictions(ImageFolder.find("x", ["."], folder, classes=pattern), labels))


def with_table(folder: Path, *lines: str, header: str = "file,class_index,name") -> None:
    images(folder, *(line.partition(",")[0] for line in lines))
    (folder / "labels.csv").write_text("\n".join([header, *lines, ""]))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("a.png,2,cat", "b.png,1,dog"), "on 2 of 2 images: 'a.png' has the name 'cat', which is class 1, and the "
         "class_index 2, the class 'dog' of the model; each class has one number, as if they were numbered in another "
         "order; the names count"),
        (("a.png,1,bird", "b.png,2,cat", "c.png,3,dog"), "on 3 of 3 images: 'a.png' has the name 'bird', which is "
         "class 0, and the class_index 1, the class 'cat' of the model; every number is 1 too high for "),
        (("a.png,3,dog",), "the class_index 3, no class of the model; the names count"),
        (("a.png,1,cat", "b.png,2,cat", "c.png,2.0,dog"), "on 1 of 3 images: 'b.png' has the name 'cat', which is "
         "class 1, and the class_index 2, the class 'dog' of the model; 'cat' has the numbers 1 and 2, so that"),
    ],
)  # fmt: skip
def test_numbers_and_names_of_different_classes_are_told(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    with_table(tmp_path, *lines)
    (said,) = told(tmp_path, ANIMALS)
    assert said.startswith("class_index and name in labels.csv are different classes ")
    assert words in said
    assert not told(tmp_path, None) or "several names" in told(tmp_path, None)[0]


def test_numbers_and_names_that_agree_are_not_told(tmp_path: Path) -> None:
    with_table(tmp_path, "a.png,1,Cat", "b.png,2.0,dog", "c.png,0,", "d.png,,dog", "e.png,0,lynx")
    assert not told(tmp_path, ANIMALS)
    assert not told(tmp_path, None)
    assert classes(tmp_path, None) == [1, 2, 0, None, 0]


def test_a_number_of_several_names_is_told_without_labels(tmp_path: Path) -> None:
    with_table(tmp_path, "a.png,1,cat", "b.png,1,dog")
    (said,) = told(tmp_path, None)
    assert said.startswith("labels.csv gives the class_index 1 to several names, 'cat', 'dog': one is wrong")
    assert "so the numbers count" in said


@pytest.mark.parametrize("text", ["-1", "1.5", "nan", "x", "1e3", "12345678901"])
def test_what_is_no_class_number_is_refused_at_its_line(tmp_path: Path, text: str) -> None:
    with_table(tmp_path, "a.png,1,cat", f"b.png,{text},dog")
    with pytest.raises(DataError) as refused:
        ImageFolder.find("x", ["."], tmp_path).require_classes()
    assert str(refused.value).startswith(
        f"{tmp_path / 'labels.csv'}, line 3: the class_index {text!r} is no class number"
    )


def test_a_table_above_the_folders_counts_and_the_conflict_is_told(tmp_path: Path) -> None:
    images(tmp_path, "bird/1.png", "cat/1.png", "dog/1.png")
    (tmp_path / "labels.csv").write_text("file,class_index,name\nbird/1.png,1,cat\n./cat/1.png,1,cat\n")
    assert classes(tmp_path, ANIMALS) == [1, 1, 2]
    assert told(tmp_path, ANIMALS) == [
        "labels.csv and the folder say different classes of 1 of 2 images: 'bird/1.png' is 'cat' and 'bird'; "
        "labels.csv counts"
    ]
    (tmp_path / "bird/labels.csv").write_text("file,name\n1.png,dog\n")
    assert classes(tmp_path, ANIMALS) == [2, 1, 2]
    assert told(tmp_path, ANIMALS)[0].startswith("labels.csv and another labels.csv above say different classes of 1 ")


@pytest.mark.parametrize(
    ("name", "labels", "pattern", "words"),
    [
        (
            "bird/cat_1.png",
            ANIMALS,
            "{class}_*",
            "the pattern of classes and the folder say different classes of 1",
        ),
        ("n01440764/n01484850_1.png", WORDNET, None, "the folder and the WordNet id in the file's name say different"),
    ],
)
def test_folders_and_file_names_of_different_classes_are_told(
    tmp_path: Path, name: str, labels: tuple[str, ...], pattern: str | None, words: str
) -> None:
    images(tmp_path, name, f"{labels[2]}/{labels[2]}_1.png")
    (said,) = told(tmp_path, labels, pattern)
    assert said.startswith(words)


def test_lines_that_name_no_file_are_told_or_refused(tmp_path: Path) -> None:
    with_table(tmp_path, "a.png,1,cat", "b.png,2,dog")
    table = tmp_path / "labels.csv"
    source = ImageFolder.find("x", ["a.png"], tmp_path)
    assert not source.remarks_on_classes, "an image that is not used is there all the same"
    table.write_text(table.read_text() + "ghost.png,1,cat\n")
    source = ImageFolder.find("x", ["."], tmp_path)
    assert source.remarks_on_classes == ("labels.csv: 1 of 3 lines names a file that is not there: 'ghost.png'",)
    table.write_text("file,name\nshots/a.png,cat\nshots/b.png,dog\n")
    with pytest.raises(
        DataError, match=r"none of its 2 lines names a file; the first is 'shots/a\.png'; 'a\.png' is th"
    ):
        ImageFolder.find("x", ["."], tmp_path).require_classes()
    table.write_text("")
    with pytest.raises(DataError, match="is empty"):
        ImageFolder.find("x", ["."], tmp_path).require_classes()


def test_a_table_beside_a_pattern_is_not_read_and_that_is_told(tmp_path: Path) -> None:
    with_table(tmp_path, "cat_1.png,-1,dog")
    source = ImageFolder.find("x", ["."], tmp_path, classes="{class}_*")
    source.require_classes()
    assert source.remarks_on_classes == ("labels.csv is not read, because the recipe has a pattern of classes",)


@pytest.mark.parametrize(
    ("names", "labels", "words"),
    [
        (("cat/1.png", "dog/1.png"), ("0 bird", "1 cat", "2 dog"), "none of the 2 folders of images is called like a "
         "class of the model: 'cat' (did you mean '1 cat'?), 'dog' (did you mean '2 dog'?)"),
        (("1/1.png", "2/1.png"), ANIMALS, "'1', '2'; folders that are class numbers count from 0"),
        (("cat/sub/1.png", "cat/sub/2.png", "dog/sub/1.png"), ANIMALS, "'sub' ('cat' above it is a class: only"),
    ],
)  # fmt: skip
def test_folders_that_all_miss_the_labels_are_told(
    tmp_path: Path, names: tuple[str, ...], labels: tuple[str, ...], words: str
) -> None:
    images(tmp_path, *names)
    source = ImageFolder.find("x", ["."], tmp_path)
    (said,) = unknown_classes(source, labels)
    assert words in said
    assert said in why_unknown(source, 0, labels)


def test_a_refusal_says_what_a_table_lacks(tmp_path: Path) -> None:
    with_table(tmp_path, "a.png,,")
    images(tmp_path, "b.png")
    source = ImageFolder.find("x", ["."], tmp_path)
    assert [why_unknown(source, index, ANIMALS) for index in range(2)] == [
        "its line in labels.csv says no class", "labels.csv has no line for it",
    ]  # fmt: skip


def test_a_run_tells_contradictions(tmp_path: Path) -> None:
    fill(tmp_path)
    images(tmp_path / "shots", "a.png", "b/cat/1.png", "b/dog/1.png")
    (tmp_path / "shots/labels.csv").write_text("file,class_index,name\nb/cat/1.png,0,dog\nb/dog/1.png,1,dog\n")
    said = data_of(tmp_path, "").remarks
    assert any("labels.csv and the folder say different classes of 1 of 2 images" in sentence for sentence in said)
    found = inspect_model(tmp_path / "m.onnx", images=tmp_path / "shots", labels=tmp_path / "labels.txt", convert=False)
    assert any("labels.csv and the folder say different classes" in sentence for sentence in found.on_images)
