"""The Helm chart rendered by Helm itself, with the values that people install it with."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

from deploy.chart import CHART

Values = dict[str, Any]
Manifest = dict[str, Any]

SHARED: Values = {
    "registry": {
        "database": {"existingSecret": "lorikeet-database"},
        "store": {"url": "s3://models/lorikeet", "credentialsSecret": "lorikeet-s3"},
    }
}
EVERYTHING: Values = {
    **SHARED,
    "imagePullSecrets": [{"name": "registry"}],
    "base": {
        "model": "meta-llama/Llama-3.1-8B-Instruct@main",
        "huggingFaceToken": {"existingSecret": "hub"},
    },
    "extraEnv": [
        {"name": "AWS_ENDPOINT_URL", "value": "https://s3.example.com"},
        {"name": "AWS_CA_BUNDLE", "value": "/etc/company/ca.pem"},
    ],
    "extraVolumes": [{"name": "company", "configMap": {"name": "company-ca"}}],
    "extraVolumeMounts": [{"name": "company", "mountPath": "/etc/company", "readOnly": True}],
    "server": {
        "replicas": 3,
        "gpus": 2,
        "settings": {
            "tensor_parallel_size": 2,
            "max_loras": 16,
            "max_body_bytes": 8 * 1024**2,
            "queue_seconds": 1.5,
            "drain_seconds": 90,
            "access_log": False,
            "otlp_endpoint": "http://collector.monitoring:4318",
        },
        "podAnnotations": {"example.com/team": "ml"},
        "nodeSelector": {"example.com/gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
        "priorityClassName": "serving",
        "runtimeClassName": "nvidia",
    },
    "worker": {
        "replicas": 2,
        "gpus": 1,
        "settings": {"tenant_concurrency": 1, "train_window": "22:00-06:00"},
        "persistence": {"accessMode": "ReadWriteMany", "storageClass": "nfs"},
    },
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"}},
    "autoscaling": {"kind": "hpa", "minReplicas": 2, "maxReplicas": 6},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
    },
    "gateway": {
        "enabled": True,
        "parentRefs": [{"name": "inference-gateway", "namespace": "gateways"}],
        "hostnames": ["llm.example.com"],
        "endpointPicker": {"service": "lorikeet-epp"},
        "objectives": [{"name": "interactive", "priority": 10}],
    },
}
INSTALLATIONS: dict[str, Values] = {
    "one-pod": {},
    "store-without-database": {
        "registry": {"store": {"url": "s3://models/lorikeet", "credentialsSecret": "lorikeet-s3"}},
        "server": {"preStopSeconds": 0},
    },
    "one-pod-that-trains": {"server": {"settings": {"with_worker": True, "engine": "echo"}}},
    "replicas": {**SHARED, "server": {"replicas": 2}},
    "shared-volume": {
        "registry": {
            "database": {"existingSecret": "lorikeet-database"},
            "store": {"url": "file:///store", "existingClaim": "adapters"},
        },
        "base": {"model": "/models/llama", "existingClaim": "models"},
        "worker": {"replicas": 1, "persistence": {"existingClaim": "runs"}},
    },
    "keda": {
        **SHARED,
        "gateway": {
            "enabled": True,
            "parentRefs": [{"name": "inference-gateway"}],
            "existingPool": "router",
        },
        "autoscaling": {"kind": "keda", "prometheusAddress": "http://prometheus.monitoring:9090"},
    },
    "bare": {
        "fullnameOverride": "llm",
        "adminKey": {"existingSecret": "mine", "key": "admin"},
        "serviceAccount": {"create": False},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "server": {"persistence": {"enabled": False}, "image": {"digest": f"sha256:{'0' * 64}"}},
    },
    "everything": EVERYTHING,
}
RELEASE = "demo"
NAMESPACE = "models"


@dataclass(frozen=True)
class Installation:
    """What Kubernetes would get."""

    manifests: tuple[Manifest, ...]

    def of(self, kind: str) -> list[Manifest]:
        """The manifests of a kind."""
        return [it for it in self.manifests if it["kind"] == kind]

    def one(self, kind: str, suffix: str = "") -> Manifest:
        """The manifest of a kind whose name ends so."""
        (found,) = (it for it in self.of(kind) if it["metadata"]["name"].endswith(suffix))
        return found

    @property
    def workloads(self) -> list[Manifest]:
        """Server and workers."""
        return self.of("StatefulSet") + self.of("Deployment")


def render(values: Values, folder: Path = CHART) -> Installation:
    """The manifests that these values make; raises Helm's own errors."""
    with helm_python.Chart.load(folder) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    documents = [
        document
        for path, text in texts.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.safe_load_all(text)
    ]
    return Installation(tuple(it for it in documents if it))


@cache
def installed(name: str) -> Installation:
    """One of INSTALLATIONS."""
    return render(INSTALLATIONS[name])


def containers(workload: Manifest) -> list[Manifest]:
    """All containers of its pods."""
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Manifest) -> dict[str, str]:
    """Its variables: the value, or the name of the secret or field that it comes from."""
    return {
        it["name"]: it["value"] if "value" in it else _source(**it["valueFrom"])
        for it in container["env"]
    }


def _source(
    secretKeyRef: dict[str, str] | None = None, fieldRef: dict[str, str] | None = None
) -> str:
    return secretKeyRef["name"] if secretKeyRef else (fieldRef or {})["fieldPath"]
