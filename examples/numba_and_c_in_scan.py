"""A spacecraft's orbit around Earth and Moon: C and Numba code in `lax.scan`, without Python.

The right-hand side of the equations of motion is a C function of whole arrays (a kernel, compiled
here with the system's `cc`); the orbit's conserved quantity is a Numba `@cfunc` of four numbers.
Both are called from a compiled Runge-Kutta loop of 400 000 steps, without the GIL.

The problem is the planar restricted three-body problem; the start is Arenstorf's periodic orbit
(Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section II.0), so the
trajectory has to close; it is also compared with the result of SciPy's integrator.

    pip install '.[examples]' && python examples/numba_and_c_in_scan.py
"""

import ctypes
import os
import subprocess
import tempfile
import time

import jax
import jax.numpy as jnp
import numba
import numpy as np
from jax import lax
from scipy.integrate import solve_ivp

import callbax as cb

jax.config.update("jax_enable_x64", True)

MOON = 0.012277471  # the Moon's share of the mass
START = np.array([0.994, 0.0, 0.0, -2.00158510637908252240537862224])  # x, y, x', y'
PERIOD = 17.0652165601579625588917206249
STEPS = 400_000

SOURCE = """
#include <callbax/kernel.h>
#include <math.h>

int motion(const callbax_call* call) {
  const callbax_array* state = &call->arguments[0];
  if (state->dtype != CALLBAX_FLOAT64 || state->size != 4) {
    return callbax_fail(call, "the state must be four float64: x, y, x', y'");
  }
  const double moon = *(const double*)call->user_data, earth = 1 - moon;
  const double* s = (const double*)state->data;
  const double x = s[0], y = s[1], vx = s[2], vy = s[3];
  const double d1 = pow((x + moon) * (x + moon) + y * y, 1.5);
  const double d2 = pow((x - earth) * (x - earth) + y * y, 1.5);
  double* rate = (double*)call->results[0].data;
  rate[0] = vx;
  rate[1] = vy;
  rate[2] = x + 2 * vy - earth * (x + moon) / d1 - moon * (x - earth) / d2;
  rate[3] = y - 2 * vx - earth * y / d1 - moon * y / d2;
  return 0;
}
"""


def compile_motion() -> ctypes.CDLL:
    """The C source, compiled to a shared library."""
    with tempfile.TemporaryDirectory() as directory:
        source, library = (os.path.join(directory, name) for name in ("motion.c", "motion.so"))
        with open(source, "w") as file:
            file.write(SOURCE)
        include = f"-I{cb.get_include()}"
        flags = ["-std=c99", "-O2", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, include, source, "-o", library, "-lm"], check=True)
        return ctypes.CDLL(library)


@numba.cfunc("float64(float64, float64, float64, float64)")
def jacobi_constant(x, y, vx, vy):
    """Conserved along every orbit."""
    r1 = np.sqrt((x + MOON) ** 2 + y**2)
    r2 = np.sqrt((x - 1 + MOON) ** 2 + y**2)
    return x**2 + y**2 + 2 * (1 - MOON) / r1 + 2 * MOON / r2 - vx**2 - vy**2


motion = cb.native(
    compile_motion().motion, kernel=True, result=lambda state: state, user_data=np.array([MOON])
)
jacobi = cb.native(jacobi_constant)


@jax.jit
def orbit(start):
    """The state after one period, by the classical Runge-Kutta method, and the worst drift."""

    def step(carry, _):
        state, worst = carry
        k1 = motion(state)
        k2 = motion(state + h / 2 * k1)
        k3 = motion(state + h / 2 * k2)
        k4 = motion(state + h * k3)
        state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        drift = jnp.abs(jacobi(*state) - jacobi(*start))
        return (state, jnp.maximum(worst, drift)), None

    h = PERIOD / STEPS
    (state, drift), _ = lax.scan(step, (start, 0.0), length=STEPS)
    return state, drift


def miss(state):
    return np.abs(np.asarray(state) - START)[:2].max()


def main() -> None:
    program = orbit.lower(START).compile()
    begun = time.perf_counter()
    state, drift = jax.block_until_ready(program(START))
    seconds = time.perf_counter() - begun
    calls = 5 * STEPS
    print(
        f"{calls:,} calls of compiled code in {seconds:.2f} s, {1e6 * seconds / calls:.2f} us each"
    )
    print(f"after one period the orbit misses its start by {miss(state):.1e}")
    print(f"the Jacobi constant drifts by {drift:.1e}")

    def rhs(_, s):
        return np.asarray(motion(s))

    scipys = solve_ivp(rhs, (0, PERIOD), START, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    print(f"SciPy's DOP853, with the same C function, misses it by {miss(scipys):.1e}")
    assert miss(state) < 1e-6 and drift < 1e-8


if __name__ == "__main__":
    main()
