"""shard_map: manual, partly automatic, ordered; and partitioned debug callbacks."""

import flavours
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EAGER_AND_JIT, both, both_in_any_order, both_raise, devices
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

import callbax

P = PartitionSpec
SPLIT = P("i")
MESH = Mesh(np.array(devices(4)), ("i",))
SQUARE = Mesh(np.array(devices(4)).reshape(2, 2), ("i", "j"))
WHOLE = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
SHARDS = [WHOLE[i : i + 2] for i in range(0, 8, 2)]
PARTIAL_AUTO = (
    "callbacks are only supported in spmd computations when all mesh axes are partitioned manually"
)
ONE_DEVICE = "ordered effects are not supported for more than 1 device"


def sharded(spec=SPLIT, mesh=MESH):
    return jax.device_put(jnp.arange(8.0), NamedSharding(mesh, spec))


def shard_map(f, spec=SPLIT, mesh=MESH, **options):
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, **options)


@pytest.mark.sampled(2)
@EAGER_AND_JIT
@flavours.each([flavours.pure, flavours.io, flavours.ordered_io, flavours.debug])
def test_manual_shard_map_calls_once_per_device_on_its_shard(call, transform):
    """Fully manual shard_map: one call per device on its shard, eager too."""

    @both_in_any_order
    def outcome(library, record):
        return transform(shard_map(lambda x: call(library, record, x) * 2))(sharded())

    assert outcome.sorted_calls == SHARDS
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@flavours.each([flavours.pure, flavours.io, flavours.ordered_io, flavours.debug])
def test_manual_shard_map_over_two_axes_with_replication(call):
    """Fully manual: each device calls, also where its shard is a copy of another's."""

    @both_in_any_order
    def outcome(library, record):
        f = shard_map(lambda x: call(library, record, x) * 2, mesh=SQUARE, check_vma=False)
        return jax.jit(f)(sharded(mesh=SQUARE))

    assert outcome.sorted_calls == [WHOLE[:4]] * 2 + [WHOLE[4:]] * 2
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@flavours.each([flavours.pure, flavours.io, flavours.debug])
def test_collectives_beside_callbacks(call):
    """Callbacks before and after a psum in shard_map."""

    @both_in_any_order
    def outcome(library, record):
        def f(x):
            total = jax.lax.psum(call(library, record, x).sum(), "i")
            return call(library, record, x + total)

        return jax.jit(shard_map(f))(sharded())

    assert outcome.sorted_calls == sorted(SHARDS + [[x + 28 for x in s] for s in SHARDS], key=repr)
    assert outcome.value.tolist() == [x + 28 for x in WHOLE]


@flavours.each([flavours.ordered_debug])
def test_ordered_debug_on_several_devices_is_an_error(call):
    """Ordered debug on more than one device: ValueError."""

    def sharded_jit(library, record):
        return jax.jit(lambda x: call(library, record, x))(sharded())

    def manual(library, record):
        return jax.jit(shard_map(lambda x: call(library, record, x)))(sharded())

    for program in (sharded_jit, manual):
        both_raise(program, ValueError, ONE_DEVICE)


@pytest.mark.parametrize("flavour", ["callback", "print"])
def test_ordered_debug_in_eager_shard_map_runs_shard_by_shard(flavour):
    """Fully manual shard_map, eager too: ordered debug runs shard by shard."""

    @both
    def outcome(library, record):
        def f(x):
            if flavour == "callback":
                library.debug.callback(record.seen, x, ordered=True)
            else:
                library.debug.print("{}", x, ordered=True)
            return x

        return shard_map(f)(sharded())

    if flavour == "callback":
        assert outcome.calls == SHARDS
    else:
        assert outcome.printed == ["[0. 1.]", "[2. 3.]", "[4. 5.]", "[6. 7.]"]


@pytest.mark.parametrize(
    ("specs", "axes"),
    [
        ((P("i"), P()), ("i", "j")),
        ((P("j"), P("i")), ("i", "j")),
        ((P(), P()), ("i", "j")),
        ((P("j"), P()), ("j",)),
    ],
    ids=str,
)
def test_debug_in_eager_shard_map_sees_what_it_sees_under_jit(specs, axes):
    """Each device calls, also with arguments that are the same on several; JAX's leaves devices out."""

    def calls(transform):
        seen = []

        def f(x, y):
            callbax.debug.callback(lambda x, y: seen.append((x.tolist(), y.tolist())), x, y)
            return x

        mapped = jax.shard_map(
            f, mesh=SQUARE, in_specs=specs, out_specs=specs[0], axis_names=set(axes)
        )
        jax.block_until_ready(transform(mapped)(jnp.arange(4.0), jnp.arange(4.0)))
        callbax.effects_barrier()
        return sorted(seen)

    eager = calls(lambda f: f)
    assert len(eager) == 2 ** len(axes)
    assert eager == calls(jax.jit)


def test_ordered_io_keeps_its_order_per_shard():
    """Ordered **io** is allowed there: order kept per shard, none across shards."""

    def program(library, record):
        def f(x):
            for i in range(4):
                flavours.ordered_io(library, record, x[0] + 100 * i)
            return x

        return jax.jit(shard_map(f))(sharded())

    outcome = both_in_any_order(program)
    for first in (0.0, 2.0, 4.0, 6.0):
        of_shard = [x for x in outcome.calls if x % 100 == first]
        assert of_shard == [first, first + 100, first + 200, first + 300]


