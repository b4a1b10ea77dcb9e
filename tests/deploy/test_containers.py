"""Dockerfile and compose file, read as data: in step with the settings, the commands, the extras and each other."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from app.cli.main import app
from app.config import Settings

ROOT = Path(__file__).parent.parent.parent
OURS = ("migrate", "api", "worker-cpu", "worker-gpu")


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages: name → its instructions with their arguments, those of the parent stage first."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text("utf-8"))
    current: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        instruction, argument = line.split(maxsplit=1)
        if instruction == "FROM":
            parent, _, name = argument.split()
            current = found[name] = [*found.get(parent, []), ("FROM", parent)]
        else:
            current.append((instruction, argument))
    return found


def last(stage: str, instruction: str) -> str:
    return [argument for name, argument in stages()[stage] if name == instruction][-1]


def environment_of(stage: str) -> dict[str, str]:
    pairs = [pair for name, argument in stages()[stage] if name == "ENV" for pair in shlex.split(argument)]
    return dict(pair.split("=", 1) for pair in pairs)


def is_setting(variable: str) -> bool:
    return variable.removeprefix("TUNESMITH_").lower() in Settings.model_fields


def assert_is_a_command(words: list[str]) -> None:
    assert words[0] == "tunesmith"
    result = CliRunner().invoke(app, [*words[1:], "--help"])
    assert result.exit_code == 0, result.output
    assert "Commands:" not in result.output, f"{words} is a group, not a command"


@pytest.mark.parametrize("service", OURS)
def test_compose_runs_our_commands_in_our_images(service: str) -> None:
    definition = compose()["services"][service]
    assert_is_a_command(definition["command"])
    target = definition["build"]["target"]
    assert target == ("api" if service == "migrate" else service)
    if service != "migrate":
        assert definition["command"] == yaml.safe_load(last(target, "CMD"))


def _substituted(match: "re.Match[str]") -> str:
    """A variable as `make env` would set it: a password where one is demanded, else left empty."""
    return "k3v9x2" if match[1] == "?" else ""


@pytest.mark.parametrize("service", OURS)
def test_compose_sets_only_settings_that_exist_and_are_valid(service: str) -> None:
    environment = compose()["services"][service]["environment"]
    assert [name for name in environment if not is_setting(name)] == []
    plain = {name: re.sub(r"\$\{\w+:([-?])[^}]*\}", _substituted, str(value)) for name, value in environment.items()}
    values = {name.removeprefix("TUNESMITH_").lower(): value for name, value in plain.items()}
    settings = Settings(**values)
    assert settings.database_url.split("@")[1].startswith("postgres:")
    assert settings.redis_url.startswith("redis://redis:")
    assert settings.s3_endpoint_url == "http://objects:7070"


def test_every_process_gets_the_same_places() -> None:
    services = compose()["services"]
    names = {"TUNESMITH_DATABASE_URL", "TUNESMITH_REDIS_URL", "TUNESMITH_STORAGE_URL", "TUNESMITH_S3_ENDPOINT_URL"}
    places = [{name: services[service]["environment"][name] for name in names} for service in OURS]
    assert all(place == places[0] for place in places)


def test_the_bucket_is_the_folder_that_the_gateway_serves() -> None:
    services = compose()["services"]
    bucket = services["api"]["environment"]["TUNESMITH_STORAGE_URL"].removeprefix("s3://")
    served = services["objects"]["command"][-1]
    assert services["objects"]["volumes"] == [f"objects:{served}/{bucket}"]
    assert (
        services["objects"]["environment"]["ROOT_SECRET_KEY"]
        == services["api"]["environment"]["TUNESMITH_S3_SECRET_ACCESS_KEY"]
    )


def test_services_wait_for_what_they_need() -> None:
    services = compose()["services"]
    for service in ("api", "worker-cpu", "worker-gpu"):
        waits = services[service]["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}
        for backing in ("postgres", "redis", "objects"):
            assert waits[backing] == {"condition": "service_healthy"}
    for name in ("postgres", "redis", "objects", "api"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert not any("profiles" in services[name] for name in services if name != "worker-gpu")


def test_volumes_are_declared_and_images_pinned() -> None:
    document = compose()
    used = {volume.split(":")[0] for service in document["services"].values() for volume in service.get("volumes", [])}
    assert used == set(document["volumes"])
    images = [service["image"] for service in document["services"].values() if "image" in service]
    assert all(re.search(r":v?\d", image) for image in images)
    assert not any("minio" in image for image in images)


def test_workers_are_given_time_to_drain() -> None:
    for service in ("worker-cpu", "worker-gpu"):
        grace = compose()["services"][service]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > Settings().drain_seconds


@pytest.mark.parametrize("target", ["api", "worker-cpu", "worker-gpu"])
def test_images_run_our_commands_as_an_ordinary_user(target: str) -> None:
    assert_is_a_command(yaml.safe_load(last(target, "CMD")))
    assert last(target, "USER") == "tunesmith"
    assert [name for name in environment_of(target) if name.startswith("TUNESMITH_") and not is_setting(name)] == []


def test_images_install_extras_that_exist_and_only_one_holds_torch() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    installs = {}
    for target in ("api", "worker-cpu", "worker-gpu"):
        command = last(target, "RUN")
        named = set(re.findall(r"'\.\[([\w,]+)\]'", command))
        assert len(named) == 1, command
        installs[target] = named.pop().split(",")
        assert set(installs[target]) <= extras.keys()
        assert re.match(r"(if .*; then )?pip install --require-hashes -r requirements/", command), command
    holding = [
        target
        for target, names in installs.items()
        if any(requirement.startswith("torch") for name in names for requirement in extras[name])
    ]
    assert holding == ["worker-gpu"]


def test_what_the_dockerfile_copies_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    for instruction, argument in stages()["base"]:
        if instruction == "COPY":
            *sources, _target = argument.split()
            for source in sources:
                assert (ROOT / source).exists(), source
                assert source in allowed
