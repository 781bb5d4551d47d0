"""Fuzzing for as long as one likes, guided by the coverage of this package's Python code (atheris, libFuzzer).

    python -m benchmarks.fuzz models  --seconds 600 --out FOLDER [--zoo FOLDER]
    python -m benchmarks.fuzz recipes --seconds 600 --out FOLDER

`models`: changed models (`tests/fuzz_models.py`) through `open_model`, and every few through `to_torch` and a run.
`recipes`: changed and drawn recipes (`tests/fuzz_recipes.py`) through `onnxviz plan`, and every few through
`onnxviz run`. Whatever is found is written to FOLDER/findings with what reproduces it; the fuzzer goes on, and is
started again where a process has died. Needs the extra `fuzz`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

SILENCE = 240.0
"""Seconds by the clock without a new execution, after which a process hangs."""
MEMORY = 6_144
"""MiB of resident memory at which libFuzzer ends a process; each finding of its own is far below (`hostile_child`)."""
_STATUS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+)(?: corp: (\d+))?", re.MULTILINE)


@dataclass
class Session:
    """What became of one process of the fuzzer.

    Attributes:
        executions: how many inputs were tried.
        coverage: places of the package's code reached, when the seeds had been read and at the end.
        corpus: inputs that reached something new.
        seconds: by the clock.
        died: how it ended, where it did by itself.
    """

    executions: int = 0
    coverage: tuple[int, int] = (0, 0)
    corpus: int = 0
    seconds: float = 0.0
    died: str = ""


@dataclass
class Recorder:
    """Writes findings to a folder, each kind once with its reproducer, and counts them.

    Attributes:
        folder: where.
        ending: of reproducers' file names.
        seen: how often each kind was met, those of earlier processes included.
    """

    folder: Path
    ending: str
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        (self.folder / "findings").mkdir(parents=True, exist_ok=True)

    def note(self, fault: str, content: bytes, extra: str = "") -> None:
        """Write down a finding."""
        from fuzz_commands import kind_of

        kind = kind_of(fault)
        self.seen[kind] += 1
        stem = self.folder / "findings" / hashlib.sha256(kind.encode()).hexdigest()[:12]
        entry = {"kind": kind, "fault": fault[:4000], "extra": extra, "file": stem.name + self.ending}
        if not stem.with_suffix(".json").exists():
            stem.with_suffix(self.ending).write_bytes(content)
            stem.with_suffix(".json").write_text(json.dumps(entry, indent=1))
        with (self.folder / "met.txt").open("a") as stream:
            stream.write(json.dumps(kind) + "\n")


# --- the process that fuzzes ------------------------------------------------------------------------------------------


def _libfuzzer(out: Path, seconds: float, seed: int, timeout: int, most_bytes: int) -> list[str]:
    return [
        "fuzz", str(out / "corpus"), f"-max_total_time={max(1, int(seconds))}", f"-max_len={most_bytes}",
        f"-rss_limit_mb={MEMORY}", f"-timeout={timeout}", f"-artifact_prefix={out / 'findings'}/", f"-seed={seed}",
        "-print_final_stats=1", "-reload=0", "-len_control=0",
    ]  # fmt: skip


def fuzz_models(out: Path, seconds: float, seed: int, every: int) -> None:
    """Let libFuzzer change models; never returns."""
    import atheris

    with atheris.instrument_imports(include=["onnxviz"]):
        import onnxviz  # instrumented here, before anything else loads it
        import onnxviz.cli.commands
        import onnxviz.execution.inspection
        import onnxviz.model.model  # noqa: F401
    import hostile_child
    from fuzz_models import MOST_BYTES, ModelMutator

    hostile_child.warm()
    recorder, mutator = Recorder(out, ".onnx"), ModelMutator()
    corpus = sorted((out / "corpus").iterdir())
    counts: Counter[str] = Counter()
    current = out / "current"

    def attack(content: bytes) -> None:
        current.write_bytes(content)
        counts["tried"] += 1
        outcome = hostile_child.attack("model", current, ["open"])
        counts["opened"] += (opened := not outcome.said.get("open", "x"))
        for fault in outcome.faults:
            recorder.note(fault, content)
        if opened and counts["opened"] % every == 0:
            outcome = hostile_child.attack("model", current, ["torch"])
            counts["converted"] += outcome.said.get("torch") == ""
            counts["ran"] += outcome.said.get("run") == ""
            for fault in outcome.faults:
                recorder.note(fault, content)
        if counts["tried"] % 100 == 0:
            (out / f"counts-{os.getpid()}.json").write_text(json.dumps(counts))

    def change(content: bytes, most: int, number: int) -> bytes:
        generator = random.Random(number)
        if generator.random() < 0.15:
            return bytes(atheris.Mutate(content, most))
        other = generator.choice(corpus).read_bytes() if corpus else b""
        return mutator.mutate(content, generator, other)[:most]

    atheris.Setup(_libfuzzer(out, seconds, seed, 120, MOST_BYTES), attack, custom_mutator=change)
    atheris.Fuzz()


def fuzz_recipes(out: Path, seconds: float, seed: int, every: int) -> None:
    """Let libFuzzer choose what hypothesis draws; never returns."""
    import atheris

    os.environ["ONNXVIZ_WORKERS"] = "0"
    with atheris.instrument_imports(include=["onnxviz"]):
        import onnxviz
        import onnxviz.cli.commands  # noqa: F401
    import fuzz_recipes as made
    from fuzz_commands import RUN_SECONDS, SECONDS, call
    from hypothesis import HealthCheck, given, settings

    recorder = Recorder(out, ".yaml")
    folder = out / f"folder-{os.getpid()}"
    folder.mkdir()
    made.lay_out(folder)
    os.chdir(folder)
    counts: Counter[str] = Counter()

    def bring(case: Any, command: str) -> None:
        (folder / "fuzzed.yaml").write_bytes(case.content)
        (out / "current").write_bytes(case.content)
        counts["tried"] += 1
        sets = [part for text in case.overrides for part in ("--set", text)]
        place = folder.with_name(folder.name + "-out")
        given_ = [command, str(folder / "fuzzed.yaml"), *sets, "--device", "cpu", "--out", str(place)]
        said = call(given_, place if command == "run" else None, RUN_SECONDS if command == "run" else SECONDS)
        counts[f"{command}: exit {said.code}"] += 1
        for fault in said.faults:
            recorder.note(fault, case.content, " ".join(given_))
        shutil.rmtree(place, ignore_errors=True)
        if counts["tried"] % 50 == 0:
            (out / f"counts-{os.getpid()}.json").write_text(json.dumps(counts))

    quiet = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))

    @quiet
    @given(made.damaged_recipes() | made.drawn_recipes())
    def planned(case: Any) -> None:
        bring(case, "plan")

    @quiet
    @given(made.drawn_recipes(small=True))
    def ran(case: Any) -> None:
        bring(case, "run")

    def attack(content: bytes) -> None:
        counts["drawn"] += 1
        chosen = ran if every and counts["drawn"] % every == 0 else planned
        chosen.hypothesis.fuzz_one_input(content)
        os.utime(out)

    # No alarm of libFuzzer's: the commands are bounded by alarms of their own.
    atheris.Setup(_libfuzzer(out, seconds, seed, 0, 8192), attack)
    atheris.Fuzz()


# --- the process that looks on ----------------------------------------------------------------------------------------


def watch(arguments: argparse.Namespace, seconds: float, seed: int) -> Session:
    """Start a process that fuzzes and follow it to its end."""
    out: Path = arguments.out
    command = [
        sys.executable, "-m", "benchmarks.fuzz", arguments.what, "--child", "--out", str(out), "--seed", str(seed),
        "--seconds", str(int(seconds)), "--every", str(arguments.every),
    ]  # fmt: skip
    found, start = Session(), time.monotonic()
    log = out / f"log-{seed}.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            time.sleep(1)
            touched = max((path.stat().st_mtime for path in (out / "current", out, log) if path.exists()), default=0)
            if time.time() - touched > SILENCE:
                process.kill()
                found.died = f"hangs: nothing for {SILENCE:g} s"
    found.seconds = time.monotonic() - start
    text = log.read_text(errors="replace")
    lines = [(int(n), what, int(cov), int(corpus or 0)) for n, what, cov, _, corpus in _STATUS.findall(text)]
    if lines:
        first = next((line for line in lines if line[1] == "INITED"), lines[0])
        found.executions = lines[-1][0]
        found.coverage = (first[2], max(line[2] for line in lines))
        found.corpus = lines[-1][3]
    if process.returncode and not found.died:
        said = re.findall(r"(?:ERROR|SUMMARY): (.*)", text)
        found.died = f"exit {process.returncode}: {said[0] if said else text[-300:]}"
    return found


def seed_corpus(arguments: argparse.Namespace) -> int:
    """Write what to start from, unless there is a corpus."""
    corpus = arguments.out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    if arguments.what == "recipes":
        generator = random.Random(arguments.seed)
        for index in range(64):  # what hypothesis draws with is bytes without a form of their own
            (corpus / f"seed-{index}").write_bytes(generator.randbytes(generator.choice((64, 256, 1024, 4096))))
        return 64
    import tiny_models
    from fuzz_models import MOST_BYTES, seeds

    from benchmarks.backend_tests import node_tests

    # Large bombs take seconds each, and would be read again whenever a process has died.
    models = {name: content for name, content in seeds().items() if len(content) < 2_000}
    models |= seeds(arguments.zoo, quick=True)
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.save_model(path := Path(folder) / "m.onnx")
        models["tiny"] = path.read_bytes()
    operators: Counter[str] = Counter()
    for test in node_tests():
        operators[test.model.graph.node[0].op_type] += 1
        if operators[test.model.graph.node[0].op_type] <= 2:
            models[test.name] = test.model.SerializeToString()
    written = 0
    for content in models.values():
        if len(content) <= MOST_BYTES:
            (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
            written += 1
    return written


def report(arguments: argparse.Namespace, sessions: list[Session]) -> None:
    """Print the counts, and what was found."""
    out: Path = arguments.out
    executions, seconds = sum(item.executions for item in sessions), sum(item.seconds for item in sessions)
    print(
        f"{arguments.what}: {executions:,} executions in {seconds:,.0f} s, {executions / max(seconds, 1):.1f}/s, "
        f"{len(sessions)} process(es)"
    )
    for item in sessions:
        print(
            f"  {item.executions:>8,} executions, coverage {item.coverage[0]:,} -> {item.coverage[1]:,}, corpus "
            f"{item.corpus:,}, {item.seconds:,.0f} s{'; ' + item.died if item.died else ''}"
        )
    total: Counter[str] = Counter()
    for path in out.glob("counts-*.json"):
        total.update(json.loads(path.read_text()))
    print("  " + ", ".join(f"{name} {count:,}" for name, count in sorted(total.items())))
    met = (
        Counter(map(json.loads, (out / "met.txt").read_text().splitlines()))
        if (out / "met.txt").exists()
        else Counter()
    )
    print(f"{len(met)} kind(s) of findings")
    files = {
        entry["kind"]: entry["file"]
        for entry in (json.loads(path.read_text()) for path in (out / "findings").glob("*.json"))
    }
    for kind, count in met.most_common():
        print(f"| {count:>6} | {kind} | {files.get(kind, '')} |")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("models", "recipes"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument(
        "--out", type=Path, required=True, help="findings, corpus and logs; a corpus there is gone on with"
    )
    parser.add_argument(
        "--zoo", type=Path, default=None, help="a folder with onnx/*.onnx, small ones of which are seeds"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--every", type=int, default=None, help="of so many one is converted and run; 0: none (recipes)"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()
    if arguments.every is None:
        arguments.every = 3 if arguments.what == "models" else 50
    if arguments.child:
        kinds: dict[str, Callable[[Path, float, int, int], None]] = {"models": fuzz_models, "recipes": fuzz_recipes}
        kinds[arguments.what](arguments.out, arguments.seconds, arguments.seed, arguments.every)
        return
    print(f"{seed_corpus(arguments)} seeds")
    Recorder(arguments.out, "")
    sessions: list[Session] = []
    end = time.monotonic() + arguments.seconds
    while (left := end - time.monotonic()) > 5 or not sessions:
        sessions.append(watch(arguments, left, arguments.seed + len(sessions)))
        if sessions[-1].executions == 0:
            sys.exit(f"nothing was tried; see the logs in {arguments.out}")
    report(arguments, sessions)


if __name__ == "__main__":
    main()
