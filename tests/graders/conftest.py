"""The running application with everything a grader may need, and the endpoint its grader models are at."""

from collections.abc import Iterator

import pytest
from live_server import Live, live

from app.config import Settings
from app.graders.runtime import open_runtime
from app.graders.sandbox import Limits, Sandbox
from tests.graders.judge import Judge, completion, judging

__all__ = ["live"]

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=60, memory=512 * MIB, disk=16 * MIB))


@pytest.fixture(scope="session")
def endpoint() -> Iterator[Judge]:
    with judging() as judge:
        yield judge


@pytest.fixture
def judge(endpoint: Judge) -> Judge:
    """The endpoint, giving 1.0 until it is told otherwise."""
    endpoint.answers(completion({"steps": [], "result": 1.0}))
    return endpoint


@pytest.fixture
def grading(live: Live, judge: Judge) -> Iterator[Live]:
    """The application with Python graders on and two grader models."""
    before = live.app.state.graders
    settings = Settings(
        python_graders=True,
        python_grader_seconds=60,
        grader_base_url=judge.url,  # type: ignore[arg-type]
        grader_api_key="sk-operator-key",  # type: ignore[arg-type]
        grader_models={"gpt-4o-mini": "judge-7b", "judge-7b": "judge-7b"},
    )
    live.app.state.graders = open_runtime(settings)
    yield live
    live.app.state.graders.close()
    live.app.state.graders = before
