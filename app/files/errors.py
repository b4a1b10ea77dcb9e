"""What can be wrong with a file or an upload."""

from app.errors import BadRequest, NotFound, quoted


class FileNotFound(NotFound):
    """No such File object."""

    param = "id"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"No such File object: {quoted(file_id)}")


class InvalidFileContent(BadRequest):
    """The file is not valid JSONL."""

    code = "invalid_file_format"
    param = "file"


class InvalidFilename(BadRequest):
    """The name of the file is empty, or only an ending."""

    code = "invalid_filename"


class MissingFile(BadRequest):
    """Missing required parameter: 'file'."""

    code = "missing_required_parameter"
    param = "file"


class MissingPurpose(BadRequest):
    """Missing required parameter: 'purpose'."""

    code = "missing_required_parameter"
    param = "purpose"


class InvalidPurpose(BadRequest):
    """The purpose is not one of those that can be uploaded."""

    code = "invalid_value"
    param = "purpose"


class InvalidExpiry(BadRequest):
    """Files expire 3600 to 2592000 seconds after 'created_at'."""

    code = "invalid_value"
    param = "expires_after"


class NotDownloadable(BadRequest):
    """Files of this purpose cannot be downloaded."""
