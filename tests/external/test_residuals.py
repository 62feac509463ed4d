"""def_host_vjp(residuals=True): an object of the host function reaches its derivative, and is let go."""

import concurrent.futures
import gc
import multiprocessing
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import simulators
from helpers import devices, error_of
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import callbax as cb
from callbax._runtime import failures, residuals

N = 3
RANDOM = np.random.default_rng(0)
MATRICES = (RANDOM.normal(size=(8, N, N)) + 4 * np.eye(N)).astype(np.float32)
RIGHTS = RANDOM.normal(size=(8, N)).astype(np.float32)


class Factors:
    """Stands for a factorisation; it knows the matrices that it was made from."""

    def __init__(self, matrix):
        self.matrix = np.array(matrix)


class Solver:
    """`solve(matrix, right)`, and what became of its calls and objects.

    Attributes:
      calls: "f" for each forward call, "b" for each backward call.
      most: how many objects were alive at once.
    """

    def __init__(self, **options):
        self.calls, self.most, self._objects = "", 0, []
        self._lock = threading.Lock()
        options = {"signature": "(n,n),(n)->(n)", "dtype": np.float32, **options}
        self.external = cb.external(self._forward, **options)
        self.external.def_host_vjp(residuals=True)(self._backward)

    def _forward(self, matrix, right, out=None):
        factors = Factors(matrix)
        result = np.linalg.solve(factors.matrix, np.asarray(right)[..., None])[..., 0]
        with self._lock:
            self.calls += "f"
            self._objects.append(weakref.ref(factors))
            self.most = max(self.most, self.alive)
        if out is not None:
            out[...] = result
            result = out
        return result, factors

    def _backward(self, primals, outputs, cotangents, factors):
        with self._lock:
            self.calls += "b"
        np.testing.assert_array_equal(factors.matrix, primals[0])
        transposed = np.swapaxes(factors.matrix, -1, -2)
        of_right = np.linalg.solve(transposed, cotangents[..., None])[..., 0]
        return -of_right[..., :, None] * outputs[..., None, :], of_right

    def __call__(self, matrix, right):
        return self.external(matrix, right)

    @property
    def alive(self):
        return sum(ref() is not None for ref in self._objects)

    @property
    def counts(self):
        calls, self.calls = self.calls, ""
        return calls.count("f"), calls.count("b")


def in_jax(matrix, right):
    return jnp.linalg.solve(matrix, right[..., None])[..., 0]


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def loss(solve):
    return lambda matrix, right: (solve(matrix, right) ** 2).sum()


def gradient(solve):
    return jax.grad(loss(solve), (0, 1))


def steps(solve, body=lambda f: f, loop=jax.lax.scan):
    """Four solves, each of what the one before gave."""

    def function(matrix, right):
        if loop is jax.lax.fori_loop:
            return loop(0, 4, lambda _, x: body(solve)(matrix, x), right)
        return loop(lambda x, _: (body(solve)(matrix, x), None), right, length=4)[0]

    return function


def conditional(solve):
    return lambda matrix, right: jax.lax.cond(
        right[0] > -100, solve, lambda matrix, right: right, matrix, right
    )


def twice_in_program(solve):
    def function(matrix, right):
        result, pull_back = jax.vjp(solve, matrix, right)
        return pull_back(result), pull_back(2 * result)

    return function


