"""Whole stacks for the end-to-end tests, one a run: objects in a folder, and objects in S3 over real HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import BUCKET, METRICS_PORT, METRICS_TOKEN, ROOT, Journey, Project, Up

TICKETS = ROOT / "examples" / "support-tickets"
CLIENTS = ROOT / ".e2e-clients"


@pytest.fixture(scope="session")
def folder_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """`tunesmith up` as it is by default."""
    up = Up(tmp_path_factory.mktemp("folder") / "data").start()
    yield up
    assert up.stop() == 0, up.errors


@pytest.fixture(scope="session")
def second_project(folder_stack: Up) -> Project:
    """Another project of the organisation of `folder_stack`, made by an administrator."""
    return folder_stack.new_project("second")


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 service over HTTP with one bucket; returns its URL."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
    )
    client.create_bucket(Bucket=BUCKET)
    yield url
    client.close()
    server.stop()


@pytest.fixture(scope="session")
def s3_stack(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[Up]:
    """`tunesmith up` with its objects in S3, below a prefix of a bucket."""
    settings = {
        "TUNESMITH_STORAGE_URL": f"s3://{BUCKET}/some/prefix",
        "TUNESMITH_S3_ENDPOINT_URL": s3_endpoint,
        "TUNESMITH_S3_ACCESS_KEY_ID": "id",
        "TUNESMITH_S3_SECRET_ACCESS_KEY": "secret",
        "TUNESMITH_METRICS_PORT": str(METRICS_PORT),
        "TUNESMITH_METRICS_TOKEN": METRICS_TOKEN,
    }
    up = Up(tmp_path_factory.mktemp("s3") / "data", settings).start()
    yield up
    assert up.stop() == 0, up.errors


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short train.jsonl and valid.jsonl of the example's tickets."""
    folder = tmp_path_factory.mktemp("tickets")
    for name, rows in (("train", 60), ("valid", 10)):
        lines = (TICKETS / f"{name}.jsonl").read_text("utf-8").splitlines(keepends=True)[:rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    return folder


def installed_client(name: str) -> Path:
    """The folder of a client that `make clients` installs. A client that is missing is a failure, never a skip."""
    assert (CLIENTS / ".installed").is_file(), "OpenAI's other clients are not installed: run `make clients`"
    return CLIENTS / name


@pytest.fixture(scope="session")
def old_client() -> Path:
    """A folder with openai 1.109.1 and what it needs, for PYTHONPATH."""
    return installed_client("openai-1.109.1")


@pytest.fixture(scope="session")
def node_client() -> Path:
    """A folder in which Node finds the newest openai of npm."""
    return installed_client("node")


@pytest.fixture(scope="session")
def journey(tickets: Path) -> Journey:
    return Journey(tickets)
