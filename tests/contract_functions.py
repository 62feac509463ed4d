"""Host functions of the table in test_contract.py; worker processes import them.

They take vectors `x` and `w` of three numbers, or batches of these, so each route may call them.
"""

import numpy as np


def add(x, w):
    return x + w


def writes_to_arguments(x, w):
    result = x + w
    x *= 100
    w *= 100
    return result


def writes_to_the_second(x, w):
    w += 1
    return x + w


def writes_to_the_first(x, w):
    x += 1
    return x + w


_kept = []


def keeps_arguments(x, w):
    """Fails if what it has kept from earlier calls has changed since."""
    for array, copy in _kept:
        np.testing.assert_array_equal(array, copy)
    _kept.extend((array, array.copy()) for array in (x, w))
    return x + w


_views = []


def keeps_a_view(x, w):
    _views[:] = [w[..., 1:]]
    return x + w


def returns_an_argument(x, w):
    return x


def returns_a_view(x, w):
    return x[..., ::-1]


def fills(x, w, out):
    np.add(x, w, out=out)


def fills_and_returns(x, w, out):
    out[...] = x + w
    return out


def forgets_out(x, w, out):
    return x + w


def returns_a_view_of_out(x, w, out):
    out[...] = x + w
    return out[...]


def is_given_jax_arrays(x, w):
    import jax

    assert isinstance(x, jax.Array) and isinstance(w, jax.Array)
    return x + w


def takes_dlpack(x, w):
    return np.from_dlpack(x) + np.from_dlpack(w)


def wrong_shape(x, w):
    return (x + w)[..., :2]


def wrong_dtype(x, w):
    return (x + w).astype(np.complex64)


def small_integers(x, w):
    return (x + w).astype(np.int64)


def half_precision(x, w):
    return (x + w).astype(np.float16)


def nothing(x, w):
    return None


def no_numbers(x, w):
    return "text"


def sum_and_difference(x, w):
    return {"sum": x + w, "difference": x - w}


def other_keys(x, w):
    return {"sum": x + w, "product": x * w}


class Unlucky(ValueError):
    pass


def fails_at_two(x, w):
    if (x[..., 0] == 2).any():
        raise Unlucky("no twos")
    return x + w


def static_and_named(operation, x, w, *, scale, names=()):
    assert names == ("a", "b")
    return (getattr(np, operation)(x, w).T * scale).T  # there may be a scale for each lane
