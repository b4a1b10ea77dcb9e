"""Conversations as text, by the model's own chat template (docs/decisions/0005).

For a trained assistant turn, P is the rendering of what comes before it with the generation prompt on, and the target
T is what the rendering through the turn adds to P, cut after its first stop token.
"""

import copy
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError

from worker.prepare.tokenizer import LoadedTokenizer

DATE_STRING = "26 Jul 2024"  # what templates that print a date would say without one; fixed, so that bytes repeat
MAX_RENDERED_CHARS = 32 * 1024 * 1024
CANARY = "quartz"  # a word no template writes by itself

Message = dict[str, Any]
Example = dict[str, Any]


class RenderError(ValueError):
    """A conversation cannot be rendered faithfully; the message says why."""


class TemplateRefused(ValueError):
    """A template cannot be trained with: it gives no way to tell the assistant's words apart."""


@dataclass(frozen=True)
class Turn:
    """One trained assistant turn: the text before it, and the text it should become."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Dialect:
    """What a template can do, found out by trying it once."""

    system: bool  # renders a system turn; else it is folded into the first user turn
    short_tool_ids: bool  # wants tool-call ids of nine letters and digits


class Template:
    """The chat template of one tokenizer. Raises TemplateRefused when it cannot be trained with."""

    def __init__(self, tokenizer: LoadedTokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(re.escape(token) for token in sorted(tokenizer.special_tokens)) or r"(?!)")
        self.dialect = Dialect(system=self._renders_system(), short_tool_ids=self._wants_short_ids())
        self._check_targets()

    def turns(self, example: Example) -> list[Turn]:
        """The trained turns of one chat example, in order. Raises RenderError."""
        messages, tools = self._prepare(example)
        self._refuse_special_tokens(messages, tools)
        turns = []
        for index, message in enumerate(messages):
            if message["role"] == "assistant" and message.pop("weight", 1) != 0:
                turns.append(self._turn(messages, index, tools))
        self._check_nothing_lost(messages, tools, [turn.prompt + turn.target for turn in turns])
        return turns

    def render(self, messages: list[Message], tools: list[Any] | None, *, prompt: bool) -> str:
        """The text of a conversation. Raises RenderError where the template refuses it."""
        try:
            text = self._tokenizer.tokenizer.apply_chat_template(
                messages, tools=tools, add_generation_prompt=prompt, tokenize=False, date_string=DATE_STRING
            )
        except (TemplateError, TypeError, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise RenderError(f"the model's chat template refuses it: {str(error)[:200]}") from None
        if len(text) > MAX_RENDERED_CHARS:
            raise RenderError(f"the model's chat template makes more than {MAX_RENDERED_CHARS} characters of it")
        return text

    def _turn(self, messages: list[Message], index: int, tools: list[Any] | None) -> Turn:
        prompt = self.render(messages[:index], tools, prompt=True)
        whole = self.render(messages[: index + 1], tools, prompt=False)
        if whole.startswith(prompt):
            return Turn(prompt, self._cut(whole[len(prompt) :]))
        # The template rewrites history: take the turn from a conversation that has none.
        short: list[Message] = [{"role": "user", "content": "x"}, messages[index]]
        alone = self.render(short[:1], None, prompt=True)
        whole = self.render(short, None, prompt=False)
        if whole.startswith(alone):
            return Turn(prompt, self._cut(whole[len(alone) :]))
        raise RenderError("the model's chat template does not tell the assistant's turn apart")

    def _cut(self, target: str) -> str:
        """`target` up to and with its first stop token."""
        ends = [target.find(stop) + len(stop) for stop in self._tokenizer.stop_tokens if stop in target]
        return target[: min(ends)] if ends else target

    def _prepare(self, example: Example) -> tuple[list[Message], list[Any] | None]:
        messages = [self._message(message) for message in example["messages"]]
        if not self.dialect.system:
            messages = _fold_system(messages)
        if self.dialect.short_tool_ids:
            _shorten_ids(messages)
        tools = list(example.get("tools") or [])
        tools += [{"type": "function", "function": function} for function in example.get("functions") or []]
        return messages, tools or None

    def _message(self, message: Message) -> Message:
        prepared = {key: value for key, value in message.items() if key not in ("function_call", "refusal", "name")}
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        prepared["content"] = content if content is not None else message.get("refusal") or ""
        if message["role"] == "developer":
            prepared["role"] = "system"
        if message["role"] == "function":
            prepared |= {"role": "tool", "tool_call_id": message.get("name", "")}
        calls = list(message.get("tool_calls") or [])
        if message.get("function_call"):
            call = message["function_call"]
            calls.append({"id": call["name"], "type": "function", "function": call})
        if calls:
            prepared["tool_calls"] = [_with_parsed_arguments(call) for call in calls]
        else:
            prepared.pop("tool_calls", None)
        if message["role"] in ("tool", "function") and message.get("name"):
            prepared["name"] = message["name"]
        return prepared

    def _refuse_special_tokens(self, messages: list[Message], tools: list[Any] | None) -> None:
        for text in itertools.chain(_texts(messages), _texts(tools)):
            found = self._special.search(text)
            if found:
                raise RenderError(f"content holds the model's special token {found[0]!r}")

    def _check_nothing_lost(self, messages: list[Message], tools: list[Any] | None, rendered: list[str]) -> None:
        """A template may not lose data silently: everything before the last trained turn must be in the text."""
        last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
        text = "\0".join([*rendered, self.render(messages[: last + 1], tools, prompt=False)])
        for index, message in enumerate(messages[: last + 1]):
            if message["content"].strip() not in text:
                raise RenderError(f"the model's chat template loses the content of messages[{index}]")
            for call in message.get("tool_calls", []):
                _check_call(call["function"], text, index)
        for tool in tools or []:
            if tool["function"]["name"] not in text:
                raise RenderError(f"the model's chat template loses the tool {tool['function']['name']!r}")

    def _renders_system(self) -> bool:
        messages = [{"role": "system", "content": CANARY}, {"role": "user", "content": "x"}]
        try:
            return CANARY in self.render(messages, None, prompt=True)
        except RenderError:
            return False

    def _wants_short_ids(self) -> bool:
        """Whether a tool call renders with a nine-character id but not with an ordinary one."""
        return not self._renders_call("call_abcdefghijkl") and self._renders_call("abcdefghi")

    def _renders_call(self, call_id: str) -> bool:
        call = {"id": call_id, "type": "function", "function": {"name": CANARY, "arguments": {"x": 1}}}
        messages: list[Message] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": call_id, "name": CANARY},
        ]
        try:
            return CANARY in self.render(messages, None, prompt=False)
        except RenderError:
            return False

    def _check_targets(self) -> None:
        """Refuse the template unless it tells the words of a plain answer apart."""
        try:
            turn = self._turn([{"role": "user", "content": "x"}, {"role": "assistant", "content": CANARY}], 1, None)
        except RenderError as error:
            raise TemplateRefused(str(error)) from None
        if CANARY not in turn.target or CANARY in turn.prompt:
            raise TemplateRefused("the chat template does not render the assistant's words")


def template_hash(tokenizer: LoadedTokenizer) -> str:
    """sha256 of the chat template's text."""
    text = tokenizer.tokenizer.chat_template
    return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()


