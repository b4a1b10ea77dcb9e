"""One upload in one pass: the file is hashed, checked and stored while its bytes arrive.

Nothing is visible before the last byte was checked; whatever goes wrong, a client that vanishes included, leaves no
object.
"""

from collections.abc import Callable

from app import ids
from app.config import Settings
from app.errors import quoted
from app.files import service
from app.files.dataset import BadUpload, UploadCheck
from app.files.errors import InvalidExpiry, InvalidFileContent, InvalidPurpose, MissingFile, MissingPurpose
from app.files.incoming import Incoming
from app.files.purposes import FINE_TUNE, LONGEST_EXPIRY_SECONDS, PURPOSES, SHORTEST_EXPIRY_SECONDS, default_expiry
from app.http.multipart import Form
from app.storage import Store

EXPIRY_SECONDS = range(SHORTEST_EXPIRY_SECONDS, LONGEST_EXPIRY_SECONDS + 1)


def form(settings: Settings) -> Form:
    """The form that uploads a file."""
    fields = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
    return Form(file="file", most=settings.max_file_bytes, fields=fields)


class Upload(Incoming):
    """A file on its way into the store."""

    def __init__(self, project_id: str, store: Store, settings: Settings) -> None:
        self.file_id = ids.new("file-")
        super().__init__(
            store, service.object_key(project_id, self.file_id), most=settings.max_file_bytes, param="file"
        )
        self._check = UploadCheck()
        self._bad: BadUpload | None = None

    @property
    def purpose(self) -> str:
        """Raises MissingPurpose, InvalidPurpose."""
        purpose = self.fields.get("purpose")
        if purpose is None:
            raise MissingPurpose
        if purpose not in PURPOSES:
            raise InvalidPurpose(f"'{quoted(purpose)}' is not one of {', '.join(sorted(PURPOSES))}.")
        return purpose

    @property
    def expires_after(self) -> int | None:
        """Seconds until the file expires, None for never. Raises InvalidExpiry."""
        anchor = self.fields.get("expires_after[anchor]")
        seconds = self.fields.get("expires_after[seconds]")
        if anchor is None and seconds is None:
            return default_expiry(self.purpose)
        if anchor != "created_at" or seconds is None or not (seconds.isascii() and seconds.isdigit()):
            raise InvalidExpiry
        if len(seconds) > 9 or int(seconds) not in EXPIRY_SECONDS:
            raise InvalidExpiry
        return int(seconds)

    def described(self) -> dict[str, object]:
        """What makes another upload the same one."""
        expiry = self.expires_after
        return {
            "purpose": self.purpose,
            "filename": self.filename,
            "expires": expiry,
            "sha256": self.sha256.hexdigest(),
        }

    def write(self, data: bytes) -> None:
        """Hash, check and store the next bytes of the file."""
        super().write(data)
        self._checked(lambda: self._check.feed(data))

    def finish(self) -> None:
        """Check what can only be checked at the end, and make the object whole."""
        if self.filename is None:
            raise MissingFile
        service.clean_filename(self.filename)
        _ = self.purpose, self.expires_after
        if self.size == 0:
            raise InvalidFileContent("The file is empty.")
        self._checked(self._check.finish)
        if self._bad is not None and self.purpose == FINE_TUNE:
            raise InvalidFileContent(str(self._bad))
        super().finish()

    def _checked(self, step: Callable[[], None]) -> None:
        """Lines are judged only for fine-tuning, which may become known after the file."""
        if self._bad is not None or self.fields.get("purpose", FINE_TUNE) != FINE_TUNE:
            return
        try:
            step()
        except BadUpload as error:
            self._bad = error
            if "purpose" in self.fields:
                raise InvalidFileContent(str(error)) from None
