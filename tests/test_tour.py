"""The tour's examples, the pages that show them, and the measurements."""

import functools
import importlib
import io
import sys
import textwrap

import jax
import numpy as np
import pytest

import callbax
from callbax._tour import benchmark, cases, measure, pages, peers, targets, tour
from callbax._tour.examples import Chapter, Example

EXAMPLES = [
    pytest.param(example, id=f"{name}-{example.function.__name__}")
    for name in tour.CHAPTERS
    for example in importlib.import_module(f"callbax._tour.chapters.{name}").chapter.examples
]
IN_ORDER = """
    traced_value runtime_value
    called_directly under_jit under_vmap under_scan under_grad result_used result_unused
    under_jit under_vmap ordered_under_vmap ordered_in_scan differentiated not_differentiated
    under_jit under_vmap under_grad
    as_itself wrong_result
    called_directly under_jit_and_vmap without_rule under_grad second_derivative
    with_external without_python
    per_shard
    untrained trained
    bar_and_log check timeline
    within_a_block
"""


# -- examples --------------------------------------------------------------------------------------
@functools.cache
def first_run(example):
    return example.run()


@pytest.mark.full  # without, the tour runs them in test_command_line.py
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_passes_its_own_check(example):
    outcome = first_run(example)
    assert outcome.failure is None, outcome


@pytest.mark.sampled(6)
@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_can_be_run_again(example):
    first_run(example)
    assert example.run().failure is None


def test_every_example_is_there_in_order():
    names = [parameter.values[0].function.__name__ for parameter in EXAMPLES]
    assert names == IN_ORDER.split()


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_shown_is_code_and_text(example):
    compile(example.code, "<example>", "exec")
    assert max(map(len, example.code.splitlines())) <= 76  # in a frame, at 80 columns
    assert example.title and example.function.__doc__ not in example.code


CHAPTER = '''
"""A chapter.

Its introduction.
"""
from callbax._tour.examples import Chapter

chapter = Chapter(__name__)
threshold = 3

def helper():
    return threshold

@chapter.example("threshold", "helper", prints="3")
def good():
    """Good.

    It explains itself.
    """
    x = helper()
    print(x)
    assert x == 3

@chapter.example()
def wrong():
    """Wrong."""
    print("so far")
    assert helper() == 4, "not four"

@chapter.example(prints="something")
def silent():
    """Silent."""
    pass
'''


@pytest.fixture
def chapter(tmp_path, monkeypatch) -> Chapter:
    tmp_path.joinpath("chapter_under_test.py").write_text(CHAPTER.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "chapter_under_test", raising=False)
    return importlib.import_module("chapter_under_test").chapter


def test_a_chapter_is_read_from_its_module(chapter):
    good, *_ = chapter.examples
    assert (chapter.title, chapter.introduction) == ("A chapter", "Its introduction.")
    assert (good.title, good.explanation) == ("Good", "It explains itself.")
    assert good.code == textwrap.dedent(
        """\
        threshold = 3

        def helper():
            return threshold

        x = helper()
        print(x)
        assert x == 3"""
    )
    assert good.run().output == "3" and good.run().failure is None


def test_a_false_assertion_is_a_failure_and_what_was_printed_is_kept(chapter):
    outcome = chapter.examples[1].run()
    assert outcome.output == "so far"
    assert "AssertionError: not four" in outcome.failure


def test_missing_output_is_a_failure(chapter):
    assert "'something'" in chapter.examples[2].run().failure


def test_an_error_of_a_callback_is_a_failure():
    def fails():
        callbax.io_callback(lambda: 1 / 0, None)

    example = Example("Fails", "", "fails()", fails, ".*")
    assert "ZeroDivisionError" in example.run().failure


def test_the_tour_fails_if_an_example_does(chapter, monkeypatch, capsys):
    monkeypatch.setattr(tour, "CHAPTERS", ("chapter_under_test",))
    module = sys.modules[chapter.module]
    monkeypatch.setitem(sys.modules, "callbax._tour.chapters.chapter_under_test", module)
    monkeypatch.setattr(benchmark, "run_small_table", lambda page: None)
    assert tour.run_tour(pages.Page()) is False
    printed = capsys.readouterr().out
    assert "3 examples ran" in printed and "2 FAILED" in printed
    assert "  ! AssertionError: not four" in printed


# -- pages -----------------------------------------------------------------------------------------
ROWS = [["short", "1 µs"], ["rather longer", "100 µs"]]


