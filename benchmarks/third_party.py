"""Libraries that call JAX's callbacks, with JAX's own runtime and under `callbax.installed()`.

    pip install '.[third-party]'
    python benchmarks/third_party.py         # about two minutes; prints Markdown
    python benchmarks/third_party.py --quick

Nothing in the libraries is changed: the same jitted program is run with and without callbax
installed, and without what makes it call the host. What they print goes to /dev/null.
"""

import argparse
import contextlib
import os
from importlib import metadata

import blackjax
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxopt
import jaxtap
import optax
import optimistix
import pennylane as qml
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax_tqdm import scan_tqdm

import callbax
from callbax._tour.measure import BASELINE, Case, Measurement, format_seconds, measure
from callbax._tour.pages import MarkdownPage

PAGE = MarkdownPage()
NOWHERE = open(os.devnull, "w")
PLAIN, INSTALLED = "JAX", "callbax installed"
LIBRARIES = "jax blackjax diffrax equinox jax-tqdm jaxopt optax optimistix pennylane".split()
STEPS = 500


def case(title, per, calls, program, *args, baseline=None):
    """The program in both ways, and its like without callbacks, if there is one."""
    contenders = {PLAIN: finished(program, *args), INSTALLED: installed(finished(program, *args))}
    if baseline is not None:
        contenders = {BASELINE: finished(baseline, *args), **contenders}
    return Case(title, per, calls, contenders)


def finished(program, *args):
    def run():
        with contextlib.redirect_stdout(NOWHERE), contextlib.redirect_stderr(NOWHERE):
            jax.block_until_ready(program(*args))
            jax.effects_barrier()

    return run


def installed(run):
    def run_installed():
        with callbax.installed():
            run()

    return run_installed


def tqdm_in_a_scan():
    def body(carry, i):
        return carry * 0.5 + i, None

    def program(body):
        return jax.jit(lambda: jax.lax.scan(body, 0.0, jnp.arange(STEPS))[0])

    barred = scan_tqdm(STEPS, print_rate=1, file=NOWHERE, tqdm_type="std")(body)
    return case(
        "jax-tqdm, an update at each step", "step", STEPS, program(barred), baseline=program(body)
    )


def solve(meter):
    term = diffrax.ODETerm(lambda t, y, args: -y)

    @jax.jit
    def program(y0):
        solution = diffrax.diffeqsolve(
            term, diffrax.Tsit5(), 0.0, 1.0, 1 / STEPS, y0, progress_meter=meter, max_steps=None
        )
        return solution.ys

    return program


def meters():
    y0, baseline = jnp.array(1.0), solve(diffrax.NoProgressMeter())
    for meter, title in (
        (diffrax.TextProgressMeter(minimum_increase=0.0), "text, a line at each step"),
        (diffrax.TextProgressMeter(), "text, as it comes"),
        (diffrax.TqdmProgressMeter(refresh_steps=1), "tqdm, drawn at each step"),
        (diffrax.TqdmProgressMeter(), "tqdm, as it comes"),
    ):
        yield case(f"diffrax, {title}", "step", STEPS, solve(meter), y0, baseline=baseline)


def rosenbrock(x):
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


START = jnp.array([-1.0, 1.5])


def optax_program(verbose):
    search = optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=15, store_grad=False, verbose=verbose
    )
    solver = optax.chain(optax.sgd(1.0), search)

    @jax.jit
    def program(x):
        def step(carry, _):
            x, state = carry
            value, gradient = jax.value_and_grad(rosenbrock)(x)
            updates, state = solver.update(
                gradient, state, x, value=value, grad=gradient, value_fn=rosenbrock
            )
            return (optax.apply_updates(x, updates), state), value

        return jax.lax.scan(step, (x, solver.init(x)), None, length=20)[1]

    return program


def jaxopt_program(verbose):
    solver = jaxopt.LBFGS(rosenbrock, maxiter=20, tol=0.0, verbose=verbose)
    return jax.jit(lambda x: solver.run(x).params)


