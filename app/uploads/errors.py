"""What can be wrong with an upload or its parts."""

from app.errors import BadRequest, Gone, NotFound, quoted


class UploadNotFound(NotFound):
    """No such Upload object."""

    param = "upload_id"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"No such Upload object: {quoted(upload_id)}")


class UploadExpired(Gone):
    """The upload has expired."""

    code = "upload_expired"

    def __init__(self, upload_id: str) -> None:
        super().__init__(f"Upload '{upload_id}' has expired.")


class UploadNotPending(BadRequest):
    """The upload is over, or is being completed."""

    code = "upload_not_pending"

    def __init__(self, upload_id: str, status: str) -> None:
        super().__init__(f"Upload '{upload_id}' is {status}, not pending.")


class MissingPart(BadRequest):
    """Missing required parameter: 'data'."""

    code = "missing_required_parameter"
    param = "data"


class EmptyPart(BadRequest):
    """The part is empty."""

    code = "invalid_value"
    param = "data"


class TooManyParts(BadRequest):
    """The upload has as many parts, or as many bytes, as it may."""

    code = "invalid_value"
    param = "data"


class InvalidPart(BadRequest):
    """A part is not one of this upload."""

    code = "invalid_part"


class DuplicatePart(BadRequest):
    """A part is named twice."""

    code = "duplicate_part"


class SizeMismatch(BadRequest):
    """The parts do not add up to the upload's bytes."""

    code = "size_mismatch"
    param = "part_ids"


class ChecksumMismatch(BadRequest):
    """The md5 of the parts together is another one."""

    code = "checksum_mismatch"
    param = "md5"


class InvalidUploadContent(BadRequest):
    """The parts together are not valid JSONL."""

    code = "invalid_file_format"
    param = "part_ids"
