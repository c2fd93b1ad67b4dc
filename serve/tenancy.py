"""Whose files and jobs a request is about."""

from fastapi import Request

from serve.errors import Forbidden
from serve.service import principal_of, service_of


def tenant_of(request: Request) -> str:
    """The tenant that a request acts for, where it may use files and fine-tuning.

    Raises: Forbidden where the server does without them, and for a key that is limited to certain
    adapters: it could not ask for what it makes.
    """
    if not service_of(request).settings.fine_tuning:
        raise Forbidden(
            "Fine-tuning is switched off on this server.", code="fine_tuning_switched_off"
        )
    principal = principal_of(request)
    if principal.key is not None and principal.key.adapters is not None:
        raise Forbidden(
            "This key is limited to certain adapters: files and fine-tuning need a key of the "
            "tenant without such a list.",
            code="key_is_limited",
        )
    return principal.tenant
