"""Error messages: what, where, remedy; fit for a terminal whatever a model's names contain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from onnxviz.core import errors


def test_every_error_is_in_the_tree_that_the_module_draws() -> None:
    classes = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.OnnxvizError)
    ]
    assert errors.__doc__ is not None
    for cls in classes:
        assert cls.__name__ in errors.__doc__, f"{cls.__name__} is missing from the tree"
        assert cls.__doc__


def test_message_has_what_where_and_remedy() -> None:
    error = errors.DataError("no image is left", where="photos", remedy="check the pattern")
    assert str(error) == "photos: no image is left\n  check the pattern"


def test_fault_points_with_a_caret_at_its_column() -> None:
    fault = errors.Fault("unknown key 'step'", "audit.yaml", 12, 5, "    step: 3")
    assert str(fault).splitlines() == ["audit.yaml:12:5: unknown key 'step'", "        step: 3", "        ^"]


def test_fault_without_a_place_is_its_message_alone() -> None:
    assert str(errors.Fault("unknown key")) == "unknown key"


def test_recipe_error_lists_all_faults() -> None:
    error = errors.RecipeError([errors.Fault("a", "r.yaml", 1, 1), errors.Fault("b", "r.yaml", 2, 1)])
    assert str(error).count("r.yaml") == 2


@pytest.mark.parametrize(("word", "expected"), [("con1", "did you mean 'conv1'"), ("CONV1", "'conv1'"), ("zzz", "")])
def test_nearest(word: str, expected: str) -> None:
    hint = errors.nearest(word, ["conv1", "fire2", "pool"])
    assert expected in hint
    assert bool(hint) == bool(expected)


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\nb", "\u202eabc", "x" * 100_000, "\x00" * 500])
def test_shorten_makes_any_name_one_short_printable_line(name: str) -> None:
    shown = errors.shorten(name)
    assert shown.isprintable()
    assert len(shown) <= 80


@pytest.mark.parametrize("name", ["conv/" + "a" * 200 + "/end\u202e7", "b" * 500 + "\x1bweights"])
def test_shorten_keeps_both_ends_of_a_name_to_tell_it_by(name: str) -> None:
    shown = errors.shorten(name, 40)
    assert shown[:5] == name[:5]
    assert shown.endswith(name[-1])
    assert "..." in shown
    assert len(shown) <= 40


def test_a_sentence_is_kept_whole_or_to_the_end_of_a_word() -> None:
    said = "the first word of this sentence matters, and so does the last: " * 5
    assert errors.beginning(said) == said.strip()
    assert errors.beginning("one two  three\nfour", 14) == "one two ..."
    assert errors.beginning("a\x1b[31m b") == "a\\x1b[31m b"
    assert len(errors.beginning("x" * 100_000)) <= 400


def test_the_middle_is_cut_out_of_names_only() -> None:
    """What an exception, a verdict or a reason says is a sentence: `errors.beginning`, in scripts `beginning`."""
    words = "what|because|verdict|effect|remark|description|reason|summary|said|judged"
    sentence = re.compile(rf"shorten\((?:str\((?:fault|error)\)|one_line|[\w.]*\b(?:{words})\b[,)])")
    package = Path(errors.__file__).parent
    sources = [path.read_text("utf-8") for kind in ("*.py", "*.js") for path in package.rglob(kind)]
    assert [line for source in sources for line in source.splitlines() if sentence.search(line)] == []


def test_unsupported_operators_are_listed_with_their_nodes() -> None:
    error = errors.UnsupportedOperatorError({"NonMaxSuppression": ("nms\x1b", *("n" * 9)), "Foo": ("a",)})
    text = str(error)
    assert "Foo (a)" in text
    assert "\x1b" not in text
    assert ", ..." in text
