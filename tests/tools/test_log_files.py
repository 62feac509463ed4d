"""Files and databases of a log: odd names and numbers, several logs for one file, files that go."""

import csv
import json
import os
import sqlite3
import threading

import jax
import numpy as np
import pytest

from callbax import tools

ODD = ["a,b", 'q"q', "n\nl", "r\rr", "r\r\nn", "%s%d%", "", " s ", "'", "ü☃", "z[0]", '"', "step "]
TEXT = '100% "x",\n y\r\nz\rend'


def read(path):
    """The rows of any of the three, without what is empty."""
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute("SELECT * FROM log")]
        connection.close()
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


@pytest.fixture(params=["csv", "jsonl", "sqlite"])
def path(tmp_path, request):
    return tmp_path / f"metrics.{request.param}"


def test_odd_names_and_texts(path):
    metrics = {name: number for number, name in enumerate(ODD)}
    for step in range(2):
        with tools.Log(path) as log:
            log(step, **metrics, text=TEXT)
            log(step, **{f"new {step}": 1}, text=TEXT)
    first, new, second, newer = read(path)
    for step, row in enumerate((first, second)):
        assert row.pop("text") == TEXT
        assert {name: int(value) for name, value in row.items()} == metrics | {"step": step}
    assert new.pop("text") == newer.pop("text") == TEXT
    assert [list(new), list(newer)] == [["step", "new 0"], ["step", "new 1"]]


def test_a_link_stays_one(path):
    real = path.with_name(f"real{path.suffix}")
    path.symlink_to(real)
    for step, name in enumerate("ab"):
        with tools.Log(path) as log:
            log(step, **{name: 1})
    assert path.is_symlink()
    assert [list(row) for row in read(real)] == [["step", "a"], ["step", "b"]]


def test_half_of_a_surrogate_pair(path):
    for step in range(2):
        with tools.Log(path) as log:
            log(step, **{"\ud800": 1}, file=os.fsdecode(b"a\xff"))
    rows = [{name: str(value) for name, value in row.items()} for row in read(path)]
    assert rows == [{"step": str(i), "\\ud800": "1", "file": "a\\udcff"} for i in range(2)]


def test_a_text_may_be_longer_than_a_field_that_pythons_csv_reads(tmp_path):
    path = tmp_path / "metrics.csv"
    with tools.Log(path) as log:
        log(0, text="x" * 200_000)
        log.flush()
        log(1, y=1)
    header, first, second = path.read_text().splitlines()
    assert (header, len(first), second) == ("step,text,y", 200_003, "1,,1")


def test_the_largest_numbers(path):
    with jax.enable_x64(True), tools.Log(path) as log:
        log(0, unsigned=np.uint64(2**64 - 1), signed=np.int64(-(2**63)))
    [row] = read(path)
    assert int(row["unsigned"]) == 2**64 - 1 and int(row["signed"]) == -(2**63)


def test_names_that_sqlite_does_not_tell_apart(tmp_path):
    log = tools.Log(tmp_path / "metrics.sqlite")
    log(0, loss=1, Loss=2)
    with pytest.raises(
        tools.LogError, match="to SQLite the columns 'Loss' and 'loss' are the same"
    ):
        log.flush()
    assert log.discard() == [{"step": 0, "loss": 1, "Loss": 2}]
    log(1, loss=3, LOSÜ=4, losü=5)
    log.close()
    assert read(tmp_path / "metrics.sqlite") == [{"step": 1, "loss": 3, "LOSÜ": 4, "losü": 5}]


def test_several_logs_may_write_to_one(path):
    first, second = tools.Log(path), tools.Log(path)
    first(0, x=1)
    first.flush()
    second(1, y=2)
    second.flush()
    first(2, x=3)
    first.flush()
    second(3, z=4)
    second.flush()
    first(4, x=5, z=6)
    first.close()
    second.close()
    assert [{name: int(value) for name, value in row.items()} for row in read(path)] == [
        {"step": 0, "x": 1},
        {"step": 1, "y": 2},
        {"step": 2, "x": 3},
        {"step": 3, "z": 4},
        {"step": 4, "x": 5, "z": 6},
    ]


def test_several_logs_may_write_to_one_at_the_same_time(path):
    logs = [tools.Log(path) for _ in range(3)]

    def fill(log):
        number = logs.index(log)
        for step in range(40):
            log(step, **{f"of {number}": step, f"{step // 10} of {number}": step})
            log.flush()
        log.close()

    threads = [threading.Thread(target=fill, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = read(path)
    for number in range(3):
        own = [row for row in rows if f"of {number}" in row]
        assert [int(row["step"]) for row in own] == list(range(40))
        assert all(
            int(row[f"{int(row['step']) // 10} of {number}"]) == int(row["step"]) for row in own
        )
    assert len(rows) == 120


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_file_that_is_moved_away_or_emptied_begins_anew(tmp_path, ending):
    path = tmp_path / f"metrics.{ending}"
    with tools.Log(path) as log:
        log(0, x=1)
        log.flush()
        path.rename(tmp_path / f"old.{ending}")
        log(1, x=2)
        log.flush()
        assert [int(row["step"]) for row in read(path)] == [1]
        os.truncate(path, 0)
        log(2, x=3)
    assert [int(row["step"]) for row in read(path)] == [2]
    assert [int(row["step"]) for row in read(tmp_path / f"old.{ending}")] == [0]


def test_a_full_disk_says_so(path):
    os.symlink("/dev/full", path)
    log = tools.Log(path)
    log(0, x=1)
    with pytest.raises(tools.LogError, match="No space left on device|disk is full"):
        log.flush()
    assert log.discard() == [{"step": 0, "x": 1}]
    log.close()


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xff\xfe")
    log = tools.Log(path)
    log(0, x=1)
    with pytest.raises(tools.LogError, match="another first column than 'step'"):
        log.flush()
    log.discard()
    log.close()
    assert path.read_bytes() == b"\xff\xfe"
