"""Checkpoint: which passes of a checkpointed function run a callback, by policy."""

import math

import flavours
import jax
import jax.numpy as jnp
import pytest
from helpers import EAGER_AND_JIT, both, both_raise
from jax.ad_checkpoint import checkpoint_name

pytestmark = pytest.mark.sampled(8)

policies = jax.checkpoint_policies


@pytest.mark.parametrize(
    ("policy", "count"),
    [
        (policies.everything_saveable, 1),
        (policies.nothing_saveable, 2),
        (policies.save_any_names_but_these("z"), 2),
        (policies.save_any_names_but_these("y"), 2),
        (policies.save_any_names_but_these("y", "z"), 2),
        # These save values without a name too, and the callback with them.
        (policies.save_anything_except_these_names("z"), 1),
        (policies.save_anything_except_these_names("y"), 1),
        (policies.save_anything_except_these_names("y", "z"), 1),
        (policies.save_only_these_names("z"), 2),
        (None, 2),
    ],
    ids=[
        "everything",
        "nothing",
        "names but z",
        "names but y",
        "names but y z",
        "anything but z",
        "anything but y",
        "anything but y z",
        "only z",
        "default",
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("flavour", ["callback", "print"])
@EAGER_AND_JIT
def test_debug_under_grad_of_checkpoint(policy, count, ordered, flavour, transform):
    """Not saving z 2; not saving only y 1; neither 2; ordered and unordered alike."""

    @both
    def outcome(library, record):
        def f(x):
            y = checkpoint_name(x + 1.0, "y")
            z = checkpoint_name(y * 2.0, "z")
            if flavour == "callback":
                library.debug.callback(record.seen, y, z, ordered=ordered)
            else:
                library.debug.print("y: {}, z: {}", y, z, ordered=ordered)
            return checkpoint_name(jnp.exp(z), "w")

        return transform(jax.grad(jax.checkpoint(f, policy=policy)))(2.0)

    assert float(outcome.value) == pytest.approx(2 * math.exp(6.0))
    if flavour == "callback":
        assert outcome.calls == [(3.0, 6.0)] * count
    else:
        assert outcome.printed == ["y: 3.0, z: 6.0"] * count


@pytest.mark.parametrize("policy", [None, policies.everything_saveable])
@flavours.each(flavours.IO)
@EAGER_AND_JIT
def test_io_in_grad_of_checkpoint_is_an_error(policy, call, transform):
    """IO in grad of checkpoint: "Effects not supported in partial-eval of `checkpoint`…"."""

    def program(library, record):
        def f(x):
            return x * call(library, record, jax.lax.stop_gradient(x))

        return transform(jax.grad(jax.checkpoint(f, policy=policy)))(2.0)

    # JAX 0.10 goes on "partial-eval of `checkpoint`", 0.12 "AD of `checkpoint`/`remat`".
    both_raise(program, NotImplementedError, "Effects not supported in ")


@flavours.each(flavours.ALL)
@EAGER_AND_JIT
def test_checkpoint_without_differentiation_calls_once(call, transform):
    """checkpoint alone changes nothing."""

    @both
    def outcome(library, record):
        return transform(jax.checkpoint(lambda x: call(library, record, x) * 2))(3.0)

    assert outcome.value == 6.0
    assert outcome.calls == [3.0]


@pytest.mark.parametrize(
    ("policy", "counts"),
    [(None, (1, 2)), (policies.everything_saveable, (1,)), (policies.nothing_saveable, (1, 2))],
    ids=["default", "everything", "nothing"],
)
@EAGER_AND_JIT
def test_pure_under_grad_of_checkpoint(policy, counts, transform):
    """pure under checkpoint is saved or run again, as any value is."""

    @both
    def outcome(library, record):
        def f(x):
            return jnp.sin(x * flavours.pure(library, record, jax.lax.stop_gradient(x)))

        return transform(jax.grad(jax.checkpoint(f, policy=policy)))(2.0)

    assert float(outcome.value) == pytest.approx(2 * math.cos(4.0), rel=1e-6)
    assert outcome.calls in [[2.0] * count for count in counts]


@flavours.each(flavours.DEBUG)
def test_debug_in_scan_under_checkpoint(call):
    """Checkpointed scan bodies under grad."""

    @both
    def outcome(library, record):
        @jax.checkpoint
        def body(carry, x):
            return jnp.sin(call(library, record, carry) * x), None

        def f(x):
            return jax.lax.scan(body, x, jnp.array([1.0, 2.0]))[0]

        return jax.jit(jax.grad(f))(0.0)

    assert float(outcome.value) == pytest.approx(2.0)
    assert outcome.calls == [0.0, 0.0, 0.0, 0.0]
