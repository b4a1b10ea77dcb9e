"""Uploads in parts over HTTP: the shapes, the order, the checks at the end, who wins, and that nothing is left."""

import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy as sa
from live_server import Live

from app import db
from app.files.tables import File
from app.uploads import service, states
from app.uploads.tables import Upload, UploadPart
from worker import sweeps

LINE = b'{"prompt": "a", "completion": "b"}\n'


def create(live: Live, size: int, **changes: Any) -> str:
    body = {"bytes": size, "filename": "t.jsonl", "mime_type": "application/jsonl", "purpose": "fine-tune"}
    reply = live.http.post("/v1/uploads", json=body | changes)
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


def send(live: Live, upload_id: str, data: bytes) -> httpx.Response:
    return live.http.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("blob", data)})


def part(live: Live, upload_id: str, data: bytes) -> str:
    reply = send(live, upload_id, data)
    assert reply.status_code == 200, reply.text
    return reply.json()["id"]


def complete(live: Live, upload_id: str, parts: list[str], **more: Any) -> httpx.Response:
    return live.http.post(f"/v1/uploads/{upload_id}/complete", json={"part_ids": parts} | more)


def error(reply: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    return reply.json()["error"]


def status(upload_id: str) -> str:
    with db.reading() as session:
        return session.get_one(Upload, upload_id).status


def part_objects(live: Live, upload_id: str) -> list[str]:
    return list(live.store.keys(service.prefix(live.caller.project_id, upload_id)))


def sweep(live: Live) -> None:
    sweeps.sweep(live.app.state.settings, live.store)


def change(upload_id: str, **values: Any) -> None:
    with db.transaction() as session:
        session.execute(sa.update(Upload).where(Upload.id == upload_id).values(values))


def test_parts_become_a_file_in_the_order_named(live: Live) -> None:
    pieces = [LINE * 10, LINE[:10], LINE[10:]]
    whole = b"".join(pieces)
    upload_id = create(live, len(whole))
    second, third, first = (part(live, upload_id, piece) for piece in (pieces[1], pieces[2], pieces[0]))
    reply = complete(live, upload_id, [first, second, third], md5=hashlib.md5(whole).hexdigest().upper())
    body = reply.json()
    file = body["file"]
    assert body == {
        "id": upload_id,
        "object": "upload",
        "bytes": len(whole),
        "created_at": body["created_at"],
        "expires_at": body["created_at"] + 3600,
        "filename": "t.jsonl",
        "purpose": "fine-tune",
        "status": "completed",
        "file": {
            "id": file["id"],
            "object": "file",
            "bytes": len(whole),
            "created_at": file["created_at"],
            "expires_at": None,
            "filename": "t.jsonl",
            "purpose": "fine-tune",
            "status": "processed",
            "status_details": None,
        },
    }
    assert live.http.get(f"/v1/files/{file['id']}").json() == file
    assert live.http.get(f"/v1/files/{file['id']}/content").content == whole
    with db.reading() as session:
        assert session.get_one(File, file["id"]).sha256 == hashlib.sha256(whole).hexdigest()
    sweep(live)
    assert part_objects(live, upload_id) == []


def test_a_new_upload_and_a_part_have_the_documented_shape(live: Live) -> None:
    request = {"bytes": 5, "filename": "a/b.jsonl", "mime_type": "x", "purpose": "user_data"}
    made = live.http.post("/v1/uploads", json=request).json()
    assert made["id"].startswith("upload_")
    assert (made["object"], made["status"], made["file"], made["filename"]) == ("upload", "pending", None, "b.jsonl")
    reply = send(live, made["id"], b"12345").json()
    assert reply == {
        "id": reply["id"],
        "object": "upload.part",
        "created_at": reply["created_at"],
        "upload_id": made["id"],
    }
    assert reply["id"].startswith("part_")


@pytest.mark.parametrize("purpose", ["user_data", "batch"])
def test_a_files_expiry_counts_from_its_creation(live: Live, purpose: str) -> None:
    asked = {"expires_after": {"anchor": "created_at", "seconds": 3600}} if purpose == "user_data" else {}
    upload_id = create(live, 3, purpose=purpose, **asked)
    file = complete(live, upload_id, [part(live, upload_id, b"abc")]).json()["file"]
    assert file["expires_at"] - file["created_at"] == (3600 if purpose == "user_data" else 30 * 24 * 3600)


def test_parts_sent_in_parallel(live: Live) -> None:
    pieces = [bytes([number]) * 100_000 for number in range(16)]
    upload_id = create(live, 1_600_000, purpose="user_data")
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda piece: part(live, upload_id, piece), pieces))
    file = complete(live, upload_id, parts).json()["file"]
    assert live.http.get(f"/v1/files/{file['id']}").json()["bytes"] == 1_600_000
    stored = b"".join(live.store.read(f"projects/{live.caller.project_id}/files/{file['id']}"))
    assert stored == b"".join(pieces)


