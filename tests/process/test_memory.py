"""Callbacks are freed with their programs, and memory stays flat."""

import pytest


@pytest.mark.full  # a test of endurance
@pytest.mark.timeout(900)  # with --full ten thousand programs are compiled
def test_thousands_of_programs_of_fresh_closures(run_program, full):
    each_round, limit = (500, 20) if full else (15, 4)  # programs, MiB
    finished = run_program(
        f"""
        each_round, limit = {each_round}, {limit}
        """
        """
        import gc, weakref

        def resident_mib():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

        def one(i):
            def fresh(x):
                return x + i
            assert jax.jit(lambda x: cb.pure_callback(fresh, scalar, x))(np.float32(1)) == 1 + i
            return weakref.ref(fresh)

        sizes = []
        for _ in range(20):
            references = [one(i) for i in range(each_round)]
            jax.clear_caches()
            gc.collect()
            time.sleep(0.02)  # XLA may let go of the last program on a thread of its own
            alive = sum(reference() is not None for reference in references)
            assert alive == 0, f"{alive} callbacks are still alive"
            assert cb._native.statistics()["registered"] == 0, cb._native.statistics()
            sizes.append(resident_mib())
        print("grew by", sizes[-1] - sizes[3])
        assert sizes[-1] - sizes[3] < limit, sizes
        """,
        deadline=800,
    )
    assert finished.returncode == 0, finished.output


def test_calls_do_not_leak(run_program):
    finished = run_program(
        """
        def resident_mib():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

        def callback(d, y):
            return {"a": d["x"] + 1, "b": [y, np.zeros(1000)]}
        x = jnp.ones(1000)
        spec = {"a": x, "b": [scalar, x]}
        program = jax.jit(lambda x: lax.scan(lambda c, _: (cb.io_callback(
            callback, spec, {"x": c}, c.sum())["a"], None), x, length=20_000)[0])
        program(x).block_until_ready()
        before = resident_mib()
        for _ in range(4):
            program(x).block_until_ready()
        assert resident_mib() - before < 10, resident_mib() - before
        """,
        deadline=120,
    )
    assert finished.returncode == 0, finished.output
