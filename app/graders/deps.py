"""What routes need to grade, as a dependency."""

from typing import Annotated

from fastapi import Depends, Request

from app.graders.runtime import Runtime


async def current_runtime(request: Request) -> Runtime:
    """The application's means of grading."""
    return request.app.state.graders


CurrentRuntime = Annotated[Runtime, Depends(current_runtime)]
