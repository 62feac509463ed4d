"""per_shard=True: each device calls for its own part, nothing is gathered, the result stays cut."""

import contextlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import devices, error_of
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from portable_differences import IS_PORTABLE

import callbax as cb
from callbax._runtime import platforms

pytestmark = pytest.mark.skipif(IS_PORTABLE, reason="one device calls for all there")
DEVICES = devices(8)
X = (np.arange(64, dtype=np.float32).reshape(16, 4) + 1) / 64
ROW = np.float32([1, 2, 3, 4])


def mesh_of(shape, axis_type):
    names = ("i", "j")[: len(shape)]
    return Mesh(np.array(DEVICES).reshape(shape), names, axis_types=(axis_type,) * len(shape))


MESHES = {
    f"{axis_type.name} {len(shape)}-D": mesh_of(shape, axis_type)
    for axis_type in (AxisType.Auto, AxisType.Explicit)
    for shape in ((8,), (4, 2))
}
AUTO = MESHES["Auto 1-D"]
EACH_MESH = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
HAS_GSPMD = hasattr(jax.config, "jax_use_shardy_partitioner")


class Recorded:
    """An external function per shard, and the shapes that the host was called with."""

    def __init__(self, function, **options):
        self.shapes = []

        def recorded(*args):
            self.shapes.append(args[0].shape)
            return function(*args)

        self.external = cb.external(recorded, per_shard=True, **options)

    def take(self):
        cb.effects_barrier()
        taken = self.shapes[:]
        self.shapes.clear()
        return taken


def spread(value, mesh, *spec):
    return jax.device_put(value, NamedSharding(mesh, P(*spec)))


@contextlib.contextmanager
def within(mesh):
    with jax.set_mesh(mesh) if AxisType.Explicit in mesh.axis_types else contextlib.nullcontext():
        yield


def collectives(compiled):
    found = re.findall(r" (all-[a-z-]+|collective-[a-z]+|reduce-scatter)\(", compiled.as_text())
    return {name.removesuffix("-start") for name in found}


def run(program, x):
    """The result, which is distributed as `x` is, of a program without collectives."""
    compiled = jax.jit(program).lower(x).compile()
    assert not collectives(compiled)
    result = compiled(x)
    sharding = NamedSharding(x.sharding.mesh, P(*x.sharding.spec[: result.ndim]))
    assert result.sharding.is_equivalent_to(sharding, result.ndim)
    return result


@pytest.fixture(params=["shardy", "gspmd"] if HAS_GSPMD else ["shardy"])
def partitioner(request):
    if request.param == "shardy":
        yield request.param
        return
    jax.config.update("jax_use_shardy_partitioner", False)
    yield request.param
    jax.config.update("jax_use_shardy_partitioner", True)


def sine(derivative):
    kind = "central" if derivative == "central" else None
    f = Recorded(np.sin, result="broadcast", derivative=kind)
    if derivative == "jax":
        cosine = cb.external(np.cos, result="broadcast", per_shard=True)
        f.external.defjvps(lambda tangent, answer, x: tangent * cosine(x))
    if "vjp" in derivative:
        f.external.def_host_vjp(lambda args, result, cotangent: (cotangent * np.cos(args[0]),))
    if "jvp" in derivative:
        f.external.def_host_jvp(lambda args, tangents: tangents[0] * np.cos(args[0]))
    return f


def reversed_rows():
    f = Recorded(lambda x: x[..., ::-1], signature="(n)->(n)", vmap_method="expand_dims")
    f.external.def_transpose(lambda cotangent: cotangent[..., ::-1])
    return f


def doubled_lanes():
    return Recorded(lambda x: 2 * x, result=cb.like(0), derivative="central")


# What is called, how, what it gives, its derivative, and which dimensions may be cut.
KINDS = {
    "elementwise": (
        lambda: sine("jax"),
        lambda f: f,
        np.sin,
        lambda x: np.sin(x) * np.cos(x),
        ("i", "j"),
    ),
    "signature": (reversed_rows, lambda f: f, lambda x: x[:, ::-1], lambda x: x, ("i",)),
    "vmap": (doubled_lanes, jax.vmap, lambda x: 2 * x, lambda x: 4 * x, ("i",)),
}


@EACH_MESH
@pytest.mark.parametrize("kind", KINDS)
def test_each_device_calls_for_its_own_part(kind, mesh, partitioner):
    if partitioner == "gspmd" and AxisType.Explicit in mesh.axis_types:
        pytest.skip("Explicit meshes are Shardy's")
    make, transform, expected, slope, axes = KINDS[kind]
    f = make()
    call = transform(f.external)
    x = spread(X, mesh, *(axis for axis in axes if axis in mesh.axis_names))
    part = x.sharding.shard_shape(X.shape)
    calls = [part[1:]] * (8 * part[0]) if kind == "vmap" else [part] * 8

    def twice(x):
        return jax.lax.scan(lambda carry, _: (call(carry), None), x, length=2)[0]

    with within(mesh):
        np.testing.assert_allclose(run(call, x), expected(X), rtol=1e-6)
        assert f.take() == calls
        np.testing.assert_allclose(run(twice, x), expected(expected(X)), rtol=1e-6)
        assert f.take() == 2 * calls
        slopes = run(jax.grad(lambda x: (call(x) ** 2).sum() / 2), x)
        np.testing.assert_allclose(slopes, slope(X), rtol=1e-2)


