"""What a container may do, and what is let into it: the compose file, the locked packages, and the passwords."""

import base64
import re
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
BACKING = {"postgres", "redis", "objects", "migrate"}
KEEPS_FILES = {"objects"}  # its root is not read-only

LOCKS = {"api": ["api", "build"], "worker": ["worker", "build"], "engine": ["worker", "engine", "build"]}
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)((?: ; [^\\]+)?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_rights_to_spare(service: str) -> None:
    definition = SERVICES[service]
    assert definition["cap_drop"] == ["ALL"]
    assert definition["security_opt"] == ["no-new-privileges:true"]
    assert definition["read_only"] is (service not in KEEPS_FILES)
    forbidden = {"privileged", "cap_add", "pid", "ipc", "network_mode", "devices", "userns_mode"}
    assert not forbidden & definition.keys()
    assert not any("docker.sock" in volume or volume.startswith(("/", ".")) for volume in definition.get("volumes", []))


def test_programs_can_be_put_nowhere_but_where_torch_compiles() -> None:
    places = {name: place for name, service in SERVICES.items() for place in service["tmpfs"]}
    assert {name for name, place in places.items() if "exec" in place.split(":")[1].split(",")} == {"worker-gpu"}
    assert all("size=" in place for service in SERVICES.values() for place in service["tmpfs"] if "/tmp" in place)


def test_only_the_api_can_be_reached_and_only_from_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {
        "api": ["127.0.0.1:8000:8000"]
    }
    assert COMPOSE["networks"] == {"backing": {"internal": True}}
    assert {name for name, service in SERVICES.items() if service["networks"] == ["backing"]} == BACKING


def test_no_password_has_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    variables = dict(re.findall(r"\$\{(\w+):([^}]*)\}", text))
    assert {name for name, default in variables.items() if default.startswith("?")} == {
        "POSTGRES_PASSWORD",
        "S3_SECRET_ACCESS_KEY",
    }
    assert {name: default for name, default in variables.items() if default.startswith("-")} == {
        "TUNESMITH_SECRET_KEYS": "-"  # nothing at all: no webhooks
    }
    for name, value in re.findall(r"^ *(\w*(?:PASSWORD|SECRET|KEYS)\w*): *(.*?)(?: +#.*)?$", text, re.MULTILINE):
        assert value.startswith("${"), f"{name} is written down"


def test_make_env_invents_them_once(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    first: dict[str, str] = {}
    for _ in range(2):
        subprocess.run(["make", "env"], cwd=tmp_path, check=True, capture_output=True)
        found = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
        first = first or found.copy()
    assert found == first
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert len(base64.b64decode(found.pop("TUNESMITH_SECRET_KEYS"))) == 32
    assert sorted(found) == ["POSTGRES_PASSWORD", "S3_SECRET_ACCESS_KEY"]
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in found.values())
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in ignored


def pinned(text: str) -> dict[str, str]:
    return {name: version for name, version, _, _ in PIN.findall(text)}


def canonical(requirement: str) -> str:
    return re.split(r"[<>=\[;! ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("lock", LOCKS)
def test_each_locked_package_has_its_hashes(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    rest = PIN.sub("", re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
    assert rest.strip() == "", "a line that is no pin with hashes"
    assert len(pinned(text)) > 50


@pytest.mark.parametrize(("lock", "extras"), LOCKS.items())
def test_the_locks_hold_what_is_declared_in_the_pinned_version(lock: str, extras: list[str]) -> None:
    """`make lock` was run after the last change of pyproject.toml and constraints.txt."""
    locked = pinned((ROOT / "requirements" / f"{lock}.txt").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *(name for extra in extras for name in project["optional-dependencies"][extra])]
    assert {canonical(name) for name in wanted} <= locked.keys()
    constraints = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert {name: version for name, version in locked.items() if constraints.get(name, version) != version} == {}
    assert ("torch" in locked) == (lock == "engine")


def test_an_audit_without_an_answer_fails() -> None:
    """pip-audit by itself passes over packages that its service does not know, and ends well."""
    recipe = re.search(r"^audit:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert recipe
    assert "--strict" in recipe[1]
    assert "--require-hashes" in recipe[1]
    assert set(re.findall(r"-r requirements/(\w+)\.txt", recipe[1])) == LOCKS.keys()
    assert not recipe[1].startswith("\t-"), "its failure counts"
