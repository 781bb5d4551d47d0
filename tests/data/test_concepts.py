"""Folders of masks: which value is which concept, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxviz.core import limits
from onnxviz.core.errors import DataError, RecipeError
from onnxviz.data.concepts import Concept, ConceptSet, MaskFolder, is_void, read_concepts
from onnxviz.execution.plan import make_plan
from onnxviz.execution.schedule import left_out
from onnxviz.recipe.recipe import parse_recipe


def write(root: Path, name: str, mask: np.ndarray | None, size: tuple[int, int] = (4, 6)) -> None:
    image = root / "images" / f"{name}.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    (root / "labels").mkdir(exist_ok=True)
    Image.fromarray(np.full((*size, 3), 100, np.uint8)).save(image)
    if mask is not None:
        path = root / "labels" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "street"
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 2:4] = 1
    mask[:, 4:] = 2
    write(root, "a", mask)
    (root / "classes.txt").write_text("sky\nroad\nvoid\n")
    return root


def test_value_i_is_line_i_and_void_is_no_concept(folder: Path) -> None:
    data: ConceptSet = MaskFolder.find("street", "street", folder.parent)
    assert data.concepts == (Concept(1, "sky", "object"), Concept(2, "road", "object"))
    assert data.categories == ("object",)
    assert data.names == ("a.png",)
    labels = data.read_labels(0)
    assert labels.dtype == np.int32
    assert labels.tolist() == [[[1, 1, 2, 2, 0, 0]] * 4]
    assert data.read(0).shape == (4, 6, 3)


def test_a_palette_mask_is_read_by_index_not_by_colour(folder: Path) -> None:
    image = Image.open(folder / "labels/a.png").convert("P")
    image.putpalette([200, 0, 0, 0, 200, 0, 9, 9, 9] + [0] * 759)
    image.save(folder / "labels/a.png")
    assert MaskFolder.find("x", folder, folder).read_labels(0)[0, 0].tolist() == [1, 1, 2, 2, 0, 0]


def test_masks_of_16_bits(folder: Path) -> None:
    (folder / "concepts.csv").write_text("index,name,category\n300,sky,stuff\n0,void,\n")
    Image.fromarray(np.array([[0, 300, 300, 0, 0, 0]] * 4, np.uint16)).save(folder / "labels/a.png")
    assert MaskFolder.find("x", folder, folder).read_labels(0)[0, 0].tolist() == [0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("concepts.csv", "index,name,category\n0,void,\n1,no,colour\n2,car,\n3,unlabelled,\n7, no ,object\n"),
        (
            "concepts.yaml",
            "- {index: 0, name: void}\n- {index: 1, name: no, category: colour}\n- {index: 2, name: car}\n"
            "- {index: 3, name: unlabelled}\n- {index: 7, name: no, category: object}\n",
        ),
    ],
)
def test_a_table_gives_categories(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    concepts, numbers = read_concepts(folder)
    assert concepts == (Concept(1, "no", "colour"), Concept(2, "car", "object"), Concept(3, "no", "object"))
    assert numbers.tolist() == [0, 1, 2, 0, -1, -1, -1, 3]
    write(folder, "a", np.zeros((4, 6), np.uint8))
    assert MaskFolder.find("x", folder, folder).categories == ("colour", "object")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("concepts.csv", "value,name\n1,a\n", "has no columns"),
        ("concepts.csv", "index,name\n-1,a\n", "'-1' is not a mask value"),
        ("concepts.csv", "index,name\n70000,a\n", "'70000' is not a mask value"),
        ("concepts.csv", "index,name\n1,a\n1,b\n", "value 1 is listed twice"),
        ("concepts.csv", "index,name,category\n1,a,\n2,b,\n7, A,object\n", "values 1 and 7 are both called 'A'"),
        ("classes.txt", "sky\nroad\nsky\n", "values 0 and 2 are both called 'sky'"),
        ("concepts.csv", "", "has no columns"),
        ("concepts.yaml", "sky", "is not a list of entries"),
        ("concepts.yaml", "- {index: [1], name: a}", "needs a number as index"),
        ("concepts.yaml", "- {index: 1, name: true}", "a text as name"),
        ("concepts.yaml", "- {index: 1.5, name: a}", "needs a number as index"),
        ("concepts.yaml", "- {name: a}", "needs a number as index"),
        ("concepts.yaml", "- {index: 1, name: a", "not valid YAML"),
        ("concepts.yaml", "[" * 5000, "levels deep"),
        ("concepts.yaml", "- &a {index: 1, name: a}\n- *a", "are not allowed"),
        ("classes.txt", "void\n\n", "names no concept"),
    ],
)
def test_an_unusable_table_is_named(folder: Path, file: str, text: str, message: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_concepts(folder)
    assert file in str(caught.value)


def test_a_table_has_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LABELS_BYTES", 3)
    with pytest.raises(DataError, match="larger than"):
        read_concepts(folder)


def test_another_size_is_brought_to_the_image_by_the_nearest_value_and_said(folder: Path) -> None:
    Image.fromarray(np.array([[0, 1, 2]] * 2, np.uint8)).save(folder / "labels/a.png")
    write(folder, "b", np.zeros((4, 6), np.uint8))
    data = MaskFolder.find("x", folder, folder)
    assert data.read_labels(0).tolist() == [[[1, 1, 2, 2, 0, 0]] * 4]
    assert data.notes == (("a.png", said := "mask of 3 x 2 pixels for 6 x 4: enlarged, by the nearest labels"),)
    assert data.remarks == (f"1 of 2 masks are not of their image's size; a.png: {said}",)


@pytest.mark.parametrize(
    ("mask", "image", "fits"),
    [((30, 30), (224, 224), True), ((30, 30), (360, 480), False), ((47, 63), (375, 500), True),
     ((48, 63), (375, 500), True), ((46, 63), (375, 500), False), ((500, 375), (375, 500), False),
     ((720, 960), (360, 480), True), ((360, 479), (360, 480), True), ((360, 478), (360, 480), False)],
)  # fmt: skip
def test_a_mask_of_another_aspect_ratio_is_not_used(
    tmp_path: Path, mask: tuple[int, int], image: tuple[int, int], *, fits: bool
) -> None:
    write(tmp_path, "a", np.zeros(mask, np.uint8), image)
    write(tmp_path, "b", np.zeros(image, np.uint8), image)
    (tmp_path / "classes.txt").write_text("sky\n")
    data = MaskFolder.find("x", tmp_path, tmp_path)
    assert data.names == (("a.png", "b.png") if fits else ("b.png",))
    if not fits:
        ((_, why),) = data.skipped
        assert f"its mask a.png of {mask[1]} x {mask[0]} pixels has another aspect ratio than the image of" in why
        assert "make the mask in the image's size" in why
        (tmp_path / "images/b.png").unlink()
        with pytest.raises(DataError, match=r"none of 1 images has a usable mask.*another aspect ratio") as refused:
            MaskFolder.find("x", tmp_path, tmp_path)
        assert "concept folder holds" not in str(refused.value)


def test_a_missing_or_broken_mask_skips_its_image(folder: Path) -> None:
    write(folder, "b", None)
    write(folder, "c", np.zeros((4, 6), np.uint8))
    (folder / "labels/c.png").write_bytes(b"hello")
    data = MaskFolder.find("x", folder, folder)
    assert data.names == ("a.png",)
    assert dict(data.skipped)["b.png"] == "has no mask in labels/"
    assert "its mask c.png cannot be used" in dict(data.skipped)["c.png"]


def test_without_any_mask_the_layout_is_explained(folder: Path) -> None:
    (folder / "labels/a.png").unlink()
    with pytest.raises(DataError, match=r"none of 1 images has a usable mask; a\.png: has no mask") as caught:
        MaskFolder.find("x", folder, folder)
    assert "classes.txt" in str(caught.value)


@pytest.mark.parametrize("missing", ["", "images", "labels", "classes.txt"])
def test_a_missing_part_is_named(folder: Path, missing: str) -> None:
    (folder / missing).rename(folder.parent / "elsewhere")
    with pytest.raises(DataError, match=missing or "street"):
        MaskFolder.find("x", "street", folder.parent)


def test_a_value_outside_the_list_names_file_and_value(folder: Path) -> None:
    Image.fromarray(np.full((4, 6), 3, np.uint8)).save(folder / "labels/a.png")
    with pytest.raises(DataError, match=r"a\.png: the mask holds the value 3, which") as refused:
        MaskFolder.find("x", folder, folder)
    assert "(3,name)" in str(refused.value)
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(folder / "labels/a.png")
    with pytest.raises(DataError, match=r"the values 3, 4, 5, 6, 7, 8, 9, 10 and 13 more, which"):
        MaskFolder.find("x", folder, folder)


def test_the_values_of_some_masks_are_looked_at_and_their_number_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(30):
        write(folder, f"z{place:02}", np.full((4, 6), 9 if place == 29 else 0, np.uint8))
    data = MaskFolder.find("x", folder, folder)
    assert data.remarks == ("before the run the values of 24 of 31 masks were looked at; all have names",)
    with pytest.raises(DataError, match=r"z29\.png: the mask holds the value 9"):
        data.read_labels(30)
    monkeypatch.setattr("onnxviz.data.concepts._SAMPLE_PIXELS", 100)
    assert "values of 5 of 31 masks" in MaskFolder.find("x", folder, folder).remarks[0]


def test_colour_masks_and_lossy_formats_are_left_out(folder: Path) -> None:
    write(folder, "b", np.zeros((4, 6), np.uint8))
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(folder / "labels/a.png")
    (said,) = MaskFolder.find("x", folder, folder).skipped
    assert said == (
        "a.png",
        "its mask a.png cannot be used: a colour picture (RGB), not a mask of indices; store one number for each "
        "pixel: a grey or palette PNG",
    )
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / "labels/a.png", "JPEG")
    assert "may change values; use PNG" in MaskFolder.find("x", folder, folder).skipped[0][1]


def test_a_recipe_says_what_is_wrong_with_masks_once_and_at_its_place(folder: Path) -> None:
    text = "version: 1\nmodel: {builtin: scenes}\ndata: {d: {concepts: street}}\nanalyses: {a: {kind: dissection}}\n"
    for place in range(30):
        write(folder, f"z{place:02}", np.zeros((2, 3) if place else (4, 4), np.uint8))
    (card,) = make_plan(parse_recipe(text, "r.yaml", folder.parent)).data
    told = " ".join(left_out([card]))
    assert "29 of 30 masks are not of their image's size; z01.png: mask of 3 x 2 pixels for 6 x 4: enlarged" in told
    assert "the values of 24 of 30 masks were looked at" in told
    assert "1 of 31 files cannot be used and is left out: z00.png: its mask z00.png of 4 x 4 pixels" in told
    (folder / "classes.txt").write_text("sky\n")
    with pytest.raises(RecipeError) as refused:
        make_plan(parse_recipe(text, "r.yaml", folder.parent))
    (fault,) = refused.value.faults
    assert "a.png: the mask holds the values 1, 2, which the class list does not name" in fault.message
    assert fault.line == 3


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ("sky\nroad", ""),
        ("Sky\nstreet, road", ""),
        ("sky\nroads", "1 of the 2 names of the pixel labels are no classes of the model, which gives each position a "
                       "class: 'road' (did you mean 'roads'?); what"),
        ("a\nb", "none of the 2 names of the pixel labels is a class of the model, which gives each position a class: "
                 "'sky', 'road'; what"),
    ],
)  # fmt: skip
def test_names_of_pixel_labels_that_a_segmentation_lacks_are_told(folder: Path, labels: str, said: str) -> None:
    weight = numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["out"], axis=1),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, 8, 8]) for name, count in
              (("image", 3), ("out", 2))]  # fmt: skip
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder.parent / "m.onnx")
    (folder.parent / "labels.txt").write_text(labels)
    text = (
        "version: 1\nmodel: {path: m.onnx, labels: labels.txt, preprocess: unit}\ndata: {d: {concepts: street}}\n"
        "analyses: {a: {kind: weights}}\n"
    )
    plan = make_plan(parse_recipe(text, "r.yaml", folder.parent))
    (head,) = plan.subjects["model"].view.heads
    assert head.kind == "map_of_classes"
    told = plan.data[0].remarks
    assert [sentence.startswith(said) for sentence in told] == [True] * bool(said), told


def test_further_label_layers_and_sub_folders(folder: Path) -> None:
    write(folder, "town/b", np.zeros((4, 6), np.uint8))
    write(folder, "a", np.zeros((4, 6), np.uint8))
    (folder / "labels/colours").mkdir()
    Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / "labels/colours/a.png")
    data = MaskFolder.find("x", folder, folder)
    assert data.names == ("a.png", "town/b.png")
    assert data.read_labels(0)[:, 0, 0].tolist() == [1, 2]
    assert data.read_labels(1).shape == (1, 4, 6)


def test_the_digest_follows_masks_and_names(folder: Path) -> None:
    digests = {MaskFolder.find("x", folder, folder).digest}
    assert MaskFolder.find("y", folder, folder).digest in digests
    (folder / "classes.txt").write_text("sky\nstreet\nvoid\n")
    digests.add(MaskFolder.find("x", folder, folder).digest)
    Image.fromarray(np.ones((4, 6), np.uint8)).save(folder / "labels/a.png")
    digests.add(MaskFolder.find("x", folder, folder).digest)
    assert len(digests) == 3


def test_a_limit_counts(folder: Path) -> None:
    for name in "bcd":
        write(folder, name, np.zeros((4, 6), np.uint8))
    data = MaskFolder.find("x", folder, folder, limit=2)
    assert data.names == ("a.png", "c.png")
    assert data.found == 4


@pytest.mark.zoo
def test_camvid(shared_data: Path) -> None:
    data = MaskFolder.find("street", "camvid", shared_data)
    assert len(data) == 117
    assert data.skipped == data.notes == ()
    assert [concept.name for concept in data.concepts][:2] == ["sky", "building"]
    assert "void" not in [concept.name for concept in data.concepts]
    labels = data.read_labels(0)
    assert labels.shape == (1, 360, 480)
    # Sky is above the road in a street scene.
    assert np.nonzero(labels[0] == 1)[0].mean() < np.nonzero(labels[0] == 4)[0].mean()


@pytest.mark.parametrize(
    "name",
    ["null", "NULL", "N/A", "n.a.", "_background_", "__Background__", "bg", "nothing", "un-labelled", "Unlabeled",
     "no label", "don't care", "out of ROI", "-", "?", "", "unlabelled or void", "background (void)"],
)  # fmt: skip
def test_a_name_of_nothing_is_no_concept(folder: Path, name: str) -> None:
    assert is_void(name)
    (folder / "concepts.csv").write_text(f'index,name\n0,"{name}"\n1,road\n2,sky\n')
    concepts, numbers = read_concepts(folder)
    assert [concept.name for concept in concepts] == ["road", "sky"]
    assert numbers.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["other", "0", "nullah", "knot", "road or path", "empty", "mask", "N", "背景板"])
def test_what_may_be_a_concept_is_one(name: str) -> None:
    assert not is_void(name)


def test_masks_that_hold_no_concept_are_told(folder: Path) -> None:
    write(folder, "b", np.full((4, 6), 2, np.uint8))
    (said,) = MaskFolder.find("x", folder, folder).remarks
    assert said == (
        "1 of the 2 masks that were looked at holds no concept: all values are called void or the like; the first is "
        "'b.png'"
    )


def test_class_lists_that_differ_are_told(folder: Path) -> None:
    lists = folder / "concepts.csv"
    lists.write_text("index,name\n0,Sky\n1,road\n2,void\n")
    assert not MaskFolder.find("x", folder, folder).remarks
    lists.write_text("index,name\n0,road\n1,sky\n2,void\n3,tree\n")
    (said,) = MaskFolder.find("x", folder, folder).remarks
    assert said == (
        "concepts.csv counts, and classes.txt beside it does not: they differ on 3 of 4 mask values; 0 is 'road' in "
        "the first, and is 'sky' in the other"
    )
    (folder / "concepts.yaml").write_text("[")
    assert "concepts.yaml beside it, which cannot be used, does not" in MaskFolder.find("x", folder, folder).remarks[0]
