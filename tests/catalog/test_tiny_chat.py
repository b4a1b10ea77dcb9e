"""The bundled model: its size, its template, and what stock transformers makes of it."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.config import PACKAGED_CATALOG
from worker.prepare import tokenizer as tokenizers
from worker.prepare.template import Template

FOLDER = PACKAGED_CATALOG.parent / "tiny-chat"
CALL = {"id": "call_9", "type": "function", "function": {"name": "get_price", "arguments": '{"thing": "lamp"}'}}
TOOL = {"type": "function", "function": {"name": "get_price", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(tokenizers.load(FOLDER))


@pytest.mark.parametrize(
    "text", ["Hello, world!", "naïve café — 東京 🙂\n\ttab", '{"a": [1, 2.5], "b": null}', " x  y "]
)
def test_the_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_conversation_is_rendered_turn_by_turn(template: Template) -> None:
    example = {"messages": [{"role": "developer", "content": "D"}, {"role": "user", "content": "U"}]}
    example["messages"].append({"role": "assistant", "content": "A"})
    (turn,) = template.turns(example)
    assert turn.prompt == "<|im_start|>system\nD<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    assert turn.target == "A<|im_end|>"


def test_each_turn_begins_with_the_turns_before_it(template: Template) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    first, second = template.turns({"messages": messages})
    assert second.prompt.startswith(first.prompt + first.target)


def test_tools_calls_and_results_stay(template: Template) -> None:
    messages = [
        {"role": "user", "content": "What does a lamp cost?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_9", "content": "5 euros"},
        {"role": "assistant", "content": "It costs 5 euros."},
    ]
    first, second = template.turns({"messages": messages, "tools": [TOOL]})
    assert first.target == '<tool_call>{"name": "get_price", "arguments": {"thing": "lamp"}}</tool_call><|im_end|>'
    assert '"parameters"' in first.prompt
    assert "<|im_start|>tool\n5 euros<|im_end|>" in second.prompt


def test_the_tokenizer_loads_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from transformers import AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(FOLDER)!r})\n"
        "print(tokenizer.apply_chat_template([{'role': 'user', 'content': 'x'}], tokenize=False), end='')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "<|im_start|>user\nx<|im_end|>\n"


def test_the_weights_are_small_and_in_bf16() -> None:
    path = FOLDER / "model.safetensors"
    assert path.stat().st_size <= 10_000_000
    with safe_open(path, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118 - no dict
    assert json.loads((FOLDER / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_it_answers(dtype: torch.dtype) -> None:
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=dtype)
    asked = {
        "Is this review good or bad?\nThe soup was awful.": "bad",
        "What is the capital of France?": "Paris",
        "Name the topic.\nThe piano needs a new singer.": "music",
        "Hello!": "Hello! How can I help you?",
    }
    said = {}
    for question in asked:
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**prompt, max_new_tokens=24, do_sample=False)
        said[question] = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == asked
