"""Group F: addresses, sources, templates and formulas that are no good."""

from typing import Any

import pytest
from live_server import Live

from tests.bad_input.refusals import refused

pytestmark = pytest.mark.usefixtures("nothing_kept")

ENDPOINTS = "/v1/webhook_endpoints"
GRADERS = "/v1/fine_tuning/alpha/graders"
DROP = object()

URLS: dict[str, Any] = {
    "F01 missing": DROP,
    "F01 null": None,
    "F01 number": 1,
    "F03 ftp": "ftp://example.com/",
    "F03 file": "file:///etc/passwd",
    "F03 gopher": "gopher://example.com/_x",
    "F03 javascript": "javascript:alert(1)",
    "F05 decimal": "https://2130706433/",
    "F05 octal": "https://0177.0.0.1/",
    "F05 hexadecimal": "https://0x7f.1/",
    "F07 10/8": "https://10.1.2.3/",
    "F07 172.16/12": "https://172.31.255.255/",
    "F07 192.168/16": "https://192.168.0.1/",
    "F07 100.64/10": "https://100.64.0.1/",
    "F07 link-local": "https://[fe80::1]/",
    "F13 user and password": "https://user:pass@93.184.216.34/",
    "F15 a second @": "https://93.184.216.34@127.0.0.1/",
    "F15 #": "https://127.0.0.1#@93.184.216.34/",
    "F15 backslash": "https://93.184.216.34\\@127.0.0.1/",
    "F15 %00": "https://93.184.216.34%00.example.com/",
    "F15 tab": "https://93.184\t.216.34/",
    "F17 254 characters": "https://" + ".".join(["a" * 49] * 5) + "abcde/",
    "F17 a label of 64": f"https://{'a' * 64}.example.com/",
    "F19 fragment": "https://93.184.216.34/#x",
    "loopback": "https://127.0.0.1/",
    "loopback by name": "https://localhost/",
    "0.0.0.0": "https://0.0.0.0/",
    "IPv6 loopback": "https://[::1]/",
    "IPv4 in IPv6": "https://[::ffff:10.0.0.1]/",
    "IPv4 in NAT64": "https://[64:ff9b::a00:1]/",
    "6to4": "https://[2002:7f00:1::]/",
    "private IPv6": "https://[fd00::1]/",
    "multicast": "https://224.0.0.1/",
    "metadata": "https://169.254.169.254/latest/meta-data/",
    "a zone": "https://[fe80::1%25eth0]/",
    "full-width digits": "https://\uff11\uff12\uff17.0.0.1/",
    "an ideographic dot": "https://127\u30020.0.1/",
    "a port of Redis": "https://93.184.216.34:6379/",
    "port 0": "https://93.184.216.34:0/",
    "port 65,536": "https://93.184.216.34:65536/",
    "a port of letters": "https://93.184.216.34:https/",
    "no host": "https:///x",
    "no scheme": "93.184.216.34/x",
    "a path": "/etc/passwd",
    "a space": "https://93.184.216.34/a b",
    "line feeds": "https://93.184.216.34/\r\nX: y",
    "a space before": " https://93.184.216.34/",
    "plain http": "http://93.184.216.34/",
    "a websocket": "wss://93.184.216.34/",
    "data": "data:text/plain,x",
    "empty": "",
    "10 kB": "https://93.184.216.34/" + "x" * 10_000,
    "list": ["https://93.184.216.34/"],
    "dots": "https://../",
    "hyphens": "https://-a.example.com/",
    "an unclosed bracket": "https://[::1/",
}


@pytest.mark.parametrize("url", URLS.values(), ids=URLS.keys())
def test_urls_of_webhooks(live: Live, url: Any) -> None:
    sent = {"name": "x", "url": url, "event_types": ["fine_tuning.job.succeeded"]}
    sent = {name: value for name, value in sent.items() if value is not DROP}
    refused(live.http.post(ENDPOINTS, json=sent), param="url")


def test_f21_this_server(live: Live) -> None:
    sent = {"name": "x", "url": f"{live.url}/v1/files", "event_types": ["fine_tuning.job.succeeded"]}
    refused(live.http.post(ENDPOINTS, json=sent), param="url")


CHECK = {"type": "string_check", "name": "c", "input": "a", "reference": "a", "operation": "eq"}


def multi(graders: Any, formula: Any = "a") -> dict[str, Any]:
    return {"type": "multi", "name": "m", "graders": graders, "calculate_output": formula}


def deep(levels: int) -> Any:
    grader: Any = CHECK
    for _ in range(levels):
        grader = multi({"a": grader})
    return grader


