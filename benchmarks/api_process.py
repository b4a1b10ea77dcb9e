"""How long the API process takes from exec to its first answer, and how much memory it then holds."""

import httpx

from benchmarks import api
from benchmarks.figures import memory_mb, show

RUNS = 5


def run() -> None:
    seconds, megabytes = [], []
    with api.backend() as behind:
        for _ in range(RUNS):
            with api.running(behind) as process:
                seconds.append(process.started)
                ask(process.url, behind.key)
                megabytes.append(memory_mb(process.pid, "VmRSS"))
    show("start of the API process to its first 200 (< 2)", seconds, "s")
    show("its memory after 40 requests (< 150)", megabytes, "MB")


def ask(url: str, key: str) -> None:
    """Ask a little of everything, so that what is loaded late is loaded."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        for path in ("/readyz", "/v1/files", "/v1/models", "/v1/fine_tuning/jobs") * 10:
            client.get(path).raise_for_status()
