"""tools.Log at the end of a process: nothing that was logged is lost, whatever ends it."""

import sqlite3

import pytest

# Each step leaves a byte in a file at once, after it has logged.
PROGRAM = """
import gc
from callbax import tools
gc.callbacks.clear()  # an interrupt that comes while JAX's is running is ignored by Python
counted = os.open("{directory}/steps", os.O_WRONLY | os.O_CREAT)
log = tools.Log("{directory}/metrics.csv", capacity={capacity})

@jax.jit
def steps(first):
    def step(x, i):
        log(first + i, x=x)
        cb.external(lambda i: (os.write(counted, b"."), None)[1], result=None, effects="ordered_debug")(i)
        return x + 1, None
    return lax.scan(step, 0, jnp.arange(500))[0]

done = 0
def run(scans):
    global done
    for _ in range(scans):
        steps(500 * done).block_until_ready()
        done += 1
"""
ENDS = {
    "normal": "run({n})",
    "sys.exit": "run({n}); sys.exit(3)",
    "exception": "run({n}); raise ValueError('mine')",
    "exception in a callback": """
run({n})
def fail(x):
    raise ValueError('mine')
cb.io_callback(fail, None, 0)
""",
    "interrupt": "run({n}); print('ready', flush=True); run(10**9)",
    "interrupt while the log is full": "run({n}); print('ready', flush=True); run(10**9)",
}
# Each is ended at another step: 24 kills, 8 of them by SIGINT.
CASES = [(way, n) for way in ENDS for n in (1, 2, 5, 40)]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("way", "n"), CASES)
def test_nothing_is_lost(run_program, tmp_path, way, n):
    capacity = 2 if "full" in way else 10_000
    program = PROGRAM.format(directory=tmp_path, capacity=capacity) + ENDS[way].format(n=n)
    finished = run_program(program, interrupt="interrupt" in way, deadline=120)
    assert (finished.returncode == 0) == (way == "normal"), finished.output
    counted = len((tmp_path / "steps").read_bytes())
    header, *lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header == "step,x"
    assert [line.split(",")[0] for line in lines] == list(map(str, range(len(lines))))
    assert counted >= 500 * n
    assert counted <= len(lines) <= counted + 1, finished.output


def test_a_failure_shows_at_the_end_of_the_process(run_program):
    finished = run_program(
        """
        from callbax import tools
        def full(row):
            raise OSError("the disk is full")
        log = tools.Log(full)
        jax.jit(lambda x: log(7, x=x))(1)
        """
    )
    assert finished.returncode == 0
    expected = (
        "callbax: an error surfaced only at exit: Log(full) could not write (OSError: the disk is "
        "full); 1 row kept"
    )
    assert expected in finished.output


def test_a_database_gets_all_rows(run_program, tmp_path):
    path = tmp_path / "metrics.sqlite"
    finished = run_program(
        f"""
        from callbax import tools
        log = tools.Log({str(path)!r})
        jax.jit(lambda: lax.fori_loop(0, 5000, lambda i, x: (log(i, x=x), x)[1], 0))()
        """
    )
    assert finished.returncode == 0, finished.output
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT step FROM log").fetchall()
    connection.close()
    assert found == [(i,) for i in range(5000)]


def test_what_the_target_ends_at_exit_has_all_rows_by_then(run_program):
    finished = run_program(
        """
        import atexit
        from callbax import tools
        class Run:
            rows = 0
            def log(self, row, step):
                self.rows += 1
            def finish(self):
                print("finished with", self.rows)
        run = Run()
        atexit.register(run.finish)  # as wandb.init does
        log = tools.Log(run)
        jax.jit(lambda: lax.fori_loop(0, 100, lambda i, x: (log(i, x=x), x)[1], 0))()
        """
    )
    assert finished.output == "finished with 100\n"


def fork_and_log(file, **options):
    """A program's text: a log, `fill` for rows from `first` on, and a child that is 0 in itself."""
    return f"""
        from callbax import tools
        log = tools.Log("{file}", **{options})
        def fill(first, rows):
            for i in range(first, first + rows):
                log._writer.rows.append(call, (np.int32([i]), np.int32([2 * i])))
            log._writer.attend()
        # By hand, since JAX may not start before a fork.
        types = (np.dtype("int32"),) * 2
        call = log._writer.add_call(tools._log_rows.Columns(("step", "x"), types, (0, 0), ()))
        def fork():
            if child := os.fork():
                assert os.waitpid(child, 0)[1] == 0
            return child
        """


def test_a_forked_child_starts_a_log_anew(run_before_jax, tmp_path):
    finished = run_before_jax(
        fork_and_log(tmp_path / "metrics.jsonl")
        + """
        fill(0, 3)
        if not fork():
            fill(10, 3)
            log.flush()
            os._exit(0)
        log.flush()
        fill(20, 3)
        """
    )
    assert finished.returncode == 0, finished.output
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    steps = sorted(int(line.split(",")[0].split(":")[1]) for line in lines)
    assert steps == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_a_forked_child_replaces_nothing(run_before_jax, tmp_path):
    finished = run_before_jax(
        fork_and_log(tmp_path / "metrics.csv", mode="w")
        + """
        fill(0, 1)
        log.flush()
        if not fork():
            fill(10, 1)
            log.flush()
            os._exit(0)
        fill(20, 1)
        log.flush()
        """
    )
    assert finished.returncode == 0, finished.output
    assert (tmp_path / "metrics.csv").read_text() == "step,x\n0,0\n10,20\n20,40\n"
