"""Stored results: whole or not there, the same bytes for the same content, damage noticed, one run at a time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz.core.errors import OutputError
from onnxviz.core.findings import Array, Finding, Metric, Note, Picture, Tile, TileGrid, pictures
from onnxviz.execution.store import (
    LOCK,
    MANY_RESULTS,
    Checked,
    DamagedError,
    Store,
    cannot_write,
    canonical,
    check_folder,
    encode_arrays,
    encode_picture,
    key_of,
    locked,
    plain_name,
    write_bytes,
)

KEY = "0" * 32


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def findings() -> list[Finding]:
    tile = Tile(
        "x", pictures=(Picture(pixels(), alt="a"), Picture(pixels(1), format="jpeg")), curve=(0.1, float("nan"))
    )
    numbers = {"a": np.arange(4, dtype=np.float32), "b": np.eye(2)}
    return [Metric("m", 0.1), TileGrid("grid", "Grid", (tile,)), Array("../up", "Numbers", numbers), Note("n")]


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.load(KEY) is None
    store.save(KEY, findings(), {"job": "x"})
    assert store.has(KEY)
    metric, grid, array, note = store.load(KEY, arrays=True) or ()
    assert metric == Metric("m", 0.1)
    assert note == Note("n")
    first, second = pictures(grid)
    assert (first.path, first.width, first.height, first.alt) == (f"jobs/{KEY}/0000.png", 7, 5, "a")
    with Image.open(tmp_path / first.path) as image:
        assert np.array_equal(np.asarray(image), pixels())
        assert not image.info
    with Image.open(tmp_path / second.path) as image:
        assert image.format == "JPEG"
    assert isinstance(array, Array)
    assert array.arrays["a"].dtype == np.float32
    assert np.array_equal(array.arrays["b"], np.eye(2))
    assert (tmp_path / array.path).parent == tmp_path / "jobs" / KEY
    unread = (store.load(KEY) or ())[2]
    assert isinstance(unread, Array)
    assert not unread.arrays


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Store(tmp_path / name).save(KEY, findings(), {"job": "x"})
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "jobs" / KEY).iterdir()} for name in ("a", "b")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


def test_encodings_are_deterministic_and_exact() -> None:
    picture = Picture(pixels())
    assert encode_picture(picture) == encode_picture(picture)
    data = encode_arrays({"b": np.ones(3), "a": np.zeros(2)})
    assert data == encode_arrays({"a": np.zeros(2), "b": np.ones(3)})
    with pytest.raises(TypeError, match="Python objects"):
        encode_arrays({"a": np.array([{}], dtype=object)})


@pytest.mark.parametrize(
    "damage",
    ["truncated", "no picture", "other picture", "other number", "other job", "not its own", "not json", "no record"],
)
def test_damage_is_noticed_and_can_be_discarded(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    store.save(KEY, findings(), {"job": "x"})
    folder = tmp_path / "jobs" / KEY
    record = folder / "findings.jsonl"
    if damage == "truncated":
        record.write_bytes(record.read_bytes()[:-40])
    elif damage == "no picture":
        (folder / "0000.png").unlink()
    elif damage == "other picture":
        (folder / "0000.png").write_bytes((folder / "0001.jpg").read_bytes())
    elif damage == "other number":
        record.write_text(record.read_text().replace("0.1", "0.2", 1))
    elif damage == "other job":
        record.write_text(record.read_text().replace('"job":"x"', '"job":"y"', 1))
    elif damage == "not its own":
        store.save("1" * 32, findings(), {"job": "x"})
        record.write_bytes((tmp_path / "jobs" / ("1" * 32) / record.name).read_bytes())
    elif damage == "not json":
        record.write_text("[" * 100_000)
    else:
        record.unlink()
    with pytest.raises(DamagedError, match=KEY):
        store.load(KEY)
    store.discard(KEY)
    assert store.load(KEY) is None


def test_two_workers_may_store_the_same_result_at_once(tmp_path: Path) -> None:
    """Two names of one model have jobs with the same keys."""
    store = Store(tmp_path)

    def save(_: int) -> list[Finding] | None:
        store.save(KEY, findings(), {"job": "x"})
        return store.load(KEY)

    with ThreadPoolExecutor(8) as workers:
        assert all(found and found[0] == Metric("m", 0.1) for found in workers.map(save, range(60)))
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [KEY]


def test_a_damaged_result_is_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(KEY, findings(), {"job": "x"})
    (tmp_path / "jobs" / KEY / "0000.png").write_bytes(b"")
    store.save(KEY, findings(), {"job": "x"})
    store.require(KEY)
    store.discard(KEY)
    store.discard(KEY)  # gone is gone


def test_a_record_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(KEY, [Note("x")], {})
    record = tmp_path / "jobs" / KEY / "findings.jsonl"
    (tmp_path / "secret.png").write_bytes(b"x")
    head, body = (json.loads(line) for line in record.read_bytes().splitlines())

    def forge() -> None:
        written = canonical(body)
        forged = {**head, "digest": hashlib.sha256(KEY.encode() + b"\n{}\n" + written).hexdigest()}
        record.write_bytes(canonical(forged) + b"\n" + written + b"\n")

    body["findings"] = [{"type": "TileGrid", "id": "g", "title": "", "tiles": [
        {"type": "Tile", "title": "t", "pictures": [{"type": "Picture", "path": "../secret.png"}]}]}]  # fmt: skip
    forge()
    with pytest.raises(DamagedError, match="none of the store's"):
        store.load(KEY)
    body["findings"], body["files"] = [], {"../../secret.png": hashlib.sha256(b"x").hexdigest()}
    forge()
    with pytest.raises(DamagedError, match="outside"):
        store.load(KEY)


def test_a_killed_writer_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: the result is not there, and the leftovers go with the next run."""
    script = (
        "import os, signal, sys, numpy as np\n"
        "from pathlib import Path\n"
        "from onnxviz.execution import store as cache\n"
        "from onnxviz.core.findings import *\n"
        "opened, calls = Path.open, []\n"
        "def dying(path, *mode):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3: os._exit(9)\n"
        "    return opened(path, *mode)\n"
        "Path.open = dying\n"
        "tiles = tuple(Tile('x', pictures=(Picture(np.zeros((4, 4, 3), np.uint8)),)) for _ in range(4))\n"
        f"cache.Store(Path(sys.argv[1])).save('{KEY}', [TileGrid('g', 'G', tiles)], {{}})\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 9
    store = Store(tmp_path)
    assert list(store.jobs.iterdir())
    assert not store.has(KEY)
    assert store.load(KEY) is None
    store.clean()
    assert not list(store.jobs.iterdir())


def test_keys_depend_on_content_only() -> None:
    assert key_of({"a": 1, "b": [1.5, None]}) == key_of({"b": [1.5, None], "a": 1})
    assert len({key_of({"a": value}) for value in (1, 1.5, "1", [1], None, True, float("nan"))}) == 7
    with pytest.raises(TypeError):
        key_of({"a": object()})


def test_names_are_fit_for_every_disk() -> None:
    assert plain_name("../a b/c:ü") == "a-b-c"
    assert plain_name("///") == "unnamed"
    assert len(plain_name("x" * 500)) == 60


def test_files_are_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    write_bytes(path, b"1")
    write_bytes(path, b"2")
    assert path.read_bytes() == b"2"
    assert [item.name for item in path.parent.iterdir()] == ["f"]
    with pytest.raises(OutputError, match="cannot be written"):
        write_bytes(path / "below", b"")


def test_folders_of_others_are_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="no run folder"), locked(tmp_path):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(OutputError, match="is a file"):
        check_folder(tmp_path / "thesis.tex")
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        assert (tmp_path / "empty" / LOCK).is_file()
    with locked(tmp_path / "empty"):
        pass