def test_what_is_wrong_at_the_end_leaves_the_upload_pending(live: Live) -> None:
    upload_id = create(live, 2 * len(LINE))
    one, two, bad = part(live, upload_id, LINE), part(live, upload_id, LINE), part(live, upload_id, b"x" * len(LINE))
    other = create(live, 3)
    foreign = part(live, other, b"abc")
    cases: list[tuple[list[str], dict[str, str], str, str]] = [
        ([one, "part_unknown"], {}, "invalid_part", "part_ids.[1]"),
        ([one, foreign], {}, "invalid_part", "part_ids.[1]"),
        ([one, one], {}, "duplicate_part", "part_ids.[1]"),
        ([one], {}, "size_mismatch", "part_ids"),
        ([one, two, bad], {}, "size_mismatch", "part_ids"),
        ([one, two], {"md5": "0" * 32}, "checksum_mismatch", "md5"),
        ([one, two], {"md5": "nonsense"}, "invalid_value", "md5"),
        ([one, bad], {}, "invalid_file_format", "part_ids"),
        ([], {}, "array_below_min_length", "part_ids"),
    ]
    before = [file["id"] for file in live.http.get("/v1/files").json()["data"]]
    objects = list(live.store.keys(f"projects/{live.caller.project_id}/files/"))
    for parts, more, code, param in cases:
        found = error(complete(live, upload_id, parts, **more))
        assert (found["code"], found["param"]) == (code, param)
        assert status(upload_id) == states.PENDING
    assert [file["id"] for file in live.http.get("/v1/files").json()["data"]] == before
    assert list(live.store.keys(f"projects/{live.caller.project_id}/files/")) == objects
    assert complete(live, upload_id, [two, one]).status_code == 200


def test_an_upload_that_is_over_takes_nothing_more(live: Live) -> None:
    upload_id = create(live, 3, purpose="user_data")
    parts = [part(live, upload_id, b"abc")]
    assert complete(live, upload_id, parts).status_code == 200
    assert error(send(live, upload_id, b"abc"))["code"] == "upload_not_pending"
    assert error(complete(live, upload_id, parts))["code"] == "upload_not_pending"
    assert error(live.http.post(f"/v1/uploads/{upload_id}/cancel"))["code"] == "upload_not_pending"


def test_a_cancelled_upload_is_over_and_its_parts_go(live: Live) -> None:
    upload_id = create(live, 3, purpose="user_data")
    parts = [part(live, upload_id, b"abc")]
    assert part_objects(live, upload_id)
    cancelled = live.http.post(f"/v1/uploads/{upload_id}/cancel").json()
    assert (cancelled["status"], cancelled["file"]) == ("cancelled", None)
    assert error(send(live, upload_id, b"abc"))["code"] == "upload_not_pending"
    assert error(complete(live, upload_id, parts))["code"] == "upload_not_pending"
    assert error(live.http.post(f"/v1/uploads/{upload_id}/cancel"))["code"] == "upload_not_pending"
    sweep(live)
    assert part_objects(live, upload_id) == []


def test_after_an_hour_an_upload_is_gone(live: Live) -> None:
    upload_id = create(live, 3, purpose="user_data")
    parts = [part(live, upload_id, b"abc")]
    change(upload_id, expires_at=sa.func.now())
    for swept in (False, True):
        for reply in (
            send(live, upload_id, b"abc"),
            complete(live, upload_id, parts),
            live.http.post(f"/v1/uploads/{upload_id}/cancel"),
        ):
            assert error(reply, 410)["code"] == "upload_expired"
        if not swept:
            sweep(live)
    assert status(upload_id) == states.EXPIRED
    assert part_objects(live, upload_id) == []
    change(upload_id, ended_at=sa.func.now() - service.REMEMBERED - service.LEASE)
    sweep(live)
    assert error(send(live, upload_id, b"abc"), 404)["param"] == "upload_id"


def test_whoever_crashed_while_completing_is_followed_after_the_lease(live: Live) -> None:
    upload_id = create(live, 3, purpose="user_data")
    parts = [part(live, upload_id, b"abc")]
    with db.transaction() as session:
        lost, _ = service.begin_completion(session, live.caller.project_id, upload_id, parts)
    assert error(complete(live, upload_id, parts))["code"] == "upload_not_pending"
    assert error(live.http.post(f"/v1/uploads/{upload_id}/cancel"))["code"] == "upload_not_pending"
    change(upload_id, lease_until=sa.func.now() - service.LEASE)
    assert complete(live, upload_id, parts).status_code == 200
    with db.transaction() as session:
        service.reopen(session, lost)  # the one that was thought dead wakes up
    assert status(upload_id) == states.COMPLETED


@pytest.mark.parametrize("round_", range(10))
def test_race_of_complete_and_cancel_has_one_winner(live: Live, round_: int) -> None:
    upload_id = create(live, 3, purpose="user_data")
    parts = [part(live, upload_id, b"abc")]
    start = threading.Barrier(3)

    def go(act: Any) -> httpx.Response:
        start.wait(10)
        return act()

    with ThreadPoolExecutor(3) as pool:
        replies = list(
            pool.map(
                go,
                [
                    lambda: complete(live, upload_id, parts),
                    lambda: live.http.post(f"/v1/uploads/{upload_id}/cancel"),
                    lambda: complete(live, upload_id, parts),
                ],
            )
        )
    assert sorted(reply.status_code for reply in replies) == [200, 400, 400]
    winner = next(reply.json()["status"] for reply in replies if reply.status_code == 200)
    assert status(upload_id) == winner


