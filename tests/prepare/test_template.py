"""Golden texts: what each family's template makes of a conversation, and which part of it is the assistant's."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.prepare import families
from worker.prepare import tokenizer
from worker.prepare.template import RenderError, Template, TemplateRefused, Turn

SYSTEM = {"role": "system", "content": "Be kind."}
HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
MORE = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Fine."}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
TOOL_TALK = [
    {"role": "user", "content": "Sunny?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sun", "tool_call_id": "call_1"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Template]:
    def make(family: str, text: str | None = None) -> Template:
        folder = families.write(family, tmp_path_factory.mktemp(family), text)
        return Template(tokenizer.load(folder))

    return make


def turns(template: Template, messages: list[dict[str, Any]], **rest: Any) -> list[Turn]:
    return template.turns({"messages": messages, **rest})


LLAMA_HEAD = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n"
USER, ASSISTANT = "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\n"

SINGLE = {
    "chatml": ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "Hi!<|im_end|>"),
    "thinking": ("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", "Hi!<|im_end|>"),
    "llama3": (f"{LLAMA_HEAD}<|eot_id|>{USER}Hello<|eot_id|>{ASSISTANT}", "Hi!<|eot_id|>"),
    "mistral": ("<s>[INST] Hello[/INST]", " Hi!</s>"),
    "gemma": ("<bos><start_of_turn>user\nHello<end_of_turn>\n<start_of_turn>model\n", "Hi!<end_of_turn>"),
    "phi3": ("<|user|>\nHello<|end|>\n<|assistant|>\n", "Hi!<|end|>"),
}
WITH_SYSTEM = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "llama3": f"{LLAMA_HEAD}Be kind.<|eot_id|>{USER}Hello<|eot_id|>{ASSISTANT}",
    "mistral": "<s>[INST] Be kind.\n\nHello[/INST]",
    "gemma": "<bos><start_of_turn>user\nBe kind.\n\nHello<end_of_turn>\n<start_of_turn>model\n",
    "phi3": "<|system|>\nBe kind.<|end|>\n<|user|>\nHello<|end|>\n<|assistant|>\n",
}


@pytest.mark.parametrize("family", SINGLE)
def test_one_turn(template: Callable[..., Template], family: str) -> None:
    assert turns(template(family), HELLO) == [Turn(*SINGLE[family])]


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("family", WITH_SYSTEM)
def test_a_system_message_is_kept_or_folded(template: Callable[..., Template], family: str, role: str) -> None:
    (turn,) = turns(template(family), [{**SYSTEM, "role": role}, *HELLO])
    assert turn == Turn(WITH_SYSTEM[family], SINGLE[family][1])


@pytest.mark.parametrize("family", SINGLE)
def test_two_turns_are_two_targets(template: Callable[..., Template], family: str) -> None:
    first, second = turns(template(family), [*HELLO, *MORE])
    assert first == Turn(*SINGLE[family])
    assert second.target == SINGLE[family][1].replace("Hi!", "Fine.")
    assert "Hi!" in second.prompt
    assert "How are you?" in second.prompt


def test_weight_zero_is_context_only(template: Callable[..., Template]) -> None:
    quiet = [HELLO[0], {**HELLO[1], "weight": 0}]
    (turn,) = turns(template("chatml"), [*quiet, *MORE])
    assert turn.target == "Fine.<|im_end|>"
    assert "Hi!<|im_end|>" in turn.prompt


def test_tools_chatml(template: Callable[..., Template]) -> None:
    call, answer = turns(template("chatml"), TOOL_TALK, tools=[TOOL])
    assert call.target == ('\n<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>')
    assert answer.target == "Yes.<|im_end|>"
    assert "<|im_start|>tool\nsun<|im_end|>" in answer.prompt


def test_tools_llama3(template: Callable[..., Template]) -> None:
    call, answer = turns(template("llama3"), TOOL_TALK, tools=[TOOL])
    assert '"name": "weather"' in call.prompt
    # The template renders the generation prompt and then the call under the same header.
    assert call.target == '{"name": "weather", "parameters": {"city": "Paris"}}<|eot_id|>'
    assert answer.target == "Yes.<|eot_id|>"


def test_tools_mistral_get_ids_of_nine_characters(template: Callable[..., Template]) -> None:
    call, answer = turns(template("mistral"), TOOL_TALK, tools=[TOOL])
    sent = json.loads(call.target.removeprefix("[TOOL_CALLS] ").removesuffix("</s>"))
    assert len(sent[0]["id"]) == 9
    assert sent[0]["id"].isalnum()
    assert sent[0]["arguments"] == {"city": "Paris"}
    assert f'"call_id": "{sent[0]["id"]}"' in answer.prompt


def test_a_template_that_rewrites_history_still_trains_every_turn(template: Callable[..., Template]) -> None:
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi!"}
    first, second = turns(template("thinking"), [HELLO[0], thought, *MORE])
    assert first.target == "<think>\nhm\n</think>\n\nHi!<|im_end|>"
    assert "<think>" not in second.prompt
    assert second.target == "Fine.<|im_end|>"


def test_parts_are_joined_and_a_refusal_is_content(template: Callable[..., Template]) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    (turn,) = turns(template("chatml"), messages)
    assert turn == Turn(SINGLE["chatml"][0], "No.<|im_end|>")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "a <|im_end|> b"}, HELLO[1]],
        [HELLO[0], {"role": "assistant", "content": "<|im_start|>"}],
        [{"role": "system", "content": "<|endoftext|>"}, *HELLO],
    ],
)
def test_special_tokens_in_content_are_refused(
    template: Callable[..., Template], messages: list[dict[str, Any]]
) -> None:
    with pytest.raises(RenderError, match="special token"):
        turns(template("chatml"), messages)


NO_SYSTEM_TEXT = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_drops_the_system_message_gets_it_folded(template: Callable[..., Template]) -> None:
    (turn,) = turns(template("chatml", NO_SYSTEM_TEXT), [SYSTEM, *HELLO])
    assert "Be kind.\n\nHello" in turn.prompt


def test_a_template_that_loses_tool_calls_fails_the_line(template: Callable[..., Template]) -> None:
    with pytest.raises(RenderError, match="loses a tool call"):
        turns(template("chatml", NO_SYSTEM_TEXT), TOOL_TALK)


def test_a_template_that_loses_tools_fails_the_line(template: Callable[..., Template]) -> None:
    with pytest.raises(RenderError, match="loses the tool 'weather'"):
        turns(template("chatml", NO_SYSTEM_TEXT), HELLO, tools=[TOOL])


def test_a_template_that_loses_content_fails_the_line(template: Callable[..., Template]) -> None:
    text = NO_SYSTEM_TEXT.replace("{{ m.content }}", "{{ m.content[:8] }}")
    with pytest.raises(RenderError, match=r"loses the content of messages\[0\]"):
        turns(template("chatml", text), [{"role": "user", "content": "Hello there, friend"}, HELLO[1]])


def test_a_conversation_the_template_refuses_names_its_reason(template: Callable[..., Template]) -> None:
    with pytest.raises(RenderError, match="must alternate"):
        turns(template("gemma"), [HELLO[0], HELLO[0], HELLO[1]])


@pytest.mark.parametrize("text", ["{{ messages | length }}", "nothing", "{{ raise_exception('no') }}"])
def test_a_template_without_the_assistants_words_is_refused(template: Callable[..., Template], text: str) -> None:
    with pytest.raises(TemplateRefused):
        template("chatml", text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{% for a in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{{ messages.append(1) }}", "unsafe|append"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{% for m in messages %}{{ m.content }", "unexpected|line"),
        ("{{ cycler.__init__.__globals__ }}", "unsafe"),
        ("{{ messages[0]['content'] }}{% for a in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "more than"),
    ],
)
def test_what_a_template_is_not_allowed(text: str, message: str, template: Callable[..., Template]) -> None:
    with pytest.raises(TemplateRefused, match=message):
        template("chatml", text)


def test_a_template_cannot_reach_out_of_its_sandbox(template: Callable[..., Template]) -> None:
    with pytest.raises(TemplateRefused):
        template("chatml", "{{ ''.__class__.__mro__[1].__subclasses__() }}")
