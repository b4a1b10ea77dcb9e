"""Rendering by shape: what a template writes around the contents of a conversation is found out once for each shape.

A shape is the sequence of roles. The template renders a conversation of that shape whose contents are markers; what
stands between the markers is the same for every other conversation of the shape, so from then on rendering is joining.
Two sets of markers must give the same, and contents that the template might look into (it compares, searches or splits
for some texts) are left to the template itself, as is everything else that is out of the ordinary: tools, names,
weights, contents that are empty or begin or end with white space.

The rows are those of `rows.of_chats` to the token; tests and the first examples of every file hold the two together.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from app.files.ordinary import Message
from worker.prepare import template_constants, words
from worker.prepare.rows import ExampleRows, Row, packed
from worker.prepare.template import RenderError, Template
from worker.prepare.tokenizer import LoadedTokenizer

MOST_SHAPES = 4096

Shape = tuple[str, ...]  # the roles
Piece = tuple[str | int, ...]  # literal texts, and the places of contents among the messages
Item = bytes | Piece  # token ids as rows keep them, or what has to be tokenised for each example


@dataclass(frozen=True)
class PlannedTurn:
    """One trained turn: what comes before it (since the last one, if it joins that one's row), and its target."""

    joins: bool
    context: tuple[Item, ...]
    target: tuple[Item, ...]


Plan = tuple[PlannedTurn, ...]


class Unplannable(Exception):
    """A template writes a shape in a way that cannot be put together from pieces."""


class Planner:
    """Plans and rows of one tokenizer's conversations."""

    def __init__(self, tokenizer: LoadedTokenizer, template: Template) -> None:
        self._template = template
        self._words = words.of(tokenizer.backend)
        self._added = tokenizer.added_tokens
        self._added_text = _any_of(self._added)
        self._looked_for = template_constants.of(tokenizer.tokenizer.get_chat_template())
        self._plans: dict[Shape, Plan | None] = {}

    def plan(self, messages: list[Message]) -> Plan | None:
        """How to write the rows of an ordinary example, or None where the template itself has to render it."""
        if not all(self._plain(message.content) for message in messages):
            return None
        shape = tuple([message.role for message in messages])
        if shape not in self._plans:
            if len(self._plans) >= MOST_SHAPES:
                self._plans.clear()
            self._plans[shape] = self._make(shape)
        return self._plans[shape]

    def rows(self, planned: list[tuple[Plan, list[str]]]) -> list[ExampleRows]:
        """The rows of each planned example, given its contents."""
        assert self._words is not None
        texts = [text for plan, contents in planned for text in _texts(plan, contents)]
        ids = iter(self._words.encode(texts))
        return [_rows(plan, ids) for plan, _ in planned]

    def _plain(self, content: str) -> bool:
        return (
            content != ""
            and not content[0].isspace()
            and not content[-1].isspace()
            and not self._added_text.search(content)
            and self._looked_for is not None
            and content not in self._looked_for.equal
            and not any(text in content for text in self._looked_for.inside)
        )

    def _make(self, shape: Shape) -> Plan | None:
        if self._words is None:
            return None
        try:
            plans = [self._learn(shape, [marker(place) for place in range(len(shape))]) for marker in (_short, _long)]
        except (RenderError, Unplannable):
            return None
        return plans[0] if plans[0] == plans[1] else None

    def _learn(self, shape: Shape, markers: list[str]) -> Plan:
        messages = [{"role": role, "content": marker} for role, marker in zip(shape, markers, strict=True)]
        plan: list[PlannedTurn] = []
        text = ""
        for turn in self._template.turns({"messages": messages}):
            joins = bool(plan) and turn.prompt.startswith(text)
            context = list(self._cut(turn.prompt[len(text) if joins else 0 :], markers))
            target = list(self._cut(turn.target, markers))
            self._check_seams(context, target)
            plan.append(PlannedTurn(joins, self._settled(context), self._settled(target)))
            text = turn.prompt + turn.target
        return tuple(plan)

    def _cut(self, text: str, markers: list[str]) -> Iterator[Item]:
        """A text as added tokens and the pieces between them. Raises Unplannable if a token eats white space."""
        places = {marker: place for place, marker in enumerate(markers)}
        piece: list[str | int] = []
        for part in re.split(f"({_any_of([*self._added, *markers]).pattern})", text):
            if part in places:
                piece.append(places[part])
            elif part not in self._added:
                piece += [part] * bool(part)
            elif not self._added[part].plain:
                raise Unplannable(f"{part} takes the white space around it")
            else:
                yield from [tuple(piece)] * bool(piece)
                yield packed([self._added[part].id])
                piece = []
        yield from [tuple(piece)] * bool(piece)

    def _check_seams(self, context: list[Item], target: list[Item]) -> None:
        """Raises Unplannable where the tokens of a target might run together with what stands before or after it."""
        assert self._words is not None
        if not isinstance(target[-1], bytes):
            raise Unplannable("no added token ends the target")
        if not context or isinstance(context[-1], bytes) or isinstance(target[0], bytes):
            return
        before, after = context[-1], target[0][0]
        if not all(isinstance(part, str) for part in before):
            raise Unplannable("a content stands right before the target")
        if not self._words.apart("".join(map(str, before)), after if isinstance(after, str) else None):
            raise Unplannable("the target's tokens run together with what stands before it")

    def _settled(self, items: list[Item]) -> tuple[Item, ...]:
        """The same items, with literal pieces tokenised once and for all, and neighbouring ids joined."""
        assert self._words is not None
        settled: list[Item] = []
        for item in items:
            literal = not isinstance(item, bytes) and all(isinstance(part, str) for part in item)
            ids = self._words.encode(["".join(map(str, item))])[0] if literal else item
            if settled and isinstance(ids, bytes) and isinstance(settled[-1], bytes):
                settled[-1] += ids
            else:
                settled.append(ids)
        return tuple(settled)


def _texts(plan: Plan, contents: list[str]) -> Iterator[str]:
    """Every text to tokenise for an example, in the order in which `_rows` takes their ids."""
    for turn in plan:
        for item in (*turn.context, *turn.target):
            if not isinstance(item, bytes):
                yield _join(item, contents)


def _join(piece: Piece, contents: list[str]) -> str:
    return "".join([part if isinstance(part, str) else contents[part] for part in piece])


def _rows(plan: Plan, ids: Iterator[bytes]) -> ExampleRows:
    example = ExampleRows()
    for turn in plan:
        if not turn.joins:
            example.rows.append(Row(b"", []))
        row = example.rows[-1]
        row.tokens = b"".join([row.tokens, *[item if isinstance(item, bytes) else next(ids) for item in turn.context]])
        start = len(row)
        row.tokens = b"".join([row.tokens, *[item if isinstance(item, bytes) else next(ids) for item in turn.target]])
        row.targets.append((start, len(row)))
    return example


def _short(place: int) -> str:
    return f"Qmark{place}zq"


def _long(place: int) -> str:
    """Something of everything that a template might stumble over."""
    return (
        f'Xmark{place}, "so" it\'s:\n\n- {{one}} <b>two</b> 3% \\n [four] | #5;\n'
        + f"word{place} " * 60
        + f"end{place}."
    )


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")
