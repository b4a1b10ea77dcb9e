"""The object store refuses, loses answers, changes bytes, stalls, or is not there."""

import errno
import os
import random
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

from app import storage
from app.config import Settings
from app.storage import ObjectMissing, StoreUnavailable
from tests.chaos import flaky_s3
from tests.chaos.client import Client
from tests.chaos.fake_engine import STEP_SECONDS
from tests.chaos.flaky_s3 import BUCKET, App, Environ, FlakyS3
from tests.chaos.proxy import Proxy
from tests.chaos.world import OFTEN, World, lines, until

SLOWLY = {STEP_SECONDS: 0.03, **OFTEN}


@pytest.fixture
def s3(world: World) -> Iterator[FlakyS3]:
    """The world's objects lie in S3, which its processes reach through a proxy and the test directly."""
    with flaky_s3.flaky_s3() as service:
        address = urlparse(service.url)
        with Proxy((address.hostname or "", address.port or 0)) as proxy:
            service.proxy = proxy  # type: ignore[attr-defined]
            changes = {"storage_url": f"s3://{BUCKET}", "s3_access_key_id": "id", "s3_secret_access_key": "secret"}
            world.settings = Settings(**{**world.settings.model_dump(), **changes, "s3_endpoint_url": service.url})
            world.store = storage.open_store(world.settings)
            world.environment |= {f"TUNESMITH_{name.upper()}": value for name, value in changes.items()}
            world.environment["TUNESMITH_S3_ENDPOINT_URL"] = f"http://127.0.0.1:{proxy.port}"
            yield service
            service.fault = None
            world.stop()


def writes(environ: Environ) -> bool:
    return environ["REQUEST_METHOD"] in {"PUT", "POST"}


@pytest.mark.short
def test_F69_bursts_of_slow_down(world: World, s3: FlakyS3) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng = random.Random(seed)

    def a_third(environ: Environ, _app: App, start: Any) -> Iterable[bytes] | None:
        if rng.random() < 0.3:
            return flaky_s3.refuse(environ, start, "503 Slow Down", "SlowDown")
        return None

    (job,) = world.queued(1, n_epochs=3)
    s3.fault = a_third
    world.spawn("gpu", **SLOWLY)
    world.settle([job])
    assert s3.failures > 0
    s3.fault = None
    world.check([job])


@pytest.mark.short
def test_F25_a_worker_is_cut_off_from_the_store(world: World, s3: FlakyS3) -> None:
    """It trains on and tries again; what it could not store it stores when it can."""
    (job,) = world.queued(1, n_epochs=10)
    worker = world.spawn("gpu", **SLOWLY)
    until(lambda: world.job(job).furthest_step > 3)
    s3.proxy.cut()  # type: ignore[attr-defined]
    until(lambda: world.said("storage.retry"))
    s3.proxy.mend()  # type: ignore[attr-defined]
    history = world.check([job])
    assert worker.exitcode == -9, "the world stopped it"
    assert max(version.fence for version in history.versions) == 2, "no attempt was lost"


@pytest.mark.short
def test_F71_what_comes_out_is_not_what_went_in(world: World, s3: FlakyS3) -> None:
    """A bit is flipped in the prepared data once: it is noticed, and never trained on."""
    (job,) = world.queued(1, n_epochs=2)

    def once(environ: Environ, app: App, start: Any) -> Iterable[bytes] | None:
        told = environ["REQUEST_METHOD"] == "GET" and "/prepared/" in environ["PATH_INFO"]
        if told and not environ["PATH_INFO"].endswith("manifest.json") and s3.failures == 0:
            return flaky_s3.flipped(environ, app, start)
        return None

    s3.fault = once
    world.spawn("gpu", **SLOWLY)
    world.check([job])
    assert s3.failures == 1
    assert world.job(job).attempts["storage_unavailable"] == 1


