"""Secrets at rest: sealed, bound to their place, and readable after a rotation of keys."""

import base64

import pytest

from app import secrets
from app.secrets import CannotOpen, NoKeys, Vault

PLACE = "webhook_endpoints/whe_a"
OLD, NEW = secrets.new_key(), secrets.new_key()


def changed(sealed: str, index: int) -> str:
    """The same with one byte of nonce, ciphertext or tag turned over."""
    head, _, text = sealed.rpartition(".")
    data = bytearray(base64.urlsafe_b64decode(text))
    data[index] ^= 1
    return f"{head}.{base64.urlsafe_b64encode(bytes(data)).decode()}"


def test_what_is_sealed_can_be_opened_and_not_read() -> None:
    vault = Vault(OLD)
    sealed = vault.seal("whsec_secret ü", place=PLACE)
    assert "secret" not in sealed
    assert vault.open(sealed, place=PLACE) == "whsec_secret ü"


def test_the_same_secret_never_looks_the_same() -> None:
    vault = Vault(OLD)
    assert len({vault.seal("s", place=PLACE) for _ in range(100)}) == 100


def test_a_sealed_secret_opens_in_its_own_place_only() -> None:
    sealed = Vault(OLD).seal("s", place=PLACE)
    with pytest.raises(CannotOpen):
        Vault(OLD).open(sealed, place="webhook_endpoints/whe_b")


@pytest.mark.parametrize("index", [0, 11, 12, -17, -1])
def test_a_changed_text_cannot_be_opened(index: int) -> None:
    with pytest.raises(CannotOpen):
        Vault(OLD).open(changed(Vault(OLD).seal("s", place=PLACE), index), place=PLACE)


@pytest.mark.parametrize("text", ["", "v1", "v1.a.b.c", "v1.00000000.AAAA", "secret", "v1.00000000.ü"])
def test_what_was_never_sealed_cannot_be_opened(text: str) -> None:
    with pytest.raises(CannotOpen):
        Vault(OLD).open(text, place=PLACE)


def test_another_version_or_key_id_cannot_be_claimed() -> None:
    vault = Vault(f"{NEW},{OLD}")
    sealed = Vault(OLD).seal("s", place=PLACE)
    new_id = vault.seal("s", place=PLACE).split(".")[1]
    _, old_id, data = sealed.split(".")
    for text in (f"v2.{old_id}.{data}", f"v1.{new_id}.{data}"):
        with pytest.raises(CannotOpen):
            vault.open(text, place=PLACE)


def test_keys_are_rotated_by_a_new_one_in_front() -> None:
    sealed = Vault(OLD).seal("s", place=PLACE)
    both = Vault(f"{NEW}, {OLD}")
    assert both.open(sealed, place=PLACE) == "s"
    again = both.seal("s", place=PLACE)
    assert Vault(NEW).open(again, place=PLACE) == "s"
    with pytest.raises(CannotOpen):
        Vault(NEW).open(sealed, place=PLACE)


def test_without_keys_nothing_is_kept() -> None:
    vault = Vault("")
    assert not vault.usable
    with pytest.raises(NoKeys):
        vault.seal("s", place=PLACE)
    with pytest.raises(CannotOpen):
        vault.open(Vault(OLD).seal("s", place=PLACE), place=PLACE)


@pytest.mark.parametrize(
    "keys",
    ["short", base64.b64encode(b"x" * 31).decode(), f"{OLD},%%%", base64.b64encode(b"x" * 33).decode()],
    ids=["short", "31 bytes", "second is not base64", "33 bytes"],
)
def test_what_is_no_key_is_refused_at_the_start(keys: str) -> None:
    with pytest.raises(ValueError, match="secret key"):
        Vault(keys)
