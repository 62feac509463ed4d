"""Compiled loops in processes of their own: the GIL, XLA's pool, other processes, several devices."""

import textwrap

import pytest

SETUP = """
import scipy.special
jax.config.update("jax_enable_x64", True)
jv = cb.ufunc(scipy.special.jv)
x = np.linspace(0, 20, 200_001)
expected = scipy.special.jv(1, x)
"""


@pytest.fixture
def run(run_program):
    return lambda source, **options: run_program(SETUP + textwrap.dedent(source), **options)


def assert_printed(finished, *lines):
    """The program has ended well, and printed these lines. XLA may have logged others."""
    assert finished.returncode == 0, finished.output
    assert "Traceback" not in finished.output
    printed = finished.output.splitlines()
    assert [line for line in printed if line in lines] == list(lines), finished.output


@pytest.mark.full  # it takes seconds
def test_loops_run_while_another_thread_holds_the_gil(run):
    """The thread calls into C with the GIL held for seconds; nothing of the program needs it."""
    finished = run(
        """
        import ctypes
        program = jax.jit(lambda x: lax.scan(lambda c, _: (jv(1, c), None), x, length=10)[0])
        program = program.lower(x).compile()
        on_device = jax.device_put(x)
        program(on_device).block_until_ready()
        holder = threading.Thread(target=ctypes.PyDLL(None).sleep, args=(4,))
        done = []
        # The scan takes seconds too; it is dispatched, and then the GIL is gone.
        result = program(on_device)
        holder.start()
        holder.join()
        print(result.is_ready())
        """
    )
    assert_printed(finished, "True")


