"""How a worker works. The only place in `train` that reads the environment for it.

Every field is a flag of `lorikeet worker` or an environment variable (LORIKEET_WORKER_NICE=10); the
flag wins.
"""

import os
import re
import socket
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from train.worker.window import ALWAYS, Window

_DEVICE = re.compile(r"cpu|[A-Za-z0-9][A-Za-z0-9/:_-]*")


class WorkerSettings(BaseSettings):
    """Frozen; unknown keys are refused. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix="LORIKEET_WORKER_",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )

    name: str = Field(
        default_factory=lambda: f"{socket.gethostname()[:100]}-{os.getpid()}", max_length=128
    )
    once: bool = False
    """End when no job is left that could be worked on now."""
    devices: Annotated[tuple[str, ...], NoDecode] = ("auto",)
    """`cpu`, or the numbers of GPUs; auto: every GPU, the CPU where there is none."""
    tenant_concurrency: int | None = Field(default=None, ge=1)
    """Most trainings of one tenant at a time, of all workers together."""
    train_window: Annotated[Window, NoDecode] = ALWAYS
    """When trainings may run, in local time."""
    server: str | None = None
    """URL of the server that adapters are certified on; None: they are not."""
    nice: int = Field(default=0, ge=0, le=19)
    """How much this process and its children step back for others (`nice`)."""

    lease_seconds: float = Field(default=30, gt=0)
    """After so long without a sign of life another worker takes the job."""
    poll_seconds: float = Field(default=1, gt=0)
    """Between looks for a job, and between signs of life."""
    grace_seconds: float = Field(default=60, gt=0)
    """For a training to end its step and save a checkpoint; then it is killed."""
    retry_seconds: float = Field(default=60, gt=0)
    """Before a job that found no memory or disk space is tried again."""
    most_attempts: int = Field(default=3, ge=1)
    """How often a job may find the disk full; then it has failed."""
    validate_seconds: float = Field(default=1800, gt=0)
    """How long the check of a job's files may take; then it has failed."""
    certify_seconds: float = Field(default=1800, gt=0)
    """How long a certificate may take."""

    @field_validator("devices", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("devices")
    @classmethod
    def _known(cls, devices: tuple[str, ...]) -> tuple[str, ...]:
        bad = [name for name in devices if not _DEVICE.fullmatch(name)]
        if bad or not devices or (len(devices) > 1 and {"auto", "cpu"} & set(devices)):
            raise ValueError("auto, cpu, or the numbers of GPUs with commas between")
        return devices

    @field_validator("train_window", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return Window.parse(value) if isinstance(value, str) else value
