"""Public identifiers: a prefix that names the kind, then letters and digits from the system's randomness."""

import secrets
import string

ALPHABET = string.ascii_letters + string.digits
LOWER_ALPHABET = string.ascii_lowercase + string.digits


def new(prefix: str, length: int = 24) -> str:
    """`prefix` and `length` random letters and digits; 24 of them carry 142 bits."""
    return prefix + _letters(ALPHABET, length)


def model_tail() -> str:
    """The eight characters that end a tuned model's name."""
    return _letters(LOWER_ALPHABET, 8)


def request_id() -> str:
    """`req_` and 32 hexadecimal digits, as OpenAI's replies carry."""
    return "req_" + secrets.token_hex(16)


def is_plain(text: str) -> bool:
    """Whether `text` could be an identifier at all; NUL and its like must not reach the database."""
    return text.isascii() and text.isprintable()


def _letters(alphabet: str, length: int) -> str:
    """Random letters, each as likely: bytes beyond the last whole round of the alphabet are thrown away."""
    rounds = 256 - 256 % len(alphabet)
    text = ""
    while len(text) < length:
        text += "".join(alphabet[byte % len(alphabet)] for byte in secrets.token_bytes(2 * length) if byte < rounds)
    return text[:length]
