"""Programs of all kinds, in a module that both the process that saves them and the others import.

`report(write, directory)` saves each in all ways, and `report(read, directory)` loads and calls them, in
a process that has not traced them.
"""

import concurrent.futures
import contextlib
import ctypes
import io
import json
import logging
import os
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.experimental import serialize_executable
from scipy.special import cython_special

import callbax as cb
import callbax.scipy.special as special

X = np.float32([0.5, 1.5, 2.5])
VECTOR = jax.ShapeDtypeStruct(X.shape, X.dtype)
SCALAR = jax.ShapeDtypeStruct((), X.dtype)

seen = []  # what functions with effects were called with


def double(x):
    return 2 * x


def record(x):
    seen.append(np.asarray(x).tolist())
    return 2 * x


def record_tree(tree, *, scale):
    seen.append([np.asarray(tree["a"]).tolist(), np.asarray(scale).tolist()])


def external(function=None, **options):
    options.setdefault("result", cb.like(0))
    return cb.external(function, **options)


@external
def triple(x):
    return 3 * x


@external(effects="io")
def recorded(x):
    return record(x)


@external(effects="ordered")
def recorded_in_order(x):
    return record(x)


@external(out=True, zero_copy=True)
def written(x, out):
    np.multiply(x, 4, out=out)


@external(arrays="jax")
def in_jax(x):
    return jnp.sin(x)


@cb.external(signature="(n)->()")
def total(x):
    return x.sum()


@external(vmap_method="threads")
def on_threads(x):
    return {"x": 5 * x["x"]}


@external(vmap_method="broadcast_all")
def whole(x):
    return 6 * x


@external(executor=lambda: concurrent.futures.ThreadPoolExecutor(2))
def on_executor(x):
    return 7 * x


lambda_with_name = external(lambda x: 8 * x, name="travelling.times_eight")


@cb.external(result="broadcast")
def sine(x):
    return np.sin(x)


sine.defjvps(lambda t, answer, x: t * jnp.cos(x))


@cb.external(result="broadcast")
def host_sine(x):
    return np.sin(x)


host_sine.def_host_jvp(lambda primals, tangents: np.cos(primals[0]) * tangents[0])
host_sine.def_host_vjp(lambda primals, result, ct: (np.cos(primals[0]) * ct,))

threaded_sine = external(lambda x: np.sin(x), name="travelling.sine", vmap_method="threads")
threaded_sine.def_host_vjp(lambda primals, result, ct: (np.cos(primals[0]) * ct,))

kept_sine = external(lambda x: (np.sin(x), np.cos(x)), name="travelling.kept_sine")
kept_sine.def_host_vjp(lambda primals, result, ct, cosine: (cosine * ct,), residuals=True)


@external(vmap_method="threads")
def kept_on_threads(x):
    return np.sin(x), np.cos(x)


kept_on_threads.def_host_vjp(lambda primals, result, ct, cosine: (cosine * ct,), residuals=True)

linear = external(lambda x: 2 * x[::-1], name="travelling.linear")
linear.def_transpose(lambda ct: 2 * ct[::-1])


@cb.external(result="broadcast", derivative="central")
def central(x):
    return np.sin(x)


@cb.external(result="broadcast", derivative="complex_step")
def complex_step(x):
    return np.sin(x)


cosine = cb.ufunc(np.cos, derivatives=[lambda x: -jnp.sin(x)])
matmul = cb.ufunc(np.matmul)
libm = ctypes.CDLL("libm.so.6")
libm.cbrt.restype, libm.cbrt.argtypes = ctypes.c_double, [ctypes.c_double]
cube_root = cb.native(libm.cbrt, derivative="central")
parallel_root = cb.native(libm.cbrt, parallel=True)
digamma = cb.native(cython_special.__pyx_capi__["__pyx_fuse_1psi"])
if library := os.environ.get("KERNEL_LIBRARY"):
    twice = cb.native(ctypes.CDLL(library).twice, kernel=True, result=lambda x: x)


def then(effect, result=lambda x: x + 1):
    """A function with an effect that gives another result."""

    def function(x):
        effect(x)
        return result(x)

    return function


