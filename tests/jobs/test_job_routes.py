"""`/v1/fine_tuning/jobs` over HTTP: the shapes, the refusals, the pages, and what another project sees."""

import io
import tarfile
from typing import Any

import httpx
import pytest

MISSING = object()


def body(live: Any, **changes: Any) -> dict[str, Any]:
    """A good body with some fields changed; MISSING takes one out."""
    fields = {"model": "tiny-chat", "training_file": live.training_file} | changes
    return {name: value for name, value in fields.items() if value is not MISSING}


def create(live: Any, **changes: Any) -> dict[str, Any]:
    reply = live.http.post("/v1/fine_tuning/jobs", json=body(live, **changes))
    assert reply.status_code == 200, reply.text
    return reply.json()


def supervised(**settings: Any) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": settings}}


def error(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"].startswith("application/json")
    envelope = reply.json()
    assert envelope.keys() == {"error"}
    assert envelope["error"].keys() == {"message", "type", "param", "code"}
    return envelope["error"]


def test_a_new_job_in_full(live: Any) -> None:
    job = create(
        live, seed=42, suffix="My Tickets", metadata={"team": "a"}, integrations=[], method=supervised(lora_rank=4)
    )

    assert job["id"].startswith("ftjob-")
    assert isinstance(job.pop("created_at"), int)
    assert live.http.get(f"/v1/fine_tuning/jobs/{job.pop('id')}").json().items() >= job.items()
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    assert job == {
        "object": "fine_tuning.job",
        "finished_at": None,
        "estimated_finish": None,
        "status": "validating_files",
        "model": "tiny-chat",
        "fine_tuned_model": None,
        "organization_id": live.organization_id,
        "training_file": live.training_file,
        "validation_file": None,
        "result_files": [],
        "trained_tokens": None,
        "hyperparameters": auto,
        "method": {"type": "supervised", "supervised": {"hyperparameters": auto | {"lora_rank": 4}}},
        "seed": 42,
        "error": None,
        "integrations": [],
        "metadata": {"team": "a"},
        "user_provided_suffix": "My Tickets",
    }


def test_unchosen_method_blocks_are_ignored(live: Any) -> None:
    method = supervised(n_epochs=2) | {
        "dpo": {"hyperparameters": {"beta": 0.1, "n_epochs": 5}},
        "reinforcement": {"grader": {"type": "string_check"}, "hyperparameters": {"eval_samples": 3}},
    }
    assert create(live, method=method)["hyperparameters"]["n_epochs"] == 2


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        pytest.param({"model": MISSING}, "model", "missing_required_parameter", id="no model"),
        pytest.param({"training_file": MISSING}, "training_file", "missing_required_parameter", id="no training file"),
        pytest.param({"model": None}, "model", "invalid_type", id="null model"),
        pytest.param({"model": 4}, "model", "invalid_type", id="number as model"),
        pytest.param({"model": "gpt-9"}, "model", "model_not_available", id="unknown model"),
        pytest.param({"model": "ft:tiny-chat:a::00000000"}, "model", "model_not_available", id="unknown tuned model"),
        pytest.param({"training_file": "file-no"}, "training_file", "invalid_value", id="unknown file"),
        pytest.param({"training_file": ["x"]}, "training_file", "invalid_type", id="list as file"),
        pytest.param({"validation_file": "file-no"}, "validation_file", "invalid_value", id="unknown validation file"),
        pytest.param({"suffix": ""}, "suffix", "string_below_min_length", id="empty suffix"),
        pytest.param({"suffix": "x" * 65}, "suffix", "string_above_max_length", id="long suffix"),
        pytest.param({"suffix": "--"}, "suffix", "invalid_value", id="suffix of hyphens"),
        pytest.param({"suffix": 7}, "suffix", "invalid_type", id="number as suffix"),
        pytest.param({"seed": -1}, "seed", "integer_below_min_value", id="negative seed"),
        pytest.param({"seed": 2**31}, "seed", "integer_above_max_value", id="large seed"),
        pytest.param({"seed": True}, "seed", "invalid_type", id="boolean seed"),
        pytest.param({"seed": "1"}, "seed", "invalid_type", id="string seed"),
        pytest.param({"metadata": []}, "metadata", "invalid_type", id="list as metadata"),
        pytest.param({"metadata": {"a": 1}}, "metadata.a", "invalid_type", id="number in metadata"),
        pytest.param({"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length", id="long metadata value"),
        pytest.param({"metadata": {"k" * 65: "x"}}, "metadata", "invalid_value", id="long metadata key"),
        pytest.param(
            {"metadata": {str(n): "x" for n in range(17)}},
            "metadata",
            "object_above_max_properties",
            id="17 metadata pairs",
        ),
        pytest.param({"method": {}}, "method.type", "missing_required_parameter", id="method without type"),
        pytest.param({"method": "supervised"}, "method", "invalid_type", id="string as method"),
        pytest.param({"method": {"type": "sft"}}, "method.type", "invalid_value", id="unknown method"),
        pytest.param({"method": {"type": "dpo"}}, "method.type", "invalid_value", id="dpo"),
        pytest.param({"method": {"type": "reinforcement"}}, "method.type", "invalid_value", id="reinforcement"),
        pytest.param(
            {"method": {"type": "supervised", "reinforcement": {}}},
            "method.reinforcement.grader",
            "missing_required_parameter",
            id="unchosen block of the wrong shape",
        ),
        pytest.param(
            {"method": {"type": "supervised", "dpo": {"hyperparameters": {"beta": 3}}}},
            "method.dpo.hyperparameters.beta",
            "decimal_above_max_value",
            id="unchosen block out of range",
        ),
        pytest.param(
            {"method": supervised(n_epochs=51)},
            "method.supervised.hyperparameters.n_epochs",
            "integer_above_max_value",
            id="51 epochs",
        ),
        pytest.param(
            {"method": supervised(n_epochs=True)},
            "method.supervised.hyperparameters.n_epochs",
            "invalid_type",
            id="boolean epochs",
        ),
        pytest.param(
            {"method": supervised(lora_r=8)},
            "method.supervised.hyperparameters.lora_r",
            "unknown_parameter",
            id="unknown hyperparameter",
        ),
        pytest.param(
            {"hyperparameters": {"batch_size": 257}},
            "hyperparameters.batch_size",
            "integer_above_max_value",
            id="batch of 257",
        ),
        pytest.param(
            {"hyperparameters": {"lora_rank": 8}}, "hyperparameters.lora_rank", "unknown_parameter", id="ours on top"
        ),
        pytest.param(
            {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
            "integrations",
            "invalid_value",
            id="wandb",
        ),
        pytest.param({"integrations": {}}, "integrations", "invalid_type", id="integrations no list"),
        pytest.param({"n_epochs": 3}, "n_epochs", "unknown_parameter", id="unknown field"),
    ],
)
def test_bad_bodies(changes: dict[str, Any], param: str, code: str, live: Any) -> None:
    reply = live.http.post("/v1/fine_tuning/jobs", json=body(live, **changes))
    said = error(reply)
    assert (reply.status_code, said["type"], said["param"], said["code"]) == (400, "invalid_request_error", param, code)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"null", b'{"model": NaN}', b"\xff", b'{"model": "\\u0000"}'])
