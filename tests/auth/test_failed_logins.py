"""Wrong keys are counted by address; an address with too many of them has to wait, and nobody who is at work does."""

import httpx
import pytest
from live_server import Live

from app import db
from app.auth import key_format, service
from app.auth.deps import KeyCache
from app.auth.errors import InvalidKey, TooManyFailures
from app.auth.rates import FailedLogins

WRONG = key_format.mint(key_format.PROJECT_PREFIX)[1]


def failing(failures: FailedLogins, times: int, address: str) -> int:
    """How many of so many wrong keys from an address are looked at."""
    looked_at = 0
    for _ in range(times):
        try:
            failures.check(address)
        except TooManyFailures:
            continue
        failures.count(address)
        looked_at += 1
    return looked_at


def test_an_address_has_so_many_tries() -> None:
    failures = FailedLogins(3, processes=1)
    assert failing(failures, 5, "192.0.2.1") == 3
    assert failing(failures, 5, "192.0.2.2") == 3
    with pytest.raises(TooManyFailures) as raised:
        failures.check("192.0.2.1")
    assert 1 <= (raised.value.retry_after or 0) <= 60


def test_an_ipv6_network_counts_as_one_address() -> None:
    failures = FailedLogins(3, processes=1)
    tries = [failing(failures, 1, f"2001:db8:0:1::{number:x}") for number in range(5)]
    assert tries == [1, 1, 1, 0, 0]
    assert failing(failures, 1, "2001:db8:0:2::1") == 1


def test_processes_share_the_tries_and_zero_is_no_limit() -> None:
    assert failing(FailedLogins(3, processes=2), 5, "a") == 2
    assert failing(FailedLogins(0, processes=1), 5, "a") == 5


@pytest.mark.usefixtures("database")
def test_wrong_keys_lock_out_other_new_keys_but_none_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with db.transaction() as session:
        at_work, new = service.create_key(session).value, service.create_key(session).value
    cache = KeyCache(FailedLogins(2, processes=1))
    assert cache.caller(at_work, "192.0.2.1").project_id
    for _ in range(2):
        with pytest.raises(InvalidKey):
            cache.caller(WRONG, "192.0.2.1")
    monkeypatch.setattr(KeyCache, "SECONDS", 0.0)
    assert cache.caller(at_work, "192.0.2.1").project_id
    assert cache.caller(at_work, "192.0.2.1").project_id, "looked up again, and still let in"
    with pytest.raises(TooManyFailures):
        cache.caller(new, "192.0.2.1")
    assert cache.caller(new, "192.0.2.9").project_id


@pytest.mark.usefixtures("database")
def test_a_key_that_was_revoked_is_a_wrong_key_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyCache, "SECONDS", 0.0)
    with db.transaction() as session:
        issued = service.create_key(session)
    cache = KeyCache(FailedLogins(1, processes=1))
    cache.caller(issued.value, "a")
    with db.transaction() as session:
        service.revoke(service.get_key(session, None, issued.row.id))
    with pytest.raises(InvalidKey):
        cache.caller(issued.value, "a")
    with pytest.raises(TooManyFailures):
        cache.caller(issued.value, "a")


def test_on_the_wire_it_is_a_429_that_says_when(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.app.state.keys, "_failures", FailedLogins(2, processes=1))
    wrong = {"Authorization": f"Bearer {WRONG}"}
    replies = [httpx.get(f"{live.url}/v1/models", headers=wrong) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [401, 401, 429]
    assert replies[-1].headers["x-should-retry"] == "false"
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 60
    assert live.http.get("/v1/models").status_code == 200
