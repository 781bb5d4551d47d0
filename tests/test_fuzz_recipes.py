"""Recipes that nobody means: refused with messages or planned, in bounded time and memory, and nothing is touched.

ONNXVIZ_FUZZ=1 tries more of them; `benchmarks/fuzz.py recipes` goes on for as long as it is told.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_commands
import pytest
from fuzz_commands import RUN_SECONDS, SECONDS, Said, call, kind_of, watch
from fuzz_recipes import Case, damaged_recipes, drawn_recipes, lay_out
from hypothesis import HealthCheck, given, seed, settings

from onnxviz.core.errors import RecipeError
from onnxviz.recipe.recipe import parse_recipe, read_recipe

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
MORE = bool(os.environ.get("ONNXVIZ_FUZZ"))
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example)


def examples(count: int) -> settings:
    return settings(max_examples=count * 40 if MORE else count, suppress_health_check=SLOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what recipes name, in which one stands; runs are in this process."""
    made = lay_out(tmp_path_factory.mktemp("recipes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("ONNXVIZ_WORKERS", "0")
        yield made


def bring(case: Case, folder: Path, command: str) -> Said:
    """Give a case to a command; no fault of ours, nothing written but the run folder of a run."""
    path, out = folder / "fuzzed.yaml", folder.with_name(f"{folder.name}-out")
    path.write_bytes(case.content)
    sets = [part for text in case.overrides for part in ("--set", text)]
    options = [] if command == "validate" else ["--device", "cpu", "--out", str(out)]
    running = command == "run"
    said = call([command, str(path), *sets, *options], out if running else None, RUN_SECONDS if running else SECONDS)
    assert not said.faults, "\n".join(said.faults)
    return said


# --- at random --------------------------------------------------------------------------------------------------------


@given(case=damaged_recipes())
@examples(100)
def test_damaged_recipes_are_planned_or_refused(folder: Path, case: Case) -> None:
    bring(case, folder, "plan")


@given(case=damaged_recipes())
@examples(50)
def test_damaged_recipes_are_valid_or_refused(folder: Path, case: Case) -> None:
    said = bring(case, folder, "validate")
    assert said.code in (0, 2)


def test_drawn_recipes_are_planned_or_refused(folder: Path) -> None:
    """Some must be sound and some must not be, or else nothing has been tried.

    What is drawn depends on all modules that are imported, and much of a round is variations of one recipe: there are
    further rounds, from other seeds, until there are enough of both.
    """
    codes: Counter[object] = Counter()
    for number in range(6):

        @seed(number)
        @given(case=drawn_recipes())
        @examples(120)
        def draw(case: Case) -> None:
            codes[bring(case, folder, "plan").code] += 1

        draw()
        if min(codes[0], codes[2]) > max(20, codes.total() / 12):
            return
    pytest.fail(f"hardly any recipe was sound, or hardly any was refused: {codes}")


@given(case=drawn_recipes(small=True))
@examples(6)
def test_drawn_recipes_run_or_are_refused(folder: Path, case: Case) -> None:
    bring(case, folder, "run")


@given(case=drawn_recipes())
@examples(60)
def test_a_lock_says_the_same(folder: Path, case: Case) -> None:
    """What is sound of a recipe, written down with its defaults and read again, is what it was."""
    path = folder / "locked.yaml"
    path.write_bytes(case.content)
    try:
        recipe = read_recipe(path)
    except RecipeError:
        return
    again = parse_recipe(recipe.lock(folder), "again.yaml", folder)
    for part in ("analyses", "models", "data", "expect", "seed", "title"):  # in words, for nan is not itself
        assert repr(getattr(again, part)).replace(f"{folder}/", "") == repr(getattr(recipe, part)), part


# --- what fuzzing has found -------------------------------------------------------------------------------------------

HEAD = "version: 1\nmodel: {builtin: scenes}\n"
WEIGHTS = "analyses: {w: {kind: weights}}\n"
MANY = "[" + ",".join(map(str, range(1, 1002))) + "]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}{WEIGHTS}matrix: {{w: {{limit: {MANY}}}}}", "1,001 entries of `analyses` are too many"),
        (f"{HEAD}{WEIGHTS}matrix: {{w: {{limit: {MANY}, input_channels: {MANY}}}}}", "1,002,001 entries"),
        (
            HEAD + "analyses: {a: {kind: weights}, b: {kind: weights}}\n"
            f"matrix: {{a: {{limit: {MANY.replace('1001]', '0]')[:-3]}]}}, b: {{limit: [1, 2, 3, 4]}}}}",
            "entries of `analyses` are too many",
        ),
        (HEAD + "analyses:\n" + "".join(f"  a{i}: {{kind: weights}}\n" for i in range(1001)), "too many"),
        ("version: 1\nmodels:\n" + "".join(f"  a{i}: {{builtin: scenes}}\n" for i in range(101)) + WEIGHTS, "101 entr"),
        (HEAD + "data:\n" + "".join(f"  a{i}: {{builtin: scenes}}\n" for i in range(101)) + WEIGHTS, "`data` are too"),
        (
            f"{HEAD}analyses: {{w: {{kind: weights, layers: [{'conv1, ' * 3000}]}}}}\n"
            f"matrix: {{w: {{limit: [{', '.join(map(str, range(1, 100)))}]}}}}",
            "more than 200,000 values",
        ),
        (
            f"{HEAD}defaults: {{weights: {{layers: [{'conv1, ' * 3000}]}}}}\nanalyses:\n"
            + "".join(f"  a{i}: {{kind: weights}}\n" for i in range(100)),
            "more than 200,000 values",
        ),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_recipe_is_refused_that_makes_too_much(folder: Path, text: str, said: str) -> None:
    """Analyses beyond the thousandth were left out in silence; 9 kB could ask for 60,000, a megabyte for gigabytes."""
    found = bring(Case(text.encode()), folder, "validate")
    assert (found.code, found.text.count("fuzzed.yaml:")) == (2, 1)
    assert said in found.text
    assert found.seconds < 5


def test_a_thousand_analyses_are_allowed(folder: Path) -> None:
    text = HEAD + WEIGHTS + f"matrix: {{w: {{limit: {MANY.replace(',1001]', ']')}}}}}"
    (folder / "thousand.yaml").write_text(text)
    assert len(read_recipe(folder / "thousand.yaml").analyses) == 1000


def test_of_very_many_faults_the_first_are_told(folder: Path) -> None:
    text = HEAD + WEIGHTS + "".join(f"k{number}: 1\n" for number in range(1500))
    said = bring(Case(text.encode()), folder, "validate").text
    assert said.count("unknown key") == 1000
    assert "and 500 more faults" in said


def test_extending_a_link_that_leads_to_itself(folder: Path) -> None:
    said = bring(Case(b"extends: loop.yaml\nversion: 1\n"), folder, "plan")
    assert said.code == 2
    assert "loop.yaml" in said.text


@pytest.mark.parametrize("pattern", ["**", "*/" * 20 + "*.png"], ids=["any depth", "20 deep"])
def test_patterns_end(tmp_path: Path, pattern: str) -> None:
    """Links to folders above make a tree of all ways through them: three links, 20 levels, 3 billion folders."""
    for name in ("a", "b", "c"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "r.yaml").write_text(f"{HEAD}{WEIGHTS}data: {{p: {{images: '{pattern}'}}}}\n")
    assert not call(["validate", str(tmp_path / "r.yaml")], None, 3.0).faults


# --- the watch itself -------------------------------------------------------------------------------------------------


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (spin, "more than 0.5 s"),
        (lambda: {}["key"], "KeyError came out"),
        (lambda: sys.exit(70), "exit 70"),
        (lambda: print("Traceback (most recent call last):"), "a traceback"),
        (lambda: print("\x1b[31mred"), "control characters"),
        (lambda: bytearray(1 << 30).count(1), "memory: 1"),
        (lambda: bytearray(1 << 40), "MemoryError came out"),
        (lambda: Path("elsewhere").write_text("x"), "writes "),
        (lambda: Path("elsewhere").mkdir(), "writes "),
        (lambda: Path("elsewhere").unlink(missing_ok=True), "writes "),
        (lambda: os.close(os.open("relative", os.O_CREAT | os.O_WRONLY)), "writes "),
        (lambda: os.system("true"), "os.system"),
    ],
    ids=range(12),
)
def test_harm_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[], object], fault: str) -> None:
    """A watch that sees nothing is none: harm that is done on purpose is reported."""
    monkeypatch.chdir(tmp_path)
    said = watch(lambda: harm() and None, ["onnxviz"], tmp_path / "else", 0.5 if harm is spin else SECONDS)
    assert any(item.startswith(fault) for item in said.faults), said


def test_the_run_folder_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path / "own")

    def write() -> None:
        (tmp_path / "out" / "deep").mkdir(parents=True)
        (tmp_path / "out" / "deep" / "file").write_text("x")
        shutil.rmtree(tmp_path / "out" / "deep")

    assert not watch(write, ["onnxviz"], tmp_path / "out", SECONDS).faults
    assert watch(lambda: shutil.rmtree(tmp_path / "out"), ["onnxviz"], tmp_path / "out2", SECONDS).faults


def test_findings_of_one_fault_have_one_kind() -> None:
    trace = 'x\n  File "/a/onnxviz/recipe/recipe.py", line 7, in build\nKeyError: 3'
    first, second = (f"exit 70 {fuzz_commands._frames(trace)}: {word}\n{trace}" for word in ("this", "that"))
    assert kind_of(first) == kind_of(second) == "exit 70 [KeyError onnxviz/recipe/recipe.py:7 build]"
    assert kind_of(f"run: KeyError: 3\n{trace}") == "run: KeyError: N [KeyError onnxviz/recipe/recipe.py:7 build]"
