"""Kelvin functions, from J₀ and K₀ on two rays of the complex plane (DLMF 10.61.1, 10.61.2)."""

from mpmath import besselj, besselk, expjpi, im, mpf, re
from special.truth import Case


def first(x):
    return besselj(0, expjpi(mpf(3) / 4) * x)


def second(x):
    return besselk(0, expjpi(mpf(1) / 4) * x)


def first_prime(x):
    return -expjpi(mpf(3) / 4) * besselj(1, expjpi(mpf(3) / 4) * x)


def second_prime(x):
    return -expjpi(mpf(1) / 4) * besselk(1, expjpi(mpf(1) / 4) * x)


def part(of, function):
    return lambda x: of(function(x))


LINE, HALF = [(-8.0, 8.0)], [(0.1, 8.0)]

CASES = [
    Case("ber", "x", part(re, first), LINE, exact={(0.0,): 0.0}, second=True),
    Case("bei", "x", part(im, first), LINE, exact={(0.0,): 0.0}, second=True),
    Case("ker", "x", part(re, second), HALF, second=True),
    Case("kei", "x", part(im, second), HALF, exact={(0.0,): 0.0}, second=True),
    Case("berp", "x", part(re, first_prime), LINE, exact={(0.0,): 0.0}, second=True),
    Case("beip", "x", part(im, first_prime), LINE, exact={(0.0,): 0.5}, second=True),
    Case("kerp", "x", part(re, second_prime), HALF, second=True, count=6),
    Case("keip", "x", part(im, second_prime), HALF, second=True, count=6),
    Case("kelvin", "x", (first, second, first_prime, second_prime), HALF, second=True, count=6),
]
