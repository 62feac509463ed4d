"""The tour: every chapter in order, each example shown and run, and a measured table at the end."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Sequence

import jax

from callbax._tour import benchmark, information
from callbax._tour.chapters import CHAPTERS
from callbax._tour.examples import Chapter, Example
from callbax._tour.pages import Page

NEEDS = {
    "bessel": ("scipy", "the Bessel function"),
    "digits": ("scikit-learn", "training on real data"),
}
DEVICES = "devices"  # a chapter that needs several, with which other programs are slower
INSTALL = "pip install 'callbax[tour]'"

WELCOME = """
JAX compiles your program, and callbacks let it call back into Python while it runs: to print a
value, to log, to use a library that JAX does not know. What follows are the examples of JAX's guide
to external callbacks, with callbax's functions in place of JAX's, and here and there what callbax
adds. The code that you see is the code that runs, and each example checks what came out.
"""
IMPORTS = """
import jax
import jax.numpy as jnp
import numpy as np

import callbax
"""
FLAVOURS = (
    ("", "returns values", "runs if unused", "keeps order", "vmap", "grad"),
    (
        ("pure_callback", "yes", "no", "no", "yes", "by your rule"),
        ("io_callback", "yes", "yes", "no", "yes", "if not differentiated"),
        ("io_callback, ordered=True", "yes", "yes", "yes", "no", "if not differentiated"),
        ("debug.callback, debug.print", "no", "usually", "if ordered", "yes", "passes through"),
    ),
)
MEASURED = """
Net cost of one callback with a scalar argument on this machine: the time above the same program
without it, median of interleaved rounds, ± half the distance of their quartiles. `python -m callbax
bench` measures more of it.
"""


def run_tour(page: Page, chapters: Sequence[str] = ()) -> bool:
    """Shows and runs those chapters, or everything; returns whether every example passed its check."""
    start = time.perf_counter()
    if DEVICES in chapters:
        _provide_devices()
    passed = _run_chapters(page, chapters) if chapters else _run_all(page)
    seconds = time.perf_counter() - start
    failed = passed.count(False)
    page.title("The end")
    page.paragraph(
        f"{len(passed)} example{'s' * (len(passed) != 1)} ran in {seconds:.0f} s; "
        + (f"{failed} FAILED." if failed else "all came out as they should.")
    )
    return not failed


def _provide_devices() -> None:
    """Several CPU devices, unless JAX has started, or the user says how many."""
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", 4)


def _run_all(page: Page) -> list[bool]:
    page.title("A tour of callbax")
    page.paragraph(", ".join(f"{name} {version}" for name, version in information.versions()))
    if not information.is_installed("rich"):
        page.paragraph(f"Left out: colours, which need rich: {INSTALL}")
    page.paragraph(WELCOME)
    page.code(IMPORTS.strip())
    page.table(*FLAVOURS, "The four flavours")
    passed = _run_chapters(page, CHAPTERS)
    page.title("What it costs")
    page.paragraph(MEASURED)
    benchmark.run_small_table(page)
    return passed


def _run_chapters(page: Page, chapters: Sequence[str]) -> list[bool]:
    with jax.default_device(jax.devices("cpu")[0]):
        return [outcome for name in chapters for outcome in _run_chapter(page, name)]


def _run_chapter(page: Page, name: str) -> list[bool]:
    if name in NEEDS:
        package, subject = NEEDS[name]
        if not information.is_installed(package):
            page.paragraph(f"Left out: {subject}, which needs {package}: {INSTALL}")
            return []
    if name == DEVICES and len(jax.devices("cpu")) < 4:
        page.paragraph(f"Left out: several devices: python -m callbax tour --chapter {DEVICES}")
        return []
    chapter: Chapter = importlib.import_module(f"callbax._tour.chapters.{name}").chapter
    page.title(chapter.title)
    page.paragraph(chapter.introduction)
    return [_run_example(page, example) for example in chapter.examples]


def _run_example(page: Page, example: Example) -> bool:
    page.heading(example.title)
    if example.explanation:
        page.paragraph(example.explanation)
    page.code(example.code)
    outcome = example.run()
    page.output(outcome.output or "(no output)")
    if outcome.failure is not None:
        page.failure(outcome.failure)
    return outcome.failure is None