@pytest.mark.parametrize("mesh", [MESHES["Auto 2-D"], MESHES["Explicit 2-D"]], ids=str)
@pytest.mark.parametrize("derivative", ["central", "host vjp", "host jvp and host vjp"])
def test_derivatives_stay_where_the_arguments_are(derivative, mesh):
    f = sine(derivative).external
    x = spread(X, mesh, "i", "j")
    with within(mesh):
        slopes = run(jax.grad(lambda x: f(x).sum()), x)
        np.testing.assert_allclose(slopes, np.cos(X), rtol=1e-2)
        if derivative != "host vjp":  # which forward mode has to probe with a basis
            tangents = run(lambda x: jax.jvp(f, (x,), (x,))[1], x)
            np.testing.assert_allclose(tangents, X * np.cos(X), rtol=1e-2)
        lanes = run(jax.grad(lambda x: jax.vmap(f)(x).sum()), spread(X, mesh, "i"))
        np.testing.assert_allclose(lanes, np.cos(X), rtol=1e-2)


@pytest.mark.parametrize("mesh", [AUTO, MESHES["Explicit 1-D"]], ids=str)
def test_arguments_that_are_broadcast(mesh):
    f = Recorded(np.multiply, result="broadcast")
    f.external.def_host_vjp(lambda args, result, ct: (ct * args[1], ct * args[0]))
    x = spread(X, mesh, "i")
    with within(mesh):
        for other in (ROW, X[:, :1], np.float32(3), 3):
            np.testing.assert_allclose(run(lambda x, o=other: f.external(x, o), x), X * other)
            np.testing.assert_allclose(run(lambda x, o=other: f.external(o, x), x), X * other)
        assert f.take() == [(2, 4)] * 64
        slopes = run(jax.grad(lambda x: f.external(x, ROW).sum()), x)
        np.testing.assert_allclose(slopes, np.tile(ROW, (16, 1)))
        # The row is everybody's, so its cotangents have to be summed.
        program = jax.jit(jax.grad(lambda row, x: f.external(x, row).sum())).lower(ROW, x).compile()
        np.testing.assert_allclose(program(ROW, x), X.sum(0), rtol=1e-6)
        assert collectives(program) <= {"all-reduce", "all-gather"}


def test_lanes_that_share_an_argument_and_live_lanes_and_threads():
    x = spread(X, AUTO, "i")
    dot = Recorded(lambda x, row: x @ row, signature="(n),(n)->()")
    np.testing.assert_allclose(run(lambda x: dot.external(ROW, x), x), X @ ROW, rtol=1e-6)
    assert dot.take() == [(4,)] * 16
    threads = Recorded(np.sum, signature="(n)->()", vmap_method="threads")
    np.testing.assert_allclose(run(threads.external, x), X.sum(1), rtol=1e-6)
    assert threads.take() == [(4,)] * 16
    live = Recorded(np.sin, signature="()->()")
    masked = run(lambda x: live.external.call_where(x > 0.5, x), x)
    np.testing.assert_allclose(masked, np.where(X > 0.5, np.sin(X), 0), rtol=1e-6)
    assert len(live.take()) == (X > 0.5).sum()