def test_bodies_that_are_no_object(content: bytes, live: Any) -> None:
    reply = live.http.post("/v1/fine_tuning/jobs", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code == 400
    error(reply)


def test_unknown_jobs_are_all_alike(live: Any) -> None:
    job = create(live)["id"]
    tails = ["", "/events", "/checkpoints", "/adapter", "/checkpoints/ftckpt_x/adapter"]
    for method, tail in [
        *(("POST", f"/{verb}") for verb in ("cancel", "pause", "resume")),
        *(("GET", tail) for tail in tails),
    ]:
        theirs = live.stranger.request(method, f"/v1/fine_tuning/jobs/{job}{tail}")
        nobodys = live.stranger.request(method, f"/v1/fine_tuning/jobs/ftjob-no{tail}")
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.content.replace(job.encode(), b"ftjob-no") == nobodys.content
        assert error(nobodys) == {
            "message": "Could not find fine tune: ftjob-no",
            "type": "invalid_request_error",
            "param": "fine_tune_id",
            "code": "fine_tune_not_found",
        }


@pytest.mark.parametrize("job_id", ["%00", "ftjob-%00", "%ff", "a%2Fb", "%C3%A9"])
def test_odd_ids_are_not_found(job_id: str, live: Any) -> None:
    assert live.http.get(f"/v1/fine_tuning/jobs/{job_id}").status_code in {400, 404}
    assert live.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code in {400, 404}


def test_another_projects_file_and_model_read_like_unknown_ones(live: Any) -> None:
    model = live.publish(create(live)["id"])
    for field, theirs, nobodys in [
        ("training_file", live.training_file, "file-" + "0" * 24),
        ("model", model, "ft:tiny-chat:x::00000000"),
    ]:
        replies = [
            live.stranger.post(
                "/v1/fine_tuning/jobs",
                json={"model": "tiny-chat", "training_file": live.strangers_file} | {field: value},
            )
            for value in (theirs, nobodys)
        ]
        assert [reply.status_code for reply in replies] == [400, 400]
        assert replies[0].content.replace(theirs.encode(), nobodys.encode()) == replies[1].content


def test_cancel_twice(live: Any) -> None:
    job = create(live)
    first = live.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")
    again = live.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel")

    assert (first.status_code, first.json()["status"]) == (200, "cancelled")
    assert isinstance(first.json()["finished_at"], int)
    said = error(again)
    assert again.status_code == 400
    assert (said["param"], said["code"]) == (None, None)
    assert "cancelled" in said["message"]
    events = live.http.get(f"/v1/fine_tuning/jobs/{job['id']}/events").json()["data"]
    assert [event["level"] for event in events] == ["warn", "info", "info"]


def test_pause_and_resume(live: Any) -> None:
    job = create(live)["id"]
    path = f"/v1/fine_tuning/jobs/{job}"
    refused = live.http.post(f"{path}/pause")
    assert (refused.status_code, error(refused)["param"]) == (400, None)
    assert "validating_files" in error(refused)["message"]
    live.move(job, "queued")
    assert live.http.post(f"{path}/pause").json()["status"] == "paused"
    assert live.http.post(f"{path}/pause").status_code == 400
    assert live.http.post(f"{path}/resume").json()["status"] == "queued"
    assert live.http.post(f"{path}/resume").status_code == 400


def test_pages_of_jobs_by_metadata(live: Any) -> None:
    tag = {"run": "pages"}
    made = [create(live, metadata=tag | {"n": str(n)})["id"] for n in range(3)]

    query = {"metadata[run]": "pages", "limit": 2}
    first = live.http.get("/v1/fine_tuning/jobs", params=query).json()
    rest = live.http.get("/v1/fine_tuning/jobs", params=query | {"after": first["data"][-1]["id"]}).json()
    assert first.keys() == {"object", "data", "has_more"}
    assert [job["id"] for job in first["data"] + rest["data"]] == made[::-1]
    assert (first["has_more"], rest["has_more"]) == (True, False)

    both = live.http.get("/v1/fine_tuning/jobs", params={"metadata[run]": "pages", "metadata[n]": "1"}).json()
    assert [job["id"] for job in both["data"]] == [made[1]]
    none = live.http.get("/v1/fine_tuning/jobs", params={"metadata": "null", "limit": 1000}).json()
    assert not {job["id"] for job in none["data"]} & set(made)
    assert all(job["metadata"] is None for job in none["data"])


@pytest.mark.parametrize("path", ["", "/{job}/events", "/{job}/checkpoints"])
@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "-1"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "1.5"}, "limit"),
        ({"after": "ftjob-no"}, "after"),
        ({"after": "\0"}, "after"),
        ({"after": "é"}, "after"),
    ],
)
def test_bad_pages(path: str, query: dict[str, str], param: str, live: Any) -> None:
    reply = live.http.get("/v1/fine_tuning/jobs" + path.format(job=live.job), params=query)
    assert reply.status_code == 400
    assert error(reply)["param"] == param


