"""What an adapter is: the contract between training and serving.

    from registry import Registry, resolve_base
    base = resolve_base("smollm2-135m-instruct", RegistrySettings())
    version = Registry.open().publish(Path("out/adapter"), "titulares", base=base)

Names are loaded when they are first used, so that a command that needs no database pays for none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from registry.errors import (
    AdapterRejected,
    AliasMoved,
    AliasRefused,
    BadReference,
    BaseNotMade,
    BlobDamaged,
    DiskFull,
    LorikeetError,
    RegistryUnavailable,
    StoreUnavailable,
    UnknownAdapter,
    UnknownBase,
    UnknownKey,
    UsageError,
    VersionDamaged,
)
from registry.problem import Problem
from registry.reference import LATEST, PROD, RESERVED_NAMES, Reference, check_alias, check_name

if TYPE_CHECKING:
    from registry.aliases import Alias, Forced
    from registry.archive import unpack
    from registry.bases import DEFAULT_BASE, Base, OnProgress, resolve_base
    from registry.keys import Key, Keys
    from registry.manifest import BaseIdentity, FileIdentity, Manifest
    from registry.mirror import Mirror
    from registry.preflight import Limits, check_adapter
    from registry.settings import RegistrySettings
    from registry.standing import Standing
    from registry.store import Registry
    from registry.version import Version

_HOMES = {
    "Alias": "aliases",
    "Forced": "aliases",
    "unpack": "archive",
    "DEFAULT_BASE": "bases",
    "Base": "bases",
    "OnProgress": "bases",
    "resolve_base": "bases",
    "Key": "keys",
    "Keys": "keys",
    "BaseIdentity": "manifest",
    "FileIdentity": "manifest",
    "Manifest": "manifest",
    "Mirror": "mirror",
    "Limits": "preflight",
    "check_adapter": "preflight",
    "RegistrySettings": "settings",
    "Standing": "standing",
    "Registry": "store",
    "Version": "version",
}

__all__ = [
    "DEFAULT_BASE",
    "LATEST",
    "PROD",
    "RESERVED_NAMES",
    "AdapterRejected",
    "Alias",
    "AliasMoved",
    "AliasRefused",
    "BadReference",
    "Base",
    "BaseIdentity",
    "BaseNotMade",
    "BlobDamaged",
    "DiskFull",
    "FileIdentity",
    "Forced",
    "Key",
    "Keys",
    "Limits",
    "LorikeetError",
    "Manifest",
    "Mirror",
    "OnProgress",
    "Problem",
    "Reference",
    "Registry",
    "RegistrySettings",
    "RegistryUnavailable",
    "Standing",
    "StoreUnavailable",
    "UnknownAdapter",
    "UnknownBase",
    "UnknownKey",
    "UsageError",
    "Version",
    "VersionDamaged",
    "check_adapter",
    "check_alias",
    "check_name",
    "resolve_base",
    "unpack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
