"""How people name an adapter: `titulares`, `titulares@3` or `titulares@prod`."""

import re
from dataclasses import dataclass

from registry.errors import BadReference

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")

RESERVED_NAMES = frozenset({"text", "image", "input", "audio", "video"})
"""Names of content parts: the engine would apply an adapter so named to chats on the base."""

LATEST = "latest"
PROD = "prod"


def check_name(name: str) -> str:
    """Return `name` where it can name an adapter; raise BadReference otherwise."""
    if not _NAME.fullmatch(name):
        raise BadReference(
            f"{_quoted(name)} cannot name an adapter",
            remedy="use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )
    if name in RESERVED_NAMES:
        raise BadReference(
            f"{name!r} is reserved: the engine confuses it with a part of a message",
            remedy=f"choose another name, {name}-adapter for one",
        )
    return name


def check_alias(alias: str) -> str:
    """Return `alias` where it can be an alias; raise BadReference otherwise."""
    if not _ALIAS.fullmatch(alias):
        raise BadReference(
            f"{_quoted(alias)} cannot be an alias",
            remedy="use 1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter",
        )
    return alias


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter's name with a version or an alias, or with neither (the served version)."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read `name`, `name@version` or `name@alias`; raise BadReference for anything else."""
        name, at, rest = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if _NUMBER.fullmatch(rest):
            return cls(name, version=int(rest))
        if _ALIAS.fullmatch(rest):
            return cls(name, alias=rest)
        raise BadReference(
            f"{_quoted(text)} is not an adapter reference",
            remedy=f"write {name}, {name}@3 (a version) or {name}@prod (an alias)",
        )

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}@{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
