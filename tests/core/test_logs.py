"""Logs are one JSON object a line and hold no secret."""

import json
import logging

import pytest

from app import logs


def line(message: str, **fields: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "app", "levelname": "INFO", "msg": message, **fields})
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


def test_a_record_becomes_an_event_with_fields() -> None:
    parsed = line("job.claimed", job="ftjob-1", fence=3)
    assert (parsed["event"], parsed["job"], parsed["fence"], parsed["level"]) == ("job.claimed", "ftjob-1", 3, "info")


def test_a_line_feed_in_a_value_cannot_forge_a_line() -> None:
    assert line("upload", upload_name='x\n{"event":"forged"}')["upload_name"] == 'x\n{"event":"forged"}'


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("presented sk-ts_abcdefgh_SECRETSECRETSECRET_123456", "SECRETSECRET"),
        ("signed with whsec_SECRET/SECRET+SECRET=", "SECRET"),
        ("postgresql+psycopg://user:hunter2@db:5432/x", "hunter2"),
        ("redis://:hunter2@redis:6379/0", "hunter2"),
    ],
)
def test_secrets_are_cut_out(text: str, secret: str) -> None:
    assert secret not in logs.redact(text)
    assert secret not in json.dumps(line("x", field=text))
