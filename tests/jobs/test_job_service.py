"""Creating, listing and cancelling jobs, on the rolled-back database."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from app import db, ids
from app.auth.service import Caller
from app.config import Settings
from app.errors import AppError
from app.events import service as events
from app.jobs import service, states, views
from app.jobs.errors import JobCannotPause, JobCannotResume, JobIsFinal, JobNotFound
from app.jobs.schemas import JobRequest
from app.jobs.tables import Job
from app.models import service as models
from app.models.catalog import Catalog
from app.models.tables import TunedModel
from app.pages import UnknownCursor

Create = Callable[..., Job]


@pytest.fixture
def create(caller: Caller, training_file: str, catalog: Catalog, settings: Settings) -> Create:
    """Creates a job of the caller's, with some fields of the body changed."""

    def create(**changes: Any) -> Job:
        body = {"model": "tiny-chat", "training_file": training_file} | changes
        with db.transaction() as session:
            return service.create(session, caller, JobRequest.model_validate(body), catalog=catalog, settings=settings)

    return create


def messages(job: Job) -> list[tuple[str, str]]:
    with db.reading() as session:
        page = events.page(session, job.id, limit=100, after_seq=None)
    return [(event.level, event.message) for event in page.rows]


def supervised(**settings: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": settings}}


def test_a_created_job_keeps_what_was_asked(create: Create, training_file: str) -> None:
    job = create(method=supervised(n_epochs=2, lora_rank=8, lora_alpha=None), seed=42, suffix="My Tickets")

    assert job.status == states.VALIDATING
    assert (job.model, job.base_model, job.parent_model) == ("tiny-chat", "tiny-chat", None)
    assert job.base_key.startswith("tiny-chat@")
    assert job.request == {
        "n_epochs": 2,
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
        "lora_rank": 8,
    }
    assert (job.seed, job.suffix, job.resolved) == (42, "My Tickets", None)
    assert messages(job) == [
        ("info", f"Validating training file: {training_file}"),
        ("info", f"Created fine-tuning job: {job.id}"),
    ]


def test_the_event_names_the_validation_file(create: Create, training_file: str) -> None:
    job = create(validation_file=training_file)
    assert messages(job)[0][1] == f"Validating training file: {training_file} and validation file: {training_file}"


def test_an_alias_resolves_to_the_catalogue_id(create: Create) -> None:
    assert create(model="gpt-4o-mini-2024-07-18").model == "tiny-chat"


def test_explicit_nulls_are_as_left_out(create: Create) -> None:
    names = ("validation_file", "suffix", "seed", "method", "hyperparameters", "integrations", "metadata")
    job = create(**dict.fromkeys(names))
    assert 0 <= job.seed < 2**31
    with db.reading() as session:
        nulls = sa.select(Job.id).where(Job.user_metadata.is_(None), Job.integrations.is_(None), Job.error.is_(None))
        assert session.scalar(nulls) == job.id


def test_the_projects_priority_goes_with_the_job(create: Create, caller: Caller) -> None:
    with db.transaction() as session:
        session.execute(sa.text("UPDATE projects SET priority = 3 WHERE id = :id"), {"id": caller.project_id})
    assert create().priority == 3


def test_determinism_is_a_column(create: Create) -> None:
    assert create(method=supervised(deterministic=True)).deterministic
    assert not create().deterministic


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        pytest.param({"model": "gpt-9"}, "model", "model_not_available", id="unknown model"),
        pytest.param({"model": ""}, "model", "model_not_available", id="empty model"),
        pytest.param({"model": "modèle"}, "model", "model_not_available", id="model not ASCII"),
        pytest.param({"model": "not-here"}, "model", "model_not_available", id="model not on this server"),
        pytest.param({"training_file": "file-no"}, "training_file", "invalid_value", id="unknown training file"),
        pytest.param({"validation_file": "file-no"}, "validation_file", "invalid_value", id="unknown validation file"),
        pytest.param({"method": {"type": "dpo"}}, "method.type", "invalid_value", id="dpo"),
        pytest.param({"method": {"type": "reinforcement"}}, "method.type", "invalid_value", id="reinforcement"),
        pytest.param({"suffix": "!!!"}, "suffix", "invalid_value", id="suffix without letters"),
        pytest.param(
            {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
            "integrations",
            "invalid_value",
            id="wandb without a key",
        ),
        pytest.param(
            {"method": supervised(n_epochs=2), "hyperparameters": {"n_epochs": 3}},
            "hyperparameters.n_epochs",
            "invalid_value",
            id="two numbers",
        ),
        pytest.param(
            {"method": supervised(learning_rate=1e-3), "hyperparameters": {"learning_rate_multiplier": 2}},
            "method.supervised.hyperparameters.learning_rate",
            "invalid_value",
            id="rate and multiplier",
        ),
        pytest.param(
            {"method": supervised(max_sequence_length=10**6)},
            "method.supervised.hyperparameters.max_sequence_length",
            "invalid_value",
            id="over the context",
        ),
        pytest.param(
            {"method": supervised(quantization="nf4")},
            "method.supervised.hyperparameters.quantization",
            "invalid_value",
            id="quantization not offered",
        ),
        pytest.param(
            {"method": supervised(early_stopping_patience=2)},
            "method.supervised.hyperparameters.early_stopping_patience",
            "invalid_value",
            id="patience without validation file",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(
    changes: dict[str, Any], param: str, code: str, create: Create
) -> None:
    with pytest.raises(AppError) as raised:
        create(**changes)
    assert (raised.value.status, raised.value.param, raised.value.code) == (400, param, code)
    with db.reading() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0


@pytest.mark.parametrize("field", ["training_file", "validation_file"])
def test_a_file_of_another_purpose_is_refused(field: str, create: Create, new_file: Callable[..., str]) -> None:
    with pytest.raises(AppError, match="purpose 'batch'") as raised:
        create(**{field: new_file(purpose="batch")})
    assert raised.value.param == field


def test_another_projects_file_reads_like_an_unknown_one(
    create: Create, new_file: Callable[..., str], stranger: Caller
) -> None:
    foreign = new_file(project_id=stranger.project_id)
    with pytest.raises(AppError) as theirs:
        create(training_file=foreign)
    with pytest.raises(AppError) as nobodys:
        create(training_file="file-x")
    assert theirs.value.message.replace(foreign, "file-x") == nobodys.value.message


def publish(job: Job, shape: dict[str, Any] | None = None) -> TunedModel:
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job.id).values(resolved=shape))
        return models.publish_final(
            session, job, step=1, metrics={}, prefix="p/", manifest_sha256="0", organization_slug="acme"
        )


def test_continued_training_keeps_base_and_shape(create: Create) -> None:
    shape = {"lora_rank": 4, "lora_alpha": 8.0, "lora_target_modules": ["q_proj"]}
    parent = publish(create(), shape | {"n_epochs": 3})
    job = create(model=parent.name)

    assert (job.model, job.base_model, job.parent_model) == (parent.name, "tiny-chat", parent.name)
    assert job.request == {
        "n_epochs": "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
        **shape,
    }
    with pytest.raises(AppError) as raised:
        create(model=parent.name, method=supervised(lora_rank=8))
    assert raised.value.param == "method.supervised.hyperparameters.lora_rank"


def test_another_projects_model_reads_like_an_unknown_one(create: Create, caller: Caller, stranger: Caller) -> None:
    parent = publish(create())
    with db.transaction() as session:
        session.execute(sa.update(TunedModel).values(project_id=stranger.project_id))
    with pytest.raises(AppError) as theirs:
        create(model=parent.name)
    with pytest.raises(AppError) as nobodys:
        create(model="ft:tiny-chat:acme::00000000")
    assert theirs.value.message.replace(parent.name, "ft:tiny-chat:acme::00000000") == nobodys.value.message
    assert theirs.value.code == nobodys.value.code == "model_not_available"


def test_pages_are_newest_first_and_stable_within_a_second(create: Create, caller: Caller) -> None:
    made = [create().id for _ in range(5)]
    seen: list[str] = []
    after = None
    with db.reading() as session:
        while True:
            page = views.jobs_page(session, caller.project_id, limit=2, after=after, metadata={})
            seen += [job.id for job in page.rows]
            if not page.has_more:
                break
            after = seen[-1]
    assert seen == made[::-1]


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        pytest.param({}, ["empty", "none", "ab", "a"], id="no filter"),
        pytest.param({"team": "a"}, ["ab", "a"], id="one pair"),
        pytest.param({"team": "a", "run": "b"}, ["ab"], id="both pairs"),
        pytest.param({"team": "b"}, [], id="no such value"),
        pytest.param({"note": ""}, ["ab"], id="empty value"),
        pytest.param(None, ["none"], id="without metadata"),
    ],
)
def test_metadata_filters(metadata: dict[str, str] | None, found: list[str], create: Create, caller: Caller) -> None:
    named = {
        create(metadata={"team": "a"}).id: "a",
        create(metadata={"team": "a", "run": "b", "note": ""}).id: "ab",
        create().id: "none",
        create(metadata={}).id: "empty",
    }
    with db.reading() as session:
        page = views.jobs_page(session, caller.project_id, limit=10, after=None, metadata=metadata)
    assert [named[job.id] for job in page.rows] == found


