"""Parts become one object: read in order, hashed, checked and written in one pass, a chunk in memory at a time."""

import hashlib
from collections.abc import Callable, Iterable

from app.files.dataset import BadUpload, UploadCheck
from app.storage import Store
from app.uploads.errors import ChecksumMismatch, InvalidUploadContent


def assemble(
    store: Store, keys: Iterable[str], target: str, *, lines: bool, md5: str | None, after_part: Callable[[], None]
) -> str:
    """Write the objects under `keys`, one after the other, to `target`; its sha256.

    lines: whether it must be JSONL. Raises ChecksumMismatch, InvalidUploadContent, StoreUnavailable; then nothing is
    left under `target`.
    """
    sha256, whole = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    check = UploadCheck()
    with store.writing(target) as writer:
        for key in keys:
            for chunk in store.read(key):
                sha256.update(chunk)
                writer.write(chunk)
                if md5 is not None:
                    whole.update(chunk)
                if lines:
                    _checked(check.feed, chunk)
            after_part()
        if md5 is not None and whole.hexdigest() != md5:
            raise ChecksumMismatch(f"The md5 of the parts together is {whole.hexdigest()}, not {md5}.")
        if lines:
            _checked(check.finish)
    return sha256.hexdigest()


def _checked(step: Callable[..., None], *chunk: bytes) -> None:
    try:
        step(*chunk)
    except BadUpload as error:
        raise InvalidUploadContent(str(error)) from None