def _fold_system(messages: list[Message]) -> list[Message]:
    """Put the words of system turns before those of the user turn that follows."""
    folded: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message["role"] == "system":
            pending.append(message["content"])
        elif message["role"] == "user" and pending:
            folded.append({**message, "content": "\n\n".join([*pending, message["content"]])})
            pending = []
        else:
            folded.append(message)
    if pending:
        raise RenderError("the model has no system role, and no user message follows the system message")
    return folded


def _shorten_ids(messages: list[Message]) -> None:
    """Nine letters and digits for every tool-call id, the same for the same id."""
    for message in messages:
        for call in message.get("tool_calls", []):
            call["id"] = _short_id(call["id"])
        if "tool_call_id" in message:
            message["tool_call_id"] = _short_id(message["tool_call_id"])


def _short_id(call_id: str) -> str:
    plain = re.fullmatch("[a-zA-Z0-9]{9}", call_id)
    return call_id if plain else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _with_parsed_arguments(call: dict[str, Any]) -> dict[str, Any]:
    parsed = copy.deepcopy(call)
    parsed["type"] = "function"
    parsed["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return parsed


def _check_call(function: dict[str, Any], text: str, index: int) -> None:
    wanted = [function["name"], *_texts(function["arguments"]), *_numbers(function["arguments"])]
    for value in wanted:
        if not any(form in text for form in _forms(value)):
            raise RenderError(f"the model's chat template loses a tool call of messages[{index}]")


def _forms(value: str) -> tuple[str, ...]:
    """How a string may stand in a rendering: as it is, or escaped by a JSON encoder."""
    return value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]


def _texts(value: Any) -> list[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (key, *_texts(item))]
    return []


def _numbers(value: Any) -> list[str]:
    """Every number in a JSON value, as JSON writes it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return []
    if isinstance(value, int | float):
        return [json.dumps(value)]
    return [text for item in (value.values() if isinstance(value, dict) else value) for text in _numbers(item)]