def test_another_projects_job_is_nowhere(create: Create, stranger: Caller) -> None:
    job = create()
    with db.transaction() as session:
        assert service.find(session, stranger.project_id, job.id) is None
        with pytest.raises(JobNotFound):
            service.cancel(session, stranger.project_id, job.id)
        with pytest.raises(UnknownCursor):
            views.jobs_page(session, stranger.project_id, limit=1, after=job.id, metadata={})
    assert job.status == states.VALIDATING


def test_a_wandb_run_has_the_jobs_id(create: Create, settings: Settings) -> None:
    settings.wandb_offline = True
    asked = {"type": "wandb", "wandb": {"project": "p", "name": None, "tags": ["a"]}}
    job = create(integrations=[asked])
    assert job.integrations == [{"type": "wandb", "wandb": {"project": "p", "tags": ["a"], "run_id": job.id}}]


@pytest.mark.parametrize("status", [status for status in states.ALL if status not in states.FINAL])
def test_cancel_from_every_state_that_is_not_final(status: str, create: Create, caller: Caller) -> None:
    job = create()
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job.id).values(status=status))
    with db.transaction() as session:
        cancelled = service.cancel(session, caller.project_id, job.id)
    assert cancelled.status == states.CANCELLED
    assert cancelled.finished_at is not None
    assert [level for level, _ in messages(job)] == ["warn", "info", "info"]


