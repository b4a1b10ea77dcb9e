"""`tunesmith up` where only this machine can call has no limits; elsewhere, and where the user sets them, it has."""

import socket
from pathlib import Path
from typing import Any

import pytest

from app.config import Settings, is_loopback
from app.embedded.stack import LIMITS, Stack
from app.secrets import Vault


def changes(folder: Path, **settings: Any) -> dict[str, object]:
    with socket.socket() as listener:
        stack = Stack(folder, listener, Settings(**settings))
        try:
            return stack.changes
        finally:
            stack.lifeline.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_no_limits_on_loopback(tmp_path: Path, host: str) -> None:
    assert is_loopback(host)
    assert {name: changes(tmp_path, host=host)[name] for name in LIMITS} == dict.fromkeys(LIMITS, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "tunesmith.example", "localhost.example"])
def test_the_usual_limits_where_others_can_call(tmp_path: Path, host: str) -> None:
    assert not is_loopback(host)
    assert not set(LIMITS) & changes(tmp_path, host=host).keys()


def test_plain_http_receivers_only_on_loopback(tmp_path: Path) -> None:
    assert changes(tmp_path)["webhook_loopback_http"] is True
    assert changes(tmp_path, webhook_loopback_http=False).get("webhook_loopback_http") is None
    assert "webhook_loopback_http" not in changes(tmp_path, host="0.0.0.0")


def test_the_keys_of_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    keys = changes(tmp_path)["secret_keys"]
    assert Vault(str(keys)).usable
    assert changes(tmp_path)["secret_keys"] == keys
    assert (tmp_path / "secret-keys").stat().st_mode & 0o777 == 0o600
    assert "secret_keys" not in changes(tmp_path, secret_keys="mine")


def test_what_the_user_sets_is_kept(tmp_path: Path) -> None:
    assert "requests_per_minute" not in changes(tmp_path, requests_per_minute=5)


def test_every_limit_is_named() -> None:
    named = {name for name in Settings.model_fields if name.startswith("quota_") or name == "requests_per_minute"}
    assert set(LIMITS) == named
