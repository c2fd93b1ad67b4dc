"""Ids, names of fine-tuned models, and of the adapters that their versions are kept under."""

import hashlib
import secrets
import string

_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 24
_SHORT = 8
_LONGEST_ADAPTER = 58
"""With `.steps` it is 64, what a name may have."""

FINE_TUNED = "ft:"


def new_id(prefix: str) -> str:
    """A new id, `<prefix>-` and 24 letters and digits that nobody can guess."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def short_id(job_id: str) -> str:
    """What tells a job's model from others in its name: the first 8 characters of its id."""
    return job_id.partition("-")[2][:_SHORT]


def model_name(base: str, tenant: str, suffix: str | None, job_id: str) -> str:
    """`ft:<base>:<tenant>:<suffix>:<8 characters>`, OpenAI's form; the suffix may be empty."""
    return f"{FINE_TUNED}{base}:{tenant}:{suffix or ''}:{short_id(job_id)}"


def checkpoint_name(model: str, step: int) -> str:
    """The name of a checkpoint of a model."""
    return f"{model}:ckpt-step-{step}"


def adapter_name(tenant: str, suffix: str | None, job_id: str) -> str:
    """The adapter that the job's version is published under: `ft.<tenant>.<suffix>`.

    Jobs of one suffix make versions of one adapter. What is too long, or has dots that would make
    two names one, is cut and ends in a digest.
    """
    last = (suffix or short_id(job_id)).lower()
    name = f"ft.{tenant}.{last}"
    if len(name) <= _LONGEST_ADAPTER and "." not in tenant + last:
        return name
    digest = hashlib.sha256(f"{tenant}\n{last}".encode()).hexdigest()[:12]
    return f"{name[: _LONGEST_ADAPTER - len(digest) - 1]}-{digest}"


def steps_adapter(adapter: str) -> str:
    """The adapter that a job's checkpoints are versions of: `latest` stays the finished model."""
    return f"{adapter}.steps"
