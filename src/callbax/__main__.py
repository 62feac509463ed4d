"""The command line: `python -m callbax tour | bench | info | run`."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Sequence

import callbax


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    if options.command == "run":
        return _run_program(options)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an output that has no µ and no × gets a ?
    try:
        code = _run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `... tour | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = 128 + signal.SIGINT
    return code


def _run(options: argparse.Namespace) -> int:
    from callbax._tour import benchmark, information, pages, tour

    if options.command == "tour":
        return 0 if tour.run_tour(pages.open_page(), options.chapter) else 1
    if options.command == "bench":
        page = pages.MarkdownPage() if options.markdown else pages.open_page()
        benchmark.run_benchmark(page, quick=options.quick)
    else:
        information.run_information(pages.open_page())
    return 0


def _run_program(options: argparse.Namespace) -> int:
    """Runs a program in place of this one: in a fresh interpreter, for JAX is imported in this one."""
    from callbax._install import run

    program = (options.arguments, options.module, options.program, options.rest)
    interpreter = _interpreter()
    if interpreter:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(interpreter[0], [*interpreter, *run.command_line(*program)])
    run.run_program(*program)
    return 0


def _interpreter() -> list[str]:
    """How this interpreter was started, up to `-m callbax`; nothing if not so."""
    started = sys.orig_argv
    for i, option in enumerate(started[1:-1], start=1):
        if re.fullmatch("-[A-Za-z]*m", option) and started[i + 1] == "callbax":
            rest = [] if option == "-m" else [option[:-1]]
            return [sys.executable, *started[1:i], *rest] if sys.executable else []
    return []


def _parser() -> argparse.ArgumentParser:
    from callbax._tour.chapters import CHAPTERS

    parser = argparse.ArgumentParser(
        prog="python -m callbax", description="JAX's external callbacks on a native runtime."
    )
    parser.add_argument("--version", action="version", version=callbax.__version__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    tour = commands.add_parser(
        "tour", help="show and run every example, with a table of what it costs"
    )
    tour.add_argument(
        "--chapter",
        action="append",
        default=[],
        choices=CHAPTERS,
        help="only this chapter; may be given several times",
    )
    bench = commands.add_parser("bench", help="measure callbax beside its peers (some minutes)")
    bench.add_argument("--quick", action="store_true", help="the main cases only, some seconds")
    bench.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    run = commands.add_parser(
        "run",
        help="run a program with JAX's own callbacks on callbax's runtime",
        usage="%(prog)s [--arguments {numpy,jax}] (script | -m module) ...",
        description="Runs a script or module as Python does, with callbax.install() as soon as it "
        "imports JAX.",
    )
    run.add_argument(
        "--arguments", choices=("numpy", "jax"), default="numpy", help="what callbacks get"
    )
    run.add_argument("-m", dest="module", action="store_true", help="the program is a module")
    run.add_argument("program", help="the script, or the module")
    rest = run.add_argument("rest", nargs=argparse.REMAINDER, help="the program's own arguments")
    rest.required = False  # as Python 3.11 says that they are, where the program is missing
    commands.add_parser("info", help="versions, platforms, what works, runtime statistics")
    return parser


if __name__ == "__main__":
    sys.exit(main())