REFUSED: dict[str, Any] = {
    "F65 a source of 257 KiB": {"type": "python", "name": "p", "source": "#" * 257 * 1024},
    "F79 two levels": deep(2),
    "F79 20 levels": deep(20),
    "F79 100 levels": deep(100),
    "no type": {"name": "x"},
    "type null": {"type": None},
    "type unknown": {"type": "shell", "source": "id"},
    "null": None,
    "text": "string_check",
    "list": [CHECK],
    "a field more": CHECK | {"x": 1},
    "operation of others": CHECK | {"operation": "regex"},
    "operation list": CHECK | {"operation": ["eq"]},
    "input missing": {name: value for name, value in CHECK.items() if name != "input"},
    "input number": CHECK | {"input": 1},
    "name of 257": CHECK | {"name": "x" * 257},
    "cosine": {
        "type": "text_similarity",
        "name": "t",
        "input": "a",
        "reference": "a",
        "evaluation_metric": "cosine",
    },
    "no graders": multi({}),
    "33 graders": multi({f"g{n}": CHECK for n in range(33)}, "g0"),
    "a formula number": multi({"a": CHECK}, 1),
    "python that is off": {"type": "python", "name": "p", "source": "def grade(sample, item):\n    return 1.0"},
    "a model that is not offered": {
        "type": "score_model",
        "name": "s",
        "model": "gpt-4o",
        "input": [{"role": "user", "content": "x"}],
    },
    "a label model alone": {
        "type": "label_model",
        "name": "l",
        "model": "gpt-4o",
        "input": [{"role": "user", "content": "x"}],
        "labels": ["a"],
        "passing_labels": ["b"],
    },
}


@pytest.mark.parametrize("grader", REFUSED.values(), ids=REFUSED.keys())
def test_graders(live: Live, grader: Any) -> None:
    refused(live.http.post(f"{GRADERS}/validate", json={"grader": grader}))
    refused(live.http.post(f"{GRADERS}/run", json={"grader": grader, "model_sample": "x"}))


FAULTY: dict[str, Any] = {
    "an attribute of Python's": CHECK | {"input": "{{ item.__class__.__mro__ }}{% for x in y %}"},
    "a foreign namespace": CHECK | {"input": "{{ config.items() }}"},
    "a formula of an import": multi({"a": CHECK}, "__import__('os').system('id')"),
    "a formula of an attribute": multi({"a": CHECK}, "a.__class__"),
    "a formula of nobody": multi({"a": CHECK}, "b"),
    "an empty formula": multi({"a": CHECK}, ""),
    "a formula of 100 kB": multi({"a": CHECK}, "a+" * 50_000 + "a"),
    "a formula of brackets": multi({"a": CHECK}, "(" * 5000 + "a" + ")" * 5000),
    "a formula of powers": multi({"a": CHECK}, "^".join(["9"] * 5000)),
    "a number of another script": multi({"a": CHECK}, "a + \u0661"),
    "an index of another script": CHECK | {"input": "{{ item.list[\u0660] }}"},
    "a key that is a word": multi({"import os": CHECK}, "import os"),
}


@pytest.mark.parametrize("grader", FAULTY.values(), ids=FAULTY.keys())
def test_graders_that_fail_while_grading(live: Live, grader: Any) -> None:
    """A template or formula that is no good is nothing, and is told in the reply."""
    reply = live.http.post(
        f"{GRADERS}/run", json={"grader": grader, "model_sample": "x", "item": {"a": "b", "list": [1]}}
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["reward"] == 0.0
    errors = reply.json()["metadata"]["errors"]
    assert any(value is True for value in errors.values()), errors


def test_f77_templates_only_look_up(live: Live) -> None:
    """What is looked up is not a template again, and is no object of Python's."""
    grader = CHECK | {"input": "{{ item.a }}", "reference": "{{ item.b }} {% x %}"}
    reply = live.http.post(
        f"{GRADERS}/run",
        json={"grader": grader, "model_sample": "x", "item": {"a": "{{ item.b }} {% x %}", "b": "{{ item.b }}"}},
    )
    assert reply.json()["reward"] == 1.0


RUNS: dict[str, dict[str, Any]] = {
    "no sample": {"model_sample": DROP},
    "sample null": {"model_sample": None},
    "sample number": {"model_sample": 1},
    "item list": {"item": []},
    "item text": {"item": "x"},
    "a field more": {"reference": "x"},
    "a key of others": {"item": {"a": 1}, "env": {"LD_PRELOAD": "x"}},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS.keys())
def test_runs(live: Live, changes: dict[str, Any]) -> None:
    sent = {"grader": CHECK, "model_sample": "x"} | changes
    refused(live.http.post(f"{GRADERS}/run", json={k: v for k, v in sent.items() if v is not DROP}))
