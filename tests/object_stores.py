"""The `store` fixture: both kinds of object store in turn, a folder and S3 over real HTTP, each empty."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from app import storage
from app.config import Settings


@pytest.fixture(scope="module")
def s3_settings() -> Iterator[Settings]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = Settings(
        storage_url="s3://adapters/team",
        s3_endpoint_url=f"http://{host}:{port}",
        s3_access_key_id="test",
        s3_secret_access_key="test",
    )
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="adapters")
    yield settings
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[storage.Store]:
    if request.param == "folder":
        yield storage.open_store(Settings(storage_url=f"file://{tmp_path}/objects"))
        return
    store = storage.open_store(request.getfixturevalue("s3_settings"))
    yield store
    storage.delete_prefix(store, "")
