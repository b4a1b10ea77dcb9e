"""Logs are one JSON object a line, say what they belong to, and hold no secret."""

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from app import logs
from app.config import Settings


def line(message: str, **fields: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "app", "levelname": "INFO", "msg": message, **fields})
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    return json.loads(text)


@pytest.fixture
def nothing_hidden() -> Iterator[None]:
    before = set(logs._hidden)
    yield
    logs._hidden.clear()
    logs._hidden.update(before)


def test_a_record_becomes_an_event_with_fields() -> None:
    parsed = line("job.claimed", job="ftjob-1", fence=3)
    assert (parsed["event"], parsed["job"], parsed["fence"], parsed["level"]) == ("job.claimed", "ftjob-1", 3, "info")


def test_what_is_bound_stands_in_every_line_of_the_block() -> None:
    with logs.bound(request="req_1"):
        with logs.bound(job="ftjob-1"):
            assert (line("x")["request"], line("x")["job"]) == ("req_1", "ftjob-1")
        assert "job" not in line("x")
    assert "request" not in line("x")


def test_what_is_bound_in_one_thread_is_not_in_another() -> None:
    seen: list[dict[str, object]] = []
    with logs.bound(job="ftjob-1"):
        thread = threading.Thread(target=lambda: seen.append(line("x")))
        thread.start()
        thread.join()
    assert "job" not in seen[0]


def test_a_line_feed_in_a_value_cannot_forge_a_line() -> None:
    assert line("upload", upload_name='x\n{"event":"forged"}')["upload_name"] == 'x\n{"event":"forged"}'


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("presented sk-ts_abcdefgh_SECRETSECRETSECRET_123456", "SECRETSECRET"),
        ("signed with whsec_SECRET/SECRET+SECRET=", "SECRET"),
        ("postgresql+psycopg://user:hunter2@db:5432/x", "hunter2"),
        ("redis://:hunter2@redis:6379/0", "hunter2"),
        ("{'Authorization': 'Bearer c2VjcmV0c2VjcmV0'}", "c2VjcmV0"),
        ("token hf_abcdefghijklmnop", "abcdefghijklmnop"),
        ("https://s3/x?X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2Fx&X-Amz-Signature=0badc0de", "0badc0de"),
        ("InvalidAccessKeyId: AKIAIOSFODNN7EXAMPLE", "IOSFODNN7EXAMPLE"),
    ],
)
def test_secrets_are_cut_out(text: str, secret: str) -> None:
    assert secret not in logs.redact(text)
    assert secret not in json.dumps(line("x", field=text))


def test_this_process_s_own_secrets_are_cut_out_wherever_they_stand(nothing_hidden: None) -> None:
    settings = Settings(
        database_url="postgresql+psycopg://user:pass%2Fword@db/x",
        redis_url="redis://:redispass@redis:6379/0",
        s3_secret_access_key=SecretStr('quo"ted\\key'),
        wandb_api_key=SecretStr("wandbwandb"),
        metrics_token=SecretStr("metricstoken"),
    )
    logs.hide(settings)
    for secret in ("pass/word", "pass%2Fword", "redispass", 'quo"ted\\key', "wandbwandb", "metricstoken"):
        text = json.dumps(line("x", field=f"before {secret} after"), ensure_ascii=False)
        assert secret not in text
        assert "before" in text


def test_words_that_only_happen_to_be_a_password_are_left(nothing_hidden: None) -> None:
    logs.hide(Settings(database_url="postgresql+psycopg://tunesmith:tunesmith@db/x", redis_url="redis://:a@r/0"))
    assert line("tunesmith starts")["event"] == "tunesmith starts"
