"""What is said of versions is said once, or is the same everywhere; a JAX that is not known is named."""

import importlib.util
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import jax
import pytest

import callbax
from callbax import _versions

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TESTED = re.compile(r"JAX (\d+\.\d+)(?:\.\d+)* on Python (\d+\.\d+)")
NEWER = "import jax; jax.__version_info__ = (99, 0, 1); jax.__version__ = '99.0.1'\n"


def import_anew(monkeypatch, version, setting=None):
    """What `_versions` warns of when it is imported with this version of JAX."""
    monkeypatch.setattr(jax, "__version_info__", version)
    monkeypatch.delenv(_versions.VARIABLE, raising=False)
    if setting is not None:
        monkeypatch.setenv(_versions.VARIABLE, setting)
    specification = importlib.util.spec_from_file_location("versions", _versions.__file__)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        specification.loader.exec_module(importlib.util.module_from_spec(specification))
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("setting", [None, "", "allow"])
def test_tested_versions_are_not_warned_of(monkeypatch, setting):
    for version in (_versions.OLDEST, (*_versions.NEWEST, 0), (*_versions.NEWEST, 7)):
        assert import_anew(monkeypatch, version, setting) == []


def test_a_newer_version_is_warned_of_unless_it_is_allowed(monkeypatch):
    newer = (_versions.NEWEST[0], _versions.NEWEST[1] + 1, 0)
    (message,) = import_anew(monkeypatch, newer)
    assert "tested with JAX 0.10 to 0.12" in message and "CALLBAX_UNTESTED_JAX=allow" in message
    assert import_anew(monkeypatch, newer, "allow") == []


def test_a_setting_that_means_nothing_is_an_error(monkeypatch):
    with pytest.raises(ValueError, match="CALLBAX_UNTESTED_JAX must be 'allow'.*it is 'yes'"):
        import_anew(monkeypatch, _versions.NEWEST, "yes")


def test_the_warning_comes_once_and_names_the_line_that_imports():
    program = NEWER + "import callbax\nimport callbax.tools\nimport callbax\n"
    command = [sys.executable, "-W", "always", "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stderr
    (line,) = (line for line in shown.splitlines() if "CALLBAX_UNTESTED_JAX" in line)
    assert line.startswith("<string>:2: RuntimeWarning: this JAX is 99.0.1")


def test_these_tests_run_with_a_version_that_is_called_tested():
    version = jax.__version_info__[:2]
    assert _versions.OLDEST <= version <= _versions.NEWEST, (
        "set NEWEST in _versions.py, and what the pages say, when all tests pass with this JAX"
    )


def test_the_project_requires_the_oldest_version_and_is_built_with_it():
    oldest = ".".join(map(str, _versions.OLDEST))
    assert f"jax>={oldest}" in PROJECT["project"]["dependencies"]
    requires = PROJECT["build-system"]["requires"]
    (headers,) = (line for line in requires if line.startswith("jaxlib=="))
    assert headers.removeprefix("jaxlib==").startswith(f"{oldest}.")


def test_the_pages_say_the_tested_range():
    found = TESTED.findall((ROOT / "README.md").read_text())
    jaxes = sorted(tuple(map(int, version.split("."))) for version, _ in found)
    assert (jaxes[0], jaxes[-1]) == (_versions.OLDEST, _versions.NEWEST)
    deploying = (ROOT / "docs" / "deploying.md").read_text()
    assert "callbax is tested with JAX {}.{} to {}.{}.".format(*jaxes[0], *jaxes[-1]) in deploying
    named = {
        line.rpartition(" ")[2]
        for line in PROJECT["project"]["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    }
    assert {python for _, python in found} <= named


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"(?m)^## (\S+)", changes)[1] == callbax.__version__
