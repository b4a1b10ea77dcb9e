"""A process whose event loop stands still ends itself, so that whoever runs it starts it again.

What happens when its request threads do is a test of the fault suite (F05).
"""

import socket
import subprocess
import sys

PROGRAM = """
import socket, sys, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.routing import Route
from app.config import Settings
from app.http import server
from app.http.overload import Admission

server.HANG_SECONDS, server.BEAT_SECONDS = 2.0, 0.1

@asynccontextmanager
async def lifespan(application):
    yield {"admission": Admission(backlog=10)}

async def stand_still(request):
    time.sleep(3600)

application = Starlette(routes=[Route("/", stand_still)], lifespan=lifespan)
server.serve(application, Settings(), socket.socket(fileno=int(sys.argv[1])))
"""


def test_a_process_whose_event_loop_stands_still_ends_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(listener.fileno())],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            with socket.create_connection(listener.getsockname()) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
                _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Timeout (" in said
    assert "in stand_still" in said, "it says where it stood"
