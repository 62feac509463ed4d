"""The queue of a log's rows: their order, their numbers exactly, and as text."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from callbax import tools
from callbax.tools._log_queue import RowQueue
from callbax.tools._log_rows import Block, Columns

DTYPES = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f4 f8".split()


def queue_of(dtypes, rows):
    queue = RowQueue()
    call = queue.add_call(dtypes)
    for row in rows:
        queue.append(call, tuple(row))
    return queue


@given(st.data())
@settings(deadline=None)
def test_numbers_are_kept_and_written_exactly(data):
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4))
    columns = [data.draw(arrays.arrays(dtype, 5)) for dtype in dtypes]
    rows = [[column[k, ...] for column in columns] for k in range(5)]
    rows[3] = [element.reshape(1, 1) for element in rows[3]]  # a lane
    taken = queue_of(dtypes, rows).take()
    assert taken.packed
    assert len(taken) == 5
    assert repr(taken.tuples()) == repr([tuple(e.item() for e in row) for row in rows])
    assert taken.finite() == all(np.isfinite(column).all() for column in columns)

    names = tuple(map(str, range(len(dtypes))))
    made = Columns(names, tuple(map(np.dtype, dtypes)), (0,) * len(dtypes), ())
    order = data.draw(st.permutations(names))
    before = [f"{name}%s" for name in names]
    packed, plain = (Block(names, made.formats, (), r) for r in (taken, taken.tuples()))
    assert packed.lines(order, before, "%\n") == plain.lines(order, before, "%\n")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_and_smallest_numbers_can_be_read_back(dtype):
    kind = np.iinfo if dtype[0] in "iu" else np.finfo
    ends = [False, True] if dtype == "b1" else [kind(dtype).min, kind(dtype).max]
    if dtype[0] == "f":
        ends += [kind(dtype).smallest_subnormal, -0.0, 0.1, np.nan, -np.nan, np.inf, -np.inf]
    values = [np.array(end, dtype) for end in ends]
    lines = queue_of([dtype], [[value] for value in values]).take().lines([0], [""], "\n").split()
    if dtype == "b1":
        assert lines == ["False", "True"]
    else:
        read = [np.array(line, dtype) for line in lines]
        assert np.array_equal(read, values, equal_nan=True)
        assert list(map(np.signbit, read[:5])) == list(map(np.signbit, values[:5]))
    assert "-nan" not in lines


@pytest.mark.parametrize(
    "odd",
    [
        np.zeros(2, np.float32),
        np.zeros(0, np.float32),
        np.float64(1)[None],
        np.int32(1)[None],
        np.zeros((), ">f4"),
        2.0,
        None,
    ],
    ids=repr,
)
def test_what_is_not_the_number_that_was_said_is_kept_as_it_is(odd):
    queue = RowQueue()
    call = queue.add_call(["i4", "f4"])
    step, one = np.array(1, np.int32), np.array(2.5, np.float32)
    for metric in (one, odd, one):
        queue.append(call, (step, metric))
    numbers, others = queue.take(), queue.take()
    assert numbers.tuples() == [(1, 2.5)]
    assert not others.packed
    assert others.arrays()[0][1] is odd
    assert others.arrays()[1][1] is one
    assert queue.take() is None


@pytest.mark.parametrize("dtype", ["f2", "c8", "V2", "f16", "M8[s]", "", "x4"])
def test_calls_with_other_dtypes_are_kept_as_arrays(dtype):
    queue = queue_of(["i4", dtype], [[np.array(1, np.int32), np.array(1)]])
    assert not queue.take().packed


def test_wrong_columns_are_refused():
    rows = queue_of(["i4"], [[np.array(1, np.int32)]]).take()
    for columns, before in (([1], [""]), ([0], []), ([0, 0], [""])):
        with pytest.raises(ValueError, match="column"):
            rows.lines(columns, before, "")
    queue = RowQueue()
    with pytest.raises(IndexError):
        queue.append(0, ())
    assert len(queue) == 0


def test_the_order_of_several_calls_stays_whatever_is_dropped_and_put_back():
    chance = random.Random(0)
    queue = RowQueue()
    calls = [queue.add_call(dtypes) for dtypes in (["i8"], ["i8"], [])]
    expected, seen = [], []

    def values(rows):
        return [int(row[0]) for row in (rows.tuples() if rows.packed else rows.arrays())]

    for k in range(20_000):
        queue.append(chance.choice(calls), (np.array(k),))
        expected.append(k)
        for _ in range(chance.choice((1, 5000)) if chance.random() < 0.1 else 0):
            queue.append(calls[0], (np.array(k),))
            expected.append(k)
        match chance.randrange(40):
            case 0:
                count = chance.randrange(20)
                queue.drop(count)
                del expected[:count]
            case 1 if (rows := queue.take()) is not None:
                if chance.random() < 0.5:
                    queue.put_back(rows)
                else:
                    seen += values(rows)
                    assert seen == expected[: len(seen)]
                    del expected[: len(seen)]
                    seen.clear()
        assert len(queue) == len(expected)
    while (rows := queue.take()) is not None:
        seen += values(rows)
    assert seen == expected


def test_rows_of_several_programs_stay_in_order_and_in_their_columns(tmp_path):
    """Each call has other metrics, which the file may have in another order."""

    def step(x, i):
        jax.lax.switch(
            i % 4,
            [
                lambda: log(i, b=x),
                lambda: log(i, a=2 * x, b=x),
                lambda: log(i, c=x > 5, b=x, text="t"),
                lambda: log(i, a=jnp.stack([x, -x]), b=x),
            ],
        )
        return x + 1, None

    with tools.Log(tmp_path / "m.csv") as log:
        jax.jit(lambda: jax.lax.scan(step, 0.0, jnp.arange(40)))()
    header, *lines = [line.split(",") for line in (tmp_path / "m.csv").read_text().splitlines()]
    assert [int(line[0]) for line in lines] == list(range(40))
    for i, line in enumerate(lines):
        row = {name: value for name, value in zip(header, line, strict=True) if value}
        assert row.pop("step") == row.pop("b") == str(i)
        others = [
            {},
            {"a": str(2 * i)},
            {"c": str(i > 5), "text": "t"},
            {"a[0]": str(i), "a[1]": str(-i)},
        ]
        assert row == others[i % 4]
