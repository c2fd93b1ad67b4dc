"""The chart's values: each is described, and what could not work is refused with a reason."""

import re
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml
from helm_chart import SHARED, Values, render
from monitored import declared

from deploy.chart import CHART
from serve.settings import ServeSettings
from train.worker.settings import WorkerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "kubernetes.md").read_text()
SETTINGS = {"server": ServeSettings, "worker": WorkerSettings}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"server": {"replicas": 2}}, "2 server replicas need one PostgreSQL"),
        ({"worker": {"replicas": 1}}, "a worker of its own need"),
        ({"autoscaling": {"kind": "hpa"}}, "8 server replicas need one PostgreSQL"),
        (
            {"server": {"replicas": 2}, "registry": {"database": {"existingSecret": "db"}}},
            "need a store that all pods reach",
        ),
        ({"registry": {"store": {"url": "file:///store"}}}, "no volume is there"),
        ({"registry": {"store": {"existingClaim": "c"}}}, "is mounted at /store"),
        ({"base": {"existingClaim": "c"}}, "is mounted at /models"),
        ({**SHARED, "worker": {"replicas": 2}}, "several workers share one volume"),
        ({**SHARED, "autoscaling": {"kind": "keda"}}, "KEDA asks Prometheus"),
        (
            {**SHARED, "autoscaling": {"kind": "hpa", "minReplicas": 5, "maxReplicas": 3}},
            "maxReplicas is below",
        ),
        (
            {"server": {"gpus": 2, "settings": {"tensor_parallel_size": 4}}},
            "takes 4 GPUs .* and the pod has 2",
        ),
        ({"gateway": {"enabled": True}}, "the route belongs to a Gateway"),
        (
            {"gateway": {"enabled": True, "parentRefs": [{"name": "g"}]}},
            "asks an endpoint picker",
        ),
    ],
)
def test_values_that_do_not_go_together(values: Values, words: str) -> None:
    with pytest.raises(helm_python.HelmRenderError, match=words):
        render(values)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"server": {"replica": 2}}, "'/server': additional properties 'replica' not allowed"),
        ({"server": {"settings": {"max_lora": 4}}}, "additional properties 'max_lora' not allowed"),
        ({"server": {"settings": {"max_loras": 0}}}, "minimum: got 0, want 1"),
        ({"server": {"settings": {"port": 1}}}, "additional properties 'port' not allowed"),
        ({"worker": {"settings": {"nice": 20}}}, "maximum: got 20, want 19"),
        ({"registry": {"store": {"url": "http://minio"}}}, "'/registry/store/url'"),
        ({"registry": {"store": {"url": "gs://models"}}}, "'/registry/store/url'"),
        ({"server": {"image": {"digest": "latest"}}}, "'/server/image/digest'"),
        ({"fullnameOverride": "3llm"}, "'/fullnameOverride'"),
        ({"fullnameOverride": "llm.prod"}, "'/fullnameOverride'"),
        ({"autoscaling": {"kind": "vpa"}}, "'/autoscaling/kind'"),
        ({"server": {"persistence": {"size": "50 GB"}}}, "'/server/persistence/size'"),
    ],
)
def test_values_that_the_schema_refuses(values: Values, words: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=words):
        render(values)


@pytest.mark.parametrize("release", ["3b", "llm.prod"])
def test_a_release_whose_name_no_service_can_have(release: str) -> None:
    with helm_python.Chart.load(CHART) as chart:
        with pytest.raises(helm_python.HelmRenderError, match="set fullnameOverride"):
            chart.render({}, name=release)
        chart.render({"fullnameOverride": "llm"}, name=release)


def test_engines_that_reach_other_machines_may_take_more_gpus_than_a_pod_has() -> None:
    settings = {"tensor_parallel_size": 8, "distributed_executor_backend": "ray"}
    render({"server": {"gpus": 4, "settings": settings}})
    render({"server": {"settings": {"tensor_parallel_size": 2}}})  # on a CPU


def test_every_value_is_described() -> None:
    with helm_python.Chart.load(CHART) as chart:
        schema, defaults = chart.schema, chart.values
    assert schema is not None
    _walk(schema, schema["$defs"], defaults, "")


def _walk(schema: Values, definitions: Values, defaults: Any, path: str) -> None:
    """Each property has a description, and each default its property."""
    properties = schema.get("properties")
    if properties is None:
        return
    assert schema["additionalProperties"] is False, path
    assert not path or path.endswith("settings") or set(defaults) == set(properties), path
    for name, it in properties.items():
        its = definitions[it["$ref"].rpartition("/")[2]] if "$ref" in it else it
        assert its.get("description") or name == "settings", f"{path}.{name}"
        _walk(its, definitions, (defaults or {}).get(name), f"{path}.{name}")


def test_the_page_names_values_that_exist() -> None:
    with helm_python.Chart.load(CHART) as chart:
        defaults = chart.values
        for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S):
            values = yaml.safe_load(block)
            if values.keys() <= defaults.keys():
                chart.validate_schema(values)
    named = re.findall(r"`([a-z]\w+(?:\.\w+)+)`", PAGE)
    checked = [path for path in named if path.split(".")[0] in defaults]
    assert len(checked) > 15
    for path in checked:
        place, _, setting = path.partition(".settings.")
        its = defaults
        for name in place.split("."):
            assert name in its, path
            its = its[name]
        assert not setting or setting in SETTINGS[place].model_fields, path


def test_the_page_names_metrics_that_exist() -> None:
    """Those that autoscaling and the endpoint picker are told to read."""
    told = set(re.findall(r"(?<![\w:])lorikeet_\w*[a-z]\b(?!\()", PAGE))
    assert {"lorikeet_requests_queued", "lorikeet_requests_running"} <= told <= declared().keys()
