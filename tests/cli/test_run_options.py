"""The options of `run` and `demo`: what they mean, what is refused, and what other programs and CI are told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import fill
from worker_runs import PATIENCE

from onnxviz.cli.run_options import RunOptions, limits_of
from onnxviz.core.errors import SelectionError
from onnxviz.execution.folder import read_run
from onnxviz.execution.workers.limits import default_limits
from tests.cli.test_cli import TEXT, call

EXPECT = """\
expect:
  - {metric: filters.dead_fraction, max: 1}
  - {metric: evidence.blank_fraction, min: 2, because: nothing is that blank}
  - {metric: evidence.blank_fraction, min: 2, level: warn}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path)
    (tmp_path / "r.yaml").write_text(TEXT)
    (tmp_path / "b.yaml").write_text(TEXT.split("expect:")[0] + EXPECT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


RUN = ("run", "r.yaml", "--device", "cpu", "--no-open")


# --- limits ---------------------------------------------------------------------------------------------------------


def test_limits_are_the_machines_with_the_given_ones_replaced() -> None:
    assert limits_of(RunOptions(workers=2)) is None
    given = RunOptions(workers=2, device="cpu", memory="2GiB", job_time="90", file_size="none", network=True)
    found = limits_of(given)
    assert found is not None
    assert (found.memory, found.seconds, found.file_bytes, found.network) == (2 << 30, 90.0, None, True)
    assert (found.processes, found.confine) == (0, True)
    found = limits_of(RunOptions(workers=3, device="cpu", confine=False, processes=1))
    assert found is not None
    assert (found.memory, found.seconds) == (default_limits(3).memory, default_limits(3).seconds)
    assert (found.processes, found.confine) == (1, False)


def test_a_limit_that_nobody_would_keep_is_refused() -> None:
    with pytest.raises(SelectionError, match="--memory and --no-network: with 0 workers"):
        limits_of(RunOptions(workers=0, memory="1GiB", network=False))
    assert limits_of(RunOptions(workers=0, memory="none", network=True)) is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "4GX"), "'4GX' is no size; write bytes, or a number with a unit such as 8GiB"),
        (("--memory", "0"), "--memory: nothing works with 0 bytes"),
        (("--file-size", "big"), "--file-size: 'big' is no size"),
        (("--job-time", "soon"), "--job-time: 'soon' is no time"),
        (("--job-time", "nan"), "--job-time: 'nan' is no time"),
        (("--workers", "two"), "--workers"),
        (("--workers", "-1"), "--workers"),
        (("--engine", "rya"), "'ray'"),
        (("--only", "filtres"), "--only: no analysis is called 'filtres'\n  did you mean 'filters'?"),
        (("--force", "filtres"), "--force: no analysis is called 'filtres'\n  did you mean 'filters'?"),
        (("--only", "filters", "--set", "filters.layrs=x"), "did you mean 'layers'?"),
        (("-q", "-v"), "--quiet and --verbose"),
        (("--dry-run", "--check"), "nothing runs with --dry-run"),
        (("--dry-run", "--job-time", "soon"), "--job-time: 'soon' is no time"),
        (("--check", "--set", "expect=[]"), "the recipe has no `expect:`"),
        (("--check", "--only", "evidence"), "--only leaves out all 1 expectation"),
        (
            ("--check", "--set", "expect=[{metric: filters.dead_fraction, max: 1, level: off}]"),
            "all expectations are of level off",
        ),
        (("--events", "r.yaml"), "--events r.yaml: exists already and is something else"),
        (("--events", "runs/r/e.jsonl"), "lies in the run folder"),
        (("--log-file", "m.onnx"), "--log-file m.onnx: exists already and is something else"),
        (("--log-file", "photos"), "--log-file photos: is a folder"),
        (("--log-file", "r.yaml/x"), "--log-file r.yaml/x: cannot be written"),
        (("--events", "new", "--log-file", "new"), "are the same file"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setenv("ONNXVIZ_WORKERS", "1")  # or limits would be refused for another reason
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert call(monkeypatch, *RUN, *arguments) == 2
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "new"}
    assert after == before


# --- what runs ------------------------------------------------------------------------------------------------------


def test_only_force_and_dry_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN, "--only", "evidence", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "3 jobs, 0 done before" in said
    assert "filters" not in said
    assert call(monkeypatch, *RUN, "--only", "evidence") == 0
    assert "finished; nothing was tested" in capsys.readouterr().out
    assert call(monkeypatch, *RUN) == 0
    said = capsys.readouterr().out
    assert "[4/5] 3 jobs and 1 comparison with ONNX Runtime were done before" in said
    assert "done   filters/" in said
    assert "done   evidence/" not in said
    assert call(monkeypatch, *RUN, "--force", "evidence", "--dry-run") == 0
    assert "4 jobs, 1 done before" in capsys.readouterr().out
    assert call(monkeypatch, *RUN, "--force", "evidence") == 0
    assert capsys.readouterr().out.count("done   evidence/") == 3