def summed(function):
    return lambda x: function(x).sum()


def where(function):
    return jax.vmap(lambda x: function.call_where(x > 1, x, otherwise=-1))


def in_scan(function):
    return lambda x: jax.lax.scan(lambda c, x: (function(c) + x, None), x[0], x)[0]


PROGRAMS = {
    "pure": lambda x: cb.pure_callback(double, VECTOR, x),
    "pure, a ufunc of NumPy": lambda x: cb.pure_callback(np.sin, VECTOR, x),
    "pure, a given name": lambda_with_name,
    "pure, vmap": jax.vmap(lambda x: cb.pure_callback(double, SCALAR, x)),
    "pure, vmap, at once": jax.vmap(
        lambda x: cb.pure_callback(double, SCALAR, x, vmap_method="broadcast_all")
    ),
    "pure, scan": in_scan(lambda x: cb.pure_callback(double, SCALAR, x)),
    "io": lambda x: cb.io_callback(record, VECTOR, x),
    "io, unused": then(lambda x: cb.io_callback(record, VECTOR, x)),
    "io, without a result": then(lambda x: cb.io_callback(record_tree, None, {"a": x}, scale=x[0])),
    "io, scan": in_scan(lambda x: cb.io_callback(record, SCALAR, x)),
    "io, ordered": lambda x: cb.io_callback(record, VECTOR, x, ordered=True),
    "debug.callback": then(lambda x: cb.debug.callback(record, x)),
    "debug.callback, ordered": then(lambda x: cb.debug.callback(record, x, ordered=True)),
    "debug.print": then(lambda x: cb.debug.print("{} {y:.2f}", x, y=x[0])),
    "debug.print, ordered": then(lambda x: cb.debug.print("( {}", x, ordered=True)),
    "debug.print, text": then(lambda x: cb.debug.print("{}: {} {n}", "x", x, n="!")),
    "debug.log": then(lambda x: cb.debug.log("logged {}", x)),
    "external": triple,
    "external, io": recorded,
    "external, ordered": recorded_in_order,
    "external, out": written,
    "external, arrays=jax": in_jax,
    "external, signature": total,
    "threads": jax.vmap(lambda x: on_threads({"x": x})["x"]),
    "executor": jax.vmap(on_executor),
    "call_where": where(triple),
    "call_where, threads": where(external(double, vmap_method="threads")),
    "call_where, at once": where(whole),
    "call_where, executor": where(on_executor),
    "JAX rule": sine,
    "JAX rule, grad": jax.grad(summed(sine)),
    "host rules": host_sine,
    "host vjp": jax.grad(summed(host_sine)),
    "host jvp": lambda x: jax.jvp(host_sine, (x,), (x,))[1],
    "host vjp, threads": jax.vmap(jax.grad(threaded_sine)),
    "host vjp, live lanes": jax.grad(summed(where(threaded_sine))),
    "residuals": kept_sine,
    "residuals, grad": jax.grad(summed(kept_sine)),
    "residuals, threads": jax.vmap(kept_on_threads),
    "residuals, threads, grad": jax.vmap(jax.grad(kept_on_threads)),
    "residuals, live lanes": jax.grad(summed(where(kept_sine))),
    "transpose": jax.grad(summed(linear)),
    "central": central,
    "central, grad": jax.grad(summed(central)),
    "complex step, grad": jax.grad(summed(complex_step)),
    "ufunc": cosine,
    "gufunc": lambda x: matmul(x, x),
    "native": cube_root,
    "native, parallel": parallel_root,
    "native, Cython": digamma,
    "scipy.special": lambda x: special.jv(1.0, x),
    "scipy.special, grad": jax.grad(summed(special.gammaln)),
}
if library:
    PROGRAMS["kernel"] = twice
