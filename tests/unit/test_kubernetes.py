"""The Kubernetes manifests: they promise what compose promises, and name only what there is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from typer.main import get_command

from relay import app as application
from relay.cli.main import app
from relay.config import Settings, load
from relay.configured import sources_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
GUIDE = (ROOT / "docs" / "howto" / "run-on-kubernetes.md").read_text()
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OBJECTS: list[dict[str, Any]] = [
    found for path in sorted(FOLDER.glob("*.yaml")) for found in yaml.safe_load_all(path.read_text())
]
#: The pods, by the name of compose's service.
PODS = {one["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: one["spec"]["template"]
        for one in OBJECTS if one["kind"] in {"Deployment", "StatefulSet"}}  # fmt: skip


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OBJECTS if one["kind"] == kind}


def container(name: str) -> dict[str, Any]:
    (only,) = PODS[name]["spec"]["containers"]
    return dict(only)


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def mebibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(mb|gb|m|g|Mi|Gi)", text).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit[0] in "gG" else 1)


def test_there_is_a_pod_for_each_service_that_is_ours() -> None:
    assert set(PODS) == set(SERVICES) - {"postgres"}


@pytest.mark.parametrize("name", PODS)
def test_each_pod_is_confined_as_its_container_in_compose_is(name: str) -> None:
    pod, confined = PODS[name]["spec"], container(name)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert confined == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert "hostNetwork" not in pod
    user = SERVICES[name].get("user") or ":".join(*re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE))
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.parametrize("name", PODS)
def test_a_variable_that_the_cluster_makes_up_is_never_taken_for_a_setting(name: str) -> None:
    """A service called relay would set RELAY_PORT in every pod."""
    assert PODS[name]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", PODS)
def test_a_stop_has_as_long_as_in_compose(name: str) -> None:
    assert PODS[name]["spec"]["terminationGracePeriodSeconds"] >= seconds(SERVICES[name]["stop_grace_period"])


def test_images_and_commands_are_those_of_compose() -> None:
    assert container("valkey")["image"] == SERVICES["valkey"]["image"]
    assert container("valkey")["command"] == SERVICES["valkey"]["command"]
    for half in ("web", "worker"):
        assert container(half)["image"].rpartition("/")[2] == SERVICES[half]["image"]
        assert container(half)["command"] == SERVICES[half]["command"]
        assert container(half)["command"][1] in get_command(app).commands  # type: ignore[attr-defined]


def test_the_buffer_has_the_memory_that_it_has_in_compose() -> None:
    limit = container("valkey")["resources"]["limits"]["memory"]
    assert mebibytes(limit) >= mebibytes(SERVICES["valkey"]["mem_limit"])
    assert container("valkey")["resources"]["requests"]["memory"] == limit


def test_each_variable_is_a_setting_or_names_the_file_or_the_folder() -> None:
    known = {f"RELAY_{name.upper()}" for name in Settings.model_fields} | {"RELAY_CONFIG", "RELAY_DATA"}
    for half in ("web", "worker"):
        assert {one["name"] for one in container(half)["env"]} <= known


def test_the_web_half_is_probed_where_it_answers() -> None:
    served = Flask("relay", static_folder=None)
    application.serve(served)
    paths = {rule.rule for rule in served.url_map.iter_rules()}
    probes = {name: container("web")[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz",
    }  # fmt: skip
    assert {probe["path"] for probe in probes.values()} <= paths
    (port,) = container("web")["ports"]
    assert port["containerPort"] == Settings.model_fields["port"].default
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_the_workers_probe_asks_what_compose_asks() -> None:
    told = [" ".join(text.split()) for text in container("worker")["readinessProbe"]["exec"]["command"]]
    assert told == [" ".join(text.split()) for text in SERVICES["worker"]["healthcheck"]["test"][1:]]


def test_what_selects_pods_finds_them() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    selectors = [service["spec"]["selector"] for service in of_kind("Service").values()]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in of_kind("NetworkPolicy").values()]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in of_kind("PodDisruptionBudget").values()]
    assert all(selector in labels for selector in selectors)
    hosts = {re.findall(r"redis://([\w-]+):6379", str(container(half)["env"]))[0] for half in ("web", "worker")}
    assert hosts <= set(of_kind("Service"))
    for one in of_kind("StatefulSet").values():
        assert one["spec"]["serviceName"] in of_kind("Service")


def test_only_the_halves_reach_the_buffer_and_it_reaches_nobody() -> None:
    policy = of_kind("NetworkPolicy")["rowhook-valkey"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": 6379}]
    ((who,),) = (one["podSelector"]["matchExpressions"][1:] for one in ingress["from"])
    assert who == {"key": "app.kubernetes.io/component", "operator": "In", "values": ["web", "worker"]}


@pytest.mark.parametrize("name", PODS)
def test_every_volume_is_there_and_the_file_system_is_written_only_where_one_is(name: str) -> None:
    made = {volume["name"] for volume in PODS[name]["spec"]["volumes"]}
    (owner,) = [one for one in OBJECTS if one["spec"].get("template") is PODS[name]]
    made |= {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}
    mounts = container(name)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == made
    assert {"/tmp", "/data"} <= {mount["mountPath"] for mount in mounts}


def test_the_worker_is_one_pod_with_a_volume_since_the_archive_is_one_file() -> None:
    worker = of_kind("StatefulSet")["rowhook-worker"]["spec"]
    assert worker["replicas"] == 1
    assert [claim["metadata"]["name"] for claim in worker["volumeClaimTemplates"]] == ["data"]


def test_the_guide_makes_everything_that_the_pods_mount() -> None:
    volumes = [volume for pod in PODS.values() for volume in pod["spec"]["volumes"]]
    maps = {volume["configMap"]["name"] for volume in volumes if "configMap" in volume}
    secrets = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    assert set(re.findall(r"kubectl create configmap (\S+)", GUIDE)) == maps
    assert set(re.findall(r"kubectl create secret generic (\S+)", GUIDE)) == secrets
    for file in re.findall(r"--from-file=[\w.]+=(deploy/\S+)", GUIDE):
        assert (ROOT / file).is_file(), file
    for folder in re.findall(r"kubectl apply --filename (\S+)", GUIDE):
        assert (ROOT / folder).is_dir(), folder
    named = set(re.findall(r"/run/secrets/(\w+)\}", (FOLDER / "settings" / "relay.yaml").read_text()))
    assert named == set(re.findall(r"--from-literal=(\w+)=", GUIDE))


def test_the_settings_load_with_their_secrets_filled_in(tmp_path: Path) -> None:
    (tmp_path / "shopify_secret").write_text("s\n")
    (tmp_path / "warehouse_dsn").write_text("postgresql://rowhook:p@db.example.com/shop\n")
    path = tmp_path / "relay.yaml"
    path.write_text((FOLDER / "settings" / "relay.yaml").read_text().replace("/run/secrets", os.fspath(tmp_path)))
    config = load(path, tmp_path)
    assert config.warnings == []
    assert list(sources_of(config)["shopify"].secrets) == ["s"]
    assert config.settings.destinations["warehouse"]["dsn"] == "postgresql://rowhook:p@db.example.com/shop"