@pytest.mark.parametrize(
    "environment",
    [
        {"NPROC": "1"},
        {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
        {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"},
        {"NPROC": "7"},
    ],
    ids=str,
)
def test_pools_of_any_size_end(run, environment):
    finished = run(
        """
        heavy = jax.jit(lambda x, a: jv(1, x + 0 * (a @ a).sum()))
        results = [heavy(x, big) for _ in range(10)] + [jv(1, x)]
        print(all(np.array_equal(r, expected) for r in results))
        """,
        environment=environment,
    )
    assert_printed(finished, "True")


@pytest.mark.full  # a test of endurance
def test_many_threads_and_programs_at_once(run, full):
    finished = run(
        f"""
        times = {10 if full else 3}
        """
        """
        program = jax.jit(lambda x: jv(1, x))
        wrong = []
        barrier = threading.Barrier(8)
        def work():
            barrier.wait()
            for _ in range(times):
                if not np.array_equal(program(x), expected):
                    wrong.append(1)
        threads = [threading.Thread(target=work) for _ in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(wrong)
        """
    )
    assert_printed(finished, "[]")


def test_exported_programs_find_their_loops_in_another_process(run, run_program, tmp_path):
    path = tmp_path / "program"
    exported = run(
        f"""
        from jax import export
        jv = cb.ufunc(scipy.special.jv, derivatives=[None, lambda v, z: (jv(v-1, z) - jv(v+1, z)) / 2])
        check = export.DisabledSafetyCheck.custom_call("callbax_loop")
        shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, 3"), jnp.float64)
        matmul = cb.ufunc(np.matmul)
        f = lambda z: (jv(1, z), jax.grad(lambda z: jv(1, z).sum())(z), matmul(z, jnp.ones((3, 2))))
        text = export.export(jax.jit(f), disabled_checks=[check], platforms=("cpu", "cuda"))(shape)
        open({str(path)!r}, "wb").write(text.serialize())
        """
    )
    assert exported.returncode == 0, exported.output
    finished = run_program(
        f"""
        from jax import export
        jax.config.update("jax_enable_x64", True)
        assert "scipy.special" not in sys.modules
        z = np.arange(6.0).reshape(2, 3)
        program = export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
        try:
            program.call(z)
        except jax.errors.JaxRuntimeError as error:
            assert "`import scipy.special` before it runs; for a ufunc that" in str(error), error
        assert "scipy.special" not in sys.modules
        import scipy.special
        values, gradient, products = program.call(z)
        print(np.array_equal(values, scipy.special.jv(1, z)))
        print(np.allclose(gradient, scipy.special.jvp(1, z)))
        print(np.array_equal(products, z @ np.ones((3, 2))))
        """
    )
    assert_printed(finished, "True", "True", "True")


def test_a_loop_that_is_not_there_is_named(run_program, tmp_path):
    path = tmp_path / "program"
    run_program(
        f"""
        import numba
        from jax import export
        f = cb.ufunc(numba.vectorize(["float32(float32)"])(lambda x: x + 1))
        check = export.DisabledSafetyCheck.custom_call("callbax_loop")
        text = export.export(jax.jit(f), disabled_checks=[check])(np.float32(1)).serialize()
        open({str(path)!r}, "wb").write(text)
        """
    )
    finished = run_program(
        f"""
        from jax import export
        program = export.deserialize(bytearray(open({str(path)!r}, "rb").read()))
        try:
            program.call(np.float32(1))
        except jax.errors.JaxRuntimeError as error:
            print(error)
        """
    )
    expected = "NOT_FOUND: callbax: this program calls the compiled function <lambda> (f->f), which"
    assert finished.output.startswith(expected)


def test_the_persistent_cache_is_hit(run, tmp_path):
    program = f"""
        jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        hits = []
        jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
        print(np.array_equal(jax.jit(lambda x: jv(1, x))(x), expected), end=" ")
        print(hits.count("/jax/compilation_cache/cache_hits"))
        """
    assert_printed(run(program), "True 0")
    assert_printed(run(program), "True 1")


def test_several_devices_each_compute_their_own_part(run):
    finished = run(
        """
        from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
        mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))
        rules = [None, lambda v, z: (jv(v - 1, z) - jv(v + 1, z)) / 2]
        jv = cb.ufunc(scipy.special.jv, derivatives=rules)
        double_only = cb.ufunc(scipy.special.eval_hermite)
        airy, matmul = cb.ufunc(scipy.special.airy), cb.ufunc(np.matmul)
        def functions(z):
            yield "scalar", jv(1, z)
            yield "array", jv(z, z)
            yield "broadcast", jv(z[:1], z)
            yield "grad", jax.grad(lambda z: jv(1, z).sum())(z)
            yield "vmap", jax.vmap(lambda z: jv(1, z), 1, 1)(z)
            yield "scan", lax.scan(lambda c, _: (jv(1, c), None), z, length=3)[0]
            yield "mixed", double_only(2, z)
            yield "several", airy(z)[3]
            yield "gufunc", matmul(z, jnp.ones((z.shape[1], 3)))
        z = np.linspace(0, 5, 32).reshape(8, 4)
        for spec in (P("a", "b"), P(None, "b"), P(("a", "b")), P()):
            sharded = jax.device_put(z, NamedSharding(mesh, spec))
            ours, theirs = jax.jit(lambda z: dict(functions(z)))(sharded), dict(functions(z))
            for name in theirs:
                assert np.array_equal(ours[name], theirs[name]), (name, spec)
        for name in ("scalar", "array", "grad", "vmap", "scan", "mixed", "several"):
            sharded = jax.device_put(z, NamedSharding(mesh, P("a", "b")))
            program = jax.jit(lambda z: dict(functions(z))[name]).lower(sharded).compile()
            assert "all-gather" not in program.as_text(), name
            assert program(sharded).sharding.spec == P("a", "b"), name
        mapped = jax.shard_map(lambda z: jv(1, z), mesh=mesh, in_specs=P("a"), out_specs=P("a"))
        assert np.array_equal(jax.jit(mapped)(z), scipy.special.jv(1, z))
        partly = jax.shard_map(
            lambda z: jv(1, z), mesh=mesh, in_specs=P("a"), out_specs=P("a"), axis_names={"a"})
        assert np.array_equal(jax.jit(partly)(z), scipy.special.jv(1, z))
        explicit = jax.make_mesh((4,), ("a",), axis_types=(jax.sharding.AxisType.Explicit,))
        with jax.set_mesh(explicit):
            sharded = jax.device_put(z, P("a"))
            result = jax.jit(lambda z: jv(1, z))(sharded)
            assert jax.typeof(result).sharding.spec == P("a", None), jax.typeof(result)
            assert np.array_equal(result, scipy.special.jv(1, z))
        print("ok")
        """,
        devices=4,
        deadline=150,
    )
    assert_printed(finished, "ok")


def test_loops_die_with_their_programs(run_program):
    finished = run_program(
        """
        import gc, numba, weakref
        before = cb._native.statistics()["registered"]
        references = []
        for k in range(5):
            original = numba.vectorize(["float32(float32)"])(eval(f"lambda x: x + {k}"))
            references.append(weakref.ref(original))
            print(jax.jit(cb.ufunc(original))(1.0), end=" ")
            del original
        jax.clear_caches(); gc.collect(); jax.effects_barrier(); gc.collect()
        print(cb._native.statistics()["registered"] - before)
        """
    )
    assert_printed(finished, "1.0 2.0 3.0 4.0 5.0 0")


def test_a_process_may_end_while_a_loop_runs(run):
    finished = run(
        """
        with scipy.special.errstate(all="warn"):
            running = [jax.jit(lambda x, a: jv(1, x + 0 * a.sum()))(x, big) for _ in range(3)]
        """
    )
    assert_printed(finished)


def test_the_error_state_travels_with_an_exported_program(run_program, tmp_path):
    program = f"""
        from jax import export
        check = export.DisabledSafetyCheck.custom_call("callbax_loop")
        with np.errstate(divide="raise"):
            exported = export.export(jax.jit(cb.ufunc(np.log)), disabled_checks=[check])(scalar)
        path = {str(tmp_path / "program")!r}
        """
    run_program(program + "\n        open(path, 'wb').write(exported.serialize())")
    loaded = run_program(
        program
        + """
        try:
            export.deserialize(open(path, "rb").read()).call(np.float32(0))
        except Exception as error:
            print(repr(cb.original_exception(error)))
        """
    )
    assert "FloatingPointError('divide by zero encountered in log')" in loaded.output
