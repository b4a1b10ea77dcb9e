"""`/v1/fine_tuning/alpha/graders`: try a grader before a job is made with it."""

from typing import Annotated

from fastapi import APIRouter, Depends

from app.auth.deps import Caller, requires
from app.auth.scopes import Scope
from app.graders import schemas, service, templating
from app.graders.deps import CurrentRuntime
from app.http.body import json_body
from app.http.replies import JSONResponse

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["fine-tuning"])

Runner = Annotated[Caller, requires(Scope.GRADERS_RUN)]


@router.post("/validate", response_model=schemas.ValidatedGrader)
def validate(
    caller: Runner,
    body: Annotated[schemas.GraderValidateRequest, Depends(json_body(schemas.GraderValidateRequest))],
    runtime: CurrentRuntime,
) -> JSONResponse:
    """Check a grader."""
    with runtime.slots.taken(caller.project_id):
        service.validate(body.grader, runtime.means)
    return JSONResponse(schemas.validated(body.grader))


@router.post("/run", response_model=schemas.GradingResult)
def run(
    caller: Runner,
    body: Annotated[schemas.GraderRunRequest, Depends(json_body(schemas.GraderRunRequest))],
    runtime: CurrentRuntime,
) -> JSONResponse:
    """Grade one sample."""
    observation = templating.observe(body.model_sample, body.item)
    with runtime.slots.taken(caller.project_id):
        grade = service.run(body.grader, observation, runtime.means)
    return JSONResponse(schemas.run_result(body.grader, grade))