@pytest.mark.parametrize("path", ["", "/{job}/events", "/{job}/checkpoints"])
def test_limit_zero_is_an_empty_page(path: str, live: Any) -> None:
    page = live.http.get("/v1/fine_tuning/jobs" + path.format(job=live.job), params={"limit": 0}).json()
    assert (page["object"], page["data"]) == ("list", [])


@pytest.mark.parametrize(
    "query", [{"metadata": "x"}, {"metadata": "null", "metadata[a]": "b"}, {"metadata[a]": "\0"}], ids=str
)
def test_bad_filters(query: dict[str, str], live: Any) -> None:
    reply = live.http.get("/v1/fine_tuning/jobs", params=query)
    assert reply.status_code == 400
    assert error(reply)["param"] == "metadata"


def test_events_are_newest_first_in_pages(live: Any) -> None:
    job = create(live)["id"]
    live.append_steps(job, 5)
    url = f"/v1/fine_tuning/jobs/{job}/events"
    whole = live.http.get(url).json()
    first = live.http.get(url, params={"limit": 4}).json()
    rest = live.http.get(url, params={"limit": 4, "after": first["data"][-1]["id"]}).json()

    assert [event["message"] for event in whole["data"][:2]] == [
        "Step 5/5: training loss=0.50",
        "Step 4/5: training loss=0.50",
    ]
    assert whole["data"][0]["data"]["step"] == 5
    assert whole["data"][-1]["message"] == f"Created fine-tuning job: {job}"
    assert first["data"] + rest["data"] == whole["data"]
    assert (first["has_more"], rest["has_more"], whole["has_more"]) == (True, False, False)


