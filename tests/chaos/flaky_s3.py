"""An S3 service over HTTP that fails as told: in front of moto, requests are refused, lost, changed or denied."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "chaos"
Environ = dict[str, Any]
App = Callable[[Environ, Any], Iterable[bytes]]
Fault = Callable[[Environ, App, Any], Iterable[bytes] | None]  # None: nothing wrong this time


class FlakyS3:
    """`fault` decides what becomes of a request."""

    def __init__(self) -> None:
        self._app: App = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault | None = None
        self.failures = 0
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Silent)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="id", aws_secret_access_key="secret"
        )
        self.client.create_bucket(Bucket=BUCKET)

    def close(self) -> None:
        self.client.close()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, environ: Environ, start: Any) -> Iterable[bytes]:
        broken = self.fault(environ, self._app, start) if self.fault is not None else None
        if broken is None:
            return self._app(environ, start)
        self.failures += 1
        return broken


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any, **__: Any) -> None:
        pass


def refuse(environ: Environ, start: Any, status: str, code: str) -> Iterable[bytes]:
    """Answer with an error as S3 words it, once the request has been read."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start(status, [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>as ordered</Message></Error>".encode()]


def carried_out_but(environ: Environ, app: App, start: Any) -> Iterable[bytes]:
    """Do it, and answer that it failed."""
    list(app(environ, lambda *_: None))
    start("500 Internal Server Error", [("Content-Type", "application/xml")])
    return [b"<Error><Code>InternalError</Code></Error>"]


def flipped(environ: Environ, app: App, start: Any) -> Iterable[bytes]:
    """The object with one bit changed."""
    data = bytearray(b"".join(app(environ, start)))
    if data:
        data[len(data) // 2] ^= 1
    return [bytes(data)]


@contextmanager
def flaky_s3() -> Iterator[FlakyS3]:
    service = FlakyS3()
    try:
        yield service
    finally:
        service.close()
