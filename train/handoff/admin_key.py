"""A key for asking a server, where servers ask for keys, that does not outlive its use."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from registry import Registry

KEY_HOURS = 1
"""How long it is good, should we be killed before it is revoked."""


@contextmanager
def admin_key(registry: Registry, tenant: str = "lorikeet-certify") -> Iterator[str | None]:
    """The secret of an admin key of that tenant; None where no key was ever made.

    The first key would shut out whoever uses the other servers of this registry without one.
    """
    if not registry.keys.exist():
        yield None
        return
    expires = datetime.now(UTC) + timedelta(hours=KEY_HOURS)
    key, secret = registry.keys.create(tenant, admin=True, expires_at=expires)
    try:
        yield secret
    finally:
        registry.keys.revoke(key.id)
