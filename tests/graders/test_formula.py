"""The formula of a multi grader."""

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.graders import formula
from app.graders.faults import FormulaFault

NAMES = {"a": 2.0, "b": 3.0, "name_1": 0.5, "min": 7.0, "größe": 4.0}


def value(text: str) -> float:
    return formula.parse(text, NAMES).value(NAMES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", 2),
        ("1", 1),
        (" 1.5 ", 1.5),
        (".5", 0.5),
        ("2.", 2),
        ("1e-3", 0.001),
        ("1E+2", 100),
        ("a + b", 5),
        ("a - b - 1", -2),
        ("a - (b - 1)", 0),
        ("a + b * 2", 8),
        ("(a + b) * 2", 10),
        ("a / b / 2", 1 / 3),
        ("a ^ b", 8),
        ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4),
        ("(-2) ^ 2", 4),
        ("2 ^ -1", 0.5),
        ("--a", 2),
        ("+-+a", -2),
        ("a * -b", -6),
        ("min(a, b)", 2),
        ("max(a, b, 9, -1)", 9),
        ("min(a)", 2),
        ("min + 1", 8),  # a grader may be called like a function
        ("abs(-a)", 2),
        ("floor(1.9)", 1),
        ("floor(-1.1)", -2),
        ("ceil(1.1)", 2),
        ("exp(0)", 1),
        ("sqrt(16)", 4),
        ("log(exp(2))", 2),
        ("0.5 * a + 0.5 * b", 2.5),
        ("(name_1 + größe) / 2", 2.25),
        ("0 ^ 0", 1),
        ("a\n+\tb", 5),
    ],
)
def test_value(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "", "   ", "a +", "+", "a b", "a 2", "2 a", "(a", "a)", "()", "a,b", "min()", "min(a,)", "min(a b)",
        "abs(a, b)", "unknown", "unknown(a)", "a ** b", "a // b", "a % b", "a == b", "a = 1", "a; b", "a.b", "a[0]",
        "'a'", '"a"',
        "1..2", "0x10", "1_000", "1e", "__import__('os')", "a if b else a", "lambda: a", "a and b", "!a", "~a", "a & b",
        "{{item.x}}", "@", "a\0", "1e999", "sqrt", "min max", "½", "²", "a^^b", "a^", "^a", "*a", "log(a",
    ],
)  # fmt: skip
def test_no_formula(text: str) -> None:
    with pytest.raises(FormulaFault, match=r"formula|number"):
        formula.parse(text, {"a": 1.0, "b": 2.0})


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0", "a / (b - 3)", "0 ^ -1", "(-8) ^ 0.5", "sqrt(-1)", "log(0)", "log(-a)", "exp(1000)", "10 ^ 400",
        "1e308 * 10", "-1e308 - 1e308", "1e308 * 10 * 0", "min(1 / 0, 1)", "exp(exp(exp(exp(9))))",
    ],
)  # fmt: skip
def test_no_finite_value(text: str) -> None:
    parsed = formula.parse(text, NAMES)
    with pytest.raises(FormulaFault, match=r"divides by zero|no finite value"):
        parsed.value(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 33 + "a" + ")" * 33,
        "(" * 1000 + "a" + ")" * 1000,
        "-" * 40 + "a",
        "2^" * 40 + "a",
        "abs(" * 40 + "a" + ")" * 40,
        "a+" * 1024 + "a",
        "min(" + "a," * 64 + "a)",
    ],
    ids=["parentheses", "many parentheses", "signs", "powers", "calls", "length", "arguments"],
)
def test_beyond_the_limits(text: str) -> None:
    with pytest.raises(FormulaFault, match=r"deeper|longer|arguments"):
        formula.parse(text, NAMES)


def test_up_to_the_limits() -> None:
    assert value("(" * 32 + "a" + ")" * 32) == 2
    assert value("+".join(["a"] * 1000)) == 2000
    assert value("min(" + ",".join(["a"] * 64) + ")") == 2


UNARY = ["abs", "floor", "ceil", "exp", "sqrt", "log"]
EXPRESSIONS = st.recursive(
    st.sampled_from(["a", "b", "c", "d"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", "*", "/", "^"]), inner).map("".join),
        inner.map("({})".format),
        inner.map("-{}".format),
        st.tuples(st.sampled_from(UNARY), inner).map(lambda x: f"{x[0]}({x[1]})"),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda x: f"{x[0]}({x[1]}, {x[2]})"),
    ),
    max_leaves=12,
)


class Finite(float):
    """A float that Python's own operators make an error of where it is no finite number."""


def finite(function: Any) -> Any:
    def apply(*arguments: float) -> Finite:
        value = function(*arguments)
        if isinstance(value, complex) or not math.isfinite(value):
            raise OverflowError
        return Finite(value)

    return apply


for operation in ("__add__", "__sub__", "__mul__", "__truediv__", "__pow__", "__neg__", "__abs__"):
    setattr(Finite, operation, finite(getattr(float, operation)))


@given(EXPRESSIONS)
def test_it_agrees_with_python(text: str) -> None:
    names = {"a": Finite(2), "b": Finite(-0.5), "c": Finite(1), "d": Finite(30)}
    functions = {name: finite(getattr(math, name)) for name in ("floor", "ceil", "exp", "sqrt", "log")}
    try:
        expected = eval(text.replace("^", "**"), {**functions, **names})  # our own text, made above
    except (ArithmeticError, ValueError):
        with pytest.raises(FormulaFault):
            formula.parse(text, names).value(names)
        return
    assert formula.parse(text, names).value(names) == pytest.approx(expected, rel=1e-9, abs=1e-300)


@given(st.one_of(st.text(max_size=60), st.text("ab01.+-*/^(), min", max_size=30)))
def test_any_text_has_a_finite_value_or_a_fault(text: str) -> None:
    with contextlib.suppress(FormulaFault):
        assert math.isfinite(value(text))