def test_no_adapter_before_the_job_has_made_one(live: Any) -> None:
    job = create(live)["id"]
    for tail in ("adapter", "checkpoints/ftckpt_no/adapter"):
        reply = live.http.get(f"/v1/fine_tuning/jobs/{job}/{tail}")
        assert reply.status_code == 404
        assert error(reply)["type"] == "invalid_request_error"


def test_checkpoints_and_adapters_of_a_job(live: Any) -> None:
    job = create(live, suffix="Kept")["id"]
    name = live.publish(job, steps=(2, 4))
    page = live.http.get(f"/v1/fine_tuning/jobs/{job}/checkpoints").json()

    assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}
    assert [row["step_number"] for row in page["data"]] == [4, 2]
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
    assert page["data"][0]["fine_tuned_model_checkpoint"] == name
    assert page["data"][1]["fine_tuned_model_checkpoint"].endswith(":ckpt-step-2")

    for path, step in [("adapter", 4), (f"checkpoints/{page['last_id']}/adapter", 2)]:
        reply = live.http.get(f"/v1/fine_tuning/jobs/{job}/{path}")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "application/x-tar"
        assert reply.headers["content-disposition"].startswith("attachment; filename=")
        assert int(reply.headers["content-length"]) == len(reply.content)
        with tarfile.open(fileobj=io.BytesIO(reply.content)) as tar:
            assert tar.extractfile("adapter_model.safetensors").read() == f"weights at {step}".encode()


def test_a_deleted_model_has_no_adapter(live: Any) -> None:
    job = create(live)["id"]
    name = live.publish(job)
    assert live.http.delete(f"/v1/models/{name}").status_code == 200
    assert live.http.get(f"/v1/fine_tuning/jobs/{job}/adapter").status_code == 404
    assert live.http.get(f"/v1/fine_tuning/jobs/{job}").json()["fine_tuned_model"] == name