def test_a_run_of_one_analysis_keeps_the_others_in_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reported() -> list[str]:
        run = read_run(folder / "runs" / "r")
        assert run.recipe == (folder / "runs/r/recipe.lock.yaml").read_text()
        return [analysis.id for analysis in run.analyses if analysis.parts[0].findings and analysis.id in run.recipe]

    assert call(monkeypatch, *RUN, "--only", "filters") == 0
    assert "left out, as --only says: evidence" in capsys.readouterr().out
    assert reported() == ["filters"]
    assert call(monkeypatch, *RUN) == 0
    tables = sorted((folder / "runs/r/tables").iterdir())
    capsys.readouterr()
    assert call(monkeypatch, *RUN, "--only", "filters", "--force", "filters") == 0
    said = capsys.readouterr().out
    assert "kept in the report as before: evidence" in said
    assert "done   evidence/" not in said
    assert reported() == ["filters", "evidence"], "in the order of the recipe"
    assert sorted((folder / "runs/r/tables").iterdir()) == tables
    # What is not done as the recipe is now cannot stay: the run says so, also where it is short.
    other = ("--set", "evidence.classes=top:2")
    assert call(monkeypatch, *RUN, *other, "--only", "filters", "--check") == 0
    lost = "no longer in the report, because not done as the recipe is now; a run without --only does it: evidence"
    assert lost in capsys.readouterr().out
    assert reported() == ["filters"]
    assert lost in read_run(folder / "runs" / "r").provenance.events
    assert call(monkeypatch, *RUN) == 0
    assert "done   evidence/" not in capsys.readouterr().out, "its results were kept"


def test_what_the_report_keeps_does_not_decide_the_exit_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("run", "b.yaml", "--device", "cpu", "--no-open")
    assert call(monkeypatch, *run) == 1
    assert call(monkeypatch, *run, "--only", "filters") == 0
    kept = read_run(folder / "runs" / "b")
    assert [analysis.id for analysis in kept.analyses] == ["filters", "evidence"]
    assert kept.verdict == "failed", "the report still tells of both"
    assert call(monkeypatch, *run, "--only", "evidence") == 1


def test_stop_on_failure(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from onnxviz.analyses.weights.analysis import Weights

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Weights, "run", broken)
    assert call(monkeypatch, *RUN, "--stop-on-failure") == 3
    said = capsys.readouterr().out
    assert "FAILED filters/" in said
    assert "3 jobs were not begun, because another failed" in said
    assert call(monkeypatch, *RUN) == 3
    assert capsys.readouterr().out.count("done   evidence/") == 3


def test_quiet_says_what_went_wrong_on_standard_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "run", "b.yaml", "--device", "cpu", "--no-open", "-q") == 1
    said = capsys.readouterr()
    assert said.out == f"{Path('runs/b/report/index.html')}\n"
    assert said.err.count("BROKEN") == 1
    assert "holds" not in said.err
    assert "warn" not in said.err


# --- check ----------------------------------------------------------------------------------------------------------


def test_check_is_short_and_says_it_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    check = ("run", "b.yaml", "--device", "cpu", "--no-open", "--check")
    assert call(monkeypatch, *check) == 1
    said = capsys.readouterr()
    lines = [" ".join(line.split()) for line in said.out.splitlines() if line.strip()]
    assert lines[0] == "metric value expected level"
    assert lines[2:] == [
        "holds filters.dead_fraction 0 ≤ 1 error",
        "BROKEN evidence.blank_fraction 0 ≥ 2 error",
        "nothing is that blank",
        "warn evidence.blank_fraction 0 ≥ 2 warn",
        f"FAILED: 1 of 3 expectations holds; {Path('runs/b/report/index.html')}",
    ]
    assert said.err == ""
    assert call(monkeypatch, *check, "--only", "filters") == 0
    said = capsys.readouterr()
    assert "2 expectations were left out, as --only says" in said.out
    assert "PASSED: 1 of 1 expectation holds" in said.out

    from onnxviz.analyses.weights.analysis import Weights

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Weights, "run", broken)
    assert call(monkeypatch, *check, "--force", "filters") == 3
    said = capsys.readouterr()
    assert "oops" in said.out
    assert "INCOMPLETE: 1 of 4 jobs failed; 0 of 3 expectations hold;" in said.out


