"""Views of XLA's memory that are kept: an error, and no crash, whatever is done with them after."""


def test_kept_arrays_survive_their_buffers_and_the_interpreter(run_program):
    finished = run_program(
        """
        import gc
        from callbax._host.call import HostFunction

        logging.disable()
        size = 8 * 2**20  # large enough for its memory to be unmapped, not kept by malloc
        kept, calls = [], 0

        def callback(x, *, out):
            global calls
            calls += 1
            out[...] = x
            if calls % 2 == 0:
                kept.extend([x, x[1:], memoryview(x)[2:], out, out[::-1]])

        program = jax.jit(lambda x: cb.pure_callback(
            HostFunction(callback, views=True, out=True), x, x))
        failed = 0
        for i in range(6):
            try:
                program(jnp.full(size, i, jnp.float32)).block_until_ready()
            except Exception as error:
                assert type(cb.original_exception(error)) is cb.CallbackViewError
                failed += 1
        del program
        jax.clear_caches()
        gc.collect()
        for i, view in enumerate(kept):
            assert (np.asarray(view) == 1 + 2 * (i // 5)).all(), i
        print("failed", failed, "kept", len(kept))
        """,
        deadline=120,
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.endswith("failed 3 kept 15\n")


def test_a_thread_that_goes_on_writing_does_not_reach_xlas_memory(run_program):
    finished = run_program(
        """
        from callbax._host.call import HostFunction

        logging.disable()
        go, written = threading.Event(), threading.Event()

        def write_later(array):
            go.wait()
            array[...] = -1
            written.set()

        calls = 0

        def callback(x, *, out):
            global calls
            calls += 1
            out[...] = x
            if calls == 2:
                threading.Thread(target=write_later, args=(out,)).start()

        x = jnp.arange(1000.0)
        program = jax.jit(lambda x: cb.pure_callback(HostFunction(callback, out=True), x, x))
        program(x).block_until_ready()
        try:
            program(x).block_until_ready()
        except Exception as error:
            assert type(cb.original_exception(error)) is cb.CallbackViewError, error
        else:
            raise AssertionError("no error")
        results = [program(x).block_until_ready() for _ in range(20)]
        go.set()
        written.wait()
        assert all((result == x).all() for result in results)
        print("done")
        """
    )
    assert finished.returncode == 0, finished.output
    assert finished.output.endswith("done\n")
