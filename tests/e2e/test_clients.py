"""OpenAI's own clients against `tunesmith up`: every call they have for fine-tuning, and the old command line.

The scenarios are programs in clients/, which run with each client and say which calls were answered. What a client
offers is asked of the client: a call that a new version brings, and that no scenario makes, fails here.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stack import ROOT, Project, Up, command

pytestmark = pytest.mark.xdist_group("e2e-folder")

SCENARIOS = ROOT / "tests" / "e2e" / "clients"
NODE = Path(sys.executable).with_name("node")
SECONDS = 240
# What the old command line can do with everything else that OpenAI serves.
ELSEWHERE = ("audio.", "chat.", "completions.", "images.")
LISTED = """
import argparse, json
from openai.cli._cli import _build_parser

def commands(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices
            for below in action.choices.values():
                yield from commands(below)

print(json.dumps([name for name in commands(_build_parser()) if "." in name]))
"""


@pytest.fixture(scope="module")
def environment(folder_stack: Up, second_project: Project) -> dict[str, str]:
    """What the scenarios read: the server, a key, and a second project of the same organisation with one."""
    second = {"OTHER_API_KEY": second_project.api_key, "OTHER_PROJECT_ID": second_project.id}
    return folder_stack.client_environment | second | {"OPENAI_ADMIN_KEY": second_project.admin_key}


def answered(line: list[str], environment: Mapping[str, str], up: Up, folder: Path = ROOT) -> dict[str, Any]:
    """Run a scenario; what it printed at its end."""
    done = subprocess.run(
        line, env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, f"{done.stderr}\n{up.logs()}"
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def scenario(mode: str, tickets: Path) -> list[str]:
    return [sys.executable, "-W", "ignore", str(SCENARIOS / "calls.py"), mode, str(tickets)]


def pinned(name: str) -> str:
    """The version of a package that this checkout is tested with."""
    found = re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("mode", ["loose", "strict", "async", "raw"])
def test_every_call_of_the_newest_python_client(
    mode: str, folder_stack: Up, environment: dict[str, str], tickets: Path
) -> None:
    seen = answered(scenario(mode, tickets), environment, folder_stack)
    assert seen["version"] == pinned("openai")
    assert len(seen["offered"]) > 30
    assert seen["answered"] == seen["offered"]


def test_every_call_of_an_older_python_client(
    folder_stack: Up, environment: dict[str, str], tickets: Path, old_client: Path
) -> None:
    seen = answered(scenario("loose", tickets), environment | {"PYTHONPATH": str(old_client)}, folder_stack)
    assert seen["version"] == "1.109.1"
    assert len(seen["offered"]) > 25
    assert seen["answered"] == seen["offered"]


def test_every_call_of_the_newest_javascript_client(
    folder_stack: Up, environment: dict[str, str], tickets: Path, node_client: Path
) -> None:
    line = [str(NODE), str(SCENARIOS / "calls.cjs"), str(tickets)]
    seen = answered(line, environment, folder_stack, node_client)
    assert seen["version"] == json.loads((SCENARIOS / "package.json").read_text())["dependencies"]["openai"]
    assert len(seen["offered"]) > 30
    assert seen["answered"] == seen["offered"]


def test_every_command_of_the_old_command_line(folder_stack: Up, tickets: Path, old_client: Path) -> None:
    environment = folder_stack.client_environment | {"PYTHONPATH": str(old_client)}
    used = set()

    def try_to(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        used.add(name)
        line = [sys.executable, "-m", "openai", "api", name, *arguments]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)

    def run(name: str, *arguments: str) -> Any:
        done = try_to(name, *arguments)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def run_list(name: str) -> list[str]:
        """The ids in a row of JSON documents."""
        return re.findall(r'^  "id": "([^"]+)"', try_to(name).stdout, re.MULTILINE)

    file = run("files.create", "-f", str(tickets / "train.jsonl"), "-p", "fine-tune")["id"]
    assert file in run_list("files.list")
    for name in ("files.retrieve", "files.delete"):  # a mistake of its own: it asks itself for the arguments of create
        assert "CLIFileCreateArgs" in try_to(name, "-i", file).stderr
    job = run("fine_tuning.jobs.create", "-m", "tiny-chat", "-F", file, "-s", "cli", "-H", '{"n_epochs": 7}')
    assert job["method"]["supervised"]["hyperparameters"]["n_epochs"] == 7
    assert run("fine_tuning.jobs.retrieve", "-i", job["id"])["user_provided_suffix"] == "cli"
    assert [row["id"] for row in run("fine_tuning.jobs.list", "-l", "1")["data"]] == [job["id"]]
    assert run("fine_tuning.jobs.cancel", "-i", job["id"])["status"] == "cancelled"
    newest = run("fine_tuning.jobs.list_events", "-i", job["id"], "-l", "1")["data"]
    assert [event["level"] for event in newest] == ["warn"]
    assert "tiny-chat" in run_list("models.list")
    assert run("models.retrieve", "-i", "tiny-chat")["id"] == "tiny-chat"
    model = tuned(folder_stack, tickets)
    assert run("models.delete", "-i", model)["deleted"]
    listed = subprocess.run([sys.executable, "-c", LISTED], env=environment, capture_output=True, text=True, check=True)
    offered = {name for name in json.loads(listed.stdout) if not name.startswith((*ELSEWHERE, "fine_tunes."))}
    assert used == offered


def tuned(up: Up, tickets: Path) -> str:
    """The name of a model that was tuned through our own command line."""
    done = subprocess.run(
        command("finetune", str(tickets / "valid.jsonl"), "--model", "tiny-chat", "--epochs", "1", "--follow"),
        env=up.client_environment, capture_output=True, text=True, check=False, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stderr}\n{up.logs()}"
    return done.stdout.splitlines()[-1]
