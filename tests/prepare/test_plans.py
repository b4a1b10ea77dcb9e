"""Planned rows are those that the template itself gives, to the token, for every family and every kind of content."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.files.ordinary import Message
from tests.prepare import families
from worker.prepare import template_constants, tokenizer
from worker.prepare.chats import Chats, Planned
from worker.prepare.rows import ExampleRows, of_chats
from worker.prepare.template import RenderError, Template
from worker.prepare.tokenizer import LoadedTokenizer

TINY_CHAT = Path(__file__).parent.parent.parent / "catalog" / "tiny-chat"
NAMES = (*families.FAMILIES, "tiny-chat")

ODD_WORDS = [
    "user", "assistant", "system", "</think>", "<think>", "model", "\n", "\n\n", "  ", "\t", "'s", "12", "é", "日本",
    "{{ x }}", "{% if %}", "<|user|>", "[INST]", "<bos>", "Today Date:", "tool", ":", "<|", "\\n", "🙂", ".",
]  # fmt: skip
CONTENT = st.lists(st.sampled_from(ODD_WORDS) | st.text("ab ,.\n", max_size=6), min_size=1, max_size=6).map(" ".join)
TURN = st.tuples(CONTENT, CONTENT)
CONVERSATION = st.tuples(st.none() | CONTENT, st.lists(TURN, min_size=1, max_size=3), st.booleans())


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LoadedTokenizer]:
    loaded: dict[str, LoadedTokenizer] = {}

    def load(name: str) -> LoadedTokenizer:
        if name not in loaded:
            folder = TINY_CHAT if name == "tiny-chat" else families.write(name, tmp_path_factory.mktemp(name))
            loaded[name] = tokenizer.load(folder)
        return loaded[name]

    return load


def conversation(system: str | None, turns: list[tuple[str, str]], ends_open: bool = False) -> list[Message]:
    messages = [Message("system", system)] if system is not None else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    return [*messages, Message("user", "And?")] if ends_open else messages


def as_parsed(messages: list[Message]) -> dict[str, Any]:
    return {"messages": [{"role": message.role, "content": message.content} for message in messages]}


def by_template(loaded: LoadedTokenizer, messages: list[Message]) -> ExampleRows:
    return next(of_chats([Template(loaded).turns(as_parsed(messages))], loaded))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=CONVERSATION)
def test_planned_rows_are_the_templates(load: Callable[[str], LoadedTokenizer], name: str, drawn: Any) -> None:
    loaded, messages = load(name), conversation(*drawn)
    chats = Chats(loaded)
    chats._unchecked = 0
    planned = chats.plan(messages)
    if planned is not None:
        assert chats.rows([planned]) == [by_template(loaded, messages)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gemma"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_ordinary_conversations_are_planned(load: Callable[[str], LoadedTokenizer], name: str, count: int) -> None:
    messages = conversation("Be kind.", [(f"What is {n}?", f"It is {n}.\nThat is all.") for n in range(count)])
    planned = Chats(load(name)).plan(messages)
    assert planned is not None
    assert len(Chats(load(name)).rows([planned])[0].rows[0].targets) >= 1


def test_a_template_may_look_into_contents(load: Callable[[str], LoadedTokenizer]) -> None:
    chats = Chats(load("thinking"))
    plain, thinking = (conversation(None, [("Why?", text), ("And?", "So.")]) for text in ("Because.", "a</think>b"))
    assert chats.plan(plain) is not None
    assert chats.plan(thinking) is None


@pytest.mark.parametrize("content", ["", " x", "x ", "x\n", "<|im_end|>", "a <|im_start|> b"])
def test_contents_out_of_the_ordinary_are_left_to_the_template(
    load: Callable[[str], LoadedTokenizer], content: str
) -> None:
    assert Chats(load("chatml")).plan(conversation(None, [(content, "Yes.")])) is None


def test_rows_come_in_order_whichever_way_they_are_made(load: Callable[[str], LoadedTokenizer]) -> None:
    loaded = load("chatml")
    chats = Chats(loaded)
    talks = [conversation(None, [(f"{' ' * (n % 3 == 0)}Question {n}?", f"Answer {n}.")]) for n in range(40)]
    rendered = [chats.plan(talk) or chats.render(as_parsed(talk)) for talk in talks]
    assert {type(item) for item in rendered} == {Planned, list}
    assert chats.rows(rendered) == [by_template(loaded, talk) for talk in talks]


def test_what_differs_from_the_template_is_given_up(
    load: Callable[[str], LoadedTokenizer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load("chatml")
    chats = Chats(loaded)
    talk = conversation(None, [("Why?", "So.")])
    planned = chats.plan(talk)
    assert planned is not None
    assert chats._planner is not None
    monkeypatch.setattr(chats._planner, "rows", lambda plans: [ExampleRows() for _ in plans])
    assert chats.rows([planned]) == [by_template(loaded, talk)]
    assert "prepare.plan_differs" in caplog.text
    assert chats.plan(talk) is None


def test_what_the_template_refuses_has_no_plan(load: Callable[[str], LoadedTokenizer]) -> None:
    messages = [Message("assistant", "Hello."), Message("assistant", "Again.")]
    chats = Chats(load("gemma"))
    assert chats.plan(messages) is None
    with pytest.raises(RenderError):
        chats.render(as_parsed(messages))


def test_the_texts_a_template_looks_for() -> None:
    found = template_constants.of(
        "{% generation %}{% if m.role == 'user' and 'IN' in m.content %}{{ m.content.split('CUT')[-1].lstrip('\\n') }}"
        "{% elif m.content.startswith('HEAD') or m.content is in ['A', 'B'] %}{{ m.content | replace('OLD', 'new') }}"
        "{% endif %}{{ raise_exception('no') }}{{ ['x'] | join(', ') }}{{ m.get('content') }}{% endgeneration %}"
    )
    assert found is not None
    assert found.equal == {"user"}
    assert found.inside == {"IN", "CUT", "HEAD", "A", "B", "OLD", "new"}


def test_a_template_that_cannot_be_read_is_not_planned() -> None:
    assert template_constants.of("{% if %}") is None
