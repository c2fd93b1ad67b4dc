"""Names of fine-tuned models: found, listed, deleted with their version, never used again."""

from pathlib import Path

import pytest
from fine_tuning import MakeJob

from registry import AliasRefused, Base, Registry, UnknownAdapter
from registry.finetuning.names import adapter_name, model_name, steps_adapter
from registry.reference import check_name

pytestmark = pytest.mark.usefixtures("database_url")

LEASE = 30.0


@pytest.fixture
def models(registry: Registry, make_job: MakeJob, base: Base, adapters: list[Path]) -> list[str]:
    """Two models of acme's, of equal weights: one version."""
    names = []
    for _ in range(2):
        make_job(suffix="s")
        validating = registry.queue.claim_validation("w", lease_seconds=LEASE)
        assert validating is not None
        validating.validated({})
        claim = registry.queue.claim_training("w", lease_seconds=LEASE)
        assert claim is not None
        version = registry.publish(adapters[0], claim.job.adapter, base=base)
        done = claim.succeed(version, trained_tokens=1, result_files=[])
        assert done.fine_tuned_model is not None
        names.append(done.fine_tuned_model)
    return names


def test_models_are_found_and_listed(registry: Registry, models: list[str]) -> None:
    assert [model.name for model in registry.models.list("acme")] == models
    assert registry.models.list("globex") == []
    found = registry.models.find(models[0])
    assert found is not None
    assert (found.tenant, found.reference) == ("acme", "ft.acme.s@1")
    assert registry.get(models[0]).reference == "ft.acme.s@1"
    assert registry.models.find("ft:nothing") is None
    with pytest.raises(UnknownAdapter, match="fine-tuned"):
        registry.get("ft:nothing")


def test_a_version_goes_with_its_last_model(registry: Registry, models: list[str]) -> None:
    registry.models.delete("acme", models[0])
    with pytest.raises(UnknownAdapter):
        registry.get(models[0])
    assert registry.get(models[1]).reference == "ft.acme.s@1"
    registry.models.delete("acme", models[1])
    with pytest.raises(UnknownAdapter):
        registry.get("ft.acme.s@1")
    with pytest.raises(UnknownAdapter):
        registry.models.delete("acme", models[1])


def test_only_its_tenant_deletes_a_model(registry: Registry, models: list[str]) -> None:
    with pytest.raises(UnknownAdapter):
        registry.models.delete("globex", models[0])
    assert registry.models.find(models[0]) is not None
    registry.models.delete(None, models[0])


def test_a_promoted_model_stays(registry: Registry, models: list[str]) -> None:
    registry.models.delete("acme", models[0])
    registry.promote("ft.acme.s", 1, "stable")
    with pytest.raises(AliasRefused):
        registry.models.delete("acme", models[1])
    assert registry.get(models[1]).aliases == ("latest", "stable")


def test_a_model_whose_version_is_gone_can_be_deleted(
    registry: Registry, models: list[str]
) -> None:
    registry.remove("ft.acme.s", 1)
    for name in models:
        registry.models.delete("acme", name)
    assert registry.models.list("acme") == []


def test_names_of_models_are_openais() -> None:
    job = "ftjob-abcdefgh1234"
    assert model_name("org/base", "acme", "s", job) == "ft:org/base:acme:s:abcdefgh"
    assert model_name("base", "acme", None, job) == "ft:base:acme::abcdefgh"


@pytest.mark.parametrize(
    ("tenant", "suffix"),
    [("acme", "Support"), ("acme", None), ("a" * 64, "b" * 64), ("a.b", "c"), ("a", "b.c")],
)
def test_adapters_have_names_that_a_registry_takes(tenant: str, suffix: str | None) -> None:
    name = adapter_name(tenant, suffix, "ftjob-abcdefgh1234")
    assert check_name(name) == name
    assert check_name(steps_adapter(name))


def test_no_two_tenants_share_an_adapter() -> None:
    job = "ftjob-abcdefgh1234"
    pairs = [
        ("a.b", "c"),
        ("a", "b.c"),
        ("a", "b"),
        ("a", "b.steps"),
        ("a" * 64, "b"),
        ("a" * 63, "ab"),
    ]
    names = {adapter_name(tenant, suffix, job) for tenant, suffix in pairs}
    names |= {steps_adapter(name) for name in names}
    assert len(names) == 2 * len(pairs)
