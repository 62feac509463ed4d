"""Displays in a terminal, in a pipe, in a forked child, and at the end of the process."""

import os
import pty
import re
import subprocess
import sys
import termios
import textwrap

import pytest

pytestmark = pytest.mark.process

PREAMBLE = """
import time
import jax, jax.numpy as jnp
import callbax as cb
from callbax import tools

def pause(seconds):
    def wait():
        time.sleep(seconds)
    cb.debug.callback(wait)

"""


def in_terminal(program, columns=80):
    """The exit status of a program, and what it writes to a terminal."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"there is no terminal: {error}")
    termios.tcsetwinsize(theirs, (24, columns))
    sizes = ("COLUMNS", "LINES")
    variables = {name: value for name, value in os.environ.items() if name not in sizes}
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        env={**variables, "TERM": "xterm-256color", "JAX_PLATFORMS": "cpu"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # the program has ended
        pass
    os.close(ours)
    return process.wait(timeout=60), written.decode()


class Screen:
    """The lines of a terminal after all that was written; knows what rich and tqdm write."""

    def __init__(self, written):
        self.lines, self.row, self.column = [""], 0, 0
        for piece in re.split(r"(\x1b\[[?\d;]*[A-Za-z]|[\r\n])", written):
            self._write(piece)

    def _write(self, piece):
        if piece == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif piece == "\r":
            self.column = 0
        elif piece.endswith("A") and piece.startswith("\x1b["):
            self.row -= int(piece[2:-1] or 1)
        elif piece.endswith("K") and piece.startswith("\x1b["):
            self.lines[self.row] = ""
        elif not piece.startswith("\x1b["):
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
            self.column += len(piece)

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines)


PRINTING = """
bar = tools.Progress(label="train", display={display!r})

def step(x, i):
    pause(0.01)
    bar.step(loss=x)
    cb.debug.print("the step {{}} is printed", i)
    return x / 2, None

jax.jit(lambda x: tools.scan(step, x, jnp.arange(40), progress=bar)[0])(1.0)
print("the end")
"""


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("display", ["rich", "tqdm", "auto"])
def test_what_the_program_prints_stays_whole(display, columns):
    pytest.importorskip("rich" if display == "auto" else display)
    code, written = in_terminal(PRINTING.format(display=display), columns)
    lines = Screen(written).text.split("\n")
    assert code == 0, written
    printed = [line for line in lines if "printed" in line]
    assert printed == [f"the step {i} is printed" for i in range(40)]
    assert "the end" in lines
    bars = [line for line in lines if line.startswith("train")]
    assert len(bars) == 1 and ("40/40" in bars[0] or columns == 40), bars
    assert max(map(len, lines)) <= columns
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h")  # the cursor is back


NESTED = """
def outer(x, i):
    inner = tools.fori_loop(0, 4, lambda i, x: (pause(0.02), x)[1], x, progress=inside)
    return inner, None

inside = tools.Progress(label="inner", display={display!r})
around = tools.Progress(label="outer", display={display!r})
jax.jit(lambda x: tools.scan(outer, x, jnp.arange(5), progress=around)[0])(1.0)
"""


@pytest.mark.parametrize("display", ["rich", "tqdm"])
def test_loops_in_loops_leave_the_outer_bar(display):
    pytest.importorskip(display)
    code, written = in_terminal(NESTED.format(display=display))
    assert code == 0 and "inner" in written, written
    lines = [line for line in Screen(written).text.split("\n") if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("outer") and "5/5" in lines[0], lines


FAILING = """
def fails(i):
    time.sleep(0.03)
    if i == 9:
        raise KeyError("lost")

def step(x, i):
    cb.debug.callback(fails, i)
    return x, None

bar = tools.Progress(label="train", display={display!r})
try:
    jax.jit(lambda x: tools.scan(step, x, jnp.arange(40), progress=bar)[0])(1.0)
except jax.errors.JaxRuntimeError as error:
    print("caught", type(cb.original_exception(error)).__name__)
jax.jit(lambda x: tools.scan(lambda x, _: (x, None), x, length=7, progress=bar)[0])(1.0)
"""


@pytest.mark.parametrize("display", ["rich", "tqdm"])
def test_a_failing_program_ends_its_bar_before_the_error_is_shown(display):
    pytest.importorskip(display)
    code, written = in_terminal(FAILING.format(display=display))
    assert code == 0, written
    text = Screen(written).text
    stopped, traceback = text.index("stopped"), text.index("Traceback (most recent call last)")
    assert stopped < traceback < text.index("caught KeyError") < text.index("7/7")
    assert "9/40" in text


def test_in_a_pipe_there_are_lines_of_text(run_program):
    finished = run_program(PREAMBLE + PRINTING.format(display="auto"))
    assert finished.returncode == 0, finished.output
    assert re.search(r"(?m)^train:  100%  40/40  0:0\d  .* it/s  loss=1.819e-12$", finished.output)
    assert "\x1b" not in finished.output and "\r" not in finished.output


def test_output_that_is_sent_elsewhere_stays_there(tmp_path):
    """Only what is printed to the terminal of the bars goes above them."""
    pytest.importorskip("rich")
    file = tmp_path / "output"
    program = f"import sys; sys.stdout = open({str(file)!r}, 'w')\n"
    code, written = in_terminal(program + PRINTING.format(display="rich"))
    assert code == 0 and "printed" not in written
    assert file.read_text().splitlines()[-1] == "the end"


def test_a_bar_without_an_end_ends_with_the_process(run_program):
    finished = run_program(
        PREAMBLE + "jax.jit(lambda x: tools.Progress(9, 'open').step(m=x))(2.0)\nprint('last')"
    )
    assert finished.returncode == 0
    assert re.search(r"open:  11%  1/9  0:0\d  .*m=2  stopped\n", finished.output), finished.output


def test_a_forked_child_has_bars_of_its_own(run_program):
    finished = run_program(
        PREAMBLE
        + """
import os
from callbax.tools._bars import bars

bar = tools.Progress(9, 'bar')
run = bars.open(bar.key, bar, 9)
bars.begin(run)
child = os.fork()
if not child:
    child_run = bars.open(bar.key, bar, 3)
    bars.begin(child_run)
    child_run.tick(3)
    time.sleep(0.3)
    bars.end(child_run)
    os._exit(len(bars._runs))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
bars.end(run)
""",
        environment={"PYTHONWARNINGS": "ignore"},
    )
    assert finished.returncode == 0, finished.output
    assert re.search(r"(?m)^bar:  100%  3/3", finished.output), finished.output


def test_ctrl_c_ends_the_bar_and_the_program(run_program):
    finished = run_program(
        PREAMBLE
        + """
def program(x):
    cb.debug.callback(lambda: print("ready", flush=True))
    return tools.fori_loop(0, 10**9, lambda i, x: jnp.sin(x), x, progress="long")

jax.jit(program)(1.0)
""",
        interrupt=True,
    )
    assert "KeyboardInterrupt" in finished.output
    assert finished.returncode != 0 and finished.seconds_after_signal < 20
    assert re.search(r"long:  .*stopped", finished.output), finished.output


@pytest.mark.parametrize("display", ["none", "text"])
def test_rich_and_tqdm_are_imported_when_they_show_something(display):
    program = PREAMBLE + (
        f"bar = tools.Progress(label='a', display={display!r})\n"
        "tools.scan(lambda x, _: (x, None), 1.0, length=2, progress=bar)\n"
        "import sys; print(*({'rich', 'tqdm'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert finished.stdout.split() == []
