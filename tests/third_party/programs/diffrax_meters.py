"""diffrax: its progress meters, solves that fail, steps that are rejected on the host."""

import diffrax
import jax
import jax.numpy as jnp


def _solve(y0, meter, *, t1=1.0, rate=1.0, max_steps=4096, controller=None, **options):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, rate: -rate * y),
        diffrax.Tsit5(),
        t0=0.0,
        t1=t1,
        dt0=0.01,
        y0=y0,
        args=rate,
        progress_meter=meter,
        max_steps=max_steps,
        stepsize_controller=controller or diffrax.ConstantStepSize(),
        **options,
    )


def text():
    return _solve(jnp.array(1.0), diffrax.TextProgressMeter()).ys


def text_under_jit():
    meter = diffrax.TextProgressMeter(minimum_increase=0.1)
    return jax.jit(lambda y0: _solve(y0, meter).ys)(jnp.array(1.0))


def tqdm_under_jit():
    meter = diffrax.TqdmProgressMeter(refresh_steps=5)
    return jax.jit(lambda y0: _solve(y0, meter).ys)(jnp.array(1.0))


def text_under_vmap():
    meter = diffrax.TextProgressMeter(minimum_increase=0.2)
    solve = jax.vmap(lambda y0, t1: _solve(y0, meter, t1=t1).ys)
    return jax.jit(solve)(jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0]))


def tqdm_under_vmap():
    meter = diffrax.TqdmProgressMeter(refresh_steps=10)
    return jax.jit(jax.vmap(lambda y0: _solve(y0, meter).ys))(jnp.array([1.0, 2.0, 3.0]))


def text_under_grad():
    meter = diffrax.TextProgressMeter(minimum_increase=0.2)

    def loss(rate):
        return _solve(jnp.array(1.0), meter, rate=rate).ys.sum()

    return jax.jit(jax.value_and_grad(loss))(jnp.array(2.0))


def text_under_backsolve():
    meter = diffrax.TextProgressMeter(minimum_increase=0.25)

    def loss(y0):
        return _solve(y0, meter, adjoint=diffrax.BacksolveAdjoint()).ys.sum()

    return jax.jit(jax.value_and_grad(loss))(jnp.array(2.0))


def adaptive_steps():
    controller = diffrax.PIDController(rtol=1e-5, atol=1e-5)
    saveat = diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 5))
    meter = diffrax.TextProgressMeter()
    return _solve(jnp.array(1.0), meter, rate=20.0, controller=controller, saveat=saveat).ys


def too_many_steps():
    return _solve(jnp.array(1.0), diffrax.TextProgressMeter(), max_steps=30).ys


def too_many_steps_without_throwing():
    solution = _solve(jnp.array(1.0), diffrax.TextProgressMeter(), max_steps=30, throw=False)
    return solution.ys, solution.result


def too_many_steps_in_a_program_that_is_differentiated():
    def loss(y0):
        return _solve(y0, diffrax.NoProgressMeter(), max_steps=30).ys.sum()

    return jax.jit(jax.grad(loss))(jnp.array(1.0))


def steps_that_the_host_sees_rejected():
    rejected = []
    controller = diffrax.ClipStepSizeController(
        diffrax.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.3),
        step_ts=jnp.array([0.33, 0.66]),
        _callback_on_reject=lambda keep, t1: rejected.append((bool(keep), round(float(t1), 4))),
    )
    ys = _solve(jnp.array(1.0), diffrax.NoProgressMeter(), rate=9.0, controller=controller).ys
    jax.block_until_ready(ys)
    return ys, str(rejected)


def an_event_with_a_meter():
    event = diffrax.Event(lambda t, y, args, **_: y < 0.5)
    return _solve(jnp.array(1.0), diffrax.TextProgressMeter(minimum_increase=0.2), event=event).ys
