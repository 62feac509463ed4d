"""The pieces of work that are measured.

Each builder takes the libraries and returns a case with one contender for each of them that can do
the work. Host functions get float32 scalars unless the title says otherwise.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import callbax
from callbax._tour.measure import BASELINE, Case
from callbax._tour.peers import Peer

Run = Callable[[], Any]

SCALAR = jax.ShapeDtypeStruct((), np.float32)
START = np.float32(1)
SIZES = {
    "4 B": 4,
    "4 KiB": 2**12,
    "64 KiB": 2**16,
    "1 MiB": 2**20,
    "16 MiB": 2**24,
    "64 MiB": 2**26,
    "256 MiB": 2**28,
}


def identity(x: np.ndarray) -> np.ndarray:
    return x


def add_one(x: np.ndarray) -> np.ndarray:
    return np.add(x, np.float32(1))


def first(*arguments: np.ndarray) -> np.ndarray:
    return arguments[0]


def ignore(x: np.ndarray) -> None:
    pass


def contenders(
    peers: Sequence[Peer],
    flavour: str,
    program: Callable[[Callable[..., Any]], Run],
    baseline: Run | None = None,
) -> dict[str, Run]:
    """One for each library that has the flavour; `program` makes it from the library's function.

    The baseline comes first, so that it runs right before what it is compared with most closely.
    """
    runs = {} if baseline is None else {BASELINE: baseline}
    for peer in peers:
        function = getattr(peer, flavour)
        if function is not None and peer.does_work:
            runs[peer.name] = program(function)
    return runs


# -- in a scan -------------------------------------------------------------------------------------
def scan(steps: int, body: Callable[[jax.Array], jax.Array], start: Any = START) -> Run:
    def step(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
        return body(carry) * 0.5, None

    program = jax.jit(lambda x: jax.lax.scan(step, x, None, length=steps)[0])
    x = jnp.asarray(start)

    def run() -> None:
        program(x).block_until_ready()
        callbax.effects_barrier()

    return run


def loop(steps: int, function: Callable[[Any], Any]) -> Run:
    """The same calls without JAX."""

    def run() -> None:
        x = np.array(1, np.float32)
        for _ in range(steps):
            function(x)

    return run


def scan_step(peers: Sequence[Peer], function: Callable[..., Any] = identity) -> Case:
    steps = 1000
    runs = {BASELINE: scan(steps, lambda x: x)}
    for peer in peers:
        if peer.does_work or function is identity:
            runs[peer.name] = scan(steps, partial(peer.pure, function, SCALAR))
    runs["Python loop"] = loop(steps, function)
    work = "returns its argument" if function is identity else "NumPy addition"
    return Case(f"lax.scan step, pure callback, {work}", "step", steps, runs)


def scan_step_of_eight(peers: Sequence[Peer]) -> Case:
    steps = 1000
    others = [jnp.float32(i) for i in range(7)]

    def program(pure: Callable[..., Any]) -> Run:
        return scan(steps, lambda x: pure(first, SCALAR, x, *others))

    runs = contenders(peers, "pure", program, scan(steps, lambda x: x))
    return Case("lax.scan step, pure callback, 8 arguments", "step", steps, runs)


def scan_step_ordered(peers: Sequence[Peer]) -> Case:
    steps = 1000

    def program(ordered_io: Callable[..., Any]) -> Run:
        return scan(steps, partial(ordered_io, identity, SCALAR))

    runs = contenders(peers, "ordered_io", program, scan(steps, lambda x: x))
    runs["Python loop"] = loop(steps, identity)
    return Case("lax.scan step, ordered io callback", "step", steps, runs)


def scan_step_print(peers: Sequence[Peer]) -> Case:
    steps = 500

    def quietly(run: Run) -> Run:
        def quiet_run() -> None:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
                run()

        return quiet_run

    def program(debug_print: Callable[..., Any]) -> Run:
        def body(x: jax.Array) -> jax.Array:
            debug_print("x = {}", x)
            return x

        return quietly(scan(steps, body))

    runs = contenders(peers, "print", program, quietly(scan(steps, lambda x: x)))
    runs["Python loop"] = quietly(loop(steps, lambda x: print(f"x = {x}")))
    return Case("lax.scan step, debug.print to /dev/null", "print", steps, runs)


# -- a call of a jitted function -------------------------------------------------------------------
def calls(count: int, body: Callable[..., jax.Array], *arguments: jax.Array) -> Run:
    program = jax.jit(body)

    def run() -> None:
        for _ in range(count):
            program(*arguments).block_until_ready()
        callbax.effects_barrier()

    return run


def jit_call(peers: Sequence[Peer], arguments: int = 1) -> Case:
    count = 100
    values = [jnp.float32(i) for i in range(arguments)]

    def program(pure: Callable[..., Any]) -> Run:
        return calls(count, lambda *args: pure(first, SCALAR, *args) + 1, *values)

    baseline = calls(count, lambda *args: sum(args) + jnp.float32(1), *values)
    runs = contenders(peers, "pure", program, baseline)
    plural = "s" if arguments > 1 else ""
    return Case(f"jitted call, pure callback, {arguments} argument{plural}", "call", count, runs)


def effectful_call(peers: Sequence[Peer], flavour: str) -> Case:
    count = 50
    x = jnp.float32(1)

    def apply(function: Callable[..., Any], x: jax.Array) -> jax.Array:
        if flavour == "debug":
            function(ignore, x)
            return x + 1
        return function(identity, SCALAR, x) + 1

    def program(function: Callable[..., Any]) -> Run:
        return calls(count, partial(apply, function), x)

    runs = contenders(peers, flavour, program, calls(count, lambda x: x + 1, x))
    name = {"io": "io callback", "ordered_io": "ordered io callback", "debug": "debug.callback"}
    return Case(f"jitted call, {name[flavour]}", "call", count, runs)


# -- batches and sizes -----------------------------------------------------------------------------
def vmap_lanes(peers: Sequence[Peer]) -> Case:
    """No baseline: the same program without the callback runs on another thread, and it is the
    waking of that thread that would be measured."""
    lanes = 1000
    x = jnp.arange(lanes, dtype=np.float32)

    def program(pure: Callable[..., Any]) -> Run:
        return calls(1, jax.vmap(lambda x: pure(identity, SCALAR, x) + 1), x)

    runs = contenders(peers, "pure", program)
    runs["Python loop"] = loop(lanes, identity)
    return Case("vmap, sequential, 1000 lanes", "lane", lanes, runs)


def echo(peers: Sequence[Peer], size: str) -> Case:
    """As many bytes out as in. The limit copies them twice: one copy in, one out."""
    elements = SIZES[size] // 4
    count = max(1, min(200, 2**22 // SIZES[size]))
    x = jnp.ones(elements, np.float32)
    result = jax.ShapeDtypeStruct(x.shape, x.dtype)
    source, inside, outside = (np.ones(elements, np.float32) for _ in range(3))

    def copy_twice() -> None:
        for _ in range(count):
            np.copyto(inside, source)
            np.copyto(outside, inside)

    runs = contenders(peers, "pure", lambda pure: calls(count, partial(pure, identity, result), x))
    runs["memcpy, twice"] = copy_twice
    return Case(f"jitted call, {size} in, {size} out", "call", count, runs)


CASES: dict[str, Callable[[Sequence[Peer]], Case]] = {
    "scan": scan_step,
    "scan, NumPy": partial(scan_step, function=add_one),
    "scan, 8 arguments": scan_step_of_eight,
    "scan, ordered": scan_step_ordered,
    "scan, print": scan_step_print,
    "jit": jit_call,
    "jit, 8 arguments": partial(jit_call, arguments=8),
    "jit, io": partial(effectful_call, flavour="io"),
    "jit, ordered io": partial(effectful_call, flavour="ordered_io"),
    "jit, debug": partial(effectful_call, flavour="debug"),
    "vmap": vmap_lanes,
    **{size: partial(echo, size=size) for size in SIZES},
}
QUICK = ("scan", "scan, ordered", "jit", "vmap")
