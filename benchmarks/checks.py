"""What a check costs in a scan while nothing fails: beside the bare predicate, equinox and checkify.

Nanoseconds a step, the medians of runs by turns. "predicate" computes whether a value is finite and
keeps the answer; all others compute it as well, and fail in their way. What cannot be imported is
left out.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import checkify

from callbax import tools

STEPS = 10_000
ROUNDS = 15
SIZES = (1, 16, 256, 4096)
State = tuple[Any, Any]


def nothing(x: Any, failed: Any) -> State:
    return x, failed


def predicate(x: Any, failed: Any) -> State:
    return x, failed | ~jnp.isfinite(x).all()


def check_finite(x: Any, failed: Any) -> State:
    return tools.check_finite(x, "x"), failed


def raise_if(x: Any, failed: Any) -> State:
    return tools.raise_if(x, ~jnp.isfinite(x).all(), FloatingPointError), failed


def equinox_error_if(x: Any, failed: Any) -> State:
    import equinox

    return equinox.error_if(x, ~jnp.isfinite(x).all(), "not finite"), failed


def checkify_check(x: Any, failed: Any) -> State:
    checkify.check(jnp.isfinite(x).all(), "not finite")
    return x, failed


def program(check: Callable[[Any, Any], State]) -> Callable[[Any], Any]:
    def step(state: State, _: Any) -> tuple[State, None]:
        x, failed = state
        return check(jnp.sin(x) * 1.5 + 0.1, failed), None

    def run(x: Any) -> Any:
        return jax.lax.scan(step, (x, jnp.bool_(False)), None, length=STEPS)[0]

    return jax.jit(checkify.checkify(run) if check is checkify_check else run)


def seconds(function: Callable[[Any], Any], x: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(x))
    return time.perf_counter() - start


def main() -> None:
    checks = [nothing, predicate, check_finite, raise_if, checkify_check]
    if importlib.util.find_spec("equinox"):
        checks.append(equinox_error_if)
    print("| ns a step, by elements | " + " | ".join(map(str, SIZES)) + " |")
    print("|---|" + "--:|" * len(SIZES))
    medians: dict[str, list[float]] = {check.__name__: [] for check in checks}
    for size in SIZES:
        x = jnp.full(size, 0.5)
        programs = {check.__name__: program(check) for check in checks}
        for function in programs.values():
            seconds(function, x)
        runs: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(ROUNDS):
            for name, function in programs.items():
                runs[name].append(seconds(function, x))
        for name, of_name in runs.items():
            medians[name].append(statistics.median(of_name) / STEPS * 1e9)
    for name, row in medians.items():
        print(f"| {name} | " + " | ".join(f"{value:.0f}" for value in row) + " |")
    for name in ("check_finite", "raise_if"):
        ratios = [a / b for a, b in zip(medians[name], medians["predicate"], strict=True)]
        print(f"| {name} / predicate | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
