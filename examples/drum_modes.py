"""How a drum sounds: zeros of Bessel functions, for membranes of any radius and tension.

    pip install '.[examples]' && python examples/drum_modes.py

A round membrane of radius a swings in the modes J_m(k r) cos(m φ), where k a is a zero of J_m; with
the speed c of waves on it, the mode's frequency is c k / (2 pi) (Rayleigh, The Theory of Sound, 1877).
`callbax.scipy.special.jv` gives J_m in compiled code, with its derivatives, so that

* Newton's method finds all zeros at once, under `vmap`, from McMahon's estimate;
* the zeros can be differentiated for the order m, which is not a whole number if the drum is a sector
  of a disk: by `jax.lax.custom_root`, with the numerical derivative of J_m for its order;
* a drum is tuned: its tension is found from the pitch that it shall have.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

import callbax as cb

jax.config.update("jax_enable_x64", True)

jv = cb.ufunc(cb.scipy.special.jv, derivative="central")  # for the order; else in closed form
ORDERS, ZEROS = 4, 3
RADIUS, DENSITY = 0.16, 0.26  # of the membrane of a small drum, in m and kg/m²


def estimate(order, number):
    """McMahon's: the zeros of a Bessel function are about pi apart (Watson, 1922, section 15.53)."""
    beta = (number + order / 2 - 0.25) * jnp.pi
    return beta - (4 * order**2 - 1) / (8 * beta)


def newton(f, start):
    return jax.lax.fori_loop(0, 12, lambda _, x: x - f(x) / jax.grad(f)(x), start)


def zero(order, number):
    """The zero of J_order with that number, from 1 on."""
    return jax.lax.custom_root(
        lambda x: jv(order, x),
        jax.lax.stop_gradient(estimate(order, number)),
        newton,
        lambda linear, y: y / linear(1.0),
    )


@jax.jit
def pitch(tension, order=0.0, number=1.0):
    """In Hz; the tension is in N/m."""
    return zero(order, number) * jnp.sqrt(tension / DENSITY) / (2 * jnp.pi * RADIUS)


zeros = jax.jit(jax.vmap(jax.vmap(zero, (None, 0)), (0, None)))


def shape(order, number, size=121):
    """A mode's displacement on a square grid around the drum; nan beside it."""
    y, x = np.mgrid[1 : -1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x, y)
    swing = jv(float(order), zero(float(order), float(number)) * radius)
    return np.where(radius <= 1, swing * np.cos(order * np.arctan2(y, x)), np.nan)


def main():
    orders, numbers = jnp.arange(float(ORDERS)), jnp.arange(1.0, ZEROS + 1)
    found = zeros(orders, numbers)
    expected = [scipy.special.jn_zeros(order, ZEROS) for order in range(ORDERS)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    print("frequencies, as multiples of the lowest:")
    for order, row in enumerate(found / found[0, 0]):
        print(f"  {order} nodal diameters: ", *(f"{ratio:.4f}" for ratio in row))

    slope = jax.jit(jax.grad(zero))(0.5, 1.0)
    difference = (zero(0.501, 1.0) - zero(0.499, 1.0)) / 0.002
    print(f"d zero / d order at 1/2: {slope:.6f}; by a difference: {difference:.6f}")
    np.testing.assert_allclose(slope, difference, rtol=1e-5)
    np.testing.assert_allclose(zero(0.5, 1.0), np.pi, rtol=1e-12)  # J_1/2 is a sine over a root

    a3 = 220.0
    tension = newton(lambda tension: pitch(tension) - a3, 2000.0)
    print(f"for {a3:.0f} Hz: {tension:.1f} N/m")
    np.testing.assert_allclose(pitch(tension), a3, rtol=1e-10)


if __name__ == "__main__":
    main()
