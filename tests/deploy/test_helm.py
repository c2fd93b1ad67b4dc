"""The chart: what it renders is valid, fits the server, and refuses what could not work."""

import base64
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml
from helm_chart import (
    EVERYTHING,
    INSTALLATIONS,
    NAMESPACE,
    RELEASE,
    SHARED,
    Manifest,
    Values,
    containers,
    environment,
    installed,
    render,
)
from monitored import declared, named
from settings_names import known_variables
from typer.testing import CliRunner

from deploy.chart import CHART, THE_CHARTS, chart_files
from deploy.monitoring.__main__ import DEPLOY
from lorikeet import app
from registry import Registry, RegistrySettings
from serve.routes.operations import router
from serve.server import ERROR_SECONDS
from serve.settings import ServeSettings
from serve.worker_child import STOP_SECONDS
from train.worker.settings import WorkerSettings

VERSIONS = ("1.30", kubernetes_validate.latest_version())
OURS = (
    *("monitoring.coreos.com", "keda.sh"),
    *("gateway.networking", "inference.networking", "llm-d.ai"),
)
"""Groups of resources that are not Kubernetes' own; their shapes are tested below."""
FROM_OUTSIDE = {"HF_TOKEN", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"}
installation = pytest.mark.parametrize("name", INSTALLATIONS)


def test_the_files_are_those_that_the_code_makes() -> None:
    made = chart_files()
    for name, text in made.items():
        assert (CHART / name).read_text() == text, "run `python -m deploy.chart`"
    kept = {str(it.relative_to(CHART)) for it in (CHART / "files").rglob("*") if it.is_file()}
    assert kept == {name for name in made if name.startswith("files/")}


def test_the_dashboards_and_rules_are_those_of_the_repository() -> None:
    """The installed ones, after all of Helm's quoting."""
    everything = installed("everything")
    shown = {
        file: yaml.safe_load(text)
        for it in everything.of("ConfigMap")
        for file, text in it["data"].items()
    }
    assert shown == {
        f"lorikeet-{path.name}": yaml.safe_load(path.read_text())
        for path in (DEPLOY / "grafana").glob("*.json")
    }
    rules = (DEPLOY / "prometheus" / "lorikeet.rules.yml").read_text()
    assert everything.one("PrometheusRule")["spec"] == yaml.safe_load(rules)


@installation
def test_helm_finds_nothing_to_complain_of(name: str) -> None:
    report = helm_python.lint(CHART, INSTALLATIONS[name], strict=True)
    assert report["errors"] == []
    assert [it for it in report["messages"] if it["severity"] > 1] == []


@installation
@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_kubernetes_knows_every_field(name: str, kubernetes: str) -> None:
    own = [it for it in installed(name).manifests if not _is_custom(it)]
    assert len(own) >= 3
    for manifest in own:
        kubernetes_validate.validate(manifest, kubernetes, strict=True)


@installation
def test_pods_pass_the_restricted_security_standard(name: str) -> None:
    for workload in installed(name).workloads:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 1000
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in containers(workload):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


@installation
def test_what_is_mounted_is_there(name: str) -> None:
    for workload in installed(name).workloads:
        spec = workload["spec"]
        volumes = [it["name"] for it in spec["template"]["spec"]["volumes"]]
        volumes += [it["metadata"]["name"] for it in spec.get("volumeClaimTemplates", [])]
        assert len(volumes) == len(set(volumes))
        mounted = {mount["name"] for it in containers(workload) for mount in it["volumeMounts"]}
        assert mounted == set(volumes)
        for container in containers(workload):
            assert {"/data", "/tmp", "/dev/shm"} <= {
                mount["mountPath"] for mount in container["volumeMounts"]
            }


def test_volumes_of_ones_own_are_in_every_container() -> None:
    for workload in installed("everything").workloads:
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        assert {"name": "company", "configMap": {"name": "company-ca"}} in volumes
        for container in containers(workload):
            mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
            assert mounts["company"] == "/etc/company"


@installation
def test_every_variable_is_a_setting_and_has_a_value_that_it_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = known_variables()
    for workload in installed(name).workloads:
        for container in containers(workload):
            variables = environment(container)
            assert variables.keys() - known - FROM_OUTSIDE == set()
            assert len(variables) == len(container["env"])
            with monkeypatch.context() as patch:
                for variable, value in variables.items():
                    patch.setenv(variable, value)
                RegistrySettings(), ServeSettings(), WorkerSettings()


def test_settings_arrive_as_they_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    server, worker = (containers(it)[-1] for it in installed("everything").workloads)
    for variable, value in {**environment(server), **environment(worker)}.items():
        monkeypatch.setenv(variable, value)
    serving, training, registry = ServeSettings(), WorkerSettings(), RegistrySettings()
    assert (
        serving.model_dump(include=EVERYTHING["server"]["settings"].keys())
        == (EVERYTHING["server"]["settings"])
    )
    assert serving.base == EVERYTHING["base"]["model"]
    assert serving.log_format == "json"
    assert training.tenant_concurrency == 1
    assert str(training.train_window) == "22:00-06:00"
    assert training.server == f"http://{RELEASE}-lorikeet:80"
    assert registry.store_url == SHARED["registry"]["store"]["url"]
    assert registry.home == Path("/data")


def test_the_settings_that_the_chart_decides_exist() -> None:
    for settings, names in THE_CHARTS.items():
        assert names <= settings.model_fields.keys()


@installation
def test_probes_ask_what_the_server_answers(name: str) -> None:
    server = containers(installed(name).one("StatefulSet"))[-1]
    ports = {it["name"]: it["containerPort"] for it in server["ports"]}
    variables = environment(server)
    assert ports == {
        "http": int(variables["LORIKEET_SERVE_PORT"]),
        "metrics": int(variables["LORIKEET_SERVE_METRICS_PORT"]),
    }
    answered = {route.path for route in router.routes}  # type: ignore[attr-defined]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = server[probe]["httpGet"]
        assert asked["port"] == "http"
        assert asked["path"] in answered
    assert server["livenessProbe"]["httpGet"]["path"] == "/health"
    startup = server["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= 1800


@installation
def test_a_pod_is_given_the_time_to_drain(name: str) -> None:
    pod = installed(name).one("StatefulSet")["spec"]["template"]["spec"]
    server = pod["containers"][0]
    settings = INSTALLATIONS[name].get("server", {}).get("settings", {})
    drain = settings.get("drain_seconds", ServeSettings().drain_seconds) + ERROR_SECONDS
    worker = STOP_SECONDS if settings.get("with_worker") else 0
    hook = server.get("lifecycle")
    assert (hook is None) == (name == "store-without-database")
    waits = hook["preStop"]["sleep"]["seconds"] if hook else 0
    assert pod["terminationGracePeriodSeconds"] >= waits + max(drain, worker) + 20


def test_a_worker_is_given_the_time_for_its_checkpoint() -> None:
    pod = installed("everything").one("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= WorkerSettings().grace_seconds + 20


def test_workers_share_a_volume_and_no_cache() -> None:
    pod = installed("everything").one("Deployment")["spec"]["template"]["spec"]
    volumes = {it["name"]: it for it in pod["volumes"]}
    mounts = {it["mountPath"]: it["name"] for it in pod["containers"][0]["volumeMounts"]}
    assert "persistentVolumeClaim" in volumes[mounts["/data"]]
    limit = volumes[mounts["/data/cache"]]["emptyDir"]["sizeLimit"]
    assert int(limit) > int(environment(pod["containers"][0])["LORIKEET_CACHE_BYTES"])


@installation
def test_selectors_pick_the_pods_that_they_mean(name: str) -> None:
    its = installed(name)
    labels = {it["kind"]: it["spec"]["template"]["metadata"]["labels"] for it in its.workloads}
    pods = {"server": labels["StatefulSet"], "worker": labels.get("Deployment", {})}
    picked = 0
    for manifest in its.manifests:
        for selector, means in _selectors(manifest):
            picked += 1
            for component, its_labels in pods.items():
                assert (selector.items() <= its_labels.items()) == (component == means)
    assert picked >= 3
    for monitor in its.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        matched = [
            it for it in its.of("Service") if wanted.items() <= it["metadata"]["labels"].items()
        ]
        ports = {port["name"] for it in matched for port in it["spec"]["ports"]}
        assert {it["port"] for it in monitor["spec"]["endpoints"]} <= ports
        assert len(matched) == 1


def test_the_init_container_makes_the_key_that_the_secret_holds(home: Path, tmp_path: Path) -> None:
    """By the very arguments, and again: a restart changes nothing, nor does it fail."""
    its = installed("one-pod")
    (secret,) = its.one("Secret")["data"].values()
    file = tmp_path / "admin-key"
    file.write_bytes(base64.b64decode(secret))
    make = containers(its.one("StatefulSet"))[0]
    arguments = [str(file) if it.endswith("/admin-key") else it for it in make["args"]]
    for _ in range(2):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert file.read_text() not in done.output
    with Registry.open() as registry:
        assert [key.admin for key in registry.keys.list()] == [True]
        key = registry.keys.find(file.read_text())
        assert key is not None
        assert key.tenant == "operators"
        registry.keys.revoke(key.id)
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_key_of_ones_own_is_mounted_and_none_is_made() -> None:
    its = installed("bare")
    assert its.of("Secret") == []
    volumes = its.one("StatefulSet")["spec"]["template"]["spec"]["volumes"]
    (mounted,) = (it["secret"] for it in volumes if it["name"] == "admin-key")
    assert mounted == {"secretName": "mine", "items": [{"key": "admin", "path": "admin-key"}]}


def test_gpus_are_asked_for_and_choose_the_image() -> None:
    """The images that docker-bake.json builds."""
    server, worker = (containers(it)[-1] for it in installed("everything").workloads)
    for container, gpus in ((server, 2), (worker, 1)):
        image = {"server": "lorikeet-server", "worker": "lorikeet-trainer"}[container["name"]]
        assert container["image"] == f"{image}:{version('lorikeet')}-gpu"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
        assert container["resources"]["requests"]["nvidia.com/gpu"] == gpus
    assert containers(installed("one-pod").one("StatefulSet"))[0]["image"].endswith("-cpu")
    assert "@sha256:" in containers(installed("bare").one("StatefulSet"))[0]["image"]


def test_without_a_database_the_volume_is_kept_and_with_a_store_it_is_a_cache() -> None:
    for name, kept in (
        ("one-pod", "Retain"),
        ("store-without-database", "Retain"),  # the keys and aliases are on it
        ("replicas", "Delete"),
    ):
        spec = installed(name).one("StatefulSet")["spec"]
        assert spec["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == kept


@pytest.mark.parametrize("name", ["everything", "keda"])
def test_scaling_goes_by_metrics_of_ours(name: str) -> None:
    its = installed(name)
    server = its.one("StatefulSet")
    assert "replicas" not in server["spec"]
    if name == "keda":
        (scaling,) = its.of("ScaledObject")
        asked = [it["metadata"]["query"] for it in scaling["spec"]["triggers"]]
        assert all(f'namespace="{NAMESPACE}"' in it for it in asked)
        assert all(
            f'service="{its.one("Service", "-pods")["metadata"]["name"]}"' in it for it in asked
        )
        assert scaling["spec"]["triggers"][0]["metadata"]["serverAddress"].startswith("http://")
    else:
        (scaling,) = its.of("HorizontalPodAutoscaler")
        asked = [it["pods"]["metric"]["name"] for it in scaling["spec"]["metrics"]]
    assert named(asked) == {"lorikeet_requests_queued", "lorikeet_requests_running"}
    assert named(asked) <= declared().keys()
    target = scaling["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("StatefulSet", server["metadata"]["name"])


def test_scaling_that_is_turned_on_keeps_the_servers_that_run(tmp_path: Path) -> None:
    """Helm asks the cluster for them; here a copy of the chart answers in its place."""
    assert "replicas" not in installed("keda").one("StatefulSet")["spec"]
    chart = shutil.copytree(CHART, tmp_path / "lorikeet")
    template = chart / "templates" / "server" / "statefulset.yaml"
    asked = re.compile(r'\(lookup "apps/v1" "StatefulSet" .*\)(?= })')
    for running in (3, 0):
        there = f'(dict "spec" (dict "replicas" {running}))'
        text, found = asked.subn(there, (CHART / template.relative_to(chart)).read_text())
        assert found == 1
        template.write_text(text)
        for name in ("keda", "everything"):
            spec = render(INSTALLATIONS[name], chart).one("StatefulSet")["spec"]
            assert spec.get("replicas", 0) == running


def test_the_gateway_routes_models_to_the_pool_and_nothing_to_admin() -> None:
    its = installed("everything")
    pool = its.one("InferencePool")
    assert pool["apiVersion"] == "inference.networking.k8s.io/v1"
    server = containers(its.one("StatefulSet"))[-1]
    assert pool["spec"]["targetPorts"] == [{"number": server["ports"][0]["containerPort"]}]
    assert pool["spec"]["endpointPickerRef"] == {
        "name": "lorikeet-epp",
        "port": {"number": 9002},
        "failureMode": "FailOpen",
    }
    route = its.one("HTTPRoute")["spec"]
    models, rest = route["rules"]
    assert [it["path"]["value"] for it in models["matches"]] == [
        "/v1/chat/completions",
        "/v1/completions",
    ]
    assert models["backendRefs"][0]["kind"] == "InferencePool"
    assert models["backendRefs"][0]["name"] == pool["metadata"]["name"]
    assert rest["matches"] == [{"path": {"type": "PathPrefix", "value": "/v1"}}]
    assert rest["backendRefs"] == [
        {"name": its.one("Service", "lorikeet")["metadata"]["name"], "port": 80}
    ]
    objective = its.one("InferenceObjective")
    assert objective["apiVersion"] == "llm-d.ai/v1alpha2"
    assert objective["spec"]["poolRef"]["name"] == pool["metadata"]["name"]
    assert objective["spec"]["priority"] == 10


def test_an_older_endpoint_picker_has_another_group_of_objectives() -> None:
    older = "inference.networking.x-k8s.io/v1alpha2"
    gateway = {**EVERYTHING["gateway"], "objectiveApiVersion": older}
    its = render({**EVERYTHING, "gateway": gateway})
    assert its.one("InferenceObjective")["apiVersion"] == older


def test_a_pool_that_came_with_its_endpoint_picker_is_used() -> None:
    its = installed("keda")
    assert its.of("InferencePool") == []
    models, _ = its.one("HTTPRoute")["spec"]["rules"]
    assert models["backendRefs"][0]["name"] == "router"


@installation
def test_an_installation_names_nothing_twice(name: str) -> None:
    names = [(it["kind"], it["metadata"]["name"]) for it in installed(name).manifests]
    assert len(set(names)) == len(names)


def _is_custom(manifest: Manifest) -> bool:
    return manifest["apiVersion"].startswith(OURS)


def _selectors(manifest: Manifest) -> list[tuple[Values, str]]:
    """What it selects pods by, and which component is meant."""
    spec, component = (
        manifest.get("spec", {}),
        manifest["metadata"]["labels"]
        .get("app.kubernetes.io/component", "server")
        .removesuffix("-pods"),
    )
    if manifest["kind"] == "Service":
        return [(spec["selector"], component)]
    if manifest["kind"] == "NetworkPolicy":
        return [(spec["podSelector"]["matchLabels"], component)]
    if manifest["kind"] in ("StatefulSet", "Deployment", "PodDisruptionBudget", "InferencePool"):
        return [(spec["selector"]["matchLabels"], component)]
    return []
