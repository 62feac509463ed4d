"""How a process ends while effects wait, or a callback runs."""

import subprocess
import sys
import textwrap

from common import check

START = "import sys, threading, time, jax, jax.numpy as jnp, numpy as np, callbax as cb\n"


def run(program, seconds=40):
    return subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


with check("an effect is seen though nobody waits for it"):
    done = run(
        "jax.jit(lambda x: cb.debug.callback(lambda v: print('seen', v), x))(jnp.float32(3))"
    )
    assert "seen 3" in done.stdout and done.returncode == 0, done
with check("an error that nobody asked for is shown"):
    done = run("""
        def fail(v): raise KeyError("unseen")
        jax.jit(lambda x: cb.io_callback(fail, None, x))(jnp.float32(3))
    """)
    assert "KeyError: 'unseen'" in done.stderr, done
with check("a process ends while a callback runs in a daemon thread"):
    done = run("""
        def wait(v): time.sleep(60)
        program = jax.jit(lambda x: cb.io_callback(wait, None, x))
        threading.Thread(target=lambda: program(jnp.float32(3)), daemon=True).start()
        time.sleep(3)
        sys.exit(3)
    """)
    assert done.returncode == 3, done
with check("an interrupt ends a callback"):
    done = run("""
        import _thread
        def loop(v):
            while True: time.sleep(0.01)
        threading.Timer(2, _thread.interrupt_main).start()
        program = jax.jit(lambda x: cb.pure_callback(loop, x, x))
        try:
            with cb.reraise(): jax.block_until_ready(program(jnp.float32(3)))
        except KeyboardInterrupt: print("interrupted")
    """)
    assert "interrupted" in done.stdout and done.returncode == 0, done
