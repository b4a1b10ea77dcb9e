"""A process whose event loop stands still ends itself, so that whoever runs it starts it again.

What happens when its request threads do is a test of the fault suite (F05).
"""

import socket
import subprocess
import sys

APPLICATION = """
import socket, sys, time
from app.config import Settings
from app.http import server

server.HANG_SECONDS, server.BEAT_SECONDS = 2.0, 0.1

async def application(scope, receive, send):
    if scope["type"] == "http":
        time.sleep(3600)

server.serve(application, Settings(), socket.socket(fileno=int(sys.argv[1])))
"""


def test_a_process_whose_event_loop_stands_still_ends_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with subprocess.Popen(
            [sys.executable, "-c", APPLICATION, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Timeout (" in said
    assert "in application" in said, "it says where it stood"
