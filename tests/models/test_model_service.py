"""Publishing, finding and deleting tuned models and checkpoints."""

import re

import pytest
import sqlalchemy as sa

from app import db
from app.jobs.tables import Job
from app.models import service
from app.models.errors import ModelNotFound
from app.models.tables import Checkpoint, TunedModel
from app.outbox import OutboxRow

SHA = "0" * 64


def publish(job: Job, step: int, prefix: str | None = None) -> Checkpoint:
    with db.transaction() as session:
        return service.publish_checkpoint(
            session,
            job,
            step=step,
            metrics={"step": step, "train_loss": 0.5},
            prefix=prefix or f"jobs/{job.id}/1/checkpoints/step-{step:06d}",
            manifest_sha256=SHA,
            organization_slug="acme",
        )


def finish(job: Job, step: int, prefix: str | None = None) -> TunedModel:
    with db.transaction() as session:
        return service.publish_final(
            session,
            job,
            step=step,
            metrics={"step": step, "train_loss": 0.1},
            prefix=prefix or f"jobs/{job.id}/1/final",
            manifest_sha256=SHA,
            organization_slug="acme",
        )


def listed(job: Job) -> list[tuple[int, str]]:
    with db.reading() as session:
        page = service.checkpoints_page(session, job.id, 10, None)
    return [(row.step, name) for row, name in page.rows]


def deletions() -> list[str]:
    with db.reading() as session:
        return [row.payload["prefix"] for row in session.scalars(sa.select(OutboxRow).order_by(OutboxRow.id))]


def delete(project_id: str, name: str) -> None:
    with db.transaction() as session:
        service.delete(session, project_id, name, catalog=NoBaseModels())


class NoBaseModels:
    """A catalogue in which every name is unknown."""

    def find(self, name: str) -> None:
        return None


@pytest.mark.parametrize(
    ("suffix", "normalised"),
    [
        ("tickets", "tickets"),
        ("My Suffix!", "my-suffix"),
        ("a__b  c", "a-b-c"),
        ("Ünï", "n"),
        ("v1.2", "v1-2"),
        ("!!!", ""),
    ],
)
def test_normalise_suffix(suffix: str, normalised: str) -> None:
    assert service.normalise_suffix(suffix) == normalised


def test_names_hold_base_organisation_suffix_and_eight_characters() -> None:
    assert re.fullmatch(r"ft:tiny-chat:acme:my-suffix:[a-z0-9]{8}", service.new_name("tiny-chat", "acme", "My Suffix!"))
    assert re.fullmatch(r"ft:tiny-chat:acme::[a-z0-9]{8}", service.new_name("tiny-chat", "acme", None))


def test_the_last_three_checkpoints_are_kept(job: Job) -> None:
    for step in (2, 4, 6, 8):
        publish(job, step)

    assert [step for step, _ in listed(job)] == [8, 6, 4]
    assert deletions() == [f"jobs/{job.id}/1/checkpoints/step-000002/"]
    with db.reading() as session:
        names = [model.name for model in service.all_of(session, job.project_id)]
    assert names == [name for _, name in listed(job)]
    assert all(re.fullmatch(r"ft:tiny-chat:acme:my-suffix:[a-z0-9]{8}:ckpt-step-\d", name) for name in names)


def test_the_last_checkpoint_is_the_final_model(job: Job) -> None:
    publish(job, 2)
    model = finish(job, 4)

    assert listed(job)[0] == (4, model.name)
    assert ":ckpt-step-" not in model.name
    assert deletions() == []


@pytest.mark.parametrize("shared", [True, False])
def test_a_last_step_published_before_takes_the_final_name(shared: bool, job: Job) -> None:
    former = publish(job, 4, "jobs/a/1/checkpoints/step-000004")
    model = finish(job, 4, "jobs/a/1/checkpoints/step-000004" if shared else "jobs/a/1/final")

    assert listed(job) == [(4, model.name)]
    assert deletions() == ([] if shared else ["jobs/a/1/checkpoints/step-000004/"])
    with db.reading() as session:
        assert [row.name for row in service.all_of(session, job.project_id)] == [model.name]
        page = service.checkpoints_page(session, job.id, 10, None)
    assert page.rows[0][0].id == former.id
    assert page.rows[0][0].metrics == {"step": 4, "train_loss": 0.1}


def test_a_replayed_step_is_published_once_and_its_copy_deleted(job: Job) -> None:
    first = publish(job, 2, "jobs/a/1/checkpoints/step-000002")
    again = publish(job, 2, "jobs/a/2/checkpoints/step-000002")

    assert again.id == first.id
    assert len(listed(job)) == 1
    assert deletions() == ["jobs/a/2/checkpoints/step-000002/"]


def test_the_same_publication_twice_deletes_nothing(job: Job) -> None:
    assert publish(job, 2, "jobs/a/1/step-2").id == publish(job, 2, "jobs/a/1/step-2/").id
    assert deletions() == []


def test_a_replayed_old_step_pushes_no_newer_one_out(job: Job) -> None:
    for step in (2, 4, 6, 8):
        publish(job, step)
    replayed = publish(job, 2, "jobs/a/2/step-2")

    with db.reading() as session:
        assert service.model_of(session, replayed).deleted_at is not None
    assert [step for step, _ in listed(job)] == [8, 6, 4]
    assert deletions()[-1] == "jobs/a/2/step-2/"


def test_delete_of_the_final_model_takes_its_checkpoint_and_objects_along(job: Job) -> None:
    publish(job, 2)
    model = finish(job, 4)
    delete(job.project_id, model.name)

    assert [step for step, _ in listed(job)] == [2]
    assert deletions() == [f"jobs/{job.id}/1/final/"]
    with db.reading() as session:
        assert service.find(session, job.project_id, model.name) is None
    with pytest.raises(ModelNotFound):
        delete(job.project_id, model.name)


def test_delete_keeps_objects_that_another_model_shares(job: Job) -> None:
    publish(job, 2, "jobs/a/1/shared")
    model = finish(job, 4, "jobs/a/1/shared")

    delete(job.project_id, model.name)
    assert deletions() == []
    delete(job.project_id, listed(job)[0][1])
    assert deletions() == ["jobs/a/1/shared/"]
    assert listed(job) == []


def test_pages_of_checkpoints(job: Job) -> None:
    rows = [publish(job, step) for step in (2, 4, 6)]
    with db.reading() as session:
        first = service.checkpoints_page(session, job.id, 2, None)
        rest = service.checkpoints_page(session, job.id, 2, first.rows[-1][0].seq)

    assert [row.id for row, _ in first.rows] == [rows[2].id, rows[1].id]
    assert first.has_more
    assert [row.id for row, _ in rest.rows] == [rows[0].id]
    assert not rest.has_more
