"""Where a third-party program need not do the same under `callbax.install()` as with JAX's callbacks."""

import dataclasses
from fnmatch import fnmatch


@dataclasses.dataclass(frozen=True)
class Difference:
    """What is not compared of some programs.

    Attributes:
      why: the reason.
      programs: as "file:name", with wildcards.
      unseen: which observations are not compared: "value", "error", "stdout", "stderr".
      any_order: the lines of the output may come in any order.
      calls_the_host: whether the programs have callbacks at all.
      arguments: the values of install's `arguments` of which this is true.
    """

    why: str
    programs: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    any_order: bool = False
    calls_the_host: bool = True
    arguments: tuple[str, ...] = ("numpy", "jax")


DIFFERENCES = (
    Difference(
        "chains run at the same time, each on a device of its own",
        ("numpyro_bars:parallel_*",),
        any_order=True,
    ),
    Difference(
        "the bar is drawn by a thread that looks ten times a second",
        ("blackjax_bars:*",),
        unseen=("stderr",),
    ),
    Difference(
        "the library needs no callback for this",
        (
            "numpyro_bars:vectorised_chains",
            "numpyro_bars:a_loop_that_collects",
            "chex_checks:an_assertion_*",
            "diffrax_meters:too_many_steps_in_a_program_that_is_differentiated",
            "optimistix_solvers:too_few_steps_without_throwing",
        ),
        calls_the_host=False,
    ),
    Difference(
        "Numba compiles the callback for NumPy arrays, and fails for the jax Arrays that JAX hands out",
        ("jaxopt_solvers:isotonic_*",),
        unseen=("value", "error", "stderr"),
        arguments=("numpy",),
    ),
)


def differences(program, arguments):
    """The entries of the table that are about a program."""
    return [
        difference
        for difference in DIFFERENCES
        if arguments in difference.arguments
        and any(fnmatch(program, pattern) for pattern in difference.programs)
    ]
