"""callbax.check: it finds planted faults, names them, and passes what is right."""

import jax
import numpy as np
import pytest

import callbax as cb

x = np.linspace(0.5, 1.5, 3).astype(np.float32)
like_first = {"result": cb.like(0)}


def broken(report):
    return [finding.name for finding in report.failures]


def with_jvp(rule, function=np.sin, **keywords):
    external = cb.external(function, **{**like_first, **keywords})
    external.defjvps(rule)
    return external


def cosine(tangent, answer, a):
    return tangent * jax.numpy.cos(a)


def test_a_right_function_passes(capsys):
    report = cb.check(with_jvp(cosine), x, raise_on_failure=True)
    assert report.ok and not report.failures
    assert all(finding.ok for finding in report.findings)
    assert str(report) in capsys.readouterr().out


def test_a_sharp_look_in_float64():
    with jax.enable_x64(True):
        almost = with_jvp(lambda t, answer, a: cosine(t, answer, a) * 1.001)
        assert cb.check(with_jvp(cosine), x.astype(float), print_table=False).ok
        assert "forward mode against differences" in broken(
            cb.check(almost, x.astype(float), print_table=False)
        )


def test_elements_of_very_different_sizes():
    values = np.array([1.0, 0.05, 1e-3, 0.0])

    def decay(a):
        return np.exp(-a * [1, 20, 1000, 1])

    def derivative(t, answer, a):
        return -t * answer * np.array([1, 20, 1000, 1])

    def wrong_at(i):
        return with_jvp(lambda *args: derivative(*args).at[i].multiply(1.1), decay)

    with jax.enable_x64(True):
        assert cb.check(with_jvp(derivative, decay), values, print_table=False).ok
        for i in range(4):
            found = broken(cb.check(wrong_at(i), values, print_table=False))
            assert "forward mode against differences" in found, i


def doubles_in_place(a):
    a *= 2
    return a


def mixes_lanes(a):
    return a - a.mean()


class Counting:
    calls = 0

    def __call__(self, a):
        self.calls += 1
        return a + np.float32(self.calls)


