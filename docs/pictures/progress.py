"""Records what progress bars look like, for docs/tools.md.

    pip install 'callbax[progress]'
    python docs/pictures/progress.py

Each program runs in a terminal of its own, or in a pipe. What it has written, up to some second or to
its end, becomes a picture by rich.
"""

import os
import pathlib
import pty
import re
import subprocess
import sys
import termios
import time

from rich.console import Console
from rich.text import Text

FOLDER = pathlib.Path(__file__).parent
BEFORE = """
import logging, time
import jax, jax.numpy as jnp
import callbax as cb
from callbax import tools

def work(x, seconds):
    cb.debug.callback(lambda _: time.sleep(seconds), x)

"""
TRAINING = """
bar = tools.Progress(label="train")

def step(x, i):
    work(x, 0.02)
    bar.step(loss=(x - 3) ** 2, rate=0.1)
    jax.lax.cond(i % 50 == 0, lambda: cb.debug.print("step {}: x = {:.3f}", i, x), lambda: None)
    return x - 0.02 * (x - 3), None

jax.jit(jax.vmap(lambda x: tools.scan(step, x, jnp.arange(200), progress=bar)[0]))(jnp.array([0.0, 9.0]))
"""
NESTED = """
def epoch(x, i):
    def batch(x, i):
        work(x, 0.02)
        return 0.9 * x, None
    return tools.scan(batch, x, jnp.arange(30), progress="batches")

jax.jit(lambda x: tools.scan(epoch, x, jnp.arange(8), progress="epochs")[0])(1.0)
"""
FAILING = """
def check(x):
    if x > 1e3:
        raise FloatingPointError(f"the loss is {x:.4g}")

def step(x, i):
    work(x, 0.02)
    cb.debug.callback(check, x)
    return 1.1 * x, None

try:
    jax.jit(lambda x: tools.scan(step, x, jnp.arange(200), progress="train")[0])(1.0)
except jax.errors.JaxRuntimeError as error:
    print("caught", repr(cb.original_exception(error)))
"""
# The picture: the program, the width of its terminal (None: a pipe), and the second of the picture.
PICTURES = {
    "progress-80": (TRAINING, 80, 3.0),
    "progress-120": (TRAINING, 120, 3.0),
    "progress-nested": (NESTED, 80, 3.0),
    "progress-failing": (FAILING, 80, None),
    "progress-pipe": (TRAINING, None, None),
}


def written(program: str, columns: int | None, second: float | None) -> str:
    """What the program writes, until so long after its first byte."""
    if columns is None:
        ours, theirs = os.pipe()
    else:
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, columns))
    command = [sys.executable, "-W", "ignore", "-c", BEFORE + program]
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, env={**variables, "TERM": "xterm-256color"}, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    chunks, first = [], None
    try:
        while chunk := os.read(ours, 65536):
            first = first or time.monotonic()
            chunks.append(chunk)
            if second is not None and time.monotonic() - first > second:
                process.kill()
                break
    except OSError:  # the program has ended, and its terminal with it
        pass
    os.close(ours)
    process.wait()
    return b"".join(chunks).decode()


def screen(text: str) -> str:
    """The lines that are left; rich writes whole lines, and erases whole ones."""
    lines, row = [""], 0
    for piece in re.split(r"(\x1b\[\d*[AK]|\x1b\[\?25[lh]|[\r\n])", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece.startswith("\x1b[") and piece.endswith("A"):
            row -= int(piece[2:-1] or 1)
        elif piece != "\r" and not piece.startswith("\x1b[?"):
            lines[row] += piece
    return "\n".join(lines).rstrip()


def main() -> None:
    for name, (program, columns, second) in PICTURES.items():
        console = Console(record=True, width=columns or 100, file=open(os.devnull, "w"))
        text = screen(written(program, columns, second)).replace(f"{os.getcwd()}/", "")
        console.print(Text.from_ansi(text), soft_wrap=True)
        title = "in a pipe" if columns is None else f"{columns} columns"
        console.save_svg(str(FOLDER / f"{name}.svg"), title=title, unique_id=name)


if __name__ == "__main__":
    main()