@pytest.mark.parametrize("status", states.FINAL)
def test_cancel_of_a_final_job_names_its_status(status: str, create: Create, caller: Caller) -> None:
    job = create()
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job.id).values(status=status, finished_at=sa.func.now()))
    with db.transaction() as session, pytest.raises(JobIsFinal, match=status) as raised:
        service.cancel(session, caller.project_id, job.id)
    assert (raised.value.status, raised.value.param, raised.value.code) == (400, None, None)
    assert len(messages(job)) == 2


def in_status(job: Job, status: str) -> None:
    finished = sa.func.now() if status in states.FINAL else None
    with db.transaction() as session:
        session.execute(sa.update(Job).where(Job.id == job.id).values(status=status, finished_at=finished))


@pytest.mark.parametrize(("status", "then"), [(states.QUEUED, states.PAUSED), (states.RUNNING, states.PAUSING)])
def test_a_pause_is_at_once_or_at_the_next_step(status: str, then: str, create: Create, caller: Caller) -> None:
    job = create()
    in_status(job, status)
    with db.transaction() as session:
        assert service.pause(session, caller.project_id, job.id).status == then
    assert "on the user's request" in messages(job)[0][1]


@pytest.mark.parametrize("status", [s for s in states.ALL if s not in (states.QUEUED, states.RUNNING)])
def test_other_jobs_cannot_be_paused(status: str, create: Create, caller: Caller) -> None:
    job = create()
    in_status(job, status)
    with db.transaction() as session, pytest.raises(JobCannotPause, match=status):
        service.pause(session, caller.project_id, job.id)
    assert len(messages(job)) == 2


def test_a_paused_job_goes_back_into_the_queue(create: Create, caller: Caller) -> None:
    job = create()
    in_status(job, states.PAUSED)
    with db.transaction() as session:
        resumed = service.resume(session, caller.project_id, job.id)
    assert (resumed.status, resumed.queued_at is not None) == (states.QUEUED, True)


@pytest.mark.parametrize("status", [s for s in states.ALL if s != states.PAUSED])
def test_only_paused_jobs_resume(status: str, create: Create, caller: Caller) -> None:
    job = create()
    in_status(job, status)
    with db.transaction() as session, pytest.raises(JobCannotResume, match=status):
        service.resume(session, caller.project_id, job.id)


def test_ids_with_nul_or_beyond_ascii_are_unknown(create: Create, caller: Caller) -> None:
    create()
    for job_id in ("ftjob-\0", "ftjob-é", "\ud800", ids.new("ftjob-")):
        with db.reading() as session:
            assert service.find(session, caller.project_id, job_id) is None
