"""The formula of a multi grader: arithmetic over its members' rewards.

    sum     := product (("+" | "-") product)*
    product := signed (("*" | "/") signed)*
    signed  := "-" signed | "+" signed | power
    power   := operand ("^" signed)?
    operand := number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

`^` binds tighter than a sign before it and groups to the right, as in mathematics: -2^2 is -4. Functions: min and max
of one or more, and abs, floor, ceil, exp, sqrt and log (natural) of one. A formula becomes a flat program for a stack
machine, so that running it takes no recursion however long it is. Every number is a double.
"""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from app.graders.faults import FormulaFault

MAX_CHARS = 2048
MAX_DEPTH = 32
MAX_ARGUMENTS = 64

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[^\W\d]\w*)|(?P<symbol>[-+*/^(),]))"
)
_OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_UNARY: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}
_VARIADIC: dict[str, Callable[..., float]] = {"min": min, "max": max}
FUNCTIONS = (*_UNARY, *_VARIADIC)


@dataclass(frozen=True)
class Push:
    """Put a number, or the value of a name, on the stack."""

    value: float | str


@dataclass(frozen=True)
class Apply:
    """Replace the uppermost `count` values by what `function` makes of them."""

    function: Callable[..., float]
    count: int


@dataclass(frozen=True)
class Formula:
    """A parsed formula."""

    program: tuple[Push | Apply, ...]

    def value(self, names: Mapping[str, float]) -> float:
        """The formula's value over the values of its names. Raises FormulaFault if it has no finite one."""
        stack: list[float] = []
        for instruction in self.program:
            if isinstance(instruction, Push):
                stack.append(names[instruction.value] if isinstance(instruction.value, str) else instruction.value)
            else:
                arguments = stack[-instruction.count :]
                stack[-instruction.count :] = [_applied(instruction.function, arguments)]
        return stack[0]


def parse(text: str, names: Collection[str]) -> Formula:
    """The formula a text is, over some names. Raises FormulaFault, which says what is wrong and where."""
    if len(text) > MAX_CHARS:
        raise FormulaFault(f"The formula is longer than {MAX_CHARS} characters.")
    parser = _Parser(_tokens(text), names)
    parser.sum(0)
    parser.expect("")
    return Formula(tuple(parser.program))


def _applied(function: Callable[..., float], arguments: list[float]) -> float:
    try:
        value = float(function(*arguments))
    except ZeroDivisionError:
        raise FormulaFault("The formula divides by zero.") from None
    except (ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise FormulaFault("The formula has no finite value for these rewards.")
    return value


def _tokens(text: str) -> list[tuple[str, str]]:
    """(kind, text) of each token, the last of kind "end". Raises FormulaFault."""
    tokens: list[tuple[str, str]] = []
    text, position = text.rstrip(), 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise FormulaFault(f"The formula has an unexpected {text[position:].lstrip()[:1]!r}.")
        tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
        position = match.end()
    return [*tokens, ("end", "")]


class _Parser:
    """Recursive descent; each method reads its part and appends what computes it. depth: of parentheses and signs."""

    def __init__(self, tokens: list[tuple[str, str]], names: Collection[str]) -> None:
        self.program: list[Push | Apply] = []
        self._tokens = tokens
        self._names = names
        self._position = 0

    def sum(self, depth: int) -> None:
        self.product(depth)
        while operation := self._take("+", "-"):
            self.product(depth)
            self.program.append(Apply(_OPERATORS[operation], 2))

    def product(self, depth: int) -> None:
        self.signed(depth)
        while operation := self._take("*", "/"):
            self.signed(depth)
            self.program.append(Apply(_OPERATORS[operation], 2))

    def signed(self, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise FormulaFault(f"The formula is nested deeper than {MAX_DEPTH} levels.")
        sign = self._take("-", "+")
        if not sign:
            self.power(depth)
            return
        self.signed(depth + 1)
        if sign == "-":
            self.program.append(Apply(operator.neg, 1))

    def power(self, depth: int) -> None:
        self.operand(depth)
        if self._take("^"):
            self.signed(depth + 1)
            self.program.append(Apply(math.pow, 2))

    def operand(self, depth: int) -> None:
        kind, text = self._tokens[self._position]
        self._position += kind != "end"
        if kind == "number":
            self.program.append(Push(_finite(text)))
        elif kind == "name" and self._take("("):
            self._call(text, depth + 1)
        elif kind == "name":
            if text not in self._names:
                raise FormulaFault(f"The formula names {text[:100]!r}, which is none of its graders.")
            self.program.append(Push(text))
        elif text == "(":
            self.sum(depth + 1)
            self.expect(")")
        else:
            raise _unexpected(text)

    def expect(self, symbol: str) -> None:
        """Read one symbol; "" stands for the end. Raises FormulaFault."""
        text = self._tokens[self._position][1]
        if text != symbol:
            raise _unexpected(text)
        self._position += 1

    def _call(self, name: str, depth: int) -> None:
        if name not in FUNCTIONS:
            raise FormulaFault(f"The formula calls {name[:100]!r}; known are {', '.join(FUNCTIONS)}.")
        count = 1
        self.sum(depth)
        while self._take(","):
            self.sum(depth)
            count += 1
        self.expect(")")
        if count > (MAX_ARGUMENTS if name in _VARIADIC else 1):
            raise FormulaFault(f"The formula gives {name} {count} arguments.")
        function = _UNARY.get(name) or (_VARIADIC[name] if count > 1 else operator.pos)
        self.program.append(Apply(function, count))

    def _take(self, *symbols: str) -> str:
        """The next symbol if it is one of these, else ""."""
        kind, text = self._tokens[self._position]
        if kind != "symbol" or text not in symbols:
            return ""
        self._position += 1
        return text


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise FormulaFault(f"The number {text[:40]} is too large.")
    return number


def _unexpected(text: str) -> FormulaFault:
    return FormulaFault(f"The formula has an unexpected {text!r}." if text else "The formula ends too early.")
