"""The Kubernetes manifests: valid by Kubernetes' own schemas, and true of this program."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from app.config import Settings
from app.embedded.stack import HAND_BACK_SECONDS
from app.http.server import GRACE_SECONDS
from tests.deploy.test_observability import exists

FOLDER = Path(__file__).parent.parent.parent / "deploy" / "kubernetes"
VERSIONS = ("1.30.0", "1.37.0")
KEDA = "keda.sh/v1alpha1"
# The part of KEDA's own schema that is used here; nothing beside it is let through.
SCALED_OBJECT: dict[str, Any] = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": KEDA},
        "kind": {"const": "ScaledObject"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["scaleTargetRef", "triggers"],
            "additionalProperties": False,
            "properties": {
                "scaleTargetRef": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {"name": {"type": "string"}},
                },
                "pollingInterval": {"type": "integer"},
                "minReplicaCount": {"type": "integer"},
                "maxReplicaCount": {"type": "integer"},
                "advanced": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "horizontalPodAutoscalerConfig": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"behavior": {"type": "object"}},
                        }
                    },
                },
                "triggers": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["type", "metadata"],
                        "additionalProperties": False,
                        "properties": {
                            "type": {"const": "prometheus"},
                            "metadata": {
                                "type": "object",
                                "required": ["serverAddress", "query", "threshold"],
                                "additionalProperties": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


KUSTOMIZATION = documents("kustomization.yaml")[0]
FILES = [*KUSTOMIZATION["resources"], "secret.example.yaml"]
ALL = {f"{item['kind']}/{item['metadata']['name']}": item for name in FILES for item in documents(name)}
DEPLOYMENTS = [item for item in ALL.values() if item["kind"] == "Deployment"]
WORKERS = [item for item in DEPLOYMENTS if "worker" in item["metadata"]["name"]]


def pod(deployment: dict[str, Any]) -> dict[str, Any]:
    return deployment["spec"]["template"]["spec"]


def containers(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod(deployment)["initContainers"], *pod(deployment)["containers"]]


def check(item: dict[str, Any], version: str) -> None:
    if item["apiVersion"] == KEDA:
        jsonschema.validate(item, SCALED_OBJECT)
        as_an_autoscaler_of_kubernetes_has_it(item, version)
    else:
        kubernetes_validate.validate(item, version, strict=True)


def as_an_autoscaler_of_kubernetes_has_it(item: dict[str, Any], version: str) -> None:
    """KEDA makes a HorizontalPodAutoscaler of it: what is handed on to that must be right there."""
    spec = item["spec"]
    config = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    target = {"apiVersion": "apps/v1", "kind": "Deployment", **spec["scaleTargetRef"]}
    made = {"scaleTargetRef": target, "minReplicas": spec["minReplicaCount"], "maxReplicas": spec["maxReplicaCount"]}
    autoscaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"}}
    kubernetes_validate.validate(autoscaler | {"spec": made | config}, version, strict=True)


def test_every_file_is_applied_but_the_example() -> None:
    there = {path.name for path in FOLDER.iterdir()} - {"kustomization.yaml"}
    assert there == set(FILES)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ALL)
def test_valid(name: str, version: str) -> None:
    check(ALL[name], version)


def test_what_is_misspelt_is_found() -> None:
    wrong = copy.deepcopy(ALL["Deployment/tunesmith-api"])
    pod(wrong)["containers"][0]["readynessProbe"] = pod(wrong)["containers"][0].pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError):
        check(wrong, VERSIONS[0])
    scaled = copy.deepcopy(ALL["ScaledObject/tunesmith-worker-gpu"])
    scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]["policies"][0]["value"] = "one"
    with pytest.raises(kubernetes_validate.ValidationError):
        check(scaled, VERSIONS[0])


def test_settings_are_settings() -> None:
    plain, secret = ALL["ConfigMap/tunesmith"]["data"], ALL["Secret/tunesmith"]["stringData"]
    here = [{pair["name"]: pair["value"] for c in containers(d) for pair in c.get("env", [])} for d in DEPLOYMENTS]
    given = plain | secret | here[0] | here[1] | here[2]
    assert all(isinstance(value, str) for value in given.values()), "a number must be quoted"
    fields = {name.removeprefix("TUNESMITH_").lower(): value for name, value in given.items()}
    assert fields.keys() <= Settings.model_fields.keys()
    assert Settings.model_validate(fields).metrics_port == 9400
    hidden = ("password", "secret", "token", "key")
    assert not [name for name in plain if any(word in name.lower() for word in hidden)], "secrets are in the Secret"


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda item: item["metadata"]["name"])
def test_every_process_is_confined_and_asked_whether_it_is_well(deployment: dict[str, Any]) -> None:
    spec = pod(deployment)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["enableServiceLinks"] is False, "Kubernetes' own TUNESMITH_… variables are no settings"
    assert spec["automountServiceAccountToken"] is False
    for container in containers(deployment):
        confined = container["securityContext"]
        assert confined["readOnlyRootFilesystem"] is True
        assert confined["allowPrivilegeEscalation"] is False
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert container["image"] in {image["name"] for image in KUSTOMIZATION["images"]}
        assert [next(iter(source.values()))["name"] for source in container["envFrom"]] == ["tunesmith", "tunesmith"]
    (main,) = spec["containers"]
    ports = {port["name"] for port in main["ports"]}
    assert main["startupProbe"]["httpGet"]["port"] in ports
    assert main["livenessProbe"]["httpGet"] in [{"path": "/healthz", "port": port} for port in ports]
    mounts = {mount["mountPath"] for mount in main["volumeMounts"]}
    assert {"/tmp", ALL["ConfigMap/tunesmith"]["data"]["TUNESMITH_MODELS_DIR"]} <= mounts
    assert {mount["name"] for mount in main["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("deployment", WORKERS, ids=lambda item: item["metadata"]["name"])
def test_a_worker_is_given_the_time_to_save_its_jobs(deployment: dict[str, Any]) -> None:
    drain = float(ALL["ConfigMap/tunesmith"]["data"]["TUNESMITH_DRAIN_SECONDS"])
    assert pod(deployment)["terminationGracePeriodSeconds"] > drain + HAND_BACK_SECONDS
    (main,) = pod(deployment)["containers"]
    assert ALL["ConfigMap/tunesmith"]["data"]["TUNESMITH_SCRATCH_DIR"] in {m["mountPath"] for m in main["volumeMounts"]}
    assert "replicas" not in deployment["spec"], "the autoscaler says how many"


def test_the_api_takes_its_leave() -> None:
    spec = pod(ALL["Deployment/tunesmith-api"])
    (main,) = spec["containers"]
    pause = float(main["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause + GRACE_SECONDS
    assert main["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert ALL["Deployment/tunesmith-api"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    processes = ALL["ConfigMap/tunesmith"]["data"]["TUNESMITH_API_PROCESSES"]
    assert ALL["Deployment/tunesmith-api"]["spec"]["replicas"] == int(processes)


def selectors() -> list[dict[str, str]]:
    found = [ALL["Service/tunesmith-api"]["spec"]["selector"]]
    for item in ALL.values():
        spec = item.get("spec", {})
        found += [
            spec[name]["matchLabels"] for name in ("selector", "podSelector") if "matchLabels" in spec.get(name, {})
        ]
    return found


def test_what_is_named_is_there() -> None:
    labels = [item["spec"]["template"]["metadata"]["labels"] for item in DEPLOYMENTS]
    for selector in selectors():
        assert any(selector.items() <= one.items() for one in labels), selector
    for item in DEPLOYMENTS:
        for volume in pod(item)["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or f"PersistentVolumeClaim/{claim}" in ALL
    scaled = [item for item in ALL.values() if item["apiVersion"] == KEDA]
    assert {item["spec"]["scaleTargetRef"]["name"] for item in scaled} == {d["metadata"]["name"] for d in WORKERS}
    for item in scaled:
        query = item["spec"]["triggers"][0]["metadata"]["query"]
        assert set(re.findall(r"tunesmith_[a-z_]+", query)) <= exists()


def test_a_gpu_worker_has_a_gpu_of_its_own() -> None:
    (main,) = pod(ALL["Deployment/tunesmith-worker-gpu"])["containers"]
    assert main["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert ALL["Deployment/tunesmith-worker-gpu"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