FAULTS = {
    "wrong derivative": (
        lambda: with_jvp(lambda t, answer, a: 2 * t * jax.numpy.cos(a)),
        ["forward mode against differences", "reverse mode against differences"],
        "derivative in ",
    ),
    "wrong shape": (
        lambda: cb.external(lambda a: a[:1], **like_first),
        ["result fits its declaration"],
        "Incorrect output shape",
    ),
    "wrong dtype": (
        lambda: cb.external(lambda a: a + 1j, **like_first),
        ["result fits its declaration"],
        "Incorrect output dtype",
    ),
    "wrong tree": (
        lambda: cb.external(lambda a: (a, a), **like_first),
        ["result fits its declaration"],
        "Mismatched number of outputs",
    ),
    "writes to its input": (
        lambda: cb.external(doubles_in_place, **like_first),
        ["inputs are not modified"],
        "it wrote to a: 3.0 instead of 1.5 at (2,)",
    ),
    "not a function of its arguments": (
        lambda: cb.external(Counting(), **like_first),
        ["same inputs, same outputs"],
        "another call with the same arguments gave",
    ),
    "a batching that mixes lanes": (
        lambda: cb.external(mixes_lanes, vmap_method="expand_dims", **like_first),
        ["vmap agrees with a loop", "nested vmap agrees with loops"],
        "vmap over a (vmap_method='expand_dims')",
    ),
    "a rule that raises": (
        lambda: with_jvp(lambda t, answer, a: 1 / 0),
        ["forward mode against differences"],
        "ZeroDivisionError",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_described(fault):
    make, rows, detail = FAULTS[fault]
    report = cb.check(make(), x, print_table=False)
    assert not report.ok
    assert set(rows) <= set(broken(report))
    assert detail in report.failures[0].detail
    with pytest.raises(cb.CheckError, match="tests failed\ncallbax.check of"):
        cb.check(make(), x, print_table=False, raise_on_failure=True)


def test_the_argument_with_the_wrong_derivative_is_named():
    product = cb.external(lambda a, b: a * b, result="broadcast")
    product.defjvps(lambda t, answer, a, b: t * b, lambda t, answer, a, b: t * b)
    report = cb.check(product, x, 2 * x, print_table=False)
    assert "derivative in b" in report.failures[0].detail


def test_pytrees_statics_integers_and_complex_numbers():
    @cb.external(result=lambda kind, tree, n: tree["a"])
    def power(kind, tree, n):
        return tree["a"] ** n * tree["b"]

    @power.defjvp
    def power_jvp(primals, tangents):
        kind, tree, n = primals
        _, tangent, _ = tangents
        value = power(kind, tree, n)
        by_a = n * tree["a"] ** (n - 1) * tree["b"]
        return value, by_a * tangent["a"] + tree["a"] ** n * tangent["b"]

    tree = {"a": x.astype(np.complex64) * (1 + 1j), "b": np.complex64(2 - 1j)}
    report = cb.check(power, "kind", tree, 3, print_table=False)
    assert report.ok, str(report)


def test_what_cannot_be_tested_is_said():
    report = cb.check(cb.external(np.sin, **like_first), x, print_table=False)
    assert report.ok and report.findings[-1].detail == "no derivative is defined"
    integers = cb.check(with_jvp(cosine, np.abs), np.arange(3), print_table=False)
    assert integers.findings[-1].detail == "no argument is differentiable"

    calls = []
    noting = cb.external(calls.append, result=None, effects="io")
    report = cb.check(noting, x, print_table=False)
    assert report.ok and len(calls) == 1
    assert "it has effects" in report.findings[-1].detail


def test_only_external_functions_are_checked():
    with pytest.raises(TypeError, match="wrap the host function with callbax.external"):
        cb.check(np.sin, x)


def test_a_derivative_that_costs_too_much_is_not_tested():
    sine = cb.external(np.sin, **like_first)
    sine.def_host_vjp(lambda primals, outputs, cotangents: (np.cos(primals[0]) * cotangents,))
    report = cb.check(sine, np.linspace(0, 1, 1001).astype(np.float32), print_table=False)
    assert report.ok, str(report)
    forward = report.findings[-3]
    assert forward.ok is None and "1001 basis vectors" in forward.detail
    assert report.findings[-2].ok


def test_arguments_without_derivatives_are_left_out():
    by_name = cb.external(lambda x, *, y: x * y, result=cb.like(0), derivative="central")
    assert cb.check(by_name, x, y=x, print_table=False).ok

    product = cb.external(lambda a, x: a @ x, signature="(n,n),(n)->(n)")
    product.def_transpose(lambda a, ct: a.T @ ct, argnums=1)
    assert cb.check(product, np.outer(x, x), x, print_table=False).ok


def test_defvjp_has_no_forward_mode_to_test():
    f = cb.external(np.square, result=cb.like(0))
    f.defvjp(lambda x: (f(x), x), lambda x, ct: (2 * x * ct,))
    report = cb.check(f, x, print_table=False)
    oks = {finding.name: finding.ok for finding in report.findings}
    assert report.ok and oks["forward mode against differences"] is None
    assert oks["reverse mode against differences"]


def test_an_example_may_have_the_batch_that_a_signature_allows():
    f = cb.external(lambda x, y: x.sum() + y, signature="(n),()->()", derivative="central")
    assert cb.check(f, np.stack([x, x]), x[0], print_table=False).ok
    wrong = cb.external(lambda x: x.sum(keepdims=True), signature="(n)->()")
    assert not cb.check(wrong, np.stack([x, x]), print_table=False).ok


@pytest.mark.parametrize("odd", [1, 2, 3])
def test_a_single_odd_call_is_found(odd):
    calls = iter(range(1, 100))
    f = cb.external(lambda x: x + (next(calls) == odd), result=cb.like(0))
    (failure,) = cb.check(f, x, print_table=False).failures
    assert failure.name == "same inputs, same outputs"


def test_a_result_of_another_structure_does_not_fit():
    f = cb.external(lambda x: (x, x), result={"a": x, "b": x})
    failure = cb.check(f, x, print_table=False).failures[0]
    assert failure.name == "result fits its declaration" and "structure" in failure.detail