def test_a_comparison_fails_where_one_of_the_runs_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN) == 0
    assert call(monkeypatch, *RUN, "-o", "runs/c") == 0
    assert call(monkeypatch, "run", "b.yaml", "--device", "cpu", "--no-open") == 1
    capsys.readouterr()
    assert call(monkeypatch, "compare", "runs/r", "runs/c", "-o", "rc", "--no-open") == 0
    assert call(monkeypatch, "compare", "runs/r", "runs/b", "-o", "rb", "--no-open") == 1
    assert "BROKEN" in capsys.readouterr().out
    assert Path("rb/report/index.html").is_file()

    from onnxviz.analyses.weights.analysis import Weights

    def broken(*_: object) -> list[object]:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Weights, "run", broken)
    assert call(monkeypatch, *RUN, "-o", "runs/i", "--set", "expect=[]") == 3
    assert call(monkeypatch, "compare", "runs/r", "runs/i", "-o", "ri", "--no-open") == 3
    assert call(monkeypatch, "compare", "runs/b", "runs/i", "-o", "bi", "--no-open") == 1


# --- logs and events ------------------------------------------------------------------------------------------------


def test_events_and_log_of_a_run_and_of_one_that_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ("--events", "out/e.jsonl", "--log-file", "out/log.txt")
    assert call(monkeypatch, *RUN, *told) == 0
    events = [json.loads(line) for line in Path("out/e.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events[:2]] == ["planned", "started"]
    finished = [event for event in events if event["event"] == "finished"]
    assert len(finished) == events[0]["jobs"] + events[0]["parity_checks"] == 5
    assert (events[-1]["event"], events[-1]["verdict"], events[-1]["exit_code"]) == ("verdict", "passed", 0)
    assert events[-1]["expectations"][0]["holds"] is True
    assert Path(events[-1]["report"]).is_file()
    own, other = Path("runs/r/log.txt").read_text(), Path("out/log.txt").read_text()
    assert own == other
    assert "evidence/1/3 0.png begins" in own
    assert call(monkeypatch, *RUN, *told, "--set", "model.path=none.onnx") == 2
    assert "none.onnx: no such file" in Path("out/log.txt").read_text().splitlines()[-1]
    (event,) = [json.loads(line) for line in Path("out/e.jsonl").read_text().splitlines()]
    assert (event["verdict"], event["exit_code"]) == ("refused", 2)
    assert "none.onnx: no such file" in event["error"]


def test_events_on_standard_output_leave_it_to_other_programs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *RUN, "--events", "-") == 0
    said = capsys.readouterr()
    assert [json.loads(line)["event"] for line in said.out.splitlines()][-1] == "verdict"
    assert "all expectations hold" in said.err
    assert said.err.rstrip().endswith(str(Path("runs/r/report/index.html")))


def test_a_worker_process_a_reader_that_goes_away_and_an_interruption(folder: Path) -> None:
    """As a user would: with a process that does the jobs, in a pipe, and with Ctrl-C."""
    command = [sys.executable, "-m", "onnxviz", *RUN, "--workers", "1", "--memory", "8GiB", "--events", "-"]
    short = ["--only", "filters"]  # needs no proof, which takes seconds
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, *short], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["event"] == "planned"
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(PATIENCE) == 0, said
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
    limits = dict(json.loads(Path("runs/r/run.json").read_text())["provenance"]["limits"])
    assert limits["memory"] == "8.0 GiB"

    start = TEXT.split("analyses:")[0]
    endless = "analyses:\n  c: {kind: activation_maximization, targets: [{layer: second, units: all}], steps: 100000}\n"
    Path("endless.yaml").write_text(start + endless)
    command = ["endless.yaml" if word == "r.yaml" else word for word in command]
    process = subprocess.Popen(
        [*command, "--out", "runs/new"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["event"] == "planned"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    events = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert events[-1]["verdict"] == "interrupted"
    said = process.stderr.read()
    assert "goes on where it was" in said
    assert "Traceback" not in said
    process.stdout.close()
    process.stderr.close()


def test_an_interruption_at_any_time_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for where, arguments in (
        ("onnxviz.recipe.recipe.read_recipe", RUN),
        ("onnxviz.execution.estimate.make_plan", ("plan", "r.yaml")),
        ("onnxviz.execution.workers.engine.make_plan", RUN),
        ("onnxviz.cli._main", RUN),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, interrupted)
            assert call(patch, *arguments) == 130
        said = capsys.readouterr().err.strip()
        assert said.startswith("interrupted")
        assert "\n" not in said
