"""Adapters that belong to a tenant: whose a name is, it stays; nobody else publishes under it."""

import json
from pathlib import Path

import pytest

from registry import BadReference, Base, Registry

pytestmark = pytest.mark.usefixtures("database_url")


def test_a_new_name_is_its_first_tenants(
    registry: Registry, base: Base, adapters: list[Path]
) -> None:
    version = registry.publish(adapters[0], "ft.acme.support", base=base, tenant="acme")
    assert (version.tenant, version.manifest.tenant) == ("acme", "acme")
    again = registry.publish(adapters[1], "ft.acme.support", base=base, tenant="acme")
    assert (again.number, again.tenant) == (2, "acme")
    with Registry.open() as other:
        assert other.get("ft.acme.support@1").tenant == "acme"
        assert [found.tenant for found in other.list()] == ["acme", "acme"]
    registry.remove("ft.acme.support", 1)
    registry.remove("ft.acme.support", 2)
    with pytest.raises(BadReference):  # nor when nothing is left under it
        registry.publish(adapters[0], "ft.acme.support", base=base, tenant="zeta")


def test_another_tenant_cannot_publish_under_it(
    registry: Registry, base: Base, adapters: list[Path]
) -> None:
    first = registry.publish(adapters[0], "ft.acme.support", base=base, tenant="acme")
    for adapter in adapters[:2]:  # nor what is there already
        with pytest.raises(BadReference, match="zeta cannot publish") as caught:
            registry.publish(adapter, "ft.acme.support", base=base, tenant="zeta")
        assert caught.value.remedy
    assert registry.list() == [first]


def test_what_is_everybodys_does_not_become_a_tenants(
    registry: Registry, base: Base, adapters: list[Path]
) -> None:
    assert registry.publish(adapters[0], "titulares", base=base).tenant is None
    with pytest.raises(BadReference):
        registry.publish(adapters[1], "titulares", base=base, tenant="acme")
    assert [version.tenant for version in registry.list()] == [None]


def test_an_operator_publishes_for_the_tenant(
    registry: Registry, base: Base, adapters: list[Path]
) -> None:
    registry.publish(adapters[0], "ft.acme.support", base=base, tenant="acme")
    second = registry.publish(adapters[1], "ft.acme.support", base=base)
    assert (second.tenant, second.manifest.tenant) == ("acme", "acme")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_who_lost_the_database_keeps_the_owners(
    registry: Registry, base: Base, adapters: list[Path], home: Path
) -> None:
    registry.publish(adapters[0], "ft.acme.support", base=base, tenant="acme")
    registry.publish(adapters[1], "titulares", base=base)
    before = registry.list()
    for file in home.glob("registry.db*"):
        file.unlink()
    with Registry.open() as again:
        assert again.list() == before
        assert [version.tenant for version in again.list()] == ["acme", None]
        with pytest.raises(BadReference):
            again.publish(adapters[0], "ft.acme.support", base=base, tenant="zeta")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_manifest_without_an_owner_is_as_it_was(
    registry: Registry, base: Base, adapter: Path
) -> None:
    """An earlier Lorikeet reads it."""
    version = registry.publish(adapter, "titulares", base=base)
    assert "tenant" not in json.loads((version.path / "manifest.json").read_text())
