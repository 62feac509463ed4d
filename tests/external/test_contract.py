"""One contract on every route: what a host function gets, may do and must return.

The table RULES says what holds; each row is tried on each route of ROUTES, as `external` calls the
function and as `call_where` does, and by `check`. The documentation has the same table.
"""

import contextlib
import dataclasses
import logging
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import contract_functions as functions
import jax
import loky
import numpy as np
import pytest

import callbax as cb

LANES = 4
x = np.arange(LANES, dtype=np.float32)[:, None] + np.float32([0, 0.25, 0.5])
w = np.float32([10, 20, 30])
mask = np.array([True, False, True, True])
vector = jax.ShapeDtypeStruct((3,), np.float32)
pair = {"sum": vector, "difference": vector}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A function with options, and what comes of it.

    Attributes:
      value: the result for all lanes; or a pattern of the error.
      raises: the class of the exception that `original_exception` gives.
      kept: the error is that a view was kept; routes that copy have none.
      checked: what cb.check finds; "" for nothing, None for what `value` says.
    """

    function: Any
    value: Any = dataclasses.field(default_factory=lambda: x + w)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    raises: type[Exception] | None = None
    kept: bool = False
    checked: str | None = None
    static: tuple[Any, ...] = ()
    named: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self):
        return "-".join([self.function.__name__, *(key for key in self.options if key != "result")])


def refused(function, pattern, error=cb.CallbackError, **options):
    return Rule(function, re.escape(pattern), options, raises=error)


views, out = {"zero_copy": True}, {"out": True}
RULES = [
    # Results.
    Rule(functions.add),
    Rule(functions.small_integers, (x + w).astype(int).astype(np.float32)),
    Rule(functions.half_precision),
    Rule(functions.sum_and_difference, {"sum": x + w, "difference": x - w}, {"result": pair}),
    Rule(
        functions.static_and_named,
        (x - w) * 2,
        static=("subtract",),
        named={"scale": np.float32(2), "names": ("a", "b")},
    ),
    refused(functions.wrong_shape, "Incorrect output shape"),
    refused(functions.wrong_dtype, "Expected: float32, Actual: complex64"),
    refused(functions.nothing, "Mismatched number of outputs"),
    refused(functions.no_numbers, "which is not an array of numbers"),
    refused(functions.sum_and_difference, "Mismatched number of outputs"),
    refused(functions.other_keys, "Mismatched structure of the result", result=pair),
    refused(functions.fails_at_two, "no twos", functions.Unlucky),
    # Arguments are the function's own.
    Rule(functions.writes_to_arguments, checked="it wrote to x"),
    Rule(functions.keeps_arguments),
    Rule(functions.returns_an_argument, x),
    Rule(functions.returns_a_view, x[:, ::-1]),
    Rule(functions.is_given_jax_arrays, options={"arrays": "jax"}),
    Rule(functions.takes_dlpack, options={"arrays": "dlpack"}),
    # With zero_copy they are not.
    Rule(functions.add, options=views),
    Rule(functions.returns_an_argument, x, views),
    Rule(functions.returns_a_view, x[:, ::-1], views),
    refused(functions.writes_to_the_first, "read-only", ValueError, **views),
    refused(functions.writes_to_the_second, "read-only", ValueError, **views),
    Rule(
        functions.keeps_a_view,
        options=views,
        raises=cb.CallbackViewError,
        kept=True,
        checked="",
    ),
    # Results are written in place.
    Rule(functions.fills, options=out),
    Rule(functions.fills_and_returns, options=out),
    Rule(functions.fills, options=out | views),
    refused(functions.forgets_out, "it returned another object", **out),
    refused(functions.returns_a_view_of_out, "it returned another object", **out),
    # Effects change nothing about it.
    Rule(functions.add, options={"effects": "io"}),
    refused(functions.wrong_shape, "Incorrect output shape", effects="io"),
]


@dataclasses.dataclass(frozen=True)
class Route:
    """A way on which calls reach the host function.

    Attributes:
      method: the vmap_method.
      executor: the name of a fixture.
      masked: the function is called by call_where.
      batched: by vmap.
    """

    method: str | None = None
    executor: str | None = None
    masked: bool = False
    batched: bool = True

    def __str__(self):
        name = self.executor or self.method or "single"
        return f"{name}-masked" if self.masked else name

    @property
    def copies(self):
        """Whether arguments are copies even with zero_copy, which may be kept."""
        return self.executor is not None or (self.masked and self.method == "broadcast_all")

    @property
    def lane_by_lane(self):
        return self.batched and self.method not in ("expand_dims", "broadcast_all")

    def options(self, request):
        if self.executor:
            return {"executor": request.getfixturevalue(self.executor)}
        return {"vmap_method": self.method}

    def lanes(self, value):
        """What this route gives where `value` is the result of all lanes."""
        if not self.batched:
            return jax.tree.map(lambda a: a[2], value)
        if not self.masked:
            return value
        return jax.tree.map(lambda a: np.where(mask[:, None], a, np.float32(-1)), value)

    def call(self, f, static, named):
        """One call of the route, with lanes of `x` and one `w`."""

        def one(mask, x, w):
            if self.masked:
                return f.call_where(mask, *static, x, w, otherwise=-1, **named)
            return f(*static, x, w, **named)

        if not self.batched:
            return jax.jit(one)(True, x[2], w)
        return jax.jit(jax.vmap(one, (0, 0, None)))(mask, x, w)


METHODS = ["sequential", "sequential_unrolled", "expand_dims", "broadcast_all", "threads"]
EXECUTORS = ["thread_pool", "process_pool", "loky_pool", "dask_pool"]
ROUTES = [
    Route(method, executor, masked, batched)
    for masked in (False, True)
    for method, executor, batched in [
        (None, None, False),
        *((method, None, True) for method in METHODS),
        *((None, executor, True) for executor in EXECUTORS),
    ]
]


@pytest.fixture(scope="module")
def thread_pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def process_pool():
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="module")
def loky_pool():
    executor = loky.ProcessPoolExecutor(1)
    yield executor
    executor.shutdown()


@pytest.fixture(scope="module")
def dask_pool():
    distributed = pytest.importorskip("dask.distributed")
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client.get_executor()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(logging.CRITICAL + 1, "callbax")


def external_of(rule, options):
    return cb.external(rule.function, **{"result": vector, **rule.options, **options})


@contextlib.contextmanager
def failing_with(error, pattern=""):
    with pytest.raises((jax.errors.JaxRuntimeError, ValueError)) as caught:
        yield caught
    original = cb.original_exception(caught.value)
    assert type(original).__name__ == error.__name__ or isinstance(original, error)
    assert re.search(pattern, str(caught.value)), str(caught.value)


pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.sampled(20),
]


@pytest.mark.parametrize("route", ROUTES, ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_external(rule, route, request):
    f = external_of(rule, route.options(request))
    call = lambda: jax.block_until_ready(route.call(f, rule.static, rule.named))  # noqa: E731
    if rule.raises is None or (rule.kept and route.copies):
        for _ in range(2):
            actual = call()
            jax.tree.map(np.testing.assert_array_equal, actual, route.lanes(rule.value))
        return
    with failing_with(rule.raises, "" if rule.kept else rule.value) as caught:
        call()
    if route.lane_by_lane and rule.function is functions.fails_at_two:
        assert "in lane 2 of a batch of 4" in str(caught.value)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_check(rule):
    f = external_of(rule, {})
    report = cb.check(f, *rule.static, x[2], w, **rule.named, print_table=False)
    expected = rule.checked
    if expected is None:
        expected = "" if rule.raises is None else rule.value
    if not expected:
        assert report.findings[0].ok, report
        return
    assert re.search(expected, report.failures[0].detail), report


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.masked], ids=str)
def test_rows_that_some_lanes_share_are_each_lanes_own(route, request):
    for function in (functions.writes_to_arguments, functions.keeps_arguments):
        f = cb.external(function, result=vector, **route.options(request))
        over = jax.vmap(jax.vmap(f, (0, None)), (None, 0))
        ws = np.stack([w, 2 * w])
        np.testing.assert_array_equal(jax.jit(over)(x, ws), x + ws[:, None])


@pytest.mark.parametrize("route", [route for route in ROUTES if route.batched], ids=str)
@pytest.mark.parametrize("size", [0, 1])
def test_batches_of_one_lane_and_of_none(size, route, request):
    f = external_of(Rule(functions.writes_to_arguments), route.options(request))
    call = f.call_where if route.masked else lambda mask, *args: f(*args)
    actual = jax.jit(jax.vmap(call, (0, 0, None)))(mask[:size], x[:size], w)
    np.testing.assert_array_equal(actual, (x + w)[:size])


@pytest.mark.parametrize("batched", [False, True], ids=["single", "vmap"])
def test_ufunc(batched):
    # A compiled loop has no options; batches and results are the same.
    f = cb.ufunc(np.add)
    actual = jax.jit(jax.vmap(f, (0, None)))(x, w) if batched else jax.jit(f)(x[2], w)
    np.testing.assert_array_equal(actual, x + w if batched else x[2] + w)