def test_several_results_and_keys_and_small_types():
    f = Recorded(
        lambda key, n: ((n + 1).astype(n.dtype), key.sum(-1, dtype=np.uint32)),
        signature="(k),()->(),()",
        dtype=(jnp.int4, jnp.uint32),
    )
    keys = jax.random.split(jax.random.key(0), 16)
    n = spread(jnp.arange(-8, 8, dtype=jnp.int4) // 2, AUTO, "i")
    result, sums = jax.jit(f.external)(spread(keys, AUTO, "i"), n)
    assert result.sharding.spec == sums.sharding.spec == P("i")
    assert result.astype(int).tolist() == (n.astype(int) + 1).tolist()
    expected = jax.random.key_data(keys).sum(-1, dtype=jnp.uint32)
    np.testing.assert_array_equal(sums, expected)


def test_an_eager_call_stays_distributed():
    f = sine("none")
    assert f.external(spread(X, AUTO, "i")).sharding.spec == P("i")
    assert f.take() == [(2, 4)] * 8


IO = {
    "used": (8, lambda f, x: f(x)),
    "not used": (8, lambda f, x: (f(x), x)[1]),
    "twice with one argument": (16, lambda f, x: f(x) + f(x)),
    "in a loop that does not change its argument": (
        24,
        lambda f, x: jax.lax.scan(lambda c, _: (c, f(x)), 0, length=3)[1][0],
    ),
    "in a branch": (8, lambda f, x: jax.lax.cond(x[0, 0] < 1, f, lambda x: x, x)),
}


@pytest.mark.parametrize("case", IO)
def test_effects_happen_once_for_each_part(case, partitioner):
    count, program = IO[case]
    f = Recorded(np.sin, result="broadcast", effects="io")
    x = spread(X, AUTO, "i")
    compiled = jax.jit(lambda x: program(f.external, x)).lower(x).compile()
    result = compiled(x)
    assert f.take() == [(2, 4)] * count
    assert result.sharding.is_equivalent_to(x.sharding, 2)
    assert collectives(compiled) <= ({"all-reduce", "all-gather"} if "branch" in case else set())


@pytest.mark.parametrize("ranks", [0, 1])
def test_effects_without_a_result(ranks, partitioner):
    f = Recorded(lambda *_: None, result=None, effects="io")
    x = spread(X[:, 0] if ranks == 0 else X, AUTO, "i")
    compiled = jax.jit(jax.vmap(f.external)).lower(x).compile()
    compiled(x)
    assert f.take() == [x.shape[1:]] * 16
    assert not collectives(compiled)


@pytest.mark.parametrize("effects", ["none", "io"])
def test_an_error_surfaces_from_the_device_that_has_it(effects):
    def refuse(x):
        if X[5, 0] in x:
            raise ValueError("not this one")
        return x

    f = cb.external(refuse, result="broadcast", per_shard=True, effects=effects)
    error = error_of(jax.jit(f), spread(X, AUTO, "i"))
    assert str(error) == "not this one"
    assert jax.jit(f)(spread(X + 1, AUTO, "i")).shape == X.shape


def test_where_devices_call_by_themselves_it_changes_nothing():
    f = sine("none")
    mesh = MESHES["Auto 2-D"]
    each = jax.shard_map(f.external, mesh=AUTO, in_specs=P("i"), out_specs=P("i"))
    np.testing.assert_allclose(run(each, spread(X, AUTO, "i")), np.sin(X), rtol=1e-6)
    assert f.take() == [(2, 4)] * 8
    np.testing.assert_allclose(jax.jit(f.external)(X), np.sin(X), rtol=1e-6)
    assert f.take() == [(16, 4)]
    # Partly by hand: the compiler cuts what is left to it.
    partly = jax.shard_map(
        f.external, mesh=mesh, in_specs=P("i"), out_specs=P("i"), axis_names={"i"}
    )
    np.testing.assert_allclose(run(partly, spread(X, mesh, "i", "j")), np.sin(X), rtol=1e-6)
    assert f.take() == [(4, 2)] * 8


def test_on_the_portable_runtime_one_device_calls(monkeypatch):
    monkeypatch.setattr(platforms, "_setting", "portable")
    f = sine("none")
    for mesh in (AUTO, MESHES["Explicit 1-D"]):
        with within(mesh):
            result = jax.jit(f.external)(spread(X, mesh, "i"))
        np.testing.assert_allclose(result, np.sin(X), rtol=1e-6)
        assert f.take() == [(16, 4)]


def test_without_it_one_device_gathers_and_calls():
    f = cb.external(np.sin, result="broadcast")
    assert "all-gather" in collectives(jax.jit(f).lower(spread(X, AUTO, "i")).compile())


def test_the_price_of_batches_that_are_not_distributed_evenly():
    f = sine("none")
    jax.jit(f.external)(spread(X, AUTO)).block_until_ready()
    assert f.take() == [(16, 4)] * 8  # each device has, and does, everything
    result = jax.jit(lambda x: f.external(x[:15]))(spread(X, AUTO, "i"))
    np.testing.assert_allclose(result, np.sin(X[:15]), rtol=1e-6)
    assert f.take() == [(2, 4)] * 8  # 16 rows: one is padding
    columns = spread(X, MESHES["Auto 2-D"], "i", "j")
    rows = reversed_rows()
    np.testing.assert_allclose(jax.jit(rows.external)(columns), X[:, ::-1])
    assert rows.take() == [(4, 4)] * 8  # what belongs together is brought together


@pytest.mark.parametrize("effects", ["none", "io"])
def test_a_distributed_program_can_be_exported(effects):
    f = Recorded(np.sin, result="broadcast", effects=effects, name=f"sine_with_{effects}")
    x = spread(X, AUTO, "i")
    targets = ("callbax_call_per_shard", "xla_ffi_partitioned_python_gpu_callback")
    checks = [jax.export.DisabledSafetyCheck.custom_call(target) for target in targets]
    exported = jax.export.export(jax.jit(f.external), disabled_checks=checks)(x)
    np.testing.assert_allclose(jax.jit(exported.call)(x), np.sin(X), rtol=1e-6)
    assert f.take() == [(2, 4)] * 8


@pytest.mark.parametrize(
    "options, message",
    [
        ({"per_shard": True, "effects": "ordered"}, "no order across them; use effects='io'"),
        ({"per_shard": "yes"}, "per_shard='yes' is not one of False, True"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        cb.external(np.sin, result="broadcast", **options)
