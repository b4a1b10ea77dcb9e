"""Every environment variable the service reads, typed, with its unit and default. Nobody else reads the environment."""

import ipaddress
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, FilePath, HttpUrl, IPvAnyNetwork, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.isolation.confined import Isolation

MIB = 1024 * 1024
GIB = 1024 * MIB
MOST_BIGINT = 2**63 - 1
MOST_JOBS = 2**31 - 1
MOST_REQUESTS_PER_MINUTE = 200_000  # each is remembered for a minute
PACKAGED_CATALOG = Path(__file__).parent.parent / "catalog" / "base_models.yaml"


class Settings(BaseSettings):
    """Settings of the servers and workers: `TUNESMITH_<NAME>` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore")

    # Where the state lives.
    database_url: str = "postgresql+psycopg://tunesmith@localhost:5432/tunesmith"
    redis_url: str = ""  # empty: no doorbell, workers find jobs by polling
    storage_url: str = "file:///var/lib/tunesmith/objects"  # file:///folder or s3://bucket/prefix
    s3_endpoint_url: str | None = None  # None: AWS itself
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None  # None: boto3's own chain (instance role, profile)
    s3_secret_access_key: SecretStr | None = None
    catalog_path: Path = PACKAGED_CATALOG
    models_dir: Path = Path("/var/lib/tunesmith/models")  # where `catalog pull` puts base models
    scratch_dir: Path = Path("/var/lib/tunesmith/scratch")  # a worker's temporary files and prepared-dataset cache

    # The API process.
    host: str = "127.0.0.1"
    port: int = 8000
    request_threads: int = Field(default=4, ge=1)  # requests worked on at once in one process; more hinder each other
    request_backlog: int = Field(default=128, ge=1)  # requests that may wait for that; those beyond are refused at once
    database_pool_size: int = 8
    max_body_bytes: int = MIB
    body_seconds: float = 30.0  # a body may take so long, and a second more for each 4 KiB that came
    max_file_bytes: int = 512 * MIB  # in one request; larger files come in parts
    max_part_bytes: int = 64 * MIB
    upload_seconds: float = 3600.0  # how long an upload in parts may take
    assemblies: int = Field(default=4, ge=1)  # uploads put together at once in one process; more are refused with 429
    assemblies_per_project: int = Field(default=2, ge=1)
    log_level: str = "INFO"
    stream_poll_seconds: float = 0.5  # how often a process looks for new events of the jobs that are watched
    streams_per_key: int = 20  # event streams open at once, in one process
    development: bool = False  # start with settings that must not meet the network (app/exposure.py)
    api_processes: int = Field(default=1, ge=1)  # how many API processes share the rate limits
    trusted_proxies: str = ""  # addresses whose X-Forwarded-For is believed, with commas; empty: nobody's

    # Limits of each key and each project; 0: none. An administrator may set others for a project (docs/tenancy.md).
    requests_per_minute: int = Field(default=600, ge=0, le=MOST_REQUESTS_PER_MINUTE)  # of one key
    failed_logins_per_minute: int = Field(default=60, ge=0)  # with wrong keys, from one address
    quota_storage_bytes: int = Field(default=100 * GIB, ge=0, le=MOST_BIGINT)
    quota_running_jobs: int = Field(default=0, ge=0, le=MOST_JOBS)
    quota_waiting_jobs: int = Field(default=500, ge=0, le=MOST_JOBS)  # in validation, queued or paused
    quota_monthly_tokens: int = Field(default=0, ge=0, le=MOST_BIGINT)  # trained in a calendar month, UTC

    # Metrics for Prometheus: every process takes the first free port from here on; 0: none are shown.
    metrics_port: int = Field(default=0, ge=0, le=65535 - 16)
    metrics_host: str = "127.0.0.1"
    metrics_token: SecretStr | None = None  # what a scraper must present (Authorization: Bearer …)

    # Traces by OpenTelemetry (extra `otel`): where spans go, as OTLP over HTTP; None: there are none.
    traces_url: HttpUrl | None = None  # http://collector:4318/v1/traces
    traces_ratio: float = Field(default=1.0, ge=0, le=1)  # how many of the traces that begin here are kept

    # Leases and clocks, in seconds.
    heartbeat_seconds: float = 5.0
    lease_seconds: float = 30.0
    sweep_seconds: float = 5.0
    poll_seconds: float = 2.0
    prepare_budget_seconds: float = 3600.0  # a validating job whose phase does not move for so long is taken back
    step_budget_seconds: float = 1800.0  # a running job whose step does not move for so long is taken back
    no_capacity_seconds: float = 24 * 3600.0  # a job no living worker can serve fails after so long
    drain_seconds: float = 120.0  # how long a stopping worker may take to checkpoint and hand back
    orphan_grace_seconds: float = 24 * 3600.0  # objects no row names are deleted after so long
    garbage_seconds: float = Field(default=3600.0, gt=0)  # how often a `worker cpu` looks for such objects

    min_free_bytes: int = Field(default=256 * MIB, ge=0)  # a worker with less room in scratch_dir claims nothing

    # Training.
    device: str = "auto"  # auto, cpu, cuda:0 …
    dtype: str = "auto"  # auto: bfloat16 where the machine has it
    engine_slots: int = Field(default=0, ge=0)  # jobs at once in one engine; 0: 8 on a GPU, 4 on a CPU
    engine_threads: int = Field(default=0, ge=0)  # on a CPU; 0: one per physical core, or one for a small base
    sharing: Literal["all", "project"] = "all"  # project: jobs of different projects are never in one engine at once
    prepare_slots: int = Field(default=2, ge=1)  # files prepared at once by one `worker cpu`
    resume_interval_seconds: float = 60.0
    engine_isolation: Isolation = "auto"  # or required, off: what if the machine refuses it (docs/security.md)
    warm_base: str = ""  # the catalogue id a GPU worker loads before its first job
    # Weights & Biases: with a key, a server of one's own, or offline, jobs may have their metrics logged there.
    wandb_api_key: SecretStr | None = None
    wandb_base_url: str | None = None  # None: W&B's own cloud
    wandb_offline: bool = False  # without a key or server: keep runs below wandb_dir, for a later `wandb sync`
    wandb_dir: Path = Path("/var/lib/tunesmith/wandb")
    results_base64: bool = False  # deliver result CSVs base64-encoded, as OpenAI's live endpoint has done

    # Graders: limits are explained in docs/graders.md.
    grader_runs: int = Field(default=4, ge=1)  # at once in one API process; more are refused with 429
    grader_runs_per_project: int = Field(default=2, ge=1)
    grader_seconds: float = Field(default=300.0, gt=0)  # one run, all members of a multi grader together
    grader_base_url: HttpUrl | None = None  # an OpenAI-compatible endpoint, up to /v1; None: model graders are refused
    grader_api_key: SecretStr | None = None  # for that endpoint
    grader_models: dict[str, str] = Field(default_factory=dict)  # JSON: the name in a grader → the endpoint's name
    grader_model_seconds: float = Field(default=120.0, gt=0)  # one completion
    python_graders: bool = False  # run tenants' Python, in a sandbox, on the API's machine; off: refused
    python_grader_interpreter: Path | None = None  # whose packages it may import; None: this process's own
    python_grader_seconds: float = Field(default=120.0, gt=0)
    python_grader_memory_bytes: int = Field(default=2048 * MIB, ge=64 * MIB)  # of each of its processes
    python_grader_disk_bytes: int = Field(default=256 * MIB, ge=MIB)  # of its temporary folder, which lies in memory
    python_grader_processes: int = Field(default=1, ge=1)  # processes and threads at once

    # Secrets at rest, and requests to URLs that tenants give (docs/webhooks.md).
    secret_keys: SecretStr = SecretStr("")  # base64 of 32 bytes each, the newest first, commas between
    webhook_ports: frozenset[int] = frozenset({443})  # JSON list: the ports of https URLs
    webhook_networks: tuple[IPvAnyNetwork, ...] = ()  # JSON list: networks that are not public, yet may be sent to
    webhook_authorities: FilePath | None = None  # certificates to trust, in PEM; None: the system's
    webhook_loopback_http: bool = False  # also http:// to this machine; only where `host` is a loopback address
    webhook_seconds: float = Field(default=15.0, gt=0)  # one request, from the look-up to the end of the answer

    webhook_poll_seconds: float = Field(default=1.0, gt=0)  # how often a worker looks for deliveries that are due
    webhook_lanes: int = Field(default=8, ge=1)  # endpoints served at once by one worker
    webhook_history_seconds: float = Field(default=30 * 24 * 3600.0, ge=0)  # how long ended deliveries can be seen
    webhook_endpoints_per_project: int = Field(default=10, ge=1)
    webhook_tests: int = Field(default=8, ge=1)  # at once in one API process; more are refused with 429
    webhook_tests_per_project: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _loopback_stays_at_home(self) -> "Settings":
        if self.webhook_loopback_http and not is_loopback(self.host):
            raise ValueError("webhook_loopback_http needs a host that only this machine can reach")
        return self

    @property
    def wandb_is_offline(self) -> bool:
        return self.wandb_api_key is None and self.wandb_base_url is None

    @property
    def wandb_is_offered(self) -> bool:
        """Whether jobs may ask for the `wandb` integration."""
        return self.wandb_offline or not self.wandb_is_offline


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address that is listened on."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def environment(changes: Mapping[str, object]) -> dict[str, str]:
    """This process's environment for a child, with some settings changed: field name of Settings → value."""
    for name in changes:
        assert name in Settings.model_fields, name
    return dict(os.environ) | {f"TUNESMITH_{name.upper()}": str(value) for name, value in changes.items()}


class ClientSettings(BaseSettings):
    """Settings of the user's commands, under the names OpenAI's own clients use."""

    model_config = SettingsConfigDict(env_prefix="OPENAI_", extra="ignore")

    base_url: str = "http://127.0.0.1:8000/v1"
    api_key: SecretStr | None = None


@cache
def settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
