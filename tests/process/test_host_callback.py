"""host_callback in processes of their own: what no barrier has raised, and memory."""


def test_a_failed_tap_that_no_barrier_has_raised_is_shown_at_the_end(run_program):
    finished = run_program(
        """
        logging.disable()
        def fails(x, transforms):
            raise ValueError("lost?")
        jax.jit(lambda x: cb.host_callback.id_tap(fails, x))(1)
        """
    )
    assert finished.returncode == 0, finished.output
    assert "ValueError: lost?" in finished.output


def test_the_end_of_a_process_waits_for_taps(run_program):
    finished = run_program(
        """
        def slow(x, transforms):
            time.sleep(0.5)
            print("tapped", x, flush=True)
        asynchronous(lambda x: cb.host_callback.id_tap(slow, x))(big)
        """
    )
    assert finished.returncode == 0, finished.output
    assert "tapped 2.7e+07" in finished.output


def test_taps_do_not_leak(run_program):
    finished = run_program(
        """
        def resident_mib():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

        hcb = cb.host_callback
        def step(c, _):
            hcb.id_tap(lambda x, transforms: None, (c, {"a": c}))
            return hcb.call(lambda x: x + 1, c, result_shape=c), None
        program = jax.jit(lambda x: lax.scan(step, x, length=20_000)[0])
        program(jnp.ones(1000)).block_until_ready()
        before = resident_mib()
        for _ in range(4):
            program(jnp.ones(1000)).block_until_ready()
        hcb.barrier_wait()
        assert resident_mib() - before < 10, resident_mib() - before
        """,
        deadline=120,
    )
    assert finished.returncode == 0, finished.output
