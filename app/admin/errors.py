"""What can be wrong with an administrator's request."""

from app.errors import BadRequest, NotFound


class ProjectNotFound(NotFound):
    """There is no such project in this organisation."""

    def __init__(self, project_id: str) -> None:
        super().__init__(f"No such project: {project_id[:64]}")


class ProjectArchived(BadRequest):
    """The project is archived, and stays as it is."""


class NameTaken(BadRequest):
    """A project of this name is there already."""

    code = "invalid_value"
    param = "name"


class InvalidQuery(BadRequest):
    """A query parameter has a value that is not allowed."""

    code = "invalid_value"