def test_a_plain_table_sets_figures_right(capsys):
    pages.Page().table(["name", "time"], ROWS, "Times")
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Times",
        "",
        "name             time",
        "-------------  ------",
        "short            1 µs",
        "rather longer  100 µs",
    ]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_page_loses_nothing(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    columns, rows = tour.FLAVOURS
    pages.Page().table(columns, rows, "")
    plain = capsys.readouterr().out
    console = pytest.importorskip("rich.console")
    rich = io.StringIO()
    pages.RichPage(console.Console(file=rich, width=80)).table(columns, rows, "")
    for shown in (plain, rich.getvalue()):
        for word in " ".join([*columns, *(cell for row in rows for cell in row)]).split():
            assert word in shown
    if width == 80:
        assert max(map(len, (plain + rich.getvalue()).splitlines())) <= 80


def test_a_markdown_table(capsys):
    pages.MarkdownPage().table(["name", "time"], ROWS, "Times")
    assert capsys.readouterr().out.splitlines() == [
        "",
        "**Times**",
        "",
        "| name | time |",
        "|---|--:|",
        "| short | 1 µs |",
        "| rather longer | 100 µs |",
    ]


def test_a_rich_page_shows_markup_in_code_and_output_as_it_is():
    console = pytest.importorskip("rich.console")
    text = io.StringIO()
    page = pages.RichPage(console.Console(file=text, width=80))
    page.title("Title")
    page.heading("[bold]heading")
    page.code("x = a[0]  # [red]")
    page.output("[1 2 3]\n[green]")
    page.failure("[bold] failure")
    page.table(["name", "time"], [["[x]", "1 µs"]], "Times")
    for shown in ("Title", "[bold]heading", "a[0]  # [red]", "[1 2 3]", "[green]", "[bold]", "[x]"):
        assert shown in text.getvalue()


# -- measuring -------------------------------------------------------------------------------------
def test_contenders_take_turns():
    order = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "ab"}
    measurement = measure.measure(measure.Case("", "call", 1, contenders), seconds=0)
    assert order == list("ab" * 6)  # once to warm up, then five rounds
    assert [len(samples) for samples in measurement.samples.values()] == [5, 5]


def test_what_is_smaller_than_its_spread_is_noise():
    assert measure.format_timing(measure.Timing.of([1e-6, 2e-6, 3e-6])) == "2.00 µs ± 25%"
    assert measure.format_timing(measure.Timing.of([-2e-6, 0.5e-6, 3e-6])) == "< noise (1.25 µs)"


def _measurement(**samples: list[float]) -> measure.Measurement:
    case = measure.Case("", "call", 1, {})
    named = {name.replace("_", " "): values for name, values in samples.items()}
    return measure.Measurement(case, named)


def test_the_net_time_is_the_difference_within_a_round():
    measurement = _measurement(
        callbax=[2.0, 20.0, 3.0], peer=[5.0, 23.0, 6.0], without_callback=[1.0, 19.0, 2.0]
    )
    assert measurement.net("callbax") == measure.Timing(1.0, 1.0, 1.0)
    assert measurement.ratio("peer", "callbax") == 4


def test_loops_and_copies_have_no_program_around_them():
    measurement = _measurement(Python_loop=[2.0] * 3, without_callback=[1.0] * 3)
    assert measurement.net("Python loop").median == 2


def test_targets_say_whether_they_hold():
    fast = _measurement(callbax=[0.5e-6] * 3, **{"jax.*": [50e-6] * 3})
    slow = _measurement(callbax=[2e-6] * 3, **{"jax.*": [50e-6] * 3})
    rows = {
        name: [t.row({"scan": m})[2] for t in targets.TARGETS if t.can_be_checked({"scan": m})]
        for name, m in (("fast", fast), ("slow", slow))
    }
    assert rows == {"fast": ["yes", "yes"], "slow": ["NO", "NO"]}


def test_every_target_is_about_a_case_and_contenders_that_exist():
    assert {target.case for target in targets.TARGETS} <= set(cases.CASES)
    assert set(cases.QUICK) <= set(cases.CASES)


LARGE = {"64 MiB", "256 MiB"}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", [name for name in cases.CASES if name not in LARGE])
def test_every_case_runs_with_every_library(name, capsys):
    available, _ = peers.available_peers()
    case = cases.CASES[name](available)
    assert {"callbax"} < set(case.contenders)
    for run in case.contenders.values():
        run()
    assert capsys.readouterr().out == ""


def test_libraries_compute_the_same():
    available, _ = peers.available_peers()
    for peer in available:
        if peer.does_work:
            program = jax.jit(lambda x, pure=peer.pure: pure(cases.add_one, cases.SCALAR, x))
            assert program(np.float32(2)) == 3
            if peer.io is not None:
                program = jax.jit(lambda x, io=peer.io: io(cases.add_one, cases.SCALAR, x))
                assert program(np.float32(2)) == 3
