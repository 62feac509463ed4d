"""Callbacks alongside threads that hold locks, change objects, or never end."""


def test_a_failure_while_the_main_thread_logs_the_result(run_program):
    finished = run_program(
        """
        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        def callback(x):
            time.sleep(0.3)
            raise ValueError("while logging")
        result = asynchronous(lambda x: cb.pure_callback(callback, scalar, x))(big)
        try:
            logging.info("loss %s", result)  # formats, and waits, under the handler's lock
        except jax.errors.JaxRuntimeError as error:
            print("original", repr(cb.original_exception(error)))
        cb.effects_barrier()
        print("went on")
        """
    )
    assert finished.returncode == 0, finished.output
    assert "callbax.pure_callback failed in callback" in finished.output
    assert "went on" in finished.output


def test_a_returned_list_that_another_thread_changes(run_program):
    finished = run_program(
        """
        def arrays():
            return [np.ones((1500, 1500), np.float32).T, np.ones((1500, 1500), np.float32).T]
        shared = arrays()
        def change():
            while True:
                shared[:] = arrays()
        threading.Thread(target=change, daemon=True).start()
        spec = (jax.ShapeDtypeStruct((1500, 1500), "float32"),) * 2
        program = jax.jit(lambda x: cb.pure_callback(lambda x: shared, spec, x))
        for _ in range(8):
            assert all((np.asarray(result) == 1).all() for result in program(1.0))
        print("all ones", flush=True)
        os._exit(0)
        """
    )
    assert finished.returncode == 0, finished.output
    assert "all ones" in finished.output


def test_a_daemon_thread_whose_callback_never_ends(run_program):
    finished = run_program(
        """
        import queue
        started = threading.Event()
        def callback(x):
            started.set()
            return queue.Queue().get()
        program = jax.jit(lambda x: cb.pure_callback(callback, scalar, x))
        threading.Thread(target=program, args=(1.0,), daemon=True).start()
        started.wait()
        print("main ends")
        """,
        deadline=30,
    )
    assert finished.returncode == 0, finished.output