def optimistix_program(verbose):
    solver = optimistix.BFGS(rtol=1e-6, atol=1e-6, verbose=verbose)

    def value(x, _):
        return rosenbrock(x)

    return jax.jit(lambda x: optimistix.minimise(value, solver, x, max_steps=20, throw=False).value)


def verbose_solvers():
    for title, program in (
        ("optax, backtracking line search, verbose", optax_program),
        ("jaxopt, LBFGS, verbose", jaxopt_program),
        ("optimistix, BFGS, verbose", optimistix_program),
    ):
        yield case(title, "iteration", 20, program(True), START, baseline=program(False))


def errors():
    """The programs run several times: callbax is installed anew for each measurement, 40 µs."""

    @eqx.filter_jit
    def checked(x):
        return eqx.error_if(x, x < 0, "x must not be negative")

    def caught(x):
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                checked(x)

    def step(carry, _):
        return eqx.error_if(carry * 0.9, carry < 0, "must not be negative"), None

    in_a_scan = eqx.filter_jit(lambda x: jax.lax.scan(step, x, None, length=STEPS)[0])

    def checks(x):
        for _ in range(20):
            jax.block_until_ready(in_a_scan(x))

    yield case("equinox, an error that is raised and caught", "error", 20, caught, jnp.array(-1.0))
    yield case("equinox, checks that hold", "check", 20 * STEPS, checks, jnp.array(1.0))


def tapped_chain():
    """What is below blackjax's progress bar; the bar itself is drawn ten times a second."""
    kernel = blackjax.hmc(lambda x: -0.5 * jnp.sum(x**2), 0.3, jnp.ones(2), 5)

    def step(state, key):
        state, _ = kernel.step(key, state)
        return state, state.position

    def chain(keys):
        return jax.lax.scan(step, kernel.init(jnp.ones(2)), keys)[1]

    program, keys = jax.jit(lambda keys: chain(keys)), jax.random.split(jax.random.key(0), STEPS)

    def tapped(keys):
        with jaxtap.record(on_step=lambda event: None):
            return jax.block_until_ready(program(keys))

    return case(
        "blackjax, a chain tapped by jaxtap", "step", STEPS, tapped, keys, baseline=jax.jit(chain)
    )


def circuit():
    @qml.qnode(qml.device("lightning.qubit", wires=2), interface="jax-jit", diff_method="adjoint")
    def energy(x):
        qml.RX(x, wires=0)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.PauliZ(1))

    def step(x, _):
        return x - 0.3 * jax.grad(energy)(x), None

    program = jax.jit(lambda x: jax.lax.scan(step, x, None, length=20)[0])
    return case("pennylane, a gradient in lightning.qubit", "step", 20, program, jnp.float32(0.4))


def interpreted_kernel():
    def kernel(x_ref, o_ref):
        o_ref[...] = x_ref[...] * 2

    spec = pl.BlockSpec((8, 128), lambda i: (i, 0))
    x = jnp.ones((8 * 16, 128), jnp.float32)
    program = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(16,),
        in_specs=[spec],
        out_specs=spec,
        interpret=pltpu.InterpretParams(),
    )
    return case("Pallas, the interpreter of TPU kernels", "block", 16, jax.jit(program), x)


def row(measured: Measurement):
    times = {name: measured.total(name).median for name in measured.samples}
    without = format_seconds(times[BASELINE]) if BASELINE in times else ""
    ratio = f"{times[PLAIN] / times[INSTALLED]:.1f}×"
    title = f"{measured.case.title}, per {measured.case.per}"
    return title, without, format_seconds(times[PLAIN]), format_seconds(times[INSTALLED]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    seconds = 0.5 if parser.parse_args().quick else 5.0
    versions = [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    cases = [
        tqdm_in_a_scan(),
        *meters(),
        *verbose_solvers(),
        *errors(),
        tapped_chain(),
        circuit(),
        interpreted_kernel(),
    ]
    rows = [row(measure(case, seconds)) for case in cases]
    PAGE.paragraph(
        f"{', '.join(versions)}. Medians of interleaved rounds; load average before: {load}."
    )
    PAGE.table(("", BASELINE, PLAIN, INSTALLED, "times as fast"), rows, "")


if __name__ == "__main__":
    main()
