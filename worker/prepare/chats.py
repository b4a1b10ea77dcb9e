"""Chat examples to rows: by plan where the conversation is of an ordinary shape, by the template itself elsewhere."""

import logging
from dataclasses import dataclass
from functools import lru_cache

from app.files.ordinary import Message
from worker.prepare.plans import Plan, Planner
from worker.prepare.rows import ExampleRows, of_chats
from worker.prepare.template import Example, Template, Turn
from worker.prepare.tokenizer import LoadedTokenizer

CHECKED = 16  # of the planned examples of a file, so many are also rendered by the template, and must be the same

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """An example that is written by plan; its messages are kept in case the plan does not hold."""

    messages: list[Message]
    plan: Plan

    @property
    def contents(self) -> list[str]:
        return [message.content for message in self.messages]


class Chats:
    """The chat examples of one file. Raises TemplateRefused when the model's template cannot be trained with."""

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        self._tokenizer = tokenizer
        self._template, self._planner = _learned(tokenizer)
        self._unchecked = CHECKED

    def plan(self, messages: list[Message]) -> Planned | None:
        """An ordinary example on its way to its rows; None where it has to be rendered."""
        plan = self._planner.plan(messages) if self._planner is not None else None
        return Planned(messages, plan) if plan is not None else None

    def render(self, example: Example) -> list[Turn]:
        """Any example on its way to its rows. Raises RenderError."""
        return self._template.turns(example)

    def rows(self, rendered: list[Planned | list[Turn]]) -> list[ExampleRows]:
        """The rows of some examples, in their order."""
        by_plan = iter(self._by_plan([item for item in rendered if isinstance(item, Planned)]))
        by_template = iter(self._by_template([item for item in rendered if not isinstance(item, Planned)]))
        return [next(by_plan) if isinstance(item, Planned) else next(by_template) for item in rendered]

    def _by_plan(self, planned: list[Planned]) -> list[ExampleRows]:
        turns = [self._turns(item.messages) for item in planned[: self._unchecked if self._planner else None]]
        expected = self._by_template(turns)
        if self._planner is None:
            return expected
        made = self._planner.rows([(item.plan, item.contents) for item in planned])
        self._unchecked -= len(expected)
        if made[: len(expected)] == expected:
            return made
        log.warning("prepare.plan_differs")
        self._planner = None
        return self._by_plan(planned)

    def _by_template(self, examples: list[list[Turn]]) -> list[ExampleRows]:
        return list(of_chats(examples, self._tokenizer))

    def _turns(self, messages: list[Message]) -> list[Turn]:
        as_parsed = [{"role": message.role, "content": message.content} for message in messages]
        return self._template.turns({"messages": as_parsed})


@lru_cache(maxsize=16)
def _learned(tokenizer: LoadedTokenizer) -> tuple[Template, Planner | None]:
    """What was found out about a tokenizer and its template is kept from file to file."""
    template = Template(tokenizer)
    return template, Planner(tokenizer, template)
