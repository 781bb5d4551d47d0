"""Reports say which part of each image the network saw."""

from __future__ import annotations

import pytest

from onnxviz.core.values import Preprocessing
from onnxviz.data.visible_part import cropped_note, part_seen

CROP = Preprocessing()


@pytest.mark.parametrize(
    ("sizes", "preprocessing", "said"),
    [
        ([(32, 32)] * 3, CROP, "3 images are seen whole, as they are"),
        ([(28, 28)], CROP, "1 image is seen whole, resized to 32 × 32 pixels; 1 of the 1 is smaller than the input and"
                           " enlarged"),
        ([(64, 64)] * 2, CROP, "of 2 images only the centre is seen, on average 75% of the area"),
        ([(64, 128), (32, 32)], CROP,
         "of 1 image only the centre is seen, on average 38% of the area; 1 image is seen whole, as it is"),
        ([(32, 64)], CROP, "of 1 image only the centre is seen, on average 50% of the area"),
        ([(64, 128), (32, 32)], Preprocessing(fit="stretch"),
         "2 images are seen whole, stretched to 32 × 32 pixels, 1 of them as they are"),
        ([(32, 32)], Preprocessing(fit="none"), "images must be 32 × 32 pixels and are seen whole"),
        ([], CROP, ""),
    ],
)  # fmt: skip
def test_the_part_is_counted(sizes: list[tuple[int, int]], preprocessing: Preprocessing, said: str) -> None:
    assert part_seen(sizes, preprocessing, (32, 32)) == said


def test_pictures_that_are_cropped_say_so() -> None:
    class Source:
        sizes = ((64, 64), (32, 32), (64, 64))

    (note,) = cropped_note(Source(), [0, 1], CROP, (32, 32))
    said = "of 1 image only the centre is seen, on average 75% of the area; 1 image is seen whole, as it is"
    assert note.text == f"Pictures show what the network sees: {said}."
    assert cropped_note(Source(), [1], CROP, (32, 32)) == ()
    assert cropped_note(Source(), [0], Preprocessing(fit="stretch"), (32, 32)) == ()
    assert cropped_note(object(), [0], CROP, (32, 32)) == ()
