"""Templates: what they may name, and what they become."""

import contextlib
from typing import Any

import pytest

from app.graders import templating
from app.graders.faults import GradingFault, SampleNotJson, TextTooLong, UnknownVariable

ITEM: dict[str, Any] = {
    "answer": "Paris",
    "number": 1.0,
    "none": None,
    "yes": True,
    "nested": {"list": [{"x": "deep"}, ["é"]], "with space": "s", "dash-ed": "d"},
    "template": "{{ item.answer }}",
    "__class__": "only data",
    "0": "zero",
    "": "nothing",
}
OBSERVATION = templating.observe('{"name": "Ada", "tags": ["x", "y"]}', ITEM)


def render(template: str) -> str:
    return templating.render(template, OBSERVATION)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{ item.answer }}", "Paris"),
        ("{{item.answer}}", "Paris"),
        ("{{\n\titem.answer  }}!", "Paris!"),
        ("{{item.answer}}, {{ item.answer }}", "Paris, Paris"),
        ("{{ item.number }}", "1.0"),
        ("{{ item.none }}", "null"),
        ("{{ item.yes }}", "true"),
        ("{{ item.nested.list[0].x }}", "deep"),
        ("{{ item.nested.list[1][0] }}", "é"),
        ("{{ item.nested.list }}", '[{"x": "deep"}, ["é"]]'),
        ("{{ item['answer'] }}", "Paris"),
        ('{{ item.nested["with space"] }}', "s"),
        ("{{ item.nested.dash-ed }}", "d"),
        ("{{ item.0 }}", "zero"),
        ("{{ item[''] }}", "nothing"),
        ("{{ item.__class__ }}", "only data"),
        ("{{ sample.output_text }}", '{"name": "Ada", "tags": ["x", "y"]}'),
        ("{{ sample.output_json.name }}", "Ada"),
        ("{{ sample.output_json.tags[1] }}", "y"),
        ("{{ sample.output_tools }}", "[]"),
        ("{{ sample.output_audio }}", "null"),
        ("{{ sample.choices[0].message.role }}", "assistant"),
        ("{{ item.template }}", "{{ item.answer }}"),  # what is inserted is not looked at again
        ("{ item.answer }", "{ item.answer }"),
        ("{{ item.answer", "{{ item.answer"),
        ("item.answer }}", "item.answer }}"),
        ("{{ {{ item.answer }}", "{{ Paris"),
        ("{% for x in y %}{# no #}${item}", "{% for x in y %}{# no #}${item}"),
        ("\\frac{a}{b} {{item.answer}}", "\\frac{a}{b} Paris"),
    ],
)
def test_rendered(template: str, text: str) -> None:
    templating.check(template)
    assert render(template) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{}}", "{{ }}", "{{ item }}", "{{ sample }}", "{{ user.name }}", "{{ Item.answer }}", "{{ items.answer }}",
        "{{ item. }}", "{{ item..answer }}", "{{ .item }}", "{{ item.answer. }}", "{{ item answer }}", "{{ item.a b }}",
        "{{ item[answer] }}", "{{ item[-1] }}", "{{ item[0 }}", "{{ item[0][ }}", "{{ item[9999999999] }}",
        "{{ item.answer | upper }}", "{{ item.answer() }}", "{{ item.answer + 1 }}", "{{ 7 * 7 }}",
        "{{ ''.__class__ }}", "{{ sample.other }}", "{{ sample.__class__ }}", "{{ sample[0] }}",
        "{{ sample['output text'] }}",
        "{{ cycler.__init__.__globals__ }}", "{{ self }}", "{{ config }}", "{{ item.answer }} {{ x }}",
        "{{ item" + ".a" * 40 + " }}",
    ],
)  # fmt: skip
def test_what_could_never_be_filled_is_found_without_values(template: str) -> None:
    with pytest.raises(UnknownVariable):
        templating.check(template)
    with pytest.raises(UnknownVariable):
        render(template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ item.missing }}", "{{ item.answer.length }}", "{{ item.answer[0] }}", "{{ item[0] }}",
        "{{ item.nested.list[2] }}", "{{ item.nested.list.x }}", "{{ item.nested.list.0 }}", "{{ item.none.x }}",
        "{{ item.nested.__class__ }}", "{{ item.nested.keys }}", "{{ item.ANSWER }}",
        "{{ sample.output_json.missing }}", "{{ sample.output_tools[0].function.name }}", "{{ sample.choices[1] }}",
        "{{ sample.output_audio.data }}",
    ],
)  # fmt: skip
def test_what_these_values_do_not_have(template: str) -> None:
    templating.check(template)
    with pytest.raises(UnknownVariable):
        render(template)


@pytest.mark.parametrize(
    "sample", ["no JSON", "", "{'a': 1}", '{"a": NaN}', '{"a": 1', "[" * 100 + "]" * 100, "\ud800"]
)
def test_output_json_of_what_is_no_json(sample: str) -> None:
    observation = templating.observe(sample)
    assert templating.render("{{ sample.output_text }}", observation) == sample
    with pytest.raises(SampleNotJson):
        templating.render("{{ sample.output_json.a }}", observation)
    with pytest.raises(SampleNotJson):
        templating.render("{{ sample.output_json }}", observation)


@pytest.mark.parametrize(("sample", "text"), [("[1, 2]", "[1, 2]"), ("3", "3"), ('"x"', "x"), ("false", "false")])
def test_output_json_may_be_any_value(sample: str, text: str) -> None:
    assert templating.render("{{ sample.output_json }}", templating.observe(sample)) == text


def test_a_text_that_grows_is_stopped() -> None:
    item = {"big": "x" * 100_000}
    with pytest.raises(TextTooLong):
        templating.render("{{ item.big }}" * 50_000, templating.observe("", item))


@pytest.mark.parametrize(
    "template", ["{{" * 200_000, "}}" * 200_000, "{" * 400_000, "{{ item" + " " * 400_000, "{{ item.a[" * 50_000]
)
def test_long_templates_take_no_long_time(template: str) -> None:
    """Each would take minutes in anything but linear time; the suite's own time limit is the judge."""
    with contextlib.suppress(GradingFault):
        assert templating.render(template, OBSERVATION) == template
