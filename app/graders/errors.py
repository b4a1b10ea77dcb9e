"""What can be wrong with a request about graders. What goes wrong while grading is no error: see `faults.py`."""

from app.errors import BadRequest


class InvalidGrader(BadRequest):
    """The grader cannot work."""

    code = "invalid_value"


class GraderNotOffered(BadRequest):
    """This server does not run graders of this type."""

    code = "invalid_value"


class ModelNotAvailable(BadRequest):
    """The model is not one this server grades with."""

    code = "model_not_available"
