"""Sharded jit, placement, pmap, donation."""

import functools

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import LIBRARIES, Recorder, both, both_in_any_order, both_raise, devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

P = PartitionSpec
SPLIT = P("i")
MESH = Mesh(np.array(devices(4)), ("i",))
WHOLE = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def sharded(spec=SPLIT, mesh=MESH):
    return jax.device_put(jnp.arange(8.0), NamedSharding(mesh, spec))


def shard_map(f, spec=SPLIT, mesh=MESH, **options):
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, **options)


@flavours.each([flavours.pure, flavours.io, flavours.ordered_io, flavours.debug])
def test_sharded_jit_calls_once_with_the_full_array(call):
    """Sharded jit: exactly one call with the full array; ordered io too."""

    @both
    def outcome(library, record):
        return jax.jit(lambda x: call(library, record, x) * 2)(sharded())

    assert outcome.calls == [WHOLE]
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@flavours.each([flavours.pure, flavours.io, flavours.ordered_io, flavours.debug])
def test_sharded_jit_with_replicated_input_and_out_shardings(call):
    """Sharded jit: one call however the value is spread."""

    @both
    def outcome(library, record):
        f = jax.jit(
            lambda x: call(library, record, x) * 2, out_shardings=NamedSharding(MESH, P("i"))
        )
        return f(sharded(P()))

    assert outcome.calls == [WHOLE]
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@flavours.each([flavours.pure, flavours.io])
def test_eager_call_with_a_sharded_argument(call):
    """One call with the full array, eager too."""

    @both
    def outcome(library, record):
        return call(library, record, sharded())

    assert outcome.calls == [WHOLE]


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
@pytest.mark.parametrize("index", [0, 3])
def test_sharding_chooses_the_device(flavour, index):
    """Sharded jit: exactly one call, on device 0 or on `sharding=`'s device."""

    def program(library, record):
        callback = getattr(library, flavour)
        placed = SingleDeviceSharding(MESH.devices[index])
        f = jax.jit(lambda x: callback(record, x, x, sharding=placed) * 2)
        return f(sharded())

    outcome = both(program)
    assert outcome.calls == [WHOLE]
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_sharding_is_in_the_lowered_program(flavour):
    """The partitioner is given the device of `sharding=`."""
    for library in LIBRARIES:
        callback = getattr(library, flavour)
        placed = SingleDeviceSharding(MESH.devices[3])

        def f(x, callback=callback, placed=placed):
            return callback(Recorder(), x, x, sharding=placed)

        assert "maximal_mesh_3" in jax.jit(f).lower(sharded()).as_text()


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_only_single_device_shardings_are_accepted(flavour):
    """SingleDeviceSharding only."""

    def program(library, record):
        callback = getattr(library, flavour)
        x = sharded()
        placed = x.sharding
        return jax.jit(lambda x: callback(record, x, x, sharding=placed))(x)

    both_raise(program, NotImplementedError, "only supports SingleDeviceSharding")


@flavours.each([flavours.pure, flavours.io, flavours.debug])
def test_pmap_calls_once_per_device(call):
    """pmap: one call per device on its shard."""

    @both_in_any_order
    def outcome(library, record):
        return jax.pmap(lambda x: call(library, record, x) * 2)(jnp.arange(8.0))

    assert outcome.sorted_calls == WHOLE
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@flavours.each([flavours.io, flavours.ordered_io, flavours.debug, flavours.ordered_debug])
def test_donated_inputs_still_show_the_original_value(call):
    """Donated inputs still show the original value."""

    @both
    def outcome(library, record):
        @functools.partial(jax.jit, donate_argnums=0)
        def f(x):
            call(library, record, x)
            return x + 1

        x = jnp.arange(3.0)
        value = f(x)
        assert x.is_deleted()
        return value

    assert outcome.calls == [[0.0, 1.0, 2.0]]
    assert outcome.value.tolist() == [1.0, 2.0, 3.0]


@flavours.each(flavours.ALL)
def test_the_result_stays_on_the_device_of_the_arguments(call):
    """A program on device 5 leaves its result there."""

    @both
    def outcome(library, record):
        x = jax.device_put(jnp.float32(3), devices(6)[-1])
        value = jax.jit(lambda x: call(library, record, x) * 2)(x)
        return value, sorted(device.id for device in value.devices())

    assert outcome.value == (6.0, [5])
    assert outcome.calls == [3.0]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("explicit", [False, True])
@flavours.each([flavours.pure, flavours.io, flavours.debug])
def test_scan_and_vmap_in_a_sharded_program(call, explicit):
    """Loops and lanes in a program over several devices."""

    @both_in_any_order
    def outcome(library, record):
        kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((4,), ("i",), axis_types=(kind,), devices=devices(4))
        x = jax.device_put(jnp.arange(8.0), NamedSharding(mesh, P()))

        def body(carry, y):
            return carry, call(library, record, y)

        return jax.jit(lambda x: jax.lax.scan(body, 0.0, x)[1])(x)

    assert outcome.value.tolist() == WHOLE
    assert outcome.sorted_calls == WHOLE
