"""The manifests against the Kubernetes types, and against the settings that the code really reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from outlap_airflow.settings import AirflowSettings, airflow_settings

from cacheengine.control.settings import ControlSettings, load_settings
from cacheengine.node import NodeConfig, load_node
from lake.config import Config, SecretRef, load_config
from tests.cacheengine.kubernetes_types import problems

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
KINDS = {
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Service"): "V1Service",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "V1ClusterRole",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "V1ClusterRoleBinding",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("apps/v1", "DaemonSet"): "V1DaemonSet",
}
PLAIN_NAMES = {"OUTLAP_HOME", "OUTLAP_IDC", "OUTLAP_CONFIG"}


def documents() -> list[dict[str, Any]]:
    return [
        document
        for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in yaml.safe_load_all(path.read_text())
    ]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents() if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "airflow" / "values.yaml").read_text())
    return loaded


def pod(kind: str, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = named(kind, name)["spec"]["template"]["spec"]
    return spec


PODS = {"control": ("Deployment", "outlap-control"), "agent": ("DaemonSet", "outlap-agent")}


def pod_like(which: str) -> dict[str, Any]:
    """env, volumeMounts and volumes of control, agent or Airflow."""
    if which == "airflow":
        return values()
    spec = pod(*PODS[which])
    (container,) = spec["containers"]
    return {**container, "volumes": spec["volumes"]}


@pytest.mark.parametrize("document", documents(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_every_field_is_one_of_kubernetes(document: dict[str, Any]) -> None:
    kind = KINDS[(document["apiVersion"], document["kind"])]
    assert list(problems(document, kind, document["kind"])) == []
    if document["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
        assert document["metadata"]["namespace"] == named("Namespace", "outlap")["metadata"]["name"]


def test_the_check_itself_finds_what_is_wrong() -> None:
    document = named("DaemonSet", "outlap-agent")
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["volumeMount"] = []
    container["ports"][0]["containerPort"] = "8810"
    del container["name"]
    del document["spec"]["selector"]
    found = "\n".join(problems(document, "V1DaemonSet", "it"))
    for expected in (
        "volumeMount: V1Container has no",
        "containerPort: '8810' is no int",
        "`name`",
        "`selector`",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("field", "kind"),
    [("env", "list[V1EnvVar]"), ("volumes", "list[V1Volume]"), ("volumeMounts", "list[V1VolumeMount]")],
)
def test_what_airflow_pods_get_is_of_kubernetes_too(field: str, kind: str) -> None:
    assert list(problems(values()[field], kind, field)) == []
    for part in ("workers", "scheduler", "triggerer", "dagProcessor", "apiServer"):
        assert list(problems(values()[part]["resources"], "V1ResourceRequirements", part)) == []


def test_kustomization_names_every_file() -> None:
    listed = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        p.name for p in (DEPLOY / "kubernetes").glob("*.yaml") if p.name != "kustomization.yaml"
    )


def known_names() -> set[str]:
    sections = (("CONTROL", ControlSettings), ("NODE", NodeConfig), ("AIRFLOW", AirflowSettings))
    fields = {f"OUTLAP_{name}_{field}".upper() for name, model in sections for field in model.model_fields}
    return fields | PLAIN_NAMES


def test_every_variable_is_one_that_the_code_reads() -> None:
    known = known_names()
    texts = [path for path in DEPLOY.rglob("*") if path.is_file()]
    used = {name for path in texts for name in re.findall(r"\bOUTLAP_[A-Z0-9_]+", path.read_text())}
    assert used <= known
    for which in ("control", "agent", "airflow"):
        names = [item["name"] for item in pod_like(which)["env"]]
        assert len(names) == len(set(names))


def environment(which: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """The settings as a pod of this kind gets them."""
    for name in known_names():
        monkeypatch.delenv(name, raising=False)
    container = pod_like(which)
    for item in container["env"]:
        if "value" in item:
            monkeypatch.setenv(item["name"], item["value"].replace("$(POD_IP)", "10.1.2.3"))
        elif "fieldRef" in item["valueFrom"]:
            monkeypatch.setenv(item["name"], "worker-7.example")
    (settings,) = [m for m in container["volumeMounts"] if m.get("subPath") == "outlap.toml"]
    assert settings["mountPath"] == next(i["value"] for i in container["env"] if i["name"] == "OUTLAP_CONFIG")
    file = tmp_path / "outlap.toml"
    file.write_text(named("ConfigMap", "outlap-settings")["data"]["outlap.toml"])
    monkeypatch.setenv("OUTLAP_CONFIG", str(file))
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path))
    return load_config()


def secret_files(which: str) -> dict[str, str]:
    """Path in the pod → Secret/key, for every secret that is mounted."""
    container = pod_like(which)
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    return {
        f"{mounted[volume['name']]}/{item['path']}": f"{source['secret']['name']}/{item['key']}"
        for volume in container["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
    }


def references(config: Config, idcs: tuple[str, ...]) -> set[str]:
    """Files of the secrets that a process needs for these IDCs."""
    found: list[SecretRef | None] = [config.idcs[idc].token for idc in idcs]
    for store in config.stores.values():
        if store.idc in idcs:
            found += [store.access_key_id, store.secret_access_key]
    return {str(reference.file) for reference in found if reference is not None}


def test_control_starts_with_what_its_pod_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = environment("control", monkeypatch, tmp_path)
    settings, container = load_settings(), pod_like("control")
    assert config.idc_named(settings.idc).name == "idc-b"
    assert (
        settings.port
        == container["ports"][0]["containerPort"]
        == named("Service", "outlap-control")["spec"]["ports"][0]["port"]
    )
    assert config.idcs["idc-b"].control == f"http://outlap-control.outlap.svc:{settings.port}"
    assert {str(settings.admin_token_path), *references(config, ("idc-b",))} <= set(secret_files("control"))
    assert settings.database_url.startswith("sqlite:///")
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    assert any(settings.state_dir.is_relative_to(folder) for folder in writable)
    spec = pod(*PODS["control"])
    assert spec["securityContext"]["runAsNonRoot"] and container["securityContext"]["readOnlyRootFilesystem"]


def test_an_agent_starts_with_what_its_pod_gets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = environment("agent", monkeypatch, tmp_path)
    node, container = load_node(config), pod_like("agent")
    assert (node.name, node.idc, node.role) == ("worker-7.example", "idc-b", "gpu")
    port = container["ports"][0]["containerPort"]
    assert node.listen == f"0.0.0.0:{port}" and node.advertise == f"http://10.1.2.3:{port}"
    assert node.control == config.idcs["idc-b"].control and node.token is not None
    assert references(config, ("idc-b",)) <= set(secret_files("agent"))
    (host,) = [v for v in container["volumes"] if "hostPath" in v]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == host["name"]]
    # what the agent calls a mount must be there under the same path on the node, for training pods
    assert mount["mountPath"] == host["hostPath"]["path"] and mount["mountPropagation"] == "Bidirectional"
    for folder in (node.mounts, node.state_dir, *(directory.path for directory in node.cache_dirs)):
        assert folder.is_relative_to(mount["mountPath"])
    assert container["securityContext"]["privileged"]


def test_airflow_starts_with_what_its_pods_get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = environment("airflow", monkeypatch, tmp_path)
    settings = airflow_settings(config)
    chosen = values()
    assert settings.launcher == "kubernetes"
    assert settings.namespace == named("Namespace", "outlap")["metadata"]["name"]
    assert (
        settings.image == f"{chosen['images']['airflow']['repository']}:{chosen['images']['airflow']['tag']}"
    )
    assert config.idc == "idc-a" and config.idc_named().landing
    assert references(config, tuple(config.idcs)) <= set(secret_files("airflow"))
    assert str(settings.scratch) in {mount["mountPath"] for mount in chosen["volumeMounts"]}


@pytest.mark.parametrize("which", ["control", "agent", "airflow"])
def test_what_is_mounted_and_named_exists(which: str) -> None:
    container = pod_like(which)
    volumes = {volume["name"]: volume for volume in container["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    for volume in volumes.values():
        if "configMap" in volume:
            assert named("ConfigMap", volume["configMap"]["name"])
        if "persistentVolumeClaim" in volume:
            assert named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    if which != "airflow":
        spec = pod(*PODS[which])
        assert named("ServiceAccount", spec["serviceAccountName"])
        labels = named(*PODS[which])["spec"]["template"]["metadata"]["labels"]
        assert named(*PODS[which])["spec"]["selector"]["matchLabels"].items() <= labels.items()
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            (check,) = [container[probe][k] for k in ("httpGet", "tcpSocket") if k in container[probe]]
            assert check["port"] in ports and check.get("path", "/healthz") == "/healthz"
    if which == "control":
        service = named("Service", "outlap-control")["spec"]
        assert service["selector"].items() <= labels.items() and service["ports"][0]["targetPort"] in ports


def secrets_named() -> set[str]:
    """Secret/key of everything that refers to one, `?` for keys that the Airflow chart fixes."""
    found = {
        reference for which in ("control", "agent", "airflow") for reference in secret_files(which).values()
    }
    for which in ("control", "agent", "airflow"):
        for item in pod_like(which)["env"]:
            reference = item.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                found.add(f"{reference['name']}/{reference['key']}")
    chosen = values()
    found.add(f"{chosen['data']['metadataSecretName']}/connection")
    found.add(f"{chosen['fernetKeySecretName']}/fernet-key")
    found.add(f"{chosen['apiSecretKeySecretName']}/api-secret-key")
    found.add(f"{chosen['jwtSecretName']}/jwt-secret")
    return found


def test_secrets_stand_nowhere_and_the_readme_lists_all() -> None:
    assert all(document["kind"] != "Secret" for document in documents())
    readme = (DEPLOY / "README.md").read_text()
    for reference in secrets_named():
        secret, key = reference.split("/")
        (line,) = [line for line in readme.splitlines() if line.startswith(f"| `{secret}` |")]
        assert f"`{key}`" in line
    for which in ("control", "agent", "airflow"):
        for item in pod_like(which)["env"]:
            if re.search(r"TOKEN|SECRET|PASSWORD|KEY|DATABASE", item["name"]):
                assert "value" not in item or item["value"].startswith("/etc/outlap/secrets/")
    assert not [key for key in values() if re.fullmatch(r"(fernetKey|apiSecretKey|jwtSecret|secret)", key)]
    settings = named("ConfigMap", "outlap-settings")["data"]["outlap.toml"]
    for line in settings.splitlines():
        if re.match(r"(token|access_key_id|secret_access_key)\b", line):
            assert re.search(r'= \{ file = "/etc/outlap/secrets/[a-z/-]+" }$', line)


def test_control_may_label_nodes_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment("control", monkeypatch, tmp_path)
    assert load_settings().kubernetes_labels and pod(*PODS["control"])["automountServiceAccountToken"]
    role, binding = (
        named("ClusterRole", "outlap-node-labels"),
        named("ClusterRoleBinding", "outlap-node-labels"),
    )
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "patch"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert subject["name"] == pod(*PODS["control"])["serviceAccountName"]
    assert not named("ServiceAccount", "outlap-control")["automountServiceAccountToken"]
