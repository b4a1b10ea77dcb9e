"""The texts that a chat template looks for in what it renders: it compares with them, searches, splits or replaces."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes

# transformers' own tag around the assistant's words; what it holds is what counts here.
GENERATION_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
# Methods whose arguments are not searched for in a text. The stripping ones look at its ends only, and for white space
# unless they are told otherwise.
STRIPPING = frozenset({"strip", "lstrip", "rstrip"})
NOT_SEARCHING = frozenset({"append", "get", "items", "join", "pop", "update"})
SEARCHING_FILTERS = frozenset({"replace"})


@dataclass(frozen=True)
class Constants:
    """equal: a content is compared with them. inside: a content is searched for them."""

    equal: frozenset[str]
    inside: frozenset[str]


def of(template: str) -> Constants | None:
    """The constants of a template, or None if it cannot be read."""
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=False)  # noqa: S701 - not HTML
    try:
        tree = environment.parse(GENERATION_TAG.sub("", template))
    except jinja2.TemplateSyntaxError:
        return None
    equal: set[str] = set()
    inside: set[str] = set()
    for compare in tree.find_all(nodes.Compare):
        searches = any(operand.op in ("in", "notin") for operand in compare.ops)
        found = _strings([compare.expr, *(operand.expr for operand in compare.ops)])
        (inside if searches else equal).update(found)
    for call in tree.find_all(nodes.Call):
        inside.update(_searched(call))
    for applied in tree.find_all((nodes.Filter, nodes.Test)):
        if isinstance(applied, nodes.Test) or applied.name in SEARCHING_FILTERS:
            inside.update(_strings(applied.args))
    return Constants(frozenset(equal), frozenset(inside - {""}))


def _searched(call: nodes.Call) -> Iterator[str]:
    """What a method of a text searches for. A macro's or a function's arguments are written or read."""
    if not isinstance(call.node, nodes.Getattr) or call.node.attr in NOT_SEARCHING:
        return
    for text in _strings(call.args):
        if call.node.attr not in STRIPPING or text.strip():
            yield text


def _strings(expressions: Any) -> Iterator[str]:
    """The string constants among expressions, those in lists included."""
    for expression in expressions:
        if isinstance(expression, nodes.Const) and isinstance(expression.value, str):
            yield expression.value
        elif isinstance(expression, nodes.List | nodes.Tuple):
            yield from _strings(expression.items)