def test_race_of_a_part_and_cancel_leaves_no_object(live: Live) -> None:
    upload_id = create(live, 1000, purpose="user_data")
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(send, live, upload_id, b"x" * 100) for _ in range(8)]
        pool.submit(live.http.post, f"/v1/uploads/{upload_id}/cancel").result()
        assert {reply.result().status_code for reply in sent} <= {200, 400}
    sweep(live)
    with db.reading() as session:
        left = sa.select(sa.func.count()).select_from(UploadPart).where(UploadPart.upload_id == upload_id)
        assert session.scalar(left) == 0
    assert part_objects(live, upload_id) == []


def test_a_part_may_not_be_larger_than_the_limit(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.app.state.settings, "max_part_bytes", 1000)
    upload_id = create(live, 5000, purpose="user_data")
    assert send(live, upload_id, b"x" * 1000).status_code == 200
    assert error(send(live, upload_id, b"x" * 1001), 413)["param"] == "data"
    assert len(part_objects(live, upload_id)) == 1


def test_parts_may_not_grow_without_bound(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live.app.state.settings, "max_part_bytes", 10)
    upload_id = create(live, 10, purpose="user_data")
    replies = [send(live, upload_id, b"x" * 10).status_code for _ in range(4)]
    assert replies == [200, 200, 200, 400]
    monkeypatch.setattr("app.uploads.service.MAX_PARTS", 3)
    assert error(send(live, upload_id, b"x"))["param"] == "data"


def test_parts_count_towards_the_storage_quota(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with db.reading() as session:
        stored = service.files.stored_bytes(session, live.caller.project_id)
    with db.reading() as session:
        query = sa.select(sa.func.coalesce(sa.func.sum(UploadPart.bytes), 0)).join(Upload)
        arrived = session.scalar(query.where(Upload.ended_at.is_(None), Upload.project_id == live.caller.project_id))
    monkeypatch.setattr(live.app.state.settings, "quota_storage_bytes", stored + int(arrived or 0) + 100)
    one, two = create(live, 60, purpose="user_data"), create(live, 60, purpose="user_data")
    part(live, one, b"x" * 60)
    assert error(send(live, two, b"x" * 60), 429)["code"] == "insufficient_quota"
    body = {"bytes": 60, "filename": "t", "mime_type": "x", "purpose": "user_data"}
    assert error(live.http.post("/v1/uploads", json=body), 429)["code"] == "insufficient_quota"
    live.http.post(f"/v1/uploads/{one}/cancel")
    assert send(live, two, b"x" * 60).status_code == 200


def test_a_strangers_upload_is_like_no_upload(live: Live) -> None:
    upload_id = create(live, 3, purpose="user_data")
    for path, request in [
        ("parts", {"files": {"data": b"abc"}}),
        ("complete", {"json": {"part_ids": ["x"]}}),
        ("cancel", {}),
    ]:
        foreign = live.stranger.post(f"/v1/uploads/{upload_id}/{path}", **request)
        unknown = live.stranger.post(f"/v1/uploads/upload_{'x' * 24}/{path}", **request)
        assert error(foreign, 404)["param"] == "upload_id"
        assert foreign.text.replace(upload_id, "ID") == unknown.text.replace(f"upload_{'x' * 24}", "ID")
    assert status(upload_id) == states.PENDING


def test_a_file_of_parts_is_a_training_file(live: Live) -> None:
    upload_id = create(live, 12 * len(LINE))
    file = complete(live, upload_id, [part(live, upload_id, LINE * 12)]).json()["file"]
    reply = live.http.post("/v1/fine_tuning/jobs", json={"model": "tiny-chat", "training_file": file["id"]})
    assert reply.status_code == 200


def test_the_official_client_in_strict_mode(live: Live) -> None:
    with openai.OpenAI(
        base_url=f"{live.url}/v1", api_key=live.key, _strict_response_validation=True, max_retries=0
    ) as client:
        data = LINE * 50
        done = client.uploads.upload_file_chunked(
            file=io.BytesIO(data).getvalue(),
            filename="t.jsonl",
            bytes=len(data),
            mime_type="text/plain",
            purpose="fine-tune",
            part_size=300,
            md5=hashlib.md5(data).hexdigest(),
        )
        assert done.status == "completed"
        assert done.file is not None
        assert client.files.content(done.file.id).read() == data
        begun = client.uploads.create(bytes=3, filename="x", mime_type="y", purpose="batch")
        made = client.uploads.parts.create(begun.id, data=b"abc")
        assert made.upload_id == begun.id
        assert client.uploads.cancel(begun.id).status == "cancelled"