@flavours.each([flavours.pure, flavours.io, flavours.ordered_io])
def test_partial_auto_is_an_error_for_pure_and_io(call):
    """pure/io under partial-auto: NotImplementedError."""

    def program(library, record):
        f = shard_map(
            lambda x: call(library, record, x), mesh=SQUARE, axis_names={"i"}, check_vma=False
        )
        return jax.jit(f)(sharded(mesh=SQUARE))

    both_raise(program, NotImplementedError, PARTIAL_AUTO)


def test_debug_under_partial_auto_runs_on_index_0():
    """debug works there and runs on index 0."""

    def program(library, record):
        def f(x):
            library.debug.callback(record.seen, x)
            return x * 2

        f = shard_map(f, mesh=SQUARE, axis_names={"i"}, check_vma=False)
        return jax.jit(f)(sharded(mesh=SQUARE))

    outcome = both_in_any_order(program)
    assert outcome.sorted_calls == [WHOLE[:4], WHOLE[4:]]
    assert outcome.value.tolist() == [2 * x for x in WHOLE]


@pytest.mark.parametrize("flavour", ["pure_callback", "io_callback"])
def test_sharding_inside_shard_map_is_an_error(flavour):
    """`sharding=` inside shard_map: NotImplementedError."""

    def program(library, record):
        callback = getattr(library, flavour)
        placed = SingleDeviceSharding(MESH.devices[0])
        f = shard_map(lambda x: callback(record, x, x, sharding=placed))
        return jax.jit(f)(sharded())

    both_raise(
        program,
        NotImplementedError,
        "callbacks do not support specifying sharding inside spmd computations",
    )


@pytest.mark.parametrize("flavour", ["callback", "print"])
def test_partitioned_debug_runs_on_local_shards(flavour):
    """`partitioned=True`: on local shards."""

    @both_in_any_order
    def outcome(library, record):
        def f(x):
            if flavour == "callback":
                library.debug.callback(record.seen, x, partitioned=True)
            else:
                library.debug.print("{}", x, partitioned=True)
            return x * 2

        return jax.jit(f)(sharded())

    if flavour == "callback":
        assert outcome.sorted_calls == SHARDS
    else:
        assert sorted(outcome.printed) == ["[0. 1.]", "[2. 3.]", "[4. 5.]", "[6. 7.]"]


def test_partitioned_debug_with_vmap():
    """`partitioned=True`: with vmap too."""

    @both_in_any_order
    def outcome(library, record):
        def f(x):
            library.debug.callback(record.seen, x, partitioned=True)
            return x * 2

        x = jax.device_put(jnp.arange(16.0).reshape(2, 8), NamedSharding(MESH, P(None, "i")))
        return jax.jit(jax.vmap(f))(x)

    shards = SHARDS + [[x + 8 for x in shard] for shard in SHARDS]
    assert outcome.sorted_calls == sorted(shards, key=repr)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("in_axes", [(0, 0), (0, None), (1, 0)], ids=str)
@pytest.mark.parametrize(
    "specs",
    [(P("i"), P("j")), (P("i", "j"), P("j", "i")), (P("i"), P()), (P(("i", "j")), P(("j", "i")))],
    ids=str,
)
def test_partitioned_debug_with_vmap_shows_pairs_of_equal_lanes(specs, in_axes):
    """12. `partitioned=True` under vmap: pairs of equal lanes, whatever the shardings."""

    @both_in_any_order
    def outcome(library, record):
        def show(x, y):
            library.debug.callback(record.seen, x, y, partitioned=True)

        table = np.arange(16).reshape(4, 4)
        args = (jax.device_put(table, NamedSharding(SQUARE, spec)) for spec in specs)
        return jax.jit(jax.vmap(show, in_axes))(*args)

    assert outcome.calls


def test_partitioned_debug_with_nested_vmap_in_strict_modes():
    """12. `partitioned=True` under vmap, for several batch dimensions."""

    @both_in_any_order
    def outcome(library, record):
        def show(x, y):
            library.debug.callback(record.seen, x, y, partitioned=True)

        table = np.arange(8, dtype=np.float32).reshape(2, 4)
        x, y = (jax.device_put(table, NamedSharding(SQUARE, P(*s))) for s in ("ij", "ji"))
        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            return jax.jit(jax.vmap(jax.vmap(show)))(x, y)

    assert outcome.sorted_calls == sorted([(float(i), float(i)) for i in range(8)] * 4, key=repr)


@pytest.mark.parametrize("spec", [None, (), jax.ShapeDtypeStruct((0,), np.float32)], ids=str)
def test_ordered_io_with_empty_result_in_shard_map(spec):
    """Ordered io with empty result in shard_map works."""

    @both_in_any_order
    def outcome(library, record):
        def host(x):
            return np.zeros(0, np.float32) if isinstance(spec, jax.ShapeDtypeStruct) else None

        def f(x):
            library.io_callback(record.of(host), spec, x, ordered=True)
            return x

        return jax.jit(shard_map(f))(sharded())

    assert outcome.sorted_calls == SHARDS