def test_two_runs_exclude_each_other(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom onnxviz.execution.store import locked\n"
        "from onnxviz.core.errors import OutputError\n"
        "try:\n    with locked(Path(sys.argv[1])): print('free')\nexcept OutputError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with locked(tmp_path):
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"process {os.getpid()}" in told
        assert "is writing to this folder" in told
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "free\n"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "run"):
            pass
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "f" / "run"):
        pass


@pytest.mark.parametrize("count", [2, MANY_RESULTS + 1])
def test_of_many_results_those_that_look_as_before_are_not_read_again(tmp_path: Path, count: int) -> None:
    store = Store(tmp_path)
    store.save(KEY, findings(), {})
    first = Checked(store, count)
    first.require(KEY)
    first.write()
    picture = tmp_path / "jobs" / KEY / "0000.png"
    content, status = bytearray(picture.read_bytes()), picture.stat()
    content[-1] ^= 1
    picture.write_bytes(content)
    with pytest.raises(DamagedError):  # the time of change is another
        Checked(store, count).require(KEY)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    if count > MANY_RESULTS:
        Checked(store, count).require(KEY)  # the known limit
    else:
        with pytest.raises(DamagedError):
            Checked(store, count).require(KEY)
    Checked(store, count).forget()


def test_a_file_beyond_the_limit_names_the_limit(tmp_path: Path) -> None:
    assert "--file-size" in str(cannot_write(tmp_path, OSError(errno.EFBIG, "File too large")))
    assert "--out" in str(cannot_write(tmp_path, OSError(errno.ENOSPC, "No space left on device")))
