"""`python -m callbax run` runs scripts of real libraries unchanged: they do the same as with JAX."""

import subprocess
import sys

import pytest
from third_party.comparison import output_lines
from third_party.conftest import ENVIRONMENT
from third_party.programs_of import HERE, missing_libraries

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

RAISE, NAN, BREAKPOINT = ({"EQX_ON_ERROR": value} for value in ("raise", "nan", "breakpoint"))


def run(script, *how, settings, typed):
    return subprocess.run(
        [sys.executable, *how, script],
        env={**ENVIRONMENT, **settings},
        input=typed,
        timeout=250,
        capture_output=True,
        text=True,
    )


SCRIPTS = {
    "a bar": ("jax_tqdm_bar", {}, "", 0),
    "errors that are caught": ("equinox_caught", RAISE, "", 0),
    "nan in place of errors": ("equinox_caught", NAN, "", 0),
    "a debugger at errors": ("equinox_caught", BREAKPOINT, "p float(x)\nup\nc\n" * 3, 0),
    "an error that ends the script": ("equinox_uncaught", RAISE, "", 1),
    "a meter and an error": ("diffrax_too_many_steps", {}, "", 1),
}


@pytest.mark.parametrize(("name", "settings", "typed", "code"), SCRIPTS.values(), ids=SCRIPTS)
def test_a_script_does_the_same(name, settings, typed, code):
    script = HERE / "scripts" / f"{name}.py"
    if missing := missing_libraries(script):
        pytest.skip(f"not installed: {', '.join(missing)}")
    theirs = run(script, settings=settings, typed=typed)
    ours = run(script, "-m", "callbax", "run", settings=settings, typed=typed)
    assert (theirs.returncode, ours.returncode) == (code, code), ours.stderr
    assert output_lines(ours.stdout) == output_lines(theirs.stdout)
    assert output_lines(ours.stderr) == output_lines(theirs.stderr)
    if settings == RAISE and code == 0:  # nothing of an error that is caught
        assert ours.stderr == theirs.stderr == ""