# (program of a solver, its arguments, forward and backward calls)
PROGRAMS = {
    "call": (lambda f: f, (MATRICES[0], RIGHTS[0]), (1, 0)),
    "grad": (gradient, (MATRICES[0], RIGHTS[0]), (1, 1)),
    "value_and_grad": (lambda f: jax.value_and_grad(loss(f)), (MATRICES[0], RIGHTS[0]), (1, 1)),
    "vmap": (lambda f: jax.vmap(gradient(f)), (MATRICES, RIGHTS), (8, 8)),
    "grad of batch": (gradient, (MATRICES, RIGHTS), (8, 8)),
    "vmap, shared matrix": (
        lambda f: jax.vmap(gradient(f), (None, 0)),
        (MATRICES[0], RIGHTS),
        (8, 8),
    ),
    "nested vmap": (
        lambda f: jax.vmap(jax.vmap(gradient(f))),
        (MATRICES.reshape(2, 4, N, N), RIGHTS.reshape(2, 4, N)),
        (8, 8),
    ),
    "jacrev": (lambda f: jax.jacrev(f, (0, 1)), (MATRICES[0], RIGHTS[0]), (1, N)),
    "vmap of jacrev": (lambda f: jax.vmap(jax.jacrev(f)), (MATRICES, RIGHTS), (8, 8 * N)),
    "scan": (lambda f: gradient(steps(f)), (MATRICES[0], RIGHTS[0]), (4, 4)),
    "fori_loop": (
        lambda f: gradient(steps(f, loop=jax.lax.fori_loop)),
        (MATRICES[0], RIGHTS[0]),
        (4, 4),
    ),
    "vmap of scan": (
        lambda f: jax.vmap(gradient(steps(f))),
        (MATRICES[:2], RIGHTS[:2]),
        (8, 8),
    ),
    "checkpoint": (
        lambda f: gradient(jax.checkpoint(lambda m, b: jnp.sin(f(m, b)))),
        (MATRICES[0], RIGHTS[0]),
        (2, 1),
    ),
    "scan of checkpoint": (
        lambda f: gradient(steps(f, jax.checkpoint)),
        (MATRICES[0], RIGHTS[0]),
        (8, 4),
    ),
    "cond": (lambda f: gradient(conditional(f)), (MATRICES[0], RIGHTS[0]), (1, 1)),
    "vmap of cond": (lambda f: jax.vmap(gradient(conditional(f))), (MATRICES, RIGHTS), (8, 8)),
    "jvp": (
        lambda f: lambda m, b: jax.jvp(f, (m, b), (m, b)),
        (MATRICES[0], RIGHTS[0]),
        (1, N),
    ),
    "pull back twice": (twice_in_program, (MATRICES[0], RIGHTS[0]), (1, 2)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_objects_reach_the_derivative_and_are_let_go(name):
    program, arguments, counts = PROGRAMS[name]
    solver = Solver()
    run = jax.jit(program(solver))
    expected = jax.jit(program(in_jax))(*arguments)
    for _ in range(2):
        assert_close(run(*arguments), expected)
        gc.collect()
        assert (solver.counts, solver.alive) == (counts, 0)
    assert residuals.count() == 0


@pytest.mark.parametrize("name", ["grad", "vmap", "scan", "jacrev"])
def test_without_jit(name):
    program, arguments, _ = PROGRAMS[name]
    solver = Solver()
    assert_close(program(solver)(*arguments), program(in_jax)(*arguments))
    gc.collect()
    assert solver.alive == residuals.count() == 0


METHODS = {
    "threads": ({"vmap_method": "threads"}, (8, 8)),
    "expand_dims": ({"vmap_method": "expand_dims"}, (1, 1)),
    "broadcast_all": ({"vmap_method": "broadcast_all"}, (1, 1)),
    "out": ({"out": True}, (8, 8)),
    "out, at once": ({"out": True, "vmap_method": "expand_dims"}, (1, 1)),
    "zero_copy": ({"zero_copy": True}, (8, 8)),
    "jax": ({"arrays": "jax"}, (8, 8)),
    "jax, threads": ({"arrays": "jax", "vmap_method": "threads"}, (8, 8)),
    "name": ({"name": "tests.residuals.solve"}, (8, 8)),
}


@pytest.mark.parametrize("method", METHODS)
def test_options_of_external_functions(method):
    options, counts = METHODS[method]
    solver = Solver(**options)
    assert_close(solver(MATRICES, RIGHTS), in_jax(MATRICES, RIGHTS))
    solver.counts  # noqa: B018 - from here on
    batch = jax.jit(jax.vmap(gradient(solver)))
    assert_close(batch(MATRICES, RIGHTS), gradient(in_jax)(MATRICES, RIGHTS))
    gc.collect()
    assert (solver.counts, solver.alive) == (counts, 0)


def test_threads_of_an_executor():
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        solver = Solver(executor=executor)
        batch = jax.jit(jax.vmap(gradient(solver)))
        assert_close(batch(MATRICES, RIGHTS), gradient(in_jax)(MATRICES, RIGHTS))
        assert solver.counts == (8, 8)


def test_other_processes_compute_the_object_again():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        f = cb.external(simulators.sine_and_object, result=cb.like(0), executor=executor)
        f.def_host_vjp(simulators.sine_vjp, residuals=True)
        x = np.arange(3, dtype=np.float32)
        np.testing.assert_allclose(jax.vmap(jax.grad(f))(x), np.cos(x), rtol=1e-6)


@pytest.mark.parametrize("method", ["sequential", "expand_dims", "broadcast_all", "threads"])
def test_live_lanes_only(method):
    mask = np.arange(8) % 3 != 0

    def masked(f):
        def of_lane(live, matrix, right):
            result = f(live, matrix, right)
            return (result**2).sum()

        return jax.vmap(jax.grad(of_lane, (1, 2)))

    solver = Solver(vmap_method=method)
    found = jax.jit(masked(solver.external.call_where))(mask, MATRICES, RIGHTS)
    reference = masked(lambda live, m, b: jnp.where(live, in_jax(m, b), 0))
    assert_close(found, reference(mask, MATRICES, RIGHTS))
    live = 1 if method in ("expand_dims", "broadcast_all") else mask.sum()
    assert solver.counts == (live, live)


# -- how long objects live -------------------------------------------------------------------------
@pytest.mark.parametrize("jitted", [False, True])
def test_an_object_lives_as_long_as_its_pull_back(jitted):
    solver = Solver()
    function = jax.jit(solver) if jitted else solver
    result, pull_back = jax.vjp(function, MATRICES[0], RIGHTS[0])
    _, expected = jax.vjp(in_jax, MATRICES[0], RIGHTS[0])
    for scale in (1, 2):
        assert_close(pull_back(scale * result), expected(scale * result))
    gc.collect()
    assert (solver.counts, solver.alive) == ((1, 2), 1)
    many = jnp.stack([result, 2 * result])
    assert_close(jax.vmap(pull_back)(many), jax.vmap(expected)(many))
    assert solver.counts == (0, 2)
    del pull_back
    gc.collect()
    assert solver.alive == residuals.count() == 0


def test_pull_backs_in_any_order():
    solver = Solver()
    made = [jax.vjp(jax.jit(solver), m, b) for m, b in zip(MATRICES, RIGHTS, strict=True)]
    for i in (5, 0, 7, 0, 3):
        _, expected = jax.vjp(in_jax, MATRICES[i], RIGHTS[i])
        assert_close(made[i][1](RIGHTS[0]), expected(RIGHTS[0]))
    assert (solver.counts, solver.alive) == ((8, 5), 8)
    del made
    gc.collect()
    assert solver.alive == 0


def test_a_loop_of_checkpoints_holds_few_objects():
    solver = Solver()
    plain, checkpointed = (gradient(steps(solver, body)) for body in (lambda f: f, jax.checkpoint))
    jax.jit(plain)(MATRICES[0], RIGHTS[0])
    assert solver.most == 4
    solver.most = 0
    jax.jit(checkpointed)(MATRICES[0], RIGHTS[0])
    assert solver.most <= 2


def test_a_checkpoints_first_pass_keeps_nothing():
    solver = Solver()
    function = jax.jit(jax.checkpoint(lambda m, b: jnp.sin(solver(m, b))))
    _, pull_back = jax.vjp(function, MATRICES[0], RIGHTS[0])
    gc.collect()
    assert solver.alive == 0
    pull_back(RIGHTS[0])
    assert solver.counts == (2, 1)


@pytest.mark.parametrize("fails", ["forward", "backward", "after"])
def test_nothing_is_kept_after_a_failure(fails):
    made = []

    def forward(x):
        if fails == "forward":
            raise ValueError("forward")
        made.append(Factors(x))
        return x, made[-1]

    def backward(primals, outputs, cotangents, factors):
        if fails == "backward":
            raise ValueError("backward")
        return (cotangents,)

    def after(x):
        raise ValueError("after")

    f = cb.external(forward, result=cb.like(0))
    f.def_host_vjp(backward, residuals=True)

    @jax.jit
    def program(x):
        slope = jax.grad(f)(x)
        return cb.pure_callback(after, x, slope) if fails == "after" else slope

    with pytest.raises(Exception, match=fails):
        program(1.0).block_until_ready()
    assert residuals.count() == 0
    alive = [weakref.ref(item) for item in made]
    made.clear()
    failures.forget_all()
    gc.collect()
    if fails != "backward":  # else the traceback, which pytest's log has, refers to it
        assert [ref() for ref in alive] == [None] * len(alive)


def test_threads_that_run_programs_at_once():
    solver = Solver()
    program = jax.jit(jax.vmap(gradient(solver)))
    expected = [gradient(in_jax)(MATRICES, k * RIGHTS) for k in range(3)]
    errors = []

    def work(k):
        try:
            for _ in range(10):
                assert_close(program(MATRICES, k * RIGHTS), expected[k])
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert errors == []
    assert (solver.counts, solver.alive, residuals.count()) == ((240, 240), 0, 0)


def test_no_leak_over_many_programs_and_pull_backs():
    solver = Solver()
    grad = jax.jit(gradient(solver))
    for i in range(200):
        grad(MATRICES[i % 8], RIGHTS[i % 8])
        _, pull_back = jax.vjp(jax.jit(solver), MATRICES[0], RIGHTS[0])
        if i % 2:
            pull_back(RIGHTS[0])
    del pull_back
    gc.collect()
    assert solver.alive == residuals.count() == 0
    assert not residuals._used


# -- keys that mean nothing here, or something else ------------------------------------------------
@pytest.mark.parametrize("method", ["sequential", "expand_dims"])
@pytest.mark.parametrize("change", ["other marks", "zeros", "reversed", "part"])
def test_an_object_that_is_not_of_these_arguments_is_never_used(method, change):
    """The rule itself checks that its object was made from its primals."""
    solver = Solver(vmap_method=method)
    result, pull_back = jax.vjp(solver, MATRICES, RIGHTS)
    expected, pull_back_in_jax = jax.vjp(in_jax, MATRICES, RIGHTS)

    def changed(leaf):
        if change in ("reversed", "part"):
            return leaf[::-1] if change == "reversed" else jnp.flip(leaf[:8], 0)
        if leaf.dtype == residuals.KEY.dtype:
            return leaf + jnp.uint32(12345) if change == "other marks" else 0 * leaf
        return leaf

    other = jax.tree.map(changed, pull_back)
    if change in ("reversed", "part"):
        found = other(result[::-1])
        assert_close(found, [leaf[::-1] for leaf in pull_back_in_jax(expected)])
    else:
        assert_close(other(result), pull_back_in_jax(expected))


def test_lanes_with_one_key_that_is_gone_compute_its_object_once():
    solver = Solver()
    result, pull_back = jax.vjp(solver, MATRICES[0], RIGHTS[0])
    other = jnp.array([12345, 0, 0, 0, 0], residuals.KEY.dtype)
    gone = jax.tree.map(lambda x: x + other if x.dtype == other.dtype else x, pull_back)
    del pull_back
    assert solver.counts == (1, 0)
    jax.vmap(gone)(jnp.stack([result] * 5))
    gc.collect()
    assert (solver.counts, solver.alive) == ((1, 5), 0)


# -- several devices -------------------------------------------------------------------------------
def test_several_devices():
    mesh = Mesh(np.array(devices(8)), ("i",))
    expected = gradient(in_jax)(MATRICES, RIGHTS)

    def by_shard_map(function, jit=jax.jit):
        return jit(jax.shard_map(function, mesh=mesh, in_specs=P("i"), out_specs=P("i")))

    solver = Solver()
    programs = {
        "inside": by_shard_map(jax.vmap(gradient(solver))),
        "outside": jax.jit(gradient(by_shard_map(jax.vmap(solver)))),
        "pull back": gradient(by_shard_map(jax.vmap(solver))),
    }
    for name, program in programs.items():
        assert_close(program(MATRICES, RIGHTS), expected)
        gc.collect()
        assert (name, solver.counts, solver.alive) == (name, (8, 8), 0)
    if hasattr(jax, "pmap"):
        assert_close(jax.pmap(gradient(solver))(MATRICES, RIGHTS), expected)
        assert (solver.counts, solver.alive) == ((8, 8), 0)
    eager = gradient(by_shard_map(jax.vmap(solver), jit=lambda f: f))
    assert_close(eager(MATRICES, RIGHTS), expected)  # maybe with objects that are made again
    assert residuals.count() == 0


@pytest.mark.parametrize("per_shard", [False, True])
def test_programs_that_are_distributed_automatically(per_shard):
    mesh = Mesh(np.array(devices(8)), ("i",))
    solver = Solver(per_shard=per_shard)
    arguments = jax.device_put((MATRICES, RIGHTS), NamedSharding(mesh, P("i")))
    for program in (jax.jit(gradient(solver)), gradient(jax.jit(solver))):
        assert_close(program(*arguments), gradient(in_jax)(MATRICES, RIGHTS))
        gc.collect()
        forward, backward = solver.counts
        assert (forward, solver.alive) == (backward, 0)  # no object was made again


# -- what is refused, and what else the function takes part in -------------------------------------
@pytest.mark.parametrize("value", [1.0, (1.0,), [1.0, None]])
def test_what_is_not_a_pair_is_refused(value):
    f = cb.external(lambda x: value, result=cb.like(0))
    f.def_host_vjp(lambda *_: None, residuals=True)
    error = error_of(f, 1.0)
    assert isinstance(error, cb.CallbackResultError)
    assert "must return the tuple (result, object), as its def_host_vjp has residuals" in str(error)


def test_elementwise_functions_per_shard_are_refused():
    f = cb.external(np.sin, result="broadcast", per_shard=True)
    with pytest.raises(ValueError, match=r"residuals=True is not for elementwise.*signature="):
        f.def_host_vjp(lambda *_: None, residuals=True)


def test_results_are_checked_and_inferred_without_the_object():
    f = cb.external(lambda x: ({"a": 2 * x, "b": x.sum()}, "object"), result=cb.infer)

    @f.def_host_vjp(residuals=True)
    def rule(primals, outputs, cotangents, kept):
        assert kept == "object" and outputs["a"].shape == cotangents["a"].shape
        return (2 * cotangents["a"] + cotangents["b"],)

    x = jnp.arange(3.0)
    np.testing.assert_array_equal(jax.grad(lambda x: f(x)["a"].sum() + f(x)["b"])(x), [3, 3, 3])
    cb.check(f, x, raise_on_failure=True)


def test_with_a_host_jvp_and_with_a_rule_for_vmap():
    solver = Solver()
    f = solver.external
    f.def_host_jvp(
        lambda primals, tangents: np.linalg.solve(
            primals[0], tangents[1] - tangents[0] @ np.linalg.solve(*primals)
        )
    )
    arguments = (MATRICES[0], RIGHTS[0])
    assert_close(jax.jacfwd(f, (0, 1))(*arguments), jax.jacfwd(in_jax, (0, 1))(*arguments))
    assert_close(gradient(f)(*arguments), gradient(in_jax)(*arguments))
    f.def_vmap(lambda size, batched, m, b: (in_jax(m, b), True))
    found = jax.vmap(gradient(f))(MATRICES, RIGHTS)
    assert_close(found, jax.vmap(gradient(in_jax))(MATRICES, RIGHTS))
    with pytest.raises(ValueError, match="first order"):
        jax.hessian(loss(f))(*arguments)