# Those that have a derivative of their own are differentiated after they were loaded, too.
DIFFERENTIABLE = [
    "JAX rule",
    "host rules",
    "residuals",
    "central",
    "ufunc",
    "native",
    "scipy.special",
]
# Called on the calling thread, for which JAX 0.10 has no place in its cache.
NOT_CACHED = [name for name in PROGRAMS if name.startswith("residuals") and "grad" in name]
NOT_CACHED += ["residuals, live lanes"]
# Elementwise, so that they take any number of items, or are vmapped over them.
SYMBOLIC = {
    "threads": PROGRAMS["threads"],
    "call_where": where(triple),
    "call_where, at once": where(whole),
    "io": jax.vmap(lambda x: cb.io_callback(record, SCALAR, x)),
    "debug.print": then(jax.vmap(lambda x: cb.debug.print("{}", x))),
    "host vjp": jax.vmap(jax.grad(host_sine)),
    "signature": lambda x: total(jnp.stack([x, x], 1)),
    "ufunc": cosine,
    "gufunc": jax.vmap(lambda x: matmul(jnp.stack([x, x]), jnp.stack([x, x]))),
    "native": cube_root,
    "scipy.special": jax.grad(summed(special.gammaln)),
}


def watched(function, *args):
    """The result, and what the functions with effects saw, printed and logged."""
    seen.clear()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        result = np.asarray(function(*args)).tolist()
        cb.effects_barrier()
    return [result, list(seen), output.getvalue()]


class Reports(dict):
    """What came of each program: "ok", or the error."""

    @contextlib.contextmanager
    def of(self, name):
        try:
            yield
            self.setdefault(name, "ok")
        except Exception as error:  # noqa: BLE001 - it is what is reported
            self[name] = f"{type(error).__name__}: {error}"


def exported(function, argument=X, **options):
    return export.export(jax.jit(function), disabled_checks=cb.EXPORT_CHECKS, **options)(argument)


def cached(function):
    """A compiled program, and whether it was found in JAX's persistent cache."""
    events = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    lowered = jax.jit(function).lower(X)
    events.clear()
    compiled = lowered.compile()
    return compiled, "/jax/compilation_cache/cache_hits" in events


def write(directory):
    warnings.simplefilter("error", cb.ExportWarning)
    any_number = jax.ShapeDtypeStruct(export.symbolic_shape("n"), X.dtype)
    saved, reports = {}, {}
    for name, function in PROGRAMS.items():
        compiled, _ = cached(function)
        orders = {"vjp_order": 1} if name in DIFFERENTIABLE else {}
        saved["expected", name] = watched(compiled, X)
        saved["export", name] = exported(function).serialize(**orders)
        saved["executable", name] = pickle.dumps(serialize_executable.serialize(compiled))
    for name, function in SYMBOLIC.items():
        saved["expected", name, "symbolic"] = watched(jax.jit(function), X)
        program = exported(function, any_number, platforms=("cpu", "cuda"))
        saved["symbolic", name] = program.serialize()
    with open(f"{directory}/programs", "wb") as file:
        pickle.dump(saved, file)
    return reports


def read(directory):
    with open(f"{directory}/programs", "rb") as file:
        saved = pickle.load(file)
    cb.allow("travelling:*")
    if library:
        cb.allow(twice)
    reports = {}
    for kind in ("export", "symbolic", "executable", "cache"):
        report = reports[kind] = Reports()
        for name in SYMBOLIC if kind == "symbolic" else PROGRAMS:
            if kind == "cache" and name in NOT_CACHED and jax.__version_info__ < (0, 11):
                continue
            with report.of(name):
                expected = saved["expected", name, *(["symbolic"] if kind == "symbolic" else [])]
                if kind == "cache":
                    program, hit = cached(PROGRAMS[name])
                    assert hit, "not found in the cache"
                elif kind == "executable":
                    program = serialize_executable.deserialize_and_load(
                        *pickle.loads(saved[kind, name])
                    )
                else:
                    program = export.deserialize(bytearray(saved[kind, name])).call
                found = watched(program, X)
                assert found == expected, f"{found} instead of {expected}"
                if kind == "export" and name in DIFFERENTIABLE:
                    slope, known = (jax.grad(summed(f))(X) for f in (program, PROGRAMS[name]))
                    assert np.allclose(slope, known), f"{slope} instead of {known}"
    return reports


def report(role, directory):
    """Does one of the two, and prints what came of it."""
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logging.getLogger("callbax.debug").addHandler(handler)
    print(json.dumps(role(directory)))
