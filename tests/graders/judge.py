"""A grader model's endpoint on a loopback port, whose answers a test decides."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, bytes]
Chooser = Callable[[dict[str, Any]], Answer]


def completion(content: Any, **changes: Any) -> Answer:
    """A chat completion whose message holds `content`, as JSON unless it is text or None."""
    text = content if isinstance(content, str | None) else json.dumps(content)
    message = {"role": "assistant", "content": text, "refusal": changes.pop("refusal", None)}
    reply = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge-7b",
        "choices": [{"index": 0, "message": message, "finish_reason": changes.pop("finish_reason", "stop")}],
        "usage": {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100},
    }
    return 200, json.dumps(reply | changes).encode()


def failure(status: int, code: str | None = None, message: str = "geheim sk-operator-key") -> Answer:
    """An error in OpenAI's envelope."""
    return status, json.dumps({"error": {"message": message, "type": "x", "param": None, "code": code}}).encode()


@dataclass
class Judge:
    """A running endpoint. answer: what is said to the next requests; requests: headers and bodies so far."""

    url: str
    answer: Chooser = field(default=lambda _: completion({"steps": [], "result": 1.0}))
    requests: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    def answers(self, *answers: Answer) -> None:
        """Give these answers, the last of them for ever."""
        waiting = list(answers)
        self.answer = lambda _: waiting.pop(0) if len(waiting) > 1 else waiting[0]
        self.requests.clear()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, body in self.requests]


@contextmanager
def judging() -> Iterator[Judge]:
    """Serve an endpoint for the block."""
    judge: Judge

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            judge.requests.append((dict(self.headers), body))
            status, data = judge.answer(body) if self.path == "/v1/chat/completions" else (404, b"{}")
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 307:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge = Judge(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