def test_F72_a_completion_that_says_200_and_means_no(world: World, s3: FlakyS3) -> None:
    def lies(environ: Environ, _app: App, start: Any) -> Iterable[bytes] | None:
        if environ["REQUEST_METHOD"] == "POST" and "uploadId=" in environ["QUERY_STRING"]:
            return flaky_s3.refuse(environ, start, "200 OK", "InternalError")
        return None

    s3.fault = lies
    with pytest.raises(StoreUnavailable), world.store.writing("projects/p/files/large") as target:
        target.write(bytes(3 * storage.PART_BYTES))
    s3.fault = None
    with pytest.raises(ObjectMissing):
        world.store.size("projects/p/files/large")


@pytest.mark.short
def test_F73_stored_but_the_reply_is_lost(world: World, s3: FlakyS3) -> None:
    """Every fourth write is done and answered with an error: written again, to the same name, it is the same object."""
    (job,) = world.queued(1, n_epochs=3)
    seen = iter(range(10**6))

    def every_fourth(environ: Environ, app: App, start: Any) -> Iterable[bytes] | None:
        if writes(environ) and next(seen) % 4 == 3:
            return flaky_s3.carried_out_but(environ, app, start)
        return None

    s3.fault = every_fourth
    world.spawn("gpu", **SLOWLY)
    world.settle([job])
    assert s3.failures > 2
    s3.fault = None
    world.check([job])


def test_F75_keys_that_expire_in_the_middle(world: World, s3: FlakyS3) -> None:
    (job,) = world.queued(1, n_epochs=10)
    world.spawn("gpu", **SLOWLY)
    until(lambda: world.job(job).furthest_step > 3)
    s3.fault = lambda environ, _app, start: flaky_s3.refuse(environ, start, "403 Forbidden", "ExpiredToken")
    until(lambda: world.said("storage.retry"))
    s3.fault = None
    world.check([job])


@pytest.mark.short
def test_F76_the_bucket_is_not_there(world: World, s3: FlakyS3) -> None:
    """Uploads are refused with 503 until it is back; a running job waits."""
    (job,) = world.queued(1, n_epochs=10)
    client = Client(world)
    world.spawn("gpu", **SLOWLY)
    until(lambda: world.job(job).furthest_step > 3)
    s3.fault = lambda environ, _app, start: flaky_s3.refuse(environ, start, "404 Not Found", "NoSuchBucket")
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", lines(12))}}
    refused = client.http.post("/v1/files", **form, timeout=60)
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    s3.fault = None
    assert client.persistently("/v1/files", **form).startswith("file-")
    world.check([job])


def test_F70_the_store_stalls_and_the_api_does_not(world: World, s3: FlakyS3) -> None:
    """While uploads hang in the store, other requests are answered at once."""
    client = Client(world)
    s3.proxy.blackhole()  # type: ignore[attr-defined]
    form: dict[str, Any] = {"data": {"purpose": "fine-tune"}, "files": {"file": ("a.jsonl", lines(12))}}
    stuck = threading.Thread(target=lambda: client.persistently("/v1/files", **form), daemon=True)
    stuck.start()
    slowest = 0.0
    for _ in range(20):
        started = time.monotonic()
        assert client.get("/v1/fine_tuning/jobs").status_code == 200
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 5, "it did not wait for the store, whose patience is a minute"
    s3.proxy.mend()  # type: ignore[attr-defined]
    stuck.join(60)


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EIO])
def test_F77_F78_a_folder_whose_disk_is_full_or_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: int
) -> None:
    """What could not be synced is not there; what was there before is untouched."""
    store = storage.open_store(Settings(storage_url=f"file://{tmp_path}"))
    with store.writing("a/b") as target:
        target.write(b"before")

    def breaks(_descriptor: int) -> None:
        raise OSError(trouble, os.strerror(trouble))

    monkeypatch.setattr(os, "fsync", breaks)
    with pytest.raises((StoreUnavailable, OSError)), store.writing("a/b") as target:
        target.write(b"after")
    assert b"".join(store.read("a/b")) == b"before"
    assert [stored.key for stored in store.listing("a/")] == ["a/b"]
