"""What runs on a schedule, and what a repository's host reads: the files parse, and call what exists."""

import re
import runpy
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SECTIONS = ROOT / ".ci" / "sections"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
if not WORKFLOWS or not SECTIONS.exists():
    pytest.skip("this copy of the project comes without schedules", allow_module_level=True)


def read(*parts):
    return yaml.safe_load(ROOT.joinpath(*parts).read_text(encoding="utf-8"))


def jobs_of(workflow):
    return read(workflow)["jobs"].items()


def runs_of(job):
    """The commands of a job, with the values that its matrix gives them."""
    matrix = job.get("strategy", {}).get("matrix", {})
    cases = [matrix, *matrix.get("include", [])]
    for step in job.get("steps", []):
        for case in cases:
            commands = [step["run"]] if "run" in step else []
            for key, values in case.items():
                commands = [
                    command.replace("${{ matrix." + key + " }}", str(value))
                    for command in commands
                    for value in (values if isinstance(values, list) else [values])
                ]
            yield from (command for command in commands if "matrix." not in command)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_exists(workflow):
    names = dict(jobs_of(workflow))
    assert read(workflow)[True], "`on` says when it runs"  # YAML reads the word as true
    for name, job in names.items():
        needs = job.get("needs", [])
        assert {needs} <= set(names) if isinstance(needs, str) else set(needs) <= set(names)
        if "uses" in job:
            assert ROOT.joinpath(job["uses"]).exists()
            continue
        assert job["timeout-minutes"], name
        for command in runs_of(job):
            words = shlex.split(command)
            for script in (word for word in words if word.startswith(".ci/")):
                assert (ROOT / script).stat().st_mode & 0o100, f"{script} cannot be run"
            if words[0] == ".ci/run":
                sections = [word for word in words[1:] if not word.startswith("-")]
                assert sections and all((SECTIONS / word).is_file() for word in sections), command


def test_each_section_is_on_a_schedule_and_a_script_says_what_it_is():
    called = " ".join(
        command
        for workflow in WORKFLOWS
        for _, job in jobs_of(workflow)
        for command in runs_of(job)
        if command.startswith(".ci/run ")
    ).split()
    for section in SECTIONS.iterdir():
        assert section.name in called
        assert section.read_text().splitlines()[1].startswith("# ")
        subprocess.run(["bash", "-n", section], check=True)


def test_a_section_that_fails_fails_the_run_and_the_others_run(tmp_path):
    folder = tmp_path / ".ci"
    (folder / "sections").mkdir(parents=True)
    (folder / "run").write_text((ROOT / ".ci" / "run").read_text())
    for name, code in {"first": 1, "second": 0}.items():
        script = f"#!/usr/bin/env bash\n# The {name}\necho {name} got $*\nexit {code}\n"
        (folder / "sections" / name).write_text(script)
    command = ["bash", str(folder / "run"), "first", "second", "-k", "x"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "== The first\nfirst got -k x\n" in ran.stdout and "second got -k x\n" in ran.stdout
    assert ran.stdout.endswith("FAILED: first\n")


def test_each_change_is_tested_with_the_versions_of_python_that_the_readme_names():
    matrix = dict(jobs_of(ROOT / ".github/workflows/tests.yml"))["tests"]["strategy"]["matrix"]
    readme = (ROOT / "README.md").read_text()
    assert set(matrix["python"]) == set(re.findall(r"JAX [\d.]+ on Python (\d\.\d+)", readme))


def test_a_commit_is_checked_by_the_programs_that_check_a_change():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pinned = {repo["repo"].rpartition("/")[2]: repo.get("rev", "").strip("v") for repo in hooks}
    checks = (SECTIONS / "checks").read_text()
    clang_format, ruff = pinned["mirrors-clang-format"], pinned["ruff-pre-commit"]
    assert f"clang-format=={clang_format}\n" in checks
    assert f"'ruff=={ruff.rpartition('.')[0]}.*'" in checks


def test_a_release_gives_the_readme_absolute_links():
    address = runpy.run_path(str(ROOT / ".ci" / "address"))
    where = "https://example.org/callbax"
    page = address["with_absolute_links"]((ROOT / "README.md").read_text(), where, "v1")
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert links and all(link.startswith("https://") for link in links)
    assert f"{where}/raw/v1/benchmarks/chart.svg" in page
    project = address["with_addresses"]((ROOT / "pyproject.toml").read_text(), where, "v1")
    found = tomllib.loads(project)["project"]
    assert found["urls"]["Repository"] == where
    assert found["optional-dependencies"] == PROJECT["project"]["optional-dependencies"]


def test_forms_for_issues_ask_for_something():
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        found = read(form)
        if form.stem != "config":
            assert found["name"] and found["description"]
            assert all(field["attributes"]["label"] for field in found["body"])


def test_the_citation_says_what_the_format_demands():
    citation = read("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    names = {author["name"] for author in PROJECT["project"]["authors"]}
    assert {author["name"] for author in citation["authors"]} == names
    assert citation["license"] == PROJECT["project"]["license"]


def test_a_commit_is_checked_by_the_linter_that_checks_a_change():
    revisions = {
        hooks["repo"]: hooks.get("rev") for hooks in read(".pre-commit-config.yaml")["repos"]
    }
    (ruff,) = (revision for name, revision in revisions.items() if "ruff" in name)
    required = re.search(r"'ruff==([\d.]+)\.\*'", (SECTIONS / "checks").read_text())[1]
    assert ruff.startswith(f"v{required}.")
    assert (ROOT / ".clang-format").exists()
