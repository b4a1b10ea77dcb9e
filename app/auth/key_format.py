"""What a key looks like: `sk-ts_<8 public>_<32 secret>_<6 checksum>`, or `sk-ts-admin_…` for an organisation.

The prefix lets scanners find leaked keys; the public part finds the row; the checksum refuses typing errors without a
look at the database; 32 random letters and digits are 190 bits, which a fast hash protects.
"""

import hashlib
import zlib

from app import ids

PROJECT_PREFIX = "sk-ts"
ADMIN_PREFIX = "sk-ts-admin"


def mint(prefix: str) -> tuple[str, str]:
    """A new key: its public part, and the whole of it."""
    public, secret = ids.new("", 8), ids.new("", 32)
    return public, f"{prefix}_{public}_{secret}_{checksum(public + secret)}"


def public_part(key: str) -> str | None:
    """The part that finds the row, or None if this was never a key of ours."""
    parts = key.split("_")
    if len(parts) != 4 or parts[0] not in (PROJECT_PREFIX, ADMIN_PREFIX) or parts[3] != checksum(parts[1] + parts[2]):
        return None
    return parts[1]


def digest(key: str) -> bytes:
    """What the database keeps of a key."""
    return hashlib.sha256(key.encode()).digest()


def redacted(public: str, last_four: str, *, admin: bool) -> str:
    """What may be shown of a key."""
    return f"{ADMIN_PREFIX if admin else PROJECT_PREFIX}_{public}_…{last_four}"


def checksum(text: str) -> str:
    """CRC-32 in six letters and digits."""
    number = zlib.crc32(text.encode())
    digits = []
    for _ in range(6):
        number, digit = divmod(number, len(ids.ALPHABET))
        digits.append(ids.ALPHABET[digit])
    return "".join(digits)
